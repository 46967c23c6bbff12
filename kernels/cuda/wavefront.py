"""Time loops of a whole stack on a card along diagonals: the steps (k, t) of layer k and time t with the same k + t.

A step needs only results of the diagonal before it. So the products of all layers on one diagonal are one batched call
of cuBLAS, and their gates are one kernel of steps.cu: T + L - 1 diagonals run one after the other instead of all T L
steps (Appleyard, Kocisky & Blunsom 2016, "Optimizing Performance of Recurrent Neural Networks on GPUs"). The product
with W_hh of layer k has the number 2k, the product with its W_ih the number 2k - 1. So the products of a diagonal have
consecutive numbers.
"""
from collections.abc import Sequence

import cupy
import numpy as np

from ..arrays import Argument, Array, CudaArray, LayerCache, LayerWeights, Lookup, StackState, Window
from .cublas import ALIGNMENT, Cublas, width
from .stepwise import BLOCK, affine, keep_argument, kernel, ld, whole


class Wavefront:
    """The time loops of a stack of L layers of H hidden units, for N sequences and any number of steps.

    The first call with arrays at new addresses copies the addresses to the card, so it must not be in a capture. The
    object keeps these copies, so it must outlive the graphs that were captured with it. Arrays have the dtype of
    cublas.
    """
    looks_up = False

    def __init__(self, cublas: Cublas, layers: int, hidden: int, n: int):
        self.cublas, self.layers, self.hidden, self.n, self.dtype = cublas, layers, hidden, n, cublas.dtype
        self._columns, count = width(n, self.dtype), 2 * layers - 1
        self._units = cupy.zeros((count, hidden, self._columns), self.dtype)      # the operands of W_hh and W_ih
        self._gates = cupy.zeros((count, 4 * hidden, self._columns), self.dtype)  # the products; backwards dz
        self._nothing = cupy.zeros((1, n), self.dtype)
        self._unit_pointers, self._gate_pointers = cublas.pointers(self._units), cublas.pointers(self._gates)
        self._dz_pointers = cublas.pointers([self._gates[(number + 1) // 2] for number in range(count)])
        self._aligned: CudaArray | None = None
        self._weight_pointers: dict[tuple, cupy.ndarray] = {}
        self._tables: dict[tuple, cupy.ndarray] = {}
        self._sizes, self._blocks = tuple(map(np.int32, (hidden, n, self._columns))), -(-hidden * n // BLOCK)

    def forward(self, window: Window, x: Array | Lookup | None) -> None:
        """Run the stack on x (E, T, N) and write the caches. Slot 0 of each h and c is the initial state.

        x None: the first layer's gates arrive as W_ih x + b. With dropout masks `window.dropped` is written too. Raises
        ValueError for arrays of another shape, dtype or layout.
        """
        weights, caches, keep, *_ = window
        steps = caches[0][0].shape[1]  # gates (4H, T, N)
        assert not isinstance(x, Lookup)
        if x is not None:
            affine(self.cublas, weights[0].w_ih, weights[0].bias, x, caches[0][0])
        table, matrices = self._table(window), self._matrices(weights)
        mask, has_keep = keep_argument(keep, steps, self._nothing)
        self._launch("stack_begin", self.layers, table, self._units, mask, has_keep)
        sizes = 4 * self.hidden, self._columns, self.hidden, self.hidden, self._columns, self._columns
        for diagonal, lowest, highest, some in self._diagonals(steps):
            self.cublas.batched(matrices[some], self._unit_pointers[some], self._gate_pointers[some], *sizes)
            self._launch("diagonal_forward", highest - lowest + 1, table, self._gates, self._units, mask, has_keep,
                         *map(np.int32, (diagonal, lowest, self.layers, steps)))

    def backward(self, window: Window, dy: Array, dstate: StackState | None, initial: StackState) -> None:
        """Run the stack backwards: the gates of each cache arrive as the activations and leave as dL/dz.

        dy (H, T, N) is the gradient at the last layer's output, after its dropout mask. dstate is the gradient at the
        last state, (h, c) with lists of L arrays (H, N), or None for zeros. The gradient at the initial state is
        written to `initial`, which has the same form. Raises ValueError for arrays of another shape, dtype or layout.
        """
        weights, caches, keep, *_ = window
        steps = caches[0][0].shape[1]  # gates (4H, T, N)
        table, matrices = self._table(window, dstate, initial), self._matrices(weights)
        mask, has_keep = keep_argument(keep, steps, self._nothing)
        dy_ld = ld(dy, (self.hidden, steps, self.n), self.dtype)
        sizes = self.hidden, self._columns, 4 * self.hidden, self.hidden, self._columns, self._columns
        for diagonal, lowest, highest, some in reversed(self._diagonals(steps)):
            self._launch("diagonal_backward", highest - lowest + 1, table, self._units, self._gates, dy, mask, dy_ld,
                         has_keep, *map(np.int32, (diagonal, lowest, self.layers, steps)))
            self.cublas.batched(matrices[some], self._dz_pointers[some], self._unit_pointers[some], *sizes,
                                transposed_a=True)
        self._launch("stack_end", self.layers, table, self._units, mask, has_keep)

    def _diagonals(self, steps: int) -> list[tuple[int, int, int, slice]]:
        """Return each diagonal, in the order of the forward pass: k + t, its lowest and highest layer, its products."""
        found = [(d, max(0, d - steps + 1), min(d, self.layers - 1)) for d in range(steps + self.layers - 1)]
        return [(d, low, high, slice(max(0, 2 * low - 1), 2 * high + 1)) for d, low, high in found]

    def _matrices(self, weights: Sequence[LayerWeights]) -> CudaArray:
        """Return the addresses of the weights as an array on the card.

        cuBLAS needs matrices that begin at multiples of 16 bytes. If one does not, copies of all weights are used.
        """
        matrices = [matrix for w_ih, w_hh, _ in weights for matrix in (w_ih, w_hh)][1:]
        for matrix in matrices:
            whole(matrix, (4 * self.hidden, self.hidden), self.dtype)
        if any(_address(matrix) % ALIGNMENT for matrix in matrices):
            if self._aligned is None:
                self._aligned = cupy.empty((len(matrices), 4 * self.hidden, self.hidden), self.dtype)
            for matrix, copy in zip(matrices, self._aligned, strict=True):
                copy[...] = matrix
            matrices = list(self._aligned)
        key = tuple(map(_address, matrices))
        if key not in self._weight_pointers:
            self._weight_pointers[key] = self.cublas.pointers(matrices)
        return self._weight_pointers[key]

    def _table(self, window: Window, dstate: StackState | None = None,
               initial: StackState | None = None) -> CudaArray:
        """Return an array on the card with one struct Layer of steps.cu for each layer."""
        none = self.layers * [None]
        lists = (window.caches, window.weights, window.masks or none, window.dropped or none,
                 *(dstate or (none, none)), *(initial or (none, none)))
        key = tuple(word for layer in zip(*lists, strict=True) for word in self._words(*layer))
        if key not in self._tables:
            self._tables[key] = cupy.asarray(np.array(key, np.int64).reshape(self.layers, -1))
        return self._tables[key]

    def _words(self, cache: LayerCache, weights: LayerWeights, mask: Array | None, dropped: Array | None,
               *states: Array | None) -> list[int]:
        """Return the members of struct Layer of steps.cu for one layer, each as a number of 8 bytes."""
        (gates, h, c), once = cache, mask is not None and mask.shape[1] == 1
        steps, bias = gates.shape[1], weights.bias
        for array, shape in ((bias, (4 * self.hidden,)), *((state, (self.hidden, self.n)) for state in states)):
            if array is not None:
                whole(array, shape, self.dtype)
        lds = [self._ld(gates, 4 * self.hidden, steps), *(self._ld(a, self.hidden, steps + 1) for a in (h, c))]
        mask_ld, dropped_ld = self._ld(mask, self.hidden, 1 if once else steps), self._ld(dropped, self.hidden, steps)
        return [*map(_address, cache), *lds, *map(_address, (bias, mask, dropped)), mask_ld, 0 if once else self.n,
                dropped_ld, *map(_address, states)]

    def _ld(self, array: Array | None, rows: int, steps: int) -> int:
        """Return the distance of the rows of an array (rows, steps, N), or 0 for None."""
        return 0 if array is None else int(ld(array, (rows, steps, self.n), self.dtype))

    def _launch(self, name: str, layers: int, *arguments: Argument) -> None:
        kernel(name, self.dtype.name)((self._blocks, layers), (BLOCK,), (*arguments, *self._sizes))


def _address(array: CudaArray | None) -> int:
    """Return the address of an array, or 0 for None."""
    return 0 if array is None else array.data.ptr
