"""The stand-in for CuPy keeps CuPy's rules: it refuses what CuPy does; memory, order and types are as on a card."""
import importlib
import shutil

import cupy_stand_in
import numpy as np
import pytest

from rnncore import kernels

pytestmark = pytest.mark.skipif(shutil.which("c++") is None, reason="no C++ compiler (c++) on this machine")
TWICE = """
extern "C" __global__ void twice(const float* __restrict__ x, float* y, int n) {
    int k = blockIdx.x * blockDim.x + threadIdx.x;
    if (k < n) y[k] = 2 * x[k];
}"""


@pytest.fixture
def xp(on_cuda):
    return on_cuda.xp


def test_a_card_is_found_tried_and_described(on_cuda):
    for device in ("auto", "cuda", "cuda:0"):
        assert kernels.load(device) is on_cuda
    assert kernels.load("cpu") is kernels.host
    assert kernels.describe()["card"] == "Stand-in" and on_cuda.memory() > 0
    with pytest.raises(kernels.DeviceError, match="there is no card 1"):
        kernels.load("cuda:1")


def test_arrays_of_the_card_are_known_by_their_type(on_cuda):
    array = on_cuda.to_device(np.ones(3))
    assert kernels.of(array) is on_cuda and kernels.of(np.ones(3)) is kernels.host and not isinstance(array, np.ndarray)
    assert array.data.ptr and array.device.id == 0 and on_cuda.to_host(array).sum() == 3


def test_the_arrays_of_numpy_and_of_the_card_do_not_mix(xp):
    a, b = xp.ones(3), np.ones(3)
    for mixed in (lambda: a + b, lambda: b + a, lambda: xp.add(a, b), lambda: xp.add(a, 1, out=b),
                  lambda: xp.stack([a, b]), lambda: np.asarray(a), lambda: np.add(a, b), lambda: np.add(b, 1, out=a)):
        with pytest.raises(TypeError):
            mixed()
    with pytest.raises(ValueError, match="cannot be used for fill"):
        a[...] = b
    assert float((a + np.float64(1)).sum()) == float((np.float64(1) + a).sum()) == 6 and float(np.sqrt(a).sum()) == 3


def test_what_cupy_has_not_is_not_there(xp):
    with pytest.raises(AttributeError, match="'cupy' has no attribute 'errstate'"):
        _ = xp.errstate
    with pytest.raises(AttributeError):
        _ = xp.there_is_no_such_function


def test_results_are_arrays_of_the_card_and_a_single_element_is_a_view(xp):
    a = xp.arange(6).reshape(2, 3)
    first, total = a[0, 0], a.sum()
    assert first.shape == total.shape == () and int(total) == 15 and [int(row.sum()) for row in a] == [3, 12]
    first[...] = 7
    assert a.get()[0, 0] == 7
    a[0] += 1
    a.T[2] = 5
    assert a.get().tolist() == [[8, 2, 5], [3, 4, 5]] and (a == 5).get().sum() == 2
    assert a[xp.array([1, 0])].get().tolist() == [[3, 4, 5], [8, 2, 5]]


def test_memory_is_poisoned_before_it_is_written_and_after_it_is_freed(xp):
    assert np.isnan(xp.empty(3).get()).all()
    array = xp.ones(3)
    host, watched = array._host, cupy_stand_in.freed(array)
    part = array[1:]
    del array
    assert (host == 1).all() and watched() is not None
    del part
    assert np.isnan(host).all() and watched() is None


def test_a_pointer_leads_back_to_the_memory(xp):
    a = xp.zeros((4, 5), "float32")
    seen = cupy_stand_in.at(a[1:, 2].data.ptr, "float32", (3,), a.strides[:1])
    seen[...] = 3
    assert (a[1:, 2].get() == 3).all() and float(a.sum()) == 9
    pointer = a.data.ptr
    del a, seen
    with pytest.raises(cupy_stand_in.Freed):
        cupy_stand_in.at(pointer, "float32", (3,))


def test_what_a_library_enqueues_is_recorded_with_what_it_reads_and_writes(xp):
    a, b, out, stream = xp.ones((2, 2)), xp.ones((2, 2)), xp.zeros((2, 2)), xp.cuda.Stream(non_blocking=True)

    def product():
        cupy_stand_in.enqueue("gemm", [a, b], [out], lambda a, b, out: np.matmul(a, b, out=out))

    product()
    assert (out.get() == 2).all()
    stream.wait_event(xp.cuda.get_current_stream().record())
    with stream:
        stream.begin_capture()
        product()
        graph = stream.end_capture()
        assert cupy_stand_in.recorded(graph, a=a, b=b, out=out) == [("gemm", {"a", "b"}, {"out"})]
        b.fill(5)
        graph.launch()
        assert (out.get() == 10).all()


def test_a_read_on_another_stream_needs_an_event_before_the_next_write(xp):
    x, stream = xp.ones(3), xp.cuda.Stream(non_blocking=True)
    stream.wait_event(xp.cuda.get_current_stream().record())
    with stream:
        y = x + 1
    with pytest.raises(cupy_stand_in.Race):
        x.fill(2)
    stream.synchronize()
    x.fill(2)
    assert (y.get() == 2).all()


def test_a_stream_that_blocks_is_in_line_with_the_default_one(xp):
    x = xp.ones(3)
    with xp.cuda.Stream():
        x += 1
    x += 1
    assert (x.get() == 3).all()


def test_captures_begin_and_end_as_cuda_wants(xp):
    stream, outside = xp.cuda.Stream(non_blocking=True), xp.cuda.get_current_stream().record()
    with pytest.raises(RuntimeError, match="legacy"):
        xp.cuda.get_current_stream().begin_capture()
    with pytest.raises(cupy_stand_in.CUDARuntimeError, match="Unmatched"):
        stream.end_capture()
    stream.begin_capture()
    with pytest.raises(cupy_stand_in.CUDARuntimeError, match="Isolation"):
        stream.wait_event(outside)
    with pytest.raises(cupy_stand_in.CUDARuntimeError, match="Unsupported"):
        stream.synchronize()
    with pytest.raises(cupy_stand_in.CUDARuntimeError, match="Invalidated"):
        stream.end_capture()
    assert not stream.is_capturing()


def test_time_between_events(xp):
    begin, end = xp.cuda.Event(), xp.cuda.Event()
    begin.record()
    end.record()
    end.synchronize()
    assert xp.cuda.get_elapsed_time(begin, end) > 0


def test_a_kernel_s_numbers_and_arrays_without_dimensions(xp):
    scale = xp.ElementwiseKernel("T x, T factor, int64 shift", "T y", "y = x * factor + shift", "scale")
    x, factor = xp.arange(4, dtype="float32"), xp.asarray(3, "float32")
    assert scale(x, factor, 1).get().tolist() == [1, 4, 7, 10]  # on the card, broadcast
    assert scale(x, np.float64(3), 1).dtype == "float32"        # a number takes T
    wrong = [(x, xp.asarray(3.0), 1), (x, np.ones(4, "float32"), 1), (x, 3, np.int32(1)), (x, 3), (2, 3, 1),
             (x, factor, 1, np.empty(4, "float32")), (x, factor, 1, xp.empty(3, "float32"))]
    for args in wrong:
        with pytest.raises((TypeError, ValueError)):
            scale(*args)
    with pytest.raises(ValueError, match="overlaps"):
        scale(x, factor, 1, x[::-1])
    assert scale(x, factor, 1, x).get().tolist() == [1, 4, 7, 10]  # each element in its own place
    with pytest.raises(ValueError, match="parameter's name"):
        xp.ElementwiseKernel("T i", "T y", "y = i", "reserved")


def test_a_kernel_over_a_given_number_of_elements(xp):
    count = xp.ElementwiseKernel("int64 begin", "raw int64 out", "out[i] = begin + i", "count")
    out = xp.zeros(5, "int64")
    count(10, out, size=4)
    assert out.get().tolist() == [10, 11, 12, 13, 0]
    with pytest.raises(IndexError, match="outside"):
        count(10, out, size=6)
    with pytest.raises(ValueError, match="undecided"):
        count(10, out)


def test_a_raw_kernel_runs_is_recorded_and_is_given_no_python_numbers(xp):
    twice = xp.RawKernel(TWICE, "twice", ("-DUNUSED=1",))
    x, y = xp.arange(5, dtype="float32"), xp.zeros(5, "float32")
    twice((2,), (4,), (x, y, np.int32(5)))
    assert y.get().tolist() == [0, 2, 4, 6, 8]
    for grid, args in (((1,), (x, y, 5)), ((1,), (x, y)), (1, (x, y, np.int32(5))), ((1,), (x.get(), y, np.int32(5)))):
        with pytest.raises(TypeError):
            twice(grid, (8,), args)
    with pytest.raises(cupy_stand_in.CUDARuntimeError, match="max_dynamic_shared_size_bytes"):
        twice((1,), (8,), (x, y, np.int32(5)), shared_mem=60000)
    graphs = importlib.import_module("rnncore.kernels.cuda.graph")
    graph = graphs.Graph(lambda: twice((1,), (8,), (x, y, np.int32(4))), warm_up=False)
    assert cupy_stand_in.recorded(graph._graph, x=x, y=y) == [("twice", {"x", "y"}, {"y"})]
    x += 1
    graph.launch()
    assert y.get().tolist() == [2, 4, 6, 8, 8]
