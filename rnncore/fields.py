"""A field of a JSON text that was not made here is checked by its kind before anything goes by it."""
import os
import re
from collections.abc import Callable
from typing import Any, NamedTuple


class Kind(NamedTuple):
    """What a field may be, in words and as a test."""
    words: str
    holds: Callable[[Any], bool]


class Maybe(NamedTuple):
    """What a field may be where it is not null."""
    spec: Any


def _is_text(value) -> bool:
    try:
        return isinstance(value, str) and b"\0" not in os.fsencode(value)
    except UnicodeEncodeError:
        return False


def _is_whole(value, least: int = 0) -> bool:
    return type(value) is int and least <= value < 2 ** 63


def _is_loss(value) -> bool:
    return _is_whole(value) or type(value) is float and 0 <= value < float("inf")  # a run that diverged has large ones


def _is_number(value) -> bool:
    return type(value) in (int, float) and abs(value) < 2 ** 63  # nor nan


TEXT = Kind("a text", _is_text)
NAMES = Kind("a list of names", lambda value: isinstance(value, list) and value != [] and all(map(_is_text, value)))
COUNT = Kind("a whole number of at least 0", _is_whole)
POSITIVE = Kind("a whole number of at least 1", lambda value: _is_whole(value, 1))
NUMBER = Kind("a number", _is_number)
SECONDS = Kind("a number of at least 0", lambda value: _is_number(value) and value >= 0)
SHARE = Kind("a number of at least 0 and below 1", lambda value: _is_number(value) and 0 <= value < 1)
FLAG = Kind("true or false", lambda value: isinstance(value, bool))
SHA256 = Kind("64 hexadecimal digits",
              lambda value: isinstance(value, str) and bool(re.fullmatch("[0-9a-f]{64}", value)))
TEXTS = Kind("an object of texts", lambda value: isinstance(value, dict) and all(map(_is_text, value.values())))
NUMBERS = Kind("an object of numbers", lambda value: isinstance(value, dict) and all(map(_is_number, value.values())))
FOLDER = Kind("an absolute path", lambda value: _is_text(value) and os.path.isabs(value))
FILES = Kind("a list with, for each source, null or its files, each [absolute path, bytes]", lambda value: isinstance(
    value, list) and all(source is None or isinstance(source, list) and all(map(_is_file, source)) for source in value))
LOSS = Kind("a number of at least 0", _is_loss)
BEST = Kind("[loss, step]", lambda value: isinstance(value, list) and len(value) == 2 and _is_loss(value[0])
            and _is_whole(value[1], 1))


def _is_file(value) -> bool:
    return isinstance(value, list) and len(value) == 2 and FOLDER.holds(value[0]) and _is_whole(value[1])


def _are_changes(value) -> bool:
    return isinstance(value, list) and all(isinstance(change, dict) and _is_whole(change.get("step"), 1) and all(
        name == "step" or isinstance(pair, list) and len(pair) == 2 and all(map(_is_number, pair))
        for name, pair in change.items()) for change in value)


CHANGES = Kind("a list of objects with a step and [before, after] of options", _are_changes)


def fault(value, spec, name: str) -> str | None:
    """What is wrong with the field `name`, in words; None where value is what spec says."""
    if isinstance(spec, Maybe):
        return None if value is None else fault(value, spec.spec, name)
    if isinstance(spec, Kind):
        return None if spec.holds(value) else f"{name} is {shown(value)}, not {spec.words}"
    if not isinstance(value, dict):
        return f"{name} is {shown(value)}, not an object"
    for key, inner in spec.items():
        field = key.rstrip("?")
        if field not in value and field == key:
            return f"{name}.{field} is missing"
        found = fault(value[field], inner, f"{name}.{field}") if field in value else None
        if found:
            return found
    return None


def shown(value) -> str:
    """A value's beginning; a long one is not written out."""
    return f"{value!r:.40}" if isinstance(value, (str, int, float, type(None))) else type(value).__name__
