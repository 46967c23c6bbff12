"""The n-gram baseline: the loss that interpolated n-gram counts reach on a text, to compare a model's loss with.

    p_k(s) = (c(s) + a u p_{k-1}(s)) / (n + a u)        p_{-1}(s) = 1 / V

p_k(s) is the probability of the symbol s after its context, the k symbols before it. The context is followed n times by
a symbol in the training text: u distinct symbols follow it, and s follows it c(s) times. If n is 0, p_k is p_{k-1}.
The escape a is 1 in Witten & Bell 1991 (method C); Chen & Goodman 1998 describe the interpolated form.

Contexts are numbered. A context of k + 1 symbols is a pair: a context of k symbols and the symbol after it. Its number
is the rank of this pair among all pairs that occur. Therefore a pair is always a whole number below m V, where m is the
length of the training text, even if k and V are large. One sort of these numbers counts all pairs.
"""
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np

from ..data.text import CorpusError

MOST = 5_000_000   # training characters that are counted, at most
CHUNK = 1 << 18    # validation characters that are looked up in one step; bounds the memory
UNSEEN = -1        # the number of a context that does not occur in the training text
# Assumed throughput for orders 0 to 6, training and validation characters together: it must not be too high, because a
# budget of minutes is planned with it. Measured: 1.2 to 2 million characters per second.
CHARACTERS_PER_SECOND = 500_000


class Baseline(NamedTuple):
    """The n-gram baseline of a text.

    order: the order with the lowest loss; nats: its loss in nats per character; by_order: the loss of every requested
    order; counted: the number of training characters that were counted.
    """
    order: int
    nats: float
    by_order: dict[int, float]
    counted: int


def reaches(nats: float, order: int, counted: int, characters: int) -> str:
    """Return one line on a Baseline for the user. characters: the length of the training text."""
    part = f", counted on the first {counted:,} characters" if counted < characters else ""
    return f"n-gram baseline: {nats:.4f} nats/char (context: the last {order} character{'s' * (order != 1)}{part})"


class Level(NamedTuple):
    """The counts of one order, for C contexts and G distinct pairs of a context and the symbol after it.

    The letters c, n and u are those of the formula in the module's docstring.
    """
    pairs: np.ndarray     # (G,) int64: context * V + symbol, ascending
    counts: np.ndarray    # (G,) int32: c, occurrences of each pair
    seen: np.ndarray      # (C,) int32: n, symbols that follow each context
    distinct: np.ndarray  # (C,) int32: u, distinct symbols that follow each context


def baseline(train: np.ndarray, validation: np.ndarray, vocab_size: int, orders: Iterable[int] = range(7),
             escape: float = 2.0, most: int = MOST) -> Baseline:
    """Count the first `most` ids of train, predict every id of validation, and return the mean loss of each order.

    train (m,), validation (n,): whole numbers in 0..vocab_size-1; m may be 0. validation is taken as the continuation
    of train: its first contexts are the last symbols of train. If two orders have the same loss, the lower one is the
    best. escape: a in the formula. The memory is at most 45 bytes per counted id and 20 bytes per validation id.

    Raises CorpusError, a ValueError, if validation is empty. Raises ValueError if an id is outside the vocabulary,
    orders is empty or holds a negative number, escape is not positive and finite, or most is negative.
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
    return Baseline(best, by_order[best], by_order, len(symbols))


def predicted(train: np.ndarray, text: np.ndarray, vocab_size: int, order: int, escape: float = 2.0,
              most: int = MOST) -> np.ndarray:
    """Count the first `most` ids of train, and return the probability (n,) float64 of each id of text (n,).

    order: the symbols of the longest context. The first contexts begin with the text. Other arguments and errors as in
    `baseline`.
    """
    symbols = checked(train[:most], vocab_size)
    *_, p = probabilities(symbols, checked(text, vocab_size), vocab_size, order, escape)
    return p


def checked(ids: np.ndarray, vocab_size: int) -> np.ndarray:
    """Return ids (n,) as int32. Raise ValueError if one is not in 0..vocab_size-1."""
    ids = np.asarray(ids)
    if ids.size and not 0 <= ids.min() <= ids.max() < vocab_size:
        raise ValueError(f"ids from {ids.min()} to {ids.max()} are not all in a vocabulary of {vocab_size}")
    return ids.astype(np.int32)


def probabilities(symbols: np.ndarray, text: np.ndarray, vocab_size: int, longest: int,
                  escape: float) -> Iterator[np.ndarray]:
    """Count symbols (m,) int32, then yield the probabilities p_0, .., p_longest of text (n,) int32.

    Every yielded array is the same (n,) float64 buffer: the next step overwrites it.
    """
    context, contexts = np.zeros(len(symbols), np.int32), 1  # (m,) the context before each symbol; number of contexts
    reached = np.zeros(len(text), np.int32)                  # (n,) the context before each symbol of text, or UNSEEN
    p = np.full(len(text), 1 / vocab_size)
    for _ in range(longest + 1):
        level, ranks = count(context, symbols, vocab_size, contexts)
        for start in range(0, len(text), CHUNK):
            piece = slice(start, start + CHUNK)
            refine(level, reached[piece], text[piece], p[piece], vocab_size, escape)
        yield p
        # The pair that ends at a symbol is the longer context of the next symbol, so everything shifts by one.
        context, symbols, contexts = ranks[:-1], symbols[1:], len(level.pairs)
        reached[1:] = reached[:-1]
        reached[0] = UNSEEN
        del level, ranks  # frees their memory before the next order allocates its own


def count(context: np.ndarray, symbols: np.ndarray, vocab_size: int, contexts: int) -> tuple[Level, np.ndarray]:
    """Count the pairs of one order; return their Level and the rank of each pair, (m,) int32.

    context (m,) int32, in 0..contexts-1: the context before each symbol. symbols (m,) int32: the symbol after it.
    """
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
    """Return pairs (m,) int64, numbers in 0..end-1, in ascending order, and the old place of each, (m,) int64.

    The given array may be overwritten. If a pair and its place fit into 63 bits, the place is stored in the lower bits
    of the pair. Then one plain sort gives both results, in half the time of argsort.
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
    """Write p_k into p (n,) float64, which arrives as p_{k-1}, and the next longer contexts into context (n,) int32.

    symbols (n,): the symbol after each context. A new context is the pair of the old context and its symbol, or UNSEEN.
    """
    known = np.flatnonzero(context != UNSEEN)
    known = known[level.seen[context[known]] > 0]  # the context at the end of the training text may have no follower
    at = context[known]
    pair = at.astype(np.int64) * vocab_size + symbols[known]
    place = np.minimum(np.searchsorted(level.pairs, pair), len(level.pairs) - 1)
    found = level.pairs[place] == pair
    escaped = escape * level.distinct[at]
    p[known] = (level.counts[place] * found + escaped * p[known]) / (level.seen[at] + escaped)
    context[:] = UNSEEN
    context[known[found]] = place[found]
