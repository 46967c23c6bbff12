"""A model file is one safetensors file: tensors under PyTorch's names, and one JSON text that says what they are.

The metadata key `rnncore` holds the schema version, the sizes, the vocabulary as code points, the training card and a
sha256 over the rest of that text and every tensor. Nothing is ever unpickled. Saving writes a temporary file in the
same folder, flushes it to the disk and renames it, so a file under its own name is whole.
"""
import hashlib
import json
import os
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save as to_bytes

from .. import kernels
from ..config import ModelConfig
from ..model import CharLM
from ..params import Tensors, count, shapes
from . import metadata, mistaken, names
from .files import write_whole
from .metadata import KEY, SCHEMA, ModelFileError
from .schema import Card, Metadata, plain

DTYPES = {"F16": "float32", "F32": "float32", "F64": "float64"}  # of the file: of the model
FLOATS = "float16", "float32", "float64"


def save(model: CharLM, path: str | os.PathLike[str], card: Card | None = None, extra: Tensors | None = None,
         training: dict[str, Any] | None = None, half: bool = False) -> None:
    """Write model to `path`. card: what is said of its training; extra tensors and a `training` text: for resuming.

    card and training are JSON: a tuple comes back as a list, a key that is a number as a text. half: in float16, a file
    of half the size. The new file is read back, by the check that loading makes, before it takes the name `path`.
    Raises OSError, TypeError and ValueError for a card, or extra tensors, that no file can hold, ModelFileError for
    what loading would refuse; the file that stood there is whole until the new one is.
    """
    path = Path(path)
    document: Metadata = {"schema": SCHEMA, "config": asdict(model.config), "vocab": model.vocab.code_points,
                "card": plain({} if card is None else card, "card", path)}
    if model.vocab.settings:
        document["text"] = model.vocab.settings
    if training is not None:
        document["training"] = plain(training, "training", path)
    tensors = _with_extra(model.tensors(), extra or {}, path)
    if half:
        tensors = {name: _halved(name, tensor, path) for name, tensor in tensors.items()}
    document["sha256"] = _digest(document, tensors)

    def check(temporary: Path) -> None:
        try:
            _check(temporary)
        except ModelFileError as error:
            raise ModelFileError(f"{path} is not saved: {error.cause}", error.cause) from None

    write_whole(path, to_bytes(tensors, {KEY: json.dumps(document)}), check)


def _with_extra(tensors: Tensors, extra: Tensors, path: Path) -> Tensors:
    """The model's tensors and those beside them, which have other names. Raises TypeError, ValueError."""
    for name, value in extra.items():
        if not isinstance(name, str) or not isinstance(value, np.ndarray) or value.dtype.name not in FLOATS:
            raise TypeError(f"{path} is not saved: extra tensor {name!s:.80} is no NumPy array of floats under a name")
        if name in tensors:
            raise ValueError(f"{path} is not saved: extra tensor {name} has the name of one of the model's own")
        tensors[name] = np.ascontiguousarray(value, value.dtype.newbyteorder("="))
    return tensors


def _halved(name: str, tensor: np.ndarray, path: Path) -> np.ndarray:
    """A tensor in float16; numbers that are not finite stay what they are."""
    with np.errstate(over="ignore"):
        half = tensor.astype(np.float16)
    if np.isfinite(tensor).all() and not np.isfinite(half).all():
        raise ModelFileError(f"{path} is not saved: {name} holds a number too large for float16: save it in float32")
    return half


def load(name: str | Path, device: str = "auto", dtype: str | None = None) -> CharLM:
    """The model that a name stands for (names.py): a file, a run folder (its best, else its last), a pretrained one.

    dtype: a precision, as CharLM's; None: as in the file, where float16 becomes float32. Warns (names.Ambiguous) where
    the name could stand for several models, and (names.Renamed) where it is a former one. Raises ModelFileError for
    what is no whole model file of ours, FileNotFoundError, kernels.DeviceError.
    """
    found = names.find(name)
    for note in found.notes:
        warnings.warn(note, stacklevel=2)
    return to_model(*read(found.file), device, dtype)


def to_model(document: Metadata, tensors: Tensors, device: str, dtype: str | None = None) -> CharLM:
    """The model that `read` found."""
    model = CharLM(metadata.sizes(document), metadata.vocabulary(document), device,
                   dtype or ("float64" if tensors["head.bias"].dtype == np.float64 else "float32"), seed=None)
    with np.errstate(over="ignore"):
        model.assign(tensors)
    for name, view in model.params.items():
        if not model.kernel.xp.isfinite(view).all():
            raise ModelFileError(f"the model's {name} holds numbers too large for {model.dtype}: load it in float64")
    return model


def read(path: Path) -> tuple[Metadata, Tensors]:
    """(document, tensors) of a model file, checked: names, shapes, dtypes, finite numbers, sha256."""
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such model file or run folder")
    tensors: Tensors = {}
    return _check(path, tensors.__setitem__), tensors


def _check(path: Path, take: Callable[[str, np.ndarray], None] | None = None) -> Metadata:
    """The document of a model file after all of `read`'s checks; `take` is given every tensor by its name."""
    if words := mistaken.file(path):
        raise ModelFileError(words, f"it {words.removeprefix(str(path)).strip()}")
    metadata.check_header(path)
    try:
        with safe_open(path, framework="numpy") as file:
            stored = metadata.stored(path, file.metadata())
            document = metadata.current(path, stored)
            _check_layout(path, document, file)
            sha256 = stored.pop("sha256")
            if sha256 != _sha256(stored, _finite(path, file, take)):
                raise metadata.damaged(path, "sha256 does not match the contents, the file is damaged")
    except SafetensorError as error:
        raise metadata.torn(path, error) from None
    except RecursionError:
        raise metadata.damaged(path, "card, or another field, is nested too deeply") from None
    return document


def _finite(path: Path, file: safe_open,
            take: Callable[[str, np.ndarray], None] | None) -> Iterator[tuple[str, np.ndarray]]:
    """The tensors of an open file in sorted order, each checked and handed to `take`; one at a time is in memory."""
    for name in sorted(file.keys()):
        tensor = file.get_tensor(name)
        if not np.isfinite(tensor).all():
            raise metadata.damaged(path, f"{name} holds numbers that are not finite")
        if take:
            take(name, tensor)
        yield name, tensor


def _check_layout(path: Path, document: Metadata, file: safe_open) -> None:
    """Names, shapes and dtypes, before anything is read."""
    config, names = metadata.sizes(document), set(file.keys())
    if config.layers > len(names):
        raise metadata.damaged(path, f"{len(names)} tensors are too few for {config.layers} layers")
    wanted: dict[str, tuple[int | None, ...]] = {**file_shapes(config)}
    if "training" in document:
        wanted |= _resuming_shapes(config, names)
    for name in sorted(names ^ set(wanted)):
        raise metadata.damaged(path, f"tensor {name:.80} is {'not expected' if name in names else 'missing'}")
    dtypes, numbers = set[str](), 0
    for name, shape in wanted.items():
        found = file.get_slice(name)
        has = tuple(found.get_shape())
        dtypes.add(found.get_dtype())
        numbers += prod(has)
        if len(has) != len(shape) or any(size not in (None, here) for size, here in zip(shape, has, strict=True)):
            raise metadata.damaged(path, f"{name:.80} has the shape {has}, not {shape}")
    if len(dtypes) != 1 or not dtypes <= set(DTYPES):
        raise metadata.damaged(path, f"the tensors are of dtype {', '.join(sorted(dtypes))}, "
                                      f"not all of one of {', '.join(DTYPES)}")
    if 2 * numbers > kernels.host.memory():  # bytes at least: float16
        raise metadata.damaged(path, f"the tensors hold {numbers:,} numbers, more than this machine has memory for")


def _resuming_shapes(config: ModelConfig, names: set[str]) -> dict[str, tuple[int | None, ...]]:
    """The tensors for resuming, among `names`: states (L, H, N), here with None for any N, and buffers (P,)."""
    state, flat = (config.layers, config.hidden, None), (count(config),)
    return {name: state if name in ("state.h", "state.c") else flat
            for name in names if name.startswith(("optimizer.", "state."))}


def file_shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """The tensors of a model file: our parameters, and a bias_hh of zeros a layer for PyTorch."""
    layout = shapes(config)
    return layout | {name.replace("bias_ih", "bias_hh"): shape for name, shape in layout.items() if "bias_ih" in name}


def _digest(document: Metadata, tensors: Tensors) -> str:
    """The sha256 of a file of these parts."""
    return _sha256(document, ((name, tensors[name]) for name in sorted(tensors)))


def _sha256(document: Metadata, tensors: Iterable[tuple[str, np.ndarray]]) -> str:
    """sha256 over the JSON text and every tensor in sorted order: name, dtype, shape, bytes."""
    digest = hashlib.sha256(json.dumps(document, sort_keys=True).encode())
    for name, tensor in tensors:
        array = np.ascontiguousarray(tensor)
        digest.update(f"{name} {array.dtype.str} {array.shape}".encode())
        digest.update(array.data)
    return digest.hexdigest()
