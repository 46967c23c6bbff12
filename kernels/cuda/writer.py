"""A writer of text on the GPU: one launch of writer.cu draws many characters and runs the layers and the head for each.

The blocks of a launch wait for each other. So the launch is cooperative: all blocks run at the same time, one on each
multiprocessor. `shape` decides how a model is divided among the blocks.
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

WARPS = 16  # the largest number of warps of a block
# The largest number of columns that a block works on at a time, by the bytes of a number. A block of more than
# MANY_WARPS warps works on half as many.
MOST_COLUMNS = {4: 8, 8: 4}
MANY_WARPS = 12


class Card(NamedTuple):
    """The properties of a GPU on which the division of the work depends."""
    processors: int           # the number of multiprocessors
    shared: int               # the largest shared memory of a block, in bytes
    cooperative: bool = True  # True if the card has cooperative launches


class Sizes(NamedTuple):
    """The sizes of a model."""
    layers: int
    hidden: int   # hidden units of a layer
    symbols: int
    number: int   # the bytes of a number: 4 or 8


class Shape(NamedTuple):
    """The division of a model among the blocks of a launch. The first six fields are options of writer.cu.

    Only columns, kept, groups, share and bytes depend on the number of columns.
    """
    units: int    # hidden units of each layer that a block has
    rows: int     # groups of four rows of the head that a block has
    slices: int   # warps that share the depth of a product
    warps: int    # warps of a block
    columns: int  # columns that a block works on at a time
    kept: bool    # True if a block keeps its weights in shared memory
    blocks: int   # blocks of a group: together they have the whole model
    groups: int   # groups of blocks, which share the columns
    share: int    # columns of a group in one launch
    bytes: int    # shared memory of a block


def shape(sizes: Sizes, columns: int, card: Card) -> Shape | None:
    """Return the shape for this number of columns, or None if shared memory is too small for even one column.

    The order of a sum, and so its rounding, depends on the model and the card, but not on the number of columns.
    """
    layers, hidden, symbols, _ = sizes
    parts = -(-hidden // 128)  # warps that find work if each lane takes four numbers of the depth
    units = max(-(-hidden // card.processors), min(8, max(1, WARPS // parts)))
    slices = max(1, min(parts, WARPS // units))
    blocks = -(-hidden // units)
    rows = -(-symbols // (4 * blocks))
    groups = max(1, min(card.processors // blocks, columns))
    share = -(-columns // groups)
    warps = min(WARPS, units * slices)
    limit = MOST_COLUMNS[sizes.number] // (1 + (warps > MANY_WARPS))
    # Shapes with the weights in shared memory come first, even if a block then works on fewer columns at a time.
    for kept, at_once in itertools.product((True, False), (8, 4, 2, 1)):
        found = Shape(units, rows, slices, warps, at_once, kept, blocks, groups, share, 0)
        most = _most_columns(sizes, found, card.shared)
        if at_once <= limit and at_once < 2 * share and most >= min(share, at_once):
            share = share if share <= most else most // at_once * at_once
            return found._replace(share=share, bytes=_bytes(sizes, found, share))
    return None


def weights(sizes: Sizes, found: Shape) -> int:
    """Return how many weights a block has: its columns of the table, its biases, and its rows of every matrix."""
    return 4 * (found.units * (sizes.symbols + sizes.layers - 1) + found.rows
                + _depth(sizes) * (found.units * (2 * sizes.layers - 1) + found.rows))


def _depth(sizes: Sizes) -> int:
    """Return the hidden size rounded up to a multiple of four."""
    return 4 * -(-sizes.hidden // 4)


def _bytes(sizes: Sizes, found: Shape, share: int) -> int:
    """Return the bytes of shared memory of a block with `share` columns: the sum of `allocate` in writer.cu."""
    at_once, depth = found.columns, _depth(sizes)
    numbers = (found.kept * weights(sizes, found) + 2 * at_once * depth
               + 4 * at_once * found.slices * max(found.units, found.rows)
               + 4 * at_once * -(-share // at_once) * sizes.layers * found.slices * found.units
               + sizes.layers * share * found.units)
    return sizes.number * numbers + at_once * (20 * sizes.symbols + 8) + 4 * share


def _most_columns(sizes: Sizes, found: Shape, shared: int) -> int:
    """Return the largest number of columns of a group for which `shared` bytes of shared memory are enough."""
    share = 0
    while share < found.share and _bytes(sizes, found, share + 1) <= shared:
        share += 1
    return share


def why_not(sizes: Sizes, card: Card) -> str | None:
    """Return None if the card can write text with a model of these sizes, else one line with the cause."""
    if not card.cooperative:
        return "the card cannot launch blocks that wait for each other"
    if shape(sizes, 1, card) is None:
        return f"{sizes.symbols} symbols and {sizes.hidden} units leave no room in a block's {card.shared:,} bytes"
    return None


def card() -> Card:
    """Return the properties of the current card."""
    import cupy
    about = cupy.cuda.Device().attributes
    return Card(about["MultiProcessorCount"], about["MaxSharedMemoryPerBlockOptin"], bool(about["CooperativeLaunch"]))


def text() -> str:
    """Return the source text of the kernel `writer` in CUDA C++, without its options."""
    return TANH + source("ptx.cuh", "gates.cuh", "philox.cuh", "draw.cuh", "product.cuh", "writer.cu")


def options(sizes: Sizes, found: Shape) -> tuple[str, ...]:
    """Return the compiler's options that make the kernel `writer` for one model and one shape."""
    names = {"HIDDEN": sizes.hidden, "LAYERS": sizes.layers, "SYMBOLS": sizes.symbols, "UNITS": found.units,
             "ROWS": found.rows, "SLICES": found.slices, "WARPS": found.warps, "COLUMNS": found.columns,
             "KEPT": int(found.kept), "REAL": {4: "float", 8: "double"}[sizes.number]}
    return "-std=c++17", *(f"-D{name}={value}" for name, value in names.items())


def compiled(options: tuple[str, ...], shared: int) -> Callable[..., None]:
    """Return the kernel as a function of grid, block and arguments. shared: bytes of shared memory of a block.

    CuPy compiles the kernel once for the same options.
    """
    import cupy
    kernel = cupy.RawKernel(text(), "writer", options, enable_cooperative_groups=True)
    kernel.max_dynamic_shared_size_bytes = card().shared  # kernels of one text share the limit
    return functools.partial(kernel, shared_mem=shared)


class HostCopy:
    """A copy of ids (characters, N) from the card to the host, which is still running. `ids` waits for it.

    The class holds the memory of every copy until the copy is complete, even if the object is gone. A caller may leave
    a text before its end, but the card makes the copy of the next symbols all the same. If the pinned memory were
    freed before, CuPy would give it to the next copy from the host to the card. The old copy would then overwrite
    the new data, and the card would read wrong numbers.
    """
    _pending: ClassVar[dict] = {}  # event after a copy -> the memory that the copy reads and writes

    def __init__(self, ids: CudaArray):
        import cupy
        for event in list(HostCopy._pending):
            if event.done:
                HostCopy._pending.pop(event, None)
        self._copied = cupy.cuda.Event(disable_timing=True)
        pinned = cupy.cuda.alloc_pinned_memory(ids.nbytes)  # needed for a copy without waiting
        self._host = np.frombuffer(pinned, ids.dtype, ids.size).reshape(ids.shape)
        try:
            ids.get(out=self._host, blocking=False)
        finally:
            self._copied.record()
            HostCopy._pending[self._copied] = ids, pinned

    def ids(self) -> Ids:
        """Wait for the copy. Return the ids (characters, N) as an array in ordinary memory."""
        self._copied.synchronize()
        HostCopy._pending.pop(self._copied, None)
        return self._host.copy()


class Writer:
    """A writer of text from the state h, c (L, H, N) and logits (V, N), which it advances in place.

    xp: the array library of the arrays. layers: w_ih, w_hh and bias of each layer; head: weight (V, H) and bias (V,);
    table (4H, V): the first layer's W_ih embedding^T + b. The weights are copied. on: the card. Raises ValueError if
    `why_not` gives a reason against it.
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
        self._state, self._tag = (h, c, logits), 1  # words that were never written have the tag 0

    def write(self, characters: int, temperature: float, top_k: int, top_p: float, key: Key, purpose: int,
              sample: int, start: int) -> HostCopy:
        """Draw the next `characters` ids of every column, as rnncore/sample.py does, and advance the state.

        temperature, top_k and top_p are those of config.SampleConfig. An id of -1 means that the largest logit was not
        finite. key: the key of the random generator. Column n takes the uniform draws of sample `sample` + n from the
        index `start` on; purpose is the last word of their counter. Returns without waiting for the card.
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
        # A launch uses characters + 1 tags that were not used before: see writer.cu.
        self._tag = (self._tag + characters + 1) % 2 ** 32
        return HostCopy(ids)


def sizes_of(h: Array, logits: Array) -> Sizes:
    """Return the sizes of a model from its state h (L, H, N) and logits (V, N)."""
    return Sizes(len(h), h.shape[1], len(logits), h.dtype.itemsize)


def pack(xp: ModuleType, layers: Sequence[LayerWeights], head: HeadWeights, table: Array, found: Shape) -> Array:
    """Return the weights (blocks, numbers) in the order of writer.cu: all weights of a block are one row."""
    def blocks(units: Array, each: int) -> Array:
        """Return rows (U, ..., K) as (blocks, numbers): `each` rows for a block, K padded to a multiple of four."""
        filled = xp.zeros((found.blocks * each, *units.shape[1:-1], 4 * -(-units.shape[-1] // 4)), units.dtype)
        filled[:len(units), ..., :units.shape[-1]] = units
        return filled.reshape(found.blocks, -1)

    def gates(matrix: Array) -> Array:
        """Return a matrix (4H, K) as (H, 4, K): the four gates of a unit together."""
        return matrix.reshape(4, -1, matrix.shape[-1]).swapaxes(0, 1)

    def fours(rows: Array) -> Array:
        """Return rows (V, K) as (V / 4, 4, K), padded with zeros: groups of four rows."""
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
