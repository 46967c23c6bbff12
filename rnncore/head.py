"""The head turns the top layer's output into a loss: a linear layer and the softmax cross-entropy, in nats.

    logits[t] = W y[t] + b          y (T, H, N), W (V, H), logits (T, V, N)
    loss[t, n] = -log softmax(logits[t, :, n])[target[t, n]]
"""
from . import kernels, lstm


def forward(weight, bias, y, logits) -> None:
    """Write logits (T, V, N)."""
    kernels.of(y).xp.matmul(weight, y, out=logits)
    logits += bias[:, None]


def backward(weight, dweight, dbias, y, dlogits, dy, scratch) -> None:
    """Write dweight (V, H), dbias (V,) and dy (T, H, N) from dlogits (T, V, N)."""
    k = kernels.of(y)
    columns = lstm.as_columns(dlogits, scratch.logit_columns)
    k.xp.matmul(columns, lstm.as_columns(y, scratch.input_columns).T, out=dweight)
    columns.sum(axis=1, out=dbias)
    k.xp.matmul(weight.T, dlogits, out=dy)
