"""Where the texts of a run lie on this machine: its last.safetensors alone says so, the other files are passed on."""
import json
import os
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from ..data.decode import CorpusError
from ..data.recorded import Record
from ..data.text import Corpus, Reading, read
from . import consistency, metadata
from .schema import Card, Settings

FILES = "files"  # in a run's settings: the single files that its sources stood for; null where they were too many


def passed_on(settings: Settings) -> Settings:
    """Return a run's settings as files that are passed on have them: without the folders of this machine."""
    found = {name: value for name, value in settings.items() if name != FILES}
    corpus = found.get("corpus", {})
    if "sources" in corpus:
        found["corpus"] = corpus | {"sources": list(map(nameless, corpus["sources"]))}
    return found | {name: nameless(found[name]) for name in ("init_from", "origin") if found.get(name)}


def nameless(source: str) -> str:
    """Return a source as it may be passed on to others: of one that is absolute its last name alone."""
    return os.path.basename(source.rstrip(os.sep)) or source if os.path.isabs(source) else source


def keep(settings: Settings, corpus: Corpus) -> None:
    """Write into a run's settings which files its corpus was read from, where they are not too many."""
    settings.pop("paths", None)  # which stood in the list's place in runs of a few days
    files = {"below": corpus.record.below, "of": corpus.record.of}
    too_long = len(json.dumps(json.dumps(files))) > metadata.LISTED  # twice, as it stands in a file
    settings[FILES] = None if too_long else files


def about(corpus: Corpus, how: dict[str, Any]) -> dict[str, Any]:
    """Return what a run keeps of its corpus; how: the fields of its Reading."""
    return {"name": corpus.name, "sources": list(corpus.sources), **how, "characters": corpus.characters,
            "sha256": corpus.sha256}


def record(settings: Settings, changed: bool = False) -> Record:
    """Return what the settings of a run say of the files of its text. changed: the text may be another than it was.

    Raises CorpusError where the files were too many to be kept.
    """
    most = None if changed else settings["corpus"]["characters"]
    if FILES not in settings:  # as before they were kept
        return Record(characters=most)
    if settings[FILES] is None:
        raise CorpusError("its files were too many to be listed in last.safetensors")
    return Record(settings[FILES]["of"], settings[FILES]["below"], most)


def text_of(card: Card, file: Path) -> Corpus:
    """Return the text that a model was trained on, as it stands in its training card (metadata.CARD).

    file: the model's. The files are those that last.safetensors beside it lists; where there is none, or it is of
    another text, those that the card names as plain paths. Raises CorpusError for a text that cannot be read or
    has changed.
    """
    about = card["corpus"]
    known = [(about["sources"], Record(characters=about["characters"]))]
    last = _settings(file.parent / "last.safetensors")
    if last and last["corpus"]["sha256"] == about["sha256"]:
        mine = last["corpus"]["sources"], record(last)
        known = [mine] if FILES in last or mine == known[0] else [*known, mine]
    why: CorpusError | None = None
    for sources, listed in known:
        try:
            return _as_it_was(about, sources, listed)
        except CorpusError as error:
            why = why or error
    raise why or CorpusError("no text is named")


def _as_it_was(about: dict[str, Any], sources: list[str], listed: Record) -> Corpus:
    """Read the text that a card is about from these sources. Raises CorpusError."""
    if "-" in sources:
        raise CorpusError("it came from stdin")
    corpus = read(sources, record=listed, **Reading.kept(about))
    if corpus.sha256 != about["sha256"]:
        raise CorpusError("it has changed since (its sha256 differs)")
    return corpus


def _settings(last: Path) -> Settings | None:
    """Return the settings of the run in a last.safetensors; None where there is none. Raises CorpusError."""
    if not last.is_file():
        return None
    try:
        metadata.check_header(last)
        with safe_open(last, framework="numpy") as file:
            document = metadata.stored(last, file.metadata())
        words = metadata.fault(document.get("training"), metadata.TRAINING, "training") or \
            consistency.files(document["training"]["settings"])
        if words:
            raise CorpusError(f"{last}: {words}")
    except (OSError, SafetensorError, metadata.ModelFileError) as error:
        raise CorpusError(f"{last} cannot be read, which says where it lies ({error})") from None
    return document["training"]["settings"]
