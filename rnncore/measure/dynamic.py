"""Dynamic evaluation: score a text while the model goes on learning from it.

After each segment the parameters p take one step with the gradient g of its mean loss, and go back a little towards the
trained parameters p0. There are two rules:

    sgd    p <- p - rate g + decay (p0 - p)                                    Krause et al. 2018, arXiv 1709.07432
    rms    p <- p - rate g / (s + mean(s) / 10) + decay s / mean(s) (p0 - p)   Krause et al. 2019, arXiv 1904.08378

s is the root of the mean of g^2 over all segments so far, for each parameter, and mean(s) its mean over the parameters.
So a parameter whose gradients are usually small moves as fast as the others. decay s / mean(s) is at most 1/2. (The
paper takes the mean over the training text, which is not always at hand.)

The losses of a segment are computed before the model learns from that segment. Gradients stop at the beginning of the
segment. The state is carried through the whole text.
"""
from collections.abc import Iterator
from math import isfinite

import numpy as np

from .. import arguments, kernels
from ..config import DynamicConfig
from ..kernels.arrays import Array, Ids
from ..model import CharLM
from ..nn import stack

LEAST = 0.1  # of the mean scale, which is added to each scale in the rule rms, so that a step stays bounded


def losses(model: CharLM, ids: Ids, config: DynamicConfig | None = None) -> Iterator[np.ndarray]:
    """Yield one float64 array (T,) per segment: the loss -log p, in nats, of each symbol of ids (n,) after the first.

    ids: as model.vocab.encode returns them. config: None for the defaults. The model's parameters change between two
    arrays. They return to their old values, to the bit, when the iterator ends, is closed or raises.

    Raises TypeError at the call if config has another type. Raises ValueError at the call if ids is not an array (n,)
    of whole numbers, and later at the first number that is not an id of the model. Raises RuntimeError at the first
    array if another iterator is changing this model's parameters (CharLM.moving). Raises FloatingPointError if a loss
    is not finite.
    """
    if not isinstance(config, DynamicConfig | None):
        raise TypeError(f"config is a DynamicConfig or None, not {config!r}")
    return _losses(model, arguments.symbols("ids", ids), config or DynamicConfig())


def _losses(model: CharLM, ids: Ids, config: DynamicConfig) -> Iterator[np.ndarray]:
    # A generator of its own: `losses` then checks its arguments at the call, not at the first array.
    predictions = len(ids) - 1
    with model.moving():
        state, (rule, rate) = None, config.chosen()
        learn = (Rms if rule == "rms" else Sgd)(model.params.flat, rate, config.decay)
        work = stack.Workspace(model.params, min(config.segment, max(1, predictions)), 1, path=model.device_path)
        grads = model.params.like()
        for start in range(0, predictions, config.segment):
            piece = model.ids(np.asarray(ids[start:start + config.segment + 1])[:, None], name="ids")
            steps, x = len(piece) - 1, piece[:-1]
            work.begin(state)
            with np.errstate(over="ignore", invalid="ignore"):  # the check below finds a loss that is not finite
                run = stack.Pass(x, work, model.keep(x), targets=piece[1:])
                with model.computing():
                    stack.gradients(model.params, grads, [run], over=steps)
                learn.step(grads.flat)
            found, state = model.kernel.to_host(work.loss[:steps])[:, 0].astype(np.float64), work.state(steps)
            if not isfinite(sum(found.tolist())):
                raise FloatingPointError(f"dynamic evaluation diverged: after {start:,} characters the loss is no "
                                         f"number; lower --rate, which is {rate:g}")
            yield found


class Sgd:
    """The rule sgd on a buffer of parameters (P,), which holds the trained parameters at first."""

    def __init__(self, params: Array, rate: float, decay: float):
        self.params, self.rate, self.decay = params, rate, decay
        self.pull = decay * params  # decay p0

    def step(self, grads: Array) -> None:
        """Take a step, in place. grads (P,) is overwritten."""
        # The formula as p = (1 - decay) p + (pull - rate g): no array is made.
        grads *= -self.rate
        grads += self.pull
        self.params *= 1 - self.decay
        self.params += grads


class Rms:
    """The rule rms; arguments as in Sgd."""

    def __init__(self, params: Array, rate: float, decay: float):
        self.params, self.rate, self.decay, self.xp = params, rate, decay, kernels.of(params).xp
        self.trained, self.squares, self.steps = params.copy(), self.xp.zeros_like(params), 0
        self.scale, self.change = self.xp.empty_like(params), self.xp.empty_like(params)

    def step(self, grads: Array) -> None:
        """Take a step, in place. grads (P,) is overwritten."""
        xp, scale, change = self.xp, self.scale, self.change
        self.steps += 1
        xp.multiply(grads, grads, out=change)
        change -= self.squares
        change /= self.steps
        self.squares += change
        xp.sqrt(self.squares, out=scale)
        mean = scale.mean() + 1e-18  # squares below float32's smallest number are 0: nothing is divided by them alone
        xp.subtract(self.trained, self.params, out=change)
        change *= xp.minimum(self.decay / mean * scale, 0.5)
        scale += LEAST * mean
        grads /= scale
        grads *= -self.rate
        self.params += grads
        self.params += change
