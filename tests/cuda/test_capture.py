"""Captures of torch's work in CUDA graphs, on a CPU: torch.cuda is a fake that logs, the tensors are real.

A graph's capture ends when backward goes to another stream. These tests show that warm-up and capture have one stream,
and that nothing holds an AccumulateGrad node from before. That the capture then succeeds, only a card can show.
"""
import contextlib
import gc
import os
import subprocess
import sys
import types

import pytest
from card_helpers import WORK, task, torch_side

from rnncore import kernels

NO_GPU = kernels.why_no_cuda()


@pytest.fixture
def graphed():
    with torch_side() as module:
        yield module


class Cuda:
    """The names of torch.cuda that torch_graph.py calls. failures: how many captures fail, from the first on."""

    def __init__(self, failures: int = 0):
        self.log, self.current, self.failures, self.made = [], self.new("main"), failures, 0
        self.inspect = list  # called where a capture begins

    @staticmethod
    def new(name: str):
        return types.SimpleNamespace(name=name, device="card")

    def Stream(self, device):
        self.made += 1
        side = self.new(f"side {self.made}")
        side.wait_stream = lambda other: self.log.append(f"{side.name} waits for {other.name}")
        return side

    def current_stream(self, device):
        self.current.wait_stream = lambda other: self.log.append(f"main waits for {other.name}")
        return self.current

    @contextlib.contextmanager
    def stream(self, stream):
        before, self.current = self.current, stream
        try:
            yield
        finally:
            self.current = before

    @contextlib.contextmanager
    def graph(self, graph, stream):
        """As torch's, a failed capture leaves its stream the current one."""
        before, self.current = self.current, stream
        self.inspect()
        self.log.append(f"capture on {stream.name}")
        yield
        if self.failures:
            self.failures -= 1
            raise RuntimeError("cudaErrorStreamCaptureInvalidated")
        self.log.append("captured")
        self.current = before

    def CUDAGraph(self):
        return types.SimpleNamespace(replay=lambda: self.log.append("replay"))

    def work(self, name: str):
        return lambda: self.log.append(f"{name} on {self.current.name}")


@pytest.fixture
def fake(graphed, monkeypatch):
    """A function that puts a Cuda in torch.cuda's place, and the module torch_graph in a fresh process's state."""
    from rnncore.bench import torch_graph as capture

    def put(failures: int = 0) -> Cuda:
        cuda = Cuda(failures)
        for name in ("Stream", "current_stream", "stream", "graph", "CUDAGraph"):
            monkeypatch.setattr(graphed.torch.cuda, name, getattr(cuda, name))
        monkeypatch.setattr(capture, "tiny_work", lambda device: cuda.work("tiny work"))
        capture.side_stream.cache_clear()
        return cuda
    yield put
    capture.side_stream.cache_clear()


def capturing(name: str) -> list[str]:
    """The log of one capture: all on one stream."""
    from rnncore.bench import torch_graph as capture
    return ["side 1 waits for main", *capture.WARM_UP * [f"{name} on side 1"], "capture on side 1", f"{name} on side 1"]


def test_a_capture_and_its_warm_up_have_one_stream_and_the_first_of_a_process_is_thrown_away(graphed, fake):
    from rnncore.bench import torch_graph as capture
    cuda, card = fake(), graphed.torch.device("cuda")
    replay = capture.captured(cuda.work("work"), card)
    tiny, real = (capturing(name) + ["captured", "main waits for side 1"] for name in ("tiny work", "work"))
    assert cuda.log == tiny + real
    cuda.log.clear()
    replay()
    capture.captured(cuda.work("work"), card)
    assert cuda.log == ["replay", *real] and cuda.made == 1 and cuda.current.name == "main"


def test_a_first_capture_that_fails_is_the_thrown_away_one(graphed, fake):
    from rnncore.bench import torch_graph as capture
    cuda = fake(failures=1)
    capture.captured(cuda.work("work"), graphed.torch.device("cuda"))
    assert cuda.log == capturing("tiny work") + capturing("work") + ["captured", "main waits for side 1"]


def test_a_capture_that_fails_leaves_the_current_stream(graphed, fake):
    from rnncore.bench import torch_graph as capture
    cuda = fake(failures=2)
    with pytest.raises(RuntimeError, match="Invalidated"):
        capture.captured(cuda.work("work"), graphed.torch.device("cuda"))
    assert cuda.current.name == "main"


def test_the_first_work_is_a_whole_backward_pass_even_while_gradients_are_off(graphed, fake, monkeypatch):
    from rnncore.bench import torch_graph as capture
    real, found = capture.tiny_work, []
    cuda = fake()

    def tiny_work(device):
        work = real(graphed.torch.device("cpu"))
        found.append(work.__closure__)
        return work
    monkeypatch.setattr(capture, "tiny_work", tiny_work)
    with graphed.torch.inference_mode():
        capture.captured(cuda.work("work"), graphed.torch.device("cuda"))
    (weight,) = [cell.cell_contents for cell in found[0]]
    assert weight.grad.tolist() == 8 * [8 * [16.0]]


# What holds a grad_fn

def with_grad_fn(torch) -> list:
    """All tensors of this process that hold one."""
    return [thing for thing in gc.get_objects() if issubclass(type(thing), torch.Tensor) and thing.grad_fn is not None]


@pytest.fixture
def held(graphed, fake):
    """A list of the names of the grad_fns that are alive where a capture begins, without those of before this test."""
    cuda, found = fake(), []
    gc.collect()
    old = set(map(id, with_grad_fn(graphed.torch)))
    cuda.inspect = lambda: found.extend(tensor.grad_fn.name() for tensor in with_grad_fn(graphed.torch)
                                        if id(tensor) not in old)
    return found


@pytest.mark.parametrize("work, kind", [("training", "bf16 weights"), ("writing", "float32"), ("forward and backward", "float32")])
def test_nothing_holds_a_grad_fn_where_a_capture_begins(graphed, held, work, kind, monkeypatch):
    """Of the work itself, of the copies kept meanwhile, and of the same work done eagerly before."""
    from rnncore.bench import torch_graph as capture
    sides = [graphed.WORK[work](task(work), "cpu", kind, False)]
    begun = []

    def captured(work, device):
        begun.append(work)
        capture.record(work, graphed.torch.cuda.Stream(device))
        return work
    monkeypatch.setattr(graphed, "captured", captured)
    sides.append(graphed.WORK[work](task(work), "cpu", kind, True))
    assert begun and held == []


def test_a_loss_that_is_held_is_seen_and_one_in_a_reference_cycle_is_freed(graphed, held):
    from rnncore.bench import torch_graph as capture
    weight, kept = graphed.torch.ones(3, requires_grad=True), {}

    def in_a_cycle():
        cycle = [weight.exp()]
        cycle.append(cycle)

    def keeps():
        kept["loss"] = weight.sin()
    gc.disable()
    try:
        capture.record(in_a_cycle, graphed.torch.cuda.Stream("card"))
        assert held == []
        capture.record(keeps, graphed.torch.cuda.Stream("card"))
    finally:
        gc.enable()
    assert held == ["SinBackward0"]


# On a GPU

FIRST = """
import sys
import torch
from card_helpers import task
from rnncore.bench import torch_card as graphed
from rnncore.bench import torch_graph as capture
device, work, kind, how = sys.argv[1:]
if how == "alone":
    capture.side_stream = torch.cuda.Stream
graphed.WORK[work](task(work), device, kind, True)
"""


@pytest.mark.gpu
@pytest.mark.skipif(NO_GPU is not None, reason=f"no GPU: {NO_GPU}")
@pytest.mark.parametrize("how", ["alone", "after a first one that is thrown away"])
@pytest.mark.parametrize("kind", ["float32", "bf16 weights"])
@pytest.mark.parametrize("work", WORK)
def test_the_first_capture_of_a_process_succeeds(graphed, work, kind, how):
    """Nothing is left for it to trip over, so it succeeds alone too."""
    if not graphed.torch.cuda.is_available():
        pytest.skip("this torch finds no GPU")
    check_first_capture("cuda", work, kind, how)


def check_first_capture(*arguments: str) -> None:
    done = subprocess.run([sys.executable, "-c", FIRST, *arguments], capture_output=True, text=True, timeout=300,
                          env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)})
    assert done.returncode == 0 and "AccumulateGrad" not in done.stderr, done.stderr
