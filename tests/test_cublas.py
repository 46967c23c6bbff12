"""kernels/cublas.py over a stand-in for libcublas: every layout, batches, precisions, and what must be refused."""
import ctypes
import importlib
import inspect
import itertools
import sys
import textwrap
import types

import cublas_stand_in
import numpy as np
import pytest
from cublas_stand_in import Library

from rnncore import kernels


class Array(np.ndarray):
    """A NumPy array that has its address where CuPy's has it."""
    @property
    def data(self):
        return types.SimpleNamespace(ptr=self.__array_interface__["data"][0])


def on_card(a) -> Array:
    """A copy of `a` that begins, as CuPy's arrays do, at a multiple of 512 bytes."""
    a = np.asarray(a)
    room = np.empty(a.nbytes + 512, np.uint8)
    begin = -room.ctypes.data % 512
    out = room[begin:begin + a.nbytes].view(a.dtype).reshape(a.shape)
    out[...] = a
    return out.view(Array)


def stand_in(capability: str = "90") -> types.ModuleType:
    """As much of cupy as kernels/cublas.py takes."""
    cupy = types.ModuleType("cupy")
    cupy.stream = types.SimpleNamespace(ptr=7)
    cupy.empty = lambda shape, dtype: on_card(np.empty(shape, dtype))
    cupy.asarray = on_card
    cupy.cuda = types.SimpleNamespace(Device=lambda: types.SimpleNamespace(compute_capability=capability),
                                      get_current_stream=lambda: cupy.stream)
    return cupy


@pytest.fixture
def module(monkeypatch):
    """kernels/cublas.py over the stand-ins: module.fake is the library."""
    monkeypatch.setitem(sys.modules, "cupy", stand_in())
    monkeypatch.delitem(sys.modules, "rnncore.kernels.cublas", raising=False)
    module = importlib.import_module("rnncore.kernels.cublas")
    module.fake = Library()
    module.library = lambda: module.fake
    yield module
    sys.modules.pop("rnncore.kernels.cublas")
    vars(kernels).pop("cublas", None)


def draw(*shape, dtype="float64"):
    return on_card(np.random.default_rng(sum(shape)).standard_normal(shape).astype(dtype))


def layouts(rows: int, columns: int):
    """Arrays (rows, columns) as they may lie in memory, of random numbers."""
    yield draw(rows, columns)
    yield draw(columns, rows).T
    yield draw(rows + 1, columns + 3)[1:, 2:2 + columns]
    yield draw(columns + 2, rows + 1)[1:1 + columns, :rows].T
    yield draw(rows, 3, columns)[:, 1]


@pytest.mark.parametrize("m, n, k", [(4, 3, 5), (1, 3, 4), (3, 1, 4), (3, 4, 1), (1, 1, 1), (1, 4, 1)])
def test_every_layout_of_every_matrix(module, m, n, k):
    blas = module.Cublas("float64")
    for a, b, out in itertools.product(layouts(m, k), layouts(k, n), layouts(m, n)):
        before, wanted = np.array(out), np.array(a) @ np.array(b)
        around = np.array(out.base)
        blas.product(a, b, out)
        assert np.abs(out - wanted).max() < 1e-13
        blas.product(a, b, out, add=True)
        assert np.abs(out - 2 * wanted).max() < 1e-13
        out[...] = before
        assert (around == out.base).all()  # nothing was written beside it


@pytest.mark.parametrize("shape_a, shape_b", [((3, 0), (0, 4)), ((0, 3), (3, 4)), ((2, 3), (3, 0)), ((2, 3, 0), (2, 0, 4))])
def test_matrices_without_numbers(module, shape_a, shape_b):
    blas, out = module.Cublas("float32"), np.ones((*shape_a[:-1], shape_b[-1]), "float32").view(Array)
    blas.product(draw(*shape_a, dtype="float32"), draw(*shape_b, dtype="float32"), out, add=True)
    assert (out == 1).all()
    blas.product(draw(*shape_a, dtype="float32"), draw(*shape_b, dtype="float32"), out)
    assert (out == 0).all() and module.fake.products == 0


def test_batches(module):
    """As Muon's Newton-Schulz needs them, blocks of a larger array, and steps of (F, T, N)."""
    blas = module.Cublas("float64")
    x, steps, square = draw(3, 4, 6), draw(5, 3, 7), on_card(np.empty((3, 4, 4)))
    blas.product(x, x.swapaxes(1, 2), square)
    assert np.abs(square - np.array(x) @ np.array(x).swapaxes(1, 2)).max() < 1e-13
    out = on_card(np.empty((3, 4, 9)))[:, :, 1:7]
    blas.product(square, x, out)
    assert np.abs(out - np.array(square) @ np.array(x)).max() < 1e-12
    out = on_card(np.empty((4, 3, 7))).swapaxes(0, 1)
    blas.product(draw(3, 4, 5), steps.swapaxes(0, 1), out)
    assert np.abs(out - np.array(draw(3, 4, 5)) @ np.array(steps.swapaxes(0, 1))).max() < 1e-13
    blas.product(x[:1], x[:1].swapaxes(1, 2), square[:1])
    assert module.fake.products == 4


@pytest.mark.parametrize("transposed_a", [False, True])
@pytest.mark.parametrize("transposed_b", [False, True])
def test_batches_by_pointers(module, transposed_a, transposed_b):
    blas, a, b = module.Cublas("float64"), [draw(4, 6), draw(5, 6)[:4]], [draw(6, 8), draw(7, 8)[:6]]
    out = [on_card(np.zeros((4, 10))) for _ in a]
    stored_a = [on_card(x.T.copy()) if transposed_a else x for x in a]
    stored_b = [on_card(x.T.copy()) if transposed_b else x for x in b]
    arrays = [blas.pointers(list(some)) for some in (stored_a, stored_b, out)]
    for add in (False, True):
        blas.batched(*arrays, 4, 8, 6, 4 if transposed_a else 6, 6 if transposed_b else 8, 10, transposed_a, transposed_b, add)
    for x, y, result in zip(a, b, out, strict=True):
        assert np.abs(result[:, :8] - 2 * (np.array(x) @ np.array(y))).max() < 1e-12 and (result[:, 8:] == 0).all()
    out[1][...] = 0
    blas.batched(*(array[1:] for array in arrays), 4, 8, 6, 4 if transposed_a else 6, 6 if transposed_b else 8, 10,
                 transposed_a, transposed_b)
    assert np.abs(out[1][:, :8] - np.array(a[1]) @ np.array(b[1])).max() < 1e-12


@pytest.mark.parametrize("precision, least, most", [("float64", 0, 1e-15), ("float32", 1e-8, 1e-6), ("tf32", 2e-5, 1e-3),
                                                    ("bf16", 2e-4, 8e-3)])
def test_the_precision_of_the_products(module, precision, least, most):
    blas = module.Cublas(precision)
    a, b, out = draw(40, 64, dtype=blas.dtype), draw(64, 50, dtype=blas.dtype), on_card(np.empty((40, 50), blas.dtype))
    blas.product(a, b, out)
    exact = a.astype("float64") @ b.astype("float64")
    assert least <= np.linalg.norm(out - exact) / np.linalg.norm(exact) <= most
    assert module.fake.last == module.COMPUTE_TYPES[precision]


def test_what_older_cards_compute(module, monkeypatch):
    assert [module.compute_type("tf32", card) for card in (75, 80, 100)] == [74, 77, 77]
    assert [module.compute_type("float32", card) for card in (75, 90)] == [68, 68]
    with pytest.raises(module.Unavailable, match="8.0, this one has 7.5"):
        module.compute_type("bf16", 75)
    with pytest.raises(ValueError, match="float16"):
        module.compute_type("float16", 90)


@pytest.mark.parametrize("value, compute, wanted", [
    (1 + 2**-10, 77, 1 + 2**-10), (1 + 2**-11, 77, 1), (1 + 3 * 2**-11, 77, 1 + 2**-9), (-1 - 2**-7, 75, -1 - 2**-7),
    (1 + 2**-8, 75, 1), (1e30, 75, 1.0e30), (70000, 74, np.inf), (1 + 2**-11, 68, 1 + 2**-11), (np.inf, 77, np.inf)])
def test_the_stand_in_rounds_as_the_units_do(value, compute, wanted):
    with np.errstate(over="ignore"):
        seen = cublas_stand_in.rounded(np.array([value], np.float32), compute)
    assert seen[0] == np.float32(wanted) or (wanted == 1e30 and abs(seen[0] / 1e30 - 1) < 2**-8)


def test_what_cannot_be_multiplied(module):
    blas, a, b, out = module.Cublas("float64"), draw(4, 6), draw(6, 8), draw(4, 8)
    pair = draw(2, 4, 4)
    for wrong in ((a, b, draw(4, 9)), (a, b.T, out), (a, b, draw(4, 8, dtype="float32")), (a, b, pair),
                  (a, draw(6, 16)[:, ::2], out), (a, draw(6, 8)[::-1], out), (a, np.broadcast_to(b[:1], (6, 8)).view(Array), out),
                  (pair[0], pair[1], pair[1]), (pair[0], pair[1], pair[0].T), (a, b, draw(8, 16)[::2, ::2]),
                  (pair, pair, np.broadcast_to(draw(4, 4), (2, 4, 4)).view(Array))):
        with pytest.raises(ValueError, match="^[^\n]*$"):
            blas.product(*wrong)
    with pytest.raises(ValueError, match="16 bytes"):
        blas.pointers([draw(4, 8), draw(5, 9)[1:]])
    one = blas.pointers([draw(4, 8)])
    with pytest.raises(ValueError, match="as many"):
        blas.batched(one, one, one[:0], 2, 2, 2, 8, 8, 8)
    with pytest.raises(ValueError, match="as many"):
        blas.batched(one, one, one, 4, 4, 4, 8, 8, 3)
    assert module.fake.products == 0


def test_each_product_goes_to_the_current_stream_with_the_workspace(module):
    blas = module.Cublas("float32")
    handle, = module.fake.handles.values()
    for stream in (7, 9):
        module.cupy.stream.ptr = stream
        blas.product(*(draw(4, 4, dtype="float32") for _ in range(3)))
        assert handle.stream == stream and handle.workspace == (blas._workspace.data.ptr, 32 << 20)


def test_cublas_s_own_name_for_a_fault(module):
    blas = module.Cublas("float32")
    module.fake.handles.clear()
    with pytest.raises(module.CublasError, match="^cublasSetStream_v2: CUBLAS_STATUS_NOT_INITIALIZED$"):
        blas.product(*(draw(4, 4, dtype="float32") for _ in range(3)))
    module.fake.cublasCreate_v2 = lambda address: 1
    with pytest.raises(module.Unavailable, match="CUBLAS_STATUS_NOT_INITIALIZED"):
        module.Cublas("float32")


def test_the_handle_is_destroyed_once(module):
    blas, other = module.Cublas("float32"), module.Cublas("tf32")
    assert len(module.fake.handles) == 2
    blas.close()
    blas.close()
    assert len(module.fake.handles) == 1
    del other
    assert not module.fake.handles


def test_without_a_library(module):
    del module.library
    again = importlib.reload(module)
    with pytest.raises(again.Unavailable, match="^cuBLAS cannot be used [^\n]*$"):
        again.library()


def test_the_arguments_have_the_widths_of_the_prototypes(module):
    widths = {"pointer": 8, "handle": 8, "size": 8, "long": 8}
    assert {name: [ctypes.sizeof(kind) for kind in kinds] for name, kinds in module.SIGNATURES.items()} == {
        name: [widths.get(kind, 4) for kind in text.split()] for name, text in cublas_stand_in.PROTOTYPES.items()}


@pytest.mark.parametrize("name, right, wrong", [
    ("product", "left, right, m, n = right, left, n, m", "m, n = n, m"),
    ("product", "matrix.by_rows == into.by_rows", "matrix.by_rows"),
    ("_gemm", "cublasSetWorkspace_v2", "cublasSetStream_v2"),
    ("batched", "((b, ldb), (a, lda)", "((a, lda), (b, ldb)"),
    ("batched", "(int(transposed_b), int(transposed_a))", "(int(transposed_a), int(transposed_b))"),
    ("lay_out", "(down, columns, rows) if", "(columns, columns, rows) if"),
])
def test_planted_errors_are_caught(module, name, right, wrong):
    owner = module if name == "lay_out" else module.Cublas
    text = textwrap.dedent(inspect.getsource(getattr(owner, name)))
    assert text.count(right) == 1
    spoiled = dict(vars(module))
    exec(text.replace(right, wrong), spoiled)
    setattr(owner, name, spoiled[name])
    with pytest.raises((AssertionError, TypeError, module.CublasError, ValueError)):
        for transposed in (False, True):
            test_batches_by_pointers(module, transposed, not transposed)
        for shape in ((4, 3, 5), (1, 3, 4), (3, 1, 4)):
            test_every_layout_of_every_matrix(module, *shape)
