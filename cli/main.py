"""The `rnncore` command: it runs a command's module and turns an error into one line on stderr and an exit code.

Exit codes: 0 success; 1 refused; 2 usage error; 3 diverged; 129, 130 and 143 stopped by SIGHUP, SIGINT and SIGTERM.
"""
import contextlib
import errno
import importlib
import io
import os
import sys
import warnings
from warnings import formatwarning

import click

from rnncore import __version__, requirements

from .terminal import limits
from .terminal.called import called, said
from .terminal.meant import HelpfulGroup
from .terminal.progress import shown
from .terminal.signals import Stopped
from .terminal.streams import CLOSED, flush_or_discard, open_streams, say_error

COMMANDS = {
    "train": "Train a model on files, folders, - or a named corpus.",
    "generate": "Write text with a trained model.",
    "score": "Measure how well a model predicts a text.",
    "report": "Show in one HTML file what a model has learned.",
    "neurons": "Find the cells that follow quotes, brackets and lines.",
    "corpus": "List and download the named corpora.",
    "gradcheck": "Compare every gradient with finite differences.",
    "bench": "Measure the speed of training and writing here.",
    "info": "Show what a model file or run holds.",
    "doctor": "Show what this machine can do and what is missing.",
}
SETTINGS = {"help_option_names": ["-h", "--help"], "max_content_width": 100, "show_default": True}


class Commands(HelpfulGroup):
    """The group of all commands. A command's module is imported only when it is called, so `--help` needs no NumPy.

    If the reader of stdout has gone (a closed pipe), a command ends at once, with exit code 0.
    """

    def list_commands(self, ctx) -> list[str]:
        """Return the names of the commands, in the order of the help."""
        return list(COMMANDS)

    def get_command(self, ctx, name: str) -> click.Command | None:
        """Return the command of this name, whose module is imported now, or None if there is no such command."""
        return importlib.import_module(f".{name}", __package__).command if name in COMMANDS else None

    def format_help_text(self, ctx, formatter) -> None:
        """Write the introduction of the help, with commands as this user can type them."""
        formatter.write_paragraph()
        with formatter.indentation():
            # In HELP, \b tells click to keep the line breaks of the paragraph with the example.
            formatter.write_text(said(HELP).replace("`", ""))

    def format_commands(self, ctx, formatter) -> None:
        """Write the names of the commands with one line on each. No command is imported for this."""
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))

    def invoke(self, ctx):
        try:
            code = super().invoke(ctx)
            sys.stdout.flush()
            return code
        except BrokenPipeError:  # the reader has left: no error
            flush_or_discard()


HELP = """A character-level LSTM, from scratch on raw arrays: train it, let it write, check its gradients.

\b
Start with:  `rnncore train numpy --minutes 1`
"""
commands = click.version_option(__version__, prog_name="rnncore")(
    Commands("rnncore", help=HELP, context_settings=SETTINGS))


def main(args=None) -> None:
    """Run the command line and exit with the command's exit code.

    args: the words of the command line; by default those of this process. With --debug, an error is raised with its
    traceback, not explained.
    """
    open_streams()
    warnings.formatwarning = worded
    # NumPy warns of overflows; the engine itself checks that losses and gradients are finite.
    warnings.filterwarnings("ignore", ".* encountered in ", RuntimeWarning)
    try:
        code = commands.main(args, called(), standalone_mode=False) or 0
    except click.exceptions.Abort:  # click raises it for KeyboardInterrupt
        with contextlib.suppress(OSError):
            sys.stdout.flush()
        os._exit(130)  # sys.exit would wait for threads in the middle of a step
    except Stopped as stopped:
        os._exit(128 + stopped.number)
    except Exception as error:
        if "--debug" in (sys.argv if args is None else args):
            raise
        code = explain(error)
        flush_or_discard()
    sys.exit(code)


def worded(message, category, filename, lineno, line=None) -> str:
    """Return a Python warning as text for stderr.

    A Slower warning (kernels/paths.py) becomes one line like the other messages. Any other warning keeps Python's
    format.
    """
    from rnncore.kernels.paths import Slower
    return f"{shown(f'warning: {message}')}\n" if issubclass(category, Slower) else \
        formatwarning(message, category, filename, lineno, line)


def explain(error: Exception) -> int:
    """Print one line on stderr that says what went wrong, and return the exit code."""
    try:
        code, message = _verdict(error)
    except (ImportError, MemoryError, SystemError, OSError) as another:  # _verdict imports libraries, too
        code, message = 1, f"rnncore: {limits.unloadable(another if isinstance(another, ImportError) else error)}"
    say_error(shown(message))
    return code


def _verdict(error: Exception) -> tuple[int, str]:
    """Return (exit code, message) for an error."""
    if isinstance(error, click.ClickException):
        file = io.StringIO()
        error.show(file)
        return error.exit_code, file.getvalue().rstrip("\n")
    too_old = requirements.fault()  # old libraries may cause any error, so this is the message
    code, message = (1, too_old) if too_old else _cause(error)
    return code, f"rnncore: {message}"


def _cause(error: Exception) -> tuple[int, str]:
    """Return (exit code, message) for an error that click did not raise. The message is one line."""
    message = " ".join(str(error).split())
    if isinstance(error, limits.TooLittleMemory):
        return 1, message
    if isinstance(error, MemoryError):
        return 1, limits.exhausted("take a smaller --batch, --seq or --hidden")
    if isinstance(error, RuntimeError) and "start new thread" in message:
        return 1, limits.exhausted("take a smaller --threads, or allow more processes (`ulimit -u`)")
    if isinstance(error, ImportError) and not (error.name or "").startswith("rnncore"):
        return 1, limits.unloadable(error)
    if isinstance(error, OSError) and error.errno == errno.EBADF and not error.filename:
        return 1, CLOSED

    from rnncore.config import ConfigError
    from rnncore.data.text import CorpusError, CorpusNotFoundError, UnknownEncodingError
    from rnncore.data.vocab import UnknownSymbolError
    from rnncore.kernels import DeviceError
    from rnncore.recovery import Diverged
    from rnncore.runs.checkpoint import ModelFileError
    from rnncore.runs.folder import RunError

    if isinstance(error, (ConfigError, CorpusNotFoundError, UnknownEncodingError)):
        return 2, message
    if isinstance(error, (Diverged, FloatingPointError)):
        return 3, message
    if isinstance(error, (CorpusError, UnknownSymbolError, DeviceError, ModelFileError, RunError)):
        return 1, message
    if isinstance(error, OSError):
        where = f"{error.filename}: " if error.filename else ""
        return 1, f"{where}{error.strerror or message}"  # without strerror it is our own FileNotFoundError
    return 1, f"internal error, {type(error).__name__}: {message} (the same command with --debug shows where)"
