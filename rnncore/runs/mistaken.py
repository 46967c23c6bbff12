"""The words for what was named where a model is wanted and is none: a text, an archive, a named corpus, an address."""
import shlex
from pathlib import Path

from ..data import corpora
from ..data.guess import HEAD, is_text
from ..data.magic import GZIP, MODEL_FILE, address, kind_of

MODELS = "name a run folder, a .safetensors file or a pretrained model"


def file(path: Path) -> str | None:
    """What a file is that is no model; None for a model, whole or not, and for what is not known."""
    with open(path, "rb") as opened:
        head = opened.read(HEAD)
    if head.startswith(GZIP):
        return f"{path} is a gzipped file, not a model: unpack it (gunzip -k) if a model is inside; {order(path)}"
    kind = kind_of(head)
    if kind is not None:
        return None if kind is MODEL_FILE else f"{path} is {kind.name}, not a model: {MODELS}"
    return f"{path} is a text, not a model: {order(path)}" if is_text(head) else None


def folder(path: Path) -> str:
    """What to do with a folder that holds no model, as far as it looks like one of texts."""
    found = any(child.suffix != ".safetensors" and child.is_file() for child in path.iterdir())
    return f"; if it holds the text, {order(path)}" if found else ""


def name(text: str) -> str | None:
    """What a name is that stands for no file; None where it may be mistyped."""
    if text == "-":
        return f"- is stdin, which has a text and no model: {MODELS}"
    if text in corpora.NAMES:
        return f"{text} is a named corpus, a text, not a model: {order(text)}"
    return address(text)


def order(text: str | Path) -> str:
    """How a text is given to a command."""
    quoted = shlex.quote(str(text))
    return f"a model goes before a text, as in `rnncore score RUN {quoted}`, and `rnncore train {quoted}` learns it"
