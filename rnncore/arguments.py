"""Checks of the arguments that a caller passes to the library: type, shape and values.

An argument is checked once, where it enters the library. Each check returns the argument in the form that the engine
uses. It raises TypeError for a wrong type and ValueError for a wrong shape or value. The message is one line with the
argument's name, what was given and what is expected.
"""
import math
from typing import SupportsIndex, TypeAlias, TypeVar

import numpy as np
from numpy.typing import ArrayLike

from .data import batches
from .kernels import Array, Ids, Kernel, host
from .nn import Dropout, State

T = TypeVar("T")
Shape: TypeAlias = tuple[int | str, ...]  # expected lengths; a letter such as "T" allows any length from 1 on
REAL = "biuf"  # the kinds of NumPy dtypes that count as real numbers: bool, int, unsigned int, float


def whole(name: str, value: SupportsIndex, least: int = 0, most: int | None = None) -> int:
    """Return value as an int. Raise TypeError if it is no whole number, ValueError if it is not in least..most."""
    number = batches.whole(name, value)
    if number < least or most is not None and number > most:
        range_ = f"of at least {least}" if most is None else f"from {least:,} to {most:,}"
        raise ValueError(f"{name} is a whole number {range_}, not {_shown(value)}")
    return number


def number(name: str, value: float, least: float, below: float = math.inf) -> float:
    """Return value as a float. Raise TypeError if it is no real number, ValueError if it is not in [least, below)."""
    range_ = f"a number of at least {least:g}" + (f" and below {below:g}" if below < math.inf else "")
    try:
        # float() would take these, too: True would become 1.0, and the text "0.5" would become 0.5
        if isinstance(value, (bool, np.bool_, str, bytes)) or np.ndim(value):
            raise TypeError
        found = float(value)
    except (TypeError, ValueError, OverflowError):
        raise TypeError(f"{name} is {range_}, not {_shown(value)}") from None
    if not least <= found < below:
        raise ValueError(f"{name} is {range_}, not {_shown(value)}")
    return found


def of(name: str, value: T, kind: type) -> T:
    """Return value as it is. Raise TypeError if it is not an instance of the class `kind`."""
    if not isinstance(value, kind):
        raise TypeError(f"{name} is a {kind.__name__}, not {_shown(value)}")
    return value


def ids(name: str, value: ArrayLike, symbols: int, kernel: Kernel, shape: Shape) -> Ids:
    """Return ids, such as (T, N) or (N,), as an array on the kernel's device.

    Raise ValueError for another shape than `shape`, for another dtype than whole numbers, and for an id that is not in
    0..symbols-1.
    """
    array = _array(name, value, kernel, shape)
    if array.dtype.kind not in "iu":
        raise ValueError(f"{name}: ids must be whole numbers from 0 to {symbols - 1:,}, not {array.dtype}")
    low, high = int(array.min()), int(array.max())
    if low < 0 or high >= symbols:
        wrong = low if low < 0 else high
        raise ValueError(f"{name}: ids must be whole numbers from 0 to {symbols - 1:,}, not {wrong:,}")
    if isinstance(array, np.ndarray):
        return kernel.ids_to_device(array)
    return kernel.xp.ascontiguousarray(array, host.IDS)


def symbols(name: str, value: ArrayLike) -> np.ndarray:
    """Return the ids (n,) of a text as an array on the host. Raise ValueError for another shape or dtype.

    Their range is not checked here: `ids` checks it later, for each piece that the model reads.
    """
    array = _array(name, value, host, ("n",))
    if array.dtype.kind not in "iu":
        raise ValueError(f"{name}: ids must be whole numbers, not {array.dtype}")
    return array


def keep(value: ArrayLike | None, shape: Shape, kernel: Kernel, dtype: np.dtype) -> Array | None:
    """Return the mask `keep` (T, N) as an array on the device, or None for None. 0: a document begins there; else 1.

    Raise TypeError for an array of another kind than real numbers, ValueError for another shape or number.
    """
    if value is None:
        return None
    array = _real("keep", value, kernel, shape)
    if not bool(((array == 0) | (array == 1)).all()):
        raise ValueError("keep is 0 where a document begins and 1 elsewhere, not another number")
    return kernel.xp.ascontiguousarray(_placed(array, kernel), dtype)


def state(value: tuple[ArrayLike, ArrayLike], shape: Shape, kernel: Kernel, dtype: np.dtype) -> State:
    """Return h and c, each (L, H, N), as a State on the device. Each may be given as one array or as L arrays (H, N).

    Raise TypeError for no pair or for numbers that are not real, ValueError for another shape.
    """
    if not isinstance(value, (tuple, list)) or len(value) != 2:
        raise TypeError(f"state is h and c, each {_words(shape)}, or None, not {_shown(value)}")
    return State(*(_layers(name, part, shape, kernel, dtype) for name, part in zip(("state.h", "state.c"), value,
                                                                                  strict=True)))


def dropout(value: Dropout | None) -> Dropout | None:
    """Return a Dropout as it is, or None. Raise TypeError for another type, ValueError for a rate outside [0, 1)."""
    if value is None:
        return None
    if not isinstance(value, Dropout):
        raise TypeError(f"dropout is a Dropout or None, not {_shown(value)}")
    for name in ("rate", "weight_rate"):
        number(f"dropout.{name}", getattr(value, name), 0, below=1)
    return value


def _layers(name: str, value: ArrayLike, shape: Shape, kernel: Kernel, dtype: np.dtype) -> Array:
    """Return h or c (L, H, N) on the device, from one array or from L arrays (H, N)."""
    if isinstance(value, (list, tuple)) and value and all(isinstance(layer, kernel.xp.ndarray) for layer in value):
        value = kernel.xp.stack([_placed(_real(name, layer, kernel, shape[1:]), kernel) for layer in value])
    return _placed(_real(name, value, kernel, shape), kernel).astype(dtype, copy=False)


def _real(name: str, value: ArrayLike, kernel: Kernel, shape: Shape) -> Array:
    """Return the value as an array of real numbers, as `_array` does. Raise TypeError for other numbers."""
    array = _array(name, value, kernel, shape)
    if array.dtype.kind not in REAL:
        raise TypeError(f"{name} is to be {_words(shape)} of real numbers, not of {array.dtype}")
    return array


def _array(name: str, value: ArrayLike, kernel: Kernel, shape: Shape) -> Array:
    """Return the value as an array. An array on the device stays there; anything else becomes an array on the host.

    Raise ValueError for another shape, and for a value that is no array.
    """
    # np.matrix is a subclass of np.ndarray whose rows stay two-dimensional; np.asarray makes a plain array of it.
    array: Array = value if isinstance(value, kernel.xp.ndarray) and type(value) is not np.matrix else \
        _host_array(name, value, shape)
    if len(array.shape) != len(shape) or not all(a >= 1 if isinstance(b, str) else a == b
                                                 for a, b in zip(array.shape, shape, strict=True)):
        raise ValueError(f"{name} is to be {_words(shape)}, not {tuple(array.shape)}")
    return array


def _host_array(name: str, value: ArrayLike, shape: Shape) -> np.ndarray:
    try:
        return np.asarray(value)
    except (ValueError, TypeError, OverflowError) as error:
        raise ValueError(f"{name} is to be {_words(shape)}: {error}") from None


def _placed(array: Array, kernel: Kernel) -> Array:
    return array if isinstance(array, kernel.xp.ndarray) else kernel.to_device(array)


def _words(shape: Shape) -> str:
    return "(" + ", ".join(map(str, shape)) + ("," * (len(shape) == 1)) + ")"


def _shown(value: T) -> str:
    """Return a few words that stand for the value in a message."""
    shape = getattr(value, "shape", None)
    if shape:
        return f"{type(value).__name__} {tuple(shape)}"
    words = " ".join(repr(value).split())
    return words if len(words) <= 60 else f"{type(value).__name__} {words[:40]}..."
