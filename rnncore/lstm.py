"""An LSTM layer is two functions, `forward` and `backward`, over arrays that the caller made; it remembers nothing.

    T steps   N sequences, one column each   E input size   H hidden units   gates in the order i f g o

    z[t]  = W_ih x[t] + W_hh (keep[t] h[t]) + b         x (T, E, N), z (T, 4H, N)
    i f o = sigmoid(z),  g = tanh(z)
    c[t+1] = f * keep[t] c[t] + i * g                   c (T+1, H, N): c[0] is the initial state
    h[t+1] = o * tanh(c[t+1])                           h (T+1, H, N): h[0] is the initial state

(Hochreiter & Schmidhuber 1997; forget gate of Gers, Schmidhuber & Cummins 2000.) keep (T, N) is 0 where a new
document begins, so that nothing flows in from the step before; None keeps everything. What the input adds to z does
not depend on time: it is one product before the loop, made by `project` here or by embedding.py for the first layer.

The time loops stand here, for every device; where the kernel module has them compiled (`recurrence`), those run.
"""
from typing import Any, NamedTuple

from . import kernels

Array = Any  # of numpy or cupy: whichever the kernel module of its device works on


class State(NamedTuple):
    """The state of a whole stack at one time: h and c, each (L, H, N)."""
    h: Array
    c: Array


class Weights(NamedTuple):
    """One layer's parameters, or their gradients: w_ih (4H, E), w_hh (4H, H), bias (4H,)."""
    w_ih: Array
    w_hh: Array
    bias: Array


class Cache(NamedTuple):
    """What one layer's backward needs, for up to T steps: made once, overwritten by each forward."""
    gates: Array  # (T, 4H, N): activations after forward, dL/dz after backward
    h: Array      # (T+1, H, N)
    c: Array      # (T+1, H, N)

    def first(self, steps: int) -> "Cache":
        """The same buffers for a shorter run."""
        return Cache(self.gates[:steps], self.h[:steps + 1], self.c[:steps + 1])


class Scratch(NamedTuple):
    """Room for intermediate results that nothing reads later; the layers of a stack share it."""
    recurrent: Array      # (4H, N)
    state: Array          # (H, N)
    dh: Array             # (H, N)
    dc: Array             # (H, N)
    through: Array        # (T, H, N)
    carry: Array          # (T, H, N)
    gate_columns: Array   # (4H T N,)
    input_columns: Array  # (max(E, H) T N,)
    logit_columns: Array  # (V T N,)


def layer(params, k: int) -> Weights:
    """Layer k of a mapping with PyTorch's names."""
    return Weights(params[f"lstm.weight_ih_l{k}"], params[f"lstm.weight_hh_l{k}"], params[f"lstm.bias_ih_l{k}"])


def project(w: Weights, x, gates) -> None:
    """The input's share of every step at once: gates[t] = W_ih x[t] + b; x (T, E, N), gates (T, 4H, N)."""
    kernels.of(x).xp.matmul(w.w_ih, x, out=gates)
    gates += w.bias[:, None]


def forward(w: Weights, x, cache: Cache, keep, scratch: Scratch):
    """Run the layer on x (T, E, N), or on None: then cache.gates holds the input's share. cache.h[0], c[0]: initial.

    Returns y (T, H, N), a view of cache.h; the last state is cache.h[-1], cache.c[-1].
    """
    compiled = kernels.of(cache.gates).recurrence(cache.gates.dtype)
    if compiled:
        compiled.forward(w, x, *cache, keep, scratch.state)
    else:
        if x is not None:
            project(w, x, cache.gates)
        loop_forward(w.w_hh, *cache, keep, scratch)
    return cache.h[1:]


def loop_forward(w_hh, gates, h, c, keep, scratch: Scratch) -> None:
    """The time loop: gates (T, 4H, N) leaves as the activations, h[1:] and c[1:] are written."""
    k = kernels.of(gates)
    for t in range(len(gates)):
        keep_t = None if keep is None else keep[t]
        h_prev = h[t] if keep is None else k.xp.multiply(h[t], keep_t, out=scratch.state)
        k.xp.matmul(w_hh, h_prev, out=scratch.recurrent)
        k.gates_forward(gates[t], scratch.recurrent, c[t], keep_t, c[t + 1], h[t + 1])


def backward(w: Weights, grads: Weights, x, cache: Cache, dy, dstate, keep, scratch: Scratch, dx=None):
    """Back-propagation through time (Werbos 1990). Writes dW_hh; returns (columns, dh, dc).

    x: as in `forward`; where it is given, dW_ih and db are written, and dx (T, E, N) where that is. dy (T, H, N) is
    dL/dy from above, and may be dx; dstate is (dh, dc), each (H, N): what arrives at the last state from later steps.
    columns (4H, T N) is dL/dz; dh, dc (H, N) are the gradient at the initial state; all three lie in scratch.
    """
    gates, h, c = cache
    dh, dc = scratch.dh, scratch.dc
    dh[...], dc[...] = dstate
    compiled = kernels.of(gates).recurrence(gates.dtype)
    if compiled:
        compiled.backward(w, gates, c, keep, dy, dh, dc, dx)
    else:
        loop_backward(w.w_hh, gates, c, keep, dy, dh, dc, scratch)
    columns = as_columns(gates, scratch.gate_columns)
    if dx is not None and not compiled:
        from_columns(w.w_ih.T, columns, dx, scratch)
    weight_gradients(grads, x, h[:-1], keep, columns, scratch)
    return columns, dh, dc


def loop_backward(w_hh, gates, c, keep, dy, dh, dc, scratch: Scratch) -> None:
    """The time loop backwards: gates (T, 4H, N) leaves as dL/dz.

    dh and dc (H, N) arrive as the gradient at the last state and leave as that at the initial one.
    """
    k = kernels.of(gates)
    through, carry = scratch.through[:len(gates)], scratch.carry[:len(gates)]
    k.gates_factors(gates, c, keep, through, carry)
    for t in reversed(range(len(gates))):
        dh += dy[t]
        k.gates_backward(gates[t], through[t], carry[t], dh, dc)
        k.xp.matmul(w_hh.T, gates[t], out=dh)
        if keep is not None:
            dh *= keep[t]


def weight_gradients(grads: Weights, x, h_prev, keep, columns, scratch: Scratch) -> None:
    """The gradients that are sums over time, a product each: dW_hh and, where x is given, dW_ih and db."""
    xp, before = kernels.of(columns).xp, as_columns(h_prev, scratch.input_columns)
    if keep is not None:
        before *= keep.reshape(-1)
    xp.matmul(columns, before.T, out=grads.w_hh)
    if x is not None:
        xp.matmul(columns, as_columns(x, scratch.input_columns).T, out=grads.w_ih)
        xp.matmul(columns, xp.ones(columns.shape[1], columns.dtype), out=grads.bias)  # the sum over t and n


def from_columns(matrix, columns, out, scratch: Scratch) -> None:
    """out (T, F, N) = matrix times the columns (4H, T N), in one product."""
    steps, size, n = out.shape
    flat = scratch.input_columns[:out.size].reshape(size, steps * n)
    kernels.of(out).xp.matmul(matrix, columns, out=flat)
    out[...] = flat.reshape(size, steps, n).transpose(1, 0, 2)


def as_columns(a, buffer):
    """a (T, F, N) copied into a flat buffer as (F, T N): then a sum over time and sequences is one product."""
    steps, size, n = a.shape
    columns = buffer[:a.size].reshape(size, steps, n)
    columns[...] = a.transpose(1, 0, 2)
    return columns.reshape(size, steps * n)
