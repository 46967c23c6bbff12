"""A model's training text read anew, as its training card has it: what counting that text reaches on another."""
from collections.abc import Iterator
from dataclasses import fields
from itertools import pairwise
from pathlib import Path

PIECE = 100     # characters that two texts have in common by chance never
PIECES = 5      # so many of a text show whether it is of another
HELD = 1 << 22  # characters in which they are looked for at a time


def floor_of(path: Path, model, ids) -> dict | None:
    """What counting reaches on ids with the text that the model was trained on; None where that is not at hand."""
    from rnncore import checkpoint, ngram

    card = checkpoint.read(path)[0]["card"]
    corpus = corpus_of(card)
    if corpus is None:
        return None
    train = corpus.encode(model.vocab, "replace" if model.vocab.min_count > 1 else "skip")[0][:card["split"]["train"]]
    if holds(train, ids, model.vocab.end):
        return None
    floor = ngram.floor(train, ids[:ngram.MOST], len(model.vocab))
    return {"nats_per_char": floor.nats, "order": floor.order, "counted": floor.counted, "characters": len(train)}


def corpus_of(card: dict):
    """The Corpus that a model with this training card was trained on; None where it cannot be read or has changed."""
    from rnncore.data.text import Reading, read
    from rnncore.runs import trained

    if not trained(card) or "-" in card["corpus"]["sources"]:
        return None
    about = card["corpus"]
    try:
        corpus = read(about["sources"], **{f.name: about[f.name] for f in fields(Reading) if f.name in about})
    except (TypeError, ValueError):  # CorpusError is one; a card of another make may hold anything
        return None
    return corpus if corpus.sha256 == about["sha256"] else None


def holds(train, ids, end: int | None) -> bool:
    """Return whether ids, by five pieces of it, is of the training text: there counting is no measure.

    end: the id after each document; None: these are continuous texts. Of documents, which are shuffled before they are
    split, a text may be of the training part and of the others: more than half of them count.
    """
    import numpy as np

    left = [piece.astype(train.dtype).tobytes() for piece in pieces(ids, end)]
    wanted = len(left)
    before = np.array([] if end is None else [end], train.dtype)  # a document begins the text, too
    for start in range(0, len(train), HELD):
        text, width = before.tobytes() + train[start:start + HELD + PIECE].tobytes(), train.itemsize
        left, before = [piece for piece in left if all(place % width for place in _places(text, piece))], before[:0]
    return not left if end is None else 2 * len(left) < wanted


def pieces(ids, end: int | None) -> Iterator:
    """Five pieces of a text; of documents, which may stand in another order elsewhere, each with the end before it."""
    import numpy as np

    for start in (len(ids) * k // PIECES for k in range(PIECES)):
        piece = ids[start:start + PIECE]
        breaks = [] if end is None else (np.flatnonzero(piece == end) + 1).tolist()
        for begin, stop in pairwise([0, *breaks, len(piece)]):
            yield piece[max(0, begin - 1):stop]


def _places(text: bytes, piece: bytes) -> Iterator[int]:
    place = text.find(piece)
    while place >= 0:
        yield place
        place = text.find(piece, place + 1)
