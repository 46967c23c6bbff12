"""Time loops of one layer as a single launch, forward and backward, in the precision classes with 16-bit products.

There are two pairs of kernels, in persistent.cu and tagged.cu: they differ in how their blocks send each other a step's
results. W_hh stays in the registers of a group of blocks for all steps, and a group works on chunks of sequences. The
blocks of a group wait for each other at each step. So the blocks of all groups must run at the same time, one on each
multiprocessor; otherwise they would wait forever.
"""
from typing import Any, NamedTuple

import cupy
import numpy as np

from ..arrays import Argument, Array, CudaArray, Ids
from .text import GATES, source

CODE = {"persistent": source("ptx.cuh") + GATES + source("fragments.cuh", "persistent.cu"),
        "tagged": source("ptx.cuh", "approximate.cuh", "gates.cuh", "fragments.cuh", "tagged.cu")}
THREADS = 256          # the threads of a block, as in fragments.cuh
LARGEST = 1024         # the largest hidden size: above it W_hh does not fit into the registers of a card
STATE = 8 << 10        # bytes of shared memory for c or dc; the kernels' own arrays take up to 40 of the 48 KB
# For each precision class the first compute capability, times ten, whose tensor cores have its products.
CLASSES = {"tf32": 75, "bf16": 80}


class Geometry(NamedTuple):
    """The division of the work among members * groups blocks."""
    units: int    # hidden units of each block
    members: int  # blocks of a group: together they have all hidden units
    columns: int  # sequences of a chunk
    chunks: int   # chunks of all groups together
    groups: int   # groups; each works on its own share of the chunks

    @property
    def state(self) -> int:
        """Return the bytes of dynamic shared memory of a block: one float for each unit and sequence of its chunks."""
        return -(-self.chunks // self.groups) * -(-self.units * self.columns // THREADS) * THREADS * 4


def geometry(hidden: int, n: int, multiprocessors: int, kernels: str = "persistent") -> Geometry:
    """Return the geometry for sizes that `why_not` accepts.

    The tagged kernels spread a layer over more blocks, because these wait less for each other. A chunk has 8 sequences.
    It has 16 if the card cannot run all chunks of 8 at the same time and 16 fit into shared memory.
    """
    units = 32 if hidden <= 512 else 16
    if kernels == "persistent" and hidden <= 256:
        units = hidden if hidden <= 128 else 64
    members = hidden // units
    if members == 1:  # such blocks wait for no other, so any number may be launched
        return Geometry(units, 1, 8, -(-n // 8), -(-n // 8))
    most = max(1, multiprocessors // members)
    shared_memory_for_16 = hidden % 128 == 0 or hidden <= 704
    columns = 16 if -(-n // 8) > most and shared_memory_for_16 else 8
    chunks = -(-n // columns)
    return Geometry(units, members, columns, chunks, -(-chunks // -(-chunks // most)))


def why_not(hidden: int, n: int, precision: str, capability: int, multiprocessors: int,
            kernels: str = "persistent") -> str | None:
    """Return None if the kernels can run this layer on this card, else one line with the cause.

    n: the number of sequences; capability: the compute capability times ten, 90 for 9.0; multiprocessors: how many of
    them the card has; kernels: "persistent" or "tagged".
    """
    if precision not in CLASSES:
        return f"persistent kernels compute in tf32 or bf16, not in {precision}: --dtype tf32"
    if capability < CLASSES[precision]:
        return f"persistent {precision} kernels need compute capability {CLASSES[precision]}, not {capability}"
    if hidden % 64 or not 0 < hidden <= LARGEST:
        return f"persistent kernels need a hidden size that is a multiple of 64 up to {LARGEST}, not {hidden}"
    shape = geometry(hidden, n, multiprocessors, kernels)
    if 1 < shape.members > multiprocessors:
        return f"hidden size {hidden} needs {shape.members} multiprocessors, this card has {multiprocessors}"
    if shape.state > STATE:
        return f"{n} sequences of hidden size {hidden} are too many for {multiprocessors} multiprocessors"
    return None


class Loops:
    """The time loops of layers of one hidden size, for n sequences and at most `steps` steps.

    All buffers are made here, so a call allocates nothing. capability and multiprocessors describe the card; None means
    the current card. spins: for tests, the number of rounds after which a wait ends the launch with an error. Raises
    ValueError if `why_not` gives a reason against it.
    """
    kernels: str  # the name of the source file and of its kernels

    def __init__(self, hidden: int, steps: int, n: int, precision: str, capability: int | None = None,
                 multiprocessors: int | None = None, spins: int | None = None):
        if capability is None or multiprocessors is None:
            device = cupy.cuda.Device()
            capability = int(device.compute_capability)
            multiprocessors = device.attributes["MultiProcessorCount"]
        reason = why_not(hidden, n, precision, capability, multiprocessors, self.kernels)
        if reason:
            raise ValueError(reason)
        self.hidden, self.steps, self.n = hidden, steps, n
        self.geometry = geometry(hidden, n, multiprocessors, self.kernels)
        units, members, columns, *_ = self.geometry
        options = ["-std=c++17", f"-DHIDDEN={hidden}", f"-DUNITS={units}", f"-DCOLUMNS={columns}",
                   f"-DBF16={int(precision == 'bf16')}"] + ([f"-DDEBUG_SPINS={spins}"] if spins else [])
        self._forward, self._backward = (
            cupy.RawKernel(CODE[self.kernels], f"{self.kernels}_{name}", options=tuple(options),
                           enable_cooperative_groups=members > 1) for name in ("forward", "backward"))

    def _check(self, gates: Array) -> None:
        """Raise ValueError for gates (4H, T, N) of sizes that these loops were not made for."""
        _, steps, n = gates.shape
        if len(gates) != 4 * self.hidden or steps > self.steps or n != self.n:
            raise ValueError(f"gates are {gates.shape}, made for (4 * {self.hidden}, up to {self.steps}, {self.n})")

    def _launch(self, kernel: "cupy.RawKernel", steps: int, *args: Argument) -> None:
        shape = self.geometry
        kernel((shape.members, shape.groups), (THREADS,),
               (*args, np.int32(steps), np.int32(self.n), np.int32(shape.chunks)), shared_mem=shape.state)


class Persistent(Loops):
    """The loops of persistent.cu."""
    kernels = "persistent"

    def __init__(self, *sizes: Any, **options: Any):
        super().__init__(*sizes, **options)
        _, members, columns, chunks, _ = self.geometry
        self._exchange = cupy.zeros(2 * chunks * 4 * self.hidden * columns if members > 1 else 1, np.uint16)
        self._flags = cupy.zeros(chunks * members, np.uint32)

    def forward(self, w_hh: Array, gates: Array, h: Array, c: Array, keep: Array | None) -> None:
        """Run the layer: gates (4H, T, N) arrives as W_ih x + b and leaves as the activations.

        h[:, 1:] and c[:, 1:] (H, T+1, N) are written; slot 0 is the initial state. w_hh is (4H, H), keep (T, N) or
        None. All arrays are float32. Arrays of (rows, T, N) may be the first steps of longer arrays. Raises ValueError
        for arrays of another dtype or with gaps, and for gates of another shape.
        """
        self._check(gates)
        self._launch(self._forward, gates.shape[1], contiguous(w_hh), *rows(gates), *rows(h), *rows(c),
                     contiguous(keep), self._exchange, self._cleared())

    def backward(self, w_hh: Array, gates: Array, c: Array, keep: Array | None, dy: Array, dh: Array,
                 dc: Array) -> None:
        """Run the layer backwards: gates (4H, T, N) arrives as the activations and leaves as dL/dz.

        c (H, T+1, N) and dy (H, T, N) are read. dh and dc (H, N) arrive as the gradient at the last state and leave as
        the gradient at the initial state. Raises the same errors as `forward`.
        """
        self._check(gates)
        self._launch(self._backward, gates.shape[1], contiguous(w_hh), *rows(gates), *rows(c), contiguous(keep),
                     *rows(dy), contiguous(dh), contiguous(dc), self._exchange, self._cleared())

    def _cleared(self) -> CudaArray:
        """Return the flags, set to 0 for a launch that reads them."""
        if self.geometry.members > 1:
            self._flags.fill(0)
        return self._flags


class Tagged(Loops):
    """The loops of tagged.cu. Arrays are of float32 except where a docstring says so."""
    kernels = "tagged"

    def __init__(self, *sizes: Any, **options: Any):
        super().__init__(*sizes, **options)
        _, _, columns, chunks, _ = self.geometry
        # Two halves, which launches use in turn: each launch leaves the half of the next one cleared.
        self._exchange = cupy.zeros(2 * 2 * chunks * 4 * self.hidden * columns, np.uint16)
        self._ended = cupy.zeros(1, np.uint32)  # blocks that have ended: it says which half is next

    def forward(self, w_hh: Array, bias: Array, z: Array, ids: Ids | None, gates: Array, h: Array, c: Array,
                keep: Array | None, y: Array, before: Array) -> None:
        """Run the layer: write the activations to gates (4H, T, N), and h[:, 1:] and c[:, 1:] (H, T+1, N).

        z (4H, T, N) is W_ih x without the bias (4H,); it may be gates. If ids (T, N) are given, z is a table (4H, V)
        and the ids choose its columns. h[:, 0] and c[:, 0] are the initial state. w_hh is (4H, H), keep (T, N) or None.
        y and before (H, T, N), of 16 bits, are written: h after each step, and the h that w_hh was multiplied with.
        Arrays of (rows, T, N) may be the first steps of longer arrays. Raises ValueError for arrays of another dtype or
        with gaps, and for sizes that do not fit.
        """
        self._check(gates)
        if bias.shape != (4 * self.hidden,) or len(z) != len(gates):
            raise ValueError(f"a bias of {bias.shape} and an input of {z.shape} do not fit gates of {gates.shape}")
        if ids is not None and not (ids.shape == gates.shape[1:] and ids.dtype == np.int64 and ids.flags.c_contiguous):
            raise ValueError(f"ids must be int64 of {gates.shape[1:]} without gaps, not {ids.dtype} of {ids.shape}")
        self._launch(self._forward, gates.shape[1], contiguous(w_hh), contiguous(bias), *rows(z),
                     np.uintp(0) if ids is None else ids, *rows(gates), *rows(h), *rows(c), contiguous(keep),
                     *operands(y, before), self._exchange, self._ended)

    def backward(self, w_hh: Array, gates: Array, c: Array, keep: Array | None, dy: Array,
                 last: tuple[Array, Array] | None, dh: Array, dc: Array, dz: Array) -> None:
        """Run the layer backwards: write dL/dz to dz (4H, T, N), of 16 bits.

        gates (4H, T, N) are the activations. c (H, T+1, N) and dy (H, T, N) are read. last is the gradient at the last
        state, two arrays (H, N), or None for zeros. dh and dc (H, N), the gradient at the initial state, are written;
        they may be the arrays of last. Raises the same errors as `forward`.
        """
        self._check(gates)
        self._launch(self._backward, gates.shape[1], contiguous(w_hh), *rows(gates), *rows(c), contiguous(keep),
                     *rows(dy), *map(contiguous, (*(last or (None, None)), dh, dc)), *operands(dz), self._exchange,
                     self._ended)


def contiguous(array: Array | None) -> Argument:
    """Return the array as a kernel takes it, or a null pointer for None.

    Raises ValueError for an array that is not float32 or not contiguous.
    """
    if array is None:
        return np.uintp(0)
    if not (array.dtype == np.float32 and array.flags.c_contiguous):
        raise ValueError("the persistent kernels need float32 arrays without gaps")
    return array


def operands(*arrays: Array) -> tuple[Argument, ...]:
    """Return arrays (R, T, N) of 16-bit numbers and the distance of their rows, which is the same in all of them.

    Raises ValueError for arrays of another dtype, with gaps within a row, with different distances, or that span 2^32
    numbers or more.
    """
    apart, *others = (array.strides[0] // 2 for array in arrays)
    if (any(other != apart for other in others) or len(arrays[0]) * apart >= 2 ** 32
            or not all(array.itemsize == 2 and array[0].flags.c_contiguous for array in arrays)):
        raise ValueError("the operands of a layer must have 16 bits, one layout, and rows without gaps")
    return *arrays, np.uint32(apart)


def rows(array: Array) -> tuple[CudaArray, np.uint32]:
    """Return an array (R, T, N) or (R, M) and the distance of its rows in numbers, both as a kernel takes them.

    Raises ValueError for an array that is not float32, has gaps within a row, or spans 2^32 numbers or more.
    """
    apart = array.strides[0] // array.itemsize
    if array.dtype != np.float32 or not array[0].flags.c_contiguous or len(array) * apart >= 2 ** 32:
        raise ValueError("the persistent kernels need float32 arrays of less than 2^32 numbers, rows without gaps")
    return array, np.uint32(apart)
