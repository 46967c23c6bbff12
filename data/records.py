"""Texts written as the documents of a file, for endings.py to read again: the way back from a model to a corpus."""
import json
import re
from collections.abc import Iterable, Iterator
from itertools import chain

from .endings import END

ESCAPED = re.compile("[\x7f-\x9f\u2028\u2029\ufeff\ud800-\udfff]")  # what readers of JSON lines drop or break at


def written(texts: Iterable[Iterable[str]], kind: str, field: str, ascii_only: bool = False) -> Iterator[str]:
    """The file, in pieces, of which `endings.documents` makes these texts; each text comes in pieces too.

    kind: lines, a text a line, its own line ends made blanks; blank, an empty line between texts, empty ones within
    them left out; jsonl, an object a line with the text in `field`, in ASCII alone where that is asked for. An END
    within a text begins the next document.
    """
    for place, text in enumerate(texts):
        if kind == "lines":
            yield from (piece.replace("\n", " ").replace(END, "\n") for piece in text)
            yield "\n"
        elif kind == "jsonl":
            yield from _object(text, field, ascii_only)
        else:
            yield "\n" * (place > 0)
            yield from _block(chain.from_iterable(text))


def _object(text: Iterable[str], field: str, ascii_only: bool) -> Iterator[str]:
    """A text as the only field of an object."""
    head, tail = f'{{{_string(field, ascii_only)}: "', '"}\n'
    yield head
    for piece in text:
        yield (tail + head).join(_string(part, ascii_only)[1:-1] for part in piece.split(END))
    yield tail


def _string(text: str, ascii_only: bool) -> str:
    """A string of JSON."""
    return ESCAPED.sub(lambda found: f"\\u{ord(found[0]):04x}", json.dumps(text, ensure_ascii=ascii_only))


def _block(symbols: Iterable[str]) -> Iterator[str]:
    """A text without empty lines, its end a line end."""
    held, begun = "", False  # a line end and the blanks after it; is there anything before them?
    for symbol in symbols:
        if symbol == END:
            yield "\n\n" * begun
            held, begun = "", False
        elif symbol == "\n":
            held = "\n" * begun
        elif symbol in " \t" and (held.startswith("\n") or not begun):
            held += symbol
        else:
            yield held + symbol
            held, begun = "", True
    yield "\n"
