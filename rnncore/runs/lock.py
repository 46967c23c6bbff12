"""A run folder belongs to one process at a time: a lock that the kernel frees when its holder ends, however it ends."""
import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

NAME = ".lock"


class RunError(RuntimeError):
    """A run folder that cannot be used; the message is one line that names the cause and the cure."""


@contextlib.contextmanager
def held(folder: Path, new: bool = False) -> Iterator[None]:
    """Inside, the run folder is this process's alone. new: it is made where it is not there.

    Raises RunError where another process has it, where it is no folder or cannot be written. The file goes when its
    holder leaves; one that a killed run left behind is free. A file system that knows no locks is used without.
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
        with contextlib.suppress(OSError):
            (folder / NAME).unlink(missing_ok=True)  # while it is held: who opened this file finds another there
        os.close(descriptor)


def _lock(path: Path) -> int:
    """The descriptor of the locked file, which holds our process id. Raises BlockingIOError with that of its holder."""
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            holder = os.read(descriptor, 20).decode(errors="replace").strip()
            os.close(descriptor)
            raise BlockingIOError(error.errno, f" (process {holder})" if holder else "") from None
        except OSError:
            return descriptor
        try:
            if _is_at(descriptor, path):
                os.ftruncate(descriptor, 0)
                os.write(descriptor, b"%d\n" % os.getpid())
                return descriptor
        except OSError:  # a full disk: to try again would never end
            os.close(descriptor)
            raise
        os.close(descriptor)  # its holder has just left and taken the file away


def _is_at(descriptor: int, path: Path) -> bool:
    """Whether the open file is the one that lies at the path."""
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(path))
    except FileNotFoundError:
        return False
