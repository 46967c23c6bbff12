"""A Launcher takes the steps of a Training on a card: several at a time, up to the next at which something is due.

What becomes of the parameters does not depend on how many are taken together: each step has the window, the rate and
the masks of its number, and one whose loss or gradient is not finite stops those behind it (captured.py).
"""
import time
from math import ceil, inf

import numpy as np

from . import recovery
from .captured import MANY, Captured, Slot
from .nn.lstm import State
from .optim import rate

MILESTONES = 10  # evaluations in a run, unless eval_every says otherwise
TURN = 0.2       # seconds that the steps of one take last, about


class Launcher:
    """The steps of a rnncore.train.Training, from where it is."""

    def __init__(self, training):
        self.training = training
        batches = training.batches
        self.captured = Captured(training.model, training.optimizer, training.config, batches.steps, batches.columns)
        self._held: State | None = None  # the training's state as this launcher left it
        self._begun = False
        self._seconds = inf              # a step
        self._windows: dict = {}         # by step: cut ahead, while the card works

    def take(self) -> tuple[int, int, float, float, float]:
        """(steps, characters, and of the last one the loss, the rate and the norm) of what was taken, one at least."""
        t, captured = self.training, self.captured
        if not self._begun or t.state is not self._held:
            captured.begin(t.step, t.state)
            self._begun = True
        steps, count = self._together()
        rates = [rate(t.config, t.done_before(t.step + k)) * t.recovery.rate for k in range(count)]
        captured.fill(t.step, [self._slot(t.step + k, lr) for k, lr in enumerate(rates)])
        copy = t.model.params.flat.copy() if t.recovery.due(t.step) else None
        begun = time.perf_counter()
        captured.launch(count, steps)
        self._cut_ahead(t.step + count, count)
        outcome = captured.wait()
        self._seconds = min(self._seconds, (time.perf_counter() - begun) / count)  # the first ones compile and record
        good = outcome.step - t.step
        if good:
            t.recovery.passed(t.step, copy)
        else:
            self._skip(outcome)
        taken = max(good, 1)
        t.state = self._held = captured.state
        slots, chars = [(t.step + k) % captured.ring for k in range(taken)], steps * t.batches.columns
        for slot in slots:
            t.course.add(float(outcome.losses[slot]), chars)
        loss, norm = (float(ring[slots[-1]]) for ring in (outcome.losses, outcome.norms))
        return taken, taken * chars, loss, rates[taken - 1], norm

    def _skip(self, outcome) -> None:
        """The next step is a bad one: it counts, but changes nothing, and the state begins anew."""
        t, captured = self.training, self.captured
        slot = t.step % captured.ring
        captured.grads.flat /= t.batches.columns * self._steps(t.step)
        t.recovery.skip(t.step + 1, float(outcome.losses[slot]), captured.grads)
        captured.begin(t.step + 1, None)

    def _slot(self, step: int, lr: float) -> Slot:
        """What step `step` goes by."""
        t = self.training
        pace = t.optimizer.pace(lr, step + 1 - t.recovery.uncounted)
        return Slot(self._window(step), pace, step % t.batches.windows == 0)

    def _window(self, step: int):
        """The ids (T+1, N) of step `step`: all but the last row are read, all but the first predicted."""
        if step in self._windows:
            return self._windows.pop(step)
        x, y = self.training.window(step)
        return np.concatenate((x, y[-1:]))

    def _cut_ahead(self, step: int, count: int) -> None:
        self._windows = {k: self._window(k) for k in range(step, step + count)}

    def _steps(self, step: int) -> int:
        """T of that step's window: the last of an epoch may be shorter."""
        batches = self.training.batches
        return min(batches.steps, batches.stream - step % batches.windows * batches.steps)

    def _together(self) -> tuple[int, int]:
        """(T of their windows, how many steps) are taken together."""
        t = self.training
        steps, ends = self._steps(t.step), [self.captured.ring, self._in_time()]
        if t.total is not None:
            ends.append(t.total - t.step)
            ends += [ceil(t.total * k / MILESTONES) - t.step for k in range(1, MILESTONES + 1)]
        ends += [every - t.step % every for every in (t.config.eval_every, *t.stops) if every]
        ends.append(recovery.EVERY if t.recovery.due(t.step) else t.recovery.since + recovery.EVERY - t.step)
        rest = t.batches.windows - t.step % t.batches.windows  # of the epoch
        whole = self._steps(t.step + rest - 1) == t.batches.steps
        if not whole:
            ends.append(1 if rest == 1 else rest - 1)
        return steps, max(1, min(end for end in ends if end > 0))

    def _in_time(self) -> int:
        """How many steps take about as long as one turn, at the best speed so far."""
        return MANY if self._seconds == inf else max(1, int(TURN / self._seconds))
