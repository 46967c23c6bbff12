"""Trust: a fast path of a GPU is taken only where a trial on that very card has shown that it agrees with eager.

`choose` goes by the evidence that there is and has a trial run, in a process of its own, for what has none.
"""
import json
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import IO, NamedTuple

from . import documents, evidence, kernels
from .config import PATHS
from .documents import SECONDS, TEXT, Maybe
from .trial import Task, sizes

SILENCE = 120.0  # seconds without a message after which a trial is ended: a kernel may take one to be compiled
END = 10.0       # seconds that a process may take to go
LINE = 200       # characters of a cause
CHILD = "from rnncore.trial import child; child()"
ROOT = Path(__file__).resolve().parent.parent
MESSAGE = {"stage?": TEXT, "cause?": Maybe(TEXT), "unable?": TEXT, "ms?": SECONDS, "eager_ms?": SECONDS}


class Choice(NamedTuple):
    """The path to take, and what to say of it in one line, if anything."""
    path: str
    note: str | None


class Unable(RuntimeError):
    """A trial that could not be made, for want of the card or its memory: it says nothing of the path."""


def choose(asked: str, task: Task, trying: bool = True) -> Choice:
    """The path for a task on its device. Eager on a CPU. Raises kernels.DeviceError.

    asked "auto": the fastest of those that passed their trial; trying: whether those without evidence are tried now,
    with a note on what came of it. asked one of PATHS: that, tried if need be; where it did not pass, the one before
    it, with a note that says why. task.path is not looked at.
    """
    kernel = kernels.load(task.device)
    if kernel.name == "cpu" or asked == "eager":
        return Choice("eager", None)
    if asked != "auto":
        return _forced(asked, task, kernel)
    new, records = untried(asked, task, trying), {}
    for path in _fitting(asked, task, kernel):
        records[path] = _evidence(task, path) if trying else evidence.find(replace(task, path=path))
    return _fastest({path: record for path, record in records.items() if record}, new)


def _forced(asked: str, task: Task, kernel) -> Choice:
    causes: list[str] = []
    for path in candidates(asked, task):
        cause = why_not(path, task, kernel)
        if cause is None:
            cause = _evidence(task, path)["cause"]
            if cause is None:
                return Choice(path, f"--cuda-path {asked}: going by {path} ({'; '.join(causes)})" if causes else None)
            cause += ", `rnncore doctor --try` tries it again"
        causes.append(f"{path}: {cause}")
    return Choice("eager", f"--cuda-path {asked}: going by eager ({'; '.join(causes)})")


def _fastest(records: dict[str, dict], new: list[str]) -> Choice:
    """Of what passed, the path that takes the smallest part of eager's time, or eager where none takes less."""
    passed = {path: r["ms"] / r["eager_ms"] for path, r in records.items() if r["cause"] is None}
    path = min(passed, key=passed.__getitem__, default="eager")
    path = path if passed.get(path, 1.0) < 1 else "eager"
    words = [f"{name} {outcome(records[name])}" for name in new]
    return Choice(path, f"tried on this card: {', '.join(words)}; going by {path}" if words else None)


def outcome(record: dict) -> str:
    """How a trial ended, in words."""
    if record["cause"] is not None:
        return f"failed ({record['cause']})"
    unit = "step" if record["optimizer"] else "character"
    return f"{record['ms']:.3g} ms a {unit}, eager {record['eager_ms']:.3g}"


def untried(asked: str, task: Task, trying: bool = True) -> list[str]:
    """The paths that `choose` would begin with trying, for a word beforehand: it may take a minute."""
    kernel = kernels.load(task.device)
    if kernel.name == "cpu" or asked == "eager" or asked == "auto" and not trying:
        return []
    paths = _fitting(asked, task, kernel)
    return [path for path in (paths if asked == "auto" else paths[:1])
            if evidence.find(replace(task, path=path)) is None]


def candidates(asked: str, task: Task) -> tuple[str, ...]:
    """The paths that count, but eager; where one is asked for, that first and then those that it falls back on.

    Texts are written by one kernel whatever the path, and `graph` stands for it.
    """
    if task.optimizer is None:
        return PATHS[1:2]
    return PATHS[1:] if asked == "auto" else PATHS[PATHS.index(asked):0:-1]


def _fitting(asked: str, task: Task, kernel) -> list[str]:
    return [path for path in candidates(asked, task) if why_not(path, task, kernel) is None]


def why_not(path: str, task: Task, kernel) -> str | None:
    """Why the path cannot be for the task's shape on this card, in one line, or None."""
    return kernel.why_not(path, task.precision, sizes(task), task.columns)


def _evidence(task: Task, path: str) -> dict:
    """The record for the path: the one there is, or that of a trial made now."""
    task = replace(task, path=path)
    return evidence.find(task) or try_out(task, again=False)


def try_out(task: Task, again: bool = True) -> dict:
    """The record of a trial of the task's path; again: of a new one even where somebody has made it meanwhile."""
    with evidence.alone():
        record = None if again else evidence.find(task)
        if record is None:
            try:
                record = evidence.made(task, *run(task))
                evidence.remember(record, task)
            except Unable as error:
                record = evidence.made(task, f"could not be tried: {error}")
        return record


def run(task: Task) -> tuple[str | None, float | None, float | None]:
    """Run a trial in a process of its own: (cause of its failure or None, ms, eager's ms). Raises Unable."""
    task = replace(task, device="cuda" if task.device == "auto" else task.device)
    with tempfile.TemporaryFile() as errors:
        process, stage, found = _start(task, errors), "the start", {}
        try:
            for message in _messages(process.stdout):
                stage, found = message.get("stage", stage), message
                if "stage" not in message:
                    break
            process.wait(END)
        except (queue.Empty, subprocess.TimeoutExpired):
            return f"{stage}: no sign of life for {SILENCE:g} s", None, None
        finally:
            _end(process)
        if "unable" in found:
            raise Unable(found["unable"][:LINE])
        if process.returncode or "cause" not in found:
            errors.seek(0)
            return f"{stage}: {_crash(process.returncode, errors.read())}"[:LINE], None, None
    if found["cause"] is None and not min(found.get("ms", 0), found.get("eager_ms", 0)) > 0:
        return "no time was measured", None, None
    return found["cause"] and found["cause"][:LINE], found.get("ms"), found.get("eager_ms")


def _start(task: Task, errors: IO[bytes]) -> subprocess.Popen:
    paths = filter(None, (str(ROOT), os.environ.get("PYTHONPATH")))
    return subprocess.Popen([sys.executable, "-P", "-c", CHILD, json.dumps(asdict(task))], stdin=subprocess.DEVNULL,
                            stdout=subprocess.PIPE, stderr=errors,
                            env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)})


def _messages(pipe: IO[bytes]) -> Iterator[dict]:
    """What a trial says, line by line; no line of another kind is heard. Raises queue.Empty after SILENCE."""
    lines: queue.Queue[bytes | None] = queue.Queue()

    def listen() -> None:
        with pipe:
            for line in pipe:
                lines.put(line)
        lines.put(None)

    threading.Thread(target=listen, daemon=True).start()
    while (line := lines.get(timeout=SILENCE)) is not None:
        with suppress(ValueError, RecursionError):
            message = json.loads(line)
            if documents.fault(message, MESSAGE, "") is None:
                yield message


def _end(process: subprocess.Popen) -> None:
    """Kill what still runs, and wait a while for it."""
    if process.poll() is None:
        process.kill()
        with suppress(subprocess.TimeoutExpired):
            process.wait(END)


def _crash(code: int, errors: bytes) -> str:
    """Why a process without a verdict ended, in words."""
    lines = errors.decode(errors="replace").strip().splitlines()
    how = f"killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
    return documents.one_line(f"{how}{f': {lines[-1]}' if lines else ''}")
