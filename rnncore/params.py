"""The parameters of a model: one flat buffer, and a read-only mapping of names to writable views of it.

So clipping, an optimiser, saving and a sum over threads are each one operation on one array. Only `shapes` knows the
layout. Names, shapes and gate order (i f g o) are PyTorch's, but each layer has one bias.
"""
from collections.abc import Callable, Iterable, Iterator, Mapping
from math import prod, sqrt
from typing import Any, TypeAlias

import numpy as np

from . import kernels
from .config import ModelConfig
from .kernels import Array, Kernel
from .random import Purpose, normal, uniform

Tensors: TypeAlias = dict[str, np.ndarray]  # PyTorch's name, or another name in a model file -> tensor
Each: TypeAlias = Callable[[Callable[[Any], Any], Iterable[Any]], Iterable[Any]]  # map, or CharLM.each


def shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """Return the name and the shape of each parameter, in the order of the flat buffer."""
    layout: dict[str, tuple[int, ...]] = {"embedding.weight": (config.vocab_size, config.embed)}
    for layer in range(config.layers):
        layout[f"lstm.weight_ih_l{layer}"] = (4 * config.hidden, config.hidden if layer else config.embed)
        layout[f"lstm.weight_hh_l{layer}"] = (4 * config.hidden, config.hidden)
        layout[f"lstm.bias_ih_l{layer}"] = (4 * config.hidden,)
    layout["head.weight"] = (config.vocab_size, config.hidden)
    layout["head.bias"] = (config.vocab_size,)
    return layout


class Parameters(Mapping[str, Array]):
    """A mapping of names to views of one flat buffer `flat` (P,). Write into a view: `p[name][...] = value`.

    parts: name -> the slice of `flat`. Raises TypeError if flat is not a contiguous array of floats, ValueError if its
    shape is not (count(config),).
    """

    def __init__(self, config: ModelConfig, flat: Array):
        if not isinstance(config, ModelConfig):
            raise TypeError(f"config is a ModelConfig, not {type(config).__name__}")
        if getattr(getattr(flat, "dtype", None), "kind", "") != "f" or not flat.flags.c_contiguous:
            raise TypeError(f"flat is an array (P,) of float32 or float64 without gaps, not {type(flat).__name__} of "
                            f"{getattr(flat, 'dtype', 'another kind')}")
        if flat.shape != (count(config),):
            raise ValueError(f"{count(config)} parameters wanted, a buffer of shape {flat.shape} given")
        self.config, self.flat = config, flat
        self.parts, start = dict[str, slice](), 0  # name -> slice of the flat buffer
        for name, shape in shapes(config).items():
            self.parts[name] = slice(start, start + prod(shape))
            start += prod(shape)
        self._views = {name: flat[self.parts[name]].reshape(shape) for name, shape in shapes(config).items()}

    def __getitem__(self, name: str) -> Array:
        return self._views[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._views)

    def __len__(self) -> int:
        return len(self._views)

    def __reduce__(self) -> tuple[type["Parameters"], tuple[ModelConfig, Array]]:
        """Copy and pickle the flat buffer alone. The copy makes its own views, which are views of its own buffer."""
        return type(self), (self.config, self.flat)

    def like(self) -> "Parameters":
        """Return Parameters of zeros with the same layout, dtype and device."""
        return Parameters(self.config, kernels.of(self.flat).xp.zeros_like(self.flat))


def count(config: ModelConfig) -> int:
    """Return P, the number of parameters. A formula gives it, so the list of `shapes` is not made."""
    v, e, h = config.vocab_size, config.embed, config.hidden
    return v * e + 4 * h * (e + h + 1) + (config.layers - 1) * 4 * h * (2 * h + 1) + v * (h + 1)


def initial(config: ModelConfig, kernel: Kernel, dtype: np.dtype, seed: int | None) -> Parameters:
    """Return fresh parameters: weights uniform in +-1/sqrt(H), biases 0, embedding N(0, 1); the same on every device.

    seed None: all are zero, for a model whose parameters come from a file. Raises MemoryError, before an array is made,
    if the parameters take more bytes than the device has.
    """
    needed, there = count(config) * np.dtype(dtype).itemsize, kernel.memory()
    if needed > there:
        raise MemoryError(f"{count(config):,} parameters take {needed:,} bytes, more than the {there:,} there are")
    params = Parameters(config, kernel.xp.zeros(count(config), dtype))
    if seed is None:
        return params
    bound = 1 / sqrt(config.hidden)
    for place, (name, view) in enumerate(params.items()):
        if name == "embedding.weight":
            draws = normal(seed, Purpose.INIT, view.size, layer=place)
        elif view.ndim == 2:
            draws = bound * (2 * uniform(seed, Purpose.INIT, view.size, layer=place) - 1)
        else:
            continue
        view[...] = kernel.to_device(draws.astype(dtype)).reshape(view.shape)
    return params
