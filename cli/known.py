"""What a text has to do with the training text of a model: `rnncore score` says it beside the figures.

A text is known by its sha256, also where more was written after it since; its split has the share. Another text is
looked for in the training text, where that is still there: as a whole, else by a few pieces. Of that one it is also
said what counting the training text reaches on it.
"""
import os
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from rnncore.data.text import CorpusError, read
from rnncore.measure import ngram
from rnncore.runs.folder import trained
from rnncore.runs.places import text_of

PIECE = 100     # characters that two texts have in common by chance never
PIECES = 5      # that are looked for
HELD = 1 << 22  # characters in which they are looked for at a time
TRIES = 100     # places in those at which a whole text is looked for
KNOWN = "the text stands in the training text, which counting would know by heart"  # why there is no baseline


def share(card: dict, corpus, text: str, how: dict) -> dict | None:
    """Return which share of a text that is scored lay in the training part; None for another text than the card's.

    corpus: the text as it was read, `how`: the fields of a data.text.Reading. at_most: the first pass over the training
    part was not finished, so the true share is smaller.
    """
    if not trained(card):
        return None
    about, part = card["corpus"], card["split"]["train"]
    if part > about["characters"]:  # a card that contradicts itself
        return None
    for reading in _readings(corpus, text, how, about["newline"]):
        if reading.digest(about["characters"]) == about["sha256"]:
            return {"share": part / reading.characters, "at_most": _unfinished(card)}
    return None


def beside(card: dict, file: Path, model, ids, unknown: int) -> tuple[dict | None, dict | None, str | None]:
    """(what of_another says of ids, what counting the training text reaches on them, why it is not counted).

    file: the model's. The first two are None where the training text is not at hand; counting is no measure where all
    pieces stand there: it knows the text. No reason is given of a model that was not trained by `rnncore train`.
    """
    if not trained(card):
        return None, None, None
    try:
        corpus = text_of(card, file)
    except CorpusError as error:
        return None, None, f"the training text is not read: {error}"
    train = corpus.encode(model.vocab, "replace" if model.vocab.min_count > 1 else "skip")[0][:card["split"]["train"]]
    trained_on, knows = of_another(card, train, ids, unknown, model.vocab.end)
    if knows:
        return trained_on, None, KNOWN
    floor = ngram.baseline(train, ids[:ngram.MOST], len(model.vocab))
    return trained_on, {"nats_per_char": floor.nats, "order": floor.order, "counted": floor.counted,
                        "characters": len(train)}, None


def of_another(card: dict, train, ids, unknown: int, end: int | None = None) -> tuple[dict | None, bool]:
    """Return what of a text that is not the card's stands in the training text, and whether all its pieces do.

    end: the id after each document. Of documents, which are shuffled before they are split, a text may be of the
    training part and of the others: more than half of the pieces are enough.

    train, ids: ids over one vocabulary; unknown: how many symbols of the text that lacks. The first is as `share` where
    the whole text stands there, else the number of pieces that do; None where that may be chance.
    """
    found, of = pieces(train, ids, end)
    if found == of and not unknown and len(ids) >= PIECE and stands_in(train, ids):
        return {"share": 1.0, "at_most": _unfinished(card)}, True
    enough = PIECE if found == of else PIECES * PIECE  # below that, pieces are short or overlap
    return {"pieces": found, "of": of} if found and len(ids) >= enough else None, (
        found == of if end is None else 2 * found > of)


def _unfinished(card: dict) -> bool:
    """Return whether the first pass over the training part was not finished."""
    batch = card["train"].get("batch")
    left_over = batch if isinstance(batch, int) else 0  # what streams of equal length leave over
    return card["chars"] < card["split"]["train"] - left_over


def _readings(corpus, text: str, how: dict, newline: str) -> Iterator:
    """Yield the text as it was read; then, where it can be read again, with the line ends of the training text."""
    yield corpus
    if how.get("newline", newline) != newline and (os.path.isfile(text) or os.path.isdir(text)):
        yield read([text], distinct=1, **how | {"newline": newline})


def pieces(train, ids, end: int | None = None) -> tuple[int, int]:
    """Return how many of so many pieces of ids stand in the training text; both are ids over one vocabulary.

    end: the id after each document; a piece is then part of one document, with the end before it.
    """
    left = [part.astype(train.dtype).tobytes() for k in range(PIECES)
            for part in _parts(ids[len(ids) * k // PIECES:][:PIECE], end)]
    of, before = len(left), b"" if end is None else train.dtype.type(end).tobytes()  # a document begins the text, too
    for start in range(0, len(train), HELD):
        text, width = train[start:start + HELD + PIECE].tobytes(), train.itemsize
        text = text if start else before + text
        left = [piece for piece in left if all(place % width for place in _places(text, piece))]
    return of - len(left), of


def _parts(piece, end: int | None) -> Iterator:
    """Yield the documents in a piece, which may stand in another order elsewhere; of a continuous text the piece."""
    breaks = [] if end is None else (piece == end).nonzero()[0].tolist()
    begin = 0
    for last in [*breaks, len(piece) - 1]:
        if last > begin or begin == 0:
            yield piece[begin:last + 1]
        begin = last


def stands_in(train, ids) -> bool:
    """Return whether ids stand in the training text as they are, from one end to the other."""
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
    place = text.find(piece)
    while place >= 0:
        yield place
        place = text.find(piece, place + 1)


def lines(trained_on: dict | None, floor: dict | None, nats: float, documents: bool) -> list[str]:
    """Return what `share` or `beside` found, a line each; nats: the model's, which counting may do better than."""
    found = [words(trained_on, documents)] if trained_on else []
    if floor:
        reached = ngram.reaches(floor["nats_per_char"], floor["order"], floor["counted"], floor["characters"])
        found.append(reached + (": the model is worse" if nats > floor["nats_per_char"] else ""))
    return found


def words(found: dict, documents: bool) -> str:
    """Return in a line what `share` or `of_another` found."""
    if "pieces" in found:
        stand = "stands" if found["pieces"] == 1 else "stand"
        return (f"{found['pieces']} of {found['of']} pieces of this text, of {PIECE} characters at most, {stand} in "
                "the training text")
    much, were = percent(found["share"]), "documents were" if documents else "text was"
    line = f"{much} of {'these' if documents else 'this'} {were} trained on"
    return f"up to {line}: the first pass over the training part was not finished" if found["at_most"] else line


def percent(part: float) -> str:
    """Return a share in whole percent; none is rounded to nothing or to all."""
    if part == 1:
        return "all"
    return "less than 1%" if part < 0.01 else "more than 99%" if part > 0.99 else f"{part:.0%}"
