"""Model files: what is saved comes back bit for bit, a file under its name is whole, no damage gets past loading."""
import io
import json
import os
import struct
from pathlib import Path

import numpy as np
import pytest
from conftest import build
from hypothesis import given, settings, strategies as st
from safetensors import safe_open
from safetensors.numpy import save as to_bytes

import rnncore
from rnncore import ModelConfig, Vocab
from rnncore.runs import checkpoint, names
from rnncore.runs.checkpoint import KEY, ModelFileError, load, read, save

VOCAB = Vocab.from_text("ab\nö☃")
MODEL = rnncore.CharLM(ModelConfig(5, 3, 4, 2), VOCAB, "cpu", "float32", seed=1)


@pytest.fixture(scope="module")
def raw(tmp_path_factory) -> bytes:
    """A good file's bytes."""
    path = tmp_path_factory.mktemp("good") / "model.safetensors"
    save(MODEL, path, {"corpus": "é"})
    return path.read_bytes()


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """Where damaged files are put."""
    return tmp_path_factory.mktemp("damaged") / "model.safetensors"


def parts(raw: bytes, place: Path) -> tuple[dict, dict]:
    place.write_bytes(raw)
    document, tensors = read(place)
    return document, tensors


def sealed(document: dict, tensors: dict, sha: bool = True) -> bytes:
    """A file of these parts, with the sha256 that belongs to them: only their meaning can be wrong."""
    document = {key: value for key, value in document.items() if key != "sha256"} if sha else dict(document)
    if sha:
        document["sha256"] = checkpoint._sha256(document, sorted(tensors.items()))
    return to_bytes(tensors, {KEY: json.dumps(document)})


def refusal(place: Path, data: bytes) -> str:
    """The one line with which loading these bytes is refused."""
    place.write_bytes(data)
    with pytest.raises(ModelFileError) as caught:
        load(place, "cpu")
    line = str(caught.value)
    assert "\n" not in line and str(place) in line
    return line


# What is saved

@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("layers", [1, 3])
def test_a_model_comes_back_bit_for_bit(tmp_path, dtype, layers):
    model = build(dtype=dtype, layers=layers)
    path = tmp_path / "model.safetensors"
    save(model, path, {"corpus": "x"})
    back = load(path, "cpu")
    assert np.array_equal(back.params.flat, model.params.flat) and back.dtype == model.dtype
    assert back.vocab == model.vocab and back.config == model.config and read(path)[0]["card"] == {"corpus": "x"}
    assert os.listdir(tmp_path) == ["model.safetensors"]


def test_rnncore_save_and_load_are_these(tmp_path):
    rnncore.save(MODEL, str(tmp_path / "m"))
    assert np.array_equal(rnncore.load(str(tmp_path / "m"), device="cpu").params.flat, MODEL.params.flat)


def test_the_file_is_ordinary_safetensors_with_torchs_names(raw, place):
    place.write_bytes(raw)
    with safe_open(place, "numpy") as file:
        assert set(file.keys()) == {
            "embedding.weight", "head.weight", "head.bias",
            *(f"lstm.{kind}_l{layer}" for kind in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
              for layer in range(2))}
        assert not file.get_tensor("lstm.bias_hh_l1").any() and file.get_tensor("lstm.weight_ih_l0").shape == (16, 3)
        document = json.loads(file.metadata()[KEY])
    assert document["vocab"] == [10, 97, 98, 0xF6, 0x2603] and document["schema"] == 1 and len(document["sha256"]) == 64


def test_the_two_biases_of_a_layer_are_added(raw, place):
    document, tensors = parts(raw, place)
    tensors["lstm.bias_hh_l1"] = np.full(16, 0.25, np.float32)
    place.write_bytes(sealed(document, tensors))
    back = load(place, "cpu")
    assert np.array_equal(back.params["lstm.bias_ih_l1"], MODEL.params["lstm.bias_ih_l1"] + np.float32(0.25))


def test_a_run_folder_is_its_best_else_its_last(tmp_path):
    with pytest.raises(FileNotFoundError, match="holds no model yet"):
        load(tmp_path)
    with pytest.raises(FileNotFoundError, match="no such model file"):
        load(tmp_path / "gone")
    with pytest.raises(FileNotFoundError):
        load("/dev/null/x")
    other = build(dtype="float32")
    save(MODEL, tmp_path / "last.safetensors")
    assert names.find(tmp_path).file.name == "last.safetensors" and len(load(tmp_path, "cpu").vocab) == 5
    save(other, tmp_path / "best.safetensors")
    assert np.array_equal(load(str(tmp_path), "cpu").params.flat, other.params.flat)


# Saving is all or nothing

@pytest.mark.parametrize("step", ["replace", "fsync"])
def test_a_save_that_fails_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch, step):
    path = tmp_path / "model.safetensors"
    save(MODEL, path)
    before = path.read_bytes()

    def fail(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, step, fail)
    with pytest.raises(OSError, match="No space"):
        save(build(), path)
    assert path.read_bytes() == before and os.listdir(tmp_path) == ["model.safetensors"]


def test_a_folder_that_is_not_there(tmp_path):
    with pytest.raises(FileNotFoundError):
        save(MODEL, tmp_path / "no" / "model.safetensors")


# Damage to the bytes

def test_every_truncation_is_refused(raw, place):
    for length in {*range(0, 20), *range(20, len(raw), 41), len(raw) - 1}:
        assert refusal(place, raw[:length])


def test_flipped_bits_are_refused_or_change_nothing(raw, place):
    """A bit in the letter of a \\u escape changes nothing; every other is seen."""
    rng, good = np.random.default_rng(0), parts(raw, place)
    header = 8 * (8 + struct.unpack("<Q", raw[:8])[0])
    places = {*range(0, 64), *rng.integers(64, header, 300), *rng.integers(header, 8 * len(raw), 200)}
    unseen = 0
    for bit in map(int, places):
        data = bytearray(raw)
        data[bit // 8] ^= 1 << bit % 8
        place.write_bytes(data)
        try:
            document, tensors = read(place)
        except ModelFileError as error:
            assert "\n" not in str(error)
            continue
        unseen += 1
        assert document == good[0] and all(np.array_equal(tensors[name], good[1][name]) for name in good[1])
    assert unseen <= 2


@settings(derandomize=True, deadline=None, max_examples=50)
@given(data=st.data())
def test_mutated_bytes_raise_one_exception_type_or_load_the_same(data, raw, place):
    start = data.draw(st.integers(0, len(raw)))
    end = min(len(raw), start + data.draw(st.integers(0, 40)))
    mutated = raw[:start] + data.draw(st.binary(max_size=40)) + raw[end:]
    place.write_bytes(mutated)
    try:
        back = load(place, "cpu")
    except ModelFileError:
        assert mutated != raw
    else:
        assert np.array_equal(back.params.flat, MODEL.params.flat) and back.vocab == VOCAB


@pytest.mark.parametrize("length", [2 ** 64 - 1, 2 ** 63, 10 ** 9, 0, 1])
def test_a_header_length_that_lies(raw, place, length):
    assert refusal(place, struct.pack("<Q", length) + raw[8:])


def test_other_files_in_its_place(raw, place):
    trap = f"cos\nmkdir\n(V{place.parent / 'unpickled'}\ntR.".encode()  # a pickle that makes a folder when it is loaded
    archive = io.BytesIO()
    np.savez(archive, weight=np.zeros(3))
    for data in (b"", b"text\n", trap, archive.getvalue(), raw + b"\0", bytes(5000),
                 to_bytes({"embedding.weight": np.zeros((5, 3), np.float32)}),
                 to_bytes(MODEL.tensors(), {"other": "{}"})):
        refusal(place, data)
    assert not (place.parent / "unpickled").exists()


# Damage to the meaning, under a right sha256

def test_numbers_that_are_not_finite(raw, place):
    for value in (np.nan, np.inf, -np.inf):
        document, tensors = parts(raw, place)
        tensors["head.bias"][2] = value
        assert "head.bias" in refusal(place, sealed(document, tensors))


def test_tensors_that_are_missing_extra_misshapen_or_of_another_type(raw, place):
    document, tensors = parts(raw, place)
    assert "lstm.bias_hh_l1 is missing" in refusal(place, sealed(document, {k: v for k, v in tensors.items()
                                                                            if k != "lstm.bias_hh_l1"}))
    for name in ("extra", "../../escape", "optimizer.m", "lstm.weight_ih_l2"):
        assert f"{name} is not expected" in refusal(place, sealed(document, {**tensors, name: np.zeros(2, np.float32)}))
    for shape in ((4, 3), (3, 5), (15,), (5, 3, 1), (0,)):
        wrong = {**tensors, "embedding.weight": np.zeros(shape, np.float32)}
        assert "embedding.weight has the shape" in refusal(place, sealed(document, wrong))
    for dtype in ("float64", "float16", "int32"):
        assert "dtype" in refusal(place, sealed(document, {**tensors, "head.bias": tensors["head.bias"].astype(dtype)}))
    assert "dtype" in refusal(place, sealed(document, {k: v.astype("int32") for k, v in tensors.items()}))


CONFIG = {"vocab_size": 5, "embed": 3, "hidden": 4, "layers": 2}
WRONG = {
    "config a list": {"config": []}, "config null": {"config": None}, "config text": {"config": "x"},
    "a size too many": {"config": CONFIG | {"foo": 1}},
    "a size too few": {"config": {"embed": 3, "hidden": 4, "layers": 2}},
    **{f"hidden {value!r:.30}": {"config": CONFIG | {"hidden": value}}
       for value in ("16", True, -1, 0, 4.0, None, [4], float("nan"), 5, 10 ** 12, 10 ** 400)},
    **{f"layers {value!r}": {"config": CONFIG | {"layers": value}} for value in (1, 3, True)},
    **{f"vocab_size {value!r}": {"config": CONFIG | {"vocab_size": value}} for value in (4, 6, "5", None, 10 ** 12)},
    **{f"vocab {value!r}": {"vocab": value} for value in (
        [98, 97, 99, 100, 101], [97, 97, 98, 99, 100], [97, 98, 99, 100], [97, 98, 99, 100, 0x110000], [-1, 1, 2, 3, 4],
        [1.0, 2.0, 3.0, 4.0, 5.0], [True, 2, 3, 4, 5], "abcde", None, {"a": 1}, [[1]] * 5, [],
        ["a", "b", "c", "d", "e"])},
    **{f"card {value!r}": {"card": value} for value in ([], None, "x", 1)},
    **{f"schema {value!r}": {"schema": value} for value in (2, 0, -1, "1", None, [1], {}, 1.5, 10 ** 30)},
}


@pytest.mark.parametrize("change", WRONG.values(), ids=WRONG)
def test_a_document_that_means_something_else(raw, place, change):
    document, tensors = parts(raw, place)
    line = refusal(place, sealed({**document, **change}, tensors))
    field = next(iter(change))
    assert field in line or field == "config", line
    if field == "schema":
        assert "install the version" in line


def test_a_million_million_layers_are_not_even_listed(raw, place, monkeypatch):
    document, tensors = parts(raw, place)
    monkeypatch.delattr(checkpoint, "file_shapes")
    for layers, words in ((1_000, "too few"), (1_001, "layers must be"), (10 ** 12, "layers must be")):
        assert words in refusal(place, sealed({**document, "config": CONFIG | {"layers": layers}}, tensors))


@pytest.mark.parametrize("field", ["config", "vocab", "card", "schema", "sha256"])
def test_a_document_that_lacks_a_field(raw, place, field):
    document, tensors = parts(raw, place)
    document["sha256"] = "0" * 64
    del document[field]
    assert refusal(place, sealed(document, tensors, sha=False))


@pytest.mark.parametrize("sha", [None, 5, "", "0" * 64, [], {}])
def test_a_sha256_that_is_none(raw, place, sha):
    document, tensors = parts(raw, place)
    assert "sha256" in refusal(place, sealed({**document, "sha256": sha}, tensors, sha=False))


@pytest.mark.parametrize("text", ["", "[", "{", "1", "null", "[]", '"x"', "{}", "NaN", '{"schema": 1}', "[" * 100_000,
                                  '{"a":' * 100_000, '{"schema": 1, "config": {"vocab_size": ' + "9" * 5000 + "}}"],
                         ids=lambda text: text[:12])
def test_a_document_that_is_no_document(raw, place, text):
    _, tensors = parts(raw, place)
    assert refusal(place, to_bytes(tensors, {KEY: text}))


def test_names_are_never_paths(raw, place):
    """A vocabulary or a card cannot make loading write or read anything else."""
    document, tensors = parts(raw, place)
    before = sorted(place.parent.iterdir())
    place.write_bytes(sealed({**document, "card": {"corpus": {"name": "../../x"}, "file": "/etc/passwd"}}, tensors))
    load(place, "cpu")
    assert sorted(place.parent.iterdir()) == before
