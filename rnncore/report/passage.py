"""A passage is a stretch of text with how much each symbol of it surprised the model, and what it expected instead."""
from dataclasses import dataclass

import numpy as np

CHUNK = 256   # steps at a time: bounds the memory
RUNNERS = 5   # likeliest symbols that are kept of each prediction


@dataclass(frozen=True, eq=False)
class Passage:
    """n symbols of a text and the n - 1 predictions of all but the first."""
    ids: np.ndarray      # (n,) the symbols
    bits: np.ndarray     # (n - 1,) float64: -log2 p of ids[1:], as `rnncore score` has them
    likely: np.ndarray   # (n - 1, K): the K likeliest symbols in their places, the likeliest first
    odds: np.ndarray     # (n - 1, K) float64: how likely they are


def read(model, ids) -> Passage:
    """The passage of ids (n,), n at least 2, the state carried from its first symbol on.

    Raises FloatingPointError where a prediction is no number.
    """
    ids = np.asarray(ids, np.intp)
    work, state, parts = model.workspace(CHUNK, 1), None, []
    with model.kernel.single_threaded(), np.errstate(over="ignore", invalid="ignore"):
        for start in range(0, len(ids) - 1, CHUNK):
            piece = ids[start:start + CHUNK + 1]
            loss, state = model.losses(piece[:-1, None], piece[1:, None], state, work)
            nats = model.kernel.to_host(loss)[:, 0].astype(np.float64)
            parts.append((nats / np.log(2), *_likeliest(model.kernel.to_host(work.logits), piece[1:])))
    bits, likely, odds = map(np.concatenate, zip(*parts, strict=True))
    if not np.isfinite(bits).all():
        raise FloatingPointError("the loss is no number: the model's weights are too large")
    return Passage(ids, bits, likely, odds)


def _likeliest(logits: np.ndarray, targets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(ids (T, K), odds (T, K)) from logits (V, >= T, 1), which the loss has left as p - onehot(target)."""
    steps = np.arange(len(targets))
    p = logits[:, :len(targets), 0].astype(np.float64)
    p[targets, steps] += 1
    order = np.argsort(-p, axis=0, kind="stable")[:RUNNERS]
    return order.T, p[order, steps].T
