"""Captured training steps: a whole step is recorded once on a card as a CUDA graph and replayed without the host.

    window -> embedding, layers, head -> loss -> back-propagation -> norm, clipping -> optimiser -> state carried on

Numbers that differ from step to step (the window, the rate, the counter of the dropout masks) lie on the card, in the
slots of a ring that the host fills ahead (kernels/cuda/step_control.py). A captured gradient is the gradient of the
summed loss times the path's loss_scale. The optimiser multiplies it by one factor, which turns it into the gradient of
the mean loss and clips it.
"""
import time
from collections.abc import Callable
from math import ceil, inf
from typing import NamedTuple

import numpy as np

from . import recovery
from .config import TrainConfig
from .kernels import Ids
from .model import CharLM
from .nn import Dropout, State, stack
from .optim import Adam, Pace
from .recovery import Recovery
from .steps import MILESTONES, Schedule, StepResult, Stops

RING = 256      # slots of the ring: the host waits after at most so many steps
IDS = 1 << 22   # ids in all slots of the ring, at most: large windows have fewer slots
MANY = 8        # steps of one graph
TURN = 0.2      # seconds that the steps of one call of `take` last, about


class Slot(NamedTuple):
    """The numbers of one step, as they go into a slot of the ring."""
    window: np.ndarray  # (T+1, N) ids
    pace: Pace
    fresh: bool         # True if the state begins at zero


class Outcome(NamedTuple):
    """The result of the steps that were launched.

    step: the number of the next step; bad: True if the loss or the gradient of that step is not finite. losses (ring,)
    in nats per character and norms (ring,) before clipping: step s stands at s % ring.
    """
    step: int
    bad: bool
    losses: np.ndarray
    norms: np.ndarray


class Captured:
    """The captured training steps of a model over windows (T, N) or shorter, on the path of the model.

    optimizer: of the model's parameters; steps: T; n: N. Only one Captured at a time may train a model. Raises
    ValueError if the path does not capture steps.
    """

    def __init__(self, model: CharLM, optimizer: Adam, config: TrainConfig, steps: int, n: int):
        self.model, self.optimizer, self.config, self.steps, self.n = model, optimizer, config, steps, n
        self.path = model.device_path
        self.grads, self.loss_scale = model.params.like(), self.path.loss_scale or 1
        self.ring = max(1, min(RING, IDS // ((steps + 1) * n)))
        self.control = self.path.step_control(self.ring, steps, n, config.clip)
        self.work = stack.Workspace(model.params, steps, n, path=self.path)
        sizes = model.config.layers, model.config.hidden, n
        self.state = State(*(model.kernel.xp.zeros(sizes, model.dtype) for _ in "hc"))  # where the next step begins
        self._keep = model.kernel.xp.empty((steps, n), model.dtype)
        self._graphs: dict[int, Callable[[], None]] = {}  # number of steps -> the launch of their graph
        # A graph works on the memory that it was recorded with. So the optimiser keeps its buffers from now on.
        optimizer.workspaces = {}
        self._warm: set[int] = set()  # values of T whose kernels are compiled and whose buffers are made

    def begin(self, step: int, state: State | None) -> None:
        """Make `step` the next step. It begins at `state`, h and c (L, H, N), or at zeros for None."""
        for mine, given in zip(self.state, state or (0, 0), strict=True):
            mine[...] = given
        self.control.go(step)

    def fill(self, step: int, slots: list[Slot]) -> None:
        """Write the slots of the steps from `step` on, at most `ring` of them. All their windows have one length."""
        numbers = np.array([[*slot.pace, slot.fresh] for slot in slots], np.float64)
        self.control.fill(step, np.stack([slot.window for slot in slots]), numbers)

    def launch(self, count: int, steps: int) -> None:
        """Enqueue the next `count` steps, over windows of T = `steps` characters. The host does not wait for them."""
        with self.model.computing():
            if steps not in self._warm:
                self._warm_up(steps)
            # Only the last window of an epoch is shorter. It is one step an epoch, so no graph is recorded for it.
            if steps != self.steps:
                for _ in range(count):
                    self._step(steps)
                return
            many, one = divmod(count, MANY)
            for repeats, times in ((MANY, many), (1, one)):
                if times and repeats not in self._graphs:
                    self._graphs[repeats] = self.path.record(lambda: self._step(self.steps), repeats)
                for _ in range(times):
                    self._graphs[repeats]()

    def wait(self) -> Outcome:
        """Wait for all steps that were launched, and return their result."""
        return Outcome(*self.control.read())

    def _warm_up(self, steps: int) -> None:
        """Run one halted step over `steps` characters, which changes no parameter, moment or state.

        It compiles the kernels and makes the buffers. A capture may do neither.
        """
        step = self.wait().step
        self.control.go(step, halted=True)
        self._step(steps)
        self.control.go(step)
        self._warm.add(steps)

    def _step(self, steps: int) -> None:
        """Enqueue the kernels of one training step over a window of `steps` characters."""
        model, work, control, optimizer = self.model, self.work, self.control, self.optimizer
        first, last = (State(work.h[:, :, t], work.c[:, :, t]) for t in (0, steps))
        control.begin(self.state, first)
        x, y = control.ids[:steps], control.ids[1:steps + 1]
        dropout = Dropout(self.config.dropout or 0.0, self.config.seed, control.words, self.config.variational,
                          self.config.weight_drop or 0.0)
        weights, keep = model.weights(dropout), model.keep(x, self._keep[:steps])
        stack.gradients(weights, self.grads, [stack.Pass(x, work, keep, dropout, y)], 1 / self.loss_scale)
        model.mask_gradients(weights, self.grads)
        control.check(work.loss[:steps], self.grads.flat)
        optimizer.update(model.params, self.grads, Pace(*control.pace), control.scale)
        control.carry(last, self.state)


class CapturedSteps:
    """The training steps of a run, captured, and taken several at a time.

    The parameters do not depend on how many are taken at a time. The window, the rate and the masks of a step are
    functions of its number, and a step whose loss or gradient is not finite halts the steps behind it.
    spent() returns the share of a budget of minutes that is spent.
    """

    def __init__(self, model: CharLM, optimizer: Adam, recovery: Recovery, schedule: Schedule,
                 spent: Callable[[], float]):
        self.model, self.optimizer, self.recovery, self.schedule = model, optimizer, recovery, schedule
        self.spent = spent
        batches = schedule.batches
        self.captured = Captured(model, optimizer, schedule.config, batches.steps, batches.columns)
        self._held: State | None = None  # the state that the last `take` returned
        self._begun = False
        self._seconds = inf              # seconds a step, at the best speed so far
        self._windows: dict[int, Ids] = {}  # step -> its window (T+1, N), cut while the card works

    def take(self, step: int, state: State | None, stops: Stops = ()) -> StepResult:
        """Take a batch of steps from `state` (None: zeros). The first of them is step `step`, counted from 0.

        A batch of steps never crosses an evaluation or a multiple of a number in `stops`. Raises recovery.Diverged for
        a step that is not finite, if recovery does not help.
        """
        captured, columns = self.captured, self.schedule.batches.columns
        if not self._begun or state is not self._held:
            captured.begin(step, state)
            self._begun = True
        steps, count = self._together(step, stops)
        rates = [self.schedule.rate(step + k, self.spent) * self.recovery.rate for k in range(count)]
        captured.fill(step, [self._slot(step + k, lr) for k, lr in enumerate(rates)])
        # Whether these parameters are good is known only after the steps have changed them. So the copy is made now.
        copy = self.model.params.flat.copy() if self.recovery.due(step) else None
        begun = time.perf_counter()
        captured.launch(count, steps)
        self._windows = {k: self._window(k) for k in range(step + count, step + 2 * count)}
        outcome = captured.wait()
        self._seconds = min(self._seconds, (time.perf_counter() - begun) / count)  # the first call also compiles
        # If a step after the first is bad, the card stays halted there. The next call begins at this step and skips it.
        good = outcome.step - step
        if good:
            self.recovery.passed(step, copy)
        else:
            # Skip the step. `recovery` reports the gradient of the mean loss.
            captured.grads.flat /= columns * steps * captured.loss_scale
            self.recovery.skip(step + 1, float(outcome.losses[step % captured.ring]), captured.grads)
            captured.begin(step + 1, None)
        taken = max(good, 1)
        self._held = captured.state
        slots = [(step + k) % captured.ring for k in range(taken)]
        return StepResult(tuple(float(outcome.losses[slot]) for slot in slots), steps * columns, rates[taken - 1],
                          float(outcome.norms[slots[-1]]), captured.state)

    def _slot(self, step: int, lr: float) -> Slot:
        """Return the numbers of step `step` at the learning rate lr."""
        pace = self.optimizer.pace(lr, step + 1 - self.recovery.uncounted)
        return Slot(self._window(step), pace, step % self.schedule.batches.windows == 0)

    def _window(self, step: int) -> Ids:
        """Return the window (T+1, N) of step `step`: rows 0..T-1 are read, rows 1..T are to be predicted."""
        if step in self._windows:
            return self._windows.pop(step)
        x, y = self.schedule.window(step)
        return np.concatenate((x, y[-1:]))

    def _steps(self, step: int) -> int:
        """Return T of the window of step `step`; the last window of an epoch may be shorter."""
        batches = self.schedule.batches
        return min(batches.steps, batches.stream - step % batches.windows * batches.steps)

    def _together(self, step: int, stops: Stops) -> tuple[int, int]:
        """Return (T, count): the length of the windows, and the number of steps that are taken together from `step` on.

        Each entry of `ends` is the number of steps to a place that a batch of steps may not cross.
        """
        schedule, batches, total = self.schedule, self.schedule.batches, self.schedule.total
        steps, ends = self._steps(step), [self.captured.ring, self._in_time()]
        if total is not None:
            ends.append(total - step)
            ends += [ceil(total * k / MILESTONES) - step for k in range(1, MILESTONES + 1)]
        ends += [every - step % every for every in (schedule.config.eval_every, *stops) if every]
        # `take` copies the parameters only before its first step, so a batch of steps must begin where a copy is due.
        since = step if self.recovery.due(step) else self.recovery.since
        ends.append(since + recovery.EVERY - step)
        # A shorter window at the end of the epoch is taken alone.
        rest = batches.windows - step % batches.windows  # windows to the end of the epoch
        whole = self._steps(step + rest - 1) == batches.steps
        if not whole:
            ends.append(1 if rest == 1 else rest - 1)
        return steps, max(1, min(end for end in ends if end > 0))

    def _in_time(self) -> int:
        """Return how many steps take about TURN seconds at the best speed so far; MANY if none is known."""
        return MANY if self._seconds == inf else max(1, int(TURN / self._seconds))
