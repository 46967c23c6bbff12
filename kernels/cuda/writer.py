"""A Writer has the GPU write text: draw, layers and head of many characters in one launch of writer.cu.

The launch is cooperative, so that all its blocks run at once: they wait for each other. A multiprocessor has one block.
"""
import functools
import itertools
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import ClassVar, NamedTuple

import numpy as np

from ..arrays import Array, CudaArray, HeadWeights, Ids, Key, LayerWeights
from ..cpu.ops import IDS
from .text import TANH, source

TYPES = {"float32": "float", "float64": "double"}
WARPS = 16           # of a block at most
TOGETHER = {4: 8, 8: 4}  # columns that a block works on at a time, at most, by the bytes of a number
CROWDED = 12             # warps above which it is half of them


class Card(NamedTuple):
    """A GPU: its multiprocessors, the bytes of shared memory that a block may have, are there cooperative launches?"""
    processors: int
    shared: int
    cooperative: bool = True


class Sizes(NamedTuple):
    """A model's layers, hidden units and symbols, and the bytes of a number."""
    layers: int
    hidden: int
    symbols: int
    number: int


class Shape(NamedTuple):
    """How a model lies on a card: options of writer.cu, of which only KEPT and COLUMNS depend on the number of columns.

    blocks make a group, which has `share` columns at a time; `bytes` of shared memory a block.
    """
    units: int
    rows: int
    slices: int
    warps: int
    columns: int
    kept: bool
    blocks: int
    groups: int
    share: int
    bytes: int


def shape(sizes: Sizes, columns: int, card: Card) -> Shape | None:
    """The shape for so many columns, or None where not even one column has room.

    A sum's order, and so its rounding, depends on the model and the card, not on the number of columns.
    """
    layers, hidden, symbols, _ = sizes
    parts = -(-hidden // 128)  # slices of the depth that keep a warp busy with four numbers a lane
    units = max(-(-hidden // card.processors), min(8, max(1, WARPS // parts)))
    slices = max(1, min(parts, WARPS // units))
    blocks = -(-hidden // units)
    rows = -(-symbols // (4 * blocks))
    groups = max(1, min(card.processors // blocks, columns))
    share = -(-columns // groups)
    warps = min(WARPS, units * slices)
    limit = TOGETHER[sizes.number] // (1 + (warps > CROWDED))
    for kept, at_once in itertools.product((True, False), (8, 4, 2, 1)):
        found = Shape(units, rows, slices, warps, at_once, kept, blocks, groups, share, 0)
        most = _most(sizes, found, card.shared)
        if at_once <= limit and at_once < 2 * share and most >= min(share, at_once):
            share = share if share <= most else most // at_once * at_once
            return found._replace(share=share, bytes=_bytes(sizes, found, share))
    return None


def weights(sizes: Sizes, found: Shape) -> int:
    """Numbers of one block: its columns of the table, biases, and rows of every matrix."""
    return 4 * (found.units * (sizes.symbols + sizes.layers - 1) + found.rows
                + _depth(sizes) * (found.units * (2 * sizes.layers - 1) + found.rows))


def _depth(sizes: Sizes) -> int:
    return 4 * -(-sizes.hidden // 4)


def _bytes(sizes: Sizes, found: Shape, share: int) -> int:
    """Shared memory of a block that has `share` columns: `furnish` in writer.cu."""
    at_once, depth = found.columns, _depth(sizes)
    numbers = (found.kept * weights(sizes, found) + 2 * at_once * depth
               + 4 * at_once * found.slices * max(found.units, found.rows)
               + 4 * at_once * -(-share // at_once) * sizes.layers * found.slices * found.units
               + sizes.layers * share * found.units)
    return sizes.number * numbers + at_once * (20 * sizes.symbols + 8) + 4 * share


def _most(sizes: Sizes, found: Shape, shared: int) -> int:
    """The most columns of a group for which so many bytes of shared memory suffice."""
    share = 0
    while share < found.share and _bytes(sizes, found, share + 1) <= shared:
        share += 1
    return share


def why_not(sizes: Sizes, card: Card) -> str | None:
    """In a line: why a model of these sizes cannot write on the card so; None: it can."""
    if not card.cooperative:
        return "the card cannot launch blocks that wait for each other"
    if shape(sizes, 1, card) is None:
        return f"{sizes.symbols} symbols and {sizes.hidden} units leave no room in a block's {card.shared:,} bytes"
    return None


def card() -> Card:
    """The current card."""
    import cupy
    about = cupy.cuda.Device().attributes
    return Card(about["MultiProcessorCount"], about["MaxSharedMemoryPerBlockOptin"], bool(about["CooperativeLaunch"]))


def text() -> str:
    """The CUDA C++ of the kernel `writer`, but for its options."""
    return TANH + source("ptx.cuh", "gates.cuh", "philox.cuh", "draw.cuh", "product.cuh", "writer.cu")


def options(sizes: Sizes, found: Shape) -> tuple[str, ...]:
    names = {"HIDDEN": sizes.hidden, "LAYERS": sizes.layers, "SYMBOLS": sizes.symbols, "UNITS": found.units,
             "ROWS": found.rows, "SLICES": found.slices, "WARPS": found.warps, "COLUMNS": found.columns,
             "KEPT": int(found.kept), "REAL": {4: "float", 8: "double"}[sizes.number]}
    return "-std=c++17", *(f"-D{name}={value}" for name, value in names.items())


def compiled(options: tuple[str, ...], shared: int) -> Callable[..., None]:
    """The kernel as a function of grid, block and arguments; CuPy compiles it once."""
    import cupy
    kernel = cupy.RawKernel(text(), "writer", options, enable_cooperative_groups=True)
    kernel.max_dynamic_shared_size_bytes = card().shared  # of all launches: equal texts share one limit
    return functools.partial(kernel, shared_mem=shared)


class Handed:
    """Ids (characters, N) on their way from the card to the host: `ids` waits for them.

    A text may be left while its next symbols are on their way: its generator ends, is closed or collected, or raises.
    Their copy is made all the same. CuPy gives pinned memory that was freed to whoever asks next, which is any copy to
    the card: the host would write there at once, this copy would write over it, and the card would read the wrong
    numbers. So the memory of a copy is held here until the copy has been made, whatever becomes of the object.
    """
    _under_way: ClassVar[dict] = {}  # event after a copy: the memory that it reads, and that it writes

    def __init__(self, ids: CudaArray):
        import cupy
        for event in list(Handed._under_way):
            if event.done:
                Handed._under_way.pop(event, None)
        self._there = cupy.cuda.Event(disable_timing=True)
        pinned = cupy.cuda.alloc_pinned_memory(ids.nbytes)  # into other memory no copy is made while the host goes on
        self._host = np.frombuffer(pinned, ids.dtype, ids.size).reshape(ids.shape)
        try:
            ids.get(out=self._host, blocking=False)
        finally:
            self._there.record()
            Handed._under_way[self._there] = ids, pinned

    def ids(self) -> Ids:
        """Return the ids in an array of its own, in ordinary memory."""
        self._there.synchronize()
        Handed._under_way.pop(self._there, None)
        return self._host.copy()


class Writer:
    """Text from a stack's weights and its state h, c (L, H, N) and logits (V, N), which goes on in place.

    xp: the library of these arrays; layers: w_ih, w_hh, bias of each; head: weight, bias; table (4H, V): the first
    layer's W_ih embedding^T + b. Raises ValueError where `why_not` has a reason.
    """

    def __init__(self, xp: ModuleType, layers: Sequence[LayerWeights], head: HeadWeights, table: Array, h: Array,
                 c: Array, logits: Array, on: Card):
        (count, hidden, n), (symbols, _), number = h.shape, logits.shape, h.dtype.itemsize
        self.sizes = sizes_of(h, logits)
        found = shape(self.sizes, n, on)
        if found is None:
            raise ValueError(why_not(self.sizes, on))
        self.shape, self._kernel = found, compiled(options(self.sizes, found), found.bytes)
        self._xp, self._weights = xp, pack(xp, layers, head, table, found)
        self._words = self._xp.zeros((2, n, (count * hidden + symbols) * number // 4), np.uint64)
        self._state, self._tag = (h, c, logits), 1

    def write(self, characters: int, temperature: float, top_k: int, top_p: float, key: Key, purpose: int,
              sample: int, start: int) -> Handed:
        """The next `characters` ids of every column, drawn as rnncore/sample.py does; the state goes on.

        Column n has the coins of sample `sample` + n from index `start` on; purpose: the last word of their counter.
        """
        n, found = self._state[0].shape[-1], self.shape
        ids, slab = self._xp.empty((characters, n), IDS), found.groups * found.share
        chance = (np.float64(temperature), np.int32(min(top_k, self.sizes.symbols)), np.float64(top_p),
                  *map(np.uint32, (*key, purpose, start)), np.uint64(sample))
        for first in range(0, n, slab):
            count = min(slab, n - first)
            self._kernel((found.blocks, -(-count // found.share)), (32 * found.warps,), (
                self._weights, *self._state, self._words, ids,
                *map(np.int32, (characters, n, first, count, found.share)), np.uint32(self._tag), *chance))
        self._tag = (self._tag + characters + 1) % 2 ** 32
        return Handed(ids)


def sizes_of(h: Array, logits: Array) -> Sizes:
    return Sizes(len(h), h.shape[1], len(logits), h.dtype.itemsize)


def pack(xp: ModuleType, layers: Sequence[LayerWeights], head: HeadWeights, table: Array, found: Shape) -> Array:
    """The weights as writer.cu wants them: (blocks, numbers), what a block owns in one piece, in its order."""
    def blocks(units: Array, each: int) -> Array:
        """units (U, ..., K), a row of numbers each: (blocks, `each` units of a block with K filled up to fours)."""
        filled = xp.zeros((found.blocks * each, *units.shape[1:-1], 4 * -(-units.shape[-1] // 4)), units.dtype)
        filled[:len(units), ..., :units.shape[-1]] = units
        return filled.reshape(found.blocks, -1)

    def gates(matrix: Array) -> Array:
        """(4H, K) -> (H, 4, K)."""
        return matrix.reshape(4, -1, matrix.shape[-1]).swapaxes(0, 1)

    def fours(rows: Array) -> Array:
        """(V, K) -> (V / 4, 4, K), filled up."""
        filled = xp.zeros((-(-len(rows) // 4) * 4, rows.shape[1]), rows.dtype)
        filled[:len(rows)] = rows
        return filled.reshape(-1, 4, rows.shape[1])

    symbols, units = table.shape[1], found.units
    columns = blocks(gates(table).swapaxes(1, 2).reshape(-1, 4 * symbols), units)       # (blocks, units V 4)
    parts = [columns.reshape(-1, units, symbols, 4).swapaxes(1, 2).reshape(found.blocks, -1)]
    parts += [blocks(gates(bias[:, None])[:, :, 0], units) for _, _, bias in layers[1:]]
    parts.append(blocks(fours(head[1][:, None])[:, :, 0], found.rows))
    for k, (w_ih, w_hh, _) in enumerate(layers):
        parts += [blocks(gates(matrix), units) for matrix in ([w_ih, w_hh] if k else [w_hh])]
    return xp.concatenate([*parts, blocks(fours(head[0]), found.rows)], axis=1)
