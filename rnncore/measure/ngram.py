"""A floor is what counting alone reaches: the loss of interpolated n-grams, to hold a model's own against.

    p_k(s) = (c(s) + a u p_{k-1}(s)) / (n + a u)        p_{-1}(s) = 1 / V

After the last k symbols, its context, the training text goes on n times, with u distinct symbols, c(s) times with s;
where n is 0, p_k is p_{k-1}. The escape a is 1 in Witten & Bell 1991 (method C; interpolated: Chen & Goodman 1998).

A context of k + 1 symbols is a pair, a context of k and the symbol after it, and its number is the rank of that pair
among all that occur. So no number passes m V, m the length of the text, however large k and V: sorting counts them all.
"""
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np

from ..data.text import CorpusError

MOST = 5_000_000                 # training characters that are counted
CHARACTERS_PER_SECOND = 500_000  # training and validation together, orders 0 to 6; measured: 1.2 to 2 million
CHUNK = 1 << 18                  # validation characters that are looked up at a time
UNSEEN = -1                      # the number of a context that does not occur


class Floor(NamedTuple):
    """The best order, its nats per character, those of every order asked for, and the training characters counted."""
    order: int
    nats: float
    by_order: dict[int, float]
    counted: int


def reaches(nats: float, order: int, counted: int, characters: int) -> str:
    """Say in one line what a Floor reaches; `counted` of the training text's characters were."""
    part = f", counted on the first {counted:,} characters" if counted < characters else ""
    return f"n-gram baseline: {nats:.4f} nats/char (context: the last {order} character{'s' * (order != 1)}{part})"


class Level(NamedTuple):
    """What was counted after C contexts of one length: G distinct pairs of a context and the symbol after it."""
    pairs: np.ndarray     # (G,) int64, context * V + symbol, ascending
    counts: np.ndarray    # (G,) int32, c
    seen: np.ndarray      # (C,) int32, n
    distinct: np.ndarray  # (C,) int32, u


def floor(train: np.ndarray, validation: np.ndarray, vocab_size: int, orders: Iterable[int] = range(7),
          escape: float = 2.0, most: int = MOST) -> Floor:
    """Count the first `most` ids of train, predict every id of validation, and average over all n of these.

    train (m,), validation (n,): integers in 0..vocab_size-1; m may be 0. Validation goes on where train ends: its first
    contexts are train's last symbols. Of equal orders the lowest is best. It takes up to 45 bytes a counted id and 20 a
    validation id. Raises CorpusError, a ValueError, for an empty validation, and ValueError for an id outside the
    vocabulary, for no order or a negative one, for an escape that is not positive and finite, and for a negative most.
    """
    orders = sorted(set(orders))
    if not orders or orders[0] < 0:
        raise ValueError(f"orders {orders}: at least one, and none below 0")
    if not 0 < escape < float("inf") or most < 0:
        raise ValueError(f"escape {escape} is not positive and finite, or most {most} is negative")
    if not len(validation):
        raise CorpusError("no validation text: nothing to predict")
    symbols = checked(train[:most], vocab_size)
    before = checked(train[max(0, len(train) - orders[-1]):], vocab_size)
    text = np.concatenate([before, checked(validation, vocab_size)])
    by_order = {}
    for order, p in enumerate(probabilities(symbols, text, vocab_size, orders[-1], escape)):
        if order in orders:
            parts = (-np.log(p[start:start + CHUNK]).sum() for start in range(len(before), len(text), CHUNK))
            by_order[order] = float(sum(parts)) / len(validation)
    best = min(by_order, key=by_order.__getitem__)
    return Floor(best, by_order[best], by_order, len(symbols))


def checked(ids: np.ndarray, vocab_size: int) -> np.ndarray:
    """The ids (n,) as int32; ValueError where one is not in 0..vocab_size-1."""
    ids = np.asarray(ids)
    if ids.size and not 0 <= ids.min() <= ids.max() < vocab_size:
        raise ValueError(f"ids from {ids.min()} to {ids.max()} are not all in a vocabulary of {vocab_size}")
    return ids.astype(np.int32)


def probabilities(symbols: np.ndarray, text: np.ndarray, vocab_size: int, longest: int,
                  escape: float) -> Iterator[np.ndarray]:
    """Yield p_0, .., p_longest of text (n,) int32, all in one (n,) float64, having counted symbols (m,) int32."""
    context, contexts = np.zeros(len(symbols), np.int32), 1  # the one before each symbol, and how many there are
    reached = np.zeros(len(text), np.int32)                  # the one before each symbol of text, or UNSEEN
    p = np.full(len(text), 1 / vocab_size)
    for _ in range(longest + 1):
        level, ranks = count(context, symbols, vocab_size, contexts)
        for start in range(0, len(text), CHUNK):
            piece = slice(start, start + CHUNK)
            refine(level, reached[piece], text[piece], p[piece], vocab_size, escape)
        yield p
        context, symbols, contexts = ranks[:-1], symbols[1:], len(level.pairs)
        reached[1:] = reached[:-1]
        reached[0] = UNSEEN
        del level, ranks  # before the next are made


def count(context: np.ndarray, symbols: np.ndarray, vocab_size: int, contexts: int) -> tuple[Level, np.ndarray]:
    """The level of contexts (m,) int32 in 0..contexts-1 and the symbols after them, and each pair's rank (m,) int32."""
    pairs = context.astype(np.int64)
    pairs *= vocab_size
    pairs += symbols
    pairs, places = ordered(pairs, contexts * vocab_size)
    first = np.ones(len(pairs), bool)
    np.not_equal(pairs[1:], pairs[:-1], out=first[1:])
    ranks = np.empty(len(pairs), np.int32)
    ranks[places] = np.cumsum(first, dtype=np.int32) - np.int32(1)
    del places
    starts = np.flatnonzero(first)
    counts = np.diff(starts, append=len(pairs)).astype(np.int32)
    pairs = pairs[starts]
    seen = np.bincount(context, minlength=contexts).astype(np.int32)
    distinct = np.bincount(pairs // vocab_size, minlength=contexts).astype(np.int32)
    return Level(pairs, counts, seen, distinct), ranks


def ordered(pairs: np.ndarray, end: int) -> tuple[np.ndarray, np.ndarray]:
    """Pairs (m,) int64 in 0..end-1 in ascending order, and where each stood; the array may be overwritten.

    Each carries its place in its lower bits, where 63 hold both: one array is then sorted, in half of argsort's time.
    """
    bits = len(pairs).bit_length()
    if end << bits > 1 << 63:
        places = np.argsort(pairs)
        return pairs[places], places
    pairs <<= bits
    pairs |= np.arange(len(pairs))
    pairs.sort()
    places = pairs & ((1 << bits) - 1)
    pairs >>= bits
    return pairs, places


def refine(level: Level, context: np.ndarray, symbols: np.ndarray, p: np.ndarray, vocab_size: int,
           escape: float) -> None:
    """All (n,): p arrives as p_{k-1} and leaves as p_k; context leaves as the one that it and the symbol make."""
    known = np.flatnonzero(context != UNSEEN)
    known = known[level.seen[context[known]] > 0]  # nothing may come after the symbols that end the training text
    at = context[known]
    pair = at.astype(np.int64) * vocab_size + symbols[known]
    place = np.minimum(np.searchsorted(level.pairs, pair), len(level.pairs) - 1)
    found = level.pairs[place] == pair
    escaped = escape * level.distinct[at]
    p[known] = (level.counts[place] * found + escaped * p[known]) / (level.seen[at] + escaped)
    context[:] = UNSEEN
    context[known[found]] = place[found]
