"""`rnncore generate` and `rnncore score`: exact lengths, seeds, the sampler's limits, primes, files, figures."""
import json
import math
import os
import resource
import subprocess

import numpy as np
import pytest
from cli_helpers import COMMAND, ENVIRONMENT, SMALL, TEXT, call, corpus, make, refused, run

import rnncore
from rnncore.kernels.cpu import native


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder with corpus.txt and the run runs/corpus, a model that writes words."""
    folder = tmp_path_factory.mktemp("trained")
    corpus(folder)
    how = "--optimizer", "adam", "--steps", 60, "--lr", "0.03"  # the quicker of the two for so small a model
    make("train", "corpus.txt", *how, *SMALL, cwd=folder)
    return folder


@pytest.fixture
def write(trained, capsys, monkeypatch):
    """`rnncore generate` in that folder: what it writes."""
    monkeypatch.chdir(trained)

    def generate(*args) -> str:
        result = call(capsys, "generate", *args)
        assert result.code == 0 and result.err == ""
        return result.out

    return generate


@pytest.fixture
def refuse(trained, capsys, monkeypatch):
    """`rnncore generate` in that folder: the line with which it refuses."""
    monkeypatch.chdir(trained)
    return lambda *args, code=1: refused(call(capsys, "generate", *args), code)


@pytest.mark.skipif(native.compiler() is None, reason="no C++ compiler (c++, g++, clang++) on this machine")
def test_compiling_is_said_once_on_stderr_before_it_begins(trained, tmp_path):
    first, second = (run("generate", "-n", 10, "--seed", 1, cwd=trained, env={"XDG_CACHE_HOME": str(tmp_path)})
                     for _ in range(2))
    assert first.err.splitlines()[0] == "compiling the LSTM's loops for this processor: a few seconds, this time only"
    assert "compiling" not in second.err and first.out == second.out


def whole(out: str, length: int) -> str:
    """out without the line end that the command adds where the text has none."""
    assert len(out) == length + 1 and out.endswith("\n") or len(out) == length and out.endswith("\n"), (len(out), out)
    return out[:length]


@pytest.mark.parametrize("n, prime", [(0, "the cat "), (1, ""), (700, "the cat ")])
def test_the_prime_and_exactly_n_new_characters(write, trained, n, prime):
    text = whole(write("-n", n, "--prime", prime), len(prime) + n)
    model = rnncore.load(trained / "runs/corpus", device="cpu")
    assert text == prime + "".join(rnncore.generate(model, prime, n))


def test_a_thousand_by_default(write):
    assert len(whole(write(), 1000)) == 1000


def test_it_has_learnt_the_words(write):
    words = write("-n", 600, "--temperature", 0.5).replace(".", "").split()[1:-1]
    known = sum(word in TEXT.split() for word in words)
    assert known > 0.5 * len(words)  # 0.97 when written; an untrained model has none


def test_the_seed_decides_the_text(write):
    texts = [write("-n", 200, "--seed", seed) for seed in (1, 1, 2)]
    assert texts[0] == texts[1] != texts[2] and write("-n", 200) == write("-n", 200, "--seed", 0)


def test_a_process_of_its_own_writes_the_same(write, trained):
    assert run("generate", "-n", 300, "--seed", 5, cwd=trained) == (0, write("-n", 300, "--seed", 5), "")


def test_greedy_is_temperature_zero_and_top_k_one(write):
    greedy = write("-n", 200, "--greedy")
    assert greedy == write("-n", 200, "--temperature", 0) == write("-n", 200, "--top-k", 1, "--seed", 9)
    assert greedy == write("-n", 200, "--top-p", 1e-9) != write("-n", 200)


def test_stop_ends_before_its_text(write, trained):
    plain = write("-n", 400, "--prime", "the")
    ended = write("-n", 400, "--prime", "the", "--stop", ".")
    assert ended == plain[:plain.index(".", 3)] + "\n"
    word = "house"
    assert word in plain and write("-n", 400, "--prime", "the", "--stop", word, "--stop", "☃") == (
        plain[:plain.index(word, 3)].rstrip("\n") + "\n")


def test_count_writes_so_many_texts_the_first_as_without_it(write):
    texts = write("-n", 50, "--count", 3, "--prime", "a dog", "--separator", "@@").split("\n@@\n")
    texts[-1] = whole(texts[-1], 55)
    assert len(set(texts)) == 3 and all(text.startswith("a dog") and len(text) == 55 for text in texts)
    assert texts[0] == whole(write("-n", 50, "--prime", "a dog"), 55)


def test_a_prime_file_is_a_prime_without_marks_and_crlf(write, tmp_path):
    for content in (b"the old\ndog", b"\xef\xbb\xbfthe old\r\ndog"):
        (tmp_path / "prime.txt").write_bytes(content)
        assert write("-n", 40, "--prime-file", tmp_path / "prime.txt") == write("-n", 40, "--prime", "the old\ndog")


def test_prime_files_that_are_refused(refuse, tmp_path):
    (tmp_path / "latin.txt").write_bytes("Bär".encode("latin-1"))
    assert "byte 1" in refuse("--prime-file", tmp_path / "latin.txt")
    assert "nothing.txt" in refuse("--prime-file", tmp_path / "nothing.txt", code=2)
    assert "not both" in refuse("--prime-file", tmp_path / "latin.txt", "--prime", "a", code=2)


def test_out_writes_a_new_file_and_no_existing_one(write, refuse, tmp_path):
    path = tmp_path / "out.txt"
    assert write("-n", 30, "--out", path) == "" and path.read_text() == write("-n", 30)
    before = path.read_bytes()
    assert "exists already" in refuse("-n", 30, "--out", path) and path.read_bytes() == before
    assert "No such file" in refuse("-n", 30, "--out", tmp_path / "no" / "out.txt")


@pytest.mark.parametrize("place, words, code", [
    (".", "is a directory", 2), ("out.txt/x", "out.txt/x: Not a directory", 1), ("no/x", "no/x: No such file", 1),
    ("/proc/rnncore", "/proc/rnncore: No such file", 1), ("/dev/full", "exists already", 1),
    ("dangling", "exists already", 1)])
def test_out_onto_a_file_a_folder_or_where_nothing_can_be_written(refuse, tmp_path, place, words, code):
    (tmp_path / "out.txt").write_text("mine")
    (tmp_path / "dangling").symlink_to("nowhere")
    before = sorted(tmp_path.rglob("*"))
    assert words in refuse("-n", 5, "--out", tmp_path / place, code=code)
    assert sorted(tmp_path.rglob("*")) == before and (tmp_path / "out.txt").read_text() == "mine"


@pytest.mark.skipif(os.geteuid() == 0, reason="nothing is read-only for root")
def test_out_into_a_read_only_folder(refuse, tmp_path):
    tmp_path.chmod(0o500)
    assert "out.txt: Permission denied" in refuse("-n", 5, "--out", tmp_path / "out.txt")
    tmp_path.chmod(0o700)


@pytest.mark.parametrize("count", [2])
def test_a_disk_that_is_full_while_out_is_written_names_the_file(trained, tmp_path, count):
    """A limit on the size of files stands for the full disk; what was written until then is kept."""
    done = run("generate", "-n", 9000, "--count", count, "--out", tmp_path / "out.txt", cwd=trained,
               preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (5000, 5000)))
    assert refused(done) == f"rnncore: {tmp_path}/out.txt: File too large"
    assert (tmp_path / "out.txt").stat().st_size == 5000


def test_temperature_0_is_greedy_and_a_negative_one_or_nan_a_usage_error(write, refuse):
    assert write("-n", 90, "--temperature", 0) == write("-n", 90, "--greedy")
    for value in ("-0.1", "nan", "-inf", "inf", "warm"):
        assert "temperature" in refuse("--temperature", value, code=2)


def test_top_k_above_v_is_clamped_and_top_p_0_a_usage_error(write, refuse):
    for beyond in (len(set(TEXT)) + 1, 2 ** 31, 2 ** 63, 10 ** 30):
        assert write("-n", 90, "--top-k", beyond) == write("-n", 90, "--top-k", len(set(TEXT)))
    for value in ("0", "-1", "nan", "1.01"):
        assert "top_p" in refuse("--top-p", value, code=2)


@pytest.mark.parametrize("args", [("-n", 300_000), ("-n", 2000, "--count", 3)])
def test_generate_into_head_is_a_silent_end(trained, args):
    shell = " ".join(map(str, [*COMMAND, "generate", *args]))
    done = subprocess.run(["bash", "-c", f"{shell} | head -1; echo ${{PIPESTATUS[0]}} >&2"], cwd=trained,
                          env=ENVIRONMENT, capture_output=True, text=True, timeout=60)
    assert done.stderr == "0\n" and done.stdout.count("\n") <= 1


@pytest.mark.parametrize("args", [("-n", 30_000), ("-n", 500, "--count", 2)])
def test_a_full_stdout_ends_generate_with_one_line(trained, args):
    with open("/dev/full", "w") as full:
        done = subprocess.run([*COMMAND, "generate", *map(str, args)], cwd=trained, env=ENVIRONMENT, stdout=full,
                              stderr=subprocess.PIPE, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (1, "rnncore: No space left on device\n")


@pytest.mark.parametrize("env", [
    {"LC_ALL": "C"}, {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
    {"LC_ALL": "POSIX", "PYTHONIOENCODING": "latin-1"}])
def test_a_terminal_that_is_not_utf8_is_never_a_crash(tmp_path, env):
    text = "Ein Bär läßt ☃ grüßen, 東京 😀 e\u0301. " * 60
    vocab = rnncore.Vocab.from_text(text)
    model = rnncore.CharLM(rnncore.ModelConfig(len(vocab), 4, 8, 1), vocab, "cpu", seed=2)
    rnncore.save(model, tmp_path / "m")
    for extra in (("--prime", "ß☃😀"), ("--out", "out.txt")):
        if extra[:1] == ("--prime",) and "PYTHONUTF8" in env:
            extra = ("--prime", "Ein B")  # there even an argument is no UTF-8
        result = run("generate", "m", "-n", 300, "--temperature", 2, *extra, cwd=tmp_path, env=env)
        assert result.code == 0 and (result.out or extra[0] == "--out")
        lossy = "PYTHONIOENCODING" in env and env["PYTHONIOENCODING"] != "utf-8" or "PYTHONUTF8" in env
        assert result.err.count("warning: ") == result.err.count("\n") == (lossy and extra[:1] != ("--out",))
    assert set((tmp_path / "out.txt").read_text(encoding="utf-8")) <= {*text, "\n"}
    assert "U+" in refused(run("generate", "m", "--prime", "Ω", cwd=tmp_path, env=env))


def test_nothing_is_left_behind_by_a_refusal(refuse, tmp_path):
    for extra in ((), ("--count", 2)):
        refuse("--prime", "☃", "--out", tmp_path / "out.txt", *extra)
        assert not (tmp_path / "out.txt").exists()


def test_unknown_symbols_of_the_prime(write, refuse):
    line = refuse("--prime", "the ☃ CAT")
    assert all(symbol in line for symbol in ("'☃'", "'C'", "'A'", "'T'", "--on-unknown"))
    known = write("-n", 30, "--prime", "the cat")[7:]
    assert write("-n", 30, "--prime", "the☃ cat", "--on-unknown", "skip")[8:] == known
    assert write("-n", 30, "--prime", "the☃cat", "--on-unknown", "replace")[7:] == known
    assert refuse("--on-unknown", "perhaps", code=2)


@pytest.mark.parametrize("args", [
    ("--temperature", "-1"), ("--temperature", "nan"), ("--temperature", "inf"), ("--top-p", "0"), ("--top-p", "1.1"),
    ("--top-p", "nan"), ("--top-k", "-1"), ("--seed", "-1"), ("--seed", str(2 ** 64)), ("-n", "-2"), ("-n", "1.5"),
    ("--count", "0"), ("--device", "gpu"), ("--nothing",)])
def test_options_out_of_range(refuse, args):
    assert refuse(*args, code=2)


def test_run_is_a_folder_a_file_or_the_newest(write, trained, capsys, monkeypatch, tmp_path):
    newest = write("-n", 60)
    best = "runs/corpus/best.safetensors"
    assert newest == write("runs/corpus", "-n", 60) == write(best, "-n", 60)
    (tmp_path / "copy.safetensors").write_bytes((trained / best).read_bytes())
    assert write(tmp_path / "copy.safetensors", "-n", 60) == newest


def test_without_a_run_the_cure_is_named(capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    for command in ("generate", "info"):
        line = refused(call(capsys, command))
        assert "no run" in line and "rnncore train" in line
    (tmp_path / "empty").mkdir()
    assert "empty holds no model yet" in refused(call(capsys, "generate", "empty"))


def test_the_newest_run_is_the_one_written_last(capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    corpus(tmp_path)
    for name in ("b", "a"):
        assert call(capsys, "train", "corpus.txt", "--steps", 1, "--name", name, *SMALL).code == 0
    assert json.loads(call(capsys, "info", "--json").out)["file"] == "runs/a/best.safetensors"


# score

def test_score_is_the_mean_of_minus_log_p(trained, capsys, monkeypatch):
    monkeypatch.chdir(trained)
    text = TEXT[1000:1600]
    (trained / "part.txt").write_text(text)
    model, state, total = rnncore.load("runs/corpus", device="cpu"), None, 0.0
    ids = model.vocab.encode(text)
    for symbol, following in zip(ids[:-1], ids[1:], strict=True):
        logits, state = model.step(np.array([symbol]), state)
        z = logits[:, 0].astype(np.float64)
        total += np.log(np.exp(z - z.max()).sum()) + z.max() - z[following]
    nats = total / (len(text) - 1)
    found = json.loads(call(capsys, "score", "runs/corpus", "part.txt", "--json").out)
    assert found["nats_per_char"] == pytest.approx(nats, abs=1e-5)  # float32; 2e-8 when written
    assert found["bits_per_char"] == pytest.approx(found["nats_per_char"] / math.log(2))
    assert found["perplexity"] == pytest.approx(math.exp(found["nats_per_char"])) and found["characters"] == 600
    words = call(capsys, "score", "runs/corpus", "part.txt").out
    assert f"{nats:.4f} nats/char" in words and "599 predictions" in words


def test_score_refuses_unknown_symbols_and_missing_texts(trained, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(trained)
    (tmp_path / "odd.txt").write_text("☃ÄÖ")
    assert "'☃'" in refused(call(capsys, "score", "runs/corpus", tmp_path / "odd.txt"))
    skipped = call(capsys, "score", "runs/corpus", tmp_path / "odd.txt", "--on-unknown", "skip")
    assert "nothing to predict" in refused(skipped)
    assert "nowhere" in refused(call(capsys, "score", "runs/corpus", "nowhere"), 2)
    assert "no such model" in refused(call(capsys, "score", "nowhere", "corpus.txt"))


def test_score_reads_stdin_and_encodings(trained, capsys, monkeypatch, tmp_path):
    assert run("score", "runs/corpus", "-", "--json", cwd=trained, stdin=TEXT.encode()).code == 0
    monkeypatch.chdir(trained)
    (tmp_path / "wide.txt").write_bytes(TEXT.encode("utf-16"))
    wide = call(capsys, "score", "runs/corpus", tmp_path / "wide.txt", "--encoding", "utf-16").out
    assert wide == call(capsys, "score", "runs/corpus", "corpus.txt").out
