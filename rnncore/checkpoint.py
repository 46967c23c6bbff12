"""A model file is one safetensors file: tensors under PyTorch's names, and one JSON text that says what they are.

The metadata key `rnncore` holds the schema version, the sizes, the vocabulary as code points, the training card and a
sha256 over the rest of that text and every tensor. Nothing is ever unpickled. Saving writes a temporary file in the
same folder, flushes it to the disk and renames it, so a file under its own name is whole.
"""
import hashlib
import json
import os
from dataclasses import asdict
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save as to_bytes

from .config import ModelConfig
from .data import pretrained
from .data.vocab import Vocab
from .model import CharLM
from .params import shapes

SCHEMA = 1
KEY = "rnncore"
DTYPES = {"F16": "float32", "F32": "float32", "F64": "float64"}  # of the file: of the model


class ModelFileError(ValueError):
    """A model file that cannot be read or is not what it says; the message is one line and names the field."""


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


def write_whole(path: Path, data: bytes) -> None:
    """Replace the file `path` by data, or leave it as it is."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def load(path, device: str = "auto", dtype: str | None = None) -> CharLM:
    """The model in a file, in a run folder (its best, else its last), or a pretrained one by its name.

    dtype: float32 or float64; None: as in the file, where float16 becomes float32. Raises ModelFileError for what is
    no whole model file of ours, FileNotFoundError, kernels.DeviceError.
    """
    document, tensors = read(model_file(path))
    return to_model(document, tensors, device, dtype)


def to_model(document: dict, tensors: dict, device: str, dtype: str | None = None) -> CharLM:
    """The model that `read` found."""
    vocab, config = vocab_of(document), ModelConfig(**document["config"])
    stored = tensors["head.bias"].dtype
    model = CharLM(config, vocab, device, dtype or ("float64" if stored == np.float64 else "float32"), seed=None)
    model.assign(tensors)
    return model


def vocab_of(document: dict) -> Vocab:
    """The vocabulary in the JSON text of a model file; its `text` is there where it is no plain one of characters."""
    return Vocab.from_code_points(document["vocab"], **document.get("text", {}))


def model_file(path) -> Path:
    """path itself, the model in a run folder (best.safetensors, else last), or a pretrained one by its name.

    What lies at the path goes before a pretrained model of that name.
    """
    name, path = str(path), Path(path)
    if not path.exists():
        return pretrained.path(name) or path
    if not path.is_dir():
        return path
    for name in ("best.safetensors", "last.safetensors"):
        if (path / name).is_file():
            return path / name
    raise FileNotFoundError(f"{path} holds no model yet (best.safetensors or last.safetensors): "
                            f"train one with -o {path}")


def read(path: Path) -> tuple[dict, dict[str, np.ndarray]]:
    """(document, tensors) of a model file, checked: names, shapes, dtypes, finite numbers, sha256."""
    if not path.is_file():
        named = f", nor one of the pretrained models ({', '.join(pretrained.names())})" if pretrained.names() else ""
        raise FileNotFoundError(f"{path}: no such model file or run folder{named}")
    try:
        with safe_open(path, framework="numpy") as file:
            document = _document(path, file.metadata())
            _check_layout(path, document, file)
            tensors = {name: file.get_tensor(name) for name in file.keys()}
    except SafetensorError as error:
        raise ModelFileError(f"{path} is not a whole model file ({error}): take another copy") from None
    for name, tensor in tensors.items():
        if not np.isfinite(tensor).all():
            raise ModelFileError(f"{path}: {name} holds numbers that are not finite: take another copy")
    if document.pop("sha256") != _digest(document, tensors):
        raise ModelFileError(f"{path}: sha256 does not match the contents, the file is damaged: take another copy")
    return document, tensors


def _document(path: Path, metadata: dict | None) -> dict:
    """The JSON text of the metadata, with the fields that all readers rely on."""
    try:
        document = json.loads((metadata or {})[KEY])
        schema = document["schema"]
    except (KeyError, TypeError, ValueError, RecursionError):
        raise ModelFileError(f"{path} is no model file of rnncore: its metadata has no `{KEY}` text") from None
    if schema != SCHEMA:
        raise ModelFileError(f"{path}: schema {schema!r} is not {SCHEMA}, the one that this version reads: install the "
                             "version of rnncore that wrote the file")
    try:
        ModelConfig(**document["config"])
        vocab_of(document)
        sizes = document["config"]
        fits = sizes["vocab_size"] == len(document["vocab"]) and isinstance(document["card"], dict)
        fits = fits and not any(isinstance(size, bool) for size in sizes.values())  # to Python true is a 1
    except (KeyError, TypeError, ValueError) as error:
        raise ModelFileError(f"{path}: config or vocab is not as it should be ({error})") from None
    if not fits or not isinstance(document.get("sha256"), str):
        raise ModelFileError(f"{path}: vocab_size, another size, card or sha256 is not as it should be")
    return document


def _check_layout(path: Path, document: dict, file) -> None:
    """Names, shapes and dtypes, before anything is read."""
    config = ModelConfig(**document["config"])
    if config.layers > len(file.keys()):
        raise ModelFileError(f"{path}: {len(file.keys())} tensors are too few for {config.layers} layers")
    wanted = file_shapes(config)
    if "training" in document:
        wanted |= {name: None for name in file.keys() if name.startswith(("optimizer.", "state."))}
    names = set(file.keys())
    for name in sorted(names ^ set(wanted)):
        raise ModelFileError(f"{path}: tensor {name} is {'not expected' if name in names else 'missing'}")
    dtypes = set()
    for name, shape in wanted.items():
        found = file.get_slice(name)
        dtypes.add(found.get_dtype())
        if shape is not None and tuple(found.get_shape()) != shape:
            raise ModelFileError(f"{path}: {name} has the shape {tuple(found.get_shape())}, not {shape}")
    if len(dtypes) != 1 or not dtypes <= set(DTYPES):
        raise ModelFileError(f"{path}: the tensors are of dtype {', '.join(sorted(dtypes))}, "
                             f"not all of one of {', '.join(DTYPES)}")


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
