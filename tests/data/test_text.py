"""Reading a corpus: what is joined, dropped and normalised, and each refusal with its cause, offset and cure."""
import hashlib
import io
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from rnncore.data.decode import decode, one_line
from rnncore.data.endings import joined
from rnncore.data.guess import likely
from rnncore.data.text import CorpusError, CorpusNotFoundError, UnknownEncodingError, read
from rnncore.data.vocab import Vocab

FRENCH = "Le père Noël est passé à côté.\nOù ça ?\n"
NAMES = "numpy, python-docs, tinyshakespeare, hugo, shakespeare"


def write(path: Path, content: str | bytes) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return str(path)


def refusal(*sources: str, **options) -> str:
    """The one line that reading these raises."""
    with pytest.raises(CorpusError) as caught:
        read(sources, **options)
    line = str(caught.value)
    assert "\n" not in line and line.isprintable()
    return line


# What is read

def test_one_file_is_read_with_its_name_and_sha256(tmp_path):
    path = write(tmp_path / "notes.de.txt", "grün\nblau")
    digest = hashlib.sha256("grün\nblau".encode()).hexdigest()
    corpus = read([path])
    assert (corpus.name, corpus.text, corpus.sources, corpus.notes) == ("notes.de", "grün\nblau", (path,), ())
    assert corpus.sha256 == digest and corpus.vocab == Vocab.from_text("grün\nblau")
    assert corpus.ids.tolist() == corpus.vocab.encode("grün\nblau").tolist() and corpus.ids.dtype == np.uint8
    assert corpus.counts.tolist() == [corpus.text.count(symbol) for symbol in corpus.vocab.symbols]


def test_files_are_joined_by_a_newline_where_one_is_missing(tmp_path):
    paths = [write(tmp_path / name, text) for name, text in (("b.txt", "one"), ("a.txt", "two\n"), ("c.txt", "three"))]
    corpus = read(paths)
    assert corpus.text == "one\ntwo\nthree" and corpus.name == "b" and corpus.sources == tuple(paths)


@pytest.mark.parametrize("pieces, whole", [
    ([], ""), (["a"], "a"), (["a", "b"], "a\nb"), (["a\n", "b\n"], "a\nb\n"), (["", "a", "", "b", ""], "a\nb"),
    (["a\r", "b"], "a\rb"), (["\n", "b"], "\nb"),
])
def test_texts_are_joined_by_a_newline_where_one_is_missing(pieces, whole):
    assert "".join(joined([piece] for piece in pieces)) == whole


def test_an_empty_file_among_others_is_said(tmp_path):
    corpus = read([write(tmp_path / "a", "ab"), write(tmp_path / "b", "")])
    assert corpus.text == "ab" and corpus.notes == (f"{tmp_path / 'b'} is empty",)


def test_a_folder_is_its_text_files_in_sorted_order(tmp_path):
    books = tmp_path / "books"
    for name in ("z.txt", "b/2.txt", "b/10.md", "a", "b.txt", ".hidden", ".git/config", "c/.x/y.txt"):
        write(books / name, f"<{name}>")
    write(books / "empty.txt", "")
    corpus = read([str(books)])
    assert corpus.text == "<a>\n<b.txt>\n<b/10.md>\n<b/2.txt>\n<z.txt>"
    assert corpus.name == "books" and corpus.notes == ()
    assert read([f"{books}/"]).name == "books"


def test_the_current_folder_has_a_name(tmp_path, monkeypatch):
    write(tmp_path / "here" / "a.txt", "abc")
    monkeypatch.chdir(tmp_path / "here")
    assert read(["."]).name == "here"


def test_files_in_a_folder_that_are_not_text_are_skipped_and_counted(tmp_path):
    write(tmp_path / "a.txt", "some text")
    write(tmp_path / "b.png", b"\x89PNG\0\0\0")
    write(tmp_path / "c.bin", b"x" * 8191 + b"\0")
    write(tmp_path / "late.txt", b"y" * 8192 + b"\0")  # its first NUL is byte 8193: text, for all that
    corpus = read([str(tmp_path)])
    assert corpus.text == "some text\n" + "y" * 8192 + "\0"
    assert corpus.notes == corpus.left_out == (
        f"skipped 2 files that are no text in {tmp_path}: b.png has NUL bytes, c.bin has NUL bytes",)


def test_a_folder_of_utf16_wants_the_encoding(tmp_path):
    path = write(tmp_path / "f" / "a.txt", FRENCH.encode("utf-16"))
    line = refusal(str(tmp_path / "f"))
    assert "holds no text file" in line and f"{path} looks like UTF-16: add --encoding utf-16" in line
    corpus = read([str(tmp_path / "f")], encoding="utf-16")
    assert corpus.text == FRENCH and corpus.notes == ()


def test_stdin_is_read_as_a_corpus():
    corpus = read(["-"], stdin=io.BytesIO(b"piped\r\ntext"))
    assert corpus.text == "piped\ntext" and corpus.name == "stdin" and corpus.sources == ("-",)


def test_stdin_is_the_processs_own_by_default():
    code = "from rnncore.data.text import read; print(read(['-']).text[::-1])"
    result = subprocess.run([sys.executable, "-c", code], input=b"abc", capture_output=True)
    assert result.stdout == b"cba\n", result.stderr.decode()


def test_a_closed_stdin_is_refused(monkeypatch):
    monkeypatch.setattr(sys, "stdin", None)
    assert refusal("-").startswith("stdin is closed")


# What is dropped and normalised

def test_byte_order_marks_go_wherever_they_are(tmp_path):
    corpus = read([write(tmp_path / "a", "\ufeffone\n\ufefftwo\n"), write(tmp_path / "b", "\ufeffthree")])
    assert corpus.text == "one\ntwo\nthree" and corpus.notes == ("dropped 3 byte order marks",)
    assert read([write(tmp_path / "c", "\ufeffab")], encoding="utf-8-sig").text == "ab"


@pytest.mark.parametrize("raw, text, note", [
    (b"a\r\nb\r\n", "a\nb\n", "2 CRLF line ends"),
    (b"a\rb", "a\nb", "1 lone CR line end"),
    (b"a\r\r\n\rb\n", "a\n\n\nb\n", "1 CRLF and 2 lone CR line ends"),
])
def test_line_ends_become_lf_unless_kept(tmp_path, raw, text, note):
    path = write(tmp_path / "a.txt", raw)
    corpus = read([path])
    assert corpus.text == text
    assert corpus.notes == (f"normalised {note} to LF (--newline keep leaves them)",)
    kept = read([path], newline="keep")
    assert kept.text.encode() == raw and kept.notes == () and kept.sha256 == hashlib.sha256(raw).hexdigest()
    with pytest.raises(ValueError, match="'lf' or 'keep'"):
        read([path], newline="crlf")


def test_the_hash_is_of_the_text_as_it_is_trained_on(tmp_path):
    plain, marked = write(tmp_path / "a", "one\ntwo"), write(tmp_path / "b", "\ufeffone\r\ntwo")
    assert read([plain]).sha256 == read([marked]).sha256 != read([marked], newline="keep").sha256


# Encodings

@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32", "latin-1", "cp1252", "utf-8-sig"])
def test_the_encoding_given_is_the_one_used(tmp_path, encoding):
    assert read([write(tmp_path / "a", FRENCH.encode(encoding))], encoding=encoding).text == FRENCH


def test_latin1_is_refused_with_the_offset(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "notes.txt", b"x" * 1234 + "été".encode("latin-1"))
    assert refusal("notes.txt") == ("notes.txt: byte 0xe9 at offset 1234 is not UTF-8; "
                                    "the file looks like Latin-1: add --encoding latin-1")
    assert read(["notes.txt"], encoding="latin-1").text.endswith("été")
    assert refusal("-", stdin=io.BytesIO(b"caf\xe9")).startswith("stdin: byte 0xe9 at offset 3 is not UTF-8; ")


@pytest.mark.parametrize("raw, byte, offset, cure", [
    ("he said “no”".encode("cp1252"), 0x93, 8, "looks like CP1252: add --encoding cp1252"),
    (b"ab" + FRENCH.encode("utf-16-le"), 0xe8, 10, "looks like UTF-16-LE: add --encoding utf-16-le"),
    (FRENCH.encode("utf-16-be"), 0xe8, 9, "looks like UTF-16-BE: add --encoding utf-16-be"),
    (b"\xff\xfe" + "abc".encode("utf-16-le"), 0xff, 0, "looks like UTF-16: add --encoding utf-16"),
    (b"\xfe\xff" + "abc".encode("utf-16-be"), 0xfe, 0, "looks like UTF-16: add --encoding utf-16"),
    (b"\xff\xfe\0\0" + "abc".encode("utf-32-le"), 0xff, 0, "looks like UTF-32: add --encoding utf-32"),
    ("é\n".encode("utf-32-le"), 0xe9, 0, "looks like UTF-32-LE: add --encoding utf-32-le"),
    ("日本\nab".encode("utf-16-le"), 0xe5, 0, "looks like UTF-16-LE: add --encoding utf-16-le"),
    ("Однажды весною".encode("cp1251"), 0xce, 0, "name the file's own with --encoding (latin-1, cp1251,"),
    (b"\x01\x02\xe9", 0xe9, 2, "name the file's own with --encoding"),
    ("où ça été".encode() + b"\xe9 fin", 0xe9, 13, "the rest of the file looks like UTF-8: mend it there"),
    ("une fin coupée à".encode()[:-1], 0xc3, 16, "the rest of the file looks like UTF-8: mend it there"),
])
def test_what_is_not_utf8_is_refused_with_the_byte_and_the_cure(tmp_path, raw, byte, offset, cure):
    line = refusal(write(tmp_path / "a.txt", raw))
    assert f"a.txt: byte 0x{byte:02x} at offset {offset} is not UTF-8; " in line and cure in line


def test_an_offset_counts_from_the_start_of_the_file_under_every_codec(tmp_path):
    path = write(tmp_path / "a", b"\xef\xbb\xbfabc\xe9d")
    assert "byte 0xe9 at offset 6 is not UTF-8;" in refusal(path)
    assert "byte 0xe9 at offset 6 is not UTF-8-SIG;" in refusal(path, encoding="utf-8-sig")
    assert "byte 0x64 at offset 4 is not UTF-16-LE;" in refusal(write(tmp_path / "b", b"a\0b\0d"), encoding="utf-16-le")


def test_utf16_that_decodes_as_utf8_with_nuls_is_refused(tmp_path):
    for text in ("plain words\n", "word", "пять слов\n"):
        little, big = write(tmp_path / "le", text.encode("utf-16-le")), write(tmp_path / "be", text.encode("utf-16-be"))
        for encoding in ("utf-8", "latin-1"):
            assert f"byte 0x00 at offset {text.encode('utf-16-le').index(0)} " in refusal(little, encoding=encoding)
            assert refusal(little, encoding=encoding).endswith("looks like UTF-16-LE: add --encoding utf-16-le")
            assert f"byte 0x00 at offset {text.encode('utf-16-be').index(0)} " in refusal(big, encoding=encoding)
            assert refusal(big, encoding=encoding).endswith("looks like UTF-16-BE: add --encoding utf-16-be")


def test_a_nul_alone_does_not_make_a_file_utf16(tmp_path):
    for text in ("fields \0of \0a record\0\0\n", "a \0bcdefgh\n" * 99, "жук \0жил\n", "été \0"):
        assert read([write(tmp_path / "a", text)]).text == text
    assert read([write(tmp_path / "a", "été \0".encode("latin-1"))], encoding="latin-1").text == "été \0"


def test_utf32_read_as_utf16_is_refused(tmp_path):
    path = write(tmp_path / "a", "some words\n".encode("utf-32-le"))
    assert refusal(path, encoding="utf-16-le").endswith("the file looks like UTF-32-LE: add --encoding utf-32-le")


def test_plain_text_is_not_taken_for_chinese(tmp_path):
    path = write(tmp_path / "a", "an even number of bytes\n")
    assert len(Path(path).read_bytes()) % 2 == 0
    line = refusal(path, encoding="utf-16")
    assert line == f"{path}: this is not UTF-16; the file looks like UTF-8: add --encoding utf-8"


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be"])
def test_chinese_without_white_space_is_read(tmp_path, encoding):
    text = "一二三一人。"  # U+4E00 with its bytes swapped is an N
    assert read([write(tmp_path / "a", text.encode(encoding))], encoding=encoding).text == text


def test_utf16_of_the_other_byte_order_is_refused(tmp_path):
    path = write(tmp_path / "a", "some words\n".encode("utf-16-be"))
    assert refusal(path, encoding="utf-16-le").endswith("looks like UTF-16-BE: add --encoding utf-16-be")


def test_a_character_cut_at_the_end_of_the_head_does_not_hide_utf16():
    raw = ("x" * 4095 + "😀 and more\n").encode("utf-16-le")
    assert likely(raw) == "utf-16-le"


@pytest.mark.parametrize("encoding", ["utf-9", "base64", "", "a\0b", "ütf"])
def test_an_unknown_encoding_is_refused_with_the_known_ones(tmp_path, encoding):
    with pytest.raises(UnknownEncodingError) as caught:
        read([write(tmp_path / "a", "ab")], encoding=encoding)
    assert str(caught.value).startswith(f"unknown encoding {encoding!r}: --encoding takes utf-8")


def test_a_codec_with_errors_of_its_own_kind():
    with pytest.raises(CorpusError, match="x is not PUNYCODE"):
        decode(b"a-99999999999999!", "punycode", "x")


# What is refused

@pytest.mark.parametrize("source", ["nosuch.txt", "", "a.txt/b", "no\nsuch"])
def test_a_missing_path_is_refused(tmp_path, monkeypatch, source):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "a.txt", "ab")
    with pytest.raises(CorpusNotFoundError) as caught:
        read([source])
    assert str(caught.value) == f"no such file or folder: {source!r}; the named corpora are {NAMES}"


@pytest.mark.parametrize("content", ["", "\ufeff", "\ufeff\ufeff"])
def test_an_empty_corpus_is_refused(tmp_path, content):
    path = write(tmp_path / "a.txt", content)
    assert refusal(path).startswith(f"{path} is empty: name a file with text in it")
    assert refusal("-", stdin=io.BytesIO(content.encode())).startswith("stdin is empty: name a file with text in it")
    assert refusal(path, path).startswith(f"{path}, {path} is empty")


@pytest.mark.parametrize("content, symbol", [
    ("aaaa", "'a'"), ("\n", r"'\n'"), ("\r\n\r\n", r"'\n'"), ("\ufeff😀", "'😀'"),
])
def test_a_corpus_of_one_distinct_symbol_is_refused(tmp_path, content, symbol):
    path = write(tmp_path / "a.txt", content)
    assert refusal(path).startswith(f"{path} has one distinct symbol, {symbol}: nothing to learn from")
    assert read([write(tmp_path / "a.txt", content + "b")]).text.endswith("b")  # two are a corpus


def test_a_folder_without_a_text_file(tmp_path):
    assert refusal(str(tmp_path)) == f"{tmp_path} holds no text file: name a folder that does"
    write(tmp_path / ".hidden", "text")
    write(tmp_path / "b.bin", b"\0")
    assert refusal(str(tmp_path)) == (
        f"{tmp_path} holds no text file: skipped 1 file that is no text in {tmp_path}: b.bin has NUL bytes")


def test_no_source_at_all():
    assert refusal().startswith(f"no corpus: name a file, a folder, - for stdin, or one of {NAMES}")


def test_a_file_or_folder_that_may_not_be_read(tmp_path, monkeypatch):
    path = write(tmp_path / "a.txt", "ab")

    def deny(where, *_):
        raise PermissionError(13, "Permission denied", str(where))
    monkeypatch.setattr("builtins.open", deny)
    assert refusal(path) == f"cannot read {path}: Permission denied; make it readable or leave it out"
    monkeypatch.undo()
    monkeypatch.setattr(os, "scandir", deny)
    assert refusal(str(tmp_path)) == f"cannot read {tmp_path}: Permission denied; make it readable or leave it out"
    (tmp_path / "loop").symlink_to("loop")
    assert "cannot read" in refusal(str(tmp_path / "loop"))


def test_a_line_feed_in_a_name_stays_in_its_line(tmp_path):
    path = write(tmp_path / "two\nlines\x1b[2J.txt", "aa")
    assert r"two\nlines\x1b[2J.txt has one distinct symbol" in refusal(path)
    assert r"two\nlines\x1b[2J.txt is empty" in read([write(Path(path), ""), write(tmp_path / "b", "ab")]).notes[0]
    assert one_line("é\udcff\u2028") == r"é\udcff\u2028"


def test_importing_what_is_raised_loads_no_numpy():
    code = "import sys, rnncore.data.decode; sys.exit('numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
