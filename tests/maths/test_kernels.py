"""kernels.cpu function by function against plain formulas: what is written, what is not, and numbers at the edge."""
import contextlib

import numpy as np
import pytest
import reference
from hypothesis import given, settings, strategies as st

from rnncore import kernels
from rnncore.kernels import devices, host
from rnncore.kernels.cpu import loops, updates as cpu_updates
from rnncore.random import Purpose, counter, key

quick = settings(derandomize=True, deadline=None, max_examples=40)
dtypes = pytest.mark.parametrize("dtype", ["float32", "float64"])
TOLERANCE = {"float32": 2e-6, "float64": 1e-14}  # measured, relative to 1 + |wanted|: 2e-7 and 2e-16


@contextlib.contextmanager
def untouched(*arrays):
    before = [np.array(a) for a in arrays]
    yield
    assert all((a == b).all() for a, b in zip(arrays, before, strict=True))


def gates_problem(dtype, hidden=5, n=3, steps=4, seed=0, documents=True):
    """gates (T, 4H, N), recurrent (T, 4H, N), c (T+1, H, N), keep (T, N) or None."""
    rng = np.random.default_rng(seed)
    keep = (rng.random((steps, n)) < 0.6).astype(dtype) if documents else None
    gates, recurrent = rng.standard_normal((2, steps, 4 * hidden, n)).astype(dtype)
    return gates, recurrent, rng.standard_normal((steps + 1, hidden, n)).astype(dtype), keep


def assert_close(found, wanted, dtype):
    assert found.dtype == dtype
    np.testing.assert_allclose(found, wanted, rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype])


@dtypes
@pytest.mark.parametrize("documents", [False, True], ids=["", "documents"])
def test_gates_forward_equals_the_formulas(dtype, documents):
    gates, recurrent, c_prev, keep = (a[0] if a is not None else None for a in gates_problem(dtype, documents=documents))
    z = (gates.astype(float) + recurrent).reshape(4, 5, 3)
    i, f, g, o = reference.sigmoid(z[0]), reference.sigmoid(z[1]), np.tanh(z[2]), reference.sigmoid(z[3])
    wanted_c = i * g + f * c_prev * (1 if keep is None else keep)
    c, h = np.full((2, 5, 3), np.nan, dtype)
    apart = np.full_like(gates, np.nan)
    with untouched(gates, recurrent, c_prev, *([keep] if documents else [])):
        host.gates_forward(gates, recurrent, c_prev, keep, apart, c, h)
    assert_close(apart, np.concatenate((i, f, g, o)), dtype)
    assert_close(c, wanted_c, dtype)
    assert_close(h, o * np.tanh(wanted_c), dtype)
    onto, cell = gates.copy(), c_prev.copy()
    host.gates_forward(onto, recurrent, cell, keep, onto, cell, h)  # z and gates one array, c_prev and c another
    assert (onto == apart).all() and (cell == c).all()


@dtypes
@pytest.mark.parametrize("large", [1e2, 1e4, 1e30])
def test_gates_forward_at_the_edge(dtype, large):
    """Saturated gates are 0, 1 and -1, never nan: no exponential overflows."""
    gates = np.array([[large, -large], [large, -large], [large, -large], [large, -large]], dtype)
    c_prev, (c, h) = np.array([[2, 3]], dtype), np.full((2, 1, 2), np.nan, dtype)
    with np.errstate(all="raise", under="ignore"):
        host.gates_forward(gates, np.zeros_like(gates), c_prev, None, gates, c, h)
    assert gates.tolist() == [[1, 0], [1, 0], [1, -1], [1, 0]]
    assert c.tolist() == [[3, 0]] and abs(h[0, 0] - np.tanh(3)) < 1e-6 and h[0, 1] == 0


def test_a_number_that_is_not_one_is_handed_on():
    gates, (c, h) = np.zeros((4, 2)), np.zeros((2, 1, 2))
    gates[2, 1] = np.nan
    host.gates_forward(gates, np.zeros_like(gates), np.zeros((1, 2)), None, gates, c, h)
    assert np.isnan(c[0, 1]) and np.isnan(h[0, 1]) and c[0, 0] == 0


@dtypes
@pytest.mark.parametrize("documents", [False, True], ids=["", "documents"])
def test_gates_backward_equals_the_formulas(dtype, documents):
    z, _, c, keep = (a if a is None else a[:2] for a in gates_problem(dtype, documents=documents))
    gates, (c_prev, c), keep = z[0] / 2 + 0.4, c, None if keep is None else keep[0]
    i, f, g, o = gates.astype(float).reshape(4, 5, 3)
    dh, dc = np.random.default_rng(1).standard_normal((2, 5, 3)).astype(dtype)
    kept, tanh_c, dz = 1 if keep is None else keep, np.tanh(c.astype(float)), np.full_like(gates, np.nan)
    dc_all = dc + dh * o * (1 - tanh_c ** 2)
    wanted = np.concatenate((dc_all * g * i * (1 - i), dc_all * kept * c_prev * f * (1 - f), dc_all * i * (1 - g ** 2),
                             dh * tanh_c * o * (1 - o)))
    onto, dc_onto = gates.copy(), dc.copy()
    with untouched(gates, c_prev, c, dh, *([keep] if documents else [])):
        host.gates_backward(gates, c_prev, c, keep, dh, dc, dz)
    assert_close(dz, wanted, dtype)
    assert_close(dc, dc_all * f * kept, dtype)
    host.gates_backward(onto, c_prev, c, keep, dh, dc_onto, onto)  # gates and dz one array
    assert (onto == dz).all() and (dc_onto == dc).all()


@dtypes
@pytest.mark.parametrize("documents", [False, True], ids=["", "documents"])
@pytest.mark.parametrize("block", [1 << 16, 31, 1], ids=["all-at-once", "two-steps-at-a-time", "one-step-at-a-time"])
def test_factors_and_a_step_backward_are_the_gradient(dtype, documents, block, monkeypatch):
    """factors and backward together are the textbook's gradient, for several steps, however they are cut."""
    monkeypatch.setattr(loops, "BLOCK", block)
    z, _, c, keep = gates_problem(dtype, steps=5, documents=documents)
    gates = z / 2 + 0.4
    i, f, g, o = gates.astype(float).reshape(5, 4, 5, 3).swapaxes(0, 1)
    rng = np.random.default_rng(1)
    dh, dc = rng.standard_normal((2, 5, 5, 3)).astype(dtype)
    through, carry = np.full((2, 5, 5, 3), np.nan, dtype)
    with untouched(c, *([keep] if documents else [])):
        loops.factors(gates, c, keep, through, carry)
    kept = 1 if keep is None else keep[:, None]
    tanh_c = np.tanh(c[1:].astype(float))
    assert_close(through, o * (1 - tanh_c ** 2), dtype)
    assert_close(carry, f * kept, dtype)
    dc_all = dc + dh * o * (1 - tanh_c ** 2)
    wanted = np.stack((dc_all * g * i * (1 - i), dc_all * kept * c[:-1] * f * (1 - f), dc_all * i * (1 - g ** 2),
                       dh * tanh_c * o * (1 - o)), axis=1).reshape(5, 20, 3)
    wanted_dc = dc_all * f * kept
    for t in range(5):
        with untouched(through[t], carry[t]):
            loops.step_backward(gates[t], through[t], carry[t], dh[t], dc[t])
    assert_close(gates, wanted, dtype)
    assert_close(dc, wanted_dc, dtype)


@dtypes
def test_softmax_cross_entropy_equals_the_formula(dtype):
    rng = np.random.default_rng(0)
    logits, targets = 3 * rng.standard_normal((6, 4, 5)).astype(dtype), rng.integers(0, 6, (4, 5))
    loss, given = np.full((4, 5), np.nan, dtype), logits.astype(float)
    with untouched(targets):
        host.softmax_cross_entropy(logits, targets, loss)
    for t, n in np.ndindex(4, 5):
        wanted, dz = reference.cross_entropy(given[:, t, n], targets[t, n])
        assert_close(loss[t, n], wanted, dtype)
        assert_close(logits[:, t, n], dz, dtype)


@dtypes
@pytest.mark.parametrize("large", [1e4, 1e30])
def test_softmax_cross_entropy_of_huge_logits(dtype, large):
    logits = np.array([[[large, 0]], [[-large, large]], [[0, 0]]], dtype)
    loss = np.empty((1, 2), dtype)  # (V, T, N) = (3, 1, 2): one column whose target is likely, one whose is not
    with np.errstate(all="raise", under="ignore"):
        host.softmax_cross_entropy(logits, np.array([[0, 0]]), loss)
    assert loss[0, 0] == 0 and loss[0, 1] == dtype_of(large, dtype)
    assert logits[:, 0, 0].tolist() == [0, 0, 0] and logits[:, 0, 1].tolist() == [-1, 1, 0]


def dtype_of(value, dtype):
    return np.array(value, dtype)[()]


def test_equal_logits_are_a_fair_die():
    logits, loss = np.full((6, 1, 1), 7.0), np.empty((1, 1))
    host.softmax_cross_entropy(logits, np.array([[2]]), loss)
    assert loss[0, 0] == pytest.approx(np.log(6), rel=1e-15)
    np.testing.assert_allclose(logits[:, 0, 0], [1 / 6, 1 / 6, 1 / 6 - 1, 1 / 6, 1 / 6, 1 / 6], rtol=1e-15)


@dtypes
@pytest.mark.parametrize("kind", [np.int64, np.uint8])
def test_gather_copies_the_columns_of_the_ids(dtype, kind):
    rng = np.random.default_rng(0)
    table, ids = rng.standard_normal((7, 11)).astype(dtype), rng.integers(0, 11, (4, 3)).astype(kind)
    out = np.full((7, 4, 3), np.nan, dtype)
    with untouched(table, ids):
        host.gather(table, ids, out)
    assert all((out[:, t, n] == table[:, ids[t, n]]).all() for t, n in np.ndindex(4, 3))


@quick
@given(st.sampled_from([1, 2, 128, 129, 300]), st.integers(1, 5), st.integers(1, 9), st.integers(1, 9), st.integers(0, 99))
def test_scatter_add_is_numpys_add_at(symbols, rows, steps, n, seed):
    """Both ways: a one-hot product up to 128 symbols, sorted sums above."""
    rng = np.random.default_rng(seed)
    table, columns = rng.standard_normal((rows, symbols)), rng.standard_normal((rows, steps * n))
    ids = rng.integers(0, min(symbols, 1 + seed), (steps, n))
    wanted = table.copy()
    for row, add in zip(wanted, columns, strict=True):
        np.add.at(row, ids.ravel(), add)
    with untouched(ids, columns):
        host.scatter_add(table, ids, columns)
    np.testing.assert_allclose(table, wanted, rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("symbols", [100, 200])
def test_scatter_add_writes_through_a_transposed_table_in_one_order(symbols):
    rng = np.random.default_rng(0)
    columns, ids = rng.standard_normal((4, 60)).astype(np.float32), rng.integers(0, symbols, (12, 5))
    tables = [np.zeros((symbols, 4), np.float32) for _ in range(2)]
    for table in tables:
        host.scatter_add(table.T, ids, columns)
    wanted = np.zeros((symbols, 4))
    np.add.at(wanted, ids.ravel(), columns.T.astype(float))
    np.testing.assert_allclose(tables[0], wanted, atol=1e-6)
    assert (tables[0] == tables[1]).all()


PACE = 0.1 / (1 - 0.9 ** 3), (1 - 0.99 ** 3) ** -0.5  # of step 3


@dtypes
@pytest.mark.parametrize("size", [1, 7, 8, 23])
def test_adam_gives_the_same_in_blocks_of_any_size(dtype, size, monkeypatch):
    """Buffers shorter than a block, of one, and of several with a rest are updated the same."""
    monkeypatch.setattr(cpu_updates, "BLOCK", 8)
    rng = np.random.default_rng(0)
    param, grad, m = rng.standard_normal((3, size)).astype(dtype)
    v = rng.random(size).astype(dtype)
    wanted = [reference.adam(*map(float, numbers), 0.1, 0.9, 0.99, 1e-8, 3)
              for numbers in zip(param, 0.5 * grad, m, v, strict=True)]
    with untouched(grad):
        host.adam(param, grad, m, v, *PACE, 0.9, 0.99, 1e-8, 0.5)
    for found, expected in zip((param, m, v), zip(*wanted, strict=True), strict=True):
        assert_close(found, expected, dtype)


def test_adam_of_more_than_a_block():
    size = cpu_updates.BLOCK + 3
    rng = np.random.default_rng(0)
    param, grad, m = rng.standard_normal((3, size))
    v = rng.random(size)
    given = np.stack((param, grad, m, v))
    host.adam(param, grad, m, v, *PACE, 0.9, 0.99, 1e-8, 1.0)
    p, new_m, new_v = reference.adam(*given, 0.1, 0.9, 0.99, 1e-8, 3)
    for found, wanted in ((param, p), (m, new_m), (v, new_v)):
        np.testing.assert_allclose(found, wanted, rtol=1e-12, atol=1e-14)


def mask(rate=0.4, shape=(5, 16, 6), dtype="float64", seed=3, step=2, layer=1, first=0, columns=None):
    out = np.full(shape, np.nan, dtype)
    host.dropout_mask(out, rate, counter(Purpose.DROPOUT, step, layer), key(seed), first, columns or shape[2])
    return out


@pytest.mark.parametrize("hidden, eights", [(1, 1), (8, 1), (11, 2), (16, 2)])
def test_a_mask_is_16_bits_of_the_counter(hidden, eights):
    """What a seed, a step and a layer drop is part of what they mean: this is the definition."""
    found = mask(0.4, (hidden, 3, 4), first=2, columns=9)
    for unit, t, n in np.ndindex(hidden, 3, 4):
        index = (t * eights + unit // 8) * 9 + 2 + n
        word = reference.philox4x32((index, 2, 0, Purpose.DROPOUT << 16 | 1), (3, 0))[unit % 8 // 2]
        kept = (word >> 16 if unit % 2 else word & 0xFFFF) >= round(0.4 * 65536)
        assert found[unit, t, n] == (1 / 0.6 if kept else 0)


@dtypes
@pytest.mark.parametrize("rate", [0.05, 0.5, 0.9])
def test_masks_drop_at_their_rate(dtype, rate):
    found = mask(rate, (64, 40, 50), dtype)
    assert set(np.unique(found)) == {0, dtype_of(1 / (1 - rate), dtype)}
    dropped, error = found == 0, (rate * (1 - rate)) ** 0.5
    assert abs(dropped.mean() - rate) < 4 * error / dropped.size ** 0.5
    for axis in range(3):  # and so it is of every unit, step and column
        others = tuple(k for k in range(3) if k != axis)
        share = dropped.mean(axis=others)
        assert abs(share - rate).max() < 5 * error / (dropped.size / share.size) ** 0.5
    for a, b in ((dropped[:-1], dropped[1:]), (dropped[:, :-1], dropped[:, 1:]), (dropped[..., :-1], dropped[..., 1:])):
        assert abs(np.corrcoef(a.ravel(), b.ravel())[0, 1]) < 4 / a.size ** 0.5


@pytest.mark.parametrize("hidden", [1, 7, 8, 9, 33])
def test_masks_do_not_depend_on_how_the_columns_are_shared(hidden):
    whole = mask(shape=(4, hidden, 7))
    assert whole.shape == (4, hidden, 7) and np.isfinite(whole).all()
    for edges in ([0, 7], [0, 3, 7], [0, 1, 2, 7]):
        parts = [mask(shape=(4, hidden, b - a), first=a, columns=7) for a, b in zip(edges, edges[1:], strict=False)]
        assert (np.concatenate(parts, axis=2) == whole).all()
    assert (mask(shape=(2, hidden, 7)) == whole[:2]).all()  # nor on how many steps there are
    assert ((mask(shape=(4, hidden, 7), dtype="float32") > 0) == (whole > 0)).all()


def test_another_step_layer_or_seed_is_another_mask():
    masks = [mask(), mask(step=3), mask(step=2 + 2 ** 32), mask(layer=0), mask(seed=4), mask(seed=3 + 2 ** 32)]
    for a in range(len(masks)):
        for b in range(a):
            same = ((masks[a] > 0) == (masks[b] > 0)).mean()
            assert 0.4 < same < 0.64  # .52 of independent masks
    assert (mask() == masks[0]).all()


def test_arrays_know_their_kernels():
    assert kernels.load("cpu") is kernels.of(np.zeros(1)) is host and host.name == "cpu" and host.xp is np
    array = np.ones(2)
    assert host.to_host(array) is array and host.to_device(array) is array


@pytest.mark.parametrize("device", ["", "gpu", "cuda:", "cuda:x", "cuda:1:2", "CPU", " cpu", "cuda:0\n"])
def test_a_device_that_is_none_is_refused_by_name(device):
    with pytest.raises(ValueError, match="auto, cpu, cuda or cuda:K") as caught:
        kernels.load(device)
    assert repr(device) in str(caught.value)


@pytest.mark.parametrize("device, card", [("cuda", 0), ("cuda:0", 0), ("cuda:12", 12)])
def test_a_card_that_cannot_be_used_is_refused_in_one_line(device, card, monkeypatch):
    """And `auto` is the processor then. What the reasons are: test_cards.py."""
    asked = []
    monkeypatch.setattr(devices, "why_no_cuda", lambda *cards: asked.append(*cards) or "no driver: install one")
    with pytest.raises(kernels.DeviceError) as caught:
        kernels.load(device)
    assert str(caught.value) == f"device {device} cannot be used: no driver: install one" and asked == [card]
    assert kernels.load("auto") is host


def test_one_thread_a_product_and_then_as_before():
    threadpoolctl = pytest.importorskip("threadpoolctl")

    def threads():
        return [library["num_threads"] for library in threadpoolctl.threadpool_info() if library["user_api"] == "blas"]

    before = threads()
    with threadpoolctl.threadpool_limits(2, "blas"):
        with host.single_threaded():
            assert set(threads()) <= {1}
        assert set(threads()) <= {2}
    assert threads() == before


def test_this_process_has_a_core_at_least():
    assert isinstance(host.cores(), int) and host.cores() >= 1
