"""Divergence: the numbers of a run are finite, but its last loss is above its first, and above that of a uniform guess.

recovery.py handles numbers that are not finite. A high validation loss alone is not divergence: a model that learns its
text by heart has one, too, and so has a model whose validation text is of another kind. So the training loss must be
high as well.
"""
import math
from dataclasses import dataclass

MARGIN = 0.5  # nats per character: a loss that is higher by less does not count as higher
KEPT = 0.95   # factor on the weight of all earlier steps at each new step: about the last 20 steps count


@dataclass
class Course:
    """The training losses of a run so far, in nats per character, over the steps whose loss was finite.

    first: the loss of the first step, None before it. recent: the mean over about the last 20 steps, each weighted by
    its number of characters. weight: the sum of these weights.
    """
    first: float | None = None
    recent: float | None = None
    weight: float = 0.0

    def add(self, loss: float, chars: int) -> None:
        """Add the loss of the next step, a mean over `chars` characters. Ignore a loss that is not finite."""
        if not math.isfinite(loss):
            return
        self.first = loss if self.first is None else self.first
        self.weight = KEPT * self.weight + chars
        self.recent = loss if self.recent is None else self.recent + (loss - self.recent) * chars / self.weight


def diverged(course: Course, symbols: int, last: float | None) -> bool:
    """Return True if a run has diverged.

    symbols: V; last: the last loss of the run in nats per character (None: there is none, so False).
    The run has diverged if `last` is above log(V) and above the first training loss, both by more than MARGIN, and the
    recent training loss is not below the first. log(V) is the loss of a uniform guess. If the first loss was not near
    log(V), the model was trained before, and its validation loss may have been high from the beginning. Then the recent
    training loss must also be above the first by MARGIN.
    """
    if last is None or course.first is None:
        return False
    odds, first = math.log(symbols), course.first
    recent = math.inf if course.recent is None else course.recent  # None: the file is older than this field
    least = first if abs(first - odds) < MARGIN else first + MARGIN
    return last > max(odds, first) + MARGIN and recent >= least
