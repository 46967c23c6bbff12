"""Dropout after a layer is a product with a mask that is a pure function of (seed, step, layer, position).

Inverted dropout (Srivastava et al. 2014): a unit is zeroed at probability `rate`, the others are scaled by
1 / (1 - rate).
"""
from typing import NamedTuple

from . import kernels
from .random import Purpose, counter, key


class Dropout(NamedTuple):
    """The rate, and what makes this step's masks its own."""
    rate: float
    seed: int
    step: int


def fill_mask(mask, dropout: Dropout, layer: int, first: int, columns: int) -> None:
    """Fill mask (T, H, N), the columns first .. first + N of a batch of `columns`."""
    kernels.of(mask).dropout_mask(mask, dropout.rate, counter(Purpose.DROPOUT, dropout.step, layer), key(dropout.seed),
                                  first, columns)
