"""Schemas of JSON texts: the kinds of fields, the check of a value against a schema, and the check before writing.

A model file may come from anybody, so every field is checked before it is used.
"""
import json
import math
import os
import re
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias, get_type_hints

from ..config import COUNT, FLAG, MOST, POSITIVE, Checked, Json, Kind, number, shown
from ..data.decode import one_line

Metadata: TypeAlias = dict[str, Any]  # the JSON text of a model file (metadata.METADATA)
Card: TypeAlias = dict[str, Any]      # its training card (metadata.CARD)
Settings: TypeAlias = dict[str, Any]  # the settings of a run that resuming needs (metadata.TRAINING["settings"])
Progress: TypeAlias = dict[str, Any]  # the progress of a run (metadata.TRAINING["progress"])
DEPTH = 100  # levels of nested objects and lists in a text that is written, at most


class Maybe(NamedTuple):
    """The spec of a field that may be null: `spec` is the spec of any other value."""
    spec: "Spec"


class Made(NamedTuple):
    """The spec of an object whose fields are arguments of a dataclass, which raises ValueError for wrong values.

    kind: the dataclass. always: the fields that every file has; the others may be missing, as in files of older
    versions. beside: specs of other fields in the same object; None: there are no other fields.
    """
    kind: type
    always: tuple[str, ...] = ()
    beside: "Fields | None" = None


# The spec of one field: a kind of value, or the specs of the fields of an object.
Spec: TypeAlias = Kind | Maybe | Made | Mapping[str, "Spec"]
Fields: TypeAlias = dict[str, Spec]  # the specs of an object's fields; a field whose name ends in ? may be missing


def _is_text(value: Json) -> bool:
    """Return True if the value is a text that can be a path: os.fsencode accepts it, and it has no NUL."""
    try:
        return isinstance(value, str) and b"\0" not in os.fsencode(value)
    except UnicodeEncodeError:
        return False


ANYTHING = Kind("anything", lambda value: True)
TEXT = Kind("a text", _is_text)
NAMES = Kind("a list of names", lambda value: isinstance(value, list) and value != [] and all(map(_is_text, value)))
NUMBER = Kind("a number", number(-math.inf).holds)
LOSS = number()  # nats per character; without an upper bound, because a run that diverged has large losses
SECONDS = number(most=MOST)
SHA256 = Kind("64 hexadecimal digits",
              lambda value: isinstance(value, str) and bool(re.fullmatch("[0-9a-f]{64}", value)))
TEXTS = Kind("an object of texts", lambda value: isinstance(value, dict) and all(map(_is_text, value.values())))
NUMBERS = Kind("an object of numbers", lambda value: isinstance(value, dict) and all(map(NUMBER.holds, value.values())))
FOLDER = Kind("an absolute path", lambda value: _is_text(value) and os.path.isabs(value))
BEST = Kind("[loss, step]", lambda value: _is_pair(value, LOSS, POSITIVE))
FILES = Kind("a list with, for each source, null or its files, each [absolute path, bytes]", lambda value: isinstance(
    value, list) and all(source is None or isinstance(source, list) and all(
        _is_pair(file, FOLDER, COUNT) for file in source) for source in value))


def _is_pair(value: Json, first: Kind, second: Kind) -> bool:
    """Return True if the value is a list of two values of these kinds."""
    return isinstance(value, list) and len(value) == 2 and first.holds(value[0]) and second.holds(value[1])


def _are_changes(value: Json) -> bool:
    """Return True if the value is a list of objects {"step": ..., option: [before, after], ...}."""
    return isinstance(value, list) and all(isinstance(change, dict) and POSITIVE.holds(change.get("step")) and all(
        name == "step" or _is_pair(pair, NUMBER, NUMBER) for name, pair in change.items()) for change in value)


CHANGES = Kind("a list of objects with a step and [before, after] of options", _are_changes)
BY_TYPE: dict[Any, Spec] = {bool: FLAG, int: COUNT, float: LOSS, float | None: Maybe(LOSS), str: TEXT}


def by_type(kind: type, *always: str) -> Fields:
    """Return the specs of a dataclass's fields, from their types. Fields that are not in `always` may be missing.

    A subclass of Checked checks its values itself, so its fields get the spec ANYTHING.
    """
    return {name + "?" * (name not in always): ANYTHING if issubclass(kind, Checked) else BY_TYPE[hint]
            for name, hint in get_type_hints(kind).items()}


def fault(value: Json, spec: Spec, name: str) -> str | None:
    """Return one line on the first fault of the field `name` with this value, or None if it agrees with the spec."""
    if isinstance(spec, Maybe):
        return None if value is None else fault(value, spec.spec, name)
    if isinstance(spec, Kind):
        return None if spec.holds(value) else f"{name} is {shown(value)}, not {spec.words}"
    if isinstance(spec, Made):
        return _not_made(value, spec, name)
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


def _not_made(value: Json, spec: Made, name: str) -> str | None:
    """Return one line if the dataclass of `spec` cannot be made from the value, or None."""
    found = fault(value, (spec.beside or {}) | by_type(spec.kind, *spec.always), name)
    if found or not isinstance(value, dict):
        return found
    names = {each.name for each in fields(spec.kind)}
    others = [key for key in value if key not in names]
    if others and spec.beside is None:
        return f"{name}.{others[0]} is not expected"
    try:
        spec.kind(**{key: value[key] for key in value if key in names})
    except ValueError as error:
        words = str(error)
        return f"{name}{'.' if words.split()[0] in names else ': '}{words}"
    return None


def plain(value: dict[Any, Any], name: str, path: Path) -> Json:
    """Return a dict as it will be after writing and reading JSON: tuples become lists, and number keys become texts.

    Raises TypeError or ValueError if JSON cannot hold a value, or would return another one. The message is one line
    with `path`, the file to be written, and the field. name: the name of the dict in that message.
    """
    if not isinstance(value, dict):
        raise TypeError(f"{path} is not saved: {name} is {type(value).__name__}, not a dict")
    try:
        return _plain(value, name, 0)
    except (TypeError, ValueError) as error:
        raise type(error)(one_line(f"{path} is not saved: {error}")) from None


def _plain(value: Json | tuple[Any, ...], name: str, depth: int) -> Json:
    """Return one value of the dict as `plain` does. name: its place, such as `card.corpus`; depth: its nesting."""
    if depth > DEPTH:
        raise ValueError(f"{name[:80]} is nested deeper than {DEPTH}")
    if isinstance(value, dict):
        found: dict[str, Any] = {}
        for key, inner in value.items():
            if key is None:
                raise TypeError(f"{name[:80]} has a key that is NoneType")
            _fits(key, f"{name[:80]} has a key that is")
            text = key if isinstance(key, str) else json.dumps(key)
            if text in found:
                raise ValueError(f"{name[:80]} has the key {shown(text)} twice, as a text and as a number")
            found[text] = _plain(inner, f"{name}.{text}", depth + 1)
        return found
    if isinstance(value, (list, tuple)):
        return [_plain(inner, name, depth + 1) for inner in value]
    if value is not None:
        _fits(value, f"{name[:80]} is")
    return value


def _fits(value: str | float, what: str) -> None:
    """Raise TypeError or ValueError if JSON cannot hold the value, or would return another one.

    what: the beginning of the message, up to the verb.
    """
    if isinstance(value, str):
        try:
            value.encode("utf-8", "surrogateescape")  # Python writes a path's bytes that are not UTF-8 as surrogates
        except UnicodeEncodeError:
            raise ValueError(f"{what} a text with half a character (a lone surrogate)") from None
    elif not isinstance(value, (int, float)):
        kind = type(value).__name__
        raise TypeError(f"{what} {kind}, which JSON has not: make it a text, a number, a list or a dict")
    elif isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{what} {value}, which JSON has not")
    elif isinstance(value, int) and abs(value) >= 2 ** 64:
        raise ValueError(f"{what} a whole number of more than 64 bits")
