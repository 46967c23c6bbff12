"""The relation between a scored text and a model's training text, which `rnncore score` prints beside the loss.

The training text is recognised by its sha256, even if the scored file has grown since. Any other text is searched for
in the training text, if that can still be read: first as a whole, then by a few pieces. For such a text the n-gram
baseline is computed too: n-grams are counted in the training text and predict the scored text.
"""
import os
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from rnncore.data.text import CorpusError, read
from rnncore.measure import ngram
from rnncore.runs.folder import trained
from rnncore.runs.places import text_of

PIECE = 100     # characters of a piece; two texts do not share so many by chance
PIECES = 5      # pieces of a text to search for, spread evenly over it
HELD = 1 << 22  # characters of the training text to search at a time; bounds the memory
TRIES = 100     # places in each such block at which a whole text is compared; bounds the time
KNOWN = "the text is in the training text, so counted n-grams would know it by heart"  # why there is no baseline


class Relation(NamedTuple):
    """What `relation` found.

    trained_on: the result of `share` or `of_another`; floor: the n-gram baseline as figures, or None; why: in words why
    there is no baseline, or None; train (m,): ids of the training text if n-grams may be counted in it, or None.
    """
    trained_on: dict | None
    floor: dict | None
    why: str | None
    train: Any


def relation(card: dict, file: Path, model, corpus, text: str, how: dict, ids, unknown: int) -> Relation:
    """Return the Relation of a scored text to the training text of a model.

    card: the model's training card; file: its file; corpus: the scored text; text, how: as in `share`; ids (n,): the
    scored text in the model's symbols; unknown: how many of its symbols the model does not know. There is no baseline
    if the text is, or all of its pieces stand in, the training text, because n-grams counted there would know it by
    heart. All fields are None if `rnncore train` did not train the
    model.
    """
    if not trained(card):
        return Relation(None, None, None, None)
    trained_on = share(card, corpus, text, how)
    if trained_on is not None:
        return Relation(trained_on, None, KNOWN, None)
    try:
        learned = text_of(card, file)
    except CorpusError as error:
        return Relation(None, None, f"the training text is not read: {error}", None)
    train = learned.encode(model.vocab, "replace" if model.vocab.min_count > 1 else "skip")[0][:card["split"]["train"]]
    trained_on, knows = of_another(card, train, ids, unknown, model.vocab.end)
    if knows:
        return Relation(trained_on, None, KNOWN, None)
    floor = ngram.baseline(train, ids[:ngram.MOST], len(model.vocab))
    return Relation(trained_on, {"nats_per_char": floor.nats, "order": floor.order, "counted": floor.counted,
                                 "characters": len(train)}, None, train)


def share(card: dict, corpus, text: str, how: dict) -> dict | None:
    """Return {"share": share of the scored text that lay in the training part, "at_most"}; None if it is another text.

    card: the model's training card; corpus: the scored text; text: its source; how: fields of the data.text.Reading by
    which it was read. at_most is True if the first pass over the training part was not finished: the true share is
    smaller.
    """
    about, part = card["corpus"], card["split"]["train"]
    if part > about["characters"]:  # the card contradicts itself
        return None
    for reading in _readings(corpus, text, how, about["newline"]):
        if reading.digest(about["characters"]) == about["sha256"]:
            return {"share": part / reading.characters, "at_most": _unfinished(card)}
    return None


def of_another(card: dict, train, ids, unknown: int, end: int | None = None) -> tuple[dict | None, bool]:
    """Return (how much of another text stands in the training text, True if it counts as known).

    train, ids: symbol ids over one vocabulary; unknown: number of symbols of the text that the vocabulary lacks; end:
    the id that ends a document, or None. The first value is as in `share` if the whole text stands there. Else it is
    the number of pieces that do, or None if the number may be chance. A text counts as known if all of its pieces stand
    in the training text. Documents are shuffled before the split, so a text of documents may lie in several parts: more
    than half of its pieces are enough.
    """
    found, of = pieces(train, ids, end)
    if found == of and not unknown and len(ids) >= PIECE and stands_in(train, ids):
        return {"share": 1.0, "at_most": _unfinished(card)}, True
    enough = PIECE if found == of else PIECES * PIECE  # a shorter text has short or overlapping pieces
    return {"pieces": found, "of": of} if found and len(ids) >= enough else None, (
        found == of if end is None else 2 * found > of)


def _unfinished(card: dict) -> bool:
    """Return True if the first pass over the training part was not finished."""
    batch = card["train"].get("batch")
    left_over = batch if isinstance(batch, int) else 0  # streams of equal length leave out fewer characters than this
    return card["chars"] < card["split"]["train"] - left_over


def _readings(corpus, text: str, how: dict, newline: str) -> Iterator:
    """Yield the text as it was read, then, if it can be read again, with the line ends of the training text."""
    yield corpus
    if how.get("newline", newline) != newline and (os.path.isfile(text) or os.path.isdir(text)):
        yield read([text], distinct=1, **how | {"newline": newline})


def pieces(train, ids, end: int | None = None) -> tuple[int, int]:
    """Return (how many pieces of ids stand in the training text, number of pieces).

    train, ids: symbol ids over one vocabulary; end: the id that ends a document, or None. With `end`, a piece lies
    within one document and begins with the end before it.
    """
    left = [part.astype(train.dtype).tobytes() for k in range(PIECES)
            for part in _parts(ids[len(ids) * k // PIECES:][:PIECE], end)]
    # A piece of a document has the end of the document before it; the first document has none, so one is put there.
    of, before = len(left), b"" if end is None else train.dtype.type(end).tobytes()
    for start in range(0, len(train), HELD):
        text, width = train[start:start + HELD + PIECE].tobytes(), train.itemsize
        text = text if start else before + text
        # A place that is no multiple of the width lies across two ids: the bytes agree, the symbols do not.
        left = [piece for piece in left if all(place % width for place in _places(text, piece))]
    return of - len(left), of


def _parts(piece, end: int | None) -> Iterator:
    """Yield the parts of a piece that lie within one document; without `end`, the piece itself."""
    breaks = [] if end is None else (piece == end).nonzero()[0].tolist()
    begin = 0
    for last in [*breaks, len(piece) - 1]:
        if last > begin or begin == 0:
            yield piece[begin:last + 1]
        begin = last


def stands_in(train, ids) -> bool:
    """Return True if all of ids (n,) stands in the training text without a gap."""
    piece, width = ids[:PIECE].astype(train.dtype).tobytes(), train.itemsize
    for start in range(0, len(train), HELD):
        text = train[start:start + HELD + PIECE].tobytes()
        for place in islice(_places(text, piece), TRIES):
            begin = start + place // width
            there = train[begin:begin + len(ids)]
            if place % width == 0 and len(there) == len(ids) and (there == ids).all():
                return True
    return False


def _places(text: bytes, piece: bytes) -> Iterator[int]:
    """Yield every place of `piece` in `text`, in bytes."""
    place = text.find(piece)
    while place >= 0:
        yield place
        place = text.find(piece, place + 1)


def lines(trained_on: dict | None, floor: dict | None, nats: float, documents: bool) -> list[str]:
    """Return lines for the user on what `share` or `relation` found.

    floor: the n-gram baseline, or None; nats: the model's loss in nats per character; documents: True for a model of
    documents.
    """
    found = [words(trained_on, documents)] if trained_on else []
    if floor:
        reached = ngram.reaches(floor["nats_per_char"], floor["order"], floor["counted"], floor["characters"])
        found.append(reached + ("; the model is worse" if nats > floor["nats_per_char"] else ""))
    return found


def words(found: dict, documents: bool) -> str:
    """Return one line on what `share` or `of_another` found."""
    if "pieces" in found:
        stand = "stands" if found["pieces"] == 1 else "stand"
        return (f"{found['pieces']} of {found['of']} pieces of this text, of {PIECE} characters at most, {stand} in "
                "the training text")
    much, were = percent(found["share"]), "documents were" if documents else "text was"
    line = f"{much} of {'these' if documents else 'this'} {were} trained on"
    return f"up to {line}: the first pass over the training part was not finished" if found["at_most"] else line


def percent(part: float) -> str:
    """Return a share as whole percent. A share between 0 and 1 is never shown as 0% or as all."""
    if part == 1:
        return "all"
    return "less than 1%" if part < 0.01 else "more than 99%" if part > 0.99 else f"{part:.0%}"
