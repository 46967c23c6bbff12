"""Where the texts of a run lie on this machine: its last.safetensors alone says so, the other files are passed on."""
import contextlib
from pathlib import Path

from safetensors import SafetensorError, safe_open

from . import documents
from .data.sources import nameless

PATHS = "paths"  # in a run's settings: where its texts lay, absolute


def passed_on(settings: dict) -> dict:
    """Return a run's settings as files that are passed on have them: without the folders of this machine."""
    found = {name: value for name, value in settings.items() if name != PATHS}
    corpus = found.get("corpus", {})
    if "sources" in corpus:
        found["corpus"] = corpus | {"sources": list(map(nameless, corpus["sources"]))}
    return found | {name: nameless(found[name]) for name in ("init_from", "origin") if found.get(name)}


def typed(folder: Path) -> list[str]:
    """Return the sources of the run in a folder as they were typed; none where its last.safetensors does not say."""
    last = folder / "last.safetensors"
    with contextlib.suppress(OSError, ValueError, SafetensorError):  # a ModelFileError is a ValueError
        documents.check_header(last)
        with safe_open(last, framework="numpy") as file:
            document = documents.stored(last, file.metadata())
        if not documents.fault(document.get("training"), documents.TRAINING, "training"):
            return document["training"]["settings"]["corpus"]["sources"]
    return []
