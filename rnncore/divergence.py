"""Divergence in finite numbers: a run that ends worse than equal odds for all symbols, and worse than it began.

Numbers that are not finite are another matter (recovery.py). A high validation loss alone is no divergence: a model
that learns its text by heart has one too, and a validation text may be of another kind. So the training loss must be
high as well.
"""
import math
from dataclasses import dataclass

MARGIN = 0.5  # nats per character above the worse of equal odds and the first training loss
KEPT = 0.95   # share of the weight of earlier steps that stays with each new one: about the last 20 steps count


@dataclass
class Course:
    """Training losses so far, in nats per character, of the steps whose loss was finite.

    first: of the first step, None before it. recent: the mean over about the last 20 steps, each by its characters;
    weight: what these weigh.
    """
    first: float | None = None
    recent: float | None = None
    weight: float = 0.0

    def add(self, loss: float, chars: int) -> None:
        """Take the loss of the next step, over so many characters, into account."""
        if not math.isfinite(loss):
            return
        self.first = loss if self.first is None else self.first
        self.weight = KEPT * self.weight + chars
        self.recent = loss if self.recent is None else self.recent + (loss - self.recent) * chars / self.weight


def diverged(course: Course, symbols: int, last: float | None) -> bool:
    """Return whether a run over so many symbols has diverged, by its last loss; None: there is none.

    It has where that loss is above log(symbols) and above the first training loss, by more than MARGIN, while the
    recent training loss is no lower than the first. A model that began away from equal odds was trained before, and may
    find the validation text as strange as it was: there the training loss must have risen by MARGIN, too.
    """
    if last is None or course.first is None:
        return False
    odds, first = math.log(symbols), course.first
    recent = math.inf if course.recent is None else course.recent  # of a run from before it was kept: not known
    least = first if abs(first - odds) < MARGIN else first + MARGIN
    return last > max(odds, first) + MARGIN and recent >= least
