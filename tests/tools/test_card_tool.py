"""tests/tools/card.sh without a card: a stand-in for the interpreter plays every part on a machine that has one.

How its figures look on a card only a card can show; what is tested is order, limits, what is kept, words and codes.
"""
import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from rnncore.config import BENCH_CARD

TOOLS = Path(__file__).resolve().parent
pytestmark = pytest.mark.skipif(not (TOOLS.parents[1] / "setup.cfg").is_file(), reason="card.sh is a checkout's")
PARTS = ["tests", "resume", "bench", "profile", "model2018", "memcheck", "racecheck"]
DOCTOR = {"cuda": "ok", "card": "NVIDIA H100 80GB HBM3", "cuda runtime": "13.2", "cupy": "14.2.0", "rnncore": "0.1.0"}
TESTS = [{"collected": 3}, {"test": "tests/a.py::one", "outcome": "passed", "words": ""},
         {"test": "tests/a.py::two", "outcome": "passed", "words": ""},
         {"test": "tests/a.py::three", "outcome": "skipped", "words": "Skipped: no"}]
ROWS = [{"step": 6000, "chars": 30_000_000, "chars_per_s": 1.8e6, "loss": 1.2, "val_loss": 1.452},
        {"step": 12000, "chars": 60_000_000, "chars_per_s": 1.88e6, "loss": 1.05, "val_loss": 1.554}]
SAME = {"SIGTERM": {"at": 41, "of": 400, "faults": []}, "SIGKILL": {"at": 80, "of": 400, "faults": []}}


def lines(rows) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def row(name: str, kind: str, mine: float | None = 0.9, other: float = 1.8, verdict: str | None = None) -> dict:
    """A row of bench, as its JSON has it."""
    return {"row": name, "class": kind, "ours": {"persistent": {"ms": mine}, "graph": {"why_not": "no"}},
            "torch": {f"{kind} graphed": {"ms": other}}, "chosen": mine and {"path": "persistent", "why": "fastest"},
            "against": f"{kind} graphed", "ratio": mine and {"median": other / mine, "low": 1, "high": 3},
            "verdict": verdict}


def benched(name: str, **changes) -> dict:
    return {"out": json.dumps({"settings": [row(name, kind, **changes.get(kind, {})) for kind in BENCH_CARD[name][2]]})}


PLAY = {  # a machine on which everything passes
    "-m rnncore doctor": {"out": json.dumps(DOCTOR)},
    "-c import json, torch": {"out": json.dumps(["2.11.0", "13.0", 91900])},
    "-k (persistent or tagged) and tf32": {"files": {"{CARD_RESULTS}": lines(TESTS[:1] + TESTS[1:])}},
    "-m pytest": {"files": {"{CARD_RESULTS}": lines(TESTS)}},
    "card_resume.py": {"files": {"{--folder}/resume.json": json.dumps([
        {"path": path, "stops": SAME} for path in ("eager", "graph", "wavefront", "persistent", "tagged")])}},
    **{f"--setting {name} ": benched(name) for name in BENCH_CARD},
    "card_profile.py": {"files": {"{--out}": json.dumps([
        {"row": "wide", "class": "bf16", "path": "persistent", "kernels": [{"name": "persistent_forward", "us": 2.5, "launches": 1.0}]}] * 4)}},
    "-m rnncore train": {"err": "model 3 x 512 LSTM: 1 parameters, tf32 on cuda, path persistent\nsaved\n",
                         "files": {"{-o}/metrics.jsonl": lines(ROWS)}}}
SANITIZER = """#!/bin/bash
echo "========= COMPUTE-SANITIZER"
while [[ $1 == --* ]]; do shift 2; done
"$@"; code=$?
echo "========= ${SANITIZED:-ERROR SUMMARY: 0 errors}"
exit $code
"""


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """A machine with a card: a function that starts card.sh on it; play: what goes before PLAY."""
    fake, bin_ = tmp_path / "python", tmp_path / "bin"
    fake.write_text(f'#!/bin/bash\nexec "{sys.executable}" -S "{TOOLS}/fake_python.py" "$@"\n')
    bin_.mkdir()
    (bin_ / "compute-sanitizer").write_text(SANITIZER)
    for file in (fake, bin_ / "compute-sanitizer"):
        file.chmod(0o755)
    for name in ("torch", "pytest"):  # are found here, whatever is installed
        (tmp_path / "site" / name).mkdir(parents=True)
        (tmp_path / "site" / name / "__init__.py").touch()
    (tmp_path / "tinyshakespeare.txt").write_bytes(b"x" * 500_000)
    calls = tmp_path / "calls"

    def start(*args, play: dict | None = None, **environment) -> subprocess.Popen:
        play = (play or {}) | {part: scene for part, scene in PLAY.items() if part not in (play or {})}
        (tmp_path / "play.json").write_text(json.dumps(play))
        return subprocess.Popen(
            [TOOLS / "card.sh", *args, "--out", tmp_path / "out"], cwd=tmp_path, text=True, stdout=subprocess.PIPE,
            stderr=subprocess.PIPE, env={**os.environ, "PYTHON": str(fake), "REAL_PYTHON": sys.executable,
                                         "FAKE_PLAY": str(tmp_path / "play.json"), "FAKE_CALLS": str(calls),
                                         "RNNCORE_CORPORA": str(tmp_path), "PYTHONPATH": str(tmp_path / "site"),
                                         "PATH": f"{bin_}:{os.environ['PATH']}",
                                         **environment})

    def run(*args, **how) -> tuple[int, str, str]:
        process = start(*args, **how)
        out, err = process.communicate(timeout=60)
        return process.returncode, out, err

    run.start, run.out = start, tmp_path / "out"
    run.calls = lambda: calls.read_text().splitlines() if calls.is_file() else []
    return run


def outcomes(table: str) -> dict[str, str]:
    """The name of each part -> its outcome and words, of a table."""
    rows = re.findall(r"^\| (\w+) \| (.*) \| *\d* *\| *\d* *\|$", table, re.MULTILINE)
    return {name: words.strip(" |") for name, words in rows if name in PARTS}


def test_all_parts_run_in_order_and_pass(machine):
    code, out, err = machine("--workers", "2")
    assert code == 0, out + err
    assert list(outcomes(out)) == PARTS and (machine.out / "table.md").read_text() == out
    assert all(words.startswith("passed") for words in outcomes(out).values())
    order = [next(part for part in (*PLAY, "?") if part in call or part == "?") for call in machine.calls()]
    rows = [f"--setting {name} " for name in BENCH_CARD if name[0] != "h"]
    assert list(dict.fromkeys(order)) == [
        "-m rnncore doctor", "-c import json, torch", "-m pytest", "card_resume.py", *rows, "--setting h160 ",
        "--setting h192 ", "card_profile.py", "-m rnncore train", "-k (persistent or tagged) and tf32"]
    call = next(call for call in machine.calls() if "--setting wide" in call)
    assert "bench --setting wide --device cuda --json --rounds 3 --against torch" in call
    assert "**NVIDIA H100 80GB HBM3**" in out and "cuDNN 9.19.0" in out
    assert "by persistent; validation loss 1.452" in out
    call = next(call for call in machine.calls() if "card_profile.py" in call)
    assert call.count(":persistent") == 4 and "Where a unit of wide in bf16 by persistent goes: 2.50 us in 1.00 kernels" in out


def test_what_cannot_be_profiled_is_said(machine):
    code, out, _ = machine("profile")
    assert code == 1 and outcomes(out)["profile"].startswith("**not run** | no row of bench has a ratio to torch")
    seen = [{"row": "wide", "class": "bf16", "path": "graph", "why_not": "OutOfMemoryError: no"}]
    shutil.rmtree(machine.out)
    code, out, _ = machine("bench", "profile", play={
        "card_profile.py": {"files": {"{--out}": json.dumps(seen)}, "code": 1}})
    assert code == 1 and outcomes(out)["profile"] == "**failed** | 0 of 4 rows; wide, bf16: OutOfMemoryError: no"
    assert "Where a unit of wide in bf16 by graph goes: not measured (OutOfMemoryError: no)" in out


def test_parts_are_chosen_by_name_and_keep_their_order(machine):
    code, out, _ = machine("model2018", "tests")
    assert code == 0 and list(outcomes(out)) == ["tests", "model2018"]
    assert not any("rnncore bench" in call or "card_resume" in call for call in machine.calls())
    results = json.loads((machine.out / "results.json").read_text())
    assert results["parts"]["model2018"]["model"]["best"] == 1.452 and results["machine"]["card"] == DOCTOR["card"]


def test_a_part_that_fails_does_not_stop_the_next_and_its_words_are_told(machine):
    failed = {"test": "tests/a.py::four", "outcome": "failed", "words": "assert 1 | 2"}
    wrong = SAME | {"SIGTERM": {"at": 4, "of": 9, "faults": ["optimizer.m: 3 of 9 numbers differ"]}}
    code, out, _ = machine("tests", "resume", "bench", "model2018", "memcheck", "--workers", "1", play={
        "-k (persistent or tagged) and tf32": {"files": {"{CARD_RESULTS}": lines([{"collected": 5}, *TESTS[1:]])}},
        "-m pytest": {"files": {"{CARD_RESULTS}": lines([*TESTS, failed])}, "code": 1},
        "card_resume.py": {"files": {"{--folder}/resume.json": json.dumps([
            {"path": "eager", "stops": SAME}, {"path": "graph", "stops": wrong}])}, "code": 1},
        "--setting wide ": {"err": "Traceback\nValueError: no\n", "code": 1},
        "--setting original ": benched("original", tf32={"mine": 2.0}, bf16={"mine": None, "verdict": "no parity"}),
        "-m rnncore train": {"err": "rnncore: out of memory\n", "code": 1}},
        SANITIZED="Invalid __global__ read")
    same = "the same bits after SIGTERM and after kill -9"
    assert code == 1 and outcomes(out) == {
        "tests": "**failed** | 2 passed, 1 failed, 1 skipped; four: assert 1 \\| 2",
        "resume": f"**failed** | eager: {same}; graph after SIGTERM: optimizer.m: 3 of 9 numbers differ",
        "bench": "**failed** | 27 of 30 rows and classes have a ratio, torch is ahead in 1",
        "model2018": "**failed** | rnncore: out of memory",
        "memcheck": "**failed** | 2 passed, 1 skipped, 2 not run; 1 report, the first: Invalid __global__ read"}
    ahead = "**tf32 graphed** | **1.80** | **0.90** torch is ahead"
    for line in (f"**original** | **tf32** | **persistent** | **2.00** | {ahead}",
                 "original | bf16 | - | - | bf16 graphed | 1.80 | none (no parity)",
                 "wide | all | - | - | - | - | none (exit code 1: ValueError: no)"):
        assert f"| {line} |" in out


def test_a_limit_ends_a_part_with_its_children_and_what_is_there_is_kept(machine):
    mark = f"child of {os.getpid()}"
    code, out, err = machine("tests", "bench", "model2018", "--limit", "tests=1.5", "--limit", "bench=3", play={
        "-m pytest": {"files": {"{CARD_RESULTS}": lines(TESTS[:2])}, "seconds": 60, "child": mark},
        "--setting original ": {"err": "original, tf32: making ready\n", "seconds": 60}})
    assert code == 1 and not any(mark in command for command in running())
    found = outcomes(out)
    assert found["tests"] == "**ended by its limit** | 1 passed, 2 not run"
    assert found["bench"].startswith("**ended by its limit** | 3 of 30 rows")
    assert found["model2018"].startswith("passed")
    assert "| original | all | - | - | - | - | none (ended by its limit: original, tf32: making ready) |" in out
    assert "| layer-768 | all | - | - | - | - | none (not measured: the limit came before) |" in out
    assert (machine.out / "bench" / "char-rnn.json").is_file() and "model2018: passed" in err


def test_a_card_that_is_gone_is_noticed_after_a_part_that_failed(machine):
    gone = {"out": json.dumps(DOCTOR | {"cuda": "a tiny kernel failed (illegal address)"})}
    code, out, err = machine("tests", "bench", "model2018", play={
        "-m rnncore doctor": [PLAY["-m rnncore doctor"], gone, PLAY["-m rnncore doctor"]],
        "-m pytest": {"files": {"{CARD_RESULTS}": lines(TESTS)}, "code": -6}})
    words = "the card computes no more: a tiny kernel failed (illegal address)"
    assert code == 1 and outcomes(out)["bench"] == f"**not run** | {words}" and f"bench: {words}" in err
    assert outcomes(out)["model2018"].startswith("passed")  # it came back


@pytest.mark.parametrize("number", [signal.SIGTERM])
def test_a_stop_in_mid_run_leaves_what_was_found(machine, number):
    process = machine.start("bench", "tests", play={"--setting original ": {"seconds": 9}})
    until = time.monotonic() + 30
    while not any("--setting original" in call for call in machine.calls()):
        assert time.monotonic() < until and process.poll() is None
        time.sleep(0.05)
    process.send_signal(number)
    out, err = process.communicate(timeout=30)
    table = (machine.out / "table.md").read_text()
    assert "| char-rnn | tf32 | persistent | 0.900 |" in table and outcomes(table)["tests"].startswith("passed")
    assert outcomes(table)["bench"].startswith("**stopped** | 3 of 30")
    if number == signal.SIGTERM:
        assert process.returncode == 1 and out == table and "stopped by SIGTERM" in err


def running() -> list[str]:
    """The command lines of all processes, as Linux has them."""
    found = []
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            found.append(file.read_bytes().decode(errors="replace"))
    return found


# The script, as it is here

def card_sh(*args, cwd, **environment) -> subprocess.CompletedProcess:
    return subprocess.run([TOOLS / "card.sh", *args], cwd=cwd, capture_output=True, text=True, timeout=60, env={
        **os.environ, "PYTHON": sys.executable, "CUDA_VISIBLE_DEVICES": "", **environment})


def test_without_a_card_it_says_what_is_missing_and_which_command_mends_it(tmp_path):
    done = card_sh(cwd=tmp_path, OUT=str(tmp_path / "results"))
    assert done.returncode == 1 and list(outcomes(done.stdout)) == PARTS
    assert set(outcomes(done.stdout).values()) == {"**not run** | no card works here"}
    assert re.search(r"^No card works here: .*`.*`", done.stdout, re.MULTILINE)
    (folder,) = (tmp_path / "results").iterdir()
    assert {path.name for path in folder.iterdir()} == {"results.json", "table.md"}
    again = card_sh("--out", folder, cwd=tmp_path)
    assert again.returncode == 1 and "holds results already" in again.stderr


@pytest.mark.parametrize("args, words", [
    (["tests", "speed"], "there is no part speed"), (["--limit", "tests=soon"], "PART=SECONDS")])
def test_what_is_not_understood_is_said_and_nothing_runs(tmp_path, args, words):
    done = card_sh(*args, cwd=tmp_path)
    assert done.returncode == 2 and words in done.stderr and not list(tmp_path.iterdir())


def test_the_parts_are_listed_and_stay_below_nine_minutes_together(tmp_path):
    listed, explained = card_sh("--list", cwd=tmp_path), card_sh("-h", cwd=tmp_path)
    assert listed.returncode == explained.returncode == 0 and not list(tmp_path.iterdir())
    limits = dict(re.findall(r"^  (\w+) +(\d+) s  ", listed.stdout, re.MULTILINE))
    assert list(limits) == PARTS and sum(map(int, limits.values())) <= 540
    assert listed.stdout.strip() in explained.stdout and "RNNCORE_CORPORA" in explained.stdout


def test_without_python_it_says_so(tmp_path):
    done = card_sh(cwd=tmp_path, PYTHON="no-such-python")
    assert done.returncode == 1 and "there is no no-such-python here: install Python" in done.stderr
