"""Chance is a pure function of (seed, purpose, step, layer, index): nothing here has a state.

So masks and coins do not depend on threads, devices or where a run was resumed (Salmon et al. 2011, "Parallel random
numbers: as easy as 1, 2, 3"). The generator itself, Philox4x32-10, is in kernels/.
"""
from enum import IntEnum
from typing import TypeAlias

import numpy as np

from .kernels import Array, host

Step: TypeAlias = int | Array | tuple[Array, Array]  # its number, or low and high 32 bits, which may lie on a device


class Purpose(IntEnum):
    """What a random number is for: two purposes never share one."""
    INIT = 1
    DROPOUT = 2
    ROTATE = 3
    COIN = 4
    CHECK = 5
    WEIGHT_DROP = 6


def key(seed: int) -> tuple[int, int]:
    """The generator's key: the seed's low and high 32 bits."""
    return seed & 0xFFFFFFFF, seed >> 32 & 0xFFFFFFFF


def counter(purpose: Purpose, step: Step = 0, layer: int = 0) -> tuple[int | Array, int | Array, int]:
    """The last three words of the generator's counter; the first is the index."""
    low, high = step if isinstance(step, tuple) else (step & 0xFFFFFFFF, step >> 32 & 0xFFFFFFFF)
    return low, high, purpose << 16 | layer


def uniform(seed: int, purpose: Purpose, size: int, step: Step = 0, layer: int = 0, start: int = 0) -> np.ndarray:
    """(size,) float64 numbers in [0, 1), 53 bits each, on the host: those of index start, start + 1, ..."""
    index = np.arange(start, start + size, dtype=np.uint32)
    low, high, _, _ = host.philox((index, *counter(purpose, step, layer)), key(seed))
    return ((high.astype(np.uint64) << np.uint64(21)) | (low >> np.uint32(11))) * 2.0 ** -53


def normal(seed: int, purpose: Purpose, size: int, layer: int = 0) -> np.ndarray:
    """(size,) float64 draws of N(0, 1) on the host (Box & Muller 1958)."""
    half = -(-size // 2)
    u = uniform(seed, purpose, 2 * half, layer=layer)
    radius, angle = np.sqrt(-2 * np.log1p(-u[:half])), 2 * np.pi * u[half:]
    return np.concatenate((radius * np.cos(angle), radius * np.sin(angle)))[:size]
