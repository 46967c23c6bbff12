"""A text that was read before, read again: the one way in which a file that a model file names is opened.

A model file may be anyone's, and what it says is not trusted. Of the sources that it names, the single files are opened
that its record lists, where they are regular files of the size that they had; no folder is walked, no pattern expanded,
no device or pipe opened, nothing downloaded. Stdin is read as ever, a named corpus where it is here already.
"""
import glob
import os
import shutil
import stat
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import BinaryIO, NamedTuple, Self

from . import corpora, spool
from .content import of_file
from .decode import CorpusError
from .sources import File, Sources, absolute, current

GONE = "is not there any more"  # why a file is not opened: there is none
LONGEST, SHOWN = 4096, 100      # characters of a path that may be one; of a longer text in its place that are shown


class Record(NamedTuple):
    """What is known of the files of a text.

    of: for each source the files that it stood for, each [absolute path, bytes]; None for stdin, a named corpus, and a
    file that was no regular one. None in place of all: unknown; of such a text, the sources that are plain paths of
    regular files are opened. below: the folder, absolute, in which the sources were named. A file below it that was
    named from there is looked for at the same place below the current folder too: the two may have been moved together.
    characters: how many symbols the text has; no more are read. None: the text may be another, its files of any size.
    """

    of: list[list | None] | None = None
    below: str = os.sep
    characters: int | None = None


class Lost(NamedTuple):
    """A file that is not opened."""

    source: str       # that it is of, as it was named
    seen: str         # the file as it is named from the current folder
    path: str | None  # where it was, absolute; None where that is not known
    why: str          # in words, after its name
    changed: bool = False  # whether it has another size, and nothing else is wrong


class LostError(CorpusError):
    """A text of which files are not opened; `lost` says which."""

    def __init__(self, lost: list[Lost]):
        more = f" (and {len(lost) - 1:,} more)" if len(lost) > 1 else ""
        never = lost[0].path is None and lost[0].why == GONE
        super().__init__(f"{short(lost[0].path or lost[0].seen)} {'is not here' if never else lost[0].why}{more}")
        self.lost = lost


class LongerError(CorpusError):
    """A text that is longer than it was."""


@dataclass
class Remembered(Sources):
    """As Sources, the files that the record lists."""

    record: Record = Record()  # it never changes

    def opened(self) -> Iterator[File]:
        """The files. Raises LostError before the first is opened where one cannot be."""
        self.below = current() if self.record.of is None else self.record.below
        found = [list(self._files(place, source)) for place, source in enumerate(self.sources)]
        if lost := [file for files in found for file in files if isinstance(file, Lost)]:
            raise LostError(lost)
        self._listed = [[file for file in files if not isinstance(file, Lost)] for files in found]
        yield from super().opened()

    def _files(self, place: int, source: str) -> Iterator[tuple[str, int | None] | Lost]:
        """For each file of a source that is a path, (path, bytes or None) of one to open."""
        if source == "-" or source in corpora.NAMES:
            return
        if self.record.of is None:
            why = why_not(source, None)
            is_pattern = why == GONE and glob.has_magic(source)
            yield Lost(source, source, None, "is a pattern" if is_pattern else why) if why else (source, None)
        elif (listed := self.record.of[place]) is None:
            yield Lost(source, source, None, "was no regular file")
        else:
            for path, size in listed:
                yield self._file(source, path, None if self.record.characters is None else size)

    def _file(self, source: str, path: str, size: int | None) -> tuple[str, int | None] | Lost:
        """The file where it was, else where it would be if the folder in which it was named were the current one."""
        why = why_not(path, size)
        below = os.path.join(self.record.below, "")
        seen = path[len(below):] if path.startswith(below) and not os.path.isabs(source) else path
        if why and seen != path and why_not(seen, size) is None:
            self.below = current()
            return seen, size
        return Lost(source, seen, path, why, why_not(path, None) is None) if why else (path, size)

    def _paths(self, source: str) -> Iterator[File]:
        """The files of a source that is a path, opened one after the other."""
        listed = self._listed[len(self.files) - 1]
        for path, size in listed:
            self.note(path, size)
            chunks = of_file(path, self.binary, partial(Regular, size=size))
            yield File(path, 0, self.encoding, chunks, len(listed) == 1)

    def note(self, path: str, size: int | None) -> None:
        """Note a file of the source that is being read."""
        if (listed := self.files[-1]) is not None:
            listed.append([absolute(path), os.stat(path).st_size if size is None else size])


def short(path: str) -> str:
    """A path as it is shown: of one that is longer than any, its beginning."""
    return path if len(path) <= LONGEST else f"{path[:SHOWN]} ..."


def why_not(path: str, size: int | None) -> str | None:
    """Why a file is not opened, in words after its name; None where it is a regular file of so many bytes (or any)."""
    try:
        found = os.stat(path)
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return GONE
    except OSError as error:
        return f"cannot be read ({error.strerror})"
    return _not_as(found, size)


def _not_as(found: os.stat_result, size: int | None) -> str | None:
    if not stat.S_ISREG(found.st_mode):
        return "is a folder" if stat.S_ISDIR(found.st_mode) else "is no regular file"
    return None if size in (None, found.st_size) else f"has {found.st_size:,} bytes, and had {size:,}"


class Regular:
    """A regular file of this size (None: of any), opened to be read no further. Raises CorpusError, OSError."""

    def __init__(self, path: str, size: int | None):
        if why := why_not(path, size):  # to open some devices does something
            raise CorpusError(f"{path} {why}")
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
        self._file: BinaryIO = os.fdopen(descriptor, "rb")
        found = os.fstat(descriptor)
        if why := _not_as(found, size):  # another one since
            self._file.close()
            raise CorpusError(f"{path} {why}")
        self._left = found.st_size

    def read(self, size: int) -> bytes:
        """As of a file."""
        data = self._file.read(min(size, self._left))
        self._left -= len(data)
        return data

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._file.close()


def bounded(pieces: Iterable[str], most: int | None) -> Iterator[str]:
    """The pieces of a text of `most` symbols; None: of half as many as there are bytes free where long texts are kept.

    Raises LongerError for one that has more, as soon as that is seen, and CorpusError, before any is read, where there
    is no room for it.
    """
    folder = spool.folder() or tempfile.gettempdir()
    free = shutil.disk_usage(folder).free
    if most is None:
        most = free // 2
    if most > free:
        raise CorpusError(f"{folder} has no room for its {most:,} symbols: make room there, or set TMPDIR to a folder "
                          "on a larger disk")
    read = 0
    for piece in pieces:
        read += len(piece)
        if read > most:
            raise LongerError(f"there are more than the {most:,} symbols that there may be")
        yield piece
