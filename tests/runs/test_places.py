"""A run that is taken up from another folder finds its text where it was, or is told where it lies."""

import gzip
import io
import json
import os
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
from cli_helpers import SMALL, TEXT, call, corpus, files, read_last, refused, run, stoppable
from damage import changed, sealed

from rnncore.data import sources
from rnncore.runs.folder import steps_kept


@pytest.fixture
def home(tmp_path, monkeypatch):
    """The folder `there`, with corpus.txt, in which we are; beside it `elsewhere`."""
    for name in ("there", "elsewhere"):
        (tmp_path / name).mkdir()
    corpus(tmp_path / "there")
    monkeypatch.chdir(tmp_path / "there")
    return tmp_path


@pytest.fixture
def train(home, capsys, monkeypatch):
    """`rnncore train ARGS`; `at` stops it after that step, as Ctrl-C does."""
    command = stoppable(capsys, monkeypatch)
    return lambda *args, at=None: command(*args, *(() if "--resume" in args else ("--steps", 60, *SMALL)), at=at)


def remembered(folder) -> tuple[list, list | None]:
    """(the sources as they were given, for each the paths of the files it stood for) in last.safetensors."""
    settings = read_last(Path(folder))[0]["training"]["settings"]
    listed = settings["files"]["of"]
    assert all(Path(path).stat().st_size == size for source in listed if source for path, size in source)
    return settings["corpus"]["sources"], [source and [path for path, _ in source] for source in listed]


def test_a_file_as_it_is_named_from_any_folder(home, monkeypatch):
    there = home / "there"
    for path, wanted in {
        "corpus.txt": f"{there}/corpus.txt",
        "./a//numpy": f"{there}/a/numpy",
        "../elsewhere/x": f"{home}/elsewhere/x",
        "/data/x*.txt": "/data/x*.txt",
        "~x": f"{there}/~x",
    }.items():
        assert sources.absolute(path) == wanted
    (home / "far/away").mkdir(parents=True)
    (there / "link").symlink_to(home / "far/away")
    assert sources.absolute("link/../x") == f"{home}/far/x" and sources.absolute("link/x") == f"{there}/link/x"


# From another folder

BOTH = ["texts/a.txt", "texts/b.txt"]
KINDS = {  # what is given, and the files that each of it stands for
    "a pattern for a folder": (["tex*"], [BOTH]),
    "several": (["texts/b.txt", "corpus.txt", "texts"], [BOTH[1:], ["corpus.txt"], BOTH]),
    "a folder with gzip": (["packed"], [["packed/corpus.txt.gz"]]),
    "a path that is absolute": (["/ABSOLUTE/corpus.txt"], [["corpus.txt"]]),
    "a link": (["link.txt"], [["link.txt"]]),
    "a name with a wildcard": (["b[2].txt"], [["b[2].txt"]]),
    "with a named corpus": (["python-docs", "corpus.txt"], [None, ["corpus.txt"]]),
}


@pytest.mark.parametrize("kind", KINDS)
def test_from_another_folder_it_finds_its_text(train, home, capsys, monkeypatch, kind):
    """And so does score; what has come into a folder since is not part of it."""
    there = home / "there"
    (there / "texts").mkdir()
    (there / "packed").mkdir()
    corpus(there / "texts", TEXT[:3000], "a.txt")
    corpus(there / "texts", TEXT[3000:], "b.txt")
    corpus(there, name="b[2].txt")
    (there / "texts/no-text.png").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(99))
    (there / "link.txt").symlink_to("corpus.txt")
    for name in ("corpus.txt.gz", "packed/corpus.txt.gz"):
        (there / name).write_bytes(gzip.compress(TEXT.encode()))
    given = [source.replace("/ABSOLUTE", str(there)) for source in KINDS[kind][0]]
    assert train(*given, "-o", "run", at=5).code == 130
    wanted = given, [files and [f"{there}/{path}" for path in files] for files in KINDS[kind][1]]
    assert remembered("run") == wanted
    corpus(there / "texts", "since", "c.txt")
    monkeypatch.chdir(home / "elsewhere")
    result = train("--resume", "-o", "../there/run", at=8)
    assert result.code == 130 and "after step 5" in result.err
    assert remembered("../there/run") == wanted  # as it was typed: from there it is right
    corpus(home / "elsewhere", TEXT[::-1], "other.txt")
    assert json.loads(call(capsys, "score", "../there/run", "other.txt", "--json").out)["floor"]["nats_per_char"] > 0
    monkeypatch.chdir(there)
    assert train("--resume", "-o", "run").code == 0


def test_another_text_of_that_name_here_is_not_taken_for_it(train, home, monkeypatch):
    assert train("corpus.txt", "-o", "run", at=5).code == 130
    monkeypatch.chdir(home / "elsewhere")
    for data in (TEXT[:3000].encode(), b"", b"\xff\xfe\x00 no text", b"aaaa"):
        Path("corpus.txt").write_bytes(data)
        assert train("--resume", "-o", "../there/run", "--steps", 9).code == 0
    Path("corpus.txt").unlink()
    Path("corpus.txt").mkdir()  # a folder, and an empty one
    assert train("--resume", "-o", "../there/run", "--steps", 10).code == 0
    assert remembered("../there/run")[1] == [[f"{home}/there/corpus.txt"]]


def test_a_run_and_its_text_that_were_moved_together(train, home, monkeypatch):
    assert train("corpus.txt", "-o", "runs/r", at=5).code == 130
    os.rename(home / "there", home / "moved")
    monkeypatch.chdir(home / "moved")
    assert train("--resume", "-o", "runs/r", at=8).code == 130 and remembered("runs/r")[1] == [
        [f"{home}/moved/corpus.txt"]
    ]
    monkeypatch.chdir(home / "elsewhere")
    assert train("--resume", "-o", "../moved/runs/r", "--steps", 9).code == 0


@pytest.mark.parametrize("kept", [True, False], ids=["today", "from before files were kept"])
def test_a_text_that_is_gone_is_named_with_its_path_and_the_cure_works(train, home, monkeypatch, kept):
    assert train("corpus.txt", "-o", "my run", at=5).code == 130
    if not kept:
        as_before(home / "there/my run")
    shutil.move(home / "there/corpus.txt", home / "elsewhere/text.txt")
    before = files(home)
    monkeypatch.chdir(home / "elsewhere")
    line = refused(train("--resume", "-o", "../there/my run"), 2)
    assert line.startswith(f"rnncore: no 'corpus.txt' in {home}/elsewhere, ") and "named corpora" not in line
    assert (
        f"nor {home}/there/corpus.txt, where ../there/my run read it: "
        if kept
        else "../there/my run remembers its text by that path alone, seen from the folder in which it was begun"
    ) in line
    assert line.endswith("name the text where it lies now, `rnncore train PATH --resume -o '../there/my run'`")
    assert files(home) == before
    assert train("text.txt", "--resume", "-o", "../there/my run", at=8).code == 130
    assert remembered("../there/my run") == (["text.txt"], [[f"{home}/elsewhere/text.txt"]])  # from its next save on
    monkeypatch.chdir(home)
    assert train("--resume", "-o", "there/my run").code == 0


def as_before(folder: Path) -> None:
    """The run as one from before files were kept."""
    document, tensors = read_last(folder)
    (folder / "last.safetensors").write_bytes(sealed(changed(document, ("training", "settings", "files")), tensors))


def test_of_several_those_that_are_gone_are_named(train, home, monkeypatch):
    corpus(home / "there", TEXT[:99], "b.txt")
    assert train("corpus.txt", "b.txt", "-o", "run", at=5).code == 130
    Path("b.txt").unlink()
    monkeypatch.chdir(home / "elsewhere")
    line = refused(train("--resume", "-o", "../there/run"), 2)
    assert "no 'b.txt' in " in line and f"nor {home}/there/b.txt, where" in line and "corpus.txt" not in line


def test_a_path_that_is_named_but_holds_another_text_is_refused_and_not_remembered(train, home):
    assert train("corpus.txt", "-o", "run", at=5).code == 130
    before = files(home / "there/run")
    corpus(home / "there", TEXT[:2000], "other.txt")
    line = refused(train("other.txt", "--resume", "-o", "run"))
    assert "sha256" in line and "rnncore train PATH --resume -o run" in line and "--allow-new-corpus" in line
    assert "'gone.txt'" in refused(train("gone.txt", "--resume", "-o", "run"), 2)
    assert files(home / "there/run") == before
    assert train("other.txt", "--resume", "-o", "run", "--allow-new-corpus", at=8).code == 130
    assert remembered("run") == (["other.txt"], [[f"{home}/there/other.txt"]])
    assert train("--resume", "-o", "run").code == 0


def test_a_changed_text_that_is_allowed_keeps_the_name_that_was_typed(train, home, monkeypatch):
    assert train("corpus.txt", "-o", "run", at=5).code == 130
    corpus(home / "there", TEXT[:3000])
    monkeypatch.chdir(home / "elsewhere")
    assert "sha256" in refused(train("--resume", "-o", "../there/run"))
    assert train("--resume", "-o", "../there/run", "--allow-new-corpus", at=8).code == 130
    assert remembered("../there/run") == (["corpus.txt"], [[f"{home}/there/corpus.txt"]])


def test_named_corpora_and_stdin_are_the_same_everywhere(train, home, monkeypatch):
    assert train("python-docs", "-o", "run", at=2).code == 130 and remembered("run") == (
        ["python-docs"],
        [None],
    )
    text = home / "there/corpus.txt"
    with monkeypatch.context() as patch:
        patch.setattr("sys.stdin", SimpleNamespace(buffer=io.BytesIO(TEXT.encode())))
        assert train("-", "-o", "piped", at=2).code == 130 and remembered("piped") == (["-"], [None])
    monkeypatch.chdir(home / "elsewhere")
    assert train("--resume", "-o", "../there/run", "--steps", 4).code == 0
    piped = ("train", "--resume", "-o", "../there/piped", "--steps")
    assert "stdin" in refused(run(*piped, 4, cwd=home / "elsewhere", stdin=b""))
    assert run(*piped, 4, cwd=home / "elsewhere", stdin=TEXT.encode()).code == 0
    assert train(text, "--resume", "-o", "../there/piped", "--steps", 6).code == 0  # a file in its place, from then on
    assert remembered("../there/piped") == ([str(text)], [[str(text)]])
    assert train("--resume", "-o", "../there/piped", "--steps", 8).code == 0


@pytest.mark.parametrize("given, works", [
    (("corpus.txt.gz", "b.txt"), True), (("{there}/b.txt",), True), (("python-docs",), True),
    (("texts/*.txt",), False), (("corpus.txt", "texts"), False)])
def test_a_run_of_before_finds_plain_files_by_their_names(train, home, capsys, given, works):
    """They are in a list from its next save on. What folders and patterns stood for was not written down."""
    there, score = home / "there", ("score", "run", "other.txt", "--on-unknown", "skip", "--json")
    (there / "texts").mkdir()
    for folder, name in ((there, "b.txt"), (there / "texts", "c.txt"), (there, "other.txt")):
        corpus(folder, TEXT[::-1] if name == "other.txt" else TEXT[:3000], name)
    (there / "corpus.txt.gz").write_bytes(gzip.compress(TEXT.encode()))
    assert train(*(source.format(there=there) for source in given), "-o", "run", "--keep", 2, at=5).code == 130
    document, tensors = read_last(Path("run"))
    document = changed(document, ("training", "settings", "paths"), [f"{there}/{source}" for source in given])
    document = changed(document, ("training", "settings", "files"))
    (there / "run/last.safetensors").write_bytes(sealed(document, tensors))
    before = files(there / "run")
    figures = json.loads(call(capsys, *score).out)
    assert bool(figures["floor"]) == works and ("no_floor" in figures) != works
    if works:
        assert train("--resume", "-o", "run", at=8).code == 130 and remembered("run")[1][0] != []
        assert read_last(Path("run"))[0]["training"]["settings"]["files"]["below"] == str(there)
        found = files(there / "run")
        assert [name for name, data in found.items() if str(home).encode() in data] == ["last.safetensors"]
    else:
        line = refused(train("--resume", "-o", "run"))
        assert "texts" in line and "`rnncore train PATH --resume -o run`" in line and files(there / "run") == before
        assert train(*given, "--resume", "-o", "run", at=8).code == 130  # from then on it is known
    assert train("--resume", "-o", "run").code == 0 and json.loads(call(capsys, *score).out)["floor"]


def test_stdin_beside_files_is_piped_in_again_or_asked_for(home):
    here = home / "there"
    args = ("train", "-", "corpus.txt", "--steps", 3, *SMALL, "-o", "run")
    assert run(*args, cwd=here, stdin=TEXT[:1000].encode()).code == 0
    again = ("train", "--resume", "-o", "../there/run", "--steps", 5)
    line = refused(run(*again, cwd=home / "elsewhere", stdin=b""))
    assert "(stdin is empty, so its sha256 differs): pipe the old text in again, name it where" in line
    assert "(its sha256 differs): pipe the old" in refused(run(*again, cwd=home / "elsewhere", stdin=b"other text"))
    assert "more than the" in refused(run(*again, cwd=home / "elsewhere", stdin=TEXT.encode()))
    assert run(*again, cwd=home / "elsewhere", stdin=TEXT[:1000].encode()).code == 0


# What is passed on


def test_no_file_but_last_says_where_the_text_lies(train, home, monkeypatch):
    """Nor a kept step: from one, a run goes on where the text is seen from, or is named."""
    monkeypatch.delenv("RNNCORE_NO_REPORT")
    assert train("corpus.txt", "-o", "run", "--keep", 3, "--save-every", 20, "--sample-every", 20).code == 0
    found = files(home / "there/run")
    assert {"best.safetensors", "last.safetensors", "step-000060.safetensors", "metrics.jsonl", "samples.txt"} <= set(
        found
    )
    assert [name for name, data in found.items() if str(home).encode() in data] == ["last.safetensors"]
    before = steps_kept(home / "there/run")[1]
    for name in ("last", "step-000060"):
        data = found[f"{name}.safetensors"]
        (home / f"there/run/{name}.safetensors").write_bytes(data[:-9])
    result = train("--resume", "-o", "run")
    assert result.code == 0 and f"going on with {before.name}" in result.err
    assert remembered("run")[1] == [[f"{home}/there/corpus.txt"]]
    assert (home / "there/run/last.safetensors").read_bytes() != (
        home / "there/run/step-000060.safetensors"
    ).read_bytes()


def test_what_was_typed_with_its_folders_is_passed_on_without_them(train, home, capsys, monkeypatch):
    """Its last name stays; what belongs to the run still finds the text: a resume, and score's counting."""
    assert train(home / "there/corpus.txt", "-o", "run", "--keep", 1, at=5).code == 130
    named = ("--resume", "-o", home / "there/run", "--keep", 1)
    assert train(*named, at=9).code == 130 and train(home / "there/corpus.txt", *named).code == 0
    tuned = (home / "there/corpus.txt", "--init-from", home / "there/run", "-o", "tuned")
    assert call(capsys, "train", *tuned, "--steps", 4, "--eval-every", 2, "--keep", 1).code == 0
    for folder in ("run", "tuned"):
        found = files(home / "there" / folder)
        assert [name for name, data in found.items() if str(home).encode() in data] == ["last.safetensors"]
        card = json.loads(call(capsys, "info", folder, "--json").out)["card"]
        assert card["corpus"]["sources"] == ["corpus.txt"] and card["init_from"] in (None, "run")
    corpus(home / "elsewhere", TEXT[::-1], "other.txt")
    monkeypatch.chdir(home / "elsewhere")
    for model in ("../there/run", "../there/run/best.safetensors"):
        assert json.loads(call(capsys, "score", model, "other.txt", "--json").out)["floor"]["nats_per_char"] > 0
    (home / "there/run/last.safetensors").unlink()
    for last in (b"", b"{}", bytes(8), (home / "there/run/best.safetensors").read_bytes()):
        (home / "there/run/last.safetensors").write_bytes(last)
        result = call(capsys, "score", "../there/run/best.safetensors", "other.txt", "--json")
        assert result.code == 0 and json.loads(result.out)["floor"] is None


def test_info_shows_no_path_of_this_machine(train, home, capsys):
    assert train("corpus.txt", "-o", "run", at=3).code == 130
    for args in ((), ("--json",)):
        assert str(home) not in call(capsys, "info", "run/last.safetensors", *args).out
