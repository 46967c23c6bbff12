"""Files in other encodings than was thought: what is warned of, what `auto` finds, and bytes that are replaced or skipped."""
import gzip
import io
import json
from encodings.aliases import aliases
from pathlib import Path

import pytest
from cli_helpers import SMALL, call, refused, run

from rnncore.data import content
from rnncore.data.guess import HEAD
from rnncore.data.text import CorpusError, read
from rnncore.runs import checkpoint

FRENCH = "Il était une fois à l'école une élève très douée.\n" * 30
QUOTED = "L’œuvre « inouïe » d’une élève.\n" * 30
RUSSIAN = "Привет мир, это русский текст.\n" * 30
PLAIN = "plain words and no more.\n" * 60
FILES = {"utf8.txt": FRENCH.encode(), "latin.txt": FRENCH.encode("latin-1"), "cp1252.txt": QUOTED.encode("cp1252"),
         "koi.txt": RUSSIAN.encode("koi8-r"), "utf16.txt": FRENCH.encode("utf-16"), "plain.txt": PLAIN.encode(),
         "bad.txt": FRENCH.encode()[:200] + b"\xff" + FRENCH.encode()[200:] + b"\xc3"}
MAKES = "read as Latin-1, which makes 'Ã©' of 'é': "


@pytest.fixture(autouse=True)
def here(monkeypatch, tmp_path):
    """A folder with the files; mix/ has one in UTF-8, one in Latin-1 and one in ASCII."""
    monkeypatch.chdir(tmp_path)
    for name, raw in FILES.items():
        Path(name).write_bytes(raw)
    Path("mix").mkdir()
    for name, of in (("a.txt", "utf8.txt"), ("b.txt", "latin.txt"), ("c.txt", "plain.txt")):
        Path("mix", name).write_bytes(FILES[of])


def notes(*sources, **how) -> list[str]:
    return list(read(sources, **how).notes)


def refusal(*sources, **how) -> str:
    with pytest.raises(CorpusError) as caught:
        read(sources, **how)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# Valid UTF-8 that is read otherwise

@pytest.mark.parametrize("encoding, made", [("latin-1", "'Ã©' of 'é'"), ("cp1252", "'Ã©' of 'é'"), ("cp437", "'├⌐' of 'é'"),
                                            ("gb18030", "'茅' of 'é'")])
def test_utf8_that_is_read_as_another_encoding_is_warned_of(encoding, made):
    name = "Latin-1" if encoding == "latin-1" else encoding.upper()
    assert notes("utf8.txt", encoding=encoding) == [
        f"warning: utf8.txt is valid UTF-8, and read as {name}, which makes {made}: leave --encoding out"]
    Path("packed").write_bytes(gzip.compress(FILES["utf8.txt"]))
    assert "warning: packed is valid UTF-8" in notes("packed", encoding=encoding)[0]
    assert "warning: stdin is valid UTF-8" in notes("-", encoding=encoding, stdin=io.BytesIO(FILES["utf8.txt"]))[0]


@pytest.mark.parametrize("name, encoding", [("latin.txt", "latin-1"), ("cp1252.txt", "cp1252"), ("koi.txt", "koi8-r"),
                                            ("plain.txt", "latin-1"), ("utf16.txt", "utf-16"), ("utf8.txt", "utf-8-sig")])
def test_what_is_read_as_it_is_says_nothing(name, encoding):
    assert notes(name, encoding=encoding) == []


def test_of_a_folder_the_odd_files_are_named():
    assert notes("mix", encoding="latin-1") == [
        f"warning: mix/a.txt is valid UTF-8, and {MAKES}mix/b.txt is not; --encoding auto reads each file in its own encoding"]
    assert notes("utf8.txt", "mix/a.txt", encoding="latin-1") == [
        "warning: 2 files, as utf8.txt, are valid UTF-8, and read as Latin-1, which makes 'Ã©' of 'é': leave --encoding out"]
    assert refusal("mix").endswith("looks like Latin-1: add --encoding auto, which reads each file in its own encoding")


@pytest.mark.parametrize("size", [HEAD, 1 << 20])
def test_one_byte_late_in_a_file_shows_that_it_is_no_utf8(monkeypatch, size):
    monkeypatch.setattr(content, "CHUNK", size)
    for tail, said in ((b"caf\xe9\n", 0), ("café\n".encode(), 1), (b"caf\xc3", 0)):
        Path("late").write_bytes("é\n".encode() + FILES["plain.txt"] * 20 + tail)
        assert len(notes("late", encoding="latin-1")) == said, tail


# Each file in its own

@pytest.mark.parametrize("name, like, text", [
    ("latin.txt", "Latin-1", FRENCH), ("cp1252.txt", "CP1252", QUOTED), ("utf16.txt", "UTF-16", FRENCH),
    ("utf8.txt", None, FRENCH), ("plain.txt", None, PLAIN)])
@pytest.mark.parametrize("size", [HEAD, 1 << 20])
def test_auto_reads_a_file_as_it_is_and_says_so_once(monkeypatch, name, like, text, size):
    monkeypatch.setattr(content, "CHUNK", size)
    said = [f"{name} is not UTF-8: read as {like}"] * (like is not None)
    found = read([name], encoding="auto")
    assert (found.text, list(found.notes)) == (text, said)
    found = read(["-"], io.BytesIO(FILES[name]), encoding="auto")  # which can be read once
    assert (found.text, list(found.notes)) == (text, [line.replace(name, "stdin") for line in said])


def test_auto_of_a_folder():
    found = read(["mix"], encoding="auto")
    assert found.text == FRENCH + FRENCH + PLAIN and found.notes == ("mix/b.txt is not UTF-8: read as Latin-1",)
    for k in range(12):
        Path("mix", f"d{k:02}.txt").write_bytes(FILES["latin.txt"])
    assert len(notes("mix", encoding="auto")) == 9 and notes("mix", encoding="auto")[-1] == (
        "5 more files are not UTF-8: read as they look, too")
    Path("mix", "koi.txt").write_bytes(FILES["koi.txt"])
    for errors in ("strict", "replace", "skip"):  # what looks like nothing known is more than an odd byte
        assert "mix/koi.txt: byte 0xf0 at offset 0 is not UTF-8; name the file's own" in refusal(
            "mix", encoding="auto", encoding_errors=errors)


def test_auto_of_a_symbol_that_the_end_of_a_piece_cuts(monkeypatch):
    monkeypatch.setattr(content, "CHUNK", HEAD)
    for tail, text in (("é!".encode(), "é!"), (b"\xc3.", "Ã."), (b"\xc3", "Ã"), ("😀".encode(), "😀")):
        for before in range(4):
            Path("cut").write_bytes(b"a\n" * (HEAD // 2) + b"b" * (HEAD - before) + tail)
            assert read(["cut"], encoding="auto").text.endswith("b" + text), (tail, before)


def test_auto_of_a_far_byte_in_utf8_is_refused_with_its_offset(monkeypatch):
    monkeypatch.setattr(content, "CHUNK", HEAD)
    Path("far").write_bytes(FILES["utf8.txt"] * 20 + b"\xff")
    assert f"byte 0xff at offset {20 * len(FILES['utf8.txt'])} is not UTF-8; the rest of the file looks like UTF-8" in refusal(
        "far", encoding="auto")
    assert notes("far", encoding="auto", encoding_errors="replace") == ["far: replaced 1 byte that is not UTF-8 by U+FFFD"]


# The odd bad byte

@pytest.mark.parametrize("errors, text, said", [
    ("replace", FRENCH[:190] + "\ufffd" + FRENCH[190:] + "\ufffd", "bad.txt: replaced 2 bytes that are not UTF-8 by U+FFFD"),
    ("skip", FRENCH, "bad.txt: skipped 2 bytes that are not UTF-8")])
@pytest.mark.parametrize("size", [HEAD, 1 << 20])
def test_bad_bytes_are_replaced_or_skipped_and_counted(monkeypatch, errors, text, said, size):
    monkeypatch.setattr(content, "CHUNK", size)
    found = read(["bad.txt"], encoding_errors=errors)
    assert len(found.text) == len(text) and found.notes == (said,)
    assert found.text.replace("\ufffd", "") == FRENCH
    assert refusal("bad.txt").endswith("mend it there, or leave such bytes to --encoding-errors replace")
    assert notes("utf8.txt", encoding_errors=errors) == []


def test_more_than_the_odd_byte_is_a_warning_that_names_the_encoding():
    assert notes("latin.txt", encoding_errors="replace")[0].endswith("by U+FFFD; it looks like Latin-1: --encoding latin-1")
    assert notes("mix", encoding_errors="skip")[0].endswith("; it looks like Latin-1: --encoding auto")
    assert "may be text in another --encoding" in notes("koi.txt", encoding_errors="replace")[0]
    assert all(line.startswith("warning: ") for name in ("latin.txt", "koi.txt") for line in notes(name, encoding_errors="skip"))
    assert "latin.txt: skipped 210 bytes" in notes("latin.txt", encoding="ascii", encoding_errors="skip")[0]


def test_every_codec_reads_every_file_or_refuses_it_in_one_line():
    for encoding in sorted({*aliases.values(), "auto", "idna", "punycode", "unicode_escape"}):
        for errors in ("strict", "replace", "skip"):
            try:
                said = notes("utf8.txt", "bad.txt", "latin.txt", encoding=encoding, encoding_errors=errors)
            except CorpusError as error:
                said = [str(error)]
            assert not any("\n" in line for line in said)


# Commands

def train(*args):
    return run("train", *SMALL, "--steps", 2, *args, cwd=".", env={"RNNCORE_NO_REPORT": "1"})


def test_a_run_remembers_encoding_and_encoding_errors(capsys):
    both = "--encoding", "auto", "--encoding-errors", "replace"
    Path("mix", "bad.txt").write_bytes(FILES["bad.txt"])
    result = train("mix", *both, "-o", "it")
    lines = result.err.splitlines()
    assert lines.count("mix/b.txt is not UTF-8: read as Latin-1") == 1
    assert lines.count("mix/bad.txt: replaced 2 bytes that are not UTF-8 by U+FFFD") == 1
    about = checkpoint.read(Path("it/last.safetensors"))[0]["card"]["corpus"]
    assert (about["encoding"], about["encoding_errors"]) == ("auto", "replace")
    assert call(capsys, "train", "--resume", "-o", "it", "--steps", 3).code == 0
    assert call(capsys, "train", "--resume", "-o", "it", "--steps", 4, "mix", *both).code == 0
    for option in (("--encoding", "latin-1"), ("--encoding-errors", "strict")):
        assert f"{' '.join(option)} conflicts with it" in refused(call(capsys, "train", "--resume", "-o", "it", *option), 2)
    assert call(capsys, "report", "it").code == 0
    Path("new").write_text(" ".join(FRENCH.split()[::-1]))
    assert json.loads(call(capsys, "score", "it", "new", "--json").out)["floor"]["order"] > 0


def test_every_command_that_reads_a_text_takes_both(capsys):
    assert train("utf8.txt", "plain.txt", "-o", "it").code == 0
    for command in (("score", "it"), ("neurons", "it"), ("report", "it", "--text")):
        result = call(capsys, *command, "latin.txt", "--encoding", "auto")
        assert result.code == 0 and result.err.count("latin.txt is not UTF-8: read as Latin-1") == 1
        result = call(capsys, *command, "bad.txt", "--encoding-errors", "skip")
        assert result.code == 0 and result.err.count("bad.txt: skipped 2 bytes that are not UTF-8") == 1
        result = call(capsys, *command, "utf8.txt", "--encoding", "latin-1",
                      *(() if command[0] == "report" else ("--on-unknown", "skip")))
        assert result.code == 0 and result.err.count(MAKES) == 1
        assert "looks like Latin-1: add --encoding latin-1" in refused(call(capsys, *command, "latin.txt"))


def test_bytes_have_no_encoding(capsys):
    assert train("utf8.txt", "--level", "byte", "-o", "it").code == 0
    for option in (("--encoding", "auto"), ("--encoding-errors", "skip")):
        assert f"{option[0]} says how characters are read" in refused(train("utf8.txt", "--level", "byte", *option), 2)
        assert f"{option[0]} says how characters are read" in refused(call(capsys, "score", "it", "utf8.txt", *option), 2)
        assert f"{option[0]} says how characters are read" in refused(train("utf8.txt", "--init-from", "it", *option), 2)


def test_a_pipe_is_read_once(tmp_path):
    for raw, said in ((FILES["latin.txt"], "stdin is not UTF-8: read as Latin-1"), (FILES["utf8.txt"], None)):
        result = run("train", "-", *SMALL, "--steps", 1, "--encoding", "auto", cwd=tmp_path, stdin=raw)
        assert result.code == 0 and (said is None or result.err.count(said) == 1)


def test_handlers_of_errors_take_decoding_alone():
    with pytest.raises(UnicodeEncodeError):
        "é".encode("ascii", "rnncore-skip")
