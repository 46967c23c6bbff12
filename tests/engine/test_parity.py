"""Parity in `rnncore bench` on a GPU, on a CPU: differences from float64, what is allowed, and errors planted in ours.

torch on the CPU stands in for torch on a card, the engine on the CPU for the engine on a card.
"""
import functools
import json
import math
import weakref

import numpy as np
import pytest
from card_helpers import WORK, options, swap_gates, task, torch_side

from rnncore.bench import attempt, card, ours, parity
from rnncore.bench.task import STEPS
from rnncore.cli import bench_table
from rnncore.model import CharLM

CLASSES = tuple(parity.TOLERANCES)
EXACT = np.linspace(3, 2, STEPS)  # losses that a faked float64 reference has


@pytest.fixture(autouse=True)
def short(monkeypatch):
    monkeypatch.setattr(attempt, "TURN", 1e-3)
    monkeypatch.setattr(ours, "DTYPES", dict.fromkeys(CLASSES, "float32") | {"float64": "float64"})


@pytest.fixture
def graphed():
    with torch_side() as module:
        yield module


def measure(baseline, precision: str = "bf16") -> dict:
    return card.measure("row", task(), precision, options(baseline is not None, rounds=1), ("eager",))


# Errors planted in ours

def change_sign(weights) -> None:
    weights["lstm.weight_hh_l0"][...] *= -1


def add_a_hundredth(weights) -> None:
    weights["lstm.weight_hh_l0"][...] *= 1.01


@functools.cache
def side(graphed, work: str, kind: str):
    """torch's, eager: made once for all tests."""
    return graphed.WORK[work](task(work), "cpu", kind, False)


def compared(graphed, work: str, precision: str, plant=None):
    """Our entry in a class after it was compared beside torch's, with an error planted in its weights."""
    def entry(made):
        return attempt.Attempt(result=made.result())

    with pytest.MonkeyPatch.context() as patch:
        assign = CharLM.assign

        def wrong(self, tensors):
            assign(self, tensors)
            plant(self.params)
        if plant:
            patch.setattr(CharLM, "assign", wrong)
        mine = entry(ours.WORK[work](task(work), "cpu", ours.DTYPES[precision], "eager"))
    theirs = {kind: entry(side(graphed, work, kind)) for kind in graphed.kinds(task(work), precision)}
    parity.compare({"eager": mine}, theirs, side(graphed, work, "float64"), parity.tolerance(task(work), precision))
    assert all(other.runs for other in theirs.values()), theirs
    return mine


@pytest.mark.parametrize("work, precision", [(work, precision) for k, work in enumerate(WORK) for precision in CLASSES[k % 3::3]])
def test_ours_has_parity_and_two_planted_errors_have_none_in_any_class(graphed, work, precision):
    """The errors are seen even where torch's kinds are as far off as any sane one may be."""
    assert compared(graphed, work, precision).runs
    for plant in (change_sign, swap_gates):
        mine = compared(graphed, work, precision, plant)
        assert not mine.runs and mine.difference > parity.TORCH_FACTOR * parity.tolerance(task(work), precision)


@pytest.mark.parametrize("work, precision", [("training", "float32"), ("forward", "float64"), ("forward and backward", "float32")])
def test_a_weight_that_is_a_hundredth_off_is_seen_in_full_precision(graphed, work, precision):
    assert not compared(graphed, work, precision, add_a_hundredth).runs


def test_in_writing_a_symbol_that_is_less_likely_in_float64_counts(graphed):
    """With odds of 1 : 2 : ... : 7, symbol 2 in place of symbol 6 is log(7 / 3) nats less likely."""
    writing = graphed.Writing(task("writing"), "cpu", "float64", False)
    writing.net.head.weight.data.zero_()
    writing.net.head.bias.data[:] = graphed.torch.log(graphed.torch.arange(1.0, 8.0))
    text = np.full((64, 3), 6)
    assert writing.difference(text) == 0
    text[40, 1] = 2
    assert math.isclose(writing.difference(text), math.log(7 / 3), rel_tol=1e-6)


# What is allowed

@pytest.fixture
def off(graphed, monkeypatch):
    """A function that sets how many nats the losses of ours and of torch's kinds are from the reference's."""
    def put(mine: float, **kinds: float):
        autocast, weights = kinds.get("autocast", 0.001), kinds.get("weights", 0.001)
        far = {graphed.KINDS["bf16 autocast"]: autocast, graphed.KINDS["bf16 weights"]: weights}
        monkeypatch.setattr(graphed.Training, "compute", lambda self: EXACT + far.get(self.kind, 0))
        monkeypatch.setattr(ours.Training, "result", lambda self: EXACT - mine)
    return put


def test_ours_may_be_as_far_from_float64_as_torch_s_farthest_kind(graphed, off):
    off(0.04, autocast=0.05)
    found = measure(graphed)
    assert found["ratio"] and found["verdict"] is None and found["tolerance"] == 0.02
    assert found["ours"]["eager"]["difference"] == pytest.approx(0.04)
    assert [entry["difference"] for entry in found["torch"].values()] == pytest.approx([0.05, 0.05, 0.001, 0.001])
    assert found["allowed"] == {"ours": pytest.approx(0.05), "torch": pytest.approx(0.1), "by": "bf16 autocast eager"}
    lines = bench_table.card_lines(found)
    assert "rnncore may be as far from float64 as torch bf16 autocast eager is" in lines
    assert "from float64  allowed" in lines[1]
    assert [line.split()[-3:-1] for line in lines[2:4]] == [["0.04", "0.05"], ["0.05", "0.1"]]


@pytest.mark.parametrize("mine, autocast", [(0.051, 0.05)])
def test_ours_that_is_farther_has_no_ratio(graphed, off, mine, autocast):
    off(mine, autocast=autocast)
    found = measure(graphed)
    assert found["ratio"] is None and found["verdict"] == "no parity" and found["chosen"] is None
    assert found["ours"]["eager"] == {"difference": pytest.approx(mine), "why_not": (
        f"no parity: {mine:.2g} from the float64 reference, at most {max(0.02, autocast):.2g} is allowed")}
    assert all("ms" in entry for entry in found["torch"].values())


@pytest.mark.parametrize("broken", [0.11])
def test_a_broken_kind_of_torch_s_is_not_timed_and_allows_ours_nothing(graphed, off, broken):
    off(0.04, autocast=broken)
    found = measure(graphed)
    assert found["verdict"] == "no parity" and found["allowed"] == {"ours": 0.02, "torch": 0.1, "by": None}
    assert [name for name, entry in found["torch"].items() if "ms" in entry] == [
        "bf16 weights eager", "bf16 weights graphed"]
    json.dumps(found, allow_nan=False)
    off(0.01, autocast=broken)
    found = measure(graphed)
    assert found["ratio"] and found["against"].startswith("bf16 weights")
    assert found["verdict"] == "without torch bf16 autocast eager, bf16 autocast graphed, not timed"
    assert any(line.startswith("torch bf16 autocast eager: not timed (no parity: ") for line in bench_table.card_lines(found))


def test_where_all_of_torch_s_are_broken_ours_is_timed_without_a_ratio(graphed, off):
    off(0.01, autocast=5.0, weights=math.nan)
    found = measure(graphed)
    assert found["ratio"] is None and found["ours"]["eager"]["ms"] > 0 and found["against"] is None
    assert found["verdict"].startswith("nothing of torch's was timed: bf16 autocast eager: no parity: 5 from")


# The reference

def test_the_reference_is_made_first_in_float64_and_is_gone_before_the_turns(graphed, monkeypatch):
    made, real, turns = [], graphed.Training.__init__, card.turns

    def note(self, task, device, *how):
        made.append((how, weakref.ref(self)))
        real(self, task, device, *how)

    def late(timed, how):
        assert made[0][1]() is None and len(timed) == 3
        return turns(timed, how)
    monkeypatch.setattr(graphed.Training, "__init__", note)
    monkeypatch.setattr(card, "turns", late)
    found = measure(graphed, "float32")
    assert [how for how, _ in made] == [("float64", False), ("float32", False), ("float32", True)]
    assert found["reference"]["kind"] == "torch float64 eager" and found["reference"]["ready_s"] > 0
    assert list(found["torch"]) == ["float32 eager", "float32 graphed"] and found["ratio"]


def test_without_a_reference_all_are_timed_and_there_is_no_ratio(graphed, monkeypatch):
    real = graphed.Training.__init__

    def fails(self, task, device, kind, late):
        if kind == "float64":
            raise MemoryError("CUDA out of memory")
        real(self, task, device, kind, late)
    monkeypatch.setattr(graphed.Training, "__init__", fails)
    found = measure(graphed, "float32")
    words = "the float64 reference could not run: MemoryError: CUDA out of memory"
    assert found["ratio"] is None and found["verdict"] == words and found["allowed"] is None
    assert found["reference"] == {"kind": "torch float64 eager", "why_not": "MemoryError: CUDA out of memory"}
    for entry in (found["ours"]["eager"], *found["torch"].values()):
        assert entry["ms"] > 0 and "difference" not in entry
    assert bench_table.card_lines(found)[-1] == f"no ratio: {words}"
    json.dumps(found, allow_nan=False)


def test_a_result_that_cannot_be_compared_is_not_timed(graphed, monkeypatch):
    monkeypatch.setattr(ours.Training, "result", lambda self: EXACT[:5])
    found = measure(graphed, "float32")
    assert found["ours"]["eager"]["why_not"].startswith("not compared with the float64 reference: ValueError: ")
    assert found["verdict"].startswith("nothing of ours ran: eager: not compared") and found["ratio"] is None


def test_without_torch_nothing_is_compared():
    found = measure(None)
    assert found["reference"] is None and found["allowed"] is None and "difference" not in found["ours"]["eager"]
    assert found["ours"]["eager"]["ms"] > 0
