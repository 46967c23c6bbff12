"""What a user names as a corpus, file by file: files, folders, patterns, gzipped files, stdin and the named corpora."""
import glob
import io
import os
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, NamedTuple

from . import corpora
from .content import chunks, of_file, of_stdin, readable, with_first
from .decode import AUTO, CorpusError, CorpusNotFoundError, is_wide, label
from .folders import Runs, files, listed
from .guess import HEAD, is_noise, likely
from .magic import address, kind_of


class File(NamedTuple):
    """One file to read."""

    name: str                # as errors call it
    source: int              # the place, among the sources given, of the one that it is of
    encoding: str
    chunks: Iterator[bytes]  # content.CHUNK bytes each, but for the last; raises CorpusError for what cannot be read
    alone: bool = True       # whether it is the only one


@dataclass
class Sources:
    """The files that the sources stand for, in that order, each to be read before the next is asked for.

    "-" is stdin, `stdin` or the process's own; a folder stands for its files, a pattern ('texts/*.txt') for what it
    matches, sorted, where nothing bears its own name. binary: files that are no text are wanted too. apart: the folder
    of the run that is asking. notes: what is to be said when all are read. files: for each source that was read the
    files that it stood for, each [absolute path, bytes]; None for stdin, a named corpus and what is no regular file.
    below: the folder that was the current one.
    """

    sources: Sequence[str]
    encoding: str
    binary: bool
    stdin: BinaryIO | None
    notes: list[str]
    apart: str | None = None
    files: list[list | None] = field(default_factory=list)
    below: str = os.sep
    _seen: list | None = None  # of the file that was opened last, as in files

    def opened(self) -> Iterator[File]:
        """The files."""
        if not self.sources:
            raise CorpusError(
                f"no corpus: name a file, a folder, - for stdin, or one of {', '.join(corpora.NAMES)}")
        for place, source in enumerate(self.sources):
            self.files.append(None if source == "-" or source in corpora.NAMES else [])
            for file in self._of(source):
                yield file._replace(source=place, alone=file.alone and len(self.sources) == 1)

    def _of(self, source: str) -> Iterator[File]:
        if source == "-":
            yield self._named("stdin", of_stdin(self.stdin, self.binary))
        elif source in corpora.NAMES:
            if os.path.exists(source):
                self.notes.append(
                    f"{source} is read as the named corpus: write ./{source} for the file or folder of that name")
            yield File(source, 0, "utf-8", chunks(source, io.BytesIO(corpora.text(source).encode())))
        else:
            yield from self._paths(source)

    def _paths(self, source: str) -> Iterator[File]:
        """The file, or the text files of the folder or pattern."""
        runs, self.below = Runs(self.apart), current()
        with readable(source):
            folder, there = os.path.isdir(source), _is_there(source)
        if folder:
            with readable(source):
                paths = files(Path(source), runs)
            yield from self._texts(str(Path(source)), paths, runs, False)
        elif there:
            yield self._named(source, of_file(source, self.binary, self._open))
        else:
            yield from self._texts(source, self._matches(source, runs), runs, True)

    def _open(self, path: str) -> BinaryIO:
        """Open a file that the user named, of any kind."""
        file = open(path, "rb")
        found = os.fstat(file.fileno())
        self._seen = [absolute(path), found.st_size] if stat.S_ISREG(found.st_mode) else None
        return file

    def _note(self) -> None:
        """Note the file that was opened last as one that is read."""
        if self._seen is None:
            self.files[-1] = None
        elif self.files[-1] is not None:
            self.files[-1].append(self._seen)

    def _named(self, name: str, found: Iterator[bytes]) -> File:
        """A file that the user named: it has to be a text."""
        first = next(found, b"")
        if not self.binary and (kind := kind_of(first[:HEAD])):
            raise CorpusError(f"{name} is {kind.name}, not a text: {kind.cure}")
        self._note()
        return File(name, 0, self.encoding, with_first(first, found))

    def _matches(self, source: str, runs: Runs) -> list[Path]:
        """The files that match a pattern, and those of the folders that do, each once. Raises CorpusNotFoundError."""
        with readable(source):
            found = sorted(glob.glob(source, recursive=True)) if glob.has_magic(source) else []
            kept = [Path(path) for path in found if not runs.takes(path, _base(source))]
            every = [path for match in kept for path in (files(match, runs) if match.is_dir() else [match])
                     if path.is_file()]
        if kept:
            return list({os.path.normpath(path): path for path in every}.values())
        if words := address(source):
            raise CorpusNotFoundError(words)
        what = "file matches the pattern" if glob.has_magic(source) else "such file or folder:"
        more = "".join(f" ({note})" for note in runs.note(source))
        raise CorpusNotFoundError(f"no {what} {source!r}{more}; the named corpora are {', '.join(corpora.NAMES)}")

    def _texts(self, where: str, paths: list[Path], runs: Runs, matched: bool) -> Iterator[File]:
        """The text files of a folder or pattern (matched), and at the end a note on what was left out."""
        skipped: dict[Path, str] = {}  # what is no text, and what it is
        hints: dict[Path, str] = {}    # the encoding that it looks like
        for path in paths:
            found = of_file(str(path), self.binary, self._open)
            first = next(found, b"")
            what, looks = (None, None) if self.binary else self._no_text(first[:HEAD], matched)
            if what:
                skipped[path] = what
                hints |= {path: looks} if looks else {}
            else:
                self._note()
                yield File(str(path), 0, self.encoding, with_first(first, found), len(paths) == 1)
        any_text = len(skipped) < len(paths)
        notes = _left_out(Path(where), skipped, hints, any_text) + runs.note(where)
        if not any_text:
            self._nothing(where, runs, notes)
        self.notes += notes

    def _no_text(self, head: bytes, matched: bool) -> tuple[str | None, str | None]:
        """(what a file is that is no text, None for a text; the encoding in which it may be one).

        Of what a pattern matches (matched), only the kinds that are known count.
        """
        if kind := kind_of(head):
            return f"is {kind.name}", None
        if matched or is_wide(self.encoding):
            return None, None
        if b"\0" in head:
            looks = likely(head)
            return None if looks and self.encoding == AUTO else "has NUL bytes", looks
        return "has control characters" if is_noise(head) else None, None

    def _nothing(self, where: str, runs: Runs, notes: list[str]) -> None:
        """Refuse a folder without a text; not where only runs are in it and it is not all that was named."""
        if os.path.normpath(where) in runs.met:
            cause = f"{where} is a run folder, not a text: the run goes before the text, as in `rnncore score RUN TEXT`"
        else:
            cause = ": ".join([f"{where} holds no text file", "; ".join(notes) or "name a folder that does"])
        if len(self.sources) == 1 or not runs.met:
            raise CorpusError(cause)


def _is_there(path: str) -> bool:
    try:
        os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return False
    return True


def _left_out(where: Path, skipped: dict[Path, str], hints: dict[Path, str], any_text: bool) -> list[str]:
    """A line on the files of a folder that are no text, and where one looks like one what would read it."""
    if not skipped:
        return []
    count = "1 file that is no text" if len(skipped) == 1 else f"{len(skipped):,} files that are no text"
    names = listed(f"{path.relative_to(where) if path.is_relative_to(where) else path} {what}"
                   for path, what in skipped.items())
    hint = next((f"; {path} looks like {label(e)}: add --encoding {AUTO if any_text else e}"
                 for path, e in hints.items()), "")
    return [f"skipped {count} in {where}: {names}{hint}"]


def _base(pattern: str) -> str:
    """The folder up to which a pattern has no wildcard."""
    while glob.has_magic(pattern):
        pattern = os.path.dirname(pattern)
    return pattern


def shown(source: str) -> str:
    """A source in words."""
    return "stdin" if source == "-" else source


def name(source: str) -> str:
    """A good default name for what is made of a source: a file's stem, a folder's name, a named corpus, "stdin"."""
    if source == "-" or source in corpora.NAMES:
        return shown(source)
    whole = os.path.abspath(source)
    if not os.path.lexists(source) and glob.has_magic(source):
        whole = _base(whole)
    path = Path(whole)
    if path.is_dir():
        return path.name.lstrip(".") or "corpus"
    return Path(path.name[:-3] if path.name.lower().endswith(".gz") else path.name).stem.lstrip(".") or "corpus"


def absolute(path: str) -> str:
    """Return the path of a file as it is from any folder."""
    if ".." in path.split(os.sep):  # which after a symbolic link is not the folder before it
        path = os.path.join(os.path.realpath(os.path.dirname(path)), os.path.basename(path))
    return os.path.normpath(os.path.join(current(), path))


def current() -> str:
    """Return the current folder; the root where it was removed."""
    try:
        return os.getcwd()
    except FileNotFoundError:
        return os.sep
