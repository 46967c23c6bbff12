"""The words with which this user calls `rnncore`, so that every printed command can be typed as it stands."""
import functools
import os
import re
import shlex
import shutil
import sys

from rnncore import requirements

NAME = "rnncore"
COMMAND = re.compile(rf"`{NAME}(?= [\w-]|`)")  # a command in a message
PIP = re.compile("`pip (install [^`]+)`")        # a command of pip in a message
HEAD = 512  # bytes at the beginning of a script in which the path of its Python is searched for
INTERPRETER = re.compile(rb"/[^\n'\"]*/python[\w.]*")


@functools.cache
def called() -> str:
    """Return what the user types for `rnncore`, quoted for the shell.

    This is `rnncore` if that name on PATH is this installation. Else it is the script or the `python -m rnncore` that
    started this process; else this interpreter's path with `-m rnncore`.
    """
    script, typed = sys.argv[0] if sys.argv else "", _module_call(sys.orig_argv)
    if on_path(script):
        return NAME
    if typed:
        return shlex.join(typed)
    if os.path.basename(script) == NAME and os.access(script, os.X_OK):
        return shlex.quote(script if os.sep in script else os.path.join(os.curdir, script))
    return f"{shlex.quote(sys.executable or 'python')} -m {NAME}"


def on_path(script: str) -> bool:
    """Return True if `rnncore` on PATH is this installation: the running script, or a script of the same Python."""
    found = shutil.which(NAME)
    if found is None:
        return False
    try:
        if os.path.exists(script) and os.path.samefile(found, script):
            return True
        with open(found, "rb") as file:
            runs = INTERPRETER.search(file.read(HEAD))
        return runs is not None and same_python(os.fsdecode(runs[0]), sys.executable)
    except OSError:
        return False


def same_python(one: str, other: str) -> bool:
    """Return True if two paths lead to one interpreter in one environment."""
    folders = {os.path.realpath(os.path.dirname(python)) for python in (one, other)}
    return len(folders) == 1 and os.path.realpath(one) == os.path.realpath(other)


def _module_call(typed: list[str]) -> list[str]:
    """Return the words before the arguments of a call `python -m rnncore`, or [] for another call."""
    for place, word in enumerate(typed):
        if word == "-m" and typed[place + 1:place + 2] == [NAME]:
            return typed[:place + 2]
        if word == f"-m{NAME}":
            return typed[:place + 1]
        if place and not word.startswith("-") and typed[place - 1] not in ("-W", "-X"):
            return []
    return []


def said(text: str) -> str:
    """Return a text with its `rnncore` and `pip install` commands in backticks written as this user can type them."""
    return PIP.sub(lambda found: requirements.pip(found[1]), COMMAND.sub(lambda _: f"`{called()}", text))


def command(line: str) -> str:
    """Return a command line that begins with `rnncore`, as this user can type it."""
    return called() + line.removeprefix(NAME)


def path(place) -> str:
    """Return a path as one word of a command: quoted for the shell, and never mistaken for an option."""
    place = str(place)
    return shlex.quote(os.path.join(os.curdir, place) if place.startswith("-") else place)
