"""A run in the folder that it learns, or a report beside its texts: what is ours is no text to learn."""
import os
import shutil
from pathlib import Path

import pytest
from cli_helpers import SMALL, TEXT, call, refused, rows

from rnncore.data.text import CorpusError, read
from rnncore.runs import checkpoint

STEPS = (*SMALL, "--steps", 12, "--sample-every", 4)
OURS = {"metrics.jsonl", "samples.txt", "passage.txt", "report.html"}


@pytest.fixture
def train(monkeypatch, tmp_path, capsys):
    """`rnncore train ARGS` in a folder of two texts, one of them in sub/ and called samples.txt."""
    (tmp_path / "proj/sub").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "proj")
    lines = TEXT.splitlines(keepends=True)
    Path("a.txt").write_text("".join(lines[:100]))
    Path("sub/samples.txt").write_text("".join(lines[100:]))
    return lambda *args: call(capsys, "train", *args)


def sha(folder: str) -> str:
    return checkpoint.read(Path(folder) / "last.safetensors")[0]["card"]["corpus"]["sha256"]


def marks(result) -> list[str]:
    """What was said of run folders."""
    return [line for line in result.err.splitlines() if "run folder" in line]


def test_a_run_in_the_folder_that_it_learns(train):
    assert marks(train(".", *STEPS)) == [] and {"metrics.jsonl", "samples.txt"} <= set(os.listdir("runs/proj"))
    for steps, args in ((15, (".",)), (18, ()), (21, ("-o", "runs/proj"))):
        result = train(*args, "--resume", "--steps", steps)
        said = ["skipped 1 run folder in .: ./runs/proj"] if "." in args else []  # else no folder is looked through
        assert result.code == 0 and marks(result) == said
    assert rows(Path("runs/proj"))[-1]["step"] == 21
    assert marks(train(".", *STEPS)) == ["skipped 1 run folder in .: ./runs/proj"]  # another run of the same text
    assert marks(train("../proj", *STEPS)) == ["skipped 2 run folders in ../proj: ../proj/runs/proj, ../proj/runs/proj-2"]
    assert {sha(f"runs/{name}") for name in os.listdir("runs")} == {sha("runs/proj")}
    assert train(os.getcwd(), "-o", "runs/proj", "--resume", "--steps", 24).code == 0


def test_a_folder_with_its_run_inside(train, monkeypatch, capsys):
    """`train proj -o proj/run`, from beside it; another run's text is that text, and `score` finds it again."""
    monkeypatch.chdir("..")
    assert train("proj", *STEPS, "-o", "proj/run", "--keep", 2).code == 0
    assert train("proj", "--resume", "-o", "proj/run", "--steps", 15).code == 0
    assert train("proj", *STEPS, "-o", "proj/sub/other").code == 0 and sha("proj/run") == sha("proj/sub/other")
    Path("text").write_text(" ".join(TEXT.split()[::-1]) + "\n")
    assert "n-gram baseline: " in call(capsys, "score", "proj/run", "text").out
    scored = call(capsys, "score", "proj/run", "proj")
    assert marks(scored) == ["skipped 2 run folders in proj: proj/run, proj/sub/other"]
    assert marks(call(capsys, "neurons", "proj/run", "proj")) == marks(scored)


def test_a_pattern_leaves_out_run_folders_too(train):
    assert train(".", *STEPS).code == 0
    for pattern in ("**/*.txt", "./**/*", "*"):
        result = train(pattern, *STEPS, "-o", "../one")
        said = "./runs/proj" if pattern[0] == "." else "runs/proj"
        assert result.code == 0 and marks(result) == [f"skipped 1 run folder in {pattern}: {said}"], pattern
        shutil.rmtree("../one")
    assert "no file matches the pattern 'runs/*/*.txt' (skipped 1 run folder in runs/*/*.txt: runs/proj)" in train("runs/*/*.txt").err


def test_run_folders_alone_are_no_text(train):
    assert train(".", *STEPS, "-o", "runs/x").code == 0
    assert refused(train("runs")) == "rnncore: runs holds no text file: skipped 1 run folder in runs: runs/x"
    assert "runs/x is a run folder, not a text: the run goes before the text" in refused(train("runs/x"))
    result = train("a.txt", "runs", *STEPS)
    assert result.code == 0 and marks(result) == ["skipped 1 run folder in runs: runs/x"]
    assert read(["runs/x/samples.txt"]).text.startswith("--- step 4\n")  # a file that is named is read


@pytest.mark.parametrize("left", [{"best.safetensors"}, {"step-000012.safetensors"}, {"samples.txt"}])
def test_what_marks_a_run_folder(train, left):
    """Of a run that was killed or thinned out, any file of ours that no other program writes."""
    assert train(".", *STEPS, "-o", "run", "--keep", 1).code == 0
    (step,) = Path("run").glob("step-*")
    step.rename("run/step-000012.safetensors")
    for name in set(os.listdir("run")) - left - {"passage.txt"}:
        os.remove(f"run/{name}")
    Path("run/passage.txt").write_text("of the validation text")
    found = read(["."])
    assert found.text == TEXT and found.notes == found.left_out == ("skipped 1 run folder in .: ./run",)


def test_a_users_own_files_are_text(tmp_path):
    """By these names, but of other content; a model of another make marks nothing."""
    from safetensors.numpy import save
    for name in OURS | {"best.txt", "tensorboard"}:
        (tmp_path / name).write_text(f"of {name}\n")
    (tmp_path / "deep/tensorboard").mkdir(parents=True)
    (tmp_path / "deep/tensorboard/log.txt").write_text("a log\n")
    (tmp_path / "best.safetensors").write_bytes(save({}, {"made": "elsewhere"}))
    found = read([str(tmp_path)])
    assert all(f"of {name}\n" in found.text for name in OURS) and "a log\n" in found.text
    assert found.notes == (f"skipped 1 file that is no text in {tmp_path}: best.safetensors is a model (safetensors)",)


def test_texts_beside_a_runs_files_are_text(train):
    """Only what is ours is left out of the folder that was named itself."""
    assert train("a.txt", *STEPS, "-o", "run").code == 0
    Path("run/mine.txt").write_text(TEXT)
    found = read(["run"])
    assert found.text == TEXT and found.notes == ("skipped 1 run folder in run: run",)
    assert read(["run/*"]).notes == ("skipped 1 run folder in run/*: run",)
    assert read(["run/*.txt"]).text == TEXT


def test_a_report_is_no_text(train, capsys):
    """`rnncore report` of a model file writes it where it is called."""
    pytest.importorskip("matplotlib")
    assert train(".", *STEPS, "-o", "runs/x").code == 0
    assert call(capsys, "report", "runs/x/best.safetensors").code == 0
    assert read(["."]).notes == ("skipped 1 file that is no text in .: best-report.html is a report of rnncore",
                                 "skipped 1 run folder in .: ./runs/x")
    assert read(["*"]).text == read(["."]).text == TEXT
    assert train("--resume", "-o", "runs/x", "--steps", 15).code == 0
    with pytest.raises(CorpusError, match="best-report.html is a report of rnncore, not a text"):
        read(["best-report.html"])
    Path("page.html").write_text("<!doctype html>\n<html><title>mine – a page</title></html>\n")
    assert "mine – a page" in read(["."]).text


def test_bytes_of_a_folder_leave_out_runs_too(train):
    assert train(".", *STEPS, "--level", "byte").code == 0
    assert read(["."], level="byte").text == TEXT
    assert train("--resume", "--steps", 15).code == 0
