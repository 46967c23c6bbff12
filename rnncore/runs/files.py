"""A file bears its own name once it is whole and on the disk; until then what stood there stands."""
import contextlib
import errno
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO


@contextlib.contextmanager
def new_file(path: Path, mode: str = "b", check: Callable[[Path], None] | None = None) -> Iterator[IO]:
    """A file to write, in bytes (mode b) or in UTF-8 (mode t), that replaces `path` where the block ends well.

    It is written beside `path` and flushed to the disk, then renamed, then the folder is flushed. `check` reads it
    before it is renamed. Where an error comes first, or from `check`, it is gone and `path` is as it was. Raises
    OSError, whose filename is `path`.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.unlink(missing_ok=True)  # of a killed process that had this one's number
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
    """Replace the file `path` by data, or leave it as it is, where `check` refuses the new one too."""
    with new_file(path, check=check) as file:
        file.write(data)


def append(path: Path, data: bytes) -> None:
    """Add data to the file `path`, all of it or nothing. Raises OSError."""
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
    """Bring a folder's names to the disk, where its file system can do that: a rename alone may not survive a crash."""
    number = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(number)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.EBADF, errno.ENOTSUP):
            raise
    finally:
        os.close(number)
