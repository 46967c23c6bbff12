"""The pretrained models are files in models/, known by their names: shakespeare, hugo, numpy."""
from __future__ import annotations

from pathlib import Path

FOLDER = Path(__file__).parent / "models"


def names() -> list[str]:
    """The names of the models that are here."""
    return sorted(path.stem for path in FOLDER.glob("*.safetensors"))


def path(name: str) -> Path | None:
    """The file of the model of that name, or None."""
    return FOLDER / f"{name}.safetensors" if name in names() else None
