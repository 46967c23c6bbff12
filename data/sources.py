"""What a user names as a corpus, file by file: files, folders, patterns, gzipped files, stdin and the named corpora."""
from __future__ import annotations

import contextlib
import glob
import gzip
import io
import os
import sys
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO, NamedTuple

from . import corpora
from .decode import HEAD, CorpusError, CorpusNotFoundError, is_wide, likely

CHUNK = 1 << 20  # bytes read at a time


class File(NamedTuple):
    """One file to read."""

    name: str                # as errors call it
    source: int              # the place, among the sources given, of the one that it is of
    encoding: str
    chunks: Iterator[bytes]  # CHUNK bytes each, but for the last; raises CorpusError for what cannot be read


def opened(sources: Sequence[str], encoding: str, binary: bool, stdin: BinaryIO | None,
           notes: list[str]) -> Iterator[File]:
    """The files that the sources stand for, in that order, each to be read before the next is asked for.

    "-" is stdin, `stdin` or the process's own; a folder stands for its files, a pattern ('texts/*.txt') for what it
    matches, sorted, where nothing bears its own name. binary: files of a folder with NUL bytes are wanted too.
    """
    if not sources:
        raise CorpusError(f"no corpus: name a file, a folder, - for stdin, or one of {', '.join(corpora.NAMES)}")
    for place, source in enumerate(sources):
        if source == "-":
            yield File("stdin", place, encoding, _chunks("stdin", _stdin(stdin)))
        elif source in corpora.NAMES:
            if os.path.exists(source):
                notes.append(
                    f"{source} is read as the named corpus: write ./{source} for the file or folder of that name")
            yield File(source, place, "utf-8", _chunks(source, io.BytesIO(corpora.text(source).encode())))
        else:
            for path in _matches(source):
                with _readable(path):
                    folder = os.path.isdir(path)
                if folder:
                    for file in _folder(Path(path), encoding, binary, notes):
                        yield file._replace(source=place)
                else:
                    yield File(path, place, encoding, _of(path))


def shown(source: str) -> str:
    """A source in words."""
    return "stdin" if source == "-" else source


def name(source: str) -> str:
    """A good default name for what is made of a source: a file's stem, a folder's name, a named corpus, "stdin"."""
    if source == "-" or source in corpora.NAMES:
        return shown(source)
    whole = os.path.abspath(source)
    if not os.path.lexists(source) and glob.has_magic(source):
        while glob.has_magic(whole):  # the folder above the pattern
            whole = os.path.dirname(whole)
    path = Path(whole)
    if path.is_dir():
        return path.name.lstrip(".") or "corpus"
    return Path(path.name.removesuffix(".gz")).stem.lstrip(".") or "corpus"


def absolute(source: str) -> str:
    """Return the source as it is named from any folder; stdin and the named corpora are the same everywhere."""
    if source == "-" or source in corpora.NAMES or os.path.isabs(source):
        return source
    if not os.path.lexists(source) and glob.has_magic(source):  # what the folder's own name has is no pattern
        return os.path.join(glob.escape(os.getcwd()), source)
    return os.path.abspath(source)


def nameless(source: str) -> str:
    """Return the source as it may be passed on to others: of one that is absolute its last name alone."""
    return os.path.basename(source.rstrip(os.sep)) or source if os.path.isabs(source) else source


def is_there(source: str) -> bool:
    """Return whether there is a file or a folder of this name or pattern; stdin and named corpora are everywhere."""
    if source == "-" or source in corpora.NAMES or os.path.isfile(source) or os.path.isdir(source):
        return True
    return glob.has_magic(source) and any(glob.iglob(source, recursive=True))


def places(sources: Sequence[str], remembered: Sequence[str]) -> list[list[str]]:
    """Return where a text that was read before may be now, the likeliest first.

    sources: as they were given, seen from this folder now; remembered: where they were, as `absolute` has it. Each is
    one of the two that is there. With stdin, which can be read once, there is one place.
    """
    pairs = list(zip(sources, remembered, strict=True))
    here = [source if is_there(source) or not is_there(path) else path for source, path in pairs]
    there = [path if is_there(path) else source for source, path in pairs]
    return [here] if "-" in sources or list(map(absolute, here)) == list(map(absolute, there)) else [here, there]


def _matches(source: str) -> list[str]:
    """The paths that a source stands for: itself, or what it matches as a pattern. Raises CorpusNotFoundError."""
    with _readable(source):
        try:
            os.stat(source)
            return [source]
        except (FileNotFoundError, NotADirectoryError):
            found = sorted(glob.glob(source, recursive=True)) if glob.has_magic(source) else []
    if found:
        return found
    what = "file matches the pattern" if glob.has_magic(source) else "such file or folder:"
    raise CorpusNotFoundError(f"no {what} {source!r}; the named corpora are {', '.join(corpora.NAMES)}")


def _folder(folder: Path, encoding: str, binary: bool, notes: list[str]) -> Iterator[File]:
    """The folder's text files, and at the end a note on those that are not text."""
    wide, any_text = binary or is_wide(encoding), False
    skipped: dict[Path, str | None] = {}  # each with the encoding that it looks like
    with _readable(str(folder)):
        paths = _files(folder)
    for path in paths:
        chunks = _of(str(path))
        first = next(chunks, b"")
        if wide or b"\0" not in first[:HEAD]:
            any_text = True
            yield File(str(path), 0, encoding, _with(first, chunks))
        else:
            skipped[path] = likely(first[:HEAD])
    hint = next((f"; {path} looks like {e.upper()}: add --encoding {e}" for path, e in skipped.items() if e), "")
    files = "file" if len(skipped) == 1 else "files"
    note = [f"skipped {len(skipped):,} {files} with NUL bytes in {folder}{hint}"] if skipped else []
    if not any_text:
        raise CorpusError(": ".join([f"{folder} holds no text file", *(note or ["name a folder that does"])]))
    notes += note


def _files(folder: Path) -> list[Path]:
    """The folder's files, recursively, none hidden, sorted by their path inside it."""
    def stop(error: OSError):
        raise error  # os.walk would pass over a folder that it cannot list

    found = []
    for here, folders, files in os.walk(folder, onerror=stop):
        folders[:] = [name for name in folders if not name.startswith(".")]
        found += [Path(here, name) for name in files if not name.startswith(".")]
    return list(filter(Path.is_file, sorted(found, key=lambda path: path.relative_to(folder).as_posix())))


def _of(path: str) -> Iterator[bytes]:
    """The bytes of a file, those inside one whose name ends in .gz."""
    with _readable(path):
        file = gzip.open(path) if path.endswith(".gz") else open(path, "rb")  # noqa: SIM115
    with file:
        yield from _chunks(path, file)


def _chunks(where: str, file: BinaryIO) -> Iterator[bytes]:
    while True:
        with _readable(where):
            chunk = file.read(CHUNK)
        if not chunk:
            return
        yield chunk


def _with(first: bytes, rest: Iterator[bytes]) -> Iterator[bytes]:
    """All of the chunks of which the first was looked at."""
    if first:
        yield first
        yield from rest


def _stdin(stdin: BinaryIO | None) -> BinaryIO:
    stream = stdin or getattr(sys.stdin, "buffer", None)
    if stream is None:
        raise CorpusError("stdin is closed: pipe a text into it or name a file")
    return stream


@contextlib.contextmanager
def _readable(where: str) -> Iterator[None]:
    """Makes one CorpusError of all that can go wrong with opening, listing and reading."""
    try:
        yield
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        what = "is cut short" if isinstance(error, EOFError) else "is no whole gzip file"
        raise CorpusError(f"{where} {what} ({error}): take another copy, or drop the .gz from its name if it is none"
                          ) from None
    except OSError as error:
        raise CorpusError(f"cannot read {error.filename or where}: {error.strerror or error}; "
                          "make it readable or leave it out") from None
    except ValueError as error:  # of a NUL in a path
        raise CorpusNotFoundError(f"no such file or folder: {where!r} ({error})") from None
