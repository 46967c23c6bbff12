"""The functions of the compiled library (host.cpp) as Python objects, which check every array that they pass on.

`Recurrence` has the time loops of a layer, which do the work of rnncore/nn/lstm.py over a whole window, and the
products and sums of a training step. `Step` is one step of a whole stack (rnncore/nn/stepper.py). A call releases the
interpreter's lock, so threads do not wait for each other.
"""
import ctypes
import functools
import weakref
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..arrays import Array, HeadWeights, Ids, LayerWeights

_POINTER, _LONG = ctypes.c_void_p, ctypes.c_long
# The arguments of each function of host.cpp, addresses and then numbers, and its result.
FUNCTIONS = {"forward": (8 * [_POINTER] + 4 * [_LONG], _LONG), "backward": (9 * [_POINTER] + 4 * [_LONG], _LONG),
             "make_stack": (3 * [_POINTER] + 4 * [_LONG], _POINTER), "step": (5 * [_POINTER], None),
             "free_stack": ([_POINTER], None), "add_rows": (3 * [_POINTER] + 4 * [_LONG], None),
             "product": (3 * [_POINTER] + 13 * [_LONG], _LONG), "native_pairs": ([], _LONG)}
DTYPES = {"float32": np.float32, "float64": np.float64, "bf16": np.float32}  # precision -> dtype of all arrays


class Recurrence:
    """The compiled time loops, and the compiled step of a stack, for one precision: float32, float64 or bf16.

    path: the library, from `build`. In bf16 all arrays are float32; the operands of each product are rounded to
    bfloat16. The units of all arrays of units are neighbours in memory, and no array has gaps
    (`Kernel.activations`); it may be a view of the first steps of a longer array.
    """

    def __init__(self, path: Path, precision: str):
        library = ctypes.CDLL(str(path))
        self.dtype = np.dtype(DTYPES[precision])
        self._functions = {name: getattr(library, name) for name in FUNCTIONS}
        for name, function in self._functions.items():
            function.argtypes, function.restype = FUNCTIONS[name]
        # 1: the processor has an instruction for products in bf16; 2: it also has tiles for them
        self.pairs: int = self._functions["native_pairs"]()

    def forward(self, w: LayerWeights, x: Array | None, gates: Array, h: Array, c: Array, keep: Array | None) -> None:
        """Write h[:, 1:], c[:, 1:] (H, T+1, N) and the activations, gates (4H, T, N).

        x (E, T, N), or None: then gates arrives as W_ih x + b. keep (T, N) or None; h[:, 0] and c[:, 0] are the initial
        state. Raises ValueError for arrays of another shape, dtype or order, and MemoryError if there is no memory for
        the buffers.
        """
        w_ih, w_hh, bias = w
        (_, steps, n), (_, inputs), hidden = gates.shape, w_ih.shape, len(h)
        rows, states = 4 * hidden, (hidden, steps + 1, n)
        (w_ih_at, bias_at, w_hh_at, keep_at) = pointers(
            self.dtype, w_ih=(w_ih, (rows, inputs)), bias=(bias, (rows,)), w_hh=(w_hh, (rows, hidden)),
            keep=(keep, (steps, n)))
        (x_at, *others) = lanes(self.dtype, x=(x, (inputs, steps, n)), gates=(gates, (rows, steps, n)), h=(h, states),
                                c=(c, states))
        if self._functions["forward"](w_ih_at, bias_at, x_at, w_hh_at, keep_at, *others, steps, inputs, hidden, n):
            raise MemoryError

    def backward(self, w: LayerWeights, gates: Array, c: Array, keep: Array | None, dy: Array, dh: Array, dc: Array,
                 dx: Array | None) -> None:
        """Run the layer backwards: gates (4H, T, N) arrives as the activations and leaves as dL/dz.

        dy (H, T, N) and c (H, T+1, N) are read. dh and dc (H, N) arrive as the gradient at the last state and leave as
        the gradient at the initial state. dx (E, T, N) is written unless it is None; it may be the array dy. Raises the
        same errors as `forward`.
        """
        w_ih, w_hh, _ = w
        (_, steps, n), (_, inputs), hidden = gates.shape, w_ih.shape, len(c)
        rows, state = 4 * hidden, (hidden, n)
        weights = pointers(self.dtype, w_ih=(w_ih, (rows, inputs)), w_hh=(w_hh, (rows, hidden)),
                           keep=(keep, (steps, n)))
        others = lanes(self.dtype, dh=(dh, state), dc=(dc, state), gates=(gates, (rows, steps, n)),
                       c=(c, (hidden, steps + 1, n)), dy=(dy, (hidden, steps, n)), dx=(dx, (inputs, steps, n)))
        if self._functions["backward"](*weights, *others, steps, inputs, hidden, n):
            raise MemoryError

    def scatter_add(self, table: Array, ids: Ids, columns: Array) -> None:
        """Add columns (R, M) to the columns of a table (R, V) that ids (M,) name, in their order.

        ids are contiguous, of int64 and below V. The entries of a column are neighbours in memory, in both arrays.
        """
        apart = [array.strides[1] // array.itemsize for array in (table, columns)]
        self._functions["add_rows"](table.ctypes.data, ids.ctypes.data, columns.ctypes.data, *apart, len(ids),
                                    len(table))

    def product(self, a: Array, b: Array, out: Array, add: bool = False) -> None:
        """Compute out = a @ b, or out += a @ b if add; shapes as in `Kernel.product`.

        The numbers of a row of out, or those of a column, are neighbours in memory. Raises ValueError for arrays of
        another shape, dtype or order, and MemoryError if there is no memory for the buffers.
        """
        if out.strides[-1] != out.itemsize and out.shape[-1] > 1:  # the library writes rows: out^T = b^T a^T
            a, b, out = b.swapaxes(-1, -2), a.swapaxes(-1, -2), out.swapaxes(-1, -2)
        (rows, depth), columns = a.shape[-2:], b.shape[-1]
        count = 1 if out.ndim == 2 else len(out)
        shapes = [(rows, depth), (depth, columns), (rows, columns)]
        for array, shape in zip((a, b, out), shapes, strict=True):
            if array.dtype != self.dtype or array.shape[-2:] != shape or not array.flags.aligned or (
                    array.ndim == 3 and len(array) != count):
                raise ValueError(f"an array of a product is to be {shape} of {self.dtype}, not {array.shape} of "
                                 f"{array.dtype}")
        if out.strides[-1] != out.itemsize and columns > 1:
            raise ValueError("neither rows nor columns of the result are contiguous")
        steps = [array.strides[0] if array.ndim == 3 else 0 for array in (a, b, out)]
        apart = [*a.strides[-2:], *b.strides[-2:], out.strides[-2], *steps]
        if self._functions["product"](a.ctypes.data, b.ctypes.data, out.ctypes.data,
                                      *(stride // self.dtype.itemsize for stride in apart), count, rows, depth,
                                      columns, add):
            raise MemoryError

    def row_sums(self, a: Array, out: Array) -> None:
        """Compute out (R,) = the sum of each row of a (R, M), in the dtype of the arrays."""
        a.sum(axis=1, out=out)

    def stepper(self, layers: Sequence[LayerWeights], head: HeadWeights, table: Array, h: Array, c: Array,
                logits: Array) -> "Step":
        """Return the step of a whole stack over these arrays, which must stay where they are; see Step."""
        return Step(self._functions, self.dtype, layers, head, table, h, c, logits)


class Step:
    """One step of a whole stack, as a function of ids (N,): one symbol for each column.

    A call advances h and c (L, H, N) in place and writes logits (V, N). layers: w_ih, w_hh and bias of each layer; the
    first w_ih and bias are not used. head: weight (V, H) and bias (V,); table (4H, V): the first layer's
    W_ih embedding^T + b. Units, and symbols of the logits, are neighbours in memory. The weights are copied, so changed
    weights need a new Step. Raises ValueError for arrays of another shape, dtype or order, MemoryError if there is no
    memory for the copy.
    """

    def __init__(self, functions: Mapping[str, Callable[..., Any]], dtype: np.dtype, layers: Sequence[LayerWeights],
                 head: HeadWeights, table: Array, h: Array, c: Array, logits: Array):
        (count, hidden, n), (symbols, _) = h.shape, logits.shape
        square, matrices, biases = (4 * hidden, hidden), [], []
        for k, (w_ih, w_hh, bias) in enumerate(layers):
            w_ih_at, *others = pointers(dtype, w_ih=(w_ih if k else None, square), w_hh=(w_hh, square),
                                        bias=(bias, square[:1]))
            matrices += [w_ih_at, others[0]]
            biases.append(others[1])
        head_at = pointers(dtype, weight=(head[0], (symbols, hidden)), bias=(head[1], (symbols,)))
        if len(layers) != count:
            raise ValueError(f"h is to have {len(layers)} layers, not {count}")
        self._ids, self._biases = np.zeros(n, np.int64), _list([*biases, head_at[1]])
        (table_at,) = lanes(dtype, table=(table, (4 * hidden, symbols)))
        states = [lanes(dtype, **{name: (array.swapaxes(0, 1), (hidden, count, n))})[0]
                  for name, array in (("h", h), ("c", c))]
        results = lanes(dtype, logits=(logits, (symbols, n)))
        stack = functions["make_stack"](_list([*matrices, head_at[0]]), self._biases, table_at, count, hidden, symbols,
                                        n)
        if stack is None:
            raise MemoryError
        weakref.finalize(self, functions["free_stack"], stack)
        self._call = functools.partial(functions["step"], stack, self._ids.ctypes.data, *states, *results)
        self._held = layers, head, table, h, c, logits  # the call has only the addresses of these

    def __call__(self, ids: Ids) -> None:
        """Take one step with the symbols ids (N,). An id outside 0 .. V - 1 counts as the nearer end of this range."""
        self._ids[...] = ids
        self._call()


def _list(addresses: Sequence[int | None]) -> "ctypes.Array[ctypes.c_void_p]":
    return (_POINTER * len(addresses))(*addresses)


def pointers(dtype: np.dtype, **arrays: tuple[Array | None, tuple[int, ...]]) -> list[int | None]:
    """Return the addresses of contiguous arrays; an array that is None has the address None.

    Each argument is name=(array, shape). Raises ValueError for an array of another shape or dtype or with gaps, because
    the compiled loops check nothing.
    """
    return _addresses(dtype, arrays, lambda array: array.flags.c_contiguous, "without gaps")


def lanes(dtype: np.dtype, **arrays: tuple[Array | None, tuple[int, ...]]) -> list[int | None]:
    """Return the addresses of arrays whose first axis counts units, which are neighbours in memory.

    Each argument is name=(array, shape). Moved to the end, the first axis makes the array contiguous. Raises the same
    ValueError as `pointers`.
    """
    return _addresses(dtype, arrays, lambda array: array.transpose(*range(1, array.ndim), 0).flags.c_contiguous,
                      "the entries along its first axis side by side")


def _addresses(dtype: np.dtype, arrays: Mapping[str, tuple[Array | None, tuple[int, ...]]],
               whole: Callable[[Array], bool], how: str) -> list[int | None]:
    for name, (array, shape) in arrays.items():
        if array is not None and not (
                array.shape == shape and array.dtype == dtype and array.flags.aligned and whole(array)):
            has = f"{array.shape} of {array.dtype}"
            raise ValueError(f"{name} is to be {shape} of {dtype}, contiguous ({how}), not {has}")
    return [None if array is None else array.ctypes.data for array, _ in arrays.values()]
