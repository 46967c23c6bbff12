"""One layer's time loop as one launch, forward and backward, in the precision classes with 16-bit products.

The kernels are persistent.cu. W_hh stays in the registers of a group of blocks for all steps, and a group
takes chunks of sequences. The blocks of all groups must be on the card together, one to a multiprocessor, or they
would wait for each other for ever.
"""
from typing import NamedTuple

import cupy
import numpy as np

from ..arrays import Argument, Array, CudaArray
from .text import GATES, source

CODE = source("ptx.cuh") + GATES + source("persistent.cu")
THREADS = 256
LARGEST = 1024         # of hidden: above it W_hh does not fit into registers
STATE = 8 << 10        # bytes of shared memory for c or dc; the kernels' own arrays take up to 40 KB of the 48
CLASSES = {"tf32": 75, "bf16": 80}  # and the compute capability that has such products


class Geometry(NamedTuple):
    """How the work is shared out: members * groups blocks, each owns `units` of a group's `chunks` of `columns`."""
    units: int
    members: int
    columns: int
    chunks: int   # of all groups together
    groups: int

    @property
    def state(self) -> int:
        """Bytes of dynamic shared memory: a float a cell."""
        return -(-self.chunks // self.groups) * -(-self.units * self.columns // THREADS) * THREADS * 4


def geometry(hidden: int, n: int, multiprocessors: int) -> Geometry:
    """For `why_not`'s sizes. Sequences are 8 to a chunk, or 16 where the card has not blocks enough for that."""
    units = hidden if hidden <= 128 else 64 if hidden <= 256 else 32 if hidden <= 512 else 16
    members = hidden // units
    if members == 1:  # blocks on their own need not be there together
        return Geometry(units, 1, 8, -(-n // 8), -(-n // 8))
    most = max(1, multiprocessors // members)
    shared_memory_for_16 = hidden % 128 == 0 or hidden <= 704
    columns = 16 if -(-n // 8) > most and shared_memory_for_16 else 8
    chunks = -(-n // columns)
    return Geometry(units, members, columns, chunks, -(-chunks // -(-chunks // most)))


def why_not(hidden: int, n: int, precision: str, capability: int, multiprocessors: int) -> str | None:
    """Why there is no such kernel for this layer on this card, in one line; None where there is one.

    capability: major and minor as one number, as 90; multiprocessors: how many the card has.
    """
    if precision not in CLASSES:
        return f"persistent kernels compute in tf32 or bf16, not in {precision}: --dtype tf32"
    if capability < CLASSES[precision]:
        return f"persistent {precision} kernels need compute capability {CLASSES[precision]}, not {capability}"
    if hidden % 64 or not 0 < hidden <= LARGEST:
        return f"persistent kernels need a hidden size that is a multiple of 64 up to {LARGEST}, not {hidden}"
    shape = geometry(hidden, n, multiprocessors)
    if 1 < shape.members > multiprocessors:
        return f"hidden size {hidden} needs {shape.members} multiprocessors, this card has {multiprocessors}"
    if shape.state > STATE:
        return f"{n} sequences of hidden size {hidden} are too many for {multiprocessors} multiprocessors"
    return None


class Persistent:
    """The time loops of layers of one size on the current card, or on one as described; raises ValueError as `why_not`.

    A call has up to `steps` steps, and n sequences. Buffers are made here: a call allocates nothing. Where `spins` is
    given, a wait of more rounds ends the launch with an error.
    """

    def __init__(self, hidden: int, steps: int, n: int, precision: str, capability: int | None = None,
                 multiprocessors: int | None = None, spins: int | None = None):
        if capability is None or multiprocessors is None:
            device = cupy.cuda.Device()
            capability = int(device.compute_capability)
            multiprocessors = device.attributes["MultiProcessorCount"]
        reason = why_not(hidden, n, precision, capability, multiprocessors)
        if reason:
            raise ValueError(reason)
        self.hidden, self.steps, self.n = hidden, steps, n
        self.geometry = geometry(hidden, n, multiprocessors)
        units, members, columns, chunks, _ = self.geometry
        options = ["-std=c++17", f"-DHIDDEN={hidden}", f"-DUNITS={units}", f"-DCOLUMNS={columns}",
                   f"-DBF16={int(precision == 'bf16')}"] + ([f"-DDEBUG_SPINS={spins}"] if spins else [])
        self._forward, self._backward = (
            cupy.RawKernel(CODE, name, options=tuple(options), enable_cooperative_groups=members > 1)
            for name in ("persistent_forward", "persistent_backward"))
        slots = 2 * chunks * 4 * hidden * columns if members > 1 else 1
        self._exchange, self._flags = cupy.zeros(slots, np.uint16), cupy.zeros(chunks * members, np.uint32)

    def forward(self, w_hh: Array, gates: Array, h: Array, c: Array, keep: Array | None) -> None:
        """gates (4H, T, N) enters as W_ih x + b and leaves as the activations; h and c (H, T+1, N).

        h[:, 1:] and c[:, 1:] are written. w_hh (4H, H); keep (T, N) or None. All are float32; rows may lie apart.
        """
        self._launch(self._forward, gates, contiguous(w_hh), *rows(gates), *rows(h), *rows(c), contiguous(keep))

    def backward(self, w_hh: Array, gates: Array, c: Array, keep: Array | None, dy: Array, dh: Array,
                 dc: Array) -> None:
        """gates (4H, T, N) enters as the activations and leaves as dL/dz; dy (H, T, N).

        dh and dc (H, N) enter as the gradient at the last state and leave as that at the initial one.
        """
        self._launch(self._backward, gates, contiguous(w_hh), *rows(gates), *rows(c), contiguous(keep), *rows(dy),
                     contiguous(dh), contiguous(dc))

    def _launch(self, kernel: "cupy.RawKernel", gates: Array, *args: Argument) -> None:
        _, steps, n = gates.shape
        if len(gates) != 4 * self.hidden or steps > self.steps or n != self.n:
            raise ValueError(f"gates are {gates.shape}, made for (4 * {self.hidden}, up to {self.steps}, {self.n})")
        shape = self.geometry
        if shape.members > 1:
            self._flags.fill(0)
        kernel((shape.members, shape.groups), (THREADS,),
               (*args, self._exchange, self._flags, np.int32(steps), np.int32(n), np.int32(shape.chunks)),
               shared_mem=shape.state)


def contiguous(array: Array | None) -> Argument:
    """The array, or a null pointer for None, as a kernel takes it. Raises ValueError for one that has gaps."""
    if array is None:
        return np.uintp(0)
    if not (array.dtype == np.float32 and array.flags.c_contiguous):
        raise ValueError("the persistent kernels need float32 arrays without gaps")
    return array


def rows(array: Array) -> tuple[CudaArray, np.uint32]:
    """An array (R, T, N) and how many numbers its rows are apart, both as a kernel takes them. Raises ValueError."""
    apart = array.strides[0] // array.itemsize
    if array.dtype != np.float32 or not array[0].flags.c_contiguous or len(array) * apart >= 2 ** 32:
        raise ValueError("the persistent kernels need float32 arrays of less than 2^32 numbers, rows without gaps")
    return array, np.uint32(apart)
