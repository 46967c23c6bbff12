"""A CUDA graph: the work that a function gives to the card, recorded once and launched as often as wanted.

The function runs under stream capture, where its kernels are recorded and not run. So it may allocate nothing, copy
nothing to or from the host, wait for nothing, and call nothing of CuPy's that calls cuBLAS; numbers that it passes by
value stay as they were. A graph works on the memory that was there: it holds the function, and so what that holds;
every other array that the function works on must outlive the graph.
"""
import contextlib
import gc
from collections.abc import Callable, Iterator
from typing import NoReturn

import cupy


class Allocation(RuntimeError):
    """A function that is being captured asked for memory, which the pool would give to others after the capture."""


class Graph:
    """`repeats` calls of function(), in order, as one launch.

    The function is run once before the capture, so that its kernels are compiled and its buffers made; warm_up=False
    leaves that out, where it was run before on arrays of the same kinds. A launch begins after what the caller's stream
    holds, and what that stream is given later waits for it: no other synchronisation is needed.
    stream: its own, non-blocking; `with graph.stream:` puts other work in line with the launches.
    Raises Allocation, or what CuPy raises, for a function that cannot be captured; it can still be called as it is.
    """

    def __init__(self, function: Callable[[], object], repeats: int = 1, warm_up: bool = True):
        self.stream, self._function = cupy.cuda.Stream(non_blocking=True), function
        self._before, self._after = (cupy.cuda.Event(disable_timing=True) for _ in range(2))
        with self._in_line():
            if warm_up:
                function()
            self._graph = self._capture(function, repeats)

    def launch(self) -> None:
        """Enqueue all of it on its stream, in line with the current one; the host does not wait."""
        with self._in_line():
            self._graph.launch(self.stream)

    @contextlib.contextmanager
    def _in_line(self) -> Iterator[None]:
        """The own stream as the current one: it begins after the one that is current now, which then waits for it."""
        caller = cupy.cuda.get_current_stream()
        self._before.record(caller)
        self.stream.wait_event(self._before)
        try:
            with self.stream:
                yield
        finally:
            self._after.record(self.stream)
            caller.wait_event(self._after)

    def _capture(self, function: Callable[[], object], repeats: int) -> "cupy.cuda.Graph":
        """The recorded graph. No garbage is collected meanwhile: to free what the driver holds may spoil a capture."""
        collects = gc.isenabled()
        gc.disable()
        try:
            self.stream.begin_capture()
            try:
                with cupy.cuda.using_allocator(_refuse):
                    for _ in range(repeats):
                        function()
            except BaseException:
                with contextlib.suppress(cupy.cuda.runtime.CUDARuntimeError):  # a spoiled capture ends with an error
                    self.stream.end_capture()
                raise
            return self.stream.end_capture()
        finally:
            if collects:
                gc.enable()


def _refuse(size: int) -> NoReturn:
    raise Allocation(f"{size} bytes of the card's memory are wanted during a capture: make every buffer before")
