"""A model file: one safetensors file with the tensors under PyTorch's names and one JSON text, the metadata.

The JSON text stands under the key `rnncore` of the safetensors header. It holds the schema version, the sizes, the
vocabulary as code points, the training card, and a sha256 over its other fields and every tensor. Nothing is ever
unpickled. `save` writes a temporary file in the same folder, flushes it to the disk and renames it. Therefore the file
under the final name is always complete.
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

DTYPES = {"F16": "float32", "F32": "float32", "F64": "float64"}  # dtype in the file -> dtype of the loaded model
FLOATS = "float16", "float32", "float64"  # dtypes of the extra tensors that `save` accepts


def save(model: CharLM, path: str | os.PathLike[str], card: Card | None = None, extra: Tensors | None = None,
         training: dict[str, Any] | None = None, half: bool = False) -> None:
    """Write a model to the file `path`.

    card: the training card, any JSON object. extra: more tensors by name, which resuming needs. training: a JSON object
    that resuming needs. After loading, a tuple in card or training is a list, and a key that was a number is a text.
    half: True to store float16, which halves the file.

    The new file is read back and checked as in loading before it replaces the file at `path`. Until then the old file
    stays complete. Raises OSError if the file cannot be written, TypeError or ValueError if a file cannot hold the card
    or an extra tensor, and ModelFileError if loading would refuse the new file.
    """
    path = Path(path)
    meta: Metadata = {"schema": SCHEMA, "config": asdict(model.config), "vocab": model.vocab.code_points,
                      "card": plain({} if card is None else card, "card", path)}
    if model.vocab.settings:
        meta["text"] = model.vocab.settings
    if training is not None:
        meta["training"] = plain(training, "training", path)
    tensors = _with_extra(model.tensors(), extra or {}, path)
    if half:
        tensors = {name: _halved(name, tensor, path) for name, tensor in tensors.items()}
    meta["sha256"] = _sha256(meta, sorted(tensors.items()))

    def check(temporary: Path) -> None:
        try:
            _check(temporary)
        except ModelFileError as error:
            raise ModelFileError(f"{path} is not saved: {error.cause}", error.cause) from None

    write_whole(path, to_bytes(tensors, {KEY: json.dumps(meta)}), check)


def _with_extra(tensors: Tensors, extra: Tensors, path: Path) -> Tensors:
    """Add the extra tensors to the model's tensors and return these.

    Raises TypeError if an extra tensor is not a NumPy array of floats, ValueError if its name is taken.
    """
    for name, value in extra.items():
        if not isinstance(name, str) or not isinstance(value, np.ndarray) or value.dtype.name not in FLOATS:
            raise TypeError(f"{path} is not saved: extra tensor {name!s:.80} is no NumPy array of floats under a name")
        if name in tensors:
            raise ValueError(f"{path} is not saved: extra tensor {name} has the name of one of the model's own")
        tensors[name] = np.ascontiguousarray(value, value.dtype.newbyteorder("="))
    return tensors


def _halved(name: str, tensor: np.ndarray, path: Path) -> np.ndarray:
    """Return a tensor in float16. Raises ModelFileError if a finite number of it becomes infinite.

    A tensor that already holds numbers that are not finite passes here; the check of the new file refuses it.
    """
    with np.errstate(over="ignore"):
        half = tensor.astype(np.float16)
    if np.isfinite(tensor).all() and not np.isfinite(half).all():
        raise ModelFileError(f"{path} is not saved: {name} holds a number too large for float16: save it in float32")
    return half


def load(name: str | Path, device: str = "auto", dtype: str | None = None) -> CharLM:
    """Load the model for a name: a model file, a run folder, or the name of a run or pretrained model (names.py).

    A run folder stands for its best model, or for its last model if it has no best one. device: as in CharLM. dtype: a
    precision, as in CharLM; None for the one in the file, where float16 becomes float32.

    Warns with names.Ambiguous if the name could mean several models, and with names.Renamed if the name is an old one.
    Raises FileNotFoundError if there is no such model, ModelFileError if the file is damaged or not a model file of
    rnncore, and kernels.DeviceError if the device does not work.
    """
    found = names.find(name)
    for note in found.notes:
        warnings.warn(note, stacklevel=2)
    return to_model(*read(found.file), device, dtype)


def to_model(meta: Metadata, tensors: Tensors, device: str, dtype: str | None = None) -> CharLM:
    """Make a CharLM on the device from the metadata and the tensors that `read` returned.

    dtype: as in `load`. Raises ModelFileError if a number is too large for the dtype.
    """
    model = CharLM(metadata.sizes(meta), metadata.vocabulary(meta), device,
                   dtype or ("float64" if tensors["head.bias"].dtype == np.float64 else "float32"), seed=None)
    with np.errstate(over="ignore"):
        model.assign(tensors)
    for name, view in model.params.items():
        if not model.kernel.xp.isfinite(view).all():
            raise ModelFileError(f"the model's {name} holds numbers too large for {model.dtype}: load it in float64")
    return model


def read(path: Path) -> tuple[Metadata, Tensors]:
    """Return (metadata, tensors) of a model file after checks of names, shapes, dtypes, finite numbers and sha256.

    The `training` field is checked by metadata.check_training, not here. Raises FileNotFoundError if there is no file,
    ModelFileError if a check fails.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such model file or run folder")
    tensors: Tensors = {}
    return _check(path, tensors.__setitem__), tensors


def _check(path: Path, take: Callable[[str, np.ndarray], None] | None = None) -> Metadata:
    """Check a model file as `read` does and return its metadata; call `take` with the name and array of each tensor."""
    if words := mistaken.file(path):
        raise ModelFileError(words, f"it {words.removeprefix(str(path)).strip()}")
    metadata.check_header(path)  # before safe_open, which trusts the header's claims
    try:
        with safe_open(path, framework="numpy") as file:
            stored = metadata.stored(path, file.metadata())
            meta = metadata.current(path, stored)
            _check_layout(path, meta, file)
            sha256 = stored.pop("sha256")
            if sha256 != _sha256(stored, _finite(path, file, take)):
                raise metadata.damaged(path, "sha256 does not match the contents, the file is damaged")
    except SafetensorError as error:
        raise metadata.torn(path, error) from None
    except RecursionError:
        raise metadata.damaged(path, "card, or another field, is nested too deeply") from None
    return meta


def _finite(path: Path, file: safe_open,
            take: Callable[[str, np.ndarray], None] | None) -> Iterator[tuple[str, np.ndarray]]:
    """Yield (name, tensor) of an open file in sorted order, after a check that all numbers are finite.

    Call `take` with each. Without `take`, only one tensor at a time is in memory. Raises ModelFileError.
    """
    for name in sorted(file.keys()):
        tensor = file.get_tensor(name)
        if not np.isfinite(tensor).all():
            raise metadata.damaged(path, f"{name} holds numbers that are not finite")
        if take:
            take(name, tensor)
        yield name, tensor


def _check_layout(path: Path, meta: Metadata, file: safe_open) -> None:
    """Raise ModelFileError if names, shapes or dtypes of the tensors are wrong. No tensor is read for this."""
    config, names = metadata.sizes(meta), set(file.keys())
    if config.layers > len(names):
        raise metadata.damaged(path, f"{len(names)} tensors are too few for {config.layers} layers")
    wanted: dict[str, tuple[int | None, ...]] = {**file_shapes(config)}
    if "training" in meta:
        state, flat = (config.layers, config.hidden, None), (count(config),)  # None: N, which may be any number
        wanted |= {name: state if name in ("state.h", "state.c") else flat
                   for name in names if name.startswith(("optimizer.", "state."))}
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
    if 2 * numbers > kernels.host.memory():  # a float16 takes 2 bytes
        raise metadata.damaged(path, f"the tensors hold {numbers:,} numbers, more than this machine has memory for")


def file_shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """Return name -> shape of the tensors of a model file: the parameters and one bias_hh per layer.

    The engine has no bias_hh. The file holds it as zeros, because PyTorch's LSTM has two biases per layer.
    """
    layout = shapes(config)
    return layout | {name.replace("bias_ih", "bias_hh"): shape for name, shape in layout.items() if "bias_ih" in name}


def _sha256(meta: Metadata, tensors: Iterable[tuple[str, np.ndarray]]) -> str:
    """Return the sha256, in hexadecimal digits, over the metadata and every tensor's name, dtype, shape and bytes.

    The tensors must come in sorted order. The metadata must not hold the sha256 itself.
    """
    digest = hashlib.sha256(json.dumps(meta, sort_keys=True).encode())
    for name, tensor in tensors:
        array = np.ascontiguousarray(tensor)
        digest.update(f"{name} {array.dtype.str} {array.shape}".encode())
        digest.update(array.data)
    return digest.hexdigest()
