"""The `rnncore` command: finds the command's module, and turns what goes wrong into one line and an exit code.

Exit codes: 0; 1 refused; 2 usage; 3 diverged; 129, 130 and 143 stopped by a signal.
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
from .terminal.streams import CLOSED, open_streams, say_error

COMMANDS = {
    "train": "Learn a corpus: files, folders, - or a named corpus.",
    "generate": "Write text with a trained model.",
    "score": "Measure how well a model predicts a text.",
    "report": "Show in one HTML file what a model has learnt.",
    "neurons": "Find the cells that follow quotes, brackets and lines.",
    "corpus": "List and download the named corpora.",
    "gradcheck": "Compare every gradient with finite differences.",
    "bench": "Measure the speed of training and writing here.",
    "info": "Show what a model file or run holds.",
    "doctor": "Show what this machine can do, and why not.",
}
SETTINGS = {"help_option_names": ["-h", "--help"], "max_content_width": 100, "show_default": True}


class Commands(HelpfulGroup):
    """A group whose commands are imported when they are called, so that --help loads no NumPy."""

    def list_commands(self, ctx) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx, name: str) -> click.Command | None:
        return importlib.import_module(f".{name}", __package__).command if name in COMMANDS else None

    def format_help_text(self, ctx, formatter) -> None:
        formatter.write_paragraph()
        with formatter.indentation():
            formatter.write_text(said(HELP).replace("`", ""))  # a line of its own

    def format_commands(self, ctx, formatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))

    def invoke(self, ctx):
        show_notices()
        try:
            code = super().invoke(ctx)
            sys.stdout.flush()
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the reader has left: nothing to say
            return 0
        return code


HELP = """A character-level LSTM, from scratch on raw arrays: train it, let it write, check its gradients.

\b
Start with:  `rnncore train numpy --minutes 1`
"""
commands = click.version_option(__version__, prog_name="rnncore")(
    Commands("rnncore", help=HELP, context_settings=SETTINGS))


def main(args=None) -> None:
    """Run the command line and exit."""
    open_streams()
    warnings.formatwarning = worded
    warnings.filterwarnings("ignore", ".* encountered in ", RuntimeWarning)  # NumPy's: who computes looks at the result
    try:
        code = commands.main(args, called(), standalone_mode=False) or 0
    except click.exceptions.Abort:  # click's word for Ctrl-C
        with contextlib.suppress(OSError):
            sys.stdout.flush()
        os._exit(130)  # at once: an exit of the interpreter waits for threads in mid-step
    except Stopped as stopped:
        os._exit(128 + stopped.number)
    except Exception as error:
        if "--debug" in (sys.argv if args is None else args):
            raise
        code = explain(error)
    sys.exit(code)


def show_notices() -> None:
    """Print the notices of the library, such as that it compiles, as lines on stderr."""
    import logging  # here, because it would slow down --help
    logger = logging.getLogger("rnncore")
    logger.setLevel(logging.INFO)
    logger.handlers = [logging.StreamHandler()]


def worded(message, category, filename, lineno, line=None) -> str:
    """A warning as it is shown: of a slower path in one line, as all that a command says."""
    from rnncore.kernels.paths import Slower
    return f"{shown(f'warning: {message}')}\n" if issubclass(category, Slower) else \
        formatwarning(message, category, filename, lineno, line)


def explain(error: Exception) -> int:
    """Say what went wrong in one line on stderr; returns the exit code."""
    try:
        code, message = _verdict(error)
    except (ImportError, MemoryError, SystemError, OSError) as another:  # a library that the verdict itself needs
        code, message = 1, f"rnncore: {limits.unloadable(another if isinstance(another, ImportError) else error)}"
    say_error(shown(message))
    return code


def _verdict(error: Exception) -> tuple[int, str]:
    """(exit code, what to say)."""
    if isinstance(error, click.ClickException):
        file = io.StringIO()
        error.show(file)
        return error.exit_code, file.getvalue().rstrip("\n")
    too_old = requirements.fault()  # then the error may be anything
    code, message = (1, too_old) if too_old else _cause(error)
    return code, f"rnncore: {message}"


def _cause(error: Exception) -> tuple[int, str]:
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
        return 1, f"{where}{error.strerror or message}"  # of ours, a FileNotFoundError in words of its own
    return 1, f"internal error, {type(error).__name__}: {message} (the same command with --debug shows where)"
