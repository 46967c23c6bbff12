"""Random numbers: each is a pure function of (seed, purpose, step, layer, index). Nothing here has a state.

So dropout masks and uniform draws do not depend on threads, devices or the step at which a run was resumed (Salmon et
al. 2011, "Parallel random numbers: as easy as 1, 2, 3"). The generator itself, Philox4x32-10, is in kernels/.
"""
from enum import IntEnum
from typing import TypeAlias

import numpy as np

from .kernels import Array, host

Step: TypeAlias = int | Array | tuple[Array, Array]  # a step's number, or its low and high 32 bits, on any device


class Purpose(IntEnum):
    """The use of a random number. Two purposes never share a number, because the purpose is a part of the counter."""
    INIT = 1         # initial parameters
    DROPOUT = 2      # masks of units
    ROTATE = 3       # the place in the text where an epoch begins
    DRAW = 4         # the uniform draws u of the sampler
    CHECK = 5        # the gradient check
    WEIGHT_DROP = 6  # masks of weights


def key(seed: int) -> tuple[int, int]:
    """Return the key of the generator: the low and the high 32 bits of the seed."""
    return seed & 0xFFFFFFFF, seed >> 32 & 0xFFFFFFFF


def counter(purpose: Purpose, step: Step = 0, layer: int = 0) -> tuple[int | Array, int | Array, int]:
    """Return the last three of the four words of the generator's counter. The first word is the index.

    step and layer count from 0. layer is below 2^16, because the purpose has the higher bits of the last word.
    """
    low, high = step if isinstance(step, tuple) else (step & 0xFFFFFFFF, step >> 32 & 0xFFFFFFFF)
    return low, high, purpose << 16 | layer


def uniform(seed: int, purpose: Purpose, size: int, step: Step = 0, layer: int = 0, start: int = 0) -> np.ndarray:
    """Return the numbers of index start, start + 1, ...: (size,) float64 in [0, 1), on the host.

    An array (R, 1) of steps gives (R, size). The index is one word of 32 bits, so start + size is at most 2^32.
    """
    # 53 random bits fill the significand of a float64 exactly, so no number is rounded up to 1.
    index = np.arange(start, start + size, dtype=np.uint32)
    low, high, _, _ = host.philox((index, *counter(purpose, step, layer)), key(seed))
    return ((high.astype(np.uint64) << np.uint64(21)) | (low >> np.uint32(11))) * 2.0 ** -53


def normal(seed: int, purpose: Purpose, size: int, layer: int = 0) -> np.ndarray:
    """Return (size,) float64 draws from N(0, 1), on the host (Box & Muller 1958)."""
    half = -(-size // 2)
    u = uniform(seed, purpose, 2 * half, layer=layer)
    # u is below 1, so the logarithm of 1 - u is finite.
    radius, angle = np.sqrt(-2 * np.log1p(-u[:half])), 2 * np.pi * u[half:]
    return np.concatenate((radius * np.cos(angle), radius * np.sin(angle)))[:size]
