"""The arithmetic of the optimisers on CuPy arrays: the functions of kernels/cpu/updates.py, each as one kernel.

If the scale of the gradient is NaN, they change nothing. step_control.cu sets it to NaN to skip a step. Numbers that
vary by step (size, correction, rate, scale) may be arrays () of float64 on the card, so a captured step reads new
values.
"""
from cupy import ElementwiseKernel

from ..arrays import Array, Number

ADAM = ElementwiseKernel(
    "T grad, float64 size, float64 correction, float64 beta1, float64 beta2, float64 eps, float64 scale",
    "T param, T m, T v", """
    if (scale == scale) {  // where it is NaN nothing is done
        const T g = grad * (T)scale;
        m = m * (T)beta1 + g * (T)(1 - beta1);
        v = v * (T)beta2 + g * g * (T)(1 - beta2);
        param -= m / (sqrt(v) * (T)correction + (T)eps) * (T)size;
    }
    """, "adam_kernel")


def adam(param: Array, grad: Array, m: Array, v: Array, size: Number, correction: Number, beta1: float, beta2: float,
         eps: float, scale: Number) -> None:
    """Take one step of Adam on flat buffers (P,), in place; arguments as in cpu/updates.py."""
    ADAM(grad, size, correction, beta1, beta2, eps, scale, param, m, v)


MUON_MOMENTUM = ElementwiseKernel(
    "T grad, float64 scale, float64 mu", "T momentum, T block", """
    if (scale == scale) {
        const T g = grad * (T)scale * (T)(1 - mu);
        momentum = momentum * (T)mu + g;
        block = momentum * (T)mu + g;
    }
    """, "muon_momentum_kernel")


def muon_momentum(momentum: Array, grad: Array, scale: Number, mu: float, block: Array) -> None:
    """Update Muon's momentum and write its look-ahead to block; arguments as in cpu/updates.py."""
    MUON_MOMENTUM(grad, scale, mu, momentum, block)


MUON_APPLY = ElementwiseKernel(
    "T change, float64 rate, float64 side, float64 decay, float64 scale", "T weight", """
    if (scale == scale) weight = weight * (T)(1 - rate * decay) - (T)(side * rate) * change;
    """, "muon_apply_kernel")


def muon_apply(weight: Array, change: Array, rate: Number, side: float, decay: float, scale: Number) -> None:
    """Take one step of Muon on a weight matrix, in place; arguments as in cpu/updates.py."""
    MUON_APPLY(change, rate, side, decay, scale, weight)
