"""The run folder: one training run on disk, with its model files, metrics and samples.

    best.safetensors   the model with the lowest validation loss
    last.safetensors   the newest model and all data for resuming
    step-000100.safetensors, ...   copies of last.safetensors after those steps, the newest `keep` of them. They do not
                       hold the list of the corpus's files, because they may be passed on to other people.
    metrics.jsonl      one row per second of training, per evaluation, and for the last step
    samples.txt        texts that the model wrote during training
    tensorboard/       metrics and samples for TensorBoard, if the run was started with --tensorboard
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

HEAD = re.compile(r"^--- step (\d{1,15})\n", re.MULTILINE)  # the line before each sample in samples.txt
MEASURED = "val_chars", "val_loss_of_all", "val_chars_of_all"  # keys of metrics.jsonl that only an evaluation adds
NO_MODEL = {"metrics.jsonl", "samples.txt"}  # files that a run writes before its first save
PASSAGE = "passage.txt"  # the validation text that the report of a run reads
EVENTS, EVENT_FILES = "tensorboard", "events.out.tfevents.*"  # the folder for TensorBoard, and its files


class RunFolder:
    """The folder `path` of one run; its methods write the files. Hold lock.held(path) while writing.

    settings: corpus, split and requested options, which resuming needs (metadata.TRAINING["settings"]). keep: number of
    step-*.safetensors files to keep. kept: (validation loss, step) of the model in best.safetensors, None before the
    first. changed: options that a resumed run has changed, as name -> [before, after]; the next row of metrics.jsonl
    records them.
    """

    def __init__(self, path: Path, settings: Settings, keep: int = 0):
        self.path, self.settings, self.keep = path, settings, keep
        self.last, self.best = path / "last.safetensors", path / "best.safetensors"
        self.kept: tuple[float, int] | None = None
        self.changed: dict[str, list[Any]] = {}
        self._logged, self._row = float("-inf"), 0

    def make(self) -> None:
        """Create the folder for a new run, with an empty metrics.jsonl.

        Raises RunError if the folder cannot be written, or holds more than the remains of a run without a model.
        """
        if self.path.exists() and not (self.path.is_dir() and all(map(_remains, self.path.iterdir()))):
            go_on = ", or go on with it with --resume" if self.last.is_file() else ""
            raise RunError(f"{self.path} exists already: take another name with -o{go_on}")
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            for name in NO_MODEL:  # left by a run that ended before its first save
                (self.path / name).unlink(missing_ok=True)
            for events in (self.path / EVENTS).glob(EVENT_FILES):
                events.unlink()
            self._sweep()
            (self.path / "metrics.jsonl").touch()
        except OSError as error:
            raise RunError(f"the run folder {self.path} cannot be written ({error.strerror}): "
                           "name another with -o") from None

    def log(self, progress: Progress, last: bool = False) -> None:
        """Append a row to metrics.jsonl if one is due.

        A row is due after a second without one, at an evaluation, at a step with notes (recovery.py), and at the last
        step. last: True to write a row in any case. A number that is not finite becomes null. Raises OSError.
        """
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
        # Before the write: if the write fails, the next try is a second later, not at every step.
        self._logged, self._row = now, progress.step
        append(self.path / "metrics.jsonl", (json.dumps(finite | changed) + "\n").encode())
        self.changed = {}

    def rewind(self, step: int) -> None:
        """Remove the metrics and samples after `step`, and any incomplete lines and files of a killed run.

        The resumed run then writes the metrics of these steps again, each of them once. Raises OSError.
        """
        self._sweep()
        path = self.path / "metrics.jsonl"
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines() if path.is_file() else []
        kept = [line for line in lines if (row := parsed(line)) is not None and row["step"] <= step]
        write_whole(path, "".join(line + "\n" for line in kept).encode())
        path = self.path / "samples.txt"
        text = path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""
        heads = list(re.finditer(r"^--- step (\d{1,15})$", text, re.MULTILINE))
        # A last sample without a line end was not written completely, so it is removed too.
        dropped = [head.start() for head in heads if int(head[1]) > step] + [
            head.start() for head in heads[-1:] if not text.endswith("\n")]
        if dropped:
            write_whole(path, text[:min(dropped)].encode())

    def add_sample(self, step: int, text: str) -> None:
        """Append a sample of `step` to samples.txt. Raises OSError.

        A line of the sample that looks like the line before a sample gets a space at its beginning.
        """
        text = HEAD.sub(lambda head: f" {head[0]}", text + "\n")
        append(self.path / "samples.txt", f"--- step {step}\n{text}".encode(errors="replace"))

    def save(self, training: Training, best: bool) -> None:
        """Write last.safetensors, a step-*.safetensors if `keep` is above 0, and best.safetensors if `best` is True.

        If best.safetensors cannot be written, last.safetensors is still written, and the model does not count as the
        best. Raises OSError if a file cannot be written, ModelFileError if a written file does not pass the check.
        """
        failed: Exception | None = None
        card = self.card(training)
        # The best model first: last.safetensors records which model is the best, and must not name an unwritten one.
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
        if training.best is None and self.best.is_file():  # the best on another corpus
            self.best.rename(self.path / "best-before.safetensors")
        if self.keep:
            resume["settings"] = passed_on(self.settings)
            checkpoint.save(training.model, self.path / f"step-{training.step:06}.safetensors", card, extra, resume)
            for old in steps_kept(self.path)[self.keep:]:
                old.unlink(missing_ok=True)
        if failed:
            raise failed

    def _sweep(self) -> None:
        """Remove the temporary files that a killed run left."""
        for stale in self.path.glob(".*.tmp"):
            stale.unlink(missing_ok=True)

    def card(self, training: Training) -> Card:
        """Return the training card (metadata.CARD): corpus, split, settings, losses and versions."""
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


def restore(training: Training, meta: Metadata, tensors: Tensors) -> None:
    """Set a new Training to the saved progress, moments and state.

    meta, tensors: as read_newest returns them, after its checks.
    """
    moments = {name: tensors[f"optimizer.{name}"] for name in training.optimizer.moments}
    state = State(tensors["state.h"], tensors["state.c"])
    training.restore(meta["training"]["progress"], moments, state, tensors.get("state.good"))


def trained(card: Card) -> bool:
    """Return True if `RunFolder.card` made this card. A model saved with `rnncore.save` may have any other card."""
    return metadata.fault(card, metadata.CARD, "card") is None


def fresh(name: str) -> Path:
    """Create and return a new folder: runs/NAME, or the first free one of runs/NAME-2, runs/NAME-3, ...

    The folder is created here so that no other run takes it. If it cannot be created, its path is still returned, and
    `lock.held` raises the error with the reason.
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
    """Return the training loss of the first row of metrics.jsonl in the run folder `path`, in nats per character.

    Return None if there is no such row or it has no loss.
    """
    with contextlib.suppress(OSError), open(path / "metrics.jsonl", encoding="utf-8", errors="replace") as file:
        loss = (parsed(file.readline()) or {}).get("loss")
        return loss if type(loss) is float and loss >= 0 else None
    return None


def samples(text: str) -> list[tuple[int, str]]:
    """Return (step, sample) for each sample in the text of a samples.txt."""
    _, *parts = HEAD.split(text)
    return [(int(step), sample) for step, sample in zip(parts[::2], parts[1::2], strict=True)]


def steps_kept(path: Path) -> list[Path]:
    """Return the step-*.safetensors files in the run folder `path`, the newest first."""
    found = {int(match[1]): file for file in path.glob("step-*.safetensors")
             if (match := re.fullmatch(r"step-(\d+)\.safetensors", file.name))}
    return [found[step] for step in sorted(found, reverse=True)]


def read_newest(path: Path) -> tuple[Metadata, Tensors, list[str]]:
    """Return (metadata, tensors, warnings) of the newest file that resuming can use.

    That file is last.safetensors. If it is damaged or missing, it is the newest undamaged step-*.safetensors, with a
    warning. Raises RunError if there is no file to resume from, ModelFileError if all of them are damaged.
    """
    last, best = path / "last.safetensors", path / "best.safetensors"
    damage: list[Exception] = []
    for file in (last, *steps_kept(path)):
        try:
            if not file.is_file():
                raise RunError(f"{path} holds no run to go on with ({file.name}): start one without --resume")
            meta, tensors = checkpoint.read(file)
            if "training" not in meta:
                raise ModelFileError(f"{file} holds a model but not what resuming needs: start a new run")
            metadata.check_training(file, meta, tensors)
        except (RunError, ModelFileError) as error:
            damage.append(error)
            continue
        if not damage:
            return meta, tensors, []
        words = damage[0] if last.is_file() else f"{path} has no {last.name} any more"
        return meta, tensors, [f"warning: {words}; going on with {file.name}"]
    if best.is_file():
        raise ModelFileError(f"{damage[0]}; {best.name} has no optimiser state to go on with, but --init-from {best} "
                             "begins a new run from it")
    raise damage[0]


def _remains(path: Path) -> bool:
    """Return True if a run that ended before its first save may have left this file or folder."""
    if path.name == EVENTS and path.is_dir():
        return all(file.match(EVENT_FILES) for file in path.iterdir())
    return path.name in NO_MODEL or path.name == LOCK or path.match(".*.tmp")


def parsed(line: str) -> dict[str, Any] | None:
    """Return the row of one line of metrics.jsonl, or None if the line is incomplete or not a row."""
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return row if isinstance(row, dict) and isinstance(row.get("step"), int) else None
