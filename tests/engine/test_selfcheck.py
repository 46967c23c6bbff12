"""The self-check of a path: whatever becomes of its process there is a verdict; and its judgement, on the CPU, over paths
that are right and over such as are wrong."""
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import asdict, replace

import numpy as np
import pytest

from rnncore import selfcheck
from rnncore.nn.stepper import Stepper
from rnncore.selfcheck import Task, attempt, build
from rnncore.steps import EagerSteps

SMALL = Task("float32", "cpu", 11, 6, 24, 2, 5, 9, "adam")


@pytest.fixture
def child(monkeypatch):
    """Checks whose process runs this code, and that may be silent for two seconds."""
    monkeypatch.setattr(selfcheck, "SILENCE", 2.0)
    monkeypatch.setattr(selfcheck, "GONE", 0.5)

    def run(code: str, timed: bool = True):
        monkeypatch.setattr(selfcheck, "CHILD", f"import json, sys\ndef say(**m): print(json.dumps(m), flush=True)\n{code}")
        return selfcheck.run(SMALL, timed)
    return run


@pytest.mark.parametrize(("code", "cause"), [
    ("say(stage='training'); import os; os.abort()", "training: killed by SIGABRT"),
    ("import ctypes; ctypes.string_at(0)", "the start: killed by SIGSEGV"),
    ("say(stage='a'); say(stage='b'); import time; time.sleep(60)", "b: no sign of life for 2 s"),
    ("say(cause=None, ms=1.0, eager_ms=2.0); import time; time.sleep(60)", "the start: no sign of life for 2 s"),
    ("say(cause=None, ms=1.0, eager_ms=2.0); sys.exit(1)", "the start: ended with exit code 1"),
    ("raise RuntimeError('illegal\\x1b[1m')", "ended with exit code 1: RuntimeError: illegal\\x1b[1m"),
    ("pass", "the start: ended with exit code 0"), ("say(cause=None)", "ended with exit code 0"),
    ("say(cause=None, ms=0.0, eager_ms=1.0)", "ended with exit code 0"), ("say(other=1)", "ended with exit code 0"),
    ("say(cause=None, ms=1.0, eager_ms=2.0); say(stage='x')", "x: ended with exit code 0"), ("say(cause=3)", "ended with exit code 0"),
    ("say(cause='the loss of step 1 is 2 off')", "the loss of step 1 is 2 off"),
])
def test_a_check_that_ends_badly_or_not_at_all_has_failed(child, code, cause):
    begun = time.monotonic()
    found = child(code)
    assert cause in found["cause"] and found.keys() == {"cause"} and time.monotonic() - begun < 12


def test_times_are_wanted_only_where_they_were_asked_for(child):
    assert child("say(cause=None)", timed=False) == {"cause": None}


def test_a_machine_that_can_start_no_process_cannot_check(monkeypatch):
    monkeypatch.setattr(selfcheck.sys, "executable", "/no/such/python")
    assert selfcheck.run(SMALL) == {"unable": "no process can be started: No such file or directory"}


def test_what_else_a_process_says_is_not_heard(child):
    code = "print('hello'); print('[1]'); print('{'); print('\\xff'); say(stage='x' * 9, other=1)"
    assert child(f"{code}; say(cause=None, ms=1, eager_ms=2.5)") == {"cause": None, "ms": 1, "eager_ms": 2.5}


def test_a_long_check_that_gives_signs_of_life_goes_on(child):
    code = "import time\nfor _ in range(3): say(stage='x'); time.sleep(1)\nsay(cause=None, ms=1, eager_ms=2)"
    assert child(code) == {"cause": None, "ms": 1, "eager_ms": 2}


def test_a_check_that_cannot_have_the_card_says_so(child):
    assert child("say(unable='device cuda cannot be used: busy')") == {"unable": "device cuda cannot be used: busy"}


class Interrupted(subprocess.Popen):
    """A process for which the first wait is broken off by Ctrl-C."""
    started = []

    def wait(self, timeout=None):
        self.started.append(self)
        if len(self.started) == 1:
            raise KeyboardInterrupt
        return super().wait(timeout)


def test_an_interrupted_check_leaves_no_process(child, monkeypatch):
    monkeypatch.setattr(selfcheck.subprocess, "Popen", Interrupted)
    with pytest.raises(KeyboardInterrupt):
        child("say(stage='x'); import time; time.sleep(60)")
    assert Interrupted.started[0].poll() == -9


def test_a_check_whose_parent_is_gone_ends_itself(tmp_path):
    """It hangs in its first stage; nobody is there to end it."""
    code = ("import time; from rnncore import selfcheck; selfcheck.SILENCE = 0.5\n"
            "def attempt(task, timed):\n    yield {'stage': 'x'}\n    time.sleep(60)\n"
            "selfcheck.attempt = attempt; selfcheck.child()")
    done = subprocess.run([sys.executable, "-P", "-c", code, f"[{json.dumps(asdict(SMALL))}, false]"], timeout=30,
                          capture_output=True, env={**os.environ, "PYTHONPATH": selfcheck.ROOT})
    assert done.returncode == -signal.SIGALRM and done.stdout == b'{"stage": "x"}\n'


@pytest.mark.parametrize("task", [SMALL, replace(SMALL, optimizer=None, seq=1)])
def test_the_whole_check_in_its_own_process(task):
    """Eager beside itself on the CPU; in a folder whose modules must not be taken for ours."""
    found = selfcheck.run(task, timed=True)
    assert found["cause"] is None and 0 < found["ms"] < 1000 and 0 < found["eager_ms"] < 1000
    assert selfcheck.run(task) == {"cause": None}


def test_the_real_process_tells_a_missing_card_from_a_bad_path(tmp_path):
    (tmp_path / "json.py").write_text("1 / 0")
    code = "from rnncore.selfcheck import Task, run; print(run(Task('tf32', 'cuda', 5, 4, 8, 1, 2, 3, 'adam')))"
    done = subprocess.run([sys.executable, "-P", "-c", code], cwd=tmp_path, capture_output=True, text=True,
                          env={**os.environ, "PYTHONPATH": selfcheck.ROOT, "CUDA_VISIBLE_DEVICES": ""})
    assert done.stdout.startswith("{'unable': 'device cuda cannot be used")


# The check's judgement, on the CPU

def rounded(array, bits: int):
    """float32 with so many bits of the mantissa less, to the nearest."""
    mask = np.uint32(0xFFFFFFFF << bits & 0xFFFFFFFF)
    return ((array.view(np.uint32) + np.uint32(1 << bits - 1)) & mask).view(np.float32)


def play(task: Task, wrong=None, bits: int = 0, timed: bool = False) -> list[dict]:
    """The check's messages where "graph" is eager with rounded weights, and `wrong` done to its model."""
    def make(task, documents):
        precision = "float64" if task.precision == "float64" else "float32"
        model = build(replace(task, path="eager", precision=precision), documents)
        if task.path == "eager":
            return model
        if bits:
            once, flat = model.loss_and_grads, model.params.flat

            def loss_and_grads(*args, **kwargs):
                kept = flat.copy()
                flat[...] = rounded(flat, bits)
                found = once(*args, **kwargs)
                flat[...] = kept
                return found
            model.loss_and_grads = loss_and_grads
        if wrong:
            wrong(model)
        return model
    return list(attempt(task, timed, make))


@pytest.mark.parametrize(("precision", "bits"), [("float64", 0), ("float32", 0), ("tf32", 13), ("bf16", 16)])
@pytest.mark.parametrize("optimizer", ["adam", "muon", None])
def test_a_right_path_passes(precision, bits, optimizer):
    assert play(replace(SMALL, precision=precision, path="graph", optimizer=optimizer), bits=bits)[-1] == {"cause": None}


@pytest.mark.parametrize("optimizer", ["adam", None])
def test_times_come_where_they_are_asked_for(optimizer):
    verdict = play(replace(SMALL, path="graph", optimizer=optimizer), timed=True)[-1]
    assert verdict["cause"] is None and verdict["ms"] > 0 and verdict["eager_ms"] > 0


@pytest.mark.parametrize(("optimizer", "timed", "eager_steps", "characters"), [
    ("adam", False, 30, 548), ("adam", True, 142, 548), (None, False, 0, 548), (None, True, 0, 1444)])
def test_a_check_takes_no_more_eager_work_than_it_compares(monkeypatch, optimizer, timed, eager_steps, characters):
    """Eager steps by kind; of the characters, 252 are the played path's own, where there is a writing kernel on a card."""
    steps, stepped, take, step = [], [], EagerSteps.take, Stepper.step
    monkeypatch.setattr(EagerSteps, "take", lambda self, *where: steps.append(self.model.played) or take(self, *where))
    monkeypatch.setattr(Stepper, "step", lambda self, ids: stepped.append(ids) or step(self, ids))

    def make(task, documents):
        model = build(replace(task, path="eager"), documents)
        model.played = task.path
        return model

    verdict = list(attempt(replace(SMALL, path="graph", optimizer=optimizer), timed, make))[-1]
    assert verdict["cause"] is None and ("ms" in verdict) == timed
    assert (steps.count("eager"), len(stepped)) == (eager_steps, characters)


def test_another_precision_than_was_asked_for_fails():
    assert play(replace(SMALL, path="graph"), bits=13)[-1]["cause"].startswith("training: ")
    assert play(replace(SMALL, path="graph", precision="tf32"), bits=20)[-1]["cause"]


def patched(change):
    """A fault: change(once, x, y, state, keep, dropout) in the place of loss_and_grads."""
    def wrong(model):
        once = model.loss_and_grads
        model.loss_and_grads = lambda x, y, s=None, keep=None, dropout=None: change(once, x, y, s, keep, dropout)
    return wrong


def a_row(name: str):
    """A gradient where row 3 was not written; of an LSTM's, unit 3's of all gates."""
    def change(once, x, y, state, keep, dropout):
        loss, grads, state = once(x, y, state, keep=keep, dropout=dropout)
        grads[name][3::24] = 0
        return loss, grads, state
    return patched(change)


def a_state(once, x, y, state, keep, dropout):
    """One unit's state is not written."""
    loss, grads, after = once(x, y, state, keep=keep, dropout=dropout)
    after.h[1, 2] = 0.0
    return loss, grads, after


def a_drift(model):
    """One parameter goes its own way, slowly."""
    once, bias = model.loss_and_grads, model.params["head.bias"]

    def loss_and_grads(*args, **kwargs):
        bias[...] -= 0.004
        return once(*args, **kwargs)
    model.loss_and_grads = loss_and_grads


WRONG = {
    "the update of a parameter is wrong": a_drift,
    "documents flow into each other": lambda model: setattr(model, "keep", lambda ids: None),
    "the masks are always the first step's": patched(
        lambda once, x, y, s, k, d: once(x, y, s, keep=k, dropout=d._replace(step=0))),
    "the state is not carried": patched(lambda once, x, y, s, k, d: once(x, y, None, keep=k, dropout=d)),
    "the state does not begin at zero": patched(
        lambda once, x, y, s, k, d: once(x, y, s or once(x, y, dropout=d)[2], keep=k, dropout=d)),
    "weights are not dropped": patched(
        lambda once, x, y, s, k, d: once(x, y, s, keep=k, dropout=d._replace(weight_rate=0.0))),
    "a row of a gradient is missing": a_row("lstm.weight_hh_l1"),
    "an entry of a bias is missing": a_row("lstm.bias_ih_l0"),
    "a symbol's gradient is missing": a_row("embedding.weight"),
    "a unit's state is stale": patched(a_state),
    "windows are all of one length": patched(lambda once, x, y, s, k, d: once(
        np.concatenate([x, x[-1:]]) if len(x) < 9 else x, np.concatenate([y, y[-1:]]) if len(x) < 9 else y, s,
        keep=k, dropout=d)),
    "the loss is a hundredth off": patched(lambda once, x, y, s, k, d: (lambda f: (f[0] * 1.01, *f[1:]))(
        once(x, y, s, keep=k, dropout=d))),
}


@pytest.mark.parametrize("optimizer", ["adam", "muon"])
@pytest.mark.parametrize("precision", ["float32", "bf16"])
@pytest.mark.parametrize("fault", WRONG)
def test_a_wrong_path_fails(fault, precision, optimizer):
    verdict = play(replace(SMALL, precision=precision, path="graph", optimizer=optimizer), WRONG[fault])[-1]
    assert verdict["cause"] and "is rounding" in verdict["cause"] and "\n" not in verdict["cause"]


@pytest.mark.parametrize("fault", ["another", "greedy", "stuck"])
@pytest.mark.parametrize("precision", ["float32", "tf32"])
def test_a_wrong_writer_fails(monkeypatch, precision, fault):
    right = selfcheck.generate_ids

    def generate_ids(model, prompt, config, count):
        ids = None
        for k, chosen in enumerate(right(model, prompt, config, count)):
            odd = fault == "another" and k % 8 == 7
            ids = ids if fault == "stuck" and k > 30 else (chosen + 1) % 11 if odd else chosen
            yield ids if fault != "greedy" or config.temperature else np.zeros_like(ids)

    monkeypatch.setattr(selfcheck, "generate_ids", generate_ids)
    for task in (SMALL, replace(SMALL, optimizer=None, seq=1, columns=3)):
        assert "symbols written" in play(replace(task, path="graph", precision=precision))[-1]["cause"]


def test_numbers_that_are_none_are_no_match():
    def nothing(once, x, y, state, keep, dropout):
        loss, grads, state = once(x, y, state, keep=keep, dropout=dropout)
        return loss, grads, type(state)(state.h * np.nan, state.c)
    assert play(replace(SMALL, path="graph", precision="bf16"), patched(nothing))[-1]["cause"]


@pytest.mark.parametrize("gate", range(4))
def test_a_number_that_is_none_in_one_gate_of_a_moment_is_no_match(gate):
    wanted = {("moments", "m of lstm.bias_ih_l1"): np.ones((4, 3, 1))}
    found = {name: values.copy() for name, values in wanted.items()}
    assert selfcheck.mismatch(found, wanted, "bf16") is None
    found["moments", "m of lstm.bias_ih_l1"][gate, 1] = np.nan
    assert selfcheck.mismatch(found, wanted, "bf16") == "m of lstm.bias_ih_l1 is nan off, 0.6 at most is rounding"


def test_the_distance_is_a_row_s_by_its_own_size_or_the_usual_one():
    def off(found, wanted):
        return selfcheck.mismatch({("loss", "x"): np.array(found, float)}, {("loss", "x"): np.array(wanted, float)}, "bf16")

    wanted = [[[3, 4], [0, 0]], [[0, 0], [0, 0]]]
    assert off(wanted, wanted) is None and off([[[0]]], [[[0]]]) is None
    assert off([[[3, 4.5], [0, 0]], [[0, 0], [0, 0]]], wanted).startswith("x is 0.1 off")
    assert off([[[3, 4], [0, 1]], [[0, 0], [0, 0]]], wanted).startswith("x is 0.28 off")  # over 5 / sqrt(2)
    assert off([[[3, 4], [0, 0]], [[0, 0], [0, 1e-9]]], wanted).startswith("x is inf off")
    assert selfcheck.mismatch({("loss", "x"): np.zeros((1, 1, 1))}, {}, "bf16").startswith("x is inf off")


def test_windows_after_the_first_case_are_short(monkeypatch):
    """Eager's time goes by them."""
    lengths, take = {}, EagerSteps.take
    monkeypatch.setattr(selfcheck, "SHORT", 7)
    monkeypatch.setattr(EagerSteps, "take", lambda self, *where: lengths.setdefault(
        (self.schedule.config.dropout, self.schedule.config.variational), self.schedule.config.seq) and take(self, *where))
    assert play(replace(SMALL, path="graph"))[-1] == {"cause": None}
    assert lengths == {(0.0, False): SMALL.seq, (0.3, False): 7, (0.2, True): 7}
