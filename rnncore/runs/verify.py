"""A check of what lies on the disk: every byte of a model file, or of all files of a run folder."""
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from . import checkpoint, metadata, names
from .metadata import ModelFileError

AGAIN = "`rnncore train --resume` drops what is torn"


class Verdict(NamedTuple):
    """A file, and what is wrong with it in one line: None where nothing is."""
    file: Path
    error: str | None


def verify(path: Path) -> Iterator[Verdict]:
    """The verdict on a model file, or on each model file of a run folder, its metrics.jsonl and its samples.txt.

    Raises FileNotFoundError where no model is.
    """
    if not path.is_dir():
        yield Verdict(path, model_fault(path))
        return
    names.at(path)  # there is a model
    for file in sorted(path.glob("*.safetensors")):
        yield Verdict(file, model_fault(file))
    for name, fault in (("metrics.jsonl", metrics_fault), ("samples.txt", samples_fault)):
        if (path / name).exists():
            yield Verdict(path / name, _read(path / name, fault))


def model_fault(path: Path) -> str | None:
    """What is wrong with a model file: layout, numbers, digest, and what resuming needs where it is there."""
    try:
        document, tensors = checkpoint.read(path)
        checkpoint.to_model(document, tensors, "cpu")
        if "training" in document:
            metadata.check_training(path, document, tensors)
    except (ModelFileError, OSError) as error:
        return _reason(path, error)
    return None


def metrics_fault(text: str) -> str | None:
    """What is wrong with metrics.jsonl: every line is an object with a whole step, above that of the line before."""
    before = -1
    for number, line in enumerate(text.splitlines(), 1):
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            return f"line {number:,} is torn, it is no JSON: {AGAIN}"
        step = row.get("step") if isinstance(row, dict) else None
        if type(step) is not int or step <= before:
            return f"line {number:,} has no step above that of the line before: {AGAIN}"
        before = step
    return None


def samples_fault(text: str) -> str | None:
    """What is wrong with samples.txt: it begins with the step of a sample."""
    begun = not text or text.startswith("--- step ")
    return None if begun else "the first line is no `--- step N`: take another copy"


def _read(path: Path, fault: Callable[[str], str | None]) -> str | None:
    """fault of the text of a file in UTF-8, which ends with a line's end, or why it is none."""
    try:
        text = path.read_bytes().decode("utf-8")
        whole = not text or text.endswith("\n")
        return fault(text) or (None if whole else f"the last line is torn, it has no end: {AGAIN}")
    except UnicodeDecodeError as error:
        return f"byte {error.start:,} is no UTF-8 ({error.reason}): take another copy"
    except OSError as error:
        return _reason(path, error)


def _reason(path: Path, error: Exception) -> str:
    """An error's words without the path that stands before them anyway."""
    words = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return words.removeprefix(f"{path}").lstrip(": ")
