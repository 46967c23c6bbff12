"""Trust: a fast path of a GPU is taken only where a trial on that very card has shown that it agrees with eager.

`choose` takes the path that the rule of the kernels (kernels/paths.py) names. Where there is no evidence of it, a trial
is run in a process of its own. Where it failed, the next path of the rule takes its place, and the user hears of it.
"""
import json
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import IO, Any, NamedTuple

from . import evidence, kernels
from .config import PATHS
from .evidence import Evidence
from .kernels import paths
from .kernels.interface import Kernel
from .runs import metadata
from .runs.metadata import SECONDS, TEXT, Maybe
from .runs.schema import Fields
from .trial import Task, sizes

SILENCE = 120.0  # seconds without a message after which a trial is ended: a kernel may take one to be compiled
END = 10.0       # seconds that a process may take to go
LINE = 200       # characters of a cause
CHILD = "from rnncore.trial import child; child()"
ROOT = Path(__file__).resolve().parent.parent
MESSAGE: Fields = {"stage?": TEXT, "cause?": Maybe(TEXT), "unable?": TEXT, "ms?": SECONDS, "eager_ms?": SECONDS}


class Choice(NamedTuple):
    """The path to take, and what to say of it in one line, if anything."""
    path: str
    note: str | None


class Unable(RuntimeError):
    """A trial that could not be made, for want of the card or its memory: it says nothing of the path."""


class Miss(NamedTuple):
    """A path that is not taken, why in words, and what the user can do.

    kind: "size" where the rule itself passes it over, "untried" where trying does not pay, "wrong" for all else.
    """
    path: str
    words: str
    kind: str
    cure: str | None = None


def choose(asked: str, task: Task, trying: bool = True, begin: Callable[[str], None] = lambda path: None,
           name: str = "RUN") -> Choice:
    """Return the path for a task on its device, and a line on every better path that is not taken.

    asked: "auto" for the path that the rule names, or one of PATHS. On a CPU it is always eager. task.path is not
    looked at. A path is taken where its trial passed; one without evidence is tried now, once, after a call of
    begin(path). trying=False: for "auto", remembered trials alone count. name: of the user's run, for the command that
    tries its paths. Raises kernels.DeviceError.
    """
    kernel = kernels.load(task.device)
    if kernel.name == "cpu" or asked == "eager":
        return Choice("eager", None)
    misses: list[Miss] = []
    new, able, ended = False, trying or asked != "auto", False
    for path, reason in order(asked, task, kernel).items():
        if path == "eager":
            break
        wanted = replace(task, path=path)
        record = evidence.find(wanted) if reason is None else None
        if reason is None and record is None:
            if ended:
                continue  # it was said that nothing is tried
            if able:
                begin(path)
                record, new = try_out(wanted, again=False), True
            ended = record is None or "unable" in record  # another path would not get the card or its memory either
        if record and record["cause"] is None:
            return Choice(path, _note(asked, task, path, misses, new))
        misses.append(_miss(wanted, reason, record, name))
    return Choice("eager", _note(asked, task, "eager", misses, new))


def _miss(task: Task, reason: str | None, record: Evidence | None, name: str) -> Miss:
    """The miss of the task's path: it does not fit for a reason, or by its record, or has none."""
    training = task.optimizer is not None
    what = f"the {task.path} path" if training else "the writing kernel"
    if reason is not None:
        return Miss(task.path, f"{what} does not fit ({reason})", "size" if training else "wrong")
    if record is None:
        cure = f"`rnncore doctor --try {name}`" if training else f"--cuda-path {task.path}"
        return Miss(task.path, f"this {'run' if training else 'text'} is too short to try {what} first", "untried",
                    f"{cure} tries it")
    if "unable" in record:
        return Miss(task.path, f"{what} could not be tried on this card ({record['unable']})", "wrong",
                    "the next run tries it again")
    return Miss(task.path, f"{what} failed its trial on this card ({record['cause']})", "wrong",
                "`rnncore doctor --try` tries it again")


def _note(asked: str, task: Task, path: str, misses: list[Miss], new: bool) -> str | None:
    """Say why `path` is taken, and what that costs, in one line. None: there is no news."""
    if not misses and not new:
        return None
    if not misses:
        lost = "" if evidence.find(replace(task, path=path)) else \
            "; every run tries again: its cache folder (XDG_CACHE_HOME) cannot be written, or others can write there"
        return f"tried on this card: {path} agrees with eager; going by {path}{lost}"
    best = next((miss.path for miss in misses if miss.kind != "size"), misses[0].path)
    price = paths.price(best, path, task.precision, 0 if task.optimizer else task.columns)
    words = ", ".join(miss.words for miss in misses)
    cures = "".join(f"; {cure}" for cure in dict.fromkeys(miss.cure for miss in misses) if cure)
    if asked != "auto":
        return f"warning: --cuda-path {asked}: {words}: going by {path}, {price}{cures}"
    if any(miss.kind == "wrong" for miss in misses):
        return f"warning: {words}: going by {path}, {price}{cures}"
    return f"path {path}: {words}; {path} is {price}{cures}"


def outcome(record: Evidence) -> str:
    """How a trial ended, in words."""
    if record["cause"] is not None:
        return record["cause"] if "unable" in record else f"failed ({record['cause']})"
    if record["ms"] is None:
        return "agrees with eager"
    unit = "step" if record["optimizer"] else "character"
    return f"{record['ms']:.3g} ms a {unit}, eager {record['eager_ms']:.3g}"


def order(asked: str, task: Task, kernel: Kernel) -> dict[str, str | None]:
    """Return the paths to take for a task, the first first, each with the reason why it does not fit, or None.

    asked "auto": those of the rule. One of PATHS: that, then those of the rule that are below it.
    """
    found = kernel.rule(task.precision, sizes(task), task.columns, task.optimizer is None)
    if asked == "auto" or task.optimizer is None:
        return found
    below = {path: reason for path, reason in found.items() if PATHS.index(path) < PATHS.index(asked)}
    return {asked: why_not(asked, task, kernel)} | below


def named(task: Task, kernel: Kernel) -> str:
    """Return the path that the rule names for a task: the first that fits."""
    return next((path for path, reason in order("auto", task, kernel).items() if reason is None), "eager")


def candidates(task: Task) -> tuple[str, ...]:
    """The paths that a trial can be of: all but eager; of texts that are written `graph`, for the one kernel."""
    return PATHS[1:] if task.optimizer else PATHS[1:2]


def why_not(path: str, task: Task, kernel: Kernel) -> str | None:
    """Why the path cannot be for the task's shape on this card, in one line, or None."""
    if task.optimizer is None:
        return order("auto", task, kernel)[path]
    return kernel.why_not(path, task.precision, sizes(task), task.columns)


def try_out(task: Task, again: bool = True) -> Evidence:
    """Return the record of a trial of the task's path that is made now, with times; it is remembered.

    again=False: without times, and where somebody has made one meanwhile, that. A trial that could not be made is not
    remembered; its record has the cause as "unable" too.
    """
    with evidence.alone():
        record = None if again else evidence.find(task)
        if record is None:
            try:
                record = evidence.made(task, *run(task, timed=again))
                evidence.remember(record, task)
            except Unable as error:
                record = evidence.made(task, f"could not be tried: {error}") | {"unable": str(error)}
        return record


def run(task: Task, timed: bool = False) -> tuple[str | None, float | None, float | None]:
    """Run a trial in a process of its own: (cause of its failure or None, ms, eager's ms). Raises Unable.

    The times are None where the path failed or timed is False.
    """
    task = replace(task, device="cuda" if task.device == "auto" else task.device)
    with tempfile.TemporaryFile() as errors:
        process, stage, found = _start(task, timed, errors), "the start", {}
        try:
            for message in _messages(process.stdout or errors):
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
    if timed and found["cause"] is None and not min(found.get("ms", 0), found.get("eager_ms", 0)) > 0:
        return "no time was measured", None, None
    return found["cause"] and found["cause"][:LINE], found.get("ms"), found.get("eager_ms")


def _start(task: Task, timed: bool, errors: IO[bytes]) -> subprocess.Popen:
    """The process of a trial. Raises Unable where this machine can start none."""
    places = filter(None, (str(ROOT), os.environ.get("PYTHONPATH")))
    asked = json.dumps({"task": asdict(task), "timed": timed})
    try:
        return subprocess.Popen([sys.executable, "-P", "-c", CHILD, asked], stdin=subprocess.DEVNULL,
                                stdout=subprocess.PIPE, stderr=errors,
                                env={**os.environ, "PYTHONPATH": os.pathsep.join(places)})
    except OSError as error:
        raise Unable(f"no process can be started: {error.strerror}") from None


def _messages(pipe: IO[bytes]) -> Iterator[dict[str, Any]]:
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
            if metadata.fault(message, MESSAGE, "") is None:
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
    return metadata.one_line(f"{how}{f': {lines[-1]}' if lines else ''}")
