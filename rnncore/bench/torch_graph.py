"""A capture is torch's work in a CUDA graph, which replays it; and a timer, torch's twin of a kernel module's.

Only torch_card.py imports this module.
"""
import contextlib
import functools
import gc
from collections.abc import Callable, Iterator
from typing import TypeAlias

import torch

Work: TypeAlias = Callable[[], object]

WARM_UP = 3  # calls of the work before it is captured


def captured(work: Work, device: torch.device) -> Work:
    """Capture `work` in a CUDA graph and return a function that replays it; on a CPU return `work`. Both warm it up.

    The caller holds no tensor with a grad_fn meanwhile. Such a tensor keeps the AccumulateGrad nodes of its parameters,
    and a node keeps the stream on which it was made: backward then goes to that stream too, which ends the capture.
    """
    if device.type != "cuda":
        for _ in range(WARM_UP):
            work()
        return work
    return record(work, side_stream(device)).replay


@functools.cache
def side_stream(device: torch.device) -> torch.cuda.Stream:
    """Return the stream of all captures on the device. The first call makes it and does a first capture, thrown away.

    What fails only in a process's first capture fails there. The next one reports any other error.
    """
    stream = torch.cuda.Stream(device)
    with contextlib.suppress(RuntimeError), torch.inference_mode(False), torch.enable_grad():
        record(tiny_work(device), stream)
    return stream


def tiny_work(device: torch.device) -> Work:
    """Return the work of the first capture: a product forward and backward, into a parameter of its own."""
    weight = torch.ones(8, 8, device=device, requires_grad=True)

    def work() -> None:
        weight.grad = None
        (weight @ weight).sum().backward()
    return work


def record(work: Work, stream: torch.cuda.Stream) -> torch.cuda.CUDAGraph:
    """Warm `work` up and capture it, both on `stream`; the current stream waits for it and is the current one again."""
    current = torch.cuda.current_stream(stream.device)
    stream.wait_stream(current)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.stream(stream):  # by itself, torch.cuda.graph leaves this stream current after a failed capture
        for _ in range(WARM_UP):
            work()
        gc.collect()  # a reference cycle may still hold the graph of a loss
        with torch.cuda.graph(graph, stream=stream):
            work()
    current.wait_stream(stream)
    return graph


@contextlib.contextmanager
def events() -> Iterator[list[float]]:
    """Yield a list, to which the context's end adds the seconds between two events on the current stream."""
    begun, ended = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    seconds: list[float] = []
    begun.record()
    yield seconds
    ended.record()
    ended.synchronize()
    seconds.append(begun.elapsed_time(ended) / 1e3)
