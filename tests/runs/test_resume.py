"""Going on with a run: the same bits as without the stop, wherever it was, and every way in which it is refused."""
import signal
import subprocess
import time
from functools import cache

import numpy as np
import pytest
from cli_helpers import SMALL, TEXT, call, corpus, files, read_last, refused, rows, run, stoppable
from fork_server import Forked
from hypothesis import given, settings, strategies as st

import rnncore
from rnncore import ModelConfig, TrainConfig, Vocab
from rnncore.data.batches import Batches
from rnncore.measure.evaluate import Validation
from rnncore.runs import checkpoint, folder as runs
from rnncore.runs.folder import RunFolder
from rnncore.train import Training

IDS = np.random.default_rng(0).integers(0, 5, 331).astype(np.uint8)  # 9 windows of 10, the last of 2
STEPS = 22


VARIANTS = {
    "plain": ("float32", {}),
    "variational dropout and weight-drop": ("float32", {"dropout": 0.3, "weight_drop": 0.2, "threads": 2}),
    "standard dropout": ("float64", {"dropout": 0.3, "variational": False, "optimizer": "adam"}),
    "patience": ("float64", {"weight_drop": 0.3, "patience": 2, "eval_every": 2}),  # spent after 14 steps
}


def training(model, how: dict) -> Training:
    config = TrainConfig(**({"lr": 0.02, "steps": STEPS, "threads": 1, "seed": 3} | how))
    return Training(model, Batches(IDS, 4, 10), config, Validation(IDS[:200], 4, 10))


@cache
def uninterrupted(variant: str) -> dict:
    dtype, how = VARIANTS[variant]
    run = training(fresh_model(dtype), how)
    return outcome(run, list(run))


def fresh_model(dtype: str):
    return rnncore.CharLM(ModelConfig(5, 3, 8, 2), Vocab.from_text("abcde"), "cpu", dtype)


def outcome(run: Training, progress: list) -> dict:
    """All that must not depend on a stop."""
    return {"parameters": run.model.params.flat.tobytes(), "m": run.optimizer.moments["m"].tobytes(),
            "v": run.optimizer.moments["v"].tobytes(), "h": run.state.h.tobytes(), "c": run.state.c.tobytes(),
            "rows": [(p.step, p.epoch, p.done, p.chars, p.loss, p.lr, p.grad_norm, p.val_loss) for p in progress],
            "best": run.best, "stale": run.stale, "final": (run.final_loss, run.final_windows, run.val_windows)}


@settings(derandomize=True, deadline=None, max_examples=20)
@given(stops=st.lists(st.integers(1, STEPS - 1), min_size=1, max_size=3, unique=True).map(sorted),
       variant=st.sampled_from(sorted(VARIANTS)))
def test_resuming_at_any_step_equals_no_interruption(stops, variant, tmp_path_factory):
    dtype, how = VARIANTS[variant]
    folder = RunFolder(tmp_path_factory.mktemp("run"), {"corpus": {}, "split": {}})
    run, progress = training(fresh_model(dtype), how), []
    for stop in (*stops, STEPS):
        for p in run:
            progress.append(p)
            if p.step == stop:
                break
        folder.save(run, best=False)
        document, tensors = read_last(folder.path)
        run = training(checkpoint.to_model(document, tensors, "cpu"), how)
        runs.restore(run, document, tensors)
    assert outcome(run, progress) == uninterrupted(variant)


# From the command line

@pytest.fixture
def train(capsys, monkeypatch, tmp_path):
    """`rnncore train ARGS` in tmp_path, where corpus.txt is; `at` stops it after that step, as Ctrl-C does."""
    corpus(tmp_path)
    monkeypatch.chdir(tmp_path)
    return stoppable(capsys, monkeypatch)


def without_times(folder) -> dict:
    """Rows by step, without what the clock says."""
    return {row["step"]: {k: v for k, v in row.items() if k not in ("seconds", "chars_per_s")} for row in rows(folder)}


def same_run(a, b) -> None:
    """Two run folders hold the same bits but for clocks, and the same rows where both have one."""
    tensors = [read_last(folder)[1] for folder in (a, b)]
    assert tensors[0].keys() == tensors[1].keys()
    assert all(np.array_equal(tensors[0][name], tensors[1][name]) for name in tensors[0])
    best = [checkpoint.read(folder / "best.safetensors") for folder in (a, b)]
    assert all(np.array_equal(best[0][1][name], best[1][1][name]) for name in best[0][1])
    assert best[0][0]["card"]["val_loss"] == best[1][0]["card"]["val_loss"]
    x, y = without_times(a), without_times(b)
    both = x.keys() & y.keys()
    assert all(x[step] == y[step] for step in both) and max(x) == max(y) and len(both) >= 10


def step_of(folder) -> int:
    return read_last(folder)[0]["training"]["progress"]["step"]


def test_forty_steps_are_twenty_a_stop_and_twenty(train, tmp_path):
    args = ("corpus.txt", "--steps", 40, *SMALL, "--dropout", 0.2, "--weight-drop", 0.2)
    assert train(*args, "-o", "whole").code == 0
    result = train(*args, "-o", "parts", at=20)
    assert result.code == 130 and "stopped at step 20 and saved" in result.err and "--resume -o parts" in result.err
    assert max(without_times(tmp_path / "parts")) == 20
    result = train("--resume", "-o", "parts")
    assert result.code == 0 and "going on with parts after step 20" in result.err
    same_run(tmp_path / "whole", tmp_path / "parts")
    seconds = [row["seconds"] for row in rows(tmp_path / "parts")]
    assert seconds == sorted(seconds)


def test_a_run_from_before_variational_dropout_goes_on_with_the_masks_that_it_had(train, tmp_path):
    args = ("corpus.txt", "--steps", 40, *SMALL, "--dropout", 0.3, "--weight-drop", 0, "--standard")
    assert train(*args, "-o", "whole").code == 0 and train(*args, "-o", "old", at=20).code == 130
    document, tensors = read_last(tmp_path / "old")
    for name in ("variational", "weight_drop", "patience"):
        del document["training"]["config"][name]
    del document["training"]["progress"]["stale"]
    for name in ("preset", "init_from", "extend_vocab", "floor"):
        del document["training"]["settings"][name]
    extra = {name: tensor for name, tensor in tensors.items() if name.startswith(("optimizer.", "state."))}
    checkpoint.save(checkpoint.to_model(document, tensors, "cpu"), tmp_path / "old" / "last.safetensors",
                    document["card"], extra, document["training"])
    assert train("--resume", "-o", "old").code == 0
    same_run(tmp_path / "whole", tmp_path / "old")


def test_a_run_is_the_same_with_four_kills_in_between(tmp_path):
    """kill -9 while it saves after every step; each time a row of the metrics is torn too."""
    corpus(tmp_path)
    args = ("train", "corpus.txt", "--steps", 300, *SMALL, "--sample-every", 1000)
    assert run(*args, "-o", "whole", cwd=tmp_path).code == 0
    args += ("--save-every", 1)
    parts, reached = tmp_path / "parts", 0
    for round_ in range(4):
        more = ("--resume",) if round_ else ()
        process = Forked(*args, "-o", "parts", *more, cwd=tmp_path, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline and process.poll() is None:
            if (parts / "last.safetensors").is_file() and step_of(parts) > reached + 20:
                break
            time.sleep(0.005)
        process.kill()
        assert process.wait() == -signal.SIGKILL
        reached = step_of(parts)
        with open(parts / "metrics.jsonl", "a") as file:
            file.write('{"step": 99, "cha')
    assert 80 < reached < 300
    assert run("train", "--resume", "--save-every", 100, "-o", "parts", cwd=tmp_path).code == 0
    same_run(tmp_path / "whole", parts)
    assert set(files(parts)) >= {"best.safetensors", "last.safetensors"} and not list(parts.glob(".*"))


def test_options_may_be_repeated(train):
    args = ("corpus.txt", "--steps", 8, *SMALL, "--lr", 0.01, "--val", 0.2, "--test", 0.1, "--dropout", 0.1,
            "--dtype", "float64", "--seed", 4, "--encoding", "utf-8", "--newline", "lf", "--clip", 2, "--warmup", 0.1,
            "--optimizer", "adam", "--name", "mine", "--device", "cpu", "--sample-every", 4, "--save-every", 2,
            "--eval-every", 3)
    assert train(*args, at=5).code == 130
    assert train(*args, "--resume").code == 0 and rows(runs.RUNS / "mine")[-1]["step"] == 8


def test_what_was_asked_for_may_be_repeated_where_something_else_was_used(train, tmp_path):
    """A batch that the text could not fill, threads that the machine chose."""
    corpus(tmp_path, TEXT[:700])
    args = ("corpus.txt", "--steps", 6, "--hidden", 8, "--batch", 64, "--seq", 40, "--threads", "auto", "-o", "a")
    assert "instead of 64 of 40" in train(*args, at=3).err
    assert train(*args, "--resume", at=4).code == 130
    assert train("--resume", "-o", "a", "--batch", 17).code == 0  # nor does what was used
    assert "--batch" in refused(train(*args, "--resume", "--batch", 32), 2)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A folder with corpus.txt and a finished run of 6 steps, runs/corpus."""
    folder = tmp_path_factory.mktemp("finished")
    corpus(folder)
    assert run("train", "corpus.txt", "--steps", 6, *SMALL, cwd=folder).code == 0
    return folder


@pytest.fixture
def resume(finished, monkeypatch, capsys):
    """`rnncore train --resume ARGS` in that folder."""
    monkeypatch.chdir(finished)
    return lambda *args: call(capsys, "train", "--resume", *args)


@pytest.mark.parametrize("option, value, has", [
    ("--layers", 2, 1), ("--hidden", 32, 16), ("--embed", 16, 8), ("--seq", 50, 20), ("--batch", 16, 8),
    ("--clip", 2.0, 1.0), ("--seed", 9, 0),
    ("--preset", "tiny", None), ("--init-from", "runs/corpus", None), ("--optimizer", "adam", "muon"),
    ("--val", 0.3, 0.1), ("--test", 0.1, 0.0), ("--warmup", 0.5, 0.03), ("--dtype", "float64", "float32"),
    ("--encoding", "latin-1", "utf-8"), ("--newline", "keep", "lf")])
def test_a_conflicting_option_is_named(resume, finished, option, value, has):
    before = files(finished)
    line = refused(resume("--steps", 20, option, value), 2)
    assert f"{option} {value} conflicts with runs/corpus, which has {has}: leave it out, or " in line
    other = option not in ("--layers", "--hidden", "--embed", "--preset", "--init-from")  # than what is the model's
    assert line.endswith(f"in a new run, with --init-from runs/corpus {option} {value}" if other else "start a new run")
    assert files(finished) == before


def test_a_finished_run_stays_as_it_is(resume, finished):
    before = files(finished)
    for args in ((), ("--steps", 6), ("--steps", 3), ("corpus.txt", "-o", "runs/corpus"), ("--name", "corpus")):
        result = resume(*args)
        assert result.code == 0 and "runs/corpus is finished" in result.err and "--steps" in result.err
    for name in ("last.safetensors", "best.safetensors", "samples.txt"):
        assert files(finished)[f"runs/corpus/{name}"] == before[f"runs/corpus/{name}"]
    assert rows(finished / "runs" / "corpus")[-1]["step"] == 6


def test_a_larger_budget_extends_a_finished_run(train, tmp_path):
    assert train("corpus.txt", "--steps", 6, *SMALL).code == 0
    assert train("--resume", "--steps", 12).code == 0 and rows(tmp_path / "runs/corpus")[-1]["step"] == 12
    assert train("--resume", "--epochs", 1).code == 0 and rows(tmp_path / "runs/corpus")[-1]["step"] == 31
    assert "one of" in refused(train("--resume", "--epochs", 2, "--steps", 90), 2)
    result = train("--resume", "--minutes", 0.02)
    assert result.code == 0 and 1.1 < rows(tmp_path / "runs/corpus")[-1]["seconds"] < 5  # 1.2 when written
    steps = [row["step"] for row in rows(tmp_path / "runs/corpus")]
    assert steps == sorted(set(steps))


def test_a_changed_corpus_is_refused(train, tmp_path):
    assert train("corpus.txt", "--steps", 6, *SMALL, at=3).code == 130
    corpus(tmp_path, TEXT + "x")
    line = refused(train("--resume"))
    assert "sha256" in line and "runs/corpus" in line
    corpus(tmp_path, TEXT, "moved.txt")
    assert "sha256" in refused(train("corpus.txt", "--resume"))
    (tmp_path / "corpus.txt").unlink()
    assert "'corpus.txt'" in refused(train("--resume"), 2)
    assert train("moved.txt", "--resume").code == 0  # it is the text that counts


def test_another_corpus_where_it_is_allowed(train, tmp_path):
    assert train("corpus.txt", "--steps", 6, *SMALL, at=3).code == 130
    old = checkpoint.read(tmp_path / "runs/corpus/last.safetensors")[0]["card"]["corpus"]
    corpus(tmp_path, TEXT[2000:4000])
    assert train("--resume", "--allow-new-corpus").code == 0
    card = checkpoint.read(tmp_path / "runs/corpus/last.safetensors")[0]["card"]
    assert card["corpus"]["characters"] == 2000 and card["corpus"]["sha256"] != old["sha256"] and card["step"] == 6
    assert train("--resume", "--steps", 8).code == 0  # which is now the run's own
    corpus(tmp_path, "the\n")
    assert "too few to train 8 streams" in refused(train("--resume", "--allow-new-corpus"))
    corpus(tmp_path, TEXT + "%")
    assert "'%'" in refused(train("--resume", "--allow-new-corpus"))
    assert "--resume" in refused(train("corpus.txt", "--allow-new-corpus"), 2)


def test_a_run_on_stdin_goes_on_with_stdin(tmp_path):
    args = ("train", "-", "--steps", 3, *SMALL, "-o", "a")
    assert run(*args, cwd=tmp_path, stdin=TEXT.encode()).code == 0
    again = ("train", "--resume", "-o", "a", "--steps", 5)
    assert "stdin" in refused(run(*again, cwd=tmp_path, stdin=b""))
    assert run(*again, cwd=tmp_path, stdin=TEXT.encode()).code == 0 and rows(tmp_path / "a")[-1]["step"] == 5


def test_resume_without_a_run_is_refused(train, tmp_path):
    line = refused(train("--resume"))
    assert "no run" in line and "rnncore train" in line
    for args in (("-o", "nowhere"), ("--name", "nowhere"), ("-o", ".")):
        assert "no run to go on with" in refused(train("--resume", *args))
    rnncore.save(rnncore.CharLM(ModelConfig(5, 3, 4, 1), Vocab.from_text("abcde"), "cpu"), "last.safetensors")
    assert "start a new run" in refused(train("--resume", "-o", "."))
    assert set(files(tmp_path)) == {"corpus.txt", "last.safetensors"}


def test_a_damaged_last_is_refused(finished, resume):
    path = finished / "runs" / "corpus" / "last.safetensors"
    good = path.read_bytes()
    for data in (good[:-5], good[:-1] + bytes([good[-1] ^ 1])):
        path.write_bytes(data)
        assert "last.safetensors" in refused(resume("--steps", 20))
    path.write_bytes(good)
