"""The network over one share of a batch's columns: embedding, L LSTM layers with dropout after each, head.

`forward`, `backward` and `gradients` are pure but for the Workspace that the caller made and passes in. Notation as in
lstm.py; V symbols. The products over time wait until all shares are through: `gradients` sums them over the shares too.
"""
from typing import NamedTuple

from . import dropout as dropout_
from . import embedding, head, kernels, lstm
from .dropout import Dropout
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
        self.caches = [Cache(empty((4 * hidden, steps, n), dtype), empty((hidden, steps + 1, n), dtype),
                             empty((hidden, steps + 1, n), dtype)) for _ in range(config.layers)]
        self.x = empty((config.embed, steps, n), dtype)
        self.logits = empty((config.vocab_size, steps, n), dtype)
        self.loss = empty((steps, n), dtype)
        self.masks: list[Array] = []    # (H, T, N) a layer, made by the first pass with dropout; variational: (H, 1, N)
        self.dropped: list[Array] = []  # (H, T, N) a layer: its output times its mask
        back = steps if training else 0
        self.dy = empty((hidden, back, n), dtype)
        self.scratch = Scratch(*(empty((*shape, n), dtype) for shape in (
            (4 * hidden,), (hidden,), (hidden,), (hidden,), (steps, 4 * hidden), (steps + 1, hidden),
            (steps + 1, hidden), (back, hidden), (back, hidden))))

    def first(self, steps: int) -> tuple:
        """(caches, x, logits, loss) for a run of `steps`, at most T."""
        if steps > self.steps:
            raise ValueError(f"a workspace of {self.steps} steps cannot hold {steps}")
        caches = [cache.first(steps) for cache in self.caches]
        return caches, self.x[:, :steps], self.logits[:, :steps], self.loss[:steps]

    def state(self, steps: int) -> State:
        """The state after `steps` as it lies in the caches: two lists of L arrays (H, N), views."""
        return State([cache.h[:, steps] for cache in self.caches], [cache.c[:, steps] for cache in self.caches])


class Pass(NamedTuple):
    """What the network runs over: ids (T, N), keep (T, N), 0 where a new document begins, dropout, and where to work.

    Of the dropout's rates only that of units is applied here: weight-drop is a matter of the params that are given.
    """
    ids: Array
    work: Workspace
    keep: Array = None
    dropout: Dropout | None = None

    @property
    def drops(self) -> bool:
        return self.dropout is not None and self.dropout.rate > 0

    def folds(self, symbols: int) -> bool:
        """Is the embedding folded (embedding.py)? The batch decides, so all its shares do the same."""
        return embedding.folded(symbols, len(self.ids) * self.work.columns)

    def outputs(self) -> list[Array]:
        """What each layer handed on in the forward: L arrays y (H, T, N)."""
        steps = len(self.ids)
        if self.drops:
            return [dropped[:, :steps] for dropped in self.work.dropped]
        return [cache.h[:, 1:steps + 1] for cache in self.work.caches]


def forward(params, run: Pass, state: State | None):
    """Logits (V, T, N), a view of the workspace; state: h and c of L arrays (H, N) each, or None: zeros.

    The last state is `work.state(T)`.
    """
    ids, work, keep, dropout = run
    caches, x, logits, _ = work.first(len(ids))
    table, y = params["embedding.weight"], None
    for k, cache in enumerate(caches):
        weights = lstm.layer(params, k)
        cache.h[:, 0], cache.c[:, 0] = (0, 0) if state is None else (state.h[k], state.c[k])
        if k == 0:
            y = embedding.forward(table, weights, ids, run.folds(len(table)), cache.gates, x)
        y = lstm.forward(weights, y, cache, keep, work.scratch)
        if run.drops:
            y = _drop(y, k, dropout, work)
    head.forward(params["head.weight"], params["head.bias"], y, logits)
    return logits


def backward(params, run: Pass, dstate: State | None = None) -> State:
    """Back through head and layers, from dlogits (V, T, N) in work.logits: what `gradients` needs stays in run.work.

    dstate: the gradient that arrives at the last state (L arrays (H, N) each for h and c), or None for truncated BPTT.
    Returns the gradient at the initial state, h and c (L, H, N).
    """
    ids, work, keep, dropout = run
    caches, _, dlogits, _ = work.first(len(ids))
    dy = work.dy[:, :len(ids)]
    initial = State(*kernels.of(dy).xp.empty((2, len(caches), len(dy), work.n), dy.dtype))
    head.backward(params["head.weight"], dlogits, dy)
    for k in reversed(range(len(caches))):
        if run.drops:
            dy *= work.masks[k][:, :dropout.rows(len(ids))]
        last = (0, 0) if dstate is None else (dstate.h[k], dstate.c[k])
        initial.h[k], initial.c[k] = lstm.backward(lstm.layer(params, k), caches[k], dy, last, keep, work.scratch,
                                                   dx=dy if k else None)
    return initial


def gradients(params, grads, shares: list[Pass], each=map) -> None:
    """Write every gradient into grads, the sums over time and sequences of all shares of a batch, in their order.

    `each(function, items)` may use a thread an item: each makes the same rows of every gradient.
    """
    sums, table = [_sums(grads, share) for share in shares], params["embedding.weight"]
    first, symbols = lstm.layer(grads, 0), len(table)
    scattered = [(share.ids, lstm.columns(share.work.first(len(share.ids))[0][0].gates)) for share in shares]
    dtable = kernels.of(table).xp.empty((len(first.w_ih), symbols), table.dtype) if shares[0].folds(symbols) else None

    def some_rows(k: int) -> None:
        for same in zip(*sums, strict=True):
            _sum_products(same, k, len(shares))
        if dtable is not None:
            embedding.scatter_rows(table, dtable, first, _rows(dtable, k, len(shares)), scattered)

    list(each(some_rows, range(len(shares))))
    embedding.backward(grads["embedding.weight"], lstm.layer(params, 0), dtable, scattered)


def _sums(grads, share: Pass) -> list[tuple]:
    """(gradient, a (R, T N), b (C, T N) or None) of each gradient, as in lstm.py."""
    caches, x, dlogits, _ = share.work.first(len(share.ids))
    outputs = share.outputs()
    below = [None if share.folds(len(dlogits)) else x, *outputs]
    found = head.sums(grads["head.weight"], grads["head.bias"], outputs[-1], dlogits)
    for k, cache in enumerate(caches):
        found += lstm.sums(lstm.layer(grads, k), below[k], cache, share.keep)
    return found


def _sum_products(same: tuple, k: int, parts: int) -> None:
    """The k-th of so many parts of the rows of a gradient, from its (gradient, a, b) of each share."""
    for number, (gradient, a, b) in enumerate(same):
        rows = _rows(gradient, k, parts)
        if number:
            gradient[rows] += a[rows].sum(axis=1) if b is None else a[rows] @ b.T
        elif b is None:
            a[rows].sum(axis=1, out=gradient[rows])  # the same bits wherever the rows lie, unlike a product with ones
        else:
            kernels.of(a).xp.matmul(a[rows], b.T, out=gradient[rows])


def _rows(array, k: int, parts: int) -> slice:
    return slice(len(array) * k // parts, len(array) * (k + 1) // parts)


def _drop(y, k: int, dropout: Dropout, work: Workspace):
    """y (H, T, N) of layer k times its mask."""
    xp, rows, (hidden, steps, n) = kernels.of(y).xp, dropout.rows(work.steps), y.shape
    if len(work.dropped) == k:
        work.masks.append(xp.empty((hidden, rows, n), y.dtype))
        work.dropped.append(xp.empty((hidden, work.steps, n), y.dtype))
    elif work.masks[k].shape[1] < rows:
        work.masks[k] = xp.empty((hidden, rows, n), y.dtype)
    mask, out = work.masks[k][:, :dropout.rows(steps)], work.dropped[k][:, :steps]
    dropout_.fill_mask(mask, dropout, k, work.offset, work.columns)
    return xp.multiply(y, mask, out=out)
