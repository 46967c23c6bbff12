"""`rnncore train` as a user meets it: what a run leaves behind, budgets, corpora, the display, and every refusal."""
import io
import json
import os
import pty
import resource
import shlex
import subprocess
import sys

import numpy as np
import pytest
from cli_helpers import CALLED, COMMAND, ENVIRONMENT, SMALL, TEXT, Result, call, corpus, files, refused, rows, run
from fork_server import Forked

import rnncore
from rnncore import kernels
from rnncore.cli.terminal.progress import LiveDisplay, PlainDisplay, clock, display, printable
from rnncore.data.batches import Batches
from rnncore.kernels.cpu import native
from rnncore.runs import checkpoint, folder as runs, names

KEYS = ["step", "chars", "seconds", "chars_per_s", "loss", "val_loss", "lr", "grad_norm"]
MEASURED = ["val_chars", "val_loss_of_all", "val_chars_of_all"]  # after an evaluation, and after the last


@pytest.fixture
def train(capsys, monkeypatch, tmp_path):
    """`rnncore train ARGS` with small settings, in tmp_path, where corpus.txt is."""
    corpus(tmp_path)
    monkeypatch.chdir(tmp_path)
    return lambda *args: call(capsys, "train", *SMALL, *args)


def card(folder) -> dict:
    return checkpoint.read(names.find(folder).file)[0]["card"]  # of the best model, else of the last


# What a run leaves behind

def test_a_run_leaves_its_files_and_its_rows(tmp_path):
    corpus(tmp_path)
    result = run("train", "corpus.txt", "--steps", 60, "--lr", "0.02", *SMALL, cwd=tmp_path)
    folder = tmp_path / "runs" / "corpus"
    assert result.code == 0 and result.out == ""
    assert set(files(folder)) == {"best.safetensors", "last.safetensors", "metrics.jsonl", "samples.txt"}
    table = rows(folder)
    assert all(list(row) == KEYS + MEASURED[:1] * (row["val_loss"] is not None) for row in table[:-1])
    assert list(table[-1]) == KEYS + MEASURED
    steps = [row["step"] for row in table]
    assert steps == sorted(set(steps)) and steps[-1] == 60 and {6, 12, 30, 54} <= set(steps)
    assert table[-1]["loss"] < 0.7 * table[0]["loss"] and table[-1]["val_loss"] < 0.7 * table[0]["loss"]
    chars = np.cumsum([Batches(np.zeros(4851, np.uint8), 8, 20).window(k % 31)[0].size for k in range(60)])
    assert all(row["chars"] == chars[row["step"] - 1] and row["chars_per_s"] > 0 and row["lr"] > 0 for row in table)
    samples = (folder / "samples.txt").read_text()
    assert samples.count("--- step ") == 10 and "--- step 60\n" in samples
    assert set(samples) <= set(TEXT + "-0123456789p")
    best = min((row["val_loss"], row["step"]) for row in table if row["val_loss"] is not None)
    assert (card(folder)["val_loss"], card(folder)["best_step"]) == best


def test_it_says_what_it_chose_and_what_to_type_next(tmp_path):
    corpus(tmp_path)
    result = run("train", "corpus.txt", "--hidden", 16, "--epochs", 1, cwd=tmp_path)
    assert result.code == 0
    for words in (f"{len(TEXT):,} characters", "preset short: ", "1 x 16 LSTM", "dropout", "lr 0.03: usual for muon", "threads",
                  "run runs/corpus", "best model: step"):
        assert words in result.err
    command = next(line for line in result.err.splitlines() if " generate " in line)
    assert shlex.split(command)[:-4] == CALLED
    written = subprocess.run(["bash", "-c", command], cwd=tmp_path, env=ENVIRONMENT, capture_output=True, text=True)
    assert written.returncode == 0 and len(written.stdout) in (400, 401) and written.stderr == ""


def test_a_machine_without_a_compiler_is_told_once_how_to_get_one(tmp_path):
    """At the start of a run, new or resumed, and in doctor's row; not if the user switched the loops off."""
    corpus(tmp_path)
    (tmp_path / "dnf").touch(0o755)
    env = {"PATH": str(tmp_path), "CXX": "", "CONDA_PREFIX": ""}
    words = ("training on the CPU takes about 1.2 to 1.5 times as long, because no C++ compiler was found (c++, g++, "
             "clang++): `dnf install gcc-c++` installs one")
    train = "train", "corpus.txt", "--lr", "0.02", *SMALL, "--device", "cpu", "--no-report"
    result = run(*train, "--steps", 2, cwd=tmp_path, env=env)
    assert result.code == 0 and result.out == ""
    assert result.err.count("compiler") == 1 and f"warning: {words}" in result.err.splitlines()
    for steps, times in ((4, 1), (4, 0)):  # a run that is finished takes no step
        result = run("train", "--resume", "--steps", steps, "--device", "cpu", cwd=tmp_path, env=env)
        assert result.code == 0 and result.err.splitlines().count(f"warning: {words}") == times
    assert "compiler" not in run(*train, "--steps", 2, cwd=tmp_path, env=env | {"RNNCORE_NATIVE": "0"}).err
    result = run("doctor", "--json", cwd=tmp_path, env=env)
    assert (result.code, result.err, json.loads(result.out)["recurrence"]) == (0, "", f"NumPy: {words}")


@pytest.mark.skipif(native.compiler() is None, reason="no C++ compiler (c++, g++, clang++) here")
def test_a_machine_with_a_compiler_is_told_nothing_of_it(tmp_path):
    corpus(tmp_path)
    result = run("train", "corpus.txt", "--lr", "0.02", "--steps", 2, *SMALL, "--device", "cpu", cwd=tmp_path)
    assert result.code == 0 and "compiler" not in result.err


def test_a_default_budget_is_printed_with_its_reason(train, monkeypatch):
    from rnncore import plan
    monkeypatch.setattr(plan, "CHARACTERS", 3 * len(TEXT))
    result = train("corpus.txt")
    assert "epochs 3: 14.6 thousand characters in all" in result.err and rows(runs.RUNS / "corpus")[-1]["step"] == 3 * 31


def test_a_folder_with_a_space_in_its_name_can_be_typed(train):
    result = train("corpus.txt", "--steps", 1, "-o", "a b")
    assert "  rnncore generate 'a b' -n 400" in result.err


def test_an_existing_run_is_refused(train, tmp_path):
    assert train("corpus.txt", "--steps", 2, "-o", "mine").code == 0
    before = files(tmp_path)
    line = refused(train("corpus.txt", "--steps", 2, "-o", "mine"))
    assert "mine exists already" in line and "--resume" in line and "-o" in line
    (tmp_path / "empty").mkdir()
    (tmp_path / "other").mkdir()
    corpus(tmp_path / "other")
    line = refused(train("corpus.txt", "--steps", 2, "-o", "other"))
    assert "other exists already" in line and "--resume" not in line
    assert "exists already" in refused(train("corpus.txt", "--steps", 2, "-o", "corpus.txt"))
    assert files(tmp_path).items() >= before.items()
    assert train("corpus.txt", "--steps", 2, "-o", "empty").code == 0


def test_default_names_get_a_number(train, tmp_path):
    for _ in range(3):
        assert train("corpus.txt", "--steps", 1).code == 0
    assert train("corpus.txt", "--steps", 1, "--name", "corpus").code == 0
    assert train("corpus.txt", "--steps", 1, "--name", "mine").code == 0
    assert sorted(os.listdir(tmp_path / "runs")) == ["corpus", "corpus-2", "corpus-3", "corpus-4", "mine"]


def test_the_same_seed_trains_the_same_model(train):
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        assert train("corpus.txt", "--steps", 5, "--seed", seed, "--dropout", 0.2, "-o", name).code == 0
    a, b, c = (rnncore.load(name, device="cpu").params.flat for name in "abc")
    assert np.array_equal(a, b) and not np.array_equal(a, c)


# Budgets

def test_steps_and_epochs_are_exact(train):
    assert train("corpus.txt", "--steps", 7, "-o", "steps").code == 0
    assert rows(runs.Path("steps"))[-1]["step"] == 7
    length = card("steps")["split"]["train"]
    windows = Batches(np.zeros(length, np.uint8), 8, 20).windows
    for epochs, steps in (2, 2 * windows), (0.5, round(windows / 2)):
        assert train("corpus.txt", "--epochs", epochs, "-o", f"epochs{epochs}").code == 0
        assert rows(runs.Path(f"epochs{epochs}"))[-1]["step"] == steps
    assert rows(runs.Path("epochs2"))[-1]["chars"] == 2 * 8 * ((length - 1) // 8)


# The text and its parts

def test_the_split_is_in_order_and_recorded(train):
    assert train("corpus.txt", "--steps", 1, "--val", 0.2, "--test", 0.1, "-o", "a").code == 0
    n = len(TEXT)
    first, second = n * 7 // 10, n * 9 // 10
    assert card("a")["split"] == {"asked": {"val": 0.2, "test": 0.1}, "train": first, "validation": second - first,
                                  "test": n - second}


def test_validation_sees_the_validation_part_alone(train, tmp_path):
    """The last tenth is of other symbols: a model that never trained on them predicts them badly."""
    corpus(tmp_path, TEXT[:5400] + "XYZ" * 200)
    assert train("corpus.txt", "--steps", 40, "--lr", 0.02, "-o", "a").code == 0
    assert rows(runs.Path("a"))[-1]["val_loss"] > 1.5 * rows(runs.Path("a"))[-1]["loss"]


def test_without_validation_there_is_no_best(train, tmp_path):
    result = train("corpus.txt", "--steps", 4, "--val", 0, "-o", "a")
    assert result.code == 0 and "warning" not in result.err and "best" not in result.err
    assert "best.safetensors" not in files(tmp_path / "a")
    assert all(row["val_loss"] is None for row in rows(tmp_path / "a")) and card("a")["val_loss"] is None


def test_a_named_corpus(train):
    assert train("python-docs", "--steps", 1).code == 0
    about = card(runs.RUNS / "python-docs")["corpus"]
    assert about["name"] == "python-docs" and about["characters"] > 400_000


def test_a_folder_several_files_and_stdin(train, tmp_path):
    (tmp_path / "books").mkdir()
    corpus(tmp_path / "books", TEXT[:3000], "b.txt")
    corpus(tmp_path / "books", TEXT[3000:], "a.txt")
    assert train("books", "--steps", 1).code == 0
    assert train("books/a.txt", "books/b.txt", "--steps", 1).code == 0
    assert card("runs/books")["corpus"]["sha256"] == card("runs/a")["corpus"]["sha256"]
    assert run("train", "-", "--steps", 1, *SMALL, cwd=tmp_path, stdin=TEXT.encode()).code == 0
    assert train("corpus.txt", "--steps", 1).code == 0
    assert card("runs/stdin")["corpus"]["sha256"] == card("runs/corpus")["corpus"]["sha256"]


def test_encodings_and_line_ends(train, tmp_path):
    (tmp_path / "latin.txt").write_bytes((TEXT + "Bär\r\n").encode("latin-1"))
    line = refused(train("latin.txt", "--steps", 1))
    assert f"offset {len(TEXT) + 1}" in line and "--encoding latin-1" in line and not (tmp_path / "runs").exists()
    result = train("latin.txt", "--steps", 1, "--encoding", "latin-1")
    assert result.code == 0 and result.err.count("1 CRLF line end") == 1
    assert "ä" in rnncore.load("runs/latin", device="cpu").vocab and "\r" not in rnncore.load("runs/latin").vocab
    assert train("latin.txt", "--steps", 1, "--encoding", "latin-1", "--newline", "keep").code == 0
    assert "\r" in rnncore.load("runs/latin-2", device="cpu").vocab
    assert "no-such-code" in refused(train("corpus.txt", "--encoding", "no-such-code"), 2)


@pytest.mark.parametrize("content, words", [("", "is empty"), ("aaaaaaaa", "one distinct symbol")])
def test_texts_with_nothing_to_learn(train, tmp_path, content, words):
    corpus(tmp_path, content, "odd.txt")
    line = refused(train("odd.txt"))
    assert words in line and "odd.txt" in line and not (tmp_path / "runs").exists()


def test_a_missing_corpus_names_the_path(train, tmp_path):
    assert "'gone.txt'" in refused(train("corpus.txt", "gone.txt"), 2) and not (tmp_path / "runs").exists()


def test_a_short_corpus_shrinks_batch_then_length_with_one_warning(train, tmp_path):
    corpus(tmp_path, TEXT[:100], "short.txt")
    result = train("short.txt", "--steps", 2, "--val", 0, "-o", "a")
    assert result.code == 0 and result.err.count("warning") == 1 and "4 streams of 20 instead of 8 of 20" in result.err
    corpus(tmp_path, TEXT[:9], "shorter.txt")
    result = train("shorter.txt", "--steps", 2, "--val", 0, "-o", "b")
    assert result.code == 0 and result.err.count("warning") == 1 and "1 streams of 8 instead of 8 of 20" in result.err
    corpus(tmp_path, "ab", "shortest.txt")
    assert train("shortest.txt", "--steps", 2, "--val", 0, "-o", "c").code == 0


def test_too_little_to_validate_on_trains_without(train, tmp_path):
    corpus(tmp_path, TEXT[:900], "short.txt")
    result = train("short.txt", "--steps", 2, "-o", "a")
    assert result.code == 0 and result.err.count("warning") == 1
    assert "90 characters are too few to validate on" in result.err
    split = card("a")["split"]
    assert (split["train"], split["validation"], split["test"]) == (900, 0, 0)


def test_nothing_left_to_train_on_is_refused(train, tmp_path):
    corpus(tmp_path, "abc", "short.txt")
    line = refused(train("short.txt", "--val", 0, "--test", 0.5))
    assert "at least 2 are needed" in line and not (tmp_path / "runs").exists()


# Refusals

@pytest.mark.parametrize("args, words", [
    (("--steps", "5", "--epochs", "1"), "one of"), (("--steps", "5", "--minutes", "1"), "one of"),
    (("--epochs", "1", "--minutes", "1"), "one of"), (("--lr", "0"), "lr"), (("--lr", "nan"), "lr"),
    (("--lr", "inf"), "lr"),
    (("--dropout", "1"), "dropout"), (("--dropout", "-.1"), "dropout"), (("--layers", "0"), "layers"),
    (("--hidden", "0"), "hidden"), (("--embed", "-3"), "embed"), (("--hidden", "1.5"), "hidden"),
    (("--seq", "0"), "seq"),
    (("--batch", "0"), "batch"), (("--threads", "0"), "threads"), (("--threads", "²"), "threads"),
    (("--threads", "two"), "threads"), (("--val", "1"), "val"), (("--val", "nan"), "val"), (("--val", "-.1"), "val"),
    (("--test", "1"), "test"), (("--val", ".5", "--test", ".5"), "below 1"), (("--seed", "-1"), "seed"),
    (("--steps", "0"), "steps"), (("--epochs", "0"), "epochs"), (("--minutes", "nan"), "minutes"),
    (("--minutes", "inf"), "minutes"), (("--clip", "-1"), "clip"), (("--warmup", "1"), "warmup"),
    (("--optimizer", "sgd"), "optimizer"), (("--dtype", "float16"), "dtype"), (("--device", "tpu"), "device"),
    (("--eval-every", "0"), "eval_every"), (("--sample-every", "-1"), "sample-every"),
    (("--save-every", "0"), "save-every"),
    (("--newline", "crlf"), "newline"), (("--name", "a", "-o", "b"), "not both"), (("--name", "a/b"), "name"),
    (("--nothing",), "nothing"),
])
def test_options_out_of_range(capsys, monkeypatch, tmp_path, args, words):
    corpus(tmp_path)
    monkeypatch.chdir(tmp_path)
    result = call(capsys, "train", "corpus.txt", *args)
    assert words in refused(result, 2) and [path.name for path in tmp_path.iterdir()] == ["corpus.txt"]


@pytest.mark.parametrize("out", ["corpus.txt/run", "/proc/rnncore-run", "x" * 300])
def test_a_folder_that_cannot_be_made_is_refused_before_the_first_step(train, out):
    line = refused(train("corpus.txt", "--steps", 1, "-o", out))
    assert out in line and ("cannot be written" in line or "too long" in line)


def test_a_model_that_does_not_fit_into_memory_is_refused_with_the_numbers(train, tmp_path):
    for hidden in (10 ** 6, 10 ** 12):
        line = refused(train("corpus.txt", "--hidden", hidden))
        assert "GiB" in line and "--hidden" in line and not (tmp_path / "runs").exists()


def test_a_full_disk_does_not_stop_the_training(tmp_path):
    """No file may grow past 20 kB: the metrics fit, a model does not."""
    corpus(tmp_path)
    args = ("train", "corpus.txt", "--steps", 5, "-o", "run", *SMALL, "--hidden", 48)
    result = run(*args, cwd=tmp_path, preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000)))
    assert result.code == 1 and "Traceback" not in result.err
    assert result.err.strip().splitlines()[-1].startswith("rnncore: run cannot be written (")
    assert rows(tmp_path / "run")[-1]["step"] == 5 and set(files(tmp_path / "run")) == {"metrics.jsonl", "samples.txt"}


def test_metrics_that_cannot_be_written_do_not_stop_the_training(train, monkeypatch):
    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(runs.RunFolder, "log", full)
    monkeypatch.setattr(runs.RunFolder, "add_sample", full)
    result = train("corpus.txt", "--steps", 5, "-o", "run")
    assert result.code == 0 and result.err.count("cannot be written (No space left on device)") == 1
    assert card("run")["step"] == 5


def test_divergence_ends_with_3_and_leaves_no_nan_behind(train, tmp_path):
    for args in (("-o", "a"), ("-o", "b", "--val", 0), ("-o", "c", "--eval-every", 1)):
        result = train("corpus.txt", "--lr", 1e38, "--steps", 40, *args)
        assert result.code == 3 and "Traceback" not in result.err and "RuntimeWarning" not in result.err
        assert "--lr" in result.err.splitlines()[-1]
        rows(tmp_path / args[1])
        if "best.safetensors" in files(tmp_path / args[1]):  # the parameters that returned
            assert card(args[1])["val_loss"] < 4 and np.isfinite(rnncore.load(args[1], "cpu").params.flat).all()


# The display

def test_plain_lines_where_stderr_is_no_terminal(train):
    err = train("corpus.txt", "--steps", 20, "-o", "a").err
    lines = [line for line in err.splitlines() if line.startswith("step ")]
    assert len(lines) == 10 and "\x1b" not in err and "\r" not in err
    assert all(word in lines[-1] for word in ("step 20", "100%", "loss", "val", "chars/s", "left"))


def on_a_terminal(*args, cwd, env: dict | None = None) -> Result:
    """`rnncore ARGS` with a pseudo-terminal for stderr."""
    ours, theirs = pty.openpty()
    with Forked(*args, cwd=cwd, stdout=subprocess.PIPE, stderr=theirs, env=ENVIRONMENT | {"TERM": "xterm"} | (env or {})) as process:
        os.close(theirs)
        seen = b""
        while chunk := read(ours):
            seen += chunk
        out = process.stdout.read()
    os.close(ours)
    return Result(process.returncode, out.decode(), seen.decode())


def read(fd: int) -> bytes:
    """What a terminal shows next; b"" when all that write to it have left (Linux says EIO)."""
    try:
        return os.read(fd, 4096)
    except OSError:
        return b""


def test_a_live_line_on_a_terminal(tmp_path):
    corpus(tmp_path)
    result = on_a_terminal("train", "corpus.txt", "--steps", 40, *SMALL, cwd=tmp_path)
    assert result.code == 0 and result.out == ""
    assert "\x1b[2K" in result.err and "━" in result.err and "step 40" in result.err
    assert result.err.count("\x1b[?25l") == result.err.count("\x1b[?25h")  # the cursor hidden, and shown again
    dumb = on_a_terminal("train", "corpus.txt", "--steps", 4, *SMALL, cwd=tmp_path, env={"TERM": "dumb",
                                                                                          "PYTHONIOENCODING": "ascii"})
    assert dumb.code == 0 and "Traceback" not in dumb.err and "step 4" in dumb.err


class Terminal(io.StringIO):
    """A stderr that says it is a terminal."""

    def isatty(self) -> bool:
        return True


def test_samples_are_shown_as_they_are(monkeypatch):
    monkeypatch.setattr(sys, "stderr", Terminal())
    text = "[red]:cat: \\[/] [link=http://x]{}%s"
    with display() as shown:
        assert isinstance(shown, LiveDisplay)
        shown.say(text)
    assert text in sys.stderr.getvalue()
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    with display() as shown:
        assert isinstance(shown, PlainDisplay)
        shown.say(text)
    assert sys.stderr.getvalue() == text + "\n"


def test_a_sample_cannot_move_the_cursor():
    assert printable("a\tb\nc\x1b[2J\r\x07\udcff é☃") == "a\tb\nc\ufffd[2J\ufffd\ufffd\ufffd é☃"


def test_seconds_are_shown_as_a_clock():
    shown = {0: "0:00", 59.6: "1:00", 61: "1:01", 3599: "59:59", 3600: "1:00:00", 36061: "10:01:01"}
    assert {seconds: clock(seconds) for seconds in shown} == shown


def test_sample_every_save_every_eval_every(train, tmp_path, monkeypatch):
    saved = []
    keep = runs.RunFolder.save
    monkeypatch.setattr(runs.RunFolder, "save", lambda self, training, best: (saved.append(training.step),
                                                                               keep(self, training, best)))
    every = ("--sample-every", 5, "--save-every", 4, "--eval-every", 6)
    assert train("corpus.txt", "--steps", 12, *every, "-o", "a").code == 0
    samples = (tmp_path / "a" / "samples.txt").read_text()
    assert [line for line in samples.splitlines() if line.startswith("--- ")] == ["--- step 5", "--- step 10"]
    assert [row["step"] for row in rows(tmp_path / "a") if row["val_loss"] is not None] == [6, 12]
    assert {4, 8, 12} <= set(saved) <= {4, 6, 8, 12}


@pytest.mark.skipif(bool(kernels.why_no_cuda()), reason=f"no GPU: {kernels.why_no_cuda()}")
def test_a_gpu_that_works_trains(train):
    assert train("corpus.txt", "--steps", 2, "--device", "cuda").code == 0


def test_json_of_info_after_training(train, capsys):
    assert train("corpus.txt", "--steps", 3, "-o", "a").code == 0
    found = json.loads(call(capsys, "info", "a", "--json").out)
    assert found["card"]["train"]["steps"] == 3 and found["card"]["corpus"]["sources"] == ["corpus.txt"]


@pytest.mark.parametrize("end", ["| head -1", "> /dev/full"])
def test_nobody_reads_what_it_says(tmp_path, end):
    """Training goes on, and is saved."""
    corpus(tmp_path)
    line = f"{' '.join(COMMAND)} train corpus.txt --steps 30 {' '.join(SMALL)} -o run 2>&1 >/dev/null {end}"
    if end.startswith(">"):
        line = line.replace("2>&1 >/dev/null > /dev/full", "2> /dev/full")
    done = subprocess.run(["bash", "-c", f"set -o pipefail; {line}"], cwd=tmp_path, env=ENVIRONMENT, capture_output=True)
    assert done.returncode == 0 and (tmp_path / "run" / "best.safetensors").is_file()
    assert rows(tmp_path / "run")[-1]["step"] == 30
