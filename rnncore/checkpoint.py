"""A model file is one safetensors file: tensors under PyTorch's names, and one JSON text that says what they are.

The metadata key `rnncore` holds the schema version, the sizes, the vocabulary as code points, the training card and a
sha256 over the rest of that text and every tensor. Nothing is ever unpickled. Saving writes a temporary file in the
same folder, flushes it to the disk and renames it, so a file under its own name is whole.
"""
import hashlib
import json
import warnings
from dataclasses import asdict
from math import prod
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save as to_bytes

from . import documents, kernels, mistaken, names
from .config import ModelConfig
from .documents import KEY, SCHEMA, ModelFileError
from .files import write_whole
from .model import CharLM
from .params import count, shapes

DTYPES = {"F16": "float32", "F32": "float32", "F64": "float64"}  # of the file: of the model


def save(model: CharLM, path, card: dict | None = None, extra: dict | None = None,
         training: dict | None = None, half: bool = False) -> None:
    """Write model to `path`. card: what is said of its training; extra tensors and a `training` text: for resuming.

    half: in float16, a file of half the size. Raises OSError; the file that stood there is whole until the new one is.
    """
    document = {"schema": SCHEMA, "config": asdict(model.config), "vocab": model.vocab.code_points, "card": card or {}}
    if model.vocab.settings:
        document["text"] = model.vocab.settings
    if training is not None:
        document["training"] = training
    tensors = {**model.tensors(), **(extra or {})}
    if half:
        with np.errstate(over="ignore"):
            tensors = {name: tensor.astype(np.float16) for name, tensor in tensors.items()}
        if not all(np.isfinite(tensor).all() for tensor in tensors.values()):
            raise ModelFileError(f"{path}: a weight is too large for float16: save it in float32")
    document["sha256"] = _digest(document, tensors)
    write_whole(Path(path), to_bytes(tensors, {KEY: json.dumps(document)}))


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


def to_model(document: dict, tensors: dict, device: str, dtype: str | None = None) -> CharLM:
    """The model that `read` found."""
    stored = tensors["head.bias"].dtype
    model = CharLM(documents.sizes(document), documents.vocabulary(document), device,
                   dtype or ("float64" if stored == np.float64 else "float32"), seed=None)
    with np.errstate(over="ignore"):
        model.assign(tensors)
    for name, view in model.params.items():
        if not model.kernel.xp.isfinite(view).all():
            raise ModelFileError(f"the model's {name} holds numbers too large for {model.dtype}: load it in float64")
    return model


def model_file(name: str | Path) -> Path:
    """The file of the model that a name stands for (names.py)."""
    return names.find(name).file


def read(path: Path) -> tuple[dict, dict[str, np.ndarray]]:
    """(document, tensors) of a model file, checked: names, shapes, dtypes, finite numbers, sha256."""
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such model file or run folder")
    if words := mistaken.file(path):
        raise ModelFileError(words)
    documents.check_header(path)
    try:
        with safe_open(path, framework="numpy") as file:
            stored = documents.stored(path, file.metadata())
            document = documents.current(path, stored)
            _check_layout(path, document, file)
            tensors = {name: file.get_tensor(name) for name in file.keys()}
    except SafetensorError as error:
        raise ModelFileError(f"{path} is not a whole model file ({error}): take another copy") from None
    for name, tensor in tensors.items():
        if not np.isfinite(tensor).all():
            raise ModelFileError(f"{path}: {name} holds numbers that are not finite: take another copy")
    try:
        damaged = stored.pop("sha256") != _digest(stored, tensors)
    except RecursionError:
        raise ModelFileError(f"{path}: card, or another field, is nested too deeply: take another copy") from None
    if damaged:
        raise ModelFileError(f"{path}: sha256 does not match the contents, the file is damaged: take another copy")
    return document, tensors


def _check_layout(path: Path, document: dict, file) -> None:
    """Names, shapes and dtypes, before anything is read."""
    config, names = documents.sizes(document), set(file.keys())
    if config.layers > len(names):
        raise ModelFileError(f"{path}: {len(names)} tensors are too few for {config.layers} layers")
    wanted: dict[str, tuple] = {**file_shapes(config)}
    if "training" in document:
        wanted |= _resuming_shapes(config, names)
    for name in sorted(names ^ set(wanted)):
        raise ModelFileError(f"{path}: tensor {name:.80} is {'not expected' if name in names else 'missing'}")
    dtypes, numbers = set(), 0
    for name, shape in wanted.items():
        found = file.get_slice(name)
        has = tuple(found.get_shape())
        dtypes.add(found.get_dtype())
        numbers += prod(has)
        if len(has) != len(shape) or any(size not in (None, here) for size, here in zip(shape, has, strict=True)):
            raise ModelFileError(f"{path}: {name:.80} has the shape {has}, not {shape}")
    if len(dtypes) != 1 or not dtypes <= set(DTYPES):
        raise ModelFileError(f"{path}: the tensors are of dtype {', '.join(sorted(dtypes))}, "
                             f"not all of one of {', '.join(DTYPES)}")
    if 2 * numbers > kernels.host.memory():  # bytes at least: float16
        raise ModelFileError(f"{path}: the tensors hold {numbers:,} numbers, more than this machine has memory for")


def _resuming_shapes(config: ModelConfig, names: set[str]) -> dict[str, tuple]:
    """The tensors for resuming, among `names`: states (L, H, N), here with None for any N, and buffers (P,)."""
    state, flat = (config.layers, config.hidden, None), (count(config),)
    return {name: state if name in ("state.h", "state.c") else flat
            for name in names if name.startswith(("optimizer.", "state."))}


def file_shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """The tensors of a model file: our parameters, and a bias_hh of zeros a layer for PyTorch."""
    layout = shapes(config)
    return layout | {name.replace("bias_ih", "bias_hh"): shape for name, shape in layout.items() if "bias_ih" in name}


def _digest(document: dict, tensors: dict[str, np.ndarray]) -> str:
    """sha256 over the JSON text and every tensor in sorted order: name, dtype, shape, bytes."""
    digest = hashlib.sha256(json.dumps(document, sort_keys=True).encode())
    for name in sorted(tensors):
        array = np.ascontiguousarray(tensors[name])
        digest.update(f"{name} {array.dtype.str} {array.shape}".encode())
        digest.update(array.data)
    return digest.hexdigest()
