"""Types of the arrays that the engine works on: NumPy's on a processor, CuPy's on a card, with the same interface.

Shapes stand in comments and docstrings; T, N, E, H, V, L are those of README.md.
"""
from collections.abc import Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np

Array: TypeAlias = np.ndarray  # real numbers of the model's dtype, on the model's device
Ids: TypeAlias = np.ndarray    # ids of symbols, whole numbers from 0 below V: on the host, or on the model's device
CudaArray: TypeAlias = Any     # a cupy.ndarray, where its address on the card is read: CuPy has no types for mypy

Number: TypeAlias = float | Array  # a number, or an array () of float64 on the device
Word: TypeAlias = int | Array      # of 32 bits: a number below 2^32, or an array of uint32
Key: TypeAlias = tuple[int, int]   # of the random numbers: two words
Argument: TypeAlias = CudaArray | np.generic  # of a kernel: an array, or a number of the very type that it takes

HeadWeights: TypeAlias = tuple[Array, Array]          # weight (V, H), bias (V,)
LayerCache: TypeAlias = tuple[Array, Array, Array]    # gates (4H, T, N), h and c (H, T+1, N) of a layer
StackState: TypeAlias = tuple[Array | Sequence[Array], Array | Sequence[Array]]  # h and c: (L, H, N), or L (H, N)


class LayerWeights(NamedTuple):
    """One layer's parameters, or their gradients: w_ih (4H, E), w_hh (4H, H), bias (4H,)."""
    w_ih: Array
    w_hh: Array
    bias: Array


class Window(NamedTuple):
    """What runs over the T steps of a window of N sequences; lists have an entry a layer."""
    weights: Sequence[LayerWeights]
    caches: Sequence[LayerCache]
    keep: Array | None                # (T, N): 0 where a new document begins; None: nowhere
    masks: Sequence[Array] | None     # of dropout, (H, T, N) or (H, 1, N): what each layer hands on is h times its own,
    dropped: Sequence[Array] | None   # (H, T, N)
