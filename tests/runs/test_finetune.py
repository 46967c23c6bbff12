"""`rnncore train --init-from`: what it goes on from, a vocabulary that grows, resuming, and every refusal."""
import os

import numpy as np
import pytest
from cli_helpers import TEXT, corpus, files, read_last, refused, rows, stoppable

import rnncore
from rnncore import ModelConfig, Vocab, plan
from rnncore.data import pretrained
from rnncore.runs import checkpoint, folder as runs
from rnncore.runs.extend import extend

WINDOW = ("--seq", 20, "--batch", 8, "--threads", 1)
STILL = ("--steps", 1, "--lr", 1e-12, "--optimizer", "adam", "--dropout", 0)  # a run that leaves the model as it was


def base(symbols: str = TEXT, dtype="float32", hidden=16, embed=8, layers=1) -> rnncore.CharLM:
    vocab = Vocab.from_text(symbols)
    return rnncore.CharLM(ModelConfig(len(vocab), embed, hidden, layers), vocab, "cpu", dtype, seed=9)


@pytest.fixture
def tune(capsys, monkeypatch, tmp_path):
    """`rnncore train ARGS` in tmp_path, where corpus.txt and the run folder `base` are; `at` stops it at that step."""
    corpus(tmp_path)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "base").mkdir()
    checkpoint.save(base(), tmp_path / "base" / "best.safetensors")
    train = stoppable(capsys, monkeypatch)
    return lambda *args, **stop: train(*args, *(() if "--resume" in args else WINDOW), **stop)


def last(folder) -> tuple[dict, rnncore.CharLM]:
    """(card, model) after the last step."""
    document, tensors = read_last(runs.Path(folder))
    return document["card"], checkpoint.to_model(document, tensors, "cpu")


# What it goes on from

@pytest.mark.parametrize("source", ["base", "base/best.safetensors", "one-file", "by-name"])
def test_it_goes_on_from_a_run_a_file_or_a_pretrained_model(tune, tmp_path, monkeypatch, source):
    checkpoint.save(base(), tmp_path / "one-file")
    (tmp_path / "models").mkdir()
    checkpoint.save(base(), tmp_path / "models" / "by-name.safetensors", half=True)
    monkeypatch.setattr(pretrained, "FOLDER", tmp_path / "models")
    result = tune("corpus.txt", "--init-from", source, *STILL, "-o", "tuned")
    assert result.code == 0 and "model 1 x 16 LSTM, embedding 8" in result.err and "preset" not in result.err
    card, model = last("tuned")
    assert np.abs(model.params.flat - base().params.flat).max() < (1e-3 if source == "by-name" else 1e-6)
    assert card["init_from"] == source and card["preset"] is None and model.dtype == np.float32


def test_a_trained_model_has_a_head_start(tune):
    args = ("--steps", 60, "--dropout", 0, "--hidden", 16, "--layers", 1, "--lr", 0.02)
    assert tune("corpus.txt", *args, "-o", "first").code == 0
    assert tune("corpus.txt", "--init-from", "first", "--steps", 5, "-o", "second").code == 0
    first, second = (rows(runs.Path(folder)) for folder in ("first", "second"))
    assert second[0]["loss"] < 0.8 * first[0]["loss"]


def test_the_usual_rate_is_lower_and_says_why(tune):
    err = tune("corpus.txt", "--init-from", "base", "--steps", 1, "-o", "a").err
    assert f"lr {plan.TUNE * 0.03:.3g}: usual for muon and 1 x 16, lower for a trained model" in err
    assert last("a")[0]["train"]["lr"] == pytest.approx(plan.TUNE * 0.03)
    assert tune("corpus.txt", "--init-from", "base", "--steps", 1, "--lr", 0.5, "-o", "b").code == 0
    assert last("b")[0]["train"]["lr"] == 0.5


def test_the_plan_is_made_for_the_sizes_of_the_model(tune, tmp_path):
    corpus(tmp_path, TEXT + "é")
    args = ("--extend-vocab", "--steps", 1, "--optimizer", "adam", "-o", "a")
    err = tune("corpus.txt", "--init-from", "base", *args).err
    sizes = ModelConfig(len(set(TEXT)) + 1, 8, 16, 1)
    assert last("a")[0]["train"]["lr"] == pytest.approx(plan.TUNE * plan.usual_rate(sizes, "adam", False))
    assert "usual for adam and 1 x 16, lower for a trained model" in err
    assert f"dropout 0, weight-drop 0: for {plan.about(rnncore.params.count(sizes))} parameters" in err


@pytest.mark.parametrize("stored", ["float16", "float32", "float64"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_run_has_its_own_dtype(tune, stored, dtype):
    old = base(dtype="float64" if stored == "float64" else "float32")
    checkpoint.save(old, "old", half=stored == "float16")
    assert tune("corpus.txt", "--init-from", "old", "--dtype", dtype, *STILL, "-o", "a").code == 0
    model = last("a")[1]
    assert str(model.dtype) == dtype
    assert np.abs(model.params.flat - old.params.flat.astype(stored)).max() < 1e-6


def test_without_a_folder_of_its_own_it_takes_the_next_name(tune, tmp_path):
    (tmp_path / "runs").mkdir()
    (tmp_path / "base").rename(tmp_path / "runs" / "corpus")
    before = files(tmp_path / "runs" / "corpus")
    assert tune("corpus.txt", "--init-from", "runs/corpus", *STILL).code == 0
    assert sorted(os.listdir("runs")) == ["corpus", "corpus-2"] and files(tmp_path / "runs" / "corpus") == before


def test_sizes_and_a_preset_may_be_said_where_they_agree(tune):
    sizes = ("--layers", 1, "--hidden", 16, "--embed", 8)
    assert tune("corpus.txt", "--init-from", "base", *sizes, *STILL, "-o", "a").code == 0
    checkpoint.save(base(hidden=64, embed=32), "tiny-model")
    assert tune("corpus.txt", "--init-from", "tiny-model", "--preset", "tiny", *STILL, "-o", "b").code == 0
    assert last("b")[0]["preset"] == "tiny"
    args = ("--preset", "original", "--layers", 1, "--hidden", 16, "--steps", 1)  # the rest of it is not of the sizes
    assert tune("corpus.txt", "--init-from", "base", *args, "-o", "c").code == 0
    assert last("c")[0]["train"]["dropout"] == 0.5 and last("c")[0]["train"]["optimizer"] == "adam"


# The vocabulary

def test_a_text_of_fewer_symbols_keeps_the_models_vocabulary(tune, tmp_path):
    checkpoint.save(base(TEXT + "XYZ"), "wide")
    for more in ((), ("--extend-vocab",)):
        result = tune("corpus.txt", "--init-from", "wide", *more, *STILL, "-o", f"run{len(more)}")
        assert result.code == 0 and "added" not in result.err and f"{len(set(TEXT)) + 3} symbols" in result.err
        assert last(f"run{len(more)}")[1].vocab == Vocab.from_text(TEXT + "XYZ")


@pytest.mark.parametrize("new, words", [("é", "1 symbol of the corpus, as 'é'"),
                                        ("é☃Z", "3 symbols of the corpus, as 'Z'")])
def test_unknown_symbols_are_refused_and_one_is_named(tune, tmp_path, new, words):
    corpus(tmp_path, TEXT + new, "other.txt")
    before = files(tmp_path)
    line = refused(tune("other.txt", "--init-from", "base", *STILL))
    assert f"base does not know {words}" in line and "--extend-vocab" in line and files(tmp_path) == before


def test_extend_vocab_adds_them(tune, tmp_path):
    corpus(tmp_path, "é☃" + TEXT + "Z", "other.txt")  # Z is in the validation part alone
    result = tune("other.txt", "--init-from", "base", "--extend-vocab", *STILL, "-o", "a")
    assert result.code == 0 and "3 symbols added to the vocabulary" in result.err
    card, model = last("a")
    wanted = extend(base(), Vocab.from_text(TEXT + "é☃Z"))
    assert model.vocab == wanted.vocab and np.abs(model.params.flat - wanted.params.flat).max() < 1e-6
    assert f"{rnncore.params.count(wanted.config):,} parameters" in result.err


def test_a_vocabulary_that_outgrows_8_bits(tune, tmp_path):
    old, new = ("".join(map(chr, points)) for points in (range(0x4E00, 0x4E00 + 250), range(0x4F00, 0x4F00 + 30)))
    checkpoint.save(base(old), "old")
    corpus(tmp_path, 8 * (old + new), "other.txt")
    result = tune("other.txt", "--init-from", "old", "--extend-vocab", "--steps", 3, "-o", "a")
    assert result.code == 0 and "30 symbols added" in result.err
    assert last("a")[1].config.vocab_size == 280 and last("a")[0]["val_loss"] is not None


# Going on

def test_a_stop_and_resuming_change_nothing(tune, tmp_path):
    corpus(tmp_path, TEXT + 30 * "é☃")
    args = ("corpus.txt", "--init-from", "base", "--extend-vocab", "--steps", 30, "--dropout", 0.2, "--weight-drop", 0.2)
    assert tune(*args, "-o", "whole").code == 0 and tune(*args, "-o", "parts", at=13).code == 130
    (tmp_path / "base").rename(tmp_path / "gone")  # it is not needed any more
    assert tune(*args, "-o", "parts", "--resume", at=20).code == 130  # all options again
    assert tune("--resume", "-o", "parts").code == 0
    whole, parts = (read_last(tmp_path / folder)[1] for folder in ("whole", "parts"))
    assert whole.keys() == parts.keys() and all(np.array_equal(whole[name], parts[name]) for name in whole)
    assert last("parts")[0]["init_from"] == "base"


@pytest.mark.parametrize("args", [("--init-from", "other"), ("--hidden", 32), ("--preset", "small"),
                                  ("--extend-vocab",)])
def test_what_conflicts_when_resuming(tune, args):
    assert tune("corpus.txt", "--init-from", "base", "--steps", 9, "-o", "a", at=3).code == 130
    line = refused(tune("--resume", "-o", "a", *args), 2)
    assert f"{args[0]} {args[1] if args[1:] else True} conflicts with a, which has" in line


def test_a_new_run_does_not_become_a_tuned_one_by_resuming(tune):
    assert tune("corpus.txt", "--hidden", 8, "--steps", 9, "-o", "a", at=3).code == 130
    assert "--init-from base conflicts with a" in refused(tune("--resume", "-o", "a", "--init-from", "base"), 2)


# Refusals

@pytest.mark.parametrize("args, words", [
    (("--hidden", 32), "--hidden 32 conflicts with --init-from base, which has 16"),
    (("--layers", 2), "--layers 2 conflicts"), (("--embed", 9), "--embed 9 conflicts"),
    (("--preset", "large"), "--preset large (layers 2) conflicts with --init-from base, which has 1"),
    (("--preset", "tiny"), "--preset tiny (hidden 64) conflicts"), (("--hidden", 0), "hidden"), (("--lr", 0), "lr")])
def test_sizes_that_are_not_the_models(tune, tmp_path, args, words):
    before = files(tmp_path)
    assert words in refused(tune("corpus.txt", "--init-from", "base", *args, "--steps", 1), 2)
    assert files(tmp_path) == before


def test_extend_vocab_alone_is_a_usage_error(tune):
    assert "goes with --init-from" in refused(tune("corpus.txt", "--extend-vocab"), 2)


def test_a_model_or_a_corpus_that_is_not_there(tune, tmp_path):
    before = files(tmp_path)
    assert "gone: no such model file" in refused(tune("corpus.txt", "--init-from", "gone"))
    assert "'gone.txt'" in refused(tune("gone.txt", "--init-from", "base"), 2)
    (tmp_path / "empty").mkdir()
    assert "empty holds no model yet" in refused(tune("corpus.txt", "--init-from", "empty"))
    assert "corpus.txt is a text, not a model: a model goes before a text" in refused(tune("corpus.txt", "--init-from", "corpus.txt"))
    assert files(tmp_path) == before


def test_the_folder_that_it_comes_from_is_not_overwritten(tune, tmp_path):
    before = files(tmp_path)
    line = refused(tune("corpus.txt", "--init-from", "base", "-o", "base", *STILL))
    assert "base exists already" in line and files(tmp_path) == before
