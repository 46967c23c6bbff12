"""An optimiser updates the flat parameter buffer from the flat gradient buffer; the schedule says at which rate."""
from math import sqrt

from . import kernels
from .config import TrainConfig


class Adam:
    """Adam (Kingma & Ba 2015) with bias correction; `moments` are what resuming needs."""

    def __init__(self, params, config: TrainConfig):
        self.config = config
        zeros = kernels.of(params.flat).xp.zeros_like
        self.moments = {"m": zeros(params.flat), "v": zeros(params.flat)}

    def update(self, params, grads, rate: float, scale: float, step: int) -> None:
        """One step, in place: the gradient is scale * grads; step counts from 1."""
        c, m, v = self.config, self.moments["m"], self.moments["v"]
        kernels.of(m).adam(params.flat, grads.flat, m, v, rate, c.beta1, c.beta2, c.eps, step, scale)


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
