"""Pinned memory of the host: CuPy's pool of it, and copies into it that are made as late as CUDA allows.

A block that is freed is the next that is given out, as in CuPy. A copy from the card into a block goes on after the
block is freed: it lands where the block lies, whoever has it by then. When it lands is up to the card, so here it lands
only when the host has waited for it, or when a later copy on its stream reads the block.
"""
import ctypes
import functools
from collections import defaultdict

import numpy as np

from . import lanes, streams
from .memory import POISON, address

UNIT = 512  # bytes: sizes are rounded up to a multiple of it, then to a power of two


class Pool:
    """cupy.cuda.PinnedMemoryPool, and CuPy's list of what it holds until an event is done."""

    def __init__(self):
        self._free: dict[int, list[np.ndarray]] = defaultdict(list)
        self._held: list[tuple] = []
        self._blocks: dict[int, np.ndarray] = {}  # by address: all that were ever made

    def allocate(self, nbytes: int):
        """cupy.cuda.alloc_pinned_memory: a buffer, whose block is freed with the last that holds it; it is poisoned."""
        while self._held and self._held[0][0].done:
            del self._held[0]
        if not nbytes:
            return _pointer(0)()
        size = 1 << (-(-nbytes // UNIT) * UNIT - 1).bit_length()
        free = self._free[size]
        block = free.pop() if free else np.empty(size, np.uint8)
        block[...] = POISON
        self._blocks[address(block)] = block
        pointer = _pointer(size).from_address(address(block))
        pointer.ptr, pointer.free = address(block), functools.partial(free.append, block)
        return pointer

    def hold(self, held, event) -> None:
        """Hold it until the event is done, which is looked at when memory is asked for."""
        if not event.done:
            self._held.append((event, held))

    def block(self, host: np.ndarray) -> np.ndarray | None:
        """The block in which an array of NumPy's lies; None for memory that is not pinned."""
        begin = address(host)
        return next((block for start, block in self._blocks.items() if start <= begin < start + block.nbytes), None)


@functools.cache
def _pointer(size: int) -> type:
    """cupy.cuda.PinnedMemoryPointer to so many bytes: a buffer that gives its block back when nobody holds it."""
    def __del__(self) -> None:
        if hasattr(self, "free"):
            self.free()
    return type("PinnedMemoryPointer", (ctypes.c_ubyte * size,), {"__del__": __del__, "size": lambda self: size})


pool = Pool()


def to_host(source: np.ndarray, out: np.ndarray, lane) -> bool:
    """Begin a copy of the card's memory into `out`, the last work of its lane.

    False, and nothing is done, where `out` is not pinned: into other memory no copy goes on without the host.
    """
    block = pool.block(out)
    if block is None:
        return False
    there = np.ndarray(out.shape, out.dtype, block, address(out) - address(block), out.strides)  # holds no pointer
    taken = source.copy()
    lanes.copies.append(lanes.Copy(lane, lane.tick, address(block), lambda: np.copyto(there, taken)))
    return True


def to_device(source: np.ndarray, target: np.ndarray, lane) -> None:
    """Make a copy from the host, the last work of its lane; what is not pinned goes through a block of the pool."""
    held, block = source, pool.block(source)
    if block is None:
        held = pool.allocate(target.nbytes)
        staged = np.ndarray(target.shape, target.dtype, held, 0, target.strides)
        staged[...] = source
        source, block = staged, pool.block(staged)
    lanes.land_before(lane, address(block))
    target[...] = source
    event = streams.Event()
    event.record()
    pool.hold(held, event)


def reset() -> None:
    """A pool of its own for the tests to come."""
    global pool
    pool = Pool()
