"""The arithmetic of the optimisers on NumPy arrays, in place: all of Adam, and Muon without its matrix products.

rnncore/optim.py computes the matrix products that make Muon's momentum orthogonal.
"""
import numpy as np

from ..arrays import Array, Number

BLOCK = 1 << 16  # numbers in a block; all operations run on one block before the next, so it stays in the cache


def adam(param: Array, grad: Array, m: Array, v: Array, size: Number, correction: Number, beta1: float, beta2: float,
         eps: float, scale: Number) -> None:
    """Take one step of Adam (Kingma & Ba 2015, algorithm 1) on flat buffers (P,), in place.

        g = scale grad    m = beta1 m + (1 - beta1) g    v = beta2 v + (1 - beta2) g^2
        param -= size m / (correction sqrt(v) + eps)

    param, m (first moment) and v (second moment) are updated. At step t, counted from 1, size = rate / (1 - beta1^t)
    and correction = 1 / sqrt(1 - beta2^t).
    """
    work = np.empty((2, min(BLOCK, len(param))), param.dtype)
    for start in range(0, len(param), BLOCK):
        block = slice(start, start + BLOCK)
        p, m_, v_ = param[block], m[block], v[block]
        g, a = work[:, :len(p)]
        np.multiply(grad[block], scale, out=g)
        np.multiply(g, 1 - beta1, out=a)
        m_ *= beta1
        m_ += a
        g *= g
        g *= 1 - beta2
        v_ *= beta2
        v_ += g
        np.sqrt(v_, out=a)
        a *= correction
        a += eps
        np.divide(m_, a, out=a)
        a *= size
        p -= a


def muon_momentum(momentum: Array, grad: Array, scale: Number, mu: float, block: Array) -> None:
    """Update momentum = mu momentum + g, and write block = mu momentum + g, where g = (1 - mu) scale grad.

    All arrays have one shape. block is Nesterov's look-ahead from the new momentum (Muon, K. Jordan et al. 2024).
    """
    np.multiply(grad, scale * (1 - mu), out=block)
    momentum *= mu
    momentum += block
    block += mu * momentum


def muon_apply(weight: Array, change: Array, rate: Number, side: float, decay: float, scale: Number) -> None:
    """Update weight = (1 - rate decay) weight - rate side change in place (Muon, K. Jordan et al. 2024).

    weight and change have the same shape. change is the momentum that was made orthogonal, so the gradient's scale does
    not matter; a GPU's function needs `scale` to skip a step. change may be overwritten.
    """
    weight *= 1 - rate * decay
    change *= side * rate
    weight -= change
