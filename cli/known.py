"""The part of a text that a model was trained on, from its training card: what `rnncore score` says beside the figures.

A text is known by its sha256, also where more was written after it since; its split has the share. Another text is
looked for in the training text, where that is still there, by a few pieces.
"""
import os
from collections.abc import Iterator

PIECE = 100     # characters that two texts have in common by chance never
PIECES = 5      # that are looked for
HELD = 1 << 22  # characters in which they are looked for at a time


def share(card: dict, corpus, text: str, how: dict) -> dict | None:
    """Return which share of a text that is scored lay in the training part; None for another text than the card's.

    corpus: the text as it was read, `how`: the fields of a data.text.Reading. at_most: the first pass over the training
    part was not finished, so the true share is smaller.
    """
    from rnncore.runs import trained

    if not trained(card):
        return None
    about, part = card["corpus"], card["split"]["train"]
    if part > about["characters"]:  # a card that contradicts itself
        return None
    for read in _readings(corpus, text, how, about["newline"]):
        if read.digest(about["characters"]) == about["sha256"]:
            batch = card["train"].get("batch")
            left_over = batch if isinstance(batch, int) else 0  # what streams of equal length leave over
            return {"share": part / read.characters, "at_most": card["chars"] < part - left_over}
    return None


def _readings(corpus, text: str, how: dict, newline: str) -> Iterator:
    """Yield the text as it was read; then, where it can be read again, with the line ends of the training text."""
    from rnncore.data.text import read

    yield corpus
    if how.get("newline", newline) != newline and (os.path.isfile(text) or os.path.isdir(text)):
        yield read([text], distinct=1, **how | {"newline": newline})


def pieces(train, ids) -> tuple[int, int]:
    """Return how many of so many pieces of ids stand in the training text; both are ids over one vocabulary."""
    starts = [len(ids) * k // PIECES for k in range(PIECES)]
    left = [ids[start:start + PIECE].astype(train.dtype).tobytes() for start in starts]
    for start in range(0, len(train), HELD):
        text, width = train[start:start + HELD + PIECE].tobytes(), train.itemsize
        left = [piece for piece in left if all(place % width for place in _places(text, piece))]
    return len(starts) - len(left), len(starts)


def by_pieces(found: int, of: int, length: int) -> dict | None:
    """Return what `pieces` found in a text of this length, where it is more than chance."""
    enough = PIECE if found == of else PIECES * PIECE  # below that, pieces are short or overlap
    return {"pieces": found, "of": of} if found and length >= enough else None


def _places(text: bytes, piece: bytes) -> Iterator[int]:
    place = text.find(piece)
    while place >= 0:
        yield place
        place = text.find(piece, place + 1)


def words(found: dict, documents: bool) -> str:
    """Return in a line what `share` or `by_pieces` found."""
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
