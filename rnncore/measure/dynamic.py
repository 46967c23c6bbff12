"""Dynamic evaluation scores a text while the model goes on learning from it (Krause et al. 2018, arXiv 1709.07432).

    p <- p - rate dL/dp + decay (p0 - p)        after each segment: L its mean loss, p0 the trained parameters

Every loss is counted before the model has learnt from the segment that it stands in. Gradients reach back to the
segment's beginning, the state is carried over all of the text.
"""
from collections.abc import Iterator
from math import isfinite

import numpy as np

from .. import arguments
from ..config import DynamicConfig
from ..kernels.arrays import Array, Ids
from ..model import CharLM
from ..nn import State, stack
from ..params import Parameters


def losses(model: CharLM, ids: Ids, config: DynamicConfig | None = None) -> Iterator[np.ndarray]:
    """Yield (T,) float64 arrays, one a segment: -log p of each symbol of ids (n,) after the first.

    ids: of model.vocab.encode. The model's parameters move from one array to the next and are put back, to the bit,
    when the iterator ends, is closed or raises. config: None for the defaults. Raises ValueError at once for what is no
    array (n,) of whole numbers, later for one that is no id; RuntimeError, at the first array, while another iterator
    moves the model's parameters (CharLM.moving); FloatingPointError for a loss that is not finite.
    """
    if not isinstance(config, DynamicConfig | None):
        raise TypeError(f"config is a DynamicConfig or None, not {config!r}")
    return _losses(model, arguments.symbols("ids", ids), config or DynamicConfig())


def _losses(model: CharLM, ids: Ids, config: DynamicConfig) -> Iterator[np.ndarray]:
    predictions = len(ids) - 1
    with model.moving():
        pull, state = config.decay * model.params.flat, None
        work = stack.Workspace(model.params, min(config.segment, max(1, predictions)), 1)
        grads = model.params.like()
        for start in range(0, predictions, config.segment):
            piece = model.ids(np.asarray(ids[start:start + config.segment + 1])[:, None], name="ids")
            found, state = _step(model, piece, state, config, pull, work, grads)
            if not isfinite(sum(found.tolist())):
                raise FloatingPointError(f"dynamic evaluation diverged: after {start:,} characters the loss is no "
                                         f"number; lower --rate, which is {config.rate:g}")
            yield found


def _step(model: CharLM, piece: Ids, state: State | None, config: DynamicConfig, pull: Array, work: stack.Workspace,
          grads: Parameters) -> tuple[np.ndarray, State]:
    """Losses (T,) on the host for ids piece (T + 1, 1), and the state after them; pull (P,) is decay p0."""
    flat, steps, x = model.params.flat, len(piece) - 1, piece[:-1]
    work.begin(state)
    with np.errstate(over="ignore", invalid="ignore"):  # the caller looks at the loss
        stack.gradients(model.params, grads, [stack.Pass(x, work, model.keep(x), targets=piece[1:])], over=steps)
        grads.flat *= -config.rate
        grads.flat += pull
        flat *= 1 - config.decay
        flat += grads.flat
    return model.kernel.to_host(work.loss[:steps])[:, 0].astype(np.float64), work.state(steps)
