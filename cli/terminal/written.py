"""Written texts on their way out: to a terminal, a pipe or a file, as they are or in the form of documents."""
import contextlib
import os
import signal
import sys
import time
from collections.abc import Iterable, Iterator

from rnncore.data.records import written

from .progress import printable
from .streams import LOST, is_utf8

FLUSH = 0.05     # seconds between flushes of what was written
RULE = "-" * 40  # stands between texts on a terminal
ASLEEP = 0.5     # seconds in which the reader of a pipe takes what it was sent, or is asleep


class Stop:
    """The first SIGINT, SIGTERM or SIGHUP ends the text that is being written, so that all that stands there is whole.

    Where a text is made before any of it is written, it ends the process at once, and so does a second signal; where
    the reader of a pipe is asleep, ASLEEP seconds after the first. A signal that is ignored stays so.
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
        if self.number:
            self._end()
        self.number = number
        if self._hard:
            raise SystemExit(128 + number)
        if self._writing:
            signal.setitimer(signal.ITIMER_REAL, ASLEEP)

    def _end(self) -> None:
        """End the process by the signal that came, whatever it waits for."""
        signal.signal(self.number, signal.SIG_DFL)
        os.kill(os.getpid(), self.number)

    def until(self, pieces: Iterable[str]) -> Iterator[str]:
        """The pieces of a text until a signal comes: what was drawn is still written."""
        for piece in pieces:
            yield piece
            if self.number:
                return

    def whole(self, texts: Iterable[str]) -> Iterator[str]:
        """Texts that come one after the other, each whole, until a signal comes."""
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
        """Inside, a signal need not wait for the reader for long."""
        self._writing = True
        try:
            yield
        finally:
            self._writing = False
            if self.number:
                signal.setitimer(signal.ITIMER_REAL, 0)


def write(out: str | None, vocab, texts: Iterable[Iterable[str]], several: bool, separator: str | None,
          stop: Stop) -> None:
    """Write texts, each in pieces, to the new file `out` or to stdout; raises SystemExit where a signal stopped them.

    several: may there be more than one text? separator: a line between them, in place of what is usual.
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
                if not os.path.getsize(out):  # a file with a part of the text stays
                    os.unlink(out)
        raise
    if stop.number:
        raise SystemExit(128 + stop.number)


def laid_out(vocab, texts: Iterable[Iterable[str]], several: bool, terminal: bool, separator: str | None,
             ascii_only: bool = False) -> Iterator[str]:
    """All that is written, in pieces.

    Texts of documents have the form of their corpus, but for a single one on a terminal. Others end in a line end; on a
    terminal a rule stands between them. With a separator all texts are as they are, and it stands between them.
    """
    if separator is None and vocab.documents != "none" and (several or not terminal):
        return written(texts, vocab.documents, vocab.field, ascii_only)
    if separator is None:
        separator = RULE if terminal else None
    elif vocab.level == "byte":
        separator = vocab.spelled(os.fsencode(separator))
    return separated(texts, separator, several or vocab.level != "byte")


def separated(texts: Iterable[Iterable[str]], separator: str | None, ended: bool) -> Iterator[str]:
    """Texts as they are, a line between them where there is a separator; ended: each with a line end."""
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
    """The new file `out`, or stdout, for text or for bytes."""
    if out:
        return open(out, "xb") if binary else open(out, "x", encoding="utf-8", errors=LOST)
    return contextlib.nullcontext(sys.stdout.buffer if binary else sys.stdout)


def stream(file, pieces: Iterable[str], encoding: str | None = None, writing=contextlib.nullcontext) -> None:
    """Write the pieces as they come. encoding: for a file of bytes; writing: a context in which each is written."""
    flushed = 0.0
    for piece in pieces:
        with writing():
            file.write(piece.encode(encoding) if encoding else piece)
            if time.monotonic() > flushed + FLUSH:
                file.flush()
                flushed = time.monotonic()
    with writing():
        file.flush()
