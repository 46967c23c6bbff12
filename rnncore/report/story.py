"""A story is all that a page tells of one model: what its run left, its training card, what it makes of a passage."""
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

CHARACTERS = 4000  # of the passage that is read
RANKED = 10        # cells a probe that are ranked, at least
ALONE = "This is of a model file alone, without its run folder: there are no curves and no samples."
Term: TypeAlias = tuple[str, str]  # a term and what it is


@dataclass(frozen=True, eq=False)
class Story:
    """All that a page tells. The lists may be empty: what they would show is left out."""
    name: str                        # of the run or the model
    headline: list[Term]             # the figures that come first
    facts: list[Term]                # the training card
    vocab: Vocab
    passage: Reading
    source: str                      # where the passage is from, in words
    atlas: Atlas                     # over the passage's beginning
    rows: list[Row]                  # of metrics.jsonl
    samples: list[tuple[int, str]]   # step and text
    floor: float | None              # nats per character that counting alone reaches
    there: int | None                # characters of the whole validation text, where that is known
    notes: list[str]                 # what is to be said of it, a sentence each
    best: int                        # cells shown a probe

    @property
    def unit(self) -> str:
        """What a symbol is called."""
        return "byte" if self.vocab.level == "byte" else "character"


class Passage(NamedTuple):
    """A text to read: its ids (n,), where they are from in words, and what is to be said of it, a sentence each."""
    ids: Ids
    source: str
    notes: list[str]


def tell(found: Found, model: CharLM, card: Card, passage: Passage, cells: int = 3) -> Story:
    """Return the story of a model by its first CHARACTERS of a passage; cells: so many are shown a probe.

    Raises FloatingPointError where the loss or the cells are no numbers.
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
                 there=(known.get("val_chars") or {}).get("all"), notes=notes, best=cells)


def headline(model: CharLM, card: Card, floor: float | None) -> list[Term]:
    """Return the figures that a page begins with; card: of `rnncore train`, or empty."""
    config = model.config
    found = [("model", f"{config.layers} × {config.hidden} LSTM, {params.count(config):,} parameters")]
    if card:
        found.append(("learned", f"{about(card['chars'])} characters of {card['corpus']['name']}"))
        if measured := headlines.of(card):
            nats = measured.best.nats
            found.append(("validation loss", f"{nats:.3f} nats, {nats / log(2):.3f} bits, {measured.best.over}"))
    return found + ([("n-gram floor, by counting", f"{floor:.3f} nats")] if floor is not None else [])


def rows(folder: Path) -> list[Row]:
    """Return the numbers in each row of metrics.jsonl in a run folder; lines that are torn are left out."""
    found = ({name: value for name, value in row.items() if type(value) in (int, float) and abs(value) < 1e30}
             for row in map(runs.parsed, _text(folder / "metrics.jsonl").splitlines()) if row)
    return [row for row in found if "step" in row]


def samples(folder: Path) -> list[tuple[int, str]]:
    """Return (step, text) of each sample in a run folder."""
    return [(step, text.rstrip()) for step, text in runs.samples(_text(folder / "samples.txt"))]


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""


def named(model: CharLM, symbols: str | bytes, name: str) -> Passage:
    """Return the passage of a text that the user named. Raises CorpusError for fewer than 2 symbols."""
    unknown = sum(symbol not in model.vocab for symbol in model.vocab.spelled(symbols))
    notes = [f"{unknown:,} of the characters read are not in the model’s vocabulary: stand-ins are in their places."]
    return Passage(encode(model, symbols, "replace"), f"the beginning of {name}", notes if unknown else [])


def own(model: CharLM, card: Card, found: Found) -> Passage:
    """Return a passage of the validation text; of one that is not at hand, what the model writes.

    The validation text is what `keep` wrote of it in the run folder, else the corpus of the training card, read anew.
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
    """Return the validation ids (n,) of the corpus in the card of a model file. Raises CorpusError, as text_of does."""
    ids, split = text_of(card, file).encode(model.vocab, "replace")[0], card["split"]
    return ids[split["train"]:split["train"] + split["validation"]]


def keep(folder: Path, vocab: Vocab, ids: Ids) -> None:
    """Write the first CHARACTERS of a run's validation ids (n,) into its folder, as a text or as bytes."""
    text = "".join(map(vocab.symbols.__getitem__, ids[:CHARACTERS].tolist()))
    write_whole(folder / runs.PASSAGE,
                text.encode("latin-1") if vocab.level == "byte" else text.encode(errors="surrogatepass"))


def _kept(vocab: Vocab, path: Path) -> Ids:
    """The ids of what `keep` wrote."""
    with path.open("rb") as file:
        data = file.read(4 * CHARACTERS)  # a longer one is not of `keep`
    return vocab.encode(data if vocab.level == "byte" else data.decode(errors="replace"), "replace")
