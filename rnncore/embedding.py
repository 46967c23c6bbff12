"""The embedding is a table look-up, folded into the first layer's input product where that is cheaper.

    x[:, t] = embedding[ids[t]]^T                      ids (T, N), embedding (V, E), x (E, T, N)
    z[:, t] = W_ih x[:, t] + b  =  table[:, ids[t]]    table = W_ih embedding^T + b (4H, V)

Where V is well below T N, the product with every row of the embedding is made once and its columns are gathered by
id; backward adds dz into the columns of that small table. Otherwise x is made and the layer projects it.
"""
from . import kernels, lstm


def folded(symbols: int, positions: int) -> bool:
    """Is one product per symbol cheaper than one per position?"""
    return 2 * symbols <= positions


def table(embedding, w: lstm.Weights):
    """The first layer's input share for every symbol: (4H, V)."""
    product = w.w_ih @ embedding.T
    product += w.bias[:, None]
    return product


def forward(embedding, w: lstm.Weights, ids, fold: bool, gates, x):
    """The first layer's input: x (E, T, N), written; to fold, None, and gates (4H, T, N) holds the input's share."""
    if fold:
        kernels.of(gates).gather(table(embedding, w), ids, gates)
        return None
    x[...] = embedding[ids].transpose(2, 0, 1)
    return x


def scatter_rows(embedding, dtable, grads: lstm.Weights, rows: slice, shares) -> None:
    """Rows of the table's gradient, dtable (4H, V), of dW_ih and of db; shares: ids (T, N) and dz (4H, T N) of each."""
    k = kernels.of(dtable)
    dtable[rows] = 0
    for ids, dz in shares:
        k.scatter_add(dtable[rows], ids, dz[rows])
    k.xp.matmul(dtable[rows], embedding, out=grads.w_ih[rows])
    dtable[rows].sum(axis=1, out=grads.bias[rows])


def backward(dembedding, w: lstm.Weights, dtable, shares) -> None:
    """Write dembedding (V, E), from dtable where that is given, else from the shares."""
    k = kernels.of(dembedding)
    if dtable is not None:
        k.xp.matmul(dtable.T, w.w_ih, out=dembedding)
        return
    dembedding[...] = 0
    for ids, dz in shares:
        k.scatter_add(dembedding.T, ids, k.xp.matmul(w.w_ih.T, dz))
