"""The self-check: a fast path is compared with eager once on the user's card, and used if the two agree.

`take` sets the path that the rule names (kernels/paths.py). The comparison (against_eager.py) runs in a child process,
because after a fault in a kernel its process cannot use the card again, and because a kernel may never end. The result
is remembered as a record in a private file. A record is valid for one card with its driver and libraries, one version
of the source of rnncore, and one path, precision and shape. A file with an error in it counts as empty.
"""
import ctypes
import fcntl
import functools
import hashlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import asdict, replace
from pathlib import Path
from time import gmtime, strftime
from typing import Any, TypeAlias

from . import __version__, kernels
from .against_eager import Task, compare
from .config import OPTIMIZERS, PATHS, PRECISIONS, one_of
from .kernels import Kernel
from .kernels.paths import price
from .model import CharLM
from .nn.embedding import folded
from .runs.files import write_whole
from .runs.metadata import FLAG, POSITIVE, SECONDS, TEXT, Fields, Maybe, ModelFileError, fault, one_line, strict

SILENCE = 120  # seconds without a message after which the child ends itself; a kernel may take one to be compiled
GONE = 10      # seconds that the child may take to end after its last message
LIMIT = 900    # seconds after which the parent ends the child, whatever its messages
LINE = 200     # characters of a cause, at most
# The program of the child. The alarm is set first, so that it also ends a child that hangs in an import.
ROOT = str(Path(__file__).resolve().parent.parent)
CHILD = (f"import signal, sys; signal.alarm({SILENCE}); sys.path.insert(0, {ROOT!r}); "
         "from rnncore.selfcheck import child; child()")
PR_SET_PDEATHSIG = 1  # option of prctl(2): the signal that a process gets when its parent ends
NAME = "paths.json"   # the file of the records, in the folder native.cache()
MOST = 1000           # records that are kept, at most: the newest
SIZE = 1 << 22        # bytes that are read, at most: MOST records take less
Record: TypeAlias = dict[str, Any]
PLACE = {"card": "card", "capability": "capability", "driver": "driver supports", "runtime": "cuda runtime",
         "cupy": "cupy"}  # field of a record -> name in kernels.describe
# the schemas of a record, and of a message from the child
RECORD: Fields = {
    **dict.fromkeys((*PLACE, "rnncore", "texts", "date"), TEXT), "folds": FLAG,
    "path": one_of(*PATHS), "precision": one_of(*PRECISIONS),
    **dict.fromkeys(("vocab", "embed", "hidden", "layers", "columns", "seq"), POSITIVE),
    "optimizer": Maybe(one_of(*OPTIMIZERS)), "cause": Maybe(TEXT), "ms": Maybe(SECONDS), "eager_ms": Maybe(SECONDS)}
MESSAGE: Fields = {"stage?": TEXT, "cause?": Maybe(TEXT), "unable?": TEXT, "ms?": SECONDS, "eager_ms?": SECONDS}


def take(model: CharLM, asked: str, device: str, trying: bool, say: Callable[[str], None], name: str = "RUN",
         **shape: Any) -> list[str]:
    """Set the path of a model, after a self-check if none is remembered. Return at most one line to tell the user.

    asked: "auto" or one of PATHS. device: the device that the model was made for. trying: for "auto", True if the work
    is long enough for a check. say(line) is called before a check begins. name: the name of the user's run, quoted for
    the shell. shape: columns (N), and for training seq (T) and optimizer. Raises ValueError for a path that a CPU does
    not have.
    """
    if model.kernel.name == "cpu":
        model.path = "eager" if asked == "auto" else asked
        return []
    sizes = asdict(model.config)
    task = Task(model.precision, device, sizes.pop("vocab_size"), **sizes, **shape)
    path, misses, kept = choose(
        asked, task, trying, lambda path: say(f"checking {path} on this card, once: this may take a minute"))
    model.path, line = path, note(asked, task, path, misses, kept, name)
    return [line] if line else []


def note(asked: str, task: Task, path: str, misses: dict[str, Record], kept: bool | None, name: str) -> str | None:
    """Return a line on why `path` is taken and how much slower it is than the better one; None if there is no news.

    misses and kept: as `choose` returns them. name: the name of the user's run, quoted for the shell.
    """
    if not misses:
        lost = "" if kept else \
            "; every run checks again: its cache folder (XDG_CACHE_HOME) cannot be written, or others can write there"
        return None if kept is None else f"self-check on this card: {path} agrees with eager; using {path}{lost}"
    best = next((missed for missed, record in misses.items() if "misfit" not in record), next(iter(misses)))
    cost = price(best, path, task.precision, 0 if task.optimizer else task.columns)
    said = [_miss(missed, record, task.optimizer is not None, name) for missed, record in misses.items()]
    words, cures = ", ".join(words for words, _ in said), "".join(dict.fromkeys(cure for _, cure in said))
    if asked != "auto":
        return f"warning: --cuda-path {asked}: {words}: using {path}, {cost}{cures}"
    if any("cause" in record or "misfit" in record and not task.optimizer for record in misses.values()):
        return f"warning: {words}: using {path}, {cost}{cures}"
    return f"path {path}: {words}; {path} is {cost}{cures}"


def _miss(path: str, record: Record, training: bool, name: str) -> tuple[str, str]:
    """Return words on why a path is not taken, and words on what the user can do, which may be empty."""
    what, work = (f"the {path} path", "run") if training else ("the writing kernel", "text")
    if "misfit" in record:
        return f"{what} does not fit ({record['misfit']})", ""
    if not record:
        cure = f"`rnncore doctor --try {name}`" if training else f"--cuda-path {path}"
        return f"this {work} is too short to check {what} first", f"; {cure} checks it"
    if "unable" in record:
        return f"{what} could not be checked on this card ({record['unable']})", "; the next run checks it again"
    return f"{what} failed its self-check on this card ({record['cause']})", "; `rnncore doctor --try` checks it again"


def choose(asked: str, task: Task, trying: bool = True,
           begin: Callable[[str], None] = lambda path: None) -> tuple[str, dict[str, Record], bool | None]:
    """Return (path, misses, kept): the path for a task, the better paths not taken, whether a new check was kept.

    asked: "auto" for the path that the rule names, or one of PATHS. On a CPU the path is always eager. task.path is
    ignored. A path is taken if its check passed. A path without a record is checked now, after a call of begin(path).
    trying=False: for "auto", nothing is checked now.
    misses: path -> its record; {} if it was not checked; {"misfit": reason} if it does not fit. kept: True if a check
    that was made now is remembered, False if it is not, None if no check was made. Raises kernels.DeviceError.
    """
    kernel, misses, new, ended = kernels.load(task.device), dict[str, Record](), False, False
    found = {"eager": None} if kernel.name == "cpu" or asked == "eager" else order(asked, task, kernel)
    for path, reason in found.items():
        task = replace(task, path=path)
        if path == "eager":
            break
        record = {"misfit": reason} if reason else next(iter(find(task)), {})
        if not record:
            if ended:
                continue
            if trying or asked != "auto":
                begin(path)
                record, new = check(task, again=False), True
            # Another path would not get the card or its memory either, so none is checked. The user hears one cause.
            ended = not record or "unable" in record
        if record.get("cause", "") is None:
            break
        misses[path] = record
    return task.path, misses, bool(find(task)) if new else None


def order(asked: str, task: Task, kernel: Kernel) -> dict[str, str | None]:
    """Return the paths for a task, the best first: path -> the reason why it does not fit, or None.

    asked: "auto" gives the paths of the rule. One of PATHS gives that path, then the slower paths of the rule.
    """
    found = kernel.rule(task.precision, task.sizes, task.columns, task.optimizer is None)
    if asked == "auto" or task.optimizer is None:
        return found
    below = {path: reason for path, reason in found.items() if PATHS.index(path) < PATHS.index(asked)}
    return {asked: kernel.why_not(asked, task.precision, task.sizes, task.columns)} | below


def check(task: Task, again: bool = True) -> Record:
    """Check the path of a task, with times. Return the record, which replaces older records of this check.

    again=False: without times, and if a record exists by now, return it instead. A check that could not be made is not
    remembered; its record has "unable".
    """
    # Two checks at once would disturb each other's times and memory. The second process waits, and then finds the
    # record of the first. A file system without locks raises OSError; then there is no waiting.
    with ExitStack() as stack:
        with suppress(OSError):
            path = kernels.host.native.cache() / f".{NAME}.lock"
            lock = stack.enter_context(open(path, "ab", opener=functools.partial(os.open, mode=0o600)))
            fcntl.flock(lock, fcntl.LOCK_EX)
        old = find(task)
        if old and not again:
            return old[0]
        found = {"cause": None, "ms": None, "eager_ms": None} | run(task, timed=again)
        record = described(task) | found | {"date": strftime("%Y-%m-%dT%H:%M:%S+00:00", gmtime())}
        if "unable" in record:
            return record | {"cause": f"could not be checked: {record['unable']}"}
        with suppress(OSError):
            records = [record, *(other for other in remembered({}) if other not in old)]
            write_whole(kernels.host.native.cache() / NAME, json.dumps(records[:MOST], indent=0).encode())
        return record


def run(task: Task, timed: bool = False) -> Record:
    """Run a check in a child process. Return {"cause": words or None}, or {"unable": words} if no check was possible.

    timed: the result of a path that passed also has "ms" and "eager_ms".
    """
    asked = json.dumps([asdict(task) | {"device": task.device.replace("auto", "cuda")}, timed])
    try:
        # -P: Python must not import files of the current folder in the place of libraries.
        done = subprocess.run([sys.executable, "-P", "-c", CHILD, asked], stdin=subprocess.DEVNULL, capture_output=True,
                              timeout=LIMIT)
    except OSError as error:
        return {"unable": f"no process can be started: {error.strerror}"}
    except subprocess.TimeoutExpired:
        return {"cause": f"no end within {LIMIT} s"}
    code, stage, last = done.returncode, "the start", Record()
    for line in done.stdout.splitlines():
        with suppress(ValueError, RecursionError):
            if fault(message := json.loads(line), MESSAGE, "") is None:
                stage, last = message.get("stage", stage), message
    if "unable" in last:
        return {"unable": last["unable"][:LINE]}
    if code == -signal.SIGALRM:
        return {"cause": f"{stage}: no sign of life for {GONE if 'cause' in last else SILENCE} s"}
    if code or "cause" not in last or timed and last["cause"] is None and not (last.get("ms") and last.get("eager_ms")):
        how = f"killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
        words = done.stderr.decode(errors="replace").strip().splitlines()[-1:]
        return {"cause": one_line(": ".join([stage, how, *words]))[:LINE]}
    return last | {"cause": last["cause"] and last["cause"][:LINE]}


def child() -> None:
    """Check the task in the first argument of this process. Write each message as one line of JSON to stdout.

    The message {"unable": words} means that the card, or enough of its memory, was not available. So nothing is known
    about the path. An alarm ends the process if a kernel or the end of the process hangs. A signal ends it when its
    parent ends.
    """
    with suppress(AttributeError, OSError):
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    task, timed = json.loads(sys.argv[1])
    out = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # libraries that print to stdout write to stderr from here on, not between the messages
    try:
        for message in compare(Task(**task), timed):
            signal.alarm(SILENCE)
            out.write(json.dumps(message) + "\n")
    except (MemoryError, kernels.DeviceError) as error:
        kind = f"{type(error).__name__}: " if isinstance(error, MemoryError) else ""
        out.write(json.dumps({"unable": one_line(f"{kind}{error}")}) + "\n")
    finally:
        signal.alarm(GONE)


@functools.cache
def texts() -> str:
    """Return a hash of the source of all kernels and of the engine. It is the same in a checkout and installed."""
    digest, here, there = hashlib.sha256(), Path(__file__).parent, Path(kernels.__file__).parent
    for folder in (there, there / "cpu", there / "cuda", here, here / "nn"):
        for path in sorted(path for path in folder.iterdir() if path.suffix in (".py", ".cu", ".cuh", ".cpp", ".hpp")):
            digest.update(f"{folder.name}/{path.name}\0".encode() + path.read_bytes() + b"\0")
    return digest.hexdigest()[:24]


def place(device: str) -> Record:
    """Return the fields of a record on where the check was made: card, driver, libraries, the source of rnncore."""
    about = kernels.describe(int(device.partition(":")[2] or 0))
    return {name: about[key] for name, key in PLACE.items()} | {"rnncore": __version__, "texts": texts()}


def described(task: Task) -> Record:
    """Return the fields of a record on the task that was checked, and on where the check was made."""
    about = asdict(task) | {"folds": folded(task.vocab, task.seq * task.columns)}
    return place(about.pop("device")) | about


def find(task: Task) -> list[Record]:
    """Return the records of the task's path on its card, with the present driver, libraries and source.

    The key has no E. For training, V matters only through whether the embedding is folded, so the key has `folds` and
    not V; for writing it has V and not `folds`.
    """
    others = "embed", "vocab" if task.optimizer else "folds"
    return remembered({name: value for name, value in described(task).items() if name not in others})


def remembered(wanted: Record) -> list[Record]:
    """Return the records that have all fields of `wanted`, the newest first. A missing or faulty file has none."""
    try:
        path = kernels.host.native.cache() / NAME
        with open(path, "rb") as file:
            found: Any = strict(path, file.read(SIZE), NAME)
    except (OSError, ModelFileError):
        return []
    whole = isinstance(found, list) and all(fault(record, RECORD, "") is None for record in found)
    return [record for record in found if wanted.items() <= record.items()] if whole else []
