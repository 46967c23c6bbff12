"""An LSTM layer is two functions, `forward` and `backward`, over arrays that the caller made; a layer stores nothing.

    T steps   N sequences, one column each   E input size   H hidden units   gates in the order i f g o

    z[t]  = W_ih x[t] + W_hh (keep[t] h[t]) + b         x (E, T, N), z (4H, T, N)
    i f o = sigmoid(z),  g = tanh(z)
    c[t+1] = f * keep[t] c[t] + i * g                   c (H, T+1, N): c[0] is the initial state
    h[t+1] = o * tanh(c[t+1])                           h (H, T+1, N): h[0] is the initial state

(Hochreiter & Schmidhuber 1997; forget gate of Gers, Schmidhuber & Cummins 2000.)

[t] stands for [:, t]. Features are the first axis, so all steps and sequences together are the columns (F, T N) of one
matrix, without a copy. One matrix product over all columns computes W_ih x + b before the time loop: `forward` here, or
embedding.py for the first layer. One product after the loop computes each gradient that is a sum over time (`sums`).

keep (T, N) is 0 where a new document begins and 1 elsewhere: no state and no gradient crosses the beginning of a
document. keep None means that no document begins.

The arithmetic of one time step is two functions of the kernel module, gates_forward and gates_backward: NumPy in
kernels/cpu/gates.py, C++ in kernels/gates.cuh. A path (kernels/paths.py) is a way to compute a model on a device. The
functions below are the path `eager` of a GPU. Other paths have faster implementations of a layer; tests and `rnncore
gradcheck` compare those with these functions.
"""
from collections.abc import Mapping
from typing import NamedTuple, TypeAlias

from .. import kernels
from ..kernels.arrays import Array, LayerWeights as Weights

Sum: TypeAlias = tuple[Array, Array, Array | None]  # (gradient, a, b): gradient = a b^T; b None: the row sums of a


class State(NamedTuple):
    """The state of all L layers at one time step: h and c, each (L, H, N)."""
    h: Array
    c: Array


class Cache(NamedTuple):
    """The arrays of one layer that forward writes and backward reads, for up to T steps: made once, used by each pass.

    gates has three meanings, one after the other: z before forward, the activations i f g o after forward, dz after
    backward. Each meaning has its own name, so that a reader sees which one a line uses.
    """
    gates: Array  # (4H, T, N): the activations i f g o
    h: Array      # (H, T+1, N)
    c: Array      # (H, T+1, N)

    @property
    def z(self) -> Array:
        """The array of the gates before forward: W_ih x + b, if embedding.py has written it there."""
        return self.gates

    @property
    def dz(self) -> Array:
        """The array of the gates after backward: dL/dz, unless the path writes it elsewhere (stack.Workspace.dz)."""
        return self.gates

    def first(self, steps: int) -> "Cache":
        """Return views of the first `steps` steps of the same arrays."""
        return Cache(self.gates[:, :steps], self.h[:, :steps + 1], self.c[:, :steps + 1])


def layer(params: Mapping[str, Array], k: int) -> Weights:
    """Return the arrays of layer k, from a mapping with PyTorch's names."""
    return Weights(params[f"lstm.weight_ih_l{k}"], params[f"lstm.weight_hh_l{k}"], params[f"lstm.bias_ih_l{k}"])


def columns(a: Array) -> Array:
    """Return a (F, T, N) as (F, T N), a view: each step of each sequence is a column."""
    return a.reshape(len(a), -1)


def forward(w: Weights, x: Array | None, gates: Array, h: Array, c: Array, keep: Array | None) -> None:
    """Run the layer on x (E, T, N): write the activations into gates (4H, T, N), and the states h[1:] and c[1:].

    h[0] and c[0] are the initial state. x None: gates arrives as W_ih x + b, which embedding.py has computed.
    """
    k, z = kernels.of(gates), gates  # one array: z[t] until step t, then the gates
    recurrent = k.xp.empty_like(z[:, 0])  # in the order of z in memory
    if x is not None:
        k.affine(w.w_ih, w.bias, columns(x), columns(z))
    for t in range(z.shape[1]):
        keep_t = None if keep is None else keep[t]
        k.product(w.w_hh, h[:, t] if keep is None else h[:, t] * keep_t, recurrent)
        k.gates_forward(z[:, t], recurrent, c[:, t], keep_t, gates[:, t], c[:, t + 1], h[:, t + 1])


def backward(w: Weights, gates: Array, c: Array, keep: Array | None, dy: Array, dh: Array, dc: Array,
             dx: Array | None = None) -> None:
    """Run back-propagation through time (Werbos 1990): gates (4H, T, N) leaves as dL/dz, which `sums` needs.

    dy (H, T, N) is the gradient of h[1:] that comes from the layer above or from the head. dh and dc (H, N) arrive as
    the gradient of the last state that comes from what follows the window; they leave as the gradient of the initial
    state. If dx (E, T, N) is given, it is written; it may be the array dy.
    """
    k, dz = kernels.of(gates), gates  # one array: the gates until step t, then dz[t]
    for t in reversed(range(dz.shape[1])):
        keep_t = None if keep is None else keep[t]
        dh += dy[:, t]
        k.gates_backward(gates[:, t], c[:, t], c[:, t + 1], keep_t, dh, dc, dz[:, t])
        k.product(w.w_hh.T, dz[:, t], dh)
        if keep is not None:
            dh *= keep_t
    # dx is written after the loop has read all of dy, so that both can be one array.
    if dx is not None:
        k.product(w.w_ih.T, columns(dz), columns(dx))


def sums(grads: Weights, x: Array | None, dz: Array, h_prev: Array) -> list[Sum]:
    """Return the gradients that are sums over time and sequences: dL/dW_hh = sum of dz[t] h_prev[t]^T, and so on.

    dz (4H, T, N) is what backward wrote. h_prev (H, T, N) holds the states that were multiplied by W_hh. x (E, T, N) is
    the layer's input; None if embedding.py computes dW_ih and db. Nothing is computed here: stack.sum_products does it.
    """
    found: list[Sum] = [(grads.w_hh, columns(dz), columns(h_prev))]
    if x is not None:
        found += [(grads.w_ih, columns(dz), columns(x)), (grads.bias, columns(dz), None)]
    return found
