"""The network over one share of a batch's columns: embedding, L LSTM layers with dropout after each, head.

`forward`, `backward` and `gradients` are pure but for the Workspace that the caller made and passes in. Notation as in
lstm.py; V symbols. The products over time wait until all shares are through: `gradients` sums them over the shares too.
"""
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from .. import kernels
from ..kernels.arrays import Array, Ids
from ..kernels.paths import Path
from ..params import Each, Parameters
from . import dropout as dropout_, embedding, head, lstm
from .dropout import Dropout
from .lstm import Cache, Scratch, State


class Workspace:
    """All the arrays that a pass over at most (T, N) symbols writes, made once.

    offset and columns place the N columns in a batch of `columns`, so that dropout's masks do not depend on the share.
    """

    def __init__(self, params: Parameters, steps: int, n: int, training: bool = True, offset: int = 0,
                 columns: int | None = None, path: Path | None = None):
        config, kernel, dtype, path = params.config, kernels.of(params.flat), params.flat.dtype, path or Path()
        empty, hidden, self.steps, self.n = kernel.xp.empty, config.hidden, steps, n
        self.offset, self.columns = offset, columns or n
        self.h, self.c = (empty((config.layers, hidden, steps + 1, n), dtype) for _ in "hc")
        self.caches = [Cache(empty((4 * hidden, steps, n), dtype), h, c) for h, c in zip(self.h, self.c, strict=True)]
        self.room = embedding.room(config, steps, n, steps * self.columns, params.flat, training)
        self.logits = empty((config.vocab_size, steps, n), dtype)
        self.loss = empty((steps, n), dtype)
        self.masks: list[Array] = []    # (H, T, N) a layer, made by the first pass with dropout; variational: (H, 1, N)
        self.dropped: list[Array] = []  # (H, T, N) a layer: its output times its mask
        self.kept: list[Array] = []     # (H, T, N) a layer, made by the first backward with keep: the states it left
        back = steps if training else 0
        self.dy = empty((hidden, back, n), dtype)
        self.initial = State(*empty((2, config.layers, hidden, n), dtype))
        loops = path.loops(config, steps, n)
        self.wavefront = path.wavefront(config, steps, n)
        steps, back = (0, 0) if loops else (steps, back)  # such loops work in place
        self.scratch = Scratch._make([*(empty((*shape, n), dtype) for shape in (
            (4 * hidden,), (hidden,), (hidden,), (hidden,), (steps, 4 * hidden), (steps + 1, hidden),
            (steps + 1, hidden), (back, hidden), (back, hidden))), loops])

    def first(self, steps: int) -> tuple[list[Cache], Array, Array]:
        """(caches, logits, loss) for a run of `steps`, at most T."""
        if steps > self.steps:
            raise ValueError(f"a workspace of {self.steps} steps cannot hold {steps}")
        caches = [cache.first(steps) for cache in self.caches]
        return caches, self.logits[:, :steps], self.loss[:steps]

    def begin(self, state: State | None) -> None:
        """The initial state of the next pass, or None: zeros."""
        for k, cache in enumerate(self.caches):
            cache.h[:, 0], cache.c[:, 0] = (0, 0) if state is None else (state.h[k], state.c[k])

    def state(self, steps: int) -> State:
        """The state after `steps` as it lies in the caches: views."""
        return State(self.h[:, :, steps], self.c[:, :, steps])


class Pass(NamedTuple):
    """What the network runs over: ids (T, N), keep (T, N), 0 where a new document begins, dropout, and where to work.

    Of the dropout's rates only that of units is applied here: weight-drop is a matter of the params that are given.
    """
    ids: Ids
    work: Workspace
    keep: Array | None = None
    dropout: Dropout | None = None

    @property
    def drops(self) -> Dropout | None:
        """The dropout where it drops units, else None."""
        return self.dropout if self.dropout and self.dropout.rate > 0 else None

    def folds(self, symbols: int) -> bool:
        """Is the embedding folded (embedding.py)? The batch decides, so all its shares do the same."""
        return embedding.folded(symbols, len(self.ids) * self.work.columns)

    def outputs(self) -> list[Array]:
        """What each layer handed on in the forward: L arrays y (H, T, N)."""
        steps = len(self.ids)
        if self.drops:
            return [dropped[:, :steps] for dropped in self.work.dropped]
        return [cache.h[:, 1:steps + 1] for cache in self.work.caches]

    def before(self) -> list[Array]:
        """What W_hh of each layer saw: L arrays h_prev (H, T, N)."""
        steps, work = len(self.ids), self.work
        states = [cache.h[:, :steps] for cache in work.caches]
        if self.keep is None:
            return states
        xp = kernels.of(self.keep).xp
        work.kept = work.kept or [xp.empty_like(cache.h[:, :-1]) for cache in work.caches]
        return [xp.multiply(h, self.keep, out=kept[:, :steps]) for h, kept in zip(states, work.kept, strict=True)]


def forward(params: Mapping[str, Array], run: Pass, state: State | None) -> Array:
    """Logits (V, T, N), a view of the workspace; state as in `Workspace.begin`. The last state is `work.state(T)`."""
    run.work.begin(state)
    return forward_on(params, run)


def forward_on(params: Mapping[str, Array], run: Pass) -> Array:
    """As `forward`, from the initial state that lies in the workspace."""
    (ids, work, keep, _), dropout = run, run.drops
    caches, logits, _ = work.first(len(ids))
    layers, table = [lstm.layer(params, k) for k in range(len(caches))], params["embedding.weight"]
    x = embedding.forward(table, layers[0], ids, run.folds(len(table)), caches[0].gates, work.room)
    if work.wavefront:
        if x is not None:
            lstm.project(layers[0], x, caches[0].gates)
        masks = [_mask(k, len(ids), dropout, work) for k in range(len(caches))] if dropout else None
        work.wavefront.forward(layers, caches, keep, masks, run.outputs() if dropout else None)
        y = run.outputs()[-1]
    else:
        for k, (weights, cache) in enumerate(zip(layers, caches, strict=True)):
            x = y = lstm.forward(weights, x, cache, keep, work.scratch)
            if dropout:
                mask = _mask(k, len(ids), dropout, work)
                x = y = kernels.of(y).xp.multiply(y, mask, out=work.dropped[k][:, :len(ids)])
    head.forward(params["head.weight"], params["head.bias"], y, logits)
    return logits


def backward(params: Mapping[str, Array], run: Pass, dstate: State | None = None) -> State:
    """Back through head and layers, from dlogits (V, T, N) in work.logits: what `gradients` needs stays in run.work.

    dstate: the gradient that arrives at the last state, or None for truncated BPTT. Returns the gradient at the initial
    state, which the next call overwrites.
    """
    (ids, work, keep, _), dropout = run, run.drops
    caches, dlogits, _ = work.first(len(ids))
    dy, initial = work.dy[:, :len(ids)], work.initial
    head.backward(params["head.weight"], dlogits, dy)
    if work.wavefront:
        masks = [mask[:, :dropout.rows(len(ids))] for mask in work.masks] if dropout else None
        layers = [lstm.layer(params, k) for k in range(len(caches))]
        work.wavefront.backward(layers, caches, dy, dstate, keep, masks, initial)
        return initial
    for k in reversed(range(len(caches))):
        if dropout:
            dy *= work.masks[k][:, :dropout.rows(len(ids))]
        last = (0, 0) if dstate is None else (dstate.h[k], dstate.c[k])
        initial.h[k], initial.c[k] = lstm.backward(lstm.layer(params, k), caches[k], dy, last, keep, work.scratch,
                                                   dx=dy if k else None)
    return initial


def gradients(params: Mapping[str, Array], grads: Parameters, shares: Sequence[Pass], each: Each = map) -> None:
    """Write every gradient into grads, the sums over time and sequences of all shares of a batch, in their order.

    `each(function, items)` may use a thread an item: each makes the same rows of every gradient.
    """
    sums, table = [_sums(grads, share) for share in shares], params["embedding.weight"]
    first, symbols = lstm.layer(grads, 0), len(table)
    scattered = [embedding.Share(share.ids, lstm.columns(share.work.caches[0].gates[:, :len(share.ids)]),
                                 share.work.room) for share in shares]
    dtable = shares[0].work.room.table if shares[0].folds(symbols) else None

    def some_rows(k: int) -> None:
        for same in zip(*sums, strict=True):
            _sum_products(same, k, len(shares))
        if dtable is not None:
            embedding.scatter_rows(table, dtable, first, _rows(dtable, k, len(shares)), scattered)

    list(each(some_rows, range(len(shares))))
    embedding.backward(grads["embedding.weight"], lstm.layer(params, 0), dtable, scattered)


def _sums(grads: Parameters, share: Pass) -> list[lstm.Sum]:
    """(gradient, a (R, T N), b (C, T N) or None) of each gradient, as in lstm.py."""
    caches, dlogits, _ = share.work.first(len(share.ids))
    outputs, before = share.outputs(), share.before()
    below = [None if share.folds(len(dlogits)) else share.work.room.x[:, :len(share.ids)], *outputs]
    found = head.sums(grads["head.weight"], grads["head.bias"], outputs[-1], dlogits)
    for k, cache in enumerate(caches):
        found += lstm.sums(lstm.layer(grads, k), below[k], cache, before[k])
    return found


def _sum_products(same: Sequence[lstm.Sum], k: int, parts: int) -> None:
    """The k-th of so many parts of the rows of a gradient, from its (gradient, a, b) of each share."""
    for number, (gradient, a, b) in enumerate(same):
        kernel, rows = kernels.of(a), _rows(gradient, k, parts)
        if b is not None:
            kernel.product(a[rows], b.T, gradient[rows], add=number > 0)
        elif number:
            gradient[rows] += a[rows].sum(axis=1)
        else:
            kernel.row_sums(a[rows], gradient[rows])


def _rows(array: Array, k: int, parts: int) -> slice:
    return slice(len(array) * k // parts, len(array) * (k + 1) // parts)


def _mask(k: int, steps: int, dropout: Dropout, work: Workspace) -> Array:
    """The mask (H, T or 1, N) of what layer k hands on; there is room for its product in work.dropped[k]."""
    like, rows = work.caches[k].h[:, 1:], dropout.rows(work.steps)
    xp = kernels.of(like).xp
    if len(work.dropped) == k:
        work.masks.append(xp.empty_like(like[:, :rows]))
        work.dropped.append(xp.empty_like(like))
    elif work.masks[k].shape[1] < rows:
        work.masks[k] = xp.empty_like(like[:, :rows])
    mask = work.masks[k][:, :dropout.rows(steps)]
    dropout_.fill_mask(mask, dropout, k, work.offset, work.columns)
    return mask
