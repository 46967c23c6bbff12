"""The compiled time loops of a layer: host.cpp, compiled by this machine's own C++ compiler and called through ctypes.

They do the work of rnncore/nn/lstm.py over a whole window, and of one step of rnncore/nn/stepper.py. A call releases
the interpreter's lock, so threads do not wait for each other. The library is compiled on first use and kept in the
user's private cache folder, under a key of source, compiler, flags and processor. Training uses it in float32 only, and
only after its results agreed with the formulas (agreement.py). Without a compiler, or with RNNCORE_NATIVE=0 in the
environment, NumPy does the work.
"""
import contextlib
import ctypes
import functools
import hashlib
import logging
import os
import platform
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
from threadpoolctl import threadpool_info

from ..arrays import Array, HeadWeights, Ids, LayerWeights
from . import agreement

HERE = Path(__file__).parent
SOURCES = "../gates.cuh", "product.hpp", "host.cpp"
# -fno-math-errno and -fno-trapping-math let the compiler use more vector instructions. -ffast-math is not used: it lets
# the compiler assume that there is no NaN and no infinity.
FLAGS = ("-std=c++17", "-O3", "-march=native", "-fno-math-errno", "-fno-trapping-math", "-fopenmp-simd", "-fPIC",
         "-shared")
_POINTER, _LONG = ctypes.c_void_p, ctypes.c_long
# The arguments of each function that host.cpp exports: addresses, then sizes and distances of rows.
ARGUMENTS = {"forward": 9 * [_POINTER] + 8 * [_LONG], "backward": 10 * [_POINTER] + 8 * [_LONG],
             "step": 9 * [_POINTER] + 4 * [_LONG], "pack": [_POINTER] + 4 * [_LONG] + [_POINTER],
             "panels": 2 * [_LONG], "tiles": 2 * [_LONG]}
LINE = 64  # the size of a cache line and of the widest vector, in bytes
TYPES = {"float32": "float", "float64": "double"}
_lock = threading.Lock()


class Unavailable(RuntimeError):
    """This machine has no compiled library. The message says why."""


def compiler() -> str | None:
    """Return the path of the C++ compiler: $CXX, else c++, g++ or clang++; None if none of them is found."""
    return next(filter(None, map(shutil.which, filter(None, (os.environ.get("CXX"), "c++", "g++", "clang++")))), None)


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


def build() -> Path:
    """Return the path of the compiled library, from the cache or compiled now. Raises Unavailable if that fails."""
    cxx = compiler()
    if cxx is None:
        raise Unavailable("no C++ compiler was found (c++, g++, clang++)")
    try:
        version = subprocess.run([cxx, "--version"], capture_output=True, timeout=20, check=True).stdout
        key = hashlib.sha256(b"\0".join([version, " ".join(FLAGS).encode(), _processor(),
                                         *((HERE / name).read_bytes() for name in SOURCES)])).hexdigest()[:24]
        folder = cache()
        # A library has its checksum in its name, because a damaged one would end the process when it is loaded.
        whole = (path for path in folder.glob(f"gates-{key}-*.so") if path.stem.endswith(_sum(path)))
        return next(whole, None) or _compile(cxx, key, folder)
    except (OSError, subprocess.SubprocessError) as error:
        raise Unavailable(f"the C++ compiler could not be used ({error})") from None


def _compile(cxx: str, key: str, folder: Path) -> Path:
    # The command line prints this on stderr; the library prints nothing at level INFO.
    logging.getLogger(__name__).info("compiling the LSTM's loops for this processor: a few seconds, this time only")
    # Two processes may compile at once, or one may be stopped. The library gets its name only when it is complete.
    with tempfile.TemporaryDirectory(dir=folder) as workplace:
        made = Path(workplace) / "gates.so"
        subprocess.run([cxx, *FLAGS, "-o", made, HERE / "host.cpp"], capture_output=True, timeout=120, check=True)
        path = folder / f"gates-{key}-{_sum(made)}.so"
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


class Recurrence:
    """The compiled time loops, and the compiled step of a stack, for one dtype ("float32" or "float64").

    path: the library, from `build`. An array (rows, T, N) may be a view of the first steps of a longer array. All other
    arrays must be contiguous.
    """

    def __init__(self, path: Path, dtype: str):
        library = ctypes.CDLL(str(path))
        self._functions = {name: getattr(library, f"{name}_{TYPES[dtype]}") for name in ARGUMENTS}
        for name, function in self._functions.items():
            function.argtypes, function.restype = ARGUMENTS[name], None if name in ("step", "pack") else _LONG

    def forward(self, w: LayerWeights, x: Array | None, gates: Array, h: Array, c: Array, keep: Array | None) -> None:
        """Write h[:, 1:], c[:, 1:] (H, T+1, N) and the activations, gates (4H, T, N).

        x (E, T, N), or None: then gates arrives as W_ih x + b. keep (T, N) or None; h[:, 0] and c[:, 0] are the initial
        state. Raises ValueError for arrays of another shape or dtype, and MemoryError if there is no memory for the
        buffers.
        """
        w_ih, w_hh, bias = w
        (_, steps, n), (_, inputs), hidden, dtype = gates.shape, w_ih.shape, len(h), gates.dtype
        ones = np.ones(n, dtype)  # the name keeps the memory alive until the call is over
        weights = pointers(dtype, w_ih=(w_ih, (4 * hidden, inputs)), bias=(bias, (4 * hidden,)),
                           w_hh=(w_hh, (4 * hidden, hidden)), keep=(keep, (steps, n)), ones=(ones, (n,)))
        states = hidden, steps + 1, n
        lines = rows(dtype, x=(x, (inputs, steps, n)), gates=(gates, (4 * hidden, steps, n)), h=(h, states),
                     c=(c, states))
        if self._functions["forward"](*weights, *lines, steps, inputs, hidden, n):
            raise MemoryError

    def backward(self, w: LayerWeights, gates: Array, c: Array, keep: Array | None, dy: Array, dh: Array, dc: Array,
                 dx: Array | None) -> None:
        """Run the layer backwards: gates (4H, T, N) arrives as the activations and leaves as dL/dz.

        dy (H, T, N) and c (H, T+1, N) are read. dh and dc (H, N) arrive as the gradient at the last state and leave as
        the gradient at the initial state. dx (E, T, N) is written unless it is None; it may be the array dy. Raises the
        same errors as `forward`.
        """
        w_ih, w_hh, _ = w
        (_, steps, n), (_, inputs), hidden, dtype = gates.shape, w_ih.shape, len(c), gates.dtype
        ones = np.ones(n, dtype)
        weights = pointers(dtype, w_ih=(w_ih, (4 * hidden, inputs)), w_hh=(w_hh, (4 * hidden, hidden)),
                           keep=(keep, (steps, n)), ones=(ones, (n,)), dh=(dh, (hidden, n)), dc=(dc, (hidden, n)))
        lines = rows(dtype, gates=(gates, (4 * hidden, steps, n)), c=(c, (hidden, steps + 1, n)),
                     dy=(dy, (hidden, steps, n)), dx=(dx, (inputs, steps, n)))
        if self._functions["backward"](*weights, *lines, steps, inputs, hidden, n):
            raise MemoryError

    def stepper(self, layers: Sequence[LayerWeights], head: HeadWeights, table: Array, h: Array, c: Array,
                logits: Array) -> "Step":
        """Return the step of a whole stack over these arrays, which must stay where they are; see Step."""
        return Step(self._functions, layers, head, table, h, c, logits)


class Step:
    """One step of a whole stack, as a function of ids (N,): one symbol for each column.

    A call advances h and c (L, H, N) in place and writes logits (V, N). layers: w_ih, w_hh and bias of each layer; the
    first w_ih and bias are not used. head: weight (V, H) and bias (V,); table (4H, V): the first layer's
    W_ih embedding^T + b. Some weights are copied, so changed weights need a new Step. Raises ValueError for arrays of
    another shape or dtype.
    """

    def __init__(self, functions: Mapping[str, Callable[..., int]], layers: Sequence[LayerWeights], head: HeadWeights,
                 table: Array, h: Array, c: Array, logits: Array):
        (count, hidden, n), (symbols, _), dtype = h.shape, logits.shape, h.dtype
        states, square = (count, hidden, n), (4 * hidden, hidden)
        self._ids, ones, z = np.zeros(n, np.int64), np.ones(hidden * n, dtype), np.empty((4 * hidden, n), dtype)
        tiles = np.empty(functions["tiles"](2 * hidden, n) + LINE, dtype)
        begin = tiles.ctypes.data + -tiles.ctypes.data % LINE  # the first cache line in it
        weights = []  # for each layer and for the head: a matrix as `product` in host.cpp takes it, and a bias
        for k, (w_ih, w_hh, bias) in enumerate(layers):
            pointers(dtype, w_hh=(w_hh, square), bias=(bias, square[:1]), w_ih=(w_ih if k else None, square))
            weights += [self._together([w_ih, w_hh] if k else [w_hh], n, functions), bias]
        pointers(dtype, weight=(head[0], (symbols, hidden)), bias=(head[1], (symbols,)))
        weights += [self._together([head[0]], n, functions), head[1]]
        if len(layers) != count:
            raise ValueError(f"h is to have {len(layers)} layers, not {count}")
        addresses = np.array([array.ctypes.data for array in weights], np.uintp)
        state = pointers(dtype, h=(h, states), c=(c, states))
        self._call = functools.partial(
            functions["step"], addresses.ctypes.data, *pointers(dtype, table=(table, (4 * hidden, symbols))),
            ones.ctypes.data, self._ids.ctypes.data, *state, z.ctypes.data, begin,
            *pointers(dtype, logits=(logits, (symbols, n))), count, hidden, symbols, n)
        self._held = weights, addresses, table, ones, h, c, z, tiles, logits  # the call has only the addresses of these

    @staticmethod
    def _together(matrices: list[Array], n: int, functions: Mapping[str, Callable[..., int]]) -> np.ndarray:
        """Return matrices (R, K) as `product` in host.cpp takes them: one after the other, packed if n > 1."""
        if n == 1:
            return matrices[0] if len(matrices) == 1 else np.concatenate([m.reshape(-1) for m in matrices])
        rows, depth = len(matrices[0]), sum(m.shape[1] for m in matrices)
        panels, first = np.empty(functions["panels"](rows, depth), matrices[0].dtype), 0
        for matrix in matrices:
            functions["pack"](matrix.ctypes.data, *matrix.shape, first, depth, panels.ctypes.data)
            first += matrix.shape[1]
        return panels

    def __call__(self, ids: Ids) -> None:
        """Take one step with the symbols ids (N,). An id outside 0 .. V - 1 counts as the nearer end of this range."""
        self._ids[...] = ids
        self._call()


def pointers(dtype: np.dtype, **arrays: tuple[Array | None, tuple[int, ...]]) -> list[int | None]:
    """Return the addresses of contiguous arrays; an array that is None has the address None.

    Each argument is name=(array, shape). Raises ValueError for an array of another shape or dtype or with gaps, because
    the compiled loops check nothing.
    """
    return _addresses(dtype, arrays, lambda array: array.flags.c_contiguous, "without gaps")


def rows(dtype: np.dtype, **arrays: tuple[Array | None, tuple[int, ...]]) -> list[int | None]:
    """Return the addresses of arrays (rows, T, N), then the distances between their rows, counted in numbers.

    Each argument is name=(array, shape). Each row must be contiguous. Raises the same ValueError as `pointers`.
    """
    apart = [0 if array is None else array.strides[0] // array.itemsize for array, _ in arrays.values()]
    return [*_addresses(dtype, arrays, _apart, "its rows without gaps"), *apart]


def _addresses(dtype: np.dtype, arrays: Mapping[str, tuple[Array | None, tuple[int, ...]]],
               whole: Callable[[Array], bool], how: str) -> list[int | None]:
    for name, (array, shape) in arrays.items():
        if array is not None and not (
                array.shape == shape and array.dtype == dtype and array.flags.aligned and whole(array)):
            has = f"{array.shape} of {array.dtype}"
            raise ValueError(f"{name} is to be {shape} of {dtype}, contiguous ({how}), not {has}")
    return [None if array is None else array.ctypes.data for array, _ in arrays.values()]


def _apart(array: np.ndarray) -> bool:
    """Return True if each row is contiguous, and no row begins before the end of the previous row."""
    stride = array.strides[0]
    return array[0].flags.c_contiguous and (
        len(array) == 1 or stride >= array[0].nbytes and not stride % array.itemsize)


@functools.cache
def recurrence(dtype: np.dtype) -> Recurrence | None:
    """Return the compiled time loops for arrays of dtype, or None if NumPy does the work. The first call compiles.

    Only float32 has them.
    """
    return _load()[0] if dtype == np.float32 else None


def about() -> str:
    """Return in words what runs the time loops in float32, and why."""
    found, words = _load()
    return words if found else f"NumPy: {words}"


def _load() -> tuple[Recurrence | None, str]:
    with _lock:
        return _load_once()


@functools.cache
def _load_once() -> tuple[Recurrence | None, str]:
    """Return the loops and in words how they were compiled, or None and in words why there are none."""
    if os.environ.get("RNNCORE_NATIVE") == "0":
        return None, "the compiled recurrence is switched off by RNNCORE_NATIVE=0"
    try:
        found = Recurrence(build(), "float32")
    except (Unavailable, OSError, AttributeError) as error:
        return None, str(error)
    if not (agreement.loops(found) and agreement.step(found)):
        return None, f"host.cpp, compiled by {compiler()}, does not agree with the formulas"
    return found, f"compiled by {compiler()}"
