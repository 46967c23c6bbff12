"""Documents in an order by chance, which depends on nothing but their text: so on no seed, and on no order before.

Each document has a key, a hash of its text; they are put in the order of their keys. Sorted or not, a list gives the
same order, and those at its end are an even sample. Of several copies of a document each but the first has a key of its
own, made of that hash and its number among them: copies do not stand side by side.

It takes 16 bytes a document, its place and its key, and a few pieces of the ids, however long they are.
"""
from collections.abc import Iterator
from hashlib import blake2b

import numpy as np

from .endings import END
from .spool import CHUNK, Spool
from .vocab import Vocab

KEY = b"rnncore document"  # for ever: with another, others would be validated on
GOLDEN = np.uint64(0x9E3779B97F4A7C15)
PART = 1 << 16  # documents handled at a time


def shuffled(spool: Spool, vocab: Vocab) -> tuple[Spool, int]:
    """The ids over `vocab` of documents, END after each, in their new order, and how many documents there are."""
    ends, keys = _documents(spool, vocab)
    moved, held, full = Spool(spool.dtype), bytearray(), CHUNK * spool.dtype.itemsize
    for piece in spool.pieces(_bounds(ends, order(keys))):
        held += piece
        if len(held) >= full:
            moved.append(np.frombuffer(held, spool.dtype))
            held = bytearray()
    moved.append(np.frombuffer(held, spool.dtype))
    return moved, len(ends)


def _bounds(ends: np.ndarray, places: np.ndarray) -> Iterator[tuple[int, int]]:
    """Where the documents lie, in their new order; a long one in parts."""
    for begin in range(0, len(places), PART):
        part = places[begin:begin + PART]
        starts, stops = np.where(part > 0, ends[part - 1], 0).tolist(), ends[part].tolist()
        for start, stop in zip(starts, stops, strict=True):
            while stop - start > CHUNK:
                yield start, start + CHUNK
                start += CHUNK
            yield start, stop


def _documents(spool: Spool, vocab: Vocab) -> tuple[np.ndarray, np.ndarray]:
    """(the place after each document (D,) int64, its key (D,) uint64)."""
    number = int(spool.counts(len(vocab))[vocab.end])
    ends, keys = np.empty(number, np.int64), np.empty(number, np.uint64)
    done = seen = 0
    begun = _hash("")  # of the document that went on at the end of a chunk
    for ids in spool.chunks():
        last = np.flatnonzero(ids == vocab.end)
        first, *others = vocab.decode(ids).split(END)
        begun.update(first.encode("utf-8", "surrogatepass"))
        if others:
            digests = [begun.digest(), *(_hash(text).digest() for text in others[:-1])]
            keys[done:done + len(last)] = np.frombuffer(b"".join(digests), "<u8")
            begun = _hash(others[-1])
        ends[done:done + len(last)] = last + (seen + 1)
        done, seen = done + len(last), seen + len(ids)
    return ends, keys


def _hash(text: str) -> blake2b:
    """The hash of a document's text, which more text may be added to."""
    return blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8, person=KEY)


def order(keys: np.ndarray) -> np.ndarray:
    """The numbers (D,) of documents in their new order, by their keys (D,) uint64, in whose place they are made.

    The lower bits of a key give way to the document's number: one array is sorted, and what stood where is known.
    """
    bits = np.uint64(len(keys).bit_length())
    number = (np.uint64(1) << bits) - np.uint64(1)
    for start in range(0, len(keys), PART):
        part = keys[start:start + PART]
        part &= ~number
        part |= np.arange(start, start + len(part), dtype=np.uint64)
    keys.sort()
    before, begun = None, 0  # the key of the document before, and where its copies begin
    for start in range(0, len(keys), PART):
        part = keys[start:start + PART]
        own, places = part >> bits, np.arange(start, start + len(part))
        new = np.ones(len(part), bool)
        new[1:] = own[1:] != own[:-1]
        new[0] = own[0] != before
        first = np.maximum.accumulate(np.where(new, places, begun))
        before, begun = own[-1], int(first[-1])
        copies = np.flatnonzero(places > first)
        other = mixed(own[copies] + (places - first)[copies].astype(np.uint64) * GOLDEN)
        part[copies] = other & ~number | part[copies] & number
    keys.sort()
    keys &= number
    return keys.view(np.int64)


def mixed(x: np.ndarray) -> np.ndarray:
    """64 bits by chance from 64 others (n,) uint64: the end of SplitMix64 (Steele, Lea & Flood 2014)."""
    x = (x ^ x >> np.uint64(30)) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ x >> np.uint64(27)) * np.uint64(0x94D049BB133111EB)
    return x ^ x >> np.uint64(31)


def whole(ids: np.ndarray, end: int, cut: int) -> int:
    """The place between two documents, or before or after all, that is nearest to `cut`: the first of equals."""
    reach = CHUNK
    while True:
        low, high = max(0, cut - reach), min(len(ids), cut + reach)
        found = [0] * (low == 0) + (np.flatnonzero(ids[low:high] == end) + (low + 1)).tolist()
        if found:
            return min(found, key=lambda place: abs(place - cut))
        reach *= 4
