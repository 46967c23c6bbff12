"""An optimiser updates the flat parameter buffer from the flat gradient buffer; the schedule says at which rate."""
from math import sqrt
from typing import Any, NamedTuple

from . import kernels
from .config import TrainConfig

NEWTON_SCHULZ = 3.4445, -4.775, 2.0315  # a quintic that takes singular values in (0, 1] to about 1 in five steps
NEWTON_SCHULZ_STEPS = 5


class Pace(NamedTuple):
    """The learning rate of a step, and with Adam's corrections of its two moments' bias (optim.Adam.pace)."""
    rate: Any
    size: Any
    correction: Any


class Adam:
    """Adam (Kingma & Ba 2015) with bias correction; `moments` are what resuming needs."""

    BETA2 = 0.99  # where the config leaves it open

    def __init__(self, params, config: TrainConfig, each=map):
        """each(function, items) -> results may run on several threads, as CharLM.each does."""
        self.config, self.each = config, each
        self.beta2 = self.BETA2 if config.beta2 is None else config.beta2
        zeros = kernels.of(params.flat).xp.zeros_like
        self.moments = {"m": zeros(params.flat), "v": zeros(params.flat)}

    def pace(self, rate: float, step: int) -> Pace:
        """The numbers of a step that depend on its place in the run; step counts from 1."""
        return Pace(rate, rate / (1 - self.config.beta1 ** step), (1 - self.beta2 ** step) ** -0.5)

    def update(self, params, grads, pace: Pace, scale) -> None:
        """One step, in place: the gradient is scale * grads. The numbers may be arrays () on the device."""
        self.adam(slice(None), params, grads, pace, scale)

    def adam(self, part: slice, params, grads, pace: Pace, scale) -> None:
        """The step on one part of the flat buffers."""
        c, m, v = self.config, self.moments["m"][part], self.moments["v"][part]
        kernels.of(m).adam(params.flat[part], grads.flat[part], m, v, pace.size, pace.correction, c.beta1, self.beta2,
                           c.eps, scale)


class Muon(Adam):
    """Muon (K. Jordan et al. 2024) on the LSTM's weight matrices, Adam on all else.

    The momentum of each of the four gate blocks of W_ih and W_hh is made orthogonal, so that every direction of a block
    moves by as much: W -= rate (0.2 sqrt(larger side) U V^T + decay W) where U S V^T is the block's Nesterov momentum.
    """
    BETA2 = 0.95

    def __init__(self, params, config: TrainConfig, each=map):
        super().__init__(params, config, each)
        matrices = {name for name, view in params.items() if name.startswith("lstm.") and view.ndim == 2}
        self.groups: dict[tuple, list[str]] = {}  # names by shape: blocks of one shape are made orthogonal together
        for name in sorted(matrices):
            self.groups.setdefault(params[name].shape, []).append(name)
        self.rest = [part for name, part in params.parts().items() if name not in matrices]
        self.momentum = type(params)(params.config, self.moments["m"])
        self.rooms: dict | None = None  # by a group's shape and share, where they are kept from step to step

    def update(self, params, grads, pace: Pace, scale) -> None:
        for part in self.rest:
            self.adam(part, params, grads, pace, scale)
        k, c = kernels.of(params.flat), self.config
        for (rows, columns), names in self.groups.items():
            side = rows // 4
            room = self._room((rows, columns), len(names) * 4, params.flat)
            for name, block in zip(names, room.blocks.reshape(-1, rows, columns), strict=True):
                k.muon_momentum(self.momentum[name], grads[name], scale, c.momentum, block)
            list(self.each(orthogonal, room.shares(k.cores())))
            for name, change in zip(names, room.blocks.reshape(-1, rows, columns), strict=True):
                k.muon_apply(params[name], change, pace.rate, 0.2 * sqrt(max(side, columns)), c.decay, scale)

    def _room(self, shape: tuple, blocks: int, like) -> "Room":
        """Where the matrices (R, C) of one group are made orthogonal."""
        if self.rooms is None:
            return Room.of(blocks, shape[0] // 4, shape[1], like)
        if shape not in self.rooms:
            self.rooms[shape] = Room.of(blocks, shape[0] // 4, shape[1], like)
        return self.rooms[shape]


OPTIMIZERS = {"adam": Adam, "muon": Muon}


class Room(NamedTuple):
    """What `orthogonal` works on: blocks (B, R, C), and with r the smaller of R and C, arrays for its products."""
    blocks: Any   # (B, R, C)
    product: Any  # (B, R, C)
    square: Any   # (B, r, r)
    fourth: Any   # (B, r, r)
    norm: Any     # (B,)

    @classmethod
    def of(cls, count: int, rows: int, columns: int, like) -> "Room":
        """For so many blocks (R, C), of the dtype and on the device of an array."""
        shapes, r = [(rows, columns)] * 2, min(rows, columns)
        return cls(*(kernels.of(like).xp.empty((count, *shape), like.dtype) for shape in [*shapes, (r, r), (r, r), ()]))

    def shares(self, count: int) -> list["Room"]:
        """The blocks shared out, as views."""
        edges = [len(self.blocks) * k // count for k in range(count + 1)]
        return [Room(*(array[a:b] for array in self)) for a, b in zip(edges, edges[1:], strict=False) if a < b]


def orthogonal(room: Room) -> None:
    """Each of room.blocks = U S V^T becomes U V^T, about: its singular values come out between 0.7 and 1.2.

    Newton-Schulz with a quintic: X <- a X + (b X X^T + c (X X^T)^2) X, on the smaller side, products alone.
    """
    blocks, product, square, fourth, norm = room
    k, (a, b, c), tall = kernels.of(blocks), NEWTON_SCHULZ, blocks.shape[1] > blocks.shape[2]
    k.xp.multiply(blocks, blocks, out=product)
    k.row_sums(product.reshape(len(norm), -1), norm)
    k.xp.sqrt(norm, out=norm)
    norm += 1e-7
    blocks /= norm[:, None, None]
    x, y = (blocks.swapaxes(1, 2), product.swapaxes(1, 2)) if tall else (blocks, product)
    for _ in range(NEWTON_SCHULZ_STEPS):
        k.product(x, x.swapaxes(1, 2), square)
        k.product(square, square, fourth)
        square *= b
        fourth *= c
        square += fourth
        k.product(square, x, y)
        x *= a
        x += y


def global_norm(grads) -> float:
    """The Euclidean norm over all gradients together."""
    flat = grads.flat
    return sqrt(float(kernels.of(flat).xp.vdot(flat, flat)))


def clip_scale(norm: float, clip: float) -> float:
    """What to multiply the gradient with so that its norm is at most clip (Pascanu et al. 2013); clip 0: no bound."""
    return clip / norm if clip and norm > clip else 1.0


def rate(config: TrainConfig, done: float) -> float:
    """The learning rate when a share `done` of the budget is spent: a linear warm-up, then a straight line to zero."""
    if done < config.warmup:
        return config.lr * done / config.warmup
    return config.lr * max(0.0, 1 - done) / (1 - config.warmup)
