"""The network over shares of a batch's columns: embedding, L LSTM layers with dropout after each, head.

`gradients` is a training step but for the update: forward, loss, back-propagation, and the sums over time that are the
parameters' gradients. All is pure but for the Workspace that the caller made and passes in. Notation as in lstm.py; V
symbols. Those sums wait until all shares are through, because they go over the shares too.
"""
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from .. import kernels
from ..kernels import Array, Ids, Layer, Path, StackState, Window
from ..params import Each, Parameters
from . import dropout as dropout_, embedding, head, lstm
from .dropout import Dropout
from .lstm import Cache, State


class InTurn:
    """The layers of a window, one after the other, each by `layer`, or where that is None by lstm.py."""

    def __init__(self, layer: Layer | None = None):
        self.layer: Layer = lstm if layer is None else layer

    def forward(self, window: Window, x: Array | None) -> None:
        """Run all layers, x as in lstm.py; where there are masks, dropped[k] = what layer k makes, times its mask."""
        weights, caches, keep, masks, dropped = window
        for k, (w, (gates, h, c)) in enumerate(zip(weights, caches, strict=True)):
            self.layer.forward(w, x, gates, h, c, keep)
            x = h[:, 1:]
            if masks and dropped:
                x = kernels.of(x).xp.multiply(x, masks[k], out=dropped[k])

    def backward(self, window: Window, dy: Array, dstate: StackState | None, initial: StackState) -> None:
        """Run all layers backwards: dy is used up, the gradient at the initial state written; dstate None: zeros."""
        weights, caches, keep, masks, _ = window
        for k in reversed(range(len(caches))):
            (gates, _, c), dh, dc = caches[k], initial[0][k], initial[1][k]
            dh[...], dc[...] = (dstate[0][k], dstate[1][k]) if dstate else (0, 0)
            if masks:
                dy *= masks[k]
            self.layer.backward(weights[k], gates, c, keep, dy, dh, dc, dy if k else None)


class Workspace:
    """All the arrays that a pass over at most (T, N) symbols writes, made once, and what runs its layers.

    offset and columns place the N columns in a batch of `columns`, so that dropout's masks do not depend on the share.
    path: None for eager.
    """

    def __init__(self, params: Parameters, steps: int, n: int, training: bool = True, offset: int = 0,
                 columns: int | None = None, path: Path | None = None):
        config, kernel, dtype = params.config, kernels.of(params.flat), params.flat.dtype
        empty, hidden, self.steps, self.n = kernel.xp.empty, config.hidden, steps, n
        self.offset, self.columns = offset, columns or n
        self.h, self.c = (empty((config.layers, hidden, steps + 1, n), dtype) for _ in "hc")
        self.caches = [Cache(empty((4 * hidden, steps, n), dtype), h, c) for h, c in zip(self.h, self.c, strict=True)]
        self.room = embedding.room(config, steps, n, steps * self.columns, params.flat, training)
        self.logits = empty((config.vocab_size, steps, n), dtype)
        self.dlogits = self.logits      # the same array, as the loss leaves it: the gradient there
        self.loss = empty((steps, n), dtype)
        self.masks: list[Array] = []    # (H, T, N) a layer, made by the first pass with dropout; variational: (H, 1, N)
        self.dropped: list[Array] = []  # (H, T, N) a layer: its output times its mask
        self.kept: list[Array] = []     # (H, T, N) a layer, made by the first backward with keep: the states it left
        self.dy = empty((hidden, steps if training else 0, n), dtype)
        self.initial = State(*empty((2, config.layers, hidden, n), dtype))
        self.layers = (path or kernel.path("eager", str(dtype))).layers(config, steps, n, InTurn)

    def first(self, steps: int) -> list[Cache]:
        """The caches for a run of `steps`, at most T."""
        if steps > self.steps:
            raise ValueError(f"a workspace of {self.steps} steps cannot hold {steps}")
        return [cache.first(steps) for cache in self.caches]

    def begin(self, state: State | None) -> None:
        """The initial state of the next pass, or None: zeros."""
        for k, cache in enumerate(self.caches):
            cache.h[:, 0], cache.c[:, 0] = (0, 0) if state is None else (state.h[k], state.c[k])

    def state(self, steps: int) -> State:
        """The state after `steps` as it lies in the caches: views."""
        return State(self.h[:, :, steps], self.c[:, :, steps])


class Pass(NamedTuple):
    """What the network runs over: ids (T, N), keep (T, N), 0 where a new document begins, dropout, targets (T, N).

    work is where. Of the dropout's rates only that of units is applied here: weight-drop is a matter of the params that
    are given.
    """
    ids: Ids
    work: Workspace
    keep: Array | None = None
    dropout: Dropout | None = None
    targets: Ids | None = None

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


def gradients(params: Mapping[str, Array], grads: Parameters, passes: Sequence[Pass], over: float = 1,
              each: Each = map) -> list[State]:
    """Write into grads the gradient of the sum of all losses of a batch's shares, divided by `over`.

    The shares begin at the states that lie in their workspaces (`Workspace.begin`), and leave there the loss (T, N) of
    each symbol and the last state. Returns, of each share, the gradient at the initial state (divided too), which the
    next call overwrites. `each(function, items)` may use a thread an item.
    """
    def there_and_back(run: Pass) -> State:
        losses(params, run)
        if over != 1:
            run.work.dlogits[:, :len(run.ids)] /= over
        return backward(params, run)

    initial = list(each(there_and_back, passes))
    sum_up(params, grads, passes, each)
    return initial


def losses(params: Mapping[str, Array], run: Pass) -> Array:
    """The loss (T, N) of each symbol in nats, a view of the workspace; the gradient of their sum is left in dlogits."""
    assert run.targets is not None
    logits, loss = forward(params, run), run.work.loss[:len(run.ids)]
    kernels.of(logits).softmax_cross_entropy(logits, run.targets, loss)
    return loss


def forward(params: Mapping[str, Array], run: Pass) -> Array:
    """Logits (V, T, N), a view of the workspace, from the initial state that lies there; the last: `work.state(T)`."""
    work, table, logits = run.work, params["embedding.weight"], run.work.logits[:, :len(run.ids)]
    if run.drops:
        _fill_masks(run, run.drops)
    window, z = _window(params, run), work.caches[0].z[:, :len(run.ids)]
    x = embedding.forward(table, window.weights[0], run.ids, run.folds(len(table)), z, work.room)
    work.layers.forward(window, x)
    head.forward(params["head.weight"], params["head.bias"], run.outputs()[-1], logits)
    return logits


def backward(params: Mapping[str, Array], run: Pass, dstate: State | None = None) -> State:
    """Back through head and layers from work.dlogits: what `sum_up` needs stays in run.work.

    dstate: the gradient that arrives at the last state, or None for truncated BPTT. Returns the gradient at the initial
    state, which the next call overwrites.
    """
    work, steps = run.work, len(run.ids)
    dlogits, dy = work.dlogits[:, :steps], work.dy[:, :steps]
    head.backward(params["head.weight"], dlogits, dy)
    work.layers.backward(_window(params, run), dy, dstate, work.initial)
    return work.initial


def sum_up(params: Mapping[str, Array], grads: Parameters, shares: Sequence[Pass], each: Each = map) -> None:
    """Write every gradient into grads, the sums over time and sequences of all shares of a batch, in their order.

    `each(function, items)` may use a thread an item: each makes the same rows of every gradient.
    """
    sums, table = [_sums(grads, share) for share in shares], params["embedding.weight"]
    first, symbols = lstm.layer(grads, 0), len(table)
    scattered = [embedding.Share(share.ids, lstm.columns(share.work.caches[0].dz[:, :len(share.ids)]),
                                 share.work.room) for share in shares]
    dtable = shares[0].work.room.dtable if shares[0].folds(symbols) else None

    def some_rows(k: int) -> None:
        for same in zip(*sums, strict=True):
            sum_products(same, k, len(shares))
        if dtable is not None:
            embedding.scatter_rows(table, dtable, first, _rows(dtable, k, len(shares)), scattered)

    list(each(some_rows, range(len(shares))))
    embedding.backward(grads["embedding.weight"], lstm.layer(params, 0), dtable, scattered)


def _sums(grads: Parameters, share: Pass) -> list[lstm.Sum]:
    """(gradient, a (R, T N), b (C, T N) or None) of each gradient, as in lstm.py."""
    caches, dlogits = share.work.first(len(share.ids)), share.work.dlogits[:, :len(share.ids)]
    outputs, before = share.outputs(), share.before()
    below = [None if share.folds(len(dlogits)) else share.work.room.x[:, :len(share.ids)], *outputs]
    found = head.sums(grads["head.weight"], grads["head.bias"], outputs[-1], dlogits)
    for k, cache in enumerate(caches):
        found += lstm.sums(lstm.layer(grads, k), below[k], cache.dz, before[k])
    return found


def sum_products(same: Sequence[lstm.Sum], k: int = 0, parts: int = 1) -> None:
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


def _window(params: Mapping[str, Array], run: Pass) -> Window:
    """What runs over all layers; the masks as the forward has filled them."""
    caches, steps = run.work.first(len(run.ids)), len(run.ids)
    masks = [mask[:, :run.drops.rows(steps)] for mask in run.work.masks] if run.drops else None
    weights = [lstm.layer(params, k) for k in range(len(caches))]
    return Window(weights, caches, run.keep, masks, run.outputs() if masks else None)


def _fill_masks(run: Pass, dropout: Dropout) -> None:
    """Fill the mask (H, T or 1, N) of what each layer hands on, and see that there is room for the products."""
    work, rows, like = run.work, dropout.rows(run.work.steps), [cache.h[:, 1:] for cache in run.work.caches]
    xp = kernels.of(like[0]).xp
    work.dropped = work.dropped or [xp.empty_like(h) for h in like]
    if not work.masks or work.masks[0].shape[1] < rows:
        work.masks = [xp.empty_like(h[:, :rows]) for h in like]
    for k, mask in enumerate(work.masks):
        dropout_.fill_mask(mask[:, :dropout.rows(len(run.ids))], dropout, k, work.offset, work.columns)
