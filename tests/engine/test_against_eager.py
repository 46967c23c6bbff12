"""The comparison of a path with eager, on the CPU: it passes paths that are right, and fails such as are wrong."""
from dataclasses import replace

import numpy as np
import pytest

from rnncore import against_eager
from rnncore.against_eager import TOLERANCES, Task, build, compare, mismatch, results
from rnncore.nn.stepper import Stepper
from rnncore.steps import EagerSteps

SMALL = Task("float32", "cpu", 11, 6, 24, 2, 5, 9, "adam")


def rounded(array, bits: int):
    """float32 with so many bits of the mantissa less, to the nearest."""
    mask = np.uint32(0xFFFFFFFF << bits & 0xFFFFFFFF)
    return ((array.view(np.uint32) + np.uint32(1 << bits - 1)) & mask).view(np.float32)


def play(task: Task, wrong=None, bits: int = 0, timed: bool = False) -> list[dict]:
    """The comparison's messages where "graph" is eager with rounded weights, and `wrong` done to its model."""
    def make(task, documents):
        precision = "float64" if task.precision == "float64" else "float32"
        model = build(replace(task, path="eager", precision=precision), documents)
        if task.path == "eager":
            return model
        if bits:
            once, flat = model.loss_and_grads, model.params.flat

            def loss_and_grads(*args, **kwargs):
                kept = flat.copy()
                flat[...] = rounded(flat, bits)
                found = once(*args, **kwargs)
                flat[...] = kept
                return found
            model.loss_and_grads = loss_and_grads
        if wrong:
            wrong(model)
        return model
    return list(compare(task, timed, make))


@pytest.mark.parametrize(("precision", "bits", "optimizer"), [
    ("float64", 0, "adam"), ("float32", 0, None), ("tf32", 13, "muon"), ("bf16", 16, "adam"), ("bf16", 16, "muon")])
def test_a_right_path_passes(precision, bits, optimizer):
    assert play(replace(SMALL, precision=precision, path="graph", optimizer=optimizer), bits=bits)[-1] == {"cause": None}


@pytest.mark.parametrize("optimizer", ["adam", None])
def test_times_come_where_they_are_asked_for(optimizer):
    verdict = play(replace(SMALL, path="graph", optimizer=optimizer), timed=True)[-1]
    assert verdict["cause"] is None and verdict["ms"] > 0 and verdict["eager_ms"] > 0


@pytest.mark.parametrize(("optimizer", "timed", "eager_steps", "characters"), [
    ("adam", False, 30, 548), ("adam", True, 142, 548), (None, False, 0, 548), (None, True, 0, 1444)])
def test_a_comparison_takes_no_more_eager_work_than_it_compares(monkeypatch, optimizer, timed, eager_steps, characters):
    """Eager steps by kind; of the characters, 252 are the played path's own, where there is a writing kernel on a card."""
    steps, stepped, take, step = [], [], EagerSteps.take, Stepper.step
    monkeypatch.setattr(EagerSteps, "take", lambda self, *where: steps.append(self.model.played) or take(self, *where))
    monkeypatch.setattr(Stepper, "step", lambda self, ids: stepped.append(ids) or step(self, ids))

    def make(task, documents):
        model = build(replace(task, path="eager"), documents)
        model.played = task.path
        return model

    verdict = list(compare(replace(SMALL, path="graph", optimizer=optimizer), timed, make))[-1]
    assert verdict["cause"] is None and ("ms" in verdict) == timed
    assert (steps.count("eager"), len(stepped)) == (eager_steps, characters)


def test_another_precision_than_was_asked_for_fails():
    assert play(replace(SMALL, path="graph"), bits=13)[-1]["cause"].startswith("training: ")
    assert play(replace(SMALL, path="graph", precision="tf32"), bits=20)[-1]["cause"]


def patched(change):
    """A fault: change(once, x, y, state, keep, dropout) in the place of loss_and_grads."""
    def wrong(model):
        once = model.loss_and_grads
        model.loss_and_grads = lambda x, y, s=None, keep=None, dropout=None: change(once, x, y, s, keep, dropout)
    return wrong


def a_row(name: str):
    """A gradient where row 3 was not written; of an LSTM's, unit 3's of all gates."""
    def change(once, x, y, state, keep, dropout):
        loss, grads, state = once(x, y, state, keep=keep, dropout=dropout)
        grads[name][3::24] = 0
        return loss, grads, state
    return patched(change)


def a_state(once, x, y, state, keep, dropout):
    """One unit's state is not written."""
    loss, grads, after = once(x, y, state, keep=keep, dropout=dropout)
    after.h[1, 2] = 0.0
    return loss, grads, after


def a_drift(model):
    """One parameter goes its own way, slowly."""
    once, bias = model.loss_and_grads, model.params["head.bias"]

    def loss_and_grads(*args, **kwargs):
        bias[...] -= 0.004
        return once(*args, **kwargs)
    model.loss_and_grads = loss_and_grads


def gradients_times(factor: float):
    """Adam's updates do not depend on it."""
    def change(once, x, y, state, keep, dropout):
        loss, grads, after = once(x, y, state, keep=keep, dropout=dropout)
        grads.flat *= factor
        return loss, grads, after
    return patched(change)


WRONG = {
    "the update of a parameter is wrong": a_drift,
    "documents flow into each other": lambda model: setattr(model, "keep", lambda ids: None),
    "the masks are always the first step's": patched(
        lambda once, x, y, s, k, d: once(x, y, s, keep=k, dropout=d._replace(step=0))),
    "the state is not carried": patched(lambda once, x, y, s, k, d: once(x, y, None, keep=k, dropout=d)),
    "the state does not begin at zero": patched(
        lambda once, x, y, s, k, d: once(x, y, s or once(x, y, dropout=d)[2], keep=k, dropout=d)),
    "weights are not dropped": patched(
        lambda once, x, y, s, k, d: once(x, y, s, keep=k, dropout=d._replace(weight_rate=0.0))),
    "a row of a gradient is missing": a_row("lstm.weight_hh_l1"),
    "an entry of a bias is missing": a_row("lstm.bias_ih_l0"),
    "a symbol's gradient is missing": a_row("embedding.weight"),
    "a unit's state is stale": patched(a_state),
    "windows are all of one length": patched(lambda once, x, y, s, k, d: once(
        np.concatenate([x, x[-1:]]) if len(x) < 9 else x, np.concatenate([y, y[-1:]]) if len(x) < 9 else y, s,
        keep=k, dropout=d)),
    "gradients are a twentieth too large": gradients_times(1.05),
    "the loss is a hundredth off": patched(lambda once, x, y, s, k, d: (lambda f: (f[0] * 1.01, *f[1:]))(
        once(x, y, s, keep=k, dropout=d))),
}


@pytest.mark.parametrize("fault, precision, optimizer", [
    (fault, ("float32", "bf16")[k % 2], ("adam", "muon")[k // 2 % 2]) for k, fault in enumerate(WRONG)])
def test_a_wrong_path_fails(fault, precision, optimizer):
    verdict = play(replace(SMALL, precision=precision, path="graph", optimizer=optimizer), WRONG[fault])[-1]
    assert verdict["cause"] and "is rounding" in verdict["cause"] and "\n" not in verdict["cause"]


@pytest.mark.parametrize("fault, precision", [("another", "float32"), ("greedy", "tf32"), ("stuck", "float32")])
def test_a_wrong_writer_fails(monkeypatch, precision, fault):
    right = against_eager.generate_ids

    def generate_ids(model, prompt, config, count):
        ids = None
        for k, chosen in enumerate(right(model, prompt, config, count)):
            odd = fault == "another" and k % 8 == 7
            ids = ids if fault == "stuck" and k > 30 else (chosen + 1) % 11 if odd else chosen
            yield ids if fault != "greedy" or config.temperature else np.zeros_like(ids)

    monkeypatch.setattr(against_eager, "generate_ids", generate_ids)
    for task in (SMALL, replace(SMALL, optimizer=None, seq=1, columns=3)):
        assert "symbols written" in play(replace(task, path="graph", precision=precision))[-1]["cause"]


def test_numbers_that_are_none_are_no_match():
    def nothing(once, x, y, state, keep, dropout):
        loss, grads, state = once(x, y, state, keep=keep, dropout=dropout)
        return loss, grads, type(state)(state.h * np.nan, state.c)
    assert play(replace(SMALL, path="graph", precision="bf16"), patched(nothing))[-1]["cause"]


@pytest.mark.parametrize("gate", range(4))
def test_a_number_that_is_none_in_one_gate_of_a_moment_is_no_match(gate):
    wanted = {("moments", "m of lstm.bias_ih_l1"): np.ones((4, 3, 1))}
    found = {name: values.copy() for name, values in wanted.items()}
    assert mismatch(found, wanted, "bf16") is None
    found["moments", "m of lstm.bias_ih_l1"][gate, 1] = np.nan
    assert mismatch(found, wanted, "bf16") == "m of lstm.bias_ih_l1 is nan off, 0.6 at most is rounding"


def test_the_distance_is_a_row_s_by_its_own_size_or_the_usual_one():
    def off(found, wanted):
        return mismatch({("loss", "x"): np.array(found, float)}, {("loss", "x"): np.array(wanted, float)}, "bf16")

    wanted = [[[3, 4], [0, 0]], [[0, 0], [0, 0]]]
    assert off(wanted, wanted) is None and off([[[0]]], [[[0]]]) is None
    assert off([[[3, 4.5], [0, 0]], [[0, 0], [0, 0]]], wanted).startswith("x is 0.1 off")
    assert off([[[3, 4], [0, 1]], [[0, 0], [0, 0]]], wanted).startswith("x is 0.28 off")  # over 5 / sqrt(2)
    assert off([[[3, 4], [0, 0]], [[0, 0], [0, 1e-9]]], wanted).startswith("x is inf off")
    assert mismatch({("loss", "x"): np.zeros((1, 1, 1))}, {}, "bf16").startswith("x is inf off")


def test_windows_after_the_first_case_are_short(monkeypatch):
    """Eager's time goes by them."""
    lengths, take = {}, EagerSteps.take
    monkeypatch.setattr(against_eager, "SHORT", 7)
    monkeypatch.setattr(EagerSteps, "take", lambda self, *where: lengths.setdefault(
        (self.schedule.config.dropout, self.schedule.config.variational), self.schedule.config.seq) and take(self, *where))
    assert play(replace(SMALL, path="graph"))[-1] == {"cause": None}
    assert lengths == {(0.0, False): SMALL.seq, (0.3, False): 7, (0.2, True): 7}


@pytest.mark.parametrize("column", ["loss", "norm", "moments", "update", "state"])
def test_each_distance_has_its_own_tolerance(column):
    """Two blocks of two rows, all of the length 5; one row is off by a vector of the length 5 times a factor."""
    wanted, off = np.tile([3.0, 4.0], (2, 2, 1)), np.zeros((2, 2, 2))
    off[1, 0] = 4.0, -3.0

    def cause(factor, precision):
        return mismatch({(column, "x"): wanted + factor * off}, {(column, "x"): wanted}, precision)

    for precision in TOLERANCES:
        most = TOLERANCES[precision][column]
        assert cause(0.9 * most, precision) is None
        assert cause(1.1 * most, precision).endswith(f"off, {most:g} at most is rounding")


@pytest.mark.parametrize(("factor", "cause"), [
    (1.02, None), (1.05, "training: the gradient norm of step 1 is 0.05 off, 0.03 at most is rounding")])
def test_a_gradient_norm_may_be_off_by_as_much_as_rounding_makes(factor, cause):
    assert play(replace(SMALL, precision="bf16", path="graph"), gradients_times(factor))[-1] == {"cause": cause}


def test_a_small_gate_is_compared_by_itself():
    """Of the input gate, whose gradients are a millionth here, a row is not written."""
    def made(task, row):
        def change(once, x, y, state, keep, dropout):
            loss, grads, after = once(x, y, state, keep=keep, dropout=dropout)
            gate = grads["lstm.weight_hh_l0"][:task.hidden]
            gate *= 1e-6
            gate[row:row + 1] = 0
            return loss, grads, after
        model = build(task)
        patched(change)(model)
        return results(model, task, "training")

    cause = mismatch(made(SMALL, 3), made(SMALL, SMALL.hidden), "bf16")
    assert cause.startswith("m of lstm.weight_hh_l0 is 1 off")
