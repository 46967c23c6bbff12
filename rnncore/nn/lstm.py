"""An LSTM layer is two functions, `forward` and `backward`, over arrays that the caller made; it remembers nothing.

    T steps   N sequences, one column each   E input size   H hidden units   gates in the order i f g o

    z[t]  = W_ih x[t] + W_hh (keep[t] h[t]) + b         x (E, T, N), z (4H, T, N)
    i f o = sigmoid(z),  g = tanh(z)
    c[t+1] = f * keep[t] c[t] + i * g                   c (H, T+1, N): c[0] is the initial state
    h[t+1] = o * tanh(c[t+1])                           h (H, T+1, N): h[0] is the initial state

(Hochreiter & Schmidhuber 1997; forget gate of Gers, Schmidhuber & Cummins 2000.) [t] stands for [:, t]: features come
first, so that all steps and sequences together are columns (F, T N), a view, of one matrix product: what the input adds
to z, made before the loop here or by embedding.py for the first layer, and after it each sum over time that is a
gradient. keep (T, N) is 0 where a new document begins, so that nothing flows in from the step before; None keeps
everything.

What is computed at one time step, forward and backward, is a fused operation of the device: gates_forward and
gates_backward in kernels/cpu/gates.py, the twin of kernels/gates.cuh. This page is what trains where a path has no
faster form of it (`Path.layers` in kernels/interface.py): a card's path eager. Every other form is held to its numbers.
"""
from collections.abc import Mapping
from typing import NamedTuple, TypeAlias

from .. import kernels
from ..kernels.arrays import Array, LayerWeights as Weights

Sum: TypeAlias = tuple[Array, Array, Array | None]  # (gradient, a, b): it is a b^T, or where b is None the sum of a


class State(NamedTuple):
    """The state of a whole stack at one time: h and c, each (L, H, N)."""
    h: Array
    c: Array


class Cache(NamedTuple):
    """What one layer's backward needs, for up to T steps: made once, overwritten by each forward.

    gates (4H, T, N) is one array with three meanings, one after the other, each by its own name.
    """
    gates: Array  # the activations i f g o, which forward leaves
    h: Array      # (H, T+1, N)
    c: Array      # (H, T+1, N)

    @property
    def z(self) -> Array:
        """The same array as forward finds it, where the input's share of z lies there already."""
        return self.gates

    @property
    def dz(self) -> Array:
        """The same array as backward leaves it: dL/dz."""
        return self.gates

    def first(self, steps: int) -> "Cache":
        """The same arrays for a shorter run."""
        return Cache(self.gates[:, :steps], self.h[:, :steps + 1], self.c[:, :steps + 1])


def layer(params: Mapping[str, Array], k: int) -> Weights:
    """Layer k of a mapping with PyTorch's names."""
    return Weights(params[f"lstm.weight_ih_l{k}"], params[f"lstm.weight_hh_l{k}"], params[f"lstm.bias_ih_l{k}"])


def columns(a: Array) -> Array:
    """a (F, T, N) as (F, T N), a view: each step of each sequence is a column."""
    return a.reshape(len(a), -1)


def forward(w: Weights, x: Array | None, gates: Array, h: Array, c: Array, keep: Array | None) -> None:
    """Run the layer on x (E, T, N): gates (4H, T, N), h[1:] and c[1:] are written.

    x None: gates arrives as z, the input's share W_ih x + b. h[0] and c[0] are the initial state.
    """
    k, z = kernels.of(gates), gates  # one array: z[t] until step t, then the gates
    recurrent = k.xp.empty_like(z[:, 0])
    if x is not None:
        k.affine(w.w_ih, w.bias, columns(x), columns(z))
    for t in range(z.shape[1]):
        keep_t = None if keep is None else keep[t]
        k.product(w.w_hh, h[:, t] if keep is None else h[:, t] * keep_t, recurrent)
        k.gates_forward(z[:, t], recurrent, c[:, t], keep_t, gates[:, t], c[:, t + 1], h[:, t + 1])


def backward(w: Weights, gates: Array, c: Array, keep: Array | None, dy: Array, dh: Array, dc: Array,
             dx: Array | None = None) -> None:
    """Back-propagation through time (Werbos 1990): gates (4H, T, N) leaves as dL/dz, of which `sums` makes gradients.

    dy (H, T, N) is dL/dy from above. dh and dc (H, N) arrive as the gradient at the last state, from later steps, and
    leave as that at the initial one. dx (E, T, N) is written where it is given, and may be dy.
    """
    k, dz = kernels.of(gates), gates  # one array: the gates until step t, then dz[t]
    for t in reversed(range(dz.shape[1])):
        keep_t = None if keep is None else keep[t]
        dh += dy[:, t]
        k.gates_backward(gates[:, t], c[:, t], c[:, t + 1], keep_t, dh, dc, dz[:, t])
        k.product(w.w_hh.T, dz[:, t], dh)
        if keep is not None:
            dh *= keep_t
    if dx is not None:
        k.product(w.w_ih.T, columns(dz), columns(dx))


def sums(grads: Weights, x: Array | None, dz: Array, h_prev: Array) -> list[Sum]:
    """The gradients that are sums over time and sequences: dL/dW_hh = sum of dz[t] h_prev[t]^T, and so on.

    dz (4H, T, N) as backward leaves it; h_prev (H, T, N): the states that W_hh saw; x (E, T, N): what the layer ran on;
    None where embedding.py sees to dW_ih and db.
    """
    found: list[Sum] = [(grads.w_hh, columns(dz), columns(h_prev))]
    if x is not None:
        found += [(grads.w_ih, columns(dz), columns(x)), (grads.bias, columns(dz), None)]
    return found
