"""Options that several commands share, number types with readable errors, and help with headings.

Defaults are read from rnncore.config.
"""
import os
import re

import click

from rnncore import config, requirements
from rnncore.config import MOST, PATHS, PRECISIONS
from rnncore.runs.options import OptionError

from .terminal import limits
from .terminal.called import said
from .terminal.meant import SUBCOMMANDS, Helpful, HelpfulGroup, nearest, question
from .terminal.progress import tell
from .terminal.streams import show_notices

DEVICE = click.option("--device", default="auto", metavar="auto|cpu|cuda|cuda:K",
                      callback=lambda ctx, _, value: _device(value),
                      help="Where to compute; auto: on a GPU that works, else on the CPU.")
CUDA_PATH = click.option("--cuda-path", type=click.Choice(["auto", *PATHS]), default="auto",
                         help="How a GPU computes; auto: by the path that suits model and GPU, if a self-check finds "
                              "that it agrees with eager.")
DTYPE = "--dtype", {"type": click.Choice(PRECISIONS), "default": config.DTYPE,
                    "help": "Precision of all numbers; only of the factors of matrix products: tf32 (on a GPU) and "
                            "bf16 (on a GPU, or a processor with avx512_bf16)."}
READING = "--dtype", {"type": click.Choice(PRECISIONS),
                      "help": "Precision, as in `train`. [default: float32, or float64 for a model saved in it]"}
JSON = click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
ENCODING = click.option("--encoding", default="utf-8", metavar="NAME|auto",
                        help="Encoding of the text files; auto: for each file UTF-8 if it is valid UTF-8, else the "
                             "encoding that it looks like.")
ENCODING_ERRORS = click.option("--encoding-errors", type=click.Choice(["strict", "replace", "skip"]), default="strict",
                               help="What to do with bytes that are not valid in the encoding: refuse them (strict), "
                                    "write U+FFFD for them (replace), or leave them out (skip).")
NEWLINE = click.option("--newline", type=click.Choice(["lf", "keep"]), default="lf",
                       help="Change every line end to LF, or keep line ends as they are.")
ON_UNKNOWN = click.option("--on-unknown", type=click.Choice(["error", "skip", "replace"]), default="error",
                          help="What to do with symbols that the model does not know: refuse them (error), leave them "
                               "out (skip), or put a stand-in there (replace).")
DIGITS = 40       # characters of a whole number, at most; config.MOST has 16 digits, a seed has 20
LAST = "Options"  # the heading of the options that have no other heading
TWO = re.compile(r"\[default: ([^]]*)\]  \[")  # our default and click's range, each in its own brackets
RUN = click.argument("run", required=False, metavar="[RUN]")


class Debuggable(Helpful):
    """A command, or a group of commands, with the option --debug."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.params.append(click.Option(["--debug"], is_flag=True, expose_value=False,
                                        help="Show the traceback of an error."))


class Command(Debuggable):
    """A command with --debug whose help lists the options under the headings that `grouped` gave them.

    computes: True if the command needs libraries that are new enough. Running the command raises ImportError if they
    are too old, and limits.TooLittleMemory if they cannot be loaded within a memory limit.
    """
    computes = True

    def invoke(self, ctx):
        """Check libraries and memory limit, then run the command. An OptionError becomes a usage error."""
        if self.computes:
            requirements.check()
        limits.check()
        show_notices()
        try:
            return super().invoke(ctx)
        except OptionError as error:
            raise click.UsageError(str(error), ctx) from None

    def format_help_text(self, ctx, formatter) -> None:
        """Write the description of the command, with commands as this user can type them."""
        text, self.help = self.help, said(self.help or "")
        super().format_help_text(ctx, formatter)
        self.help = text

    def format_options(self, ctx, formatter) -> None:
        """Write the options, one section for each heading; options without a heading come last."""
        sections: dict[str, list] = {}
        for param in self.get_params(ctx):
            record = param.get_help_record(ctx)
            if record and isinstance(param, click.Option):  # the command's text describes its arguments
                names, about = record[0], TWO.sub(r"[default: \1; ", record[1]).replace("  [", " [")
                sections.setdefault(getattr(param, "heading", LAST), []).append((names, about))
        sections[LAST] = sections.pop(LAST)
        for heading, records in sections.items():
            with formatter.section(heading):
                formatter.write_dl(records)


class Group(Debuggable, HelpfulGroup):
    """A group of Commands, with --debug."""
    command_class = Command
    theirs = SUBCOMMANDS


class Integer(click.types.IntParamType):
    """The type of whole numbers. A word longer than DIGITS characters is refused with its length, not written out."""

    def convert(self, value, param, ctx) -> int:
        """Return the number. Call click's `fail` (BadParameter) if the word is no whole number."""
        if isinstance(value, str) and len(value) > DIGITS:
            self.fail(f"a word of {len(value):,} characters is no whole number of at most {DIGITS} digits.", param, ctx)
        return super().convert(value, param, ctx)


class Whole(click.IntRange):
    """The type of whole numbers from `least` to `most`. Without `most`, the bound is config.MOST; the help omits it."""

    def __init__(self, least: int, most: int | None = None):
        super().__init__(least, most)
        self.kind = config.whole(least, most or MOST)

    def convert(self, value, param, ctx) -> int:
        """Return the number. Call click's `fail` (BadParameter) if it is out of range."""
        found = Integer().convert(value, param, ctx)
        if not self.kind.holds(found):
            self.fail(f"{found} is not {self.kind.words}.", param, ctx)
        return found


class Number(click.FloatRange):
    """The type of numbers in a range. It refuses nan, which click's own range accepts."""

    def convert(self, value, param, ctx) -> float:
        """Return the number. Call click's `fail` (BadParameter) if it is out of range or nan."""
        found = super().convert(value, param, ctx)
        if found != found:
            self.fail(f"{value!r} is not a number", param, ctx)
        return found


SHARE = Number(0, 1, max_open=True)


def grouped(heading: str, *options):
    """Return a decorator that adds options under a heading of the help.

    options: each a pair (names, keyword arguments of click.option), or a ready decorator such as DEVICE.
    """
    def add(function):
        for option in reversed(options):
            function = (option if callable(option) else click.option(*option[0].split(), **option[1]))(function)
            function.__click_params__[-1].heading = heading
        return function
    return add


def _device(value: str) -> str:
    """Return the value of --device, or raise BadParameter, which suggests what may have been meant."""
    if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", value):
        number = re.findall(r":?(\d*)$", value)[0]
        gpu = ["cuda" + f":{number}" * bool(number)] if value.lower().startswith(("gpu", "cuda", "nvidia")) else \
            nearest(value.lower(), {"auto": "auto", "cpu": "cpu"})
        raise click.BadParameter(f"{value!r} is none of auto, cpu, cuda, cuda:K" + question(gpu))
    return value


def threads(ctx, param, value: str) -> int | None:
    """Return None for "auto", else a whole number of at least 1 (a callback for click)."""
    if value == "auto":
        return None
    if not value.isdecimal() or not value.strip("0"):
        raise click.BadParameter(f"{value!r} is neither auto nor a whole number of at least 1")
    return Whole(1).convert(value, param, ctx)


def says_yes(variable: str) -> bool:
    """Return True if an environment variable is set to yes (1, true, on ...), and False if it is no, empty or missing.

    Raises UsageError for any other value.
    """
    value = os.environ.get(variable, "").strip()
    try:
        return bool(value) and click.BOOL.convert(value, None, None)
    except click.BadParameter:
        raise click.UsageError(f"{variable}={value} in the environment is neither yes nor no: take 1 or 0") from None


def find(run: str | None):
    """Return the names.Found for RUN, or for the newest run if RUN is None, and print its notes on stderr.

    Raises FileNotFoundError, ModelFileError or RunError if there is no such model.
    """
    from rnncore.runs import names
    found = names.find(run) if run is not None else names.at(names.newest())
    for note in found.notes:
        tell(str(note))
    return found


def open_model(run: str | None, device: str, dtype: str | None = None):
    """Return (path of the model file, model, its training card) for RUN, which is resolved as in `find`.

    device: where the model is loaded: auto, cpu, cuda or cuda:K. dtype: the precision; None: that of the file's
    numbers. Raises OptionError if the device does not have it.
    """
    from rnncore.runs import checkpoint
    if dtype:
        from rnncore import kernels
        if reason := kernels.load(device).why_not("eager", dtype):
            raise OptionError(f"--dtype {dtype}: {reason.removeprefix(f'{dtype}: ')}")
    file = find(run).file
    document, tensors = checkpoint.read(file)
    return file, checkpoint.to_model(document, tensors, device, dtype), document["card"]
