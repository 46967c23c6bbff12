"""Time loops of one layer as a single launch, forward and backward, in the precision classes with 16-bit products.

There are two pairs of kernels, in persistent.cu and tagged.cu: they differ in how their blocks send each other a step's
results. W_hh stays in the registers of a group of blocks for all steps, and a group works on chunks of sequences. The
blocks of a group wait for each other at each step. So the blocks of all groups must run at the same time, one on each
multiprocessor; otherwise they would wait forever.
"""
from typing import NamedTuple

import cupy
import numpy as np

from ..arrays import Argument, Array, CudaArray
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


class Persistent:
    """The time loops of layers of one hidden size, for n sequences and at most `steps` steps.

    All buffers are made here, so a call allocates nothing. capability and multiprocessors describe the card; None means
    the current card. kernels: "persistent" or "tagged". spins: for tests, the number of rounds after which a wait ends
    the launch with an error. Raises ValueError if `why_not` gives a reason against it.
    """

    def __init__(self, hidden: int, steps: int, n: int, precision: str, capability: int | None = None,
                 multiprocessors: int | None = None, spins: int | None = None, kernels: str = "persistent"):
        if capability is None or multiprocessors is None:
            device = cupy.cuda.Device()
            capability = int(device.compute_capability)
            multiprocessors = device.attributes["MultiProcessorCount"]
        reason = why_not(hidden, n, precision, capability, multiprocessors, kernels)
        if reason:
            raise ValueError(reason)
        self.hidden, self.steps, self.n, self.adds_bias = hidden, steps, n, kernels == "tagged"
        self.geometry = geometry(hidden, n, multiprocessors, kernels)
        units, members, columns, chunks, _ = self.geometry
        options = ["-std=c++17", f"-DHIDDEN={hidden}", f"-DUNITS={units}", f"-DCOLUMNS={columns}",
                   f"-DBF16={int(precision == 'bf16')}"] + ([f"-DDEBUG_SPINS={spins}"] if spins else [])
        self._forward, self._backward = (
            cupy.RawKernel(CODE[kernels], f"{kernels}_{name}", options=tuple(options),
                           enable_cooperative_groups=members > 1) for name in ("forward", "backward"))
        exchange = cupy.zeros(2 * chunks * 4 * hidden * columns if members > 1 else 1, np.uint16)
        # What the blocks send each other; the last buffer says what has arrived, and is 0 before a launch.
        self._buffers = (exchange,) if kernels == "tagged" else (exchange, cupy.zeros(chunks * members, np.uint32))

    def forward(self, w_hh: Array, gates: Array, h: Array, c: Array, keep: Array | None,
                bias: Array | None = None) -> None:
        """Run the layer: gates (4H, T, N) arrives as W_ih x + b and leaves as the activations.

        bias (4H,): what is still to be added to gates, only where `adds_bias`. h[:, 1:] and c[:, 1:] (H, T+1, N) are
        written; slot 0 is the initial state. w_hh is (4H, H), keep (T, N) or None. All arrays are float32. Arrays of
        (rows, T, N) may be the first steps of longer arrays. Raises ValueError for arrays of another dtype or with
        gaps, and for gates of another shape.
        """
        if bias is not None and not (self.adds_bias and bias.shape == (4 * self.hidden,)):
            raise ValueError(f"a bias of {bias.shape} cannot be added by kernels of hidden size {self.hidden}")
        more = (contiguous(bias),) if self.adds_bias else ()
        self._launch(self._forward, gates, contiguous(w_hh), *more, *rows(gates), *rows(h), *rows(c), contiguous(keep))

    def backward(self, w_hh: Array, gates: Array, c: Array, keep: Array | None, dy: Array, dh: Array,
                 dc: Array) -> None:
        """Run the layer backwards: gates (4H, T, N) arrives as the activations and leaves as dL/dz.

        c (H, T+1, N) and dy (H, T, N) are read. dh and dc (H, N) arrive as the gradient at the last state and leave as
        the gradient at the initial state. Raises the same errors as `forward`.
        """
        self._launch(self._backward, gates, contiguous(w_hh), *rows(gates), *rows(c), contiguous(keep), *rows(dy),
                     contiguous(dh), contiguous(dc))

    def _launch(self, kernel: "cupy.RawKernel", gates: Array, *args: Argument) -> None:
        _, steps, n = gates.shape
        if len(gates) != 4 * self.hidden or steps > self.steps or n != self.n:
            raise ValueError(f"gates are {gates.shape}, made for (4 * {self.hidden}, up to {self.steps}, {self.n})")
        shape = self.geometry
        if shape.members > 1:
            arrived = self._buffers[-1]
            # Forward sends a quarter of what backward sends.
            (arrived[:len(arrived) // 4] if self.adds_bias and kernel is self._forward else arrived).fill(0)
        kernel((shape.members, shape.groups), (THREADS,),
               (*args, *self._buffers, np.int32(steps), np.int32(n), np.int32(shape.chunks)),
               shared_mem=shape.state)


def contiguous(array: Array | None) -> Argument:
    """Return the array as a kernel takes it, or a null pointer for None.

    Raises ValueError for an array that is not float32 or not contiguous.
    """
    if array is None:
        return np.uintp(0)
    if not (array.dtype == np.float32 and array.flags.c_contiguous):
        raise ValueError("the persistent kernels need float32 arrays without gaps")
    return array


def rows(array: Array) -> tuple[CudaArray, np.uint32]:
    """Return an array (R, T, N) and the distance of its rows in numbers, both as a kernel takes them.

    Raises ValueError for an array that is not float32, has gaps within a row, or spans 2^32 numbers or more.
    """
    apart = array.strides[0] // array.itemsize
    if array.dtype != np.float32 or not array[0].flags.c_contiguous or len(array) * apart >= 2 ** 32:
        raise ValueError("the persistent kernels need float32 arrays of less than 2^32 numbers, rows without gaps")
    return array, np.uint32(apart)
