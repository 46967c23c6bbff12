"""Pretrained models by name: found, loaded, written with, and never mistaken for what lies at a path of that name."""
import hashlib
import json
import os

import numpy as np
import pytest
from cli_helpers import ROOT, call, corpus, refused
from conftest import build

import rnncore
from rnncore.data import pretrained
from rnncore.runs import checkpoint
from rnncore.runs.names import Ambiguous

# sha256 over the names and float16 tensors of each model: the weights that were trained, whatever its card says
WEIGHTS = {"tinyshakespeare": "0261521db41023c171b265c3c55f69473f1d3e122595308d600dcd861c3217fa",
           "shakespeare-complete": "2b84a4263e243706c4e8cd0f69cef29519fd9529ffeabdd3741719cf54ce9eff",
           "hugo": "664bc5980c7a5d2fa9d632e39ef136543e01ff53c00f13397f67e7c41b407657",
           "numpy": "017e61feffd3bc92480bc97014d87a1d3396cb47187bbfb8742c838e0422caf9"}
ROOM, IN_ALL = 7_000_000, 22_000_000  # bytes: what a model, and all of them, may take in the package


@pytest.fixture
def folder(monkeypatch, tmp_path):
    """The folder of pretrained models, with `one` and `two` in it, and tests in an empty folder of their own."""
    folder, here = tmp_path / "models", tmp_path / "here"
    folder.mkdir()
    here.mkdir()
    for seed, name in enumerate(("two", "one")):
        model = build(len(rnncore.Vocab.from_text("ab cd\n")), hidden=8, dtype="float32", seed=seed)
        model.vocab = rnncore.Vocab.from_text("ab cd\n")
        checkpoint.save(model, folder / f"{name}.safetensors", {"corpus": name}, half=True)
    monkeypatch.setattr(pretrained, "FOLDER", folder)
    monkeypatch.chdir(here)
    return folder


def test_names_are_those_of_the_model_files_alone(folder):
    (folder / "README.md").write_text("no model")
    (folder / ".one.safetensors.7.tmp").write_text("half written")
    assert pretrained.names() == ["one", "two"]
    assert pretrained.find("one") == folder / "one.safetensors" and pretrained.find("three") is None


def test_without_the_folder_there_are_none(monkeypatch, tmp_path):
    monkeypatch.setattr(pretrained, "FOLDER", tmp_path / "gone")
    assert pretrained.names() == [] and pretrained.find("one") is None
    with pytest.raises(FileNotFoundError) as caught:
        rnncore.load("one")
    assert str(caught.value) == "one: no such model file or run folder"


@pytest.mark.parametrize("name", ["../models/one", "/one", "", ".", "one.safetensors", "*", "o*", "ONE", "one/", "a\n"])
def test_a_name_is_not_a_path(folder, name):
    assert pretrained.find(name) is None


def test_load_by_name_is_load_of_the_file(folder):
    for name in ("one", "two"):
        model = rnncore.load(name, "cpu")
        assert model.dtype == np.float32
        assert np.array_equal(model.params.flat, rnncore.load(folder / f"{name}.safetensors", "cpu").params.flat)
    assert not np.array_equal(rnncore.load("one", "cpu").params.flat, rnncore.load("two", "cpu").params.flat)
    assert rnncore.load("one", "cpu", "float64").dtype == np.float64


def test_what_lies_at_the_path_goes_first(folder):
    """Where it holds a model; tests/runs/test_names.py has the whole rule."""
    own = build(dtype="float32")
    checkpoint.save(own, "one")
    with pytest.warns(Ambiguous):
        assert np.array_equal(rnncore.load("one", "cpu").params.flat, own.params.flat)
    os.mkdir("two")
    assert not np.array_equal(rnncore.load("two", "cpu").params.flat, own.params.flat)
    checkpoint.save(own, "two/last.safetensors")
    with pytest.warns(Ambiguous):
        assert np.array_equal(rnncore.load("two", "cpu").params.flat, own.params.flat)


def test_the_command_line_knows_the_names(folder, capsys):
    written = call(capsys, "generate", "one", "-n", 30, "--seed", 4)
    assert written.code == 0 and written.err == "" and set(written.out) <= set("ab cd\n")
    assert written.out == call(capsys, "generate", folder / "one.safetensors", "-n", 30, "--seed", 4).out
    assert written.out != call(capsys, "generate", "two", "-n", 30, "--seed", 4).out
    about = json.loads(call(capsys, "info", "two", "--json").out)
    assert about["card"] == {"corpus": "two"} and about["dtype"] == "float16" and about["file"].endswith("two.safetensors")
    assert "float16" in call(capsys, "info", "two").out
    text = corpus(folder.parent / "here", "abba cd\n" * 9)
    assert call(capsys, "score", "one", text).code == 0


def test_an_unknown_name_lists_those_that_are_there(folder, capsys):
    line = refused(call(capsys, "generate", "shakspeare"))
    assert line == "rnncore: shakspeare: no such model file or run folder, nor one of the pretrained models (one, two)"


# Those that come with the package

def test_the_package_takes_them_along():
    """A wheel holds what setup.cfg names."""
    data = (ROOT / "setup.cfg").read_text() if (ROOT / "setup.cfg").is_file() else pytest.skip("no checkout")
    assert "rnncore.data.pretrained = models/*.safetensors" in data


@pytest.mark.parametrize("name", pretrained.names())
def test_a_model_of_the_package_is_whole_small_and_writes(name):
    path = pretrained.find(name)
    document, tensors = checkpoint.read(path)
    assert tensors["head.bias"].dtype == np.float16 and path.stat().st_size < ROOM
    card = document["card"]
    assert card["corpus"]["sha256"] and card["val_loss"] > 0 and "training" not in document
    model = rnncore.load(name, "cpu")
    text = "".join(rnncore.generate(model, length=50, seed=1))
    assert len(text) == 50 and set(text) <= set(model.vocab.symbols)


def test_all_models_are_small_together():
    assert sum(pretrained.find(name).stat().st_size for name in pretrained.names()) < IN_ALL


def test_the_weights_of_the_pretrained_models_are_those_that_were_trained():
    assert pretrained.names() == sorted(WEIGHTS)
    for name, wanted in WEIGHTS.items():
        digest, (_, tensors) = hashlib.sha256(), checkpoint.read(pretrained.find(name))
        for tensor in sorted(tensors):
            digest.update(tensor.encode() + tensors[tensor].tobytes())
        assert digest.hexdigest() == wanted, name


def test_the_cards_say_what_they_learned(capsys):
    """The corpus hugo has five tomes, and the corpus shakespeare is another text than that of the model so called."""
    for name, words in (("hugo", "tomes 1 to 4, in French; the corpus hugo is all five"), ("numpy", "NumPy 2.4.6"),
                        ("tinyshakespeare", "the corpus shakespeare is another text"),
                        ("shakespeare-complete", "42 files in modern spelling")):
        (line,) = (line for line in call(capsys, "info", f"pretrained/{name}").out.splitlines() if line.startswith("about"))
        assert words in line and words in json.loads(call(capsys, "info", f"pretrained/{name}", "--json").out)["card"]["about"]


def test_the_samples_are_those_of_the_models():
    assert {path.stem for path in (pretrained.FOLDER.parent / "samples").glob("*.txt")} == set(WEIGHTS)
