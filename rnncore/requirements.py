"""The oldest versions of other libraries that rnncore works with, and what is said where one is older.

setup.cfg asks pip for the same versions, tests/oldest.txt names exactly those, and continuous integration runs with
them. With anything older `import rnncore` raises ImportError; an optional library that is too old counts as missing.
This module imports nothing of ours.
"""
import re
import shlex
import sys
from collections.abc import Iterable
from functools import cache
from importlib import import_module
from importlib.util import find_spec

PYTHON = "3.11"
BASE = {"numpy": "1.26.0", "click": "8.1.0", "safetensors": "0.4.0", "rich": "13.0.0", "threadpoolctl": "3.0.0"}
OPTIONAL = {"matplotlib": "3.8.0", "jinja2": "3.1.0", "pooch": "1.8.0", "tensorboardX": "2.6.2.2", "torch": "2.4.0",
            "cupy": "14.0.0"}
OLDEST = BASE | OPTIONAL


class TooOld(ImportError):
    """A library that is missing or too old; the message is one line that names it and the command that mends it."""


def check() -> None:
    """Raise TooOld unless Python and all libraries that rnncore always needs are there and new enough."""
    if message := fault():
        raise TooOld(message)


@cache
def fault() -> str | None:
    """Return what is missing or too old among Python and BASE, and the command that mends it; None where nothing is."""
    if _numbers(sys.version) < _numbers(PYTHON):
        return (f"rnncore needs Python {PYTHON} or newer, and this is {sys.version.split()[0]}: make the environment "
                f"anew with a newer one, as in `python{PYTHON} -m venv .venv`")
    words = _words({name: lacking(name) for name in BASE})
    return words and f"rnncore needs {words}"


def missing(*names: str) -> str | None:
    """Return which of some OPTIONAL libraries are missing, too old or broken, with the command that mends it, or None.

    Those that are new enough are imported to find out.
    """
    return _words({name: lacking(name) or _broken(name) for name in names})


def _words(found: dict[str, str | None]) -> str | None:
    wrong = {name: words for name, words in found.items() if words}
    return f"{' and '.join(wrong.values())}: {cure(wrong)}" if wrong else None


def _broken(name: str) -> str | None:
    import logging
    logging.getLogger(name).setLevel(logging.ERROR)  # a library's notes on its own caches say nothing to a reader
    try:
        import_module(name)
    except Exception as error:  # one that does not fit the libraries beside it may raise anything
        return f"{name}, which cannot be imported here ({' '.join(str(error).split())})"
    return None


def lacking(name: str) -> str | None:
    """Return in words what is wrong with a library of OLDEST: missing or too old; None where it will do."""
    here = installed(name)
    if here is None and find_spec(name) is None:
        return f"{name} {OLDEST[name]} or newer, which is not installed"
    if here is not None and _numbers(here) < _numbers(OLDEST[name]):
        return f"{name} {OLDEST[name]} or newer instead of {here}"
    return None


@cache
def installed(name: str) -> str | None:
    """Return the version of an installed distribution; None where nothing is known of one with that name."""
    from importlib import metadata  # which takes longer to import than all of this module
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def cure(names: Iterable[str]) -> str:
    """Return the command that installs libraries of OLDEST, new enough, into the Python that runs."""
    return pip("install --upgrade " + " ".join(f"'{name}>={OLDEST[name]}'" for name in names))


def pip(arguments: str) -> str:
    """Return the command, in backticks, by which pip does something to the Python that runs; uv's without pip."""
    python = shlex.quote(sys.executable) if sys.executable else "python"
    if find_spec("pip") is None:
        return f"`uv pip {arguments.replace(' ', f' --python {python} ', 1)}`"
    return f"`{python} -m pip {arguments}`"


def is_command() -> bool:
    """Is this process the command `rnncore`? It says itself what is too old, and its help works all the same."""
    name = re.split(r"[/\\]", sys.argv[0])[-1] if sys.argv else ""
    return name in ("rnncore", "rnncore.exe") or name == "-m" and "rnncore" in sys.orig_argv


def _numbers(version: str) -> tuple[int, ...]:
    """Return the leading numbers of a version: 2.0.0rc1 is (2, 0, 0). Trailing zeros do not count."""
    found = re.match(r"\d+(\.\d+)*", version)
    numbers = list(map(int, found[0].split("."))) if found else []
    while numbers and numbers[-1] == 0:
        numbers.pop()
    return tuple(numbers)
