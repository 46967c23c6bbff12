"""The oldest versions of Python and of other libraries that rnncore works with, and the check of those installed here.

setup.cfg asks pip for the same versions. tests/oldest.txt lists exactly these, and continuous integration tests with
them. With an older version, `import rnncore` raises ImportError. An optional library that is too old counts as missing.
This module imports nothing else of rnncore, because the others need the libraries that it checks.
"""
import re
import shlex
import sys
from collections.abc import Iterable
from functools import cache
from importlib import import_module
from importlib.util import find_spec

# library -> its oldest version: BASE is always needed, OPTIONAL is needed by some commands
PYTHON = "3.11"
BASE = {"numpy": "1.26.0", "click": "8.1.0", "safetensors": "0.4.0", "rich": "13.0.0", "threadpoolctl": "3.0.0"}
OPTIONAL = {"matplotlib": "3.8.0", "jinja2": "3.1.0", "pooch": "1.8.0", "tensorboardX": "2.6.2.2", "torch": "2.4.0",
            "cupy": "14.0.0"}
OLDEST = BASE | OPTIONAL


class TooOld(ImportError):
    """A library is missing or too old. The message is one line with its name and the command that installs it."""


def check() -> None:
    """Raise TooOld if Python or a library of BASE is missing or too old."""
    if message := fault():
        raise TooOld(message)


@cache
def fault() -> str | None:
    """Return a line that names what is missing or too old of Python and BASE, and the cure; None if nothing is."""
    if _numbers(sys.version) < _numbers(PYTHON):
        return (f"rnncore needs Python {PYTHON} or newer, and this is {sys.version.split()[0]}: make the environment "
                f"anew with a newer one, as in `python{PYTHON} -m venv .venv`")
    words = _words({name: lacking(name) for name in BASE})
    return words and f"rnncore needs {words}"


def missing(*names: str) -> str | None:
    """Return a line if some of these OPTIONAL libraries are missing, too old or broken, with the command that mends it.

    Return None if all of them work. A library that is new enough is imported, to see whether it works.
    """
    return _words({name: lacking(name) or _broken(name) for name in names})


def _words(found: dict[str, str | None]) -> str | None:
    """Return one line of the words that are not None, with the command that installs those libraries, or None."""
    wrong = {name: words for name, words in found.items() if words}
    return f"{' and '.join(wrong.values())}: {cure(wrong)}" if wrong else None


def _broken(name: str) -> str | None:
    """Import a library. Return words if this fails, else None."""
    import logging
    logging.getLogger(name).setLevel(logging.ERROR)  # a library logs notes on its own caches, which help no user
    try:
        import_module(name)
    except Exception as error:  # a library that does not fit the others may raise anything
        return f"{name}, which cannot be imported here ({' '.join(str(error).split())})"
    return None


def lacking(name: str) -> str | None:
    """Return words if a library of OLDEST is missing or too old, else None."""
    here = installed(name)
    if here is None and find_spec(name) is None:
        return f"{name} {OLDEST[name]} or newer, which is not installed"
    if here is not None and _numbers(here) < _numbers(OLDEST[name]):
        return f"{name} {OLDEST[name]} or newer instead of {here}"
    return None


@cache
def installed(name: str) -> str | None:
    """Return the version of an installed distribution; None if no metadata of this name are found."""
    from importlib import metadata  # imported here, because that takes longer than the rest of this module
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def cure(names: Iterable[str]) -> str:
    """Return the command, in backticks, that installs new enough versions of these libraries for this Python."""
    return pip("install --upgrade " + " ".join(f"'{name}>={OLDEST[name]}'" for name in names))


def pip(arguments: str) -> str:
    """Return a pip command for this Python, in backticks. Without pip it is a command of uv."""
    python = shlex.quote(sys.executable) if sys.executable else "python"
    if find_spec("pip") is None:
        return f"`uv pip {arguments.replace(' ', f' --python {python} ', 1)}`"
    return f"`{python} -m pip {arguments}`"


def is_command() -> bool:
    """Return True if this process is the command `rnncore`, which makes the check later: its --help always works."""
    name = re.split(r"[/\\]", sys.argv[0])[-1] if sys.argv else ""
    return name in ("rnncore", "rnncore.exe") or name == "-m" and "rnncore" in sys.orig_argv


def _numbers(version: str) -> tuple[int, ...]:
    """Return the leading numbers of a version without zeros at the end: 2.0.0rc1 is (2,)."""
    found = re.match(r"\d+(\.\d+)*", version)
    numbers = list(map(int, found[0].split("."))) if found else []
    while numbers and numbers[-1] == 0:
        numbers.pop()
    return tuple(numbers)
