"""One LSTM layer on NumPy arrays in few, large operations. A processor without compiled loops trains with it.

A small NumPy operation takes longer to start than to compute, and threads wait for each other at each operation. So the
backward pass computes the factors that do not depend on later steps for many steps at once.
"""
import numpy as np

from ..arrays import Array, LayerWeights
from .gates import gates_forward

BLOCK = 1 << 16  # numbers in a block; all operations run on one block before the next, so it stays in the cache


class Loops:
    """The time loops of a layer of `hidden` units, for n sequences and at most `steps` steps.

    It holds only buffers of one call. So layers that run one after the other may share one object.
    """

    def __init__(self, hidden: int, steps: int, n: int, dtype: np.dtype):
        self._recurrent, self._state = np.empty((n, 4 * hidden), dtype).T, np.empty((n, hidden), dtype).T
        self._sizes = 2, steps, n, hidden
        self._factors: Array | None = None  # through and carry, (2, T, H, N); the first backward makes them

    def forward(self, w: LayerWeights, x: Array | None, gates: Array, h: Array, c: Array, keep: Array | None) -> None:
        """Run the layer; arguments as in rnncore/nn/lstm.py."""
        if x is not None:
            np.matmul(w.w_ih, x.reshape(len(x), -1), out=gates.reshape(len(gates), -1))
            gates += w.bias[:, None, None]
        for t in range(gates.shape[1]):
            keep_t, z, h_prev = None if keep is None else keep[t], gates[:, t], h[:, t]
            if keep_t is not None:
                h_prev = np.multiply(h_prev, keep_t, out=self._state)
            np.matmul(w.w_hh, h_prev, out=self._recurrent)
            gates_forward(z, self._recurrent, c[:, t], keep_t, z, c[:, t + 1], h[:, t + 1])

    def backward(self, w: LayerWeights, gates: Array, c: Array, keep: Array | None, dy: Array, dh: Array, dc: Array,
                 dx: Array | None) -> None:
        """Run the layer backwards; arguments as in rnncore/nn/lstm.py."""
        steps = gates.shape[1]
        if self._factors is None:
            self._factors = np.empty(self._sizes, gates.dtype).swapaxes(2, 3)
        through, carry = self._factors[:, :steps]
        factors(gates.swapaxes(0, 1), c.swapaxes(0, 1), keep, through, carry)
        for t in reversed(range(steps)):
            dz = gates[:, t]
            dh += dy[:, t]
            step_backward(dz, through[t], carry[t], dh, dc)
            np.matmul(w.w_hh.T, dz, out=dh)
            if keep is not None:
                dh *= keep[t]
        if dx is not None:
            np.matmul(w.w_ih.T, gates.reshape(len(gates), -1), out=dx.reshape(len(dx), -1))


def factors(gates: Array, c: Array, keep: Array | None, through: Array, carry: Array) -> None:
    """Compute, for all steps at once, the gradient factors that do not depend on later steps.

    gates (T, 4H, N) arrives as the activations i f g o and leaves as four factors. dz is dc times the factors in the
    place of i, f and g, and dh times the factor in the place of o:
        g i (1 - i)    keep c_prev f (1 - f)    i (1 - g^2)    tanh(c) o (1 - o)
    c (T+1, H, N) is read. through (T, H, N) = o (1 - tanh(c)^2) and carry (T, H, N) = f keep are written.
    """
    steps, hidden, n = through.shape
    few = max(1, BLOCK // (hidden * n))  # the steps of a block, whose arrays stay in the cache
    for start in range(0, steps, few):
        now = slice(start, min(start + few, steps))
        i, f, g, o = gates[now].reshape(-1, 4, hidden, n).swapaxes(0, 1)
        # In this order each array is overwritten as soon as its value is no longer read, so few arrays are needed.
        t, b, tanh_c = through[now], carry[now], np.tanh(c[1:][now])
        np.multiply(o, tanh_c, out=b)      # h
        np.multiply(b, tanh_c, out=t)
        np.subtract(o, t, out=t)           # through = o - o tanh(c)^2
        np.multiply(o, b, out=o)
        np.subtract(b, o, out=o)           # h - o h = tanh(c) o (1 - o)
        np.multiply(g, g, out=b)
        b *= i
        np.subtract(i, b, out=b)           # i - i g^2
        i_g = np.multiply(i, g, out=tanh_c)
        i *= i_g
        np.subtract(i_g, i, out=i)         # i g - i i g = g i (1 - i)
        g[...] = b
        b[...] = f                         # carry = f keep
        if keep is not None:
            b *= keep[now, None]
        np.subtract(1, f, out=f)
        f *= b
        f *= c[now]                        # c_prev keep f (1 - f)


def step_backward(gates: Array, through: Array, carry: Array, dh: Array, dc: Array) -> None:
    """Compute the gradient of `gates_forward` for one step, from the factors that `factors` computed.

    The two functions together do the work of gates_backward. gates (4H, N) arrives as `factors` left it and leaves as
    dL/dz. through and carry (H, N), which `factors` wrote, are read. dh (H, N) arrives as dL/dh and is overwritten.
    dc (H, N) arrives as dL/dc from the later step and leaves as dL/dc_prev.
    """
    hidden = len(dc)
    gates[3 * hidden:] *= dh
    dh *= through
    dc += dh                               # dc += dh o (1 - tanh(c)^2)
    gates[:3 * hidden].reshape(3, *dc.shape)[...] *= dc
    dc *= carry
