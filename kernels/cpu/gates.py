"""The arithmetic of the LSTM cell on NumPy arrays, forward and backward. kernels/gates.cuh is its twin in C++.

H is the number of hidden units, N the number of sequences; each sequence is one column. The gates are in the order
i f g o. `keep` (N,) is 0 where a new document begins at this step and 1 elsewhere. None means 1 everywhere.
"""
from functools import lru_cache

import numpy as np

from ..arrays import Array, Number


@lru_cache(maxsize=8)
def _sigmoid_as_tanh(hidden: int, dtype: np.dtype) -> tuple[Array, Array]:
    """Return scale and shift (4H, 1), with which one call of tanh computes all four gates.

    gate(z) = scale tanh(scale z) + shift: for i, f and o sigmoid(z) = tanh(z / 2) / 2 + 1 / 2, for g tanh(z).
    """
    scale, shift = np.full((4, hidden), 0.5, dtype), np.full((4, hidden), 0.5, dtype)
    scale[2], shift[2] = 1, 0
    return scale.reshape(-1, 1), shift.reshape(-1, 1)


def gates_forward(z: Array, recurrent: Array, c_prev: Array, keep: Array | None, gates: Array, c: Array,
                  h: Array) -> None:
    """Compute one step of the LSTM cell (Hochreiter & Schmidhuber 1997, with the forget gate of Gers et al. 2000).

        i f o = sigmoid(z + recurrent)    g = tanh(z + recurrent)    c = f keep c_prev + i g    h = o tanh(c)

    z (4H, N) = W_ih x + b, recurrent (4H, N) = W_hh (keep h_prev) and c_prev (H, N) are read. gates (4H, N) = i f g o,
    c (H, N) and h (H, N) are written. gates may be the array z, and c may be the array c_prev.
    """
    scale, shift = _sigmoid_as_tanh(len(c), c.dtype)
    np.add(z, recurrent, out=gates)
    gates *= scale
    np.tanh(gates, out=gates)
    gates *= scale
    gates += shift
    i, f, g, o = gates.reshape(4, *c.shape)
    np.multiply(f, c_prev, out=c)
    if keep is not None:
        c *= keep
    np.multiply(i, g, out=h)
    c += h
    np.tanh(c, out=h)
    h *= o


def gates_backward(gates: Array, c_prev: Array, c: Array, keep: Number | None, dh: Array, dc: Array,
                   dz: Array) -> None:
    """Compute the gradient of `gates_forward`.

    gates (4H, N) = the activations, c_prev and c (H, N) = the cell state before and after the step, and dh (H, N) =
    dL/dh are read. dc (H, N) arrives as dL/dc from the later step and leaves as dL/dc_prev. dz (4H, N) is written; it
    may be the array gates.
    """
    keep = 1 if keep is None else keep
    i, f, g, o = gates.reshape(4, *c.shape)
    tanh_c = np.tanh(c)
    di = g * i * (1 - i)
    df = keep * c_prev * f * (1 - f)
    dg = i * (1 - g * g)
    through = o * (1 - tanh_c * tanh_c)
    carry = f * keep
    do = tanh_c * o * (1 - o)
    do *= dh
    dc += dh * through
    di *= dc
    df *= dc
    dg *= dc
    dc *= carry
    np.stack((di, df, dg, do), out=dz.reshape(4, *c.shape))
