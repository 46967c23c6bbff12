"""A field of a JSON text that was not made here is checked by its kind before anything goes by it."""
import json
import math
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

from ..config import COUNT, MOST, POSITIVE, Json, Kind, number, shown
from ..data.decode import one_line

Metadata: TypeAlias = dict[str, Any]  # the JSON text of a model file (metadata.DOCUMENT)
Card: TypeAlias = dict[str, Any]      # its training card (metadata.CARD)
Settings: TypeAlias = dict[str, Any]  # what a run goes by, as resuming needs it (metadata.TRAINING["settings"])
Progress: TypeAlias = dict[str, Any]  # how far a run has come (metadata.TRAINING["progress"])
DEPTH = 100  # objects and lists inside each other in a text that is written


class Maybe(NamedTuple):
    """What a field may be where it is not null."""
    spec: "Spec"


Spec: TypeAlias = Kind | Maybe | Mapping[str, "Spec"]  # of a field: its kind, or the specs of an object's fields
Fields: TypeAlias = dict[str, Spec]                    # of an object; a name that ends in ? may be missing


def _is_text(value: Json) -> bool:
    try:
        return isinstance(value, str) and b"\0" not in os.fsencode(value)
    except UnicodeEncodeError:
        return False


def _is_loss(value: Json) -> bool:
    return number().holds(value)  # a run that diverged has large ones


def _is_number(value: Json) -> bool:
    return number(-math.inf).holds(value)


TEXT = Kind("a text", _is_text)
NAMES = Kind("a list of names", lambda value: isinstance(value, list) and value != [] and all(map(_is_text, value)))
NUMBER = Kind("a number", _is_number)
SECONDS = number(most=MOST)
SHA256 = Kind("64 hexadecimal digits",
              lambda value: isinstance(value, str) and bool(re.fullmatch("[0-9a-f]{64}", value)))
TEXTS = Kind("an object of texts", lambda value: isinstance(value, dict) and all(map(_is_text, value.values())))
NUMBERS = Kind("an object of numbers", lambda value: isinstance(value, dict) and all(map(_is_number, value.values())))
FOLDER = Kind("an absolute path", lambda value: _is_text(value) and os.path.isabs(value))
FILES = Kind("a list with, for each source, null or its files, each [absolute path, bytes]", lambda value: isinstance(
    value, list) and all(source is None or isinstance(source, list) and all(map(_is_file, source)) for source in value))
LOSS = Kind("a number of at least 0", _is_loss)
BEST = Kind("[loss, step]", lambda value: isinstance(value, list) and len(value) == 2 and _is_loss(value[0])
            and POSITIVE.holds(value[1]))


def _is_file(value: Json) -> bool:
    return isinstance(value, list) and len(value) == 2 and FOLDER.holds(value[0]) and COUNT.holds(value[1])


def _are_changes(value: Json) -> bool:
    return isinstance(value, list) and all(isinstance(change, dict) and POSITIVE.holds(change.get("step")) and all(
        name == "step" or isinstance(pair, list) and len(pair) == 2 and all(map(_is_number, pair))
        for name, pair in change.items()) for change in value)


CHANGES = Kind("a list of objects with a step and [before, after] of options", _are_changes)


def fault(value: Json, spec: Spec, name: str) -> str | None:
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


def plain(value: dict[Any, Any], name: str, path: Path) -> Json:
    """An object that was made here as JSON gives it back: tuples as lists, keys that are numbers as texts.

    Raises TypeError and ValueError for what JSON has not, in a line with the file `path` that it is for and the field.
    """
    if not isinstance(value, dict):
        raise TypeError(f"{path} is not saved: {name} is {type(value).__name__}, not a dict")
    try:
        return _plain(value, name, 0)
    except (TypeError, ValueError) as error:
        raise type(error)(one_line(f"{path} is not saved: {error}")) from None


def _plain(value: Json | tuple[Any, ...], name: str, depth: int) -> Json:
    """One value of it."""
    if depth > DEPTH:
        raise ValueError(f"{name[:80]} is nested deeper than {DEPTH}")
    if isinstance(value, dict):
        found: dict[str, Any] = {}
        for key, inner in value.items():
            text = _key(key, name)
            if text in found:
                raise ValueError(f"{name[:80]} has the key {shown(text)} twice, as a text and as a number")
            found[text] = _plain(inner, f"{name}.{text}", depth + 1)
        return found
    if isinstance(value, (list, tuple)):
        return [_plain(inner, name, depth + 1) for inner in value]
    if fault := _unfit(value):
        raise fault[0](f"{name[:80]} is {fault[1]}")
    return value


def _key(key: str | float | None, name: str) -> str:
    """The text that a key of an object is in JSON."""
    if fault := (TypeError, type(key).__name__) if key is None else _unfit(key):
        raise fault[0](f"{name[:80]} has a key that is {fault[1]}")
    return key if isinstance(key, str) else json.dumps(key)


def _unfit(value: Json) -> tuple[type[Exception], str] | None:
    """The error for a value that JSON does not hold, or that comes back from it as another, in words."""
    if isinstance(value, str):
        try:
            value.encode("utf-8", "surrogateescape")  # a byte of a file's name may be no UTF-8
        except UnicodeEncodeError:
            return ValueError, "a text with half a character (a lone surrogate)"
    elif isinstance(value, float):
        if not math.isfinite(value):
            return ValueError, f"{value}, which JSON has not"
    elif isinstance(value, int):
        if abs(value) >= 2 ** 64:
            return ValueError, "a whole number of more than 64 bits"
    elif value is not None:
        return TypeError, f"{type(value).__name__}, which JSON has not: make it a text, a number, a list or a dict"
    return None
