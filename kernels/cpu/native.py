"""The compiled time loops of a layer: host.cpp, compiled by this machine's own C++ compiler and called through ctypes.

There is one library for each precision. It is compiled on first use and kept in the user's private cache folder, under
a key of source, compiler, flags and processor. Training uses it in float32 and bf16 only, and only after its results
agreed with the formulas (agreement.py). Without a compiler, or with RNNCORE_NATIVE=0 in the environment, NumPy does the
work.
"""
import contextlib
import functools
import hashlib
import logging
import os
import platform
import subprocess
import tempfile
import threading
from pathlib import Path

from threadpoolctl import threadpool_info

from . import agreement
from .compiler import compiler as compiler, cure, fault
from .recurrence import Recurrence

HERE = Path(__file__).parent
SOURCES = "../gates.cuh", "tiles.hpp", "product.hpp", "host.cpp"
# -fno-math-errno and -fno-trapping-math let the compiler use more vector instructions. -ffast-math is not used: it lets
# the compiler assume that there is no NaN and no infinity.
FLAGS = "-std=c++17", "-O3", "-march=native", "-fno-math-errno", "-fno-trapping-math", "-fPIC", "-shared"
# Precision -> the element of its products in product.hpp.
ELEMENTS = {"float32": "Plain<float>", "float64": "Plain<double>", "bf16": "Brain"}
# Time of a training step with NumPy's loops, as a multiple of the time with compiled loops, in words. Measured in
# float32 on 2 cores of an AMD EPYC with AVX2, one and two threads: 1.4 and 1.5 for 2 x 128, 1.2 and 1.2 for 2 x 256.
SLOWER = "1.2 to 1.5"
_lock = threading.Lock()


class Unavailable(RuntimeError):
    """This machine has no compiled library. The message says why."""


def cache() -> Path:
    """Return the folder for compiled libraries, after making it private to this user.

    Raises OSError if it cannot be made, and PermissionError if another user could write there.
    """
    base = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    folder = Path(base) / "rnncore"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    about = folder.stat()
    # The library is loaded into this process, so no other user may be able to write here.
    if about.st_uid != os.getuid() or about.st_mode & 0o022:
        raise PermissionError(f"{folder} can be written by others")
    return folder


def build(precision: str = "float32") -> Path:
    """Return the path of the compiled library, from the cache or compiled now. Raises Unavailable if that fails.

    precision: float32, float64 or bf16.
    """
    try:
        named, folder = key(precision), cache()
        # A library has its checksum in its name, because a damaged one would end the process when it is loaded.
        whole = (path for path in folder.glob(f"gates-{named}-*.so") if path.stem.endswith(_sum(path)))
        return next(whole, None) or _compile(str(compiler()), named, folder, precision)
    except (OSError, subprocess.SubprocessError) as error:
        raise Unavailable(f"the C++ compiler could not be used ({fault(error)})") from None


def key(precision: str) -> str:
    """Return a hash of all that the compiled library of a precision depends on: source, compiler, options, processor.

    Raises Unavailable without a compiler, and OSError or subprocess.SubprocessError if it cannot be run.
    """
    cxx = compiler()
    if cxx is None:
        raise Unavailable(f"no C++ compiler was found (c++, g++, clang++): {cure()}")
    version = subprocess.run([cxx, "--version"], capture_output=True, timeout=20, check=True).stdout
    return hashlib.sha256(b"\0".join([version, " ".join([*FLAGS, precision]).encode(), _processor(),
                                      *((HERE / name).read_bytes() for name in SOURCES)])).hexdigest()[:24]


def _compile(cxx: str, named: str, folder: Path, precision: str) -> Path:
    # The command line prints this on stderr; the library prints nothing at level INFO.
    logging.getLogger(__name__).info("compiling the LSTM's loops for this processor: a few seconds, this time only")
    # Two processes may compile at once, or one may be stopped. The library gets its name only when it is complete.
    with tempfile.TemporaryDirectory(dir=folder) as workplace:
        made = Path(workplace) / "gates.so"
        command = [cxx, *FLAGS, f"-DELEMENT={ELEMENTS[precision]}", "-o", str(made), str(HERE / "host.cpp")]
        subprocess.run(command, capture_output=True, timeout=120, check=True)
        path = folder / f"gates-{named}-{_sum(made)}.so"
        os.replace(made, path)
    return path


def _sum(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()[:24]


def _processor() -> bytes:
    """Return a description of the processor's instructions: the library is compiled for this very processor."""
    lines: list[str] = []
    with contextlib.suppress(OSError):  # without this text the library is compiled all the same
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    features = [line for line in lines if line.startswith(("flags", "Features", "model name"))]
    return "\n".join([platform.machine(), *features[:2]]).encode()


def blas() -> str:
    """Return the name and version of the library of NumPy's matrix products, in words."""
    found = [f"{library['internal_api']} {library['version']} {library.get('architecture') or ''}".strip()
             for library in threadpool_info() if library["user_api"] == "blas"]
    return ", ".join(found) or "none whose threads can be counted"


def recurrence(precision: str) -> Recurrence | None:
    """Return the compiled time loops for float32 or bf16, or None for other precisions and if there are none.

    The first call compiles. bf16 has them only if `why_no_bf16` gives no reason against it.
    """
    if precision == "float32" or precision == "bf16" and why_no_bf16() is None:
        return _load(precision)[0]
    return None


def why_no_bf16() -> str | None:
    """Return in words why this processor trains no model in bf16, or None if it does. The first call may compile.

    RNNCORE_BF16=emulate in the environment puts several instructions in the place of the one for bf16. That is slower
    than float32, and for tests.
    """
    emulate = os.environ.get("RNNCORE_BF16") == "emulate"
    if not emulate and b" avx512_bf16" not in _processor():
        return "this processor has no instruction for it (avx512_bf16)"
    found, words = _load("bf16")
    if found is None:
        return words
    return None if emulate or found.pairs else f"{compiler()} does not use the processor's instruction for it"


def about(precision: str = "float32") -> str:
    """Return in words what runs the time loops in this precision, and why."""
    found, words = _load(precision)
    return words if found else f"NumPy: {why_slower(precision) or words}"


def why_slower(precision: str = "float32") -> str | None:
    """Return in one line what it costs that there are no compiled loops, and the cause, with the cure if it is known.

    Return None if there are compiled loops or if the user switched them off. The first call may compile.
    """
    found, words = _load(precision)
    if found or _switched_off():
        return None
    return f"training on the CPU takes about {SLOWER} times as long, because {words}"


def _switched_off() -> bool:
    return os.environ.get("RNNCORE_NATIVE") == "0"


def _load(precision: str) -> tuple[Recurrence | None, str]:
    with _lock:
        return _load_once(precision)


@functools.cache
def _load_once(precision: str) -> tuple[Recurrence | None, str]:
    """Return the loops and in words how they were compiled, or None and in words why there are none."""
    if _switched_off():
        return None, "the compiled recurrence is switched off by RNNCORE_NATIVE=0"
    try:
        found = Recurrence(build(precision), precision)
    except (Unavailable, OSError, AttributeError) as error:
        return None, str(error)
    off = agreement.error(found, precision)
    if not off <= agreement.TOLERANCE:
        return None, (f"host.cpp, compiled by {compiler()}, does not agree with the formulas: an error of {off:.1g}, "
                      f"at most {agreement.TOLERANCE:g}")
    return found, f"compiled by {compiler()}"
