"""Types of a kernel's arguments over the stand-in for CuPy: what CuPy refuses raises, and what it hands on unseen."""
import functools
import importlib
import shutil

import numpy as np
import pytest
from conftest import planted_in
from test_captured import training
from test_cuda_on_the_host import model

from rnncore.kernels.cuda import writer
from rnncore.nn.stepper import Stepper

pytestmark = pytest.mark.skipif(shutil.which("c++") is None, reason="no C++ compiler (c++) on this machine")
KINDS = """
extern "C" __global__ void kinds(const float* x, long long* ids, float scale, int n, unsigned seed, double p) {
    for (int k = threadIdx.x; k < n; k += blockDim.x) ids[k] = (long long)(x[k] * scale * p) + seed;
}"""


@pytest.fixture
def xp(on_cuda):
    return on_cuda.xp


def test_elementwise_kernels_of_the_engine_take_no_other_ids(on_cuda, xp):
    """CuPy compares the types of arrays, raw or not, with the parameters'."""
    table, out, onehot, loss = xp.ones((4, 5)), xp.empty((4, 2, 3)), xp.empty((5, 6)), xp.empty((2, 3))
    for kind in ("int32", "uint64", "float64"):
        ids = xp.zeros((2, 3), kind)
        gather = functools.partial(on_cuda.GATHER, size=6)
        for kernel, args in ((gather, (table, ids, 5, 6, 16, 4, out)), (on_cuda.ONE_HOT, (ids, 0, 6, 1, onehot)),
                             (on_cuda.SOFTMAX_CROSS_ENTROPY, (ids, 4, 1, xp.zeros(4), out, loss))):
            with pytest.raises(TypeError, match=f"is {kind}, not int64"):
                kernel(*args)


def test_the_functions_over_them_say_which_argument_it_is(on_cuda, xp):
    table, out, columns, loss = xp.ones((4, 5)), xp.empty((4, 2, 3)), xp.ones((4, 6)), xp.empty((2, 3))
    ids = xp.zeros((2, 3), "int32")
    for name, function, args in (("ids", on_cuda.gather, (table, ids, out)),
                                 ("ids", on_cuda.scatter_add, (table, ids, columns)),
                                 ("targets", on_cuda.softmax_cross_entropy, (out, ids, loss))):
        with pytest.raises(TypeError, match=f"^{name} must be an array of int64, not of int32: use ids_to_device$"):
            function(*args)


def test_an_elementwise_kernel_s_other_types(on_cuda, xp):
    ids, table, out = xp.zeros((2, 3), "int64"), xp.ones((4, 5)), xp.empty((4, 2, 3))
    on_cuda.GATHER(table, ids, 5, 6, 16, 4, out, size=6)
    for *args, into in ((table, ids, 5, xp.empty((4, 2, 3), "float32")), (xp.ones((4, 5), "float32"), ids, 5, out),
                        (table, ids, 5.5, out), (table, ids, np.float64(5), out), (table, ids, np.int32(5), out),
                        (table.get(), ids, 5, out), (table, ids, None, out)):
        with pytest.raises(TypeError):
            on_cuda.GATHER(*args, 6, 16, 4, into, size=6)
    double = xp.ElementwiseKernel("T x, int64 m", "raw int64 out", "out[i] = (long)x + m", "double_kernel")
    with pytest.raises(TypeError, match="no array says what T of x is"):
        double(2.0, 1, xp.zeros(3, "int64"), size=3)


WRONG = {
    "float64 for a float": {2: np.float64(2)}, "a Python number for a float": {2: 2.0}, "a Python number": {3: 3},
    "int64 for an int": {3: np.int64(3)}, "unsigned for an int": {3: np.uint32(3)},
    "int for an unsigned": {4: np.int32(1)}, "float32 for a double": {5: np.float32(1)},
    "a bool for an int": {3: np.bool_(True)}, "no number": {3: None}, "int32 ids": {1: "int32"},
    "unsigned ids": {1: "uint64"}, "float64 numbers": {0: "float64"}, "an array of NumPy's": {0: np.ones(3, "float32")},
    "a number for an array": {0: np.uint64(64)}, "an array for a number": {3: "int32"},
}


@pytest.mark.parametrize("captured", [False, True], ids=["at once", "captured"])
@pytest.mark.parametrize("label", WRONG)
def test_a_raw_kernel_s_arguments(xp, label, captured):
    """CuPy compares nothing: the kernel would read the wrong bytes. A capture refuses them before any launch."""
    right = [xp.ones(3, "float32"), xp.zeros(3, "int64"), np.float32(2), np.int32(3), np.uint32(1), np.float64(2)]
    kernel = xp.RawKernel(KINDS, "kinds")
    kernel((1,), (4,), tuple(right))
    assert right[1].get().tolist() == [5, 5, 5]
    args = list(right)
    for place, value in WRONG[label].items():
        args[place] = xp.ones(3, value) if isinstance(value, str) else value
    graphs = importlib.import_module("rnncore.kernels.cuda.graph")
    with pytest.raises(TypeError):
        if captured:
            graphs.Graph(lambda: kernel((1,), (4,), tuple(args)), warm_up=False)
        else:
            kernel((1,), (4,), tuple(args))


WRITER = {
    "ids of another type": ("xp.empty((characters, n), IDS)", "xp.empty((characters, n), np.int32)"),
    "a temperature of another type": ("np.float64(temperature)", "np.float32(temperature)"),
    "a number of Python's": ("np.uint32(self._tag)", "self._tag"),
    "words of another type": ("number // 4), np.uint64)", "number // 4), np.float64)"),
}


@pytest.mark.parametrize("label", WRITER)
def test_types_planted_in_the_writer_are_seen(on_cuda, label):
    s, broken = Stepper(model("cuda").params), planted_in(writer, *WRITER[label])
    made = broken.Writer(on_cuda.xp, s.layers, s._head(), s.table, s.h, s.c, s.logits, broken.card())
    with pytest.raises(TypeError):
        made.write(3, 1.0, 0, 1.0, (1, 2), 4 << 16, 0, 0)


CONTROL = {
    "windows of another type": ("(ring, steps + 1, n), IDS)", "(ring, steps + 1, n), np.int32)"),
    "ids of another type": ("(steps + 1, n), IDS)\n        self._now", "(steps + 1, n), np.uint32)\n        self._now"),
    "a size of another type": ("np.int64(grads.size)", "np.int32(grads.size)"),
    "a number of Python's": ("np.float64(self.clip)", "self.clip"),
    "a counter of another type": ("cupy.zeros(2, np.int64)", "cupy.zeros(2, np.int32)"),
}


@pytest.mark.parametrize("label", CONTROL)
def test_types_planted_in_a_captured_step_are_seen(with_cublas, label, monkeypatch):
    fast, step_control = (importlib.import_module(f"rnncore.kernels.cuda.{name}") for name in ("paths", "step_control"))
    monkeypatch.setattr(fast, "StepControl", planted_in(step_control, *CONTROL[label]).StepControl)
    run = training("graph", steps=2)
    with pytest.raises(TypeError):
        next(iter(run))
