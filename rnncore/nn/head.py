"""The head turns the top layer's output into a loss: a linear layer and the softmax cross-entropy, in nats.

    logits[:, t] = W y[:, t] + b          y (H, T, N), W (V, H), b (V,), logits (V, T, N)
    loss[t, n] = -log softmax(logits[:, t, n])[target[t, n]]

The kernel's softmax_cross_entropy adds the bias, writes the loss and turns the logits into dL/dlogits in place.
"""
from .. import kernels
from ..kernels.arrays import Array, Ids
from .lstm import Sum, columns


def forward(weight: Array, bias: Array, y: Array, logits: Array) -> None:
    """Write logits (V, T, N) from y (H, T, N)."""
    kernels.of(y).affine(weight, bias, columns(y), columns(logits))


def losses(weight: Array, bias: Array, y: Array, targets: Ids, logits: Array, loss: Array, over: float = 1) -> None:
    """Write loss (T, N) from y (H, T, N) and targets (T, N), and to logits (V, T, N) dL/dlogits divided by `over`."""
    k = kernels.of(y)
    k.product(weight, columns(y), columns(logits))
    k.softmax_cross_entropy(logits, targets, loss, bias, over)


def backward(weight: Array, dlogits: Array, dy: Array) -> None:
    """Write dy (H, T, N) from dlogits (V, T, N)."""
    kernels.of(dy).product(weight.T, columns(dlogits), columns(dy))


def sums(dweight: Array, dbias: Array, y: Array, dlogits: Array) -> list[Sum]:
    """Return the gradients of W and b as sums over time and sequences: dweight (V, H) and dbias (V,), as in lstm.py."""
    return [(dweight, columns(dlogits), columns(y)), (dbias, columns(dlogits), None)]
