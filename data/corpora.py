"""The named corpora: text that every installation has, so that `rnncore train numpy` needs no file and no network."""
from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from .decode import CorpusError, decode, join

NAMES = {
    "numpy": "the .py files of the installed numpy package: about 9 MB of Python (BSD)",
    "python-docs": "the reference topics of the standard library: about 465,000 characters of English (PSF)",
}


def text(name: str) -> str:
    """The text of the corpus called `name`, one of NAMES; CorpusError where this installation does not have it."""
    readers = {"numpy": _numpy, "python-docs": _python_docs}
    if name not in readers:
        raise CorpusError(f"no corpus is called {name!r}: there are {', '.join(NAMES)}")
    return readers[name]()


def _numpy() -> str:
    """Every .py file of numpy, sorted by its path inside the package, joined as a folder's files are."""
    spec = find_spec("numpy")
    if spec is None or not spec.submodule_search_locations:
        raise CorpusError("the corpus numpy is not here: pip install numpy")
    root = Path(spec.submodule_search_locations[0])
    files = sorted(root.rglob("*.py"), key=lambda path: path.relative_to(root).as_posix())
    return join(decode(path.read_bytes(), "utf-8", str(path)) for path in files)


def _python_docs() -> str:
    """Every topic of `pydoc`, sorted by its key, joined with a newline."""
    try:
        from pydoc_data.topics import topics
    except ImportError:
        raise CorpusError(
            "the corpus python-docs is not here: this Python came without pydoc_data; use the corpus numpy or a file"
        ) from None
    return "\n".join(topics[key] for key in sorted(topics))
