"""The embedding is a table look-up, folded into the first layer's input product where that is cheaper.

    x[:, t] = embedding[ids[t]]^T                      ids (T, N), embedding (V, E), x (E, T, N)
    z[:, t] = W_ih x[:, t] + b  =  table[:, ids[t]]    table = W_ih embedding^T + b (4H, V)

Where V is well below T N, the product with every row of the embedding is made once and its columns are gathered by
id; backward adds dz into the columns of that small table. Otherwise x is made and the layer projects it.
"""
from typing import NamedTuple

from .. import kernels
from ..config import ModelConfig
from ..kernels.arrays import Array, Ids
from . import lstm


class Room(NamedTuple):
    """Arrays for a pass over at most (T, N) symbols of a batch of so many positions, made once."""
    x: Array              # (E, T, N)
    table: Array          # (4H, V); (4H, 0) where the batch is too small to fold
    onehot: Array | None  # what kernels.scatter_add works in, if anything

    @property
    def dx(self) -> Array:
        """The array of x, when backward needs x no more: the gradient there."""
        return self.x

    @property
    def dtable(self) -> Array:
        """The array of the table, when backward needs that no more: its gradient."""
        return self.table


class Share(NamedTuple):
    """What the backward of one share of a batch goes by: ids (T, N) and dz (4H, T N)."""
    ids: Ids
    dz: Array
    room: Room


def room(config: ModelConfig, steps: int, n: int, positions: int, like: Array, training: bool) -> Room:
    """For (T, N) symbols out of a batch of `positions`, of the dtype and on the device of an array."""
    kernel, dtype = kernels.of(like), like.dtype
    symbols = config.vocab_size if folded(config.vocab_size, positions) else 0
    return Room(kernel.xp.empty((config.embed, steps, n), dtype), kernel.xp.empty((4 * config.hidden, symbols), dtype),
                kernel.scatter_workspace(config.vocab_size, steps * n, dtype) if training else None)


def folded(symbols: int, positions: int) -> bool:
    """Is one product per symbol cheaper than one per position?"""
    return 2 * symbols <= positions


def table(embedding: Array, w: lstm.Weights, out: Array) -> Array:
    """Write the first layer's input share for every symbol: out (4H, V), which is returned."""
    kernels.of(out).affine(w.w_ih, w.bias, embedding.T, out)
    return out


def forward(embedding: Array, w: lstm.Weights, ids: Ids, fold: bool, z: Array, room: Room) -> Array | None:
    """The first layer's input: x (E, T, N); to fold, None, and z (4H, T, N) holds the input's share."""
    k = kernels.of(z)
    if fold:
        k.gather(table(embedding, w, room.table), ids, z)
        return None
    x = room.x[:, :len(ids)]
    k.gather(embedding.T, ids, x)
    return x


def scatter_rows(embedding: Array, dtable: Array, grads: lstm.Weights, rows: slice, shares: list[Share]) -> None:
    """Rows of the table's gradient, dtable (4H, V), of dW_ih and of db, from all shares of the batch."""
    k = kernels.of(dtable)
    dtable[rows] = 0
    for ids, dz, room in shares:
        k.scatter_add(dtable[rows], ids, dz[rows], room.onehot)
    k.product(dtable[rows], embedding, grads.w_ih[rows])
    k.row_sums(dtable[rows], grads.bias[rows])


def backward(dembedding: Array, w: lstm.Weights, dtable: Array | None, shares: list[Share]) -> None:
    """Write dembedding (V, E), from dtable where that is given, else from the shares, whose x is used up."""
    k = kernels.of(dembedding)
    if dtable is not None:
        k.product(dtable.T, w.w_ih, dembedding)
        return
    dembedding[...] = 0
    for ids, dz, room in shares:
        dx = room.dx[:, :len(ids)]
        k.product(w.w_ih.T, dz, lstm.columns(dx))
        k.scatter_add(dembedding.T, ids, lstm.columns(dx), room.onehot)
