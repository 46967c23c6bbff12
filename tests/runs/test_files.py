"""A file under its own name is whole: what reaches the disk in which order, errors on the way, kill -9 during a save."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from cli_helpers import ENVIRONMENT, call
from conftest import build

import rnncore
from rnncore import ModelConfig
from rnncore.runs import checkpoint, files
from rnncore.runs.files import new_file, write_whole
from rnncore.runs.folder import RunFolder

SAVER = """
import os, pathlib, sys
import rnncore
from rnncore.runs import checkpoint, files
how, path = sys.argv[1:]
first = rnncore.load(f"{path}-a", "cpu")
data = [open(f"{path}-{name}", "rb").read() for name in "ba"]
def plain(path, data):
    with open(path, "wb") as file:
        file.write(data)
write = plain if how == "plain" else files.write_whole
parent = os.getpid()
while sys.stdin.readline():
    if not os.fork():
        checkpoint.save(first, path)
        os.write(1, f"{os.getpid()}\\n".encode())
        while os.getppid() == parent:
            for model in data:  # what saving does but for the digest: nearly all of the time is the file's
                write(pathlib.Path(path), model)
        os._exit(0)
    os.wait()
    os.write(1, b"dead\\n")
"""


class Recorder:
    """A stand-in for the module os that notes what it is asked for, in order, and does it."""

    def __init__(self):
        self.calls: list[tuple] = []
        self._folders: dict[int, str] = {}

    def __getattr__(self, name):
        real = getattr(os, name)
        if name not in ("open", "fsync", "replace", "close"):
            return real

        def noted(*args):
            result = real(*args)
            if name == "open":
                self._folders[result] = str(args[0])
            if name in ("fsync", "replace"):
                size = os.fstat(args[0]).st_size if name == "fsync" and args[0] not in self._folders else None
                self.calls.append(
                    (name, self._folders.get(args[0], size))
                    if name == "fsync"
                    else (name, Path(args[0]).stem.startswith("."), str(args[1]))
                )
            return result

        return noted


@pytest.mark.parametrize("length", [0, 4, 10**6])
def test_a_save_is_written_flushed_synced_renamed_and_its_folder_synced(tmp_path, monkeypatch, length):
    """fsync sees every byte before the rename; the folder's fsync makes the rename itself survive a crash."""
    recorder = Recorder()
    monkeypatch.setattr(files, "os", recorder)
    write_whole(tmp_path / "x", b"d" * length)
    assert recorder.calls == [("fsync", length), ("replace", True, str(tmp_path / "x")), ("fsync", str(tmp_path))]
    assert (tmp_path / "x").read_bytes() == b"d" * length and os.listdir(tmp_path) == ["x"]


def test_a_model_the_rewound_metrics_and_the_predictions_of_score_are_written_so(tmp_path, monkeypatch, capsys):
    recorder = Recorder()
    monkeypatch.setattr(files, "os", recorder)
    checkpoint.save(build(dtype="float32"), tmp_path / "m.safetensors")
    RunFolder(tmp_path, {}).rewind(1)
    (tmp_path / "text").write_text("ĀāĂă", encoding="utf-8")
    result = call(
        capsys,
        "score",
        tmp_path / "m.safetensors",
        tmp_path / "text",
        "--per-char",
        tmp_path / "out",
        "--device",
        "cpu",
    )
    assert result.code == 0, result
    names = [Path(entry[2]).name for entry in recorder.calls if entry[0] == "replace"]
    assert names == ["m.safetensors", "metrics.jsonl", "out"]
    assert [entry[0] for entry in recorder.calls] == ["fsync", "replace", "fsync"] * 3


@pytest.mark.parametrize("mode", ["b", "t"])
def test_an_error_leaves_the_old_file_and_nothing_else(tmp_path, mode):
    path = tmp_path / "x"
    path.write_text("old")
    with pytest.raises(ZeroDivisionError), new_file(path, mode) as file:
        file.write(b"new" if mode == "b" else "new")
        raise ZeroDivisionError
    with pytest.raises(OSError, match="No space") as caught, new_file(path, mode):
        raise OSError(28, "No space left on device", ".x.1.tmp")
    assert path.read_text() == "old" and os.listdir(tmp_path) == ["x"] and caught.value.filename == str(path)


def test_a_temporary_file_of_a_dead_process_with_this_number_is_no_hindrance(tmp_path):
    (tmp_path / "mine").write_text("mine")
    (tmp_path / f".x.{os.getpid()}.tmp").symlink_to(tmp_path / "mine")
    write_whole(tmp_path / "x", b"new")
    assert (tmp_path / "mine").read_text() == "mine" and (tmp_path / "x").read_bytes() == b"new"


def test_a_folder_that_cannot_be_synced_is_let_be_and_one_that_fails_is_not(tmp_path, monkeypatch):
    for number, harmless in ((22, True), (5, False)):

        def fsync(*_, number=number):
            raise OSError(number, "fsync")

        monkeypatch.setattr(files.os, "fsync", fsync)
        if harmless:
            files.flush_folder(tmp_path)
        else:
            with pytest.raises(OSError, match="fsync"):
                files.flush_folder(tmp_path)


def killed_saves(folder: Path, how: str, rounds: int) -> list[str]:
    """Kill -9 a process that writes two models in turn, at a seeded moment, `rounds` times: what each round left."""
    path, rng = folder / "last.safetensors", np.random.default_rng(5)
    whole = {}
    for seed, name in enumerate("ab"):
        model = build(vocab_size=90, embed=64, hidden=256, seed=seed, dtype="float32")
        checkpoint.save(model, f"{path}-{name}")
        whole[Path(f"{path}-{name}").read_bytes()] = name
    saver = subprocess.Popen(
        [sys.executable, "-c", SAVER, how, path],
        env=ENVIRONMENT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        bufsize=1,
    )
    found = []
    try:
        for _ in range(rounds):
            print("next", file=saver.stdin, flush=True)
            child = int(saver.stdout.readline())  # it has saved once
            time.sleep(rng.uniform(0, 0.03))
            os.kill(child, signal.SIGKILL)
            assert saver.stdout.readline() == "dead\n"
            found.append(whole.get(path.read_bytes(), "torn"))
            if found[-1] != "torn":
                assert rnncore.load(path, "cpu").config == ModelConfig(90, 64, 256, 2)
    finally:
        saver.kill()
        saver.communicate()
    return found


def test_kill_9_during_a_save_leaves_a_file_that_loads_and_stale_temporaries_are_swept(tmp_path):
    found = killed_saves(tmp_path, "whole", 20)
    assert "torn" not in found
    stale = list(tmp_path.glob(".*.tmp"))
    assert len(stale) > 5  # 13 to 15 when written: the moments are those of a save
    RunFolder(tmp_path, {}).rewind(1)
    assert not list(tmp_path.glob(".*"))


def test_the_same_moments_tear_a_file_that_is_written_in_place(tmp_path):
    """What the test above would see if saving were open and write."""
    assert "torn" in killed_saves(tmp_path, "plain", 20)
