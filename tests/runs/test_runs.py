"""Run folders: making, logging, rewinding, finding the newest, and a `last` that does not fit."""
import json
import os
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
from cli_helpers import read_last, rows
from conftest import build

from rnncore import TrainConfig
from rnncore.data.batches import Batches
from rnncore.measure.evaluate import Validation
from rnncore.runs import checkpoint, folder as runs
from rnncore.runs.checkpoint import ModelFileError
from rnncore.runs.folder import RunError, RunFolder, fresh, read_newest, restore
from rnncore.runs.names import newest
from rnncore.train import Progress, Training

SETTINGS = {"corpus": {"name": "x", "sources": ["x.txt"], "encoding": "utf-8", "newline": "lf", "characters": 600, "sha256": 64 * "0"},
            "split": {"train": 300, "validation": 300, "test": 0, "asked": {"val": 0.5, "test": 0.0}}, "asked": {}}
IDS = np.random.default_rng(0).integers(0, 5, 300).astype(np.uint8)
ROW = Progress(step=1, epoch=0, done=0.1, chars=10, seconds=1.23456, chars_per_s=9.87654, loss=1.5, lr=0.1,
               grad_norm=2.0)


def training(columns=4, **config) -> Training:
    return Training(build(), Batches(IDS, columns, 10), TrainConfig(**({"lr": 0.01, "steps": 10, "batch": columns, "seq": 10} | config)),
                    Validation(IDS, columns, 10))


@pytest.fixture
def saved(tmp_path):
    """(folder, the training that it was saved from)."""
    run, folder = training(), RunFolder(tmp_path / "run", SETTINGS)
    folder.make()
    for p in run:
        folder.log(p)
        if p.step == 4:
            folder.save(run, best=True)
            break
    return folder, run


def test_a_saved_run_holds_all_that_resuming_needs(saved):
    folder, run = saved
    document, tensors = read_last(folder.path)
    assert document["training"]["settings"] == SETTINGS and document["training"]["config"] == asdict(run.config)
    assert document["training"]["progress"]["step"] == 4
    other = training()
    other.model.assign(tensors)
    restore(other, document, tensors)
    assert np.array_equal(other.model.params.flat, run.model.params.flat)
    assert all(np.array_equal(other.optimizer.moments[name], run.optimizer.moments[name]) for name in "mv")
    assert all(np.array_equal(a, b) for a, b in zip(other.state, run.state, strict=True))
    assert {k: v for k, v in other.summary().items() if k != "seconds"} == {
        k: v for k, v in document["training"]["progress"].items() if k != "seconds"}
    assert set(checkpoint.read(folder.best)[1]) == set(checkpoint.file_shapes(run.model.config))


def test_the_card_says_what_was_trained_and_by_which_versions(saved):
    folder, run = saved
    card = checkpoint.read(folder.best)[0]["card"]
    assert card["corpus"] == SETTINGS["corpus"] and card["step"] == 4 and card["best_step"] == run.best[1]
    assert set(card["versions"]) == {"rnncore", "numpy", "python"} and card["train"] == asdict(run.config)


def test_a_folder_is_made_and_emptied_of_a_run_that_saved_nothing(tmp_path):
    folder = RunFolder(tmp_path / "a" / "b", SETTINGS)
    folder.make()
    assert os.listdir(folder.path) == ["metrics.jsonl"] and rows(folder.path) == []
    folder.add_sample(1, "text")
    folder.make()  # a run that ended before it saved a model leaves a folder that the next may have
    assert os.listdir(folder.path) == ["metrics.jsonl"] and rows(folder.path) == []
    (folder.path / "notes.txt").touch()
    with pytest.raises(RunError, match="exists already") as caught:
        folder.make()
    assert "--resume" not in str(caught.value)  # there is nothing to resume yet
    folder.last.touch()
    with pytest.raises(RunError, match="--resume"):
        folder.make()
    for path in (tmp_path / "a" / "b" / "metrics.jsonl" / "c", Path("/proc/rnncore-run")):
        with pytest.raises(RunError, match="cannot be written"):
            RunFolder(path, SETTINGS).make()


def test_a_row_a_second_and_every_milestone(tmp_path, monkeypatch):
    now = [100.0]
    monkeypatch.setattr(runs.time, "monotonic", lambda: now[0])
    folder = RunFolder(tmp_path, SETTINGS)
    for step in range(1, 41):
        folder.log(replace(ROW, step=step, milestone=step == 7, finished=step == 40))
        now[0] += 0.125
    folder.log(replace(ROW, step=41), last=True)
    folder.log(replace(ROW, step=41), last=True)
    assert [row["step"] for row in rows(tmp_path)] == [1, 7, 15, 23, 31, 39, 40, 41]
    assert rows(tmp_path)[0] == {"step": 1, "chars": 10, "seconds": 1.235, "chars_per_s": 9.9, "loss": 1.5,
                                 "val_loss": None, "lr": 0.1, "grad_norm": 2.0}


@pytest.mark.parametrize("torn", [b'{"step": 9, "cha', b'{"step": 9}\n{"ste', b"\xff\xfe\x00",
                                  b'[1]\n"x"\n{"step": "9"}\n', b"\n\n"])
def test_rewinding_drops_later_rows_and_what_is_torn(tmp_path, torn):
    folder = RunFolder(tmp_path, SETTINGS)
    good = b"".join(b'{"step": %d, "loss": 1.5}\n' % step for step in (1, 3, 5))
    (tmp_path / "metrics.jsonl").write_bytes(good + b'{"step": 7, "loss": 1.5}\n' + torn)
    (tmp_path / ".last.safetensors.123.tmp").write_bytes(b"half a file")
    folder.rewind(5)
    assert (tmp_path / "metrics.jsonl").read_bytes() == good and os.listdir(tmp_path) == ["metrics.jsonl"]
    (tmp_path / "metrics.jsonl").unlink()
    folder.rewind(5)
    assert rows(tmp_path) == []


def test_samples_are_appended_below_their_step(tmp_path):
    folder = RunFolder(tmp_path, SETTINGS)
    folder.add_sample(1, "ä\nb")
    folder.add_sample(2, "")
    assert (tmp_path / "samples.txt").read_text(encoding="utf-8") == "--- step 1\nä\nb\n--- step 2\n\n"


def test_the_newest_run_is_found_and_a_new_one_gets_a_free_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(RunError, match="rnncore train"):
        newest()
    assert fresh("a") == Path("runs/a") and fresh("a") == Path("runs/a-2")  # they are made, so nobody else takes them
    for number, name in enumerate(("a/last", "b/best", "a-2/other", "c/metrics")):
        path = Path("runs") / f"{name}.safetensors"
        path.parent.mkdir(exist_ok=True)
        path.touch()
        os.utime(path, (number, number))
    assert newest() == Path("runs/b") and fresh("a") == Path("runs/a-3") and fresh("d") == Path("runs/d")
    os.utime("runs/a/last.safetensors", (9, 9))
    assert newest() == Path("runs/a")


def test_folders_without_a_run_to_go_on_with(tmp_path, saved):
    folder, run = saved
    with pytest.raises(RunError, match="no run to go on with"):
        read_newest(tmp_path)
    checkpoint.save(run.model, folder.last)
    with pytest.raises(ModelFileError, match="start a new run"):
        read_newest(folder.path)
    folder.last.write_bytes(b"no model")
    with pytest.raises(ModelFileError):
        read_newest(folder.path)


@pytest.mark.parametrize("name, value", [("optimizer.m", None), ("optimizer.v", np.zeros(1)), ("state.h", None),
                                         ("state.c", np.zeros((2, 4, 3))), ("state.h", np.zeros((1, 4, 4)))])
def test_moments_and_states_that_do_not_fit(saved, name, value):
    folder, run = saved
    document, tensors = read_last(folder.path)
    extra = {key: tensor for key, tensor in tensors.items() if key.startswith(("optimizer.", "state."))}
    extra = {key: tensor for key, tensor in (extra | {name: value}).items() if tensor is not None}
    other = training()
    with pytest.raises(ModelFileError, match=name):  # one that is there and does not fit is not even saved
        checkpoint.save(run.model, folder.last, document["card"], extra, document["training"])
        restore(other, *read_newest(folder.path)[:2])
    assert other.step == 0 and not other.optimizer.moments["m"].any()


def test_json_of_a_run_is_plain(saved):
    folder, _ = saved
    document, _ = read_last(folder.path)
    assert json.loads(json.dumps(document)) == document


def test_a_best_model_that_cannot_be_written_is_not_the_best(tmp_path, monkeypatch):
    folder, run, save = RunFolder(tmp_path, SETTINGS), training(), checkpoint.save
    iterator = iter(run)
    next(iterator)
    run.best = (2.0, 1)
    folder.save(run, best=True)

    def full(model, path, *rest):
        if path.name == "best.safetensors":
            raise OSError(28, "No space left on device")
        save(model, path, *rest)
    next(iterator)
    run.best = (1.5, 2)
    with monkeypatch.context() as patch, pytest.raises(OSError, match="No space"):
        patch.setattr(checkpoint, "save", full)
        folder.save(run, best=True)
    assert run.best == (2.0, 1) and read_last(tmp_path)[0]["card"]["best_step"] == 1
    assert read_last(tmp_path)[0]["training"]["progress"]["step"] == 2
    assert checkpoint.read(folder.best)[0]["card"]["step"] == 1


def test_samples_past_the_step_are_dropped(tmp_path):
    folder = RunFolder(tmp_path, SETTINGS)
    for step in (5, 10, 15):
        folder.add_sample(step, f"text of {step}\n")
    folder.rewind(10)
    text = (tmp_path / "samples.txt").read_text()
    assert text == "--- step 5\ntext of 5\n\n--- step 10\ntext of 10\n\n"
    folder.rewind(10)
    assert (tmp_path / "samples.txt").read_text() == text
