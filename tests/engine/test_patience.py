"""--patience: the run ends after so many evaluations in a row that are no better, evaluated and saved like any other."""

import numpy as np
import pytest
from cli_helpers import SMALL, TEXT, corpus, read_last, refused, rows, stoppable
from test_train import IDS, LEARNABLE, training

from rnncore import train as train_module
from rnncore.runs import checkpoint
from rnncore.runs.folder import Path


def scripted(losses: list[float], **config):
    """(a run of evaluations every second step that find these losses, the windows that each looked at)."""
    run = training(LEARNABLE, validation=np.tile(IDS, 40), eval_every=2, **({"steps": 2 * len(losses)} | config))
    found, looked = iter(losses), []

    def loss(model, windows, prefix):
        looked.append(windows)
        return 0.5, -1.0 if run.given_up() else next(found)  # what an early end looks at again is no evaluation

    run.validation.loss = loss
    return run, looked


@pytest.mark.parametrize("losses, patience, ends", [
    ([3, 2, 2.5, 2.4, 1], 2, 4),          # better than the one before is not better than the best
    ([3, 2, 2, 2, 1], 2, 4),              # nor is the same
    ([3, 3.5, 2, 2.5, 1.5, 1.6, 1], 2, 7),  # what is better starts the count anew
    ([3, 4, 2, 1, 1.5], 1, 2), ([3, 4, 5, 6, 1], 4, 5), ([3, 4, 5, 2], 3, 4), ([3, 2, 1], 1, 3)])
def test_it_ends_after_so_many_in_a_row_that_are_no_better(losses, patience, ends):
    run, _ = scripted(losses, patience=patience)
    progress = list(run)
    assert run.step == 2 * ends and [p.val_loss for p in progress if p.val_loss is not None] == losses[:ends]
    assert [p.finished for p in progress] == (run.step - 1) * [False] + [True] and progress[-1].done == 1
    assert run.best == (min(losses[:ends]), 2 * (1 + losses.index(min(losses[:ends]))))
    assert list(run) == [] and run.done() == 1


def test_it_is_off_by_default():
    run, _ = scripted([1, 2, 3, 4, 5, 6])
    assert len(list(run)) == 12 and run.best == (1, 2) and not run.given_up() and run.config.patience is None


@pytest.mark.parametrize("losses, patience", [([3, 4, 5, 1, 1], 2), ([3, 4, 5], 2), ([3, 2, 1], 2)],
                         ids=["early", "at-the-very-end", "never"])
def test_the_final_evaluation_is_made_once(monkeypatch, losses, patience):
    monkeypatch.setattr(train_module, "FINAL", 0.9)
    run, looked = scripted(losses, patience=patience)
    list(run)
    mid, final = looked[:-1], looked[-1]
    assert run.final_loss == 0.5 and run.final_windows == final > run.val_windows and set(mid) == {run.val_windows}
    assert len(looked) == 3 + (len(losses) > 3)  # an early end looks a second time
    assert run.best[0] > 0


def test_without_a_validation_part_it_never_ends_early():
    assert len(list(training(patience=1, eval_every=1))) == 20


def test_with_minutes_an_evaluation_that_takes_too_long_is_not_the_end_without_the_last(monkeypatch):
    """A clock that only evaluations move: the first takes the whole budget."""
    now, run = [0.0], training(minutes=1.0, validation=IDS, eval_every=2, patience=50)
    monkeypatch.setattr(train_module.time, "perf_counter", lambda: now[0])
    step, evaluate = run.model.loss_and_grads, run.validation.loss

    def slow_step(*args, **kwargs):
        now[0] += 1
        return step(*args, **kwargs)

    def slow_evaluation(*args, **kwargs):
        now[0] += 70
        return evaluate(*args, **kwargs)

    monkeypatch.setattr(run.model, "loss_and_grads", slow_step)
    monkeypatch.setattr(run.validation, "loss", slow_evaluation)
    last = list(run)[-1]
    assert last.finished and run.final_loss is not None and last.val_loss is not None


def test_the_count_is_part_of_what_resuming_needs():
    run, _ = scripted([3, 4, 2, 2.5, 2.6, 2.7], patience=9)
    list(run)
    assert run.stale == 3 == run.summary()["stale"]
    other, _ = scripted([1], patience=3, steps=99)
    other.restore(run.summary(), run.optimizer.moments, run.state)
    assert other.stale == 3 and other.given_up() and other.done() == 1
    older = {name: value for name, value in run.summary().items() if name != "stale"}
    other.restore(older, run.optimizer.moments, run.state)
    assert other.stale == 0


# From the command line

@pytest.fixture
def train(capsys, monkeypatch, tmp_path):
    """`rnncore train ARGS` on a text whose last tenth is another: the more it learns the worse. `at` stops it there."""
    corpus(tmp_path, TEXT[:5400] + "XYZ" * 200)
    monkeypatch.chdir(tmp_path)
    return stoppable(capsys, monkeypatch)


ARGS = ("corpus.txt", "--steps", 90, "--eval-every", 2, "--dropout", 0.1, *SMALL)


def evaluations(folder) -> list[tuple[int, float]]:
    return [(row["step"], row["val_loss"]) for row in rows(Path(folder)) if row["val_loss"] is not None]


def test_a_run_ends_early_with_the_best_model_kept(train):
    result = train(*ARGS, "--patience", 3, "-o", "a")
    found = evaluations("a")
    best = min(found, key=lambda evaluation: evaluation[1])
    assert result.code == 0 and len(found) < 45 and found.index(best) == len(found) - 4
    assert "--patience: 3 evaluations without a better loss" in result.err
    assert f"best model: step {best[0]}, validation loss {best[1]:.4f}" in result.err and "; at the end " in result.err
    cards = [checkpoint.read(Path("a") / f"{name}.safetensors")[0]["card"] for name in ("best", "last")]
    assert [card["step"] for card in cards] == [best[0], found[-1][0]] and cards[1]["val_loss_of_all"] is not None
    whole = train(*ARGS, "-o", "b")
    assert "--patience" not in whole.err and evaluations("b")[:len(found)] == found and len(evaluations("b")) == 45


def test_a_greater_patience_goes_on_with_it(train):
    assert train(*ARGS, "--patience", 2, "-o", "a").code == 0
    ended = evaluations("a")
    for more in ((), ("--patience", 2), ("--patience", 1)):
        assert "a is finished" in train("--resume", "-o", "a", *more).err and evaluations("a") == ended
    assert train("--resume", "-o", "a", "--patience", 5).code == 0 and train(*ARGS, "--patience", 5, "-o", "b").code == 0
    assert len(ended) + 3 == len(evaluations("a")) and evaluations("a") == evaluations("b")
    a, b = (read_last(Path(folder))[1] for folder in "ab")
    assert all(np.array_equal(a[name], b[name]) for name in a)


def test_a_stop_does_not_reset_the_count(train):
    assert train(*ARGS, "--patience", 3, "-o", "whole").code == 0
    end = evaluations("whole")[-1][0]
    assert train(*ARGS, "--patience", 3, "-o", "parts", at=end - 1).code == 130
    assert train("--resume", "-o", "parts").code == 0 and evaluations("parts") == evaluations("whole")


def test_patience_without_evaluations_is_refused(train, tmp_path):
    assert "--patience needs evaluations" in refused(train(*ARGS, "--patience", 3, "--val", 0), 2)
    assert not (tmp_path / "runs").exists()
    assert train(*ARGS, "--val", 0, "-o", "a", at=4).code == 130
    assert "a has no validation part" in refused(train("--resume", "-o", "a", "--patience", 3), 2)
    for value in (0, -1, "two", 1.5):
        assert "patience" in refused(train(*ARGS, "--patience", value), 2)


def test_a_text_too_short_to_validate_on_still_trains_and_resumes(train, tmp_path):
    corpus(tmp_path, TEXT[:700])
    assert "too few to validate on" in train(*ARGS, "--patience", 1, "-o", "a", at=4).err
    assert train("--resume", "-o", "a").code == 0 and rows(Path("a"))[-1]["step"] == 90
