"""`rnncore corpus`, and named corpora in `train` and `score`, as a user meets them; every server is one of ours."""
import hashlib
import json
import os
import pty
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from cli_helpers import COMMAND, ENVIRONMENT, SMALL, TEXT, call, files, refused, run
from http_server import serve

from rnncore.cli import corpus as command
from rnncore.data import corpora
from rnncore.data.download import Patience
from rnncore.data.text import read

pytest.importorskip("pooch", reason="downloads want pooch: pip install pooch")
CORPORA = os.environ.get("RNNCORE_CORPORA")
real = pytest.mark.skipif(not CORPORA, reason="RNNCORE_CORPORA names no folder of large real texts")
TOMES = {f"hugo-{k}.txt": f"\ufeffTome {k}, où il y a de la joie.\r\nFin.{end}".encode()
         for k, end in enumerate(["\r\n", "\r\n", "", "\r\n", "\r\n"], 1)}
PLAYS = TEXT.encode()


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> Path:
    """An empty cache of the user's, a short pause, and a folder to work in."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(command, "PATIENCE", Patience(pause=0.01, silence=0.3))
    return tmp_path / "cache" / "rnncore" / "corpora"


@pytest.fixture
def server(monkeypatch):
    """A mirror of a small hugo and a small shakespeare; the real hugo's names with other sizes and hashes."""
    parts = tuple(file._replace(size=len(TOMES[file.name]), sha256=hashlib.sha256(TOMES[file.name]).hexdigest())
                  for file in corpora.NAMES["hugo"].files)
    monkeypatch.setitem(corpora.NAMES, "hugo", corpora.NAMES["hugo"]._replace(files=parts))
    with serve({f"/{name}": text for name, text in {**TOMES, "shakespeare.txt": PLAYS}.items()}) as running:
        monkeypatch.setenv("RNNCORE_CORPORA_URL", running.url)
        yield running


def process(*args, cache: Path, url: str, **options):
    """rnncore in a process."""
    return run(*args, cwd=os.getcwd(), env=environment(cache, url), **options)


def environment(cache: Path, url: str) -> dict[str, str]:
    """What a process needs for these; without compiled loops, for in an empty cache they would be compiled first."""
    return ENVIRONMENT | {"RNNCORE_CORPORA_URL": url, "RNNCORE_NATIVE": "0", "XDG_CACHE_HOME": str(cache.parent.parent)}


# list

def test_the_list_says_what_is_here(capsys, server):
    result = call(capsys, "corpus", "list")
    rows = {line.split()[0]: line for line in result.out.splitlines()}
    assert result.code == 0 and result.err == "" and list(rows) == list(corpora.NAMES)
    assert "here" in rows["numpy"] and "BSD" in rows["numpy"] and "here" in rows["python-docs"]
    assert f"{sum(map(len, TOMES.values())):,} bytes  absent" in rows["hugo"] and "public domain" in rows["hugo"]
    assert "size not known  absent" in rows["shakespeare"] and "1,115,394 bytes  absent" in rows["tinyshakespeare"]


def test_the_list_as_json(capsys, server, cache):
    def rows() -> dict:
        return {row["name"]: row for row in json.loads(call(capsys, "corpus", "list", "--json").out)}

    assert rows()["hugo"]["state"] == "absent" and rows()["shakespeare"]["bytes"] is None
    assert call(capsys, "corpus", "fetch", "hugo", "shakespeare").code == 0
    found = rows()
    assert found["hugo"]["here"] is True and found["shakespeare"]["bytes"] == len(PLAYS)
    assert found["hugo"]["addresses"] == [server.url] and found["numpy"]["licence"] == "BSD"
    (cache / "hugo-2.txt").unlink()
    assert rows()["hugo"]["state"] == "4 of 5 files" and rows()["hugo"]["here"] is False
    (cache / "shakespeare.txt").write_text("other")
    assert rows()["shakespeare"]["state"] == "changed"


# fetch and path

def test_five_tomes_are_one_text(capsys, server, cache):
    result = call(capsys, "corpus", "fetch", "hugo")
    assert result.code == 0 and result.out == ""
    size, host = sum(map(len, TOMES.values())), server.url[7:-1]
    assert result.err.splitlines() == [
        f"downloading hugo (Les Misérables, five tomes in French): 5 files, {size:,} bytes, from {host}",
        f"hugo: {size:,} bytes in {cache}, sha256 as expected"]
    assert files(cache) == TOMES
    corpus = read(["hugo"])
    assert corpus.text == "".join(f"Tome {k}, où il y a de la joie.\nFin.\n" for k in range(1, 6))
    assert corpus.name == "hugo" and corpus.notes[0] == "dropped 5 byte order marks"
    paths = call(capsys, "corpus", "path", "hugo").out.splitlines()
    assert paths == [str(cache / name) for name in TOMES]


def test_what_is_here_is_not_downloaded_again(capsys, server):
    call(capsys, "corpus", "fetch", "hugo")
    server.asked.clear()
    again = call(capsys, "corpus", "fetch", "hugo", "numpy", "python-docs")
    assert again.code == 0 and server.asked == []
    assert again.err.splitlines() == ["hugo is here already", "numpy came with the installation",
                                      "python-docs came with the installation"]


def test_a_fetch_goes_on_where_it_was_stopped(capsys, server, cache):
    server.todo = ["whole", "whole", 404]
    line = call(capsys, "corpus", "fetch", "hugo").err.splitlines()[-1]
    assert line.startswith("rnncore: hugo-3.txt could not be downloaded: 127.0.0.1:") and "404 Not Found" in line
    assert sorted(files(cache)) == ["hugo-1.txt", "hugo-2.txt"]
    assert "hugo is not here whole (3 of 5 files missing): `rnncore corpus fetch hugo`" in refused(
        call(capsys, "corpus", "path", "hugo"))
    server.asked.clear()
    result = call(capsys, "corpus", "fetch", "hugo")
    assert result.code == 0 and server.asked == ["/hugo-3.txt", "/hugo-4.txt", "/hugo-5.txt"]
    assert "3 files, " in result.err and files(cache) == TOMES


def test_a_server_that_does_everything_wrong_once(capsys, server, cache):
    server.todo = [500, "stall", "whole", "cut", "page", "whole", "mute"]
    result = call(capsys, "corpus", "fetch", "hugo", "--timeout", 0.3)
    assert result.code == 0 and files(cache) == TOMES and result.err.count("; trying again in ") == 5


def test_a_wrong_file_is_refused_and_not_kept(capsys, server, cache):
    server.todo = ["lie"]
    result = call(capsys, "corpus", "fetch", "hugo")
    assert result.code == 1 and files(cache) == {}
    assert "it serves another file (its sha256 is wrong; nothing was kept)" in result.err.splitlines()[-1]


def test_several_mirrors_are_tried_in_turn_and_the_one_that_works_goes_first(capsys, server, monkeypatch):
    with serve({}) as empty:
        monkeypatch.setenv("RNNCORE_CORPORA_URL", f"{empty.url} {server.url}")
        result = call(capsys, "corpus", "fetch", "hugo")
        assert result.code == 0 and f"from {empty.url[7:-1]}, else {server.url[7:-1]}" in result.err
        assert empty.asked == ["/hugo-1.txt"] and len(server.asked) == 5


@pytest.mark.parametrize("mirror", ["ftp://host/a", "host/a", "http://", "/srv/corpora"])
def test_a_mirror_that_is_no_address(capsys, monkeypatch, mirror):
    monkeypatch.setenv("RNNCORE_CORPORA_URL", mirror)
    line = refused(call(capsys, "corpus", "fetch", "hugo"))
    assert line == (f"rnncore: RNNCORE_CORPORA_URL is {mirror!r}: name the address of a mirror, "
                    "as in http://host/corpora")


def test_unknown_names_and_absent_corpora(capsys):
    for verb in ("fetch", "path"):
        assert "'hogo' is not one of 'numpy', 'python-docs', 'tinyshakespeare', 'hugo', 'shakespeare'" in refused(
            call(capsys, "corpus", verb, "hogo"), 2)
    assert refused(call(capsys, "corpus", "path", "hugo")) == (
        "rnncore: the corpus hugo is not here: `rnncore corpus fetch hugo`")
    nothing = call(capsys, "corpus", "fetch")
    assert nothing.code == 2 and "Missing argument 'NAME...'" in nothing.err
    paths = call(capsys, "corpus", "path", "numpy").out.splitlines()
    assert len(paths) > 100 and all(Path(path).is_file() for path in paths)
    assert Path(call(capsys, "corpus", "path", "python-docs").out.strip()).name == "topics.py"


def test_without_pooch_one_line_names_the_cure(capsys, server, monkeypatch):
    monkeypatch.setitem(sys.modules, "pooch", None)
    line = refused(call(capsys, "corpus", "fetch", "hugo"))
    assert line.startswith("rnncore: a download needs pooch, which cannot be imported here (")
    assert line.endswith("-m pip install --upgrade 'pooch>=1.8.0'`")


def test_without_a_network_a_fetch_ends_with_the_reason_and_no_file(capsys, cache):
    """The addresses of the project itself; conftest's proxy, which is not there, stands for a network that is down."""
    result = call(capsys, "corpus", "fetch", "tinyshakespeare", "--tries", 1)
    assert result.code == 1 and result.out == "" and files(cache) == {}
    first, last = result.err.splitlines()
    assert first == ("downloading tinyshakespeare (40,000 lines of Shakespeare, char-rnn's and nanoGPT's): 1 file, "
                     "1,115,394 bytes, from raw.githubusercontent.com, else cdn.jsdelivr.net")
    assert last == ("rnncore: tinyshakespeare.txt could not be downloaded: raw.githubusercontent.com, "
                    "cdn.jsdelivr.net: the proxy does not let it through; look to the network (behind a proxy, set HTTPS_PROXY) "
                    "and call `rnncore corpus fetch tinyshakespeare` again, name a mirror in RNNCORE_CORPORA_URL, or put the file "
                    f"there by hand: {cache / 'tinyshakespeare.txt'}")


# shakespeare, whose sha256 is not known before

def test_the_first_download_is_what_later_ones_are_compared_with(capsys, server, cache):
    first = call(capsys, "corpus", "fetch", "shakespeare").err
    record = cache / "shakespeare.txt.sha256"
    assert "size not known" in first and "sha256 not known before" in first and f"is stored in {record}" in first
    assert record.read_text() == f"{hashlib.sha256(PLAYS).hexdigest()}  shakespeare.txt\n"
    (cache / "shakespeare.txt").unlink()
    again = call(capsys, "corpus", "fetch", "shakespeare")
    assert again.code == 0 and "sha256 as expected" in again.err and "is stored in" not in again.err
    (cache / "shakespeare.txt").unlink()
    server.files["/shakespeare.txt"] = PLAYS.upper()
    line = call(capsys, "corpus", "fetch", "shakespeare").err.splitlines()[-1]
    assert "another file" in line and f"it is not what the first download was; delete {record} to take it" in line
    assert sorted(files(cache)) == ["shakespeare.txt.sha256"]
    record.unlink()
    assert call(capsys, "corpus", "fetch", "shakespeare").code == 0
    assert (cache / "shakespeare.txt").read_bytes() == PLAYS.upper()


def test_a_file_that_changed_is_refused_until_it_is_fetched_again(capsys, server, cache):
    call(capsys, "corpus", "fetch", "shakespeare")
    with (cache / "shakespeare.txt").open("a") as file:
        file.write("!")
    line = refused(call(capsys, "train", "shakespeare", "--steps", 1, *SMALL))
    assert line == (f"rnncore: {cache / 'shakespeare.txt'} is not what was downloaded (its sha256 differs): "
                    "`rnncore corpus fetch shakespeare` replaces it")
    assert call(capsys, "corpus", "fetch", "shakespeare").code == 0
    assert (cache / "shakespeare.txt").read_bytes() == PLAYS


def test_a_file_put_there_by_hand_is_taken(capsys, cache):
    cache.mkdir(parents=True)
    (cache / "shakespeare.txt").write_bytes(PLAYS)
    assert read(["shakespeare"]).text == TEXT
    assert call(capsys, "corpus", "fetch", "shakespeare").err == "shakespeare is here already\n"
    (cache / "shakespeare.txt.sha256").write_text("no hash")
    assert "holds no sha256: delete it" in refused(call(capsys, "corpus", "path", "shakespeare"))


def test_a_folder_in_the_place_of_a_file(capsys, server, cache):
    (cache / "shakespeare.txt").mkdir(parents=True)
    assert f"{cache / 'shakespeare.txt'} is a folder" in call(capsys, "corpus", "fetch", "shakespeare").err


# train and score

def test_train_downloads_what_is_absent_and_says_so(server, cache):
    Path("shakespeare").mkdir()  # the user's own folder of that name
    Path("corpus.txt").write_text(TEXT[::-1])
    options = ("--steps", 2, "--eval-every", 2, *SMALL)
    first = process("train", "shakespeare", *options, cache=cache, url=server.url)
    assert first.code == 0 and first.out == "" and (cache / "shakespeare.txt").read_bytes() == PLAYS
    assert first.err.startswith("downloading shakespeare (all of Shakespeare, char-rnn's): 1 file, size not known, "
                                f"from {server.url[7:-1]}; write ./shakespeare for the file or folder of that name\n")
    assert "shakespeare is read as the named corpus: write ./shakespeare for" in first.err
    (cache / "shakespeare.txt").unlink()
    score = process("score", "runs/shakespeare", "corpus.txt", "--json", cache=cache, url=server.url)
    assert "the corpus shakespeare is not here" in json.loads(score.out)["no_floor"] and score.err == ""
    asked = process("train", "--resume", "--steps", 3, cache=cache, url=server.url)  # a run's file downloads nothing
    assert asked.code == 1 and len(asked.err.splitlines()) == 1 and not (cache / "shakespeare.txt").exists()
    assert "the corpus shakespeare is not here: `" in asked.err and " corpus fetch shakespeare`; or name" in asked.err
    again = process("train", "shakespeare", "--resume", "--steps", 3, cache=cache, url=server.url)
    assert again.code == 0 and again.err.startswith("downloading shakespeare") and "after step 2" in again.err
    more = process("train", "--resume", "--steps", 4, cache=cache, url=server.url)
    assert more.code == 0 and "downloading" not in more.err
    (cache / "shakespeare.txt").unlink()
    score = process("score", "runs/shakespeare", "shakespeare", "--json", cache=cache, url=server.url)
    assert json.loads(score.out)["characters"] == len(TEXT) and score.err.startswith("downloading shakespeare")
    quiet = process("train", "shakespeare", *options, "-o", "two", cache=cache, url=server.url)
    assert quiet.code == 0 and "downloading" not in quiet.err


def test_train_where_nothing_can_be_downloaded(server, cache):
    server.todo = [404]
    result = process("train", "shakespeare", "--steps", 1, *SMALL, cache=cache, url=server.url)
    assert result.code == 1 and len(result.err.splitlines()) == 2 and files(Path.cwd()) == {}
    assert result.err.splitlines()[1].endswith("it answers 404 Not Found; see that RNNCORE_CORPORA_URL names a mirror "
                                               "that has it, or leave that variable out")


@real
def test_the_real_texts_have_the_published_hashes(cache):
    """From the command line: tinyshakespeare, and the first four tomes, as they lie one after the other in one file."""
    whole, start, served = Path(CORPORA, "hugo-les-miserables-1-4.txt").read_bytes(), 0, {}
    for file in corpora.NAMES["hugo"].files[:4]:
        served[f"/{file.name}"] = whole[start:start + file.size]
        start += file.size
    served["/tinyshakespeare.txt"] = Path(CORPORA, "tinyshakespeare.txt").read_bytes()
    with serve(served) as server:
        done = process("corpus", "fetch", "tinyshakespeare", "hugo", cache=cache, url=server.url)
    assert "tinyshakespeare: 1,115,394 bytes" in done.err and "hugo-5.txt could not be downloaded" in done.err
    assert {f"/{name}": text for name, text in files(cache).items()} == served and start == len(whole)
    paths = process("corpus", "path", "tinyshakespeare", cache=cache, url="http://127.0.0.1:9")
    assert paths.out == f"{cache / 'tinyshakespeare.txt'}\n"


# stopping, and terminals

def test_ctrl_c_leaves_nothing_behind(server, cache):
    server.todo = ["stall"]
    child = subprocess.Popen([*COMMAND, "corpus", "fetch", "shakespeare"], stderr=subprocess.PIPE,
                             env=environment(cache, server.url))
    until = time.monotonic() + 20
    while not any(path.stat().st_size for path in cache.glob("tmp*")) and time.monotonic() < until:
        time.sleep(0.02)
    child.send_signal(signal.SIGINT)
    _, err = child.communicate(timeout=20)
    assert child.returncode == 130 and b"Traceback" not in err and files(cache) == {}


def said(terminal: int) -> bytes:
    """What is next on a terminal; nothing once it has been left."""
    try:
        return os.read(terminal, 1 << 16)
    except OSError:
        return b""


def test_a_terminal_shows_a_bar_and_a_pipe_none(server, cache):
    server.todo = ["drip"]
    ours, theirs = pty.openpty()
    child = subprocess.Popen([*COMMAND, "corpus", "fetch", "shakespeare"], stderr=theirs, stdout=subprocess.PIPE,
                             env=environment(cache, server.url) | {"TERM": "xterm", "COLUMNS": "100"})
    os.close(theirs)
    shown = b"".join(iter(lambda: said(ours), b"")).decode()
    os.close(ours)
    assert child.communicate(timeout=20) == (b"", None) and child.returncode == 0
    assert (cache / "shakespeare.txt").read_bytes() == PLAYS
    assert "\x1b[" in shown and "shakespeare.txt" in shown and "sha256 not known before" in " ".join(shown.split())
    (cache / "shakespeare.txt").unlink()
    assert "\x1b" not in process("corpus", "fetch", "shakespeare", cache=cache, url=server.url).err
