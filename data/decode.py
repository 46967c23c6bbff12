"""Bytes made into text: decoded strictly, refused with the byte, its offset and the `--encoding` that would do."""
import codecs
import contextlib
import re
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from .guess import HEAD, is_noise, likely, share

AUTO = "auto"  # in an encoding's place: each file as it is, UTF-8 where it is valid, else what it looks like
ERRORS = {"strict": "strict", "replace": "rnncore-replace", "skip": "rnncore-skip"}  # what is done with a byte that the
#                                                                    encoding does not have: Python's name of a handler
_WHOLE = {"punycode", "idna"}  # codecs of Python that cannot decode a piece at a time
_WHITE = re.compile("[ \n]")
_mended = threading.local()    # .bytes: how many the handlers below have taken since a decoder was last asked


class CorpusError(ValueError):
    """A corpus that cannot be used; str(error) is one line that names the cause and the cure."""

    def __init__(self, message: str):
        super().__init__(one_line(message))


class CorpusNotFoundError(CorpusError):
    """A path where nothing is: a usage error on a command line."""


class UnknownEncodingError(CorpusError):
    """An encoding that Python does not know: a usage error on a command line."""


def one_line(message: str) -> str:
    """The message with what a terminal would not print (a line feed in a file's name) written as an escape."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in message)


def codec(encoding: str) -> str:
    """Python's own name for an encoding of text ("UTF8" -> "utf-8"), AUTO for itself, or UnknownEncodingError."""
    if encoding == AUTO:
        return AUTO
    try:
        " ".encode(encoding)  # codecs.lookup alone accepts base64, which is no encoding of text
        return codecs.lookup(encoding).name
    except (LookupError, ValueError):
        raise UnknownEncodingError(
            f"unknown encoding {encoding!r}: --encoding takes utf-8, utf-16, latin-1, cp1252, auto or another codec of "
            "Python") from None


def is_wide(encoding: str) -> bool:
    """Whether NUL bytes are ordinary in this encoding."""
    return codec(encoding).startswith(("utf-16", "utf-32"))


@dataclass
class Outcome:
    """What came of decoding one file: what is to be said of it once all is read."""

    name: str = ""                # of the file
    alone: bool = True            # whether it is the only one
    found: str | None = None      # the encoding that AUTO took, where it is another than UTF-8
    size: int = 0                 # bytes read
    foreign: bool = False         # whether it has bytes above 0x7f
    mended: int = 0               # bytes that were replaced or skipped
    looks: str | None = None      # of a file with such bytes: the encoding that it looks like, itself or another
    compared: bool = False        # whether it was read otherwise than as UTF-8, and compared with that
    mistaken: tuple[str, str] | None = None  # where it is valid UTF-8: a symbol, and what was made of it


def decode(raw: bytes, encoding: str, name: str) -> str:
    """The text of one file that is at hand as a whole: as `decoded`."""
    return "".join(decoded([raw], encoding, name))


def decoded(chunks: Iterable[bytes], encoding: str, name: str, errors: str = "strict", alone: bool = True,
            outcome: Outcome | None = None) -> Iterator[str]:
    """The text of one file, chunk by chunk; the first chunk has HEAD bytes at least, or all.

    CorpusError, calling the file `name`, where its bytes are not that encoding: with the offset in the whole file. What
    decodes by chance is refused too: UTF-16 is full of NULs as UTF-8, plain text is rare Chinese as UTF-16. errors: one
    of ERRORS, for the odd bad byte. alone: whether no other file is read in this encoding. outcome is filled in.
    """
    outcome, chunks = outcome or Outcome(), iter(chunks)
    outcome.name, outcome.alone = name, alone
    raw = b"".join(chunks) if codec(encoding) in _WHOLE else next(chunks, b"")
    if codec(encoding) == AUTO:
        while raw.isascii() and b"\0" not in raw and (more := next(chunks, b"")):  # as UTF-8 as all else
            outcome.size += len(raw)
            yield raw.decode("ascii")
            raw = more
        found, raw = _found(raw, chunks)
        outcome.found = None if found in (None, "utf-8") else found
        errors = errors if found else "strict"  # what looks like nothing known is more than an odd byte
        encoding = "cp1252" if found == "latin-1" else found or "utf-8"  # cp1252 has what Latin-1 has, and more
    decoder, seen = _decoder(encoding, raw, errors), _Seen(encoding, name, raw, alone, outcome)
    while True:
        seen.add(raw)
        _mended.bytes = 0
        try:
            text = decoder.decode(raw, final=not raw)
        except UnicodeDecodeError as error:
            raise seen.refusal(error) from None
        except UnicodeError as error:
            raise CorpusError(
                f"{name} is not {label(encoding)} ({error}): name its encoding with --encoding") from None
        outcome.mended += _mended.bytes
        seen.check(text, last=not raw)
        if text:
            yield text
        if not raw:
            return
        raw = next(chunks, b"")


def _decoder(encoding: str, head: bytes, errors: str) -> codecs.IncrementalDecoder:
    """One that takes UTF-16 and UTF-32 without a byte order mark for the machine's own order, as bytes.decode does."""
    name = codec(encoding)
    if name in ("utf-16", "utf-32") and likely(head[:4]) != name:
        name += "-le" if sys.byteorder == "little" else "-be"
    return codecs.getincrementaldecoder(name)(ERRORS[errors])


def _handler(instead: str) -> Callable[[UnicodeError], tuple[str, int]]:
    """A handler of errors that puts `instead` in the place of bytes and counts them."""
    def mend(error: UnicodeError) -> tuple[str, int]:
        if not isinstance(error, UnicodeDecodeError):
            raise error
        _mended.bytes += error.end - error.start
        return instead, error.end
    return mend


codecs.register_error(ERRORS["replace"], _handler("\N{REPLACEMENT CHARACTER}"))
codecs.register_error(ERRORS["skip"], _handler(""))


def _found(raw: bytes, chunks: Iterator[bytes]) -> tuple[str | None, bytes]:
    """What AUTO takes a file for by the first chunk that is not all ASCII, and that chunk, made longer where need be.

    So nothing is read twice, stdin included. None: it looks like nothing known.
    """
    check = codecs.getincrementaldecoder("utf-8")()
    with contextlib.suppress(UnicodeDecodeError):
        if check.decode(raw).isascii() and check.getstate()[0]:  # its only foreign bytes end it: are they a beginning?
            raw += (more := next(chunks, b""))
            check.decode(more, final=not more)
        if b"\0" not in raw:
            return "utf-8", raw
    return likely(raw) or likely(raw.replace(b"\0", b" ")), raw  # text may have a NUL here and there


class _Seen:
    """What is remembered of a file's bytes and text, to refuse it for a good reason wherever its fault shows.

    The encoding is judged by the first chunk, the last one that held more than ASCII, and the one at fault.
    """

    def __init__(self, encoding: str, name: str, first: bytes, alone: bool, outcome: Outcome):
        self.encoding, self.name, self.wide, self.alone = encoding, name, is_wide(encoding), alone
        self.first, self.foreign, self.raw, self.fed, self.outcome = first, b"", b"", outcome.size, outcome
        self.zero: int | None = None      # where the first NUL byte is
        self.nul = self.white = False     # whether the text has a NUL, a blank or a line feed
        outcome.compared = not (self.wide or outcome.found or codec(encoding).startswith("utf-8")
                                or codec(encoding) in _WHOLE)
        self.utf8 = codecs.getincrementaldecoder("utf-8")() if outcome.compared else None  # while all is valid UTF-8

    def add(self, raw: bytes) -> None:
        if not self.raw.isascii():
            self.foreign = self.raw
        if self.zero is None and (at := raw.find(0)) >= 0:
            self.zero = self.fed + at
        self.raw, self.fed = raw, self.fed + len(raw)
        outcome = self.outcome
        outcome.size, outcome.foreign = self.fed, outcome.foreign or not raw.isascii()
        if outcome.found == "latin-1" and re.search(rb"[\x80-\x9f]", raw):
            outcome.found = "cp1252"
        if self.utf8:
            self._compare(self.utf8, raw)

    def _compare(self, utf8: codecs.IncrementalDecoder, raw: bytes) -> None:
        """Note a symbol that UTF-8 reads where the encoding reads another, as long as all is valid UTF-8."""
        try:
            text = utf8.decode(raw, final=not raw)
        except UnicodeDecodeError:
            self.utf8 = self.outcome.mistaken = None
            return
        if self.outcome.mistaken is None and (symbol := next((s for s in text if s > "\x7f"), None)):
            self.outcome.mistaken = symbol, symbol.encode().decode(self.encoding, "replace")

    def evidence(self) -> bytes:
        return b"".join({id(part): part for part in (self.first, self.foreign, self.raw)}.values())

    def refusal(self, error: UnicodeDecodeError) -> CorpusError:
        at = self.fed - len(error.object) + error.start  # what a decoder holds back is the end of what it was fed
        return self._refused(error.object[error.start:error.start + 1], at, likely(self.evidence()))

    def check(self, text: str, last: bool) -> None:
        """Refuse what is text by chance: for NULs as soon as there is one, for Chinese once all is known."""
        if last and self.outcome.mended:
            looks = likely(self.evidence())
            self.outcome.looks = self.encoding if looks and same(self.encoding, looks) else looks
        nul = "\0" in text
        first_nul, self.nul = nul and not self.nul, self.nul or nul
        self.white = self.white or self.wide and bool(_WHITE.search(text))
        if not (last if self.wide else first_nul):
            return
        raw = self.evidence()
        better = likely(raw)
        if better is None or same(self.encoding, better):
            return
        if self.wide:
            by_chance = (self.nul or not self.white) and bool(_WHITE.search(raw.decode(better, "replace")))
        else:
            by_chance = share(rb"[\0-\x08]", raw[:HEAD]) > .25  # an alphabet's upper bytes, not a NUL here and there
        if by_chance:
            raise self._refused(b"\0" if self.zero is not None else b"", self.zero, better)

    def _refused(self, byte: bytes, at: int | None, better: str | None) -> CorpusError:
        """The error for a file that fails with `byte` at `at` (None: nowhere) and looks like `better`."""
        cause = "this is not" if at is None else f"byte 0x{byte.hex()} at offset {at} is not"
        if better is None and is_noise(self.first[:HEAD]):
            cure = "the file looks like no text at all: `rnncore train --level byte` learns the bytes of any file"
        elif better is None:
            cure = "name the file's own with --encoding (latin-1, cp1251, gb18030, shift_jis, ...)"
        elif same(self.encoding, better):
            cure = (f"the rest of the file looks like {label(better)}: mend it there, or leave such bytes to "
                    "--encoding-errors replace")
        elif self.alone:
            cure = f"the file looks like {label(better)}: add --encoding {better}"
        else:
            cure = (f"this file looks like {label(better)}: add --encoding {AUTO}, which reads each file in its own "
                    "encoding")
        return CorpusError(f"{self.name}: {cause} {label(self.encoding)}; {cure}")


def join(pieces: Iterable[str]) -> str:
    """The pieces one after the other, each but the last ending in a newline; empty ones leave no trace."""
    full = [piece for piece in pieces if piece]
    return "".join(piece if piece.endswith(("\n", "\r")) else piece + "\n" for piece in full[:-1]) + "".join(full[-1:])


def same(encoding: str, better: str) -> bool:
    """Whether `better` would decode no differently: utf-16 is utf-16-le under a mark, utf-8 is utf-8-sig."""
    return codec(encoding).startswith(codec(better))


def label(encoding: str) -> str:
    """An encoding's name as people write it."""
    return "Latin-1" if codec(encoding) == "iso8859-1" else codec(encoding).upper()
