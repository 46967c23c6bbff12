"""The command line as a whole: help, exit codes, one line for what goes wrong, streams closed, full or ASCII."""
import json
import os
import re
import subprocess
import sys

import pytest
from cli_helpers import COMMAND, ENVIRONMENT, SMALL, TEXT, call, corpus, make, refused, run

from rnncore import __version__, kernels
from rnncore.cli.main import COMMANDS
from rnncore.runs.folder import RunFolder


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A folder with corpus.txt and the run runs/corpus in it."""
    folder = tmp_path_factory.mktemp("home")
    corpus(folder)
    make("train", "corpus.txt", "--steps", 3, *SMALL, cwd=folder)
    return folder


def test_the_version_is_printed(capsys):
    assert call(capsys, "--version") == (0, f"rnncore, version {__version__}\n", "")


def test_without_arguments_it_shows_the_help(capsys):
    result = call(capsys)
    assert result.code in (0, 2) and all(name in result.out + result.err for name in COMMANDS)


def test_the_installed_command_and_the_module_are_one(home):
    script = os.path.join(os.path.dirname(sys.executable), "rnncore")
    if not os.path.exists(script):
        pytest.skip("rnncore is not installed beside this Python")
    done = subprocess.run([script, "--version"], capture_output=True, text=True, cwd=home, env=ENVIRONMENT)
    assert (done.returncode, done.stdout) == run("--version", cwd=home)[:2]


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help(capsys, name):
    result = call(capsys, name, "--help")
    assert result.code == 0 and result.err == "" and f"rnncore {name}" in result.out and "--debug" in result.out
    assert result == call(capsys, name, "-h")
    assert not re.search(r"^  \[?[A-Z]+", result.out.split("Options:")[1], re.MULTILINE), "an argument among the options"


def test_help_shows_the_defaults_under_headings(capsys):
    out = call(capsys, "train", "--help").out
    assert all(f"\n{heading}" in out for heading in ("Model:", "Budget", "Optimisation:", "Regularisation:", "Text:",
                                                     "Machine:", "Run:"))
    defaults = ("64, or the preset's", "50, or the preset's", "muon, or the preset's", "by model size",
                "by corpus and budget", "never", "1.0")
    assert all(f"default: {default}" in " ".join(out.split()) for default in defaults)


def test_help_loads_no_numpy(home):
    code = ("import sys\ntry:\n    from rnncore.cli import main\n    main({})\n"
            "except SystemExit:\n    print('numpy' in sys.modules, 'safetensors' in sys.modules, file=sys.stderr)")
    for args in (["--help"], ["--version"], ["train", "--help"], ["generate", "--help"], ["gradcheck", "--help"], ["score", "--help"],
                 ["bench", "--help"], ["report", "--help"], ["neurons", "--help"], ["corpus", "--help"]):
        done = subprocess.run([sys.executable, "-c", code.format(args)], cwd=home, env=ENVIRONMENT, capture_output=True,
                              text=True)
        assert done.stderr == "False False\n" and done.stdout


@pytest.mark.parametrize("args", [
    ("nothing",), ("--nothing",), ("train", "--nothing"), ("generate", "--nothing"), ("score",),
    ("score", "runs/corpus"),
    ("train",), ("gradcheck", "--seq", "0"), ("gradcheck", "--dropout", "1"), ("gradcheck", "--dropout", "nan"),
    ("gradcheck", "--vocab", "1"), ("gradcheck", "--vocab", "2000000"), ("gradcheck", "--device", "tpu"),
    ("doctor", "--nothing"), ("info", "a", "b"),
])
def test_usage_errors_end_with_2(capsys, monkeypatch, home, args):
    monkeypatch.chdir(home)
    assert refused(call(capsys, *args), 2)


def test_no_traceback_but_with_debug(home, capsys, monkeypatch):
    args = ("generate", "no-such-run")
    assert refused(run(*args, cwd=home)).startswith("rnncore: no-such-run: no such model file or run folder")
    debugged = run(*args, "--debug", cwd=home)
    assert debugged.code == 1 and "Traceback" in debugged.err and "FileNotFoundError" in debugged.err


def test_an_error_of_our_own_is_one_line_too(home, capsys, monkeypatch):
    def broken(*args):
        raise ZeroDivisionError("two\nlines")

    monkeypatch.chdir(home)
    monkeypatch.setattr(RunFolder, "make", broken)
    result = call(capsys, "train", "corpus.txt", *SMALL)
    assert result.code == 1 and result.err == (
        "rnncore: internal error, ZeroDivisionError: two lines (the same command with --debug shows where)\n")


def test_out_of_memory_is_one_line(home, capsys, monkeypatch):
    def broken(*args):
        raise MemoryError

    monkeypatch.chdir(home)
    monkeypatch.setattr(RunFolder, "make", broken)
    assert "--batch" in refused(call(capsys, "train", "corpus.txt", *SMALL))


@pytest.mark.parametrize("args, keys", [
    (("doctor",), {"rnncore", "numpy", "cores", "cuda"}),
    (("info",), {"file", "schema", "config", "parameters", "vocabulary", "card", "resumable"}),
    (("score", "runs/corpus", "corpus.txt"), {"nats_per_char", "bits_per_char", "perplexity", "characters"}),
    (("gradcheck", "--hidden", "3", "--embed", "2", "--vocab", "3", "--seq", "2", "--batch", "2"), {"rows", "ok"}),
])
def test_json_parses_and_says_what_the_words_say(home, capsys, monkeypatch, args, keys):
    monkeypatch.chdir(home)
    result = call(capsys, *args, "--json")
    found = json.loads(result.out)
    assert result.code == 0 and result.err == "" and keys <= found.keys()
    assert call(capsys, *args).code == 0


def test_doctor_says_in_words_what_its_json_says(capsys):
    found = json.loads(call(capsys, "doctor", "--json").out)
    assert found["cores"] >= 1 and "GiB" in found["memory"]
    assert found["cuda"] == (kernels.why_no_cuda() or "ok") and found["device auto"] in ("cpu", "cuda")
    words = call(capsys, "doctor").out
    assert all(name in words and str(value) in words for name, value in found.items())


def test_gradcheck_passes_and_names_every_parameter(capsys, masks_once):
    args = ("gradcheck", "--hidden", 4, "--embed", 3, "--vocab", 5, "--seq", 3, "--batch", 2, "--dropout", 0.3,
            "--documents")
    result = call(capsys, *args)
    names = ("embedding.weight", "lstm.weight_hh_l1", "head.bias", "h0", "c0")
    assert result.code == 0 and "WRONG" not in result.out and all(name in result.out for name in names)
    found = json.loads(call(capsys, *args, "--json").out)
    assert found["ok"] and all(row["error"] < found["tolerance"] for row in found["rows"])


def test_gradcheck_fails_on_a_wrong_kernel(capsys, monkeypatch):
    right = kernels.host.softmax_cross_entropy

    def wrong(logits, *arguments):
        right(logits, *arguments)
        logits *= 1.0001

    monkeypatch.setattr(kernels.host, "softmax_cross_entropy", wrong)
    args = ("gradcheck", "--layers", 1, "--hidden", 3, "--embed", 2, "--vocab", 3, "--seq", 2, "--batch", 2,
            "--device", "cpu")
    result = call(capsys, *args)
    assert result.code == 1
    assert all(words in result.out for words in ("head.weight", "WRONG", "gradients wrong"))
    result = call(capsys, *args, "--json")
    assert result.code == 1 and not json.loads(result.out)["ok"]


@pytest.mark.skipif(not kernels.why_no_cuda(), reason="this machine has a GPU")
@pytest.mark.parametrize("args", [("train", "corpus.txt"), ("generate",), ("score", "runs/corpus", "corpus.txt"),
                                  ("gradcheck",)])
def test_a_gpu_that_is_not_there_is_refused_with_cause_and_cure(home, capsys, monkeypatch, args):
    monkeypatch.chdir(home)
    before = sorted(os.listdir("runs"))
    line = refused(call(capsys, *args, "--device", "cuda"))
    assert "device cuda cannot be used" in line and "--device cpu" in line and sorted(os.listdir("runs")) == before


def test_info_of_best_last_and_a_model_of_the_library(home, capsys, monkeypatch, tmp_path):
    import rnncore
    monkeypatch.chdir(home)
    best, last = (call(capsys, "info", f"runs/corpus/{name}.safetensors").out for name in ("best", "last"))
    assert f"corpus, {len(TEXT):,} characters" in best and "3 steps" in best and "validation" in best
    assert call(capsys, "info", "runs/corpus").out == best == call(capsys, "info").out
    assert last.splitlines()[1:] == best.splitlines()[1:]
    found = json.loads(call(capsys, "info", "runs/corpus/last.safetensors", "--json").out)
    assert found["resumable"] and found["vocabulary"] == "".join(sorted(set(TEXT)))
    for card in (None, {"author": "me"}):
        rnncore.save(rnncore.load("runs/corpus", device="cpu"), tmp_path / "mine.safetensors", card)
        result = call(capsys, "info", tmp_path / "mine.safetensors")
        assert result.code == 0 and "1 x 16 LSTM" in result.out and "corpus" not in result.out
        assert json.loads(call(capsys, "info", tmp_path / "mine.safetensors", "--json").out)["card"] == (card or {})


def test_a_damaged_model_is_refused_in_one_line(home, capsys, tmp_path):
    data = bytearray((home / "runs/corpus/best.safetensors").read_bytes())
    data[-3] ^= 1
    (tmp_path / "best.safetensors").write_bytes(data)
    for args in (("info", tmp_path), ("generate", tmp_path), ("score", tmp_path, home / "corpus.txt")):
        assert "sha256" in refused(call(capsys, *args))


# Streams

@pytest.mark.parametrize("args", [("info",), ("generate", "-n", "20"), ("--help",)])
def test_a_full_stdout_is_one_line(home, args):
    with open("/dev/full", "w") as full:
        done = subprocess.run([*COMMAND, *args], cwd=home, env=ENVIRONMENT, stdout=full, stderr=subprocess.PIPE,
                              text=True)
    assert done.returncode == 1 and done.stderr == "rnncore: No space left on device\n"


@pytest.mark.parametrize("shell, code", [
    ("generate -n 100000 | head -c 10", 0), ("info --json | true", 0), ("--help | true", None)])
def test_a_reader_that_leaves_is_a_silent_end(home, shell, code):
    command = " ".join(COMMAND)
    done = subprocess.run(["bash", "-c", f"{command} {shell}; echo ${{PIPESTATUS[0]}} >&2"], cwd=home, env=ENVIRONMENT,
                          capture_output=True, text=True)
    assert done.stderr in ((f"{code}\n",) if code is not None else ("0\n", "1\n"))
    assert len(done.stdout) <= 10


def test_streams_that_know_only_ascii(tmp_path):
    ascii_only = {"PYTHONIOENCODING": "ascii", "LC_ALL": "C"}
    corpus(tmp_path, "Ein Bär läßt ☃ grüßen, 東京. " * 60)
    results = [run(*args, cwd=tmp_path, env=ascii_only) for args in (
        ("train", "corpus.txt", "--steps", 2, "--name", "grün", *SMALL), ("generate", "--prime", "läßt ☃", "-n", 200),
        ("info",), ("info", "--json"), ("score", "runs/grün", "corpus.txt"), ("generate", "--prime", "Ω"),
        ("train", "nirgends-ö.txt"))]
    assert [result.code for result in results] == [0, 0, 0, 0, 0, 1, 2]
    assert not any("Traceback" in result.err or "internal" in result.err for result in results)
    assert results[1].out.startswith("l??t ?") and json.loads(results[3].out)["vocabulary"][-1] == "東"
