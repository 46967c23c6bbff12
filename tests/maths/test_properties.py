"""Every public function, called with drawn arguments, right and wrong: it gives the right numbers, or it refuses.

Half of the draws spoil one argument: its shape, its type or a value. Those must raise ValueError or TypeError that
names the argument; the others are compared with reference.py. Each way to spoil one is tried once too, so that with any
one check of arguments.py away a property fails. RNNCORE_DRAWS in the environment draws more than the few here.
"""
import ast
import inspect
import os

import numpy as np
import pytest
import reference
from drawn_calls import BOUND, MODELS, SPOILERS, Call, call, calls, right
from hypothesis import HealthCheck, given, seed, settings, strategies as st

import rnncore
from rnncore import arguments
from rnncore.data import batches
from rnncore.measure import dynamic, evaluate, gradcheck
from rnncore.sample import generate_ids, samples

DRAWS = int(os.environ.get("RNNCORE_DRAWS", 60))


# Properties: each makes a call of one function, and compares what it gives with the reference.

REFUSED = object()
CALLED = {  # what an error may call an argument otherwise
    "text": ("ids", "prompt"), "column": ("ids",), "stream": ("ids",), "settings": ("config", "lr"),
    "prompt": ("a text is", "vocabulary"), "stop": ("stop", "a text is")}


def outcome(made: Call, function):
    """What a call gives; REFUSED where it had to be refused, and was."""
    if made.spoilt is None:
        return function()
    with pytest.raises((ValueError, TypeError)) as refused:
        function()
    words = str(refused.value)
    name = CALLED.get(made.spoilt, (made.spoilt,))
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


def check_each_spoiler(name: str) -> None:
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
    check_each_spoiler(name)


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


def refusals(module, *names: str) -> list[tuple]:
    """Where a module's functions, or those of these names, refuse something: the line of each `if` above a `raise`."""
    return [(module, node.lineno) for function in ast.parse(inspect.getsource(module)).body
            if isinstance(function, ast.FunctionDef) and (not names or function.name in names)
            for node in ast.walk(function)
            if isinstance(node, ast.If) and any(isinstance(inside, ast.Raise) for inside in node.body)]


@pytest.mark.parametrize(("module", "line"), refusals(arguments) + refusals(batches, "whole"))
def test_a_check_that_is_taken_out_is_missed(module, line, monkeypatch):
    """With any one check of arguments.py away, or of what it goes by, a property fails."""
    tree = ast.parse(inspect.getsource(module))
    (node,) = [node for node in ast.walk(tree) if isinstance(node, ast.If) and node.lineno == line]
    node.test = ast.copy_location(ast.Constant(False), node.test)
    without = dict(vars(module))
    exec(compile(tree, "without", "exec"), without)
    for name, value in without.items():
        if inspect.isfunction(value) and value.__module__ == module.__name__:
            monkeypatch.setattr(module, name, value)
    for name in PROPERTIES:
        try:
            check_each_spoiler(name)
        except (Exception, pytest.fail.Exception):
            return
    pytest.fail("no property misses " + inspect.getsource(module).splitlines()[line - 1].strip())
