"""The named corpora: where from, whole, sorted, decoded, read before files of the same name; and two real texts."""
import hashlib
import os
import sys
import types
from importlib.util import find_spec
from pathlib import Path

import pytest

from rnncore.data import corpora
from rnncore.data.download import Patience
from rnncore.data.guess import likely
from rnncore.data.text import CorpusError, read

CORPORA = os.environ.get("RNNCORE_CORPORA")
real = pytest.mark.skipif(not CORPORA, reason="RNNCORE_CORPORA names no folder of large real texts")


def test_every_name_has_a_text_and_one_line_about_it():
    for name, named in corpora.NAMES.items():
        assert named.about and "\n" not in named.about and named.licence
        assert named.files or len(corpora.text(name)) > 100_000


def test_where_the_downloads_are_from(monkeypatch):
    """Addresses, sizes and hashes as they were looked up, written out; a mirror has the names of the cache folder."""
    monkeypatch.delenv("RNNCORE_CORPORA_URL", raising=False)
    raw, cdn = corpora.addresses("tinyshakespeare")
    commit = "6f9487a6fe5b420b7ca9afb0d7c078e37c1d1b4e/data/tinyshakespeare/"
    assert raw == f"https://raw.githubusercontent.com/karpathy/char-rnn/{commit}"
    assert cdn == f"https://cdn.jsdelivr.net/gh/karpathy/char-rnn@{commit}"
    raw, cdn = corpora.addresses("hugo")
    commit = "28f5d57d9ff9bb132cad203f0743d9ddfe31c5ae/data/hugo-les-mis%C3%A9rables-original/boilerplate-removed/"
    assert raw == f"https://raw.githubusercontent.com/ariddell/tatom/{commit}"
    assert cdn == f"https://cdn.jsdelivr.net/gh/ariddell/tatom@{commit}"
    assert corpora.addresses("shakespeare") == ["https://cs.stanford.edu/people/karpathy/char-rnn/"]
    asked = []
    monkeypatch.setattr(corpora, "download", lambda urls, *_: asked.extend(urls) or urls[0])
    with pytest.raises(CorpusError):  # nothing came
        corpora.fetch("hugo", Patience(), asked.append, asked.append)
    assert asked[:2] == [raw + "les-mis%C3%A9rables-tome-1-fantine-pg17489.txt",
                         cdn + "les-mis%C3%A9rables-tome-1-fantine-pg17489.txt"] and len(asked) == 10
    monkeypatch.setenv("RNNCORE_CORPORA_URL", "http://a/b https://c/")
    assert corpora.addresses("hugo") == ["http://a/b/", "https://c/"]
    with pytest.raises(CorpusError):
        corpora.fetch("hugo", Patience(), asked.append, asked.append)
    assert asked[-2:] == ["http://a/b/hugo-5.txt", "https://c/hugo-5.txt"]


def test_what_is_not_here_is_not_downloaded_by_reading():
    with pytest.raises(CorpusError, match="^the corpus hugo is not here: `rnncore corpus fetch hugo`$"):
        read(["hugo"])


@real
def test_the_tomes_are_the_file_of_the_four():
    whole, start = Path(CORPORA, "hugo-les-miserables-1-4.txt").read_bytes(), 0
    for file in corpora.NAMES["hugo"].files[:4]:
        assert hashlib.sha256(whole[start:start + file.size]).hexdigest() == file.sha256
        start += file.size
    assert start == len(whole)


def test_numpy_is_all_its_python_in_the_order_of_the_paths():
    root = Path(find_spec("numpy").origin).parent
    names = sorted(str(path.relative_to(root)) for path in root.rglob("*") if path.suffix == ".py")
    whole = ""
    for name in names:
        if whole and not whole.endswith("\n"):
            whole += "\n"
        whole += (root / name).read_bytes().decode()
    assert corpora.text("numpy") == whole


def test_python_docs_are_the_topics_by_key():
    from pydoc_data.topics import topics
    text = corpora.text("python-docs")
    assert text.startswith(topics[min(topics)] + "\n") and text.endswith("\n" + topics[max(topics)])
    assert len(text) == sum(map(len, topics.values())) + len(topics) - 1


def test_topics_in_another_order_are_the_same_corpus(monkeypatch):
    module = types.SimpleNamespace(topics={"b": "two\n", "a": "one\n"})
    monkeypatch.setitem(sys.modules, "pydoc_data.topics", module)
    assert corpora.text("python-docs") == "one\n\ntwo\n"


@pytest.mark.parametrize("module", [None, types.SimpleNamespace()], ids=["no module", "an empty one"])
def test_a_python_without_its_topics(monkeypatch, module):
    monkeypatch.setitem(sys.modules, "pydoc_data.topics", module)
    with pytest.raises(CorpusError, match="this Python came without pydoc_data; use the corpus numpy") as caught:
        read(["python-docs"])
    assert "\n" not in str(caught.value)


def test_a_python_without_numpy(monkeypatch):
    monkeypatch.setattr(corpora, "find_spec", lambda name: None)
    with pytest.raises(CorpusError, match="pip install numpy"):
        corpora.text("numpy")


def test_an_unknown_corpus_is_refused_with_the_known_names():
    with pytest.raises(CorpusError, match="no corpus is called 'shakespear': there are numpy, python-docs, tiny"):
        corpora.text("shakespear")


def test_a_named_corpus_wins_over_a_file_and_says_so(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert read(["python-docs"]).notes == ()
    Path("python-docs").write_text("my own\n")
    corpus = read(["python-docs"])
    assert corpus.name == "python-docs" and corpus.text == corpora.text("python-docs")
    assert corpus.notes == (
        "python-docs is read as the named corpus: write ./python-docs for the file or folder of that name",)
    assert read(["./python-docs"]).text == "my own\n"


def test_a_named_corpus_has_its_own_encoding_and_is_normalised_as_files_are(monkeypatch, tmp_path):
    (tmp_path / "a.py").write_bytes("\ufeffé = 1\r\n".encode())
    monkeypatch.setattr(corpora, "find_spec", lambda name: type("Spec", (), {"submodule_search_locations": [tmp_path]}))
    corpus = read(["numpy"], encoding="utf-16")
    assert corpus.text == "é = 1\n" and len(corpus.notes) == 2


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """An empty one."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@real
def test_four_tomes_put_one_after_the_other():
    path = Path(CORPORA, "hugo-les-miserables-1-4.txt")
    corpus = read([str(path)])
    assert corpus.notes == ("dropped 4 byte order marks",
                            "normalised 52,966 CRLF line ends to LF (--newline keep leaves them)")
    assert corpus.text == path.read_bytes().decode().replace("\ufeff", "").replace("\r\n", "\n")
    assert len(corpus.text) == 2_521_352 - 4 - 52_966 and corpus.name == "hugo-les-miserables-1-4"


@real
@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be", "cp1252"])
def test_a_real_text_in_another_encoding_is_known_for_it(encoding):
    text = read([str(Path(CORPORA, "hugo-les-miserables-1-4.txt"))]).text
    assert likely(text.encode(encoding)) == {"cp1252": "latin-1"}.get(encoding, encoding)


@real
def test_a_text_with_nothing_to_mend_is_itself():
    corpus = read([str(Path(CORPORA, "tinyshakespeare.txt"))])
    assert corpus.notes == () and corpus.sha256 == "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed"
