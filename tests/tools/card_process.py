"""A part of card.sh at work: it runs commands within a time limit, and ends them with all their children."""
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
TOOLS = Path(__file__).resolve().parent
PYTHON = os.environ.get("PYTHON") or sys.executable
GRACE = 3.0  # seconds from SIGTERM to SIGKILL for what runs on past its limit


@dataclass(frozen=True)
class Options:
    """What may be chosen beside the parts and their limits."""
    rounds: int = 3           # of bench: fewer than its default, so that all rows fit
    workers: int = max(1, min(8, os.cpu_count() or 1))  # processes of pytest


class Stopped(BaseException):
    """A signal asked for an end."""


@dataclass
class Part:
    """A part at work: its name, the folder of all results, its limit in seconds; `changed` hears of a new row."""
    name: str
    out: Path
    limit: float
    options: Options = Options()
    changed: Callable[[dict], None] = lambda so_far: None
    begun: float = field(default_factory=time.monotonic)
    stopped: bool = False  # by a signal: what its commands have left is still told

    @property
    def log(self) -> Path:
        """Return the file that has the words of all its commands."""
        return self.out / f"{self.name}.log"

    def left(self) -> float:
        """Return the seconds that are left to the part."""
        return 0.0 if self.stopped else self.begun + self.limit - time.monotonic()

    def run(self, *commands: list[str], limit: float | None = None, stdout: Path | None = None,
            **environment: str) -> list[int | None]:
        """Run commands side by side in the checkout; returns their exit codes, None where one was ended.

        The limit ends them, or a signal to this process. Their words go to the part's log; stdout: a file for the
        standard output of the only command. {number} in a variable of the environment is the command's, from 1 on.
        """
        deadline = time.monotonic() + min(self.left(), limit or self.left())
        paths = filter(None, (str(ROOT), str(TOOLS), os.environ.get("PYTHONPATH")))
        given = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "RNNCORE_NO_REPORT": "1"}
        processes: list[subprocess.Popen] = []
        with ExitStack() as stack:
            log = stack.enter_context(open(self.log, "a"))
            stack.callback(end, processes)
            out = stack.enter_context(open(stdout, "w")) if stdout else log
            for number, command in enumerate(commands, 1):
                print("$", *command, file=log, flush=True)
                more = {name: value.replace("{number}", str(number)) for name, value in environment.items()}
                processes.append(subprocess.Popen(command, cwd=ROOT, env=given | more, stdin=subprocess.DEVNULL,
                                                  stdout=out, stderr=log, start_new_session=True))
            try:
                while any(process.poll() is None for process in processes) and time.monotonic() < deadline:
                    time.sleep(0.02)
            except Stopped:
                self.stopped = True
            return [process.poll() for process in processes]

    def last_line(self) -> str:
        """Return the last line in which the last command said something."""
        lines = [" ".join(line.split()) for line in self.log.read_text(errors="replace").splitlines()]
        last = next((line for line in reversed(lines) if line), "")
        return "no word" if last.startswith("$ ") else last[:200]


def end(processes: list[subprocess.Popen]) -> None:
    """End what still runs in the groups of these processes: their children too, which would hold the card."""
    running = [process for process in processes if process.poll() is None]
    for process in running:
        signal_group(process, signal.SIGTERM)
    until = time.monotonic() + GRACE
    for process in running:
        with suppress(subprocess.TimeoutExpired):
            process.wait(max(0, until - time.monotonic()))
    for process in processes:
        signal_group(process, signal.SIGKILL)
        process.wait()


def signal_group(process: subprocess.Popen, number: signal.Signals) -> None:
    """Send a signal to all processes of a group that there still are."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, number)


def result(outcome: str, words: str, **more) -> dict:
    """Return what came of a part."""
    return {"outcome": outcome, "words": words, **more}


def ending(codes: list[int | None], passed: bool) -> str:
    """Return the outcome of commands that ended with these codes."""
    return "limit" if None in codes else "passed" if passed and not any(codes) else "failed"


def read_json(file: Path):
    """Return what a file of JSON holds; None where it is missing or not whole."""
    try:
        return json.loads(file.read_text())
    except (OSError, ValueError):
        return None
