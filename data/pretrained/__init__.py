"""The pretrained models are files in models/, known by their names: hugo, numpy, tinyshakespeare."""
from __future__ import annotations

from pathlib import Path

FOLDER = Path(__file__).parent / "models"
OLD = {"shakespeare": "tinyshakespeare"}  # former names: they still open the model


def names() -> list[str]:
    """The names of the models that are here."""
    return sorted(path.stem for path in FOLDER.glob("*.safetensors"))


def path(name: str) -> Path | None:
    """The file of the model of that name, or None."""
    return FOLDER / f"{name}.safetensors" if name in names() else None


def current(name: str) -> str | None:
    """The name of the model that is called `name`, or was once; None where there is no such model."""
    there = names()
    return next((known for known in (name, OLD.get(name)) if known in there), None)
