"""rnncore.runs.setup: a run folder from Python does what the command line does, and belongs to one process in its block."""
import re
from pathlib import Path

import numpy as np
import pytest
from cli_helpers import ROOT, SMALL, TEXT, call, corpus, files, rows

from rnncore import selfcheck
from rnncore.config import ConfigError
from rnncore.runs import checkpoint, lock, setup
from rnncore.runs.folder import RunFolder
from rnncore.runs.lock import RunError
from rnncore.runs.options import OptionError, RunOptions

TINY = {"layers": 1, "hidden": 16, "embed": 8, "seq": 20, "batch": 8, "threads": 1}


@pytest.fixture
def here(tmp_path, monkeypatch) -> Path:
    """A working folder with corpus.txt."""
    corpus(tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def options(**more) -> RunOptions:
    return RunOptions(**{"corpus": ("corpus.txt",), "steps": 6, "out": "run"} | TINY | more)


def train(given: RunOptions, begin=setup.start, until: int | None = None) -> list:
    """Train to the end, or to the step `until`; returns every Progress."""
    found = []
    with begin(given) as run:
        for progress in run:
            found.append(progress)
            if progress.step == until:
                break
    return found


def tensors(run) -> dict[str, np.ndarray]:
    return checkpoint.read(Path(run) / "last.safetensors")[1]


def assert_same(one, other) -> None:
    mine, theirs = tensors(one), tensors(other)
    assert mine.keys() == theirs.keys() and all(mine[name].tobytes() == theirs[name].tobytes() for name in mine)


def free(folder) -> bool:
    """Whether another process could take the run folder: a second lock in this one is refused as well."""
    with lock.held(Path(folder)):
        return True


def documented() -> dict[str, str]:
    """The examples, by where they stand."""
    indented = re.search(r"\n\n((?: {4}.*\n|\n)+?)\n(?=\S)", setup.__doc__)[1]
    found = {"setup.py": re.sub("^ {4}", "", indented, flags=re.MULTILINE)}
    if (ROOT / "rnncore" / "README.md").is_file():
        blocks = re.findall("```python\n(.*?)```", (ROOT / "rnncore" / "README.md").read_text(encoding="utf-8"), re.DOTALL)
        (found["README.md"],) = (block for block in blocks if "runs.setup" in block)
    return found


def test_the_examples_train_stop_and_resume_to_the_same_bits(here, capsys):
    whole = RunOptions(corpus=("corpus.txt",), layers=1, hidden=32, steps=200, out="whole")
    assert train(whole)[-1].step == 200
    for place, example in documented().items():
        exec(compile(example, place, "exec"), {})
        assert rows(Path("runs/small"))[-1]["step"] == 200 and not Path("runs/small/.lock").exists()
        assert_same("runs/small", "whole")
        logged = [row["step"] for row in rows(Path("runs/small"))]
        assert logged == sorted(set(logged)) and 100 in logged
        Path("runs").rename(place)


def test_a_run_from_python_is_the_command_line_s(here, capsys):
    found = train(options())
    assert call(capsys, "train", "corpus.txt", *SMALL, "--steps", 6, "-o", "typed", "--no-report").code == 0
    assert_same("run", "typed")
    assert files(Path("run")).keys() == files(Path("typed")).keys()
    ours, typed = (checkpoint.read(Path(run) / "last.safetensors")[0] for run in ("run", "typed"))
    assert typed["training"]["settings"].pop("saving") == ours["training"]["settings"].pop("saving") | {"report": False}
    assert ours["training"]["settings"] == typed["training"]["settings"]
    assert ours["training"]["config"] == typed["training"]["config"] and [p.step for p in found] == [1, 2, 3, 4, 5, 6]
    assert list(ours["card"]) == list(typed["card"])


def test_the_folder_is_held_inside_the_block_and_free_behind_it(here):
    with setup.start(options()) as run:
        assert run.news()[-1] == "run run" and run.news() == []
        with pytest.raises(RunError, match="in use by another rnncore train"):
            free("run")
        with pytest.raises(RunError, match="in use"), setup.resume(RunOptions(out="run")):
            pass
        next(iter(run))
    assert free("run") and tensors("run")


def test_an_exception_in_the_block_frees_the_folder_and_saves_nothing_more(here):
    for begin, given, last in ((setup.start, options(save_every=2, eval_every=100), 3), (setup.resume, RunOptions(out="run"), 5)):
        with pytest.raises(ZeroDivisionError), begin(given) as run:
            for progress in run:
                if progress.step == last:
                    raise ZeroDivisionError
        assert free("run")
        assert checkpoint.read(Path("run/last.safetensors"))[0]["training"]["progress"]["step"] == run.saved == last - 1
    assert train(RunOptions(out="run"), setup.resume)[-1].step == 6
    train(options(out="whole", eval_every=100))
    assert_same("run", "whole")


def test_a_run_that_was_taken_up_again_and_left_again_is_saved_where_it_stands(here):
    for begin, given, until in ((setup.start, options(steps=60), 13), (setup.resume, RunOptions(out="run"), 27)):
        train(given, begin, until)  # between two evaluations, at which a run is saved anyway
        assert checkpoint.read(Path("run/last.safetensors"))[0]["training"]["progress"]["step"] == until
    assert [p.step for p in train(RunOptions(out="run"), setup.resume)] == [*range(28, 61)]
    train(options(steps=60, out="whole"))
    assert_same("run", "whole")


def test_a_finished_run_has_no_step_more_until_its_budget_grows(here):
    train(options())
    before = files(Path("run"))
    assert train(RunOptions(out="run"), setup.resume) == [] and files(Path("run")) == before
    assert [p.step for p in train(RunOptions(out="run", steps=8), setup.resume)] == [7, 8]


def test_a_resumed_run_may_have_another_rate_and_says_so(here):
    train(options(), until=3)
    with setup.resume(RunOptions(out="run", lr=0.001)) as run:
        assert any("changed after step 3: lr 0.03 to 0.001" in line for line in run.news())
        assert {progress.step for progress in run} == {4, 5, 6}
    assert checkpoint.read(Path("run/last.safetensors"))[0]["card"]["changes"] == [{"step": 3, "lr": [0.03, 0.001]}]


@pytest.mark.parametrize("wrong, error", [
    ({"lr": -1.0}, ConfigError), ({"layers": 0}, ConfigError), ({"steps": 1.5}, ConfigError), ({"val": 1.0}, ConfigError),
    ({"keep": -1}, ConfigError), ({"preset": "huge"}, ConfigError), ({"level": "word"}, ConfigError),
    ({"steps": 2, "epochs": 1.0}, ConfigError), ({"corpus": "corpus.txt"}, ConfigError), ({"name": "x"}, OptionError),
    ({"out": None, "name": "a/b"}, OptionError), ({"corpus": ()}, OptionError), ({"val": 0.6, "test": 0.6}, OptionError),
    ({"extend_vocab": True}, OptionError), ({"field": "x"}, OptionError), ({"level": "byte", "lower": True}, OptionError),
    ({"allow_new_corpus": True}, OptionError), ({"patience": 2, "val": 0.0}, OptionError), ({"encoding": "utf-9"}, ValueError),
    ({"dtype": "int8"}, ValueError), ({"cuda_path": "graph", "device": "cpu"}, ValueError)], ids=str)
def test_wrong_options_raise_and_nothing_is_written(here, wrong, error):
    with pytest.raises(error), setup.start(options(**wrong)):
        pass
    assert [path.name for path in here.iterdir()] == ["corpus.txt"]


@pytest.mark.parametrize("wrong", [{"hidden": 32}, {"encoding": "latin-1"}, {"val": 0.2}, {"no_shuffle": True}, {"seed": 1}], ids=str)
def test_what_conflicts_with_a_run_is_refused_and_leaves_it_as_it_is(here, wrong):
    train(options(), until=2)
    before = files(Path("run"))
    with pytest.raises(OptionError, match="conflicts with run, which has"), setup.resume(RunOptions(out="run", **wrong)):
        pass
    assert files(Path("run")) == before and free("run")


def test_a_folder_that_cannot_be_written_is_a_note_and_the_end_of_the_block_an_error(here, monkeypatch):
    def full(self, training, best):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(RunFolder, "save", full)
    with pytest.raises(RunError, match="run cannot be written .No space left on device.: free space on the disk"):
        with setup.start(options(save_every=1)) as run:
            run.news()
            assert [len(run.news()) for _ in run] == [1, 0, 0, 0, 0, 0]  # said once
    assert free("run")


def test_what_is_missing_is_brought_before_the_text_is_read_and_the_path_is_chosen_behind_the_folder(here, monkeypatch):
    Path("corpus.txt").rename("away.txt")
    seen = []

    def bring(sources):
        seen.append(sources)
        Path("away.txt").rename("corpus.txt")

    def take(model, asked, device, trying, say, name, **shape):
        seen.append((model.config.hidden, asked, name, Path(name).is_dir(), trying, shape))
        return ["a path was chosen"]

    monkeypatch.setattr(selfcheck, "take", take)
    with setup.start(options(), bring) as run:
        assert "a path was chosen" in run.news()
    assert seen == [("corpus.txt",), (16, "auto", "run", True, False, {"columns": 8, "seq": 20, "optimizer": "muon"})]
    assert TEXT == Path("corpus.txt").read_text()
