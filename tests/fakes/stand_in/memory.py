"""The memory of the stand-in's card: blocks of the host's, poisoned before they are written and once they are freed."""
import bisect
import math
import weakref

import numpy as np

POISON = 0xFF    # of every byte: NaN as a float, -1 as an integer
ALIGNMENT = 512  # bytes: what CuPy's arrays begin at multiples of


class Allocation(RuntimeError):
    """Memory is wanted while a stream is captured: CuPy's pool would give the same block to others afterwards."""


class Freed(RuntimeError):
    """A graph is launched after an array that it works on was freed."""


class Block:
    """One allocation, freed with the last array on it: graphs hold it weakly, and so does the table of addresses."""
    __slots__ = ("root", "start", "written", "read", "__weakref__")

    def __init__(self, host: np.ndarray):
        """host: made by `new`."""
        self.root = host.base  # bytes
        self.start = address(self.root)
        self.written = None    # (lane, tick) of the last piece of work that wrote it, as streams.py keeps it
        self.read: dict = {}   # lane: tick of those that read it since
        _remember(self)

    def poison(self) -> None:
        self.root[...] = POISON

    def __del__(self):
        self.poison()
        _forget(self.start, self)


def address(array: np.ndarray) -> int:
    return array.__array_interface__["data"][0]


def new(shape, dtype, order: str = "C") -> np.ndarray:
    """An array that begins where CuPy's may, and whose owner begins and ends with it."""
    if isinstance(shape, (int, np.integer)):
        shape = (shape,)
    nbytes = max(1, math.prod(shape) * np.dtype(dtype).itemsize)
    room = np.empty(nbytes + ALIGNMENT, np.uint8)
    begin = -address(room) % ALIGNMENT
    return np.ndarray(shape, dtype, np.frombuffer(memoryview(room)[begin:begin + nbytes], np.uint8), order=order)


def moved(host: np.ndarray) -> np.ndarray:
    """A copy of host in such memory."""
    array = new(host.shape, host.dtype, "F" if host.flags.f_contiguous and not host.flags.c_contiguous else "C")
    array[...] = host
    return array


def root_of(array: np.ndarray) -> np.ndarray:
    """The array that owns the memory."""
    while isinstance(array.base, np.ndarray):
        array = array.base
    return array


_starts: list[int] = []
_blocks: dict[int, weakref.ref] = {}


def _remember(block: Block) -> None:
    if block.start not in _blocks:
        bisect.insort(_starts, block.start)
    _blocks[block.start] = weakref.ref(block)


def _forget(start: int, block: Block) -> None:
    held = _blocks.get(start)
    if held is not None and held() in (None, block):
        del _blocks[start]
        del _starts[bisect.bisect_left(_starts, start)]


def block_at(pointer: int) -> Block:
    """The block in which a device pointer lies. Raises Freed where there is none."""
    place = bisect.bisect_right(_starts, pointer) - 1
    block = _blocks[_starts[place]]() if place >= 0 else None
    if block is None or pointer >= block.start + block.root.nbytes:
        raise Freed(f"the device pointer {pointer:#x} is in no memory of the card")
    return block
