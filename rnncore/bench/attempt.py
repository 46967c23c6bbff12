"""An attempt is one way to do a row's work on a GPU: its result and its entry, or the reason why it is not timed."""
from collections.abc import Callable
from dataclasses import dataclass, field
from time import perf_counter
from typing import Protocol, TypeAlias

import numpy as np

from .speed import Entry

TURN = 0.08  # seconds that a turn should last; rounded to whole calls, it lasts more than 0.05 s

Result: TypeAlias = np.ndarray | dict[str, np.ndarray]  # losses in nats, ids of symbols, or name -> a layer's array


class Work(Protocol):
    """One side's way to do the work: a class of ours.py or torch_card.py."""

    def result(self) -> Result:
        """Return the result that is compared with the reference's."""

    def entry(self) -> Entry:
        """Return the entry that takes turns."""


class Reference(Protocol):
    """The float64 reference: it has done the same work, and all results are compared with its result."""

    def difference(self, result: Result) -> float:
        """Return how far a result is from the reference's, in the measure of parity.py."""


@dataclass
class Attempt:
    """One way to do a row's work, or the reason why it could not run or was not timed."""
    entry: Entry | None = None
    result: Result = field(default_factory=dict)  # card.py empties it after the comparison, to free memory
    ready: float = 0.0                            # seconds to compile, capture and compute the result
    difference: float | None = None               # from the float64 reference; None: not compared
    why_not: str | None = None                    # the reason in one line; None: it runs

    @classmethod
    def of(cls, make: Callable[[], Work]) -> "Attempt":
        """Return an attempt with the entry and the result of the work that make() returns.

        Any exception becomes the reason why the attempt does not run: CUDA's exceptions have no common class.
        """
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
        """Return True if there is no reason against timing the attempt."""
        return self.why_not is None

    def compare(self, reference: Reference) -> None:
        """Set the difference from the reference. Any exception becomes the reason why the attempt is not timed."""
        try:
            self.difference = reference.difference(self.result)
        except Exception as error:
            self.why_not = f"not compared with the float64 reference: {reason(error)}"


def reason(error: Exception) -> str:
    """Return the class and the message of an exception in one line of at most 300 characters."""
    return " ".join(f"{type(error).__name__}: {error}".split())[:300]
