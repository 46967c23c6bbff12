"""Error texts for a name that should be a model and is something else: a text, an archive, a corpus, an address."""
import shlex
from pathlib import Path

from ..data import corpora
from ..data.guess import HEAD, is_text
from ..data.magic import GZIP, MODEL_FILE, address, kind_of

MODELS = "name a run folder, a .safetensors file or a pretrained model"


def file(path: Path) -> str | None:
    """Return one line on a file that is not a model; None for a model, complete or not, and for an unknown file.

    Raises OSError if the file cannot be read.
    """
    with open(path, "rb") as opened:
        head = opened.read(HEAD)
    if head.startswith(GZIP):
        return f"{path} is a gzipped file, not a model: unpack it (gunzip -k) if a model is inside; {usage(path)}"
    kind = kind_of(head)
    if kind is not None:
        return None if kind is MODEL_FILE else f"{path} is {kind.name}, not a model: {MODELS}"
    return f"{path} is a text, not a model: {usage(path)}" if is_text(head) else None


def folder(path: Path) -> str:
    """Return a hint for a folder without a model: how to use its texts, or "" if it holds no other files.

    Raises OSError if the folder cannot be read.
    """
    found = any(child.suffix != ".safetensors" and child.is_file() for child in path.iterdir())
    return f"; if it holds the text, {usage(path)}" if found else ""


def name(text: str) -> str | None:
    """Return one line on a name that means stdin, a named corpus or an address, not a model; None for other names."""
    if text == "-":
        return f"- is stdin, which has a text and no model: {MODELS}"
    if text in corpora.NAMES:
        return f"{text} is a named corpus, a text, not a model: {usage(text)}"
    return address(text)


def usage(text: str | Path) -> str:
    """Return a phrase on how to give a text to the commands."""
    quoted = shlex.quote(str(text))
    return f"a model goes before a text, as in `rnncore score RUN {quoted}`, and `rnncore train {quoted}` learns it"
