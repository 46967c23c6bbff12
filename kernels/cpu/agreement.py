"""The self-check of the compiled loops: native.py uses them only if they agree with the formulas of the LSTM.

The compiler and the processor of a user's machine are not known in advance. So `loops` and `step` run a compiled
native.Recurrence in float32 and the plain formulas in float64 on the same random numbers, and compare the results.
"""
import numpy as np

from ..arrays import LayerWeights as Weights
from ..interface import CompiledLoops


def loops(found: CompiledLoops) -> bool:
    """Return True if the compiled loops, forward and backward, agree with the formulas."""
    # host.cpp has separate code for one column. The other numbers give full and partly filled tiles (product.hpp).
    return all(_loops(found, n) for n in (1, 5, 32, 41, 49))


def _loops(found: CompiledLoops, n: int) -> bool:
    """Return True if three steps of n columns with `keep` give the states and gradients of lstm.py's formulas."""
    steps, inputs, hidden = 3, 4, 6
    draw = np.random.default_rng(0).standard_normal
    w = Weights(draw((4 * hidden, inputs)), draw((4 * hidden, hidden)), draw(4 * hidden))
    x, dy, (h, c) = draw((inputs, steps, n)), draw((hidden, steps, n)), draw((2, hidden, steps + 1, n))
    keep = (np.arange(steps * n) % 4 > 0).reshape(steps, n) * 1.0
    z, dh, dc = np.zeros((4 * hidden, steps, n)), np.zeros((hidden, n)), np.zeros((hidden, n))
    dx, dz = np.zeros_like(x), np.zeros_like(z)
    x32, z32, h32, c32, dy32, dh32, dc32, dx32 = map(_lanes, (x, z, h, c, dy, dh, dc, dx))
    mine = [x32, z32, h32, c32, keep.astype(np.float32), dy32, dh32, dc32, dx32]
    my_w = Weights(*(a.astype(np.float32) for a in w))
    found.forward(my_w, *mine[:5])
    found.backward(my_w, mine[1], *mine[3:])
    for t in range(steps):
        z[:, t] = _activations(w.w_ih @ x[:, t] + w.w_hh @ (h[:, t] * keep[t]) + w.bias[:, None])
        i, f, g, o = z[:, t].reshape(4, hidden, n)
        c[:, t + 1] = f * keep[t] * c[:, t] + i * g
        h[:, t + 1] = o * np.tanh(c[:, t + 1])
    for t in reversed(range(steps)):
        i, f, g, o = z[:, t].reshape(4, hidden, n)
        dh, tanh_c = dh + dy[:, t], np.tanh(c[:, t + 1])
        dc = dc + dh * o * (1 - tanh_c ** 2)
        dz[:, t] = np.concatenate([dc * g * i * (1 - i), dc * keep[t] * c[:, t] * f * (1 - f), dc * i * (1 - g ** 2),
                                   dh * tanh_c * o * (1 - o)])
        dx[:, t], dh, dc = w.w_ih.T @ dz[:, t], w.w_hh.T @ dz[:, t] * keep[t], dc * f * keep[t]
    pairs = zip(mine[1:4] + mine[6:], (dz, h, c, dh, dc, dx), strict=True)
    return all(np.allclose(a, b, rtol=1e-3, atol=1e-4) for a, b in pairs)


def step(found: CompiledLoops) -> bool:
    """Return True if the compiled step, over two layers and the head, agrees with the formulas."""
    count, hidden, symbols = 2, 19, 7
    draw = np.random.default_rng(1).standard_normal
    table, head = draw((4 * hidden, symbols)), (draw((symbols, hidden)), draw(symbols))
    layers = [(*0.3 * draw((2, 4 * hidden, hidden)), draw(4 * hidden)) for _ in range(count)]
    pairs: list[tuple[np.ndarray, np.ndarray]] = []
    single = ([Weights(*(a.astype(np.float32) for a in w)) for w in layers],
              (head[0].astype(np.float32), head[1].astype(np.float32)), _lanes(table))
    for n in (1, 5, 49):
        h, c = draw((2, count, hidden, n))
        mine = [_lanes(a.swapaxes(0, 1)).swapaxes(0, 1) for a in (h, c)] + [_lanes(np.zeros((symbols, n)))]
        advance = found.stepper(*single, *mine)
        for ids in (np.arange(n) % 5 + 2, 6 - np.arange(n) % 7):
            advance(ids)
            for k, (w_ih, w_hh, bias) in enumerate(layers):
                z = (w_ih @ h[k - 1] + bias[:, None] if k else table[:, ids]) + w_hh @ h[k]
                i, f, g, o = _activations(z).reshape(4, hidden, n)
                c[k] = f * c[k] + i * g
                h[k] = o * np.tanh(c[k])
        pairs += zip(mine, (h, c, head[0] @ h[-1] + head[1][:, None]), strict=True)
    return all(np.allclose(a, b, rtol=1e-3, atol=1e-4) for a, b in pairs)


def _lanes(a: np.ndarray) -> np.ndarray:
    """Return a float32 copy in which the entries along the first axis are neighbours in memory."""
    return np.moveaxis(np.ascontiguousarray(np.moveaxis(a, 0, -1), np.float32), -1, 0)


def _activations(z: np.ndarray) -> np.ndarray:
    """Return the activations i f g o (4H, N) of pre-activations z (4H, N)."""
    return np.where(np.arange(len(z))[:, None] // (len(z) // 4) == 2, np.tanh(z), 0.5 + 0.5 * np.tanh(0.5 * z))
