"""The progress of a training run on stderr: one live line on a terminal, plain lines now and then elsewhere."""
import contextlib
import os
import sys
import time

EVERY = 10.0    # seconds between plain lines
REFRESH = 0.25  # seconds between changes of the live line


def describe(p) -> str:
    """A Progress in one line: step, loss, validation loss, speed, time left."""
    left = (1 - p.done) * p.seconds / p.done if p.done else 0
    return (f"step {p.step:,}  {100 * p.done:3.0f}%  loss {p.loss:.3f}  "
            + (f"{validation(p)}  " if p.val_loss is not None else "")
            + f"{p.chars_per_s:,.0f} chars/s  {clock(left)} left")


def validation(p) -> str:
    """The validation loss of a Progress: at the end that of the larger sample; ~ marks one on a part of the text."""
    if p.val_loss_of_all is not None:
        return f"val {p.val_loss_of_all:.3f}"
    return f"val {'~' * p.sampled}{p.val_loss:.3f}"


def describe_floor(nats: float, order: int, counted: int, characters: int) -> str:
    """What counting reaches, in one line; counted of the training text's characters were."""
    part = f", counted on the first {counted:,} characters" if counted < characters else ""
    return f"counting alone reaches {nats:.4f} nats/char (the last {order} character{'s' * (order != 1)}{part})"


def clock(seconds: float) -> str:
    """m:ss, or h:mm:ss."""
    minutes, s = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{s:02}" if hours else f"{minutes}:{s:02}"


def printable(text: str) -> str:
    """text without control characters other than line ends and tabs: a sample must not move a terminal's cursor."""
    return "".join(c if c.isprintable() or c in "\n\t" else "\N{REPLACEMENT CHARACTER}" for c in text)


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
        print(text, file=sys.stderr, flush=True)


class PlainDisplay:
    """Lines for a file or a pipe."""

    def __init__(self):
        self._shown = time.monotonic()

    def __enter__(self) -> "PlainDisplay":
        return self

    def __exit__(self, *exception) -> None:
        with unheard():
            sys.stderr.flush()

    def update(self, p) -> None:
        if p.milestone or time.monotonic() > self._shown + EVERY:
            self._shown = time.monotonic()
            self.say(describe(p))

    def say(self, text: str) -> None:
        tell(text)


class LiveDisplay:
    """One line that changes in place, with a bar; the last validation loss stays in it."""

    def __init__(self):
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn
        console = Console(stderr=True, highlight=False, markup=False, emoji=False, soft_wrap=True)
        self._progress = Progress(BarColumn(bar_width=16), TextColumn("{task.description}", markup=False),
                                  console=console, auto_refresh=False)
        self._task = self._progress.add_task("starting", total=1.0)
        self._shown = 0.0
        self._measured: dict = {}  # of the last evaluation

    def __enter__(self) -> "LiveDisplay":
        with unheard():
            self._progress.start()
        return self

    def __exit__(self, *exception) -> None:
        with unheard():
            self._progress.stop()

    def update(self, p) -> None:
        from dataclasses import replace
        if p.val_loss is not None:
            self._measured = {name: getattr(p, name) for name in ("val_loss", "sampled", "val_loss_of_all")}
        if p.finished or time.monotonic() > self._shown + REFRESH:
            self._shown = time.monotonic()
            line = describe(replace(p, **self._measured))
            self._progress.update(self._task, completed=p.done, description=line)
            with unheard():
                self._progress.refresh()

    def say(self, text: str) -> None:
        with unheard():
            self._progress.console.print(text)


def display() -> PlainDisplay | LiveDisplay:
    """The display that fits stderr."""
    return LiveDisplay() if sys.stderr.isatty() else PlainDisplay()
