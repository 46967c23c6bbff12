"""Many short documents in one corpus: names, tweets, poems, rows of JSON, each with END after it.

END is a symbol like others, but a model's state begins anew at it: nothing is carried from one document to the next.
"""
import json
import re
from collections.abc import Iterable, Iterator

from .decode import CorpusError

END = "\x03"  # U+0003, END OF TEXT
KINDS = "none", "lines", "blank", "jsonl"
_BREAK = {"lines": re.compile("\n+"), "blank": re.compile("\n(?:[ \t]*\n)+")}
_KINDS = {type(None): "null", bool: "true or false", int: "a number", float: "a number", str: "a text", list: "a list",
          dict: "an object"}  # what JSON makes
_BATCH = 1 << 16  # characters of documents from JSON handed on at a time, about


def documents(pieces: Iterable[str], kind: str, field: str, name: str) -> Iterator[str]:
    """The documents of one file called `name`, END after each, in pieces; empty ones leave no trace.

    kind: lines, each a document; blank, blank lines between them; jsonl, the text in `field` of each line's object.
    CorpusError for END in a document, and for lines that are not such objects.
    """
    split = _objects(pieces, field, name) if kind == "jsonl" else _parts(pieces, kind, name)
    last = END
    for piece in filter(None, split):
        if last == END:
            piece = piece.lstrip(END) if piece[0] == END else piece
        if piece:
            last = piece[-1]
            yield piece
    if last != END:
        yield END


def _parts(pieces: Iterable[str], kind: str, name: str) -> Iterator[str]:
    """Breaks made END; one that may go on in the next piece is held back."""
    held, begun = "", False
    for piece in pieces:
        _check(piece, name)
        piece = held + piece
        if not begun:
            piece = piece.lstrip("\n")
        open_ = piece.find("\n", len(piece.rstrip(" \t\n")))  # what may be the beginning of a break
        piece, held = (piece[:open_], piece[open_:]) if open_ >= 0 else (piece, "")
        begun = begun or bool(piece)
        yield _BREAK[kind].sub(END, piece)


def _objects(pieces: Iterable[str], field: str, name: str) -> Iterator[str]:
    batch, size, first = [], 0, True
    for number, line in enumerate(_lines(pieces), 1):
        if not line.strip():
            continue
        if first and _is_array(line):
            raise CorpusError(f"{name} is a JSON array, where one object a line is wanted: `jq -c '.[]'` makes lines "
                              "of it")
        text, first = _text(line, field, f"{name}, line {number:,}"), False
        if text:
            batch += [text, END]
            size += len(text)
        if size > _BATCH:
            yield "".join(batch)
            batch, size = [], 0
    yield "".join(batch)


def _is_array(line: str) -> bool:
    """Whether the first line of a file is, or begins, an array of what is wanted."""
    if not line.lstrip().startswith("["):
        return False
    try:
        return any(isinstance(row, dict) for row in json.loads(line))
    except (ValueError, RecursionError):
        return True  # it goes on in the next line


def _text(line: str, field: str, where: str) -> str:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise CorpusError(f"{where} is no JSON ({error}), and --documents jsonl reads an object a line: mend it, or "
                          "read a plain text with --documents lines or blank") from None
    if not isinstance(row, dict):
        raise CorpusError(f"{where} is {_KINDS[type(row)]}, not an object: write {{{json.dumps(field)}: TEXT}}, or "
                          "read a plain text with --documents lines")
    if field not in row:
        known = ", ".join(map(repr, list(row)[:8])) or "none"
        raise CorpusError(f"{where} has no field {field!r} (its fields: {known}): name another with --field")
    if not isinstance(row[field], str):
        raise CorpusError(f"{where}: the field {field!r} is {_KINDS[type(row[field])]}, not a text: mend the line or "
                          "take it out, or name another with --field")
    _check(row[field], where)
    return row[field]


def _lines(pieces: Iterable[str]) -> Iterator[str]:
    """The lines of pieces that are cut anywhere, without their ends."""
    held: list[str] = []
    for piece in pieces:
        first, *others = piece.split("\n")
        held.append(first)
        for line in others:
            yield "".join(held)
            held = [line]
    yield "".join(held)


def _check(text: str, where: str) -> None:
    if END in text:
        raise CorpusError(f"{where} holds the control character U+0003, which ends documents here: take it out")
