"""Spool: a sequence of ids of any length, kept in memory while it is short and in an unlinked temporary file otherwise.

An unlinked file has no name and leaves nothing behind, however the process ends. It is not stored in the run folder:
resuming a run reads the corpus again in any case, to make sure that it has not changed.
"""
import contextlib
import mmap
import os
import tempfile
from collections.abc import Iterable, Iterator

import numpy as np

from .decode import CorpusError

IN_MEMORY = 8 << 20  # bytes; a longer spool goes to a file
CHUNK = 1 << 20      # number of ids read at a time


class Spool:
    """Ids (n,) of one unsigned type, written in order and read in chunks or as one array.

    Each method raises CorpusError if the disk is full or the temporary file cannot be used.
    """

    def __init__(self, dtype: np.dtype | type[np.uint8]):
        self.dtype, self.length = np.dtype(dtype), 0
        with _disk_errors():
            self._file = tempfile.SpooledTemporaryFile(IN_MEMORY, dir=folder())  # freed together with the spool
        self._array: np.ndarray | None = None

    def append(self, ids: np.ndarray) -> None:
        """Append ids (m,); they must fit into the spool's type."""
        with _disk_errors():
            self._file.seek(0, os.SEEK_END)
            self._file.write(np.ascontiguousarray(ids, self.dtype).data)
        self.length += len(ids)

    def chunks(self, size: int = CHUNK) -> Iterator[np.ndarray]:
        """Yield all ids in order, in arrays of `size` ids (the last may be shorter), without mapping the file."""
        for start in range(0, self.length, size):
            with _disk_errors():
                self._file.seek(start * self.dtype.itemsize)
                raw = self._file.read(size * self.dtype.itemsize)
            yield np.frombuffer(raw, self.dtype)

    def pieces(self, bounds: Iterable[tuple[int, int]]) -> Iterator[bytes]:
        """Yield, for each (start, stop) in `bounds`, the bytes of ids[start:stop], without mapping the file."""
        size = self.dtype.itemsize
        if self.length * size <= IN_MEMORY:
            raw = self.array().tobytes()
            yield from (raw[start * size:stop * size] for start, stop in bounds)
            return
        # os.pread does not see bytes that Python still buffers, so flush them first.
        with _disk_errors():
            self._file.flush()
            descriptor = self._file.fileno()
            for start, stop in bounds:
                yield os.pread(descriptor, (stop - start) * size, start * size)

    def map(self, table: np.ndarray, dtype: np.dtype | None = None) -> "Spool":
        """Return a new spool with table[id] for every id; an id whose entry is negative is dropped.

        table: (V,) integers. dtype: type of the new ids, by default the type of this spool.
        """
        mapped, whole = Spool(dtype or self.dtype), not (table < 0).any()
        table = table.astype(mapped.dtype) if whole else table
        for ids in self.chunks():
            found = table.take(ids, mode="clip")
            mapped.append(found if whole else found[found >= 0])
        return mapped

    def counts(self, symbols: int) -> np.ndarray:
        """Return the number of occurrences of each id in 0..symbols-1: (symbols,) int64."""
        total = np.zeros(symbols, np.int64)
        for ids in self.chunks():
            total += np.bincount(ids, minlength=symbols)
        return total

    def array(self) -> np.ndarray:
        """Return the ids (n,), read-only; as a memory map if they are in a file. Call it after the last append."""
        if self._array is None:
            with _disk_errors():
                self._file.seek(0)
                in_file = self.length * self.dtype.itemsize > IN_MEMORY
                raw = mmap.mmap(self._file.fileno(), 0, access=mmap.ACCESS_READ) if in_file else self._file.read()
            self._array = np.frombuffer(raw, self.dtype)
        return self._array


def folder() -> str | None:
    """Return the folder for temporary files, or None for Python's own choice, which follows $TMPDIR.

    /var/tmp is taken if TMPDIR is not set: it is on a disk, while /tmp may be in memory.
    """
    if os.environ.get("TMPDIR") or not os.access("/var/tmp", os.W_OK):
        return None
    return "/var/tmp"


@contextlib.contextmanager
def _disk_errors() -> Iterator[None]:
    """Turn an OSError in this context into a CorpusError that says where ids are stored and how to move them."""
    try:
        yield
    except OSError as error:
        raise CorpusError(f"the ids of the corpus cannot be kept in {folder() or tempfile.gettempdir()} "
                          f"({error.strerror or error}): make room there, or set TMPDIR to a folder on a larger disk"
                          ) from None
