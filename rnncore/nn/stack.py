"""The whole network over a window: embedding, L LSTM layers with dropout after each, head.

`gradients` is a training step without the update: forward, loss, back-propagation, and the parameters' gradients, which
are sums over time. The columns of a batch may be cut into shares, so that several threads can work. The gradients are
summed over the shares too, so they are computed when all shares have done their back-propagation.

The functions have no state: all that they write lies in the Workspace and the gradients that the caller passes in.
Notation as in lstm.py, and V symbols.
"""
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from .. import kernels
from ..kernels import Array, Ids, Layer, Path, StackState, Window
from ..kernels.arrays import Lookup
from ..params import Each, Parameters
from . import dropout as dropout_, embedding, head, lstm
from .dropout import Dropout
from .lstm import Cache, State


class InTurn:
    """All layers of a window, one after the other.

    layer: the functions forward and backward of one layer; None for those of lstm.py.
    """
    looks_up = False

    def __init__(self, layer: Layer | None = None):
        self.layer: Layer = lstm if layer is None else layer

    def forward(self, window: Window, x: Array | Lookup | None) -> None:
        """Run all layers on x (E, T, N), or None as in lstm.py: write gates, h and c of the window's caches.

        With dropout, dropped[k] (H, T, N) is written too: the output of layer k times its mask, which layer k+1
        or the head reads.
        """
        assert not isinstance(x, Lookup)  # `looks_up` says that none comes
        weights, caches, keep, masks, dropped, _ = window
        below: Array | None = x
        for k, (w, (gates, h, c)) in enumerate(zip(weights, caches, strict=True)):
            self.layer.forward(w, below, gates, h, c, keep)
            below = h[:, 1:]
            if masks and dropped:
                below = kernels.of(h).xp.multiply(below, masks[k], out=dropped[k])

    def backward(self, window: Window, dy: Array, dstate: StackState | None, initial: StackState) -> None:
        """Run all layers backwards from dy (H, T, N), the gradient of the last layer's output: write dz of each layer.

        dy is overwritten. dstate is the gradient of the last state, None for zeros. The gradient of the initial state
        is written into `initial`.
        """
        weights, caches, keep, masks, *_ = window
        for k in reversed(range(len(caches))):
            (gates, _, c), dh, dc = caches[k], initial[0][k], initial[1][k]
            dh[...], dc[...] = (dstate[0][k], dstate[1][k]) if dstate else (0, 0)
            if masks:
                dy *= masks[k]
            # dx of layer k is dy of layer k-1, in the same array; layer 0 leaves its dx to embedding.py.
            self.layer.backward(weights[k], gates, c, keep, dy, dh, dc, dy if k else None)


class Workspace:
    """All the arrays that a pass over at most (T, N) symbols writes, made once, and the object that runs the layers.

    params give the sizes, dtype and device. The N columns are the columns offset .. offset + N of a batch of `columns`
    (None: N): dropout's masks depend on the place in the batch, not on the share. training False: no backward follows,
    and dy has no steps. path: the kernel module's path that runs the layers, None for eager.
    """

    def __init__(self, params: Parameters, steps: int, n: int, training: bool = True, offset: int = 0,
                 columns: int | None = None, path: Path | None = None):
        config, kernel, dtype = params.config, kernels.of(params.flat), params.flat.dtype
        empty, hidden, self.steps, self.n = kernel.activations, config.hidden, steps, n
        self.offset, self.columns = offset, columns or n
        self.h, self.c = (empty((config.layers, hidden, steps + 1, n), 1, dtype) for _ in "hc")
        self.caches = [Cache(empty((4 * hidden, steps, n), 0, dtype), h, c)
                       for h, c in zip(self.h, self.c, strict=True)]
        path = path or kernel.path("eager", str(dtype))
        self.loss_scale = path.loss_scale
        made = (path.operands(config, steps, n, training) for _ in self.caches)
        self.operands = [own for own in made if own]  # one for each layer, or none
        dz, positions = self.dz(steps)[0], steps * self.columns
        self.embedding = embedding.buffers(config, steps, n, positions, params.flat, dz, training)
        self.logits = kernel.xp.empty((config.vocab_size, steps, n), dtype)
        self.dlogits = self.logits      # the same array after the loss, which turns the logits into their gradient
        self.loss = kernel.xp.empty((steps, n), dtype)
        # One array (H, T, N) a layer. The lists stay empty, and cost no memory, until a pass needs them.
        self.masks: list[Array] = []    # masks of units; variational dropout: (H, 1, N)
        self.dropped: list[Array] = []  # the layer's output times its mask
        self.kept: list[Array] = []     # keep times h before each step
        self.dy = empty((hidden, steps if training else 0, n), 0, dtype)
        self.initial = State(*empty((2, config.layers, hidden, n), 2, dtype))
        self.layers = path.layers(config, steps, n, InTurn)

    def first(self, steps: int) -> list[Cache]:
        """Return the layers' caches for `steps` time steps. Raises ValueError for more than T."""
        if steps > self.steps:
            raise ValueError(f"a workspace of {self.steps} steps cannot hold {steps}")
        return [cache.first(steps) for cache in self.caches]

    def dz(self, steps: int) -> list[Array]:
        """Return where backward writes dL/dz (4H, T, N) of each layer."""
        return [own.dz[:, :steps] for own in self.operands] or [cache.dz[:, :steps] for cache in self.caches]

    def before(self, steps: int, keep: Array | None = None) -> list[Array]:
        """Return the states that each layer's W_hh was multiplied with: L arrays h_prev (H, T, N), keep included."""
        if self.operands:
            return [own.before[:, :steps] for own in self.operands]
        states = [cache.h[:, :steps] for cache in self.caches]
        if keep is None:
            return states
        xp = kernels.of(keep).xp
        self.kept = self.kept or [xp.empty_like(cache.h[:, :-1]) for cache in self.caches]
        return [xp.multiply(h, keep, out=kept[:, :steps]) for h, kept in zip(states, self.kept, strict=True)]

    def begin(self, state: State | None) -> None:
        """Set the initial state of the next pass; None: zeros."""
        for k, cache in enumerate(self.caches):
            cache.h[:, 0], cache.c[:, 0] = (0, 0) if state is None else (state.h[k], state.c[k])

    def state(self, steps: int) -> State:
        """Return the state after `steps` time steps: views of the caches, which the next pass overwrites."""
        return State(self.h[:, :, steps], self.c[:, :, steps])


class Pass(NamedTuple):
    """The input of one pass over a share of a batch, and the workspace that the pass writes.

    ids and targets (T, N): symbols, and the symbols that follow them. keep (T, N): 0 where a new document begins, 1
    elsewhere; None: no document begins. dropout: its weight_rate is not used here, because the caller passes parameters
    that have weight drop applied already.
    """
    ids: Ids
    work: Workspace
    keep: Array | None = None
    dropout: Dropout | None = None
    targets: Ids | None = None

    @property
    def drops(self) -> Dropout | None:
        """The dropout if its rate of units is above 0, else None."""
        return self.dropout if self.dropout and self.dropout.rate > 0 else None

    def folds(self, symbols: int) -> bool:
        """Return True if the embedding is folded (embedding.py). All shares agree: the size of the batch decides."""
        return embedding.folded(symbols, len(self.ids) * self.work.columns)

    def outputs(self) -> list[Array]:
        """Return each layer's output in the forward, after dropout: L arrays y (H, T, N)."""
        steps = len(self.ids)
        if self.drops:
            return [dropped[:, :steps] for dropped in self.work.dropped]
        return [cache.h[:, 1:steps + 1] for cache in self.work.caches]

    def inputs(self) -> list[Array]:
        """Return what the W_ih of the layers above the first were multiplied with: arrays x (H, T, N)."""
        operands = [] if self.drops else self.work.operands
        return [own.y[:, :len(self.ids)] for own in operands[:-1]] or self.outputs()[:-1]


def gradients(params: Mapping[str, Array], grads: Parameters, passes: Sequence[Pass], over: float = 1,
              each: Each = map) -> list[State]:
    """Write into grads the gradient of the summed loss of all shares of a batch, divided by `over`.

    Each share begins at the state that `Workspace.begin` has set. Its workspace then holds the loss (T, N) of each
    symbol in nats, not divided, and the last state. Return the gradient of each share's initial state, divided too,
    which the next call overwrites. each(function, items) calls the function for each item; it may use several threads.

    A path's loss_scale multiplies gradients on their way back (Micikevicius et al. 2018, "Mixed Precision Training").
    """
    scale = passes[0].work.loss_scale

    def forward_and_backward(run: Pass) -> State:
        losses(params, run, over if scale is None else 1 / scale)
        return backward(params, run)

    initial = list(each(forward_and_backward, passes))
    sum_up(params, grads, passes, each)
    if scale is not None and scale * over != 1:
        for array in (grads.flat, *(part for state in initial for part in state)):
            array /= scale * over
    return initial


def losses(params: Mapping[str, Array], run: Pass, over: float = 1) -> Array:
    """Return the loss (T, N) of each symbol in nats, a view of the workspace.

    work.dlogits (V, T, N) then holds the gradient of the summed loss, divided by `over`.
    """
    assert run.targets is not None
    logits, loss, top = run.work.logits[:, :len(run.ids)], run.work.loss[:len(run.ids)], _layers(params, run)
    head.losses(params["head.weight"], params["head.bias"], top, run.targets, logits, loss, over)
    return loss


def forward(params: Mapping[str, Array], run: Pass) -> Array:
    """Return the logits (V, T, N), a view of the workspace.

    The pass begins at the state that `Workspace.begin` has set; `work.state(T)` is the last state after it.
    """
    logits, top = run.work.logits[:, :len(run.ids)], _layers(params, run)
    head.forward(params["head.weight"], params["head.bias"], top, logits)
    return logits


def _layers(params: Mapping[str, Array], run: Pass) -> Array:
    """Run embedding and layers; return the output (H, T, N) of the last layer."""
    work, table = run.work, params["embedding.weight"]
    if run.drops:
        _fill_masks(run, run.drops)
    window, z, looks_up = _window(params, run), work.caches[0].z[:, :len(run.ids)], work.layers.looks_up
    x = embedding.forward(table, window.weights[0], run.ids, run.folds(len(table)), z, work.embedding, looks_up)
    work.layers.forward(window, x)
    return run.outputs()[-1]


def backward(params: Mapping[str, Array], run: Pass, dstate: State | None = None) -> State:
    """Run head and layers backwards from work.dlogits. The workspace then holds what `sum_up` needs.

    dstate: the gradient of the last state; None for zeros, as in truncated BPTT. Return the gradient of the initial
    state, which the next call overwrites.
    """
    work, steps = run.work, len(run.ids)
    dlogits, dy = work.dlogits[:, :steps], work.dy[:, :steps]
    head.backward(params["head.weight"], dlogits, dy)
    work.layers.backward(_window(params, run), dy, dstate, work.initial)
    return work.initial


def sum_up(params: Mapping[str, Array], grads: Parameters, shares: Sequence[Pass], each: Each = map) -> None:
    """Write every parameter's gradient into grads: sums over time and sequences, and over the shares in their order.

    each(function, items) calls the function for each item; it may use several threads.
    """
    sums, table = [_sums(grads, share) for share in shares], params["embedding.weight"]
    first, symbols = lstm.layer(grads, 0), len(table)
    scattered = [embedding.Share(share.ids, lstm.columns(share.work.dz(len(share.ids))[0]), share.work.embedding)
                 for share in shares]
    dtable = shares[0].work.embedding.dtable if shares[0].folds(symbols) else None

    # A thread computes its rows of every gradient over all shares. So no two threads write one entry, and the order of
    # the additions, which decides the last bits, does not depend on which thread is faster.
    def some_rows(k: int) -> None:
        for same in zip(*sums, strict=True):
            sum_products(same, k, len(shares))
        if dtable is not None:
            embedding.scatter_rows(table, dtable, first, _rows(dtable, k, len(shares)), scattered)

    list(each(some_rows, range(len(shares))))
    embedding.backward(grads["embedding.weight"], lstm.layer(params, 0), dtable, scattered)


def _sums(grads: Parameters, share: Pass) -> list[lstm.Sum]:
    """Return (gradient, a (R, T N), b (C, T N) or None) of each gradient, as in lstm.py."""
    work, steps, dlogits = share.work, len(share.ids), share.work.dlogits[:, :len(share.ids)]
    below = [None if share.folds(len(dlogits)) else work.embedding.x[:, :steps], *share.inputs()]
    found = head.sums(grads["head.weight"], grads["head.bias"], share.outputs()[-1], dlogits)
    for k, (x, dz, before) in enumerate(zip(below, work.dz(steps), work.before(steps, share.keep), strict=True)):
        found += lstm.sums(lstm.layer(grads, k), x, dz, before)
    return found


def sum_products(same: Sequence[lstm.Sum], k: int = 0, parts: int = 1) -> None:
    """Write the k-th of `parts` parts of the rows of one gradient, from its (gradient, a, b) of each share."""
    for number, (gradient, a, b) in enumerate(same):
        kernel, rows = kernels.of(a), _rows(gradient, k, parts)
        if b is not None:
            kernel.product(a[rows], b.T, gradient[rows], add=number > 0)
        elif number:
            gradient[rows] += a[rows].sum(axis=1)
        else:
            kernel.row_sums(a[rows], gradient[rows])


def _rows(array: Array, k: int, parts: int) -> slice:
    """Return the rows of the k-th of `parts` parts of an array: parts of nearly equal size."""
    return slice(len(array) * k // parts, len(array) * (k + 1) // parts)


def _window(params: Mapping[str, Array], run: Pass) -> Window:
    """Return the arguments of the layers' forward and backward; `_fill_masks` has filled the masks."""
    caches, steps = run.work.first(len(run.ids)), len(run.ids)
    masks = [mask[:, :run.drops.rows(steps)] for mask in run.work.masks] if run.drops else None
    weights = [lstm.layer(params, k) for k in range(len(caches))]
    dropped, operands = run.outputs() if masks else None, [own.first(steps) for own in run.work.operands]
    return Window(weights, caches, run.keep, masks, dropped, operands or None)


def _fill_masks(run: Pass, dropout: Dropout) -> None:
    """Fill the mask (H, T or 1, N) of each layer's output; make the arrays for masks and dropped outputs if needed."""
    work, rows, like = run.work, dropout.rows(run.work.steps), [cache.h[:, 1:] for cache in run.work.caches]
    xp = kernels.of(like[0]).xp
    work.dropped = work.dropped or [xp.empty_like(h) for h in like]
    if not work.masks or work.masks[0].shape[1] < rows:
        work.masks = [xp.empty_like(h[:, :rows]) for h in like]
    for k, mask in enumerate(work.masks):
        dropout_.fill_mask(mask[:, :dropout.rows(len(run.ids))], dropout, k, work.offset, work.columns)
