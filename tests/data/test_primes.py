"""Primes are read as the corpus was: marks, line ends and, of a model of documents, the line end that ends a file."""
import json
from pathlib import Path

import numpy as np
import pytest
from cli_helpers import SMALL, TEXT, make, refused, run

import rnncore
from rnncore.config import SampleConfig
from rnncore.data.vocab import Vocab
from rnncore.dialogue import Dialogue
from rnncore.sample import prompt_ids, samples

LINES = ["ROMEO:", *TEXT.splitlines()]
CRLF = "\r\n".join(LINES) + "\r\n"
CORPORA = {  # run: its corpus, the options
    "plain": (CRLF, ()), "keep": (CRLF, ("--newline", "keep")), "lower": (CRLF, ("--lower",)),
    "byte": (CRLF, ("--level", "byte")), "unix": (CRLF.replace("\r", ""), ("--newline", "keep")),
    "lines": (CRLF, ("--documents", "lines")), "blank": ("\n\n".join(map("\n".join, zip(LINES, LINES, strict=True))), ("--documents", "blank")),
    "jsonl": ("".join(json.dumps({"text": f"a\n{line}"}) + "\n" for line in LINES), ("--documents", "jsonl"))}
LF, CR = "ROMEO:\n", "ROMEO:\r\n"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A run on each corpus."""
    folder = tmp_path_factory.mktemp("primes")
    for name, (text, options) in CORPORA.items():
        (folder / f"{name}.txt").write_bytes(text.encode())
        args = (f"{name}.txt", *options, *SMALL, "--steps", 2, "-o", name)
        make("train", *args, cwd=folder)
    return folder


@pytest.fixture
def shown(folder, monkeypatch, capsysbinary):
    """What `rnncore generate RUN -n 0 ARGS` writes: the prime as the model reads it, and a line end."""
    monkeypatch.chdir(folder)

    def command(*args) -> str:
        from rnncore.cli import main
        capsysbinary.readouterr()
        with pytest.raises(SystemExit) as left:
            main(["generate", *map(str, args), "-n", "0"])
        out, err = capsysbinary.readouterr()
        assert (left.value.code or 0, err) == (0, b"")
        return out.decode()

    return command


@pytest.mark.parametrize("name, prime, text", [
    ("plain", CR, LF), ("plain", "\ufeffROMEO:\r", LF), ("plain", LF, LF), ("unix", CR, LF), ("lower", CR, LF.lower()),
    ("keep", CR, CR), ("keep", LF, LF), ("byte", CR, CR), ("jsonl", CR, LF), ("blank", CR, LF), ("lines", CR, "ROMEO:"),
    ("lines", "ROMEO:\r", "ROMEO:"), ("lines", "ROMEO:", "ROMEO:")])
def test_a_prime_is_normalised_as_the_corpus_was(shown, name, prime, text):
    out = shown(name, "--prime", prime)
    out = json.loads(out)["text"] + "\n" if name == "jsonl" else out
    assert out in (text, text + "\n") and (name == "byte" or out.endswith("\n"))
    model = rnncore.load(f"./{name}", "cpu")
    written = list(rnncore.generate(model, prime, 20, seed=3))
    assert written == list(rnncore.generate(model, text, 20, seed=3))
    assert samples(model, 2, prime, 20, SampleConfig(seed=3)) == samples(model, 2, text, 20, SampleConfig(seed=3))
    one, other = Dialogue(model, SampleConfig(seed=3)), Dialogue(model, SampleConfig(seed=3))
    one.read(prime)
    other.read(text)
    assert list(one.write(20)) == list(other.write(20))


@pytest.mark.parametrize("content", [b"ROMEO:\n", b"ROMEO:\r\n", b"\xef\xbb\xbfROMEO:\r", b"ROMEO:"])
@pytest.mark.parametrize("name", CORPORA)
def test_a_prime_file_ends_with_a_line_end_that_is_no_part_of_a_document(shown, name, content):
    Path("prime").write_bytes(content)
    if name in ("lines", "blank", "jsonl"):
        form, between = ('{"text": "ROMEO:"}\n' if name == "jsonl" else "ROMEO:\n"), "\n" if name == "blank" else ""
        assert shown(name, "--prime-file", "prime") == form  # the line end is the one that ends what is shown
        assert shown(name, "--prime-file", "prime", "--count", 2) == form + between + form
    elif name == "byte":
        if content[0] == ord("R"):
            assert shown(name, "--prime-file", "prime") == content.decode()
    else:
        text = content.decode("utf-8-sig")
        if name != "keep":
            text = text.replace("\r\n", "\n").replace("\r", "\n")
        shows = text.lower() if name == "lower" else text
        assert shown(name, "--prime-file", "prime") == shows + "\n" * (not shows.endswith("\n"))


@pytest.mark.parametrize("content", [b"", b"\n", b"\r\n", b"\xef\xbb\xbf"])
def test_an_empty_prime_file_of_a_model_of_documents_is_no_prime(shown, content):
    Path("prime").write_bytes(content)
    for name in ("lines", "blank", "jsonl"):
        assert shown(name, "--prime-file", "prime") == ('{"text": ""}\n' if name == "jsonl" else "\n")


def test_one_line_end_alone_is_dropped(shown, folder):
    """Of a document that may have line ends inside, the others count; of a line, they are none of its symbols."""
    Path("prime").write_bytes(b"a\n\n")
    model = rnncore.load("./jsonl", "cpu")
    assert np.array_equal(prompt_ids(model.vocab, "a\n", "error")[1:], model.vocab.encode("a\n"))
    assert shown("jsonl", "--prime-file", "prime") == '{"text": "a\\n"}\n'
    Path("prime").write_bytes(b"the old\n\n\n")
    assert "'\\n' (U+000A)" in refused(run("generate", "lines", "--prime-file", "prime", cwd=folder))


def test_what_a_kept_line_end_is_told_by():
    """A vocabulary with a CR or a mark is of a corpus that kept them; one without is of one that has LF alone."""
    assert Vocab.from_text("ab\n").typed("\ufeffa\r\nb\r") == "a\nb\n"
    assert Vocab.from_text("ab\r\n").typed("\ufeffa\r\nb\r") == "a\r\nb\r"
    assert Vocab.from_text("ab\ufeff").typed("\ufeffa\r") == "\ufeffa\n"
    assert Vocab.from_code_points(range(256), "byte").typed(b"a\r\n") == b"a\r\n"


def test_stops_and_turns_are_normalised_too(folder):
    """A text to stop at, and lines that are typed on Windows."""
    whole = run("generate", "plain", "-n", 300, "--seed", 1, cwd=folder).out
    end = whole.index("\n", 20)
    stop = whole[end - 2:end + 1].replace("\n", "\r\n")
    assert run("generate", "plain", "-n", 300, "--seed", 1, "--stop", stop, cwd=folder).out.rstrip("\n") in whole[:end]
    typed = [run("generate", "plain", "-i", "-n", 20, "--stop", "☃", cwd=folder, stdin=lines).out
             for lines in (b"ROMEO:\nthe old\n", b"ROMEO:\r\nthe old\r\n")]
    assert typed[0] == typed[1] != ""
