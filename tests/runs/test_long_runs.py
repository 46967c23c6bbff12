"""Long runs on real disks: what a folder keeps, whose it is, full and read-only disks, clocks that jump, twenty kills."""
import contextlib
import ctypes
import os
import random
import signal
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest
from cli_helpers import SMALL, TEXT, Result, call, corpus, files, read_last, refused, rows, run, stoppable
from fork_server import Forked
from test_resume import same_run, step_of
from test_signals import start, wait_for

from rnncore import kernels
from rnncore.model import CharLM
from rnncore.runs import checkpoint, folder as runs, lock
from rnncore.runs.folder import RunFolder, steps_kept

ENDLESS = ("train", "corpus.txt", "--steps", 10 ** 6, *SMALL)


@pytest.fixture
def train(capsys, monkeypatch, tmp_path):
    """`rnncore train ARGS` in tmp_path, where corpus.txt is; `at` stops it after that step, as Ctrl-C does."""
    corpus(tmp_path)
    monkeypatch.chdir(tmp_path)
    return stoppable(capsys, monkeypatch)


def kept(folder) -> list[str]:
    return sorted(path.name for path in folder.glob("step-*"))


def damage(path) -> None:
    data = bytearray(path.read_bytes())
    data[-9] ^= 1
    path.write_bytes(data)


# What stays with the run

def test_a_resume_keeps_save_every_sample_every_and_keep_and_may_change_them(train, tmp_path, saves):
    args = ("--save-every", 4, "--sample-every", 5, "--keep", 2, "--eval-every", 100)
    assert train("corpus.txt", "--steps", 40, *SMALL, *args, "-o", "a", at=9).code == 130
    assert saves == [4, 8, 9] and kept(tmp_path / "a") == ["step-000008.safetensors", "step-000009.safetensors"]
    saves.clear()
    assert train("--resume", "-o", "a", at=17).code == 130
    assert saves == [12, 16, 17] and kept(tmp_path / "a") == ["step-000016.safetensors", "step-000017.safetensors"]
    saves.clear()
    assert train("--resume", "-o", "a", "--save-every", 3, "--keep", 3, at=23).code == 130
    assert train("--resume", "-o", "a", "--sample-every", 9).code == 0
    assert saves == [18, 21, 23, 24, 27, 30, 33, 36, 39, 40]
    assert kept(tmp_path / "a") == [f"step-0000{step}.safetensors" for step in (36, 39, 40)]
    samples = (tmp_path / "a" / "samples.txt").read_text().splitlines()
    assert [int(line[9:]) for line in samples if line.startswith("--- step ")] == [5, 10, 15, 20, 27, 36]


def test_none_are_kept_by_default_and_a_run_from_before_there_was_keep_goes_on(train, tmp_path):
    assert train("corpus.txt", "--steps", 20, *SMALL, "-o", "a", at=10).code == 130
    document, tensors = read_last(tmp_path / "a")
    del document["training"]["settings"]["saving"], document["training"]["progress"]["recovery"]
    extra = {name: array for name, array in tensors.items() if name in ("state.h", "state.c") or name[:3] == "opt"}
    checkpoint.save(checkpoint.to_model(document, tensors, "cpu"), tmp_path / "a" / "last.safetensors",
                    document["card"], extra, document["training"])
    assert train("--resume", "-o", "a").code == 0 and train("corpus.txt", "--steps", 20, *SMALL, "-o", "b").code == 0
    (_, a), (_, b) = (read_last(tmp_path / folder) for folder in "ab")
    assert all(np.array_equal(a[name], b[name]) for name in b if name != "state.good")  # made at step 10 and at 0
    assert set(files(tmp_path / "a")) == {"best.safetensors", "last.safetensors", "metrics.jsonl", "samples.txt"}


@pytest.mark.parametrize("args", [("--keep", -1), ("--keep", "two")])
def test_keep_out_of_its_range(train, args):
    assert "--keep" in refused(train("corpus.txt", *args), 2)


def test_a_kept_model_is_a_model(train, tmp_path, capsys):
    assert train("corpus.txt", "--steps", 6, *SMALL, "--save-every", 2, "--keep", 9, "--eval-every", 9, "-o", "a").code == 0
    assert kept(tmp_path / "a") == [f"step-00000{step}.safetensors" for step in (2, 4, 6)]
    assert [step for path in steps_kept(tmp_path / "a") for step in [checkpoint.read(path)[0]["card"]["step"]]] == [6, 4, 2]
    assert call(capsys, "generate", "a/step-000002.safetensors", "-n", 5).code == 0


# A damaged last.safetensors

def test_a_damaged_last_falls_back_to_the_newest_good_step_and_says_so(train, tmp_path):
    args = ("corpus.txt", "--steps", 40, *SMALL)
    assert train(*args, "-o", "whole").code == 0
    assert train(*args, "--save-every", 5, "--keep", 4, "-o", "parts", at=21).code == 130
    for name in ("last", "step-000021"):
        damage(tmp_path / "parts" / f"{name}.safetensors")
    result = train("--resume", "-o", "parts", at=33)
    assert result.code == 130 and "going on with parts after step 20" in result.err
    line = next(line for line in result.err.splitlines() if line.startswith("warning: "))
    assert "parts/last.safetensors" in line and "going on with step-000020.safetensors" in line
    (tmp_path / "parts" / "last.safetensors").unlink()  # or not there at all
    result = train("--resume", "-o", "parts")
    assert result.code == 0 and "parts has no last.safetensors any more; going on with step-000033.safetensors" in result.err
    same_run(tmp_path / "whole", tmp_path / "parts")


def test_best_alone_is_not_enough_to_go_on_with(train, tmp_path):
    assert train("corpus.txt", "--steps", 10, *SMALL, "-o", "a").code == 0
    damage(tmp_path / "a" / "last.safetensors")
    before = files(tmp_path)
    line = refused(train("--resume", "--steps", 20, "-o", "a"))
    assert "a/last.safetensors" in line and "no optimiser state" in line and "--init-from a/best.safetensors" in line
    assert files(tmp_path) == before
    assert train("corpus.txt", "--init-from", "a/best.safetensors", "--steps", 2, *SMALL, "-o", "b").code == 0  # the cure
    (tmp_path / "a" / "best.safetensors").unlink()
    assert "last.safetensors" in refused(train("--resume", "--steps", 20, "-o", "a"))


# Whose the folder is

def test_two_runs_into_the_same_folder_are_refused_and_a_kill_leaves_no_lock(tmp_path):
    """A new run and a resume, into the folder of a run that has not saved a model yet and of one that has."""
    corpus(tmp_path)
    folder = tmp_path / "a"
    process = start(*ENDLESS, "--save-every", 10 ** 6, "-o", "a", cwd=tmp_path)
    wait_for(lambda: (folder / "metrics.jsonl").is_file() and rows(folder), process)
    line = refused(run("train", "corpus.txt", "--steps", 2, *SMALL, "-o", "a", cwd=tmp_path))
    assert f"a is in use by another rnncore train (process {process.pid})" in line and "-o" in line and rows(folder)
    process.kill()
    process.communicate()
    assert run("train", "corpus.txt", "--steps", 5, *SMALL, "-o", "a", cwd=tmp_path).code == 0
    process = start("train", "--resume", "--steps", 10 ** 6, "-o", "a", cwd=tmp_path)
    wait_for(lambda: rows(folder)[-1]["step"] > 5, process)
    before = (folder / "last.safetensors").read_bytes()
    for args in (("--resume", "--steps", 9), ("corpus.txt", "--steps", 9)):
        assert f"(process {process.pid})" in refused(run("train", *args, "-o", "a", cwd=tmp_path))
    assert (folder / "last.safetensors").read_bytes() == before
    process.kill()
    process.communicate()
    result = run("train", "--resume", "--steps", 8, "-o", "a", cwd=tmp_path)
    assert result.code == 0 and step_of(folder) == 8 and not list(folder.glob(".*"))


def test_of_two_that_resume_at_once_one_loses(tmp_path):
    corpus(tmp_path)
    assert run("train", "corpus.txt", "--steps", 5, *SMALL, "-o", "a", cwd=tmp_path).code == 0
    both = [start("train", "--resume", "--steps", 10 ** 6, "-o", "a", cwd=tmp_path) for _ in range(2)]
    deadline = time.monotonic() + 60
    while all(process.poll() is None for process in both) and time.monotonic() < deadline:
        time.sleep(0.01)
    loser, winner = sorted(both, key=lambda process: process.poll() is None)
    assert "in use" in refused(Result(loser.returncode, *loser.communicate())) and winner.poll() is None
    winner.send_signal(signal.SIGTERM)
    assert winner.communicate(timeout=60) and winner.returncode == 143 and not list((tmp_path / "a").glob(".*"))


def test_runs_that_start_at_once_get_folders_of_their_own(tmp_path):
    corpus(tmp_path)
    started = [start("train", "corpus.txt", "--steps", 3, *SMALL, cwd=tmp_path) for _ in range(4)]
    assert [process.communicate(timeout=60) and process.returncode for process in started] == [0] * 4
    folders = sorted(os.listdir(tmp_path / "runs"))
    assert folders == ["corpus", "corpus-2", "corpus-3", "corpus-4"]
    assert all(step_of(tmp_path / "runs" / folder) == 3 for folder in folders)


def test_a_lock_is_let_go_and_its_file_with_it(tmp_path):
    for _ in range(2):
        with lock.held(tmp_path / "a", new=True):
            with pytest.raises(lock.RunError, match=f"process {os.getpid()}"), lock.held(tmp_path / "a"):
                pass
            assert os.listdir(tmp_path / "a") == [lock.NAME]
        assert os.listdir(tmp_path / "a") == []


def test_what_a_run_killed_in_its_first_save_left_is_swept(train, tmp_path):
    (tmp_path / "a").mkdir()
    for name in (".last.safetensors.99.tmp", lock.NAME, "metrics.jsonl"):
        (tmp_path / "a" / name).write_text("{")
    assert train("corpus.txt", "--steps", 2, *SMALL, "-o", "a").code == 0 and rows(tmp_path / "a")[-1]["step"] == 2
    assert set(files(tmp_path / "a")) == {"best.safetensors", "last.safetensors", "metrics.jsonl", "samples.txt"}


# Disks

@pytest.fixture
def small_disk(tmp_path):
    """A disk of 200 KiB."""
    path = tmp_path / "disk"
    path.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=200k", "tmpfs", path], capture_output=True).returncode:
        pytest.skip("no tmpfs can be mounted here")
    yield path
    subprocess.run(["umount", "-l", path], check=True)


def fill(disk) -> Path:
    with contextlib.suppress(OSError), open(disk / "filler", "ab", buffering=0) as file:
        while True:
            file.write(bytes(4096))
    return disk / "filler"


def test_a_disk_that_fills_in_mid_run(small_disk, tmp_path):
    """Training goes on, the old file stays whole, exit 1 where the end was not saved; with room again it goes on."""
    corpus(tmp_path)
    folder = small_disk / "a"
    process = start(*ENDLESS, "--save-every", 1, "-o", "disk/a", cwd=tmp_path)
    wait_for((folder / "last.safetensors").is_file, process)
    before, step = None, 0
    while before != step:       # a save that had its room already may still succeed, and leave the old file's room
        filler = fill(small_disk)
        time.sleep(0.3)
        before, step = step, step_of(folder)
    line = ""
    while "cannot be written" not in line:
        line = process.stderr.readline()
        assert line
    assert line == "disk/a cannot be written (No space left on device): free space on the disk; what it holds is whole\n"
    assert process.poll() is None and step_of(folder) == step
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 1 and "Traceback" not in err and err.count("cannot be written") == 1
    assert err.splitlines()[-1].startswith("rnncore: disk/a cannot be written (No space left on device)")
    assert step_of(folder) == step and all(row["step"] for row in rows(folder)) and not list(folder.glob(".*"))
    fill(small_disk)            # also what the last attempt to save had taken
    assert "No space left on device" in refused(run("train", "--resume", "-o", "disk/a", cwd=tmp_path))
    filler.unlink()
    assert run("train", "--resume", "--steps", step + 5, "-o", "disk/a", cwd=tmp_path).code == 0
    assert step_of(folder) == step + 5


def test_a_disk_that_has_room_again_before_the_end_is_no_failure(train, tmp_path, monkeypatch):
    """Every second save fails, the last one not; --keep's copies too."""
    write, calls = checkpoint.write_whole, []

    def now_and_then(path, data, *check):
        calls.append(path.name)
        if path.name.startswith(("last", "step")) and len(calls) < 12 and len(calls) % 2:
            raise OSError(28, "No space left on device")
        write(path, data, *check)

    monkeypatch.setattr(checkpoint, "write_whole", now_and_then)
    result = train("corpus.txt", "--steps", 20, *SMALL, "--save-every", 1, "--keep", 2, "-o", "a")
    assert result.code == 0 and result.err.count("cannot be written") == 1 and step_of(tmp_path / "a") == 20
    assert kept(tmp_path / "a") == ["step-000019.safetensors", "step-000020.safetensors"]


def test_a_row_is_written_whole_or_not_at_all(small_disk):
    folder = RunFolder(small_disk, {})
    folder.add_sample(1, "a sample")
    before = (small_disk / "samples.txt").read_bytes()
    filler = fill(small_disk)
    with open(filler, "r+b") as file:
        file.truncate(filler.stat().st_size - 4096)
    with pytest.raises(OSError, match="No space"):
        folder.add_sample(2, 9000 * "x")
    assert (small_disk / "samples.txt").read_bytes() == before


def as_anybody() -> None:
    """Root that permissions do stop: without CAP_DAC_OVERRIDE and CAP_DAC_READ_SEARCH from the next exec on."""
    for capability in (1, 2):
        ctypes.CDLL(None).prctl(24, capability, 0, 0, 0)  # PR_CAPBSET_DROP; refused to who has no such power


def test_a_read_only_run_folder_is_refused_before_step_1(tmp_path):
    corpus(tmp_path)
    assert run("train", "corpus.txt", "--steps", 3, *SMALL, "-o", "a", cwd=tmp_path).code == 0
    for path in (*tmp_path.rglob("*"), tmp_path):
        path.chmod(0o555 if path.is_dir() else 0o444)
    before = files(tmp_path)
    for args in (("corpus.txt", *SMALL), ("corpus.txt", *SMALL, "-o", "b"), ("--resume", "--steps", 5, "-o", "a")):
        line = refused(run("train", *args, cwd=tmp_path, preexec_fn=as_anybody))
        assert "cannot be written (Permission denied): " in line
    assert files(tmp_path) == before
    tmp_path.chmod(0o755)


# Clocks

def test_a_wall_clock_that_jumps_changes_nothing(train, tmp_path, monkeypatch):
    """Every look at it is a day, or ten years, away from the one before."""
    args = ("corpus.txt", "--steps", 30, *SMALL, "--dropout", 0.2)
    assert train(*args, "-o", "steady").code == 0
    real, jumps = time.time, random.Random(0)
    monkeypatch.setattr(time, "time", lambda: real() + jumps.choice([-86400, 86400, 3e8, -3e8]))
    assert train(*args, "-o", "jumpy", at=11).code == 130 and train("--resume", "-o", "jumpy").code == 0
    same_run(tmp_path / "steady", tmp_path / "jumpy")
    begun = time.perf_counter()
    assert train("corpus.txt", "--minutes", 0.02, *SMALL, "-o", "minutes").code == 0
    seconds = [row["seconds"] for row in rows(tmp_path / "minutes")]
    assert seconds == sorted(seconds) and 0.9 < seconds[-1] < 2 and time.perf_counter() - begun < 10  # 1.2 and 1.3 s


def test_minutes_hold(tmp_path):
    """6 s by the clock; the figure is printed. 5% is the promise, a second is for the stalls of a busy machine."""
    corpus(tmp_path, 30 * TEXT, "long.txt")
    begun = time.monotonic()
    assert run("train", "long.txt", "--minutes", 0.1, cwd=tmp_path).code == 0
    wall = time.monotonic() - begun
    folder = tmp_path / "runs" / "long"
    card, table = read_last(folder)[0]["card"], rows(folder)  # the last model need not be the best
    seconds = table[-1]["seconds"]
    print(f"--minutes 0.1: {seconds:.2f} s of 6 in metrics.jsonl, {card['seconds']} in the card, {wall:.2f} s in all")
    assert abs(seconds - 6) <= 0.05 * 6 + 1
    assert card["val_loss_of_all"] is not None and table[-1]["lr"] < 0.05 * max(row["lr"] for row in table)


def test_nothing_looks_at_the_wall_clock_but_the_card():
    root = Path(runs.__file__).resolve().parents[2]
    if not (root / "setup.cfg").is_file():
        pytest.skip("the source stands beside tests/ in a checkout only")
    found = {path.name for folder in ("rnncore", "cli", "kernels", "data") for path in (root / folder).rglob("*.py")
             if any(word in path.read_text() for word in ("time.time(", "datetime.", "time_ns(", "localtime", "gmtime"))}
    # the date in a card, in bench's figures, a self-check's record and event files, the age of a temporary file
    assert found <= {"folder.py", "bench.py", "download.py", "selfcheck.py", "tensorboard.py"}


# Memory

def test_a_batch_that_fits_is_named(train, monkeypatch, tmp_path):
    monkeypatch.setattr(kernels.host, "memory", lambda: 2 ** 22)
    args = ("--steps", 1, "--layers", 2, "--hidden", 32, "--seq", 20, "--threads", 1, "--dropout", 0, "--weight-drop", 0)
    line = refused(train("corpus.txt", *args, "--batch", 200))
    fits = int(line.split("--batch ")[1].split()[0])
    assert 1 < fits < 200 and "--batch" in refused(train("corpus.txt", *args, "--batch", fits + 1))
    assert train("corpus.txt", *args, "--batch", fits).code == 0
    line = refused(train("corpus.txt", *args, "--batch", 200, "--hidden", 10 ** 4))
    assert "fits" not in line and "take a smaller --hidden" in line


@pytest.mark.parametrize("batch, words", [(8, "--batch 4 takes about "), (1, "--seq")])
def test_memory_that_runs_out_on_the_way(train, monkeypatch, batch, words):
    def full(*args, **kwargs):
        raise MemoryError

    monkeypatch.setattr(CharLM, "loss_and_grads", full)
    result = train("corpus.txt", "--steps", 3, *SMALL, "--batch", batch, "-o", "a")
    lines = result.err.strip().splitlines()
    assert result.code == 1 and lines[-1].startswith("rnncore: out of memory: ") and words in lines[-1]
    assert "Traceback" not in result.err


# Twenty kills

def test_twenty_kills_at_random_moments_change_no_bit(tmp_path):
    """kill -9 anywhere: in the start, in a step, in a save. The moments are seeded; where they hit is not."""
    corpus(tmp_path)
    args = ("train", "corpus.txt", "--steps", 800, *SMALL, "--dropout", 0.2, "--sample-every", 100)
    assert run(*args, "-o", "whole", cwd=tmp_path).code == 0
    parts, moments, reached = tmp_path / "parts", random.Random(0), []
    last = parts / "last.safetensors"
    for kill in range(20):
        more, before = (("--resume",), last.stat().st_mtime_ns) if last.is_file() else ((), None)
        process = Forked(*args, "--save-every", 3, "--keep", 2, "-o", "parts", *more, cwd=tmp_path, stderr=subprocess.DEVNULL)
        if kill % 5:
            for _ in range(moments.randrange(1, 5)):  # saves
                wait_for(lambda before=before: last.is_file() and last.stat().st_mtime_ns != before, process, 0.001)
                before = last.stat().st_mtime_ns
            time.sleep(moments.uniform(0, 0.02))
        else:
            time.sleep(moments.uniform(0, 0.3))
        assert process.poll() is None, "it was through before the twentieth kill: give it more steps"
        process.kill()
        process.communicate()
        reached.append(step_of(parts) if last.is_file() else 0)
    print("steps reached at the kills:", reached)
    assert reached == sorted(reached) and reached[-1] >= 48 and len(set(reached)) >= 16
    assert run("train", "--resume", "--save-every", 80, "-o", "parts", cwd=tmp_path).code == 0
    same_run(tmp_path / "whole", parts)
    steps = [row["step"] for row in rows(parts)]
    assert steps == sorted(set(steps))
    ours, theirs = (read_last(folder)[0]["training"]["progress"] for folder in (parts, tmp_path / "whole"))
    assert {k: v for k, v in ours.items() if "seconds" not in k} == {k: v for k, v in theirs.items() if "seconds" not in k}
    assert not list(parts.glob(".*")) and kept(parts) == ["step-000720.safetensors", "step-000800.safetensors"]
    assert np.array_equal(checkpoint.load(parts, "cpu").params.flat, checkpoint.load(tmp_path / "whole", "cpu").params.flat)
