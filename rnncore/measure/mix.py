"""A model's loss after its probabilities are mixed with those of n-grams that are counted in its training text.

    p = (1 - weight) p_model + weight p_counted

A model of a few characters a parameter has not learned rare words by heart; counted n-grams have. The weight is one
fixed number, which must not be chosen on the text that is scored.
"""
from collections.abc import Iterable, Iterator

import numpy as np

from ..config import MIX_WEIGHT
from . import ngram

ORDER = 8      # characters of context that are counted, at most


class Mixture:
    """The mixed losses of a text: iterate over it once.

    parts: arrays (T,) of the model's losses -log p_model, in nats, of the symbols of ids (n,) after the first; train
    (m,): ids of the training text, of which the first ngram.MOST are counted. After the iteration `alone` is the mean
    of the model's own losses. Raises ValueError at the call if an id is not in 0..vocab_size-1, or if weight is not in
    [0, 1).
    """

    def __init__(self, parts: Iterable[np.ndarray], train: np.ndarray, ids: np.ndarray, vocab_size: int,
                 weight: float = MIX_WEIGHT, order: int = ORDER):
        if not 0 <= weight < 1:
            raise ValueError(f"weight is at least 0 and below 1, not {weight}")
        self.parts, self.weight, self.order = parts, weight, order
        self.counted = min(len(train), ngram.MOST)
        self.p = ngram.predicted(train, ids, vocab_size, order)
        self.total, self.done = 0.0, 0

    @property
    def alone(self) -> float:
        """Return the mean of the model's own losses so far, in nats per character."""
        return self.total / max(1, self.done)

    def __iter__(self) -> Iterator[np.ndarray]:
        """Yield the mixed losses (T,), in nats, of the parts in their order."""
        for part in self.parts:
            counted = self.p[self.done + 1:self.done + 1 + len(part)]
            self.total, self.done = self.total + float(part.sum()), self.done + len(part)
            with np.errstate(divide="ignore"):  # the logarithm of a weight of 0 is minus infinity
                counts = np.log(self.weight * counted)
            yield -np.logaddexp(np.log1p(-self.weight) - part, counts)
