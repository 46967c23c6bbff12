"""The standard streams, in a state that every command can rely on: open, and able to write every character."""
import codecs
import contextlib
import errno
import io
import os
import sys
from typing import TextIO, cast

LOST = "rnncore.lost"  # the name of the codecs' error handler `lost`
CLOSED = "stdout is closed: send it to a file, to a pipe, or to /dev/null"
_said: list[str] = []  # holds the warning on lost characters when it has been printed


class Closed(io.TextIOBase):
    """A stand-in for a closed stdout. Writing to it raises OSError, because the text would be lost."""
    encoding = "utf-8"

    @property
    def buffer(self) -> "Closed":
        """Return this stream, for bytes."""
        return self

    def writable(self) -> bool:
        """Return True, because writers ask before they write."""
        return True

    def write(self, text) -> int:
        """Raise OSError (EBADF)."""
        raise OSError(errno.EBADF, CLOSED)


def open_streams() -> None:
    """Make stdout and stderr writable streams, in which a character that their encoding lacks becomes `?`.

    A closed stderr is replaced by /dev/null, a closed stdout by Closed. File descriptors 0, 1 and 2 are opened if they
    are closed, so that no other file gets one of these numbers.
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
        sys.stderr = open(os.devnull, "w")  # stays open until the process ends
    wrapper(sys.stderr).reconfigure(errors="replace" if is_utf8(sys.stderr.encoding) else LOST)


def wrapper(stream: TextIO) -> io.TextIOWrapper:
    """Return a standard stream under the type that Python gives it, whose error handler and line ends can be set."""
    return cast(io.TextIOWrapper, stream)


def is_utf8(encoding: str) -> bool:
    """Return True if this is a name of UTF-8."""
    return codecs.lookup(encoding).name == "utf-8"


def lost(error: UnicodeError) -> tuple[str, int]:
    """Return `?` for each character that an encoding lacks, and print one warning on stderr.

    It is an error handler for the module codecs. Raises the error if it is not about encoding.
    """
    if not isinstance(error, UnicodeEncodeError):
        raise error
    if not _said:
        what = f"U+{ord(error.object[error.start]):04X}"
        _said.append(
            f"warning: {what} is half a character, which UTF-8 cannot hold: such characters are written as ?"
            if is_utf8(error.encoding) else
            f"warning: {error.encoding} has no {what}: missing characters are written as ?; set PYTHONIOENCODING=utf-8 "
            "in the environment to keep them")
        with contextlib.suppress(OSError):
            print(*_said, file=sys.stderr, flush=True)
    return "?" * (error.end - error.start), error.end


def say_error(text: str) -> None:
    """Print the reason why a command ends on stderr. If nobody can read it, the exit code stays the same."""
    with contextlib.suppress(OSError):
        wrapper(sys.stderr).reconfigure(errors="backslashreplace")
        print(text, file=sys.stderr, flush=True)


def flush_or_discard() -> None:
    """Write the text that stdout still holds. If that fails, discard it, or Python would print the error at its end."""
    try:
        sys.stdout.flush()
    except OSError:
        with contextlib.suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def show_notices() -> None:
    """Print the library's notices on stderr, one line each; for example, that it compiles the loops."""
    import logging  # here, because it would slow down --help
    logger = logging.getLogger("rnncore")
    logger.setLevel(logging.INFO)
    logger.handlers = [logging.StreamHandler()]
