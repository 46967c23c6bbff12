"""Evidence is what trials of the paths have shown on this user's cards: a record a trial, in a private file.

A record holds for one card with its driver and libraries, one state of our own source, and one path, precision and
shape; so what is new in any of these has none. A file that is not whole counts as empty. The trials of several
processes come one after the other, and each sees what the one before has found.
"""
import contextlib
import datetime
import fcntl
import functools
import hashlib
import json
import os
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any, TypeAlias

from . import __version__, kernels
from .config import OPTIMIZERS, PATHS, PRECISIONS
from .nn.embedding import folded
from .runs import metadata
from .runs.files import write_whole
from .runs.metadata import FLAG, POSITIVE, SECONDS, TEXT, Kind, Maybe
from .runs.schema import Fields
from .trial import Task

Evidence: TypeAlias = dict[str, Any]  # a record, as RECORD has it
NAME = "paths.json"  # in the folder of native.cache
MOST = 1000          # records that are kept, the newest
SIZE = 1 << 22       # bytes that so many do not take
TEXTS = "*.py", "*.cu", "*.cuh", "*.cpp", "*.hpp"
PLACE = "card", "capability", "driver", "runtime", "cupy", "rnncore", "texts"
RECORD: Fields = {
    **dict.fromkeys(PLACE, TEXT), **dict.fromkeys(("vocab", "embed", "hidden", "layers", "columns", "seq"), POSITIVE),
    "path": Kind("a path", PATHS.__contains__), "folds": FLAG, "date": TEXT,
    "precision": Kind("a precision", PRECISIONS.__contains__),
    "optimizer": Maybe(Kind("an optimiser", OPTIMIZERS.__contains__)),
    "cause": Maybe(TEXT), "ms": Maybe(SECONDS), "eager_ms": Maybe(SECONDS)}


def key(task: Task) -> Evidence:
    """What a record has to say of the task's path.

    Of symbols, training asks only whether the embedding is folded (embedding.py), and E may be another.
    """
    names = "path", "precision", "hidden", "layers", "columns", "seq", "optimizer"
    about = described(task)
    return place(task.device) | {name: about[name] for name in (*names, "folds" if task.optimizer else "vocab")}


def described(task: Task) -> Evidence:
    """The fields of a record that are the task's."""
    about = {field.name: getattr(task, field.name) for field in fields(task) if field.name != "device"}
    return about | {"folds": folded(task.vocab, task.seq * task.columns)}


def place(device: str) -> Evidence:
    """The card, its driver and libraries, and our own text."""
    about = kernels.describe(int(device.partition(":")[2] or 0))
    found = (about["card"], about["capability"], about["driver supports"], about["cuda runtime"], about["cupy"])
    return dict(zip(PLACE, (*found, __version__, texts()), strict=True))


@functools.cache
def texts() -> str:
    """A sum of the text of every kernel and of the engine around them: the same in a checkout and installed."""
    digest, here = hashlib.sha256(), Path(__file__).parent
    for folder in (*(Path(kernels.__file__).parent / room for room in ("", "cpu", "cuda")), here, here / "nn"):
        for path in sorted(path for pattern in TEXTS for path in folder.glob(pattern)):
            digest.update(f"{folder.name}/{path.name}\0".encode() + path.read_bytes() + b"\0")
    return digest.hexdigest()[:24]


def find(task: Task) -> Evidence | None:
    """The record for the task's path on its card, or None."""
    wanted = key(task).items()
    return next((record for record in read() if wanted <= record.items()), None)


def on(device: str) -> list[Evidence]:
    """All records of a card as it is now, the newest first."""
    here = place(device).items()
    return [record for record in read() if here <= record.items()]


def task_of(record: Evidence, device: str) -> Task:
    """The task that a record is of."""
    return Task(device=device, **{field.name: record[field.name] for field in fields(Task) if field.name != "device"})


def made(task: Task, cause: str | None, ms: float | None = None, eager_ms: float | None = None) -> Evidence:
    """A new record: how the task's path did on its card."""
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    return place(task.device) | described(task) | {"cause": cause, "ms": ms, "eager_ms": eager_ms, "date": now}


def read() -> list[Evidence]:
    """All records, the newest first; none where the file is missing or not as it should be."""
    try:
        path = kernels.host.native.cache() / NAME
        with open(path, "rb") as file:
            found: Any = metadata.strict(path, file.read(SIZE), NAME)
    except (OSError, metadata.ModelFileError):
        return []
    whole = isinstance(found, list) and all(metadata.fault(record, RECORD, "") is None for record in found)
    return found if whole else []


def remember(record: Evidence, task: Task) -> None:
    """Put the record in the place of those that it renews. Where the file cannot be written, nothing is remembered."""
    wanted = key(task).items()
    others = [other for other in read() if not wanted <= other.items()]
    with contextlib.suppress(OSError):
        write_whole(kernels.host.native.cache() / NAME, json.dumps([record, *others][:MOST], indent=0).encode())


@contextlib.contextmanager
def alone() -> Iterator[None]:
    """Inside, no other process of this user's is in a trial, where the file system knows locks. Not to be nested."""
    try:
        path = kernels.host.native.cache() / f".{NAME}.lock"
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError:
        yield
        return
    try:
        with contextlib.suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
