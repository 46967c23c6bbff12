"""Search of a folder for its files, without those of run folders: what rnncore wrote is not read as a corpus."""
import contextlib
import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import NoReturn

from .guess import HEAD
from .magic import MODEL_FILE, kind_of

LISTED = 8  # number of names that `listed` writes out
OURS = {"metrics.jsonl", "samples.txt", "passage.txt", "report.html"}  # names of the text files in a run folder
EVENTS = "tensorboard"  # name of the folder of TensorBoard's event files in a run folder
_MODELS = re.compile(r"(best|last|best-before|step-\d+)\.safetensors")  # names of the models in a run folder
# Text file of a run -> pattern of its first bytes. A user's own file may have such a name: a name proves nothing.
_BEGINS = {"metrics.jsonl": re.compile(rb'\{"step": (?s:.*)"chars_per_s": '),
           "samples.txt": re.compile(rb"--- step \d+\n")}


class Runs:
    """The run folders found in one search.

    apart: the folder of the run that reads the corpus; it always counts as a run folder.
    """

    def __init__(self, apart: str | None = None):
        self._apart = os.path.realpath(apart) if apart else None
        self._known: dict[str, bool] = {}  # folder -> True if it is a run folder
        self.met: dict[str, str] = {}  # run folders of which files were left out: normalised path -> path as found

    def holds(self, folder: str, names: Iterable[str] | None = None) -> bool:
        """Return True if this is a run folder: it has a model, a metrics.jsonl or a samples.txt that rnncore wrote.

        names: the names in the folder, None: list them. A folder that cannot be listed is no run folder.
        """
        if folder not in self._known:
            with contextlib.suppress(OSError):
                names = os.listdir(folder or ".") if names is None else names
            mine = self._apart is not None and os.path.realpath(folder) == self._apart
            self._known[folder] = mine or any(_shows_a_run(folder, name) for name in names or ())
        return self._known[folder]

    def takes(self, path: str, base: str) -> bool:
        """Return True if a path at or below the folder `base` belongs to a run folder, and note that folder.

        Everything in a run folder below `base` belongs to that run folder. If `base` itself is a run folder, only files
        and folders with the names that rnncore writes belong to it.
        """
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
        """Note that files of this run folder are left out."""
        self.met.setdefault(os.path.normpath(folder), folder)

    def note(self, where: str) -> list[str]:
        """Return one line for the user on the run folders in `where` that were left out, no line if there are none."""
        if not self.met:
            return []
        plural = "s" * (len(self.met) > 1)
        return [f"skipped {len(self.met):,} run folder{plural} in {where}: {listed(sorted(self.met.values()))}"]


def _is_ours(name: str) -> bool:
    """Return True if rnncore writes a file or folder of this name into a run folder."""
    return name in OURS or name == EVENTS or bool(_MODELS.fullmatch(name))


def _shows_a_run(folder: str, name: str) -> bool:
    """Return True if the name and the first bytes of a file show that rnncore wrote it into a run folder."""
    if _MODELS.fullmatch(name):
        head = _head(folder, name)
        return kind_of(head) is MODEL_FILE and b'"rnncore"' in head
    return name in _BEGINS and bool(_BEGINS[name].match(_head(folder, name)))


def _head(folder: str, name: str) -> bytes:
    """Return the first HEAD bytes of a regular file; no bytes if it cannot be read."""
    path = os.path.join(folder, name)
    with contextlib.suppress(OSError):
        if os.path.isfile(path):
            with open(path, "rb") as file:
                return file.read(HEAD)
    return b""


def files(folder: Path, runs: Runs) -> list[Path]:
    """Return the files in a folder and its subfolders, sorted by their path inside it, and note run folders in `runs`.

    Hidden files and folders, run folders and folders behind symbolic links are left out. If `folder` itself is a run
    folder, only the files that the run wrote are left out. Raises OSError for a folder that cannot be listed.
    """
    def stop(error: OSError) -> NoReturn:
        raise error  # without this handler, os.walk would skip the folder silently

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
    """Return the first LISTED names, separated by commas, and the number of the others."""
    names = list(names)
    return ", ".join(names[:LISTED]) + (f" and {len(names) - LISTED:,} more" if len(names) > LISTED else "")
