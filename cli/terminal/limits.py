"""A limit on this process's memory (ulimit -v, ulimit -d): the test of it, and the messages about it."""
import resource
import sys

from rnncore import requirements

AMPLE = 16 << 30   # bytes; under a limit of this size or more, the libraries load on any machine
MARGIN = 64 << 20  # bytes that must be left when the libraries are loaded
PATIENCE = 20      # seconds for loading them; some libraries wait for memory for ever
ORIGIN = "Original error was: "  # NumPy's ImportError is long; the line that begins so has the cause
# The program of the child process. BLAS takes memory for a thread at its first product, so every thread multiplies.
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
    os._exit(code)  # a normal exit would wait for threads that could not start
"""


class TooLittleMemory(MemoryError):
    """The libraries cannot be loaded, because this process's memory is limited."""


def lowest() -> tuple[int, str] | None:
    """Return the lowest limit on this process's memory, or None: (bytes, the command that sets it)."""
    kinds = (resource.RLIMIT_AS, "ulimit -v"), (resource.RLIMIT_DATA, "ulimit -d")
    found = [(resource.getrlimit(kind)[0], name) for kind, name in kinds]
    return min((limit for limit in found if limit[0] != resource.RLIM_INFINITY), default=None)


def check() -> None:
    """Raise TooLittleMemory if the libraries cannot be loaded under a limit.

    A child process loads them first, because some libraries end a process that lacks memory, or print messages that do
    not help the user.
    """
    limit = lowest()
    if limit is None or limit[0] > AMPLE:
        return
    import subprocess  # here, because its import is slow and a limit is rare
    try:
        loaded = subprocess.run([sys.executable, "-c", LOADING], stdin=subprocess.DEVNULL, capture_output=True,
                                timeout=PATIENCE).returncode == 0
    except (OSError, MemoryError, subprocess.SubprocessError):
        loaded = False
    if not loaded:
        raise TooLittleMemory(f"the libraries do not load: {words(limit)}; raise it, as in "
                              f"`ulimit -{limit[1][-1]} unlimited`")


def words(limit: tuple[int, str]) -> str:
    """Return a limit in words, in MiB."""
    return f"the memory of this process is limited to {limit[0] / 2**20:,.0f} MiB (`{limit[1]}`)"


def exhausted(cure: str) -> str:
    """Return the message for a lack of memory: the limit, if there is one, and the cure."""
    limit = lowest()
    return f"out of memory: {words(limit)}; raise it, or {cure}" if limit else f"out of memory: {cure}"


def unloadable(error: BaseException) -> str:
    """Return the message for a library that cannot be loaded: its name, the reason and the cure."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    reason = next((line for line in lines if line.startswith(ORIGIN)), lines[0]).removeprefix(ORIGIN)
    name = (getattr(error, "name", None) or "").partition(".")[0]
    what = f"{name} cannot be loaded" if name in requirements.OLDEST else "a library cannot be loaded"
    if limit := lowest():
        return f"{what} ({reason}): {words(limit)}; raise it"
    cure = requirements.pip(f"install --force-reinstall {name}") if name in requirements.OLDEST else \
        "create the environment again"
    return f"{what} ({reason}): {cure}"
