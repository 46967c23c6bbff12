"""A Stepper runs the whole network one symbol at a time and keeps the state: text is written with it.

    z = table[:, ids]           layer 0: table = W_ih embedding^T + b (4H, V), computed once
    z = W_ih h_below + b        the layers above
    h, c = cell(z + W_hh h, c)  as in lstm.py, without keep and without dropout
    logits = W h_top + b

If the kernel module has compiled loops and no cell is clamped (held at a value), a step is one compiled call, which
allocates no arrays.
"""
import copy
import math
from collections.abc import Mapping
from typing import Any, TypeAlias

import numpy as np

from .. import kernels
from ..config import ConfigError, ModelConfig
from ..kernels import Array, Ids, Writer
from ..params import Parameters
from . import embedding, head, lstm

Clamp: TypeAlias = Mapping[tuple[int, int], float]  # (layer, cell), both counted from 0 -> the value of its c
LARGEST = float(np.finfo(np.float32).max)  # the largest absolute value of a clamp: any model's dtype can hold it


class Stepper:
    """A copy of the parameters, and a state that each step advances: one column of zeros at first.

    h, c (L, H, N) are the state, and a caller may write them between steps. logits (V, N) are those of the last step,
    zeros before the first. Later changes of `params` have no effect.

    precision: of the products, as CharLM's; None: the dtype of the parameters.
    clamp: (layer, cell), both counted from 0 -> a value. After each step, c of this cell is set to the value, whatever
    the gates say, and h = o tanh(c) is computed from it. Raises ConfigError for a cell that the model does not have and
    for a value that is not finite, TypeError for a clamp of another form.
    """

    def __init__(self, params: Parameters, clamp: Clamp | None = None, precision: str | None = None):
        self.kernel, config = kernels.of(params.flat), params.config
        self.precision = precision or str(params.flat.dtype)
        self.clamp = checked(clamp, config)
        self.params = params.like()
        self.params.flat[...] = params.flat
        self.layers = self._layers()
        empty, dtype = self.kernel.activations, params.flat.dtype
        self.table = embedding.table(self.params["embedding.weight"], self.layers[0],
                                     empty((4 * config.hidden, config.vocab_size), 0, dtype))
        zeros = self.kernel.xp.zeros
        h, c = zeros((2, config.layers, config.hidden, 1), dtype)
        self._hold(h, c, zeros((config.vocab_size, 1), dtype))

    def repeat(self, count: int) -> "Stepper":
        """Return another Stepper with the same parameters and `count` copies of each column, side by side."""
        other = copy.copy(self)
        other._hold(*(self.kernel.xp.repeat(a, count, axis=-1) for a in (self.h, self.c, self.logits)))
        return other

    def _hold(self, h: Array, c: Array, logits: Array) -> None:
        """Take copies of these arrays as state and logits. Make the buffers and the compiled step that work on them."""
        empty, dtype, (_, hidden, n) = self.kernel.activations, h.dtype, h.shape
        self.h, self.c, self.logits = empty(h.shape, 1, dtype), empty(h.shape, 1, dtype), empty(logits.shape, 0, dtype)
        self.h[...], self.c[...], self.logits[...] = h, c, logits
        self._gates = empty((4 * hidden, 1, n), 0, dtype)
        self._recurrent = empty((4 * hidden, n), 0, dtype)
        self._cells = list(zip(self.layers, self.h, self.c, strict=True))
        self._path = self.kernel.path("eager", self.precision)
        compiled = not self.clamp and self.kernel.recurrence(self.precision)
        self._compiled = compiled and compiled.stepper(self.layers, self._head(), self.table, self.h, self.c,
                                                       self.logits)

    def __getstate__(self) -> dict[str, Any]:
        """Return the attributes that a copy needs. The others point into these arrays: __setstate__ makes them anew."""
        return {name: vars(self)[name] for name in ("clamp", "precision", "params", "table", "h", "c", "logits")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self.kernel, self.layers = kernels.of(self.h), self._layers()
        self._hold(self.h, self.c, self.logits)

    def _layers(self) -> list[lstm.Weights]:
        """Return each layer's weights."""
        return [lstm.layer(self.params, k) for k in range(self.params.config.layers)]

    def _head(self) -> tuple[Array, Array]:
        """Return the head's weight (V, H) and bias (V,)."""
        return self.params["head.weight"], self.params["head.bias"]

    def writer(self) -> Writer | None:
        """Return an object that writes text on the device in a few kernel launches; None if only `step` can write.

        The writer continues from h, c and logits, and writes them in place. No kernel can clamp cells, so a Stepper
        with a clamp has no writer; the caller tells the user how much slower that is.
        """
        return None if self.clamp else self.kernel.writer(self.layers, self._head(), self.table, self.h, self.c,
                                                          self.logits)

    def step(self, ids: Ids) -> Array:
        """Read one symbol a column, ids (N,) on the host; return the logits (V, N), which the next step overwrites."""
        if self._compiled:
            self._compiled(ids)
        else:
            # On a busy machine, threads wait for each other longer than they work.
            with self.kernel.single_threaded(), self._path.computing():
                self._loop(self.kernel.ids_to_device(ids)[None])
        return self.logits

    def _loop(self, ids: Ids) -> None:
        """Run the step layer by layer for ids (1, N) on the device."""
        k, gates = self.kernel, self._gates[:, 0]
        z = gates  # one array, as in lstm.py
        for layer, (w, h, c) in enumerate(self._cells):
            if layer:
                k.affine(w.w_ih, w.bias, self._cells[layer - 1][1], z)
            else:
                k.gather(self.table, ids, self._gates)
            k.product(w.w_hh, h, self._recurrent)
            k.gates_forward(z, self._recurrent, c, None, gates, c, h)
            for (where, cell), value in self.clamp.items():
                if where == layer:
                    c[cell] = value
                    h[cell] = gates[3 * len(h) + cell] * math.tanh(value)
        head.forward(*self._head(), self._cells[-1][1], self.logits[:, None])


def checked(clamp: Clamp | None, config: ModelConfig) -> Clamp:
    """Return the clamp, or an empty one for None.

    Raises TypeError if it does not map (layer, cell) to a number, ConfigError if the model does not have a cell or a
    value is not finite in float32.
    """
    if not isinstance(clamp, Mapping | None):
        raise TypeError(f"clamp maps (layer, cell) to a number, not {clamp!r:.60}")
    for place, value in (clamp or {}).items():
        if not (isinstance(place, tuple) and len(place) == 2 and all(type(k) is int for k in place)
                and isinstance(value, (int, float)) and not isinstance(value, bool)):
            raise TypeError(f"clamp maps (layer, cell) to a number, not {place!r:.60} to {value!r:.60}")
        layer, cell = place
        if not (0 <= layer < config.layers and 0 <= cell < config.hidden):
            raise ConfigError(f"there is no cell {layer}.{cell}: layers are 0 to {config.layers - 1}, "
                              f"cells 0 to {config.hidden - 1}")
        if not abs(value) <= LARGEST:
            raise ConfigError(f"cell {layer}.{cell} can be held at a finite number, not {value}")
    return clamp or {}
