"""A captured step is a whole training step recorded once on a card and replayed: nothing of it waits for the host.

    window -> embedding, layers, head -> loss -> back-propagation -> norm, clipping -> optimiser -> state carried on

What differs from step to step (the window, the rate, the dropout masks' counter) lies on the card, in the slots of a
ring that the host fills ahead (kernels/cuda/step_control.py). The gradient is that of the summed loss; what the
optimiser multiplies it with makes the mean of it.
"""
import time
from collections.abc import Callable
from math import ceil, inf
from typing import NamedTuple

import numpy as np

from . import recovery
from .config import TrainConfig
from .kernels import Array, Ids
from .model import CharLM
from .nn import Dropout, State, stack
from .optim import Adam, Pace
from .recovery import Recovery
from .steps import MILESTONES, Schedule, StepResult, Stops

RING = 256      # steps that may be launched before the host looks, at most,
IDS = 1 << 22   # and ids in their windows
MANY = 8        # steps of one launch
TURN = 0.2      # seconds that the steps of one take last, about


class Slot(NamedTuple):
    """What a step goes by: the window (T+1, N) of ids, optim.Pace, and whether the state begins at zero."""
    window: np.ndarray
    pace: Pace
    fresh: bool


class Outcome(NamedTuple):
    """How far what was launched came: the next step, and whether that one's loss or gradient is not finite.

    losses (nats a character) and norms (before clipping): those of the last steps, by step % ring.
    """
    step: int
    bad: bool
    losses: np.ndarray
    norms: np.ndarray


class Captured:
    """The training steps of a model over batches of at most (T, N), on the path that the model takes.

    optimizer: of its parameters; config: a TrainConfig. Only one at a time may train a model.
    """

    def __init__(self, model: CharLM, optimizer: Adam, config: TrainConfig, steps: int, n: int):
        self.model, self.optimizer, self.config, self.steps, self.n = model, optimizer, config, steps, n
        self.path = model.device_path
        self.grads = model.params.like()
        self.ring = max(1, min(RING, IDS // ((steps + 1) * n)))
        self.control = self.path.step_control(self.ring, steps, n, config.clip)
        self.work = stack.Workspace(model.params, steps, n, path=self.path)
        sizes = model.config.layers, model.config.hidden, n
        self.state = State(*(model.kernel.xp.zeros(sizes, model.dtype) for _ in "hc"))  # before the next step
        self._keep = model.kernel.xp.empty((steps, n), model.dtype)
        self._graphs: dict[int, Callable[[], None]] = {}  # number of steps -> what launches the graph
        optimizer.workspaces = {}  # to be kept from step to step
        self._tried: set[int] = set()  # numbers of time steps that have run once: their buffers are made

    def begin(self, step: int, state: State | None) -> None:
        """Step `step` is the next, from that state; None: zeros."""
        for mine, given in zip(self.state, state or (0, 0), strict=True):
            mine[...] = given
        self.control.go(step)

    def fill(self, step: int, slots: list[Slot]) -> None:
        """What the steps from `step` on go by, of windows of one length; at most `ring` steps ahead of the next."""
        numbers = np.array([[*slot.pace, slot.fresh] for slot in slots], np.float64)
        self.control.fill(step, np.stack([slot.window for slot in slots]), numbers)

    def launch(self, count: int, steps: int) -> None:
        """Enqueue the next `count` steps, all of windows of `steps` characters; the host does not wait."""
        with self.model.computing():
            if steps not in self._tried:
                self._try(steps)
            if steps != self.steps:  # the last window of an epoch: one step, for which no graph is recorded
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
        """Wait for what was launched."""
        return Outcome(*self.control.read())

    def _try(self, steps: int) -> None:
        """Run a halted step, which changes nothing: kernels are compiled and buffers made before a capture."""
        step = self.wait().step
        self.control.go(step, halted=True)
        self._step(steps)
        self.control.go(step)
        self._tried.add(steps)

    def _step(self, steps: int) -> None:
        model, work, control, optimizer = self.model, self.work, self.control, self.optimizer
        first, last = (State(work.h[:, :, t], work.c[:, :, t]) for t in (0, steps))
        control.begin(self.state, first)
        x, y = control.ids[:steps], control.ids[1:steps + 1]
        dropout = Dropout(self.config.dropout or 0.0, self.config.seed, control.words, self.config.variational,
                          self.config.weight_drop or 0.0)
        weights = model.weights(dropout)
        stack.gradients(weights, self.grads, [stack.Pass(x, work, self._kept(x), dropout, y)])
        model.mask_gradients(weights, self.grads)
        control.check(work.loss[:steps], self.grads.flat)
        optimizer.update(model.params, self.grads, Pace(*control.pace), control.scale)
        control.carry(last, self.state)

    def _kept(self, x: Ids) -> Array | None:
        """0 where a document ends, as CharLM.keep."""
        end = self.model.vocab.end
        return None if end is None else self.model.kernel.xp.not_equal(x, end, out=self._keep[:len(x)])


class CapturedSteps:
    """Takes the steps of a run several at a time, up to the next at which something is due.

    What becomes of the parameters does not depend on how many are taken together: each step has the window, the rate
    and the masks of its number, and one whose loss or gradient is not finite stops those behind it.
    """

    def __init__(self, model: CharLM, optimizer: Adam, recovery: Recovery, schedule: Schedule,
                 spent: Callable[[], float]):
        self.model, self.optimizer, self.recovery, self.schedule = model, optimizer, recovery, schedule
        self.spent = spent
        batches = schedule.batches
        self.captured = Captured(model, optimizer, schedule.config, batches.steps, batches.columns)
        self._held: State | None = None  # the state behind the last step, as the caller was given it
        self._begun = False
        self._seconds = inf              # a step
        self._windows: dict[int, Ids] = {}  # by step: cut ahead, while the card works

    def take(self, step: int, state: State | None, stops: Stops = ()) -> StepResult:
        """Take step `step`, from 0, and those behind it that are taken together, from that state; None: zeros.

        They go up to the next at which an evaluation is due, or of which one of `stops` is a divisor.
        """
        captured, columns = self.captured, self.schedule.batches.columns
        if not self._begun or state is not self._held:
            captured.begin(step, state)
            self._begun = True
        steps, count = self._together(step, stops)
        rates = [self.schedule.rate(step + k, self.spent) * self.recovery.rate for k in range(count)]
        captured.fill(step, [self._slot(step + k, lr) for k, lr in enumerate(rates)])
        copy = self.model.params.flat.copy() if self.recovery.due(step) else None
        begun = time.perf_counter()
        captured.launch(count, steps)
        self._windows = {k: self._window(k) for k in range(step + count, step + 2 * count)}
        outcome = captured.wait()
        self._seconds = min(self._seconds, (time.perf_counter() - begun) / count)  # the first ones compile and record
        good = outcome.step - step
        if good:
            self.recovery.passed(step, copy)
        else:
            self._skip(step, outcome)
        taken = max(good, 1)
        self._held = captured.state
        slots = [(step + k) % captured.ring for k in range(taken)]
        return StepResult(tuple(float(outcome.losses[slot]) for slot in slots), steps * columns, rates[taken - 1],
                          float(outcome.norms[slots[-1]]), captured.state)

    def _skip(self, step: int, outcome: Outcome) -> None:
        """Skip a step that is not finite: it counts, but changes nothing, and the state begins anew."""
        captured = self.captured
        captured.grads.flat /= self.schedule.batches.columns * self._steps(step)
        self.recovery.skip(step + 1, float(outcome.losses[step % captured.ring]), captured.grads)
        captured.begin(step + 1, None)

    def _slot(self, step: int, lr: float) -> Slot:
        """What step `step` goes by."""
        pace = self.optimizer.pace(lr, step + 1 - self.recovery.uncounted)
        return Slot(self._window(step), pace, step % self.schedule.batches.windows == 0)

    def _window(self, step: int) -> Ids:
        """The ids (T+1, N) of step `step`: all but the last row are read, all but the first predicted."""
        if step in self._windows:
            return self._windows.pop(step)
        x, y = self.schedule.window(step)
        return np.concatenate((x, y[-1:]))

    def _steps(self, step: int) -> int:
        """T of that step's window: the last of an epoch may be shorter."""
        batches = self.schedule.batches
        return min(batches.steps, batches.stream - step % batches.windows * batches.steps)

    def _together(self, step: int, stops: Stops) -> tuple[int, int]:
        """(T of their windows, how many steps) are taken together."""
        schedule, batches, total = self.schedule, self.schedule.batches, self.schedule.total
        steps, ends = self._steps(step), [self.captured.ring, self._in_time()]
        if total is not None:
            ends.append(total - step)
            ends += [ceil(total * k / MILESTONES) - step for k in range(1, MILESTONES + 1)]
        ends += [every - step % every for every in (schedule.config.eval_every, *stops) if every]
        since = step if self.recovery.due(step) else self.recovery.since
        ends.append(since + recovery.EVERY - step)
        rest = batches.windows - step % batches.windows  # of the epoch
        whole = self._steps(step + rest - 1) == batches.steps
        if not whole:
            ends.append(1 if rest == 1 else rest - 1)
        return steps, max(1, min(end for end in ends if end > 0))

    def _in_time(self) -> int:
        """How many steps take about as long as one turn, at the best speed so far."""
        return MANY if self._seconds == inf else max(1, int(TURN / self._seconds))
