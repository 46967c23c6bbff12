"""Reading of bytes: the content of a file or of stdin in chunks, unpacked if it is gzipped.

Every error on the way becomes a CorpusError of one line.
"""
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

    def read(self, size: int, /) -> bytes:
        """Return the next bytes, at most `size`; no bytes at the end."""
        ...


Opens: TypeAlias = Callable[[str], contextlib.AbstractContextManager[Readable]]  # a function that opens a path


def of_file(path: str, binary: bool, opens: Opens) -> Iterator[bytes]:
    """Yield the bytes of a file, unpacked if it is gzipped, in chunks of CHUNK bytes; the last may be shorter.

    binary: see `unpacked`. opens: the function that opens the file. Raises CorpusError if the file cannot be read.
    """
    with readable(path):
        opened = opens(path)
    with opened as file:
        yield from unpacked(path, chunks(path, file), path.lower().endswith(".gz"), binary)


def of_stdin(stdin: BinaryIO | None, binary: bool) -> Iterator[bytes]:
    """Yield the bytes of `stdin`, or of the process's stdin for None, as `of_file` does for a file.

    Raises CorpusError if stdin is closed or cannot be read.
    """
    stream = stdin or getattr(sys.stdin, "buffer", None)
    if stream is None:
        raise CorpusError("stdin is closed: pipe a text into it or name a file")
    yield from unpacked("stdin", chunks("stdin", stream), False, binary)


def chunks(where: str, file: Readable, cure: str = "take another copy") -> Iterator[bytes]:
    """Yield the rest of an open file in chunks of CHUNK bytes.

    Raises CorpusError. The message calls the file `where` and, for a damaged gzip file, names the remedy `cure`.
    """
    while True:
        with readable(where, cure):
            chunk = file.read(CHUNK)
        if not chunk:
            return
        yield chunk


def unpacked(where: str, packed: Iterator[bytes], named: bool, binary: bool) -> Iterator[bytes]:
    """Yield the chunks of a file called `where`, decompressed if the file is gzipped; all gzip members are read.

    named: the file's name ends in .gz, so the file is taken to be gzipped. Any other file is gzipped if its first bytes
    say so, but with `binary` it is yielded unchanged. Raises CorpusError for a damaged gzip file.
    """
    first = next(packed, b"")
    if not named and (binary or not first.startswith(GZIP)):
        yield from with_first(first, packed)
        return
    cure = "take another copy" + ", or drop the .gz from its name if it is none" * named
    # GzipFile calls no other method than `read` of a file that is read from start to end, so the cast is safe.
    with gzip.GzipFile(fileobj=cast(BinaryIO, _Stream(first, packed)), mode="rb") as file:
        yield from chunks(where, file, cure)


def with_first(first: bytes, rest: Iterator[bytes]) -> Iterator[bytes]:
    """Return all chunks of a file whose first chunk was taken out of the iterator to be inspected."""
    return filter(None, chain((first,), rest))


class _Stream:
    """A readable file over chunks. Its `read` returns fewer bytes than it was asked for only at the end."""

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
    """Turn each error of opening, listing or reading in this context into a CorpusError of one line.

    where: name of the file in the message. cure: the remedy that the message names for a damaged gzip file.
    Raises CorpusNotFoundError for a path with a NUL character.
    """
    # The order of the handlers counts: CorpusError is a ValueError, and BadGzipFile is an OSError.
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
    except ValueError as error:  # Python's error for a NUL character in a path
        raise CorpusNotFoundError(f"no such file or folder: {where!r} ({error})") from None
