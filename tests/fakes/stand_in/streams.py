"""Streams, events and graphs of the stand-in: work runs when it is enqueued, or is recorded by its stream's capture.

lanes.py says what is ordered and what is over. Streams that are not non-blocking share one lane with the default one:
CUDA orders them against it by itself.
"""
import itertools
import threading
import time
import weakref
from collections.abc import Callable
from typing import NamedTuple

from .lanes import Lane, copies, default_lane, host, under_way
from .memory import Allocation, Freed

RELAXED = 2  # cudaStreamCaptureModeRelaxed
UNSUPPORTED, INVALIDATED, UNMATCHED, ISOLATION, ILLEGAL_STATE = 900, 901, 903, 905, 401  # cudaError_t


class CUDARuntimeError(RuntimeError):
    """Like CuPy's: a text and a status."""

    def __init__(self, status: int, text: str):
        super().__init__(f"{status}: {text}")
        self.status = status


class Node(NamedTuple):
    """A piece of recorded work: run() does it; reads and writes are the NumPy memory that it touches."""
    name: str
    reads: tuple
    writes: tuple
    read_blocks: tuple
    written_blocks: tuple
    run: Callable

    def alive(self, blocks: tuple) -> list:
        held = [block() for block in blocks]
        if None in held:
            raise Freed(f"{self.name}: an array of the graph has been freed")
        return held


class Graph:
    """What a capture recorded, in order, in `nodes`. It does not keep the arrays alive."""

    def __init__(self, nodes: list[Node]):
        self.nodes = nodes

    def launch(self, stream=None) -> None:
        stream = stream or current()
        if stream.is_capturing():
            raise NotImplementedError("the stand-in has no graphs inside graphs")
        for node in self.nodes:
            stream.lane.run(node.name, node.alive(node.read_blocks), node.alive(node.written_blocks))
            node.run()

    def upload(self, stream=None) -> None:
        """Nothing to do: the work lies here already."""


class Stream:
    """cupy.cuda.Stream: what is enqueued while it is the current one of its thread is its work."""
    null: "Stream"
    _pointers = itertools.count(0x5000, 16)

    def __init__(self, null=False, non_blocking=False, ptds=False, priority=None):
        self.ptr = 0 if null else next(Stream._pointers)
        self.device_id, self.is_non_blocking = 0, non_blocking
        self.lane = Lane() if non_blocking else default_lane
        self._nodes: list[Node] | None = None
        self._valid = True

    def __eq__(self, other):
        return isinstance(other, Stream) and self.ptr == other.ptr

    def __hash__(self):
        return self.ptr

    def __enter__(self):
        _stack().append(self)
        return self

    def __exit__(self, *error):
        _stack().pop()

    def use(self):
        _stack()[-1] = self
        return self

    @property
    def done(self) -> bool:
        self.refuse("a query of the stream")
        return not under_way({**self.lane.known, self.lane: self.lane.tick})

    def is_capturing(self) -> bool:
        return self._nodes is not None

    def begin_capture(self, mode=RELAXED) -> None:
        if not self.ptr:
            raise RuntimeError("cannot capture on the default (legacy) stream")
        if self.is_capturing():
            raise CUDARuntimeError(ILLEGAL_STATE, "cudaErrorIllegalState: the stream is captured already")
        self._nodes, self._valid = [], True

    def end_capture(self) -> Graph:
        nodes, self._nodes = self._nodes, None
        if nodes is None:
            raise CUDARuntimeError(UNMATCHED, "cudaErrorStreamCaptureUnmatched: the stream is not captured")
        if not self._valid:
            raise CUDARuntimeError(INVALIDATED, "cudaErrorStreamCaptureInvalidated: by an earlier call")
        return Graph(nodes)

    def record_node(self, node: Node) -> None:
        if not self._valid:
            raise CUDARuntimeError(INVALIDATED, f"cudaErrorStreamCaptureInvalidated: {node.name}")
        self._nodes.append(node)

    def refuse(self, what: str) -> None:
        """Raise, and spoil the capture, where this stream is captured."""
        if self.is_capturing():
            self._valid = False
            raise CUDARuntimeError(UNSUPPORTED, f"cudaErrorStreamCaptureUnsupported: {what} during a capture")

    def synchronize(self) -> None:
        self.refuse("synchronisation")
        host.learn({**self.lane.known, self.lane: self.lane.tick})

    def record(self, event=None):
        event = event or Event()
        event.record(self)
        return event

    def wait_event(self, event) -> None:
        if self.is_capturing() != (event.captured_by is not None) or event.captured_by not in (None, self):
            raise CUDARuntimeError(ISOLATION, "cudaErrorStreamCaptureIsolation: an event from outside or to it")
        self.lane.learn(event.known)


class Event:
    """cupy.cuda.Event."""

    def __init__(self, block=False, disable_timing=False, interprocess=False):
        self.known, self.time, self.timed, self.captured_by = {}, None, not disable_timing, None

    def record(self, stream=None) -> None:
        stream = stream or current()
        self.captured_by = stream if stream.is_capturing() else None
        self.known, self.time = {**host.known, **stream.lane.known, stream.lane: stream.lane.tick}, time.perf_counter()

    @property
    def done(self) -> bool:
        if self.captured_by is not None:
            self.captured_by.refuse("a query of an event")
        return not under_way(self.known)

    def synchronize(self) -> None:
        if self.captured_by is not None:
            self.captured_by.refuse("a wait for an event")
        host.learn(self.known)


def get_elapsed_time(start: Event, end: Event) -> float:
    """Milliseconds."""
    if not (start.timed and end.timed):
        raise CUDARuntimeError(400, "cudaErrorInvalidResourceHandle: an event without timing")
    return 1e3 * (end.time - start.time)


Stream.null = Stream(null=True)
_local = threading.local()


def _stack() -> list[Stream]:
    if not hasattr(_local, "stack"):
        _local.stack, _local.allocator = [Stream.null], None
    return _local.stack


def current(device_id: int = -1) -> Stream:
    """cupy.cuda.get_current_stream()."""
    return _stack()[-1]


def capturing() -> bool:
    return _stack()[-1]._nodes is not None


def reset() -> None:
    """The default stream is current again and idle, and no allocator is set, whatever a failed test left behind."""
    _local.stack, _local.allocator = [Stream.null], None
    host.learn({default_lane: default_lane.tick})
    copies.clear()


class using_allocator:
    """cupy.cuda.using_allocator: function(bytes) is asked for all memory of the thread; here it may only refuse."""

    def __init__(self, allocator=None):
        self.allocator = allocator

    def __enter__(self):
        _stack()
        self.before, _local.allocator = _local.allocator, self.allocator

    def __exit__(self, *error):
        _local.allocator = self.before


def allocate(nbytes: int, name: str) -> None:
    """Ask for memory. Raises Allocation under capture; the thread's allocator is asked first."""
    stack = _stack()
    if _local.allocator is not None:
        _local.allocator(nbytes)
    if stack[-1]._nodes is not None:
        raise Allocation(f"{name} allocates {nbytes} bytes while the stream is captured")


def submit(name: str, read_blocks, written_blocks, run: Callable, reads, writes) -> None:
    """Give the current stream a piece of work; reads and writes: the NumPy memory that it touches, in those blocks."""
    stream = _stack()[-1]
    if stream._nodes is None:
        stream.lane.run(name, read_blocks, written_blocks)
        run()
    else:
        stream.record_node(Node(name, tuple(reads), tuple(writes), tuple(map(weakref.ref, read_blocks)),
                                tuple(map(weakref.ref, written_blocks)), run))
