"""The optimisers, Adam and Muon, the clipping of the gradient, and the learning-rate schedule.

An optimiser updates the flat buffer of parameters from the flat buffer of gradients.
"""
from math import sqrt
from typing import NamedTuple, TypeAlias

from . import kernels
from .config import TrainConfig
from .kernels.arrays import Array, Number
from .params import Each, Parameters

NEWTON_SCHULZ = 3.4445, -4.775, 2.0315  # coefficients a, b, c of a quintic, from Muon (K. Jordan et al. 2024)
NEWTON_SCHULZ_STEPS = 5  # steps of the quintic that take singular values in (0, 1] to about 1
Share: TypeAlias = list[tuple[str, slice]]  # names of matrices, and which of their four gates


class Pace(NamedTuple):
    """The numbers of an update that vary by step. Each is a float, or an array () on the device."""
    rate: Number        # the learning rate
    size: Number        # Adam's step size: rate / (1 - beta1^step), which corrects the bias of the first moment
    correction: Number  # 1 / sqrt(1 - beta2^step), which corrects the bias of the second moment


class Adam:
    """Adam (Kingma & Ba 2015) with bias correction. Muon is built on it.

    each(function, items): map, or a function that uses several threads. moments: name -> array (P,), which a resumed
    run needs. workspaces: shape of the blocks (B, R, C) -> Workspace. It is None at first, and each update makes its
    own workspaces; set it to {} on a card, where no threads share them, to keep them from step to step.
    """

    BETA2 = 0.99  # used if the config has None

    def __init__(self, params: Parameters, config: TrainConfig, each: Each = map):
        self.config, self.each = config, each
        self.workspaces: dict[tuple[int, int, int], Workspace] | None = None
        self.beta2 = self.BETA2 if config.beta2 is None else config.beta2
        zeros = kernels.of(params.flat).xp.zeros_like
        self.moments = {"m": zeros(params.flat), "v": zeros(params.flat)}

    def pace(self, rate: float, step: int) -> Pace:
        """Return the numbers of step `step` at a learning rate. step counts from 1, as in Adam's formulas."""
        return Pace(rate, rate / (1 - self.config.beta1 ** step), (1 - self.beta2 ** step) ** -0.5)

    def update(self, params: Parameters, grads: Parameters, pace: Pace, scale: Number) -> None:
        """Update params and the moments in place by one step with the gradient scale * grads."""
        self.adam(slice(None), params, grads, pace, scale)

    def adam(self, part: slice, params: Parameters, grads: Parameters, pace: Pace, scale: Number) -> None:
        """Update one part of the flat buffers by a step of Adam; arguments as in `update`."""
        c, m, v = self.config, self.moments["m"][part], self.moments["v"][part]
        kernels.of(m).adam(params.flat[part], grads.flat[part], m, v, pace.size, pace.correction, c.beta1, self.beta2,
                           c.eps, scale)


class Muon(Adam):
    """Muon (K. Jordan et al. 2024) on the weight matrices of the LSTM, Adam on all other parameters.

        W -= rate (0.2 sqrt(larger side) U V^T + decay W),   U S V^T = the Nesterov momentum of a block of W

    W_ih and W_hh have a block of H rows for each gate. U V^T is the momentum made orthogonal: every direction of the
    block moves by the same amount.
    """
    BETA2 = 0.95

    def __init__(self, params: Parameters, config: TrainConfig, each: Each = map):
        super().__init__(params, config, each)
        matrices = sorted(name for name, view in params.items() if name.startswith("lstm.") and view.ndim == 2)
        self.rest = [part for name, part in params.parts.items() if name not in matrices]
        self.momentum = type(params)(params.config, self.moments["m"])
        # A card makes all blocks of one shape orthogonal at once. A processor takes two gates of a matrix at a time.
        # They stay in its caches, and its threads get nearly equal shares.
        shapes = {params[name].shape: [other for other in matrices if params[other].shape == params[name].shape]
                  for name in matrices}
        self.shares: list[Share] = [[(name, slice(None)) for name in names] for names in shapes.values()]
        if kernels.of(params.flat).shares(2) == 2:
            self.shares = [[(name, gates)] for name in matrices for gates in (slice(2), slice(2, 4))]

    def update(self, params: Parameters, grads: Parameters, pace: Pace, scale: Number) -> None:
        """Update params and the moments in place by one step with the gradient scale * grads."""
        for part in self.rest:
            self.adam(part, params, grads, pace, scale)
        list(self.each(lambda share: self.muon(share, params, grads, pace, scale), self.shares))

    def muon(self, share: Share, params: Parameters, grads: Parameters, pace: Pace, scale: Number) -> None:
        """Update the gate blocks of one share by a step of Muon; other arguments as in `update`."""
        k, c = kernels.of(params.flat), self.config
        weights, moments, gradients = ([each[name].reshape(4, -1, each[name].shape[1])[gates] for name, gates in share]
                                       for each in (params, self.momentum, grads))
        gates, rows, columns = weights[0].shape
        work = self._workspace((len(share) * gates, rows, columns), params.flat)
        blocks = work.blocks.reshape(len(share), *weights[0].shape)
        for momentum, gradient, block in zip(moments, gradients, blocks, strict=True):
            k.muon_momentum(momentum, gradient, scale, c.momentum, block)
        changes = orthogonal(work).reshape(blocks.shape)
        for weight, change in zip(weights, changes, strict=True):
            k.muon_apply(weight, change, pace.rate, 0.2 * sqrt(max(rows, columns)), c.decay, scale)

    def _workspace(self, shape: tuple[int, int, int], like: Array) -> "Workspace":
        """Return the workspace for blocks of this shape (B, R, C)."""
        made = {} if self.workspaces is None else self.workspaces
        if shape not in made:
            made[shape] = Workspace.of(shape, like)
        return made[shape]


OPTIMIZERS: dict[str, type[Adam]] = {"adam": Adam, "muon": Muon}


class Workspace(NamedTuple):
    """The arrays of `orthogonal` for B blocks (R, C). r is the smaller of R and C."""
    blocks: Array   # (B, R, C): the blocks themselves
    product: Array  # (B, R, C): the result of a step
    square: Array   # (B, r, r): r X X^T - s
    fourth: Array   # (B, r, r): the square of `square`, plus m
    norm: Array     # (B,): the norm of each block

    @classmethod
    def of(cls, shape: tuple[int, int, int], like: Array) -> "Workspace":
        """Return a workspace for blocks of a shape (B, R, C), with the dtype and the device of the array `like`."""
        count, r = shape[0], min(shape[1:])
        shapes = shape, shape, (count, r, r), (count, r, r), (count,)
        return cls(*(kernels.of(like).xp.empty(each, like.dtype) for each in shapes))


def orthogonal(work: Workspace) -> Array:
    """Return about U V^T for each block U S V^T of work.blocks, as one of the workspace's arrays (B, R, C).

    The singular values end between 0.7 and 1.2. The method is Newton-Schulz with a quintic,

        X <- a X + b X X^T X + c (X X^T)^2 X = ((r X X^T - s)^2 + m) X,    r = sqrt(c), s = -b / 2 r, m = a - s^2,

    where s and m stand for multiples of the unit matrix. A block with more rows than columns is transposed, so that
    X X^T is (r, r). All arrays of `work` are overwritten.
    """
    blocks, product, square, fourth, norm = work
    k, (a, b, c), tall = kernels.of(blocks), NEWTON_SCHULZ, blocks.shape[1] > blocks.shape[2]
    k.xp.multiply(blocks, blocks, out=product)
    k.row_sums(product.reshape(len(norm), -1), norm)
    k.xp.sqrt(norm, out=norm)
    # The quintic converges for singular values up to 1. A block divided by its Frobenius norm has none above 1.
    # The summand 1e-7 avoids a division by zero for a block of zeros.
    norm += 1e-7
    blocks /= norm[:, None, None]
    x, y = (blocks.swapaxes(1, 2), product.swapaxes(1, 2)) if tall else (blocks, product)
    square_diagonal, fourth_diagonal = (each.reshape(len(each), -1)[:, ::each.shape[1] + 1]
                                        for each in (square, fourth))
    r = sqrt(c)
    s = -b / (2 * r)
    for _ in range(NEWTON_SCHULZ_STEPS):
        # A processor computes the product of a matrix and its transpose in about half the time.
        k.product(x, x.swapaxes(1, 2), square)
        square *= r
        square_diagonal -= s
        k.product(square, square.swapaxes(1, 2), fourth)
        fourth_diagonal += a - s * s
        k.product(fourth, x, y)
        x, y = y, x
    return x.swapaxes(1, 2) if tall else x


def update(optimizer: Adam, params: Parameters, grads: Parameters, rate: float, step: int, norm: float,
           clip: float) -> None:
    """Take step `step` (from 1) at a learning rate, in place. Clip the gradient, whose norm is `norm`, to `clip`."""
    optimizer.update(params, grads, optimizer.pace(rate, step), clip_scale(norm, clip))


def global_norm(grads: Parameters) -> float:
    """Return the Euclidean norm of all gradients together."""
    flat = grads.flat
    return sqrt(float(kernels.of(flat).xp.vdot(flat, flat)))


def clip_scale(norm: float, clip: float) -> float:
    """Return the factor that makes the norm of the gradient at most clip (Pascanu et al. 2013); clip 0: no bound."""
    return clip / norm if clip and norm > clip else 1.0


def rate(config: TrainConfig, done: float) -> float:
    """Return the learning rate when a share `done` of the budget is spent: linear warm-up, then linear to zero."""
    if done < config.warmup:
        return config.peak * done / config.warmup
    return config.peak * max(0.0, 1 - done) / (1 - config.warmup)
