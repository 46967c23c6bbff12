"""Every public function, called with drawn arguments, right and wrong: it gives the right numbers, or it refuses.

Half of the draws spoil one argument: its shape, its type or a value. Those must raise ValueError or TypeError that names
the argument; the others are compared with reference.py. RNNCORE_DRAWS in the environment draws more than the few here.
"""
import ast
import inspect
import os
from typing import Any, NamedTuple

import numpy as np
import pytest
import reference
from conftest import build
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

import rnncore
from rnncore import arguments, dynamic, evaluate, gradcheck
from rnncore.dropout import Dropout
from rnncore.lstm import State
from rnncore.sample import generate_ids

DRAWS = int(os.environ.get("RNNCORE_DRAWS", 60))
BOUND = {"float64": 1e-9, "float32": 3e-5}
V, E, H, L = 5, 3, 4, 2
MODELS = {dtype: build(V, E, H, L, dtype) for dtype in BOUND}


class Call(NamedTuple):
    """The arguments of a call by name, and which of them was spoilt: None where none was."""
    given: dict
    spoilt: str | None


def shapes_for(shape: tuple) -> list[tuple]:
    """Shapes that are not this one, all of which NumPy would broadcast, cut or read beyond somewhere."""
    found = []
    for axis, length in enumerate(shape):
        for other in (1, length - 1, length + 1, length + 2, 2 * length, 0):
            found.append((*shape[:axis], other, *shape[axis + 1:]))
    found += [shape[::-1], shape[:-1], shape[1:], (1, *shape), (*shape, 1), ()]
    return [other for other in dict.fromkeys(found) if other != shape and min(other, default=1) >= 0]


def wrong_ids(draw, ids: np.ndarray, loose: tuple = ()):
    """Ids that are none, or of another shape; loose: axes whose lengths are free."""
    kind = draw(st.sampled_from(["shape", "value", "type"]))
    if kind == "shape":
        wanted = [s for s in shapes_for(ids.shape) if len(s) != ids.ndim or 0 in s
                  or any(a != b for k, (a, b) in enumerate(zip(s, ids.shape, strict=True)) if k not in loose)]
        if wanted:
            return np.resize(ids, draw(st.sampled_from(wanted)))
    if kind == "type":
        other = draw(st.sampled_from(["float64", "bool", "complex128", "O", "U1", "float16"]))
        return ids.astype(other) if other != "U1" else ids.astype(str)
    wrong, flat = ids.astype(np.int64), draw(st.integers(0, ids.size - 1))
    wrong.reshape(-1)[flat] = draw(st.sampled_from([-1, V, V + 1, 2 ** 31, -2 ** 63, 2 ** 62]))
    return draw(st.sampled_from([np.asarray, np.ndarray.tolist, Like, memoryview]))(wrong)


class Like:
    """What NumPy can make an array of, though it is no array, list or tuple."""

    def __init__(self, array):
        self.array = array

    def __array__(self, dtype=None, copy=None):
        return self.array if dtype is None else self.array.astype(dtype)


def wrong_state(draw, state: State):
    kind = draw(st.sampled_from(["shape", "type", "none"]))
    part = draw(st.sampled_from([0, 1]))
    parts = list(state)
    if kind == "none":
        return draw(st.sampled_from([state[0], (*state, state[0]), (state[0],), "h", 3, {"h": 1, "c": 2}, [None, None]]))
    if kind == "shape":
        parts[part] = np.resize(parts[part], draw(st.sampled_from(shapes_for(parts[part].shape))))
    else:
        parts[part] = parts[part].astype(draw(st.sampled_from(["complex128", "O", "U3"])))
    return State(*parts)


def wrong_keep(draw, keep: np.ndarray):
    kind = draw(st.sampled_from(["shape", "type", "value"]))
    if kind == "shape":
        return np.resize(keep, draw(st.sampled_from(shapes_for(keep.shape))))
    if kind == "type":
        return keep.astype(draw(st.sampled_from(["complex128", "O", "U3"])))
    wrong = keep.astype(float)
    wrong.reshape(-1)[draw(st.integers(0, keep.size - 1))] = draw(st.sampled_from([2, -1, 0.5, np.nan]))
    return wrong


WRONG_DROPOUTS = [0.5, "0.5", Dropout(1.0, 0, 1), Dropout(-0.1, 0, 1), Dropout(np.nan, 0, 1), Dropout("a", 0, 1),
                  Dropout(0.1, 0, 1, True, 1.5), Dropout(True, 0, 1), Dropout(1j, 0, 1), Dropout([0.1], 0, 1)]


@st.composite
def batches(draw, names=("x", "y", "state", "keep", "dropout", "threads")):
    """Arguments of a pass over (T, N), of which half have one that is spoilt."""
    steps, n, rng = draw(st.integers(1, 6)), draw(st.integers(1, 5)), np.random.default_rng(draw(st.integers(0, 999)))
    whole = draw(st.sampled_from([np.int64, np.uint8, np.int16, np.intp]))
    x, y = rng.integers(0, V, (2, steps, n)).astype(whole)
    state = State(*rng.standard_normal((2, L, H, n)))
    given_ = {"x": x, "y": y, "state": state if draw(st.booleans()) else None, "dropout": None, "threads": 1,
              "keep": (rng.random((steps, n)) < 0.7) * 1.0 if draw(st.booleans()) else None}
    spoilt = draw(st.sampled_from(names)) if draw(st.booleans()) else None
    given_["threads"] = draw(st.sampled_from([1, 2, 3]))
    if spoilt == "x":
        given_["x"] = wrong_ids(draw, x, loose=(0, 1))
    if spoilt == "y":
        given_["y"] = wrong_ids(draw, y)
    if spoilt == "state":
        given_["state"] = wrong_state(draw, state)
    if spoilt == "keep":
        given_["keep"] = wrong_keep(draw, rng.random((steps, n)) < 0.7)
    if spoilt == "dropout":
        given_["dropout"] = draw(st.sampled_from(WRONG_DROPOUTS))
    if spoilt == "threads":
        given_["threads"] = draw(st.sampled_from([0, -1, 1.5, "2", None, True]))
    return Call(given_, spoilt)


def outcome(call: Call, function) -> Any:
    """What a call gives; the word refused where it had to be, and was."""
    if call.spoilt is None:
        return function()
    with pytest.raises((ValueError, TypeError)) as refused:
        function()
    words = str(refused.value)
    assert call.spoilt.split(".")[0] in words and "\n" not in words, f"{call.spoilt}: {words}"
    return "refused"


def holds(check, strategy, draws: int = DRAWS, phases=tuple(Phase)) -> None:
    """check(call, dtype) over draws; at least a quarter must have been refused and a quarter compared."""
    seen = []

    @seed(0)
    @settings(max_examples=draws, phases=phases, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(strategy, st.sampled_from(sorted(BOUND)))
    def run(call, dtype):
        check(call, dtype)
        seen.append(call.spoilt)

    run()
    refused = sum(name is not None for name in seen)
    assert min(refused, len(seen) - refused) >= len(seen) / 4, f"{refused} of {len(seen)} calls were to be refused"


def close(found, wanted, dtype: str) -> bool:
    return np.allclose(np.asarray(found, np.float64), wanted, rtol=BOUND[dtype], atol=BOUND[dtype])


def wanted(model, call: Call) -> reference.Result:
    state = call.given["state"] or (None, None)
    return reference.run(model.tensors(), call.given["x"], call.given["y"], *state, call.given["keep"])


def check_loss_and_grads(call: Call, dtype: str) -> None:
    model, given_ = MODELS[dtype], call.given
    model.threads = given_["threads"]
    found = outcome(call, lambda: model.loss_and_grads(given_["x"], given_["y"], given_["state"], keep=given_["keep"],
                                                       dropout=given_["dropout"]))
    if found != "refused":
        (loss, grads, state), right, size = found, wanted(model, call), given_["x"].size
        assert close(loss, right.loss / size, dtype) and close(state.h, right.h, dtype) and close(state.c, right.c, dtype)
        assert all(close(grads[name] * size, right.grads[name], dtype) for name in grads)


def check_losses(call: Call, dtype: str) -> None:
    model, given_ = MODELS[dtype], call.given
    given_["keep"] = None
    shape = np.shape(given_["x"])
    work = model.workspace(*(shape if len(shape) == 2 and min(shape) else (1, 1)))
    found = outcome(call, lambda: model.losses(given_["x"], given_["y"], given_["state"], work))
    if found != "refused":
        loss, state = found
        right = wanted(model, call)
        assert close(loss.sum(), right.loss, dtype) and close(state.h, right.h, dtype)


def check_step(call: Call, dtype: str) -> None:
    model, given_ = MODELS[dtype], call.given
    ids = given_["x"][0] if call.spoilt != "x" else given_["x"]
    if call.spoilt == "x" and np.ndim(ids) == 2:
        ids = ids if np.shape(ids)[0] != 1 else np.asarray(ids)[None]
    if call.spoilt == "x" and np.ndim(ids) == 1 and np.asarray(ids).dtype.kind in "iu":
        return
    renamed = call._replace(spoilt="ids" if call.spoilt == "x" else call.spoilt)
    found = outcome(renamed, lambda: model.step(ids, given_["state"]))
    if found != "refused":
        state = given_["state"] or (None, None)
        right = reference.run(model.tensors(), ids[None], ids[None], *state)
        assert close(found[0], right.logits[0], dtype) and close(found[1].h, right.h, dtype)


def check_gradcheck(call: Call, dtype: str) -> None:
    model, given_ = MODELS["float64"], call.given
    case = gradcheck.Case(given_["x"], given_["y"], given_["state"], given_["dropout"], given_["keep"])
    found = outcome(call, lambda: list(gradcheck.check_gradients(model, case, 2)))
    assert found == "refused" or all(row.error < gradcheck.TOLERANCE for row in found)


@st.composite
def texts(draw):
    """A text of ids (n,), of which half are none."""
    ids = np.random.default_rng(draw(st.integers(0, 99))).integers(0, V, draw(st.integers(2, 40)))
    if draw(st.booleans()):
        wrong = wrong_ids(draw, ids, loose=(0,))
        if np.asarray(wrong).size > 1:
            return Call({"ids": wrong}, "ids")
        return Call({"ids": np.array([0, -1, 2])}, "ids")
    return Call({"ids": draw(st.sampled_from([np.asarray, np.ndarray.tolist, Like, np.uint8]))(ids)}, None)


def scored(function):
    def check(call: Call, dtype: str) -> None:
        model = MODELS[dtype]
        found = outcome(call, lambda: np.concatenate(list(function(model, call.given["ids"]))))
        if not isinstance(found, str):
            ids, one = np.asarray(call.given["ids"])[:, None], MODELS[dtype].tensors()
            if function is windows:
                parts = [ids[k:k + 4] for k in range(0, len(ids) - 1, 3)]
            else:
                parts = [ids]
            total = sum(reference.run(one, part[:-1], part[1:]).loss for part in parts)
            assert len(found) == len(ids) - 1 and abs(found.sum() - total) < 1e-4 * len(ids)
    return check


def windows(model, ids):
    return evaluate.window_losses(model, ids, 3)


def dynamically(model, ids):
    """With a rate of zero nothing is learnt."""
    return dynamic.losses(model, ids, rnncore.config.DynamicConfig(0.0, 0.0, 5))


@st.composite
def prompts(draw):
    ids = np.random.default_rng(draw(st.integers(0, 99))).integers(0, V, draw(st.integers(1, 9)))
    spoilt = draw(st.booleans())
    return Call({"prompt": wrong_ids(draw, ids, loose=(0,)) if spoilt else ids}, "prompt" if spoilt else None)


def check_generate_ids(call: Call, dtype: str) -> None:
    model, config = MODELS[dtype], rnncore.SampleConfig(0.0)
    found = outcome(call, lambda: next(generate_ids(model, call.given["prompt"], config))[0])
    if found != "refused":
        ids = np.asarray(call.given["prompt"])[:, None]
        assert found == reference.run(model.tensors(), ids, ids).logits[-1, :, 0].argmax()


PROPERTIES = {
    "loss_and_grads": (check_loss_and_grads, batches()),
    "losses": (check_losses, batches(("x", "y", "state"))),
    "step": (check_step, batches(("x", "state"))),
    "check_gradients": (check_gradcheck, batches(("x", "y", "state", "keep", "dropout"))),
    "evaluate.losses": (scored(evaluate.losses), texts()),
    "evaluate.window_losses": (scored(windows), texts()),
    "dynamic.losses": (scored(dynamically), texts()),
    "generate_ids": (check_generate_ids, prompts()),
}


@pytest.mark.parametrize("name", PROPERTIES)
def test_right_numbers_or_a_refusal(name):
    check, strategy = PROPERTIES[name]
    holds(check, strategy, DRAWS // 6 if name == "check_gradients" else DRAWS)


def refusals() -> list[int]:
    """The lines of arguments.py at which something is refused: of each `if` above a `raise`."""
    return [node.lineno for node in ast.walk(ast.parse(inspect.getsource(arguments)))
            if isinstance(node, ast.If) and any(isinstance(inside, ast.Raise) for inside in node.body)]


@pytest.mark.parametrize("line", [None, *refusals()])
def test_a_check_that_is_taken_out_is_missed(line, monkeypatch):
    """With any one check of arguments.py away, a property fails; with all of them none does."""
    tree = ast.parse(inspect.getsource(arguments))
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and node.lineno == line:
            node.test = ast.copy_location(ast.Constant(False), node.test)
    without: dict = dict(vars(arguments))
    exec(compile(tree, "arguments", "exec"), without)
    for name, value in without.items():
        if inspect.isfunction(value) and value.__module__ == arguments.__name__:
            monkeypatch.setattr(arguments, name, value)
    failed = []
    for check, strategy in PROPERTIES.values():
        try:
            holds(check, strategy, DRAWS if line else 10, phases=(Phase.explicit, Phase.generate))
        except BaseException as error:  # hypothesis has groups of them
            failed.append(error)
            break
    if line is None:
        assert not failed
    else:
        assert failed, "no property misses " + inspect.getsource(arguments).splitlines()[line - 1]
