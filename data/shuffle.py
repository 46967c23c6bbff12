"""Shuffling of documents into a random order that depends only on their texts: on no seed, and on no earlier order.

The key of a document is a hash of its text, and documents are sorted by their keys. So a list gives the same order
whether it was sorted before or not, and the documents at the end (validation and test) are a random sample. Each copy
of a document after the first has a key of its own, made of the hash and the copy's number, so copies are scattered too.

Shuffling needs memory for a few pieces of the ids, however long the text is, and 16 bytes a document (end and key).
"""
from collections.abc import Iterator
from hashlib import blake2b

import numpy as np

from .endings import END
from .spool import CHUNK, Spool
from .vocab import Vocab

# Never change this key: with another one, old runs would be resumed with other documents in their validation part.
KEY = b"rnncore document"
GOLDEN = np.uint64(0x9E3779B97F4A7C15)  # 2^64 divided by the golden ratio, the increment of SplitMix64
PART = 1 << 16  # number of documents handled at a time


def shuffled(spool: Spool, vocab: Vocab) -> tuple[Spool, int]:
    """Return a spool with the documents in their new order, and the number of documents.

    spool: ids over `vocab`, with END after each document.
    """
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
    """Yield (start, stop) of each document in the new order; a document longer than CHUNK ids is yielded in parts.

    ends: index after each document (D,) in the old order. places: old numbers of the documents (D,) in the new order.
    """
    for begin in range(0, len(places), PART):
        part = places[begin:begin + PART]
        starts, stops = np.where(part > 0, ends[part - 1], 0).tolist(), ends[part].tolist()
        for start, stop in zip(starts, stops, strict=True):
            while stop - start > CHUNK:
                yield start, start + CHUNK
                start += CHUNK
            yield start, stop


def _documents(spool: Spool, vocab: Vocab) -> tuple[np.ndarray, np.ndarray]:
    """Return (ends, keys) of the D documents: the index after each (D,) int64 and its key (D,) uint64."""
    number = int(spool.counts(len(vocab))[vocab.end])
    ends, keys = np.empty(number, np.int64), np.empty(number, np.uint64)
    done = seen = 0
    begun = _hash("")  # hash so far of the document that continues in the next chunk
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
    """Return the hash object of a document's text; `update` can add more text."""
    return blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8, person=KEY)


def order(keys: np.ndarray) -> np.ndarray:
    """Return the numbers (D,) int64 of the documents in their new order; keys (D,) uint64 is overwritten with them.

    The lower bits of each key are replaced by the document's number. So one array can be sorted in place, and its
    entries still say which document they belong to. Two equal keys count as two copies of a document.
    """
    bits = np.uint64(len(keys).bit_length())
    number = (np.uint64(1) << bits) - np.uint64(1)
    for start in range(0, len(keys), PART):
        part = keys[start:start + PART]
        part &= ~number
        part |= np.arange(start, start + len(part), dtype=np.uint64)
    keys.sort()
    # Copies are neighbours now. Every copy but the first gets a new key, and the second sort scatters them.
    before, begun = None, 0  # key of the document before this part, and the index of its first copy
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
    """Return x (n,) uint64 with its bits mixed: the output function of SplitMix64 (Steele, Lea & Flood 2014)."""
    x = (x ^ x >> np.uint64(30)) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ x >> np.uint64(27)) * np.uint64(0x94D049BB133111EB)
    return x ^ x >> np.uint64(31)


def whole(ids: np.ndarray, end: int, cut: int) -> int:
    """Return the index nearest to `cut` where the ids (n,) can be split without cutting a document: 0, or after an END.

    end: the id of END. Of two indices at the same distance, the lower one is returned.
    """
    reach = CHUNK
    while True:
        low, high = max(0, cut - reach), min(len(ids), cut + reach)
        found = [0] * (low == 0) + (np.flatnonzero(ids[low:high] == end) + (low + 1)).tolist()
        if found:
            return min(found, key=lambda place: abs(place - cut))
        reach *= 4
