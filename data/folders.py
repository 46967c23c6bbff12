"""The text files of a folder, and what lies in it and is no text to learn: other kinds of files, run folders."""
import contextlib
import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import NoReturn

from .guess import HEAD
from .magic import MODEL_FILE, kind_of

LISTED = 8  # names in a line
OURS = {"metrics.jsonl", "samples.txt", "passage.txt", "report.html"}  # text files of a run folder
EVENTS = "tensorboard"  # a folder in it
_MODELS = re.compile(r"(best|last|best-before|step-\d+)\.safetensors")
_BEGINS = {"metrics.jsonl": re.compile(rb'\{"step": (?s:.*)"chars_per_s": '),
           "samples.txt": re.compile(rb"--- step \d+\n")}


class Runs:
    """The run folders among folders that are looked through. apart: the folder of the run that is asking, or None."""

    def __init__(self, apart: str | None = None):
        self._apart = os.path.realpath(apart) if apart else None
        self._known: dict[str, bool] = {}
        self.met: dict[str, str] = {}  # those whose files were left out: the path made plain, and as it was found

    def holds(self, folder: str, names: Iterable[str] | None = None) -> bool:
        """Return whether this is a run folder: of ours alone are such models, rows in metrics.jsonl, samples.txt.

        names: the files in it, where they are known.
        """
        if folder not in self._known:
            with contextlib.suppress(OSError):
                names = os.listdir(folder or ".") if names is None else names
            mine = self._apart is not None and os.path.realpath(folder) == self._apart
            self._known[folder] = mine or any(_shows_a_run(folder, name) for name in names or ())
        return self._known[folder]

    def takes(self, path: str, base: str) -> bool:
        """Whether a file or folder, at or below the folder `base`, is of a run folder; of base itself, by its name."""
        here = path if os.path.isdir(path) else os.path.dirname(path)
        while len(here) > len(base):
            if self.holds(here):
                self.meet(here)
                return True
            here = os.path.dirname(here)
        if path != here and _is_ours(os.path.basename(path)) and self.holds(base):
            self.meet(base)
            return True
        return False

    def meet(self, folder: str) -> None:
        """Note a run folder of which files are left out."""
        self.met.setdefault(os.path.normpath(folder), folder)

    def note(self, where: str) -> list[str]:
        """A line on the run folders that were met."""
        if not self.met:
            return []
        plural = "s" * (len(self.met) > 1)
        return [f"skipped {len(self.met):,} run folder{plural} in {where}: {listed(sorted(self.met.values()))}"]


def _is_ours(name: str) -> bool:
    """Return whether a file or folder of this name in a run folder is the run's."""
    return name in OURS or name == EVENTS or bool(_MODELS.fullmatch(name))


def _shows_a_run(folder: str, name: str) -> bool:
    """Return whether a file is one of a run's by its name and how it begins: a model of ours, rows, samples."""
    if _MODELS.fullmatch(name):
        head = _head(folder, name)
        return kind_of(head) is MODEL_FILE and b'"rnncore"' in head
    return name in _BEGINS and bool(_BEGINS[name].match(_head(folder, name)))


def _head(folder: str, name: str) -> bytes:
    path = os.path.join(folder, name)
    with contextlib.suppress(OSError):
        if os.path.isfile(path):
            with open(path, "rb") as file:
                return file.read(HEAD)
    return b""


def files(folder: Path, runs: Runs) -> list[Path]:
    """The folder's files, recursively, none hidden and none of a run folder, sorted by their path inside it."""
    def stop(error: OSError) -> NoReturn:
        raise error  # os.walk would pass over a folder that it cannot list

    found, top = [], str(folder)
    for here, folders, names in os.walk(folder, onerror=stop):
        ours = runs.holds(here, names)
        if ours:
            runs.meet(here)
        if ours and here != top:
            folders[:] = []
            continue
        folders[:] = [name for name in folders if not (name.startswith(".") or ours and _is_ours(name))]
        found += [Path(here, name) for name in names if not (name.startswith(".") or ours and _is_ours(name))]
    return list(filter(Path.is_file, sorted(found, key=lambda path: path.relative_to(folder).as_posix())))


def listed(names: Iterable[str]) -> str:
    """The first few of the names, and how many more there are."""
    names = list(names)
    return ", ".join(names[:LISTED]) + (f" and {len(names) - LISTED:,} more" if len(names) > LISTED else "")
