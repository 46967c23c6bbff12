"""The steps of a training run. The window, the learning rate and the masks of a step are functions of its number.

`EagerSteps` takes one step at a time. On a card, capture.py takes several at a time; the parameters do not depend on
how many.
"""
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

from .config import TrainConfig
from .data.batches import Batches
from .kernels.arrays import Ids
from .model import CharLM
from .nn import Dropout, State
from .optim import Adam, global_norm, rate, update
from .random import Purpose, uniform
from .recovery import Recovery

Stops: TypeAlias = tuple[int | None, ...]  # each a number or None: the caller wants to act at its multiples
MILESTONES = 10  # evaluations in a run, if eval_every is None


class StepResult(NamedTuple):
    """The result of one step, or of several that were taken together."""
    losses: tuple[float, ...]  # of each step, in nats per character
    chars: int                 # characters of each step
    lr: float                  # learning rate of the last step
    norm: float                # norm of the gradient of the last step, before clipping
    state: State               # after the last step


class Schedule:
    """The windows and the learning rates of the steps of a run.

    total: the number of steps in the budget, None for a budget of minutes. Raises ValueError as `total_steps`.
    """

    def __init__(self, config: TrainConfig, batches: Batches):
        self.config, self.batches, self.total = config, batches, total_steps(config, batches)

    def window(self, step: int) -> tuple[Ids, Ids]:
        """Return x, y (T, N) of step `step` (from 0): the ids that it reads, and the ids that it predicts."""
        epoch, window = divmod(step, self.batches.windows)
        return self.batches.window(window, rotation(self.config.seed, epoch, len(self.batches.ids)))

    def rate(self, step: int, spent: Callable[[], float]) -> float:
        """Return the learning rate of step `step` (from 0). spent(): the share of a budget of minutes that is spent."""
        # A step stands for the interval from step / total to (step + 1) / total, so its rate is that of the middle.
        return rate(self.config, min(1.0, step / self.total) + 0.5 / self.total if self.total else spent())


@dataclass
class EagerSteps:
    """The training steps of a run, taken one at a time. Loss and gradient norm are on the host before the next step.

    spent() returns the share of a budget of minutes that is spent.
    """
    model: CharLM
    optimizer: Adam
    recovery: Recovery
    schedule: Schedule
    spent: Callable[[], float]

    def take(self, step: int, state: State | None, stops: Stops = ()) -> StepResult:
        """Take step `step` (from 0) from `state`; None: zeros. stops: not used, because one step passes none of them.

        Raises recovery.Diverged for a step that is not finite, if recovery does not help.
        """
        config, (x, y) = self.schedule.config, self.schedule.window(step)
        # An epoch begins at another place in the text, so the state of the old place does not fit.
        if step % self.schedule.batches.windows == 0:
            state = None
        dropout = Dropout(config.dropout or 0.0, config.seed, step, config.variational, config.weight_drop or 0.0)
        loss, grads, state = self.model.loss_and_grads(x, y, state, dropout=dropout)
        norm = global_norm(grads)
        lr = self.schedule.rate(step, self.spent) * self.recovery.rate
        if math.isfinite(loss) and math.isfinite(norm):
            self.recovery.passed(step)
            with self.model.computing():
                update(self.optimizer, self.model.params, grads, lr, step + 1 - self.recovery.uncounted, norm,
                       config.clip)
        else:
            self.recovery.skip(step + 1, loss, grads)
            state = State(*map(self.model.kernel.xp.zeros_like, state))
        return StepResult((loss,), x.size, lr, norm, state)


def total_steps(config: TrainConfig, batches: Batches) -> int | None:
    """Return the number of steps in the budget; None for minutes. Raise ValueError without a rate or a budget."""
    if config.lr is None or (config.steps, config.epochs, config.minutes) == (None, None, None):
        raise ValueError("a run needs lr and one of steps, epochs and minutes")
    if config.epochs is not None:
        return max(1, round(config.epochs * batches.windows))
    return config.steps


def rotation(seed: int, epoch: int, length: int) -> int:
    """Return the place, from 0 below `length`, where the text begins in an epoch: 0 in the first, then at random."""
    return int(uniform(seed, Purpose.ROTATE, 1, step=epoch)[0] * length) if epoch else 0
