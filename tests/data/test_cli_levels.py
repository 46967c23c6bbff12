"""What a symbol is, at the command line: bytes, lower case, rare symbols; what a model keeps of it, and who honours it."""
import json
import subprocess

import numpy as np
import pytest
from cli_helpers import COMMAND, ENVIRONMENT, SMALL, TEXT, call, corpus, files, refused, rows, run, stoppable

import rnncore
from rnncore import Vocab
from rnncore.runs import checkpoint, names
from rnncore.runs.checkpoint import ModelFileError

STEPS = ("--steps", 4, *SMALL)
BINARY = bytes(range(256)) * 8 + TEXT.encode() + b"\xff\xfe\r\n\0\xef\xbb\xbf" * 20


@pytest.fixture
def train(capsys, monkeypatch, tmp_path):
    """`rnncore train ARGS` in tmp_path, with small settings; corpus.txt and data.bin are there."""
    corpus(tmp_path)
    (tmp_path / "data.bin").write_bytes(BINARY)
    monkeypatch.chdir(tmp_path)
    return lambda *args: call(capsys, "train", *STEPS, *args)


def model(folder):
    return rnncore.load(folder, device="cpu")


def card(folder) -> dict:
    return checkpoint.read(names.find(folder).file)[0]["card"]


def good(result):
    """A result without an error."""
    assert result.code == 0, result
    return result


# Bytes

def test_any_file_is_a_corpus_of_bytes(train, tmp_path):
    result = good(train("data.bin", "--level", "byte", "-o", "run"))
    assert f"{len(BINARY):,} bytes, 256 symbols" in result.err and "dropped" not in result.err
    vocab = model("run").vocab
    assert vocab.level == "byte" and vocab.symbols == "".join(map(chr, range(256)))
    assert np.array_equal(vocab.encode(BINARY), np.frombuffer(BINARY, np.uint8))
    assert card("run")["corpus"]["level"] == "byte" and card("run")["corpus"]["characters"] == len(BINARY)
    good(train("corpus.txt", "--level", "byte", "-o", "ascii"))
    assert model("ascii").vocab.symbols == "".join(sorted(set(TEXT)))  # the bytes that there are, and no others


def test_a_model_of_bytes_writes_bytes(train, tmp_path):
    good(train("data.bin", "--level", "byte", "-o", "run"))
    (tmp_path / "prime.bin").write_bytes(b"\r\n\xff\0" + "é".encode())
    outs = []
    for prime, begins in (("--prime-file", "prime.bin"), b"\r\n\xff\0" + "é".encode()), ((), b""):
        args = ("generate", "run", "-n", "300", "--temperature", "2", *prime)
        out = subprocess.run([*COMMAND, *args], cwd=tmp_path, env=ENVIRONMENT, capture_output=True, check=True).stdout
        assert len(out) == len(begins) + 300 and out.startswith(begins)
        good(run(*args, "--out", "out.bin", cwd=tmp_path))
        assert (tmp_path / "out.bin").read_bytes() == out
        (tmp_path / "out.bin").unlink()
        outs.append(out)
    assert any(byte > 127 for byte in outs[1])
    written = "".join(rnncore.generate(model("run"), "", 300, temperature=2))
    assert written == outs[1].decode("utf-8", "replace")


def test_several_texts_and_a_stop_of_bytes(train, tmp_path, capsys):
    corpus(tmp_path, "é" * 2000, "é.txt")
    good(train("é.txt", "--level", "byte", "-o", "run"))
    good(call(capsys, "generate", "run", "-n", 20, "--count", 3, "--out", "three", "--prime", "é", "--temperature", 2))
    assert (tmp_path / "three").read_bytes().count(b"\n") == 3
    assert (tmp_path / "three").read_bytes().startswith("é".encode())
    for count in 1, 2:
        ending = ("-n", 50, "--count", count, "--temperature", 2)
        good(call(capsys, "generate", "run", *ending, "--out", f"all{count}"))
        good(call(capsys, "generate", "run", *ending, "--out", f"cut{count}", "--stop", "é"))
        whole, cut = ((tmp_path / f"{name}{count}").read_bytes() for name in ("all", "cut"))
        assert cut.startswith(whole[:whole.index("é".encode())]) and "é".encode() not in cut


def test_the_score_of_a_file_is_of_its_bytes(train, tmp_path, capsys):
    good(train("data.bin", "--level", "byte", "-o", "run"))
    text = "Où ça\r\n, 日本?\n"
    (tmp_path / "text").write_bytes(text.encode())
    found = json.loads(good(call(capsys, "score", "run", "text", "--json", "--per-char", "out.jsonl")).out)
    assert found["characters"] == len(text.encode()) == found["predictions"] + 1
    assert found["nats_per_char"] == pytest.approx(rnncore.score(model("run"), text))
    lines = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert "".join(line["char"] for line in lines).encode("latin-1") == text.encode()[1:]
    for option in ("--encoding", "latin-1"), ("--newline", "keep"):
        assert "this is a model of bytes" in refused(call(capsys, "score", "run", "text", *option), 2)


def test_a_byte_that_the_model_does_not_know(train, tmp_path, capsys):
    good(train("corpus.txt", "--level", "byte", "-o", "run"))
    (tmp_path / "odd").write_bytes(b"the cat\xe9\0")
    assert "2 symbols are not in the model's vocabulary: byte 0x00, byte 0xe9; " in refused(call(capsys, "score", "run", "odd"))
    assert "byte 0xc3" in refused(call(capsys, "generate", "run", "--prime", "é"))
    assert json.loads(good(call(capsys, "score", "run", "odd", "--on-unknown", "skip", "--json")).out)["unknown"] == 2


def test_a_folder_of_bytes_is_all_its_files(train, tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "a").write_bytes(b"\0\1")
    (tmp_path / "folder" / "b").write_bytes(b"\r\n" * 100)
    result = good(train("folder", "--level", "byte"))
    assert "202 bytes, 4 symbols" in result.err and "skipped" not in result.err


@pytest.mark.parametrize("args", [("--encoding", "latin-1"), ("--newline", "keep"), ("--lower",), ("--min-count", 2)])
def test_bytes_have_no_characters(train, tmp_path, args):
    before = files(tmp_path)
    assert f"{args[0]} says how characters are read" in refused(train("data.bin", "--level", "byte", *args), 2)
    assert files(tmp_path) == before


# Lower case

def test_lower_case_is_learnt_and_primes_and_scored_texts_are_made_so(train, tmp_path, capsys):
    corpus(tmp_path, TEXT.upper() + "ΟΔΟΣ İ\n", "upper.txt")
    good(train("upper.txt", "--lower", "-o", "run"))
    text = (TEXT.upper() + "ΟΔΟΣ İ\n").lower()
    assert model("run").vocab == Vocab("".join(sorted(set(text))), lower=True)
    assert card("run")["corpus"]["lower"] is True and card("run")["corpus"]["characters"] == len(text)
    out = good(call(capsys, "generate", "run", "-n", 30, "--prime", "THE Cat")).out
    assert out == call(capsys, "generate", "run", "-n", 30, "--prime", "the cat").out and out.startswith("the cat")
    scores = [json.loads(good(call(capsys, "score", "run", name, "--json")).out) for name in ("upper.txt", "corpus.txt")]
    assert scores[0]["unknown"] == scores[1]["unknown"] == 0
    assert rnncore.score(model("run"), "THE CAT") == rnncore.score(model("run"), "the cat")
    whole, cut = (call(capsys, "generate", "run", "-n", 300, *stop).out for stop in ((), ("--stop", "E")))
    assert "e" in whole and cut == whole[:whole.index("e")] + "\n"


# Rare symbols

@pytest.fixture
def rare(train, tmp_path):
    """A run that made three symbols, four characters in all, one."""
    corpus(tmp_path, TEXT + "☃Ω\nÄÄ\n" + TEXT, "rare.txt")
    return good(train("rare.txt", "--min-count", 3, "-o", "run"))


def test_rare_symbols_become_one_and_are_said_once(rare, capsys):
    assert rare.err.count("--min-count 3: 3 symbols, 4 characters in all, made U+FFFD") == 1
    vocab = model("run").vocab
    assert vocab == Vocab("".join(sorted({*TEXT, "\ufffd"})), min_count=3)
    assert "☃" in refused(call(capsys, "generate", "run", "-n", 3, "--prime", "a☃"))
    assert vocab.decode(vocab.encode("a☃", "replace")) == "a\ufffd"
    good(call(capsys, "generate", "run", "-n", 3, "--prime", "a☃", "--on-unknown", "replace"))
    found = json.loads(good(call(capsys, "score", "run", "rare.txt", "--on-unknown", "replace", "--json")).out)
    assert found["unknown"] == 4 and found["predictions"] == 2 * len(TEXT) + 5


def test_a_model_that_met_no_rare_symbol_gets_one_for_them(train, tmp_path):
    good(train("corpus.txt", "--min-count", 2, "-o", "run"))
    corpus(tmp_path, TEXT + "☃", "new.txt")
    assert "--extend-vocab adds what it lacks" in refused(train("new.txt", "--init-from", "run", "-o", "more"))
    result = good(train("new.txt", "--init-from", "run", "--extend-vocab", "-o", "more"))
    assert "1 symbol added" in result.err and "1 symbol, 1 character in all, made U+FFFD" in result.err
    assert model("more").vocab == Vocab("".join(sorted({*TEXT, "\ufffd"})), min_count=2)


def test_no_symbol_is_rare_or_all_are(train, tmp_path):
    result = good(train("corpus.txt", "--min-count", 2, "-o", "run"))
    assert "--min-count 2: all symbols occur as often or more" in result.err and "\ufffd" not in model("run").vocab
    assert "--min-count 9999 leaves no symbol" in refused(train("corpus.txt", "--min-count", 9999, "-o", "none"))
    plain = good(train("corpus.txt", "--min-count", 1, "-o", "plain"))
    assert "--min-count" not in plain.err and model("plain").vocab == Vocab.from_text(TEXT)


# What resuming, going on from and showing a model make of it

OPTIONS = {"byte": ("--level", "byte"), "lower": ("--lower",), "rare": ("--min-count", 4)}


@pytest.mark.parametrize("how", OPTIONS.values(), ids=OPTIONS.keys())
def test_a_resumed_run_keeps_them_and_refuses_others(train, tmp_path, how, capsys, monkeypatch):
    corpus(tmp_path, TEXT + "Ää" + TEXT, "odd.txt")
    good(train("odd.txt", *how, "--steps", 9, "-o", "whole"))
    stop = stoppable(capsys, monkeypatch)
    assert stop("odd.txt", *SMALL, *how, "--steps", 9, "-o", "run", at=4).code == 130
    good(stop("--resume", "-o", "run", *how))
    assert np.array_equal(model("run").params.flat, model("whole").params.flat) and rows(tmp_path / "run")[-1]["step"] == 9
    others = [("--level", "char" if how == OPTIONS["byte"] else "byte"), ("--min-count", 7), ("--newline", "keep")]
    for other in others + [("--lower",)] * (how != OPTIONS["lower"]):
        line = refused(call(capsys, "train", "--resume", "-o", "run", *other), 2)
        assert line.startswith(f"Error: {other[0]} ") and "conflicts with run, which has" in line


@pytest.mark.parametrize("how", OPTIONS.values(), ids=OPTIONS.keys())
def test_going_on_from_a_model_keeps_them_and_refuses_others(train, tmp_path, how, capsys):
    corpus(tmp_path, TEXT + "Ää" + TEXT, "odd.txt")
    corpus(tmp_path, TEXT.replace("the", "THE") + "Ω" * 5, "new.txt")
    good(train("odd.txt", *how, "-o", "run"))
    vocab, going_on = model("run").vocab, ("--init-from", "run", "--steps", 2, "--val", 0)
    result = call(capsys, "train", "new.txt", *going_on, "-o", "more")
    if how == OPTIONS["rare"]:
        assert "made U+FFFD" in good(result).err and model("more").vocab == vocab
    else:
        assert "--extend-vocab adds what it lacks" in refused(result)
    good(call(capsys, "train", "new.txt", *going_on, "--extend-vocab", "-o", "larger"))
    symbols = vocab.spelled(TEXT.replace("the", "THE") + "Ω" * 5)
    expected = set(symbols) if how != OPTIONS["rare"] else {s for s in symbols if symbols.count(s) >= 4}
    larger = model("larger").vocab
    assert larger.settings == vocab.settings and set(larger.symbols) == set(vocab.symbols) | expected
    good(train("corpus.txt", "-o", "plain"))
    if how == OPTIONS["byte"]:
        assert "says how characters are read, and run is for bytes" in refused(
            call(capsys, "train", "new.txt", *going_on, "--newline", "keep"), 2)
    line = refused(call(capsys, "train", "new.txt", "--init-from", "plain", "--steps", 2, *how), 2)
    assert f"{how[0]} conflicts with --init-from plain" in line


def test_a_model_file_holds_them_and_a_plain_one_is_as_before(train, tmp_path, capsys):
    good(train("corpus.txt", "-o", "plain"))
    document = checkpoint.read(tmp_path / "plain/last.safetensors")[0]
    assert "text" not in document and document["schema"] == 1
    assert "level       characters\n" in call(capsys, "info", "plain").out
    for name, how, words, text in (
            ("byte", OPTIONS["byte"], "bytes", {"level": "byte"}), ("lower", OPTIONS["lower"], "characters, in lower case", {"lower": True}),
            ("rare", OPTIONS["rare"], "characters, those that occur less than 4 times as U+FFFD", {"min_count": 4})):
        good(train("corpus.txt", *how, "-o", name))
        assert checkpoint.read(tmp_path / name / "last.safetensors")[0]["text"] == text
        assert f"level       {words}\n" in call(capsys, "info", name).out
        shown = json.loads(call(capsys, "info", name, "--json").out)["text"]
        plain = {"level": "char", "lower": False, "min_count": 1, "documents": "none", "field": "text"}
        assert shown == plain | text
        rnncore.save(model(name), "copy.safetensors")
        assert model("copy.safetensors").vocab == model(name).vocab


@pytest.mark.parametrize("text", [{"level": "word"}, {"level": "byte", "lower": True}, {"lower": 1}, {"min_count": 0}, {"min_count": True},
                                  {"symbols": "ab"}, [1], "char", None, {"level": ["char"]}])
def test_a_model_file_with_another_text_field_is_refused(tmp_path, text):
    vocab = Vocab("ab")
    small = rnncore.CharLM(rnncore.ModelConfig(2, 2, 2, 1), vocab, "cpu")
    tensors, document = small.tensors(), {"schema": 1, "config": {"vocab_size": 2, "embed": 2, "hidden": 2, "layers": 1},
                                          "vocab": [97, 98], "card": {}, "text": text}
    document["sha256"] = checkpoint._sha256(document, sorted(tensors.items()))
    (tmp_path / "m").write_bytes(checkpoint.to_bytes(tensors, {checkpoint.KEY: json.dumps(document)}))
    with pytest.raises(ModelFileError, match="text|config|vocab"):
        checkpoint.read(tmp_path / "m")
