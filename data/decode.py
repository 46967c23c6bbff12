"""Bytes made into text: decoded strictly, refused with the byte, its offset and the `--encoding` that would do."""
from __future__ import annotations

import codecs
import re
from collections.abc import Iterable

HEAD = 8192  # bytes at the start of a file that show what it is
_MARKS = (  # UTF-32 first: its little-endian mark begins with that of UTF-16
    (codecs.BOM_UTF32_LE, "utf-32"), (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"), (codecs.BOM_UTF8, "utf-8"),
)


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
    """The text of one file. CorpusError, calling the file `name`, where its bytes are not that encoding.

    What decodes by chance is refused too: UTF-16 is full of NULs as UTF-8, plain text is rare Chinese as UTF-16.
    """
    try:
        text = raw.decode(encoding)
    except UnicodeDecodeError as error:
        at = error.start + len(raw) - len(error.object)  # utf-8-sig counts from after the byte order mark
        raise _refusal(raw, encoding, name, at, likely(raw)) from None
    except UnicodeError as error:
        raise CorpusError(f"{name} is not {_label(encoding)} ({error}): name its encoding with --encoding") from None
    if ("\0" in text or is_wide(encoding)) and (better := _likelier(raw, text, encoding)):
        raise _refusal(raw, encoding, name, raw.find(0), better)
    return text


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


def _likelier(raw: bytes, text: str, encoding: str) -> str | None:
    """The encoding to use in place of the one that made `text` of `raw`, if that was by chance."""
    better = likely(raw)
    if better is None or _same(encoding, better):
        return None
    if is_wide(encoding):
        white = re.compile("[ \n]")
        by_chance = ("\0" in text or not white.search(text)) and bool(white.search(raw.decode(better, "replace")))
    else:
        by_chance = _share(rb"[\0-\x08]", raw[:HEAD]) > .25  # an alphabet's upper bytes, not a NUL here and there
    return better if by_chance else None


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


def _refusal(raw: bytes, encoding: str, name: str, at: int, better: str | None) -> CorpusError:
    """The error for `raw`, which fails as `encoding` at byte `at` (-1: nowhere) and looks like `better`."""
    cause = f"byte 0x{raw[at:at + 1].hex()} at offset {at} is not" if at >= 0 else "this is not"
    if better is None:
        cure = "name the file's own with --encoding (latin-1, cp1251, gb18030, shift_jis, ...)"
    elif _same(encoding, better):
        cure = f"the rest of the file looks like {_label(better)}: mend it there"
    else:
        cure = f"the file looks like {_label(better)}: add --encoding {better}"
    return CorpusError(f"{name}: {cause} {_label(encoding)}; {cure}")
