"""Documents are learnt on top of a plain model: END alone is added; a model of documents learns no continuous text."""
import json

import numpy as np
import pytest
from cli_helpers import SMALL, TEXT, call, corpus, files, read_last, refused, stoppable
from test_extend import ABC, logits_of, model_over

import rnncore
from rnncore import ModelConfig, Vocab
from rnncore.data.endings import END
from rnncore.runs import checkpoint
from rnncore.runs.extend import extend
from rnncore.runs.folder import Path

LINES = TEXT.splitlines()
KINDS = {"lines": TEXT, "blank": "\n\n".join(LINES) + "\n",
         "jsonl": "".join(json.dumps({"text": line}) + "\n" for line in LINES)}
STILL = ("--steps", 1, "--lr", 1e-12, "--optimizer", "adam", "--dropout", 0, "--seq", 20, "--batch", 8, "--threads", 1)
SAID = "U+0003, which ends a document, added to the vocabulary"


def base(symbols: str = TEXT, **settings) -> rnncore.CharLM:
    vocab = Vocab("".join(sorted(set(symbols))), **settings)
    return rnncore.CharLM(ModelConfig(len(vocab), 8, 16, 1), vocab, "cpu", seed=9)


@pytest.fixture
def tune(capsys, monkeypatch, tmp_path):
    """`rnncore train ARGS` in tmp_path, where the texts and the model `base` are; `at` stops it at that step."""
    monkeypatch.chdir(tmp_path)
    for kind, text in KINDS.items():
        corpus(tmp_path, text, kind)
    checkpoint.save(base(), "base")
    return stoppable(capsys, monkeypatch)


def last(folder) -> rnncore.CharLM:
    return checkpoint.to_model(*read_last(Path(folder)), "cpu")


@pytest.mark.parametrize("kind", KINDS)
def test_end_alone_is_added_and_said(tune, capsys, kind):
    found = tune(kind, "--init-from", "base", "--documents", kind, *STILL, "-o", "a")
    assert found.code == 0 and found.err.splitlines().count(SAID) == 1 and "symbols added" not in found.err
    model, wanted = last("a"), extend(base(), base().vocab.parted(kind, "text"))
    assert model.vocab == wanted.vocab and model.vocab.documents == kind
    assert set(model.vocab.symbols) - set(TEXT) == {END}
    assert np.abs(model.params.flat - wanted.params.flat).max() < 1e-6
    assert call(capsys, "generate", "a", "-n", 20, "--seed", 1).code == 0
    assert "documents were trained on" in call(capsys, "score", "a", kind).out


def test_the_logits_of_known_symbols_stay(tune):
    model = model_over(ABC)
    larger = extend(model, ABC.parted("lines", "text"))
    known = larger.vocab.encode("bdfhj")
    assert np.abs(logits_of(larger, "bdfhj")[:, known] - logits_of(model, "bdfhj")).max() < 1e-12
    assert ABC.parted("none", "text") == ABC and larger.vocab.parted("jsonl", "x").symbols == larger.vocab.symbols


def test_other_unknown_symbols_are_refused_as_ever(tune, tmp_path):
    corpus(tmp_path, TEXT + "é\n☃\n", "odd")
    before = files(tmp_path)
    line = refused(tune("odd", "--init-from", "base", "--documents", "lines", *STILL))
    assert "base does not know 2 symbols of the corpus, as 'é': --extend-vocab" in line and files(tmp_path) == before
    found = tune("odd", "--init-from", "base", "--documents", "lines", "--extend-vocab", *STILL, "-o", "a")
    assert found.code == 0 and SAID in found.err and "\n2 symbols added to the vocabulary\n" in found.err
    assert set(last("a").vocab.symbols) - set(TEXT) == {END, "é", "☃"}


def test_a_model_that_knows_the_character_already_gets_no_other(tune):
    checkpoint.save(base(TEXT + END), "knows")
    found = tune("lines", "--init-from", "knows", "--documents", "lines", *STILL, "-o", "a")
    assert found.code == 0 and "added" not in found.err and last("a").vocab.end == 0


@pytest.mark.parametrize("settings", [{"lower": True}, {"min_count": 3}])
def test_what_the_model_has_else_is_kept(tune, settings):
    checkpoint.save(base(TEXT.lower() + "\ufffd", **settings), "other")
    assert tune("jsonl", "--init-from", "other", "--documents", "jsonl", *STILL, "-o", "a").code == 0
    vocab = last("a").vocab
    assert vocab.settings == settings | {"documents": "jsonl"}


def test_a_field_of_its_own_and_a_resume_to_the_bit(tune, tmp_path):
    corpus(tmp_path, "".join(json.dumps({"id": 3, "body": s}) + "\n" for s in LINES), "tweets")
    args = ("tweets", "--init-from", "base", "--documents", "jsonl", "--field", "body", "--steps", 20, *SMALL[4:])
    assert tune(*args, "-o", "whole").code == 0 and tune(*args, "-o", "parts", at=7).code == 130
    (tmp_path / "base").unlink()
    assert tune(*args, "-o", "parts", "--resume", at=12).code == 130 and tune("--resume", "-o", "parts").code == 0
    whole, parts = (read_last(Path(folder))[1] for folder in ("whole", "parts"))
    assert all(np.array_equal(whole[name], parts[name]) for name in whole) and last("whole").vocab.field == "body"
    assert "conflicts with parts" in refused(tune("--resume", "-o", "parts", "--documents", "none"), 2)


def test_a_model_of_documents_takes_other_documents_and_no_continuous_text(tune, tmp_path):
    assert tune("lines", "--init-from", "base", "--documents", "lines", *STILL, "-o", "a").code == 0
    found = tune("jsonl", "--init-from", "a", "--documents", "jsonl", *STILL, "-o", "b")
    assert found.code == 0 and SAID not in found.err and last("b").vocab.documents == "jsonl"
    assert last("b").vocab.symbols == last("a").vocab.symbols
    before = files(tmp_path)
    line = refused(tune("lines", "--init-from", "a", "--documents", "none", *STILL), 2)
    assert "a is a model of documents (lines)" in line and "not learnt to go on in a continuous text" in line
    assert files(tmp_path) == before


@pytest.mark.parametrize("args, words", [
    (("--field", "body"), "give that too"), (("--field", "body", "--documents", "lines"), "give that too"),
    (("--documents", "lines", "--newline", "keep"), "leave --newline keep out")])
def test_options_that_have_no_place(tune, tmp_path, args, words):
    before = files(tmp_path)
    assert words in refused(tune("lines", "--init-from", "base", *args, *STILL), 2) and files(tmp_path) == before


def test_bytes_have_no_documents(tune):
    checkpoint.save(base(TEXT, level="byte"), "bytes")
    assert "--documents says how characters are read" in refused(
        tune("lines", "--init-from", "bytes", "--documents", "lines", *STILL), 2)


def test_continuous_texts_are_tuned_as_ever(tune):
    found = tune("lines", "--init-from", "base", "--documents", "none", *STILL, "-o", "a")
    assert found.code == 0 and last("a").vocab == base().vocab and SAID not in found.err
