"""Safe file writes: a file gets its final name only when it is complete and on the disk.

Until then the old file of that name stays as it is, so a crash or a full disk leaves one of the two complete.
"""
import contextlib
import errno
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO


@contextlib.contextmanager
def new_file(path: Path, mode: str = "b", check: Callable[[Path], None] | None = None) -> Iterator[IO]:
    """Open a temporary file for writing; it replaces the file `path` if the block ends without an exception.

    mode: "b" for bytes, "t" for text in UTF-8. The temporary file is in the same folder. At the end of the block it is
    flushed to the disk and given to `check`, if there is one. Then it is renamed and the folder is flushed. After an
    exception in the block or in `check`, the temporary file is removed and `path` is unchanged. Raises OSError with
    `path` as its filename.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.unlink(missing_ok=True)  # left by a killed process with the same process id
        with open(temporary, "x" + mode, encoding=None if mode == "b" else "utf-8") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        if check:
            check(temporary)
        os.replace(temporary, path)
        flush_folder(path.parent)
    except OSError as error:
        error.filename = str(path)
        raise
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def write_whole(path: Path, data: bytes, check: Callable[[Path], None] | None = None) -> None:
    """Replace the content of the file `path` with data, or leave the file unchanged and raise an exception.

    check: called with the new file before it replaces the old one; an exception from it keeps the old file.
    """
    with new_file(path, check=check) as file:
        file.write(data)


def append(path: Path, data: bytes) -> None:
    """Append data to the file `path`, all of it or nothing. Raises OSError."""
    # Unbuffered: each write reports how much reached the file, and nothing is left to be written at close.
    with open(path, "ab", buffering=0) as file:
        size = file.tell()
        try:
            while data:
                written = file.write(data)
                if not written:
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
                data = data[written:]
        except OSError:
            file.truncate(size)
            raise


def flush_folder(folder: Path) -> None:
    """Flush a folder's list of names to the disk: without this, a rename may not survive a crash.

    Does nothing on file systems that do not support it. Raises OSError.
    """
    number = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(number)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.EBADF, errno.ENOTSUP):
            raise
    finally:
        os.close(number)
