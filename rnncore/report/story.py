"""A story is all that a page tells of one model: the files of its run, its training card, its reading of a passage."""
from dataclasses import dataclass
from itertools import islice
from math import log
from pathlib import Path
from typing import NamedTuple, TypeAlias

import numpy as np

from .. import params
from ..config import SampleConfig
from ..data.decode import CorpusError
from ..data.vocab import Vocab
from ..kernels.arrays import Ids
from ..measure.evaluate import encode
from ..model import CharLM
from ..plan import about
from ..runs import card as cards, folder as runs, headline as headlines
from ..runs.files import write_whole
from ..runs.names import Found
from ..runs.places import text_of
from ..runs.schema import Card
from ..sample import TOO_LARGE, generate_ids, prompt_ids
from .atlas import FEW, Atlas, of
from .charts import Row
from .reading import Reading, read

CHARACTERS = 4000  # characters of the passage that are read, at most
RANKED = 10        # cells that are ranked for each probe, at least
ALONE = "This report is made from a model file without its run folder, so it has no curves and no samples."
Term: TypeAlias = tuple[str, str]  # a term and its explanation


@dataclass(frozen=True, eq=False)
class Story:
    """All that a page tells of one model. The page leaves out the sections whose lists are empty."""
    name: str                        # name of the run or of the model file
    headline: list[Term]             # the figures at the top of the page
    facts: list[Term]                # the training card
    vocab: Vocab
    passage: Reading                 # the model's reading of a passage
    source: str                      # the passage's origin, in words
    atlas: Atlas                     # over the passage
    rows: list[Row]                  # rows of metrics.jsonl
    samples: list[tuple[int, str]]   # step and text of each sample of the run
    floor: float | None              # the n-gram baseline in nats per character; None if it is not known
    validation_size: int | None      # symbols of the whole validation text; None if it is not known
    notes: list[str]                 # notes for the reader, one sentence each
    best: int                        # cells that are shown for each probe

    @property
    def unit(self) -> str:
        """The word for a symbol: byte or character."""
        return "byte" if self.vocab.level == "byte" else "character"


class Passage(NamedTuple):
    """A text for the model to read."""
    ids: Ids          # (n,)
    source: str       # the text's origin, in words
    notes: list[str]  # notes for the reader, one sentence each


def tell(found: Found, model: CharLM, card: Card, passage: Passage, cells: int) -> Story:
    """Return the story of a model, which reads the first CHARACTERS symbols of a passage.

    found: the model's file and run folder; card: its training card; cells: the cells that are shown for each probe.
    Raises FloatingPointError if the loss or the cells are not finite.
    """
    reading, folder = read(model, passage.ids[:CHARACTERS]), found.folder
    if not np.isfinite(reading.bits).all():
        raise FloatingPointError(f"the loss is no number: {TOO_LARGE}")
    notes = [*([] if folder else [ALONE]), *passage.notes]
    if len(reading.ids) < FEW:
        notes.append(f"It read {len(reading.ids)} {'bytes' if model.vocab.level == 'byte' else 'characters'}: over so "
                     "few, correlations mean little.")
    known = card if runs.trained(card) else {}
    floor = (known.get("floor") or {}).get("nats")
    config = model.config
    sizes = (f"{config.layers} x {config.hidden} LSTM, embedding {config.embed}, {config.vocab_size:,} symbols, "
             f"{model.dtype}")
    return Story(name=folder.resolve().name if folder else found.file.stem, headline=headline(model, known, floor),
                 facts=[("model", sizes), *cards.terms(card)], vocab=model.vocab, passage=reading,
                 source=passage.source, atlas=of(reading, model.vocab, max(cells, RANKED)),
                 rows=rows(folder) if folder else [], samples=samples(folder) if folder else [], floor=floor,
                 validation_size=(known.get("val_chars") or {}).get("all"), notes=notes, best=cells)


def headline(model: CharLM, card: Card, floor: float | None) -> list[Term]:
    """Return the figures at the top of a page; card: a training card of `rnncore train`, or empty."""
    config = model.config
    found = [("model", f"{config.layers} × {config.hidden} LSTM, {params.count(config):,} parameters")]
    if card:
        found.append(("learned", f"{about(card['chars'])} characters of {card['corpus']['name']}"))
        if measured := headlines.of(card):
            nats = measured.best.nats
            found.append(("validation loss", f"{nats:.3f} nats, {nats / log(2):.3f} bits, {measured.best.over}"))
    return found + ([("n-gram baseline", f"{floor:.3f} nats")] if floor is not None else [])


def rows(folder: Path) -> list[Row]:
    """Return the numbers in each row of metrics.jsonl in a run folder; lines that cannot be parsed are left out."""
    found = ({name: value for name, value in row.items() if type(value) in (int, float) and abs(value) < 1e30}
             for row in map(runs.parsed, _text(folder / "metrics.jsonl").splitlines()) if row)
    return [row for row in found if "step" in row]


def samples(folder: Path) -> list[tuple[int, str]]:
    """Return (step, text) of each sample in a run folder."""
    return [(step, text.rstrip()) for step, text in runs.samples(_text(folder / "samples.txt"))]


def _text(path: Path) -> str:
    """Return the text of a file, or "" if there is no such file."""
    return path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""


def named(model: CharLM, symbols: str | bytes, name: str) -> Passage:
    """Return the passage of a text that the user named; symbols: the text as characters or bytes, name: its name.

    Symbols that the model does not know are replaced by stand-ins. Raises CorpusError for fewer than 2 symbols.
    """
    unknown = sum(symbol not in model.vocab for symbol in model.vocab.spelled(symbols))
    notes = [f"{unknown:,} of the characters read are not in the model’s vocabulary: stand-ins are in their places."]
    return Passage(encode(model, symbols, "replace"), f"the beginning of {name}", notes if unknown else [])


def own(model: CharLM, card: Card, found: Found) -> Passage:
    """Return the beginning of the model's validation text, or a text that the model writes if there is none to read.

    The validation text is read from the run folder, where `keep` has written its beginning, or else from the corpus
    that the training card names.
    """
    kept, ids, why = found.folder and found.folder / runs.PASSAGE, np.empty(0, np.intp), ""
    if kept and kept.is_file():
        ids = _kept(model.vocab, kept)
    elif runs.trained(card):
        try:
            ids = validation(model, card, found.file)
        except CorpusError as error:
            why = f" ({error})"
    if len(ids) > 1:
        return Passage(ids, "the beginning of the validation text, which it has not learned from", [])
    none = runs.trained(card) and not card["split"]["validation"]
    lacks = "It has no validation text" if none else f"The text that it was validated on is not at hand{why}"
    written = generate_ids(model, prompt_ids(model.vocab, "", "error"), SampleConfig(seed=1))
    return Passage(np.concatenate(list(islice(written, CHARACTERS))), "what it wrote itself", [
        f"{lacks}: what it reads here is what it wrote itself, which surprises it less; --text names another."])


def validation(model: CharLM, card: Card, file: Path) -> Ids:
    """Return the ids (n,) of the validation text of the corpus that a model file's training card names.

    Raises CorpusError if the text cannot be read or has changed.
    """
    ids, split = text_of(card, file).encode(model.vocab, "replace")[0], card["split"]
    return ids[split["train"]:split["train"] + split["validation"]]


def keep(folder: Path, vocab: Vocab, ids: Ids) -> None:
    """Write the first CHARACTERS of a run's validation ids (n,) into its folder, as UTF-8 text or as bytes."""
    text = "".join(map(vocab.symbols.__getitem__, ids[:CHARACTERS].tolist()))
    write_whole(folder / runs.PASSAGE,
                text.encode("latin-1") if vocab.level == "byte" else text.encode(errors="surrogatepass"))


def _kept(vocab: Vocab, path: Path) -> Ids:
    """Return the ids (n,) of the passage that `keep` has written to a file."""
    with path.open("rb") as file:
        data = file.read(4 * CHARACTERS)  # a character has at most 4 bytes: `keep` writes no longer file
    return vocab.encode(data if vocab.level == "byte" else data.decode(errors="replace"), "replace")
