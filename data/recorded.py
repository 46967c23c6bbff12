"""Reading of a text again, from the record of its files in a model file: the only way to open files that a model names.

A model file may come from anyone, so its content is not trusted. Of the sources that it names, only the single files
that its record lists are opened, and only if they are regular files. They must have their former size, unless another
text is allowed (Record.characters is None). No folder is searched, no
pattern is expanded, no device or pipe is opened, and nothing is downloaded. Stdin is read as usual, and a named corpus
is read if it is installed or downloaded already.
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

GONE = "is not there any more"  # the reason why a file that does not exist is not opened
LONGEST, SHOWN = 4096, 100      # characters; a path longer than LONGEST is shown in messages by its first SHOWN


class Record(NamedTuple):
    """Record of the files of a text that was read before.

    A file below the folder `below` whose source was a relative path is also looked for at the same place below the
    current folder: the run and its text may have been moved together.
    """

    # For each source, the files that it stood for, as [absolute path, size in bytes]; None for stdin, a named corpus or
    # a file that was not regular. None instead of the whole list: the files are not known, and only sources that are
    # themselves paths of regular files are opened.
    of: list[list | None] | None = None
    below: str = os.sep  # absolute path of the folder that was the current one when the sources were named
    characters: int | None = None  # symbols in the text; no more are read. None: text and file sizes may have changed


class Lost(NamedTuple):
    """A file of a record that cannot be opened."""

    source: str       # the source that it belongs to, as the user named it
    seen: str         # its path as seen from the current folder
    path: str | None  # its former absolute path; None if it is not known
    why: str          # the reason in words, to follow the file's name in a message
    changed: bool = False  # True if the only reason is that its size has changed


class LostError(CorpusError):
    """Files of a record cannot be opened. `lost` has one Lost for each of them."""

    def __init__(self, lost: list[Lost]):
        more = f" (and {len(lost) - 1:,} more)" if len(lost) > 1 else ""
        never = lost[0].path is None and lost[0].why == GONE
        super().__init__(f"{short(lost[0].path or lost[0].seen)} {'is not here' if never else lost[0].why}{more}")
        self.lost = lost


class LongerError(CorpusError):
    """A text is longer than it was, or than it may be."""


@dataclass
class Remembered(Sources):
    """Sources whose files are those that a record lists: no folder or pattern is searched."""

    record: Record = Record()  # the shared default is immutable

    def opened(self) -> Iterator[File]:
        """Yield the files in order. Raises LostError, before any file is opened, if one of them cannot be opened."""
        self.below = current() if self.record.of is None else self.record.below
        found = [list(self._files(place, source)) for place, source in enumerate(self.sources)]
        if lost := [file for files in found for file in files if isinstance(file, Lost)]:
            raise LostError(lost)
        self._listed = [[file for file in files if not isinstance(file, Lost)] for files in found]
        yield from super().opened()

    def _files(self, place: int, source: str) -> Iterator[tuple[str, int | None] | Lost]:
        """Yield, for each file of a source, the (path, size) to open it with, or its Lost.

        size is in bytes, or None for any size. Nothing is yielded for stdin and a named corpus. place: the index of the
        source.
        """
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
        """Return the (path, size) to open a file with, or its Lost.

        The file is looked for at `path`, its former absolute path, and then at the same place below the current folder.
        size: the former size in bytes, or None for any size.
        """
        why = why_not(path, size)
        below = os.path.join(self.record.below, "")
        seen = path[len(below):] if path.startswith(below) and not os.path.isabs(source) else path
        if why and seen != path and why_not(seen, size) is None:
            self.below = current()
            return seen, size
        return Lost(source, seen, path, why, why_not(path, None) is None) if why else (path, size)

    def _paths(self, source: str) -> Iterator[File]:
        """Yield the listed files of a source that is not stdin or a named corpus; each is opened when it is read."""
        listed = self._listed[len(self.files) - 1]
        for path, size in listed:
            self.note(path, size)
            chunks = of_file(path, self.binary, partial(Regular, size=size))
            yield File(path, 0, self.encoding, chunks, len(listed) == 1)

    def note(self, path: str, size: int | None) -> None:
        """Add a file to `files` of the source that is being read; size: in bytes, or None to look it up."""
        if (listed := self.files[-1]) is not None:
            listed.append([absolute(path), os.stat(path).st_size if size is None else size])


def short(path: str) -> str:
    """Return a path for a message; only the beginning of a text that is too long to be a path."""
    return path if len(path) <= LONGEST else f"{path[:SHOWN]} ..."


def why_not(path: str, size: int | None) -> str | None:
    """Return the reason why a file is not opened, in words to follow its name, or None if it may be opened.

    A file may be opened if it is a regular file of `size` bytes (None: of any size).
    """
    try:
        found = os.stat(path)
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return GONE
    except OSError as error:
        return f"cannot be read ({error.strerror})"
    return _not_as(found, size)


def _not_as(found: os.stat_result, size: int | None) -> str | None:
    """Return the reason why a file with this stat result is not opened, as `why_not` does."""
    if not stat.S_ISREG(found.st_mode):
        return "is a folder" if stat.S_ISDIR(found.st_mode) else "is no regular file"
    return None if size in (None, found.st_size) else f"has {found.st_size:,} bytes, and had {size:,}"


class Regular:
    """A regular file of `size` bytes (None: of any size), opened for reading, and read no further than this size.

    Raises CorpusError if the file is not as it should be, OSError if it cannot be opened.
    """

    def __init__(self, path: str, size: int | None):
        # Check before opening, since opening a device can have an effect. Check again afterwards: the path may name
        # another file by then. O_NONBLOCK: opening a pipe must not wait for a writer. O_NOCTTY: a terminal must not
        # become the terminal that controls this process.
        if why := why_not(path, size):
            raise CorpusError(f"{path} {why}")
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
        self._file: BinaryIO = os.fdopen(descriptor, "rb")
        found = os.fstat(descriptor)
        if why := _not_as(found, size):
            self._file.close()
            raise CorpusError(f"{path} {why}")
        self._left = found.st_size

    def read(self, size: int) -> bytes:
        """Return the next bytes, at most `size`, and none beyond the size that the file had when it was opened."""
        data = self._file.read(min(size, self._left))
        self._left -= len(data)
        return data

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._file.close()


def bounded(pieces: Iterable[str], most: int | None) -> Iterator[str]:
    """Yield the pieces of a text that may have at most `most` symbols.

    most: None allows half as many symbols as there are free bytes in the folder for temporary files (spool.folder).
    Raises LongerError as soon as a piece exceeds the limit. Raises CorpusError, before any piece is read, if the folder
    has fewer than `most` free bytes.
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
