"""The capture of torch's work in a CUDA graph, which replays it, and a timer by the GPU's clock (`events`).

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
    """Warm `work` up, capture it in a CUDA graph, and return a function that replays it. On a CPU, return `work`.

    The caller must not hold a tensor with a grad_fn. Such a tensor keeps the AccumulateGrad nodes of its parameters
    alive, and a node keeps the stream on which it was made. Backward would then use that stream too, and the capture
    would fail. Errors of the work and of the capture are passed on.
    """
    if device.type != "cuda":
        for _ in range(WARM_UP):
            work()
        return work
    return record(work, side_stream(device)).replay


@functools.cache
def side_stream(device: torch.device) -> torch.cuda.Stream:
    """Return the stream of all captures on the device. The first call makes it, and makes one capture that is not used.

    Some errors come only in the first capture of a process. They come here and are ignored. Any other error comes again
    in the next capture, which passes it on.
    """
    stream = torch.cuda.Stream(device)
    with contextlib.suppress(RuntimeError), torch.inference_mode(False), torch.enable_grad():
        record(tiny_work(device), stream)
    return stream


def tiny_work(device: torch.device) -> Work:
    """Return the work of the first capture: a matrix product, forward and backward, with a parameter of its own."""
    weight = torch.ones(8, 8, device=device, requires_grad=True)

    def work() -> None:
        weight.grad = None
        (weight @ weight).sum().backward()
    return work


def record(work: Work, stream: torch.cuda.Stream) -> torch.cuda.CUDAGraph:
    """Warm `work` up and capture it, both on `stream`; return the graph.

    The current stream waits for `stream`, and is the current stream again at the end, also after an error.
    """
    current = torch.cuda.current_stream(stream.device)
    stream.wait_stream(current)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.stream(stream):  # torch.cuda.graph alone would leave `stream` current after a failed capture
        for _ in range(WARM_UP):
            work()
        gc.collect()  # frees tensors with a grad_fn that a reference cycle still holds (see `captured`)
        with torch.cuda.graph(graph, stream=stream):
            work()
    current.wait_stream(stream)
    return graph


@contextlib.contextmanager
def events() -> Iterator[list[float]]:
    """Yield a list. When the context ends, add the seconds between its start and its end to the list.

    They are measured by two events on the current stream.
    """
    begun, ended = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    seconds: list[float] = []
    begun.record()
    yield seconds
    ended.record()
    ended.synchronize()
    seconds.append(begun.elapsed_time(ended) / 1e3)
