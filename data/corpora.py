"""The named corpora: texts that are installed already, and texts that are downloaded once into the user's cache folder.

`numpy` and `python-docs` need no file and no network. A downloaded file is checked against its sha256 whenever it is
read. If rnncore does not know the sha256 of a file, the first download decides: its sha256 is stored beside the file.
"""
import hashlib
import os
import re
from collections.abc import Callable
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import NamedTuple
from urllib.parse import quote, urlsplit

from .decode import CorpusError, decode
from .endings import joined
from .download import DownloadError, Patience, download

# Environment variable with the addresses of mirrors, separated by white space. They replace the addresses below, and a
# mirror has each file under its File.name.
MIRRORS = "RNNCORE_CORPORA_URL"


class File(NamedTuple):
    """A file of a named corpus that is downloaded."""

    name: str           # its name in the cache folder and on a mirror
    path: str           # its path relative to each address of the corpus
    size: int | None    # bytes; None if not known
    sha256: str | None  # hex; None: the sha256 of the first download


class Named(NamedTuple):
    """A named corpus."""

    about: str    # a description for lists
    licence: str  # its licence, for lists
    files: tuple[File, ...] = ()      # the files to download, in the order of the text; empty if it is installed
    addresses: tuple[str, ...] = ()   # the addresses (URLs) of their folder, in the order in which they are tried


def _github(repository: str, commit: str, folder: str) -> tuple[str, ...]:
    """Return two addresses of a folder of a GitHub repository at a commit: GitHub's own and jsDelivr's."""
    return (f"https://raw.githubusercontent.com/{repository}/{commit}/{quote(folder)}",
            f"https://cdn.jsdelivr.net/gh/{repository}@{commit}/{quote(folder)}")


NAMES = {
    "numpy": Named("the .py files of the installed numpy package", "BSD"),
    "python-docs": Named("the reference topics of the standard library", "PSF"),
    "tinyshakespeare": Named(
        "40,000 lines of Shakespeare, char-rnn's and nanoGPT's", "public domain",
        (File("tinyshakespeare.txt", "input.txt", 1_115_394,
              "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed"),),
        _github("karpathy/char-rnn", "6f9487a6fe5b420b7ca9afb0d7c078e37c1d1b4e", "data/tinyshakespeare/")),
    "hugo": Named(
        "Les Misérables, five tomes in French", "public domain (Project Gutenberg)",
        (File("hugo-1.txt", "les-misérables-tome-1-fantine-pg17489.txt", 687_205,
              "e31a2d3d2ccd9003795fb9cde999ef7e2154279a25d48355c942669ac2941cac"),
         File("hugo-2.txt", "les-misérables-tome-2-cosette-pg17493.txt", 606_051,
              "331e0cdf23d018689afea572c03c5f4e37c1528b3f51117fc3639ea1f24a7bdb"),
         File("hugo-3.txt", "les-misérables-tome-3-marius-pg17494.txt", 532_810,
              "ca31b5bccb3c1a3afe698ea5b9ffa4031f8d3c937e00d65bac6d6e9564d4b2ff"),
         File("hugo-4.txt", "les-misérables-tome-4-pg17518.txt", 762_326,
              "15982bc8cdc2a2b7b555a5df58b739f746bed0d7590364568f9fdcef08d2ea48"),
         File("hugo-5.txt", "les-misérables-tome-5-jean-valjean-pg17519.txt", 651_422,
              "20fd87f993e56f2247f053a26baeb84f9a04c26a0c8453dbd37f9434290012fc")),
        _github("ariddell/tatom", "28f5d57d9ff9bb132cad203f0743d9ddfe31c5ae",
                "data/hugo-les-misérables-original/boilerplate-removed/")),
    "shakespeare": Named(
        "all of Shakespeare, char-rnn's", "public domain",
        (File("shakespeare.txt", "shakespeare_input.txt", None, None),),
        ("https://cs.stanford.edu/people/karpathy/char-rnn/",)),
}


def text(name: str) -> str:
    """Return the text of the corpus called `name`. Raises CorpusError as `files` does."""
    if name == "python-docs":
        _, topics = _topics()
        return "\n".join(topics[key] for key in sorted(topics))
    return "".join(joined([decode(path.read_bytes(), "utf-8", str(path))] for path in files(name)))


def files(name: str) -> list[Path]:
    """Return the paths of the files of the corpus called `name`, in the order of its text.

    Raises CorpusError for a name that is not in NAMES, for files that are not installed or downloaded, and for a
    downloaded file whose sha256 is wrong.
    """
    if name not in NAMES:
        raise CorpusError(f"no corpus is called {name!r}: there are {', '.join(NAMES)}")
    if name == "numpy":
        spec = find_spec("numpy")
        if spec is None or not spec.submodule_search_locations:
            raise CorpusError("the corpus numpy is not here: `pip install numpy`")
        root = Path(spec.submodule_search_locations[0])
        return sorted(root.rglob("*.py"), key=lambda path: path.relative_to(root).as_posix())
    if name == "python-docs":
        module, _ = _topics()
        return [Path(str(module.__file__))]
    states = {file: _state(file) for file in NAMES[name].files}
    for file, state in states.items():
        if state == "changed":
            raise CorpusError(f"{place(file)} is not what was downloaded (its sha256 differs): "
                              f"`rnncore corpus fetch {name}` replaces it")
    if lacking := list(states.values()).count("absent"):
        part = f" whole ({lacking} of {len(states)} files missing)" if lacking < len(states) else ""
        raise CorpusError(f"the corpus {name} is not here{part}: `rnncore corpus fetch {name}`")
    return [place(file) for file in states]


def state(name: str) -> str:
    """Return "here", "absent", "2 of 5 files", or "changed" if the sha256 of a file is wrong."""
    if not NAMES[name].files:
        try:
            return "here" if files(name) else "absent"
        except CorpusError:
            return "absent"
    states = [_state(file) for file in NAMES[name].files]
    if "changed" in states or len(set(states)) == 1:
        return "changed" if "changed" in states else states[0]
    return f"{states.count('here')} of {len(states)} files"


def size(name: str) -> int | None:
    """Return the size of the corpus in bytes, or None if it is not known before the download."""
    if NAMES[name].files:
        sizes = [file.size or (place(file).stat().st_size if place(file).is_file() else None)
                 for file in NAMES[name].files]
        return None if None in sizes else sum(filter(None, sizes))
    if state(name) == "absent":
        return None
    return len(text(name).encode()) if name == "python-docs" else sum(path.stat().st_size for path in files(name))


def missing(name: str) -> list[File]:
    """Return the files that must be downloaded: those that are absent and those that have changed."""
    return [file for file in NAMES[name].files if _state(file) != "here"]


def addresses(name: str) -> list[str]:
    """Return the addresses to download from, each with a slash at the end: those in MIRRORS, else the corpus's own.

    Raises CorpusError if an address in MIRRORS is not one of http or https.
    """
    mirrors = os.environ.get(MIRRORS, "").split()
    for mirror in mirrors:
        if urlsplit(mirror).scheme not in ("http", "https") or not urlsplit(mirror).netloc:
            raise CorpusError(f"{MIRRORS} is {mirror!r}: name the address of a mirror, as in http://host/corpora")
    return [mirror.rstrip("/") + "/" for mirror in mirrors] or list(NAMES[name].addresses)


def fetch(name: str, patience: Patience, say: Callable[[str], None], moved: Callable[[File, int], None]) -> list[Path]:
    """Download the missing files of the corpus called `name` and return the paths of all its files.

    A file is stored only when it is complete and right, and a stored file is not downloaded again. So the next call
    continues where this one stopped. say: called with a line for each round of tries that failed. moved: called with
    the file and the number of its bytes that have arrived. Raises CorpusError if a file cannot be downloaded.
    """
    bases, mirrored = addresses(name), bool(os.environ.get(MIRRORS, "").split())
    for file in missing(name):
        path = place(file)
        if path.is_dir():
            raise CorpusError(f"{path} is a folder, where the corpus {name} should be: move it away")
        urls = [base + quote(file.name if mirrored else file.path) for base in bases]
        try:
            used = download(urls, path, file.sha256 or _recorded(file), file.size, patience, say,
                            partial(moved, file))
        except DownloadError as error:
            raise _cure(name, file, error) from None
        # Try the address that has just worked first for the next file.
        bases.sort(key=lambda base: not used.startswith(base))
    for file in NAMES[name].files:
        if file.sha256 is None and _recorded(file) is None:
            _record(file)
    return files(name)


def place(file: File) -> Path:
    """Return the path of a downloaded file in the cache folder."""
    return folder() / file.name


def record(file: File) -> Path:
    """Return the path of the file with the sha256 of a first download, in the format of sha256sum."""
    return folder() / f"{file.name}.sha256"


def folder() -> Path:
    """Return the user's cache folder for corpora: rnncore/corpora in $XDG_CACHE_HOME, by default in ~/.cache."""
    base = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    return Path(base) / "rnncore" / "corpora"


def _state(file: File) -> str:
    """Return "here", "absent" or, if the sha256 is wrong, "changed" for one file."""
    if not place(file).is_file():
        return "absent"
    wanted = file.sha256 or _recorded(file)
    return "here" if wanted in (None, _sha256(place(file))) else "changed"


def _sha256(path: Path) -> str:
    """Return the sha256 (hex) of a file."""
    with path.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def _recorded(file: File) -> str | None:
    """Return the sha256 (hex) of the first download, None if there was none. Raises CorpusError if it is unreadable."""
    try:
        said = record(file).read_text(encoding="ascii", errors="replace")
    except FileNotFoundError:
        return None
    if not (found := re.match("[0-9a-f]{64}\\b", said)):
        raise CorpusError(f"{record(file)} holds no sha256: delete it, and `rnncore corpus fetch` writes it anew")
    return found[0]


def _record(file: File) -> None:
    """Write the sha256 of a downloaded file beside it, for comparison with later downloads."""
    temporary = record(file).with_name(f"tmp-{os.getpid()}-{record(file).name}")
    temporary.write_text(f"{_sha256(place(file))}  {file.name}\n", encoding="ascii")
    os.replace(temporary, record(file))


def _cure(name: str, file: File, error: DownloadError) -> CorpusError:
    """Return the error of a download with the remedy added."""
    if error.wrong and file.sha256 is None:
        return CorpusError(f"{error}: it is not what the first download was; delete {record(file)} to take it as it is")
    if os.environ.get(MIRRORS):
        return CorpusError(f"{error}; see that {MIRRORS} names a mirror that has it, or leave that variable out")
    return CorpusError(f"{error}; look to the network (behind a proxy, set HTTPS_PROXY) and call `rnncore corpus fetch "
                       f"{name}` again, name a mirror in {MIRRORS}, or put the file there by hand: {place(file)}")


def _topics() -> tuple[ModuleType, dict[str, str]]:
    """Return the module with the topics of `pydoc`, and the topics by their keys.

    Raises CorpusError if this Python has no such module.
    """
    try:
        module = import_module("pydoc_data.topics")
        return module, module.topics
    except (ImportError, AttributeError):
        raise CorpusError(
            "the corpus python-docs is not here: this Python came without pydoc_data; use the corpus numpy or a file"
        ) from None
