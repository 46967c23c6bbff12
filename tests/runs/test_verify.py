"""`rnncore info --verify`: a line for each file, exit 1 where one of them is damaged, and what the damage is."""

import json
import shutil

import numpy as np
import pytest
from cli_helpers import call, files, finished_run, refused
from damage import changed, in_bytes, sealed

from rnncore.runs import checkpoint

NAMES = ("best.safetensors", "last.safetensors", "metrics.jsonl", "samples.txt")


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A folder with the run `run`."""
    return finished_run(tmp_path_factory.mktemp("home"))


@pytest.fixture
def verify(home, tmp_path, monkeypatch, capsys):
    """`rnncore info --verify ARGS` in a copy of that folder; it changes nothing."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(home, tmp_path, dirs_exist_ok=True)

    def command(*args):
        before = files(tmp_path)
        result = call(capsys, "info", "--verify", *args)
        assert files(tmp_path) == before
        return result

    return command


def test_a_whole_run_is_ok_file_by_file(verify):
    assert verify("run") == (0, "".join(f"ok  run/{name}\n" for name in NAMES), "")
    found = json.loads(verify("run", "--json").out)
    assert found == {"ok": True, "files": [{"file": f"run/{name}", "ok": True, "error": None} for name in NAMES]}
    assert verify("run/last.safetensors") == (0, "ok  run/last.safetensors\n", "")
    assert verify("shakespeare").code == 0


@pytest.mark.parametrize(
    "name, damage, words",
    [
        ("best.safetensors", lambda data: data[:-1] + bytes([data[-1] ^ 1]), "sha256 does not match"),
        ("last.safetensors", lambda data: data[:-1] + bytes([data[-1] ^ 1]), "sha256 does not match"),
        ("best.safetensors", lambda data: data[:-9], "not a whole model file"),
        ("last.safetensors", lambda data: b"", "header length 0"),
        ("metrics.jsonl", lambda data: data[:-3], "is torn"),
        ("metrics.jsonl", lambda data: data[:-1], "last line is torn"),
        ("metrics.jsonl", lambda data: data + data, "no step above"),
        ("metrics.jsonl", lambda data: b"[]\n" + data, "line 1 has no step"),
        ("metrics.jsonl", lambda data: b"\xff" + data, "byte 0 is no UTF-8"),
        ("samples.txt", lambda data: data[:-1], "last line is torn"),
        ("samples.txt", lambda data: data[5:], "no `--- step N`"),
        ("samples.txt", lambda data: data + b"\xc3", "is no UTF-8"),
    ],
)
def test_a_damaged_file_is_named_with_its_damage(verify, tmp_path, name, damage, words):
    path = tmp_path / "run" / name
    path.write_bytes(damage(path.read_bytes()))
    result = verify("run")
    assert result.code == 1 and result.out == "".join(f"ok  run/{other}\n" for other in NAMES if other != name)
    assert result.err.startswith(f"rnncore: run/{name}: ") and words in result.err and result.err.count("\n") == 1
    assert result.err.count(f"run/{name}") == 1
    found = json.loads(verify("run", "--json").out)
    assert not found["ok"] and [entry["file"] for entry in found["files"] if not entry["ok"]] == [f"run/{name}"]
    assert all(words in entry["error"] for entry in found["files"] if not entry["ok"])


def test_every_bad_file_has_a_line(verify, tmp_path):
    for name in NAMES:
        path = tmp_path / "run" / name
        path.write_bytes(path.read_bytes()[:-1])
    result = verify("run")
    assert (
        result.code == 1
        and result.out == ""
        and [line.split(":")[1] for line in result.err.splitlines()] == [f" run/{name}" for name in NAMES]
    )


def test_finiteness_layout_and_the_training_text_are_checked_under_a_right_sha256(verify, tmp_path):
    path = tmp_path / "run/last.safetensors"
    document, tensors = checkpoint.read(path)
    for data, words in (
        (sealed(document, tensors | {"optimizer.v": np.full_like(tensors["optimizer.v"], np.nan)}), "not finite"),
        (sealed(document, tensors | {"optimizer.v": tensors["optimizer.v"][:-1]}), "optimizer.v has the shape"),
        (sealed(changed(document, ("training", "progress", "step"), "4"), tensors), "training.progress.step"),
    ):
        path.write_bytes(data)
        assert words in refused(verify("run/last.safetensors"))


def test_every_byte_is_read(verify, tmp_path):
    path, rng = tmp_path / "run/best.safetensors", np.random.default_rng(3)
    data = path.read_bytes()
    for _ in range(40):
        path.write_bytes(in_bytes(data, rng))
        assert refused(verify("run/best.safetensors")) or path.read_bytes() == data


def test_what_is_not_there_is_refused(verify, tmp_path):
    (tmp_path / "empty").mkdir()
    assert "holds no model yet" in refused(verify("empty")) and "no such model file" in refused(verify("nowhere"))
    assert "no run" in refused(verify())


def test_resuming_mends_what_is_torn(verify, tmp_path, capsys):
    for name, torn in (
        ("metrics.jsonl", b'{"step": 9, "cha'),
        ("samples.txt", "--- step 4\nthe ol\u00e4".encode()[:-1]),
    ):
        with open(tmp_path / "run" / name, "ab") as file:
            file.write(torn)
    assert verify("run").err.count("\n") == 2
    assert call(capsys, "train", "--resume", "-o", "run", "--steps", 6).code == 0
    assert verify("run").code == 0
