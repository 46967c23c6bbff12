"""Every public function, called with drawn arguments, right and wrong: it gives the right numbers, or it refuses.

Half of the draws spoil one argument: its shape, its type or a value. Those must raise ValueError or TypeError that names
the argument; the others are compared with reference.py. Each way to spoil one is tried once too, so that with any one
check of arguments.py away a property fails. RNNCORE_DRAWS in the environment draws more than the few here.
"""
import ast
import inspect
import os
from typing import NamedTuple

import numpy as np
import pytest
import reference
from conftest import build
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st

import rnncore
from rnncore import arguments, dynamic, evaluate, gradcheck
from rnncore.dropout import Dropout
from rnncore.lstm import State
from rnncore.sample import generate_ids, samples

DRAWS = int(os.environ.get("RNNCORE_DRAWS", 60))
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


# Properties: each makes a call of one function, and compares what it gives with the reference.

REFUSED = object()


def outcome(made: Call, function):
    """What a call gives; REFUSED where it had to be refused, and was."""
    if made.spoilt is None:
        return function()
    with pytest.raises((ValueError, TypeError)) as refused:
        function()
    words, name = str(refused.value), {
        "text": ("ids", "prompt"), "column": ("ids",), "prompt": ("a text is", "vocabulary"),
        "stop": ("stop", "a text is"), "settings": ("config", "lr"), "stream": ("ids",), "vocab": ("vocab",)}.get(made.spoilt, (made.spoilt,))
    assert any(n in words for n in name) and "\n" not in words, f"{made.spoilt}: {words}"
    return REFUSED


def close(found, wanted, dtype: str) -> bool:
    return np.allclose(np.asarray(found, np.float64), wanted, rtol=BOUND[dtype], atol=BOUND[dtype])


def wanted(model, x, y, state=None, keep=None) -> reference.Result:
    return reference.run(model.tensors(), x, y, *map(np.array, state or (None, None)) if state else (None, None), keep)


def loss_and_grads(made: Call, dtype: str) -> None:
    model, given_ = MODELS[dtype], made.given
    x, y, state, keep = (given_[name] for name in ("x", "y", "state", "keep"))
    model.threads = given_["threads"]
    found = outcome(made, lambda: model.loss_and_grads(x, y, state, keep=keep, dropout=given_["dropout"]))
    if found is not REFUSED:
        (loss, grads, end), exact = found, wanted(model, x, y, state, keep)
        assert close(loss, exact.loss / x.size, dtype) and close(end.h, exact.h, dtype) and close(end.c, exact.c, dtype)
        assert all(close(grads[name] * x.size, exact.grads[name], dtype) for name in grads)


def losses(made: Call, dtype: str) -> None:
    model, x, y, state = MODELS[dtype], *(made.given[name] for name in ("x", "y", "state"))
    shape = np.shape(x) if isinstance(x, np.ndarray) and x.ndim == 2 and x.size else (1, 1)
    found = outcome(made, lambda: model.losses(x, y, state, model.workspace(*shape)))
    if found is not REFUSED:
        (loss, end), exact = found, wanted(model, x, y, state)
        assert close(loss.sum(), exact.loss, dtype) and close(end.h, exact.h, dtype)


def step(made: Call, dtype: str) -> None:
    model, ids, state = MODELS[dtype], made.given["column"], made.given["state"]
    found = outcome(made, lambda: model.step(ids, state))
    if found is not REFUSED:
        exact = wanted(model, ids[None], ids[None], state)
        assert close(found[0], exact.logits[0], dtype) and close(found[1].h, exact.h, dtype)


def gradients(made: Call, dtype: str) -> None:
    case = gradcheck.Case(**made.given)
    found = outcome(made, lambda: list(gradcheck.check_gradients(MODELS["float64"], case, 2)))
    assert found is REFUSED or all(row.error < gradcheck.TOLERANCE for row in found)


def scored(function, window: int | None = None):
    def check(made: Call, dtype: str) -> None:
        model, ids = MODELS[dtype], made.given["text"]
        found = outcome(made, lambda: np.concatenate(list(function(model, ids))))
        if found is not REFUSED:
            ids = np.asarray(ids)[:, None]
            parts = [ids] if window is None else [ids[k:k + window + 1] for k in range(0, len(ids) - 1, window)]
            total = sum(wanted(model, part[:-1], part[1:]).loss for part in parts)
            assert len(found) == len(ids) - 1 and abs(found.sum() - total) < 1e-4 * len(ids)
    return check


def written(made: Call, dtype: str) -> None:
    model, ids = MODELS[dtype], made.given["text"]
    found = outcome(made, lambda: next(generate_ids(model, ids, rnncore.SampleConfig(0.0)))[0])
    if found is not REFUSED:
        ids = np.asarray(ids)[:, None]
        assert found == wanted(model, ids, ids).logits[-1, :, 0].argmax()


def likeliest(model, prompt: str, length: int, stop: str) -> str:
    """What a model goes on with when it takes the likeliest symbol each time, up to a text."""
    ids = [ord(symbol) - 256 for symbol in prompt or chr(256)]
    text = ""
    for _ in range(length):
        column = np.array(ids)[:, None]
        ids.append(int(wanted(model, column, column).logits[-1, :, 0].argmax()))
        text += chr(256 + ids[-1])
        if text.endswith(stop):
            return text.removesuffix(stop)
    return text


def generated(made: Call, dtype: str) -> None:
    model, given_ = MODELS[dtype], made.given
    found = outcome(made, lambda: "".join(rnncore.generate(model, temperature=0, **given_)))
    assert found is REFUSED or found == likeliest(model, **given_)


def sampled(made: Call, dtype: str) -> None:
    model, (prompt, length, stop, count, threads) = MODELS[dtype], made.given.values()
    model.threads = threads
    found = outcome(made, lambda: samples(model, count, prompt, length, rnncore.SampleConfig(0.0), stop))
    assert found is REFUSED or found == count * [likeliest(model, prompt, length, stop)]


def built(made: Call, dtype: str) -> None:
    config, vocab, device, precision, seed_ = made.given.values()
    model = outcome(made, lambda: rnncore.CharLM(config, vocab, device, precision, seed_))
    if model is not REFUSED:
        again = rnncore.CharLM(config, vocab, device, precision, seed_)
        assert str(model.dtype) == precision and np.array_equal(model.params.flat, again.params.flat)


def fitted(made: Call, dtype: str) -> None:
    model, batches, settings_, validation = made.given.values()
    before = MODELS["float32"].params.flat.copy()
    found = outcome(made, lambda: list(rnncore.fit(model, batches, settings_, validation)))
    if found is not REFUSED:
        x, y = batches.window(0)
        MODELS["float32"].params.flat[...] = before
        assert len(found) == 1 and close(found[0].loss, wanted(model, x, y).loss / x.size, "float32")


def cut(made: Call, dtype: str) -> None:
    ids, columns, steps, rotation, window = made.given.values()
    found = outcome(made, lambda: rnncore.Batches(ids, columns, steps).window(window, rotation))
    if found is not REFUSED:
        (x, y), stream = found, (len(ids) - 1) // columns
        for t in range(min(steps, stream)):
            for j in range(columns):
                first = rotation + j * stream + t
                assert x[t, j] == ids[first % len(ids)] and y[t, j] == ids[(first + 1) % len(ids)]


PROPERTIES = {
    "loss_and_grads": (loss_and_grads, ("x", "y", "state", "keep", "dropout", "threads")),
    "losses": (losses, ("x", "y", "state")),
    "step": (step, ("column", "state")),
    "check_gradients": (gradients, ("x", "y", "state", "dropout", "keep")),
    "evaluate.losses": (scored(evaluate.losses), ("text",)),
    "evaluate.window_losses": (scored(lambda model, ids: evaluate.window_losses(model, ids, 3), 3), ("text",)),
    "dynamic.losses": (scored(lambda model, ids: dynamic.losses(  # with a rate of zero nothing is learnt
        model, ids, rnncore.config.DynamicConfig(0.0, 0.0, 5))), ("text",)),
    "generate_ids": (written, ("text",)),
    "generate": (generated, ("prompt", "length", "stop")),
    "samples": (sampled, ("prompt", "length", "stop", "count", "threads")),
    "CharLM": (built, ("config", "vocab", "device", "dtype", "seed")),
    "fit": (fitted, ("model", "batches", "settings", "validation")),
    "Batches": (cut, ("stream", "columns", "steps", "rotation", "window")),
}


def each_spoiler(name: str) -> None:
    """The property `name` over calls that are right and over each way to spoil one."""
    check, names = PROPERTIES[name]
    for seed_, dtype in enumerate(BOUND):
        given_ = right(3, 2 + seed_, seed_)
        check(call(names, given_, seed_), dtype)
        for spoilt in names:
            for k in range(len(SPOILERS[spoilt])):
                made = call(names, given_, seed_, spoilt, k)
                if made:
                    check(made, dtype)


@pytest.mark.parametrize("name", PROPERTIES)
def test_every_way_to_spoil_an_argument_is_refused(name):
    each_spoiler(name)


@pytest.mark.parametrize("name", PROPERTIES)
def test_right_numbers_or_a_refusal(name):
    check, names = PROPERTIES[name]
    seen = []

    @seed(0)
    @settings(max_examples=DRAWS, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(calls(names), st.sampled_from(sorted(BOUND)))
    def run(made, dtype):
        check(made, dtype)
        seen.append(made.spoilt)

    run()
    refused = sum(spoilt is not None for spoilt in seen)
    assert min(refused, len(seen) - refused) >= len(seen) / 4, f"{refused} of {len(seen)} calls were to be refused"


def refusals() -> list[int]:
    """The lines of arguments.py at which something is refused: of each `if` above a `raise`."""
    return [node.lineno for node in ast.walk(ast.parse(inspect.getsource(arguments)))
            if isinstance(node, ast.If) and any(isinstance(inside, ast.Raise) for inside in node.body)]


@pytest.mark.parametrize("line", refusals())
def test_a_check_that_is_taken_out_is_missed(line, monkeypatch):
    """With any one check of arguments.py away a property fails."""
    tree = ast.parse(inspect.getsource(arguments))
    (node,) = [node for node in ast.walk(tree) if isinstance(node, ast.If) and node.lineno == line]
    node.test = ast.copy_location(ast.Constant(False), node.test)
    without = dict(vars(arguments))
    exec(compile(tree, "arguments", "exec"), without)
    for name, value in without.items():
        if inspect.isfunction(value) and value.__module__ == arguments.__name__:
            monkeypatch.setattr(arguments, name, value)
    for name in PROPERTIES:
        try:
            each_spoiler(name)
        except (Exception, pytest.fail.Exception):
            return
    pytest.fail("no property misses " + inspect.getsource(arguments).splitlines()[line - 1].strip())
