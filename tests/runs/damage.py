"""Ways to damage a model file, all drawn from one seeded generator: in its bytes, in its header, in its JSON text.

A damage that keeps a right sha256 (`sealed`) is what a file made by hand in bad faith would be.
"""

import json
import struct
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from safetensors.numpy import save as to_bytes

from rnncore.runs import checkpoint
from rnncore.runs.checkpoint import KEY

WRONG = (
    None,
    True,
    False,
    -1,
    1.5,
    "x",
    "",
    "a\nb\x1b[2J",
    "a\0b",
    "\ud800",
    [],
    {},
    [[]],
    [None],
    {"a": 1},
    2**63,
    2**64,
    10**30,
    -(10**30),
    float("nan"),
    float("inf"),
    float("-inf"),
    1e308,
    "9" * 9000,
)


def sealed(document: dict, tensors: dict) -> bytes:
    """A file of these parts, with the sha256 that belongs to them: only their meaning can be wrong."""
    document = {key: value for key, value in document.items() if key != "sha256"}
    document["sha256"] = checkpoint._sha256(document, sorted(tensors.items()))
    return to_bytes(tensors, {KEY: json.dumps(document)})


def header_of(raw: bytes) -> tuple[dict, bytes]:
    """(header, data) of a file's bytes."""
    (length,) = struct.unpack("<Q", raw[:8])
    return json.loads(raw[8 : 8 + length]), raw[8 + length :]


def packed(header: dict | bytes, data: bytes) -> bytes:
    """The file of a header and data."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def in_bytes(raw: bytes, rng: np.random.Generator) -> bytes:
    """Bytes flipped, zeroed, cut off, cut out, repeated, swapped or put between; or another header length."""
    data = bytearray(raw)
    start, size = int(rng.integers(len(raw))), int(rng.integers(1, 64))
    if rng.random() < 0.5:
        start = int(rng.integers(min(len(raw), 3000)))  # the header and the JSON text are the smaller part
    kind = rng.integers(8)
    if kind == 0:
        for place in rng.integers(len(raw), size=rng.integers(1, 8)):
            data[place] ^= int(rng.integers(1, 256))
    elif kind == 1:
        data[start] ^= 1 << int(rng.integers(8))
    elif kind == 2:
        del data[start:]
    elif kind == 3:
        del data[start : start + size]
    elif kind == 4:
        data[start:start] = data[start : start + size]
    elif kind == 5:
        data[start : start + size] = bytes(len(data[start : start + size]))
    elif kind == 6:
        data[start:start] = rng.bytes(size)
    else:
        length = [2**64 - 1, 2**63, 10**12, 0, 1, len(raw), len(raw) - 8, int(rng.integers(len(raw)))]
        data[:8] = struct.pack("<Q", length[rng.integers(len(length))])
    return bytes(data)


def in_header(raw: bytes, rng: np.random.Generator) -> bytes:
    """A tensor's dtype, shape or place changed, lacking, there twice or under another name."""
    header, data = header_of(raw)
    names = [name for name in header if name != "__metadata__"]
    name, other = rng.choice(names, 2, replace=False)
    entry, kind = dict(header[name]), rng.integers(9)
    begin, end = entry["data_offsets"]
    if kind == 0:
        entry["dtype"] = str(rng.choice(["F64", "F16", "BF16", "I32", "U8", "BOOL", "F8_E4M3", "F4", "C64", "X", ""]))
    elif kind == 1:
        entry["shape"] = [
            [],
            [0],
            [2**40, 2**40],
            [2**63],
            [end - begin],
            [-1],
            [1.5],
            ["3"],
            None,
            [2] * 5000,
            entry["shape"][::-1] + [1],
        ][rng.integers(11)]
    elif kind == 2:
        entry["data_offsets"] = [
            [0, end],
            header[other]["data_offsets"],
            [begin, 2**62],
            [end, begin],
            [begin + 4, end + 4],
            [begin],
            [],
            [begin, end, end],
            [-4, 0],
            None,
            [10**30, 10**30 + 1],
        ][rng.integers(11)]
    elif kind == 3:
        del entry[rng.choice(sorted(entry))]
    elif kind == 4:
        del header[name]
        return packed(header, data)
    elif kind == 5:  # one name twice, the second elsewhere
        text, twin = json.dumps(header), entry | {"data_offsets": header[other]["data_offsets"]}
        return packed(f"{text[:-1]}, {json.dumps(name)}: {json.dumps(twin)}}}".encode(), data)
    elif kind == 6:
        header["../../escape\n" + name] = header.pop(name)
        return packed(header, data)
    elif kind == 7:
        header["more"] = entry | {"data_offsets": [len(data), len(data) + end - begin]}
        return packed(header, data + data[begin:end])
    else:
        header["__metadata__"] = [None, {}, [], {KEY: 5}, {KEY: ""}, {KEY: "{}"}, {"other": "x"}, {KEY: "[" * 50_000}][
            rng.integers(8)
        ]
        return packed(header, data)
    header[name] = entry
    return packed(header, data)


def leaves(value, path: tuple = ()) -> Iterator[tuple]:
    """The path of every value inside a JSON value, the objects and lists themselves included."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield (*path, key)
        yield from leaves(inner, (*path, key))


def changed(document: dict, path: tuple, value=KeyError) -> dict:
    """The document with another value at `path`, or without it."""
    copy = json.loads(json.dumps(document))
    parent = copy
    for key in path[:-1]:
        parent = parent[key]
    if value is KeyError:
        del parent[path[-1]]
    else:
        parent[path[-1]] = value
    return copy


def in_text(document: dict, tensors: dict, rng: np.random.Generator, below: tuple = ()) -> tuple[tuple, bytes]:
    """(path, file): a field of the JSON text lacking, or of another type or range, under a right sha256."""
    paths = [path for path in leaves(document) if path[: len(below)] == below]
    path = paths[rng.integers(len(paths))]
    value = KeyError if rng.random() < 0.15 else WRONG[rng.integers(len(WRONG))]
    return path, sealed(changed(document, path, value), tensors)


def in_tensors(document: dict, tensors: dict, rng: np.random.Generator) -> bytes:
    """A tensor lacking, of another shape, dtype or name, or with numbers that are none, under a right sha256."""
    names, kind = sorted(tensors), rng.integers(6)
    name = names[rng.integers(len(names))]
    tensor = tensors[name].copy()
    if kind == 0:
        return sealed(document, {key: value for key, value in tensors.items() if key != name})
    if kind == 1:
        tensor.reshape(-1)[rng.integers(tensor.size)] = rng.choice([np.nan, np.inf, -np.inf])
    elif kind == 2:
        tensor = tensor.astype(rng.choice(["float16", "float64", "int32", "uint8", "bool"]))
    elif kind == 3:
        tensor = [tensor[..., None], tensor[:-1], np.concatenate([tensor, tensor]), tensor[:0]][rng.integers(4)]
    elif kind == 4:
        more = ["optimizer.x", "state.x", "lstm.weight_hh_l9", "../x", "a\nb", "\x1b[2J", "é" * 300][rng.integers(7)]
        return sealed(document, tensors | {more: tensor})
    else:
        return sealed(document, {("x" + key if key == name else key): value for key, value in tensors.items()})
    return sealed(document, tensors | {name: np.ascontiguousarray(tensor)})


def instead(place: Path, kind: str) -> None:
    """Something else than a model file at `place`."""
    if kind == "folder":
        place.mkdir()
    elif kind == "npz":
        with open(place, "wb") as file:
            np.savez(file, weight=np.zeros(3))
    elif kind == "pickle":  # one that makes a folder when it is loaded
        place.write_bytes(f"cos\nmkdir\n(V{place.parent / 'unpickled'}\ntR.".encode())
    else:
        place.write_bytes(
            {
                "empty": b"",
                "text": b"To be, or not to be\n" * 50,
                "zeros": bytes(5000),
                "json": b'{"rnncore": {}}',
                "eight bytes": bytes(8),
            }[kind]
        )
