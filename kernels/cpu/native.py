"""The compiled time loops of a layer: host.cpp, compiled by this machine's own C++ compiler and called through ctypes.

They do the work of rnncore/nn/lstm.py over a whole window, and of one step of rnncore/nn/stepper.py. A call releases
the interpreter's lock, so threads do not wait for each other. There is one library for each precision. It is compiled
on first use and kept in the user's private cache folder, under a key of source, compiler, flags and processor. Training
uses it in float32 and bf16 only, and only after its results agreed with the formulas (agreement.py). Without a
compiler, or with RNNCORE_NATIVE=0 in the environment, NumPy does the work.
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
import weakref
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from threadpoolctl import threadpool_info

from ..arrays import Array, HeadWeights, Ids, LayerWeights
from . import agreement
from .compiler import fault, switched_off, without

HERE = Path(__file__).parent
SOURCES = "../gates.cuh", "product.hpp", "host.cpp"
# -fno-math-errno and -fno-trapping-math let the compiler use more vector instructions. -ffast-math is not used: it lets
# the compiler assume that there is no NaN and no infinity.
FLAGS = ("-std=c++17", "-O3", "-march=native", "-fno-math-errno", "-fno-trapping-math", "-fopenmp-simd", "-fPIC",
         "-shared")
_POINTER, _LONG = ctypes.c_void_p, ctypes.c_long
# The arguments of each function of host.cpp, addresses and then numbers, and its result.
FUNCTIONS = {"forward": (8 * [_POINTER] + 4 * [_LONG], _LONG), "backward": (9 * [_POINTER] + 4 * [_LONG], _LONG),
             "make_stack": (3 * [_POINTER] + 4 * [_LONG], _POINTER), "step": (5 * [_POINTER], None),
             "free_stack": ([_POINTER], None), "add_rows": (3 * [_POINTER] + 4 * [_LONG], None),
             "product": (3 * [_POINTER] + 9 * [_LONG], _LONG), "native_pairs": ([], _LONG)}
# Precision -> the element of its products in product.hpp, and the dtype of all arrays.
ELEMENTS = {"float32": ("Plain<float>", np.float32), "float64": ("Plain<double>", np.float64),
            "bf16": ("Brain", np.float32)}
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


def build(precision: str = "float32") -> Path:
    """Return the path of the compiled library, from the cache or compiled now. Raises Unavailable if that fails.

    precision: float32, float64 or bf16.
    """
    cxx = compiler()
    if cxx is None:
        raise Unavailable("no C++ compiler was found (c++, g++, clang++)")
    try:
        version = subprocess.run([cxx, "--version"], capture_output=True, timeout=20, check=True).stdout
        key = hashlib.sha256(b"\0".join([version, " ".join([*FLAGS, precision]).encode(), _processor(),
                                         *((HERE / name).read_bytes() for name in SOURCES)])).hexdigest()[:24]
        folder = cache()
        # A library has its checksum in its name, because a damaged one would end the process when it is loaded.
        whole = (path for path in folder.glob(f"gates-{key}-*.so") if path.stem.endswith(_sum(path)))
        return next(whole, None) or _compile(cxx, key, folder, precision)
    except (OSError, subprocess.SubprocessError) as error:
        raise Unavailable(f"the C++ compiler could not be used ({fault(error)})") from None


def _compile(cxx: str, key: str, folder: Path, precision: str) -> Path:
    # The command line prints this on stderr; the library prints nothing at level INFO.
    logging.getLogger(__name__).info("compiling the LSTM's loops for this processor: a few seconds, this time only")
    # Two processes may compile at once, or one may be stopped. The library gets its name only when it is complete.
    with tempfile.TemporaryDirectory(dir=folder) as workplace:
        made = Path(workplace) / "gates.so"
        element = f"-DELEMENT={ELEMENTS[precision][0]}"
        subprocess.run([cxx, *FLAGS, element, "-o", made, HERE / "host.cpp"], capture_output=True, timeout=120, check=True)
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
    """The compiled time loops, and the compiled step of a stack, for one precision: float32, float64 or bf16.

    path: the library, from `build`. In bf16 all arrays are float32; the operands of each product are rounded to
    bfloat16. The units of all arrays of units are neighbours in memory, and no array has gaps
    (`Kernel.activations`); it may be a view of the first steps of a longer array.
    """

    def __init__(self, path: Path, precision: str):
        library = ctypes.CDLL(str(path))
        self.dtype = np.dtype(ELEMENTS[precision][1])
        self._functions = {name: getattr(library, name) for name in FUNCTIONS}
        for name, function in self._functions.items():
            function.argtypes, function.restype = FUNCTIONS[name]
        self.pairs = bool(self._functions["native_pairs"]())  # the processor has an instruction for products in bf16

    def forward(self, w: LayerWeights, x: Array | None, gates: Array, h: Array, c: Array, keep: Array | None) -> None:
        """Write h[:, 1:], c[:, 1:] (H, T+1, N) and the activations, gates (4H, T, N).

        x (E, T, N), or None: then gates arrives as W_ih x + b. keep (T, N) or None; h[:, 0] and c[:, 0] are the initial
        state. Raises ValueError for arrays of another shape, dtype or order, and MemoryError if there is no memory for
        the buffers.
        """
        w_ih, w_hh, bias = w
        (_, steps, n), (_, inputs), hidden = gates.shape, w_ih.shape, len(h)
        rows, states = 4 * hidden, (hidden, steps + 1, n)
        (w_ih_at, bias_at, w_hh_at, keep_at) = pointers(
            self.dtype, w_ih=(w_ih, (rows, inputs)), bias=(bias, (rows,)), w_hh=(w_hh, (rows, hidden)),
            keep=(keep, (steps, n)))
        (x_at, *others) = lanes(self.dtype, x=(x, (inputs, steps, n)), gates=(gates, (rows, steps, n)), h=(h, states),
                                c=(c, states))
        if self._functions["forward"](w_ih_at, bias_at, x_at, w_hh_at, keep_at, *others, steps, inputs, hidden, n):
            raise MemoryError

    def backward(self, w: LayerWeights, gates: Array, c: Array, keep: Array | None, dy: Array, dh: Array, dc: Array,
                 dx: Array | None) -> None:
        """Run the layer backwards: gates (4H, T, N) arrives as the activations and leaves as dL/dz.

        dy (H, T, N) and c (H, T+1, N) are read. dh and dc (H, N) arrive as the gradient at the last state and leave as
        the gradient at the initial state. dx (E, T, N) is written unless it is None; it may be the array dy. Raises the
        same errors as `forward`.
        """
        w_ih, w_hh, _ = w
        (_, steps, n), (_, inputs), hidden = gates.shape, w_ih.shape, len(c)
        rows, state = 4 * hidden, (hidden, n)
        weights = pointers(self.dtype, w_ih=(w_ih, (rows, inputs)), w_hh=(w_hh, (rows, hidden)),
                           keep=(keep, (steps, n)))
        others = lanes(self.dtype, dh=(dh, state), dc=(dc, state), gates=(gates, (rows, steps, n)),
                       c=(c, (hidden, steps + 1, n)), dy=(dy, (hidden, steps, n)), dx=(dx, (inputs, steps, n)))
        if self._functions["backward"](*weights, *others, steps, inputs, hidden, n):
            raise MemoryError

    def scatter_add(self, table: Array, ids: Ids, columns: Array) -> None:
        """Add columns (R, M) to the columns of a table (R, V) that ids (M,) name, in their order.

        ids are contiguous, of int64 and below V. The entries of a column are neighbours in memory, in both arrays.
        """
        apart = [array.strides[1] // array.itemsize for array in (table, columns)]
        self._functions["add_rows"](table.ctypes.data, ids.ctypes.data, columns.ctypes.data, *apart, len(ids),
                                    len(table))

    def product(self, a: Array, b: Array, out: Array, add: bool) -> None:
        """Compute out (R, C) = a (R, M) @ b (M, C), or out += a @ b if add, for arrays with any distances."""
        if out.strides[1] != out.itemsize:  # the library writes rows: out^T = b^T a^T
            a, b, out = b.T, a.T, out.T
        numbers = [stride // array.itemsize for array in (a, b) for stride in array.strides]
        if self._functions["product"](a.ctypes.data, b.ctypes.data, out.ctypes.data, *numbers,
                                      out.strides[0] // out.itemsize, *a.shape, out.shape[1], add):
            raise MemoryError

    def stepper(self, layers: Sequence[LayerWeights], head: HeadWeights, table: Array, h: Array, c: Array,
                logits: Array) -> "Step":
        """Return the step of a whole stack over these arrays, which must stay where they are; see Step."""
        return Step(self._functions, self.dtype, layers, head, table, h, c, logits)


class Step:
    """One step of a whole stack, as a function of ids (N,): one symbol for each column.

    A call advances h and c (L, H, N) in place and writes logits (V, N). layers: w_ih, w_hh and bias of each layer; the
    first w_ih and bias are not used. head: weight (V, H) and bias (V,); table (4H, V): the first layer's
    W_ih embedding^T + b. Units, and symbols of the logits, are neighbours in memory. The weights are copied, so changed
    weights need a new Step. Raises ValueError for arrays of another shape, dtype or order, MemoryError if there is no
    memory for the copy.
    """

    def __init__(self, functions: Mapping[str, Callable[..., Any]], dtype: np.dtype, layers: Sequence[LayerWeights],
                 head: HeadWeights, table: Array, h: Array, c: Array, logits: Array):
        (count, hidden, n), (symbols, _) = h.shape, logits.shape
        square, matrices, biases = (4 * hidden, hidden), [], []
        for k, (w_ih, w_hh, bias) in enumerate(layers):
            w_ih_at, *others = pointers(dtype, w_ih=(w_ih if k else None, square), w_hh=(w_hh, square),
                                        bias=(bias, square[:1]))
            matrices += [w_ih_at, others[0]]
            biases.append(others[1])
        weight, bias = pointers(dtype, weight=(head[0], (symbols, hidden)), bias=(head[1], (symbols,)))
        if len(layers) != count:
            raise ValueError(f"h is to have {len(layers)} layers, not {count}")
        self._ids, self._biases = np.zeros(n, np.int64), _list([*biases, bias])
        (table_at,) = lanes(dtype, table=(table, (4 * hidden, symbols)))
        states = [lanes(dtype, **{name: (array.swapaxes(0, 1), (hidden, count, n))})[0]
                  for name, array in (("h", h), ("c", c))]
        results = lanes(dtype, logits=(logits, (symbols, n)))
        stack = functions["make_stack"](_list([*matrices, weight]), self._biases, table_at, count, hidden, symbols, n)
        if stack is None:
            raise MemoryError
        weakref.finalize(self, functions["free_stack"], stack)
        self._call = functools.partial(functions["step"], stack, self._ids.ctypes.data, *states, *results)
        self._held = layers, head, table, h, c, logits  # the call has only the addresses of these

    def __call__(self, ids: Ids) -> None:
        """Take one step with the symbols ids (N,). An id outside 0 .. V - 1 counts as the nearer end of this range."""
        self._ids[...] = ids
        self._call()


def _list(addresses: Sequence[int | None]) -> "ctypes.Array[ctypes.c_void_p]":
    return (_POINTER * len(addresses))(*addresses)


def pointers(dtype: np.dtype, **arrays: tuple[Array | None, tuple[int, ...]]) -> list[int | None]:
    """Return the addresses of contiguous arrays; an array that is None has the address None.

    Each argument is name=(array, shape). Raises ValueError for an array of another shape or dtype or with gaps, because
    the compiled loops check nothing.
    """
    return _addresses(dtype, arrays, lambda array: array.flags.c_contiguous, "without gaps")


def lanes(dtype: np.dtype, **arrays: tuple[Array | None, tuple[int, ...]]) -> list[int | None]:
    """Return the addresses of arrays whose first axis counts units, which are neighbours in memory.

    Each argument is name=(array, shape). Moved to the end, the first axis makes the array contiguous. Raises the same
    ValueError as `pointers`.
    """
    return _addresses(dtype, arrays, lambda array: array.transpose(*range(1, array.ndim), 0).flags.c_contiguous,
                      "the entries along its first axis side by side")


def _addresses(dtype: np.dtype, arrays: Mapping[str, tuple[Array | None, tuple[int, ...]]],
               whole: Callable[[Array], bool], how: str) -> list[int | None]:
    for name, (array, shape) in arrays.items():
        if array is not None and not (
                array.shape == shape and array.dtype == dtype and array.flags.aligned and whole(array)):
            has = f"{array.shape} of {array.dtype}"
            raise ValueError(f"{name} is to be {shape} of {dtype}, contiguous ({how}), not {has}")
    return [None if array is None else array.ctypes.data for array, _ in arrays.values()]


def recurrence(precision: str) -> Recurrence | None:
    """Return the compiled time loops, or None if NumPy does the work. The first call compiles.

    float64 has none: it is for checks. bf16 has them only if the processor has an instruction for it.
    """
    return _load(precision)[0] if precision != "float64" else None


def about(precision: str = "float32") -> str:
    """Return in words what runs the time loops in this precision, and why."""
    found, words = _load(precision)
    return words if found else f"NumPy: {words}"


def _load(precision: str) -> tuple[Recurrence | None, str]:
    with _lock:
        return _load_once(precision)


@functools.cache
def _load_once(precision: str) -> tuple[Recurrence | None, str]:
    """Return the loops and in words how they were compiled, or None and in words why there are none."""
    if switched_off():
        return None, "the compiled recurrence is switched off by RNNCORE_NATIVE=0"
    try:
        found = Recurrence(build(precision), precision)
    except (Unavailable, OSError, AttributeError) as error:
        return None, without(str(error), compiler() is None)
    if not (agreement.loops(found) and agreement.step(found)):
        return None, without(f"host.cpp, compiled by {compiler()}, does not agree with the formulas", missing=False)
    return found, f"compiled by {compiler()}"
