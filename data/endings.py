"""Documents: many short texts in one corpus, such as names, tweets, poems or rows of JSON, with END after each.

END is a symbol like others, but the model's state is reset to zero before the model reads END. So no state is carried
from one document to the next.
"""
import json
import re
from collections.abc import Iterable, Iterator

from .decode import CorpusError

END = "\x03"  # U+0003 END OF TEXT, the symbol that ends a document
KINDS = "none", "lines", "blank", "jsonl"  # how documents are separated, see `documents`; "none": one continuous text
_BREAK = {"lines": re.compile("\n+"), "blank": re.compile("\n(?:[ \t]*\n)+")}  # text between two documents
_KINDS = {type(None): "null", bool: "true or false", int: "a number", float: "a number", str: "a text", list: "a list",
          dict: "an object"}  # type that json.loads returns -> words for an error
_BATCH = 1 << 16  # characters; about so many are collected from JSON documents before they are yielded as one piece


def documents(pieces: Iterable[str], kind: str, field: str, name: str) -> Iterator[str]:
    """Yield the documents of one file in pieces, with END after each document. Empty documents are dropped.

    pieces: the text of the file, with LF line ends. name: the name of the file in errors.
    kind: "lines": each line is a document; "blank": blank lines separate documents; "jsonl": each line is a JSON object
    whose key `field` has the document.
    Raises CorpusError for a document that contains END, and for lines of "jsonl" that are not such objects.
    """
    split = _objects(pieces, field, name) if kind == "jsonl" else _parts(pieces, kind, name)
    last = END
    for piece in filter(None, split):
        if last == END:  # a second END in a row would make an empty document
            piece = piece.lstrip(END) if piece[0] == END else piece
        if piece:
            last = piece[-1]
            yield piece
    if last != END:
        yield END


def _parts(pieces: Iterable[str], kind: str, name: str) -> Iterator[str]:
    """Yield the pieces with each break between documents turned into END. kind: "lines" or "blank".

    A break may continue in the next piece. So if a piece ends in white space with an LF, the part from this first LF on
    is held back until the next piece.
    """
    held, begun = "", False
    for piece in pieces:
        _check(piece, name)
        piece = held + piece
        if not begun:
            piece = piece.lstrip("\n")
        open_ = piece.find("\n", len(piece.rstrip(" \t\n")))  # where an unfinished break may begin; -1 for none
        piece, held = (piece[:open_], piece[open_:]) if open_ >= 0 else (piece, "")
        begun = begun or bool(piece)
        yield _BREAK[kind].sub(END, piece)


def _objects(pieces: Iterable[str], field: str, name: str) -> Iterator[str]:
    """Yield the texts in `field` of the JSON objects, one object a line, with END after each; skip blank lines."""
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
    """Return True if the first line of a file is, or begins, a JSON array of objects."""
    if not line.lstrip().startswith("["):
        return False
    try:
        return any(isinstance(row, dict) for row in json.loads(line))
    except (ValueError, RecursionError):
        return True  # the array goes on in the next line


def _text(line: str, field: str, where: str) -> str:
    """Return the text in `field` of the object in one line. Raises CorpusError; its message calls the line `where`."""
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
    """Yield the lines of a text without their LF; the pieces may end inside a line."""
    held: list[str] = []
    for piece in pieces:
        first, *others = piece.split("\n")
        held.append(first)
        for line in others:
            yield "".join(held)
            held = [line]
    yield "".join(held)


def _check(text: str, where: str) -> None:
    """Raise CorpusError if the text contains END; the message calls the text `where`."""
    if END in text:
        raise CorpusError(f"{where} holds the control character U+0003, which ends documents here: take it out")


def joined(texts: Iterable[Iterable[str]]) -> Iterator[str]:
    """Yield the pieces of all texts in order. Empty texts are ignored.

    An LF is added between two texts unless the first one ends in LF, CR or END.
    """
    last = "\n"
    for pieces in texts:
        begun = False
        for piece in filter(None, pieces):
            if not begun and last not in "\n\r" + END:
                yield "\n"
            begun, last = True, piece[-1]
            yield piece
