"""A training text whose digest is right, but whose fields cannot all be: refused by `info --verify` and by --resume."""
import json
import shutil
import struct
import subprocess
import sys

import numpy as np
import pytest
from cli_helpers import ROOT, call, corpus, files, finished_run, read_last, refused
from damage import changed, packed, sealed

from rnncore.config import LAYERS, TrainConfig
from rnncore.runs import checkpoint, consistency, metadata
from rnncore.runs.metadata import KEY, ModelFileError

LAST = "run/last.safetensors"
P, S = ("progress",), ("settings",)


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A folder with corpus.txt and a run of 4 steps."""
    return finished_run(tmp_path_factory.mktemp("home"))


@pytest.fixture
def lie(home, tmp_path, monkeypatch, capsys):
    """A function: the line with which both commands refuse a run with these parts."""
    shutil.copytree(home, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)

    def told(document: dict, tensors: dict) -> str:
        (tmp_path / LAST).write_bytes(sealed(document, tensors))
        before = files(tmp_path)
        result = call(capsys, "info", "run", "--verify")
        assert result.code == 1 and result.err.count("\n") == 1 and "ok  run/best.safetensors" in result.out
        line = refused(call(capsys, "train", "--resume", "-o", "run", "--steps", 8))
        assert LAST in line and files(tmp_path) == before
        assert result.err.split(": ", 2)[2].strip().removesuffix(", or take another copy") in line
        return line
    return told


@pytest.mark.parametrize("path, value, words", [
    ((*P, "recovery", "uncounted"), 5, "training.progress.recovery.uncounted is 5, but training.progress.step is 4"),
    ((*P, "recovery", "since"), 5, "training.progress.recovery.since is 5"),
    ((*P, "recovery", "row"), 1, "training.progress.recovery.row is more"),
    ((*P, "recovery", "rate"), -1, "training.progress.recovery.rate is -1, not a number above 0 and at most 1"),
    ((*P, "recovery", "rate"), 0.0, "recovery.rate is 0.0"), ((*P, "recovery", "rate"), 2.0, "recovery.rate is 2.0"),
    ((*P, "recovery", "rate"), float("nan"), "recovery.rate is nan"),
    ((*P, "step"), 2 ** 62, "training.progress.step is 4611686018427387904, not a whole number from 1"),
    ((*P, "step"), 5, "training.progress.step is 5, but the budget in training.config is 4 steps"),
    ((*P, "step"), 10 ** 9, "training.progress.chars is less"),
    ((*P, "chars"), 10 ** 9, "training.progress.chars is more"), ((*P, "chars"), 31, "progress.chars is less"),
    ((*P, "training_seconds"), 1e6, "training.progress.training_seconds is more than training.progress.seconds"),
    ((*P, "seconds"), 0.0, "training.progress.training_seconds is more"), ((*P, "seconds"), 1e300, "progress.seconds"),
    ((*P, "val_windows"), 10 ** 6, "training.progress.val_windows is 1,000,000"),
    ((*P, "val_windows"), None, "training.progress.val_windows is not"),
    ((*P, "final_windows"), 151, "training.progress.final_windows is 151"),
    ((*P, "final_windows"), 0, "training.progress.final_windows are not of one"),
    ((*P, "final_loss"), None, "training.progress.final_loss and"),
    ((*P, "best"), [1.5, 5], "training.progress.best is of a later step"), ((*P, "stale"), 5, "progress.stale is 5"),
    ((*P, "course", "weight"), 1e9, "training.progress.course.weight is more"),
    ((*P, "course", "first"), None, "training.progress.course.recent is there"),
    ((*P, "course", "weight"), 0.0, "training.progress.course.recent is there"),
    ((*S, "split", "asked"), {"val": 0.6, "test": 0.6}, "split.asked.val 0.6 and test 0.6 leave nothing"),
    ((*S, "split", "train"), 10 ** 6, "training.settings.split.train is 1,000,000, but the corpus splits into 1,350"),
    ((*S, "split", "test"), 1, "training.settings.split.test is 1"),
    ((*S, "split", "validation"), 0, "val_windows is 1, but training.settings.split.validation is 0"),
    ((*S, "corpus", "characters"), 10 ** 9, "training.settings.split.train is 1,350"),
    ((*S, "floor"), {"nats": 1.0, "order": 2, "counted": 1351}, "training.settings.floor.counted is more"),
    ((*S, "floor"), {"nats": -1.0, "order": 2, "counted": 5}, "training.settings.floor.nats"),
    ((*S, "changes"), [{"step": 5, "lr": [0.1, 0.2]}], "training.settings.changes has one at step 5"),
    ((*S, "changes"), [{"step": 3, "lr": [.1, .2]}, {"step": 2, "lr": [.2, .1]}], "settings.changes has one at step 2"),
    ((*S, "changes"), [{"step": 3, "lr": [0.1, -0.2]}], "training.settings.changes has lr 0.1 to -0.2"),
    ((*S, "changes"), [{"step": 3, "dropout": [0.1, 1.5]}], "training.settings.changes has dropout 0.1 to 1.5"),
    ((*S, "saving", "more"), 1, "training.settings.saving.more is not expected"),
    ((*S, "saving", "save_every"), 2 ** 60, "training.settings.saving.save_every"),
    ((*S, "asked"), {"batch": 2 ** 63}, "training.settings.asked.batch"),
    (("config", "epochs"), 0.001, "one of steps"), (("config", "seq"), 1.5, "training.config.seq must be"),
    (("config", "batch"), True, "training.config.batch must be"),
    (("config", "steps"), 3, "budget in training.config"),
    (("config", "variational"), 1, "training.config.variational must be")], ids=str)
def test_a_field_that_cannot_be_is_named(home, lie, path, value, words):
    document, tensors = read_last(home / "run")
    assert words in lie(changed(document, ("training", *path), value), tensors)


def test_epochs_that_are_spent_before_the_step(home, lie):
    document, tensors = read_last(home / "run")
    document = changed(changed(document, ("training", "config", "steps"), None), ("training", "config", "epochs"), 0.2)
    assert "step is 4, but the budget in training.config is 2 steps" in lie(document, tensors)


def test_steps_that_no_clock_can_hold(home, lie):
    document, tensors = read_last(home / "run")
    for path, value in ((("config", "steps"), None), (("config", "minutes"), 5.0), ((*P, "step"), 10 ** 12),
                        ((*P, "chars"), 160 * 10 ** 12)):
        document = changed(document, ("training", *path), value)
    assert "training.progress.step is 1,000,000,000,000, more than training.progress.seconds" in lie(document, tensors)


@pytest.mark.parametrize("value", [-1.0, -1e-30])
def test_second_moments_below_0(home, lie, value):
    document, tensors = read_last(home / "run")
    moments = tensors["optimizer.v"].copy()
    moments[7] = value
    assert "optimizer.v holds numbers below 0" in lie(document, tensors | {"optimizer.v": moments})


def test_parameters_that_returned_but_are_not_there(home, lie):
    document, tensors = read_last(home / "run")
    document = changed(document, ("training", *P, "recovery", "returned"), True)
    assert "recovery.returned is true" in lie(document, {k: v for k, v in tensors.items() if k != "state.good"})


@pytest.mark.parametrize("options", [
    ("--val", 0), ("--epochs", 0.5, "--test", 0.2), ("--minutes", 0.01), ("--eval-every", 1, "--patience", 1), ("--lr", 1e3),
    ("--level", "byte"), ("--min-count", 40, "--optimizer", "adam"), ("--documents", "lines", "--no-shuffle"),
    ("--batch", 1, "--seq", 1)], ids=str)
def test_what_a_run_writes_is_no_lie(tmp_path, capsys, monkeypatch, options):
    corpus(tmp_path)
    monkeypatch.chdir(tmp_path)
    small = ("--layers", 1, "--hidden", 8, "--embed", 4, "--batch", 8, "--seq", 20)
    budget = () if {"--epochs", "--minutes"} & {*options} else ("--steps", 6)
    assert call(capsys, "train", "corpus.txt", *small, *budget, *options, "-o", "run").code in (0, 3)
    assert call(capsys, "info", "run", "--verify").code == 0
    more = ("--epochs", 1) if "--epochs" in options else ("--minutes",
    0.02) if "--minutes" in options else ("--steps", 9)
    assert call(capsys, "train", "--resume", "-o", "run", *more, "--lr", 0.01, "--patience", 9).code in (0, 2, 3)
    assert call(capsys, "info", "run", "--verify").code == 0


def test_a_run_whose_gradients_were_no_numbers_is_no_lie(home):
    """All that recovery counts may be as large as the step."""
    document, tensors = read_last(home / "run")
    for name, value in (("uncounted", 4), ("since", 4), ("row", 2), ("rate", 2 ** -20), ("returned", True)):
        document = changed(document, ("training", *P, "recovery", name), value)
    assert consistency.contradiction(document["training"], TrainConfig(**document["training"]["config"]),
    tensors) is None


# Many layers, many symbols

@pytest.mark.parametrize("layers, words", [
    (1_001, f"layers must be a whole number from 1 to {LAYERS:,}, not 1001"),
    (20_000, "its header names 80,000 tensors")])
def test_twenty_thousand_layers_are_refused_by_their_number_alone(tmp_path, monkeypatch, layers, words):
    config = {"vocab_size": 2, "embed": 1, "hidden": 1, "layers": layers}
    document = {"schema": 1, "config": config, "vocab": [97, 98], "card": {}, "sha256": "0" * 64}
    header, start = {"__metadata__": {KEY: json.dumps(document)}}, 0
    for layer in range(layers):
        for kind, shape in (("weight_ih", [4, 1]), ("weight_hh", [4, 1]), ("bias_ih", [4]), ("bias_hh", [4])):
            header[f"lstm.{kind}_l{layer}"] = {"dtype": "F32", "shape": shape, "data_offsets": [start, start + 16]}
            start += 16
    path = tmp_path / "deep.safetensors"
    path.write_bytes(packed(header, bytes(start)))
    monkeypatch.delattr(checkpoint, "file_shapes")
    with pytest.raises(ModelFileError, match=words):
        checkpoint.read(path)


def test_names_beyond_those_of_the_layers_are_counted_before_any_is_looked_at(tmp_path, monkeypatch):
    count = metadata.MOST_TENSORS + 1
    header = {f"x{number}": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]} for number in range(count)}
    path = tmp_path / "many.safetensors"
    path.write_bytes(packed(header, b""))
    monkeypatch.delattr(checkpoint, "safe_open")
    with pytest.raises(ModelFileError, match="more than any model of ours has"):
        checkpoint.read(path)
    assert struct.unpack("<Q", path.read_bytes()[:8])[0] < metadata.HEADER


def test_a_million_symbols_are_read_in_little_memory(tmp_path):
    code = ("import sys, numpy, rnncore\nfrom rnncore.bench.memory import peak\n"
            "before = peak()\nrnncore.load(sys.argv[1], 'cpu')\nprint(peak() - before)")
    symbols = [point for point in range(1_002_048) if not 0xD800 <= point < 0xE000]
    config = {"vocab_size": len(symbols), "embed": 1, "hidden": 1, "layers": 1}
    document = {"schema": 1, "config": config, "vocab": symbols, "card": {}}
    tensors = {name: np.zeros(shape, np.float32)
               for name, shape in checkpoint.file_shapes(metadata.sizes(document)).items()}
    path = tmp_path / "wide.safetensors"
    path.write_bytes(sealed(document, tensors))
    done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, timeout=60, cwd=ROOT)
    assert int(done.stdout) < 400 << 20, done.stderr


@pytest.mark.parametrize("paths", [5, None, ["/a", "/b"], {"a": 1}])
def test_the_paths_of_a_run_of_a_few_days_are_not_looked_at(home, tmp_path, monkeypatch, capsys, paths):
    """They stood in the place of the list of files; a run that has both goes by the list."""
    shutil.copytree(home, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    document, tensors = read_last(tmp_path / "run")
    (tmp_path / LAST).write_bytes(sealed(changed(document, ("training", *S, "paths"), paths), tensors))
    assert call(capsys, "info", "run", "--verify").code == 0
    assert call(capsys, "train", "--resume", "-o", "run", "--steps", 8).code == 0
    assert "paths" not in read_last(tmp_path / "run")[0]["training"]["settings"]
