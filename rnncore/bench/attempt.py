"""An attempt is one way to do a row's work on a card: its result and its entry, or why it is not timed."""
from collections.abc import Callable
from dataclasses import dataclass, field
from time import perf_counter
from typing import Protocol, TypeAlias

import numpy as np

from .speed import Entry

TURN = 0.08  # seconds that a turn lasts, about: above 0.05 where a unit is shorter

Result: TypeAlias = np.ndarray | dict[str, np.ndarray]  # losses, symbols, or a layer's arrays


class Work(Protocol):
    """One side's way to do the work; a class of ours.py or torch_card.py."""

    def result(self) -> Result:
        """Return what is compared with the reference."""

    def entry(self) -> Entry:
        """Return what takes turns."""


class Reference(Protocol):
    """The work done in float64, with which all results are compared."""

    def difference(self, result: Result) -> float:
        """Return how far a result is from this one's."""


@dataclass
class Attempt:
    """One way to do a row's work, or why it could not run or was not timed."""
    entry: Entry | None = None
    result: Result = field(default_factory=dict)  # empty again once it has been compared
    ready: float = 0.0                            # seconds to compile, capture and compute the result
    difference: float | None = None               # from the float64 reference, None where it was not compared
    why_not: str | None = None

    @classmethod
    def of(cls, make: Callable[[], Work]) -> "Attempt":
        """Make the work and its result. Any error is a reason not to run: CUDA's have no common class."""
        begun = perf_counter()
        try:
            work = make()
            result, entry = work.result(), work.entry()
        except Exception as error:
            return cls(why_not=reason(error))
        entry.least = TURN
        return cls(entry, result, perf_counter() - begun)

    @property
    def runs(self) -> bool:
        return self.why_not is None

    def compare(self, reference: Reference) -> None:
        """Measure the difference from the reference. Any error is a reason not to be timed."""
        try:
            self.difference = reference.difference(self.result)
        except Exception as error:
            self.why_not = f"not compared with the float64 reference: {reason(error)}"


def reason(error: Exception) -> str:
    """Return an error in one line."""
    return " ".join(f"{type(error).__name__}: {error}".split())[:300]
