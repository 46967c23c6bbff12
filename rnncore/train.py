"""The training loop: it takes step after step until the budget is spent, and yields a Progress for each.

A step trains on one window of every stream, and the state is carried to the next step. Text, learning rate and masks
are functions of the number of the step, so a resumed run continues exactly where it was. With a budget of minutes, the
learning rate is a function of the time that is spent instead.
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

VALIDATE = 0.03    # share of the run's time that all evaluations before the end may take together
FINAL = 0.03       # share of the run's time that the evaluation at the end may take
STORED = "step", "chars", "val_windows", "stale", "final_loss", "final_windows"  # attributes that a saved run holds
FORWARD = 0.4      # time of a forward pass, as a share of the time of a training step, at most


@dataclass(frozen=True)
class Progress:
    """The progress of a run after a step. Losses are in nats per character, and None if they were not measured.

    val_loss is over the same val_chars characters of the validation text in the whole run. At the end, val_loss_of_all
    is over val_chars_of_all characters, as many as the time allows. notes: a line for each thing that recovery.py did
    about a number that is not finite. milestone: True if an evaluation was due. finished: True if this is the end.
    """
    step: int             # steps taken
    epoch: int            # whole passes over the text before this step
    done: float           # share of the budget that is spent, 0 to 1
    chars: int            # characters trained on
    seconds: float        # since the start, with evaluation and saving
    chars_per_s: float    # over the time of training steps alone
    loss: float           # of this step; nan or inf if the step was skipped for it
    lr: float             # learning rate of this step
    grad_norm: float      # before clipping
    val_loss: float | None = None
    milestone: bool = False
    finished: bool = False
    notes: tuple[str, ...] = ()
    val_chars: int | None = None
    sampled: bool = False  # True if val_loss is over a part of the validation text
    val_loss_of_all: float | None = None
    val_chars_of_all: int | None = None


@dataclass
class Clock:
    """The time of a run, in seconds. In a resumed run the clock continues."""
    before: float = 0.0           # up to the last start or resumption
    training: float = 0.0         # in training steps alone
    started: float | None = None  # time.perf_counter() at the last start; None: the clock stands still

    def now(self) -> float:
        """Return the seconds since the run began, without the time between a stop and a resumption."""
        return self.before + (time.perf_counter() - self.started if self.started is not None else 0.0)

    def __getstate__(self) -> dict[str, Any]:
        """Return the attributes of a copy: its clock stands still until the copy is iterated."""
        return {"before": self.now(), "training": self.training, "started": None}


class Training:
    """One run: model, optimiser, place in the text and clock. Iterate over it to train; it yields a Progress a step.

    On a path that captures steps, one Progress may cover several steps. A batch of steps never crosses an evaluation or
    a multiple of a number in `stops`.

    model: a CharLM; batches: data.batches.Batches of the training text; config: a TrainConfig with lr and a budget;
    validation: a measure.evaluate.Validation, or None. A resumed run needs `summary()`, `optimizer.moments`, `state`
    and `recovery.good` (see `restore`). Raises TypeError for an argument of another type, ValueError for a config
    without lr or budget. Iteration raises recovery.Diverged if recovery does not help.
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
        self.val_windows: int | None = None       # windows of the validation text that each evaluation scores
        self.best: tuple[float, int] | None = None  # the lowest val_loss, and its step
        self.stale = 0                            # evaluations since the best one
        self.final_loss: float | None = None      # over the first final_windows windows, at the end of the run
        self.final_windows = 0
        self.spent = 0.0                          # the result of done() after the last step
        self.schedule = Schedule(config, batches)
        self.stops: Stops = ()                    # the caller wants to act at their multiples (steps.py)
        self._steps: EagerSteps | CapturedSteps | None = None

    def __getstate__(self) -> dict[str, Any]:
        """Return the attributes of a copy, without the object that takes the steps: its graphs use our arrays."""
        return vars(self) | {"_steps": None}

    def __iter__(self) -> Iterator[Progress]:
        """Train until the budget or the patience is spent, and yield a Progress for each step (or batch of steps)."""
        self.clock = Clock(self.clock.now(), self.clock.training, time.perf_counter())
        self.model.threads = self.config.threads or 1
        finished = self.done() >= 1
        with self.model.kernel.single_threaded():
            while not finished:
                progress = self._advance()
                finished = progress.finished
                yield progress

    def done(self) -> float:
        """Return the share of the budget that is spent, 0 to 1; 1 if the patience is spent."""
        return 1.0 if self.given_up() else self._budget_done()

    def _budget_done(self) -> float:
        """Return the share of the budget that is spent, 0 to 1, by steps or by the clock."""
        if self.schedule.total is not None:
            return min(1.0, self.step / self.schedule.total)
        # Half a step is added, so that the run ends at the step whose end is nearest to the budget.
        step_time = self.clock.training / max(1, self.step)
        return min(1.0, (self.clock.now() + step_time / 2) / self._training_time())

    def spent_all(self) -> bool:
        """Return True if the budget is spent."""
        return self._budget_done() >= 1

    def given_up(self) -> bool:
        """Return True if the patience is spent: config.patience evaluations in a row were not better than the best."""
        return self.config.patience is not None and self.stale >= self.config.patience

    def diverged(self) -> bool:
        """Return True if the run, which is at its end, has diverged with finite numbers (divergence.py)."""
        return diverged(self.course, self.model.config.vocab_size, self.last_loss()[1])

    def last_loss(self) -> tuple[str, float | None]:
        """Return ("validation", the loss at the end), or without an evaluation ("training", the recent loss).

        Losses are in nats per character; None if there is none.
        """
        if self.validation and self.final_loss is not None:
            return "validation", self.final_loss
        return "training", self.course.recent

    def _training_time(self) -> float:
        """Return the seconds of a budget of minutes, without the time that the evaluation at the end will take."""
        budget = 60 * (self.config.minutes or 0)
        if not (self.validation and self.clock.training):
            return budget
        speed = self.chars / self.clock.training
        return budget - min(FINAL * budget, FORWARD * self.validation.chars(self.validation.windows) / speed)

    def _advance(self) -> Progress:
        """Take a step, or several on a path that captures steps, and evaluate if that is due."""
        begun = time.perf_counter()
        self.final_loss, self.final_windows = None, 0  # they may be from an earlier end: a budget can be extended
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
        # With minutes, the time of the caller's work since the last step counts, too: self.spent is from before it.
        milestone = done >= 1 or self._due(self.spent, done)
        self.spent = done
        val_loss = self._validate(self.validation, done >= 1) if milestone and self.validation else None
        done = 1.0 if self.given_up() else done
        notes, self.recovery.notes = tuple(self.recovery.notes), []
        chars = self.val_chars() if val_loss is not None else {"best": None, "all": None}
        return Progress(self.step, epoch, done, self.chars, self.clock.now(), self.chars / self.clock.training,
                        taken.losses[-1], taken.lr, taken.norm, val_loss, milestone, done >= 1, notes, chars["best"],
                        chars["best"] != chars["all"], self.final_loss, chars.get("end"))

    def _due(self, before: float, done: float) -> bool:
        """Return True if an evaluation is due; before, done: the share of the budget before and after this step."""
        if self.config.eval_every:
            return self.step % self.config.eval_every == 0
        return int(MILESTONES * before) < int(MILESTONES * done)

    def _validate(self, validation: Validation, last: bool) -> float:
        """Return the validation loss on the sample of this run, and update `best` and `stale`.

        At the end, which may be the end of the patience, also measure final_loss.
        """
        # The sample is chosen at the first evaluation and kept: losses over other samples could not be compared.
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
        """Return the loss on the first `few` windows. last: set final_loss, over as many windows as the time allows.

        Raises recovery.Diverged for a loss that is not finite, if recovery does not help.
        """
        windows = max(few, self._affordable(validation, FINAL)) if last else few
        whole, sample = validation.loss(self.model, windows, prefix=few)
        while not math.isfinite(whole):
            self.recovery.go_back(self.step, f"step {self.step}: the validation loss is {whole:.4g}")
            whole, sample = validation.loss(self.model, windows, prefix=few)
        if last:
            self.final_loss, self.final_windows = whole, windows
        return sample

    def val_chars(self) -> dict[str, int | None]:
        """Return, by name, the number of characters behind each validation loss; None if there is no such loss.

        best: evaluations before the end. end: the evaluation at the end. all: the whole validation text.
        """
        if self.validation is None:
            return dict.fromkeys(("best", "end", "all"))
        count = self.validation.chars
        windows = {"best": self.val_windows, "end": self.final_windows, "all": self.validation.windows}
        return {name: count(number) if number else None for name, number in windows.items()}

    def _all_chars(self) -> float:
        """Return the number of characters that the whole run will train on, estimated from the steps so far."""
        if self.schedule.total is not None:
            return self.schedule.total * self.chars / self.step
        return self.chars / self.clock.training * 60 * (self.config.minutes or 0)

    def _affordable(self, validation: Validation, share: float) -> int:
        """Return how many windows of validation cost at most this share of the run's time; at least one."""
        window = validation.batches.columns * validation.batches.steps
        return min(validation.windows, max(1, int(share * self._all_chars() / FORWARD / window)))

    def summary(self) -> dict[str, Any]:
        """Return the numbers, by name, that `restore` needs beside the parameters and its other arguments."""
        return {name: getattr(self, name) for name in STORED} | {
            "seconds": self.clock.now(), "training_seconds": self.clock.training,
            "best": list(self.best) if self.best else None, "recovery": self.recovery.summary(),
            "course": asdict(self.course)}

    def another_text(self) -> None:
        """Forget the state and all losses, because the run continues with another text."""
        self.state, self.val_windows, self.best, self.stale = None, None, None, 0
        self.final_loss, self.final_windows = None, 0
        self.course = Course()

    def restore(self, summary: dict[str, Any], moments: Mapping[str, np.ndarray], state: State | None,
                good: np.ndarray | None = None) -> None:
        """Continue a saved run: from its `summary()`, `optimizer.moments`, `state` and `recovery.good`, on the host."""
        self.clock = Clock(summary["seconds"], summary["training_seconds"])
        for name in STORED:
            setattr(self, name, summary.get(name, 0))  # older files have no `stale`
        self.best = tuple(summary["best"]) if summary["best"] else None
        self.spent, self.course = self.done(), Course(**summary.get("course", {}))
        for name, moment in self.optimizer.moments.items():
            moment[...] = self.model.kernel.to_device(moments[name])
        self.state = state and State(*map(self.model.kernel.to_device, state))
        good = None if good is None else self.model.kernel.to_device(good)
        self.recovery.restore(summary.get("recovery", {}), good)


def fit(model: CharLM, batches: Batches, config: TrainConfig,
        validation: Validation | None = None) -> Iterator[Progress]:
    """Return an iterator that trains the model in place until the budget is spent, and yields a Progress a step.

    Arguments and errors are those of Training: config must have lr and one of steps, epochs and minutes.
    """
    return iter(Training(model, batches, config, validation))
