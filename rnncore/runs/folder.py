"""A run folder holds one training run: its models, its metrics and its samples.

    best.safetensors   the model with the lowest validation loss     metrics.jsonl   a row a second, and the last
    last.safetensors   all that resuming needs                       samples.txt     what the model wrote on the way
    step-000100.safetensors and so on: what `last` was after those steps, without the list of its files, as many
    as are to be kept
    tensorboard/       metrics and samples for TensorBoard, where they are wanted
"""
import contextlib
import datetime
import json
import math
import platform
import re
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from .. import __version__
from ..nn.lstm import State
from ..params import Tensors
from ..train import Progress, Training
from . import checkpoint, metadata
from .files import append, write_whole
from .lock import NAME as LOCK, RunError
from .metadata import ModelFileError
from .names import RUNS
from .places import passed_on
from .schema import Card, Metadata, Settings

HEAD = re.compile(r"^--- step (\d{1,15})\n", re.MULTILINE)  # of a sample
MEASURED = "val_chars", "val_loss_of_all", "val_chars_of_all"  # of a row: there after an evaluation alone
NO_MODEL = {"metrics.jsonl", "samples.txt"}
PASSAGE = "passage.txt"  # the validation text that the report of a run reads
EVENTS, EVENT_FILES = "tensorboard", "events.out.tfevents.*"  # a folder, and what lies in it


class RunFolder:
    """The folder `path` of one run. settings: corpus, split and what was asked for, as resuming needs them.

    keep: how many step-*.safetensors stay. kept: the validation loss and the step of the model in best.safetensors,
    None before the first. changed: options that the run goes on with otherwise than before, each with [before, after],
    to be written into the next row of the metrics. lock.held says whose the folder is.
    """

    def __init__(self, path: Path, settings: Settings, keep: int = 0):
        self.path, self.settings, self.keep = path, settings, keep
        self.last, self.best = path / "last.safetensors", path / "best.safetensors"
        self.kept: tuple[float, int] | None = None
        self.changed: dict[str, list[Any]] = {}
        self._logged, self._row = float("-inf"), 0

    def make(self) -> None:
        """Make the folder and make sure that it can be written. Raises RunError."""
        if self.path.exists() and not (self.path.is_dir() and all(map(_remains, self.path.iterdir()))):
            go_on = ", or go on with it with --resume" if self.last.is_file() else ""
            raise RunError(f"{self.path} exists already: take another name with -o{go_on}")
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            for name in NO_MODEL:  # of a run that ended before it saved a model
                (self.path / name).unlink(missing_ok=True)
            for events in (self.path / EVENTS).glob(EVENT_FILES):
                events.unlink()
            self._sweep()
            (self.path / "metrics.jsonl").touch()
        except OSError as error:
            raise RunError(f"the run folder {self.path} cannot be written ({error.strerror}): "
                           "name another with -o") from None

    def log(self, progress: Progress, last: bool = False) -> None:
        """Add a row to metrics.jsonl: at least each second, at each evaluation, each bad step and at the last step."""
        now = time.monotonic()
        due = progress.milestone or progress.finished or progress.notes or last or now >= self._logged + 1
        if not due or self._row == progress.step:
            return
        row = {"step": progress.step, "chars": progress.chars, "seconds": round(progress.seconds, 3),
               "chars_per_s": round(progress.chars_per_s, 1), "loss": progress.loss, "val_loss": progress.val_loss,
               "lr": progress.lr, "grad_norm": progress.grad_norm}
        row |= {name: getattr(progress, name) for name in MEASURED if getattr(progress, name) is not None}
        finite = {name: None if value is None or not math.isfinite(value) else value for name, value in row.items()}
        changed = {"changed": self.changed} if self.changed else {}
        self._logged, self._row = now, progress.step
        append(self.path / "metrics.jsonl", (json.dumps(finite | changed) + "\n").encode())
        self.changed = {}

    def rewind(self, step: int) -> None:
        """Drop the rows of metrics.jsonl and the samples past `step`, and what a killed run left half written."""
        self._sweep()
        path = self.path / "metrics.jsonl"
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines() if path.is_file() else []
        kept = [line for line in lines if (row := parsed(line)) is not None and row["step"] <= step]
        write_whole(path, "".join(line + "\n" for line in kept).encode())
        path = self.path / "samples.txt"
        text = path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""
        heads = list(re.finditer(r"^--- step (\d{1,15})$", text, re.MULTILINE))
        dropped = [head.start() for head in heads if int(head[1]) > step] + [
            head.start() for head in heads[-1:] if not text.endswith("\n")]
        if dropped:
            write_whole(path, text[:min(dropped)].encode())

    def add_sample(self, step: int, text: str) -> None:
        """Add what the model wrote at `step` to samples.txt; a line that looks like a head gets a blank before it."""
        text = HEAD.sub(lambda head: f" {head[0]}", text + "\n")
        append(self.path / "samples.txt", f"--- step {step}\n{text}".encode(errors="replace"))

    def save(self, training: Training, best: bool) -> None:
        """Write last.safetensors, best.safetensors if this is the best model so far, and a step-*.safetensors to keep.

        Raises OSError, and ModelFileError for what could not be read again. A best model that is not written does not
        count as the best; last is written all the same.
        """
        failed: Exception | None = None
        card = self.card(training)
        if best:
            try:
                checkpoint.save(training.model, self.best, card)
                self.kept = training.best
            except (OSError, ModelFileError) as error:
                training.best, failed = self.kept, error
                card = self.card(training)
        extra = {f"optimizer.{name}": moment for name, moment in training.optimizer.moments.items()}
        if training.state is not None:
            extra |= {"state.h": training.state.h, "state.c": training.state.c}
        if training.recovery.good is not None:
            extra["state.good"] = training.recovery.good
        extra = {name: training.model.kernel.to_host(array) for name, array in extra.items()}
        resume = {"settings": self.settings, "config": asdict(training.config), "progress": training.summary()}
        checkpoint.save(training.model, self.last, card, extra, resume)
        if training.best is None and self.best.is_file():  # it was so on a corpus before this one
            self.best.rename(self.path / "best-before.safetensors")
        if self.keep:
            resume["settings"] = passed_on(self.settings)
            checkpoint.save(training.model, self.path / f"step-{training.step:06}.safetensors", card, extra, resume)
            for old in steps_kept(self.path)[self.keep:]:
                old.unlink(missing_ok=True)
        if failed:
            raise failed

    def _sweep(self) -> None:
        """Remove what a killed run left half written."""
        for stale in self.path.glob(".*.tmp"):
            stale.unlink(missing_ok=True)

    def card(self, training: Training) -> Card:
        """The training card: corpus, split, losses, versions."""
        best = training.best
        settings = passed_on(self.settings)
        about = {name: settings.get(name) for name in ("corpus", "split", "preset", "init_from", "origin", "floor",
                                                       "precision")}
        if "no_floor" in settings:
            about["no_floor"] = settings["no_floor"]
        return {**about, "changes": settings.get("changes", []), "step": training.step,
                "chars": training.chars, "seconds": round(training.clock.now(), 1),
                "val_loss": best[0] if best else None, "best_step": best[1] if best else None,
                "val_loss_of_all": training.final_loss,
                "val_chars": training.val_chars() if training.validation else None, "train": asdict(training.config),
                "made": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
                "versions": {"rnncore": __version__, "numpy": np.__version__, "python": platform.python_version()}}


def restore(training: Training, document: Metadata, tensors: Tensors) -> None:
    """Put a new Training where the one that wrote `last.safetensors` was; document, tensors: as read_newest checks."""
    moments = {name: tensors[f"optimizer.{name}"] for name in training.optimizer.moments}
    state = State(tensors["state.h"], tensors["state.c"])
    training.restore(document["training"]["progress"], moments, state, tensors.get("state.good"))


def trained(card: Card) -> bool:
    """Whether a card is one that `RunFolder.card` made: a model that was saved from Python may have any."""
    return metadata.fault(card, metadata.CARD, "card") is None


def fresh(name: str) -> Path:
    """runs/NAME, or runs/NAME-2, runs/NAME-3 ... where that exists: the folder is made, so that no other run takes it.

    One that cannot be made is handed back all the same, for `lock.held` to say why.
    """
    path, number = RUNS / name, 1
    while True:
        try:
            path.mkdir(parents=True)
            return path
        except FileExistsError:
            number += 1
            path = RUNS / f"{name}-{number}"
        except OSError:
            return path


def first_loss(path: Path) -> float | None:
    """The training loss in the first row of metrics.jsonl in the run folder `path`; None where there is none."""
    with contextlib.suppress(OSError), open(path / "metrics.jsonl", encoding="utf-8", errors="replace") as file:
        loss = (parsed(file.readline()) or {}).get("loss")
        return loss if type(loss) is float and loss >= 0 else None
    return None


def samples(text: str) -> list[tuple[int, str]]:
    """(step, what the model wrote then) of the text of a samples.txt."""
    _, *parts = HEAD.split(text)
    return [(int(step), sample) for step, sample in zip(parts[::2], parts[1::2], strict=True)]


def steps_kept(path: Path) -> list[Path]:
    """The step-*.safetensors in the run folder `path`, the newest first."""
    found = {int(match[1]): file for file in path.glob("step-*.safetensors")
             if (match := re.fullmatch(r"step-(\d+)\.safetensors", file.name))}
    return [found[step] for step in sorted(found, reverse=True)]


def read_last(path: Path) -> tuple[Metadata, Tensors]:
    """(document, tensors) of last.safetensors in the run folder `path`. Raises RunError, ModelFileError."""
    return _read_training(path / "last.safetensors")


def read_newest(path: Path) -> tuple[Metadata, Tensors, list[str]]:
    """(document, tensors, warnings) of the newest file to go on with: last, or where that is damaged a kept step.

    Raises RunError, ModelFileError.
    """
    last, best = path / "last.safetensors", path / "best.safetensors"
    damage: list[Exception] = []
    for file in (last, *steps_kept(path)):
        try:
            document, tensors = _read_training(file)
            metadata.check_training(file, document, tensors)
        except (RunError, ModelFileError) as error:
            damage.append(error)
            continue
        if not damage:
            return document, tensors, []
        words = damage[0] if last.is_file() else f"{path} has no {last.name} any more"
        return document, tensors, [f"warning: {words}; going on with {file.name}"]
    if best.is_file():
        raise ModelFileError(f"{damage[0]}; {best.name} has no optimiser state to go on with, but --init-from {best} "
                             "begins a new run from it")
    raise damage[0]


def _read_training(path: Path) -> tuple[Metadata, Tensors]:
    if not path.is_file():
        raise RunError(f"{path.parent} holds no run to go on with ({path.name}): start one without --resume")
    document, tensors = checkpoint.read(path)
    if "training" not in document:
        raise ModelFileError(f"{path} holds a model but not what resuming needs: start a new run")
    return document, tensors


def _remains(path: Path) -> bool:
    """Whether this may be left of a run that ended before it saved a model."""
    if path.name == EVENTS and path.is_dir():
        return all(file.match(EVENT_FILES) for file in path.iterdir())
    return path.name in NO_MODEL or path.name == LOCK or path.match(".*.tmp")


def parsed(line: str) -> dict[str, Any] | None:
    """Return a row of metrics.jsonl; None for a line that is torn or is no row."""
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return row if isinstance(row, dict) and isinstance(row.get("step"), int) else None
