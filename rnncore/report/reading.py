"""A reading is the record of a model that reads a text: values of cells, surprise, and the symbols that it expected."""
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from ..kernels.arrays import Array, Ids
from ..measure.evaluate import CHUNK
from ..model import CharLM
from ..nn.lstm import Cache
from ..sample import TOO_LARGE

RUNNERS = 5                                     # number of the likeliest symbols that are kept of each prediction
GATES = {"input": 0, "forget": 1, "output": 3}  # gate -> its place among i f g o; g is left out: it is between -1 and 1
LOW, HIGH = 0.1, 0.9                            # a gate below LOW counts as shut, above HIGH as open


@dataclass(frozen=True, eq=False)
class Reading:
    """The record of n symbols: n values of each cell, and n - 1 predictions. Layers and cells are counted from 0."""
    ids: np.ndarray                                # (n,): the symbols
    bits: np.ndarray                               # (n - 1,) float64: -log2 p of ids[1:], as in `rnncore score`
    likely: np.ndarray                             # (n - 1, K): ids of the K likeliest symbols, the likeliest first
    odds: np.ndarray                               # (n - 1, K) float64: their probabilities
    cells: np.ndarray                              # (L, H, n) float32: tanh(c) after each symbol has been read
    saturation: list[dict[str, tuple[float, float]]]  # for each layer: gate -> (share below LOW, share above HIGH)


def read(model: CharLM, ids: Ids) -> Reading:
    """Return the reading of ids (n,), n at least 2, as one sequence from a state of zeros.

    Raises FloatingPointError if cells are not finite.
    """
    ids, config, parts = np.asarray(ids, np.intp), model.config, []
    cells = np.empty((config.layers, config.hidden, len(ids)), np.float32)
    counts = np.zeros((config.layers, 4, 2))
    with model.kernel.single_threaded(), np.errstate(over="ignore", invalid="ignore"):
        for here, targets, loss, logits, caches in chunks(model, ids):
            for layer, cache in enumerate(caches):
                c, gates = (model.kernel.to_host(a)[:, :, 0] for a in (cache.c[:, 1:], cache.gates))
                np.tanh(c, out=cells[layer, :, here], casting="same_kind")
                each = gates.reshape(4, -1)
                counts[layer] += np.stack([(each < LOW).sum(axis=1), (each > HIGH).sum(axis=1)], axis=1)
            if len(targets):
                nats = model.kernel.to_host(loss)[:, 0].astype(np.float64)
                parts.append((nats / np.log(2), *_likeliest(model.kernel.to_host(logits), targets)))
    if not np.isfinite(cells).all():
        raise FloatingPointError(f"the cells hold no numbers: {TOO_LARGE}")
    shares = counts / (config.hidden * len(ids))
    bits, likely, odds = map(np.concatenate, zip(*parts, strict=True))
    return Reading(ids, bits, likely, odds, cells,
                   [{gate: (float(layer[place, 0]), float(layer[place, 1])) for gate, place in GATES.items()}
                    for layer in shares])


def chunks(model: CharLM, ids: Ids) -> Iterator[tuple[slice, Ids, Array, Array, list[Cache]]]:
    """Yield (where, targets (t,), loss, logits, caches) of every CHUNK symbols; the next chunk overwrites the arrays.

    where: the slice of ids. The last symbol is a chunk of its own: no symbol follows it, so its targets are empty.
    """
    work, state, last = model.workspace(CHUNK, 1), None, len(ids) - 1
    for begin, end in pairwise([*range(0, last, CHUNK), last, last + 1]):
        x, targets = ids[begin:end], ids[begin + 1:end + 1]
        # The last symbol stands in as its own target, because `losses` needs one. That loss is not used.
        loss, state = model.losses(x[:, None], (targets if len(targets) else x)[:, None], state, work)
        yield slice(begin, end), targets, loss, work.logits, work.first(len(x))


def _likeliest(logits: np.ndarray, targets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the K likeliest ids (T, K) and their probabilities (T, K), the likeliest first.

    logits (V, >= T, 1) hold p - onehot(target): the loss has turned the logits into their gradient.
    """
    steps = np.arange(len(targets))
    p = logits[:, :len(targets), 0].astype(np.float64)
    p[targets, steps] += 1
    order = np.argsort(-p, axis=0, kind="stable")[:RUNNERS]
    return order.T, p[order, steps].T
