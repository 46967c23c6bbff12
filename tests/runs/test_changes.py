"""A run that goes on with another rate, dropout or number of threads: recorded, shown, and gone on with."""

import json

import numpy as np
import pytest
from cli_helpers import SMALL, call, corpus, files, read_last, refused, rows, stoppable
from damage import changed, sealed

from rnncore import plan
from rnncore.runs import checkpoint, folder as runs
from rnncore.runs.folder import Path

BEFORE = {"--lr": 0.02, "--dropout": 0.1, "--weight-drop": 0.1, "--threads": 1}
AFTER = {"--lr": 0.005, "--dropout": 0.4, "--weight-drop": 0.0, "--threads": 2}


@pytest.fixture
def train(capsys, monkeypatch, tmp_path):
    """`rnncore train ARGS` in tmp_path, where corpus.txt is; `at` stops it after that step, as Ctrl-C does."""
    corpus(tmp_path)
    monkeypatch.chdir(tmp_path)
    command = stoppable(capsys, monkeypatch)
    new = ("corpus.txt", "--steps", 40, *SMALL)
    return lambda *args, at=None: command(*(() if "--resume" in args else new), *args, at=at)


def words(options: dict) -> list:
    return [word for pair in options.items() for word in pair]


def card(folder: str) -> dict:
    return read_last(Path(folder))[0]["card"]


def config(folder: str) -> dict:
    return read_last(Path(folder))[0]["training"]["config"]


def recorded(folder: str) -> dict:
    """The changes in the rows of metrics.jsonl, by step."""
    return {row["step"]: row["changed"] for row in rows(Path(folder)) if "changed" in row}


@pytest.mark.parametrize("option", ["--lr", "--dropout", "--threads"])
def test_each_may_be_another_and_is_recorded_and_gone_on_with(train, capsys, option):
    name, (before, after) = option[2:].replace("-", "_"), (BEFORE[option], AFTER[option])
    assert train(*words(BEFORE), "-o", "a", at=10).code == train(*words(BEFORE), "-o", "b", at=10).code == 130
    result = train("--resume", "-o", "a", option, after, at=20)
    assert result.code == 130 and f"changed after step 10: {option[2:]} {before:g} to {after:g}; " in result.err
    change = {"step": 10, name: [before, after]}
    assert card("a")["changes"] == [change] and recorded("a") == {11: {name: [before, after]}}
    assert config("a") | {name: before} == config("b") and config("a")[name] == after
    result = train("--resume", "-o", "a")  # without the option it goes on as it is now
    assert result.code == 0 and "changed" not in result.err and config("a")[name] == after
    assert card("a")["changes"] == [change] and card("a")["step"] == 40
    last = "a/last.safetensors"
    assert f"changed     after step 10: {option[2:]} {before:g} to {after:g}\n" in call(capsys, "info", last).out
    assert json.loads(call(capsys, "info", last, "--json").out)["card"]["changes"] == [change]
    assert call(capsys, "info", "--verify", "a").code == 0
    assert train("--resume", "-o", "b").code == 0
    a, b = (read_last(Path(folder))[1]["head.weight"] for folder in "ab")
    assert np.array_equal(a, b) is False
    assert card("b")["changes"] == [] and recorded("b") == {}


def test_several_at_once_and_one_after_the_other(train):
    assert train(*words(BEFORE), "-o", "a", at=5).code == 130
    assert train("--resume", "-o", "a", *words(AFTER), at=9).code == 130
    assert train("--resume", "-o", "a", "--lr", 0.01, at=12).code == 130
    assert train("--resume", "-o", "a", *words(BEFORE)).code == 0
    first, second, third = card("a")["changes"]
    assert first == {
        "step": 5,
        "lr": [0.02, 0.005],
        "dropout": [0.1, 0.4],
        "weight_drop": [0.1, 0.0],
        "threads": [1, 2],
    }
    assert second == {"step": 9, "lr": [0.005, 0.01]} and third["lr"] == [0.01, 0.02] and third["threads"] == [2, 1]
    assert list(recorded("a")) == [6, 10, 13]


def test_the_same_value_is_no_change_and_the_same_bits(train):
    assert train(*words(BEFORE), "-o", "whole").code == 0
    assert train(*words(BEFORE), "-o", "parts", at=20).code == 130
    result = train("--resume", "-o", "parts", *words(BEFORE))
    assert result.code == 0 and "changed" not in result.err and card("parts")["changes"] == []
    (_, a), (_, b) = (read_last(Path(folder)) for folder in ("whole", "parts"))
    assert all(np.array_equal(a[name], b[name]) for name in a)


def test_it_is_the_peak_rate_and_the_schedule_goes_on_where_it_is(train):
    """At step 20 of 40 the rate is half of what the peak's would be; so it is with the new peak."""
    assert train("--lr", 0.02, "--warmup", 0, "-o", "a", at=20).code == 130
    assert train("--resume", "-o", "a", "--lr", 0.008).code == 0
    table = {row["step"]: row["lr"] for row in rows(Path("a"))}
    assert table[20] == pytest.approx(0.02 * 20.5 / 40) and table[21] == pytest.approx(0.008 * 19.5 / 40)
    assert table[40] == pytest.approx(0.008 * 0.5 / 40)


def test_halvings_of_before_are_forgotten_with_another_rate_alone(train):
    assert train("--lr", 100, "-o", "a", at=20).code == 130
    halved = read_last(Path("a"))[0]["training"]["progress"]["recovery"]
    assert halved["rate"] < 1
    assert train("--resume", "-o", "a", "--dropout", 0.2, at=22).code == 130
    assert train("--resume", "-o", "a", "--lr", 100, at=23).code == 130  # which it has
    assert read_last(Path("a"))[0]["training"]["progress"]["recovery"]["rate"] == halved["rate"]
    assert train("--resume", "-o", "a", "--lr", 0.01, at=25).code == 130
    after = read_last(Path("a"))[0]["training"]["progress"]["recovery"]
    assert after["rate"] == 1.0 and after["returned"] is False and rows(Path("a"))[-1]["lr"] < 0.01


def test_a_finished_run_wants_a_larger_budget_too(train):
    assert train("--steps", 6, "-o", "a").code == 0
    before = files(Path("a"))
    result = train("--resume", "-o", "a", "--lr", 0.01, "--weight-drop", 0.2)
    assert result.code == 0 and "changed" not in result.err
    assert "a is finished, and --lr 0.01 --weight-drop 0.2 needs a larger budget too: `rnncore train " in result.err
    after = files(Path("a"))
    assert all(after[name] == before[name] for name in ("best.safetensors", "last.safetensors")) and recorded("a") == {}
    assert train("--resume", "-o", "a", "--lr", 0.01, "--steps", 9).code == 0
    assert [change["step"] for change in card("a")["changes"]] == [6] and card("a")["step"] == 9


@pytest.mark.parametrize(
    "option, value",
    [
        ("--lr", 0),
        ("--lr", "nan"),
        ("--lr", -1),
        ("--lr", "inf"),
        ("--dropout", 1),
        ("--dropout", -0.1),
        ("--weight-drop", "nan"),
        ("--threads", 0),
    ],
)
def test_out_of_their_range_they_are_refused_as_ever(train, tmp_path, option, value):
    assert train("-o", "a", at=3).code == 130
    before = files(tmp_path)
    assert option[2:].replace("-", "_") in refused(train("--resume", "-o", "a", option, value), 2).replace("-", "_")
    assert files(tmp_path) == before


def test_threads_auto_after_auto_stay_and_after_a_number_are_chosen(train, monkeypatch):
    monkeypatch.setattr(plan, "threads", lambda config, cores: config.threads or 3)
    assert train("--threads", "auto", "-o", "a", at=3).code == 130 and config("a")["threads"] == 3
    monkeypatch.setattr(plan, "threads", lambda config, cores: config.threads or 4)  # a machine with more cores
    assert train("--resume", "-o", "a", "--threads", "auto", at=5).code == 130 and config("a")["threads"] == 3
    assert train("--resume", "-o", "a", "--threads", 1, at=7).code == 130 and config("a")["threads"] == 1
    assert train("--resume", "-o", "a", "--threads", "auto").code == 0 and config("a")["threads"] == 4
    assert [change["threads"] for change in card("a")["changes"]] == [[3, 1], [1, 4]]


def test_a_kill_before_the_next_save_leaves_no_trace_of_a_change(train, tmp_path):
    assert train("-o", "a", at=3).code == 130
    last = (tmp_path / "a/last.safetensors").read_bytes()
    assert train("--resume", "-o", "a", "--lr", 0.5, at=6).code == 130 and list(recorded("a")) == [4]
    (tmp_path / "a/last.safetensors").write_bytes(last)  # as it was before the save
    assert train("--resume", "-o", "a", at=5).code == 130 and recorded("a") == {} and card("a")["changes"] == []


def test_a_row_that_could_not_be_written_leaves_the_change_to_the_next(train, monkeypatch):
    assert train("-o", "a", at=3).code == 130
    append, full = runs.append, [True]

    def now_and_then(path, data):
        if full.pop() if full else False:
            raise OSError(28, "No space left on device")
        append(path, data)

    monkeypatch.setattr(runs, "append", now_and_then)
    assert train("--resume", "-o", "a", "--lr", 0.5, "--sample-every", 1000).code == 0
    assert list(recorded("a").values()) == [{"lr": [0.03, 0.5]}]


def test_a_change_that_was_made_by_hand_is_shown_without_harm(train, capsys):
    assert train("-o", "a", at=3).code == 130
    document, tensors = checkpoint.read(Path("a/last.safetensors"))
    document = changed(document, ("card", "changes"), [{"step": 2, "a\x1b[2J\n": [1, 2.5]}])
    Path("b.safetensors").write_bytes(sealed(document, tensors))
    assert "changed     after step 2: a\ufffd[2J  1 to 2.5\n" in call(capsys, "info", "b.safetensors").out
    for wrong in ({"step": 2, "lr": 0.1}, {"lr": [0.1, 0.2]}, [], "x", {"step": 2, "lr": ["a", "b"]}):
        Path("b.safetensors").write_bytes(sealed(changed(document, ("card", "changes"), [wrong]), tensors))
        result = call(capsys, "info", "b.safetensors")  # a card that no run made
        assert result.code == 0 and "changed" not in result.out


# What may not be another


def test_no_report_is_remembered_and_may_be_taken_back(train, monkeypatch, tmp_path):
    made = []
    monkeypatch.setattr("rnncore.cli.report.after", lambda job, *_: made.append(job.folder.path.name))
    monkeypatch.delenv("RNNCORE_NO_REPORT")

    def reports(*args) -> bool:
        made.clear()
        assert train(*args).code == 0
        return bool(made)

    assert reports("--steps", 1, "-o", "plain") and reports("--resume", "-o", "plain", "--steps", 2)
    assert not reports("--steps", 1, "--no-report", "-o", "a") and not reports("--resume", "-o", "a", "--steps", 2)
    assert reports("--resume", "-o", "a", "--steps", 3, "--report") and reports("--resume", "-o", "a", "--steps", 4)
    assert not reports("--resume", "-o", "a", "--steps", 5, "--no-report") and not reports(
        "--resume", "-o", "a", "--steps", 6
    )
    monkeypatch.setenv("RNNCORE_NO_REPORT", "1")
    assert not reports("--steps", 1, "-o", "b") and reports("--resume", "-o", "b", "--steps", 2, "--report")
    assert not reports("--resume", "-o", "b", "--steps", 3)
    monkeypatch.delenv("RNNCORE_NO_REPORT")
    assert reports("--resume", "-o", "b", "--steps", 4)  # the environment is not the run's
    for value, wanted in (("0", True), ("", True), ("no", True), ("yes", False), ("true", False)):
        monkeypatch.setenv("RNNCORE_NO_REPORT", value)
        assert reports("--steps", 1, "-o", f"v{value}") is wanted
    monkeypatch.setenv("RNNCORE_NO_REPORT", "maybe")
    line = refused(train("--steps", 1, "-o", "c"), 2)
    assert "RNNCORE_NO_REPORT=maybe" in line and "take 1 or 0" in line and not (tmp_path / "c").exists()
