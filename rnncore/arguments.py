"""What a caller hands in is checked here, once, where it enters the library: its type, its shape and its values.

Each check returns the argument as the engine works with it. It raises TypeError for another type and ValueError for
another shape or value, in a line that names the argument, what it is and what is wanted.
"""
import math
from typing import SupportsIndex, TypeAlias, TypeVar

import numpy as np
from numpy.typing import ArrayLike

from .data import batches
from .kernels import Array, Ids, Kernel, host
from .nn import Dropout, State

T = TypeVar("T")
Shape: TypeAlias = tuple[int | str, ...]  # the lengths that are wanted, a letter for one that may be any from 1 on
REAL = "biuf"  # kinds of dtypes that are real numbers


def whole(name: str, value: SupportsIndex, least: int = 0, most: int | None = None) -> int:
    """A whole number from least to most."""
    number = batches.whole(name, value)
    if number < least or most is not None and number > most:
        range_ = f"of at least {least}" if most is None else f"from {least:,} to {most:,}"
        raise ValueError(f"{name} is a whole number {range_}, not {_shown(value)}")
    return number


def number(name: str, value: float, least: float, below: float = math.inf) -> float:
    """A real number of at least `least`, below `below`."""
    range_ = f"a number of at least {least:g}" + (f" and below {below:g}" if below < math.inf else "")
    try:
        if isinstance(value, (bool, np.bool_, str, bytes)) or np.ndim(value):
            raise TypeError
        found = float(value)
    except (TypeError, ValueError, OverflowError):
        raise TypeError(f"{name} is {range_}, not {_shown(value)}") from None
    if not least <= found < below:
        raise ValueError(f"{name} is {range_}, not {_shown(value)}")
    return found


def of(name: str, value: T, kind: type) -> T:
    """A value of a type, named by it in an error."""
    if not isinstance(value, kind):
        raise TypeError(f"{name} is a {kind.__name__}, not {_shown(value)}")
    return value


def ids(name: str, value: ArrayLike, symbols: int, kernel: Kernel, shape: Shape) -> Ids:
    """Ids (T, N) or (n,), whole numbers from 0 below `symbols`, as an array on the kernel's device."""
    array = _array(name, value, kernel, shape)
    if array.dtype.kind not in "iu":
        raise ValueError(f"{name}: ids must be whole numbers from 0 to {symbols - 1:,}, not {array.dtype}")
    low, high = int(array.min()), int(array.max())
    if low < 0 or high >= symbols:
        wrong = low if low < 0 else high
        raise ValueError(f"{name}: ids must be whole numbers from 0 to {symbols - 1:,}, not {wrong:,}")
    return kernel.ids_to_device(array) if isinstance(array, np.ndarray) else array.astype(host.IDS, copy=False)


def symbols(name: str, value: ArrayLike) -> np.ndarray:
    """Ids (n,) of a text on the host, whole numbers; the pieces that are read are looked at by `ids`."""
    array = _array(name, value, host, ("n",))
    if array.dtype.kind not in "iu":
        raise ValueError(f"{name}: ids must be whole numbers, not {array.dtype}")
    return array


def keep(value: ArrayLike | None, shape: Shape, kernel: Kernel, dtype: np.dtype) -> Array | None:
    """A mask of document beginnings: (T, N) of zeros and ones, on the device; None for none."""
    if value is None:
        return None
    array = _real("keep", value, kernel, shape)
    if not bool(((array == 0) | (array == 1)).all()):
        raise ValueError("keep is 0 where a document begins and 1 elsewhere, not another number")
    return kernel.xp.ascontiguousarray(_placed(array, kernel), dtype)


def state(value: tuple[ArrayLike, ArrayLike], shape: Shape, kernel: Kernel, dtype: np.dtype) -> State:
    """h and c, each (L, H, N) and real, or L arrays (H, N), on the device."""
    if not isinstance(value, (tuple, list)) or len(value) != 2:
        raise TypeError(f"state is h and c, each {_words(shape)}, or None, not {_shown(value)}")
    return State(*(_layers(name, part, shape, kernel, dtype) for name, part in zip(("state.h", "state.c"), value,
                                                                                  strict=True)))


def dropout(value: Dropout | None) -> Dropout | None:
    """A Dropout or None."""
    if value is None:
        return None
    if not isinstance(value, Dropout):
        raise TypeError(f"dropout is a Dropout or None, not {_shown(value)}")
    for name in ("rate", "weight_rate"):
        number(f"dropout.{name}", getattr(value, name), 0, below=1)
    return value


def _layers(name: str, value: ArrayLike, shape: Shape, kernel: Kernel, dtype: np.dtype) -> Array:
    """One part of a state, of L arrays or one."""
    if isinstance(value, (list, tuple)) and value and all(isinstance(layer, kernel.xp.ndarray) for layer in value):
        value = kernel.xp.stack([_placed(_real(name, layer, kernel, shape[1:]), kernel) for layer in value])
    return _placed(_real(name, value, kernel, shape), kernel).astype(dtype, copy=False)


def _real(name: str, value: ArrayLike, kernel: Kernel, shape: Shape) -> Array:
    array = _array(name, value, kernel, shape)
    if array.dtype.kind not in REAL:
        raise TypeError(f"{name} is to be {_words(shape)} of real numbers, not of {array.dtype}")
    return array


def _array(name: str, value: ArrayLike, kernel: Kernel, shape: Shape) -> Array:
    """The value as an array of that shape, where it is: on the device or on the host."""
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
    """A value in a few words."""
    shape = getattr(value, "shape", None)
    if shape:
        return f"{type(value).__name__} {tuple(shape)}"
    words = " ".join(repr(value).split())
    return words if len(words) <= 60 else f"{type(value).__name__} {words[:40]}..."
