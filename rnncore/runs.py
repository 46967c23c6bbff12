"""A run folder holds one training run: its models, its metrics and its samples.

    best.safetensors   the model with the lowest validation loss     metrics.jsonl   a row a second, and the last
    last.safetensors   all that resuming needs                       samples.txt     what the model wrote on the way
"""
import datetime
import json
import platform
import re
import time
from dataclasses import asdict
from pathlib import Path

import numpy as np

from . import __version__, checkpoint, documents
from .documents import ModelFileError
from .files import write_whole
from .lstm import State
from .train import Progress, Training

RUNS = Path("runs")
NO_MODEL = {"metrics.jsonl", "samples.txt"}


class RunError(RuntimeError):
    """A run folder that cannot be used; the message is one line that names the cause and the cure."""


class RunFolder:
    """The folder `path` of one run. settings: corpus, split and what was asked for, as resuming needs them.

    kept: the validation loss and the step of the model in best.safetensors, None before the first.
    """

    def __init__(self, path: Path, settings: dict):
        self.path, self.settings = path, settings
        self.kept: tuple[float, int] | None = None
        self._logged, self._row = float("-inf"), 0

    @property
    def last(self) -> Path:
        return self.path / "last.safetensors"

    @property
    def best(self) -> Path:
        return self.path / "best.safetensors"

    def make(self) -> None:
        """Make the folder and make sure that it can be written. Raises RunError."""
        if self.path.exists() and (not self.path.is_dir() or {path.name for path in self.path.iterdir()} - NO_MODEL):
            go_on = ", or go on with it with --resume" if self.last.is_file() else ""
            raise RunError(f"{self.path} exists already: take another name with -o{go_on}")
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            for name in NO_MODEL:  # of a run that ended before it saved a model
                (self.path / name).unlink(missing_ok=True)
            (self.path / "metrics.jsonl").touch()
        except OSError as error:
            raise RunError(f"the run folder {self.path} cannot be written ({error.strerror}): "
                           "name another with -o") from None

    def log(self, progress: Progress, last: bool = False) -> None:
        """Add a row to metrics.jsonl: at least each second, at each evaluation and at the last step."""
        now = time.monotonic()
        due = progress.milestone or progress.finished or last or now >= self._logged + 1
        if not due or self._row == progress.step:
            return
        self._logged, self._row = now, progress.step
        row = {"step": progress.step, "chars": progress.chars, "seconds": round(progress.seconds, 3),
               "chars_per_s": round(progress.chars_per_s, 1), "loss": progress.loss, "val_loss": progress.val_loss,
               "lr": progress.lr, "grad_norm": progress.grad_norm}
        with open(self.path / "metrics.jsonl", "a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")

    def rewind(self, step: int) -> None:
        """Drop the rows of metrics.jsonl and the samples past `step`, and what a killed run left half written."""
        for stale in self.path.glob(".*.tmp"):
            stale.unlink()
        path = self.path / "metrics.jsonl"
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines() if path.is_file() else []
        kept = [line for line in lines if (row := _row(line)) is not None and row["step"] <= step]
        write_whole(path, "".join(line + "\n" for line in kept).encode())
        path = self.path / "samples.txt"
        text = path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""
        heads = list(re.finditer(r"^--- step (\d+)$", text, re.MULTILINE))
        dropped = [head.start() for head in heads if int(head[1]) > step] + [
            head.start() for head in heads[-1:] if not text.endswith("\n")]
        if dropped:
            write_whole(path, text[:min(dropped)].encode())

    def add_sample(self, step: int, text: str) -> None:
        """Add what the model wrote at `step` to samples.txt."""
        with open(self.path / "samples.txt", "a", encoding="utf-8", errors="replace") as file:
            file.write(f"--- step {step}\n{text}\n")

    def save(self, training: Training, best: bool) -> None:
        """Write last.safetensors, and best.safetensors if this is the best model so far.

        Raises OSError. A best model that cannot be written does not count as the best; last is written all the same.
        """
        failed = None
        if best:
            try:
                checkpoint.save(training.model, self.best, self.card(training))
                self.kept = training.best
            except OSError as error:
                training.best, failed = self.kept, error
        card = self.card(training)
        to_host = training.model.kernel.to_host
        extra = {f"optimizer.{name}": to_host(moment) for name, moment in training.optimizer.moments.items()}
        if training.state is not None:
            extra |= {"state.h": to_host(training.state.h), "state.c": to_host(training.state.c)}
        resume = {"settings": self.settings, "config": asdict(training.config), "progress": training.summary()}
        checkpoint.save(training.model, self.last, card, extra, resume)
        if failed:
            raise failed

    def card(self, training: Training) -> dict:
        """The training card: corpus, split, losses, versions."""
        best = training.best
        about = {name: self.settings.get(name) for name in ("corpus", "split", "preset", "init_from", "floor")}
        return {**about, "step": training.step,
                "chars": training.chars, "seconds": round(training.clock.now(), 1),
                "val_loss": best[0] if best else None, "best_step": best[1] if best else None,
                "val_loss_of_all": training.final_loss, "train": asdict(training.config),
                "made": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
                "versions": {"rnncore": __version__, "numpy": np.__version__, "python": platform.python_version()}}


def restore(training: Training, document: dict, tensors: dict[str, np.ndarray]) -> None:
    """Put a new Training where the one that wrote `last.safetensors` was; document, tensors: checkpoint.read's."""
    sizes = training.model.config
    wanted = {f"optimizer.{name}": moment.shape for name, moment in training.optimizer.moments.items()}
    wanted |= dict.fromkeys(("state.h", "state.c"), (sizes.layers, sizes.hidden, training.batches.columns))
    for name, shape in wanted.items():
        if name not in tensors or tensors[name].shape != shape:
            raise ModelFileError(f"last.safetensors: {name} is missing or not of the shape {shape}: start a new run")
    moments = {name: tensors[f"optimizer.{name}"] for name in training.optimizer.moments}
    state = State(tensors["state.h"], tensors["state.c"])
    training.restore(document["training"]["progress"], moments, state)


def trained(card: dict) -> bool:
    """Whether a card is one that `RunFolder.card` made: a model that was saved from Python may have any."""
    return documents.fault(card, documents.CARD, "card") is None


def newest() -> Path:
    """The run under runs/ whose model was written last. Raises RunError where there is none."""
    found = [path for path in RUNS.glob("*/*.safetensors") if path.name in ("best.safetensors", "last.safetensors")]
    if not found:
        raise RunError(f"no run in {RUNS}/ yet: train one first, as in `rnncore train numpy --minutes 1`")
    return max(found, key=lambda path: path.stat().st_mtime_ns).parent


def fresh(name: str) -> Path:
    """runs/NAME, or runs/NAME-2, runs/NAME-3 ... where that exists."""
    path, number = RUNS / name, 1
    while path.exists():
        number += 1
        path = RUNS / f"{name}-{number}"
    return path


def read_last(path: Path) -> tuple[dict, dict[str, np.ndarray]]:
    """(document, tensors) of last.safetensors in the run folder `path`. Raises RunError, ModelFileError."""
    last = path / "last.safetensors"
    if not last.is_file():
        raise RunError(f"{path} holds no run to go on with (last.safetensors): start one without --resume")
    document, tensors = checkpoint.read(last)
    if "training" not in document:
        raise ModelFileError(f"{last} holds a model but not what resuming needs: start a new run")
    return document, tensors


def _row(line: str) -> dict | None:
    try:
        row = json.loads(line)
    except ValueError:
        return None
    return row if isinstance(row, dict) and isinstance(row.get("step"), int) else None
