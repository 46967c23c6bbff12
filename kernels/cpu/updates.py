"""What an optimiser does to NumPy arrays, written in place: the arithmetic of Adam, and Muon's but its products."""
import numpy as np

from ..arrays import Array, Number

BLOCK = 1 << 16  # numbers that a pass of several operations takes at a time: small enough to stay in the cache


def adam(param: Array, grad: Array, m: Array, v: Array, size: Number, correction: Number, beta1: float, beta2: float,
         eps: float, scale: Number) -> None:
    """One step of Adam (Kingma & Ba 2015, algorithm 1) on flat buffers (P,), in place.

    The gradient is `scale * grad`; param, m (first moment) and v (second moment) are updated. At step t from 1
    size = rate / (1 - beta1^t), correction = 1 / sqrt(1 - beta2^t).
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
    """momentum = mu momentum + (1 - mu) scale grad, in place; block = mu momentum + (1 - mu) scale grad."""
    gradient = grad * scale
    gradient *= 1 - mu
    momentum *= mu
    momentum += gradient
    np.multiply(momentum, mu, out=block)
    block += gradient


def muon_apply(weight: Array, change: Array, rate: Number, side: float, decay: float, scale: Number) -> None:
    """weight = (1 - rate decay) weight - rate side change, in place, whatever the gradient's scale."""
    weight *= 1 - rate * decay
    weight -= side * rate * change
