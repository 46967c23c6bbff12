"""Messages and progress on stderr: one live line on a terminal, plain lines from time to time in a file or a pipe."""
import contextlib
import math
import os
import re
import sys
import time
from typing import TextIO

import click

from .called import said

EVERY = 10.0           # seconds between plain lines
REFRESH = 0.25         # seconds between changes of the live line
BAR, NARROWEST = 16, 6  # columns of the bar in the live line, at most and at least
STUCK = "\x00"         # stands for a blank within a command while lines are wrapped; lines do not break at it
CONTROLS = {*range(32), *range(127, 160)} - {9, 10}  # code points of C0 and C1 without tab and line feed
REORDERING = {*range(0x202A, 0x202F), *range(0x2066, 0x206A)}  # bidirectional embeddings, overrides and isolates
HARMFUL = dict.fromkeys((*CONTROLS, *REORDERING, *range(0xD800, 0xE000)), "\N{REPLACEMENT CHARACTER}")


def describe(p) -> str:
    """Return a Progress as one line: step, share of the budget, loss, validation loss, speed, time left."""
    return "  ".join(text for _, text in parts(p))


def parts(p) -> list[tuple[int, str]]:
    """Return the parts of the line of `describe`, each with a rank. If it is too long, low ranks are left out first."""
    left = (1 - p.done) * p.seconds / p.done if p.done else 0
    validation = [(3, measured(p))] if p.val_loss is not None else []
    return [(5, f"step {p.step:,}"), (1, f"{100 * p.done:3.0f}%"), (4, f"loss {p.loss:.3f}"), *validation,
            (0, f"{p.chars_per_s:,.0f} chars/s"), (2, f"{clock(left)} left")]


def measured(p) -> str:
    """Return the validation loss of a Progress in nats per character: at the run's end that of the larger sample.

    The mark ~ means that only a sample of the validation text was evaluated.
    """
    if p.val_loss_of_all is not None:
        return f"val {p.val_loss_of_all:.3f}"
    return f"val {'~' * p.sampled}{p.val_loss:.3f}"


def clock(seconds: float) -> str:
    """Return seconds as m:ss or h:mm:ss."""
    minutes, s = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{s:02}" if hours else f"{minutes}:{s:02}"


def printable(text: str) -> str:
    """Return a text that is safe on a terminal: characters that control it become U+FFFD.

    These are control characters except line feed and tab, bidirectional embeddings, overrides and isolates, and lone
    surrogates. All other characters stay: blanks of every width, joiners, marks, private characters.
    """
    return text.translate(HARMFUL)


def shown(text: str) -> str:
    """Return a message for stderr, with commands as this user types them. On a terminal it is safe and word-wrapped."""
    text = said(text)
    return "\n".join(map(wrapped, printable(text).split("\n"))) if sys.stderr.isatty() else text


def wrapped(line: str, width: float | None = None, indent: int = 0) -> str:
    """Return a line broken at blanks if it does not fit a terminal of `width` columns (default: the one at stderr).

    The lines after the first are indented by `indent` columns. A line that begins with a blank stays as it is, and a
    command in backticks is not broken.
    """
    width = columns() if width is None else width
    if len(line) < width or line[:1].isspace():
        return line
    import textwrap
    whole = re.sub("`[^`]*`", lambda command: command[0].replace(" ", STUCK), line)
    parts = textwrap.wrap(whole, int(width) - 1, subsequent_indent=" " * indent, break_long_words=False,
                          break_on_hyphens=False)
    return "\n".join(parts).replace(STUCK, " ")


def columns(stream: TextIO | None = None) -> float:
    """Return the number of columns of the terminal at a stream (default: stderr), or infinity if it is not known."""
    with contextlib.suppress(ValueError):
        return int(os.environ.get("COLUMNS", "")) or math.inf
    try:
        return os.get_terminal_size((stream or sys.stderr).fileno()).columns or math.inf
    except (OSError, ValueError):
        return math.inf


def width() -> float:
    """Return the number of columns for results on stdout: the terminal's, or infinity for a file or a pipe."""
    return columns(sys.stdout) if sys.stdout.isatty() else math.inf


def echo(text: str, indent: int = 0) -> None:
    """Print a result on stdout. On a terminal its lines are word-wrapped, those after the first indented."""
    for line in text.split("\n"):
        click.echo(wrapped(line, width(), indent))


@contextlib.contextmanager
def unheard():
    """Inside this context, an error on stderr does not end the training: from then on, stderr goes to /dev/null."""
    try:
        yield
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())


def tell(text: str) -> None:
    """Print a message on stderr."""
    with unheard():
        print(shown(text), file=sys.stderr, flush=True)


class PlainDisplay:
    """The progress of a run as plain lines: one every EVERY seconds and at each milestone."""

    def __init__(self):
        self._shown, self._step = time.monotonic(), 0

    def __enter__(self) -> "PlainDisplay":
        return self

    def __exit__(self, *exception) -> None:
        with unheard():
            sys.stderr.flush()

    def update(self, p) -> None:
        """Print a line on a Progress, if one is due."""
        if p.milestone or time.monotonic() > self._shown + EVERY:
            self._tell(p)

    say = staticmethod(tell)

    def sample(self, p, text: str) -> None:
        """Print a text that the model wrote, unchanged, below the line of its step."""
        if self._step != p.step:
            self._tell(p)
        with unheard():
            print(text + "\n", file=sys.stderr, flush=True)

    def _tell(self, p) -> None:
        self._shown, self._step = time.monotonic(), p.step
        tell(describe(p))


class LiveDisplay:
    """The progress of a run as one live line with a bar. The last validation loss stays in the line."""

    def __init__(self):
        from rich.console import Console
        from rich.live import Live
        from rich.text import Text
        self._console = Console(stderr=True, highlight=False, markup=False, emoji=False, soft_wrap=True)
        self._text = Text
        self._live = Live(Text("starting"), console=self._console, auto_refresh=False)
        self._shown = 0.0
        self._measured: dict = {}  # fields of the last Progress with an evaluation

    def __enter__(self) -> "LiveDisplay":
        with unheard():
            self._live.start()
        return self

    def __exit__(self, *exception) -> None:
        with unheard():
            self._live.stop()

    def update(self, p) -> None:
        """Draw the live line for a Progress, at most every REFRESH seconds and at the end."""
        if p.val_loss is not None:
            self._measured = {name: getattr(p, name) for name in ("val_loss", "sampled", "val_loss_of_all")}
        if p.finished or time.monotonic() > self._shown + REFRESH:
            self._shown = time.monotonic()
            with unheard():
                self._live.update(self._line(p), refresh=True)

    def say(self, text: str) -> None:
        """Print a message above the live line."""
        with unheard():
            self._console.print(shown(text))

    def sample(self, p, text: str) -> None:
        """Print a text that the model wrote, below the line of its step."""
        with unheard():
            self._console.print(f"{wrapped(describe(p))}\n{printable(text)}\n")

    def _line(self, p):
        """Return the live line in the width of the terminal."""
        from dataclasses import replace
        bar, words = fitted(parts(replace(p, **self._measured)), self._console.width - 1)
        # Two glyphs, because colours may be off; "dim", because it suits light and dark terminals.
        solid, rest = ("#", "-") if self._console.options.ascii_only else ("\u2501", "\u2500")
        full = round(bar * p.done)
        return self._text.assemble((solid * full, "bar.complete"), (rest * (bar - full), "dim"),
                                   " " * bool(bar), words, no_wrap=True, overflow="crop")


def fitted(found: list[tuple[int, str]], width: int) -> tuple[int, str]:
    """Return (columns of the bar, text beside it) for a live line of `width` columns.

    found: (rank, text) for each part, in order. Parts of low rank are left out until the rest fits.
    """
    for least in sorted(rank for rank, _ in found):
        words = "  ".join(text for rank, text in found if rank >= least)
        if len(words) + 1 + NARROWEST <= width:
            return min(BAR, width - 1 - len(words)), words
    return 0, words


def display() -> PlainDisplay | LiveDisplay:
    """Return a LiveDisplay if stderr is a terminal, else a PlainDisplay."""
    return LiveDisplay() if sys.stderr.isatty() else PlainDisplay()
