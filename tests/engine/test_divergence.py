"""Divergence in finite numbers: exit 3 and the rate to try, never "train for longer"; and where that is right, how."""

import math
import shlex

import pytest
from cli_helpers import SMALL, TEXT, call, corpus, read_last, rows, stoppable
from test_train import IDS, LEARNABLE, training

import rnncore
from rnncore import ModelConfig, TrainConfig, plan
from rnncore.cli import ending
from rnncore.divergence import KEPT, MARGIN, Course, diverged
from rnncore.measure import ngram
from rnncore.runs import checkpoint
from rnncore.runs.folder import Path

ODDS = math.log(65)


def course(*losses: float, chars: int = 100) -> Course:
    found = Course()
    for loss in losses:
        found.add(loss, chars)
    return found


@pytest.mark.parametrize(
    "losses, last, found",
    [
        ([4.17, 60.0, 150.0], 149.9, True),  # at a rate far too high
        ([4.17], 149.9, True),  # after one step
        ([4.17], 4.2, False),  # a healthy run of one step, and of two
        ([4.17, 4.3], 4.4, False),
        ([9.0, 8.0, 7.0], 8.5, False),  # fine-tuning on a strange text: above equal odds, below its beginning
        ([9.0], 9.3, False),  # the validation part is a little stranger still
        ([9.0, 12.0, 15.0], 15.0, True),
        ([2.0], 9.0, False),  # one step and two of fine-tuning, where the validation part is of another kind
        ([2.0, 2.1], 9.0, False),
        ([2.0, 30.0], 90.0, True),
        ([4.17, 2.0, 0.5, 0.1], 9.0, False),  # learned by heart, or the validation text is of another kind
        ([4.17, 5.0, 6.0], 4.6, False),  # not above equal odds by more than MARGIN
        ([], 9.0, False),  # how it began is not known
        ([4.17, 9.0], None, False),
    ],
)
def test_what_is_a_divergence(losses, last, found):
    assert diverged(course(*losses), 65, last) is found


def test_the_margin_counts_from_the_worse_of_equal_odds_and_the_beginning():
    for first, edge in ((1.0, ODDS + MARGIN), (7.0, 7.0 + MARGIN)):
        bad = Course(first, first + MARGIN, 1.0)
        assert not diverged(bad, 65, edge) and diverged(bad, 65, math.nextafter(edge, 99))
    older = Course(first=4.0)  # of a run from before the recent loss was kept
    assert diverged(older, 65, 9.0) and not diverged(older, 65, 4.1)


def test_a_course_is_a_mean_over_recent_steps_by_their_characters():
    found = course(4.0, 2.0, math.nan, math.inf, 1.0)
    weights = [KEPT**2, KEPT, 1]
    assert found.first == 4.0
    assert found.recent == pytest.approx(sum(map(math.prod, zip(weights, (4, 2, 1), strict=True))) / sum(weights))
    one = course(2.0, 2.0)
    one.add(20.0, 1)  # the last window of an epoch may be one character, and that a rare one
    assert one.recent < 2.1
    assert course(*[100.0] * 5, *[1.0] * 60).recent < 2.2


def test_a_training_keeps_its_course_through_a_stop_and_begins_it_anew_with_another_text():
    whole, parts = training(LEARNABLE), training(LEARNABLE)
    first = next(iter(whole)).loss
    list(whole)
    iterator = iter(parts)
    for _ in range(7):
        next(iterator)
    other = training(LEARNABLE)
    other.model.params.flat[...] = parts.model.params.flat
    other.restore(
        parts.summary(), {name: moment.copy() for name, moment in parts.optimizer.moments.items()}, parts.state
    )
    list(other)
    assert other.course == whole.course and whole.course.first == first > whole.course.recent
    other.another_text()
    assert other.course == Course()


@pytest.mark.parametrize(
    "config, tuned, factor, rate",
    [
        ({"lr": 100.0}, False, 1.0, 0.03),
        ({"lr": 100.0}, False, 1 / 8, 0.03),
        ({"lr": 100.0}, True, 1.0, 0.009),
        ({"lr": 0.03}, False, 1.0, 0.01),
        ({"lr": 0.03}, False, 0.5, 0.005),
        ({"lr": 1.0, "optimizer": "adam"}, False, 1.0, 0.01),
    ],
)
def test_the_rate_to_try_is_the_usual_one_or_a_third(config, tuned, factor, rate):
    assert plan.lower_rate(TrainConfig(**config), ModelConfig(65), tuned, factor) == pytest.approx(rate)


# From the command line


@pytest.fixture
def train(capsys, monkeypatch, tmp_path):
    """`rnncore train ARGS` with small settings in tmp_path; `at` stops it after that step, as Ctrl-C does."""
    corpus(tmp_path)
    monkeypatch.chdir(tmp_path)
    command = stoppable(capsys, monkeypatch)
    return lambda *args, at=None: command(*args, *(() if "--resume" in args else SMALL), at=at)


def verdict(result) -> str:
    """The last line of a run that has diverged."""
    assert (
        result.code == 3
        and "longer" not in result.err
        and "Traceback" not in result.err
        and "by heart" not in result.err
    )
    line = result.err.strip().splitlines()[-1]
    assert line.startswith("rnncore: ") and "diverged: its " in line
    return line


@pytest.mark.parametrize(
    "args, kind",
    [
        (("--steps", 40), "validation"),
        (("--minutes", 0.002), "validation"),
        (("--steps", 40, "--val", 0), "training"),
        (("--steps", 1), "validation"),
        (("--steps", 40, "--patience", 2, "--documents", "lines"), "validation"),
    ],
)
def test_a_rate_far_too_high_ends_with_3_and_the_rate_to_try(train, args, kind):
    result = train("corpus.txt", *args, "--lr", 100, "-o", "a")
    line = verdict(result)
    assert f"its {kind} loss at the end is " in line and "start again with --lr 0.03 (it had 100" in line
    assert "equal odds for all " in line and read_last(Path("a"))[0]["training"]["progress"]["step"] > 0


def test_it_is_said_again_where_the_finished_run_is_taken_up(train):
    for name, args in (("a", ()), ("b", ("--val", 0))):
        line = verdict(train("corpus.txt", "--steps", 30, "--lr", 100, *args, "-o", name))
        assert verdict(train("--resume", "-o", name)) == line.replace("the run", f"{name} is finished: the run", 1)
        result = train("--resume", "-o", name, "--lr", 0.01)  # which wants a larger budget
        assert result.code == 0 and f"`rnncore train --lr 0.01 --resume -o {name} --steps 60`" in result.err


def test_after_a_stop_and_from_before_the_beginning_was_kept(train):
    args = ("corpus.txt", "--steps", 30, "--lr", 100)
    assert train(*args, "-o", "a", at=20).code == 130
    document, tensors = read_last(Path("a"))
    began = document["training"]["progress"].pop("course")["first"]
    extra = {name: tensor for name, tensor in tensors.items() if name.startswith(("optimizer.", "state."))}
    checkpoint.save(
        checkpoint.to_model(document, tensors, "cpu"),
        Path("a/last.safetensors"),
        document["card"],
        extra,
        document["training"],
    )
    assert f"than its beginning ({began:.4f})" in verdict(train("--resume", "-o", "a"))
    assert rows(Path("a"))[0]["loss"] == began


def test_what_is_no_divergence(train, tmp_path):
    for name, args in (
        ("one", ("--steps", 1)),
        ("two", ("--steps", 2)),
        ("none", ("--steps", 2, "--val", 0)),
        ("windows", ("--steps", 30, "--val", 0, "--batch", 1, "--seq", 1)),
    ):
        assert train("corpus.txt", *args, "-o", name).code == 0
    corpus(tmp_path, "".join(map(chr, range(33, 127))) * 30, "strange.txt")
    assert train("corpus.txt", "--steps", 200, "--dropout", 0, "-o", "base").code == 0
    result = train("strange.txt", "--init-from", "base", "--extend-vocab", "--steps", 2, "-o", "tuned", "--layers", 1)
    assert result.code == 0 and rows(Path("tuned"))[0]["loss"] > math.log(len(rnncore.load("tuned", "cpu").vocab))
    corpus(tmp_path, TEXT[:5400] + "XYZ" * 200, "other-tail.txt")
    result = train("other-tail.txt", "--steps", 120, "--dropout", 0, "-o", "tail")
    assert result.code == 0 and rows(Path("tail"))[-1]["val_loss"] > 4  # equal odds are 3.1
    for steps in (1, 2):
        tuned = ("--init-from", "base", "--extend-vocab", "--steps", steps, "-o", f"tail-{steps}")
        assert train("other-tail.txt", *tuned).code == 0 and rows(Path(f"tail-{steps}"))[-1]["val_loss"] > 4


def test_losses_of_any_size_are_those_of_a_file_that_is_read(train, capsys):
    assert "--lr 0.03" in verdict(train("corpus.txt", "--steps", 1, "--lr", 1e19, "-o", "a"))
    assert rows(Path("a"))[-1]["val_loss"] > 2**63
    assert call(capsys, "info", "a", "--verify").code == 0 and verdict(train("--resume", "-o", "a"))


def test_numbers_that_are_not_finite_name_a_rate_too(train):
    result = train("corpus.txt", "--steps", 40, "--lr", 1e38)
    line = result.err.strip().splitlines()[-1]
    assert result.code == 3 and ": start again with --lr 0.03 (it had 1e+38" in line


# A longer run


@pytest.fixture
def worse(monkeypatch):
    """Counting that is better than any model."""
    monkeypatch.setattr(ngram, "baseline", lambda *args, **kwargs: ngram.Baseline(3, 0.1, {3: 0.1}, 9))


def longer(result) -> list[str]:
    """The words of the command that is printed where a longer run is the right advice."""
    line = next(
        line for line in result.err.splitlines() if line.startswith("warning: the model is worse than the n-gram baseline")
    )
    assert result.code == 0 and line.count("`") == 2 and "train it for longer: `rnncore train --resume -o " in line
    return shlex.split(line.split("`")[1])[1:]


@pytest.mark.parametrize(
    "budget, doubled",
    [
        (("--steps", 4), ["--steps", "8"]),
        (("--epochs", 0.25), ["--epochs", "0.516"]),
        (("--minutes", 0.005), ["--minutes", None]),
    ],
)
def test_the_whole_command_is_printed_and_runs_as_it_stands(train, worse, capsys, monkeypatch, budget, doubled):
    monkeypatch.setattr(ending, "LATE", 0.0)  # in a fixed time a quick machine learns so small a text by heart
    words = longer(train("corpus.txt", *budget, "-o", "my runs/it's"))
    assert words[:4] == ["train", "--resume", "-o", "my runs/it's"] and words[4] == doubled[0]
    assert float(words[5]) >= 2 * budget[1] if doubled[1] is None else words[5] == doubled[1]
    before = rows(Path("my runs/it's"))[-1]
    assert call(capsys, *words).code == 0
    after = rows(Path("my runs/it's"))[-1]
    assert after["step"] > before["step"] and after["step"] == 8 or budget[0] != "--steps"


def test_patience_that_was_spent_is_part_of_the_command(train, worse, capsys, monkeypatch):
    monkeypatch.setattr(ending, "LATE", 0.0)
    words = longer(train("corpus.txt", "--steps", 40, "--eval-every", 1, "--patience", 1, "--lr", 0.2, "-o", "a"))
    assert words[-2:] == ["--patience", "2"] and "--steps" not in words
    step = rows(Path("a"))[-1]["step"]
    assert call(capsys, *words).code == 0 and rows(Path("a"))[-1]["step"] > step


def test_a_rate_that_was_far_too_high_is_no_reason_for_a_longer_run(train, worse):
    result = train("corpus.txt", "--steps", 3, "--lr", 1, "-o", "a")
    line = next(line for line in result.err.splitlines() if line.startswith("warning: the model is worse"))
    assert "the rate was too high; start again with --lr 0.03 (it had 1)" in line and "longer" not in line


def test_a_finished_run_names_the_command_that_goes_on_with_it(train, capsys, tmp_path):
    assert train("corpus.txt", "--steps", 4, "-o", "a").code == 0
    corpus(tmp_path, name="moved.txt")
    for typed in (
        (),
        ("moved.txt", "--lr", 0.01, "--threads", "auto", "--no-tensorboard", "--device", "cpu"),
        ("--steps", 2),
    ):
        result = train(*typed, "--resume", "-o", "a")
        assert result.code == 0 and "a is finished" in result.err
        words = shlex.split(result.err.split("`")[1])[1:]
        assert words[-2:] == ["--steps", "8"] and words[-5:-2] == ["--resume", "-o", "a"]
    assert train("moved.txt", "--lr", 0.01, "--resume", "-o", "a", "--device", "cpu").err.endswith(
        "a is finished, and --lr 0.01 needs a larger budget too: `rnncore train moved.txt --lr 0.01 --device cpu "
        "--resume -o a --steps 8` goes on with it\n"
    )
    assert call(capsys, *words).code == 0 and rows(Path("a"))[-1]["step"] == 8


def test_in_a_training_of_ones_own_the_same_is_asked(tmp_path):
    run = training(validation=IDS, lr=50.0, steps=40)
    list(run)
    assert run.diverged() and run.last_loss() == ("validation", run.final_loss)
    run = training(LEARNABLE, lr=0.05, steps=40)
    list(run)
    assert not run.diverged() and run.last_loss() == ("training", run.course.recent)
