"""The self-check of the compiled loops: native.py uses them only if they agree with the formulas of the LSTM.

The compiler and the processor of a user's machine are not known in advance. So `error` runs a compiled
recurrence.Recurrence and the plain formulas in float64 on the same random numbers, and compares the results. In bf16
the formulas round the operands of each product to bfloat16.

Each step of the formulas begins at the compiled loops' own result of the step before. So a rounding that goes the other
way there does not grow, the error is that of one step, and TOLERANCE can be so tight that one wrong number fails.
"""
from collections.abc import Callable

import numpy as np

from ..arrays import Array, LayerWeights as Weights
from ..interface import CompiledLoops

TOLERANCE = 1e-5  # of the largest number of an array; seen: 1.3e-6 in float32, 5e-7 in bf16


def error(found: CompiledLoops, precision: str = "float32") -> float:
    """Return the largest error of the compiled loops and of the compiled step, relative to the largest number."""
    operand = rounded if precision == "bf16" else lambda a: a
    # One column has code of its own, and so have few columns. The others give tiles of several sizes (product.hpp).
    errors = [_loops(found, n, operand) for n in (1, 2, 5, 32, 41)] + [_step(found, n, operand) for n in (1, 5, 49)]
    return float(np.max(errors))  # NaN if one of them is NaN


def rounded(a: Array) -> Array:
    """Return a, taken as float32, rounded to the nearest bfloat16, and of two that are as near to the even one."""
    bits = np.asarray(a, np.float32).view(np.uint32).astype(np.uint64)
    return ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16 << 16).astype(np.uint32).view(np.float32).astype(np.float64)


def _loops(found: CompiledLoops, n: int, operand: Callable[[Array], Array], steps: int = 3, inputs: int = 57,
           hidden: int = 61) -> float:
    """Return the largest error of the steps of n columns with `keep`, forward and backward.

    The usual sizes give whole panels and parts of one, and odd depths.
    """
    draw = np.random.default_rng(0).standard_normal
    w = Weights(*(a.astype(np.float32) for a in (draw((4 * hidden, inputs)) / 6, draw((4 * hidden, hidden)) / 6,
                                                 draw(4 * hidden))))
    keep = (np.arange(steps * n) % 4 > 0).reshape(steps, n).astype(np.float32)
    states, sizes = (hidden, steps + 1, n), [(inputs, steps, n), (hidden, steps, n), (hidden, n), (hidden, n)]
    h, c, *(x, dy, dh, dc) = (lanes(draw(shape)) for shape in (states, states, *sizes))
    gates, dx, last = lanes(np.zeros((4 * hidden, steps, n))), lanes(np.zeros_like(x)), (dh.copy(), dc.copy())
    found.forward(w, x, gates, h, c, keep)
    activations = gates.copy()
    found.backward(w, gates, c, keep, dy, dh, dc, dx)
    w_ih, w_hh = operand(w.w_ih), operand(w.w_hh)
    pairs: list[tuple[Array, Array]] = []
    for t in range(steps):
        z = w_ih @ operand(x[:, t]) + w_hh @ operand(h[:, t] * keep[t]) + w.bias[:, None]
        pairs += zip((activations[:, t], h[:, t + 1], c[:, t + 1]), _cell(z, keep[t] * c[:, t]), strict=True)
    mine_dh, mine_dc = last
    for t in reversed(range(steps)):
        i, f, g, o = activations[:, t].reshape(4, hidden, n)
        tanh_c, mine_dh = np.tanh(c[:, t + 1]), mine_dh + dy[:, t]
        mine_dc = mine_dc + mine_dh * o * (1 - tanh_c ** 2)
        dz = np.concatenate([mine_dc * g * i * (1 - i), mine_dc * keep[t] * c[:, t] * f * (1 - f),
                             mine_dc * i * (1 - g ** 2), mine_dh * tanh_c * o * (1 - o)])
        mine_dh, mine_dc = w_hh.T @ operand(gates[:, t]) * keep[t], mine_dc * f * keep[t]
        pairs += [(gates[:, t], dz), (dx[:, t], w_ih.T @ operand(gates[:, t]))]
    return _largest([*pairs, (dh, mine_dh), (dc, mine_dc)])


def _step(found: CompiledLoops, n: int, operand: Callable[[Array], Array]) -> float:
    """Return the largest error of two steps of two layers and the head."""
    count, hidden, symbols = 2, 61, 57
    draw = np.random.default_rng(1).standard_normal
    layers = [Weights(*(a.astype(np.float32) for a in (*draw((2, 4 * hidden, hidden)) / 6, draw(4 * hidden))))
              for _ in range(count)]
    head = draw((symbols, hidden)).astype(np.float32), draw(symbols).astype(np.float32)
    table, logits = lanes(draw((4 * hidden, symbols))), lanes(np.zeros((symbols, n)))
    h, c = (lanes(a.swapaxes(0, 1)).swapaxes(0, 1) for a in draw((2, count, hidden, n)))
    advance = found.stepper(layers, head, table, h, c, logits)
    pairs: list[tuple[Array, Array]] = []
    for ids in (np.arange(n) % 5 + 2, symbols - 1 - np.arange(n) % 7):
        h_before, c_before = h.copy(), c.copy()
        advance(ids)
        for k, w in enumerate(layers):
            below = operand(w.w_ih) @ operand(h[k - 1]) + w.bias[:, None] if k else table[:, ids]
            _, *state = _cell(below + operand(w.w_hh) @ operand(h_before[k]), c_before[k])
            pairs += zip((h[k].copy(), c[k].copy()), state, strict=True)
        pairs.append((logits.copy(), operand(head[0]) @ operand(h[-1]) + head[1][:, None]))
    return _largest(pairs)


def _cell(z: Array, c_prev: Array) -> tuple[Array, Array, Array]:
    """Return the activations i f g o (4H, N), h and c (H, N) of pre-activations z (4H, N)."""
    place = np.arange(len(z))[:, None] // len(c_prev)
    gates = np.where(place == 2, np.tanh(z), 0.5 + 0.5 * np.tanh(0.5 * z))
    i, f, g, o = gates.reshape(4, *c_prev.shape)
    c = f * c_prev + i * g
    return gates, o * np.tanh(c), c


def lanes(a: Array) -> Array:
    """Return a float32 copy in which the numbers along the first axis are neighbours in memory."""
    return np.moveaxis(np.ascontiguousarray(np.moveaxis(a, 0, -1), np.float32), -1, 0)


def _largest(pairs: list[tuple[Array, Array]]) -> float:
    """Return the largest difference of the arrays of a pair, relative to the second one's largest number if not 0."""
    return float(np.max([float(np.abs(a - b).max()) / (float(np.abs(b).max()) or 1) for a, b in pairs]))
