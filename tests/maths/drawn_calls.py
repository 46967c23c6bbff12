"""Drawn calls of public functions: arguments as they are wanted, and ways to spoil one."""
from typing import NamedTuple

import numpy as np
from conftest import build
from hypothesis import strategies as st

import rnncore
from rnncore.nn.dropout import Dropout
from rnncore.nn.lstm import State

BOUND = {"float64": 1e-9, "float32": 3e-5}
V, E, H, L = 5, 3, 4, 2
MODELS = {dtype: build(V, E, H, L, dtype) for dtype in BOUND}
SETTINGS = rnncore.TrainConfig(lr=0.0001, steps=1, seed=3)
SAME = object()  # what a spoiler gives that does not apply


class Call(NamedTuple):
    """The arguments of a call by name, and which of them was spoilt: None where none was."""
    given: dict
    spoilt: str | None


class Like:
    """What NumPy can make an array of, though it is no array, list or tuple."""

    def __init__(self, array):
        self.array = array

    def __array__(self, dtype=None, copy=None):
        return self.array if dtype is None else self.array.astype(dtype)


# Spoilers: each takes the argument as it is wanted and gives one that must be refused.

def other_shapes(shape: tuple) -> list[tuple]:
    """Shapes most of which NumPy would broadcast, cut or read beyond somewhere."""
    found = [(*shape[:axis], other, *shape[axis + 1:]) for axis, length in enumerate(shape)
             for other in (1, length - 1, length + 1, length + 2, 2 * length, 0)]
    return [*found, shape[::-1], shape[:-1], shape[1:], (1, *shape), (*shape, 1), ()]


def shape_of(k: int, loose: tuple = ()):
    """The k-th other shape; loose: axes whose lengths are free, but for 0."""
    def spoil(array):
        shape = other_shapes(array.shape)[k]
        same = len(shape) == array.ndim and all(a == b or axis in loose and a for axis, (a, b) in enumerate(
            zip(shape, array.shape, strict=True)))
        return SAME if same or min(shape, default=0) < 0 else np.resize(array, shape)
    return spoil


def type_of(name: str):
    return lambda array: array.astype(name)


def value_of(value, place: int = 0, way=np.asarray):
    """One entry is `value`; way: what the array is handed in as."""
    def spoil(array):
        wrong = array.astype(np.int64 if isinstance(value, int) else np.float64)
        wrong.reshape(-1)[place % wrong.size] = value
        return way(wrong)
    return spoil


def constant(value):
    return lambda _: value


def ids_spoilt(axes: int, loose: tuple = ()) -> list:
    """Of ids (n,) or (T, N)."""
    ways = [np.asarray, np.ndarray.tolist, Like, memoryview]
    return ([shape_of(k, loose) for k in range(6 * axes + 6)]
            + [type_of(name) for name in ("float64", "bool", "complex128", "O", "U3", "float16")]
            + [value_of(value, k, way) for k, way in enumerate(ways) for value in (-1, V, 2 ** 31, -2 ** 63)]
            + [constant(value) for value in (None, "abc", 3, {}, [[1], [2, 3]])])


def part(k: int, spoil):
    """h or c alone is spoilt."""
    def both(state):
        wrong = spoil(state[k])
        return SAME if wrong is SAME else State(*(wrong if k == j else array for j, array in enumerate(state)))
    return both


STATE = ([part(k, shape_of(j)) for k in (0, 1) for j in range(24)]
         + [part(k, type_of(name)) for k in (0, 1) for name in ("complex128", "O", "U3")]
         + [part(k, lambda array, more=more: [*array, *more * [array[0]]]) for k in (0, 1) for more in (1, 2)]
         + [part(k, lambda array: list(array)[:1]) for k in (0, 1)]
         + [lambda state: state[0], lambda state: (*state, state[0]), lambda state: state[:1]]
         + [constant(value) for value in ("h", 3, {"h": 1, "c": 2}, [None, None], ())])
KEEP = ([shape_of(k) for k in range(18)] + [type_of(name) for name in ("complex128", "O", "U3")] + [constant("1")]
        + [value_of(float(value), k) for k, value in enumerate((2, -1, 0.5, np.nan, np.inf))])
DROPOUT = [constant(value) for value in (
    0.5, "0.5", (0.5, 0, 1), Dropout(1.0, 0, 1), Dropout(-0.1, 0, 1), Dropout(np.nan, 0, 1), Dropout("a", 0, 1),
    Dropout(0.1, 0, 1, True, 1.5), Dropout(True, 0, 1), Dropout(False, 0, 1), Dropout(1j, 0, 1), Dropout([0.1], 0, 1),
    Dropout("0.5", 0, 1), Dropout(np.array([0.1]), 0, 1), Dropout(None, 0, 1))]
SPOILERS = {"x": ids_spoilt(2, loose=(0, 1)), "y": ids_spoilt(2), "state": STATE, "keep": KEEP, "dropout": DROPOUT,
            "threads": [constant(value) for value in (0, -1, 1.5, "2", None, True, np.float64(2))],
            "prompt": [constant(value) for value in (b"ab", 3, None, ["a"], "abc", bytearray(b"x"))],
            "length": [constant(value) for value in (-1, 1.5, np.nan, np.inf, "3", True, [3])],
            "stop": [constant(value) for value in (3, b"ab", ["a", None], [["a"]], True)],
            "count": [constant(value) for value in (-1, 1.5, None, "3", True)],
            "config": [constant(value) for value in (None, {"hidden": 4}, "small", SETTINGS)],
            "vocab": [constant(value) for value in (None, "abcde", ["a"], rnncore.Vocab.from_text("abc"))],
            "device": [constant(value) for value in (None, 3, "gpu", b"cpu")],
            "dtype": [constant(value) for value in ("int8", "float16", None, 32)],
            "seed": [constant(value) for value in (-1, 2 ** 64, 1.5, "1", True)],
            "model": [constant(value) for value in (None, "small", MODELS)],
            "batches": [constant(value) for value in (None, np.arange(9), "text")],
            "settings": [constant(value) for value in (None, {"lr": 0.1}, MODELS["float32"].config, rnncore.TrainConfig())],
            "validation": [constant(value) for value in (np.arange(9), "text", True)],
            "stream": [type_of(name) for name in ("float64", "bool", "complex128", "O")]
            + [lambda ids: ids[None], lambda ids: ids[:, None], np.ndarray.tolist, constant(None), constant("abc")],
            "columns": [constant(value) for value in (0, -1, 1.5, "2", None, True)],
            "steps": [constant(value) for value in (0, -1, 1.5, "2", None, True)],
            "rotation": [constant(value) for value in (1.5, "2", None, True)],
            "window": [constant(value) for value in (1.5, "2", None, True)],
            "text": ids_spoilt(1, loose=(0,)), "column": ids_spoilt(1, loose=(0,))}


def right(steps: int, n: int, seed_: int) -> dict:
    """Arguments as they are wanted: of a pass over (T, N), a text (n,) and one symbol a column (N,)."""
    rng = np.random.default_rng(seed_)
    x, y = rng.integers(0, V, (2, steps, n)).astype(str(rng.choice(["int64", "uint8", "int16"])))
    way = [np.asarray, np.ndarray.tolist, Like, np.uint8][rng.integers(4)]
    return {"x": x, "y": y, "state": State(*rng.standard_normal((2, L, H, n))), "keep": rng.random((steps, n)) < 0.7,
            "dropout": None, "threads": int(rng.integers(1, 4)), "text": way(rng.integers(0, V, steps * n + 1)),
            "column": x[0], "prompt": model_text(rng, n), "length": int(rng.integers(0, 9)), "count": n,
            "stop": model_text(rng, int(rng.integers(1, 3))), "config": MODELS["float32"].config, "vocab":
            MODELS["float32"].vocab, "device": "cpu", "dtype": str(rng.choice(["float32", "float64"])), "seed": seed_,
            "model": MODELS["float32"], "batches": rnncore.Batches(rng.integers(0, V, 20), 2, 3), "settings": SETTINGS,
            "validation": None, "stream": rng.integers(0, V, 30 + steps), "columns": n, "steps": steps,
            "rotation": int(rng.integers(-99, 99)), "window": 0}


def model_text(rng, length: int) -> str:
    """A text of the models' symbols."""
    return "".join(map(chr, rng.integers(256, 256 + V, length)))


def call(names: tuple, given_: dict, seed_: int, name: str | None = None, k: int = 0) -> Call | None:
    """A call with one argument spoilt, or None where that spoiler does not apply; with some of the others left out."""
    rng = np.random.default_rng(seed_)
    chosen = {n: given_[n] for n in names}
    for optional in {"state", "keep"} & {*names}:
        left = rng.integers(3)
        if left == 0:
            chosen[optional] = None
        elif left == 1 and optional == "state":
            chosen[optional] = State(*map(list, given_["state"]))  # of each layer an array
    if name is None:
        return Call(chosen, None)
    wrong = SPOILERS[name][k](np.asarray(given_[name]) if name == "text" else given_[name])
    return None if wrong is SAME else Call({**chosen, name: wrong}, name)


@st.composite
def calls(draw, names: tuple):
    """Calls of which half have one argument spoilt."""
    given_ = right(draw(st.integers(1, 6)), draw(st.integers(1, 5)), draw(st.integers(0, 10 ** 6)))
    name = draw(st.sampled_from([n for n in names if n in SPOILERS])) if draw(st.booleans()) else None
    k = draw(st.integers(0, len(SPOILERS[name]) - 1)) if name else 0
    seed_ = draw(st.integers(0, 99))
    return call(names, given_, seed_, name, k) or call(names, given_, seed_)
