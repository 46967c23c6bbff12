"""The JSON text of a model file says what its tensors are; here it is read strictly, and what is wrong in it is named.

Every schema that was ever written has a line in READS, with what makes today's document of one of that schema.
"""
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from .. import __version__
from ..config import (COUNT, FLAG, LAYERS, POSITIVE, PRECISIONS, SHARE, Json, Kind, ModelConfig, SaveConfig,
                      TrainConfig, number, one_of, shown)
from ..data.decode import one_line
from ..data.text import Reading
from ..data.vocab import Vocab
from ..divergence import Course
from ..params import Tensors
from .consistency import contradiction
from .schema import (BEST, CHANGES, FILES, FOLDER, LOSS, NAMES, NUMBER, NUMBERS, SECONDS, SHA256, TEXT, TEXTS, Fields,
                     Made, Maybe, Metadata, by_type, fault)

SCHEMA = 1           # of the files that are written
READS: dict[int, Callable[[Metadata], Metadata]] = {1: lambda document: document}  # schema of a file -> that of SCHEMA
KEY = "rnncore"      # where in the metadata the text is
LONGEST = 1 << 24    # bytes of a header without that list: a vocabulary of all 1,114,112 code points takes 10 million
LISTED = 1 << 23     # bytes of the header that the list of the files of a text may take
HEADER = LONGEST + LISTED
MOST_TENSORS = 4 * LAYERS + 16  # in a header; four a layer, embedding, head, what resuming needs
MESSAGE = 400        # characters


class ModelFileError(ValueError):
    """A model file that cannot be read or is not what it says; the message is one line and names the field.

    cause: what is wrong, without the file and the cure.
    """

    def __init__(self, message: str, cause: str | None = None):
        super().__init__(one_line(message if len(message) <= MESSAGE else f"{message[:MESSAGE]} ..."))
        self.cause = cause or message


def damaged(path: Path, cause: str, cure: str = "take another copy") -> ModelFileError:
    """The error for a file that is not as it should be."""
    return ModelFileError(f"{path}: {cause}: {cure}", cause)


def torn(path: Path, why: Exception | str) -> ModelFileError:
    """The error for a file whose bytes are none of a model file."""
    cause = f"is not a whole model file ({why})"
    return ModelFileError(f"{path} {cause}: take another copy", f"it {cause}")


PRECISION = one_of(*PRECISIONS)

# A name that ends in ? may be missing; others than those named here may stand beside them.
CORPUS = Made(Reading, ("encoding", "newline"),
              beside={"name": TEXT, "sources": NAMES, "characters": COUNT, "sha256": SHA256})
SPLIT: Fields = {"train": COUNT, "validation": COUNT, "test": COUNT}
FLOOR: Fields = {"nats": LOSS, "order": COUNT, "counted": COUNT}
CARD: Fields = {"corpus": CORPUS, "split": SPLIT, "train": {}, "step": COUNT, "chars": COUNT, "seconds": NUMBER,
                "made": TEXT, "val_loss": Maybe(LOSS), "best_step": Maybe(COUNT), "val_loss_of_all": Maybe(LOSS),
                "versions": TEXTS, "val_chars?": Maybe(dict.fromkeys(("best?", "end?", "all?"), Maybe(COUNT))),
                **dict.fromkeys(("init_from?", "origin?", "about?", "no_floor?"), Maybe(TEXT)), "floor?": Maybe(FLOOR),
                "losses?": NUMBERS, "precision?": Maybe(PRECISION), "changes?": CHANGES}
DOCUMENT: Fields = {
    "config": Made(ModelConfig, ("vocab_size", "embed", "hidden", "layers")),
    "vocab": Kind("a list", lambda value: isinstance(value, list)), "card": {}, "text?": by_type(Vocab)}
TRAINING: Fields = {
    "settings": {"corpus": CORPUS, "split": SPLIT | {"asked": {"val": SHARE, "test": SHARE}}, "preset?": Maybe(TEXT),
                 "asked": dict.fromkeys(("batch?", "seq?", "threads?"), Maybe(POSITIVE)),
                 **dict.fromkeys(("init_from?", "origin?", "no_floor?"), Maybe(TEXT)), "extend_vocab?": FLAG,
                 "floor?": Maybe(FLOOR), "precision?": PRECISION, "changes?": CHANGES,
                 "files?": Maybe({"below": FOLDER, "of": FILES}),  # null: there were too many
                 "saving?": Made(SaveConfig, ("save_every", "sample_every", "keep"))},
    "progress": {"step": POSITIVE, "chars": POSITIVE, "seconds": SECONDS, "training_seconds": SECONDS,
                 "val_windows": Maybe(POSITIVE), "best": Maybe(BEST), "stale?": COUNT, "final_loss": Maybe(LOSS),
                 "final_windows": COUNT, "course?": Made(Course, ("first", "recent", "weight")),
                 "recovery?": dict.fromkeys(("row", "uncounted", "since"), COUNT) | {
                     "rate": number(most=1, above=True), "returned": FLAG}},
    "config": Made(TrainConfig)}


def strict(path: Path, text: str | bytes, what: str) -> Json:
    """The value of a JSON text in which no name stands twice; what: how an error calls it."""
    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for name, value in pairs:
            if name in found:
                raise damaged(path, f"{name} stands twice in {what}")
            found[name] = value
        return found

    try:
        return json.loads(text, object_pairs_hook=once)
    except ModelFileError:
        raise
    except (ValueError, RecursionError) as error:
        raise ModelFileError(f"{path} is no model file of rnncore: {what} is no JSON ({error})") from None


def check_header(path: Path) -> None:
    """Refuse a header that is longer than the file or than any of ours, or that names a thing twice.

    The library would allocate what the header claims, and of two tensors with one name take the last.
    """
    with open(path, "rb") as file:
        length = int.from_bytes(file.read(8), "little")
        there = path.stat().st_size - 8
        if not 0 < length <= there:
            raise torn(path, f"header length {length:,} of {max(0, there):,} bytes")
        header = strict(path, file.read(length), "the header") if length <= HEADER else {}
    if length > LONGEST and length - (_listed(path, header) if isinstance(header, dict) else 0) > LONGEST:
        raise damaged(path, f"header length {length:,} is above {LONGEST:,} bytes, the most that is read: its card or "
                            "another text is too long")
    if isinstance(header, dict) and len(header) > MOST_TENSORS:
        raise damaged(path, f"its header names {len(header) - 1:,} tensors, more than any model of ours has")


def _listed(path: Path, header: dict[str, Any]) -> int:
    """How many bytes of a header are the list of the files of a text."""
    try:
        text: Any = strict(path, header["__metadata__"][KEY], f"the `{KEY}` text")
        files = text["training"]["settings"]["files"]
    except (KeyError, TypeError, IndexError, ModelFileError):
        return 0
    return min(LISTED, len(json.dumps(json.dumps(files))))


def stored(path: Path, metadata: dict[str, str] | None) -> Metadata:
    """The document as it stands in the file, of a schema that is read."""
    text = (metadata or {}).get(KEY)
    if text is None:
        raise ModelFileError(f"{path} is no model file of rnncore: its metadata has no `{KEY}` text")
    document = strict(path, text, f"the `{KEY}` text")
    if not isinstance(document, dict) or "schema" not in document:
        raise ModelFileError(f"{path} is no model file of rnncore: its `{KEY}` text has no schema")
    schema = document["schema"]
    if type(schema) is not int or schema not in READS:
        raise ModelFileError(f"{path}: schema {shown(schema)} is none of those that rnncore {__version__} reads "
                             f"({', '.join(map(str, READS))}): install the version of rnncore that wrote the file")
    return document


def current(path: Path, document: Metadata) -> Metadata:
    """A stored document as one of today's schema, every field of it checked but `training`; without the sha256."""
    found = fault(document, {"sha256": SHA256}, "document")
    document = READS[document["schema"]]({name: value for name, value in document.items() if name != "sha256"})
    if found := found or fault(document, DOCUMENT, "document"):
        raise damaged(path, found.removeprefix("document."))
    try:
        vocabulary(document)
    except (TypeError, ValueError) as error:
        raise damaged(path, f"vocab is not as it should be ({error})") from None
    size, symbols = document["config"]["vocab_size"], len(document["vocab"])
    if size != symbols:
        raise damaged(path, f"vocab_size is {size}, but vocab has {symbols:,} symbols")
    return document


def sizes(document: Metadata) -> ModelConfig:
    """The sizes of the model. Raises TypeError, ValueError."""
    return ModelConfig(**document["config"])


def vocabulary(document: Metadata) -> Vocab:
    """The model's vocabulary; `text` is there where it is no plain one of characters. Raises TypeError, ValueError."""
    return Vocab.from_code_points(document["vocab"], **document.get("text", {}))


def check_training(path: Path, document: Metadata, tensors: Tensors) -> None:
    """Refuse a `training` text, or tensors beside it, that resuming cannot go by."""
    text: Any = document.get("training")
    found = fault(text, TRAINING, "training") or _reading(text["settings"]["corpus"], vocabulary(document)) or \
        contradiction(text, TrainConfig(**text["config"]), tensors)
    if found:
        raise damaged(path, found, "start a new run, or take another copy")


def check_split(path: Path, kept: dict[str, Any], found: dict[str, int]) -> None:
    """Refuse a split that is not what its shares make of the corpus now."""
    for part in SPLIT:
        if kept[part] != found[part]:
            raise ModelFileError(f"{path}: training.settings.split.{part} is {kept[part]:,}, but the corpus splits "
                                 f"into {found[part]:,}: start a new run")


def _reading(about: dict[str, Any], vocab: Vocab) -> str | None:
    """Where the corpus is read otherwise than what the model learnt."""
    how = Reading(**Reading.kept(about))
    for name in ("level", "lower", "documents", "field"):
        has, wanted = getattr(how, name), getattr(vocab, name)
        if has != wanted:
            return f"training.settings.corpus.{name} is {shown(has)}, but the model's is {shown(wanted)}"
    return None
