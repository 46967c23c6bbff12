"""A training step, and what it goes by: the window of the text, the rate and the masks are functions of its number.

Those of a run are taken one at a time (`EagerSteps`), or on a card several at once (capture.py). What becomes of the
parameters does not depend on which.
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
from .params import Parameters
from .random import Purpose, uniform
from .recovery import Recovery

Stops: TypeAlias = tuple[int | None, ...]  # step numbers, or None: the caller wants to act at their multiples
MILESTONES = 10  # evaluations in a run, unless eval_every says otherwise


class StepResult(NamedTuple):
    """One step or several: the loss of each, and of the last one the rate, the gradient's norm and the state behind it.

    losses are nats per character, each over `chars` characters; norm is that before clipping.
    """
    losses: tuple[float, ...]
    chars: int
    lr: float
    norm: float
    state: State


class Schedule:
    """The windows and the rates of a run's steps; total: steps in the budget, None where it is one of minutes."""

    def __init__(self, config: TrainConfig, batches: Batches):
        self.config, self.batches, self.total = config, batches, total_steps(config, batches)

    def window(self, step: int) -> tuple[Ids, Ids]:
        """x, y (T, N) of step `step`, from 0: what it reads and what it predicts."""
        epoch, window = divmod(step, self.batches.windows)
        return self.batches.window(window, rotation(self.config.seed, epoch, len(self.batches.ids)))

    def rate(self, step: int, spent: Callable[[], float]) -> float:
        """The learning rate of step `step`. spent: the share of a budget of minutes that is gone by now."""
        return rate(self.config, min(1.0, step / self.total) + 0.5 / self.total if self.total else spent())


@dataclass
class EagerSteps:
    """Takes one step at a time: what is computed is back on the host before the next."""
    model: CharLM
    optimizer: Adam
    recovery: Recovery
    schedule: Schedule
    spent: Callable[[], float]

    def take(self, step: int, state: State | None, stops: Stops = ()) -> StepResult:
        """Take step `step`, from 0, from that state; None: zeros. Of `stops` none is passed over: it is one step."""
        config, (x, y) = self.schedule.config, self.schedule.window(step)
        if step % self.schedule.batches.windows == 0:
            state = None
        dropout = Dropout(config.dropout or 0.0, config.seed, step, config.variational, config.weight_drop or 0.0)
        loss, grads, state = self.model.loss_and_grads(x, y, state, dropout=dropout)
        norm = global_norm(grads)
        lr = self.schedule.rate(step, self.spent) * self.recovery.rate
        return StepResult((loss,), x.size, lr, norm, self._update(step, loss, grads, norm, lr, state))

    def _update(self, step: int, loss: float, grads: Parameters, norm: float, lr: float, state: State) -> State:
        """Update the parameters, unless a number is not finite; returns the state to carry on."""
        if not (math.isfinite(loss) and math.isfinite(norm)):
            self.recovery.skip(step + 1, loss, grads)
            return State(*map(self.model.kernel.xp.zeros_like, state))
        self.recovery.passed(step)
        update(self.optimizer, self.model.params, grads, lr, step + 1 - self.recovery.uncounted, norm,
               self.schedule.config.clip)
        return state


def total_steps(config: TrainConfig, batches: Batches) -> int | None:
    """Steps in the budget; None for minutes. Raises ValueError without a rate or a budget."""
    if config.lr is None or (config.steps, config.epochs, config.minutes) == (None, None, None):
        raise ValueError("a run needs lr and one of steps, epochs and minutes")
    if config.epochs is not None:
        return max(1, round(config.epochs * batches.windows))
    return config.steps


def rotation(seed: int, epoch: int, length: int) -> int:
    """Where the text begins in this epoch: at its start in the first, then at random."""
    return int(uniform(seed, Purpose.ROTATE, 1, step=epoch)[0] * length) if epoch else 0
