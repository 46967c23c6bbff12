"""The metadata of a model file: the JSON text that describes its tensors, read strictly and checked by its schema.

An error names the field that is wrong. READS has an entry for every schema version that was ever written: a function
that converts its metadata to the current schema.
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

SCHEMA = 1           # the schema version of the files that are written
READS: dict[int, Callable[[Metadata], Metadata]] = {1: lambda meta: meta}  # schema of a file -> conversion to SCHEMA
ARITHMETIC = 2       # raised with each change of the order of sums, because runs then get other numbers
KEY = "rnncore"      # the key of the safetensors header under which the metadata stands
LISTED = 1 << 23     # bytes of a header that the list of the corpus's files may take
LONGEST = 1 << 24    # bytes of a header without that list; a vocabulary of all 1,114,112 code points takes 10 million
HEADER = LONGEST + LISTED
MOST_TENSORS = 4 * LAYERS + 16  # tensors in a header: four per layer, the embedding, the head, and those for resuming
MESSAGE = 400        # characters of an error message; a longer one is cut


class ModelFileError(ValueError):
    """A model file cannot be read, or its contents contradict its metadata; the message is one line with the field.

    cause: the fault alone, without the path of the file and the cure.
    """

    def __init__(self, message: str, cause: str | None = None):
        super().__init__(one_line(message if len(message) <= MESSAGE else f"{message[:MESSAGE]} ..."))
        self.cause = cause or message


def damaged(path: Path, cause: str, cure: str = "take another copy") -> ModelFileError:
    """Return the error for a model file with wrong contents."""
    return ModelFileError(f"{path}: {cause}: {cure}", cause)


def torn(path: Path, why: Exception | str) -> ModelFileError:
    """Return the error for a file that is not a complete safetensors file."""
    cause = f"is not a whole model file ({why})"
    return ModelFileError(f"{path} {cause}: take another copy", f"it {cause}")


PRECISION = one_of(*PRECISIONS)

# The schema of the metadata. A field whose name ends in ? may be missing. Fields that are not listed are allowed,
# except in a schema.Made without `beside`.
CORPUS = Made(Reading, ("encoding", "newline"),
              beside={"name": TEXT, "sources": NAMES, "characters": COUNT, "sha256": SHA256})
SPLIT: Fields = {"train": COUNT, "validation": COUNT, "test": COUNT}
FLOOR: Fields = {"nats": LOSS, "order": COUNT, "counted": COUNT}
CARD: Fields = {"corpus": CORPUS, "split": SPLIT, "train": {}, "step": COUNT, "chars": COUNT, "seconds": NUMBER,
                "made": TEXT, "val_loss": Maybe(LOSS), "best_step": Maybe(COUNT), "val_loss_of_all": Maybe(LOSS),
                "versions": TEXTS, "val_chars?": Maybe(dict.fromkeys(("best?", "end?", "all?"), Maybe(COUNT))),
                **dict.fromkeys(("init_from?", "origin?", "about?", "no_floor?"), Maybe(TEXT)), "floor?": Maybe(FLOOR),
                "losses?": NUMBERS, "precision?": Maybe(PRECISION), "changes?": CHANGES}
METADATA: Fields = {
    "config": Made(ModelConfig, ("vocab_size", "embed", "hidden", "layers")),
    "vocab": Kind("a list", lambda value: isinstance(value, list)), "card": {}, "text?": by_type(Vocab)}
TRAINING: Fields = {
    "settings": {"corpus": CORPUS, "split": SPLIT | {"asked": {"val": SHARE, "test": SHARE}}, "preset?": Maybe(TEXT),
                 "asked": dict.fromkeys(("batch?", "seq?", "threads?"), Maybe(POSITIVE)),
                 **dict.fromkeys(("init_from?", "origin?", "no_floor?"), Maybe(TEXT)), "extend_vocab?": FLAG,
                 "floor?": Maybe(FLOOR), "precision?": PRECISION, "arithmetic?": POSITIVE, "changes?": CHANGES,
                 "files?": Maybe({"below": FOLDER, "of": FILES}),  # null: too many files to list
                 "saving?": Made(SaveConfig, ("save_every", "sample_every", "keep"))},
    "progress": {"step": POSITIVE, "chars": POSITIVE, "seconds": SECONDS, "training_seconds": SECONDS,
                 "val_windows": Maybe(POSITIVE), "best": Maybe(BEST), "stale?": COUNT, "final_loss": Maybe(LOSS),
                 "final_windows": COUNT, "course?": Made(Course, ("first", "recent", "weight")),
                 "recovery?": dict.fromkeys(("row", "uncounted", "since"), COUNT) | {
                     "rate": number(most=1, above=True), "returned": FLAG}},
    "config": Made(TrainConfig)}


def strict(path: Path, text: str | bytes, what: str) -> Json:
    """Return the value of a JSON text. what: the name of the text in error messages.

    Raises ModelFileError if the text is not JSON, or if a name occurs twice in an object. Plain json.loads would take
    the last of the two.
    """
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
    """Raise ModelFileError if the safetensors header is too long, or a name occurs twice in it.

    Too long means longer than the file or than any header of rnncore. This check runs before the safetensors library
    opens the file: the library would allocate as much memory as the header claims, and it would take the last of two
    tensors with the same name.
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
    """Return how many bytes of a header are the list of the corpus's files, at most LISTED."""
    try:
        text: Any = strict(path, header["__metadata__"][KEY], f"the `{KEY}` text")
        files = text["training"]["settings"]["files"]
    except (KeyError, TypeError, IndexError, ModelFileError):
        return 0
    return min(LISTED, len(json.dumps(json.dumps(files))))  # the metadata is a JSON text inside the header's JSON


def stored(path: Path, header: dict[str, str] | None) -> Metadata:
    """Return the metadata as it stands in the file. header: the texts of the safetensors header by key.

    Raises ModelFileError if there is no such text, it is not JSON, or this version does not read its schema.
    """
    text = (header or {}).get(KEY)
    if text is None:
        raise ModelFileError(f"{path} is no model file of rnncore: its metadata has no `{KEY}` text")
    meta = strict(path, text, f"the `{KEY}` text")
    if not isinstance(meta, dict) or "schema" not in meta:
        raise ModelFileError(f"{path} is no model file of rnncore: its `{KEY}` text has no schema")
    schema = meta["schema"]
    if type(schema) is not int or schema not in READS:
        raise ModelFileError(f"{path}: schema {shown(schema)} is none of those that rnncore {__version__} reads "
                             f"({', '.join(map(str, READS))}): install the version of rnncore that wrote the file")
    return meta


def current(path: Path, meta: Metadata) -> Metadata:
    """Convert stored metadata to the current schema and check every field except `training`; drop the sha256.

    Raises ModelFileError with the first field that is wrong.
    """
    found = fault(meta, {"sha256": SHA256}, "metadata")
    meta = READS[meta["schema"]]({name: value for name, value in meta.items() if name != "sha256"})
    if found := found or fault(meta, METADATA, "metadata"):
        raise damaged(path, found.removeprefix("metadata."))
    try:
        vocabulary(meta)
    except (TypeError, ValueError) as error:
        raise damaged(path, f"vocab is not as it should be ({error})") from None
    size, symbols = meta["config"]["vocab_size"], len(meta["vocab"])
    if size != symbols:
        raise damaged(path, f"vocab_size is {size}, but vocab has {symbols:,} symbols")
    return meta


def sizes(meta: Metadata) -> ModelConfig:
    """Return the sizes of the model. Raises TypeError or ValueError if a field is missing, unknown or out of range."""
    return ModelConfig(**meta["config"])


def vocabulary(meta: Metadata) -> Vocab:
    """Return the model's vocabulary. Raises TypeError or ValueError for fields that make no vocabulary.

    The field `text` is present only if the vocabulary differs from a plain one of characters.
    """
    return Vocab.from_code_points(meta["vocab"], **meta.get("text", {}))


def check_training(path: Path, meta: Metadata, tensors: Tensors) -> None:
    """Raise ModelFileError if the `training` field or the tensors for resuming are wrong or contradict each other."""
    text: Any = meta.get("training")
    found = fault(text, TRAINING, "training") or _reading(text["settings"]["corpus"], vocabulary(meta)) or \
        contradiction(text, TrainConfig(**text["config"]), tensors)
    if found:
        raise damaged(path, found, "start a new run, or take another copy")


def check_split(path: Path, kept: dict[str, Any], found: dict[str, int]) -> None:
    """Raise ModelFileError if the saved sizes of the split differ from the sizes for the corpus as it is now.

    kept, found: the number of symbols of each part, as saved and as computed.
    """
    for part in SPLIT:
        if kept[part] != found[part]:
            raise ModelFileError(f"{path}: training.settings.split.{part} is {kept[part]:,}, but the corpus splits "
                                 f"into {found[part]:,}: start a new run")


def _reading(about: dict[str, Any], vocab: Vocab) -> str | None:
    """Return one line if the corpus is read with other settings than the model's vocabulary has, or None.

    about: training.settings.corpus.
    """
    how = Reading(**Reading.kept(about))
    for name in ("level", "lower", "documents", "field"):
        has, wanted = getattr(how, name), getattr(vocab, name)
        if has != wanted:
            return f"training.settings.corpus.{name} is {shown(has)}, but the model's is {shown(wanted)}"
    return None
