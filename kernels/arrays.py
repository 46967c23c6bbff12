"""The types of the arrays that the engine works on: NumPy arrays on a processor, CuPy arrays on a card.

The two libraries have the same interface. A type says nothing about the shape: comments and docstrings give it, in the
letters of README.md: T steps, N sequences, E input size, H hidden units, V symbols, L layers.
"""
from collections.abc import Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np

Array: TypeAlias = np.ndarray  # real numbers of the model's dtype, on the model's device
Ids: TypeAlias = np.ndarray    # ids of symbols, whole numbers from 0 to V - 1, on the host or on the model's device
# A cupy.ndarray whose address on the card is read. It is Any because CuPy brings no types for mypy.
CudaArray: TypeAlias = Any

Number: TypeAlias = float | Array  # a number, or an array () of float64 on the device
Word: TypeAlias = int | Array      # a word of 32 bits: a number below 2^32, or an array of uint32
Key: TypeAlias = tuple[int, int]   # the key of the random generator: two words of 32 bits
Argument: TypeAlias = CudaArray | np.generic  # an argument of a CUDA kernel: an array, or a number of its exact type

HeadWeights: TypeAlias = tuple[Array, Array]          # weight (V, H), bias (V,)
LayerCache: TypeAlias = tuple[Array, Array, Array]    # one layer's gates (4H, T, N), h and c (H, T+1, N)
# h and c of all layers, each an array (L, H, N) or a list of L arrays (H, N).
StackState: TypeAlias = tuple[Array | Sequence[Array], Array | Sequence[Array]]


class LayerWeights(NamedTuple):
    """One layer's parameters, or their gradients: w_ih (4H, E), w_hh (4H, H), bias (4H,)."""
    w_ih: Array
    w_hh: Array
    bias: Array


class Operands(NamedTuple):
    """One layer's arrays of 16-bit numbers, which the products outside its time loops read in place of float32 ones.

    They are float16 or bfloat16; of the latter, arrays of uint16 have the bits. Rows may be padded.
    """
    y: Array       # (H, T, N): h after each step
    before: Array  # (H, T, N): h before each step, times keep: what W_hh is multiplied with
    dz: Array      # (4H, T, N): dL/dz

    def first(self, steps: int) -> "Operands":
        """Return views of the first `steps` steps of the same arrays."""
        return Operands(*(array[:, :steps] for array in self))


class Lookup(NamedTuple):
    """The first layer's input product as a table: W_ih x[t, n] is the column ids[t, n], without the bias."""
    table: Array  # (4H, V)
    ids: Ids      # (T, N)


class Window(NamedTuple):
    """The arrays of a pass over a window of T steps and N sequences. Each list has one entry for each layer."""
    weights: Sequence[LayerWeights]
    caches: Sequence[LayerCache]
    keep: Array | None                # (T, N): 0 where a new document begins, else 1; None: no document begins
    masks: Sequence[Array] | None     # dropout masks, (H, T, N) or (H, 1, N); None: no dropout
    dropped: Sequence[Array] | None   # (H, T, N): the output of each layer, h times the layer's mask
    operands: Sequence[Operands] | None = None  # on a path whose products have 16-bit operands
