"""Of what a model file names as its text, single files alone are opened: those listed, regular ones of that size."""

import gzip
import json
import os
import shutil
import subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest
from cli_helpers import COMMAND, ENVIRONMENT, TEXT, corpus, finished_run, read_last, refused, run
from damage import changed, sealed
from hostile import Hostile

from rnncore.cli import corpus as downloader
from rnncore.data import corpora, recorded
from rnncore.data.recorded import Record
from rnncore.data.text import CorpusError, read
from rnncore.runs import metadata, places
from rnncore.runs.checkpoint import read as read_model

NAME_IT = "`rnncore train PATH --resume -o run`"


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A folder with corpus.txt and `run`."""
    return finished_run(tmp_path_factory.mktemp("made"))


@pytest.fixture
def hostile(made, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(made / "run", tmp_path / "run")
    monkeypatch.setattr(downloader, "download", lambda *args: pytest.fail("downloaded"))
    monkeypatch.setattr(corpora, "fetch", lambda *args: pytest.fail("fetched"))
    corpus(tmp_path, TEXT[::-1][:900], "other.txt")
    (tmp_path / "folder").mkdir()
    corpus(tmp_path / "folder", TEXT[:1500], "a.txt")
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link-to-zero").symlink_to("/dev/zero")
    (tmp_path / "link-to-folder").symlink_to("folder")
    return Hostile(tmp_path, capsys)


NEVER = {  # what is never opened, and what is said of it
    "a device": ("/dev/zero", "is no regular file"),
    "a FIFO": ("pipe", "is no regular file"),
    "a link to a device": ("link-to-zero", "is no regular file"),
    "a folder": ("folder", "is a folder"),
    "a link to one": ("link-to-folder", "is a folder"),
    "the root": ("/", "is a folder"),
    "a pattern": ("folder/*.txt", "is a pattern"),
    "a pattern of all": ("/**", "is a pattern"),
    "a terminal": ("/dev/tty", "is "),
    "what is not there": ("nowhere.txt", "is not "),
    "a corpus to be downloaded": ("tinyshakespeare", "is not here"),
}


@pytest.fixture(autouse=True)
def no_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.mark.parametrize("kind", NEVER)
def test_what_is_no_plain_file_is_not_opened_for_its_name(hostile, kind):
    """In a run of before there was a list of files, with its last file and without it."""
    source, words = NEVER[kind]
    hostile.write([source], old=True, last=True)
    assert words in hostile.why()
    assert hostile.opened == [f"{hostile.home}/other.txt"]
    line = refused(hostile.resume("--steps", 5), 2 if kind == "what is not there" else 1)
    assert NAME_IT in line and (words in line or kind == "what is not there")
    assert hostile.opened == []
    hostile.write([source], old=True, last=False)
    assert words in hostile.why()
    assert hostile.opened == [f"{hostile.home}/other.txt"]


@pytest.mark.parametrize("kind", [kind for kind in NEVER if NEVER[kind][0] != "tinyshakespeare"])
def test_what_is_no_plain_file_is_not_opened_though_it_is_listed(hostile, kind):
    source, words = NEVER[kind]
    path = os.path.abspath(source)
    size = os.stat(path).st_size if os.path.exists(path) else 0
    hostile.write(["corpus.txt"], of=[[[path, size]]])
    words = "is not there" if kind.startswith(("a pattern", "what")) else words
    assert words in hostile.why() and hostile.opened == [f"{hostile.home}/other.txt"]
    line = refused(hostile.resume("--steps", 5), 2 if "is not there" in words else 1)
    assert NAME_IT in line and "--allow-new-corpus" not in line and hostile.opened == []
    assert refused(hostile.resume("--steps", 5, "--allow-new-corpus"), 2 if "is not there" in words else 1) == line


@pytest.mark.parametrize("sources", [["/dev/zero"], ["folder"], ["folder/*"], ["pipe"], ["secret.txt"]])
def test_where_there_is_a_list_the_sources_are_not_opened(hostile, made, sources):
    corpus(hostile.home, TEXT[:1500], "secret.txt")
    hostile.write(sources)
    assert hostile.why() is None and hostile.opened == [f"{hostile.home}/other.txt", f"{made}/corpus.txt"]
    assert hostile.resume("--steps", 5).code == 0 and f"{made}/corpus.txt" in hostile.opened
    assert not {os.path.abspath(source) for source in sources} & {*hostile.opened}


@pytest.mark.parametrize("size", [0, 1499, 1501, 2**53])
def test_a_size_that_is_not_the_files_is_asked_about(hostile, made, size):
    path = f"{made}/corpus.txt"
    hostile.write(of=[[[path, size]]])
    assert hostile.why() == f"{path} has 1,500 bytes, and had {size:,}"
    line = refused(hostile.resume("--steps", 5))
    assert f"{path} has 1,500 bytes, and had {size:,}, so its sha256 differs" in line and NAME_IT in line
    assert hostile.opened == []


def test_a_list_that_contradicts_the_sources_is_named(hostile):
    hostile.write(of=[None, None])
    words = "run/last.safetensors: training.settings.files.of is of 2 sources"
    assert words in hostile.why() and words in refused(hostile.resume("--steps", 5))
    assert hostile.opened == []


@pytest.mark.parametrize("sources, of", [
    (["numpy"] * 20_000, [None] * 20_000),
    (["corpus.txt"], "all"),
    (["numpy", "python-docs"], [None, None]),
])
def test_long_lists_are_read_no_further_than_the_text_was(hostile, made, monkeypatch, sources, of):
    """One corpus after another, and one file after another, until there is more than the text had."""
    read_ = []
    text = corpora.text
    monkeypatch.setattr(corpora, "text", lambda name: read_.append(name) or text(name))
    of = [[[f"{made}/corpus.txt", 1500]] * 20_000] if of == "all" else of
    hostile.write(sources, old=of is None, **({"of": of} if of else {}))
    assert hostile.why() and len(read_) < 5 and len(hostile.opened) < 4
    assert len(refused(hostile.resume("--steps", 5))) < 1000 and len(read_) < 7


def test_a_text_that_would_fill_the_disk_is_not_begun(hostile, made):
    hostile.write(characters=2**53, sources=["numpy"] * 1000, of=[None] * 1000)
    assert "has no room for its 9,007,199,254,740,992 symbols" in hostile.why()
    assert "training.settings.split.train is 1,350, but the corpus splits into" in refused(hostile.resume("--steps", 5))


def test_a_gzipped_file_is_unpacked_no_further_than_the_text_was(hostile):
    """It is a hundred times as long as it says."""
    bomb = hostile.home / "bomb.txt"
    bomb.write_bytes(gzip.compress(b"a b " * 10_000_000))
    hostile.write(["bomb.txt"], of=[[[str(bomb), bomb.stat().st_size]]])
    assert hostile.why() == "there are more than the 1,500 symbols that there may be"
    assert "there are more than the 1,500 symbols" in refused(hostile.resume("--steps", 5))


@pytest.mark.parametrize("sources", [["numpy"] * 20_000, ["corpus.txt"]])
def test_no_more_than_half_of_the_disk_is_read_where_another_text_is_allowed(hostile, made, monkeypatch, sources):
    monkeypatch.setattr(recorded.shutil, "disk_usage", lambda folder: SimpleNamespace(free=3200))
    of = [None] * len(sources) if len(sources) > 1 else [[[f"{made}/corpus.txt", 1500]] * 20_000]
    hostile.write(sources, of=of)
    line = refused(hostile.resume("--steps", 5, "--allow-new-corpus"))
    assert "more than the 1,600 symbols that there may be" in line and NAME_IT in line


@pytest.mark.parametrize("old", [True, False])
def test_a_name_of_a_million_characters_or_with_escapes_is_shown_in_one_short_line(hostile, old):
    for path in ("/" + "x" * 1_000_000, "/a\nb\x1b[2J\u202ec", "/dev/null\r"):
        hostile.write([path], old=old, of=[[[path, 9]]])
        result = hostile.resume("--steps", 5)
        for words in (hostile.why(), refused(result, result.code)):
            assert result.code and len(words) < 1000 and words.isprintable()


def test_stdin_beside_files_is_not_read_by_score_and_waited_for_by_none(hostile, monkeypatch):
    hostile.write(["-", "/dev/zero"], of=[None, None])
    assert hostile.why() == "it came from stdin" and hostile.opened == [f"{hostile.home}/other.txt"]
    assert "'/dev/zero' was no regular file" in refused(hostile.resume("--steps", 5))
    hostile.write(["-"], of=[None])
    monkeypatch.setattr("sys.stdin", open("/dev/null"))
    line = refused(hostile.resume("--steps", 5))
    assert "stdin is empty" in line and "pipe the text in again" in line and NAME_IT in line


def test_a_terminal_is_not_read_where_a_pipe_was(hostile, monkeypatch):
    hostile.write(["-"], of=[None])
    monkeypatch.setattr("sys.stdin", SimpleNamespace(buffer=None, isatty=lambda: True))
    line = refused(hostile.resume("--steps", 5))
    asked = "run read its text from stdin: pipe it in again, or name the text where it lies now"
    assert line == f"rnncore: {asked}, {NAME_IT}"
    monkeypatch.setattr("sys.stdin", None)
    assert "stdin is closed" in refused(hostile.resume("--steps", 5))


def test_a_last_file_that_is_a_pipe_or_of_another_text_stops_nothing(hostile):
    (hostile.home / "corpus.txt").write_text(TEXT[:1500])
    os.unlink("run/last.safetensors")
    os.mkfifo("run/last.safetensors")
    assert hostile.why() is None  # as where there is none: the plain path
    os.unlink("run/last.safetensors")
    for data in (b"", b"{}", bytes(8), (hostile.home / "run/best.safetensors").read_bytes()):
        (hostile.home / "run/last.safetensors").write_bytes(data)
        assert "run/last.safetensors" in hostile.why()


def test_names_with_nul_and_relative_paths_are_no_files(hostile):
    for path in ("/a\0b", "corpus.txt", "", "../x"):
        hostile.write(of=[[[path, 1500]]])
        assert "training.settings.files.of" in hostile.why()
        assert "training.settings.files.of" in refused(hostile.resume("--steps", 5))


def test_what_a_card_began_from_is_never_opened(hostile):
    for name in ("best", "last"):
        path = hostile.home / f"run/{name}.safetensors"
        document, tensors = read_model(path)
        for field in ("init_from", "origin"):
            document = changed(document, ("card", field), "/dev/zero")
            if name == "last":
                document = changed(document, ("training", "settings", field), f"{hostile.home}/pipe")
        path.write_bytes(sealed(document, tensors))
    assert hostile.why() is None and hostile.resume("--steps", 5).code == 0
    for args in (("info", "run"), ("info", "run", "--verify"), ("neurons", "run", "other.txt"),
                 ("generate", "run", "-n", 9)):
        assert hostile(*args).code == 0, args
        assert not {"/dev/zero", f"{hostile.home}/pipe"} & {*hostile.opened}


def test_a_report_reads_no_more_than_score(hostile):
    pytest.importorskip("matplotlib")
    hostile.write(["/dev/zero"], old=True)
    (hostile.home / "run/passage.txt").unlink(missing_ok=True)
    result = hostile("report", "run")
    assert result.code == 0 and "is not at hand (/dev/zero is no regular file): what it reads" in result.err
    assert "/dev/zero" not in hostile.opened


# The list

def test_a_list_that_would_be_too_long_is_left_out_and_the_text_is_asked_for(hostile, made, monkeypatch):
    monkeypatch.setattr(metadata, "LISTED", 60)
    corpus(hostile.home, TEXT[:1500])
    assert hostile("train", "corpus.txt", "--steps", 2, "--layers", 1, "--hidden", 8, "-o", "long").code == 0
    assert read_last(Path("long"))[0]["training"]["settings"]["files"] is None
    line = refused(hostile("train", "--resume", "-o", "long", "--steps", 4))
    assert "too many to be listed" in line and "`rnncore train PATH --resume -o long`" in line
    found = json.loads(hostile("score", "long", "other.txt", "--json").out)
    assert "too many to be listed" in found["no_floor"] and f"{hostile.home}/corpus.txt" not in hostile.opened
    assert hostile("train", "corpus.txt", "--resume", "-o", "long", "--steps", 4).code == 0
    monkeypatch.undo()


def test_as_long_as_it_may_be_it_is_read_again(tmp_path):
    """A list of 8 MB beside the largest vocabulary is no header that is too long."""
    assert metadata.LISTED == 8 << 20 and metadata.HEADER > metadata.LISTED + 10_000_000
    settings: dict = {}
    found = read([str(corpus(tmp_path))])
    for count in (100_000, 200_000):
        of = [[[f"/{'x' * 50}/{k:06}", k] for k in range(count)]]
        places.keep(settings, SimpleNamespace(record=Record(of, "/")))
        assert (settings["files"] is None) == (count > 150_000)
    assert found.record.of == [[[str(tmp_path / "corpus.txt"), len(TEXT)]]]


def test_the_size_is_that_of_what_was_opened_and_no_more_is_read(tmp_path, monkeypatch):
    path = corpus(tmp_path, "abab")
    record = Record([[[str(path), 4]]], "/", 4)
    assert read([str(path)], record=record).text == "abab"
    reads = recorded.Regular.read

    def grows(self, size):
        with path.open("a") as file:
            file.write("more")
        return reads(self, size)

    monkeypatch.setattr(recorded.Regular, "read", grows)
    assert read([str(path)], record=record).text == "abab"
    with pytest.raises(CorpusError, match="has 12 bytes, and had 4"):
        read([str(path)], record=record)


def test_another_file_that_takes_the_place_of_one_that_was_looked_at_is_not_read(tmp_path, monkeypatch):
    path = corpus(tmp_path, "abab")
    monkeypatch.setattr(recorded, "why_not", lambda path, size: None)
    with pytest.raises(CorpusError, match="has 4 bytes, and had 5"):
        read([str(path)], record=Record([[[str(path), 5]]], "/", 4))
    os.unlink(path)
    os.mkfifo(path)
    with pytest.raises(CorpusError, match="is no regular file"):
        read([str(path)], record=Record([[[str(path), 4]]], "/", 4))


def test_what_is_no_regular_file_is_learnt_and_asked_for(tmp_path):
    """A FIFO, as a shell's <(command) is one: it is the user who names it."""
    os.mkfifo(tmp_path / "pipe")
    args = "train", "pipe", "--steps", 2, "--layers", 1, "--hidden", 8, "-o", "run"
    command = 'printf "abcab%.0s" $(seq 200) > pipe & exec "$@"'
    done = subprocess.run(["bash", "-c", command, "x", *COMMAND, *map(str, args)], cwd=tmp_path, env=ENVIRONMENT,
                          capture_output=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    line = refused(run("train", "--resume", "-o", "run", "--steps", 4, cwd=tmp_path))
    assert "'pipe' was no regular file: name the text where it lies now, `" in line
    assert line.endswith("rnncore train PATH --resume -o run`")
