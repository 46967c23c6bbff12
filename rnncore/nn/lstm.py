"""An LSTM layer is two functions, `forward` and `backward`, over arrays that the caller made; it remembers nothing.

    T steps   N sequences, one column each   E input size   H hidden units   gates in the order i f g o

    z[t]  = W_ih x[t] + W_hh (keep[t] h[t]) + b         x (E, T, N), z (4H, T, N)
    i f o = sigmoid(z),  g = tanh(z)
    c[t+1] = f * keep[t] c[t] + i * g                   c (H, T+1, N): c[0] is the initial state
    h[t+1] = o * tanh(c[t+1])                           h (H, T+1, N): h[0] is the initial state

(Hochreiter & Schmidhuber 1997; forget gate of Gers, Schmidhuber & Cummins 2000.) [t] stands for [:, t]: features come
first, so that all steps and sequences together are columns (F, T N), a view, of one matrix product: what the input adds
to z, made before the loop by `project` here or by embedding.py for the first layer, and after it each sum over time
that is a gradient. keep (T, N) is 0 where a new document begins, so that nothing flows in from the step before; None
keeps everything.

The time loops stand here, for every device; where the kernel module has them compiled (`recurrence`), or the path that
the model takes on a card has its own (`Scratch.loops`), those run.
"""
from collections.abc import Mapping
from typing import NamedTuple, TypeAlias

from .. import kernels
from ..kernels.arrays import Array
from ..kernels.interface import Loops

Sum: TypeAlias = tuple[Array, Array, Array | None]  # (gradient, a, b): it is a b^T, or where b is None the sum of a


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
    gates: Array  # (4H, T, N): activations after forward, dL/dz after backward
    h: Array      # (H, T+1, N)
    c: Array      # (H, T+1, N)

    def first(self, steps: int) -> "Cache":
        """The same buffers for a shorter run."""
        return Cache(self.gates[:, :steps], self.h[:, :steps + 1], self.c[:, :steps + 1])


class Scratch(NamedTuple):
    """Buffers for intermediate results that nothing reads later; the layers of a stack share them."""
    recurrent: Array  # (4H, N)
    state: Array      # (H, N)
    dh: Array         # (H, N)
    dc: Array         # (H, N)
    gates: Array      # (T, 4H, N): the time loops' own, where a step is one contiguous block
    h: Array          # (T+1, H, N)
    c: Array          # (T+1, H, N)
    through: Array    # (T, H, N)
    carry: Array      # (T, H, N)
    loops: Loops | None = None  # what runs the time loops instead of those below (kernels/interface.py), or None


def layer(params: Mapping[str, Array], k: int) -> Weights:
    """Layer k of a mapping with PyTorch's names."""
    return Weights(params[f"lstm.weight_ih_l{k}"], params[f"lstm.weight_hh_l{k}"], params[f"lstm.bias_ih_l{k}"])


def columns(a: Array) -> Array:
    """a (F, T, N) as (F, T N), a view: each step of each sequence is a column."""
    return a.reshape(len(a), -1)


def project(w: Weights, x: Array, gates: Array) -> None:
    """The input's share of every step at once: gates[t] = W_ih x[t] + b; x (E, T, N), gates (4H, T, N)."""
    kernels.of(x).product(w.w_ih, columns(x), columns(gates))
    gates += w.bias[:, None, None]


def forward(w: Weights, x: Array | None, cache: Cache, keep: Array | None, scratch: Scratch) -> Array:
    """Run the layer on x (E, T, N), or on None: then cache.gates holds the input's share. cache.h[0], c[0]: initial.

    Returns y (H, T, N), a view of cache.h; the last state is cache.h[T], cache.c[T].
    """
    compiled = kernels.of(cache.gates).recurrence(cache.gates.dtype)
    if compiled:
        compiled.forward(w, x, *cache, keep)
    else:
        if x is not None:
            project(w, x, cache.gates)
        if scratch.loops:
            scratch.loops.forward(w.w_hh, *cache, keep)
        else:
            loop_forward(w.w_hh, *cache, keep, scratch)
    return cache.h[:, 1:]


def loop_forward(w_hh: Array, gates: Array, h: Array, c: Array, keep: Array | None, scratch: Scratch) -> None:
    """The time loop: gates (4H, T, N) leaves as the activations, h[1:] and c[1:] are written.

    It works on copies with the steps first: a small operation on rows that lie apart costs more than to move them.
    """
    k, steps = kernels.of(gates), gates.shape[1]
    z, hs, cs = scratch.gates[:steps], scratch.h[:steps + 1], scratch.c[:steps + 1]
    z[...], hs[0], cs[0] = gates.swapaxes(0, 1), h[:, 0], c[:, 0]
    for t in range(steps):
        keep_t = None if keep is None else keep[t]
        h_prev = hs[t] if keep is None else k.xp.multiply(hs[t], keep_t, out=scratch.state)
        k.product(w_hh, h_prev, scratch.recurrent)
        k.gates_forward(z[t], scratch.recurrent, cs[t], keep_t, cs[t + 1], hs[t + 1])
    for inside, out in ((z, gates), (hs[1:], h[:, 1:]), (cs[1:], c[:, 1:])):
        out[...] = inside.swapaxes(0, 1)


def backward(w: Weights, cache: Cache, dy: Array, dstate: tuple[Array | int, Array | int], keep: Array | None,
             scratch: Scratch, dx: Array | None = None) -> tuple[Array, Array]:
    """Back-propagation through time (Werbos 1990): cache.gates leaves as dL/dz, of which `sums` makes the gradients.

    dy (H, T, N) is dL/dy from above; dstate is (dh, dc), each (H, N): what arrives at the last state from later steps.
    dx (E, T, N) is written where it is given, and may be dy. Returns (dh, dc) at the initial state, in scratch.
    """
    gates, _, c = cache
    dh, dc = scratch.dh, scratch.dc
    dh[...], dc[...] = dstate
    compiled = kernels.of(gates).recurrence(gates.dtype)
    if compiled:
        compiled.backward(w, gates, c, keep, dy, dh, dc, dx)
    else:
        if scratch.loops:
            scratch.loops.backward(w.w_hh, gates, c, keep, dy, dh, dc)
        else:
            loop_backward(w.w_hh, gates, c, keep, dy, dh, dc, scratch)
        if dx is not None:
            kernels.of(gates).product(w.w_ih.T, columns(gates), columns(dx))
    return dh, dc


def loop_backward(w_hh: Array, gates: Array, c: Array, keep: Array | None, dy: Array, dh: Array, dc: Array,
                  scratch: Scratch) -> None:
    """The time loop backwards: gates (4H, T, N) leaves as dL/dz.

    dh and dc (H, N) arrive as the gradient at the last state and leave as that at the initial one. Copies as above.
    """
    k, steps = kernels.of(gates), gates.shape[1]
    z, cs, above = scratch.gates[:steps], scratch.c[:steps + 1], scratch.h[:steps]
    through, carry = scratch.through[:steps], scratch.carry[:steps]
    z[...], cs[...], above[...] = gates.swapaxes(0, 1), c.swapaxes(0, 1), dy.swapaxes(0, 1)
    k.gates_factors(z, cs, keep, through, carry)
    for t in reversed(range(steps)):
        dh += above[t]
        k.gates_backward(z[t], through[t], carry[t], dh, dc)
        k.product(w_hh.T, z[t], dh)
        if keep is not None:
            dh *= keep[t]
    gates[...] = z.swapaxes(0, 1)


def sums(grads: Weights, x: Array | None, cache: Cache, h_prev: Array) -> list[Sum]:
    """The gradients that are sums over time and sequences.

    cache.gates is dL/dz; h_prev (H, T, N): the states that W_hh saw; x (E, T, N): what the layer ran on; None where
    embedding.py sees to dW_ih and db.
    """
    dz = columns(cache.gates)
    found: list[Sum] = [(grads.w_hh, dz, columns(h_prev))]
    if x is not None:
        found += [(grads.w_ih, dz, columns(x)), (grads.bias, dz, None)]
    return found
