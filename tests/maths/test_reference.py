"""The engine against the naive reference, which is itself checked by finite differences; and against itself in pieces."""
import tracemalloc
from functools import partial

import numpy as np
import pytest
import reference
from conftest import batch, build
from hypothesis import given, settings, strategies as st

from rnncore import kernels
from rnncore.kernels.cpu import loops
from rnncore.nn import lstm, stack
from rnncore.nn.dropout import Dropout, fill_mask
from rnncore.nn.lstm import State

NEAR = 1e-10  # the largest difference measured, relative to the largest entry of its tensor, is 7e-15


def relative(a, b) -> float:
    """max |a - b| / max |b|."""
    assert a.shape == b.shape and np.isfinite(a).all() and np.isfinite(b).all()
    scale = abs(b).max()
    return float(abs(a - b).max() / scale) if scale else float(abs(a).max())


def masks_of(model, dropout, steps, n):
    """(L, T, H, N), as the engine makes them; None without dropout."""
    if dropout is None:
        return None
    masks = np.empty((model.config.layers, steps, model.config.hidden, n))
    for layer, mask in enumerate(masks):
        fill_mask(mask.swapaxes(0, 1), dropout, layer, 0, n)
    return masks


def engine(model, case, dropout=None) -> reference.Result:
    """What stack.py gives for the summed loss, in the reference's terms."""
    work = stack.Workspace(model.params, *case.x.shape)
    run, grads = stack.Pass(case.x, work, case.keep, dropout), model.params.like()
    work.begin(case.state)
    logits = stack.forward(model.params, run).swapaxes(0, 1).copy()
    model.kernel.softmax_cross_entropy(work.logits, case.y, work.loss)
    h, c = map(np.array, work.state(len(case.x)))
    initial = stack.backward(model.params, run, case.dstate)
    stack.sum_up(model.params, grads, [run])
    return reference.Result(work.loss.sum(), logits, h, c, dict(grads), None, *initial)


def naive(model, case, dropout=None) -> reference.Result:
    return reference.run(model.params, case.x, case.y, *case.state, case.keep, masks_of(model, dropout, *case.x.shape),
                         *case.dstate)


def differences(found: reference.Result, wanted: reference.Result) -> dict[str, float]:
    """Of everything but dx, which the engine does not keep."""
    pairs = {name: (np.asarray(getattr(found, name)), np.asarray(getattr(wanted, name)))
             for name in ("loss", "logits", "h", "c", "dh0", "dc0")}
    assert set(found.grads) == set(wanted.grads)
    return {name: relative(*pair) for name, pair in
            (pairs | {name: (grad, wanted.grads[name]) for name, grad in found.grads.items()}).items()}


def test_the_reference_itself_by_finite_differences():
    rng = np.random.default_rng(0)
    model = build(layers=2)
    case, tensors = batch(model, 4, 2, documents=True), dict(model.params)
    masks = rng.random((2, 4, 4, 2))
    embedded = tensors["embedding.weight"]

    def run():
        return reference.run(tensors, case.x, case.y, *case.state, case.keep, masks, *case.dstate)

    def loss():
        result = run()
        return result.loss + np.vdot(result.h, case.dstate.h) + np.vdot(result.c, case.dstate.c)

    right = run()
    arrays = tensors | {"h0": case.state.h, "c0": case.state.c}
    grads = right.grads | {"h0": right.dh0, "c0": right.dc0}
    for name, array in arrays.items():
        flat, numerical = array.reshape(-1), np.empty(array.size)
        for place in range(0, array.size, 3):
            value = flat[place]
            flat[place] = value + 1e-5
            above = loss()
            flat[place] = value - 1e-5
            numerical[place] = (above - loss()) / 2e-5
            flat[place] = value
        assert relative(grads[name].reshape(-1)[::3], numerical[::3]) < 1e-7, name  # 3e-9 measured
    summed = np.zeros_like(embedded)
    np.add.at(summed, case.x, right.dx.swapaxes(1, 2))
    np.testing.assert_allclose(summed, right.grads["embedding.weight"], atol=1e-12)


@pytest.mark.parametrize("rate, documents", [(0, False), (0.4, True)], ids=["plain", "dropout-documents"])
@pytest.mark.parametrize("vocab, embed, hidden, layers, steps, n", [
    (5, 3, 4, 3, 6, 4), (2, 1, 1, 2, 5, 3), (7, 5, 3, 2, 1, 5), (7, 2, 5, 3, 9, 1), (3, 2, 3, 1, 1, 1), (65, 8, 37, 2, 12, 3),
    (130, 2, 3, 1, 4, 7), (130, 2, 3, 1, 20, 14)])
def test_engine_and_reference_agree(vocab, embed, hidden, layers, steps, n, rate, documents):
    model = build(vocab, embed, hidden, layers, scale=0.7)
    case, dropout = batch(model, steps, n, documents), Dropout(rate, seed=3, step=2) if rate else None
    found, wanted = engine(model, case, dropout), naive(model, case, dropout)
    errors = differences(found, wanted)
    assert max(errors.values()) < NEAR, errors


@settings(derandomize=True, deadline=None, max_examples=30)
@given(st.integers(2, 9), st.integers(1, 5), st.integers(1, 9), st.integers(1, 3), st.integers(1, 7), st.integers(1, 6),
       st.sampled_from([0, 0.25, 0.9]), st.booleans(), st.integers(1, 4))
def test_the_training_step_and_reference_agree(vocab, embed, hidden, layers, steps, n, rate, documents, threads):
    """loss_and_grads of any sizes: mean loss, its gradients and the state, whatever the threads and the batch before."""
    model = build(vocab, embed, hidden, layers)
    model.threads = threads
    before = batch(model, steps + 2, n, seed=9)
    model.loss_and_grads(before.x, before.y, before.state)
    case, dropout = batch(model, steps, n, documents), Dropout(rate, seed=3, step=2) if rate else None
    loss, grads, state = model.loss_and_grads(case.x, case.y, case.state, keep=case.keep, dropout=dropout)
    wanted = naive(model, case._replace(dstate=State(0 * case.dstate.h, 0 * case.dstate.c)), dropout)
    assert abs(loss - wanted.loss / case.x.size) < NEAR
    assert relative(state.h, wanted.h) < NEAR and relative(state.c, wanted.c) < NEAR
    for name, grad in grads.items():
        assert relative(grad, wanted.grads[name] / case.x.size) < NEAR, name


def test_no_state_is_a_state_of_zeros():
    model = build()
    case = batch(model)
    zeros = State(*np.zeros((2, *case.state.h.shape)))
    results = []
    for state in (None, zeros):
        loss, grads, end = model.loss_and_grads(case.x, case.y, state)
        results.append([loss, *grads.flat, *end.h.flat, *end.c.flat])
    assert results[0] == results[1]
    assert not (zeros.h.any() or zeros.c.any())


@pytest.mark.parametrize("vocab", [5, 40], ids=["folded", "unfolded"])
def test_float32_is_close_to_float64(vocab):
    """Rounding is 6e-8; measured: 6e-7 at the most."""
    single, double = build(vocab, 8, 21, dtype="float32", scale=0.5), build(vocab, 8, 21, scale=0.5)
    double.params.flat[...] = single.params.flat
    case = batch(double, 15, 5, documents=True)
    results = []
    for model in (single, double):
        loss, grads, state = model.loss_and_grads(case.x, case.y, State(*(a.astype(model.dtype) for a in case.state)),
                                                  keep=case.keep, dropout=Dropout(0.2, 0, 0))
        assert {grads.flat.dtype, state.h.dtype, state.c.dtype} == {model.dtype} and isinstance(loss, float)
        results.append({**grads, "loss": np.array(loss), "h": state.h, "c": state.c})
    errors = {name: relative(results[0][name], wanted) for name, wanted in results[1].items()}
    assert 0 < max(errors.values()) < 4e-6, errors


@pytest.mark.parametrize("documents", [False, True], ids=["", "documents"])
def test_three_chunks_with_carried_state_equal_one_long_run(documents):
    """Losses, states and, with the gradient handed back from chunk to chunk, every gradient of the long run."""
    model = build(layers=3)
    case = batch(model, 12, 4, documents)
    whole = engine(model, case)
    edges, runs, state, losses = [(0, 3), (3, 8), (8, 12)], [], case.state, 0.0
    for a, b in edges:
        work = stack.Workspace(model.params, 5, 4)  # longer than two of them
        keep = None if case.keep is None else case.keep[a:b]
        run = stack.Pass(case.x[a:b], work, keep)
        work.begin(state)
        logits = stack.forward(model.params, run)
        np.testing.assert_allclose(logits.swapaxes(0, 1), whole.logits[a:b], atol=1e-12)
        model.kernel.softmax_cross_entropy(logits, case.y[a:b], work.loss[:b - a])
        losses += work.loss[:b - a].sum()
        state = State(*map(np.array, work.state(b - a)))
        runs.append(run)
    dstate, grads, part = case.dstate, np.zeros_like(model.params.flat), model.params.like()
    for run in reversed(runs):
        dstate = stack.backward(model.params, run, dstate)
        stack.sum_up(model.params, part, [run])
        grads += part.flat
    assert abs(losses - whole.loss) < 1e-11
    for found, wanted in ((state.h, whole.h), (state.c, whole.c), (dstate.h, whole.dh0), (dstate.c, whole.dc0),
                          (grads, np.concatenate([grad.ravel() for grad in whole.grads.values()]))):
        assert relative(found, wanted) < 1e-12


def test_the_models_three_ways_forward_agree():
    """loss_and_grads, losses and step, each with the state of the one before."""
    model = build(vocab_size=9)
    case = batch(model, 8, 3)
    loss, _, end = model.loss_and_grads(case.x, case.y, case.state)
    work = model.workspace(5, 3)
    first, state = model.losses(case.x[:5], case.y[:5], case.state, work)
    first = first.copy()
    second, state = model.losses(case.x[5:], case.y[5:], state, work)  # the state is a view of the same workspace
    np.testing.assert_allclose(loss, np.concatenate((first, second)).mean(), rtol=1e-13)
    np.testing.assert_allclose([np.array(state.h), np.array(state.c)], [end.h, end.c], atol=1e-13)
    state, stepped = case.state, np.empty((8, 3))
    for t, ids in enumerate(case.x):
        logits, state = model.step(ids, state)
        stepped[t] = np.log(np.exp(logits).sum(axis=0)) - logits[case.y[t], range(3)]
    np.testing.assert_allclose(loss, stepped.mean(), rtol=1e-13)
    np.testing.assert_allclose([state.h, state.c], [end.h, end.c], atol=1e-13)


def test_what_step_returns_is_the_callers():
    model = build()
    logits, state = model.step(np.array([1, 2]), None)
    kept = logits.copy(), state.h.copy(), state.c.copy()
    model.step(np.array([3, 4]), state)
    assert all((a == b).all() for a, b in zip((logits, *state), kept, strict=True))
    one = model.step([1], None)[0]
    np.testing.assert_allclose(one[:, 0], logits[:, 0], atol=1e-14)


def test_the_returned_state_is_a_copy_and_the_gradients_are_not():
    model = build()
    case, other = batch(model), batch(model, seed=8)
    given = State(*(a.copy() for a in case.state))
    _, grads, state = model.loss_and_grads(case.x, case.y, case.state)
    kept_grads, kept_state = grads.flat.copy(), State(*(a.copy() for a in state))
    _, again, _ = model.loss_and_grads(other.x, other.y, state)
    assert again is grads and not (grads.flat == kept_grads).any()
    assert (state.h == kept_state.h).all() and (state.c == kept_state.c).all()
    assert (case.state.h == given.h).all() and (case.state.c == given.c).all()  # what came in is not written to


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_shares_agree_and_the_same_shares_give_the_same_bits(dtype):
    results = {}
    for threads in (1, 2, 3, 7, 50):
        model = build(9, 4, 11, dtype=dtype, scale=0.5)
        model.threads = threads
        case = batch(model, 9, 7, documents=True)
        runs = []
        for _ in range(2):
            loss, grads, state = model.loss_and_grads(case.x, case.y, case.state, keep=case.keep, dropout=Dropout(0.3, 1, 5))
            runs.append(np.concatenate([[loss], grads.flat, state.h.ravel(), state.c.ravel()]))
        assert (runs[0] == runs[1]).all()
        results[threads] = runs[0]
    assert (results[7] == results[50]).all()  # never more shares than columns
    for found in results.values():  # measured: 2e-16 and 2e-7
        assert relative(found, results[1]) < (1e-13 if dtype == "float64" else 2e-6)


def test_sizes_may_change_from_call_to_call():
    model, fresh = build(), build()
    for threads, steps, n in ((1, 6, 4), (2, 6, 4), (2, 8, 4), (2, 3, 5), (3, 3, 2), (1, 3, 2), (1, 9, 2)):
        model.threads = threads
        case = batch(model, steps, n)
        found, wanted = (m.loss_and_grads(case.x, case.y, case.state) for m in (model, fresh))
        assert abs(found[0] - wanted[0]) < 1e-13 and relative(found[1].flat, wanted[1].flat) < 1e-12
        fresh = build()


def test_a_workspace_refuses_more_steps_than_it_holds():
    model = build()
    case = batch(model, 6, 4)
    with pytest.raises(ValueError, match=r"room for \(5, 4\), x is \(6, 4\)"):
        model.losses(case.x, case.y, None, model.workspace(5, 4))


@pytest.mark.parametrize("kind", [np.uint8, np.int32, np.int64, list])
def test_ids_may_be_of_any_integer_type(kind):
    model = build()
    case = batch(model)
    given = [a.tolist() if kind is list else a.astype(kind) for a in (case.x, case.y)]
    assert model.loss_and_grads(*given)[0] == model.loss_and_grads(case.x, case.y)[0]


def peak(function) -> int:
    """The most bytes that Python and NumPy held at once for function(), beyond those held before; the least of 3 calls."""
    function()  # what is made once is made now
    peaks = []
    tracemalloc.start()
    for _ in range(3):
        tracemalloc.reset_peak()
        before = tracemalloc.get_traced_memory()[0]
        function()
        peaks.append(tracemalloc.get_traced_memory()[1] - before)
    tracemalloc.stop()
    return min(peaks)


@pytest.mark.parametrize("dtype, documents", [("float32", True), ("float64", False)], ids=["float32-documents", "float64"])
def test_the_time_loop_of_numpy_allocates_nothing(dtype, documents):
    """forward and backward over 240 steps of (64, 32) hold no more at their peak than over 96; NumPy's own buffer is 64 KB."""
    peaks = []
    for steps in (96, 240):
        model = build(8, 5, 64, 1, dtype, scale=0.1)
        case = batch(model, steps, 32, documents)
        work = stack.Workspace(model.params, steps, 32, path=kernels.host.Eager(dtype, lambda: None))
        weights, dy = lstm.layer(model.params, 0), np.ones((64, steps, 32), dtype)
        work.caches[0].gates[...] = 0.1
        work.caches[0].h[:, 0] = work.caches[0].c[:, 0] = 0
        (gates, h, c), keep, (dh, dc), layer = work.caches[0], case.keep, np.zeros((2, 64, 32), dtype), work.layers.layer
        peaks += [peak(partial(layer.forward, weights, None, gates, h, c, keep)),
                  peak(partial(layer.backward, weights, gates, c, keep, dy, dh, dc, None))]
    forward, backward, forward_longer, backward_longer = peaks
    assert forward < 80_000 and forward_longer < forward + 4_000, peaks
    # `factors` takes BLOCK numbers at a time; two such arrays, and what NumPy itself buffers
    assert backward < 16 * loops.BLOCK + 200_000 and backward_longer < backward + 4_000, peaks


@pytest.mark.parametrize("dtype, documents", [("float32", False), ("float64", True)], ids=["float32", "float64-documents"])
def test_the_time_loop_of_lstm_py_holds_no_more_than_one_step_s_numbers(dtype, documents):
    """forward and backward over 240 steps of (64, 32) hold no more at their peak than over 96; NumPy's own buffer is 64 KB."""
    peaks, of_a_gate = [], 64 * 32 * np.dtype(dtype).itemsize
    for steps in (96, 240):
        model = build(8, 5, 64, 1, dtype, scale=0.1)
        case = batch(model, steps, 32, documents)
        work = stack.Workspace(model.params, steps, 32)
        weights, dy = lstm.layer(model.params, 0), np.ones((64, steps, 32), dtype)
        work.caches[0].gates[...] = 0.1
        work.caches[0].h[:, 0] = work.caches[0].c[:, 0] = 0
        (gates, h, c), keep, (dh, dc) = work.caches[0], case.keep, np.zeros((2, 64, 32), dtype)
        peaks += [peak(partial(lstm.forward, weights, None, gates, h, c, keep)),
                  peak(partial(lstm.backward, weights, gates, c, keep, dy, dh, dc))]
    forward, backward, forward_longer, backward_longer = peaks
    assert forward < 20 * of_a_gate + 80_000 and forward_longer < forward + 4_000, peaks
    assert backward < 16 * of_a_gate + 80_000 and backward_longer < backward + 4_000, peaks
