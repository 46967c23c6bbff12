"""The check of files on disk: read every byte of a model file, or of all files of a run folder, and report faults."""
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from . import checkpoint, metadata, names
from .metadata import ModelFileError

MEND = "`rnncore train --resume` drops the torn line"  # the cure, for messages


class Verdict(NamedTuple):
    """The result for one file. error: one line on the fault, None if there is none."""
    file: Path
    error: str | None


def verify(path: Path) -> Iterator[Verdict]:
    """Yield the Verdict on a model file, or on each model file, metrics.jsonl and samples.txt of a run folder.

    Raises FileNotFoundError if the folder has no model. A missing model file is a Verdict with an error.
    """
    if not path.is_dir():
        yield Verdict(path, model_fault(path))
        return
    names.at(path)  # raises if there is no model
    for file in sorted(path.glob("*.safetensors")):
        yield Verdict(file, model_fault(file))
    for name, fault in (("metrics.jsonl", metrics_fault), ("samples.txt", samples_fault)):
        if (path / name).exists():
            yield Verdict(path / name, _read(path / name, fault))


def model_fault(path: Path) -> str | None:
    """Return one line on the fault of a model file, or None.

    Checks the layout, the numbers, the sha256, and the data for resuming if the file has them.
    """
    try:
        meta, tensors = checkpoint.read(path)
        checkpoint.to_model(meta, tensors, "cpu")
        if "training" in meta:
            metadata.check_training(path, meta, tensors)
    except (ModelFileError, OSError) as error:
        return _reason(path, error)
    return None


def metrics_fault(text: str) -> str | None:
    """Return one line on the fault of the text of a metrics.jsonl, or None.

    Every line must be a JSON object with a step, a whole number above the step of the line before.
    """
    before = -1
    for number, line in enumerate(text.splitlines(), 1):
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            return f"line {number:,} is torn (it is no JSON): {MEND}"
        step = row.get("step") if isinstance(row, dict) else None
        if type(step) is not int or step <= before:
            return f"line {number:,} has no step above that of the line before: {MEND}"
        before = step
    return None


def samples_fault(text: str) -> str | None:
    """Return one line on the fault of the text of a samples.txt, or None. The text must begin with `--- step `."""
    begun = not text or text.startswith("--- step ")
    return None if begun else "the first line is no `--- step N`: take another copy"


def _read(path: Path, fault: Callable[[str], str | None]) -> str | None:
    """Return the result of `fault` on a file's text, or one line if the text is not UTF-8 or has no last line end."""
    try:
        text = path.read_bytes().decode("utf-8")
        whole = not text or text.endswith("\n")
        return fault(text) or (None if whole else f"the last line is torn (it has no line end): {MEND}")
    except UnicodeDecodeError as error:
        return f"byte {error.start:,} is no UTF-8 ({error.reason}): take another copy"
    except OSError as error:
        return _reason(path, error)


def _reason(path: Path, error: Exception) -> str:
    """Return the text of an error without the path, because the caller shows the path before it."""
    words = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return words.removeprefix(f"{path}").lstrip(": ")
