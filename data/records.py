"""Writer of documents: it turns texts, such as samples of a model, into a file that endings.py reads as documents."""
import json
import re
from collections.abc import Iterable, Iterator
from itertools import chain

from .endings import END

# Characters that readers of JSON lines drop, cannot decode (surrogates), or take for the end of a line.
ESCAPED = re.compile("[\x7f-\x9f\u2028\u2029\ufeff\ud800-\udfff]")


def written(texts: Iterable[Iterable[str]], kind: str, field: str, ascii_only: bool = False) -> Iterator[str]:
    """Yield, in pieces, a file from which `endings.documents` reads these texts. Each text comes in pieces too.

    kind: "lines": each text is a line, and its own line ends become spaces; "blank": an empty line separates texts, and
    empty lines inside a text are left out; "jsonl": each line is an object with the text in `field`.
    ascii_only: in "jsonl", write characters outside ASCII as escapes. An END inside a text begins the next document.
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
    """Yield a text as a line with an object whose only field it is; each END in the text begins another object."""
    head, tail = f'{{{_string(field, ascii_only)}: "', '"}\n'
    yield head
    for piece in text:
        yield (tail + head).join(_string(part, ascii_only)[1:-1] for part in piece.split(END))
    yield tail


def _string(text: str, ascii_only: bool) -> str:
    """Return a text as a string of JSON, with quotation marks."""
    return ESCAPED.sub(lambda found: f"\\u{ord(found[0]):04x}", json.dumps(text, ensure_ascii=ascii_only))


def _block(symbols: Iterable[str]) -> Iterator[str]:
    """Yield a text without empty lines and with an LF at its end; each END becomes an empty line."""
    held, begun = "", False  # an LF and the blanks after it, which are not yielded yet; True inside a text
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
