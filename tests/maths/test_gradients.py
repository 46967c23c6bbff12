"""Every output of every backward against central differences of the forward, in float64: the spine of these tests.

    numerical = sum(L(a + eps) - L(a - eps)) / (2 eps), eps = 1e-5
    error     = max |analytic - numerical| / max(|analytic|, |numerical|), the maxima over all entries of one tensor

The loss is an array of terms, and the differences are summed, not the terms: so rounding costs the fewest digits. Every
entry is moved; of a large tensor, the entries with the largest gradients and an even sample of the rest.
"""
import numpy as np
import pytest
from conftest import Case, batch, build

from rnncore import kernels
from rnncore.kernels.cpu import loops, native
from rnncore.measure import gradcheck
from rnncore.nn import embedding, head, lstm, stack
from rnncore.nn.dropout import Dropout

EPS = 1e-5
BOUND = 1e-7   # the largest error measured in this file is 1.5e-8; a wrong gradient's is 1e-2 to 1
FEW = 40       # entries up to which all are moved, and about as many beyond

pytestmark = pytest.mark.usefixtures("masks_once")
needs_compiler = pytest.mark.skipif(native.compiler() is None, reason="no C++ compiler (c++, g++, clang++) on this machine")
SHAPES = [
    # V, E, H, L, T, N
    pytest.param(5, 3, 4, 1, 6, 4, id="one-layer"),
    pytest.param(5, 3, 4, 2, 6, 4, id="two-layers"),
    pytest.param(5, 3, 4, 3, 6, 4, id="three-layers"),
    pytest.param(2, 1, 1, 2, 5, 3, id="H1-E1-V2"),
    pytest.param(7, 5, 3, 2, 1, 5, id="T1"),
    pytest.param(7, 2, 5, 3, 9, 1, id="N1"),
    pytest.param(3, 2, 3, 1, 1, 1, id="T1-N1"),
    pytest.param(11, 4, 33, 1, 4, 2, id="H33"),
    pytest.param(30, 6, 3, 1, 4, 7, id="unfolded"),
    pytest.param(130, 2, 3, 1, 4, 7, id="unfolded-sorted-scatter"),
    pytest.param(130, 2, 3, 1, 10, 26, id="folded-sorted-scatter"),
]


def error_of(loss, array, analytic, few=FEW) -> float:
    """The error of `analytic`, the gradient of the sum of loss() at `array`, which is moved in place and put back.

    inf where a number is not finite.
    """
    assert array.shape == analytic.shape
    flat, analytic = array.flat, np.array(analytic).reshape(-1)  # `flat` writes into the array, whatever its order
    places = np.arange(array.size)
    if array.size > few:
        places = np.union1d(places[::2 * array.size // few], np.argsort(-abs(analytic))[:few // 2])
    numerical = np.empty(len(places))
    for k, place in enumerate(places):
        value = flat[place]
        flat[place] = value + EPS
        above = loss()
        flat[place] = value - EPS
        numerical[k] = np.sum(above - loss()) / (2 * EPS)
        flat[place] = value
    analytic = analytic[places]
    if not (np.isfinite(analytic).all() and np.isfinite(numerical).all()):
        return np.inf
    scale = max(abs(analytic).max(), abs(numerical).max())
    return abs(analytic - numerical).max() / scale if scale else 0.0


def lanes(array) -> np.ndarray:
    """A copy in the processor's order of memory: the numbers along the first axis are neighbours."""
    made = kernels.host.activations(array.shape, 0, array.dtype)
    made[...] = array
    return made


def poison(work: stack.Workspace) -> None:
    """Fill every buffer with nan, so that what is read before it is written shows."""
    for array in (*(a for cache in work.caches for a in cache), *work.embedding, work.logits, work.loss, work.dy,
                  *work.masks, *work.dropped, *work.kept, *work.initial,
                  *(own for own in vars(work.layers.layer).values() if isinstance(own, np.ndarray))):
        if array is not None:
            array[...] = np.nan


def objective(model, case: Case, dropout, work) -> np.ndarray:
    """The terms of the loss: every prediction's, and a part of the last state, so that dstate is the gradient there.

    Leaves the gradient at the logits in work.
    """
    work.begin(case.state)
    loss = stack.losses(model.params, stack.Pass(case.x, work, case.keep, dropout, case.y))
    h, c = work.state(len(case.x))
    return np.concatenate([a.ravel() for a in (loss, h * case.dstate.h, c * case.dstate.c)])


def stack_errors(model, case: Case, dropout=None, work=None, few=FEW) -> dict[str, float]:
    """The error of every parameter's gradient and of h0's and c0's, by name."""
    if work is None:
        work = stack.Workspace(model.params, *case.x.shape)
        poison(work)
    objective(model, case, dropout, work)
    initial, found = backward(model, case, dropout, work)
    grads = {**found, "h0": initial.h, "c0": initial.c}
    arrays = {**model.params, "h0": case.state.h, "c0": case.state.c}
    return {name: error_of(lambda: objective(model, case, dropout, work), array, grads[name], few)
            for name, array in arrays.items()}


def backward(model, case: Case, dropout, work, dstate="the case's") -> tuple:
    """(the gradient at the initial state, the parameters' gradients, written over nan) after `objective`."""
    run, grads = stack.Pass(case.x, work, case.keep, dropout), model.params.like()
    grads.flat[...] = np.nan
    initial = stack.backward(model.params, run, case.dstate if dstate else None)
    stack.sum_up(model.params, grads, [run])
    return initial, grads


@pytest.mark.parametrize("vocab, embed, hidden, layers, steps, n", SHAPES)
def test_all_gradients_of_the_stack_with_dropout_and_documents(vocab, embed, hidden, layers, steps, n):
    check_stack(build(vocab, embed, hidden, layers), steps, n, 0.4, True)


@pytest.mark.parametrize("rate, documents", [(0, False), (0.4, False), (0, True)], ids=["plain", "dropout", "documents"])
@pytest.mark.parametrize("vocab", [5, 30], ids=["folded", "unfolded"])
def test_all_gradients_of_the_stack_without_one_of_them(vocab, rate, documents):
    check_stack(build(vocab), 6, 4, rate, documents)


def check_stack(model, steps, n, rate, documents):
    case = batch(model, steps, n, documents)
    errors = stack_errors(model, case, Dropout(rate, seed=3, step=2) if rate else None)
    assert len(errors) == 3 * model.config.layers + 5 and max(errors.values()) < BOUND, errors


def test_the_shapes_take_every_path():
    paths = {(embedding.folded(v, t * n), v <= 128) for v, _, _, _, t, n in (shape.values for shape in SHAPES)}
    assert paths == {(folded, onehot) for folded in (True, False) for onehot in (True, False)}


@pytest.mark.parametrize("vocab, rate", [(5, 0.4), (12, 0)], ids=["folded-dropout", "unfolded"])
def test_a_short_run_in_the_workspace_of_a_longer_one(vocab, rate):
    model = build(vocab)
    dropout = Dropout(rate, seed=3, step=2) if rate else None
    work = stack.Workspace(model.params, 9, 4)
    poison(work)
    long = batch(model, 9, 4, documents=True)
    objective(model, long, dropout, work)
    backward(model, long, dropout, work)
    errors = stack_errors(model, batch(model, 4, 4, documents=True, seed=5), dropout, work)
    assert max(errors.values()) < BOUND, errors


def test_without_dstate_the_gradient_is_that_of_the_loss_alone():
    model = build()
    case = batch(model)
    case = case._replace(dstate=lstm.State(0 * case.dstate.h, 0 * case.dstate.c))
    work = stack.Workspace(model.params, *case.x.shape)
    results = []
    for dstate in (case.dstate, None):
        poison(work)
        objective(model, case, None, work)
        initial, grads = backward(model, case._replace(keep=None), None, work, dstate)
        results.append(np.concatenate([a.ravel() for a in (grads.flat, *initial)]))
    assert (results[0] == results[1]).all() and np.isfinite(results[0]).all()


@pytest.mark.parametrize("threads, vocab", [(1, 16), (2, 5), (3, 16)], ids=["1-unfolded", "2-folded", "3-unfolded"])
def test_all_gradients_where_threads_share_the_columns(threads, vocab):
    """Five columns in shares of 5, of 2 and 3, of 1, 2 and 2."""
    model = build(vocab)
    model.threads = threads
    errors = step_errors(model, batch(model, 6, 5, documents=True), Dropout(0.3, seed=3, step=2), few=12)
    assert len(errors) == len(model.params) and max(errors.values()) < BOUND, errors


def step_errors(model, case: Case, dropout=None, few=20) -> dict[str, float]:
    """Of loss_and_grads: the errors of the gradients of the mean loss that it returns, by name."""
    def run():
        return model.loss_and_grads(case.x, case.y, case.state, keep=case.keep, dropout=dropout)

    grads = {name: grad.copy() for name, grad in run()[1].items()}
    return {name: error_of(lambda: run()[0], model.params[name], grad, few) for name, grad in grads.items()}


@pytest.mark.parametrize("documents", [False, True], ids=["", "documents"])
@pytest.mark.parametrize("size, hidden, steps, n", [(3, 4, 5, 2), (5, 1, 4, 3), (1, 3, 1, 2), (2, 5, 7, 1), (7, 33, 3, 2)])
@pytest.mark.parametrize("kind", ["lstm.py", "numpy", pytest.param("compiled", marks=needs_compiler)])
def test_all_gradients_of_one_layer(size, hidden, steps, n, documents, kind):
    """forward and backward on their own: x or z, all weights, h0 and c0, any gradient from above.

    kind: by lstm.py, by NumPy's loops, or by those of host.cpp and gates.cuh, in doubles.
    """
    layer, rng = the_layer(kind, hidden, steps, n), np.random.default_rng(7)
    w = lstm.Weights(*(rng.standard_normal(shape) for shape in ((4 * hidden, size), (4 * hidden, hidden), 4 * hidden)))
    x, dx = map(lanes, rng.standard_normal((2, size, steps, n)))
    dy = lanes(rng.standard_normal((hidden, steps, n)))
    h0, c0, *dstate = map(lanes, rng.standard_normal((4, hidden, n)))
    keep = (rng.random((steps, n)) < 0.6).astype(float) if documents else None
    dz = np.zeros((4 * hidden, steps, n))  # moved to see dL/dz
    cache = lstm.Cache(*(lanes(np.full((rows, steps + k, n), np.nan))
                         for k, rows in ((0, 4 * hidden), (1, hidden), (1, hidden))))
    grads = lstm.Weights(*(np.full_like(a, np.nan) for a in w))

    def loss():
        kernels.host.affine(w.w_ih, w.bias, lstm.columns(x), lstm.columns(cache.z))
        cache.z[...] += dz
        cache.h[:, 0], cache.c[:, 0] = h0, c0
        layer.forward(w, None if dz.any() else x, *cache, keep)
        return np.concatenate([a.ravel() for a in (cache.h[:, 1:] * dy, cache.h[:, -1] * dstate[0], cache.c[:, -1] * dstate[1])])

    loss()
    dh0, dc0 = lanes(dstate[0]), lanes(dstate[1])
    layer.backward(w, cache.gates, cache.c, keep, dy, dh0, dc0, dx)
    dz_found = cache.dz.copy()
    for gradient, a, b in lstm.sums(grads, x, cache.dz, cache.h[:, :-1] if keep is None else cache.h[:, :-1] * keep):
        gradient[...] = a.sum(axis=1) if b is None else a @ b.T
    pairs = {"x": (x, dx), "z": (dz, dz_found), "h0": (h0, dh0), "c0": (c0, dc0),
             **{name: pair for name, *pair in zip(w._fields, w, grads, strict=True)}}
    errors = {name: error_of(loss, array, grad) for name, (array, grad) in pairs.items()}
    assert max(errors.values()) < BOUND, errors


def the_layer(kind, *sizes):
    """What runs a layer of these sizes (H, T, N) in float64."""
    return {"lstm.py": lambda: lstm, "numpy": lambda: loops.Loops(*sizes, np.dtype("float64")),
            "compiled": lambda: native.Recurrence(native.build("float64"), "float64")}[kind]()


@pytest.mark.parametrize("kind", ["lstm.py", "numpy", pytest.param("compiled", marks=needs_compiler)])
def test_dx_is_written_where_it_is_wanted_and_may_be_dy(kind):
    rng, steps, hidden, n = np.random.default_rng(7), 4, 3, 5
    w = lstm.Weights(*(rng.standard_normal(shape) for shape in ((12, 3), (12, 3), 12)))
    x, dy = map(lanes, rng.standard_normal((2, hidden, steps, n)))
    layer, found = the_layer(kind, hidden, steps, n), []
    for wanted in ("none", "beside", "onto"):
        cache = lstm.Cache(*map(lanes, (np.empty((12, steps, n)), *np.zeros((2, hidden, steps + 1, n)))))
        layer.forward(w, x, *cache, None)
        above = lanes(dy)
        dx = {"none": None, "beside": np.empty_like(x), "onto": above}[wanted]
        layer.backward(w, cache.gates, cache.c, None, above, *map(lanes, np.zeros((2, hidden, n))), dx)
        assert wanted == "onto" or (above == dy).all()
        found.append((cache.gates, dx))
    (without, _), (beside, dx), (onto, over) = found
    assert (without == beside).all() and (without == onto).all() and (dx == over).all()


@pytest.mark.parametrize("fold", [True, False], ids=["folded", "unfolded"])
@pytest.mark.parametrize("vocab", [4, 140], ids=["", "sorted-scatter"])
def test_all_gradients_of_the_embedding(vocab, fold):
    """Over two shares of a batch, and the folded one's rows in three parts."""
    rng = np.random.default_rng(7)
    table, steps, n, size, hidden = rng.standard_normal((vocab, 3)), 5, 4, 3, 2
    w = lstm.Weights(rng.standard_normal((4 * hidden, size)), None, rng.standard_normal(4 * hidden))
    ids = rng.integers(0, vocab, (2, steps, n))
    gates, dgates = np.full((2, 4 * hidden, steps, n), np.nan), rng.standard_normal((2, 4 * hidden, steps, n))
    buffers = [embedding.Buffers(np.full((size, steps, n), np.nan), np.full((4 * hidden, vocab), np.nan), None)
               for _ in range(2)]

    def loss():
        for share in range(2):
            x = embedding.forward(table, w, ids[share], fold, gates[share], buffers[share])
            if x is not None:
                np.testing.assert_array_equal(x, table[ids[share]].transpose(2, 0, 1))
                kernels.host.affine(w.w_ih, w.bias, lstm.columns(x), lstm.columns(gates[share]))
        return gates * dgates

    loss()
    found, grads = np.full_like(table, np.nan), lstm.Weights(np.full_like(w.w_ih, np.nan), None, np.full_like(w.bias, np.nan))
    shares = [embedding.Share(some, lstm.columns(dz), mine) for some, dz, mine in zip(ids, dgates, buffers, strict=True)]
    dtable = np.full((4 * hidden, vocab), np.nan) if fold else None
    for rows in (slice(0, 3), slice(3, 5), slice(5, 8)) if fold else ():
        embedding.scatter_rows(table, dtable, grads, rows, shares)
    embedding.backward(found, w, dtable, shares)
    pairs = {"table": (table, found), "w_ih": (w.w_ih, grads.w_ih), "bias": (w.bias, grads.bias)}
    errors = {name: error_of(loss, *pair) for name, pair in pairs.items() if fold or name == "table"}
    assert max(errors.values()) < BOUND, errors
    assert fold or np.isnan(grads.w_ih).all() and np.isnan(grads.bias).all()  # the layer's, which has x as its input


def test_all_gradients_of_the_head_and_the_loss():
    rng = np.random.default_rng(7)
    vocab, hidden, steps, n = 6, 3, 4, 5
    weight, bias = rng.standard_normal((vocab, hidden)), rng.standard_normal(vocab)
    y, targets = rng.standard_normal((hidden, steps, n)), rng.integers(0, vocab, (steps, n))
    dz, logits, losses = np.zeros((vocab, steps, n)), np.empty((vocab, steps, n)), np.empty((steps, n))

    def loss():
        head.forward(weight, bias, y, logits)
        logits[...] += dz
        kernels.host.softmax_cross_entropy(logits, targets, losses)
        return losses.copy()

    loss()
    dlogits = logits.copy()
    dweight, dbias, dy = (np.full_like(a, np.nan) for a in (weight, bias, y))
    head.backward(weight, logits, dy)
    for gradient, a, b in head.sums(dweight, dbias, y, logits):
        gradient[...] = a.sum(axis=1) if b is None else a @ b.T
    pairs = {"weight": (weight, dweight), "bias": (bias, dbias), "y": (y, dy), "logits": (dz, dlogits)}
    errors = {name: error_of(loss, *pair) for name, pair in pairs.items()}
    assert max(errors.values()) < BOUND, errors


@pytest.mark.parametrize("dropout, documents", [
    (None, False), (Dropout(0.4, 1, 0), True), (Dropout(0.3, 1, 0, True, 0.4), True)],
    ids=["plain", "dropout-documents", "variational-weight-drop-documents"])
def test_the_users_gradient_check_passes_right_gradients(dropout, documents):
    model = build()
    before = model.params.flat.copy()
    most = 20 if dropout else 200  # 200 by default
    rows = list(gradcheck.check_gradients(model, gradcheck.random_case(model, 6, 4, dropout, documents), *[most] * bool(dropout)))
    assert [row.name for row in rows] == [*model.params, "h0", "c0"]
    assert max(row.error for row in rows) < BOUND and (model.params.flat == before).all()
    assert all(row.checked == min(row.size, most) for row in rows)


@pytest.mark.parametrize("name", ["embedding.weight", "lstm.weight_hh_l1", "c0"])
def test_the_users_gradient_check_finds_a_wrong_gradient(name, monkeypatch):
    right = stack.backward, stack.sum_up

    def backward(*arguments):
        state = right[0](*arguments)
        if name == "c0":
            state.c[...] *= 1.01
        return state

    def sum_up(params, grads, shares, each):
        right[1](params, grads, shares, each)
        if name != "c0":
            grads[name][...] *= 1.01

    monkeypatch.setattr(stack, "backward", backward)
    monkeypatch.setattr(stack, "sum_up", sum_up)
    model = build()
    rows = gradcheck.check_gradients(model, gradcheck.random_case(model, 6, 4), most=10)
    assert [row.name for row in rows if row.error > gradcheck.TOLERANCE] == [name]


@needs_compiler
@pytest.mark.parametrize("wrong", [False, True], ids=["", "wrong"])
def test_the_users_gradient_check_holds_what_trains_here_to_lstm_py(wrong, monkeypatch):
    """A step's worth of one gradient too much in the compiled backward is found."""
    right = native.Recurrence.backward

    def backward(self, w, gates, *others):
        right(self, w, gates, *others)
        gates[:, 0] *= 1 + 1e-5 * wrong

    monkeypatch.setattr(native.Recurrence, "backward", backward)
    model = build()
    found = gradcheck.check_forms(model, gradcheck.random_case(model, 6, 4, Dropout(0.3, 0, 1, True), documents=True))
    assert list(found) == ["NumPy's loops", "compiled loops"] and found["NumPy's loops"] < 1e-13
    assert (found["compiled loops"] > gradcheck.TOLERANCE) == wrong and (wrong or found["compiled loops"] < 1e-13)


def test_an_error_that_is_not_a_number_is_none_that_passes():
    one, nan = np.ones(2), np.array([1, np.nan])
    assert gradcheck.relative_error(nan, one) == np.inf and gradcheck.relative_error(one, nan) == np.inf
    assert gradcheck.relative_error(0 * one, 0 * one) == 0 and gradcheck.relative_error(one, 0 * one) == 1
