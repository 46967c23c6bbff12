"""A spool is a sequence of ids of any length, in memory while it is short and in an unlinked temporary file when not.

A file without a name leaves nothing behind, however the process ends. It does not lie in the run folder, since resuming
reads the corpus anyway, to make sure that it is the old one.
"""
import contextlib
import mmap
import os
import tempfile
from collections.abc import Iterable, Iterator

import numpy as np

from .decode import CorpusError

IN_MEMORY = 8 << 20  # bytes; longer ones go to a file
CHUNK = 1 << 20      # ids read at a time


class Spool:
    """Ids (n,) of one unsigned type, written in order, read chunk by chunk or as one array."""

    def __init__(self, dtype: np.dtype | type[np.uint8]):
        self.dtype, self.length = np.dtype(dtype), 0
        with _room():
            self._file = tempfile.SpooledTemporaryFile(IN_MEMORY, dir=folder())  # gone with the spool
        self._array: np.ndarray | None = None

    def append(self, ids: np.ndarray) -> None:
        """Add ids at the end; they must fit the type."""
        with _room():
            self._file.seek(0, os.SEEK_END)
            self._file.write(np.ascontiguousarray(ids, self.dtype).data)
        self.length += len(ids)

    def chunks(self, size: int = CHUNK) -> Iterator[np.ndarray]:
        """All ids in order, as arrays of `size`, without mapping the file."""
        for start in range(0, self.length, size):
            with _room():
                self._file.seek(start * self.dtype.itemsize)
                raw = self._file.read(size * self.dtype.itemsize)
            yield np.frombuffer(raw, self.dtype)

    def pieces(self, bounds: Iterable[tuple[int, int]]) -> Iterator[bytes]:
        """The ids from start to stop as they lie there, for each (start, stop), without mapping the file."""
        size = self.dtype.itemsize
        if self.length * size <= IN_MEMORY:
            raw = self.array().tobytes()
            yield from (raw[start * size:stop * size] for start, stop in bounds)
            return
        with _room():
            self._file.flush()
            descriptor = self._file.fileno()
            for start, stop in bounds:
                yield os.pread(descriptor, (stop - start) * size, start * size)

    def map(self, table: np.ndarray, dtype: np.dtype | None = None) -> "Spool":
        """A new spool with table[id] for every id, without those where it is negative; dtype: by default its own."""
        mapped, whole = Spool(dtype or self.dtype), not (table < 0).any()
        table = table.astype(mapped.dtype) if whole else table
        for ids in self.chunks():
            found = table.take(ids, mode="clip")
            mapped.append(found if whole else found[found >= 0])
        return mapped

    def counts(self, symbols: int) -> np.ndarray:
        """How often each of the ids 0..symbols-1 occurs: (symbols,)."""
        total = np.zeros(symbols, np.int64)
        for ids in self.chunks():
            total += np.bincount(ids, minlength=symbols)
        return total

    def array(self) -> np.ndarray:
        """The ids (n,), to be read only: those in a file as a memory map."""
        if self._array is None:
            with _room():
                self._file.seek(0)
                in_file = self.length * self.dtype.itemsize > IN_MEMORY
                raw = mmap.mmap(self._file.fileno(), 0, access=mmap.ACCESS_READ) if in_file else self._file.read()
            self._array = np.frombuffer(raw, self.dtype)
        return self._array


def folder() -> str | None:
    """Where files lie: in $TMPDIR, else /var/tmp, on a disk where /tmp may be memory, else where Python says."""
    if os.environ.get("TMPDIR") or not os.access("/var/tmp", os.W_OK):
        return None
    return "/var/tmp"


@contextlib.contextmanager
def _room() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise CorpusError(f"the ids of the corpus cannot be kept in {folder() or tempfile.gettempdir()} "
                          f"({error.strerror or error}): make room there, or set TMPDIR to a folder on a larger disk"
                          ) from None
