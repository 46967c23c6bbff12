"""An optimiser updates the flat parameter buffer from the flat gradient buffer; the schedule says at which rate."""
from math import sqrt

from . import kernels
from .config import TrainConfig

NEWTON_SCHULZ = 3.4445, -4.775, 2.0315  # a quintic that takes singular values in (0, 1] to about 1 in five steps
NEWTON_SCHULZ_STEPS = 5


class Adam:
    """Adam (Kingma & Ba 2015) with bias correction; `moments` are what resuming needs."""

    BETA2 = 0.99  # where the config leaves it open

    def __init__(self, params, config: TrainConfig, each=map):
        """each(function, items) -> results may run on several threads, as CharLM.each does."""
        self.config, self.each = config, each
        self.beta2 = self.BETA2 if config.beta2 is None else config.beta2
        zeros = kernels.of(params.flat).xp.zeros_like
        self.moments = {"m": zeros(params.flat), "v": zeros(params.flat)}

    def update(self, params, grads, rate: float, scale: float, step: int) -> None:
        """One step, in place: the gradient is scale * grads; step counts from 1."""
        self.adam(slice(None), params, grads, rate, scale, step)

    def adam(self, part: slice, params, grads, rate: float, scale: float, step: int) -> None:
        """The step on one part of the flat buffers."""
        c, m, v = self.config, self.moments["m"][part], self.moments["v"][part]
        kernels.of(m).adam(params.flat[part], grads.flat[part], m, v, rate, c.beta1, self.beta2, c.eps, step, scale)


class Muon(Adam):
    """Muon (K. Jordan et al. 2024) on the LSTM's weight matrices, Adam on all else.

    The momentum of each of the four gate blocks of W_ih and W_hh is made orthogonal, so that every direction of a block
    moves by as much: W -= rate (0.2 sqrt(larger side) U V^T + decay W) where U S V^T is the block's Nesterov momentum.
    """
    BETA2 = 0.95

    def __init__(self, params, config: TrainConfig, each=map):
        super().__init__(params, config, each)
        matrices = {name for name, view in params.items() if name.startswith("lstm.") and view.ndim == 2}
        self.groups: dict[tuple, list[str]] = {}  # names by shape: blocks of one shape are made orthogonal together
        for name in sorted(matrices):
            self.groups.setdefault(params[name].shape, []).append(name)
        self.rest = [part for name, part in params.parts().items() if name not in matrices]
        self.momentum = type(params)(params.config, self.moments["m"])

    def update(self, params, grads, rate: float, scale: float, step: int) -> None:
        for part in self.rest:
            self.adam(part, params, grads, rate, scale, step)
        k, mu = kernels.of(params.flat), self.config.momentum
        xp = k.xp
        for (rows, columns), names in self.groups.items():
            blocks = []
            for name in names:
                momentum, gradient = self.momentum[name], grads[name] * scale
                momentum *= mu
                momentum += (1 - mu) * gradient
                blocks.append(mu * momentum + (1 - mu) * gradient)  # Nesterov: a look ahead
            side = rows // 4
            size = 0.2 * sqrt(max(side, columns)) * rate
            shares = xp.array_split(xp.stack(blocks).reshape(-1, side, columns), k.cores())
            changes = xp.concatenate(list(self.each(lambda share: orthogonal(share, xp), shares)))
            for name, change in zip(names, changes.reshape(-1, rows, columns), strict=True):
                weight = params[name]
                weight *= 1 - rate * self.config.decay
                weight -= size * change


OPTIMIZERS = {"adam": Adam, "muon": Muon}


def orthogonal(blocks, xp):
    """U V^T of each block (B, R, C) = U S V^T, about: its singular values come out between 0.7 and 1.2.

    Newton-Schulz with a quintic: X <- a X + (b X X^T + c (X X^T)^2) X, on the smaller side, products alone.
    """
    a, b, c = NEWTON_SCHULZ
    tall = blocks.shape[1] > blocks.shape[2]
    x = blocks.swapaxes(1, 2) if tall else blocks
    x = x / (xp.sqrt((x * x).sum(axis=(1, 2), keepdims=True)) + 1e-7)
    for _ in range(NEWTON_SCHULZ_STEPS):
        square = xp.matmul(x, x.swapaxes(1, 2))
        x = a * x + xp.matmul(b * square + c * xp.matmul(square, square), x)
    return x.swapaxes(1, 2) if tall else x


def global_norm(grads) -> float:
    """The Euclidean norm over all gradients together."""
    flat = grads.flat
    return sqrt(float(kernels.of(flat).xp.vdot(flat, flat)))


def clip_scale(norm: float, clip: float) -> float:
    """What to multiply the gradient with so that its norm is at most clip (Pascanu et al. 2013); clip 0: no bound."""
    return clip / norm if clip and norm > clip else 1.0


def rate(config: TrainConfig, done: float) -> float:
    """The learning rate when a share `done` of the budget is spent: a linear warm-up, then a straight line to zero."""
    if done < config.warmup:
        return config.lr * done / config.warmup
    return config.lr * max(0.0, 1 - done) / (1 - config.warmup)
