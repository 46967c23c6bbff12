"""One layer's time loops on a card as a cuBLAS product and one kernel a step: nothing else, so a graph can hold them.

They do what the loops of rnncore/nn/lstm.py do, in place on arrays (rows, T, N), with the kernels of steps.cu. What a
product multiplies is written by the kernel of the step before, as a contiguous matrix of its own whose rows begin at
multiples of 16 bytes: there tensor cores read fastest. The first call compiles, so it must not be in a capture.
"""
import functools

import cupy
import numpy as np

from ..arrays import Argument, Array, CudaArray
from .cublas import ALIGNMENT, Cublas
from .text import GATES, source

TEXT = GATES + source("steps.cu")
REALS = {"float32": "float", "float64": "double"}
BLOCK = 128  # threads


@functools.cache
def kernel(name: str, dtype: str) -> "cupy.RawKernel":
    """A kernel of steps.cu for float32 or float64."""
    return cupy.RawKernel(TEXT, name, options=(f"-DREAL={REALS[dtype]}",))


def width(n: int, dtype: np.dtype) -> int:
    """Columns of a matrix that holds n and whose rows begin at multiples of 16 bytes."""
    unit = ALIGNMENT // dtype.itemsize
    return -(-n // unit) * unit


def whole(array: Array, shape: tuple[int, ...], dtype: np.dtype) -> CudaArray:
    """The contiguous array itself. Raises ValueError for one of another shape or dtype, or a view with gaps."""
    if array.shape != shape or array.dtype != dtype or not array.flags.c_contiguous:
        raise ValueError(f"a contiguous array {shape} of {dtype} is wanted, not {array.shape} of {array.dtype}")
    return array


def ld(array: Array, shape: tuple[int, ...], dtype: np.dtype) -> np.int64:
    """How many numbers the rows of an array (rows, T, N) are apart. Raises ValueError as above."""
    whole(array[0], shape[1:], dtype)
    if len(array) != shape[0]:
        raise ValueError(f"an array {shape} is wanted, not {array.shape}")
    return np.int64(array.strides[0] // array.itemsize)


def documents(keep: Array | None, steps: int, nothing: CudaArray) -> tuple[CudaArray, np.int32]:
    """What kernels are given for keep (T, N) or None: an array and 1, or `nothing` (1, N) and 0. Raises ValueError."""
    if keep is None:
        return nothing, np.int32(0)
    return whole(keep, (steps, nothing.shape[1]), nothing.dtype), np.int32(1)


def affine(cublas: Cublas, w_ih: Array, bias: Array, x: Array, z: Array) -> None:
    """The input's share of every step at once: z[t] = W_ih x[t] + b, x (E, T, N), z (4H, T, N)."""
    cublas.product(w_ih, x.reshape(len(x), -1), z.reshape(len(z), -1))
    z += bias[:, None, None]


class Stepwise:
    """The time loops for H units and N sequences, any number of steps; layers that follow each other may share one."""

    def __init__(self, cublas: Cublas, hidden: int, n: int, dtype: str | np.dtype):
        self.cublas, self.hidden, self.n, self.dtype = cublas, hidden, n, np.dtype(dtype)
        if cublas.dtype != self.dtype:
            raise ValueError(f"products of {cublas.dtype} do not go with arrays of {self.dtype}")
        columns = width(n, self.dtype)
        self._unit = cupy.zeros((hidden, columns), self.dtype)       # h, and W_hh^T dz
        self._gates = cupy.zeros((4 * hidden, columns), self.dtype)  # W_hh h, and dz
        self._nothing = cupy.zeros((1, n), self.dtype)               # a kernel points to it where there is no keep
        self._sizes = np.int32(hidden), np.int32(n)
        self._width, self._grid = np.int32(columns), (-(-hidden * n // BLOCK),)

    def forward(self, w_hh: Array, gates: Array, h: Array, c: Array, keep: Array | None) -> None:
        """gates (4H, T, N) arrives as W_ih x + b and leaves as the activations; h[:, 1:] and c[:, 1:] (H, T+1, N) are
        written. keep (T, N) or None. Raises ValueError for arrays of another shape, dtype or layout."""
        steps = gates.shape[1]
        lds = [ld(gates, (4 * self.hidden, steps, self.n), self.dtype),
               *(ld(a, (self.hidden, steps + 1, self.n), self.dtype) for a in (h, c))]
        mask, ends = documents(keep, steps, self._nothing)
        self._launch("keep_rows", h, self._unit, mask, lds[1], np.int64(self._width), ends, *self._sizes)
        for t in range(steps):
            self.cublas.product(w_hh, self._unit, self._gates)
            self._launch("step_forward", gates, h, c, self._gates, self._unit, mask, *lds, ends, np.int32(t),
                         np.int32(steps), *self._sizes, self._width)

    def backward(self, w_hh: Array, gates: Array, c: Array, keep: Array | None, dy: Array, dh: Array,
                 dc: Array) -> None:
        """gates (4H, T, N) arrives as the activations and leaves as dL/dz; dy (H, T, N), c (H, T+1, N), keep as above.

        dh and dc (H, N) arrive as the gradient at the last state and leave as that at the initial one.
        """
        steps = gates.shape[1]
        lds = [ld(gates, (4 * self.hidden, steps, self.n), self.dtype),
               ld(c, (self.hidden, steps + 1, self.n), self.dtype), ld(dy, (self.hidden, steps, self.n), self.dtype)]
        mask, ends = documents(keep, steps, self._nothing)
        later, later_ld = whole(dh, (self.hidden, self.n), self.dtype), np.int64(self.n)
        whole(dc, (self.hidden, self.n), self.dtype)
        for t in reversed(range(steps)):
            self._launch("step_backward", gates, c, dy, later, dc, self._gates, mask, *lds, later_ld, ends,
                         np.int32(t), np.int32(steps), *self._sizes, self._width)
            self.cublas.product(w_hh.T, self._gates, self._unit)
            later, later_ld = self._unit, np.int64(self._width)
        self._launch("keep_rows", self._unit, dh, mask, later_ld, np.int64(self.n), ends, *self._sizes)

    def _launch(self, name: str, *arguments: Argument) -> None:
        kernel(name, self.dtype.name)(self._grid, (BLOCK,), arguments)
