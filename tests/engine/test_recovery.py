"""NaN or inf in loss or gradient: the step skipped, the rate halved, good parameters back, exit 3; resumed all the same."""
import json
import math
from functools import cache

import numpy as np
import pytest
from cli_helpers import SMALL, corpus, files, read_last, rows, stoppable
from damage import sealed
from test_resume import fresh_model, outcome, training as resumable
from test_train import IDS, LEARNABLE, training

from rnncore import recovery
from rnncore.model import CharLM
from rnncore.recovery import Diverged, worst
from rnncore.runs import checkpoint, folder as runs
from rnncore.runs.checkpoint import ModelFileError
from rnncore.runs.folder import RunFolder

NAN, INF = float("nan"), float("inf")


def planted(run, bad, value=NAN, name="lstm.weight_hh_l1", gate=1):
    """The run, with this number in the loss of the steps `bad`, or (name given) in one gate of that gradient."""
    step = run.model.loss_and_grads

    def spoiled(*args, **kwargs):
        loss, grads, state = step(*args, **kwargs)
        if run.step + 1 in bad:
            if name is None:
                return value, grads, state
            grads[name][gate * len(grads[name]) // 4] = value
        return loss, grads, state

    run.model.loss_and_grads = spoiled
    return run


def snapshot(run) -> tuple[bytes, ...]:
    return run.model.params.flat.tobytes(), *(moment.tobytes() for moment in run.optimizer.moments.values())


def walk(run):
    """(Progress, what the step left) of every step."""
    for p in run:
        yield p, snapshot(run)


@pytest.mark.parametrize("name, value", [(None, NAN), (None, INF), ("lstm.weight_hh_l1", NAN), ("head.bias", -INF)])
def test_a_bad_step_is_skipped_and_the_rate_halved(name, value):
    usual = [p.lr for p in training(LEARNABLE)]
    run = planted(training(LEARNABLE), {5, 9}, value, name)
    progress, left = zip(*walk(run), strict=True)
    assert [len(p.notes) for p in progress] == [step in (5, 9) for step in range(1, 21)]
    assert left[4] == left[3] and left[8] == left[7] and len(set(left)) == 18
    factors = [1] * 5 + [0.5] * 4 + [0.25] * 11
    assert [p.lr for p in progress] == [lr * factor for lr, factor in zip(usual, factors, strict=True)]
    assert "step 5: " in progress[4].notes[0] and "skipped" in progress[4].notes[0] and "halved" in progress[4].notes[0]
    assert run.step == 20 and progress[-1].finished and not math.isfinite(progress[4].grad_norm + progress[4].loss)


def test_the_state_begins_at_zero_after_a_bad_step():
    run = planted(training(), {5})
    for p in run:
        assert bool(run.state.h.any()) == bool(run.state.c.any()) == (p.step != 5)


def test_a_skipped_step_does_not_count_for_the_optimiser():
    """Adam's first update is of the size of the rate, whichever step it is."""
    run = planted(training(optimizer="adam", warmup=0.0), {1, 2})
    iterator, before = iter(run), run.model.params.flat.copy()
    progress = [next(iterator) for _ in range(3)]
    moved = np.abs(run.model.params.flat - before).max()
    assert moved == pytest.approx(progress[-1].lr, rel=1e-4)


def test_three_in_a_row_bring_the_last_good_parameters_back(monkeypatch):
    monkeypatch.setattr(recovery, "EVERY", 4)
    run = planted(training(LEARNABLE), {11, 12, 13})
    start = run.model.params.flat.tobytes()
    progress, left = zip(*walk(run), strict=True)
    assert left[12][0] == left[7][0] != left[9][0] != start and not any(any(part) for part in left[12][1:])
    assert "the parameters of step 8 return" in progress[12].notes[0] and "3 steps in a row" in progress[12].notes[0]
    assert progress[13].lr < 0.13 * progress[9].lr and run.step == 20
    assert progress[13].loss < progress[0].loss  # they are parameters that have learnt something


def test_two_bad_steps_in_a_row_bring_no_parameters_back():
    left = [snapshot for _, snapshot in walk(planted(training(), {5, 6, 8, 9, 11, 12}))]
    assert left[5] == left[3] and left[8] == left[6] and left[11] == left[9] and len(set(left)) == 14


def test_diverging_again_ends_the_run_unless_it_went_well_in_between(monkeypatch):
    monkeypatch.setattr(recovery, "EVERY", 4)
    run = planted(training(), {5, 6, 7, 9, 10, 11})
    with pytest.raises(Diverged, match=r"step 11: .*lstm layer 1, forget gate, weight_hh.* returned at step 7 already"):
        list(run)
    assert run.step == 10
    run = planted(training(steps=40), {5, 6, 7, 13, 14, 15})
    progress = list(run)
    assert "step 11 return" in progress[14].notes[0] and run.step == 40


def test_divergence_from_the_start_leaves_the_parameters_as_they_were():
    run = planted(training(), range(1, 9))
    before = snapshot(run)
    with pytest.raises(Diverged, match="step 3: .*no step before them was finite"):
        list(run)
    assert snapshot(run) == before


@pytest.mark.parametrize("name, gate, words", [
    ("lstm.weight_hh_l1", 1, "lstm layer 1, forget gate, weight_hh"), ("lstm.bias_ih_l0", 0, "lstm layer 0, input gate, bias_ih"),
    ("lstm.weight_ih_l0", 3, "lstm layer 0, output gate, weight_ih"), ("lstm.weight_hh_l0", 2, "lstm layer 0, cell gate, weight_hh"),
    ("head.weight", 0, "head, weight"), ("embedding.weight", 0, "embedding, weight")])
@pytest.mark.parametrize("value", [NAN, -INF, 1e30])
def test_the_gradient_at_fault_is_named(name, gate, words, value):
    run = training()
    _, grads, _ = run.model.loss_and_grads(*run.batches.window(0))
    grads["embedding.weight"][-1] = 1e20 if value == 1e30 else NAN if name.startswith("embedding") else 0
    grads[name][gate * len(grads[name]) // 4] = value
    size, place = worst(grads)
    assert place == words and (size == abs(value) or math.isnan(size))


def test_gates_at_fault_together_are_named_together():
    grads = training().model.params.like()
    grads["lstm.weight_hh_l1"].reshape(4, -1)[[0, 3]] = NAN
    assert worst(grads)[1] == "lstm layer 1, input gate and output gate, weight_hh"
    grads["lstm.bias_ih_l1"][:] = INF
    assert worst(grads) == (INF, "lstm layer 1, all gates, bias_ih")


def test_a_validation_loss_that_is_no_number_is_never_the_best(monkeypatch):
    """Once: good parameters return and are evaluated. Without end: the run has diverged."""
    run = training(validation=IDS, eval_every=4)
    found, evaluate = [], run.validation.loss

    def spoiled(model, *args, **kwargs):
        found.append(model.params.flat.tobytes())
        return (NAN, NAN) if len(found) == 2 else evaluate(model, *args, **kwargs)

    monkeypatch.setattr(run.validation, "loss", spoiled)
    left, progress = {}, []
    for p in run:
        progress.append(p)
        left[p.step] = snapshot(run)[0]
    assert [p.val_loss is not None for p in progress] == [p.step % 4 == 0 for p in progress]
    assert all(math.isfinite(p.val_loss) for p in progress if p.val_loss is not None)
    assert "the validation loss is nan" in progress[7].notes[0] and found[2] == left[8] != found[1]
    run = training(validation=IDS)
    monkeypatch.setattr(run.validation, "loss", lambda *args, **kwargs: (NAN, NAN))
    with pytest.raises(Diverged, match="validation"):
        list(run)
    assert run.best is None


BAD = {3, 7, 8, 9, 15, 16}  # of 22 steps; a copy every fifth


def run_with(folder, stops=()):
    """outcome() of a run with those bad steps, stopped after `stops` and taken up again from its file."""
    how = {"dropout": 0.3, "weight_drop": 0.2}
    run, progress = planted(resumable(fresh_model("float32"), how), BAD, name="lstm.weight_hh_l0"), []
    for stop in (*stops, 22):
        for p in run:
            progress.append(p)
            if p.step == stop:
                break
        if stop < 22:
            RunFolder(folder, {"corpus": {}, "split": {}}).save(run, best=False)
            document, tensors = read_last(folder)
            model = checkpoint.to_model(document, tensors, "cpu")
            run = planted(resumable(model, how), BAD, name="lstm.weight_hh_l0")
            runs.restore(run, document, tensors)
    rows_ = [repr((p.step, p.loss, p.lr, p.grad_norm, p.val_loss, p.notes)) for p in progress]  # nan equals nan
    return outcome(run, []) | {"rows": rows_, "good": run.recovery.good.tobytes(), "recovery": run.recovery.summary()}


@cache
def undisturbed(folder):
    return run_with(folder)


@pytest.mark.parametrize("stops", [(1,), (5,), (7,), (8,), (9,), (21,), (3, 7, 8, 9, 10), (8, 16)], ids=str)
def test_resuming_between_bad_steps_equals_no_interruption(stops, tmp_path, monkeypatch):
    monkeypatch.setattr(recovery, "EVERY", 5)
    whole = undisturbed(None)
    assert "the parameters of step 5 return" in whole["rows"][8] and whole["recovery"]["rate"] == 1 / 64
    assert run_with(tmp_path, stops) == whole


def test_a_copy_that_does_not_fit_is_refused(tmp_path):
    run, folder = resumable(fresh_model("float32"), {}), RunFolder(tmp_path, {"corpus": {}, "split": {}})
    next(iter(run))
    folder.save(run, best=False)
    document, tensors = read_last(tmp_path)
    (tmp_path / "last.safetensors").write_bytes(sealed(document, tensors | {"state.good": tensors["state.good"][1:]}))
    with pytest.raises(ModelFileError, match="state.good"):
        read_last(tmp_path)


# From the command line

@pytest.fixture
def train(capsys, monkeypatch, tmp_path):
    """`rnncore train corpus.txt ARGS` in tmp_path; `at` stops it after that step, as Ctrl-C does."""
    corpus(tmp_path)
    monkeypatch.chdir(tmp_path)
    command = stoppable(capsys, monkeypatch)
    return lambda *args, at=None: command("corpus.txt", *SMALL, *args, at=at)


def test_a_rate_far_too_high_recovers(train, tmp_path):
    result = train("--steps", 60, "--lr", 100, "-o", "a")
    notes = [line for line in result.err.splitlines() if line.startswith("warning: step ")]
    assert len(notes) == len(set(notes)) == 3 and "parameters of step 0 return" in notes[-1]
    assert result.code == 3 and "start again with --lr 0.03 (it had 100, 0.125 of it at the end)" in result.err
    table = {row["step"]: row for row in rows(tmp_path / "a")}  # NaN would be no JSON
    for note in notes:
        row = table[int(note.split()[2].rstrip(":"))]
        assert row["loss"] is None or row["grad_norm"] is None
    best = min(row["val_loss"] for row in table.values() if row["val_loss"] is not None)
    assert checkpoint.read(tmp_path / "a" / "best.safetensors")[0]["card"]["val_loss"] == best
    assert np.isfinite(checkpoint.load(tmp_path / "a", "cpu").params.flat).all()


def test_it_recovers_to_the_same_bits_after_a_stop(train, tmp_path):
    args = ("--steps", 60, "--lr", 100)
    whole = train(*args, "-o", "whole")
    bad = next(int(line.split()[2].rstrip(":")) for line in whole.err.splitlines() if line.startswith("warning: step "))
    assert train(*args, "-o", "parts", at=bad + 1).code == 130 and train("--resume", "-o", "parts", at=bad + 4).code == 130
    assert train("--resume", "-o", "parts").code == whole.code == 3  # its numbers are finite at the end, and high
    (a, x), (b, y) = (read_last(tmp_path / folder) for folder in ("whole", "parts"))
    assert x.keys() == y.keys() and all(np.array_equal(x[name], y[name]) for name in x)
    assert a["training"]["progress"]["recovery"] == b["training"]["progress"]["recovery"]
    assert a["training"]["progress"]["recovery"]["rate"] == 1 / 8


def test_best_is_never_overwritten_by_a_divergence(train, tmp_path, monkeypatch):
    """All numbers are bad from step 25 on: exit 3, the gate named, and the files of before as they were."""
    args = ("--steps", 60, "--save-every", 1, "--eval-every", 8)
    assert train(*args, "-o", "a", at=24).code == 130
    before = files(tmp_path / "a")
    step = CharLM.loss_and_grads

    def spoiled(self, *args, **kwargs):
        loss, grads, state = step(self, *args, **kwargs)
        grads["lstm.weight_hh_l0"][16:20] = NAN
        return loss, grads, state

    monkeypatch.setattr(CharLM, "loss_and_grads", spoiled)
    result = train("--resume", "-o", "a")
    lines = result.err.strip().splitlines()
    assert result.code == 3 and "Traceback" not in result.err and "--lr" in lines[-1]
    assert "lstm layer 0, forget gate, weight_hh" in lines[-1] and lines[-1].startswith("rnncore: step 30: ")
    assert files(tmp_path / "a")["best.safetensors"] == before["best.safetensors"]
    document, tensors = read_last(tmp_path / "a")  # of step 27, where good parameters returned: not one of the bad steps
    assert document["training"]["progress"]["step"] == 27 and all(np.isfinite(array).all() for array in tensors.values())
    assert json.loads(before["metrics.jsonl"].splitlines()[0])["step"] == 1
