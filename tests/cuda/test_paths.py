"""Which path a GPU takes: the rule over the shapes that were measured and those of bench, on cards that are played; what
a slower path costs, in words; and the warning where work goes by one."""
import itertools
import functools
import importlib
import subprocess
import sys

import cupy_stand_in
import numpy as np
import pytest
from cli_helpers import ENVIRONMENT

from rnncore import config
from rnncore.bench.ours import DTYPES
from rnncore.config import ModelConfig
from rnncore.kernels import paths
from rnncore.kernels.cpu import ops as cpu
from rnncore.kernels.paths import MEASURED, price

CLASSES = "float64", "float32", "tf32", "bf16", "fp16"
SHAPES = config.BENCH | {"layer-768": config.LAYER}
PERSISTENT, WAVEFRONT = ["persistent", "wavefront", "graph"], ["wavefront", "graph"]
ORDER = {  # the paths that the rule names for a shape: in float32, with 16-bit products
    "char-rnn": (WAVEFRONT, PERSISTENT),
    "original": (["graph"], PERSISTENT),
    "medium": (WAVEFRONT, PERSISTENT),
    "wide": (["graph"], ["persistent", "graph"]),
    "h160": (WAVEFRONT, PERSISTENT),
    "h192": (WAVEFRONT, PERSISTENT),
    "layer-768": (["graph"], ["persistent", "graph"]),
}
MISFITS = {  # multiprocessors: the shapes for which there is no persistent kernel on such a card
    132: {"h160"},
    40: {"h160", "wide", "layer-768"},
    8: {"h160", "wide", "layer-768", "original"},
}


@pytest.fixture
def play(on_cuda, monkeypatch):
    """A function that changes the card: its multiprocessors, and its compute capability as a number."""
    def change(multiprocessors: int, capability: float, shared: int = 227 << 10) -> None:
        major, minor = divmod(round(10 * capability), 10)
        for name, value in (("multiProcessorCount", multiprocessors), ("major", major), ("minor", minor)):
            monkeypatch.setitem(cupy_stand_in.CARD, name, value)
        for name, value in (("MultiProcessorCount", multiprocessors), ("MaxSharedMemoryPerBlockOptin", shared)):
            monkeypatch.setitem(cupy_stand_in.Device.attributes, name, value)
    return change


def rule(cuda, kind: str, sizes: dict, writing: bool = False) -> dict:
    model = ModelConfig(sizes["vocab_size"], hidden=sizes["hidden"], layers=sizes["layers"])
    return cuda.rule(DTYPES[kind], model, sizes["batch"], writing)


def first(found: dict) -> str:
    return next(path for path, reason in found.items() if reason is None)


@pytest.mark.parametrize("capability", [7.5, 8.0, 9.0])
@pytest.mark.parametrize("multiprocessors", MISFITS)
def test_the_rule_orders_the_paths_by_shape_precision_and_card(on_cuda, play, multiprocessors, capability):
    play(multiprocessors, capability)
    for shape, kind in itertools.product(ORDER, CLASSES):
        check_the_rule(on_cuda, multiprocessors, capability, shape, kind)


def check_the_rule(on_cuda, multiprocessors, capability, shape, kind):
    found, sixteen_bit = rule(on_cuda, kind, SHAPES[shape]), kind not in ("float64", "float32")
    assert list(found) == [*(["graph"] if kind == "float64" else ORDER[shape][sixteen_bit]), "eager"]
    if kind == "bf16" and capability < 8:  # no model is made in that precision there
        assert all(reason.startswith("bf16 wants a card of compute capability 8.0") for reason in found.values())
        return
    misfit = sixteen_bit and shape in MISFITS[multiprocessors]
    assert {path for path, reason in found.items() if reason} == ({"persistent"} if misfit else set())
    assert first(found) == list(found)[misfit]


@pytest.mark.parametrize(("kind", "shape", "path"), [
    ("tf32", "char-rnn", "persistent"), ("bf16", "char-rnn", "persistent"), ("tf32", "original", "persistent"),
    ("bf16", "original", "persistent"), ("fp16", "wide", "persistent"), ("tf32", "layer-768", "persistent"),
    ("bf16", "layer-768", "persistent"), ("fp16", "layer-768", "persistent"), ("float32", "char-rnn", "wavefront"),
    ("float32", "original", "graph"), ("float32", "layer-768", "graph")])
def test_the_rule_names_what_was_fastest_on_the_h100(on_cuda, play, kind, shape, path):
    play(132, 9.0)
    assert first(rule(on_cuda, kind, SHAPES[shape])) == path


@pytest.mark.parametrize(("kind", "layers", "hidden", "named"), [
    ("float32", 2, 256, WAVEFRONT), ("float32", 2, 257, ["graph"]), ("float32", 1, 64, ["graph"]),
    ("tf32", 2, 512, PERSISTENT), ("tf32", 2, 513, ["persistent", "graph"]), ("bf16", 1, 128, ["persistent", "graph"]),
    ("float64", 3, 64, ["graph"])])
def test_the_limits_of_the_rule(kind, layers, hidden, named):
    found = paths.rule(kind, ModelConfig(65, hidden=hidden, layers=layers), lambda path: None)
    assert list(found) == [*named, "eager"]


def test_more_columns_than_the_persistent_kernel_takes_go_by_the_next_path(on_cuda, play):
    play(132, 9.0)
    found = rule(on_cuda, "tf32", SHAPES["original"] | {"batch": 4096})
    assert "too many" in found["persistent"] and first(found) == "wavefront"


def test_texts_have_one_kernel(on_cuda, play):
    play(132, 9.0)
    for shape, kind in itertools.product(ORDER, CLASSES):
        assert rule(on_cuda, kind, SHAPES[shape], writing=True) == {"graph": None, "eager": None}


def test_a_vocabulary_for_which_the_writing_kernel_has_no_room(on_cuda, play):
    play(40, 8.9, shared=99 << 10)
    found = rule(on_cuda, "float32", SHAPES["original"] | {"vocab_size": 8000}, writing=True)
    assert found["eager"] is None and found["graph"].startswith("8000 symbols and 512 units leave no room")


def test_a_processor_has_one_path():
    assert cpu.rule("float32", ModelConfig(65)) == {"eager": None}


# What a slower path costs

@pytest.mark.parametrize(("asked", "ratio"), [
    (("wavefront", "eager", "float32"), "3.2 to 17"), (("graph", "eager", "float32"), "3.3 to 13"),
    (("wavefront", "graph", "float32"), "1 to 1.3"), (("persistent", "wavefront", "tf32"), "1.1 to 1.5"),
    (("persistent", "graph", "bf16"), "1.3 to 1.9"), (("persistent", "eager", "tf32"), "7.7 to 30"),
    (("graph", "eager", "float32", 1), "140 to 190"), (("graph", "eager", "bf16", 64), "7.4 to 94")])
def test_the_price_of_a_slower_path(asked, ratio):
    assert price(*asked) == f"about {ratio} times slower on an H100"


@pytest.mark.parametrize("asked", [("graph", "eager", "float64"), ("persistent", "graph", "float32"),
                                   ("graph", "eager", "float64", 1)])
def test_a_price_that_was_not_measured_is_not_made_up(asked):
    assert price(*asked) == "slower, by how much was not measured"


def test_one_ratio_is_no_range(monkeypatch):
    monkeypatch.setitem(MEASURED, "float32", ({"eager": 6.0, "graph": 2.0},))
    assert price("graph", "eager", "float32") == "about 3 times slower on an H100"


# Warnings

@pytest.fixture
def afresh(monkeypatch):
    """Nothing was warned of yet."""
    monkeypatch.setattr(paths, "warn", functools.cache(paths.warn.__wrapped__))


def test_the_host_s_loop_in_the_writer_s_place_is_said_once(on_cuda, play, afresh, recwarn):
    play(40, 8.9, shared=99 << 10)
    h, logits = np.zeros((1, 16, 1), np.float32), np.zeros((60_000, 1), np.float32)
    for _ in range(2):
        assert on_cuda.writer([], (), None, h, h, logits) is None
    (said,) = recwarn
    assert said.category is paths.Slower and str(said.message) == (
        "60000 symbols and 16 units leave no room in a block's 101,376 bytes: text is drawn on the host, about 140 to 190 "
        "times slower on an H100")


def test_time_loops_that_are_not_the_path_s_are_said_once(with_cublas, afresh, recwarn):
    fast = importlib.import_module("rnncore.kernels.cuda.paths")
    path, sizes = fast.FastPath("persistent", "tf32"), ModelConfig(11, 5, 512, 1)
    assert type(path.loops(sizes, 2, 100)).__name__ == "Persistent" and not len(recwarn)
    for _ in range(2):
        assert type(path.loops(sizes, 2, 4096)).__name__ == "Stepwise"
    (said,) = recwarn
    assert str(said.message) == ("4096 sequences of hidden size 512 are too many for 132 multiprocessors: their time loops "
                                 "go by graph, about 1.3 to 1.9 times slower on an H100")


def test_a_command_shows_it_in_one_line_and_other_warnings_as_they_are():
    code = """
import contextlib, warnings
from rnncore.cli import main
from rnncore.kernels import paths
with contextlib.suppress(SystemExit):
    main(["--version"])
for _ in range(2):
    paths.warn("too many")
warnings.warn("another")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, env=ENVIRONMENT)
    assert done.returncode == 0 and done.stderr.splitlines() == ["warning: too many", "<string>:9: UserWarning: another"]
