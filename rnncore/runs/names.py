"""Names of models: find the model file for a path, the name of a run in runs/, or the name of a pretrained model.

    NAME             the path NAME if it holds a model, else the run runs/NAME, else the pretrained model NAME
    pretrained/NAME  the pretrained model of that name; if there is none, the path
    other names      the path: ./NAME, runs/NAME, a file, a folder with best.safetensors or last.safetensors

If a NAME could mean several models, the first one is taken. A warning in `Found.notes` then says so, and how to name
the others.
"""
import os
import re
from pathlib import Path
from typing import NamedTuple

from ..data import pretrained
from . import metadata, mistaken
from .lock import RunError
from .metadata import ModelFileError

RUNS = Path("runs")
PRETRAINED = "pretrained"  # the prefix before the name of a pretrained model
MODELS = "best.safetensors", "last.safetensors"  # model files of a run folder; the first that exists is taken
_PRETRAINED = re.compile(rf"{PRETRAINED}/+([^/]+)/*")
_EMPTY = f"holds no model yet ({' or '.join(MODELS)})"
HERE, RUN, SHIPPED = "the model here", "the run", "the pretrained model"  # the kinds of models, as messages name them


class Renamed(UserWarning):
    """A pretrained model has a new name; the message has the new name."""


class Ambiguous(UserWarning):
    """A name could mean several models; the message says which one is taken and how to name the others."""


class Found(NamedTuple):
    """A model that was found by its name.

    file: the model file. folder: the run folder that was named, None if a file was named. name: a name that means only
    this model. notes: warnings for the user.
    """
    file: Path
    folder: Path | None
    name: str
    notes: tuple[UserWarning, ...] = ()

    @property
    def place(self) -> Path:
        """Return the run folder, or the file if no folder was named."""
        return self.folder or self.file


def find(name: str | Path) -> Found:
    """Return the model for a name. A Path of one part is a NAME too, because a Path does not keep a leading `./`.

    Raises FileNotFoundError or ModelFileError if there is no such model; the message says what was found and what was
    looked for.
    """
    text = os.fspath(name)
    if not text:
        raise FileNotFoundError("the name of a model is empty: name a run, a model file or a pretrained model")
    if os.sep not in text and text not in (os.curdir, os.pardir):
        return _by_name(text)
    named = _PRETRAINED.fullmatch(text)
    file = pretrained.find(named[1]) if named else None
    if named and not file and not os.path.lexists(text):
        models = ", ".join(pretrained.names())
        raise FileNotFoundError(f"{text}: no such model; the pretrained ones are {models or 'not here'}")
    if not (named and file):
        return at(Path(text), text)
    notes = _renamed(named[1], file.stem)
    if holds_model(path := Path(text)):
        notes += (Ambiguous(f"{text}: taking the pretrained model; write ./{path} for the model here"),)
    return Found(file, None, f"{PRETRAINED}/{file.stem}", notes)


def stands_for(name: str, exact: str | None) -> bool:
    """Return True if `name` means the model whose Found.name was `exact`; False also if there is no such model."""
    try:
        return find(name).name == exact
    except (OSError, ValueError):
        return False


def spelled(path: Path) -> str:
    """Return a name for the model at a path: the path, with ./ before it if it would mean a pretrained model."""
    named = _PRETRAINED.fullmatch(str(path))
    return f"./{path}" if named and pretrained.find(named[1]) else str(path)


def newest() -> Path:
    """Return the run folder in runs/ whose model was written last. Raises RunError if runs/ has no run with a model."""
    found = _newest_in(RUNS)
    if not found:
        raise RunError(f"no run in {RUNS}/ yet: train one first, as in `rnncore train numpy --minutes 1`")
    return found


def _newest_in(folder: Path) -> Path | None:
    """Return the run folder directly in `folder` whose model was written last, or None."""
    found = [path for path in folder.glob("*/*.safetensors") if path.name in MODELS]
    return max(found, key=lambda path: path.stat().st_mtime_ns).parent if found else None


def holds_model(path: Path) -> bool:
    """Return True if the path is a model file, complete or damaged, or a folder with a model file in it."""
    try:
        if path.is_dir():
            return any((path / name).is_file() for name in MODELS)
        if not path.is_file():
            return False
        with open(path, "rb") as file:
            head = file.read(9)  # a safetensors file: the length of its header, then the header's "{"
    except OSError:  # a path that cannot be read must not hide a run or a pretrained model
        return False
    return len(head) == 9 and head[8:] == b"{" and int.from_bytes(head[:8], "little") <= metadata.HEADER


def _by_name(name: str) -> Found:
    """Return the model for a NAME without a folder. Raises as `find`."""
    places = {HERE: (Path(name), f"./{name}"), RUN: (RUNS / name, str(RUNS / name))}
    file = pretrained.find(name)
    if file:
        places[SHIPPED] = file, f"{PRETRAINED}/{file.stem}"
    there = {kind: at(path, exact) for kind, (path, exact) in places.items() if holds_model(path)}
    if not there:
        raise _none(name)
    (taken, found), *others = there.items()
    notes = _renamed(name, found.file.stem) if taken == SHIPPED else ()
    words = ", ".join(f"{other.name} for {kind}" for kind, other in others if not other.file.samefile(found.file))
    if words:
        notes += (Ambiguous(f"{name}: taking {taken}, {found.name}; write {words}"),)
    elif taken == SHIPPED and (RUNS / name).is_dir():
        notes += (Ambiguous(f"{name}: taking {taken}, for {RUNS / name} holds no model yet"),)
    return found._replace(notes=notes)


def at(path: Path, name: str | None = None) -> Found:
    """Return the model at a path; the file is not opened. name: the name that it gets, None for the path.

    Raises FileNotFoundError if the path does not exist, or is a folder without a model.
    """
    name = str(path) if name is None else name
    if not path.is_dir():
        if not path.exists():
            raise FileNotFoundError(mistaken.name(name) or f"{name}: no such model file or run folder")
        return Found(path, None, name)
    for file in MODELS:
        if (path / file).is_file():
            return Found(path / file, path, name)
    raise FileNotFoundError(f"{name} {_EMPTY}: {_cure(path, name)}")


def _cure(path: Path, name: str) -> str:
    """Return a cure for a folder without a model: name a run in it, or train one."""
    run = _newest_in(path)
    return f"name one of the runs in it, as {run}" if run else f"train one with -o {name}{mistaken.folder(path)}"


def _none(name: str) -> Exception:
    """Return the error for a NAME without a model; its message says what was found and what was looked for."""
    path, run, models = Path(name), RUNS / name, ', '.join(pretrained.names())
    if not os.path.lexists(path):
        if run.is_dir():
            return FileNotFoundError(f"{run} {_EMPTY}, and {name} is no other model: wait for its first save, or train "
                                     f"one with -o {run}")
        if words := mistaken.name(name):
            return FileNotFoundError(words)
        named = f", nor one of the pretrained models ({models})" if models else ""
        return FileNotFoundError(f"{name}: no such model file or run folder{named}")
    others = f"there is no model in {run}" + f", and none of the pretrained ones is called so ({models})" * bool(models)
    if path.is_dir():
        return FileNotFoundError(f"{name} {_EMPTY}; {others}: {_cure(path, name)}")
    try:
        if path.is_file():
            if words := mistaken.file(path):
                return ModelFileError(words)
            metadata.check_header(path)
    except ModelFileError as error:
        return ModelFileError(f"{error}; {others}")
    return ModelFileError(f"{name} is not a whole model file; {others}")


def _renamed(name: str, current: str) -> tuple[UserWarning, ...]:
    """Return a warning if `name` is not the current name of a pretrained model."""
    if name == current:
        return ()
    return (Renamed(f"the pretrained model {name} is called {current} now, as the text that it learned"),)
