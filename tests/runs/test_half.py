"""Model files in float16: half the size, every number rounded once, and loaded as float32; loading into either dtype."""
import os

import numpy as np
import pytest
from conftest import build
from safetensors import safe_open
from test_checkpoint import parts, refusal, sealed

import rnncore
from rnncore.runs import checkpoint
from rnncore.runs.checkpoint import load, read, save


def halved(model) -> np.ndarray:
    """The parameters as float16 keeps them."""
    return model.params.flat.astype(np.float16)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_half_file_loads_as_float32_rounded_once(tmp_path, dtype):
    model = build(dtype=dtype)
    save(model, tmp_path / "half", {"corpus": "x"}, half=True)
    with safe_open(tmp_path / "half", "numpy") as file:
        assert {file.get_slice(name).get_dtype() for name in file.keys()} == {"F16"}
    back = load(tmp_path / "half", "cpu")
    assert back.dtype == np.float32 and np.array_equal(back.params.flat, halved(model).astype(np.float32))
    assert np.abs(back.params.flat - model.params.flat).max() > 1e-6  # they were rounded
    assert back.vocab == model.vocab and back.config == model.config
    assert read(tmp_path / "half")[0]["card"] == {"corpus": "x"}


def test_a_half_file_is_of_half_the_size(tmp_path):
    model = build(hidden=64, dtype="float32")
    sizes = []
    for half in (False, True):
        save(model, tmp_path / "m", half=half)
        sizes.append((tmp_path / "m").stat().st_size - 2_000)  # about what the names take
    assert 0.45 < sizes[1] / sizes[0] < 0.55


def test_saving_in_half_leaves_the_model_as_it_is_and_a_half_file_saves_again_the_same(tmp_path):
    model = build(dtype="float32")
    before = model.params.flat.copy()
    save(model, tmp_path / "a", half=True)
    assert np.array_equal(model.params.flat, before) and model.dtype == np.float32
    save(load(tmp_path / "a", "cpu"), tmp_path / "b", half=True)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


@pytest.mark.parametrize("stored", ["float16", "float32", "float64"])
@pytest.mark.parametrize("dtype", ["float32", "float64", None])
def test_loading_into_a_dtype(tmp_path, stored, dtype):
    model = build(dtype="float64" if stored == "float64" else "float32")
    save(model, tmp_path / "m", half=stored == "float16")
    back = load(tmp_path / "m", "cpu", dtype)
    assert back.dtype == (dtype or ("float64" if stored == "float64" else "float32"))
    assert np.array_equal(back.params.flat, model.params.flat.astype(stored).astype(back.dtype))
    assert np.array_equal(rnncore.load(tmp_path / "m", "cpu", dtype).params.flat, back.params.flat)


def test_a_model_is_never_float16_itself(tmp_path):
    save(build(dtype="float32"), tmp_path / "m", half=True)
    with pytest.raises(ValueError, match="float64, float32, tf32, bf16, not float16"):
        load(tmp_path / "m", "cpu", "float16")


def test_damage_to_a_half_file_is_refused(tmp_path):
    place = tmp_path / "m"
    save(build(dtype="float32"), place, half=True)
    raw = place.read_bytes()
    document, tensors = parts(raw, place)
    assert "sha256" in refusal(place, raw[:-2] + bytes([raw[-2] ^ 1]) + raw[-1:])
    mixed = tensors | {"head.bias": tensors["head.bias"].astype(np.float32)}
    assert "F16, F32" in refusal(place, sealed(document, mixed))
    tensors["head.bias"][1] = np.inf
    assert "head.bias holds numbers that are not finite" in refusal(place, sealed(document, tensors))


def test_half_is_saved_whole_or_not_at_all(tmp_path, monkeypatch):
    save(build(dtype="float32"), tmp_path / "m", half=True)
    before = (tmp_path / "m").read_bytes()
    monkeypatch.setattr(os, "fsync", lambda *args: (_ for _ in ()).throw(OSError(28, "No space")))
    with pytest.raises(OSError, match="No space"):
        save(build(dtype="float32", seed=2), tmp_path / "m", half=True)
    assert (tmp_path / "m").read_bytes() == before


def test_a_weight_that_float16_cannot_hold_is_refused_and_nothing_is_written(tmp_path):
    model = build()
    model.params["head.bias"][0] = 1e5
    with pytest.raises(checkpoint.ModelFileError, match="too large for float16"):
        checkpoint.save(model, tmp_path / "m.safetensors", half=True)
    assert not list(tmp_path.iterdir())
