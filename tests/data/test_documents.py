"""Many short documents: how a corpus is cut into them, that nothing goes from one to the next, and where a text ends."""
import json
import time
from pathlib import Path

import numpy as np
import pytest
from cli_helpers import SMALL, call, refused
from damage import changed, sealed

import rnncore
from rnncore.config import SampleConfig
from rnncore.data.endings import END, documents
from rnncore.data.text import CorpusError, read
from rnncore.data.vocab import Vocab
from rnncore.runs import checkpoint
from rnncore.sample import samples

ROWS = "".join(json.dumps({"id": k, "body": body}) + "\n" for k, body in enumerate(["Ab\ncd", "", "é\u2028!", "x" * 70_000, "z"]))
CASES = [
    ("lines", "one\ntwo\n\n\n three \nfour", ["one", "two", " three ", "four"]),
    ("lines", "\n\none\n\n", ["one"]),
    ("lines", "", []),
    ("blank", "a\nb\n\nc\n \t\n\n\nd\n  e\n", ["a\nb", "c", "d\n  e"]),
    ("blank", "\n\n\na\n\n", ["a"]),
    ("blank", "a", ["a"]),
    ("jsonl", ROWS, ["Ab\ncd", "é\u2028!", "x" * 70_000, "z"]),
    ("jsonl", "\n \n" + ROWS.rstrip("\n"), ["Ab\ncd", "é\u2028!", "x" * 70_000, "z"]),
]


@pytest.mark.parametrize("kind, text, wanted", CASES)
@pytest.mark.parametrize("size", [1, 2, 3, 7, 1 << 20])
def test_documents_are_those_of_the_whole_wherever_the_pieces_are_cut(kind, text, wanted, size):
    pieces = [text[k:k + size] for k in range(0, len(text), size)]
    assert "".join(documents(pieces, kind, "body", "it")) == "".join(one + END for one in wanted)


def test_each_file_ends_a_document_and_lower_case_is_that_of_the_whole(tmp_path):
    for name, text in (("a", "ΟΔΟΣ\nOne"), ("b", "Two\r\nThree\n"), ("c", "")):
        (tmp_path / name).write_bytes(text.encode())
    corpus = read([str(tmp_path / name) for name in "abc"], documents="lines", lower=True)
    assert corpus.text == END.join(["οδος", "one", "two", "three", ""])
    assert corpus.vocab.end == 0 and corpus.vocab.documents == "lines"


def test_line_ends_inside_json_become_lf_too(tmp_path):
    (tmp_path / "it").write_bytes(b'{"text": "a\\r\\nb\\r"}\r\n{"text": "c"}\r\n')
    corpus = read([str(tmp_path / "it")], documents="jsonl")
    assert corpus.text == f"a\nb\n{END}c{END}" and "3 CRLF and 1 lone CR" in corpus.notes[0]


@pytest.mark.parametrize("kind, text, words", [
    ("lines", "a\x03b", "U\\+0003"), ("jsonl", '{"text": "a\\u0003"}', "line 1.*U\\+0003"),
    ("jsonl", '{"text": "a"}\nb', "line 2 is no JSON"), ("jsonl", '["text"]', "line 1 is a list, not an object"),
    ("jsonl", "null", "line 1 is null, not an object"), ("jsonl", '{"text": null}', "line 1: the field 'text' is null, not a text"),
    ("jsonl", '{"text": "a"}\n{"text": true}', "line 2: the field 'text' is true or false"), ("jsonl", '{"text": {}}', "is an object"),
    ("jsonl", '{"text": 3, "x": ""}', "the field 'text' is a number"), ("jsonl", '{"a": 3, "x": ""}', "its fields: 'a', 'x'"),
    ("jsonl", "{}", "its fields: none"), ("lines", "\n\n", "is empty"), ("lines", "a\na", "one distinct")])
def test_what_cannot_be_parted_is_refused(tmp_path, kind, text, words):
    (tmp_path / "it").write_text(text)
    with pytest.raises(CorpusError, match=words) as error:
        read([str(tmp_path / "it")], documents=kind)
    assert "\n" not in str(error.value)


def stream(model, texts):
    """(T, 1) ids of END and the texts with END after each."""
    return model.vocab.encode(END + "".join(text + END for text in texts)).astype(np.intp)[:, None]


@pytest.fixture
def model():
    vocab = Vocab.from_code_points(map(ord, END + "abc"), documents="lines")
    made = rnncore.CharLM(rnncore.ModelConfig(4, 3, 6, 2), vocab, "cpu", "float64", seed=1)
    made.params.flat[...] *= 3
    return made


def test_nothing_goes_from_one_document_to_the_next(model):
    """Losses and gradients over a stream are those of each document alone, from no state."""
    texts = ["abca", "c", "bbacb", "aa"]
    whole, grads = stream(model, texts), np.zeros_like(model.params.flat)
    loss, found, _ = model.loss_and_grads(whole[:-1], whole[1:])
    found, total = found.flat * (len(whole) - 1), 0.0
    for text in texts:
        ids = stream(model, [text])
        alone, gradient, _ = model.loss_and_grads(ids[:-1], ids[1:])
        total, grads = total + alone * (len(ids) - 1), grads + gradient.flat * (len(ids) - 1)
    assert abs(total - loss * (len(whole) - 1)) < 1e-12
    np.testing.assert_allclose(found, grads, rtol=0, atol=1e-12)
    work = model.workspace(len(whole), 1)
    assert abs(model.losses(whole[:-1], whole[1:], None, work)[0].sum() - total) < 1e-12


def test_a_step_at_the_end_of_a_document_forgets(model):
    _, state = model.step([1], None)
    after, _ = model.step([model.vocab.end], state)
    afresh, _ = model.step([model.vocab.end], None)
    other, _ = model.step([2], state)
    assert (after == afresh).all() and (other != model.step([2], None)[0]).any()


def test_a_text_begins_and_ends_where_a_document_does(model):
    texts = samples(model, 40, "", 60, SampleConfig(seed=3))
    assert len({len(text) for text in texts}) > 3 and not any(END in text for text in texts)
    assert texts[0] == "".join(rnncore.generate(model, length=60, seed=3)) == "".join(rnncore.generate(model, seed=3))
    primed = samples(model, 40, "ab", 60, SampleConfig(seed=3))
    assert primed[0] == "".join(rnncore.generate(model, "ab", 60, seed=3)) and primed != texts


def test_it_is_kept_in_the_model_and_in_the_run(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "names.txt").write_text("".join(f"{a}{b}\n" for a in "abcdefgh" for b in ("an", "en", "in", "on")))
    small = ["--layers", "1", "--hidden", "8", "--embed", "4", "--batch", "2", "--seq", "8", "--steps", "6"]
    assert call(capsys, "train", "names.txt", "--documents", "lines", *small).code == 0
    kept = rnncore.load("runs/names").vocab
    assert kept.documents == "lines" and kept.symbols[kept.end] == END
    assert call(capsys, "train", "--resume", "-o", "runs/names", "--steps", "8").code == 0
    assert json.loads(call(capsys, "score", "runs/names", "names.txt", "--json").out)["predictions"] == 32 * 4 - 1
    assert "documents   lines\n" in call(capsys, "info", "runs/names").out
    found = call(capsys, "train", "--resume", "-o", "runs/names", "--documents", "blank")
    assert found.code == 2 and "conflicts with" in found.err
    assert call(capsys, "train", "names.txt", "--init-from", "runs/names", "-o", "more", *small[-2:]).code == 0
    assert rnncore.load("more").vocab == kept


@pytest.mark.parametrize("options, words", [
    (["--documents", "lines", "--newline", "keep"], "leave --newline keep out"), (["--field", "x"], "--documents jsonl"),
    (["--documents", "lines", "--level", "byte"], "leave one of them out")])
def test_options_that_do_not_go_together(options, words, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "t").write_text("ab\n")
    found = call(capsys, "train", "t", *options)
    assert found.code == 2 and words in found.err and not (tmp_path / "runs").exists()


def test_a_bad_row_is_one_line(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "t.jsonl").write_text('{"body": "x"}\n{"text": 3}\n')
    found = call(capsys, "train", "t.jsonl", "--documents", "jsonl", "--field", "body")
    assert found.code == 1 and found.err.splitlines() == [
        "rnncore: t.jsonl, line 2 has no field 'body' (its fields: 'text'): name another with --field"]


@pytest.mark.parametrize("kind", ["lines", "blank"])
def test_blank_lines_without_end_take_no_time(kind):
    begun = time.perf_counter()
    assert "".join(documents(["\n" * 300_000 + "a", "\n" * 300_000 + "b"], kind, "", "it")) == f"a{END}b{END}"
    assert time.perf_counter() - begun < 10  # a search from each of them would take minutes


def test_a_stand_in_ends_no_document_and_of_a_prime_the_last_one_counts(model):
    assert model.vocab.encode("xa", "replace").tolist() == [1, 1]
    assert list(rnncore.generate(model, f"abc{END}b", 40, seed=2)) == list(rnncore.generate(model, "b", 40, seed=2))
    assert samples(model, 2, f"ab{END}", 9, SampleConfig(seed=2)) == samples(model, 2, "", 9, SampleConfig(seed=2))


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    """`rnncore ARGS` by `call`, beside the run `it` on the documents in names.txt."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "names.txt").write_text("".join(f"{a}{b}\n" for a in "abcdefgh" for b in 20 * ("an", "en", "in", "on")))
    assert call(capsys, "train", "names.txt", "--documents", "lines", *SMALL, "--steps", "6", "-o", "it").code == 0
    return lambda *args: call(capsys, *args)


def test_line_ends_of_a_model_of_documents_are_not_kept(run):
    for args in (["score", "it", "names.txt"], ["train", "names.txt", "--init-from", "it"]):
        assert "leave it out" in refused(run(*args, "--newline", "keep"), 2)


def test_options_that_leave_nothing(run):
    assert "leaves no symbol" in refused(run("train", "names.txt", "--documents", "lines", "--min-count", "9999"))
    assert "line 1 is no JSON" in refused(run("train", "names.txt", "--documents", "jsonl"))
    Path("it.jsonl").write_text('{"text": "ab"}\n')
    assert "no field ''" in refused(run("train", "it.jsonl", "--documents", "jsonl", "--field", ""))


def test_another_corpus_with_unknown_symbols_or_too_short_to_validate_on(run):
    Path("other.txt").write_text("xyz\n" * 90)
    again = "train", "--resume", "-o", "it", "--allow-new-corpus", "--steps", "9"
    assert refused(run(*again, "other.txt")) == (
        "rnncore: it does not know 3 symbols of the corpus, as 'x': begin a new run with --init-from it --extend-vocab")
    Path("other.txt").write_text("ban\r\nfin\n" * 12)
    found = run(*again, "other.txt")
    assert found.code == 0 and "too few to validate on" in found.err and "normalised 12 CRLF line ends to LF\n" in found.err
    assert not Path("it/best.safetensors").exists()  # of the other corpus: what was trained since would not be used
    assert Path("it/best-before.safetensors").exists()


@pytest.mark.parametrize("field, value", [
    ("newline", "keep"), ("level", "byte"), ("documents", "none"), ("documents", "blank"), ("lower", True),
    ("field", "x")])
def test_a_reading_that_contradicts_itself_or_the_model_is_refused(field, value, run):
    last = Path("it/last.safetensors")
    document, tensors = checkpoint.read(last)
    last.write_bytes(sealed(changed(document, ("training", "settings", "corpus", field), value), tensors))
    assert "training.settings.corpus" in refused(run("train", "--resume", "-o", "it", "--steps", "9"))
    assert "training.settings.corpus" in run("info", "it", "--verify").err
