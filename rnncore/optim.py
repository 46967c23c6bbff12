"""An optimiser updates the flat parameter buffer from the flat gradient buffer; the schedule says at which rate."""
from math import sqrt
from typing import NamedTuple

from . import kernels
from .config import TrainConfig
from .kernels.arrays import Array, Number
from .params import Each, Parameters

NEWTON_SCHULZ = 3.4445, -4.775, 2.0315  # a quintic that takes singular values in (0, 1] to about 1 in five steps
NEWTON_SCHULZ_STEPS = 5


class Pace(NamedTuple):
    """The learning rate of a step, and with Adam's corrections of its two moments' bias (optim.Adam.pace)."""
    rate: Number
    size: Number
    correction: Number


class Adam:
    """Adam (Kingma & Ba 2015) with bias correction; the other optimisers are made of it.

    moments: what resuming needs, by name. workspaces: buffers that are made once and kept, by the shape of a matrix. It
    is None at first, so that each update makes its own, and set to {} to keep them.
    """

    BETA2 = 0.99  # where the config leaves it open

    def __init__(self, params: Parameters, config: TrainConfig, each: Each = map):
        self.config, self.each = config, each
        self.workspaces: dict[tuple[int, int], Workspace] | None = None
        self.beta2 = self.BETA2 if config.beta2 is None else config.beta2
        zeros = kernels.of(params.flat).xp.zeros_like
        self.moments = {"m": zeros(params.flat), "v": zeros(params.flat)}

    def pace(self, rate: float, step: int) -> Pace:
        """The numbers of a step that depend on its place in the run; step counts from 1."""
        return Pace(rate, rate / (1 - self.config.beta1 ** step), (1 - self.beta2 ** step) ** -0.5)

    def update(self, params: Parameters, grads: Parameters, pace: Pace, scale: Number) -> None:
        """One step, in place: the gradient is scale * grads. The numbers may be arrays () on the device."""
        self.adam(slice(None), params, grads, pace, scale)

    def adam(self, part: slice, params: Parameters, grads: Parameters, pace: Pace, scale: Number) -> None:
        """The step on one part of the flat buffers."""
        c, m, v = self.config, self.moments["m"][part], self.moments["v"][part]
        kernels.of(m).adam(params.flat[part], grads.flat[part], m, v, pace.size, pace.correction, c.beta1, self.beta2,
                           c.eps, scale)


class Muon(Adam):
    """Muon (K. Jordan et al. 2024) on the LSTM's weight matrices, Adam on all else.

    The momentum of each of the four gate blocks of W_ih and W_hh is made orthogonal, so that every direction of a block
    moves by as much: W -= rate (0.2 sqrt(larger side) U V^T + decay W) where U S V^T is the block's Nesterov momentum.
    """
    BETA2 = 0.95

    def __init__(self, params: Parameters, config: TrainConfig, each: Each = map):
        super().__init__(params, config, each)
        matrices = {name for name, view in params.items() if name.startswith("lstm.") and view.ndim == 2}
        self.groups: dict[tuple[int, int], list[str]] = {}  # by shape: blocks of one are made orthogonal together
        for name in sorted(matrices):
            self.groups.setdefault(params[name].shape, []).append(name)
        self.rest = [part for name, part in params.parts.items() if name not in matrices]
        self.momentum = type(params)(params.config, self.moments["m"])

    def update(self, params: Parameters, grads: Parameters, pace: Pace, scale: Number) -> None:
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
        """The workspace in which the matrices (R, C) of one group are made orthogonal."""
        made = {} if self.workspaces is None else self.workspaces
        if shape not in made:
            made[shape] = Workspace.of(blocks, shape[0] // 4, shape[1], like)
        return made[shape]


OPTIMIZERS: dict[str, type[Adam]] = {"adam": Adam, "muon": Muon}


class Workspace(NamedTuple):
    """What `orthogonal` works on: blocks (B, R, C), and with r the smaller of R and C, arrays for its products."""
    blocks: Array   # (B, R, C)
    product: Array  # (B, R, C)
    square: Array   # (B, r, r)
    fourth: Array   # (B, r, r)
    norm: Array     # (B,)

    @classmethod
    def of(cls, count: int, rows: int, columns: int, like: Array) -> "Workspace":
        """For so many blocks (R, C), of the dtype and on the device of an array."""
        shapes, r = [(rows, columns)] * 2, min(rows, columns)
        return cls(*(kernels.of(like).xp.empty((count, *shape), like.dtype) for shape in [*shapes, (r, r), (r, r), ()]))

    def shares(self, count: int) -> list["Workspace"]:
        """The blocks shared out, as views."""
        edges = [len(self.blocks) * k // count for k in range(count + 1)]
        return [Workspace(*(array[a:b] for array in self)) for a, b in zip(edges, edges[1:], strict=False) if a < b]


def orthogonal(work: Workspace) -> None:
    """Each of work.blocks = U S V^T becomes U V^T, about: its singular values come out between 0.7 and 1.2.

    Newton-Schulz with a quintic: X <- a X + (b X X^T + c (X X^T)^2) X, on the smaller side, products alone.
    """
    blocks, product, square, fourth, norm = work
    k, (a, b, c), tall = kernels.of(blocks), NEWTON_SCHULZ, blocks.shape[1] > blocks.shape[2]
    k.xp.multiply(blocks, blocks, out=product)
    k.row_sums(product.reshape(len(norm), -1), norm)
    k.xp.sqrt(norm, out=norm)
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
    """Take step `step`, from 1, at a rate, in place: the gradient, of that global norm, is clipped to `clip`."""
    optimizer.update(params, grads, optimizer.pace(rate, step), clip_scale(norm, clip))


def global_norm(grads: Parameters) -> float:
    """The Euclidean norm over all gradients together."""
    flat = grads.flat
    return sqrt(float(kernels.of(flat).xp.vdot(flat, flat)))


def clip_scale(norm: float, clip: float) -> float:
    """What to multiply the gradient with so that its norm is at most clip (Pascanu et al. 2013); clip 0: no bound."""
    return clip / norm if clip and norm > clip else 1.0


def rate(config: TrainConfig, done: float) -> float:
    """The learning rate when a share `done` of the budget is spent: a linear warm-up, then a straight line to zero."""
    if done < config.warmup:
        return config.peak * done / config.warmup
    return config.peak * max(0.0, 1 - done) / (1 - config.warmup)
