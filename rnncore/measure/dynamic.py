"""Dynamic evaluation: score a text while the model goes on learning from it (Krause et al. 2018, arXiv 1709.07432).

    p <- p - rate dL/dp + decay (p0 - p)        after each segment; L: its mean loss, p0: the trained parameters

The losses of a segment are computed before the model learns from that segment. Gradients stop at the beginning of the
segment. The state is carried through the whole text.
"""
from collections.abc import Iterator
from math import isfinite

import numpy as np

from .. import arguments
from ..config import DynamicConfig
from ..kernels.arrays import Ids
from ..model import CharLM
from ..nn import stack


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
        flat, state = model.params.flat, None
        pull = config.decay * flat  # decay p0
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
                # The update of the module's formula as flat = (1 - decay) flat + (pull - rate grads): no array is made.
                grads.flat *= -config.rate
                grads.flat += pull
                flat *= 1 - config.decay
                flat += grads.flat
            found, state = model.kernel.to_host(work.loss[:steps])[:, 0].astype(np.float64), work.state(steps)
            if not isfinite(sum(found.tolist())):
                raise FloatingPointError(f"dynamic evaluation diverged: after {start:,} characters the loss is no "
                                         f"number; lower --rate, which is {config.rate:g}")
            yield found
