"""`rnncore generate` and `rnncore score`: exact lengths, seeds, the sampler's limits, primes, files, figures."""
import json
import math

import numpy as np
import pytest
from cli_helpers import SMALL, TEXT, call, corpus, refused, run

import rnncore


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder with corpus.txt and the run runs/corpus, a model that writes words."""
    folder = tmp_path_factory.mktemp("trained")
    corpus(folder)
    how = "--optimizer", "adam", "--steps", 60, "--lr", "0.03"  # the quicker of the two for so small a model
    assert run("train", "corpus.txt", *how, *SMALL, cwd=folder).code == 0
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


def whole(out: str, length: int) -> str:
    """out without the line end that the command adds where the text has none."""
    assert len(out) == length + 1 and out.endswith("\n") or len(out) == length and out.endswith("\n"), (len(out), out)
    return out[:length]


@pytest.mark.parametrize("n", [0, 1, 7, 1500])
@pytest.mark.parametrize("prime", ["", "the cat "])
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


def test_the_seed_decides(write):
    texts = [write("-n", 200, "--seed", seed) for seed in (1, 1, 2)]
    assert texts[0] == texts[1] != texts[2] and write("-n", 200) == write("-n", 200, "--seed", 0)


def test_a_process_of_its_own_writes_the_same(write, trained):
    assert run("generate", "-n", 300, "--seed", 5, cwd=trained) == (0, write("-n", 300, "--seed", 5), "")


def test_greedy_is_temperature_zero_and_top_k_one(write):
    greedy = write("-n", 200, "--greedy")
    assert greedy == write("-n", 200, "--temperature", 0) == write("-n", 200, "--top-k", 1, "--seed", 9)
    assert greedy == write("-n", 200, "--top-p", 1e-9) != write("-n", 200)


def test_top_k_above_the_vocabulary_is_clamped(write):
    assert write("-n", 300, "--top-k", 10 ** 6) == write("-n", 300, "--top-k", len(set(TEXT)))


def test_stop_ends_before_its_text(write, trained):
    plain = write("-n", 400, "--prime", "the")
    ended = write("-n", 400, "--prime", "the", "--stop", ".")
    assert ended == plain[:plain.index(".", 3)] + "\n"
    word = "house"
    assert word in plain and write("-n", 400, "--prime", "the", "--stop", word, "--stop", "☃") == (
        plain[:plain.index(word, 3)].rstrip("\n") + "\n")


def test_count(write):
    rule = "\n" + "-" * 40 + "\n"
    texts = write("-n", 50, "--count", 3, "--prime", "a dog").split(rule)
    assert len(texts) == 4 and texts.pop() == "" and len(set(texts)) == 3
    assert all(text.startswith("a dog") and len(text) == 55 for text in texts)
    assert texts[0] == whole(write("-n", 50, "--prime", "a dog"), 55)


def test_prime_file(write, tmp_path):
    for content in (b"the old\ndog", b"\xef\xbb\xbfthe old\r\ndog"):
        (tmp_path / "prime.txt").write_bytes(content)
        assert write("-n", 40, "--prime-file", tmp_path / "prime.txt") == write("-n", 40, "--prime", "the old\ndog")


def test_prime_files_that_are_refused(refuse, tmp_path):
    (tmp_path / "latin.txt").write_bytes("Bär".encode("latin-1"))
    assert "byte 1" in refuse("--prime-file", tmp_path / "latin.txt")
    assert "nothing.txt" in refuse("--prime-file", tmp_path / "nothing.txt", code=2)
    assert "not both" in refuse("--prime-file", tmp_path / "latin.txt", "--prime", "a", code=2)


def test_out(write, refuse, tmp_path):
    path = tmp_path / "out.txt"
    assert write("-n", 30, "--out", path) == "" and path.read_text() == write("-n", 30)
    before = path.read_bytes()
    assert "exists already" in refuse("-n", 30, "--out", path) and path.read_bytes() == before
    assert "No such file" in refuse("-n", 30, "--out", tmp_path / "no" / "out.txt")


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
    ("--top-p", "nan"), ("--top-k", "-1"), ("--seed", "-1"), ("--seed", str(2 ** 64)), ("-n", "-1"), ("-n", "1.5"),
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


def test_score_refuses(trained, capsys, monkeypatch, tmp_path):
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
