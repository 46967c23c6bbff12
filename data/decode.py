"""Bytes made into text: decoded strictly, refused with the byte, its offset and the `--encoding` that would do."""
from __future__ import annotations

import codecs
import re
import sys
from collections.abc import Iterable, Iterator

HEAD = 8192  # bytes at the start of a file that show what it is
_MARKS = (  # UTF-32 first: its little-endian mark begins with that of UTF-16
    (codecs.BOM_UTF32_LE, "utf-32"), (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"), (codecs.BOM_UTF8, "utf-8"),
)
_WHOLE = {"punycode", "idna"}  # codecs of Python that cannot decode a piece at a time
_WHITE = re.compile("[ \n]")


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
    """Python's own name for an encoding of text ("UTF8" -> "utf-8"), or UnknownEncodingError."""
    try:
        " ".encode(encoding)  # codecs.lookup alone accepts base64, which is no encoding of text
        return codecs.lookup(encoding).name
    except (LookupError, ValueError):
        raise UnknownEncodingError(
            f"unknown encoding {encoding!r}: --encoding takes utf-8, utf-16, latin-1, cp1252 or another codec of Python"
        ) from None


def is_wide(encoding: str) -> bool:
    """Whether NUL bytes are ordinary in this encoding."""
    return codec(encoding).startswith(("utf-16", "utf-32"))


def decode(raw: bytes, encoding: str, name: str) -> str:
    """The text of one file that is at hand as a whole: as `decoded`."""
    return "".join(decoded([raw], encoding, name))


def decoded(chunks: Iterable[bytes], encoding: str, name: str) -> Iterator[str]:
    """The text of one file, chunk by chunk; the first chunk has HEAD bytes at least, or all.

    CorpusError, calling the file `name`, where its bytes are not that encoding: with the offset in the whole file. What
    decodes by chance is refused too: UTF-16 is full of NULs as UTF-8, plain text is rare Chinese as UTF-16.
    """
    chunks = iter(chunks)
    raw = b"".join(chunks) if codec(encoding) in _WHOLE else next(chunks, b"")
    decoder, seen = _decoder(encoding, raw), _Seen(encoding, name, raw)
    while True:
        seen.add(raw)
        try:
            text = decoder.decode(raw, final=not raw)
        except UnicodeDecodeError as error:
            raise seen.refusal(error) from None
        except UnicodeError as error:
            raise CorpusError(
                f"{name} is not {_label(encoding)} ({error}): name its encoding with --encoding") from None
        seen.check(text, last=not raw)
        if text:
            yield text
        if not raw:
            return
        raw = next(chunks, b"")


def _decoder(encoding: str, head: bytes) -> codecs.IncrementalDecoder:
    """One that takes UTF-16 and UTF-32 without a byte order mark for the machine's own order, as bytes.decode does."""
    name = codec(encoding)
    if name in ("utf-16", "utf-32") and likely(head[:4]) != name:
        name += "-le" if sys.byteorder == "little" else "-be"
    return codecs.getincrementaldecoder(name)()


class _Seen:
    """What is remembered of a file's bytes and text, to refuse it for a good reason wherever its fault shows.

    The encoding is judged by the first chunk, the last one that held more than ASCII, and the one at fault.
    """

    def __init__(self, encoding: str, name: str, first: bytes):
        self.encoding, self.name, self.wide = encoding, name, is_wide(encoding)
        self.first, self.foreign, self.raw, self.fed = first, b"", b"", 0
        self.zero: int | None = None      # where the first NUL byte is
        self.nul = self.white = False     # whether the text has a NUL, a blank or a line feed

    def add(self, raw: bytes) -> None:
        if not self.raw.isascii():
            self.foreign = self.raw
        if self.zero is None and (at := raw.find(0)) >= 0:
            self.zero = self.fed + at
        self.raw, self.fed = raw, self.fed + len(raw)

    def evidence(self) -> bytes:
        parts = {id(part): part for part in (self.first, self.foreign, self.raw)}
        return b"".join(parts.values())

    def refusal(self, error: UnicodeDecodeError) -> CorpusError:
        if self.first.startswith(b"\x1f\x8b"):
            return CorpusError(f"{self.name} is gzipped: give it a name that ends in .gz")
        at = self.fed - len(error.object) + error.start  # what a decoder holds back is the end of what it was fed
        return _refusal(self.encoding, self.name, error.object[error.start:error.start + 1], at,
                        likely(self.evidence()))

    def check(self, text: str, last: bool) -> None:
        """Refuse what is text by chance: for NULs as soon as there is one, for Chinese once all is known."""
        nul = "\0" in text
        first_nul, self.nul = nul and not self.nul, self.nul or nul
        self.white = self.white or self.wide and bool(_WHITE.search(text))
        if not (last if self.wide else first_nul):
            return
        raw = self.evidence()
        better = likely(raw)
        if better is None or _same(self.encoding, better):
            return
        if self.wide:
            by_chance = (self.nul or not self.white) and bool(_WHITE.search(raw.decode(better, "replace")))
        else:
            by_chance = _share(rb"[\0-\x08]", raw[:HEAD]) > .25  # an alphabet's upper bytes, not a NUL here and there
        if by_chance:
            raise _refusal(self.encoding, self.name, b"\0" if self.zero is not None else b"", self.zero, better)


def join(pieces: Iterable[str]) -> str:
    """The pieces one after the other, each but the last ending in a newline; empty ones leave no trace."""
    full = [piece for piece in pieces if piece]
    return "".join(piece if piece.endswith(("\n", "\r")) else piece + "\n" for piece in full[:-1]) + "".join(full[-1:])


def likely(raw: bytes) -> str | None:
    """The encoding that these bytes look like, by their byte order mark, their NULs, or the bytes above 0x7f."""
    for mark, encoding in _MARKS:
        if raw.startswith(mark):
            return encoding
    if b"\0" in raw:
        return _likely_wide(raw[:HEAD])
    text = raw.decode("utf-8", "replace")
    foreign, damaged = len(re.findall("[^\0-\x7f\ufffd]", text)), text.count("\ufffd")
    if foreign >= damaged:
        return "utf-8"
    if re.search(rb"[\x80-\xff]{4}|[\x01-\x08\x0e-\x1a\x1c-\x1f\x7f]", raw):
        return None  # whole words above 0x7f are Cyrillic, Greek or Chinese; control characters are not text
    if not re.search(rb"[\x80-\x9f]", raw):
        return "latin-1"
    return None if re.search(rb"[\x81\x8d\x8f\x90\x9d]", raw) else "cp1252"


def _likely_wide(head: bytes) -> str | None:
    """Which of the UTF-16s and UTF-32s shows the most ASCII. White space counts for more: U+4E00 swapped is an N."""
    scores = {}
    if _share(rb"[\0-\x08\x80-\xff]", head) < .25:
        return None  # ASCII with a NUL in it
    for encoding in ("utf-32-le", "utf-32-be", "utf-16-le", "utf-16-be"):
        try:
            text = codecs.getincrementaldecoder(encoding)().decode(head)  # the last character may be cut
        except UnicodeDecodeError:
            continue
        if "\0" not in text:
            scores[encoding] = len(re.findall("[ -~]", text)) + 100 * len(re.findall("[ \n]", text))
    best = max(scores, key=scores.__getitem__, default=None)
    return best if best and scores[best] else None


def _share(kind: bytes, head: bytes) -> float:
    return len(re.findall(kind, head)) / len(head)


def _same(encoding: str, better: str) -> bool:
    """Whether `better` would decode no differently: utf-16 is utf-16-le under a mark, utf-8 is utf-8-sig."""
    return codec(encoding).startswith(codec(better))


def _label(encoding: str) -> str:
    return "Latin-1" if codec(encoding) == "iso8859-1" else codec(encoding).upper()


def _refusal(encoding: str, name: str, byte: bytes, at: int | None, better: str | None) -> CorpusError:
    """The error for a file that fails as `encoding` with `byte` at `at` (None: nowhere) and looks like `better`."""
    cause = "this is not" if at is None else f"byte 0x{byte.hex()} at offset {at} is not"
    if better is None:
        cure = "name the file's own with --encoding (latin-1, cp1251, gb18030, shift_jis, ...)"
    elif _same(encoding, better):
        cure = f"the rest of the file looks like {_label(better)}: mend it there"
    else:
        cure = f"the file looks like {_label(better)}: add --encoding {better}"
    return CorpusError(f"{name}: {cause} {_label(encoding)}; {cure}")
