"""The optimisers, Adam and Muon, the clipping of the gradient, and the learning-rate schedule.

An optimiser updates the flat buffer of parameters from the flat buffer of gradients.
"""
from math import sqrt
from typing import NamedTuple

from . import kernels
from .config import TrainConfig
from .kernels.arrays import Array, Number
from .params import Each, Parameters

NEWTON_SCHULZ = 3.4445, -4.775, 2.0315  # coefficients a, b, c of a quintic, from Muon (K. Jordan et al. 2024)
NEWTON_SCHULZ_STEPS = 5  # steps of the quintic that take singular values in (0, 1] to about 1


class Pace(NamedTuple):
    """The numbers of an update that vary by step. Each is a float, or an array () on the device."""
    rate: Number        # the learning rate
    size: Number        # Adam's step size: rate / (1 - beta1^step), which corrects the bias of the first moment
    correction: Number  # 1 / sqrt(1 - beta2^step), which corrects the bias of the second moment


class Adam:
    """Adam (Kingma & Ba 2015) with bias correction. Muon is built on it.

    each(function, items): map, or a function that uses several threads. moments: name -> array (P,), which a resumed
    run needs. workspaces: shape of a matrix -> Workspace. It is None at first, and each update makes its own
    workspaces; set it to {} to keep them from step to step.
    """

    BETA2 = 0.99  # used if the config has None

    def __init__(self, params: Parameters, config: TrainConfig, each: Each = map):
        self.config, self.each = config, each
        self.workspaces: dict[tuple[int, int], Workspace] | None = None
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
        matrices = {name for name, view in params.items() if name.startswith("lstm.") and view.ndim == 2}
        self.groups: dict[tuple[int, int], list[str]] = {}  # shape -> names, made orthogonal together
        for name in sorted(matrices):
            self.groups.setdefault(params[name].shape, []).append(name)
        self.rest = [part for name, part in params.parts.items() if name not in matrices]
        self.momentum = type(params)(params.config, self.moments["m"])

    def update(self, params: Parameters, grads: Parameters, pace: Pace, scale: Number) -> None:
        """Update params and the moments in place by one step with the gradient scale * grads."""
        for part in self.rest:
            self.adam(part, params, grads, pace, scale)
        k, c = kernels.of(params.flat), self.config
        for (rows, columns), names in self.groups.items():
            side = rows // 4
            work = self._workspace((rows, columns), len(names) * 4, params.flat)
            for name, block in zip(names, work.blocks.reshape(-1, rows, columns), strict=True):
                k.muon_momentum(self.momentum[name], grads[name], scale, c.momentum, block)
            list(self.each(orthogonal, work.shares(k.cores())))
            for name, change in zip(names, work.blocks.reshape(-1, rows, columns), strict=True):
                k.muon_apply(params[name], change, pace.rate, 0.2 * sqrt(max(side, columns)), c.decay, scale)

    def _workspace(self, shape: tuple[int, int], blocks: int, like: Array) -> "Workspace":
        """Return the workspace for `blocks` gate blocks of matrices of this shape, 4 blocks a matrix."""
        made = {} if self.workspaces is None else self.workspaces
        if shape not in made:
            made[shape] = Workspace.of(blocks, shape[0] // 4, shape[1], like)
        return made[shape]


OPTIMIZERS: dict[str, type[Adam]] = {"adam": Adam, "muon": Muon}


class Workspace(NamedTuple):
    """The arrays of `orthogonal` for B blocks (R, C). r is the smaller of R and C."""
    blocks: Array   # (B, R, C): the blocks themselves
    product: Array  # (B, R, C): the last product of a step
    square: Array   # (B, r, r): X X^T
    fourth: Array   # (B, r, r): (X X^T)^2
    norm: Array     # (B,): the Frobenius norm of each block

    @classmethod
    def of(cls, count: int, rows: int, columns: int, like: Array) -> "Workspace":
        """Return a workspace for `count` blocks (rows, columns), with the dtype and the device of the array `like`."""
        shapes, r = [(rows, columns)] * 2, min(rows, columns)
        return cls(*(kernels.of(like).xp.empty((count, *shape), like.dtype) for shape in [*shapes, (r, r), (r, r), ()]))

    def shares(self, count: int) -> list["Workspace"]:
        """Return views that split the blocks into `count` shares; a share without a block is left out."""
        edges = [len(self.blocks) * k // count for k in range(count + 1)]
        return [Workspace(*(array[a:b] for array in self)) for a, b in zip(edges, edges[1:], strict=False) if a < b]


def orthogonal(work: Workspace) -> None:
    """Turn each of work.blocks, U S V^T, into about U V^T, in place. Its singular values end between 0.7 and 1.2.

    The method is Newton-Schulz with a quintic: X <- a X + (b X X^T + c (X X^T)^2) X. A block with more rows than
    columns is transposed, so that X X^T is (r, r).
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
    for _ in range(NEWTON_SCHULZ_STEPS):
        k.product(x, x.swapaxes(1, 2), square)
        k.product(square, square, fourth)
        square *= b
        fourth *= c
        square += fourth
        k.product(square, x, y)
        x *= a
        x += y


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
