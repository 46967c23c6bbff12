"""Options that several commands share, and help text in groups; defaults are read from rnncore.config."""
import os

import click

from rnncore import config, requirements
from rnncore.config import MOST, PATHS, PRECISIONS
from rnncore.runs.options import OptionError

from .terminal import limits
from .terminal.called import said
from .terminal.meant import SUBCOMMANDS, Helpful, HelpfulGroup, nearest, question
from .terminal.progress import tell

DEVICE = click.option("--device", default="auto", metavar="auto|cpu|cuda|cuda:K",
                      callback=lambda ctx, _, value: _device(value),
                      help="Where to compute; auto is a GPU that works, else the CPU.")
CUDA_PATH = click.option("--cuda-path", type=click.Choice(["auto", *PATHS]), default="auto",
                         help="How a GPU computes; auto: as suits model and card, if it agrees with eager, tried once.")
DTYPE = "--dtype", {"type": click.Choice(PRECISIONS), "default": config.DTYPE,
                    "help": "Precision: of all numbers, or tf32, bf16: of the factors of products, on a GPU."}
JSON = click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
ENCODING = click.option("--encoding", default="utf-8", metavar="NAME|auto",
                        help="How the text files are encoded; auto: each as it is, UTF-8 where it is valid, else what "
                             "it looks like.")
ENCODING_ERRORS = click.option("--encoding-errors", type=click.Choice(["strict", "replace", "skip"]), default="strict",
                               help="What to do with bytes that the encoding does not have: refuse them, make them "
                                    "U+FFFD, or leave them out.")
NEWLINE = click.option("--newline", type=click.Choice(["lf", "keep"]), default="lf",
                       help="Make every line end a LF, or keep them as they are.")
ON_UNKNOWN = click.option("--on-unknown", type=click.Choice(["error", "skip", "replace"]), default="error",
                          help="What to do with symbols that the model does not know.")
DIGITS = 40       # of a whole number, at most: config.MOST has 16, a seed 20
LAST = "Options"  # the heading of options that no other heading has
RUN = click.argument("run", required=False, metavar="[RUN]")


class Debuggable(Helpful):
    """A command, or a group of commands, with --debug."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.params.append(click.Option(["--debug"], is_flag=True, expose_value=False,
                                        help="Show the traceback of what goes wrong."))


class Command(Debuggable):
    """A command with --debug, whose help shows its options under headings: those of `grouped`."""
    computes = True  # does it need libraries that are new enough?

    def invoke(self, ctx):
        """Run the command; raises ImportError where the libraries here are too old to compute right."""
        if self.computes:
            requirements.check()
        limits.check()
        try:
            return super().invoke(ctx)
        except OptionError as error:
            raise click.UsageError(str(error), ctx) from None

    def format_help_text(self, ctx, formatter) -> None:
        text, self.help = self.help, said(self.help or "")
        super().format_help_text(ctx, formatter)
        self.help = text

    def format_options(self, ctx, formatter) -> None:
        sections: dict[str, list] = {}
        for param in self.get_params(ctx):
            record = param.get_help_record(ctx)
            if record and isinstance(param, click.Option):  # arguments are told of in the text
                sections.setdefault(getattr(param, "heading", LAST), []).append(record)
        sections[LAST] = sections.pop(LAST)
        for heading, records in sections.items():
            with formatter.section(heading):
                formatter.write_dl(records)


class Group(Debuggable, HelpfulGroup):
    """A group with --debug, of such commands."""
    command_class = Command
    theirs = SUBCOMMANDS


class Integer(click.types.IntParamType):
    """Whole numbers; of one of hundreds of digits an error says their count."""

    def convert(self, value, param, ctx) -> int:
        if isinstance(value, str) and len(value) > DIGITS:
            self.fail(f"a word of {len(value):,} characters is no whole number of at most {DIGITS} digits.", param, ctx)
        return super().convert(value, param, ctx)


class Whole(click.IntRange):
    """Whole numbers of at least `least` and at most `most`; without one config.MOST, which help does not name."""

    def __init__(self, least: int, most: int | None = None):
        super().__init__(least, most)
        self.kind = config.whole(least, most or MOST)

    def convert(self, value, param, ctx) -> int:
        found = Integer().convert(value, param, ctx)
        if not self.kind.holds(found):
            self.fail(f"{found} is not {self.kind.words}.", param, ctx)
        return found


class Number(click.FloatRange):
    """Numbers of a range; nan, which click's own range lets through, is none."""

    def convert(self, value, param, ctx) -> float:
        found = super().convert(value, param, ctx)
        if found != found:
            self.fail(f"{value!r} is not a number", param, ctx)
        return found


SHARE = Number(0, 1, max_open=True)


def grouped(heading: str, *options):
    """A decorator that adds options under `heading`: (names, keyword arguments) of click's, or one as DEVICE."""
    def add(function):
        for option in reversed(options):
            function = (option if callable(option) else click.option(*option[0].split(), **option[1]))(function)
            function.__click_params__[-1].heading = heading
        return function
    return add


def _device(value: str) -> str:
    import re
    if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", value):
        number = re.findall(r":?(\d*)$", value)[0]
        gpu = ["cuda" + f":{number}" * bool(number)] if value.lower().startswith(("gpu", "cuda", "nvidia")) else \
            nearest(value.lower(), {"auto": "auto", "cpu": "cpu"})
        raise click.BadParameter(f"{value!r} is none of auto, cpu, cuda, cuda:K" + question(gpu))
    return value


def threads(ctx, param, value: str) -> int | None:
    """A callback: auto is None, else a number of at least 1."""
    if value == "auto":
        return None
    if not value.isdecimal() or not value.strip("0"):
        raise click.BadParameter(f"{value!r} is neither auto nor a whole number of at least 1")
    return Whole(1).convert(value, param, ctx)


def says_yes(variable: str) -> bool:
    """Return whether a variable of the environment is set to yes; an empty one is not. Raises UsageError."""
    value = os.environ.get(variable, "").strip()
    try:
        return bool(value) and click.BOOL.convert(value, None, None)
    except click.BadParameter:
        raise click.UsageError(f"{variable}={value} in the environment is neither yes nor no: take 1 or 0") from None


def find(run: str | None):
    """Return the names.Found that RUN stands for, without one that of the newest run; says the notes on stderr."""
    from rnncore.runs import names
    found = names.find(run) if run is not None else names.at(names.newest())
    for note in found.notes:
        tell(str(note))
    return found


def open_model(run: str | None, device: str):
    """Return (file, model, its training card) of what RUN stands for, as `find`."""
    from rnncore.runs import checkpoint
    file = find(run).file
    document, tensors = checkpoint.read(file)
    return file, checkpoint.to_model(document, tensors, device, None), document["card"]
