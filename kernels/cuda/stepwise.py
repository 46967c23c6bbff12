"""Time loops of one layer on a card: at each step one cuBLAS product and one kernel. A CUDA graph can capture them.

They do the work of rnncore/nn/lstm.py in place on arrays (rows, T, N), with the kernels of steps.cu. The kernel of a
step also writes the operand of the next step's product. The operand is a contiguous matrix of its own, whose rows begin
at multiples of 16 bytes, because tensor cores read such rows fastest. The first call compiles the kernels, so it must
not be in a capture.
"""
import functools

import cupy
import numpy as np

from ..arrays import Argument, Array, CudaArray
from .cublas import Cublas, width
from .text import GATES, source

TEXT = GATES + source("steps.cu")
REALS = {"float32": "float", "float64": "double"}
BLOCK = 128  # the threads of a block


@functools.cache
def kernel(name: str, dtype: str) -> "cupy.RawKernel":
    """Return a kernel of steps.cu for the dtype float32 or float64."""
    return cupy.RawKernel(TEXT, name, options=(f"-DREAL={REALS[dtype]}",))


def whole(array: Array, shape: tuple[int, ...], dtype: np.dtype) -> CudaArray:
    """Return the array itself. Raises ValueError if it has another shape or dtype, or is not contiguous."""
    if array.shape != shape or array.dtype != dtype or not array.flags.c_contiguous:
        raise ValueError(f"a contiguous array {shape} of {dtype} is wanted, not {array.shape} of {array.dtype}")
    return array


def ld(array: Array, shape: tuple[int, ...], dtype: np.dtype) -> np.int64:
    """Return the distance of the rows of an array (rows, T, N), in numbers.

    Raises ValueError for another shape or dtype, or for gaps within a row.
    """
    whole(array[0], shape[1:], dtype)
    if len(array) != shape[0]:
        raise ValueError(f"an array {shape} is wanted, not {array.shape}")
    return np.int64(array.strides[0] // array.itemsize)


def keep_argument(keep: Array | None, steps: int, nothing: CudaArray) -> tuple[CudaArray, np.int32]:
    """Return keep (T, N) as two arguments of a kernel: an array, and 1 if the kernel is to read it, else 0.

    If keep is None, the array is `nothing` (1, N). Raises ValueError for another shape, dtype or layout of keep.
    """
    if keep is None:
        return nothing, np.int32(0)
    return whole(keep, (steps, nothing.shape[1]), nothing.dtype), np.int32(1)


def affine(cublas: Cublas, w_ih: Array, bias: Array, x: Array, z: Array) -> None:
    """Compute z[t] = W_ih x[t] + b for all steps at once, from x (E, T, N), w_ih (4H, E) and bias (4H,)."""
    cublas.product(w_ih, x.reshape(len(x), -1), z.reshape(len(z), -1))
    z += bias[:, None, None]


class Stepwise:
    """The time loops of a layer of H hidden units, for N sequences and any number of steps.

    Layers that run one after the other may share one object. Arrays have the dtype of cublas.
    """

    def __init__(self, cublas: Cublas, hidden: int, n: int):
        self.cublas, self.hidden, self.n, self.dtype = cublas, hidden, n, cublas.dtype
        columns = width(n, self.dtype)
        self._unit = cupy.zeros((hidden, columns), self.dtype)       # h, and backwards W_hh^T dz
        self._gates = cupy.zeros((4 * hidden, columns), self.dtype)  # W_hh h, and backwards dz
        self._nothing = cupy.zeros((1, n), self.dtype)               # an argument in place of keep None
        self._sizes = np.int32(hidden), np.int32(n)
        self._width, self._grid = np.int32(columns), (-(-hidden * n // BLOCK),)

    def forward(self, w_hh: Array, gates: Array, h: Array, c: Array, keep: Array | None) -> None:
        """Run the layer: gates (4H, T, N) arrives as W_ih x + b and leaves as the activations.

        h[:, 1:] and c[:, 1:] (H, T+1, N) are written; slot 0 is the initial state. w_hh is (4H, H), keep (T, N) or
        None. Raises ValueError for arrays of another shape, dtype or layout.
        """
        steps = gates.shape[1]
        lds = [ld(gates, (4 * self.hidden, steps, self.n), self.dtype),
               *(ld(a, (self.hidden, steps + 1, self.n), self.dtype) for a in (h, c))]
        mask, has_keep = keep_argument(keep, steps, self._nothing)
        self._launch("keep_rows", h, self._unit, mask, lds[1], np.int64(self._width), has_keep, *self._sizes)
        for t in range(steps):
            self.cublas.product(w_hh, self._unit, self._gates)
            self._launch("step_forward", gates, h, c, self._gates, self._unit, mask, *lds, has_keep, np.int32(t),
                         np.int32(steps), *self._sizes, self._width)

    def backward(self, w_hh: Array, gates: Array, c: Array, keep: Array | None, dy: Array, dh: Array,
                 dc: Array) -> None:
        """Run the layer backwards: gates (4H, T, N) arrives as the activations and leaves as dL/dz.

        c (H, T+1, N) and dy (H, T, N) are read; w_hh and keep are as in `forward`. dh and dc (H, N) arrive as the
        gradient at the last state and leave as the gradient at the initial state. Raises the same errors as `forward`.
        """
        steps = gates.shape[1]
        lds = [ld(gates, (4 * self.hidden, steps, self.n), self.dtype),
               ld(c, (self.hidden, steps + 1, self.n), self.dtype), ld(dy, (self.hidden, steps, self.n), self.dtype)]
        mask, has_keep = keep_argument(keep, steps, self._nothing)
        # dL/dh from the later step: the caller's dh at the last step, then W_hh^T dz.
        later, later_ld = whole(dh, (self.hidden, self.n), self.dtype), np.int64(self.n)
        whole(dc, (self.hidden, self.n), self.dtype)
        for t in reversed(range(steps)):
            self._launch("step_backward", gates, c, dy, later, dc, self._gates, mask, *lds, later_ld, has_keep,
                         np.int32(t), np.int32(steps), *self._sizes, self._width)
            self.cublas.product(w_hh.T, self._gates, self._unit)
            later, later_ld = self._unit, np.int64(self._width)
        self._launch("keep_rows", self._unit, dh, mask, later_ld, np.int64(self.n), has_keep, *self._sizes)

    def _launch(self, name: str, *arguments: Argument) -> None:
        kernel(name, self.dtype.name)(self._grid, (BLOCK,), arguments)
