"""The self-check of a path in its own process: whatever becomes of that, there is a verdict, and it does not stay."""
import os
import signal
import subprocess
import sys
import textwrap
import time
from dataclasses import replace
from pathlib import Path

import pytest

from rnncore import selfcheck
from rnncore.against_eager import Task

SMALL = Task("float32", "cpu", 11, 6, 24, 2, 5, 9, "adam")


@pytest.fixture
def child(monkeypatch):
    """Checks whose process runs this code, for two seconds at most."""
    def run(code: str, timed: bool = True):
        monkeypatch.setattr(selfcheck, "CHILD", "import json, signal, sys, time\nsignal.alarm(2)\n"
                                                f"def say(**m): print(json.dumps(m), flush=True)\n{code}")
        return selfcheck.run(SMALL, timed)
    return run


def real_child(compare: str, silence: int = 2) -> str:
    """Code of a process that is selfcheck.child, over a comparison of this code; so many seconds of silence end it."""
    return (f"import os, pathlib, sys, time; sys.path.insert(0, {selfcheck.ROOT!r})\nfrom rnncore import selfcheck\n"
            f"def compare(task, timed):\n{textwrap.indent(compare, '    ')}\n"
            f"selfcheck.SILENCE, selfcheck.GONE, selfcheck.compare = {silence}, 1, compare\nselfcheck.child()")


@pytest.mark.parametrize(("code", "cause"), [
    ("say(stage='training'); import os; os.abort()", "training: killed by SIGABRT"),
    ("import ctypes; ctypes.string_at(0)", "the start: killed by SIGSEGV"),
    ("say(stage='a'); say(stage='b'); time.sleep(60)", "b: no sign of life for 120 s"),
    ("say(cause=None, ms=1.0, eager_ms=2.0); time.sleep(60)", "the start: no sign of life for 10 s"),
    ("say(cause=None, ms=1.0, eager_ms=2.0); sys.exit(1)", "the start: ended with exit code 1"),
    ("raise RuntimeError('illegal\\x1b[1m')", "ended with exit code 1: RuntimeError: illegal\\x1b[1m"),
    ("pass", "the start: ended with exit code 0"), ("say(cause=None, ms=0.0, eager_ms=1.0)", "ended with exit code 0"),
    ("say(cause=None, ms=1.0, eager_ms=2.0); say(stage='x')", "x: ended with exit code 0"), ("say(cause=3)", "ended with exit code 0"),
    ("say(stage=['x'])", "the start: ended with exit code 0"),
    ("say(cause='the loss of step 1 is 2 off')", "the loss of step 1 is 2 off"),
])
def test_a_check_that_ends_badly_or_not_at_all_has_failed(child, code, cause):
    begun = time.monotonic()
    found = child(code)
    assert cause in found["cause"] and found.keys() == {"cause"} and time.monotonic() - begun < 12


def test_a_long_cause_is_cut(child):
    """What is remembered has a bound (selfcheck.SIZE)."""
    for code in ("say(cause='x' * 300)", "say(unable='x' * 300)", "raise RuntimeError('x' * 300)"):
        (words,) = child(code).values()
        assert len(words) == selfcheck.LINE and words.endswith("xxx")


def test_times_are_wanted_only_where_they_were_asked_for(child):
    assert child("say(cause=None)", timed=False) == {"cause": None}


def test_a_machine_that_can_start_no_process_cannot_check(monkeypatch):
    monkeypatch.setattr(selfcheck.sys, "executable", "/no/such/python")
    assert selfcheck.run(SMALL) == {"unable": "no process can be started: No such file or directory"}


def test_other_output_of_the_self_check_s_process_is_ignored(child):
    code = "print('hello'); print('[1]'); print('{'); print('\\xff'); say(stage='x' * 9, other=1)"
    assert child(f"{code}; say(cause=None, ms=1, eager_ms=2.5)") == {"cause": None, "ms": 1, "eager_ms": 2.5}


def test_a_long_check_that_gives_signs_of_life_goes_on(monkeypatch):
    monkeypatch.setattr(selfcheck, "CHILD", real_child(
        "for _ in range(3): yield {'stage': 'x'}; time.sleep(1)\nyield {'cause': None}"))
    assert selfcheck.run(SMALL) == {"cause": None}


@pytest.mark.parametrize(("compare", "silence", "cause"), [
    ("yield {'stage': 'x'}; time.sleep(60)", 1, "x: no sign of life for 120 s"),
    ("import atexit; atexit.register(time.sleep, 60); yield {'stage': 'x'}; yield {'cause': None}", 60,
     "x: no sign of life for 10 s")])
def test_a_child_that_hangs_ends_itself_soon(monkeypatch, compare, silence, cause):
    monkeypatch.setattr(selfcheck, "CHILD", real_child(compare, silence))
    begun = time.monotonic()
    assert selfcheck.run(SMALL) == {"cause": cause} and time.monotonic() - begun < 20


def test_a_child_that_hangs_before_its_first_message_ends_itself(monkeypatch):
    """Its alarm is set before ours is imported."""
    monkeypatch.setattr(selfcheck, "CHILD", selfcheck.CHILD.replace(str(selfcheck.SILENCE), "1").replace(
        "from rnncore", "import time; time.sleep(60); from rnncore"))
    assert selfcheck.run(SMALL) == {"cause": "the start: no sign of life for 120 s"}


def test_a_child_without_an_alarm_is_ended_too(child, monkeypatch):
    monkeypatch.setattr(selfcheck, "LIMIT", 1)
    begun = time.monotonic()
    assert child("signal.alarm(0); say(stage='x'); time.sleep(60)") == {"cause": "no end within 1 s"}
    assert time.monotonic() - begun < 20


def test_a_check_that_cannot_have_the_card_says_so(child):
    assert child("say(unable='device cuda cannot be used: busy')") == {"unable": "device cuda cannot be used: busy"}


class Interrupted(subprocess.Popen):
    """A process over which Ctrl-C is pressed once it has begun."""
    started = []

    def communicate(self, *args, **kwargs):
        self.started.append(self)
        raise KeyboardInterrupt


def test_an_interrupted_check_leaves_no_process(child, monkeypatch):
    monkeypatch.setattr(subprocess, "Popen", Interrupted)
    with pytest.raises(KeyboardInterrupt):
        child("say(stage='x'); time.sleep(60)")
    assert Interrupted.started[0].wait(10) == -signal.SIGKILL


def runs(process: int) -> bool:
    """Whether there is a process of this id that has not ended."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except FileNotFoundError:
        return False


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="processes are looked up in /proc")
def test_a_check_ends_with_its_parent(tmp_path):
    """It hangs, and has a long time for it; its parent is killed."""
    told = tmp_path / "process"
    code = real_child(f"yield {{'stage': 'x'}}\npathlib.Path({str(told)!r}).write_text(f'{{os.getpid()}}.')\ntime.sleep(60)", 60)
    parent = subprocess.Popen([sys.executable, "-P", "-c", "from rnncore import selfcheck; from rnncore.selfcheck import Task\n"
                               f"selfcheck.CHILD = {code!r}\nselfcheck.run({SMALL!r})"],
                              env={**os.environ, "PYTHONPATH": selfcheck.ROOT})
    try:
        until = time.monotonic() + 30
        while not (told.exists() and told.read_text().endswith(".")) and time.monotonic() < until:
            time.sleep(0.05)
        process = int(told.read_text().rstrip("."))
        assert runs(process)
    finally:
        parent.kill()
        parent.wait()
    until = time.monotonic() + 10
    while runs(process) and time.monotonic() < until:
        time.sleep(0.05)
    assert not runs(process)


def test_the_whole_check_in_its_own_process(monkeypatch, tmp_path):
    """Eager beside itself on the CPU; by the engine of the caller, whatever other stands where Python looks first."""
    (tmp_path / "rnncore.py").write_text("1 / 0")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    found = selfcheck.run(SMALL, timed=True)
    assert found["cause"] is None and 0 < found["ms"] < 1000 and 0 < found["eager_ms"] < 1000
    assert selfcheck.run(replace(SMALL, optimizer=None, seq=1)) == {"cause": None}


def test_the_real_process_tells_a_missing_card_from_a_bad_path(tmp_path):
    (tmp_path / "json.py").write_text("1 / 0")
    code = "from rnncore.selfcheck import Task, run; print(run(Task('tf32', 'cuda', 5, 4, 8, 1, 2, 3, 'adam')))"
    done = subprocess.run([sys.executable, "-P", "-c", code], cwd=tmp_path, capture_output=True, text=True,
                          env={**os.environ, "PYTHONPATH": selfcheck.ROOT, "CUDA_VISIBLE_DEVICES": ""})
    assert done.stdout.startswith("{'unable': 'device cuda cannot be used")
