"""Dropout is a product with a mask that is a pure function of (seed, step, layer, position).

Of units: what a layer hands on, at every step anew (Srivastava et al. 2014) or with one mask for all steps of a window
(variational dropout; Gal & Ghahramani 2016). Of weights: the entries of W_hh, one mask a training step for all
sequences (weight-drop; Merity et al. 2018). A dropped entry is zero, the others are scaled by 1 / (1 - rate).
"""
from collections.abc import Mapping
from typing import NamedTuple

from .. import kernels
from ..kernels.arrays import Array
from ..params import Each, Parameters
from ..random import Purpose, Step, counter, key


class Dropout(NamedTuple):
    """The rates, of units and of the entries of W_hh, and what makes this step's masks its own."""
    rate: float
    seed: int
    step: Step
    variational: bool = False
    weight_rate: float = 0.0

    def rows(self, steps: int) -> int:
        """How many masks a layer needs for `steps`."""
        return 1 if self.variational else steps


def fill_mask(mask: Array, dropout: Dropout, layer: int, first: int, columns: int) -> None:
    """Fill mask (H, T or 1, N), the columns first .. first + N of a batch of `columns`."""
    kernels.of(mask).dropout_mask(mask, dropout.rate, counter(Purpose.DROPOUT, dropout.step, layer), key(dropout.seed),
                                  first, columns)


class WeightDrop:
    """Weight-drop: `forward` gives the parameters with every W_hh masked, `backward` masks the gradients of those."""

    def __init__(self, params: Parameters):
        empty_like = kernels.of(params.flat).xp.empty_like
        self.masks = {name: empty_like(view) for name, view in params.items() if "weight_hh" in name}
        self.weights = {**params, **{name: empty_like(mask) for name, mask in self.masks.items()}}

    def forward(self, params: Parameters, dropout: Dropout, each: Each = map) -> Mapping[str, Array]:
        """Names -> parameters, of which every W_hh is a masked copy; each(function, items) may use several threads."""
        def drop(item: tuple[int, tuple[str, Array]]) -> None:
            layer, (name, mask) = item
            kernels.of(mask).dropout_mask(mask[:, None], dropout.weight_rate,
                                          counter(Purpose.WEIGHT_DROP, dropout.step, layer), key(dropout.seed),
                                          0, mask.shape[1])
            kernels.of(mask).xp.multiply(params[name], mask, out=self.weights[name])

        list(each(drop, enumerate(self.masks.items())))
        return self.weights

    def backward(self, grads: Parameters) -> None:
        """Turn the gradients at the masked W_hh into those at the parameters, in place."""
        for name, mask in self.masks.items():
            gradient = grads[name]
            gradient *= mask
