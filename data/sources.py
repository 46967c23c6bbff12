"""The sources of a corpus: files, folders, patterns, stdin and named corpora, opened file by file."""
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
    """One file of a corpus, opened to be read."""

    name: str                # its name in errors
    source: int              # the index of its source among the sources of the corpus
    encoding: str            # the encoding to decode it with
    chunks: Iterator[bytes]  # its bytes in chunks of content.CHUNK; raises CorpusError if they cannot be read
    alone: bool = True       # True if it is the only file of the corpus


@dataclass
class Sources:
    """The sources of a corpus in the order in which the user named them, and the files that they stand for.

    - "-" is stdin.
    - The name of a named corpus (corpora.NAMES) stands for that corpus, which is always UTF-8. `./NAME` stands for a
      file with such a name.
    - A folder stands for its text files and those of its subfolders, sorted by path. Hidden files, run folders and
      folders behind symbolic links are left out. Files that are not text are left out too: their first bytes show it
      (magic.py, guess.py), or a NUL byte in the first 8,192 (guess.HEAD) if the encoding is not UTF-16 or UTF-32.
    - A pattern ('texts/*.txt') stands for the files that it matches, and for the files of the folders that it matches,
      sorted. A path that exists is never taken for a pattern.
    - A gzipped file stands for its content. With `binary`, only the name (.gz) shows that a file is gzipped.
    """

    sources: Sequence[str]
    encoding: str            # of the files and of stdin, or decode.AUTO
    binary: bool             # True: files that are not text are wanted too
    stdin: BinaryIO | None   # read for "-"; None: the process's stdin
    notes: list[str]         # one line each for the user; complete when the last file was read
    apart: str | None = None  # the folder of the run that reads the corpus; its files are left out
    # For each source that was read, the files that it stood for, as [absolute path, size in bytes]; None for stdin,
    # for a named corpus, and for a source with a file that was not regular.
    files: list[list | None] = field(default_factory=list)
    below: str = os.sep      # the current folder when a path was last looked for
    _seen: list | None = None  # the file that was opened last, as in `files`

    def opened(self) -> Iterator[File]:
        """Yield the files in order. Each must be read before the next one is asked for.

        Raises CorpusError for no sources and for a source that is not text or cannot be read, CorpusNotFoundError for
        one that does not exist.
        """
        if not self.sources:
            raise CorpusError(
                f"no corpus: name a file, a folder, - for stdin, or one of {', '.join(corpora.NAMES)}")
        for place, source in enumerate(self.sources):
            self.files.append(None if source == "-" or source in corpora.NAMES else [])
            for file in self._of(source):
                yield file._replace(source=place, alone=file.alone and len(self.sources) == 1)

    def _of(self, source: str) -> Iterator[File]:
        """Yield the files of one source."""
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
        """Yield the file at a path, or the text files of a folder or pattern."""
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
        """Open a file of any kind (a device or pipe too) and remember it in `_seen`."""
        file = open(path, "rb")
        found = os.fstat(file.fileno())
        self._seen = [absolute(path), found.st_size] if stat.S_ISREG(found.st_mode) else None
        return file

    def _note(self) -> None:
        """Add the file that was opened last to `files`."""
        if self._seen is None:
            self.files[-1] = None
        elif self.files[-1] is not None:
            self.files[-1].append(self._seen)

    def _named(self, name: str, found: Iterator[bytes]) -> File:
        """Return the File for a single file or stdin, called `name`, with the bytes `found`.

        Raises CorpusError if it is a kind of file that is not text, unless `binary` is set.
        """
        first = next(found, b"")
        if not self.binary and (kind := kind_of(first[:HEAD])):
            raise CorpusError(f"{name} is {kind.name}, not a text: {kind.cure}")
        self._note()
        return File(name, 0, self.encoding, with_first(first, found))

    def _matches(self, source: str, runs: Runs) -> list[Path]:
        """Return the files that match a pattern and those of the folders that match it, each once.

        Raises CorpusNotFoundError if there is no match outside run folders.
        """
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
        """Yield the text files among the paths of a folder or, if `matched`, of a pattern; add notes on those left out.

        where: the folder or pattern as the user named it. Raises CorpusError if none is a text (see `_refuse`).
        """
        skipped: dict[Path, str] = {}  # file that is not text -> what it is
        hints: dict[Path, str] = {}    # file that is not text -> encoding that it looks like
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
            self._refuse(where, runs, notes)
        self.notes += notes

    def _no_text(self, head: bytes, matched: bool) -> tuple[str | None, str | None]:
        """Return (what, looks) for a file with these first bytes; matched: True if a pattern matches the file.

        what: the reason in words why the file is not text, None for a text. looks: for a file with NUL bytes, the
        encoding in which it may be text, else None. In a folder, NUL bytes or control characters show that a file is
        not text, unless the encoding explains them. A file that matches a pattern was meant by the user: it is text
        unless it is of a known kind (magic.py).
        """
        if kind := kind_of(head):
            return f"is {kind.name}", None
        if matched or is_wide(self.encoding):
            return None, None
        if b"\0" in head:
            looks = likely(head)
            return None if looks and self.encoding == AUTO else "has NUL bytes", looks
        return "has control characters" if is_noise(head) else None, None

    def _refuse(self, where: str, runs: Runs, notes: list[str]) -> None:
        """Raise CorpusError for a folder or pattern without a text file.

        Nothing is raised if it has run folders and the user named other sources too: those sources may have the text.
        """
        if os.path.normpath(where) in runs.met:
            cause = f"{where} is a run folder, not a text: the run goes before the text, as in `rnncore score RUN TEXT`"
        else:
            cause = ": ".join([f"{where} holds no text file", "; ".join(notes) or "name a folder that does"])
        if len(self.sources) == 1 or not runs.met:
            raise CorpusError(cause)


def _is_there(path: str) -> bool:
    """Return True if a file or folder of this path exists. Raises OSError if that cannot be found out."""
    try:
        os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return False
    return True


def _left_out(where: Path, skipped: dict[Path, str], hints: dict[Path, str], any_text: bool) -> list[str]:
    """Return one line for the user on the files that are not text, no line if there are none.

    skipped and hints: as in Sources._texts. any_text: the folder has a text file too; then the line advises --encoding
    auto, since one encoding would not fit all files.
    """
    if not skipped:
        return []
    count = "1 file that is no text" if len(skipped) == 1 else f"{len(skipped):,} files that are no text"
    names = listed(f"{path.relative_to(where) if path.is_relative_to(where) else path} {what}"
                   for path, what in skipped.items())
    hint = next((f"; {path} looks like {label(e)}: add --encoding {AUTO if any_text else e}"
                 for path, e in hints.items()), "")
    return [f"skipped {count} in {where}: {names}{hint}"]


def _base(pattern: str) -> str:
    """Return the longest leading folder of a pattern that has no wildcard."""
    while glob.has_magic(pattern):
        pattern = os.path.dirname(pattern)
    return pattern


def shown(source: str) -> str:
    """Return a source as messages call it: "stdin" for "-"."""
    return "stdin" if source == "-" else source


def name(source: str) -> str:
    """Return a default name for a run on this source: a file's stem, a folder's name, a named corpus or "stdin".

    The name for a pattern is the name of the folder before its first wildcard.
    """
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
    """Return the absolute path of a file, without "." and ".."."""
    # os.path.normpath drops "link/.." from a path. But behind a symbolic link, ".." is the parent of the link's target.
    if ".." in path.split(os.sep):
        path = os.path.join(os.path.realpath(os.path.dirname(path)), os.path.basename(path))
    return os.path.normpath(os.path.join(current(), path))


def current() -> str:
    """Return the current folder, or the root folder if the current one was removed."""
    try:
        return os.getcwd()
    except FileNotFoundError:
        return os.sep
