"""Batches cut from contiguous streams: the text laid out as N columns, read side by side a window of T steps at a time.

    n characters, N columns: column j is the stream ids[j*S : (j+1)*S + 1], S = (n - 1) // N predictions long
    window k holds steps k*T .. (k+1)*T of every stream, so the state at the end of one window begins the next
"""
import operator
from dataclasses import dataclass
from fractions import Fraction
from typing import SupportsIndex

import numpy as np

from .decode import CorpusError


def split(n: int, val: float, test: float) -> tuple[slice, slice, slice]:
    """Where train, validation and test lie in n characters: contiguous, in that order, together all of them.

    Validation begins at floor((1 - val - test) * n) and test at floor((1 - test) * n), in exact decimal arithmetic: so
    with test 0 and val .1, validation is text[int(.9 * n):]. What rounding leaves over goes to the later part.
    ValueError unless val and test are >= 0 and together below 1.
    """
    v, t = Fraction(str(float(val))), Fraction(str(float(test)))  # .1 is a tenth, not the float near it
    if v < 0 or t < 0 or v + t >= 1:
        raise ValueError(f"val {val} and test {test} are shares of the text: >= 0, together below 1")
    first, second = int((1 - v - t) * n), int((1 - t) * n)
    return slice(0, first), slice(first, second), slice(second, n)


def shrink(n: int, columns: int, steps: int) -> tuple[int, int]:
    """The columns and steps that n characters can fill: columns give way first, then steps. CorpusError below 2."""
    if n < 2:
        raise CorpusError(f"{n} character{'s' * (n != 1)} to train on, at least 2 are needed: add text, or lower --val")
    if n - 1 < columns * steps:
        columns = max(1, (n - 1) // steps)
        steps = min(steps, n - 1)
    return columns, steps


def whole(name: str, value: SupportsIndex) -> int:
    """The value, if it is a whole number; else TypeError."""
    try:
        if isinstance(value, (bool, np.bool_)):
            raise TypeError
        return operator.index(value)
    except TypeError:
        raise TypeError(f"{name} is a whole number, not {value!r:.60}") from None


@dataclass(frozen=True, eq=False)
class Batches:
    """A pure function from a window's number and a rotation to a batch: any window can be had at any time, again."""

    ids: np.ndarray  # (n,) integers; may be a memory map
    columns: int  # N
    steps: int  # T

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
        """S, the characters that each column predicts in an epoch."""
        return (len(self.ids) - 1) // self.columns

    @property
    def windows(self) -> int:
        """Windows in an epoch; the last may have fewer than T steps."""
        return -(-self.stream // self.steps)

    @property
    def chars(self) -> int:
        """N*S, the characters predicted in an epoch."""
        return self.columns * self.stream

    def window(self, k: int, rotation: int = 0) -> tuple[np.ndarray, np.ndarray]:
        """x, y (T, N) of window k in 0..windows-1: np.intp, C-contiguous, to be read only (they share memory).

        x[t, j] = ids[(rotation + j*S + k*T + t) % n], and y is one character further. Without a rotation nothing wraps;
        with one, the text's end runs into its start. IndexError for another k.
        """
        rotation = whole("rotation", rotation) % len(self.ids)
        if not 0 <= whole("window", k) < self.windows:
            raise IndexError(f"window {k} is not in 0..{self.windows - 1}")
        start = k * self.steps
        steps = np.arange(start, min(start + self.steps, self.stream) + 1)[:, None]  # (T+1, 1): x, and one for y
        columns = np.arange(self.columns) * self.stream  # (N,)
        block = self.ids[(rotation + steps + columns) % len(self.ids)].astype(np.intp)  # (T+1, N)
        return block[:-1], block[1:]
