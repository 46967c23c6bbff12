"""The engine's mathematics as the papers write it: float64, one sequence, one step, one gate at a time, by hand.

Nothing here is fast, and nothing is shared with the engine, which must agree with it. Of one sequence:

    E embedding   H hidden   V symbols   T steps                x_t (E,), h_t and c_t (H,), z_t (V,)
    keep_t is 0 where a new document begins, else 1; h and c below stand for keep_t h_{t-1} and keep_t c_{t-1}

    i   = sigmoid(W_i x_t + U_i h + b_i)            how much of the new is let in
    f   = sigmoid(W_f x_t + U_f h + b_f)            how much of the old is kept
    g   =    tanh(W_g x_t + U_g h + b_g)            the new
    o   = sigmoid(W_o x_t + U_o h + b_o)            how much of the cell is shown
    c_t = f * c + i * g
    h_t = o * tanh(c_t)                             is x_t of the next layer, times its dropout mask
    z_t = W h_t + b,   loss_t = -log softmax(z_t)[target_t]

The gradient of `a` is `da`. Tensors have PyTorch's names and shapes: the four gates are blocks of rows, in the order i f g o.
"""
from typing import NamedTuple

import numpy as np

GATES = "ifgo"


class Weights(NamedTuple):
    """One layer's, or their gradients."""
    w: np.ndarray  # (4H, E)
    u: np.ndarray  # (4H, H)
    b: np.ndarray  # (4H,)


class Step(NamedTuple):
    """What one step of one layer leaves for its backward."""
    x: np.ndarray  # (E,), all others (H,)
    h_prev: np.ndarray
    c_prev: np.ndarray
    i: np.ndarray
    f: np.ndarray
    g: np.ndarray
    o: np.ndarray
    c: np.ndarray


class Result(NamedTuple):
    """Of a batch. The gradients are those of  loss + <dh, h> + <dc, c>,  dh and dc being what came in from later."""
    loss: float        # summed over all T N predictions, in nats
    logits: np.ndarray  # (T, V, N)
    h: np.ndarray      # (L, H, N), after the last step
    c: np.ndarray
    grads: dict        # by name
    dx: np.ndarray     # (T, E, N), at the embedded input
    dh0: np.ndarray    # (L, H, N), at the initial state
    dc0: np.ndarray


def sigmoid(a):
    return 1 / (1 + np.exp(-a))


def gate(tensor, name):
    """The rows of one gate: a view."""
    hidden, place = len(tensor) // 4, GATES.index(name)
    return tensor[place * hidden:(place + 1) * hidden]


def layer_weights(tensors, layer):
    return Weights(*(tensors[f"lstm.{kind}_l{layer}"] for kind in ("weight_ih", "weight_hh", "bias_ih")))


def cell_forward(weights, x, h_prev, c_prev):
    """One step: (h, c, Step)."""
    a = {q: gate(weights.w, q) @ x + gate(weights.u, q) @ h_prev + gate(weights.b, q) for q in GATES}
    i, f, g, o = sigmoid(a["i"]), sigmoid(a["f"]), np.tanh(a["g"]), sigmoid(a["o"])
    c = f * c_prev + i * g
    return o * np.tanh(c), c, Step(x, h_prev, c_prev, i, f, g, o, c)


def cell_backward(weights, dweights, step, dh, dc):
    """Add to dweights; return (dx, dh_prev, dc_prev)."""
    tanh_c = np.tanh(step.c)
    dc = dc + dh * step.o * (1 - tanh_c ** 2)     # c is seen by the next step and through h
    da = {"i": dc * step.g * step.i * (1 - step.i),
          "f": dc * step.c_prev * step.f * (1 - step.f),
          "g": dc * step.i * (1 - step.g ** 2),
          "o": dh * tanh_c * step.o * (1 - step.o)}
    dx, dh_prev = np.zeros_like(step.x), np.zeros_like(step.h_prev)
    for q in GATES:
        gate(dweights.w, q)[...] += np.outer(da[q], step.x)
        gate(dweights.u, q)[...] += np.outer(da[q], step.h_prev)
        gate(dweights.b, q)[...] += da[q]
        dx += gate(weights.w, q).T @ da[q]
        dh_prev += gate(weights.u, q).T @ da[q]
    return dx, dh_prev, dc * step.f


def layer_forward(weights, x, h, c, keep):
    """One layer over one sequence: x (T, E) -> y (T, H), the last h and c, and the tape of its steps."""
    y, tape = [], []
    for x_t, keep_t in zip(x, keep, strict=True):
        h, c, step = cell_forward(weights, x_t, keep_t * h, keep_t * c)
        y.append(h)
        tape.append(step)
    return np.array(y), h, c, tape


def layer_backward(weights, dweights, tape, keep, dy, dh, dc):
    """dh and dc come in from after the last step; returns dx (T, E) and dh, dc at the initial state."""
    dx = []
    for step, keep_t, dy_t in zip(reversed(tape), reversed(keep), reversed(dy), strict=True):
        dx_t, dh_prev, dc_prev = cell_backward(weights, dweights, step, dh + dy_t, dc)
        dh, dc = keep_t * dh_prev, keep_t * dc_prev
        dx.append(dx_t)
    return np.array(dx[::-1]), dh, dc


def cross_entropy(z, target):
    """Of one prediction: the loss in nats and dz; the largest logit is taken off so that exp cannot overflow."""
    e = np.exp(z - z.max())
    dz = e / e.sum()
    loss = np.log(e.sum()) - (z[target] - z.max())
    dz[target] -= 1
    return loss, dz


def sequence(tensors, grads, ids, targets, h0, c0, keep, masks, dh, dc):
    """One sequence, forward and backward; adds to grads. h0, c0, dh, dc: (L, H); masks: L arrays (T, H)."""
    layers = range(len(h0))
    weights, dweights = ([layer_weights(t, k) for k in layers] for t in (tensors, grads))
    head, bias = tensors["head.weight"], tensors["head.bias"]
    x, h, c, tapes = tensors["embedding.weight"][ids], [None] * len(h0), [None] * len(h0), [None] * len(h0)
    for k in layers:
        y, h[k], c[k], tapes[k] = layer_forward(weights[k], x, h0[k], c0[k], keep)
        x = y * masks[k]
    logits = [head @ x_t + bias for x_t in x]

    loss, dx = 0.0, np.zeros_like(x)
    for t, (z, target) in enumerate(zip(logits, targets, strict=True)):
        loss_t, dz = cross_entropy(z, target)
        loss += loss_t
        grads["head.weight"] += np.outer(dz, x[t])
        grads["head.bias"] += dz
        dx[t] = head.T @ dz
    dh0, dc0 = np.zeros_like(h0), np.zeros_like(c0)
    for k in reversed(layers):
        dx, dh0[k], dc0[k] = layer_backward(weights[k], dweights[k], tapes[k], keep, dx * masks[k], dh[k], dc[k])
    for symbol, dx_t in zip(ids, dx, strict=True):
        grads["embedding.weight"][symbol] += dx_t
    return loss, np.array(logits), np.array(h), np.array(c), dx, dh0, dc0


def run(tensors, ids, targets, h0=None, c0=None, keep=None, masks=None, dh=None, dc=None) -> Result:
    """A batch: ids, targets and keep (T, N), states and what arrives at the last state (L, H, N), masks (L, T, H, N)."""
    tensors = {name: np.asarray(tensor, np.float64) for name, tensor in tensors.items()}
    layers = sum("weight_hh" in name for name in tensors)
    hidden, (steps, n) = tensors["head.weight"].shape[1], ids.shape
    h0, c0, dh, dc = (np.zeros((layers, hidden, n)) if a is None else a for a in (h0, c0, dh, dc))
    keep = np.ones((steps, n)) if keep is None else keep
    masks = np.ones((layers, steps, hidden, n)) if masks is None else masks
    grads = {name: np.zeros_like(tensor) for name, tensor in tensors.items()}
    columns = [sequence(tensors, grads, ids[:, j], targets[:, j], h0[:, :, j], c0[:, :, j], keep[:, j],
                        [mask[:, :, j] for mask in masks], dh[:, :, j], dc[:, :, j]) for j in range(n)]
    losses, *arrays = zip(*columns, strict=True)
    logits, h, c, dx, dh0, dc0 = (np.stack(a, axis=-1) for a in arrays)
    return Result(sum(losses), logits, h, c, grads, dx, dh0, dc0)


def adam(p, g, m, v, rate, beta1, beta2, eps, step):
    """Adam (Kingma & Ba 2015, algorithm 1) of one number: the new p, m and v; step counts from 1."""
    m = beta1 * m + (1 - beta1) * g
    v = beta2 * v + (1 - beta2) * g * g
    m_hat, v_hat = m / (1 - beta1 ** step), v / (1 - beta2 ** step)
    return p - rate * m_hat / (v_hat ** 0.5 + eps), m, v


def muon(w, g, m, rate, mu, decay):
    """Muon (K. Jordan 2024) of one gate block w (R, C): the new w and m.

    The quintic acts on the singular values alone, so it is done on those of the momentum, divided by its norm.
    """
    m = mu * m + (1 - mu) * g
    ahead = mu * m + (1 - mu) * g
    u, s, vt = np.linalg.svd(ahead, full_matrices=False)
    s = s / (np.sqrt((s * s).sum()) + 1e-7)
    for _ in range(5):
        s = 3.4445 * s - 4.775 * s ** 3 + 2.0315 * s ** 5
    return w * (1 - rate * decay) - rate * 0.2 * max(w.shape) ** 0.5 * (u * s) @ vt, m


def philox4x32(counter, key, rounds=10):
    """Philox4x32-10 (Salmon et al. 2011) on Python integers: four words of 32 bits from four and two."""
    a, b, c, d = counter
    k0, k1 = key
    for _ in range(rounds):
        p, q = 0xD2511F53 * a, 0xCD9E8D57 * c  # 64 bits each
        a, b, c, d = q >> 32 ^ b ^ k0, q & 0xFFFFFFFF, p >> 32 ^ d ^ k1, p & 0xFFFFFFFF
        k0, k1 = (k0 + 0x9E3779B9) % 2 ** 32, (k1 + 0xBB67AE85) % 2 ** 32
    return a, b, c, d
