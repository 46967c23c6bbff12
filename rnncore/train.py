"""Training is a loop that yields its Progress: a window of every stream a step, the state carried, the budget fixed.

The place in the text, the rate and the masks are functions of the step, so a resumed run goes on exactly where it was.
A budget of minutes is spent by the clock instead: the share of it that is gone stands where the share of steps does.
"""
import math
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from . import arguments
from .capture import CapturedSteps
from .config import TrainConfig
from .data.batches import Batches
from .divergence import Course, diverged
from .measure.evaluate import Validation
from .model import CharLM
from .nn.lstm import State
from .optim import OPTIMIZERS
from .recovery import Recovery
from .steps import MILESTONES, EagerSteps, Schedule, Stops

VALIDATE = 0.03    # the share of a run that evaluations in mid-run may take
FINAL = 0.03       # the share that the last one may take
STORED = "step", "chars", "val_windows", "stale", "final_loss", "final_windows"  # of a Training's attributes
FORWARD = 0.4      # a forward pass costs at most this part of a training step


@dataclass(frozen=True)
class Progress:
    """Where a run stands after a step. Losses are nats per character, None where none was measured.

    val_loss is over val_chars characters, a sample of the validation text that is the same in all of a run; at the end
    val_loss_of_all is over val_chars_of_all, as many of them as the time allows.
    notes: a line on each number that was not finite, and what was done about it (recovery.py); the loss of a step that
    was skipped for it is what it was, nan or inf too.
    """
    step: int             # steps taken
    epoch: int            # whole passes over the text before this step
    done: float           # share of the budget that is spent, 0 to 1
    chars: int            # characters trained on
    seconds: float        # since the start, evaluation and saving included
    chars_per_s: float    # while training
    loss: float
    lr: float
    grad_norm: float      # before clipping
    val_loss: float | None = None
    milestone: bool = False
    finished: bool = False
    notes: tuple[str, ...] = ()
    val_chars: int | None = None
    sampled: bool = False  # is val_loss over less than all of the validation text?
    val_loss_of_all: float | None = None
    val_chars_of_all: int | None = None


@dataclass
class Clock:
    """Seconds that count: all since the run began (earlier sittings included), and those spent in training steps."""
    before: float = 0.0
    training: float = 0.0
    started: float | None = None

    def now(self) -> float:
        return self.before + (time.perf_counter() - self.started if self.started is not None else 0.0)

    def __getstate__(self) -> dict[str, Any]:
        """Return what a copy is made of: it stands still until it is iterated, and has its own beginning then."""
        return {"before": self.now(), "training": self.training, "started": None}


class Training:
    """One run: the model, its optimiser, its place in the text and its clock. Iterate to train; each step yields.

    On a path of a card that captures steps, several may be taken at once before there is a Progress: up to the next at
    which an evaluation is due, or of which one of `stops` is a divisor.

    model: a CharLM; batches: data.batches.Batches of the training text; config: with lr and a budget filled in;
    validation: an evaluate.Validation or None. `step`, `state`, `optimizer` and `summary()` are what resuming needs.
    """

    def __init__(self, model: CharLM, batches: Batches, config: TrainConfig, validation: Validation | None = None):
        arguments.of("model", model, CharLM), arguments.of("batches", batches, Batches)
        arguments.of("config", config, TrainConfig)
        if validation is not None:
            arguments.of("validation", validation, Validation)
        self.model, self.batches, self.config, self.validation = model, batches, config, validation
        self.optimizer = OPTIMIZERS[config.optimizer](model.params, config, model.each)
        self.recovery = Recovery(model.params, self.optimizer.moments)
        self.step, self.chars, self.clock, self.course = 0, 0, Clock(), Course()
        self.state: State | None = None
        self.val_windows: int | None = None       # the sample of the validation text that mid-run evaluations score
        self.best: tuple[float, int] | None = None  # lowest val_loss, and its step
        self.stale = 0                            # evaluations since then
        self.final_loss: float | None = None      # over the first final_windows, when the run is finished
        self.final_windows = 0
        self.spent = 0.0                          # done() after the last step
        self.schedule = Schedule(config, batches)
        self.stops: Stops = ()                    # step numbers, or None: the caller wants to act at their multiples
        self._steps: EagerSteps | CapturedSteps | None = None

    def __getstate__(self) -> dict[str, Any]:
        """Return what a copy is made of: all but what takes the steps, which may have graphs of this one's arrays."""
        return vars(self) | {"_steps": None}

    def __iter__(self) -> Iterator[Progress]:
        self.clock = Clock(self.clock.now(), self.clock.training, time.perf_counter())
        self.model.threads = self.config.threads or 1
        finished = self.done() >= 1
        with self.model.kernel.single_threaded():
            while not finished:
                progress = self._advance()
                finished = progress.finished
                yield progress

    def done(self) -> float:
        """The share of the budget that is spent; 1 where the patience is."""
        return 1.0 if self.given_up() else self._budget_done()

    def _budget_done(self) -> float:
        if self.schedule.total is not None:
            return min(1.0, self.step / self.schedule.total)
        step_time = self.clock.training / max(1, self.step)
        return min(1.0, (self.clock.now() + step_time / 2) / self._training_time())

    def spent_all(self) -> bool:
        """Whether the budget is spent."""
        return self._budget_done() >= 1

    def given_up(self) -> bool:
        """Whether the patience is spent."""
        return self.config.patience is not None and self.stale >= self.config.patience

    def diverged(self) -> bool:
        """Return whether a run that is at its end has diverged, in numbers that are finite."""
        return diverged(self.course, self.model.config.vocab_size, self.last_loss()[1])

    def last_loss(self) -> tuple[str, float | None]:
        """Return "validation" and the loss of the evaluation at the end; without one "training" and the recent loss."""
        if self.validation and self.final_loss is not None:
            return "validation", self.final_loss
        return "training", self.course.recent

    def _training_time(self) -> float:
        """Seconds of a budget of minutes, less what the last evaluation will take."""
        budget = 60 * (self.config.minutes or 0)
        if not (self.validation and self.clock.training):
            return budget
        speed = self.chars / self.clock.training
        return budget - min(FINAL * budget, FORWARD * self.validation.chars(self.validation.windows) / speed)

    def _advance(self) -> Progress:
        """Take a step, or on a card several, and evaluate where that is due."""
        begun = time.perf_counter()
        self.final_loss, self.final_windows = None, 0  # of a run that was at its end before and goes on
        kind = CapturedSteps if self.model.device_path.captured else EagerSteps
        if self._steps is None or type(self._steps) is not kind:
            self._steps = kind(self.model, self.optimizer, self.recovery, self.schedule, self.done)
        taken = self._steps.take(self.step, self.state, self.stops)
        for loss in taken.losses:
            self.course.add(loss, taken.chars)
        self.state, steps = taken.state, len(taken.losses)
        epoch = (self.step + steps - 1) // self.batches.windows
        self.step, self.chars = self.step + steps, self.chars + steps * taken.chars
        self.clock.training += time.perf_counter() - begun
        done = self.done()
        milestone = done >= 1 or self._due(self.spent, done)  # what the caller did since the last step counts
        self.spent = done
        val_loss = self._validate(self.validation, done >= 1) if milestone and self.validation else None
        done = 1.0 if self.given_up() else done
        notes, self.recovery.notes = tuple(self.recovery.notes), []
        chars = self.val_chars() if val_loss is not None else {"best": None, "all": None}
        return Progress(self.step, epoch, done, self.chars, self.clock.now(), self.chars / self.clock.training,
                        taken.losses[-1], taken.lr, taken.norm, val_loss, milestone, done >= 1, notes, chars["best"],
                        chars["best"] != chars["all"], self.final_loss, chars.get("end"))

    def _due(self, before: float, done: float) -> bool:
        if self.config.eval_every:
            return self.step % self.config.eval_every == 0
        return int(MILESTONES * before) < int(MILESTONES * done)

    def _validate(self, validation: Validation, last: bool) -> float:
        """The validation loss on the sample; at the end, of the patience too, also on as much as the time allows."""
        if self.val_windows is None:
            evaluations: float = MILESTONES
            if self.config.eval_every:
                batch = self.batches.columns * self.batches.steps
                evaluations = max(1, self._all_chars() / (self.config.eval_every * batch))
            self.val_windows = self._affordable(validation, VALIDATE / evaluations)
        sample = self._measure(validation, self.val_windows, last)
        self.stale += 1
        if self.best is None or sample < self.best[0]:
            self.best, self.stale = (sample, self.step), 0
        if self.given_up() and not last:
            self._measure(validation, self.val_windows, last=True)
        return sample

    def _measure(self, validation: Validation, few: int, last: bool) -> float:
        """The loss on a sample of so few windows; final_loss as well where this is the last."""
        windows = max(few, self._affordable(validation, FINAL)) if last else few
        whole, sample = validation.loss(self.model, windows, prefix=few)
        while not math.isfinite(whole):
            self.recovery.go_back(self.step, f"step {self.step}: the validation loss is {whole:.4g}")
            whole, sample = validation.loss(self.model, windows, prefix=few)
        if last:
            self.final_loss, self.final_windows = whole, windows
        return sample

    def val_chars(self) -> dict[str, int | None]:
        """How many characters validation losses are over: `best` in mid-run, `end` at the end, and `all` there are."""
        if self.validation is None:
            return dict.fromkeys(("best", "end", "all"))
        count = self.validation.chars
        windows = {"best": self.val_windows, "end": self.final_windows, "all": self.validation.windows}
        return {name: count(number) if number else None for name, number in windows.items()}

    def _all_chars(self) -> float:
        """Characters that the whole run will train on."""
        if self.schedule.total is not None:
            return self.schedule.total * self.chars / self.step
        return self.chars / self.clock.training * 60 * (self.config.minutes or 0)

    def _affordable(self, validation: Validation, share: float) -> int:
        """How many windows of validation cost at most that share of the run; at least one."""
        window = validation.batches.columns * validation.batches.steps
        return min(validation.windows, max(1, int(share * self._all_chars() / FORWARD / window)))

    def summary(self) -> dict[str, Any]:
        """The numbers that resuming needs, beside the parameters, the optimiser's moments and the state."""
        return {name: getattr(self, name) for name in STORED} | {
            "seconds": self.clock.now(), "training_seconds": self.clock.training,
            "best": list(self.best) if self.best else None, "recovery": self.recovery.summary(),
            "course": asdict(self.course)}

    def another_text(self) -> None:
        """Go on with another text than before: what was measured on the old validation part counts no more."""
        self.state, self.val_windows, self.best, self.stale = None, None, None, 0
        self.final_loss, self.final_windows = None, 0
        self.course = Course()

    def restore(self, summary: dict[str, Any], moments: Mapping[str, np.ndarray], state: State | None,
                good: np.ndarray | None = None) -> None:
        """Go on from what `summary`, `optimizer.moments`, `state` and `recovery.good` were."""
        self.clock = Clock(summary["seconds"], summary["training_seconds"])
        for name in STORED:
            setattr(self, name, summary.get(name, 0))  # older files lack `stale`
        self.best = tuple(summary["best"]) if summary["best"] else None
        self.spent, self.course = self.done(), Course(**summary.get("course", {}))
        for name, moment in self.optimizer.moments.items():
            moment[...] = self.model.kernel.to_device(moments[name])
        self.state = state and State(*map(self.model.kernel.to_device, state))
        good = None if good is None else self.model.kernel.to_device(good)
        self.recovery.restore(summary.get("recovery", {}), good)


def fit(model: CharLM, batches: Batches, config: TrainConfig,
        validation: Validation | None = None) -> Iterator[Progress]:
    """Train model in place on batches (data.batches.Batches) until the budget of config is spent, a Progress a step.

    config.lr and one of steps, epochs, minutes must be given. Raises recovery.Diverged where recovery does not help.
    """
    return iter(Training(model, batches, config, validation))
