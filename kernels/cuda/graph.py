"""A CUDA graph: the work that a function gives to the card, captured once and launched any number of times.

The function runs under stream capture: its kernels are recorded, not run. So it must not allocate memory, copy to or
from the host, wait for the card, or call any CuPy function that calls cuBLAS. A number that it passes by value keeps
its value in every launch. A launch reads and writes the memory that the capture used. The graph keeps the function
alive, and so the arrays that the function holds; every other array that the function uses must outlive the graph.
"""
import contextlib
import gc
from collections.abc import Callable, Iterator
from typing import NoReturn

import cupy


class Allocation(RuntimeError):
    """A function asked for memory during its capture. CuPy's pool could give that memory away after the capture."""


class Graph:
    """`repeats` calls of function(), one after the other, as one launch.

    Before the capture the function runs once, to compile its kernels and make its buffers. warm_up=False leaves this
    out; then the function must have run before on arrays of the same kinds. A launch begins after the work that is
    already in the caller's stream, and later work in that stream waits for it: no other synchronisation is needed.

    stream: the graph's own, non-blocking; `with graph.stream:` puts other work in order with the launches. Raises
    Allocation, or CuPy's own error, if the function cannot be captured. The function can still be called without a
    graph then.
    """

    def __init__(self, function: Callable[[], object], repeats: int = 1, warm_up: bool = True):
        self.stream, self._function = cupy.cuda.Stream(non_blocking=True), function
        self._before, self._after = (cupy.cuda.Event(disable_timing=True) for _ in range(2))
        with self._in_line():
            if warm_up:
                function()
            self._graph = self._capture(function, repeats)

    def launch(self) -> None:
        """Enqueue all calls on the graph's stream, in order with the current stream. The host does not wait."""
        with self._in_line():
            self._graph.launch(self.stream)

    @contextlib.contextmanager
    def _in_line(self) -> Iterator[None]:
        """Return a context in which the graph's stream is current.

        The graph's stream first waits for the work of the caller's stream. At the end of the context the caller's
        stream waits for the work of the graph's stream.
        """
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
        """Return the captured graph."""
        # No garbage is collected meanwhile: it may free objects of the driver, and that may spoil a capture.
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
    """Take the place of CuPy's allocator during a capture: raise Allocation."""
    raise Allocation(f"{size} bytes of the card's memory are wanted during a capture: make every buffer before")
