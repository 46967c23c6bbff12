"""The lock of a run folder: only one process at a time may write the folder.

The operating system releases the lock when its holder ends, also after a crash or a kill.
"""
import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

NAME = ".lock"


class RunError(RuntimeError):
    """A run folder cannot be used, or a run cannot be made; the message is one line with the cause and the cure."""


@contextlib.contextmanager
def held(folder: Path, new: bool = False) -> Iterator[None]:
    """Lock the run folder for this process inside the context. new: True to create the folder if it is missing.

    The lock is on a file in the folder, which is removed at the end. A lock file left by a killed run does not block.
    On a file system without locks, the folder is used without a lock. Raises RunError if another process holds the
    lock, or if the folder is missing, not a folder, or cannot be written.
    """
    try:
        if new:
            folder.mkdir(parents=True, exist_ok=True)
        descriptor = _lock(folder / NAME)
    except FileExistsError:
        raise RunError(f"{folder} exists already and is no folder: take another name with -o") from None
    except BlockingIOError as error:
        raise RunError(f"{folder} is in use by another rnncore train{error.strerror}: wait for its end, or take "
                       "another name with -o") from None
    except (FileNotFoundError, NotADirectoryError):
        raise RunError(f"{folder} holds no run to go on with: start one without --resume" if not new else
                       f"the run folder {folder} cannot be written: name another with -o") from None
    except OSError as error:
        raise RunError(f"the run folder {folder} cannot be written ({error.strerror}): "
                       + ("name another with -o" if new else "make it writable, or copy it")) from None
    try:
        yield
    finally:
        # Remove the file while its lock is held. A process that has already opened this file then gets the lock, sees
        # in _is_at that the file is gone, and tries again with a new one.
        with contextlib.suppress(OSError):
            (folder / NAME).unlink(missing_ok=True)
        os.close(descriptor)


def _lock(path: Path) -> int:
    """Lock the file `path`, write this process's id into it, and return its descriptor.

    Raises BlockingIOError if another process holds the lock; the message has the id of that process, if it is known.
    Raises OSError if the file cannot be opened or written.
    """
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            holder = os.read(descriptor, 20).decode(errors="replace").strip()
            os.close(descriptor)
            raise BlockingIOError(error.errno, f" (process {holder})" if holder else "") from None
        except OSError:  # a file system without locks
            return descriptor
        try:
            if _is_at(descriptor, path):
                os.ftruncate(descriptor, 0)
                os.write(descriptor, b"%d\n" % os.getpid())
                return descriptor
        except OSError:  # such as a full disk; another try would fail in the same way
            os.close(descriptor)
            raise
        os.close(descriptor)  # the holder has just removed this file: try again with a new one


def _is_at(descriptor: int, path: Path) -> bool:
    """Return True if the open file is the file that is now at the path."""
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(path))
    except FileNotFoundError:
        return False
