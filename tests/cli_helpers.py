"""What the tests of the command line share: a small text, small settings, and `rnncore` in a process or in this one."""
import contextlib
import fcntl
import io
import json
import os
import pty
import random
import shutil
import signal
import struct
import subprocess
import sys
import termios
from pathlib import Path
from typing import NamedTuple

import pytest
from fork_server import COMMAND, ENVIRONMENT, Forked

import rnncore
from rnncore.cli import main
from rnncore.runs import checkpoint
from rnncore.runs.folder import RunFolder

ROOT = Path(rnncore.__file__).resolve().parent.parent
WORDS = "the a cat dog sees takes old red house river and is".split()
TEXT = "".join(" ".join(random.Random(line).choices(WORDS, k=6)) + ".\n" for line in range(200))  # 5,390 characters
SMALL = ("--layers", "1", "--hidden", "16", "--embed", "8", "--seq", "20", "--batch", "8", "--threads", "1")
# As commands are printed by the processes that tests start: in an activated environment `rnncore` is on PATH.
CALLED = ["rnncore"] if shutil.which("rnncore") == str(Path(sys.executable).parent / "rnncore") else list(COMMAND)


class Result(NamedTuple):
    """What a command left behind."""
    code: int
    out: str
    err: str


def run(*args, cwd, stdin: bytes | None = None, env: dict | None = None, **options) -> Result:
    """`rnncore ARGS` as a user types it, in the folder cwd: forked, unless `options` or `env` are for an interpreter that starts."""
    own = options or any(name.startswith(("PYTHON", "LANG", "LC_")) for name in env or ())
    if "preexec_fn" in options:  # under a limit on files, compiled modules would be cut off, and others would read them
        env = {"PYTHONDONTWRITEBYTECODE": "1"} | (env or {})
    options |= {"cwd": cwd, "env": ENVIRONMENT | (env or {}), "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    if stdin is not None:
        options["stdin"] = subprocess.PIPE
    with subprocess.Popen([*COMMAND, *map(str, args)], **options) if own else Forked(*args, **options) as process:
        try:
            out, err = process.communicate(stdin, timeout=120)
        except BaseException:
            process.kill()
            raise
    return Result(process.returncode, out.decode(errors="replace"), err.decode(errors="replace"))


def call(capsys, *args) -> Result:
    """The same in this process and folder: quicker, and equal but for signals, streams and imports."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as left:
        main(list(map(str, args)))
    out, err = capsys.readouterr()
    return Result(left.value.code or 0, out, err)


def terminal(*args, cwd, columns: int = 80, stream: str = "stderr") -> tuple[int, str]:
    """(exit code, what it writes to this stream) of `rnncore ARGS` where that is a terminal of so many columns."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 50, columns, 0, 0))
    environment = {name: value for name, value in ENVIRONMENT.items() if name != "COLUMNS"} | {"TERM": "xterm"}
    other = {"stderr": "stdout", "stdout": "stderr"}[stream]
    child = Forked(*args, cwd=cwd, env=environment, stdin=subprocess.DEVNULL, **{stream: theirs, other: subprocess.DEVNULL})
    os.close(theirs)
    found = b""
    with contextlib.suppress(OSError):  # the other end has been closed
        while piece := os.read(ours, 4096):
            found += piece
    os.close(ours)
    return child.wait(timeout=60), found.decode()


def make(*args, cwd: Path) -> None:
    """`rnncore ARGS` in the folder cwd, in this process and without a word, for what a test only needs to be there."""
    out, err = (io.TextIOWrapper(io.BytesIO(), encoding="utf-8", write_through=True) for _ in range(2))
    with contextlib.chdir(cwd), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        with pytest.raises(SystemExit) as left:
            main(list(map(str, args)))
    assert not left.value.code, err.buffer.getvalue().decode()


def finished_run(folder: Path) -> Path:
    """The folder, with corpus.txt and a run of 4 steps in it, `run`."""
    corpus(folder, TEXT[:1500])
    make("train", "corpus.txt", "--steps", 4, *SMALL, "-o", "run", cwd=folder)
    return folder


def stoppable(capsys, monkeypatch):
    """`rnncore train ARGS` by `call`, as a function; its `at` stops the run after that step, as Ctrl-C does."""
    log = RunFolder.log

    def command(*args, at: int | None = None) -> Result:
        def log_and_stop(self, progress, last=False):
            log(self, progress, last)
            if progress.step == at and not last:
                os.kill(os.getpid(), signal.SIGINT)

        monkeypatch.setattr(RunFolder, "log", log_and_stop)
        return call(capsys, "train", *args)

    return command


def refused(result: Result, code: int = 1) -> str:
    """The last line on stderr of a command that ended with this code; the only one, but for usage errors."""
    assert result.code == code, result
    assert "Traceback" not in result.err and "internal error" not in result.err
    lines = result.err.strip().splitlines()
    assert result.out == "" and (len(lines) == 1 or code == 2), result
    return lines[-1]


def corpus(folder: Path, text: str = TEXT, name: str = "corpus.txt") -> Path:
    """A file of text in `folder`."""
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def rows(run_folder: Path) -> list[dict]:
    """The rows of metrics.jsonl; a number that JSON does not know is an error."""
    def refuse(constant: str):
        raise ValueError(f"{constant} in {run_folder}")

    return [json.loads(line, parse_constant=refuse)
            for line in (run_folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]


def read_last(run_folder: Path) -> tuple[dict, dict]:
    """The metadata and the tensors of last.safetensors."""
    return checkpoint.read(run_folder / "last.safetensors")


def files(folder: Path) -> dict[str, bytes]:
    """Every file below `folder` and its bytes."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}
