"""A corpus: text on disk, on stdin or under a name, read into one str."""
from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO, NamedTuple

from . import corpora
from .decode import (HEAD, CorpusError, CorpusNotFoundError, UnknownEncodingError, codec, decode, is_wide, join, likely,
                     one_line)

__all__ = ["Corpus", "CorpusError", "CorpusNotFoundError", "UnknownEncodingError", "read"]

MARK = "\ufeff"  # the byte order mark


class Corpus(NamedTuple):
    """A text and where it is from."""

    name: str  # a good default name for a run: a file's stem, a folder's name, a named corpus, "stdin"
    text: str
    sources: tuple[str, ...]  # as they were given
    notes: tuple[str, ...]  # a line each, to be said once: what was dropped, skipped or normalised
    sha256: str  # hex, of the text in UTF-8


def read(
    sources: Sequence[str], encoding: str = "utf-8", newline: str = "lf", stdin: BinaryIO | None = None,
    distinct: int = 2,
) -> Corpus:
    """Read files, folders, "-" (stdin) and named corpora, in that order, into one corpus.

    A folder stands for its text files, recursively, sorted by path: without the hidden ones, those with a NUL byte in
    their first 8,192 (unless the encoding has such), and folders behind symbolic links. Files are joined so that each
    but the last ends in a newline. Byte order marks are dropped wherever they are; CRLF and lone CR become LF unless
    `newline` is "keep". Named corpora have their own encoding. `stdin` is a binary stream, by default the process's.

    Raises CorpusNotFoundError for a path where nothing is, UnknownEncodingError, and CorpusError for what cannot be
    read, is not in that encoding, is empty, or has one distinct symbol where `distinct` asks for two.
    """
    if newline not in ("lf", "keep"):
        raise ValueError(f"newline is 'lf' or 'keep', not {newline!r}")
    if not sources:
        raise CorpusError(f"no corpus: name a file, a folder, - for stdin, or one of {', '.join(corpora.NAMES)}")
    codec(encoding)  # an unknown one is refused before anything is read
    pieces: list[str] = []
    notes: list[str] = []
    for source in sources:
        some, remarks = _read_source(source, encoding, stdin)
        pieces += some
        notes += remarks
        if len(sources) > 1 and not any(some):
            notes.append(f"{_shown(source)} is empty")
    text, remarks = _normalise(pieces, newline)
    _check(text, ", ".join(map(_shown, sources)), distinct)
    digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
    return Corpus(_name(sources[0]), text, tuple(sources), tuple(map(one_line, notes + remarks)), digest)


def _read_source(source: str, encoding: str, stdin: BinaryIO | None) -> tuple[list[str], list[str]]:
    """The texts that one source stands for, and notes on them."""
    try:
        if source == "-":
            return [decode(_read_stdin(stdin), encoding, "stdin")], []
        if source in corpora.NAMES:
            note = f"{source} is read as the named corpus: write ./{source} for the file or folder of that name"
            return [corpora.text(source)], [note] if os.path.exists(source) else []
        os.stat(source)  # before Path, to which "" is the current folder
        path = Path(source)
        if path.is_dir():
            return _read_folder(path, encoding)
        return [decode(path.read_bytes(), encoding, source)], []
    except (FileNotFoundError, NotADirectoryError):
        named = ", ".join(corpora.NAMES)
        raise CorpusNotFoundError(f"no such file or folder: {source!r}; the named corpora are {named}") from None
    except OSError as error:
        where, why = error.filename or _shown(source), error.strerror or error
        raise CorpusError(f"cannot read {where}: {why}; make it readable or leave it out") from None


def _read_stdin(stdin: BinaryIO | None) -> bytes:
    stream = stdin or getattr(sys.stdin, "buffer", None)
    if stream is None:
        raise CorpusError("stdin is closed: pipe a text into it or name a file")
    return stream.read()


def _read_folder(folder: Path, encoding: str) -> tuple[list[str], list[str]]:
    """The texts of the folder's files, and a note on those that are not text."""
    wide = is_wide(encoding)
    texts: list[str] = []
    skipped: dict[Path, str | None] = {}  # each with the encoding that it looks like
    for path in _files(folder):
        with path.open("rb") as file:
            head = file.read(HEAD)
            if wide or b"\0" not in head:
                texts.append(decode(head + file.read(), encoding, str(path)))
            else:
                skipped[path] = likely(head)
    hint = next((f"; {path} looks like {e.upper()}: add --encoding {e}" for path, e in skipped.items() if e), "")
    files = "file" if len(skipped) == 1 else "files"
    notes = [f"skipped {len(skipped):,} {files} with NUL bytes in {folder}{hint}"] if skipped else []
    if not texts:
        raise CorpusError(": ".join([f"{folder} holds no text file", *(notes or ["name a folder that does"])]))
    return texts, notes


def _files(folder: Path) -> Iterator[Path]:
    """The folder's files, recursively, none hidden, sorted by their path inside it."""
    def stop(error: OSError):
        raise error  # os.walk would pass over a folder that it cannot list

    found = []
    for here, folders, files in os.walk(folder, onerror=stop):
        folders[:] = [name for name in folders if not name.startswith(".")]
        found += [Path(here, name) for name in files if not name.startswith(".")]
    return filter(Path.is_file, sorted(found, key=lambda path: path.relative_to(folder).as_posix()))


def _normalise(pieces: list[str], newline: str) -> tuple[str, list[str]]:
    """The pieces joined, without byte order marks and with LF line ends, and notes on both."""
    notes = []
    if marks := sum(piece.count(MARK) for piece in pieces):
        notes.append(f"dropped {marks:,} byte order mark{'s' * (marks > 1)}")
        pieces = [piece.replace(MARK, "") for piece in pieces]
    crlf = sum(piece.count("\r\n") for piece in pieces)
    cr = sum(piece.count("\r") for piece in pieces) - crlf
    if newline == "lf" and (crlf or cr):
        what = " and ".join([f"{crlf:,} CRLF"] * (crlf > 0) + [f"{cr:,} lone CR"] * (cr > 0))
        notes.append(f"normalised {what} line end{'s' * (crlf + cr > 1)} to LF (--newline keep leaves them)")
        pieces = [piece.replace("\r\n", "\n").replace("\r", "\n") for piece in pieces]
    return join(pieces), notes


def _check(text: str, where: str, distinct: int) -> None:
    """Refuse a text that is empty or, where two distinct symbols are wanted, has but one."""
    if not text:
        raise CorpusError(f"{where} is empty: nothing to learn from; name a file with text in it")
    if distinct > 1 and text.count(text[0]) == len(text):
        raise CorpusError(
            f"{where} has one distinct symbol, {text[0]!r}: nothing to learn from; two are needed at least")


def _shown(source: str) -> str:
    return "stdin" if source == "-" else source


def _name(source: str) -> str:
    if source == "-" or source in corpora.NAMES:
        return _shown(source)
    path = Path(os.path.abspath(source))
    return (path.name if path.is_dir() else path.stem).lstrip(".") or "corpus"
