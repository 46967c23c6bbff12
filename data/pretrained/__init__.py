"""The pretrained models are files in models/, known by their names: hugo, numpy, tinyshakespeare."""
from pathlib import Path

FOLDER = Path(__file__).parent / "models"
OLD = {"shakespeare": "tinyshakespeare"}  # former names: they still open the model


def names() -> list[str]:
    """The names of the models that are here."""
    return sorted(path.stem for path in FOLDER.glob("*.safetensors"))


def find(name: str) -> Path | None:
    """The file, which has its name, of the model that is called `name` or was once; None where there is no such one."""
    return next((FOLDER / f"{known}.safetensors" for known in (name, OLD.get(name)) if known in names()), None)
