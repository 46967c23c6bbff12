"""Every text that a user may name or pipe in, at the command line: what it becomes, what is said, and each refusal."""
import gzip
import json
import os
import random
import resource

import pytest
from cli_helpers import SMALL, TEXT, call, corpus, files, refused, run

import rnncore
from rnncore.runs import checkpoint, names

STEPS = ("--steps", 2, *SMALL)


@pytest.fixture
def train(capsys, monkeypatch, tmp_path):
    """`rnncore train ARGS --steps 2` in tmp_path, with small settings."""
    monkeypatch.chdir(tmp_path)
    return lambda *args: call(capsys, "train", *STEPS, *args)


def about(folder) -> dict:
    """What the model in a run folder says of its corpus."""
    return checkpoint.read(names.find(folder).file)[0]["card"]["corpus"]


def unharmed(result, folder) -> str:
    """The line with which a command refused, having made no run."""
    line = refused(result)
    assert not (folder / "runs").exists()
    return line


# Corpus missing, a folder, empty, one distinct symbol

def test_a_corpus_that_is_missing_names_the_path_and_the_named_corpora(train, tmp_path):
    line = refused(train("gone/a.txt"), 2)
    assert "no such file or folder: 'gone/a.txt'" in line and "numpy, python-docs" in line
    assert files(tmp_path) == {}


def test_a_folder_is_its_text_files_in_sorted_order(train, tmp_path):
    (tmp_path / "books").mkdir()
    for name, part in ("b.txt", TEXT[2000:]), ("a.txt", TEXT[:2000]):
        corpus(tmp_path / "books", part, name)
    (tmp_path / "books" / "c.png").write_bytes(b"\x89PNG\0\0")
    corpus(tmp_path, TEXT[:2000] + "\n" + TEXT[2000:], "one.txt")  # the seam is a line end
    result = train("books")
    assert result.code == 0 and "skipped 1 file that is no text in books: c.png has NUL bytes\n" in result.err and train("one.txt").code == 0
    assert about("runs/books")["sha256"] == about("runs/one")["sha256"]


@pytest.mark.parametrize("content, words", [("", "is empty"), ("\ufeff", "is empty"), ("aaaa", "one distinct symbol, 'a'"),
                                            ("\r\n\r\n", r"one distinct symbol, '\n'")])
def test_an_empty_corpus_and_one_of_one_symbol_are_refused(train, tmp_path, content, words):
    corpus(tmp_path, content, "odd.txt")
    assert f"odd.txt {'has' if 'one' in words else ''}{words}".replace("hasone", "has one") in unharmed(train("odd.txt"), tmp_path)
    piped = run("train", "-", *STEPS, cwd=tmp_path, stdin=content.encode())
    assert "stdin" in unharmed(piped, tmp_path) and words in piped.err


# Encodings

@pytest.mark.parametrize("encoding, tail, offset, likely", [
    ("cp1252", "so “quoted”\n", len(TEXT) + 3, "cp1252"), ("utf-16-le", "", 1, "utf-16-le"), ("utf-32", "", 0, "utf-32")])
def test_what_is_not_utf8_is_refused_with_the_offset_and_the_encoding_that_works(train, tmp_path, encoding, tail, offset, likely):
    (tmp_path / "a.txt").write_bytes((TEXT + tail).encode(encoding))
    line = unharmed(train("a.txt"), tmp_path)
    assert f" at offset {offset} is not UTF-8" in line and line.endswith(f"add --encoding {likely}")
    assert train("a.txt", "--encoding", likely).code == 0
    corpus(tmp_path, TEXT + tail, "b.txt")
    assert train("b.txt").code == 0 and about("runs/a")["sha256"] == about("runs/b")["sha256"]


def test_one_bad_byte_in_utf8_is_refused_with_its_offset(train, tmp_path):
    (tmp_path / "a.txt").write_bytes("où ça été ".encode() * 100 + b"\xff fin")
    line = unharmed(train("a.txt"), tmp_path)
    assert f"byte 0xff at offset {len('où ça été '.encode()) * 100} is not UTF-8" in line and "mend it there" in line


# Byte order marks and line ends

def test_marks_and_line_ends_are_mended_and_said_once(train, tmp_path):
    lines = TEXT.splitlines()
    (tmp_path / "a.txt").write_bytes(("\ufeff" + "\r\n".join(lines[:90]) + "\r\n\ufeff" + "\r".join(lines[90:]) + "\r").encode())
    result = train("a.txt")
    assert result.err.count("dropped 2 byte order marks") == 1
    assert result.err.count("normalised 90 CRLF and 110 lone CR line ends to LF (--newline keep leaves them)") == 1
    corpus(tmp_path, TEXT, "b.txt")
    assert train("b.txt").code == 0 and about("runs/a")["sha256"] == about("runs/b")["sha256"]
    kept = train("a.txt", "--newline", "keep", "-o", "kept")
    assert "CRLF" not in kept.err and "\r" in rnncore.load("kept", device="cpu").vocab
    assert about("kept")["characters"] == len(TEXT) + 90


# Emoji, combining marks, CJK, 60,000 distinct symbols

@pytest.mark.parametrize("text", ["😀👩\u200d👩\u200d👧🇫🇷", "e\u0301\u0300é ", "漢字かな交じり文。", "so \0 rare a NUL"])
def test_any_symbol_makes_the_round_trip(train, tmp_path, text, capsys):
    corpus(tmp_path, 200 * text, "odd.txt")
    assert train("odd.txt").code == 0
    vocab = rnncore.load("runs/odd", device="cpu").vocab
    assert vocab.symbols == "".join(sorted(set(text))) and vocab.decode(vocab.encode(text)) == text
    if "\0" not in text:  # which no argument of a command can hold
        assert call(capsys, "generate", "runs/odd", "-n", 0, "--prime", text).out == text + "\n"
    assert json.loads(call(capsys, "score", "runs/odd", "odd.txt", "--json").out)["unknown"] == 0


def test_sixty_thousand_symbols_are_learnt_and_estimated_first(train, tmp_path, capsys):
    many = "".join(map(chr, range(0x10000, 0x10000 + 60_000)))
    corpus(tmp_path, many, "many.txt")
    line = unharmed(train("many.txt", "--batch", 2000, "--seq", 2000, "--val", 0), tmp_path)
    assert "GiB" in line and "--min-count: most of it is for 60,000 symbols" in line
    result = train("many.txt", "--val", 0)
    assert result.code == 0 and "60,000 characters, 60,000 symbols" in result.err
    found = rnncore.load("runs/many", device="cpu").vocab
    assert found.symbols == many and found.decode(found.encode(many)) == many


# Primes and scored text with symbols that the model does not know

@pytest.fixture
def known(train, tmp_path):
    corpus(tmp_path)
    assert train("corpus.txt").code == 0
    corpus(tmp_path, "the ☃ cat\n", "odd.txt")
    return tmp_path


@pytest.mark.parametrize("args", [("generate", "runs/corpus", "-n", 5, "--prime", "the ☃"), ("score", "runs/corpus", "odd.txt"),
                                  ("generate", "runs/corpus", "-n", 5, "--prime-file", "odd.txt", "--count", 2)])
def test_unseen_symbols_are_refused_by_name_skipped_or_replaced(known, capsys, args):
    line = refused(call(capsys, *args))
    assert "1 symbol is not in the model's vocabulary: '☃' (U+2603)" in line and "--on-unknown" in line
    for policy in "skip", "replace":
        result = call(capsys, *args, "--on-unknown", policy)
        assert result.code == 0 and result.err == "" and result.out


def test_a_prime_that_is_no_text_is_refused(known):
    """An argument may hold any byte: Python makes lone surrogates of what is no UTF-8."""
    for more in (), ("--on-unknown", "replace", "-o", "out.txt"):
        result = run("generate", "runs/corpus", "-n", 3, "--prime", b"caf\xe9".decode("utf-8", "surrogateescape"), *more, cwd=known)
        assert "Traceback" not in result.err and "internal" not in result.err and result.code == (0 if more else 1)


# Patterns, gzipped files, stdin

def test_a_pattern_in_quotes_is_expanded_and_sorted(train, tmp_path):
    (tmp_path / "texts").mkdir()
    lines = TEXT.splitlines(keepends=True)
    parts = {k: "".join(lines[k::31]) for k in (3, 10, 2, 1, 20, 30, 0)}
    for k, part in parts.items():
        corpus(tmp_path / "texts", part, f"{k}.txt")
    corpus(tmp_path / "texts", "Ω", "no.md")
    corpus(tmp_path, "".join(parts[k] for k in (0, 1, 10, 2, 20, 3, 30)), "one.txt")
    assert train("texts/*.txt").code == 0 and train("one.txt").code == 0
    assert about("runs/texts")["sha256"] == about("runs/one")["sha256"]
    assert about("runs/texts")["sources"] == ["texts/*.txt"]
    corpus(tmp_path, TEXT, "a[1].txt")  # a file of that name goes before a pattern
    assert train("a[1].txt").code == 0 and about("runs/a[1]")["characters"] == len(TEXT)
    line = refused(train("texts/*.rst"), 2)
    assert "no file matches the pattern 'texts/*.rst'" in line and len(line.splitlines()) == 1


def test_a_gzipped_file_is_the_text_inside(train, tmp_path, capsys):
    packed = gzip.compress(TEXT.encode())
    (tmp_path / "a.txt.gz").write_bytes(packed)
    corpus(tmp_path, TEXT, "b.txt")
    assert train("a.txt.gz").code == 0 and train("b.txt").code == 0
    assert about("runs/a")["sha256"] == about("runs/b")["sha256"]
    scores = [call(capsys, "score", "runs/a", name, "--json").out for name in ("a.txt.gz", "b.txt")]
    assert len({json.loads(score)["nats_per_char"] for score in scores}) == 1
    (tmp_path / "bad.gz").write_bytes(gzip.compress(b"caf\xe9 au lait"))
    assert "bad.gz: byte 0xe9 at offset 3 is not UTF-8" in refused(train("bad.gz"))


@pytest.mark.parametrize("spoil, words", [
    (lambda packed: packed[:-200], "is cut short"), (lambda packed: packed[:12], "is cut short"),
    (lambda packed: packed[:-4] + b"\0\0\0\1", "is no whole gzip file"), (lambda packed: b"plain text", "is no whole gzip file"),
    (lambda packed: packed[:300] + b"\xff" * 60 + packed[360:], "is no whole gzip file"), (lambda packed: b"", "is empty")])
def test_a_spoilt_gzip_file_is_refused_in_one_line(train, tmp_path, spoil, words):
    (tmp_path / "a.gz").write_bytes(spoil(gzip.compress(TEXT.encode())))
    assert f"a.gz {words}" in unharmed(train("a.gz"), tmp_path)


def test_a_gzipped_file_by_another_name_is_known_by_its_content(train, tmp_path):
    """Of several members, one cut by the end of a chunk; on stdin too; a name in capitals is one that says so."""
    packed = gzip.compress(TEXT[:2000].encode()) + gzip.compress(TEXT[2000:].encode())
    for name in ("a.txt", "B.TXT.GZ"):
        (tmp_path / name).write_bytes(packed)
    corpus(tmp_path, TEXT, "c.txt")
    for name in ("a.txt", "B.TXT.GZ", "c.txt"):
        assert train(name).code == 0
    assert run("train", "-", *STEPS, cwd=tmp_path, stdin=packed).code == 0
    assert len({about(f"runs/{name}")["sha256"] for name in ("a", "B", "c", "stdin")}) == 1
    (tmp_path / "cut").write_bytes(packed[:-20])
    assert refused(train("cut")).endswith("end-of-stream marker was reached): take another copy")
    (tmp_path / "twice").write_bytes(gzip.compress(packed))
    assert "twice is gzipped twice, not a text: unpack it (gunzip -k)" in refused(train("twice"))
    assert train("a.txt", "--level", "byte", "-o", "bytes").code == 0  # what is there, as it is
    assert about("bytes")["characters"] == len(packed)


def test_stdin_is_a_corpus_and_a_text_to_score(train, tmp_path):
    corpus(tmp_path)
    assert run("train", "-", *STEPS, cwd=tmp_path, stdin=TEXT.encode()).code == 0 and train("corpus.txt").code == 0
    assert about("runs/stdin")["sha256"] == about("runs/corpus")["sha256"]
    scored = run("score", "runs/stdin", "-", "--json", cwd=tmp_path, stdin=TEXT.encode())
    assert json.loads(scored.out)["predictions"] == len(TEXT) - 1
    line = refused(run("train", "-", *STEPS, cwd=tmp_path, stdin=b"caf\xe9"))
    assert "stdin: byte 0xe9 at offset 3" in line and line.endswith("add --encoding latin-1")


def test_a_pipe_that_can_be_read_once_is_a_file(tmp_path):
    """Process substitution, as in `rnncore train <(zcat ...)`."""
    ours, theirs = os.pipe()
    os.write(theirs, TEXT.encode())
    os.close(theirs)
    result = run("train", f"/dev/fd/{ours}", *STEPS, "-o", "run", cwd=tmp_path, pass_fds=[ours])
    os.close(ours)
    assert result.code == 0 and about(tmp_path / "run")["characters"] == len(TEXT)


def test_no_room_for_the_ids_is_one_line(tmp_path):
    """A text too long for memory, and a disk that holds 1 MB more."""
    (tmp_path / "long.txt").write_bytes(random.Random(0).randbytes(1 << 20).hex().encode() * 5)
    limit = 1 << 20
    result = run("train", "long.txt", *STEPS, cwd=tmp_path, env={"TMPDIR": str(tmp_path)},
                 preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)))
    line = refused(result)
    assert f"the ids of the corpus cannot be kept in {tmp_path} (File too large)" in line and "TMPDIR" in line
    assert files(tmp_path).keys() == {"long.txt"}
