"""One file from a server that stalls, breaks off, lies, answers 404 or 500, then works: whole and right, or refused."""
import hashlib
import os
import resource
import socket
import sys
import time

import pytest
from conftest import NetworkUsed
from http_server import serve

from rnncore.data import download
from rnncore.data.decode import CorpusError
from rnncore.data.download import DownloadError, Patience

pytest.importorskip("pooch", reason="downloads want pooch: pip install pooch")
TEXT = "".join(f"line {k} of a play\n" for k in range(2000)).encode()
LENGTH = len(TEXT)
SHA256 = hashlib.sha256(TEXT).hexdigest()
QUICK = Patience(tries=3, pause=0.01, silence=0.3, slowest=500)


@pytest.fixture
def server():
    with serve({"/a.txt": TEXT, "/mirror/a.txt": TEXT}) as running:
        yield running


@pytest.fixture
def fetch(tmp_path, server):
    """download() of a.txt into a folder that is not there yet; what it said is in fetch.said."""
    def call(*urls, sha256=SHA256, size=LENGTH, patience=QUICK):
        call.said, call.moves = [], []
        return download.download(urls or [server.url + "a.txt"], call.path, sha256, size, patience,
                                 call.said.append, call.moves.append)

    call.path = tmp_path / "cache" / "corpora" / "a.txt"
    return call


def left(fetch) -> list[str]:
    """What lies in the folder."""
    return sorted(os.listdir(fetch.path.parent))


def test_no_test_leaves_this_machine():
    """The guard itself: addresses, look-ups, and what an error handler would swallow."""
    for address in ("192.0.2.1", "2001:db8::1"):
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        with socket.socket(family) as s, pytest.raises(NetworkUsed):
            s.connect((address, 80))
    with pytest.raises(NetworkUsed, match="raw.githubusercontent.com"):
        socket.create_connection(("raw.githubusercontent.com", 443), 1)
    assert not issubclass(NetworkUsed, Exception) and os.environ["HTTPS_PROXY"] == "http://127.0.0.1:9"


def test_a_file_comes_whole_and_its_bytes_are_counted(fetch, server):
    assert fetch() == server.url + "a.txt"
    assert fetch.path.read_bytes() == TEXT and left(fetch) == ["a.txt"] and fetch.said == []
    assert fetch.moves == sorted(fetch.moves) and fetch.moves[-1] == len(TEXT) and len(fetch.moves) > 10
    assert fetch.path.parent.parent.stat().st_mode & 0o077 == 0  # compiled code is kept there too


@pytest.mark.parametrize("deed, words", [
    (500, "it answers 500 Internal Server Error"), (503, "it answers 503"), (429, "it answers 429"),
    ("cut", "the connection broke off"), ("cut_unsaid", f"the connection broke off after {len(TEXT) // 2:,} of"),
    ("stall", "silent for too long"), ("mute", "silent for too long"),
    ("page", "it answers with a web page instead of the file"),
])
def test_what_fails_once_is_tried_again(fetch, server, deed, words):
    server.todo = [deed]
    fetch()
    assert fetch.path.read_bytes() == TEXT and left(fetch) == ["a.txt"] and len(server.asked) == 2
    (line,) = fetch.said
    assert line.startswith("a.txt: 127.0.0.1:") and words in line and line.endswith("; trying again in 0.01 s")


@pytest.mark.parametrize("deed, words, asked", [
    (404, "it answers 404 Not Found", 1), (403, "it answers 403 Forbidden", 1), (500, "it answers 500", 3),
    ("lie", "it serves another file (its sha256 is wrong; nothing was kept)", 1), ("cut", "broke off", 3),
    ("endless", f"it sends more than {len(TEXT):,} bytes: another file", 1), ("stall", "silent for too long", 3),
    ("mute", "silent for too long", 3), ("drip", "slower than 500,000 bytes/s", 3),
])
def test_what_keeps_failing_is_refused_in_one_line(fetch, server, deed, words, asked):
    server.todo = [deed] * 9
    begun = time.monotonic()
    with pytest.raises(DownloadError) as caught:
        fetch(patience=Patience(3, 0.01, 0.3, 500_000))
    assert str(caught.value).startswith("a.txt could not be downloaded: 127.0.0.1:") and words in str(caught.value)
    assert len(server.asked) == asked and left(fetch) == [] and "\n" not in str(caught.value)
    assert time.monotonic() - begun < 5 and caught.value.wrong == (deed in ("lie", "endless"))


def test_a_file_of_unknown_size_ends_somewhere(fetch, server, monkeypatch):
    monkeypatch.setattr(download, "MOST", 100_000)
    server.todo = ["endless"]
    with pytest.raises(DownloadError, match="it sends more than 100,000 bytes"):
        fetch(sha256=None, size=None)
    server.todo = ["cut"]
    fetch(sha256=None, size=None)
    assert fetch.path.read_bytes() == TEXT and "broke off" in fetch.said[0]


def test_the_next_mirror_takes_over(fetch, server):
    urls = [server.url + "nothing.txt", server.url + "mirror/a.txt"]
    assert fetch(*urls) == urls[1] and fetch.said == []
    assert server.asked == ["/nothing.txt", "/mirror/a.txt"]


def test_an_address_that_is_wrong_for_good_is_not_asked_again(fetch, server):
    server.todo = [404, 500, "whole"]
    fetch(server.url + "a.txt", server.url + "mirror/a.txt")
    assert server.asked == ["/a.txt", "/mirror/a.txt", "/mirror/a.txt"]


def test_a_refused_connection_is_named_without_the_password(fetch):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://user:secret@127.0.0.1:{free.getsockname()[1]}/a.txt"
        with pytest.raises(DownloadError, match=r"127.0.0.1:\d+: connection refused") as caught:
            fetch(url)
    assert "secret" not in str(caught.value) + "".join(fetch.said)


@pytest.mark.parametrize("said, words", [
    ("Failed to resolve 'a.b' ([Errno -2] Name or service not known)", "its name cannot be looked up"),
    ("Unable to connect to proxy', OSError('Tunnel failed')", "the proxy does not let it through"),
    ("certificate verify failed", "its certificate is not trusted here"),
    ("[Errno 101] Network is unreachable", "it cannot be reached"), ("odd", "SomeError"),
])
def test_what_else_the_network_says(fetch, monkeypatch, said, words):
    def fail(*_):
        raise type("SomeError", (OSError,), {})(f"with url: /a/proxy.txt (Caused by {said})")

    monkeypatch.setattr("pooch.HTTPDownloader.__call__", fail)
    with pytest.raises(DownloadError, match=f"127.0.0.1: {words}"):
        fetch("http://127.0.0.1/a.txt")


def test_a_redirection_is_followed(fetch, server):
    server.todo = ["move"]
    fetch()
    assert fetch.path.read_bytes() == TEXT and fetch.said == []


def test_a_wrong_download_leaves_the_old_file(fetch, server):
    fetch.path.parent.mkdir(parents=True)
    fetch.path.write_bytes(b"old")
    server.todo = ["lie"]
    with pytest.raises(DownloadError):
        fetch()
    assert fetch.path.read_bytes() == b"old" and left(fetch) == ["a.txt"]
    fetch()
    assert fetch.path.read_bytes() == TEXT


def test_temporary_files_of_killed_downloads_are_swept(fetch):
    fetch.path.parent.mkdir(parents=True)
    for name in ("tmpold", "tmpnew"):
        (fetch.path.parent / name).write_text("half")
    os.utime(fetch.path.parent / "tmpold", (0, 0))
    fetch()
    assert left(fetch) == ["a.txt", "tmpnew"]


def test_a_folder_that_cannot_be_made(fetch):
    fetch.path.parent.parent.write_text("a file in its place")
    with pytest.raises(CorpusError, match="cache/corpora cannot be written .*make room .*XDG_CACHE_HOME"):
        fetch()


def test_a_full_disk_is_named_and_leaves_no_file(fetch, server):
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, before[1]))  # as if there were room for no more
    try:
        with pytest.raises(CorpusError, match=r"corpora cannot be written \(File too large\): make room"):
            fetch()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert left(fetch) == [] and len(server.asked) == 1  # no matter of the network: not tried again


def test_an_error_of_the_disk_is_none_of_the_network():
    transfer = download.Transfer(None, QUICK, lambda done: None)
    transfer.begun = time.monotonic()
    with open("/dev/full", "wb", buffering=0) as transfer.file:
        with pytest.raises(CorpusError, match=r"^/dev cannot be written \(No space left on device\)"):
            transfer.write(b"text")


def test_without_pooch_it_is_named(fetch, server, monkeypatch):
    monkeypatch.setitem(sys.modules, "pooch", None)
    with pytest.raises(CorpusError, match="`pip install pooch`$"):
        fetch()
    assert server.asked == []
