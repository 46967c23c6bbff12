"""A text where a model is wanted, a model where a text is, and files that are neither: each is told by its first bytes."""
import bz2
import gzip
import io
import json
import lzma
import os
import struct
import tarfile
import zipfile
from pathlib import Path

import pytest
from cli_helpers import SMALL, TEXT, call, corpus, files, make, refused

from rnncore.data.magic import kind_of
from rnncore.data.text import CorpusError, read

ROWS = "".join(json.dumps({"text": line}) + "\n" for line in TEXT.splitlines())


def zipped(name: str, content: bytes = b"x" * 99, stored: bool = True) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_STORED if stored else zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(name, content)
    return packed.getvalue()


def tarred(mode: str) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode=mode) as archive:
        info = tarfile.TarInfo("a.txt")
        info.size = 3
        archive.addfile(info, io.BytesIO(b"abc"))
    return packed.getvalue()


RAW = TEXT.encode()
KINDS = {
    "a zip archive": zipped("a.txt", RAW), "a Word document (docx)": zipped("word/document.xml"),
    "an Office document": zipped("[Content_Types].xml"), "an e-book (epub)": zipped("mimetype", b"application/epub+zip"),
    "an OpenDocument": zipped("mimetype", b"application/vnd.oasis.opendocument.text"), "a PyTorch file": zipped("it/data.pkl"),
    "a NumPy file (npz)": zipped("x.npy"), "a PDF": b"%PDF-1.7\nplain", "an xz file": lzma.compress(RAW),
    "a bzip2 file": bz2.compress(RAW), "a zstd file": b"\x28\xb5\x2f\xfd" + bytes(range(90)), "a tar archive": tarred("w"),
    "a PNG image": b"\x89PNG\r\n\x1a\n" + bytes(range(256)), "a JPEG image": b"\xff\xd8\xff\xe0" + bytes(range(200)),
    "a MIDI file": b"MThd\0\0\0\x06\0\1\0\1" + bytes(80), "a GIF image": b"GIF89a" + bytes(range(200)),
    "an old Office document": b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(600), "a program": b"\x7fELF\2\1\1" + bytes(99),
    "a pickle": b"\x80\4\x95" + struct.pack("<Q", 90) + b"}q\0.", "an SQLite database": b"SQLite format 3\0" + bytes(90),
    "gzipped twice": gzip.compress(gzip.compress(RAW))}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A folder with a text, the run `it` on it and the run `docs` on rows of JSON."""
    folder = tmp_path_factory.mktemp("mistaken")
    corpus(folder, TEXT, "mine.txt")
    corpus(folder, ROWS, "rows.jsonl")
    for args in (("mine.txt", "-o", "it"), ("rows.jsonl", "--documents", "jsonl", "-o", "docs")):
        make("train", *args, *SMALL, "--steps", 2, cwd=folder)
    return folder


@pytest.fixture
def command(runs, monkeypatch, capsys):
    """`rnncore ARGS` in that folder, which has to be as it was when the test ends, but for what the test puts there."""
    monkeypatch.chdir(runs)
    before = files(runs)
    yield lambda *args: call(capsys, *args)
    after = files(runs)
    assert {name: after.get(name) for name in before} == before
    for name in after.keys() - before.keys():
        os.remove(name)


def everywhere(name: str):
    """Every command with `name` where its model stands."""
    yield from (("generate", name), ("info", name), ("info", "--verify", name), ("report", name), ("score", name, "it"),
                ("neurons", name, "it"), ("train", "mine.txt", "--init-from", name))


# In a model's place

def test_a_text_in_a_models_place(command):
    Path("bytes.txt").write_bytes("é".encode("latin-1") * 3 + b" un texte.\n" * 40)
    Path("wide.txt").write_text(TEXT, "utf-16")
    for name in ("mine.txt", "./mine.txt", "rows.jsonl", "bytes.txt", "wide.txt"):
        shown = name.removeprefix("./")
        for args in everywhere(name):
            assert refused(command(*args)).replace(": is", " is") == (
                f"rnncore: {shown} is a text, not a model: a model goes before a text, as in `rnncore score RUN {shown}`, "
                f"and `rnncore train {shown}` learns it")


@pytest.mark.parametrize("kind, raw", KINDS.items())
def test_other_kinds_in_either_place(command, kind, raw):
    Path("odd").write_bytes(raw)
    gzipped = kind == "gzipped twice"
    assert f"odd is {'a gzipped file' if gzipped else kind}" in refused(command("generate", "odd"))
    for args in (("train", "odd"), ("score", "it", "odd"), ("neurons", "it", "odd"), ("report", "it", "--text", "odd")):
        assert f"odd is {kind}" in refused(command(*args)) and "not a text: " in refused(command(*args))
    if not gzipped:
        assert "MODEL" not in refused(command("score", "odd", "mine.txt"))
        Path("odd").write_bytes(gzip.compress(raw))  # what is inside counts
        assert f"odd is {kind}" in refused(command("train", "odd"))
    if kind in ("a PNG image", "a MIDI file", "a program"):
        assert "rnncore train --level byte" in refused(command("train", "odd"))


def test_a_folder_of_texts_a_named_corpus_stdin_and_an_address_in_a_models_place(command):
    os.makedirs("texts", exist_ok=True)
    Path("texts/a.txt").write_text(TEXT)
    for name, words in (("texts", "; if it holds the text, a model goes before a text"),
                        ("./texts", "; if it holds the text, a model goes before a text"),
                        ("python-docs", "python-docs is a named corpus, a text, not a model"),
                        ("-", "- is stdin, which has a text and no model"),
                        ("https://a.b/c", "https://a.b/c is an address: download it first (curl -LO https://a.b/c)")):
        for args in everywhere(name):
            assert words in refused(command(*args))


def test_a_damaged_model_is_no_text(command):
    raw = Path("it/last.safetensors").read_bytes()
    for cut in (9, 40, len(raw) - 1):
        Path("odd").write_bytes(raw[:cut])
        assert "odd is not a whole model file" in refused(command("generate", "odd"))


# In a text's place

def test_a_model_in_a_texts_place(command):
    for args in (("score", "it", "it/best.safetensors"), ("train", "it/last.safetensors"), ("neurons", "it", "it/best.safetensors")):
        assert "is a model (safetensors), not a text: a model goes before the text" in refused(command(*args))
    for args in (("score", "it", "docs"), ("train", "it"), ("neurons", "it", "it/")):
        assert "is a run folder, not a text: the run goes before the text" in refused(command(*args))
    assert "it/report.html" not in files(Path())


def test_an_address_in_a_texts_place(command):
    for name in ("https://www.gutenberg.org/files/100/100-0.txt", "http:/a.b/c", "ftp://a/b", "www.a.org/b"):
        for args in (("train", name), ("score", "it", name)):
            assert f"{name} is an address: download it first (curl -LO {name}), then name the file" in command(*args).err
    assert "s3://a/b is an address: download it first, then name the file" in command("train", "s3://a/b").err
    assert "file:///a/b is an address: name the path alone" in command("train", "file:///a/b").err


def test_rows_of_json_are_not_an_array_and_a_model_of_them_scores_a_plain_text(command):
    rows = [json.loads(line) for line in ROWS.splitlines()]
    for name, text in (("flat", json.dumps(rows)), ("pretty", "\ufeff" + json.dumps(rows, indent=1)), ("open", "[\n\n")):
        Path(name).write_text(text)
        assert f"{name} is a JSON array, where one object a line is wanted: `jq -c '.[]'` makes lines of it" in refused(
            command("train", name, "--documents", "jsonl"))
    assert "mine.txt, line 1 is no JSON" in refused(command("score", "docs", "mine.txt"))
    assert "read a plain text with --documents lines or blank" in refused(command("score", "docs", "mine.txt"))
    scored = command("score", "docs", "mine.txt", "--documents", "lines", "--json")
    assert json.loads(scored.out)["nats_per_char"] == json.loads(command("score", "docs", "rows.jsonl", "--json").out)["nats_per_char"]
    assert "has no field 'body'" in refused(command("score", "docs", "rows.jsonl", "--field", "body"))
    for option in (("--documents", "lines"), ("--field", "x")):
        assert f"{option[0]} is for models of documents" in refused(command("score", "it", "mine.txt", *option), 2)
    assert "--field names a field of --documents jsonl" in refused(
        command("score", "docs", "mine.txt", "--documents", "lines", "--field", "x"), 2)


@pytest.mark.parametrize("text", ["PK is how it begins", "BZh91AY&SY", "GIF89a", "RIFFabcdWAVE", "MThd", "BM, a maker of cars",
                                  "ustar", "", "ID3", "OggS", "II*", "fLaC", "Rar!"])
def test_a_text_that_begins_as_another_kind_does_is_a_text(text):
    assert kind_of((text + " and goes on.\n" * 30).encode()) is None


# In a folder

def test_a_folder_leaves_out_what_is_no_text_and_names_it_once(tmp_path):
    for k, raw in enumerate(KINDS.values()):
        (tmp_path / f"{k:02}").write_bytes(raw)
    (tmp_path / "text.txt").write_text(TEXT)
    found = read([str(tmp_path)])
    assert found.text == TEXT and len(found.notes) == 1
    assert found.notes[0].startswith(f"skipped {len(KINDS)} files that are no text in {tmp_path}: 00 is a zip archive, 01 is a ")
    assert found.notes[0].endswith(f" and {len(KINDS) - 8} more")
    assert len(read([str(tmp_path)], level="byte").text) > sum(map(len, KINDS.values())) - len(RAW)
    (tmp_path / "text.txt").unlink()
    with pytest.raises(CorpusError, match="holds no text file: skipped"):
        read([str(tmp_path)])


def test_a_pattern_leaves_them_out_and_reads_each_file_once(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "sub").mkdir()
    (tmp_path / "a.png").write_bytes(KINDS["a PNG image"])
    for name in ("a.txt", "sub/b.txt"):
        (tmp_path / name).write_text(TEXT)
    for pattern in ("*", "**", "**/*", "./**", str(tmp_path / "**")):
        found = read([pattern])
        assert found.text == TEXT + TEXT, pattern
        assert [note.rpartition("a.png ")[2] for note in found.notes] == ["is a PNG image"]
    os.mkfifo("pipe")  # as in a folder: what is no file is not waited for
    os.symlink("nowhere", "link")
    assert read(["*"]).text == TEXT + TEXT
    with pytest.raises(CorpusError, match="no text in \\*.png: a.png is a PNG image"):
        read(["*.png"])
