"""The kernel module of a GPU: the functions of cpu/ops.py on CuPy arrays, each with a CUDA kernel of its own.

The gate arithmetic is gates.cuh. A kernel is compiled at its first call, so this module can be imported without a
driver. CuPy runs the text of an ElementwiseKernel once for each element of the arrays that are not `raw`: `i` is the
index of the element, and `_ind.size()` the number of elements. An array that is `raw` is indexed by the text itself.
Functions of ids raise TypeError for ids of another type than cpu.IDS.
"""
import contextlib
from collections.abc import Iterator, Sequence

import cupy
import numpy as np
from cupy import ElementwiseKernel

from .. import paths
from ..arrays import Array, CudaArray, HeadWeights, Ids, Key, LayerWeights, Word
from ..cpu import ops as cpu
from ..interface import ModelSizes
from .cublas import ROUNDED, padded
from .paths import FastPath, why_not as why_not
from .text import GATES, PHILOX
from .updates import adam as adam, muon_apply as muon_apply, muon_momentum as muon_momentum
from .writer import Sizes, Writer, card, sizes_of, why_not as why_not_written

name = "cuda"
xp = cupy


def recurrence(precision: str) -> None:
    """Return None: a GPU has no compiled time loops of this kind. Its path says what runs them (paths.py)."""


def path(name: str, precision: str, config: ModelSizes | None = None) -> paths.Path:
    """Return the path of that name for a model. Raises ValueError if `why_not` gives a reason against it."""
    if (name, precision) in (("eager", "float32"), ("eager", "float64")):
        return paths.Path()
    if reason := why_not(name, precision, config):
        raise ValueError(reason)
    return FastPath(name, precision)


def forms(config: ModelSizes) -> dict[str, paths.Path]:
    """Return by name each fast path that can train a model of these sizes in float64."""
    return {name: path(name, "float64", config) for name in paths.NAMES[1:] if why_not(name, "float64", config) is None}


def why_slower(precision: str) -> None:
    """Return None: a slower path of a card is named where it is chosen."""


def rule(precision: str, config: ModelSizes, n: int = 1, writing: bool = False) -> dict[str, str | None]:
    """Return the paths for a model of these sizes with n columns on the current card, ordered by `paths.rule`."""
    def reason(name: str) -> str | None:
        found = why_not(name, precision, config, n)
        if found is None and writing and name != "eager":
            number = np.dtype(paths.storage(precision)).itemsize
            found = why_not_written(Sizes(config.layers, config.hidden, config.vocab_size, number), card())
        return found

    return paths.rule(precision, config, reason, writing)


def writer(layers: Sequence[LayerWeights], head: HeadWeights, table: Array, h: Array, c: Array,
           logits: Array) -> Writer | None:
    """Return a Writer from a stack's weights and state, or None if this card cannot run one for the model.

    The arguments are those of cuda/writer.py's Writer. With None a warning of the category paths.Slower is given: every
    symbol is then drawn on the host. A training run gets the warning too. Its samples are short, but a text that is
    written later may be long.
    """
    on = card()
    if (reason := why_not_written(sizes_of(h, logits), on)) is None:
        return Writer(xp, layers, head, table, h, c, logits, on)
    paths.warn(f"{reason}: text is drawn on the host, {paths.price('graph', 'eager', str(h.dtype), h.shape[-1])}")
    return None


def cores() -> int:
    """Return 1: a batch is not split into shares, because a card splits the work itself."""
    return 1


def speed(precision: str = "float32") -> float:
    """Return the assumed throughput (parameters x characters per second). An H100 has 3.6e12 with 3 x 512, float32."""
    return 3e12


def shares(threads: int) -> int:
    """Return 1 for any number of threads."""
    return 1


def memory() -> int:
    """Return the total memory of the current card, in bytes."""
    return cupy.cuda.Device().mem_info[1]


def activations(shape: tuple[int, ...], axis: int, dtype: np.dtype) -> Array:
    """Return an uninitialised array of this shape: the sequences, which are its last axis, are neighbours."""
    return cupy.empty(shape, dtype)


def to_device(array: Array) -> Array:
    """Return a NumPy array as a CuPy array on the current card."""
    return cupy.asarray(array)


def to_host(array: Array) -> Array:
    """Return a CuPy array as a NumPy array. This waits for the card."""
    return cupy.asnumpy(array)


def ids_to_device(ids: Ids) -> Ids:
    """Return symbol ids from the host as an array of cpu.IDS on the card. Raises TypeError as in cpu/ops.py."""
    return to_device(cpu.ids_to_device(ids))


def single_threaded() -> contextlib.nullcontext:
    """Return a context that does nothing: a GPU's products do not run on threads of this process."""
    return contextlib.nullcontext()


def synchronize() -> None:
    """Wait until the card has done all work in the current stream."""
    cupy.cuda.get_current_stream().synchronize()


def product(a: Array, b: Array, out: Array, add: bool = False) -> None:
    """Compute out = a @ b, or out += a @ b if add; arguments as in cpu/ops.py."""
    if makes := paths.products():
        makes.product(a, b, out, add)
    elif add:
        out += a @ b
    else:
        xp.matmul(a, b, out=out)


def row_sums(a: Array, out: Array) -> None:
    """Compute out (R,) = the sum of each row of a (R, M)."""
    if makes := paths.products():
        makes.row_sums(a, out)
    else:
        a.sum(axis=1, out=out)


@contextlib.contextmanager
def timer() -> Iterator[list[float]]:
    """Return a context as in cpu/ops.py. The card's clock measures the seconds, in the current stream."""
    begun, ended = cupy.cuda.Event(), cupy.cuda.Event()
    seconds: list[float] = []
    begun.record()
    yield seconds
    ended.record()
    ended.synchronize()
    seconds.append(cupy.cuda.get_elapsed_time(begun, ended) / 1e3)


def affine(weight: Array, bias: Array, x: Array, out: Array) -> None:
    """Compute out = weight @ x + bias; arguments as in cpu/ops.py."""
    product(weight, x, out)
    out += bias[:, None]


GATES_FORWARD = ElementwiseKernel(
    "raw T z, raw T recurrent, T c_prev, T keep", "raw T gates, T c, T h", """
    const ptrdiff_t m = _ind.size();
    T gi = z[i] + recurrent[i], gf = z[i + m] + recurrent[i + m];
    T gg = z[i + 2 * m] + recurrent[i + 2 * m], go = z[i + 3 * m] + recurrent[i + 3 * m];
    gates_forward(gi, gf, gg, go, c_prev, keep, c, h);
    gates[i] = gi, gates[i + m] = gf, gates[i + 2 * m] = gg, gates[i + 3 * m] = go;
    """, "gates_forward_kernel", preamble=GATES)


def gates_forward(z: Array, recurrent: Array, c_prev: Array, keep: Array | None, gates: Array, c: Array,
                  h: Array) -> None:
    """Compute one step of the LSTM cell; arguments as in cpu/gates.py."""
    GATES_FORWARD(z, recurrent, c_prev, _mask(keep, c), gates, c, h)


GATES_BACKWARD = ElementwiseKernel(
    "raw T gates, T c_prev, T c, T keep, T dh", "raw T dz, T dc", """
    const ptrdiff_t m = _ind.size();
    T gi = gates[i], gf = gates[i + m], gg = gates[i + 2 * m], go = gates[i + 3 * m], through, carry;
    gates_factors(gi, gf, gg, go, c_prev, c, keep, through, carry);
    gates_backward(gi, gf, gg, go, through, carry, dh, dc);
    dz[i] = gi, dz[i + m] = gf, dz[i + 2 * m] = gg, dz[i + 3 * m] = go;
    """, "gates_backward_kernel", preamble=GATES)


def gates_backward(gates: Array, c_prev: Array, c: Array, keep: Array | None, dh: Array, dc: Array,
                   dz: Array) -> None:
    """Compute the gradient of `gates_forward`; arguments as in cpu/gates.py."""
    GATES_BACKWARD(gates, c_prev, c, _mask(keep, c), dh, dz, dc)


def _mask(keep: Array | None, like: Array) -> Array | np.generic:
    """Return keep, or the number 1 if keep is None: it keeps everything, and the kernel broadcasts it."""
    return like.dtype.type(1) if keep is None else keep


def _check_ids(name: str, ids: Ids) -> None:
    """Raise TypeError if the ids are not of the type that the kernels read."""
    if ids.dtype != cpu.IDS:
        raise TypeError(f"{name} must be an array of {cpu.IDS}, not of {ids.dtype}: use ids_to_device")


SOFTMAX_CROSS_ENTROPY = ElementwiseKernel(
    "int64 target, int64 symbols, float64 over, raw T bias", "raw T logits, T loss", """
    const ptrdiff_t columns = _ind.size();  // logits is (V, T, N): one thread a column
    T largest = (logits[i] += bias[0]), total = 0;
    for (ptrdiff_t v = 1; v < symbols; v++) largest = max(largest, (T)(logits[i + v * columns] += bias[v]));
    const T chosen = logits[i + target * columns] - largest;
    for (ptrdiff_t v = 0; v < symbols; v++)
        total += logits[i + v * columns] = exp((T)logits[i + v * columns] - largest);
    loss = log(total) - chosen;
    for (ptrdiff_t v = 0; v < symbols; v++) logits[i + v * columns] /= total * (T)over;
    logits[i + target * columns] -= 1 / (T)over;
    """, "softmax_cross_entropy_kernel")


def softmax_cross_entropy(logits: Array, targets: Ids, loss: Array, bias: Array | None = None, over: float = 1) -> None:
    """Compute the loss, and its gradient in place of the logits; arguments as in cpu/ops.py."""
    _check_ids("targets", targets)
    bias = xp.zeros(len(logits), logits.dtype) if bias is None else bias
    SOFTMAX_CROSS_ENTROPY(targets, len(logits), over, bias, logits, loss)


GATHERED = 16  # rows of a column that one thread copies: it reads the id and divides by `columns` once for all of them
GATHER = ElementwiseKernel(
    "raw T table, raw int64 ids, int64 symbols, int64 columns, int64 count, int64 rows", "raw T out", """
    const ptrdiff_t column = i % columns, first = i / columns * count, id = ids[column];  // out is (R, T, N)
    #pragma unroll 8
    for (ptrdiff_t r = first; r < first + count && r < rows; r++) out[r * columns + column] = table[r * symbols + id];
    """, "gather_kernel")


def gather(table: Array, ids: Ids, out: Array) -> None:
    """Compute out[:, t, n] = table[:, ids[t, n]]; arguments as in cpu/ops.py."""
    _check_ids("ids", ids)
    GATHER(table, ids, table.shape[1], ids.size, GATHERED, len(table), out, size=-(-len(table) // GATHERED) * ids.size)


WORKSPACE = 1 << 24  # the largest size of a one-hot matrix, in numbers
ONE_HOT = ElementwiseKernel(
    "raw int64 ids, int64 first, int64 positions, T one", "T onehot", """
    onehot = ids[first + i % positions] == i / positions ? one : (T)0;  // onehot is (V, positions)
    """, "one_hot_kernel")


def scatter_workspace(symbols: int, positions: int, dtype: np.dtype) -> CudaArray:
    """Return a workspace for `scatter_add`: a one-hot matrix (V, K) for K positions at a time; rows may be padded."""
    return padded(symbols, max(1, min(positions, WORKSPACE // symbols)), dtype)


def scatter_add(table: Array, ids: Ids, columns: Array, workspace: Array | None = None, add: bool = True) -> None:
    """Compute table[:, ids[t, n]] += columns[:, t N + n]; in 16 bits, if `workspace` or columns are of 16 bits."""
    # Atomic additions would run in a random order, so the bits of the sum would vary. Products with one-hot matrices
    # always add in the same order.
    _check_ids("ids", ids)
    workspace = scatter_workspace(table.shape[1], ids.size, columns.dtype) if workspace is None else workspace
    one = workspace.dtype.type(0x3F80 if workspace.dtype == ROUNDED["bf16"] else 1)  # the bits of bfloat16's 1
    for first in range(0, ids.size, workspace.shape[1]):
        onehot = workspace[:, :ids.size - first]
        ONE_HOT(ids, first, onehot.shape[1], one, onehot)
        product(columns[:, first:first + onehot.shape[1]], onehot.T, table, add=add or first > 0)


PHILOX_KERNEL = ElementwiseKernel(
    "uint32 c0, uint32 c1, uint32 c2, uint32 c3, uint32 k0, uint32 k1",
    "uint32 x0, uint32 x1, uint32 x2, uint32 x3", """
    unsigned x[4] = {c0, c1, c2, c3};
    philox4x32(x, k0, k1);
    x0 = x[0], x1 = x[1], x2 = x[2], x3 = x[3];
    """, "philox_kernel", preamble=PHILOX)


def philox(counter: Sequence[Word], key: Key) -> tuple[Array, Array, Array, Array]:
    """Return four uint32 arrays of random words, by Philox4x32-10; arguments as in cpu/ops.py."""
    return PHILOX_KERNEL(*(xp.asarray(word, np.uint32) for word in counter), *map(np.uint32, key))


DROPOUT_MASK = ElementwiseKernel(
    "uint32 threshold, float64 kept, uint32 c1, uint32 c2, uint32 c3, uint32 k0, uint32 k1, int64 first, int64 batch, "
    "int64 hidden, int64 steps, int64 columns", "T out", """
    const ptrdiff_t column = i % columns, t = i / columns % steps, unit = i / (columns * steps);  // out is (H, T, N)
    unsigned x[4] = {(unsigned)((t * ((hidden + 7) / 8) + unit / 8) * batch + first + column), c1, c2, c3};
    philox4x32(x, k0, k1);
    const unsigned bits = x[unit % 8 / 2] >> (unit % 2 * 16) & 0xFFFF;
    out = bits >= threshold ? (T)kept : (T)0;
    """, "dropout_mask_kernel", preamble=PHILOX)


def dropout_mask(out: Array, rate: float, counter: Sequence[Word], key: Key, first: int, columns: int) -> None:
    """Fill out (H, T, N) with 0 with the probability `rate`, else with 1 / (1 - rate); arguments as in cpu/ops.py.

    A word of the counter may be an array () of uint32 on the card, so that a captured step makes a new mask each time.
    """
    words = [word if isinstance(word, xp.ndarray) else np.uint32(word) for word in (*counter, *key)]
    DROPOUT_MASK(np.uint32(round(rate * 65536)), 1 / (1 - rate), *words, first, columns, *out.shape, out)
