"""A limit on the memory of this process (ulimit -v, -d): does it leave room for the libraries, and what to say."""
import resource
import sys

from rnncore import requirements

AMPLE = 16 << 30   # bytes: with a limit of so much, the libraries load on any machine
MARGIN = 64 << 20  # bytes that have to be left once they are loaded
PATIENCE = 20      # seconds; some wait for ever for memory
ORIGIN = "Original error was: "  # begins the line of a long ImportError of NumPy's that says what is wrong
LOADING = f"""
import mmap, os
code = 1
try:
    from concurrent.futures import ThreadPoolExecutor
    import numpy, rich.progress, safetensors.numpy, threadpoolctl
    some = numpy.ones((300, 300), numpy.float32)
    list(ThreadPoolExecutor(os.cpu_count()).map(lambda _: some @ some, range(4 * os.cpu_count())))
    mmap.mmap(-1, {MARGIN})
    code = 0
finally:
    os._exit(code)  # without waiting for threads that could not begin
"""


class TooLittleMemory(MemoryError):
    """A limit on memory under which the libraries do not load."""


def lowest() -> tuple[int, str] | None:
    """(bytes, the command that sets it) of the lowest limit on this process's memory; None where there is none."""
    kinds = (resource.RLIMIT_AS, "ulimit -v"), (resource.RLIMIT_DATA, "ulimit -d")
    found = [(resource.getrlimit(kind)[0], name) for kind, name in kinds]
    return min((limit for limit in found if limit[0] != resource.RLIM_INFINITY), default=None)


def check() -> None:
    """Raise TooLittleMemory where the libraries do not load under a limit: a process of its own tries it.

    Some of them end the process that cannot load them, or print what no user understands.
    """
    limit = lowest()
    if limit is None or limit[0] > AMPLE:
        return
    import subprocess  # which takes long to import
    try:
        loaded = subprocess.run([sys.executable, "-c", LOADING], stdin=subprocess.DEVNULL, capture_output=True,
                                timeout=PATIENCE).returncode == 0
    except (OSError, MemoryError, subprocess.SubprocessError):
        loaded = False
    if not loaded:
        raise TooLittleMemory(f"the libraries do not load: {words(limit)}; raise it, as in "
                              f"`ulimit -{limit[1][-1]} unlimited`")


def words(limit: tuple[int, str]) -> str:
    """A limit in words."""
    return f"the memory of this process is limited to {limit[0] / 2**20:,.0f} MiB (`{limit[1]}`)"


def exhausted(cure: str) -> str:
    """Return what to say where memory ran out: the limit on it, if there is one, and the cure."""
    limit = lowest()
    return f"out of memory: {words(limit)}; raise it, or {cure}" if limit else f"out of memory: {cure}"


def unloadable(error: BaseException) -> str:
    """Return what to say of an error that came from loading a library: which, why and what mends it."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    reason = next((line for line in lines if line.startswith(ORIGIN)), lines[0]).removeprefix(ORIGIN)
    name = (getattr(error, "name", None) or "").partition(".")[0]
    what = f"{name} cannot be loaded" if name in requirements.OLDEST else "a library cannot be loaded"
    if limit := lowest():
        return f"{what} ({reason}): {words(limit)}; raise it"
    cure = requirements.pip(f"install --force-reinstall {name}") if name in requirements.OLDEST else \
        "make the environment anew"
    return f"{what} ({reason}): {cure}"
