"""kernels/cuda/graph.py on a real GPU: what is recorded is replayed in order, and what cannot be recorded is refused. Skips
where no card works."""
import importlib

import numpy as np
import pytest

from rnncore import kernels

REASON = kernels.why_no_cuda()
pytestmark = [pytest.mark.gpu, pytest.mark.skipif(REASON is not None, reason=f"no GPU: {REASON}")]


@pytest.fixture
def xp():
    return kernels.load("cuda").xp


@pytest.fixture
def graphs(xp):
    return importlib.import_module("rnncore.kernels.cuda.graph")


def test_a_graph_is_what_its_function_does_as_often(xp, graphs):
    draw, cuda = np.random.default_rng(1).standard_normal, kernels.load("cuda")
    gates, recurrent, keep = map(xp.asarray, (draw((400, 20)), draw((400, 20)), (draw(20) > 0).astype(float)))
    h, c, before = xp.zeros((100, 20)), xp.zeros((100, 20)), gates.copy()
    c_prev = xp.zeros((100, 20))

    def step():
        c_prev[...] = c
        gates[...] = before
        cuda.gates_forward(gates, recurrent, c_prev, keep, c, h)
        xp.add(h, c_prev, out=recurrent[:100])

    def begin():
        c.fill(0)
        recurrent.fill(0.25)

    graph = graphs.Graph(step, repeats=3)
    begin()
    for _ in range(6):
        step()
    wanted = h.get(), c.get(), recurrent.get()
    begin()
    for _ in range(2):
        graph.launch()
    assert all((mine.get() == right).all() for mine, right in zip((h, c, recurrent), wanted, strict=True))


def test_launches_are_in_line_with_the_default_stream(xp, graphs):
    x, y, sums = xp.zeros(1 << 22, "float32"), xp.zeros(1 << 22, "float32"), []
    graph = graphs.Graph(lambda: xp.add(x, 1, out=y))
    for k in range(50):
        x.fill(k)
        graph.launch()
        x.fill(-5)
        sums.append(y.max() + y.min())
    assert [float(total) for total in sums] == [2.0 * (k + 1) for k in range(50)]


REFUSED = {
    "a new array": lambda xp, x: x + 1,
    "an overlap": lambda xp, x: xp.add(x[0], 1, out=x[0]),
    "a sum over what is contiguous": lambda xp, x: x.sum(axis=1, out=x[:, 0].copy()),
    "a product": lambda xp, x: xp.matmul(x, x, out=x),
    "a copy to the host": lambda xp, x: x.get(),
    "a number on the host": lambda xp, x: float(x[0, 0]),
    "a copy from the host": lambda xp, x: xp.asarray(np.ones(3)),
    "a wait": lambda xp, x: xp.cuda.get_current_stream().synchronize(),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_captured_raises_and_the_next_capture_works(xp, graphs, name):
    x = xp.ones((30, 30))
    with pytest.raises((NotImplementedError, RuntimeError)):
        graphs.Graph(lambda: REFUSED[name](xp, x))
    x.fill(1)
    graph = graphs.Graph(lambda: xp.add(x, 1, out=x), warm_up=False)
    graph.launch()
    assert (x.get() == 2).all()


def test_a_cuda_graph_of_a_kernel_with_cooperative_blocks(xp, graphs):
    text = 'extern "C" __global__ void add(float* x, float y) { x[blockIdx.x * blockDim.x + threadIdx.x] += y; }'
    add = xp.RawKernel(text, "add", enable_cooperative_groups=True)
    x = xp.zeros(256, "float32")
    graph = graphs.Graph(lambda: add((2,), (128,), (x, np.float32(3))), repeats=4)
    graph.launch()
    assert (x.get() == 15).all()
