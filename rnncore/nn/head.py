"""The head turns the top layer's output into a loss: a linear layer and the softmax cross-entropy, in nats.

    logits[:, t] = W y[:, t] + b          y (H, T, N), W (V, H), logits (V, T, N)
    loss[t, n] = -log softmax(logits[:, t, n])[target[t, n]]
"""
from .. import kernels
from ..kernels.arrays import Array
from .lstm import Sum, columns


def forward(weight: Array, bias: Array, y: Array, logits: Array) -> None:
    """Write logits (V, T, N)."""
    kernels.of(y).affine(weight, bias, columns(y), columns(logits))


def backward(weight: Array, dlogits: Array, dy: Array) -> None:
    """Write dy (H, T, N) from dlogits (V, T, N)."""
    kernels.of(dy).product(weight.T, columns(dlogits), columns(dy))


def sums(dweight: Array, dbias: Array, y: Array, dlogits: Array) -> list[Sum]:
    """The gradients as in lstm.py: dweight (V, H), dbias (V,)."""
    return [(dweight, columns(dlogits), columns(y)), (dbias, columns(dlogits), None)]
