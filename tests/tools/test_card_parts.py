"""What tests/tools/card.sh is made of: the comparison of resumed runs, tests in shares, its table and its checks."""
import json
import os
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import save_file

TOOLS = Path(__file__).resolve().parent
sys.path.insert(0, str(TOOLS))
import card
import card_parts
import card_profile
import card_resume
import card_table
from card_process import Options, Part

pytestmark = pytest.mark.skipif(not (TOOLS.parents[1] / "setup.cfg").is_file(), reason="card.sh is a checkout's")


# Stopped and resumed runs

@pytest.fixture(scope="module")
def resumed(tmp_path_factory) -> Path:
    """The runs of card_resume.py on the processor: a small model, on the eager path."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(card_resume, "MODEL", card_resume.MODEL.replace("--hidden 64", "--hidden 16"))
        patch.setattr(card_resume, "STEPS", 100)
        folder = tmp_path_factory.mktemp("resume") / "runs"
        assert card_resume.main(["--folder", str(folder), "--device", "cpu", "--paths", "eager"]) == 0
    return folder


def test_stopped_and_resumed_runs_are_the_undisturbed_one_bit_for_bit(resumed):
    (row,) = json.loads((resumed / "resume.json").read_text())
    for stop in ("SIGTERM", "SIGKILL"):
        outcome = row["stops"][stop]
        assert outcome["faults"] == [] and 0 < outcome["at"] < outcome["of"]
        log = (resumed / "eager" / f"{stop.lower()}-{outcome['of']}-resumed.log").read_text()
        assert f"after step {outcome['at']:,}" in log  # it did go on from there


@pytest.fixture
def pair(resumed, tmp_path) -> tuple[Path, Path]:
    """An undisturbed run and a copy of it, to be spoilt."""
    whole = next((resumed / "eager").glob("whole-*[0-9]"))
    return whole, Path(shutil.copytree(whole, tmp_path / "copy"))


def change(file: Path, name: str, spoil) -> None:
    """Put another tensor in the place of one."""
    with safe_open(file, framework="numpy") as opened:
        tensors, metadata = {key: opened.get_tensor(key) for key in opened.keys()}, opened.metadata()
    save_file(tensors | {name: spoil(tensors[name])}, file, metadata)


def flipped(array: np.ndarray) -> np.ndarray:
    """The same numbers, but for the lowest bit of the last."""
    array = array.copy()
    array.reshape(-1).view(f"u{array.itemsize}")[-1] ^= 1
    return array


@pytest.mark.parametrize("file", ["last.safetensors"])
def test_one_flipped_bit_in_any_tensor_is_seen(pair, file):
    whole, copy = pair
    assert card_resume.differences(whole, copy) == []
    names = sorted(card_resume.tensors(whole / file))
    assert file[0] == "b" or {"optimizer.m", "state.h", "state.c", "lstm.weight_hh_l1"} < set(names)
    for name in names:
        change(copy / file, name, flipped)
        (words,) = card_resume.differences(whole, copy)
        assert words.startswith(f"{file}: {name}: 1 of ")
        change(copy / file, name, flipped)


def test_zeros_of_another_sign_and_other_shapes_are_seen(pair):
    whole, copy = pair
    change(copy / "last.safetensors", "lstm.bias_hh_l0", np.negative)
    assert "lstm.bias_hh_l0: 64 of 64 numbers differ, by 0" in card_resume.differences(whole, copy)[0]
    change(copy / "last.safetensors", "lstm.bias_hh_l0", lambda a: a.astype("float64"))
    assert "another shape or dtype" in card_resume.differences(whole, copy)[0]


def test_other_losses_and_evaluations_are_seen(pair):
    whole, copy = pair
    metrics, rows = copy / "metrics.jsonl", (whole / "metrics.jsonl").read_text().splitlines()
    row = json.loads(rows[3])
    for field in ("loss", "val_loss"):
        metrics.write_text("\n".join([*rows[:3], json.dumps(row | {field: np.nextafter(row[field], 0)}), *rows[4:]]))
        assert f"first of step {row['step']}" in card_resume.differences(whole, copy)[0]
    metrics.write_text("\n".join(rows[:-1]))
    assert "evaluated at the steps" in card_resume.differences(whole, copy)[0]


def lane(tmp_path, monkeypatch, script: str) -> dict:
    """What comes of a path whose training is this script of bash; $RUN is its folder."""
    fake = tmp_path / "python"
    fake.write_text(f'#!/bin/bash\nfor RUN; do :; done\nmkdir -p "$RUN"\n{script}\n')
    fake.chmod(0o755)
    monkeypatch.setattr(card_resume, "PYTHON", str(fake))
    return card_resume.Lane("graph", tmp_path / "lane", "cuda", tmp_path / "text").check()["stops"]["SIGKILL"]


FALLEN_BACK = """echo '--cuda-path graph: using eager (graph: failed)'
touch "$RUN/last.safetensors"; sleep .1; touch "$RUN/last.safetensors"
[[ $RUN == *whole* ]] || exec sleep 9"""


@pytest.mark.parametrize("script, words", [
    ("echo oh >&2; exit 3", "exit code 3: oh"), ("echo path graph", "6400 steps were over before the signal came"),
    (FALLEN_BACK, "the run did not go by graph: --cuda-path graph: using eager (graph: failed)")],
    ids=["fails", "quick", "fallen-back"])
def test_runs_that_fail_or_are_too_quick_or_go_by_another_path_are_said(tmp_path, monkeypatch, script, words):
    outcome = lane(tmp_path, monkeypatch, script)
    assert words in outcome["faults"][0] and "at" not in outcome


# Tests in several processes

SMALL_TESTS = """
import os, pytest
@pytest.mark.parametrize("k", range(7))
def test_good(k): pass
def test_bad(): assert 1 == 2
def test_not(): pytest.skip("for a reason")
@pytest.mark.skipif("CRASH" not in os.environ, reason="no crash was asked for")
def test_crash(): os._exit(1)
"""


@pytest.mark.parametrize("way, crash", [("shares", False)])
def test_every_test_is_counted_once_in_shares(tmp_path, monkeypatch, way, crash):
    if way == "xdist":
        pytest.importorskip("xdist", reason="`pip install pytest-xdist`")
    (tmp_path / "test_small.py").write_text(SMALL_TESTS)
    monkeypatch.setattr(card_parts, "gpu_files", lambda: [str(tmp_path / "test_small.py")])
    monkeypatch.setattr(card_parts, "PYTEST", [word for word in card_parts.PYTEST if word not in ("-m", "gpu")])
    monkeypatch.setattr(card_parts, "find_spec", lambda name: None if (name, way) == ("xdist", "shares") else
                        find_spec(name))
    for name in ("PYTEST_XDIST_WORKER", *([] if crash else ["CRASH"])):
        monkeypatch.delenv(name, raising=False)
    if crash:
        monkeypatch.setenv("CRASH", "1")
    found = card_parts.run_tests(Part("tests", tmp_path, 60, Options(workers=2)))
    assert found["outcome"] == "failed" and "test_bad: assert 1 == 2" in found["failures"]
    counts = [found[name] for name in ("passed", "failed", "skipped", "not run")]
    if not crash:
        assert counts == [7, 1, 2, 0]
        assert found["words"] == "7 passed, 1 failed, 2 skipped; test_bad: assert 1 == 2"
    else:  # xdist calls the test that ended its process a failed one; alone, it and those behind it did not run
        assert sum(counts) == 10 and (counts == [7, 2, 1, 0] if way == "xdist" else counts[3] >= 1)


def test_tests_for_a_card_are_found_without_libraries_that_a_bare_machine_lacks(tmp_path):
    for name in ("hypothesis", "pooch", "matplotlib", "jinja2", "tensorboardX", "playwright", "PIL"):
        (tmp_path / f"{name}.py").write_text("raise ImportError('not on a bare machine')")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "--collect-only", *card_parts.PYTEST, *card_parts.gpu_files()],
        capture_output=True, text=True, cwd=TOOLS.parents[1], env={
            **os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "CARD_RESULTS": str(tmp_path / "results"),
            "PYTHONPATH": f"{tmp_path}:{TOOLS}"})
    assert done.returncode == 0, done.stdout + done.stderr
    assert json.loads((tmp_path / "results").read_text())["collected"] > 140


# What is missing

def test_what_is_missing_is_named_with_the_command_that_mends_it(tmp_path, monkeypatch):
    for module in (card, card_parts):
        monkeypatch.setattr(module, "find_spec", lambda name: None)
    monkeypatch.setattr(card, "find_sanitizer", lambda: None)
    monkeypatch.setattr(card_parts, "find_sanitizer", lambda: None)
    part = Part("memcheck", tmp_path, 5)
    assert card_parts.run_tests(part) == {"outcome": "missing", "words": "pytest is not installed: `pip install pytest`"}
    assert "`pip install nvidia-cuda-sanitizer-api`" in card_parts.sanitizer(part)["words"]
    assert "`pip install numpy click safetensors rich threadpoolctl`" in card.why_no_card({}, 5)
    wanted = [words.split(":")[0] for words in card.wanted(set(card_parts.PARTS))]
    assert wanted == ["pytest", "torch", "compute-sanitizer"]
    assert card.wanted({"resume", "model2018"}) == []


def test_without_torch_bench_measures_ours_alone_and_does_not_pass(tmp_path, monkeypatch):
    monkeypatch.setattr(card_parts, "find_spec", lambda name: None)
    commands = []

    def run(self, command, limit, stdout):
        commands.append(command)
        stdout.write_text(json.dumps({"settings": [{"row": command[4], "class": "tf32"}]}))
        return [0]
    monkeypatch.setattr(Part, "run", run)
    found = card_parts.bench(Part("bench", tmp_path, 5))
    assert found["outcome"] == "missing"
    assert "without torch, which is not installed: `pip install torch`" in found["words"]
    assert not any("--against" in command for command in commands)


def test_a_text_is_taken_from_the_folder_of_corpora_or_is_a_named_one(tmp_path, monkeypatch):
    monkeypatch.setenv("RNNCORE_CORPORA", str(tmp_path))
    monkeypatch.setattr(card_parts, "LARGE", 3)
    found = []
    names = ["small.txt", "a.txt", "b.txt", "tinyshakespeare.txt"]
    for name, text in zip(names, ("ab", "abcd", "abcde", "abc"), strict=True):
        (tmp_path / name).write_text(text)
        found.append(card_parts.text())
    assert found == [("numpy", "numpy"), *((str(tmp_path / name), name) for name in names[1:])]


@pytest.mark.parametrize("log, reports", [
    ("========= COMPUTE-SANITIZER\n1 passed\n========= ERROR SUMMARY: 0 errors\n", []),
    ("========= COMPUTE-SANITIZER\n========= RACECHECK SUMMARY: 0 hazards displayed (0 errors, 0 warnings)\n", []),
    ("========= Invalid __global__ read of size 4 bytes\n=========     at x+0x10\n=========\n"
     "========= ERROR SUMMARY: 1 error\n",
     ["Invalid __global__ read of size 4 bytes", "ERROR SUMMARY: 1 error"]),
    ("========= Error: Race reported between Write access\n", ["Error: Race reported between Write access"])])
def test_reports_of_compute_sanitizer_are_told_from_its_other_words(log, reports):
    assert card_parts.sanitizer_reports(log) == reports


# Profiles

class Event:
    def __init__(self, key: str, count: int, **times):
        self.key, self.count = key, count
        vars(self).update(times)


@pytest.mark.parametrize("attribute", ["self_device_time_total", "self_cuda_time_total"])
def test_a_profile_is_what_the_card_spent_in_each_kernel_of_a_unit(attribute):
    events = [Event("short", 8, **{attribute: 80.0}), Event("long", 16, **{attribute: 400.0}), Event("cudaLaunchKernel", 24, **{attribute: 0})]
    assert card_profile.kernels(events, 8) == [{"name": "long", "us": 50.0, "launches": 2.0}, {"name": "short", "us": 10.0, "launches": 1.0}]


def test_rows_are_profiled_one_after_the_other_and_each_is_kept(tmp_path, monkeypatch):
    """The work is done for real, on a processor, where torch's profiler sees no kernel."""
    def seen(entry):
        entry.work()
        return [{"name": "some", "us": 1.0, "launches": float(entry.units)}]
    monkeypatch.setattr(card_profile, "profiled", seen)
    monkeypatch.setitem(card_profile.BENCH_CARD, "tiny", ("training", {"layers": 1, "hidden": 8, "vocab_size": 5, "seq": 4, "batch": 2}, ("float32",)))
    file = tmp_path / "profile.json"
    given = ["--out", str(file), "--device", "cpu", "tiny:float32:eager", "tiny:float32:graph"]
    assert card_profile.main(given) == 1
    first, second = json.loads(file.read_text())
    assert first == {"row": "tiny", "class": "float32", "path": "eager", "kernels": [{"name": "some", "us": 1.0, "launches": 1.0}]}
    assert second["path"] == "graph" and "graph is a path of GPUs" in second["why_not"]


# The table

def row(**changes) -> dict:
    return {"row": "char-rnn", "class": "tf32", "ours": {"graph": {"ms": 1.5}, "persistent": {"ms": 0.9}},
            "torch": {"tf32 graphed": {"ms": 0.73}}, "chosen": {"path": "persistent"}, "against": "tf32 graphed",
            "ratio": {"median": 0.811}, "verdict": None} | changes


GOLDEN = """\
**NVIDIA H100 80GB HBM3**, driver 580.159, CUDA 13.2, CuPy 14.2.0, torch 2.11.0 (CUDA 13.0), cuDNN 9.19.0, \
rnncore 0.1.0, 2026-11-28

| part | outcome |  | seconds | at most |
|---|---|---|---:|---:|
| tests | passed | 145 passed, 14 skipped | 80 | 110 |
| bench | **ended by its limit** | 2 of 30 rows and classes have a ratio, torch is ahead in 1 | 210 | 210 |
| profile | **failed** | 1 of 2 rows | 20 | 40 |
| model2018 | passed | step 12,000 of 12,000 | 63 | 75 |
| memcheck | not begun |  |  |  |

| row | class | ours | ms | torch | ms | ratio |
|---|---|---|---:|---|---:|---|
| **char-rnn** | **tf32** | **persistent** | **0.900** | **tf32 graphed** | **0.730** | **0.81** torch is ahead |
| writing | float32 | graph | 0.00435 | float32 eager | 463 | 106.51 (without torch float32 graphed) |
| wide | bf16 | persistent | 0.900 | - | - | none (torch could not run) |
| original | all | - | - | - | - | none (exit code 1: a \\| b) |

ms: of a training step, of a pass, or, in the rows that write, of a character of each text. \
Ratio: torch's fastest to ours.

Our paths, in ms:

| row | class | graph | persistent |
|---|---|---:|---:|
| char-rnn | tf32 | 1.50 | 0.900 |
| wide | bf16 | 1.50 | 0.900 |

Where a unit of char-rnn in tf32 by persistent goes: 903 us in 47.0 kernels

| kernel | us | launches |
|---|---:|---:|
| persistent_forward | 424 | 2.00 |
| persistent_backward | 312 | 2.00 |
| 43 others | 167 | 43.0 |

Where a unit of wide in bf16 by graph goes: not measured (OutOfMemoryError: a \\| b)

`rnncore train t.txt --steps 12000`: 60.0 million characters in 63 s, 32 s of them training at 1.88 million \
characters/s by persistent; validation loss 1.452 at step 3,600, 1.554 at the end; training loss 1.010 at step 12,000.
"""


def test_the_table(monkeypatch):
    machine = {"date": "2026-11-28", "card": "NVIDIA H100 80GB HBM3", "cuda runtime": "13.2", "cupy": "14.2.0",
               "rnncore": "0.1.0", "driver": "580.159", "torch": "2.11.0 (CUDA 13.0)", "cudnn": "9.19.0"}
    rows = [row(),
            row(row="writing", **{"class": "float32"}, ours={"graph": {"ms": 0.004347}}, chosen={"path": "graph"},
                torch={"float32 eager": {"ms": 463.0}}, against="float32 eager", ratio={"median": 106.51},
                verdict="without torch float32 graphed"),
            row(row="wide", **{"class": "bf16"}, against=None, ratio=None, torch={}, verdict="torch could not run")]
    model = {"command": "rnncore train t.txt --steps 12000", "seconds": 63.2, "step": 12000, "chars": 60_000_000,
             "loss": 1.01, "chars_per_s": 1.88e6, "path": "persistent", "best": 1.452, "best_step": 3600,
             "val_loss": 1.554}
    kernels = [{"name": "persistent_forward", "us": 424.0, "launches": 2.0}, {"name": "persistent_backward", "us": 312.0, "launches": 2.0},
               *({"name": f"k{k}", "us": 167 / 43, "launches": 1.0} for k in range(43))]
    profiles = [{"row": "char-rnn", "class": "tf32", "path": "persistent", "kernels": kernels},
                {"row": "wide", "class": "bf16", "path": "graph", "why_not": "OutOfMemoryError: a | b"}]
    bench = card_parts.bench_result("limit", rows, {"original": "exit code 1: a | b"}, True)
    parts = {"tests": {"outcome": "passed", "words": "145 passed, 14 skipped", "seconds": 79.8, "limit": 110},
             "bench": bench | {"seconds": 210.4, "limit": 210},
             "profile": {"outcome": "failed", "words": "1 of 2 rows", "seconds": 20, "limit": 40, "profiles": profiles},
             "model2018": {"outcome": "passed", "words": "step 12,000 of 12,000", "seconds": 63, "limit": 75,
                           "model": model},
             "memcheck": {}}
    monkeypatch.setattr(card_table, "SHOWN", 2)
    assert card_table.markdown(machine, parts) == GOLDEN
