"""Generated texts on their way to a terminal, a pipe or a file, as they are or in the form of documents."""
import contextlib
import os
import signal
import sys
import time
from collections.abc import Iterable, Iterator

from rnncore.data.records import written

from .progress import printable
from .streams import LOST, is_utf8

FLUSH = 0.05     # seconds between two flushes
RULE = "-" * 40  # the line between texts on a terminal
ASLEEP = 0.5     # seconds; a reader of a pipe that takes nothing for this long counts as asleep


class Stop:
    """The first SIGINT, SIGTERM or SIGHUP ends the current text at a whole character and with its proper end.

    If several texts are computed before any is written, the signal ends the process at once; so does a second signal.
    If the reader of a pipe does not read, the process ends ASLEEP seconds after the signal. Ignored signals stay
    ignored.
    """

    def __init__(self):
        self.number, self._hard, self._writing = 0, False, False

    def __enter__(self) -> "Stop":
        kinds = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
        self._before = {kind: signal.getsignal(kind) for kind in kinds if signal.getsignal(kind) != signal.SIG_IGN}
        for kind in self._before:
            signal.signal(kind, self._note)
        self._before[signal.SIGALRM] = signal.signal(signal.SIGALRM, lambda *_: self._end())
        return self

    def __exit__(self, *exception) -> None:
        for kind, handler in self._before.items():
            signal.signal(kind, handler)

    def _note(self, number: int, frame) -> None:
        """Store the signal; end the process if it must not wait."""
        if self.number:
            self._end()
        self.number = number
        if self._hard:
            raise SystemExit(128 + number)
        if self._writing:
            signal.setitimer(signal.ITIMER_REAL, ASLEEP)

    def _end(self) -> None:
        """End the process by the signal that came, even in the middle of a write."""
        signal.signal(self.number, signal.SIG_DFL)
        os.kill(os.getpid(), self.number)

    def until(self, pieces: Iterable[str]) -> Iterator[str]:
        """Yield the pieces of a text until a signal comes. A piece that was drawn is still yielded."""
        for piece in pieces:
            yield piece
            if self.number:
                return

    def whole(self, texts: Iterable[str]) -> Iterator[str]:
        """Yield texts, each whole, until a signal comes."""
        texts = iter(texts)
        while not self.number:
            self._hard = True
            text = next(texts, None)
            self._hard = False
            if text is None:
                return
            yield text

    @contextlib.contextmanager
    def writing(self) -> Iterator[None]:
        """Inside this context the process writes: after a signal it waits for the reader for at most ASLEEP seconds."""
        self._writing = True
        try:
            yield
        finally:
            self._writing = False
            if self.number:
                signal.setitimer(signal.ITIMER_REAL, 0)


def write(out: str | None, vocab, texts: Iterable[Iterable[str]], several: bool, separator: str | None,
          stop: Stop) -> None:
    """Write texts, each in pieces, to the new file `out` or, if it is None, to stdout.

    several: True if there may be more than one text; separator: a line between texts, in place of the usual form.
    Raises SystemExit after a signal, and OSError if the text cannot be written. A file that is still empty then is
    deleted.
    """
    terminal, binary = out is None and sys.stdout.isatty(), vocab.level == "byte"
    raw, ascii_only = binary and not terminal, out is None and not is_utf8(sys.stdout.encoding)
    try:
        with output(out, raw) as file:
            pieces = laid_out(vocab, texts, several, terminal, separator, ascii_only)
            stream(file, map(printable, vocab.readables(pieces)) if terminal else pieces, "latin-1" if raw else None,
                   stop.writing)
    except OSError as error:
        error.filename = out
        if out and not isinstance(error, FileExistsError):
            with contextlib.suppress(OSError):
                if not os.path.getsize(out):  # only an empty file goes; a part of a text is worth keeping
                    os.unlink(out)
        raise
    if stop.number:
        raise SystemExit(128 + stop.number)


def laid_out(vocab, texts: Iterable[Iterable[str]], several: bool, terminal: bool, separator: str | None,
             ascii_only: bool = False) -> Iterator[str]:
    """Yield everything that is written, in pieces.

    Texts of a model of documents get the form of their corpus, except a single text on a terminal. Other texts end with
    a line end; on a terminal a rule separates them. With a separator, texts stay as they are, and it stands between
    them. ascii_only: True if the output can hold only ASCII, which JSON lines allow.
    """
    if separator is None and vocab.documents != "none" and (several or not terminal):
        return written(texts, vocab.documents, vocab.field, ascii_only)
    if separator is None:
        separator = RULE if terminal else None
    elif vocab.level == "byte":
        separator = vocab.spelled(os.fsencode(separator))
    return separated(texts, separator, several or vocab.level != "byte")


def separated(texts: Iterable[Iterable[str]], separator: str | None, ended: bool) -> Iterator[str]:
    """Yield texts as they are, with a separator line between them if there is one.

    ended: True to add a line end to a text that has none.
    """
    for place, text in enumerate(texts):
        if place and separator is not None:
            yield f"{separator}\n"
        last = ""
        for piece in text:
            last = piece or last
            yield piece
        if ended and not last.endswith("\n"):
            yield "\n"


def output(out: str | None, binary: bool):
    """Return a context that opens the new file `out`, or stdout if it is None; binary: True for bytes."""
    if out:
        return open(out, "xb") if binary else open(out, "x", encoding="utf-8", errors=LOST)
    return contextlib.nullcontext(sys.stdout.buffer if binary else sys.stdout)


def stream(file, pieces: Iterable[str], encoding: str | None = None, writing=contextlib.nullcontext) -> None:
    """Write pieces as they come, and flush every FLUSH seconds.

    encoding: the encoding for a file of bytes, or None for a file of text; writing: a context to open for each write.
    """
    flushed = 0.0
    for piece in pieces:
        with writing():
            file.write(piece.encode(encoding) if encoding else piece)
            if time.monotonic() > flushed + FLUSH:
                file.flush()
                flushed = time.monotonic()
    with writing():
        file.flush()
