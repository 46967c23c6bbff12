"""The pretrained models. Each is a file models/NAME.safetensors beside this module."""
from pathlib import Path

FOLDER = Path(__file__).parent / "models"
OLD = {"shakespeare": "tinyshakespeare"}  # former name -> present name; a former name still opens its model


def names() -> list[str]:
    """Return the sorted names of the models that are installed."""
    return sorted(path.stem for path in FOLDER.glob("*.safetensors"))


def find(name: str) -> Path | None:
    """Return the file of the model with this present or former name, or None if there is no such model.

    The stem of the returned path is the present name.
    """
    there = names()
    return next((FOLDER / f"{known}.safetensors" for known in (name, OLD.get(name)) if known in there), None)
