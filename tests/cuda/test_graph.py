"""kernels/cuda/graph.py over the stand-in for CuPy: what is recorded, replayed and refused, and how streams wait."""
import contextlib
import gc
import importlib
import shutil
import sys
from functools import partial

import cupy_stand_in
import numpy as np
import pytest

pytestmark = pytest.mark.skipif(shutil.which("c++") is None, reason="no C++ compiler (c++) on this machine")


@pytest.fixture
def Graph(on_cuda):
    return importlib.import_module("rnncore.kernels.cuda.graph").Graph


@pytest.fixture
def xp(on_cuda):
    return on_cuda.xp


def test_each_launch_runs_all_repeats_in_order(Graph, xp):
    x = xp.ones(3)

    def step():
        xp.add(x, 1, out=x)
        xp.multiply(x, 2, out=x)

    graph = Graph(step, repeats=2, warm_up=False)
    assert (x.get() == 1).all()  # a capture runs nothing
    graph.launch()
    assert (x.get() == 10).all()  # ((1 + 1) 2 + 1) 2
    graph.launch()
    assert (x.get() == 46).all()


def test_the_warm_up_runs_once_and_may_allocate(Graph, xp):
    x, made = xp.zeros(3), []

    def step():
        if not made:
            made.append(xp.ones(3))
        x[...] += made[0]

    graph = Graph(step)
    assert (x.get() == 1).all()
    graph.launch()
    assert (x.get() == 2).all()


def test_a_captured_step_of_the_cell_equals_the_same_step_at_once(Graph, on_cuda):
    draw, xp = np.random.default_rng(1).standard_normal, on_cuda.xp
    gates, recurrent, c_prev, keep = map(xp.asarray, (draw((12, 2)), draw((12, 2)), draw((3, 2)), np.array([0., 1.])))
    h, c, before = xp.empty((3, 2)), xp.empty((3, 2)), gates.copy()

    def step():
        on_cuda.gates_forward(gates, recurrent, c_prev, keep, gates, c, h)

    step()
    wanted = h.get()
    gates[...] = before
    graph = Graph(step, warm_up=False)
    h.fill(0)
    graph.launch()
    assert (h.get() == wanted).all() and wanted.any()
    assert cupy_stand_in.recorded(graph._graph, gates=gates, recurrent=recurrent, c=c, h=h, keep=keep) == [
        ("gates_forward_kernel", {"gates", "recurrent", "keep"}, {"gates", "c", "h"})]


def test_numbers_are_recorded_and_arrays_are_read_at_each_launch(Graph, xp):
    x, rate, number = xp.zeros(1), xp.ones(1), 5.0
    graph = Graph(lambda: xp.multiply(rate, number, out=x), warm_up=False)
    number = 7.0
    for value in (1, 3):
        rate.fill(value)
        graph.launch()
        assert x.get() == 5 * value


def test_the_streams_wait_for_each_other(Graph, xp):
    x, y = xp.ones(3), xp.zeros(3)
    graph = Graph(lambda: xp.add(x, 1, out=y), warm_up=False)
    for k in range(3):
        x.fill(k)           # on the default stream: a launch reads it
        graph.launch()
        x.fill(9)           # not before the launch has read it
        assert float(y.sum()) == 3 * (k + 1)
    with graph.stream:
        graph.launch()      # in line with the stream's own work
        y += 1
        assert (y.get() == 11).all()


@pytest.mark.parametrize("without", ["record", "wait_event"])
def test_streams_that_do_not_wait_are_seen(Graph, xp, without, monkeypatch):
    x, y = xp.ones(3), xp.zeros(3)
    graph = Graph(lambda: xp.add(x, 1, out=y), warm_up=False)
    x.fill(2)
    kind = cupy_stand_in.streams.Event if without == "record" else cupy_stand_in.streams.Stream
    monkeypatch.setattr(kind, without, lambda self, *given: None)
    with pytest.raises(cupy_stand_in.Race):
        graph.launch()


REFUSED = {
    "a new array": lambda xp, x: xp.empty(3),
    "a result": lambda xp, x: x + 1,
    "an overlap": lambda xp, x: xp.add(x[0], 1, out=x[0]),
    "a sum over what is contiguous": lambda xp, x: x.sum(axis=1, out=x[:, 0]),
    "a cast": lambda xp, x: x.astype("float32"),
    "an index array": lambda xp, x: x[[0, 1]],
    "a product": lambda xp, x: xp.matmul(x, x, out=x),
    "an operator's product": lambda xp, x: x @ x,
    "an inner product": lambda xp, x: xp.vdot(x, x),
    "a copy to the host": lambda xp, x: x.get(),
    "a number on the host": lambda xp, x: float(x[0, 0]),
    "an item": lambda xp, x: x.item(0),
    "a truth": lambda xp, x: bool(x[0, 0]),
    "a text": lambda xp, x: str(x),
    "a copy from the host": lambda xp, x: xp.asarray(np.ones(3)),
    "a wait": lambda xp, x: xp.cuda.get_current_stream().synchronize(),
    "a wait for the card": lambda xp, x: xp.cuda.Device().synchronize(),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_captured_raises_and_leaves_the_stream_usable(Graph, xp, name):
    x = xp.ones((3, 3))
    with pytest.raises((NotImplementedError, RuntimeError)):
        Graph(lambda: REFUSED[name](xp, x), warm_up=False)
    assert gc.isenabled() and not xp.cuda.get_current_stream().ptr
    REFUSED[name](xp, x)  # at once it works
    good = Graph(lambda: xp.add(x, 1, out=x), warm_up=False)
    good.launch()


def test_memory_that_is_wanted_during_a_capture_is_refused_by_graph_s_own_allocator(Graph, xp):
    with pytest.raises(sys.modules[Graph.__module__].Allocation, match="24 bytes .* make every buffer before"):
        Graph(lambda: xp.empty(3), warm_up=False)


def test_an_error_of_the_function_itself_passes_on(Graph, xp):
    streams = []

    def fails():
        streams.append(xp.cuda.get_current_stream())
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Graph(fails, warm_up=False)
    assert streams[0].is_non_blocking and not streams[0].is_capturing() and gc.isenabled()


def test_a_spoiled_capture_fails_although_the_function_caught_the_error(Graph, xp):
    def careless():
        with contextlib.suppress(RuntimeError):
            x.get()

    x = xp.ones(3)
    with pytest.raises(cupy_stand_in.CUDARuntimeError, match="Invalidated"):
        Graph(careless)
    assert not Graph(lambda: xp.add(x, 1, out=x))._graph.nodes[1:]


def test_garbage_is_not_collected_during_a_capture(Graph, xp):
    seen = []
    Graph(lambda: seen.append(gc.isenabled()))
    assert seen == [True, False] and gc.isenabled()


def test_a_graph_holds_what_its_function_holds(Graph, xp):
    y = xp.zeros(3)
    graph = Graph(partial(lambda x: xp.add(x, 1, out=y), xp.ones(3)))
    graph.launch()
    assert (y.get() == 2).all()


def test_an_array_that_is_gone_is_missed_by_the_kernel_s_name(Graph, xp):
    x, y = xp.ones(3), xp.zeros(3)
    held, step = [x], xp.add
    graph = Graph(lambda: step(held[0], 1, out=y), warm_up=False)
    held.clear()
    del x
    with pytest.raises(cupy_stand_in.Freed, match="add: an array of the graph has been freed"):
        graph.launch()
