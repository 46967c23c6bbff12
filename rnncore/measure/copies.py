"""How much of a text that a model wrote stands word for word in the text that it learned.

A stretch counts as copied if it has at least `least` characters and occurs in the other text. Windows of that length
are compared by a hash of 64 bits, so a text of any length is compared in one pass.
"""
import numpy as np

LEAST = 50         # characters of a stretch, at least: two texts of one author seldom share so many by chance
PIECE = 1 << 22    # characters of the learned text that are hashed at a time; bounds the memory
BASE = 0x9E3779B97F4A7C15  # of the polynomial hash: odd, so that multiplication modulo 2^64 loses nothing


def copied(sample: str, text: str, least: int = LEAST) -> float:
    """Return the share of the sample's characters, 0 to 1, that lie in copied stretches; 0 for an empty sample.

    Raises ValueError if least is below 1.
    """
    if least < 1:
        raise ValueError(f"least is at least 1, not {least}")
    wanted = hashes(sample, least)
    if not len(wanted):
        return 0.0
    known, there = np.unique(wanted), np.zeros(0, np.uint64)
    for start in range(0, len(text), PIECE):
        found = hashes(text[start:start + PIECE + least - 1], least)
        place = np.minimum(np.searchsorted(known, found), len(known) - 1)
        there = np.union1d(there, found[known[place] == found])
    # The windows that were found cover the characters from their place on: +1 where one begins, -1 behind its end.
    begins, change = np.flatnonzero(np.isin(wanted, there)), np.zeros(len(sample) + 1, np.int64)
    change[begins] += 1
    change[begins + least] -= 1
    return float((np.cumsum(change[:-1]) > 0).mean())


def hashes(text: str, length: int) -> np.ndarray:
    """Return a hash (n - length + 1,) uint64 of each window of `length` characters of a text of n; none if n < length.

    It is the sum of (code point + 1) times BASE^k, modulo 2^64, put together from windows of 1, 2, 4, ... characters.
    Windows of a thousand characters and more can be made that differ and have the same hash.
    """
    count = len(text) - length + 1
    if count < 1:
        return np.zeros(0, np.uint64)
    power = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), "<u4").astype(np.uint64) + np.uint64(1)
    total, covered, width = np.zeros(count, np.uint64), 0, 1
    while width <= length:  # power: hashes of windows of `width`; total: of the first `covered` characters of a window
        if length & width:
            total += factor(covered) * power[covered:covered + count]
            covered += width
        power = power[:-width] + factor(width) * power[width:]
        width *= 2
    return total


def factor(exponent: int) -> np.uint64:
    """Return BASE^exponent modulo 2^64."""
    return np.uint64(pow(BASE, exponent, 1 << 64))
