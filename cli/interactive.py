"""`rnncore generate --interactive`: the model reads each typed line and writes on, from one state that it keeps.

On a terminal the line can be edited. Without one, lines come from stdin, text goes to stdout, and prompts and messages
go to stderr, so that another program can use it.
"""
import contextlib
import os
import signal
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any

from rnncore.config import MOST, ConfigError, SampleConfig, shown
from rnncore.data.vocab import UnknownSymbolError
from rnncore.dialogue import Dialogue, Mark
from rnncore.sample import ends, until

from .terminal import meant
from .terminal.progress import printable, tell, unheard
from .terminal.streams import wrapper
from .terminal.written import output, separated, stream

PROMPT = "> "
TURNS = 100  # turns that /undo can take back; each holds a copy of the state
WELCOME = "The model reads each line and writes on. /help lists the commands; Ctrl-C ends a text, Ctrl-D the program."
HELP = """/temperature X, /top-k K, /top-p P, /seed N, /length N
               set a value; without a number, show it
/reset         forget everything that was read and written
/undo          take the last turn back; the same line then gives another text
/say TEXT      read TEXT in the same line, without a line end, and write on
/say           write on
/help          show this list
/quit          end the dialogue"""
NUMBERS: dict[str, Callable[[str], float]] = {"temperature": float, "top-k": int, "top-p": float, "seed": int,
                                              "length": int}


class Loop:
    """A dialogue between a user who types and a model.

    length: symbols for each turn, or None for turns without a bound; stop: texts that end a turn; prime: text that the
    model reads first; on_unknown: error, skip or replace; clamp: (layer, cell) -> the value at which this cell is held
    (nn/stepper.py). Raises UnknownSymbolError for a prime with unknown symbols, ConfigError for a cell that does not
    exist.
    """

    def __init__(self, model, config: SampleConfig, length: int | None, stop: Iterable[str], on_unknown: str,
                 prime: str | bytes, clamp: Mapping[tuple[int, int], float]):
        self.vocab, self.length, self.on_unknown = model.vocab, length, on_unknown
        self.dialogue = Dialogue(model, config, clamp)
        self.stop = ends(self.vocab, stop)
        self.past: deque[Mark] = deque(maxlen=TURNS)
        self.binary = self.vocab.level == "byte"
        self.stdin = sys.stdin or open(os.devnull)  # stays open until the process ends
        keeps = self.binary or "\r" in self.vocab  # the model learned line ends as they are in the corpus
        wrapper(self.stdin).reconfigure(errors="surrogateescape", newline="\n" if keeps else None)
        self.typed, self.shown = self.stdin.isatty(), sys.stdout.isatty()
        self.raw = self.binary and not self.shown  # bytes are written unchanged, without a line end
        if prime:
            self.dialogue.read(prime, on_unknown)

    def run(self) -> None:
        """Take turns until the input ends or /quit is typed.

        Ctrl-C ends a turn. If stdin is not a terminal, it raises KeyboardInterrupt instead.
        """
        if self.typed:
            with contextlib.suppress(ImportError):
                import readline  # noqa: F401, its import gives input() line editing and a history
            tell(WELCOME)
        while True:
            try:
                if not self.take(self.ask()):
                    return
            except EOFError:
                return tell("") if self.typed else None
            except KeyboardInterrupt:
                if not self.typed:
                    raise
                tell("")

    def ask(self) -> str:
        """Return the next typed line with its newline. Raises EOFError at the end of the input."""
        if self.typed and self.shown:
            return input(PROMPT) + "\n"
        with unheard():
            print(PROMPT, end="", file=sys.stderr, flush=True)
        line = self.stdin.readline()
        if not line:
            raise EOFError
        return line

    def take(self, line: str) -> bool:
        """Obey one line: a command that begins with /, else text for the model. Return False if the dialogue ends."""
        name, _, rest = line[1:].rstrip("\r\n").partition(" ")
        if not line.startswith("/") or not name[:1].isalpha():
            self.turn(line)
        elif name == "quit":
            return False
        elif name in NUMBERS:
            self.set(name, rest.strip())
        elif name == "say":
            self.turn(rest, False)
        elif name == "reset":
            self.past.append(self.dialogue.mark())
            self.dialogue.reset()
        elif name == "undo" and self.past:
            self.dialogue.back(self.past.pop())
        elif name == "undo":
            tell("there is nothing to take back")
        else:
            tell(HELP if name == "help" else f"there is no /{name:.40}: /help lists the commands, and /say "
                                             "reads a text that begins with /")
        return True

    def turn(self, line: str, anew: bool = True) -> None:
        """Let the model read a line and write on. If the line is refused, the model has read nothing of it.

        anew: True to begin a new line first, if the model's last text ended within a line.
        """
        if anew and self.dialogue.cut and "\n" in self.vocab and not self.raw:
            line = "\n" + line
        mark, line = self.dialogue.mark(), line if "\n" in self.vocab else line.removesuffix("\n")
        try:
            text = line.encode(self.stdin.encoding, "surrogateescape") if self.binary else line
            self.dialogue.read(text, self.on_unknown)
            with noted() as pressed, output(None, self.raw) as file:
                stream(file, self.pieces(pressed), "latin-1" if self.raw else None)
        except UnknownSymbolError as error:
            tell(f"{error} (options of `rnncore generate`)")
        except KeyboardInterrupt:
            self.dialogue.back(mark)
            raise
        else:
            self.past.append(mark)

    def pieces(self, pressed: list) -> Iterator[str]:
        """Yield the pieces of the model's text until its end or until Ctrl-C adds to `pressed`.

        On a terminal, characters that would move the cursor are replaced.
        """
        text = until(unless(pressed, self.dialogue.write(self.length)), self.stop)
        written = separated([text], None, not self.raw)
        return map(printable, self.vocab.readables(written)) if self.shown else written

    def set(self, name: str, number: str) -> None:
        """Set one of NUMBERS, if a number is given, and print its value. Print a message for a value out of range."""
        kind = NUMBERS[name]
        try:
            if number:
                self.change(name, kind(number))
        except ConfigError as error:
            tell(str(error))
        except ValueError:
            meant_ = meant.number(number, kind is int)
            tell(f"/{name} takes a {'whole ' * (kind is int)}number, not {number!r:.40}"
                 + meant.question([meant_] if meant_ else []))
        else:
            length = -1 if self.length is None else self.length
            tell(f"{name} {length if name == 'length' else getattr(self.dialogue.config, name.replace('-', '_'))}")

    def change(self, name: str, value: float) -> None:
        """Set one of NUMBERS. Raises ConfigError if the value is out of range."""
        if name != "length":
            setting: dict[str, Any] = {name.replace("-", "_"): value}
            self.dialogue.config = replace(self.dialogue.config, **setting)
        elif not -1 <= value <= MOST:
            raise ConfigError("length must be at least 0, or -1 for a text that Ctrl-C ends, and at most "
                              f"{MOST:,}, not {shown(value)}")
        else:
            self.length = int(value) if value >= 0 else None
        if name == "seed":
            self.dialogue.rewind()


def unless(pressed: list, symbols: Iterator[str]) -> Iterator[str]:
    """Yield symbols as long as the list `pressed` is empty. Every symbol that was drawn is yielded."""
    while not pressed and (symbol := next(symbols, None)) is not None:
        yield symbol


@contextlib.contextmanager
def noted():
    """Inside this context, the first Ctrl-C is added to the yielded list, and a second one raises KeyboardInterrupt."""
    pressed: list[int] = []

    def note(number: int, frame) -> None:
        if pressed:
            raise KeyboardInterrupt
        pressed.append(number)

    before = signal.signal(signal.SIGINT, note)
    try:
        yield pressed
    finally:
        signal.signal(signal.SIGINT, before)
