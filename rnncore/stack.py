"""The network over one share of a batch's columns: embedding, L LSTM layers with dropout after each, head.

`forward` and `backward` are pure but for the Workspace that the caller made and passes in. Notation as in lstm.py;
V symbols. Every function takes optional `keep` (T, N), 0 where a new document begins, and optional Dropout, of whose
rates only that of units is applied here: weight-drop is a matter of the params that the caller passes in.
"""
from typing import Any

from . import dropout as dropout_
from . import embedding, head, kernels, lstm
from .lstm import Array, Cache, Scratch, State


class Workspace:
    """All the arrays that a pass over at most (T, N) symbols writes, made once.

    offset and columns place the N columns in a batch of `columns`, so that dropout's masks do not depend on the share.
    """

    def __init__(self, params, steps: int, n: int, training: bool = True, offset: int = 0, columns: int | None = None):
        config, flat = params.config, params.flat
        empty, dtype = kernels.of(flat).xp.empty, flat.dtype
        hidden, self.steps, self.n = config.hidden, steps, n
        self.offset, self.columns = offset, columns or n
        self.caches = [Cache(empty((steps, 4 * hidden, n), dtype), empty((steps + 1, hidden, n), dtype),
                             empty((steps + 1, hidden, n), dtype)) for _ in range(config.layers)]
        self.x = empty((steps, config.embed, n), dtype)
        self.logits = empty((steps, config.vocab_size, n), dtype)
        self.loss = empty((steps, n), dtype)
        self.masks: list[Array] = []    # (T, H, N) a layer, made by the first pass with dropout; variational: (1, H, N)
        self.dropped: list[Array] = []  # (T, H, N) a layer: its output times its mask
        self.scratch = _scratch(config, steps if training else 0, n, empty, dtype)
        self.dy = empty((steps if training else 0, hidden, n), dtype)
        self.grads: Any = params.like() if training else None

    def first(self, steps: int) -> tuple:
        """(caches, x, logits, loss) for a run of `steps`, at most T."""
        if steps > self.steps:
            raise ValueError(f"a workspace of {self.steps} steps cannot hold {steps}")
        return [cache.first(steps) for cache in self.caches], self.x[:steps], self.logits[:steps], self.loss[:steps]

    def state(self, steps: int) -> State:
        """The state after `steps` as it lies in the caches: two lists of L arrays (H, N), views."""
        return State([cache.h[steps] for cache in self.caches], [cache.c[steps] for cache in self.caches])


def _scratch(config, steps: int, n: int, empty, dtype) -> Scratch:
    hidden = config.hidden
    return Scratch(empty((4 * hidden, n), dtype), empty((hidden, n), dtype), empty((hidden, n), dtype),
                   empty((hidden, n), dtype), empty((steps, hidden, n), dtype), empty((steps, hidden, n), dtype),
                   empty(4 * hidden * steps * n, dtype),
                   empty(max(config.embed, hidden) * steps * n, dtype), empty(config.vocab_size * steps * n, dtype))


def forward(params, ids, state, keep, dropout, work):
    """Logits (T, V, N) for ids (T, N), a view of the workspace; state: h and c of L arrays (H, N) each, or None: zeros.

    The last state is `work.state(T)`.
    """
    caches, x, logits, _ = work.first(len(ids))
    drops, y = dropout is not None and dropout.rate > 0, None
    for k, cache in enumerate(caches):
        weights = lstm.layer(params, k)
        cache.h[0], cache.c[0] = (0, 0) if state is None else (state.h[k], state.c[k])
        if k == 0:
            y = embedding.forward(params["embedding.weight"], weights, ids, cache.gates, x)
        y = lstm.forward(weights, y, cache, keep, work.scratch)
        if drops:
            y = _drop(y, k, dropout, work)
    head.forward(params["head.weight"], params["head.bias"], y, logits)
    return logits


def backward(params, grads, ids, dstate, keep, dropout, work) -> State:
    """Write every gradient into grads, from dlogits (T, V, N) in work.logits; the workspace is that of the forward.

    dstate: the gradient that arrives at the last state (L arrays (H, N) each for h and c), or None for truncated BPTT.
    Returns the gradient at the initial state, h and c (L, H, N).
    """
    caches, x, dlogits, _ = work.first(len(ids))
    dy, scratch, drops = work.dy[:len(ids)], work.scratch, dropout is not None and dropout.rate > 0
    xp = kernels.of(dy).xp
    initial, table = State(*xp.empty((2, len(caches), *dy.shape[1:]), dy.dtype)), params["embedding.weight"]
    head.backward(params["head.weight"], grads["head.weight"], grads["head.bias"], _output(work, -1, len(ids), drops),
                  dlogits, dy, scratch)
    for k in reversed(range(len(caches))):
        weights, dweights = lstm.layer(params, k), lstm.layer(grads, k)
        if drops:
            dy *= work.masks[k][:dropout.rows(len(ids))]
        last = (0, 0) if dstate is None else (dstate.h[k], dstate.c[k])
        below = _output(work, k - 1, len(ids), drops) if k else None if embedding.folded(len(table), ids.size) else x
        columns, initial.h[k], initial.c[k] = lstm.backward(weights, dweights, below, caches[k], dy, last, keep,
                                                            scratch, dx=dy if k else None)
    embedding.backward(table, grads["embedding.weight"], weights, dweights, ids, x, columns, scratch)
    return initial


def _drop(y, k: int, dropout, work):
    """y (T, H, N) of layer k times its mask."""
    xp, rows = kernels.of(y).xp, dropout.rows(work.steps)
    if len(work.dropped) == k:
        work.masks.append(xp.empty((rows, *y.shape[1:]), y.dtype))
        work.dropped.append(xp.empty((work.steps, *y.shape[1:]), y.dtype))
    elif len(work.masks[k]) < rows:
        work.masks[k] = xp.empty((rows, *y.shape[1:]), y.dtype)
    mask, out = work.masks[k][:dropout.rows(len(y))], work.dropped[k][:len(y)]
    dropout_.fill_mask(mask, dropout, k, work.offset, work.columns)
    return xp.multiply(y, mask, out=out)


def _output(work, k: int, steps: int, drops: bool):
    """What layer k handed on in the forward: y (T, H, N)."""
    return work.dropped[k][:steps] if drops else work.caches[k].h[1:steps + 1]
