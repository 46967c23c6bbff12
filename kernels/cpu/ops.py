"""The kernel module of a processor: every operation of the engine on NumPy arrays, written in place.

T is the number of steps, N of sequences, H of hidden units, V of symbols. Each sequence is one column. Other files of
kernels/cpu have the cell's gates (gates.py), the time loops (loops.py, native.py) and the optimisers (updates.py).
"""
import contextlib
import math
import os
import time
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from pathlib import Path

import numpy as np
from threadpoolctl import ThreadpoolController

from .. import paths
from ..arrays import Array, HeadWeights, Ids, Key, LayerWeights, Word
from ..interface import Layer, Layers, ModelSizes, Products
from . import native
from .gates import gates_backward as gates_backward, gates_forward as gates_forward
from .loops import Loops
from .native import recurrence as recurrence
from .updates import adam as adam, muon_apply as muon_apply, muon_momentum as muon_momentum

name = "cpu"
xp = np
IDS = np.dtype(np.int64)  # the type of symbol ids on every device; a GPU's kernels take no other type


class Eager(paths.Path):
    """The path of a processor. It runs the layers one after the other.

    compiled() returns the compiled loops of one layer, or None: then NumPy's loops of dtype (loops.py) do the work.
    products: computes the matrix products outside the loops; None for NumPy.
    """

    def __init__(self, dtype: str, compiled: Callable[[], Layer | None], products: Products | None = None):
        self.dtype, self.compiled, self.products = np.dtype(dtype), compiled, products

    def computing(self) -> contextlib.AbstractContextManager[None]:
        """Return a context in which the products of this thread are computed in the precision of the path."""
        return paths.computing(self.products) if self.products else contextlib.nullcontext()

    def layers(self, config: ModelSizes, steps: int, n: int, in_turn: Callable[[Layer | None], Layers]) -> Layers:
        """Return an object that runs all layers over at most `steps` steps and exactly `n` sequences."""
        return in_turn(self.compiled() or Loops(config.hidden, steps, n, self.dtype))


def path(name: str, precision: str, config: ModelSizes | None = None) -> paths.Path:
    """Return the path eager, the only one of a processor. Raises ValueError for a path or a precision of GPUs."""
    if reason := why_not(name, precision):
        raise ValueError(reason)
    products = recurrence(precision) if precision == "bf16" else None
    return Eager(paths.storage(precision), lambda: recurrence(precision), products)


def forms(config: ModelSizes) -> dict[str, paths.Path]:
    """Return NumPy's loops and, if this machine has them, the compiled loops: each as a path in float64, by name."""
    found: dict[str, paths.Path] = {"NumPy's loops": Eager("float64", lambda: None)}
    if recurrence("float32"):
        found["compiled loops"] = Eager("float64", lambda: native.Recurrence(native.build("float64"), "float64"))
    return found


def why_not(name: str, precision: str, config: ModelSizes | None = None, n: int = 1) -> str | None:
    """Return None if the processor has this path in this precision, else one line with the cause and the cure."""
    if precision == "tf32":
        return "tf32 is a precision of GPUs: take float32"
    if precision == "bf16" and (reason := native.why_no_bf16()):
        return f"bf16: {reason}: take float32"
    return None if name == "eager" else f"{name} is a path of GPUs: the processor has only eager"


def why_slower(precision: str) -> str | None:
    """Return in one line why NumPy does the work of the compiled loops, what it costs and the cure, or None.

    None: the compiled loops work, the user switched them off, or the precision has none. The first call may compile.
    """
    return native.why_slower() if precision == "float32" else None


def rule(precision: str, config: ModelSizes, n: int = 1, writing: bool = False) -> dict[str, str | None]:
    """Return the paths for a model of any sizes: only eager; arguments as in cuda/ops.py."""
    return {"eager": why_not("eager", precision)}


def writer(layers: Sequence[LayerWeights], head: HeadWeights, table: Array, h: Array, c: Array, logits: Array) -> None:
    """Return None: on a processor the loop over characters is in rnncore/sample.py."""
    return None


def cores() -> int:
    """Return the number of cores that this process may use, by its affinity and its CPU quota, at least 1.

    A batch is best split into as many shares.
    """
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    limit = Path("/sys/fs/cgroup/cpu.max")
    quota, period = limit.read_text().split() if limit.is_file() else ("max", "100000")
    return count if quota == "max" else max(1, min(count, math.ceil(int(quota) / int(period))))


def speed(precision: str = "float32") -> float:
    """Return the approximate training throughput of a share, in parameters x characters per second.

    Measured on one thread of an Intel Xeon with AMX, with Muon: in float32 49,000 characters per second with
    2 x 128 (243,000 parameters), in bf16 28,000 with 2 x 256 and 6,700 with 2 x 512. Without AMX bf16 is not faster.
    """
    loops = native.recurrence("bf16") if precision == "bf16" else None
    return 2.2e10 if loops and loops.pairs > 1 else 1.1e10


def shares(threads: int) -> int:
    """Return the number of shares that a batch is split into: one for each thread."""
    return threads


def memory() -> int:
    """Return the memory that this process may use, in bytes: the machine's, or its control group's lower limit."""
    there = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limit = Path("/sys/fs/cgroup/memory.max")
    bound = limit.read_text().strip() if limit.is_file() else "max"
    return there if bound == "max" else min(there, int(bound))


def activations(shape: tuple[int, ...], axis: int, dtype: np.dtype) -> Array:
    """Return an uninitialised array of this shape. The entries along `axis`, which counts units, are neighbours."""
    return np.moveaxis(np.empty((*shape[:axis], *shape[axis + 1:], shape[axis]), dtype), -1, axis)


def to_device(array: Array) -> Array:
    """Return the array itself: the device is the host."""
    return array


def to_host(array: Array) -> Array:
    """Return the array itself: the device is the host."""
    return array


def ids_to_device(ids: Ids) -> Ids:
    """Return symbol ids, an array of whole numbers on the host, as a contiguous array of IDS.

    The array itself is returned if it is one already. Raises TypeError for a type whose numbers are not whole.
    """
    ready = ids.dtype == IDS and ids.flags.c_contiguous
    return ids if ready else ids.astype(IDS, order="C", casting="same_kind")


_threadpools = cache(ThreadpoolController)  # finds the BLAS libraries at the first call; this takes milliseconds


def single_threaded() -> contextlib.AbstractContextManager:
    """Return a context in which each matrix product runs only on the thread that calls it."""
    return _threadpools().limit(limits=1, user_api="blas")


def synchronize() -> None:
    """Do nothing: NumPy has done its work when it returns."""


def product(a: Array, b: Array, out: Array, add: bool = False) -> None:
    """Compute out (R, C) = a (R, M) @ b (M, C), or out += a @ b if add.

    A batch has the shapes (B, R, M), (B, M, C) and (B, R, C). a may also be (R, M), the same for every b of a batch.
    """
    if makes := paths.products():
        makes.product(a, b, out, add)
    elif add:
        out += a @ b
    else:
        np.matmul(a, b, out=out)


def row_sums(a: Array, out: Array) -> None:
    """Compute out (R,) = the sum of each row of a (R, M)."""
    # A product with a vector of ones may round differently when the rows lie elsewhere in memory. This sum does not.
    a.sum(axis=1, out=out)


@contextlib.contextmanager
def timer() -> Iterator[list[float]]:
    """Return a context that yields an empty list. Its end adds the seconds that passed inside to the list."""
    begun = time.perf_counter()
    seconds: list[float] = []
    yield seconds
    seconds.append(time.perf_counter() - begun)


def affine(weight: Array, bias: Array, x: Array, out: Array) -> None:
    """Compute out (R, C) = weight (R, M) @ x (M, C) + bias (R,)."""
    product(weight, x, out)
    out += bias[:, None]


def softmax_cross_entropy(logits: Array, targets: Ids, loss: Array, bias: Array | None = None, over: float = 1) -> None:
    """Compute loss (T, N) = -log softmax(logits + bias)[target] in nats, and its gradient in place of the logits.

    logits (V, T, N) leaves as (p - onehot(target)) / over, where p is the softmax over axis 0: the gradient of the
    summed loss, divided by a number. bias is (V,) or None; targets (T, N) are ids.
    """
    targets = targets[None]
    if bias is not None:
        logits += bias[:, None, None]
    # After the maximum is subtracted, no logit is above 0, so exp cannot overflow.
    logits -= logits.max(axis=0)
    picked = np.take_along_axis(logits, targets, axis=0)
    np.exp(logits, out=logits)
    total = logits.sum(axis=0)
    np.subtract(np.log(total), picked[0], out=loss)
    logits /= total
    np.put_along_axis(logits, targets, np.take_along_axis(logits, targets, axis=0) - 1, axis=0)
    if over != 1:
        logits /= over


def gather(table: Array, ids: Ids, out: Array) -> None:
    """Compute out[:, t, n] = table[:, ids[t, n]] for table (R, V), ids (T, N) and out (R, T, N)."""
    # With mode="raise" NumPy fills a buffer first.
    np.take(table.T, ids, axis=0, out=np.moveaxis(out, 0, -1), mode="clip")


def scatter_workspace(symbols: int, positions: int, dtype: np.dtype) -> None:
    """Return None: `scatter_add` needs no workspace on a processor."""
    return None


def scatter_add(table: Array, ids: Ids, columns: Array, workspace: Array | None = None, add: bool = True) -> None:
    """Compute table[:, ids[t, n]] += columns[:, t N + n] for table (R, V), ids (T, N) and columns (R, T N).

    add False: the table counts as zeros. The order of the additions is always the same, and so are the bits of the
    result. workspace is not used here.
    """
    if not add:
        table[...] = 0
    # The ids of one column of a batch are not contiguous.
    flat, symbols, compiled = np.ascontiguousarray(ids).reshape(-1), table.shape[1], recurrence(str(table.dtype))
    if compiled and table.strides[0] == columns.strides[0] == table.itemsize:
        compiled.scatter_add(table, flat, columns)
        return
    # A product with a one-hot matrix is fast for few symbols. Its cost grows with V. Sorted sums cost the same for
    # any V.
    if symbols <= 128:
        onehot = np.zeros((len(flat), symbols), columns.dtype)
        onehot[np.arange(len(flat)), flat] = 1
        table.T[...] += onehot.T @ columns.T
        return
    order = np.argsort(flat, kind="stable")
    found, first = np.unique(flat[order], return_index=True)
    table.T[found] += np.add.reduceat(columns.T[order], first, axis=0)


# Constants of Philox4x32: the multipliers of a round, and what a round adds to the two words of the key.
PHILOX_MULTIPLIERS = np.uint64(0xD2511F53), np.uint64(0xCD9E8D57)
PHILOX_WEYL = 0x9E3779B9, 0xBB67AE85


def philox(counter: Sequence[Word], key: Key) -> tuple[Array, Array, Array, Array]:
    """Return four uint32 arrays of random words: Philox4x32-10 (Salmon et al. 2011).

    The result is a pure function of counter and key. counter: four arrays of uint32, or numbers below 2^32, of shapes
    that broadcast together; key: two numbers below 2^32.
    """
    x0, x1, x2, x3 = np.broadcast_arrays(*(np.asarray(word, np.uint32) for word in counter))
    k0, k1 = key
    m0, m1 = PHILOX_MULTIPLIERS
    for _ in range(10):
        p0, p1 = (np.multiply(x, m, dtype=np.uint64) for x, m in ((x0, m0), (x2, m1)))  # 64 bits in NumPy 1 and 2
        x0 = (p1 >> np.uint64(32)).astype(np.uint32) ^ x1 ^ np.uint32(k0)
        x2 = (p0 >> np.uint64(32)).astype(np.uint32) ^ x3 ^ np.uint32(k1)
        x1, x3 = p1.astype(np.uint32), p0.astype(np.uint32)
        k0, k1 = (k0 + PHILOX_WEYL[0]) & 0xFFFFFFFF, (k1 + PHILOX_WEYL[1]) & 0xFFFFFFFF
    return x0, x1, x2, x3


def dropout_mask(out: Array, rate: float, counter: Sequence[Word], key: Key, first: int, columns: int) -> None:
    """Fill out (H, T, N) with 0 with the probability `rate`, else with 1 / (1 - rate).

    This is inverted dropout (Srivastava et al. 2014). out holds the columns first .. first + N - 1 of a batch of
    `columns`, so the mask of a batch does not depend on how the batch is split into shares. counter: the last three
    words of the counter; the first word counts groups of eight units of a column at a step. key: as in `philox`.
    """
    hidden, steps, n = out.shape
    # One call of philox gives 128 bits: 16 bits for each of eight units.
    eights = -(-hidden // 8)
    index = ((np.arange(steps, dtype=np.uint32)[:, None] * np.uint32(eights)
              + np.arange(eights, dtype=np.uint32)[:, None, None]) * np.uint32(columns)
             + np.arange(first, first + n, dtype=np.uint32))                               # (eights, T, N)
    words = np.stack(philox((index, *counter), key), axis=1)                              # (eights, 4, T, N)
    bits = np.stack((words & np.uint32(0xFFFF), words >> np.uint32(16)), axis=2)          # (eights, 4, 2, T, N)
    kept = bits.reshape(eights * 8, steps, n)[:hidden] >= np.uint32(round(rate * 65536))
    np.multiply(kept, 1 / (1 - rate), out=out)
