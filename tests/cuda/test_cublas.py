"""kernels/cuda/cublas.py over a stand-in for libcublas: every layout, batches, precisions, and what must be refused."""
import ctypes
import importlib
import inspect
import itertools
import shutil
import sys
import textwrap

import cublas_stand_in
import numpy as np
import pytest
from cublas_stand_in import Library
from cupy_stand_in import Freed, at
from test_persistent import in_bfloat, in_half, opened

pytestmark = pytest.mark.skipif(shutil.which("c++") is None, reason="no C++ compiler (c++) on this machine")


@pytest.fixture
def module(on_cuda, monkeypatch):
    """kernels/cuda/cublas.py over the stand-ins: module.fake is the library."""
    module = importlib.import_module("rnncore.kernels.cuda.cublas")
    monkeypatch.setattr(module, "fake", Library(), raising=False)
    monkeypatch.setattr(module, "library", lambda: module.fake)
    return module


def on_card(a):
    return sys.modules["cupy"].asarray(np.array(a))


def draw(*shape, dtype="float64"):
    return on_card(np.random.default_rng(sum(shape)).standard_normal(shape).astype(dtype))


def error(mine, wanted) -> float:
    return np.abs(mine.get() - wanted).max()


def layouts(rows: int, columns: int):
    """(whole, view): arrays (rows, columns) as they may lie in memory, of random numbers."""
    for whole, view in ((draw(rows, columns), lambda a: a), (draw(columns, rows), lambda a: a.T),
                        (draw(rows + 1, columns + 3), lambda a: a[1:, 2:2 + columns]),
                        (draw(columns + 2, rows + 1), lambda a: a[1:1 + columns, :rows].T),
                        (draw(rows, 3, columns), lambda a: a[:, 1])):
        yield whole, view(whole)


@pytest.mark.parametrize("m, n, k", [(4, 3, 5), (1, 3, 4), (3, 1, 4), (3, 4, 1), (1, 1, 1), (1, 4, 1)])
def test_every_layout_of_every_matrix(module, m, n, k):
    blas = module.Cublas("float64")
    for (_, a), (_, b), (whole, out) in itertools.product(layouts(m, k), layouts(k, n), layouts(m, n)):
        before, around, wanted = out.copy(), whole.get(), a.get() @ b.get()
        blas.product(a, b, out)
        assert error(out, wanted) < 1e-13
        blas.product(a, b, out, add=True)
        assert error(out, 2 * wanted) < 1e-13
        out[...] = before
        assert (around == whole.get()).all()  # nothing was written beside it


@pytest.mark.parametrize("shape_a, shape_b", [((3, 0), (0, 4)), ((0, 3), (3, 4)), ((2, 3), (3, 0)), ((2, 3, 0), (2, 0, 4))])
def test_products_of_empty_matrices_add_nothing(module, shape_a, shape_b):
    blas, out = module.Cublas("float32"), on_card(np.ones((*shape_a[:-1], shape_b[-1]), "float32"))
    blas.product(draw(*shape_a, dtype="float32"), draw(*shape_b, dtype="float32"), out, add=True)
    assert (out.get() == 1).all()
    blas.product(draw(*shape_a, dtype="float32"), draw(*shape_b, dtype="float32"), out)
    assert (out.get() == 0).all() and module.fake.products == 0


def test_batched_products_are_those_of_numpy(module):
    """As Muon needs them, blocks of a larger array, and steps of (F, T, N)."""
    blas = module.Cublas("float64")
    x, steps, square = draw(3, 4, 6), draw(5, 3, 7), draw(3, 4, 4)
    blas.product(x, x.swapaxes(1, 2), square)
    assert error(square, x.get() @ x.get().swapaxes(1, 2)) < 1e-13
    out = draw(3, 4, 9)[:, :, 1:7]
    blas.product(square, x, out)
    assert error(out, square.get() @ x.get()) < 1e-12
    w, out = draw(3, 4, 5), draw(4, 3, 7).swapaxes(0, 1)
    blas.product(w, steps.swapaxes(0, 1), out)
    assert error(out, w.get() @ steps.get().swapaxes(0, 1)) < 1e-13
    blas.product(x[:1], x[:1].swapaxes(1, 2), square[1:2])
    assert error(square[1], x.get()[0] @ x.get()[0].T) < 1e-13 and module.fake.products == 4


@pytest.mark.parametrize("transposed_a", [False, True])
@pytest.mark.parametrize("transposed_b", [False, True])
def test_batches_by_pointers(module, transposed_a, transposed_b):
    blas, a, b = module.Cublas("float64"), [draw(4, 6), draw(5, 6)[:4]], [draw(6, 8), draw(7, 8)[:6]]
    out = [on_card(np.zeros((4, 10))) for _ in a]
    stored_a = [x.T.copy() if transposed_a else x for x in a]
    stored_b = [x.T.copy() if transposed_b else x for x in b]
    arrays = [blas.pointers(some) for some in (stored_a, stored_b, out)]
    sizes = 4, 8, 6, 4 if transposed_a else 6, 6 if transposed_b else 8, 10, transposed_a, transposed_b
    for add in (False, True):
        blas.batched(*arrays, *sizes, add)
    for x, y, result in zip(a, b, out, strict=True):
        assert error(result[:, :8], 2 * (x.get() @ y.get())) < 1e-12 and (result[:, 8:].get() == 0).all()
    blas.batched(*(array[1:] for array in arrays), *sizes)
    assert error(out[1][:, :8], a[1].get() @ b[1].get()) < 1e-12 < error(out[0][:, :8], a[0].get() @ b[0].get())


@pytest.mark.parametrize("precision, least, most", [("float64", 0, 1e-15), ("float32", 1e-8, 1e-6), ("tf32", 2e-5, 1e-3),
                                                    ("bf16", 2e-4, 8e-3)])
def test_the_precision_of_the_products(module, precision, least, most):
    blas = module.Cublas(precision)
    a, b, out = draw(40, 64, dtype=blas.dtype), draw(64, 50, dtype=blas.dtype), draw(40, 50, dtype=blas.dtype)
    blas.product(a, b, out)
    exact = a.get().astype("float64") @ b.get().astype("float64")
    assert least <= np.linalg.norm(out.get() - exact) / np.linalg.norm(exact) <= most
    assert module.fake.last == module.COMPUTE_TYPES[precision]


def test_what_older_cards_compute(module):
    assert [module.compute_type("tf32", card) for card in (75, 80, 100)] == [74, 77, 77]
    assert [module.compute_type("float32", card) for card in (75, 90)] == [68, 68]
    with pytest.raises(module.Unavailable, match="8.0, this one has 7.5"):
        module.compute_type("bf16", 75)
    with pytest.raises(ValueError, match="float16"):
        module.compute_type("float16", 90)


@pytest.mark.parametrize("value, compute, wanted", [
    (1 + 2**-10, 77, 1 + 2**-10), (1 + 2**-11, 77, 1), (1 + 3 * 2**-11, 77, 1 + 2**-9), (-1 - 2**-7, 75, -1 - 2**-7),
    (1 + 2**-8, 75, 1), (70000, 74, np.inf), (1 + 2**-11, 68, 1 + 2**-11), (np.inf, 77, np.inf)])
def test_the_stand_in_rounds_as_the_units_do(value, compute, wanted):
    with np.errstate(over="ignore"):
        assert cublas_stand_in.rounded(np.array([value], np.float32), compute)[0] == wanted


def test_what_cannot_be_multiplied(module):
    blas, a, b, out, pair = module.Cublas("float64"), draw(4, 6), draw(6, 8), draw(4, 8), draw(2, 4, 4)
    same_row = at(b.data.ptr, "float64", (6, 8), (0, 8))
    for wrong in ((a, b, draw(4, 9)), (a, b.T, out), (a, b, draw(4, 8, dtype="float32")), (a, b, pair), (a[0], b, out),
                  (a, draw(6, 16)[:, ::2], out), (a, draw(6, 8)[::-1], out), (a, same_row, out),
                  (pair[0], pair[1], pair[1]), (pair[0], pair[1], pair[0].T), (a, b, draw(8, 16)[::2, ::2]),
                  (pair, pair, at(out.data.ptr, "float64", (2, 4, 4), (0, 32, 8)))):
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


def test_a_graph_records_products_with_stream_and_workspace(module):
    graph, blas = importlib.import_module("rnncore.kernels.cuda.graph"), module.Cublas("float32")
    a, b, out = (draw(4, 4, dtype="float32") for _ in range(3))
    wanted, before = a.get() @ b.get(), out.get()
    recorded = graph.Graph(lambda: blas.product(a, b, out), warm_up=False)
    handle, = module.fake.handles.values()
    assert (out.get() == before).all() and handle.stream == recorded.stream.ptr
    assert handle.workspace == (blas._workspace.data.ptr, 32 << 20)
    recorded.launch()
    assert error(out, wanted) < 1e-6


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


def test_a_missing_cublas_is_an_error_in_one_line(module, monkeypatch):
    monkeypatch.undo()
    with pytest.raises(module.Unavailable, match="^cuBLAS cannot be used [^\n]*$"):
        module.library()


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
def test_planted_errors_are_caught(module, name, right, wrong, monkeypatch):
    owner = module if name == "lay_out" else module.Cublas
    text = textwrap.dedent(inspect.getsource(getattr(owner, name)))
    assert text.count(right) == 1
    spoiled = dict(vars(module))
    exec(text.replace(right, wrong), spoiled)
    monkeypatch.setattr(owner, name, spoiled[name])
    with pytest.raises((AssertionError, TypeError, module.CublasError, ValueError, Freed)):
        for transposed in (False, True):
            test_batches_by_pointers(module, transposed, not transposed)
        for shape in ((4, 3, 5), (1, 3, 4), (3, 1, 4)):
            test_every_layout_of_every_matrix(module, *shape)


NUMBERS = [0.0, -0.0, 1.0, -1.5, 1 + 2 ** -11, 1 + 3 * 2 ** -11, 1 + 2 ** -8, 1 + 3 * 2 ** -8, 65504.0, 65519.9, 65520.0, 1e30, -1e30,
           6e-5, 6.1e-5, 6e-8, 3e-8, 2.9e-8, -2e-6, np.inf, -np.inf, np.nan, np.float32(1e-40)]


@pytest.mark.parametrize(("precision", "wanted"), [("tf32", in_half), ("bf16", in_bfloat)])
def test_operands_are_rounded_to_the_nearest(module, precision, wanted):
    fast = importlib.import_module("rnncore.kernels.cuda.paths")
    a = np.concatenate([NUMBERS, np.random.default_rng(0).standard_normal(9977)]).astype(np.float32).reshape(100, 100)
    for view in (lambda x: x, lambda x: x.T, lambda x: x[::2, 1:]):
        found = fast.rounded(view(on_card(a)), precision)
        with np.errstate(over="ignore"):
            np.testing.assert_array_equal(opened(found.get(), precision), wanted(view(a)))
        assert found.strides[0] % 16 == 0  # rows that tensor cores read fastest


@pytest.mark.parametrize("precision", ["tf32", "bf16"])
@pytest.mark.parametrize("which", [(True, True), (True, False), (False, True)])
def test_a_product_of_rounded_operands_rounds_the_other_and_sums_in_float32(module, precision, which):
    fast = importlib.import_module("rnncore.kernels.cuda.paths")
    products = fast.Products(precision, "float32")
    for transposed in (False, True):
        a, b, out = draw(5, 9, dtype="float32"), draw(9, 7, dtype="float32"), draw(5, 7, dtype="float32")
        b = on_card(b.get().T).T if transposed else b
        exact = {"tf32": in_half, "bf16": in_bfloat}[precision]
        wanted = exact(a.get()) @ exact(b.get())
        given = [fast.rounded(m, precision) if is_rounded else m for m, is_rounded in zip((a, b), which, strict=True)]
        products.product(*given, out, False)
        assert error(out, wanted) < 1e-5 and module.fake.last == cublas_stand_in.EXACT
        products.row_sums(fast.rounded(a, precision), sums := draw(5, dtype="float32"))
        assert error(sums, exact(a.get()).sum(axis=1)) < 1e-5


def test_operands_of_another_class_are_refused(module):
    a = on_card(np.ones((4, 4), np.uint16))
    for precision in ("tf32", "float32"):
        with pytest.raises(ValueError, match="a product in"):
            module.Cublas(precision).product(a, a, draw(4, 4, dtype="float32"))
    with pytest.raises(ValueError, match="a product in bf16"):
        module.Cublas("bf16").product(a, draw(4, 4, dtype="float32"), draw(4, 4, dtype="float32"))
