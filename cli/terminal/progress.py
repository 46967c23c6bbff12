"""The progress of a training run on stderr: one live line on a terminal, plain lines now and then elsewhere."""
import contextlib
import math
import os
import re
import sys
import time

from .called import said

EVERY = 10.0           # seconds between plain lines
REFRESH = 0.25         # seconds between changes of the live line
BAR, NARROWEST = 16, 6  # columns of the bar in the live line, at most and at least
STUCK = "\x00"         # stands for a blank at which no line is broken
CONTROLS = {*range(32), *range(127, 160)} - {9, 10}  # code points of C0 and C1 but tab and line feed
REORDERING = {*range(0x202A, 0x202F), *range(0x2066, 0x206A)}  # bidirectional embeddings, overrides and isolates
HARMFUL = dict.fromkeys((*CONTROLS, *REORDERING, *range(0xD800, 0xE000)), "\N{REPLACEMENT CHARACTER}")


def describe(p) -> str:
    """A Progress in one line: step, loss, validation loss, speed, time left."""
    return "  ".join(text for _, text in parts(p))


def parts(p) -> list[tuple[int, str]]:
    """The parts of that line, each with a number: the larger, the later it is left out where there is little room."""
    left = (1 - p.done) * p.seconds / p.done if p.done else 0
    validation = [(3, measured(p))] if p.val_loss is not None else []
    return [(5, f"step {p.step:,}"), (1, f"{100 * p.done:3.0f}%"), (4, f"loss {p.loss:.3f}"), *validation,
            (0, f"{p.chars_per_s:,.0f} chars/s"), (2, f"{clock(left)} left")]


def measured(p) -> str:
    """The validation loss of a Progress: at the end that of the larger sample; ~ marks one on a part of the text."""
    if p.val_loss_of_all is not None:
        return f"val {p.val_loss_of_all:.3f}"
    return f"val {'~' * p.sampled}{p.val_loss:.3f}"


def clock(seconds: float) -> str:
    """m:ss, or h:mm:ss."""
    minutes, s = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{s:02}" if hours else f"{minutes}:{s:02}"


def printable(text: str) -> str:
    """Return text for a terminal: what would move its cursor, set its modes or reorder its line is U+FFFD.

    These are control characters but line ends and tabs, bidirectional embeddings, overrides and isolates, and halves
    of characters. All else stays: blanks of every width, joiners, marks, private characters.
    """
    return text.translate(HARMFUL)


def shown(text: str) -> str:
    """Return a message as stderr takes it: commands as they are typed here; for a terminal harmless, in whole words."""
    text = said(text)
    return "\n".join(map(wrapped, printable(text).split("\n"))) if sys.stderr.isatty() else text


def wrapped(line: str) -> str:
    """Return a line broken at blanks where the terminal ends; not a line that is set in, and never within backticks."""
    width = columns()
    if len(line) < width or line[:1].isspace():
        return line
    import textwrap
    whole = re.sub("`[^`]*`", lambda command: command[0].replace(" ", STUCK), line)
    parts = textwrap.wrap(whole, int(width) - 1, break_long_words=False, break_on_hyphens=False)
    return "\n".join(parts).replace(STUCK, " ")


def columns() -> float:
    """Return how many columns the terminal at stderr has; infinity where that is not known."""
    with contextlib.suppress(ValueError):
        return int(os.environ.get("COLUMNS", "")) or math.inf
    try:
        return os.get_terminal_size(sys.stderr.fileno()).columns or math.inf
    except (OSError, ValueError):
        return math.inf


@contextlib.contextmanager
def unheard():
    """Training goes on when nobody reads stderr any more: from the first error on, what is written goes nowhere."""
    try:
        yield
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())


def tell(text: str) -> None:
    """A line on stderr, for whoever reads it."""
    with unheard():
        print(shown(text), file=sys.stderr, flush=True)


class PlainDisplay:
    """Lines for a file or a pipe."""

    def __init__(self):
        self._shown, self._step = time.monotonic(), 0

    def __enter__(self) -> "PlainDisplay":
        return self

    def __exit__(self, *exception) -> None:
        with unheard():
            sys.stderr.flush()

    def update(self, p) -> None:
        if p.milestone or time.monotonic() > self._shown + EVERY:
            self._tell(p)

    say = staticmethod(tell)

    def sample(self, p, text: str) -> None:
        """What the model wrote, below the line of its step, byte for byte."""
        if self._step != p.step:
            self._tell(p)
        with unheard():
            print(text + "\n", file=sys.stderr, flush=True)

    def _tell(self, p) -> None:
        self._shown, self._step = time.monotonic(), p.step
        tell(describe(p))


class LiveDisplay:
    """One line that changes in place, with a bar; the last validation loss stays in it."""

    def __init__(self):
        from rich.console import Console
        from rich.live import Live
        from rich.text import Text
        self._console = Console(stderr=True, highlight=False, markup=False, emoji=False, soft_wrap=True)
        self._text = Text
        self._live = Live(Text("starting"), console=self._console, auto_refresh=False)
        self._shown = 0.0
        self._measured: dict = {}  # of the last evaluation

    def __enter__(self) -> "LiveDisplay":
        with unheard():
            self._live.start()
        return self

    def __exit__(self, *exception) -> None:
        with unheard():
            self._live.stop()

    def update(self, p) -> None:
        if p.val_loss is not None:
            self._measured = {name: getattr(p, name) for name in ("val_loss", "sampled", "val_loss_of_all")}
        if p.finished or time.monotonic() > self._shown + REFRESH:
            self._shown = time.monotonic()
            with unheard():
                self._live.update(self._line(p), refresh=True)

    def say(self, text: str) -> None:
        with unheard():
            self._console.print(shown(text))

    def sample(self, p, text: str) -> None:
        """What the model wrote, below the line of its step."""
        with unheard():
            self._console.print(f"{wrapped(describe(p))}\n{printable(text)}\n")

    def _line(self, p):
        """The live line, in the width that there is."""
        from dataclasses import replace
        bar, words = fitted(parts(replace(p, **self._measured)), self._console.width - 1)
        solid, rest = ("#", "-") if self._console.options.ascii_only else ("\u2501", "\u2501")
        full = round(bar * p.done)
        return self._text.assemble((solid * full, "bar.complete"), (rest * (bar - full), "bar.back"),
                                   " " * bool(bar), words, no_wrap=True, overflow="crop")


def fitted(found: list[tuple[int, str]], width: int) -> tuple[int, str]:
    """(columns of the bar, words beside it) of a live line: parts are left out, the dearest last, until it fits.

    found: parts in order, each with a number that says how dear it is.
    """
    for least in sorted(rank for rank, _ in found):
        words = "  ".join(text for rank, text in found if rank >= least)
        if len(words) + 1 + NARROWEST <= width:
            return min(BAR, width - 1 - len(words)), words
    return 0, words


def display() -> PlainDisplay | LiveDisplay:
    """The display that fits stderr."""
    return LiveDisplay() if sys.stderr.isatty() else PlainDisplay()
