"""The embedding is a table look-up. It is folded into the first layer's input product where that is cheaper.

    x[:, t] = embedding[ids[t]]^T                      ids (T, N), embedding (V, E), x (E, T, N)
    z[:, t] = W_ih x[:, t] + b  =  table[:, ids[t]]    table = W_ih embedding^T + b (4H, V)

If V is at most half of T N, the embedding is folded: forward computes the table, one product for each symbol, and
gathers its columns by id; backward adds dz into the columns of the table's gradient. Otherwise forward makes x, and the
layer computes W_ih x + b. A layer that looks its input up gets the folded table without b, and gathers and adds itself.
"""
from typing import NamedTuple

from .. import kernels
from ..config import ModelConfig
from ..kernels.arrays import Array, Ids, Lookup
from . import lstm


class Buffers(NamedTuple):
    """Arrays for a pass over at most (T, N) symbols, made once and written again by each pass."""
    x: Array              # (E, T, N): the first layer's input
    table: Array          # (4H, V): W_ih embedding^T, and b; (4H, 0) if the batch is too small to fold
    onehot: Array | None  # workspace of kernels.scatter_add; None if it needs none

    @property
    def dx(self) -> Array:
        """The gradient of x, in the array of x: backward writes it after the last use of x."""
        return self.x

    @property
    def dtable(self) -> Array:
        """The gradient of the table, in the array of the table, which backward no longer needs."""
        return self.table


class Share(NamedTuple):
    """The arrays of one share of a batch that backward reads: ids (T, N) and dz (4H, T N), and the share's buffers."""
    ids: Ids
    dz: Array
    buffers: Buffers


def buffers(config: ModelConfig, steps: int, n: int, positions: int, like: Array, dz: Array,
            training: bool) -> Buffers:
    """Return buffers for (T, N) symbols that belong to a batch of `positions` symbols.

    The arrays have the dtype and the device of the array `like`. dz: of the first layer. training: a backward follows.
    """
    kernel, dtype = kernels.of(like), like.dtype
    symbols = config.vocab_size if folded(config.vocab_size, positions) else 0
    return Buffers(kernel.activations((config.embed, steps, n), 0, dtype),
                   kernel.activations((4 * config.hidden, symbols), 0, dtype),
                   kernel.scatter_workspace(config.vocab_size, steps * n, dz.dtype) if training else None)


def folded(symbols: int, positions: int) -> bool:
    """Return True if one product for each symbol is cheaper than one for each position."""
    return 2 * symbols <= positions


def table(embedding: Array, w: lstm.Weights, out: Array) -> Array:
    """Write W_ih embedding^T + b into out (4H, V), a column for each symbol, and return out."""
    kernels.of(out).affine(w.w_ih, w.bias, embedding.T, out)
    return out


def forward(embedding: Array, w: lstm.Weights, ids: Ids, fold: bool, z: Array, buffers: Buffers,
            looks_up: bool = False) -> Array | Lookup | None:
    """Look up the first layer's input for ids (T, N).

    If `fold`, write W_ih x + b into z (4H, T, N) and return None; or if the layer `looks_up` its input, leave z
    unchanged and return the table. If not `fold`, leave z unchanged and return x (E, T, N), a view of the buffers.
    """
    k = kernels.of(z)
    if fold and looks_up:
        k.product(w.w_ih, embedding.T, buffers.table)
        return Lookup(buffers.table, ids)
    if fold:
        k.gather(table(embedding, w, buffers.table), ids, z)
        return None
    x = buffers.x[:, :len(ids)]
    k.gather(embedding.T, ids, x)
    return x


def scatter_rows(embedding: Array, dtable: Array, grads: lstm.Weights, rows: slice, shares: list[Share]) -> None:
    """Write some rows of the table's gradient dtable (4H, V), of dW_ih (4H, E) and of db (4H,), from all shares.

    Several threads may work at once, each on its own rows: a row needs no other row of dz.
    """
    k = kernels.of(dtable)
    for number, (ids, dz, buffers) in enumerate(shares):
        k.scatter_add(dtable[rows], ids, dz[rows], buffers.onehot, add=number > 0)
    k.product(dtable[rows], embedding, grads.w_ih[rows])
    k.row_sums(dtable[rows], grads.bias[rows])


def backward(dembedding: Array, w: lstm.Weights, dtable: Array | None, shares: list[Share]) -> None:
    """Write dembedding (V, E), the gradient of the embedding.

    dtable (4H, V) is the table's gradient if the embedding is folded, else None. For None, dembedding is computed from
    the shares, and dx overwrites their x.
    """
    k = kernels.of(dembedding)
    if dtable is not None:
        k.product(dtable.T, w.w_ih, dembedding)
        return
    for number, (ids, dz, buffers) in enumerate(shares):
        dx = buffers.dx[:, :len(ids)]
        k.product(w.w_ih.T, dz, lstm.columns(dx))
        k.scatter_add(dembedding.T, ids, lstm.columns(dx), buffers.onehot, add=number > 0)
