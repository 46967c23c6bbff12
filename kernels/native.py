"""One layer's recurrence compiled by this machine's own C++ compiler, where it has one: host.cpp over gates.cuh.

It is the time loop of rnncore/lstm.py without the interpreter: a call releases its lock, so threads do not wait for
each other. Compiled once, on first use, into the user's private cache folder under a key of source, compiler, flags and
processor. Only float32 runs on it, and only after its results agreed with the formulas'; without a compiler, or with
RNNCORE_NATIVE=0 in the environment, lstm.py's own loop does the work.
"""
import ctypes
import functools
import hashlib
import itertools
import os
import platform
import shutil
import subprocess
import tempfile
import threading
from pathlib import Path

import numpy as np
from threadpoolctl import threadpool_info

HERE = Path(__file__).parent
SOURCES = "gates.cuh", "host.cpp"
FLAGS = "-std=c++17", "-O3", "-march=native", "-fno-math-errno", "-fno-trapping-math", "-fPIC", "-shared"
_POINTER, _LONG = ctypes.c_void_p, ctypes.c_long
ARGUMENTS = {"forward": 8 * [_POINTER] + 3 * [_LONG], "backward": 10 * [_POINTER] + 3 * [_LONG]}
PRODUCT = {"float32": "cblas_sgemm", "float64": "cblas_dgemm"}
_lock = threading.Lock()


class Unavailable(RuntimeError):
    """There is no compiled arithmetic here; the message says why."""


def compiler() -> str | None:
    """The C++ compiler: $CXX, else c++, g++ or clang++."""
    return next(filter(None, map(shutil.which, filter(None, (os.environ.get("CXX"), "c++", "g++", "clang++")))), None)


def cache() -> Path:
    """The folder for what was compiled, made private to this user. Raises OSError."""
    base = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    folder = Path(base) / "rnncore"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    about = folder.stat()
    if about.st_uid != os.getuid() or about.st_mode & 0o022:
        raise PermissionError(f"{folder} can be written by others")
    return folder


def build() -> Path:
    """The compiled library, from the cache or made now. Raises Unavailable."""
    cxx = compiler()
    if cxx is None:
        raise Unavailable("no C++ compiler was found (c++, g++, clang++)")
    try:
        version = subprocess.run([cxx, "--version"], capture_output=True, timeout=20, check=True).stdout
        key = hashlib.sha256(b"\0".join([version, " ".join(FLAGS).encode(), _processor(),
                                         *((HERE / name).read_bytes() for name in SOURCES)])).hexdigest()[:24]
        path = cache() / f"gates-{key}.so"
        if not path.is_file():
            with tempfile.TemporaryDirectory(dir=path.parent) as folder:
                made = Path(folder) / "gates.so"
                subprocess.run([cxx, *FLAGS, "-o", made, HERE / "host.cpp"], capture_output=True, timeout=120,
                               check=True)
                os.replace(made, path)
    except (OSError, subprocess.SubprocessError) as error:
        raise Unavailable(f"the C++ compiler could not be used ({error})") from None
    return path


def _processor() -> bytes:
    """What tells one processor's instructions from another's."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    features = [line for line in lines if line.startswith(("flags", "Features", "model name"))]
    return "\n".join([platform.machine(), *features[:2]]).encode()


def blas() -> str:
    """In words: the library of NumPy's matrix products."""
    found = [f"{library['internal_api']} {library['version']} {library.get('architecture') or ''}".strip()
             for library in threadpool_info() if library["user_api"] == "blas"]
    return ", ".join(found) or "none whose threads can be counted"


def product(dtype: str) -> tuple[int, str]:
    """The address of the matrix product that NumPy itself uses, and the C type of its integers. Raises Unavailable."""
    for library in threadpool_info():
        if library["user_api"] == "blas":
            handle = ctypes.CDLL(library["filepath"])
            for prefix, suffix in itertools.product(("scipy_", ""), ("64_", "")):
                function = getattr(handle, prefix + PRODUCT[dtype] + suffix, None)
                if function is not None:
                    return ctypes.cast(function, ctypes.c_void_p).value, "long" if suffix else "int"
    raise Unavailable("NumPy's matrix product was not found in a shared library")


class Recurrence:
    """The time loops of one dtype, in the library at `path`, over contiguous arrays."""

    def __init__(self, path: Path, dtype: str):
        self._gemm, integer = product(dtype)
        library = ctypes.CDLL(str(path))
        for name, arguments in ARGUMENTS.items():
            function = getattr(library, f"{name}_{dtype}_{integer}")
            function.argtypes, function.restype = arguments, None
            setattr(self, "_" + name, function)

    def forward(self, w_hh, gates, h, c, keep, h_prev) -> None:
        """gates (T, 4H, N) arrives as W_ih x + b and leaves as the activations; h[1:] and c[1:] are written.

        h_prev (H, N) is scratch.
        """
        steps, _, n = gates.shape
        ones = np.ones(n, gates.dtype)
        self._forward(self._gemm, *map(pointer, (w_hh, gates, h, c, keep, ones, h_prev)), steps, w_hh.shape[1], n)

    def backward(self, w_hh, gates, c, keep, dy, dh, dc, columns) -> None:
        """gates (T, 4H, N) arrives as the activations and leaves as dL/dz, as columns (4H, T, N) too.

        dh and dc (H, N) arrive as the gradient at the last state and leave as that at the initial one.
        """
        steps, _, n = gates.shape
        ones = np.ones(n, gates.dtype)
        arrays = w_hh, gates, c, keep, ones, dy, dh, dc, columns
        self._backward(self._gemm, *map(pointer, arrays), steps, w_hh.shape[1], n)


def pointer(array: np.ndarray | None) -> int | None:
    """The address of a contiguous array's first element. Raises ValueError for one that is not contiguous."""
    if array is None:
        return None
    if not array.flags.c_contiguous:
        raise ValueError("the compiled recurrence needs contiguous arrays")
    return array.ctypes.data


@functools.cache
def recurrence(dtype: np.dtype) -> Recurrence | None:
    """The compiled time loops for arrays of dtype, or None where NumPy does the work; compiles on the first call."""
    return _load()[0] if dtype == np.float32 else None


def about() -> str:
    """In words: what runs the recurrence in float32, and why."""
    found, words = _load()
    return words if found else f"NumPy: {words}"


def _load() -> tuple[Recurrence | None, str]:
    with _lock:
        return _load_once()


@functools.cache
def _load_once() -> tuple[Recurrence | None, str]:
    """(functions, how) or (None, why not)."""
    if os.environ.get("RNNCORE_NATIVE") == "0":
        return None, "the compiled recurrence is switched off by RNNCORE_NATIVE=0"
    try:
        found = Recurrence(build(), "float32")
    except (Unavailable, OSError, AttributeError) as error:
        return None, str(error)
    if not _agrees(found):
        return None, f"what {compiler()} made of host.cpp does not agree with the formulas"
    return found, f"compiled by {compiler()}"


def _agrees(found: Recurrence) -> bool:
    """Does one step give the c and h that the formulas give?"""
    hidden, n = 6, 5
    gates = np.linspace(-9, 9, 4 * hidden * n, dtype=np.float32).reshape(1, 4 * hidden, n)
    w_hh = np.linspace(-1, 1, 4 * hidden * hidden, dtype=np.float32).reshape(4 * hidden, hidden)
    h, c = np.linspace(-1, 1, 4 * hidden * n, dtype=np.float32).reshape(2, 2, hidden, n)
    i, f, g, o = (gates[0] + w_hh @ h[0]).astype(np.float64).reshape(4, hidden, n)
    wanted = c[0] / (1 + np.exp(-f)) + np.tanh(g) / (1 + np.exp(-i))
    found.forward(w_hh, gates, h, c, None, np.empty((hidden, n), np.float32))
    wanted_h = np.tanh(wanted) / (1 + np.exp(-o))
    return bool(np.allclose(c[1], wanted, atol=1e-5) and np.allclose(h[1], wanted_h, atol=1e-5))
