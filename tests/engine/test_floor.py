"""The floor in `rnncore train`: what counting alone reaches, printed first, kept with the run, and said where it wins."""
import time

import numpy as np
import pytest
from cli_helpers import SMALL, TEXT, call, corpus, read_last, rows
from test_train import IDS, training

from rnncore import Vocab
from rnncore.runs import prepare, setup
from rnncore.cli.ending import verdict
from rnncore.measure import ngram
from rnncore.runs import checkpoint
from rnncore.runs.folder import Path, RunFolder

REAL = ngram.baseline


@pytest.fixture
def train(capsys, monkeypatch, tmp_path):
    """`rnncore train ARGS` with small settings, in tmp_path, where corpus.txt is."""
    corpus(tmp_path)
    monkeypatch.chdir(tmp_path)
    return lambda *args: call(capsys, "train", *(() if "--resume" in args else SMALL), *args)


def reaching(nats: float, seconds: float = 0.0, seen: list | None = None):
    """A stand-in for ngram.baseline that takes this long and notes what it is asked."""
    def floor(train, validation, vocab_size, most=None, **others):
        time.sleep(seconds)
        if seen is not None:
            seen.append((len(train), len(validation), vocab_size, most))
        return ngram.Baseline(3, nats, {3: nats}, min(len(train), most))
    return floor


def kept(folder, name="last") -> tuple[dict | None, dict]:
    """(the floor in the card, the card)."""
    card = checkpoint.read(Path(folder) / f"{name}.safetensors")[0]["card"]
    return card["floor"], card


def test_it_is_printed_before_training_and_kept_in_card_and_settings(train):
    result = train("corpus.txt", "--steps", 2, "-o", "a")
    ids, begin = Vocab.from_text(TEXT).encode(TEXT), len(TEXT) * 9 // 10
    wanted = REAL(ids[:begin], ids[begin:], len(set(TEXT)))
    line = f"n-gram baseline: {wanted.nats:.4f} nats/char (context: the last {wanted.order} characters)"
    assert line in result.err.splitlines() and result.err.index(line) < result.err.index("step ")
    floor = {"nats": wanted.nats, "order": wanted.order, "counted": begin}
    assert kept("a")[0] == kept("a", "best")[0] == read_last(Path("a"))[0]["training"]["settings"]["floor"] == floor


def test_it_says_where_it_counted_a_part_alone(train, monkeypatch):
    monkeypatch.setattr(ngram, "MOST", 1000)
    result = train("corpus.txt", "--steps", 1, "-o", "a")
    assert " characters, counted on the first 1,000 characters)" in result.err and kept("a")[0]["counted"] == 1000


@pytest.mark.parametrize("args", [("--val", 0), ("--val", 0.01)], ids=["none", "too-little"])
def test_there_is_none_without_a_validation_part(train, monkeypatch, args):
    seen = []
    monkeypatch.setattr(ngram, "baseline", reaching(1.0, seen=seen))
    result = train("corpus.txt", "--steps", 1, *args, "-o", "a")
    assert result.code == 0 and "baseline" not in result.err and kept("a")[0] is None and not seen
    assert kept("a")[1]["no_floor"] == "no validation text"
    assert "floor" not in read_last(Path("a"))[0]["training"]["settings"]


def test_a_model_that_is_worse_is_told_so_and_a_better_one_is_not(train, monkeypatch):
    for folder, nats in (("worse", 0.25), ("better", 9.0)):
        monkeypatch.setattr(ngram, "baseline", reaching(nats))
        result = train("corpus.txt", "--steps", 2, "-o", folder)
        warnings = [line for line in result.err.splitlines() if line.startswith("warning")]
        assert result.code == 0 and len(warnings) == (folder == "worse")
    monkeypatch.setattr(ngram, "baseline", None)  # a resumed run does not count again
    result = train("--resume", "--steps", 4, "-o", "worse")
    assert result.code == 0 and kept("worse")[0]["nats"] == 0.25
    assert "warning: the model is worse than the n-gram baseline, 0.2500: train it for longer" in result.err


@pytest.mark.parametrize("step, sample, whole, warned", [
    (7, 2.0, 1.5, "longer"), (7, 1.0, 1.5, "longer"), (7, 2.0, 1.3, None), (7, 1.5, None, "longer"), (7, 1.3, None, None),
    (7, 1.4, 1.4, None), (6, 1.0, 1.5, None), (6, 1.5, 1.0, "longer"), (2, 1.5, 2.0, "by heart"), (2, 1.3, 2.0, None)])
def test_the_model_that_is_kept_is_what_counts_and_the_cure_fits(step, sample, whole, warned):
    run = training(validation=IDS, steps=7)
    run.step, run.best, run.final_loss, run.final_windows = 7, (sample, step), whole, 1
    corpus = {"sources": ["corpus.txt"]}
    assert len(verdict(setup.Run(run, RunFolder(Path("a b"), {"corpus": corpus}), []))) == 1
    _, *warnings = verdict(setup.Run(run, RunFolder(Path("a b"), {"corpus": corpus, "floor": {"nats": 1.4}}), []))
    assert len(warnings) == (warned is not None) and all(warned in line for line in warnings)
    assert all(("`rnncore train --resume -o 'a b' --steps 14`" in line) == (warned == "longer") for line in warnings)


# Its time

def test_its_time_is_the_runs(train, monkeypatch):
    """A second of counting in a budget of 1.8: all rows come later, and the budget holds."""
    monkeypatch.setattr(ngram, "baseline", reaching(1.0, seconds=1.0))
    assert train("corpus.txt", "--minutes", 0.03, "-o", "a").code == 0
    table = rows(Path("a"))
    assert table[0]["seconds"] > 1 and 1.6 < table[-1]["seconds"] < 2.6 and kept("a")[1]["seconds"] > 1.6
    assert train("corpus.txt", "--steps", 2, "-o", "b").code == 0 and rows(Path("b"))[0]["seconds"] > 1
    assert train("--resume", "--steps", 4, "-o", "b").code == 0 and rows(Path("b"))[-1]["seconds"] > 1


@pytest.mark.parametrize("minutes, most", [(1.0, 3_000_000 - 100), (0.01, 30_000 - 100), (10.0, ngram.MOST),
                                           (None, ngram.MOST)])
def test_it_takes_a_tenth_of_the_minutes_at_most(monkeypatch, minutes, most):
    seen, parts = [], [np.zeros(9, np.uint8), np.zeros(100, np.uint8)]
    monkeypatch.setattr(ngram, "baseline", reaching(1.0, 0.05, seen))
    floor = prepare.count(parts, 4, minutes)
    assert seen == [(9, 100, 4, most)] and floor.nats == 1.0
    assert most + 100 <= ngram.CHARACTERS_PER_SECOND * 6 * (minutes or 100)


@pytest.mark.parametrize("minutes, sizes", [(100 / 3e6, (9, 50, 4, 50)), (None, (9, 100, 4, 1000))])
def test_a_long_validation_text_is_counted_in_part(monkeypatch, minutes, sizes):
    seen = []
    monkeypatch.setattr(ngram, "baseline", reaching(1.0, seen=seen))
    monkeypatch.setattr(ngram, "MOST", 1000)
    prepare.count([np.zeros(9, np.uint8), np.zeros(100, np.uint8)], 4, minutes)
    assert seen == [sizes]


def test_nothing_is_counted_where_the_minutes_are_too_few(monkeypatch):
    monkeypatch.setattr(ngram, "baseline", None)
    parts = [np.zeros(9, np.uint8), np.zeros(100, np.uint8)]
    for minutes in (1e-9, 1 / 3.1e6):
        assert prepare.count(parts, 4, minutes) is None
    assert prepare.count([parts[0], parts[1][:0]], 4, 1.0) is None
