"""The engine's fused operations on NumPy arrays, written in place.

Notation, one column a sequence: H hidden units, N sequences, T steps, V symbols. The gates of one step are (4H, N) in
the order i f g o. `keep` (N,) is 0 where a new document begins at this step and 1 elsewhere, or None.
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
from ..interface import Layer, Layers, ModelSizes
from . import native
from .gates import gates_backward as gates_backward, gates_forward as gates_forward
from .loops import Loops
from .native import recurrence as recurrence
from .updates import adam as adam, muon_apply as muon_apply, muon_momentum as muon_momentum

name = "cpu"
xp = np
IDS = np.dtype(np.int64)  # the type of symbols' ids on every device: the kernels of a GPU take no other


class Eager(paths.Path):
    """The path of a processor: layers one after the other, compiled where compiled() gives that, else NumPy's loops."""

    def __init__(self, dtype: str, compiled: Callable[[], Layer | None]):
        self.dtype, self.compiled = np.dtype(dtype), compiled

    def layers(self, config: ModelSizes, steps: int, n: int, in_turn: Callable[[Layer | None], Layers]) -> Layers:
        return in_turn(self.compiled() or Loops(config.hidden, steps, n, self.dtype))


def path(name: str, precision: str, config: ModelSizes | None = None) -> paths.Path:
    """The path of that name: eager alone. Raises ValueError for what is a GPU's."""
    if reason := why_not(name, precision):
        raise ValueError(reason)
    dtype = paths.storage(precision)
    return Eager(dtype, lambda: recurrence(np.dtype(dtype)))


def forms(config: ModelSizes) -> dict[str, paths.Path]:
    """What trains such a model here, each as a path in float64: NumPy's loops and the compiled ones."""
    found: dict[str, paths.Path] = {"NumPy's loops": Eager("float64", lambda: None)}
    if recurrence(np.dtype("float32")):
        found["compiled loops"] = Eager("float64", lambda: native.Recurrence(native.build(), "float64"))
    return found


def why_not(name: str, precision: str, config: ModelSizes | None = None, n: int = 1) -> str | None:
    """None where this path can be taken in this precision, else the cause and the cure in one line."""
    if precision in ("tf32", "bf16"):
        return f"{precision} is a precision of GPUs: take float32"
    return None if name == "eager" else f"{name} is a path of GPUs: the processor knows eager alone"


def rule(precision: str, config: ModelSizes, n: int = 1, writing: bool = False) -> dict[str, str | None]:
    """The paths for a model of these sizes: eager alone; arguments as in cuda/ops.py."""
    return {"eager": why_not("eager", precision)}


def writer(layers: Sequence[LayerWeights], head: HeadWeights, table: Array, h: Array, c: Array, logits: Array) -> None:
    """None: the loop over characters is that of rnncore/sample.py."""
    return None


def cores() -> int:
    """Shares of a batch that are worth making: the cores that this process may use, by its affinity and its quota."""
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    limit = Path("/sys/fs/cgroup/cpu.max")
    quota, period = limit.read_text().split() if limit.is_file() else ("max", "100000")
    return count if quota == "max" else max(1, min(count, math.ceil(int(quota) / int(period))))


def speed() -> float:
    """Parameters times characters a second that a share trains, about: 45,000 a second with 243,000 parameters."""
    return 1.1e10


def shares(threads: int) -> int:
    """How many shares of a batch to work on at once where that many threads are wanted."""
    return threads


def memory() -> int:
    """Bytes that this process may use: the machine's memory, or its control group's limit where that is less."""
    there = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limit = Path("/sys/fs/cgroup/memory.max")
    bound = limit.read_text().strip() if limit.is_file() else "max"
    return there if bound == "max" else min(there, int(bound))


def to_device(array: Array) -> Array:
    return array


def to_host(array: Array) -> Array:
    return array


def ids_to_device(ids: Ids) -> Ids:
    """Return symbols' ids, an array of whole numbers on the host, as one of IDS without gaps on the device.

    Raises TypeError for a type of numbers that are not whole.
    """
    ready = ids.dtype == IDS and ids.flags.c_contiguous
    return ids if ready else ids.astype(IDS, order="C", casting="same_kind")


def single_threaded() -> contextlib.AbstractContextManager:
    """A context in which each matrix product runs on the thread that calls it."""
    return _threadpools().limit(limits=1, user_api="blas")


@cache
def _threadpools() -> ThreadpoolController:
    """Those of NumPy among them: to look for them takes milliseconds."""
    return ThreadpoolController()


def synchronize() -> None:
    """Nothing to wait for: NumPy has done its work when it returns."""


def product(a: Array, b: Array, out: Array, add: bool = False) -> None:
    """out = a @ b, or with add out += a @ b; also of stacks (B, R, M) @ (B, M, C), or of one a for all b."""
    if add:
        out += a @ b
    else:
        np.matmul(a, b, out=out)


def row_sums(a: Array, out: Array) -> None:
    """out (R,) = the sum of each row of a (R, M): the same bits wherever the rows lie, unlike a product with ones."""
    a.sum(axis=1, out=out)


@contextlib.contextmanager
def timer() -> Iterator[list[float]]:
    """A context that yields a list, to which its end adds the seconds that what ran inside took."""
    begun = time.perf_counter()
    seconds: list[float] = []
    yield seconds
    seconds.append(time.perf_counter() - begun)


def affine(weight: Array, bias: Array, x: Array, out: Array) -> None:
    """out (R, C) = weight (R, M) @ x (M, C) + bias (R,)."""
    product(weight, x, out)
    out += bias[:, None]


def softmax_cross_entropy(logits: Array, targets: Ids, loss: Array) -> None:
    """Write -log softmax(logits)[target] into loss (T, N), in nats; targets (T, N) are ids.

    logits (V, T, N), softmax over axis 0, leaves as the gradient of the summed loss: p - onehot(target).
    """
    targets = targets[None]
    logits -= logits.max(axis=0)
    picked = np.take_along_axis(logits, targets, axis=0)
    np.exp(logits, out=logits)
    total = logits.sum(axis=0)
    np.subtract(np.log(total), picked[0], out=loss)
    logits /= total
    np.put_along_axis(logits, targets, np.take_along_axis(logits, targets, axis=0) - 1, axis=0)


def gather(table: Array, ids: Ids, out: Array) -> None:
    """out[:, t, n] = table[:, ids[t, n]]: table (R, V), ids (T, N), out (R, T, N)."""
    np.take(table, ids, axis=1, out=out, mode="clip")  # "raise" would buffer the output


def scatter_workspace(symbols: int, positions: int, dtype: np.dtype) -> None:
    """None: `scatter_add` needs no workspace here."""
    return None


def scatter_add(table: Array, ids: Ids, columns: Array, workspace: Array | None = None) -> None:
    """table[:, ids[t, n]] += columns[:, t N + n]: table (R, V), ids (T, N), columns (R, T N); always in one order.

    Few symbols: a product with a one-hot matrix; many: sums over columns sorted by id. workspace: not used here.
    """
    flat, symbols = ids.reshape(-1), table.shape[1]
    if symbols <= 128:
        onehot = np.zeros((len(flat), symbols), columns.dtype)
        onehot[np.arange(len(flat)), flat] = 1
        table += columns @ onehot
        return
    order = np.argsort(flat, kind="stable")
    found, first = np.unique(flat[order], return_index=True)
    table[:, found] += np.add.reduceat(columns[:, order], first, axis=1)


PHILOX_MULTIPLIERS = np.uint64(0xD2511F53), np.uint64(0xCD9E8D57)
PHILOX_WEYL = 0x9E3779B9, 0xBB67AE85


def philox(counter: Sequence[Word], key: Key) -> tuple[Array, Array, Array, Array]:
    """Philox4x32-10 (Salmon et al. 2011): four uint32 arrays, a pure function of counter and key.

    counter: four arrays of uint32 (or numbers), of shapes that broadcast together; key: two numbers below 2^32.
    """
    x0, x1, x2, x3 = np.broadcast_arrays(*(np.asarray(word, np.uint32) for word in counter))
    k0, k1 = key
    m0, m1 = PHILOX_MULTIPLIERS
    for _ in range(10):
        p0, p1 = (np.multiply(x, m, dtype=np.uint64) for x, m in ((x0, m0), (x2, m1)))  # 64 bits in any NumPy
        x0 = (p1 >> np.uint64(32)).astype(np.uint32) ^ x1 ^ np.uint32(k0)
        x2 = (p0 >> np.uint64(32)).astype(np.uint32) ^ x3 ^ np.uint32(k1)
        x1, x3 = p1.astype(np.uint32), p0.astype(np.uint32)
        k0, k1 = (k0 + PHILOX_WEYL[0]) & 0xFFFFFFFF, (k1 + PHILOX_WEYL[1]) & 0xFFFFFFFF
    return x0, x1, x2, x3


def dropout_mask(out: Array, rate: float, counter: Sequence[Word], key: Key, first: int, columns: int) -> None:
    """Fill out (H, T, N) with 0 at probability `rate`, else 1 / (1 - rate) (inverted dropout, Srivastava et al. 2014).

    out is columns first .. first + N of a batch of `columns`: whatever the shares of a batch, its mask is the same.
    Each call of the generator serves eight units of one column with 16 bits each; counter: three words.
    """
    hidden, steps, n = out.shape
    eights = -(-hidden // 8)
    index = ((np.arange(steps, dtype=np.uint32)[:, None] * np.uint32(eights)
              + np.arange(eights, dtype=np.uint32)[:, None, None]) * np.uint32(columns)
             + np.arange(first, first + n, dtype=np.uint32))                               # (eights, T, N)
    words = np.stack(philox((index, *counter), key), axis=1)                              # (eights, 4, T, N)
    bits = np.stack((words & np.uint32(0xFFFF), words >> np.uint32(16)), axis=2)          # (eights, 4, 2, T, N)
    kept = bits.reshape(eights * 8, steps, n)[:hidden] >= np.uint32(round(rate * 65536))
    np.multiply(kept, 1 / (1 - rate), out=out)
