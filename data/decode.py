"""Decoding of bytes into text, chunk by chunk, and the errors of a corpus.

The error for an invalid byte names the byte, its offset in the file and, if it can be guessed, the right --encoding.
"""
import codecs
import contextlib
import re
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from .guess import HEAD, is_noise, likely, share

AUTO = "auto"  # each file is read as UTF-8 if it is valid UTF-8, else in the encoding that it looks like
# Treatment of invalid bytes -> name of the error handler in Python's codecs. The last two are registered below.
ERRORS = {"strict": "strict", "replace": "rnncore-replace", "skip": "rnncore-skip"}
_WHOLE = {"punycode", "idna"}  # codecs of Python that can only decode a file as a whole
_WHITE = re.compile("[ \n]")
_mended = threading.local()    # .bytes: number of bytes replaced or skipped in the present call of a decoder


class CorpusError(ValueError):
    """A corpus cannot be used. str(error) is one line that names the cause and the remedy."""

    def __init__(self, message: str):
        super().__init__(one_line(message))


class CorpusNotFoundError(CorpusError):
    """A path does not exist. The command line reports it as a usage error."""


class UnknownEncodingError(CorpusError):
    """Python does not know an encoding. The command line reports it as a usage error."""


def one_line(message: str) -> str:
    """Return the message with unprintable characters, such as a line feed in a file's name, written as escapes."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in message)


def codec(encoding: str) -> str:
    """Return Python's own name for an encoding of text ("UTF8" -> "utf-8"), or AUTO for AUTO.

    Raises UnknownEncodingError if Python has no such encoding of text.
    """
    if encoding == AUTO:
        return AUTO
    try:
        # codecs.lookup alone would accept codecs that encode no text, such as base64.
        " ".encode(encoding)
        return codecs.lookup(encoding).name
    except (LookupError, ValueError):
        raise UnknownEncodingError(
            f"unknown encoding {encoding!r}: --encoding takes utf-8, utf-16, latin-1, cp1252, auto or another codec of "
            "Python") from None


def is_wide(encoding: str) -> bool:
    """Return True if text in this encoding has NUL bytes as a rule: UTF-16 and UTF-32."""
    return codec(encoding).startswith(("utf-16", "utf-32"))


@dataclass
class Outcome:
    """Facts about the decoding of one file, from which tally.py makes notes for the user."""

    name: str = ""                # name of the file in messages
    alone: bool = True            # True if it is the only file of the corpus
    found: str | None = None      # the encoding that AUTO chose, None for UTF-8
    size: int = 0                 # bytes read
    foreign: bool = False         # True if the file has bytes above 0x7f
    mended: int = 0               # bytes that were replaced or skipped
    looks: str | None = None      # if bytes were mended: the encoding that the file looks like, if any
    compared: bool = False        # True if the file is decoded as UTF-8 too, to see if the chosen encoding is a mistake
    mistaken: tuple[str, str] | None = None  # if the file is valid UTF-8: a symbol of it, and what was read instead


def decode(raw: bytes, encoding: str, name: str) -> str:
    """Return the text of one file whose bytes are all in memory. Raises CorpusError as `decoded` does."""
    return "".join(decoded([raw], encoding, name))


def decoded(chunks: Iterable[bytes], encoding: str, name: str, errors: str = "strict", alone: bool = True,
            outcome: Outcome | None = None) -> Iterator[str]:
    """Yield the text of one file, chunk by chunk. The first chunk has at least HEAD bytes, or is the whole file.

    errors: treatment of invalid bytes, one of ERRORS. alone: see Outcome. outcome: filled in during the reading.
    Raises CorpusError, with the offset in the whole file, for bytes that are invalid in this encoding, and for a file
    that is decoded without an error only by chance (_EncodingCheck.text). name: the name of the file in errors.
    """
    outcome, chunks = outcome or Outcome(), iter(chunks)
    outcome.name, outcome.alone = name, alone
    raw = b"".join(chunks) if codec(encoding) in _WHOLE else next(chunks, b"")
    if codec(encoding) == AUTO:
        # ASCII is the same in UTF-8 and in the other encodings without NULs: the choice waits for the first other byte.
        while raw.isascii() and b"\0" not in raw and (more := next(chunks, b"")):
            outcome.size += len(raw)
            yield raw.decode("ascii")
            raw = more
        found, raw = _chosen(raw, chunks)
        outcome.found = None if found in (None, "utf-8") else found
        errors = errors if found else "strict"  # a file that looks like no known encoding is refused
        encoding = "cp1252" if found == "latin-1" else found or "utf-8"  # cp1252 has all of Latin-1's text, and more
    decoder, check = _decoder(encoding, raw, errors), _EncodingCheck(encoding, name, raw, alone, outcome)
    while True:
        check.add(raw)
        _mended.bytes = 0
        try:
            text = decoder.decode(raw, final=not raw)
        except UnicodeDecodeError as error:
            raise check.refusal(error) from None
        except UnicodeError as error:
            raise CorpusError(
                f"{name} is not {label(encoding)} ({error}): name its encoding with --encoding") from None
        outcome.mended += _mended.bytes
        check.text(text, last=not raw)
        if text:
            yield text
        if not raw:
            return
        raw = next(chunks, b"")


def _decoder(encoding: str, head: bytes, errors: str) -> codecs.IncrementalDecoder:
    """Return a decoder for a file that begins with `head`; errors: one of ERRORS.

    UTF-16 and UTF-32 without a byte order mark are read in the machine's byte order, as bytes.decode does.
    """
    # Python's incremental decoders for these two refuse text without a mark; the decoders -le and -be do not need one.
    name = codec(encoding)
    if name in ("utf-16", "utf-32") and likely(head[:4]) != name:
        name += "-le" if sys.byteorder == "little" else "-be"
    return codecs.getincrementaldecoder(name)(ERRORS[errors])


def _handler(instead: str) -> Callable[[UnicodeError], tuple[str, int]]:
    """Return an error handler for a codec that writes `instead` for invalid bytes and adds their number to _mended."""
    def mend(error: UnicodeError) -> tuple[str, int]:
        if not isinstance(error, UnicodeDecodeError):
            raise error
        _mended.bytes += error.end - error.start
        return instead, error.end
    return mend


codecs.register_error(ERRORS["replace"], _handler("\N{REPLACEMENT CHARACTER}"))
codecs.register_error(ERRORS["skip"], _handler(""))


def _chosen(raw: bytes, chunks: Iterator[bytes]) -> tuple[str | None, bytes]:
    """Return the encoding that AUTO chooses, and the bytes from which it was chosen, which are still to be decoded.

    raw: the first chunk that is not plain ASCII. The next one is appended if `raw` alone does not show enough. So no
    byte is read twice, and stdin can be read too. The encoding is None if the bytes look like no known encoding.
    """
    check = codecs.getincrementaldecoder("utf-8")()
    with contextlib.suppress(UnicodeDecodeError):
        # If the only bytes above 0x7f end the chunk, the next chunk shows whether they begin a UTF-8 character.
        if check.decode(raw).isascii() and check.getstate()[0]:
            raw += (more := next(chunks, b""))
            check.decode(more, final=not more)
        if b"\0" not in raw:
            return "utf-8", raw
    # The second guess is for a text that holds a few NULs and is neither UTF-16 nor UTF-32.
    return likely(raw) or likely(raw.replace(b"\0", b" ")), raw


class _EncodingCheck:
    """The check that one file really has the encoding in which it is read. It also fills in the Outcome.

    If the check fails, the likely encoding is guessed from a sample: the first chunk, the latest earlier chunk with a
    byte above 0x7f, and the present chunk. No more of the file is kept.
    """

    def __init__(self, encoding: str, name: str, first: bytes, alone: bool, outcome: Outcome):
        self.encoding, self.name, self.wide, self.alone = encoding, name, is_wide(encoding), alone
        self.first, self.foreign, self.raw, self.outcome = first, b"", b"", outcome
        self.fed = outcome.size           # bytes of the file up to the end of the present chunk
        self.zero: int | None = None      # offset of the first NUL byte
        self.nul = self.white = False     # True once the text has a NUL; once it has a blank or a line feed
        outcome.compared = not (self.wide or outcome.found or codec(encoding).startswith("utf-8")
                                or codec(encoding) in _WHOLE)
        # A second decoder, kept as long as all bytes are valid UTF-8.
        self.utf8 = codecs.getincrementaldecoder("utf-8")() if outcome.compared else None

    def add(self, raw: bytes) -> None:
        """Note the bytes of the next chunk, before it is decoded; no bytes mean the end of the file."""
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
        """Note the first symbol that UTF-8 would read otherwise, as long as the whole file is valid UTF-8."""
        try:
            text = utf8.decode(raw, final=not raw)
        except UnicodeDecodeError:
            self.utf8 = self.outcome.mistaken = None
            return
        if self.outcome.mistaken is None and (symbol := next((s for s in text if s > "\x7f"), None)):
            self.outcome.mistaken = symbol, symbol.encode().decode(self.encoding, "replace")

    def sample(self) -> bytes:
        """Return the bytes from which the likely encoding is guessed, each chunk once."""
        return b"".join({id(part): part for part in (self.first, self.foreign, self.raw)}.values())

    def refusal(self, error: UnicodeDecodeError) -> CorpusError:
        """Return the error for a byte at which decoding the present chunk failed."""
        # error.object ends where the chunk ends. It may begin earlier, with bytes that the decoder held back.
        at = self.fed - len(error.object) + error.start
        return self._refused(error.object[error.start:error.start + 1], at, likely(self.sample()))

    def text(self, text: str, last: bool) -> None:
        """Check the text of the present chunk. last: it is the end of the file.

        Raises CorpusError if the file was decoded without an error only by chance. UTF-16 that is read as UTF-8 is full
        of NULs, so the check is made at the first NUL. Plain text that is read as UTF-16 becomes rare Chinese
        characters, so the check is made at the end of the file.
        """
        if last and self.outcome.mended:
            looks = likely(self.sample())
            self.outcome.looks = self.encoding if looks and same(self.encoding, looks) else looks
        nul = "\0" in text
        first_nul, self.nul = nul and not self.nul, self.nul or nul
        self.white = self.white or self.wide and bool(_WHITE.search(text))
        if not (last if self.wide else first_nul):
            return
        raw = self.sample()
        better = likely(raw)
        if better is None or same(self.encoding, better):
            return
        if self.wide:
            # Text has blanks or line feeds, and no NULs. Refuse a file that looks like text only in the other encoding.
            by_chance = (self.nul or not self.white) and bool(_WHITE.search(raw.decode(better, "replace")))
        else:
            # A text may hold a few NULs. But if more than a quarter of the bytes are below 9, they are the upper bytes
            # of UTF-16 characters: all letters of an alphabet have the same upper byte, such as 0 for Latin and 4 for
            # Cyrillic.
            by_chance = share(rb"[\0-\x08]", raw[:HEAD]) > .25
        if by_chance:
            raise self._refused(b"\0" if self.zero is not None else b"", self.zero, better)

    def _refused(self, byte: bytes, at: int | None, better: str | None) -> CorpusError:
        """Return the error for a file in which `byte` at offset `at` is wrong (None: no byte is) and its remedy.

        better: the encoding that the file looks like, or None.
        """
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


def same(encoding: str, better: str) -> bool:
    """Return True if `encoding` decodes as `better` does: utf-16-le as utf-16 after a mark, utf-8-sig as utf-8."""
    return codec(encoding).startswith(codec(better))


def label(encoding: str) -> str:
    """Return an encoding's name as people write it: "Latin-1", "UTF-8", "KOI8-R"."""
    return "Latin-1" if codec(encoding) == "iso8859-1" else codec(encoding).upper()
