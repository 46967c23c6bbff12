"""The embedding is a table look-up, folded into the first layer's input product where that is cheaper.

    x[t] = embedding[ids[t]]^T                      ids (T, N), embedding (V, E), x (T, E, N)
    z[t] = W_ih x[t] + b  =  table[:, ids[t]]       table = W_ih embedding^T + b (4H, V)

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


def forward(embedding, w: lstm.Weights, ids, gates, x):
    """The first layer's input: x (T, E, N), written, or None where gates (T, 4H, N) holds the input's share instead."""
    if folded(len(embedding), ids.size):
        kernels.of(gates).gather(table(embedding, w), ids, gates)
        return None
    x[...] = embedding[ids].transpose(0, 2, 1)
    return x


def backward(embedding, dembedding, w: lstm.Weights, grads: lstm.Weights, ids, x, columns, scratch) -> None:
    """Write dembedding (V, E), and dW_ih and db where it was folded; columns (4H, T N) is dL/dz; x leaves as dL/dx."""
    k = kernels.of(columns)
    if folded(len(embedding), ids.size):
        dtable = k.xp.zeros((len(columns), len(embedding)), columns.dtype)
        k.scatter_add(dtable, ids, columns)
        k.xp.matmul(dtable, embedding, out=grads.w_ih)
        k.xp.matmul(dtable.T, w.w_ih, out=dembedding)
        dtable.sum(axis=1, out=grads.bias)
    else:
        lstm.from_columns(w.w_ih.T, columns, x, scratch)
        dembedding[...] = 0
        k.scatter_add(dembedding.T, ids, lstm.as_columns(x, scratch.input_columns))
