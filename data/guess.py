"""Guesses about the first bytes of a file: its encoding, and whether it is text at all.

The guesses go by the byte order mark, by NUL bytes and by bytes above 0x7f. They serve error messages, the encoding
"auto" and the choice of the text files of a folder.
"""
import codecs
import re

HEAD = 8192  # bytes at the start of a file from which its kind is guessed
FEW = 32    # bytes; fewer are not enough to call a file noise
NOISE = .05  # share of control characters above which bytes that are not UTF-8 are not text
_CONTROL = rb"[\0-\x08\x0e-\x1a\x1c-\x1f\x7f]"
# UTF-32 comes first: its little-endian mark begins with the mark of UTF-16.
_MARKS = (
    (codecs.BOM_UTF32_LE, "utf-32"), (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"), (codecs.BOM_UTF8, "utf-8"),
)


def likely(raw: bytes) -> str | None:
    """Return the encoding that these bytes look like, or None if they look like no known encoding.

    The result is "utf-32", "utf-16", one of these with -le or -be, "utf-8", "latin-1" or "cp1252".
    """
    for mark, encoding in _MARKS:
        if raw.startswith(mark):
            return encoding
    if b"\0" in raw:
        return _likely_wide(raw[:HEAD])
    text = raw.decode("utf-8", "replace")
    foreign, damaged = len(re.findall("[^\0-\x7f\ufffd]", text)), text.count("\ufffd")
    # Above 0x7f, text in another encoding is seldom valid UTF-8. So if at least half is valid, it is damaged UTF-8.
    if foreign >= damaged:
        return "utf-8"
    # Four bytes above 0x7f in a row are a word in Cyrillic, Greek or Chinese, in one of many encodings. Bytes with
    # control characters are not text.
    if re.search(rb"[\x80-\xff]{4}|" + _CONTROL, raw):
        return None
    # Latin-1 has control characters at 0x80-0x9f. cp1252 has letters and quotation marks there, and five gaps.
    if not re.search(rb"[\x80-\x9f]", raw):
        return "latin-1"
    return None if re.search(rb"[\x81\x8d\x8f\x90\x9d]", raw) else "cp1252"


def is_text(head: bytes) -> bool:
    """Return True if the first bytes of a file look like text; UTF-16 and UTF-32 need a byte order mark."""
    marked = head.startswith(tuple(mark for mark, _ in _MARKS))
    return bool(head) and (marked or b"\0" not in head and likely(head) is not None)


def is_noise(head: bytes) -> bool:
    """Return True if the first bytes of a file are not text, but full of control characters: a picture, a program."""
    return len(head) >= FEW and likely(head) is None and share(_CONTROL, head) > NOISE


def share(kind: bytes, head: bytes) -> float:
    """Return the share (0 to 1) of the bytes in `head` that match `kind`, a pattern of one byte."""
    return len(re.findall(kind, head)) / len(head)


def _likely_wide(head: bytes) -> str | None:
    """Return the encoding among UTF-16 and UTF-32, -le and -be, in which the bytes show the most ASCII, or None.

    White space counts 100 times as much as another character, since letters may be there by chance: in the wrong byte
    order, the common Chinese character U+4E00 is an N.
    """
    scores = {}
    # ASCII that holds a few NULs is not UTF-16.
    if share(rb"[\0-\x08\x80-\xff]", head) < .25:
        return None
    for encoding in ("utf-32-le", "utf-32-be", "utf-16-le", "utf-16-be"):
        try:
            text = codecs.getincrementaldecoder(encoding)().decode(head)  # `head` may end inside a character
        except UnicodeDecodeError:
            continue
        if "\0" not in text:
            scores[encoding] = len(re.findall("[ -~]", text)) + 100 * len(re.findall("[ \n]", text))
    best = max(scores, key=scores.__getitem__, default=None)
    return best if best and scores[best] else None
