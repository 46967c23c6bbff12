"""`rnncore bench` on a GPU, on a CPU: both sides' work, parity before time, rows that say why; no time is tested.

The engine on the CPU stands in for the card, torch on the CPU for torch on a card, the wall's clock for events.
"""
import json
import types

import cupy_stand_in
import numpy as np
import pytest
from card_helpers import WORK, options, task, torch_side
from cli_helpers import call, refused

from rnncore import kernels
from rnncore.bench import attempt, card, ours, speed
from rnncore.bench.task import STEPS
from rnncore.cli import bench, bench_table
from rnncore.config import BENCH_CARD
from rnncore.kernels.cpu import native, ops as cpu
from rnncore.model import CharLM

NO_GPU = kernels.why_no_cuda()
HALF = {"bf16": "float32", "tf32": "float32", "fp16": "float32"}  # a CPU of ours multiplies in full


@pytest.fixture(autouse=True)
def short(monkeypatch):
    monkeypatch.setattr(attempt, "TURN", 1e-3)
    monkeypatch.setattr(ours, "DTYPES", ours.DTYPES | HALF)


@pytest.fixture
def graphed():
    with torch_side() as module:
        yield module


def measure(baseline, work: str = "training", precision: str = "float64", device: str = "cpu", **paths) -> dict:
    return card.measure("row", task(work), precision, options(baseline is not None, device), **paths)


# Parity

@pytest.mark.parametrize("work, precision, bound", [
    ("training", "bf16", 2e-2), ("writing", "float64", 1e-6), ("forward and backward", "float32", 1e-5)])
def test_both_compute_the_same_and_take_turns(graphed, work, precision, bound):
    found = measure(graphed, work, precision)
    assert all(entry["ms"] > 0 and entry["difference"] <= bound for entry in found["torch"].values())
    assert len(found["torch"]) == 2 * len(graphed.kinds(task(work), precision))
    mine = found["ours"]["eager"]
    assert mine["difference"] <= bound and 0 < mine["p10_ms"] <= mine["ms"] <= mine["p90_ms"]
    assert found["chosen"]["path"] == "eager" and f"eager {mine['ms']:.4g} ms" in found["chosen"]["why"]
    assert 0 < found["ratio"]["low"] <= found["ratio"]["median"] <= found["ratio"]["high"]
    assert found["against"] == min(found["torch"], key=lambda name: found["torch"][name]["ms"])


@pytest.mark.parametrize("work", ["training", "writing"])
def test_a_wrong_weight_is_no_parity_and_has_no_ratio(graphed, work, monkeypatch):
    assign = CharLM.assign

    def wrong(self, tensors):
        assign(self, tensors)
        self.params["lstm.weight_hh_l0"][...] *= -1
    monkeypatch.setattr(CharLM, "assign", wrong)
    found = measure(graphed, work, "float32")
    assert found["verdict"] == "no parity" and found["ratio"] is None and found["chosen"] is None
    entry = found["ours"]["eager"]
    assert "no parity" in entry["why_not"] and entry["difference"] > found["tolerance"] and "ms" not in entry
    assert "no ratio: no parity" in bench_table.card_lines(found)[-1]


def test_nan_is_no_parity_and_no_json_number(graphed, monkeypatch):
    monkeypatch.setattr(ours.Training, "result", lambda self: np.full(STEPS, np.nan))
    monkeypatch.setattr(ours.Layer, "result", lambda self: {"y": np.full((8, 9, 6), np.nan)})
    assert measure(graphed, "forward")["verdict"] == "no parity"
    found = measure(graphed)
    assert found["verdict"] == "no parity" and found["ours"]["eager"]["difference"] is None
    json.dumps(found, allow_nan=False)


# Paths

@pytest.mark.parametrize("work", ["training"])
def test_every_path_of_a_card_computes_the_same(graphed, work, with_cublas):
    """Over the stand-ins for CuPy and cuBLAS: captured steps are timed a launch at a time."""
    paths = ("eager", "graph", "wavefront") if work == "training" else ("eager", "graph")
    found = measure(graphed, work, device="cuda", paths=paths)
    assert list(found["ours"]) == list(paths) and not [entry for entry in found["ours"].values() if "why_not" in entry]
    assert all(entry["difference"] < 1e-6 for entry in found["ours"].values())
    if work == "training":
        assert found["ours"]["graph"]["units_a_call"] == ours.LAUNCH
    assert found["chosen"]["path"] == min(found["ours"], key=lambda name: found["ours"][name]["ms"])


@pytest.mark.parametrize("work", ["training", "writing"])
def test_a_path_that_cannot_run_says_why(work):
    found = measure(None, work)
    for path in set(ours.WORK[work].paths) - {"eager"}:
        assert found["ours"][path]["why_not"].startswith("ValueError") and "ms" not in found["ours"][path]
        assert any(line.startswith(f"rnncore {path}: not timed (ValueError") for line in bench_table.card_lines(found))
    assert found["ours"]["eager"]["ms"] > 0 and found["verdict"] == "torch was not asked for"


def test_without_a_graph_the_ratio_is_against_eager(graphed, monkeypatch):
    def fails(work, device):
        raise RuntimeError("operation not permitted when\nstream is capturing")
    monkeypatch.setattr(graphed, "captured", fails)
    found = measure(graphed)
    assert found["torch"]["float64 graphed"] == {
        "why_not": "RuntimeError: operation not permitted when stream is capturing"}
    assert found["against"] == "float64 eager" and found["ratio"]
    assert "without torch float64 graphed" in found["verdict"]


def test_where_nothing_runs_the_row_stays(graphed, monkeypatch):
    def fails(*args):
        raise MemoryError("out of memory")
    monkeypatch.setattr(ours, "WORK", {"training": type("Fails", (), {"paths": ("eager",), "__init__": fails})})
    found = measure(graphed)
    assert found["ratio"] is None and found["verdict"] == "nothing of ours ran: eager: MemoryError: out of memory"
    assert "torch float64 eager" in "\n".join(bench_table.card_lines(found))
    assert bench_table.card_summary([found])[1].startswith("row, float64")


def test_an_error_while_the_turns_are_taken_leaves_a_row(graphed, monkeypatch):
    def fails(self):
        raise RuntimeError("an illegal memory access")
    monkeypatch.setattr(speed.Entry, "settle", fails)
    found = measure(graphed, paths=("eager",))
    assert found["ratio"] is None
    assert "the turns ended with RuntimeError: an illegal" in "\n".join(bench_table.card_lines(found))
    assert found["verdict"].startswith("nothing of ours ran: eager: the turns ended with")


def test_a_path_that_the_work_does_not_have():
    assert measure(None, "writing", paths=("wavefront",))["ours"] == {}
    assert "no such path" in card.outcome({}, {"ours": {}, "torch": {"float32 eager": {"ms": 1}}})["verdict"]


def test_quantiles_and_ratio_by_hand(graphed, monkeypatch):
    def run(entries, how):
        times = {"eager": 1.0, "float64 eager": 3.0, "float64 graphed": 2.0}
        return {(side, name): [0.5 * times[name], *9 * [times[name]], 4 * times[name]] for side, name in entries}
    monkeypatch.setattr(speed, "run", run)
    found = measure(graphed, paths=("eager",))
    mine = found["ours"]["eager"]
    assert (mine["p10_ms"], mine["ms"], mine["p90_ms"]) == (1000, 1000, 1000) and mine["characters_per_s"] == 54
    assert found["against"] == "float64 graphed" and found["ratio"] == {"median": 2, "low": 2, "high": 2}
    assert "eager is 2.00 times as fast as torch float64 graphed (2.00 to 2.00)" in bench_table.card_lines(found)


# Clocks

def test_a_turn_takes_its_seconds_from_the_timer_and_lasts_as_long_as_is_asked():
    class Timer:
        def __enter__(self):
            return [6.0]

        def __exit__(self, *exception):
            return None
    entry = speed.Entry(lambda: None, lambda: None, timer=Timer, units=2, count=3)
    assert entry.turn() == 1.0
    entry = speed.Entry(lambda: None, lambda: None, timer=cpu.timer, least=0.01)
    entry.settle()
    assert entry.count > 100


def test_the_card_s_clock_is_read_between_two_events(tmp_path, monkeypatch):
    log = []

    class Event:
        def record(self):
            log.append(self)

        def synchronize(self):
            log.append("waited")
    with cupy_stand_in.installed() as card:
        monkeypatch.setattr(card.xp, "cuda", types.SimpleNamespace(
            Event=Event, get_elapsed_time=lambda begun, ended: 250.0 if log[0] is begun and log[2] is ended else 0))
        with card.timer() as seconds:
            log.append("work")
    assert seconds == [0.25] and log[1] == "work" and log[3] == "waited" and log[0] is not log[2]


# The command

@pytest.fixture
def fake_card(monkeypatch):
    """The CPU by the name cuda."""
    fake = types.SimpleNamespace(**vars(cpu) | {"name": "cuda"})
    monkeypatch.setattr(kernels, "load", lambda device="auto": cpu if device == "cpu" else fake)
    monkeypatch.setattr(kernels, "describe", lambda index=0: {"card": f"card {index}", "capability": "9.0",
                                                              "cupy": "14.2", "cuda runtime": "12.9"})
    monkeypatch.setattr(bench, "name_for_torch", lambda kernel, device: "cpu")


TINY = ("bench", "--device", "cuda:1", "--layers", 1, "--hidden", 8, "--embed", 5, "--vocab", 7, "--batch", 6, "--seq",
        9, "--rounds", 2)


def test_the_command_on_a_card(graphed, fake_card, capsys, monkeypatch):
    monkeypatch.setitem(BENCH_CARD, "char-rnn", (*BENCH_CARD["char-rnn"][:2], ("float32",)))
    monkeypatch.setitem(BENCH_CARD, "layer-768", (*BENCH_CARD["layer-768"][:2], ("fp16",)))
    args = (*TINY, "--against", "torch", "--setting", "char-rnn", "--setting", "layer-768")
    result = call(capsys, *args, "--json")
    assert result.code == 0, result
    found = json.loads(result.out)
    assert found["machine"]["card"] == "card 1" and {"capability", "cupy", "torch", "torch cuda", "cudnn",
                                                     "cuda runtime"} <= found["machine"].keys()
    assert [(row["row"], row["class"]) for row in found["settings"]] == [
        ("char-rnn", "float32"), ("layer-768", "fp16")]
    assert all(row["hidden"] == 8 and row["ratio"] for row in found["settings"])
    words = call(capsys, *args, "--cuda-path", "eager", "--dtype", "float32").out
    for phrase in ("card 1, compute capability 9.0", "char-rnn, float32: 1 x 8 LSTM",
                   "one layer alone, 8 units, input 5", "torch float32 graphed", "times as fast as torch",
                   "p10 to p90", "cuDNN's algorithm, expected"):
        assert phrase in words, phrase
    assert "wavefront" not in words


def test_without_a_setting_a_card_measures_every_row(fake_card, capsys, monkeypatch):
    seen = []
    monkeypatch.setattr(card, "measure", lambda row, task, precision, *how: seen.append((row, precision)) or {})
    assert call(capsys, "bench", "--device", "cuda", "--json").code == 0
    assert seen == [(row, precision) for row, (_, _, classes) in BENCH_CARD.items() for precision in classes]
    seen.clear()
    assert call(capsys, "bench", "--device", "cuda", "--json", "--setting", "medium").code == 0
    assert seen == [("medium", precision) for precision in ("float32", "tf32", "bf16")]


@pytest.mark.parametrize("args", [("--setting", "layer-768"), ("--dtype", "bf16")])
def test_what_only_a_gpu_measures_is_refused_elsewhere(capsys, monkeypatch, args):
    monkeypatch.delenv("RNNCORE_BF16", raising=False)
    monkeypatch.setattr(native, "_processor", lambda: b"flags : avx2")  # without the instruction for bf16
    assert "--device cuda" in refused(call(capsys, "bench", "--device", "cpu", *args), 2)


@pytest.mark.parametrize("text, wanted", [
    ("NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.54.03  Tue Jun  6 22:20:39 UTC 2023\nGCC 12", "535.54.03"),
    ("NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.65.06  Release Build", "580.65.06"),
    ("", "unknown")])
def test_the_driver_s_version(text, wanted):
    assert card.driver(text) == wanted


# On a GPU

@pytest.mark.gpu
@pytest.mark.skipif(NO_GPU is not None, reason=f"no GPU: {NO_GPU}")
@pytest.mark.parametrize("work", WORK)
@pytest.mark.parametrize("precision", ["float32", "bf16"])
def test_a_row_on_a_real_card(work, precision, graphed, monkeypatch):
    monkeypatch.setitem(ours.DTYPES, "bf16", "bf16")
    if not graphed.torch.cuda.is_available():
        pytest.skip("this torch finds no GPU")
    small = task(work, hidden=128, embed=128, batch=8, **({"layers": 1} if "forward" in work else {}))
    found = card.measure("row", small, precision, options(True, "cuda", "cuda"))
    assert found["ratio"], found
    assert all("ms" in entry for entry in found["torch"].values()), found["torch"]
