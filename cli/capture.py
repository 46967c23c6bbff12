"""A capture is torch's work in a CUDA graph, which replays it; and a timer, torch's twin of a kernel module's.

Only graphed.py imports this module.
"""
import contextlib

import torch

WARM_UP = 3  # calls before a capture


def captured(work, device: torch.device):
    """work captured in a CUDA graph, as a function that replays it; on a CPU work itself. Both are warmed up."""
    if device.type != "cuda":
        for _ in range(WARM_UP):
            work()
        return work
    stream = torch.cuda.Stream(device)
    stream.wait_stream(torch.cuda.current_stream(device))
    with torch.cuda.stream(stream):
        for _ in range(WARM_UP):
            work()
    torch.cuda.current_stream(device).wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        work()
    return graph.replay


@contextlib.contextmanager
def events():
    """A context that yields a list, to which its end adds the seconds between two events on the current stream."""
    begun, ended, seconds = (*(torch.cuda.Event(enable_timing=True) for _ in range(2)), [])
    begun.record()
    yield seconds
    ended.record()
    ended.synchronize()
    seconds.append(begun.elapsed_time(ended) / 1e3)
