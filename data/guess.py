"""A guess at how bytes are encoded, by their byte order mark, their NULs and the bytes above 0x7f."""
import codecs
import re

HEAD = 8192  # bytes at the start of a file that show what it is
FEW = 32    # bytes: of fewer nobody can tell
NOISE = .05  # the share of control characters above which bytes that are no UTF-8 are no text
_CONTROL = rb"[\0-\x08\x0e-\x1a\x1c-\x1f\x7f]"
_MARKS = (  # UTF-32 first: its little-endian mark begins with that of UTF-16
    (codecs.BOM_UTF32_LE, "utf-32"), (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"), (codecs.BOM_UTF8, "utf-8"),
)


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
    if re.search(rb"[\x80-\xff]{4}|" + _CONTROL, raw):
        return None  # whole words above 0x7f are Cyrillic, Greek or Chinese; control characters are not text
    if not re.search(rb"[\x80-\x9f]", raw):
        return "latin-1"
    return None if re.search(rb"[\x81\x8d\x8f\x90\x9d]", raw) else "cp1252"


def is_text(head: bytes) -> bool:
    """Whether the first bytes of a file are those of a text, in whatever encoding."""
    marked = head.startswith(tuple(mark for mark, _ in _MARKS))
    return bool(head) and (marked or b"\0" not in head and likely(head) is not None)


def is_noise(head: bytes) -> bool:
    """Whether the first bytes of a file are no UTF-8 and full of control characters: a picture, a program, no text."""
    return len(head) >= FEW and likely(head) is None and share(_CONTROL, head) > NOISE


def share(kind: bytes, head: bytes) -> float:
    """The share of the bytes that a pattern of one byte matches."""
    return len(re.findall(kind, head)) / len(head)


def _likely_wide(head: bytes) -> str | None:
    """Which of the UTF-16s and UTF-32s shows the most ASCII. White space counts for more: U+4E00 swapped is an N."""
    scores = {}
    if share(rb"[\0-\x08\x80-\xff]", head) < .25:
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
