"""The places of a run's training text on this machine, and how to read that text again.

Only last.safetensors records absolute paths. The other files of a run may be passed on to other people, so they must
not show the folders of this machine.
"""
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

FILES = "files"  # key of a run's settings: the single files that its sources meant; null if there were too many


def passed_on(settings: Settings) -> Settings:
    """Return a run's settings without the folders of this machine, for files that may be passed on."""
    found = {name: value for name, value in settings.items() if name != FILES}
    corpus = found.get("corpus", {})
    if "sources" in corpus:
        found["corpus"] = corpus | {"sources": list(map(nameless, corpus["sources"]))}
    return found | {name: nameless(found[name]) for name in ("init_from", "origin") if found.get(name)}


def nameless(source: str) -> str:
    """Return a source without the folders of this machine: the last part of an absolute path, else the whole source."""
    return os.path.basename(source.rstrip(os.sep)) or source if os.path.isabs(source) else source


def keep(settings: Settings, corpus: Corpus) -> None:
    """Write into a run's settings the list of the files of its corpus, or null if the list is too long to store."""
    settings.pop("paths", None)  # a key that some older runs stored in place of the list
    files = {"below": corpus.record.below, "of": corpus.record.of}
    too_long = len(json.dumps(json.dumps(files))) > metadata.LISTED  # encoded twice, as in a model file
    settings[FILES] = None if too_long else files


def about(corpus: Corpus, how: dict[str, Any]) -> dict[str, Any]:
    """Return the entry `corpus` of a run's settings. how: the fields of the corpus's Reading."""
    return {"name": corpus.name, "sources": list(corpus.sources), **how, "characters": corpus.characters,
            "sha256": corpus.sha256}


def record(settings: Settings, changed: bool = False) -> Record:
    """Return the record of the files of a run's text, from its settings, for reading that text again.

    changed: True to allow another text, of any length. Raises CorpusError if the list of files was too long to store.
    """
    most = None if changed else settings["corpus"]["characters"]
    if FILES not in settings:  # older runs did not list their files
        return Record(characters=most)
    if settings[FILES] is None:
        raise CorpusError("its files were too many to be listed in last.safetensors")
    return Record(settings[FILES]["of"], settings[FILES]["below"], most)


def text_of(card: Card, file: Path) -> Corpus:
    """Read the text that a model was trained on. card: its training card (metadata.CARD); file: its model file.

    The files of the text are the ones that last.safetensors in the same folder lists. If there is no last.safetensors,
    or if it is for another text, they are the sources in the card that are plain paths. Raises CorpusError if the text
    cannot be read or has changed.
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
    """Read the text from these sources and compare it with the card's corpus entry `about`.

    Raises CorpusError if it cannot be read, came from stdin, or has another sha256.
    """
    if "-" in sources:
        raise CorpusError("it came from stdin")
    corpus = read(sources, record=listed, **Reading.kept(about))
    if corpus.sha256 != about["sha256"]:
        raise CorpusError("it has changed since (its sha256 differs)")
    return corpus


def _settings(last: Path) -> Settings | None:
    """Return the settings of the run in a last.safetensors, or None if there is no such file.

    Only the header of the file is read. Raises CorpusError if the file cannot be read or its settings are wrong.
    """
    if not last.is_file():
        return None
    try:
        metadata.check_header(last)
        with safe_open(last, framework="numpy") as file:
            meta = metadata.stored(last, file.metadata())
        words = metadata.fault(meta.get("training"), metadata.TRAINING, "training") or \
            consistency.files(meta["training"]["settings"])
        if words:
            raise CorpusError(f"{last}: {words}")
    except (OSError, SafetensorError, metadata.ModelFileError) as error:
        raise CorpusError(f"{last} cannot be read, which says where it lies ({error})") from None
    return meta["training"]["settings"]
