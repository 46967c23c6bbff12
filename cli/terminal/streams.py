"""The standard streams as all commands find them: never missing, and what cannot be written there is said."""
import codecs
import contextlib
import errno
import io
import os
import sys
from typing import TextIO, cast

LOST = "rnncore.lost"  # the name of the codecs' error handler `lost`
CLOSED = "stdout is closed: send it to a file, to a pipe, or to /dev/null"
_said: list[str] = []  # the one note on lost characters, once it has been made


class Closed(io.TextIOBase):
    """A stand-in for a stdout that is closed: to write there is an error, for what is written would be lost."""
    encoding = "utf-8"

    @property
    def buffer(self) -> "Closed":
        return self

    def writable(self) -> bool:
        return True

    def write(self, text) -> int:
        raise OSError(errno.EBADF, CLOSED)


def open_streams() -> None:
    """Make stdout and stderr streams that can be written to, in which a character that their encoding lacks is a `?`.

    A closed stderr goes nowhere, a closed stdout is a Closed. The numbers 0, 1 and 2 of closed streams are taken, so
    that no file of ours gets one of them.
    """
    _said.clear()
    codecs.register_error(LOST, lost)
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
    if sys.stdout is None:
        sys.stdout = Closed()
    elif not isinstance(sys.stdout, Closed):
        wrapper(sys.stdout).reconfigure(errors=LOST)
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w")  # open as long as the process is
    wrapper(sys.stderr).reconfigure(errors="replace" if is_utf8(sys.stderr.encoding) else LOST)


def wrapper(stream: TextIO) -> io.TextIOWrapper:
    """Return a standard stream as what Python makes it: its errors and line ends can be set."""
    return cast(io.TextIOWrapper, stream)


def is_utf8(encoding: str) -> bool:
    """Is this a name of UTF-8?"""
    return codecs.lookup(encoding).name == "utf-8"


def lost(error: UnicodeError) -> tuple[str, int]:
    """Write `?` for what an encoding lacks (a codecs error handler), and say so once on stderr."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    if not _said:
        what = f"U+{ord(error.object[error.start]):04X}"
        _said.append(
            f"warning: {what} is half a character, which UTF-8 cannot hold: such are written as ?"
            if is_utf8(error.encoding) else
            f"warning: {error.encoding} has no {what}: what it lacks is written as ?; with PYTHONIOENCODING=utf-8 in "
            "the environment nothing is lost")
        with contextlib.suppress(OSError):
            print(*_said, file=sys.stderr, flush=True)
    return "?" * (error.end - error.start), error.end


def say_error(text: str) -> None:
    """A line on stderr that says why a command ends; one that nobody can read changes no exit code."""
    with contextlib.suppress(OSError):
        wrapper(sys.stderr).reconfigure(errors="backslashreplace")
        print(text, file=sys.stderr, flush=True)
