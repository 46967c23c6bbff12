"""Batches for truncated backpropagation: the text is laid out as N contiguous streams and cut into windows of T steps.

    n characters, N columns: column j is the stream ids[j*S : (j+1)*S + 1], which has S = (n - 1) // N predictions
    window k has steps k*T .. (k+1)*T of every stream: the state at the end of a window is the initial state of the next

`split` and `shrink` fit the training, validation and test parts and the shape of a batch to the length of a text.
"""
import operator
from dataclasses import dataclass
from fractions import Fraction
from typing import SupportsIndex

import numpy as np

from .decode import CorpusError


def split(n: int, val: float, test: float) -> tuple[slice, slice, slice]:
    """Return the slices of the training, validation and test parts of n characters, in this order and without gaps.

    val, test: shares of the text, from 0 to 1. Validation begins at floor((1 - val - test) * n) and test at
    floor((1 - test) * n), in exact decimal arithmetic: with test 0 and val .1, validation is text[int(.9 * n):].
    Rounding lengthens the later part. Raises ValueError unless val and test are >= 0 and their sum is below 1.
    """
    # str makes .1 one tenth. The binary float is slightly more, which would move the bounds.
    v, t = Fraction(str(float(val))), Fraction(str(float(test)))
    if v < 0 or t < 0 or v + t >= 1:
        raise ValueError(f"val {val} and test {test} are shares of the text: >= 0, together below 1")
    first, second = int((1 - v - t) * n), int((1 - t) * n)
    return slice(0, first), slice(first, second), slice(second, n)


def shrink(n: int, columns: int, steps: int) -> tuple[int, int]:
    """Return (columns, steps), made small enough for n characters to fill: columns shrink first, then steps.

    Raises CorpusError if n is below 2.
    """
    if n < 2:
        raise CorpusError(f"{n} character{'s' * (n != 1)} to train on, at least 2 are needed: add text, or lower --val")
    if n - 1 < columns * steps:
        columns = max(1, (n - 1) // steps)
        steps = min(steps, n - 1)
    return columns, steps


def whole(name: str, value: SupportsIndex) -> int:
    """Return `value` as an int. Raises TypeError, with `name` in its message, for a bool or not a whole number."""
    try:
        if isinstance(value, (bool, np.bool_)):
            raise TypeError
        return operator.index(value)
    except TypeError:
        raise TypeError(f"{name} is a whole number, not {value!r:.60}") from None


@dataclass(frozen=True, eq=False)
class Batches:
    """The batches of one text. `window` is a pure function: a window can be asked for at any time and repeatedly.

    Raises TypeError or ValueError for ids that are not integers (n,) and for a shape that n characters cannot fill.
    """

    ids: np.ndarray  # (n,) integers; may be a memory map
    columns: int  # N, the number of streams side by side
    steps: int  # T, the number of steps in a window

    def __post_init__(self) -> None:
        if not isinstance(self.ids, np.ndarray):
            raise TypeError(f"ids are an array (n,) of integers, not {type(self.ids).__name__}")
        for name in ("columns", "steps"):
            if whole(name, getattr(self, name)) < 1:
                raise ValueError(f"{name} is at least 1, not {getattr(self, name)}")
        if self.ids.ndim != 1 or self.ids.dtype.kind not in "iu":
            raise ValueError(f"ids are integers (n,), not {self.ids.dtype} {self.ids.shape}")
        if self.stream < 1:
            raise ValueError(f"{len(self.ids):,} ids do not fill {self.columns} columns of {self.steps}: see shrink")

    @property
    def stream(self) -> int:
        """Return S, the number of characters that each column predicts in an epoch."""
        return (len(self.ids) - 1) // self.columns

    @property
    def windows(self) -> int:
        """Return the number of windows in an epoch. The last window may have fewer than T steps."""
        return -(-self.stream // self.steps)

    @property
    def chars(self) -> int:
        """Return N*S, the number of characters predicted in an epoch."""
        return self.columns * self.stream

    def window(self, k: int, rotation: int = 0) -> tuple[np.ndarray, np.ndarray]:
        """Return the inputs x and targets y (T, N) of window k: np.intp, C-contiguous, and read-only by convention.

        x[t, j] = ids[(rotation + j*S + k*T + t) % n], and y is one character further. x and y share memory, so neither
        may be written. Without a rotation nothing wraps around; with one, the end of the text runs into its start.
        Raises IndexError unless k is in 0..windows-1, TypeError if k or rotation is not a whole number.
        """
        rotation = whole("rotation", rotation) % len(self.ids)
        if not 0 <= whole("window", k) < self.windows:
            raise IndexError(f"window {k} is not in 0..{self.windows - 1}")
        start = k * self.steps
        steps = np.arange(start, min(start + self.steps, self.stream) + 1)[:, None]  # (T+1, 1); the last is for y
        columns = np.arange(self.columns) * self.stream  # (N,)
        block = self.ids[(rotation + steps + columns) % len(self.ids)].astype(np.intp)  # (T+1, N)
        return block[:-1], block[1:]
