"""Dropout is a product with a mask, and the mask is a pure function of (seed, step, layer, position).

A dropped entry is zero; the others are scaled by 1 / (1 - rate). There are three kinds:

    of units       a layer's outputs, with a new mask at every time step (Srivastava et al. 2014)
    variational    a layer's outputs, with one mask for all time steps of a window (Gal & Ghahramani 2016)
    weight drop    the entries of W_hh, with one mask a training step for all sequences (Merity et al. 2018)
"""
from collections.abc import Mapping
from typing import NamedTuple

from .. import kernels
from ..kernels.arrays import Array
from ..params import Each, Parameters
from ..random import Purpose, Step, counter, key


class Dropout(NamedTuple):
    """The rates of dropout, and the seed and the number of the training step, which determine its masks.

    rate: probability that a unit is dropped; variational: one mask of units for all time steps of a window;
    weight_rate: probability that an entry of W_hh is dropped.
    """
    rate: float
    seed: int
    step: Step
    variational: bool = False
    weight_rate: float = 0.0

    def rows(self, steps: int) -> int:
        """Return the number of masks of units that a layer needs for `steps` time steps."""
        return 1 if self.variational else steps


def fill_mask(mask: Array, dropout: Dropout, layer: int, first: int, columns: int) -> None:
    """Fill a layer's mask of units (H, T or 1, N) with 0 and 1 / (1 - rate).

    The N columns of the mask are the columns first .. first + N of a batch of `columns`. So the mask of a batch is the
    same, however many shares the batch is cut into.
    """
    kernels.of(mask).dropout_mask(mask, dropout.rate, counter(Purpose.DROPOUT, dropout.step, layer), key(dropout.seed),
                                  first, columns)


class WeightDrop:
    """Weight drop: `forward` returns the parameters with every W_hh masked, `backward` masks the gradients of W_hh.

    The masks and the masked copies (4H, H) are made once for `params`; each forward overwrites them.
    """

    def __init__(self, params: Parameters):
        empty_like = kernels.of(params.flat).xp.empty_like
        self.masks = {name: empty_like(view) for name, view in params.items() if "weight_hh" in name}
        self.weights = {**params, **{name: empty_like(mask) for name, mask in self.masks.items()}}

    def forward(self, params: Parameters, dropout: Dropout, each: Each = map) -> Mapping[str, Array]:
        """Return name -> parameter, where every W_hh is a masked copy, which the next call overwrites.

        each(function, items) calls the function for each item; it may use several threads.
        """
        def drop(item: tuple[int, tuple[str, Array]]) -> None:
            layer, (name, mask) = item
            kernels.of(mask).dropout_mask(mask[:, None], dropout.weight_rate,
                                          counter(Purpose.WEIGHT_DROP, dropout.step, layer), key(dropout.seed),
                                          0, mask.shape[1])
            kernels.of(mask).xp.multiply(params[name], mask, out=self.weights[name])

        list(each(drop, enumerate(self.masks.items())))
        return self.weights

    def backward(self, grads: Parameters) -> None:
        """Turn the gradients with respect to the masked W_hh into gradients with respect to W_hh, in place."""
        for name, mask in self.masks.items():
            gradient = grads[name]
            gradient *= mask
