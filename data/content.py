"""The bytes of a file or a pipe, piece by piece, those inside a gzipped one; what goes wrong on the way is one line."""
import contextlib
import gzip
import io
import sys
import zlib
from collections.abc import Callable, Iterator
from itertools import chain
from typing import BinaryIO, Protocol, TypeAlias, cast

from .decode import CorpusError, CorpusNotFoundError
from .magic import GZIP

CHUNK = 1 << 20  # bytes read at a time


class Readable(Protocol):
    """A stream of bytes that is read from its start to its end."""

    def read(self, size: int, /) -> bytes: ...


Opens: TypeAlias = Callable[[str], contextlib.AbstractContextManager[Readable]]  # a function that opens a file


def of_file(path: str, binary: bool, opens: Opens) -> Iterator[bytes]:
    """The bytes of a file in chunks: CHUNK bytes each, but for the last. binary: as `unpacked`.

    opens: a function that opens the file at a path.
    """
    with readable(path):
        opened = opens(path)
    with opened as file:
        yield from unpacked(path, chunks(path, file), path.lower().endswith(".gz"), binary)


def of_stdin(stdin: BinaryIO | None, binary: bool) -> Iterator[bytes]:
    """The same of a stream, or of the process's stdin."""
    stream = stdin or getattr(sys.stdin, "buffer", None)
    if stream is None:
        raise CorpusError("stdin is closed: pipe a text into it or name a file")
    yield from unpacked("stdin", chunks("stdin", stream), False, binary)


def chunks(where: str, file: Readable, cure: str = "take another copy") -> Iterator[bytes]:
    """All that there is to read, in chunks. Raises CorpusError, which calls the file `where`."""
    while True:
        with readable(where, cure):
            chunk = file.read(CHUNK)
        if not chunk:
            return
        yield chunk


def unpacked(where: str, packed: Iterator[bytes], named: bool, binary: bool) -> Iterator[bytes]:
    """The chunks as they are, or where they are gzipped what is inside, one member after the other.

    They are if the file's name says so (named), or if they begin so: a name that says otherwise does not count, unless
    they are wanted as they are (binary).
    """
    first = next(packed, b"")
    if not named and (binary or not first.startswith(GZIP)):
        yield from with_first(first, packed)
        return
    cure = "take another copy" + ", or drop the .gz from its name if it is none" * named
    # for what is read from start to end, `read` is enough
    with gzip.GzipFile(fileobj=cast(BinaryIO, _Stream(first, packed)), mode="rb") as file:
        yield from chunks(where, file, cure)


def with_first(first: bytes, rest: Iterator[bytes]) -> Iterator[bytes]:
    """All of the chunks of which the first was looked at."""
    return filter(None, chain((first,), rest))


class _Stream:
    """Chunks as a file to read; `read` returns less than was asked for at the end alone."""

    def __init__(self, first: bytes, rest: Iterator[bytes]):
        self._held, self._rest = io.BytesIO(first), rest

    def read(self, size: int) -> bytes:
        data = self._held.read(size)
        while len(data) < size and (chunk := next(self._rest, b"")):
            self._held = io.BytesIO(chunk)
            data += self._held.read(size - len(data))
        return data


@contextlib.contextmanager
def readable(where: str, cure: str = "take another copy") -> Iterator[None]:
    """Makes one CorpusError of all that can go wrong with opening, listing and reading; cure: of spoilt gzip files."""
    try:
        yield
    except CorpusError:
        raise
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        what = "is cut short" if isinstance(error, EOFError) else "is no whole gzip file"
        raise CorpusError(f"{where} {what} ({error}): {cure}") from None
    except OSError as error:
        raise CorpusError(f"cannot read {error.filename or where}: {error.strerror or error}; "
                          "make it readable or leave it out") from None
    except ValueError as error:  # of a NUL in a path
        raise CorpusNotFoundError(f"no such file or folder: {where!r} ({error})") from None
