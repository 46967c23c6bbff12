"""Model files damaged in thousands of ways: each is refused in one line, or is the model that it was."""

import json
import os
import struct
import subprocess
import sys

import numpy as np
import pytest
from cli_helpers import ENVIRONMENT, call, refused
from damage import changed, header_of, in_bytes, in_header, in_tensors, in_text, instead, packed, sealed

import rnncore
from rnncore import ModelConfig, Vocab
from rnncore.runs import checkpoint
from rnncore.runs.checkpoint import KEY, ModelFileError, load, read, save

VOCAB = Vocab.from_text("ab\nö☃")
MODEL = rnncore.CharLM(ModelConfig(5, 3, 4, 2), VOCAB, "cpu", "float32", seed=1)


@pytest.fixture(scope="module")
def good(tmp_path_factory) -> tuple[bytes, dict, dict]:
    """(bytes, document, tensors) of a whole file."""
    path = tmp_path_factory.mktemp("good") / "model.safetensors"
    save(MODEL, path, {"corpus": {"name": "é"}, "losses": [1.5, None], "split": {"train": 5}})
    return path.read_bytes(), *read(path)


@pytest.fixture
def place(tmp_path):
    """Where damaged files are put."""
    return tmp_path / "model.safetensors"


def refusal(place, data: bytes) -> str | None:
    """The line with which a damaged file is refused; None where it is the model that it was."""
    place.write_bytes(data)
    try:
        back = load(place, "cpu")
    except ModelFileError as error:
        line = str(error)
        assert line.isprintable() and str(place) in line and len(line) < 600, line
        return line
    assert np.array_equal(back.params.flat, MODEL.params.flat) and back.dtype == MODEL.dtype
    assert back.vocab == VOCAB and back.config == MODEL.config
    return None


@pytest.mark.parametrize("seed", range(2))
def test_model_file_with_bytes_changed_cut_or_repeated(good, place, seed):
    rng = np.random.default_rng(seed)
    lines = [refusal(place, in_bytes(good[0], rng)) for _ in range(500)]
    assert sum(line is None for line in lines) <= 10  # the case of a \u escape's letters, and zeros made zero


@pytest.mark.parametrize("seed", range(2))
def test_model_file_with_another_header(good, place, seed):
    rng = np.random.default_rng(seed)
    for _ in range(300):
        data = in_header(good[0], rng)
        assert (refusal(place, data) is None) == (header_of_or_none(data) == header_of(good[0]))


def header_of_or_none(data: bytes):
    try:
        return header_of(data) if data.count(b'"dtype"') == len(header_of(data)[0]) - 1 else None
    except (ValueError, RecursionError):
        return None


def test_model_file_with_another_text_under_a_right_sha256(good, place):
    rng = np.random.default_rng(0)
    for _ in range(400):
        path, data = in_text(*good[1:], rng)
        line = refusal(place, data)
        if path[0] == "card":  # an object that may hold anything
            assert line is None or path == ("card",) and "card" in line, (path, line)
        else:
            assert line and path[0] in line, (path, line)


def test_model_file_with_tensors_missing_extra_misshapen_or_of_other_dtypes(good, place):
    rng = np.random.default_rng(0)
    for _ in range(400):
        assert "sha256" not in refusal(place, in_tensors(*good[1:], rng))


@pytest.mark.parametrize("field", ["schema", "config", "vocab", "card", "sha256"])
def test_every_field_that_lacks_is_named(good, place, field):
    _, document, tensors = good
    text = json.dumps({name: value for name, value in (document | {"sha256": "0" * 64}).items() if name != field})
    header, data = header_of(good[0])
    assert field in refusal(place, packed(header | {"__metadata__": {KEY: text}}, data))


def test_names_that_stand_twice_are_refused(good, place):
    """Every reader of JSON takes another of the two."""
    raw, document, tensors = good
    document = document | {"sha256": checkpoint._sha256(document, sorted(tensors.items()))}
    text = json.dumps(document)
    header, data = header_of(raw)
    for twin in ('"schema": 1', '"vocab": [1, 2, 3, 4, 5]', '"card": {}', '"sha256": "0"', '"x": {"a": 1, "a": 2}'):
        line = refusal(place, packed(header | {"__metadata__": {KEY: f"{{{twin}, {text[1:]}"}}, data))
        assert "stands twice" in line
    twice = json.dumps(header)[:-1] + ', "__metadata__": {}}'
    assert "__metadata__ stands twice" in refusal(place, packed(twice.encode(), data))
    entry = json.dumps(header["head.bias"])
    same = json.dumps(header)[:-1] + f', "head.bias": {entry}}}'
    assert "head.bias stands twice" in refusal(place, packed(same.encode(), data))


@pytest.mark.parametrize("kind", ["empty", "text", "zeros", "json", "eight bytes", "pickle", "npz", "folder"])
def test_pickle_npz_text_empty_file_or_folder_in_its_place(place, kind, capsys):
    instead(place, kind)
    with pytest.raises(FileNotFoundError if kind == "folder" else ModelFileError) as caught:
        load(place, "cpu")
    assert str(place) in str(caught.value) and str(caught.value).isprintable()
    for command in ("generate", "info"):
        refused(call(capsys, command, place))
    assert os.listdir(place.parent) == [place.name]  # nothing was unpickled


def test_a_card_may_be_anything_and_is_shown_without_harm(good, place, capsys):
    _, document, tensors = good
    about = {
        "name": "\x1b]0;x\x07",
        "sources": ["../../x"],
        "encoding": "utf-8",
        "newline": "lf",
        "characters": 9,
        "sha256": "0" * 64,
    }
    card = {
        "corpus": about,
        "split": {"train": 5, "validation": 2, "test": 2},
        "train": {},
        "step": 3,
        "chars": 9,
        "seconds": 1.5,
        "made": "2026-11-24",
        "val_loss": 1.5,
        "best_step": 3,
        "val_loss_of_all": 1.25,
        "init_from": "/etc/passwd",
        "floor": {"nats": 1.5, "order": 2, "counted": 5},
        "versions": {"rnncore": "0"},
        "losses": {"val": 1.5},
    }
    from rnncore.runs.folder import trained

    assert trained(card)
    rng, whole = np.random.default_rng(0), document | {"card": card}
    for _ in range(100):
        path, data = in_text(whole, tensors, rng, ("card",))
        place.write_bytes(data)
        result = call(capsys, "info", place)
        assert (
            "\x1b" not in result.out
            and "internal" not in result.err
            and (result.code == 0 and result.err == "" or path == ("card",) and "card" in refused(result))
        ), (path, result)
    assert os.listdir(place.parent) == [place.name]  # names in it are no paths


@pytest.mark.parametrize("depth", [300, 600, 900, 950, 980, 995, 1100, 100_000])
def test_a_card_nested_deeply(good, place, depth):
    header, data = header_of(good[0])
    text = header["__metadata__"][KEY].replace('"card": {', '"card": {"a": ' + "[" * depth + "]" * depth + ", ", 1)
    assert refusal(place, packed(header | {"__metadata__": {KEY: text}}, data))


def test_weights_that_overflow_are_refused(good, place):
    _, document, tensors = good
    most = np.finfo(np.float32).max
    place.write_bytes(
        sealed(
            document,
            {name: np.full_like(tensor, most) if "bias" in name else tensor for name, tensor in tensors.items()},
        )
    )
    with pytest.raises(ModelFileError, match="lstm.bias_ih_l0 holds numbers too large for float32"):
        load(place, "cpu")
    place.write_bytes(sealed(document, {name: np.full(tensor.shape, 1e300) for name, tensor in tensors.items()}))
    with pytest.raises(ModelFileError, match="embedding.weight holds numbers too large for float32"):
        load(place, "cpu", "float32")
    assert load(place, "cpu").dtype == np.float64


LIMITED = """
import resource, sys
from rnncore.runs.checkpoint import ModelFileError, load
from rnncore import kernels
from rnncore.bench import memory
load(sys.argv[1], "cpu")
with open("/proc/self/statm") as file:
    used = int(file.read().split()[0]) * resource.getpagesize()
size = used + (64 << 20)
resource.setrlimit(resource.RLIMIT_DATA, (size, size))
for path in sys.argv[2:]:
    try:
        load(path, "cpu")
    except ModelFileError as error:
        print(error)
peak = memory.peak() // 1024  # ru_maxrss would begin at what the tests hold
print(peak < 400_000 or f"{peak} KB")
"""


def test_a_header_that_claims_terabytes_allocates_nothing(good, tmp_path):
    raw, document, tensors = good
    header, data = header_of(raw)
    good_file = tmp_path / "good"
    good_file.write_bytes(raw)
    files = {f"length {length}": struct.pack("<Q", length) + raw[8:] for length in (2**64 - 1, 2**63, 10**13, 10**9)}
    for name, shape in (("tall", [10**12, 3]), ("cube", [2**20, 2**20, 2**20])):
        size = 4 * int(np.prod(shape, dtype=object))
        files[name] = packed(
            header | {"embedding.weight": {"dtype": "F32", "shape": shape, "data_offsets": [0, size]}}, data
        )
    large = {"vocab_size": 5, "embed": 3, "hidden": 3 * 10**5, "layers": 2}
    files["config"] = sealed(changed(document, ("config",), large), tensors)
    files["vocab"] = sealed(changed(document, ("config", "vocab_size"), 10**12), tensors)
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    files["sparse"] = None
    sparse_model(tmp_path / "sparse", document, large)
    with open(tmp_path / "sparse header", "wb") as file:  # the file is as long as it says
        file.write(struct.pack("<Q", 10**12))
        file.truncate(10**12 + 8)
    files["sparse header"] = None
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, good_file, *(tmp_path / name for name in files)],
        cwd=tmp_path,
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=60,
    )
    lines = done.stdout.splitlines()
    assert done.returncode == 0 and done.stderr == "" and lines.pop() == "True", done
    assert len(lines) == len(files) and all(name in line for name, line in zip(files, lines, strict=True)), lines
    assert "more than this machine has memory for" in lines[-2] and "header length" in lines[-1]


def sparse_model(path, document: dict, config: dict) -> None:
    """A file that fits its header of terabytes in every byte, and takes no room on the disk."""
    document = document | {"config": config, "sha256": "0" * 64}
    header, start = {"__metadata__": {KEY: json.dumps(document)}}, 0
    for name, shape in checkpoint.file_shapes(ModelConfig(**config)).items():
        end = start + 4 * int(np.prod(shape))
        header[name], start = {"dtype": "F32", "shape": shape, "data_offsets": [start, end]}, end
    with open(path, "wb") as file:
        file.write(packed(header, b""))
        file.truncate(file.tell() + start)
    assert start > 4 * 10**12 and path.stat().st_blocks < 100


def test_a_text_that_is_nested_too_deeply_to_be_digested(good, place, monkeypatch):
    """Where Python reads deeper than it writes; how deep each goes is another number in each of its versions."""

    def too_deep(*args, **settings):
        raise RecursionError

    monkeypatch.setattr(checkpoint.json, "dumps", too_deep)
    assert "nested too deeply" in refusal(place, good[0])
