"""A GPU's fast paths are taken on evidence alone. The card, its kernels and the trials are played here, but the trial's
own judgement is not: it runs on the CPU over paths that are right and over such as are wrong."""
import json
import os
import subprocess
import sys
import threading
import time
import types
from dataclasses import replace

import numpy as np
import pytest

from rnncore import evidence, kernels, trial, trust
from rnncore.kernels import cpu
from rnncore.trial import Task, attempt, build
from rnncore.trust import Choice, Unable, choose, untried

TASK = Task("tf32", "cuda", 65, 64, 128, 2, 50, 50, "muon")
CARD = {"card": "Some Card", "capability": "9.0", "driver supports": "CUDA 13.1", "cuda runtime": "12.9", "cupy": "14.2.0"}


@pytest.fixture
def card(monkeypatch, tmp_path):
    """A card with a fresh cache; `misfits`: path -> why not, `outcomes`: path -> result or exception, `tried`: paths."""
    played = types.SimpleNamespace(about=dict(CARD), misfits={}, tried=[], folder=tmp_path / "rnncore", outcomes={
        "graph": (None, 2.0, 4.0), "wavefront": (None, 1.0, 4.0), "persistent": (None, 1.5, 4.0)})

    def run(task):
        played.tried.append(task.path)
        outcome = played.outcomes[task.path]
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    kernel = types.SimpleNamespace(name="cuda", why_not=lambda path, *shape: played.misfits.get(path))
    monkeypatch.setattr(kernels, "load", lambda device: cpu if device == "cpu" else kernel)
    monkeypatch.setattr(kernels, "describe", lambda index=0: played.about)
    monkeypatch.setattr(trust, "run", run)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return played


def test_auto_tries_each_path_once_and_takes_the_fastest(card):
    assert untried("auto", TASK) == ["graph", "wavefront", "persistent"]
    choice = choose("auto", TASK)
    assert choice.path == "wavefront" and "\n" not in choice.note
    assert choice.note.startswith("tried on this card: graph 2 ms a step, eager 4, wavefront 1 ms a step, eager 4, per")
    assert choose("auto", TASK) == Choice("wavefront", None) and untried("auto", TASK) == []
    assert card.tried == ["graph", "wavefront", "persistent"]


def test_each_path_is_measured_by_the_eager_beside_it(card):
    """A busy card slows both down."""
    card.outcomes |= {"graph": (None, 20.0, 80.0), "wavefront": (None, 3.0, 4.0), "persistent": (None, 9.0, 9.0)}
    assert choose("auto", TASK).path == "graph"


@pytest.mark.parametrize("outcome", [("the loss of step 2 is 1 off", None, None), (None, 5.0, 4.0), Unable("busy")])
def test_auto_is_eager_where_none_passed_or_none_is_faster(card, outcome):
    card.outcomes = dict.fromkeys(card.outcomes, outcome)
    choice = choose("auto", TASK)
    assert choice.path == "eager" and "going by eager" in choice.note


def test_on_a_cpu_and_for_eager_nothing_is_tried(card):
    assert choose("auto", replace(TASK, device="cpu")) == choose("graph", replace(TASK, device="cpu")) \
        == choose("eager", TASK) == Choice("eager", None)
    assert untried("auto", replace(TASK, device="cpu")) == [] and not card.tried and not card.folder.exists()


def test_auto_goes_by_what_there_is_where_trying_does_not_pay(card):
    assert choose("auto", TASK, trying=False) == Choice("eager", None) and untried("auto", TASK, False) == []
    choose("graph", TASK)
    assert choose("auto", TASK, trying=False) == Choice("graph", None) and card.tried == ["graph"]


def test_a_forced_path_is_tried_and_falls_back_on_those_before_it(card):
    assert untried("persistent", TASK) == ["persistent"]
    assert choose("persistent", TASK) == Choice("persistent", None)
    card.about["card"] = "Other Card"
    card.outcomes["persistent"] = ("training: no sign of life for 120 s", None, None)
    card.misfits["wavefront"] = "one layer has no diagonals"
    for _ in range(2):
        choice = choose("persistent", TASK)
        assert choice.path == "graph" and "\n" not in choice.note
        assert "persistent: training: no sign of life for 120 s, `rnncore doctor --try`" in choice.note
        assert "wavefront: one layer has no diagonals" in choice.note
    card.outcomes["graph"] = ("another", None, None)
    assert card.tried == ["persistent", "persistent", "graph"] and choose("graph", replace(TASK, seq=9)).path == "eager"


def test_what_does_not_fit_is_not_tried(card):
    card.misfits = {"persistent": "H 2048 is too wide", "wavefront": "one layer"}
    assert choose("auto", TASK).path == "graph" and card.tried == ["graph"]


@pytest.mark.parametrize("change", [
    {"card": "Other"}, {"capability": "8.0"}, {"driver supports": "CUDA 13.2"}, {"cuda runtime": "13.0"}, {"cupy": "15"}])
def test_evidence_is_of_one_card_and_its_software(card, change):
    choose("graph", TASK)
    card.about |= change
    assert untried("graph", TASK) == ["graph"] and evidence.on("cuda") == []


def test_evidence_is_of_one_version_and_source(card, monkeypatch, tmp_path):
    choose("graph", TASK)
    with monkeypatch.context() as patch:
        patch.setattr(evidence, "__version__", "0.2.0")
        assert untried("graph", TASK)
    (tmp_path / "gates.cuh").write_text("another")
    monkeypatch.setattr(kernels, "__file__", str(tmp_path / "__init__.py"))
    evidence.texts.cache_clear()
    assert untried("graph", TASK)
    evidence.texts.cache_clear()


@pytest.mark.parametrize("change", [{"precision": "bf16"}, {"hidden": 129}, {"layers": 1}, {"columns": 51}, {"seq": 51},
                                    {"optimizer": "adam"}, {"vocab": 5000}, {"optimizer": None}])
def test_evidence_is_of_one_shape(card, change):
    choose("graph", TASK)
    assert untried("graph", replace(TASK, **change)) == ["graph"]


def test_symbols_count_for_writing_and_for_training_only_where_the_embedding_is_no_longer_folded(card):
    writing = replace(TASK, columns=1, seq=1, optimizer=None)
    for task in (TASK, writing):
        choose("graph", task)
    assert not untried("graph", replace(TASK, vocab=66, embed=7)) and untried("graph", replace(writing, vocab=66))
    assert trust.candidates("auto", writing) == trust.candidates("persistent", writing) == ("graph",)


def test_what_could_not_be_tried_is_not_remembered(card):
    card.outcomes["graph"] = Unable("OutOfMemoryError: out of memory")
    assert "could not be tried: OutOfMemoryError" in choose("graph", TASK).note and untried("graph", TASK)
    card.outcomes["graph"] = (None, 1.0, 2.0)
    assert choose("graph", TASK) == Choice("graph", None)


def test_a_trial_again_takes_the_place_of_the_one_before(card):
    card.outcomes["graph"] = ("flaky", None, None)
    assert choose("graph", TASK).path == "eager"
    card.outcomes["graph"] = (None, 1.0, 2.0)
    assert trust.try_out(replace(TASK, path="graph"))["cause"] is None
    assert choose("graph", TASK).path == "graph" and len(evidence.on("cuda")) == 1
    assert evidence.task_of(evidence.on("cuda")[0], "cuda") == replace(TASK, path="graph")


def damages():
    yield from (b"", b"{", b"[1]", b"{}", b"null", b"\xff\xfe", b"[" * 100_000, b'[{"path": "graph"}]', b" " * (1 << 23))
    for change in ({"path": "magic"}, {"path": ["graph"]}, {"ms": -1.0}, {"ms": float("nan")}, {"hidden": 0}, {"hidden": True},
                   {"cause": 3}, {"precision": "int8"}, {"folds": 1}, {"date": None}):
        yield change


@pytest.mark.parametrize("damage", list(damages()), ids=lambda damage: repr(damage)[:20])
def test_a_damaged_file_counts_as_empty_and_is_written_anew(card, damage):
    choose("graph", TASK)
    path = card.folder / evidence.NAME
    whole = json.loads(path.read_bytes())
    path.write_bytes(damage if isinstance(damage, bytes) else json.dumps([whole[0] | damage]).encode())
    assert evidence.read() == [] and untried("graph", TASK)
    assert choose("graph", TASK) == Choice("graph", None) and len(evidence.read()) == 1


def test_a_cache_that_is_open_to_others_or_cannot_be_written_is_not_gone_by(card, monkeypatch, tmp_path):
    choose("graph", TASK)
    card.folder.chmod(0o777)
    assert evidence.read() == [] and choose("graph", TASK).path == "graph" and card.tried == 2 * ["graph"]
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert choose("graph", TASK).path == "graph" and len(card.tried) == 3


def test_the_file_is_private_and_does_not_grow_without_bound(card, monkeypatch):
    monkeypatch.setattr(evidence, "MOST", 3)
    for seq in range(1, 6):
        choose("graph", replace(TASK, seq=seq))
    assert [record["seq"] for record in evidence.read()] == [5, 4, 3] and card.folder.stat().st_mode & 0o077 == 0


def test_processes_at_once_try_one_after_the_other_and_lose_nothing(card, monkeypatch):
    at_work, most = [], []

    def run(task):
        at_work.append(task)
        most.append(len(at_work))
        time.sleep(0.01)
        at_work.pop()
        return None, 1.0, 2.0

    monkeypatch.setattr(trust, "run", run)
    threads = [threading.Thread(target=choose, args=("graph", replace(TASK, seq=seq))) for seq in (1, 2, 3, 4, 1, 2, 3, 4)]
    for thread in threads:  # each opens the lock anew, as a process does
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(record["seq"] for record in evidence.read()) == [1, 2, 3, 4] and most == [1, 1, 1, 1]


# The process of a trial

SMALL = Task("float32", "cpu", 11, 6, 24, 2, 5, 9, "adam")


@pytest.fixture
def child(monkeypatch):
    """Trials whose process runs this code, and that may be silent for a second."""
    monkeypatch.setattr(trust, "SILENCE", 1.0)
    monkeypatch.setattr(trust, "END", 0.5)

    def run(code: str):
        monkeypatch.setattr(trust, "CHILD", f"import json, sys\ndef say(**m): print(json.dumps(m), flush=True)\n{code}")
        return trust.run(SMALL)
    return run


@pytest.mark.parametrize(("code", "cause"), [
    ("say(stage='training'); import os; os.abort()", "training: killed by SIGABRT"),
    ("import ctypes; ctypes.string_at(0)", "the start: killed by SIGSEGV"),
    ("say(stage='a'); say(stage='b'); import time; time.sleep(60)", "b: no sign of life for 1 s"),
    ("say(cause=None, ms=1.0, eager_ms=2.0); import time; time.sleep(60)", "the start: no sign of life for 1 s"),
    ("say(cause=None, ms=1.0, eager_ms=2.0); sys.exit(1)", "the start: ended with exit code 1"),
    ("raise RuntimeError('cudaErrorIllegalAddress\\x1b[1m')", "ended with exit code 1: RuntimeError: cudaErrorIllegalAddress\\x1b"),
    ("pass", "the start: ended with exit code 0"), ("say(cause=None)", "no time was measured"),
    ("say(cause=None, ms=0.0, eager_ms=1.0)", "no time was measured"), ("say(cause=3)", "ended with exit code 0"),
    ("say(cause='the loss of step 1 is 2 off')", "the loss of step 1 is 2 off"),
])
def test_a_trial_that_ends_badly_or_not_at_all_has_failed(child, code, cause):
    begun = time.monotonic()
    found = child(code)
    assert cause in found[0] and found[1:] == (None, None) and time.monotonic() - begun < 5


def test_what_else_a_process_says_is_not_heard(child):
    code = "print('hello'); print('[1]'); print('{'); print('\\xff'); say(stage='x' * 9, other=1); say(cause=None, ms=1, eager_ms=2.5)"
    assert child(code) == (None, 1, 2.5)


def test_a_long_trial_that_gives_signs_of_life_goes_on(child):
    code = "import time\nfor _ in range(3): say(stage='x'); time.sleep(0.5)\nsay(cause=None, ms=1, eager_ms=2)"
    assert child(code) == (None, 1, 2)


def test_a_trial_that_cannot_have_the_card_says_so(child):
    with pytest.raises(Unable, match="busy"):
        child("say(unable='device cuda cannot be used: busy')")


def test_an_interrupted_trial_leaves_no_process(child, monkeypatch):
    def interrupted(pipe):
        next(iter(pipe))
        raise KeyboardInterrupt

    started, start = [], trust._start
    monkeypatch.setattr(trust, "_messages", interrupted)
    monkeypatch.setattr(trust, "_start", lambda *args: started.append(start(*args)) or started[0])
    with pytest.raises(KeyboardInterrupt):
        child("say(stage='x'); import time; time.sleep(60)")
    assert started[0].poll() == -9


@pytest.mark.parametrize("task", [SMALL, replace(SMALL, optimizer=None, seq=1)])
def test_the_whole_trial_in_its_own_process(task):
    """Eager beside itself on the CPU; in a folder whose modules must not be taken for ours."""
    cause, ms, eager_ms = trust.run(task)
    assert cause is None and 0 < ms < 1000 and 0 < eager_ms < 1000


def test_the_real_process_tells_a_missing_card_from_a_bad_path(tmp_path):
    (tmp_path / "json.py").write_text("1 / 0")
    code = "from rnncore import trust; from rnncore.trial import Task; trust.run(Task('tf32', 'cuda', 5, 4, 8, 1, 2, 3, 'adam'))"
    done = subprocess.run([sys.executable, "-P", "-c", code], cwd=tmp_path, capture_output=True, text=True,
                          env={**os.environ, "PYTHONPATH": str(trust.ROOT), "CUDA_VISIBLE_DEVICES": ""})
    assert "Unable: device cuda cannot be used" in done.stderr.splitlines()[-1]


# The trial's judgement, on the CPU

def rounded(array, bits: int):
    """float32 with so many bits of the mantissa less, to the nearest."""
    return ((array.view(np.uint32) + np.uint32(1 << bits - 1)) & np.uint32(0xFFFFFFFF << bits & 0xFFFFFFFF)).view(np.float32)


def play(task: Task, wrong=None, bits: int = 0) -> list[dict]:
    """The trial's messages where "graph" is the NumPy loops over rounded weights, and `wrong` done to its model."""
    def make(task, path, precision, documents=False):
        model = build(replace(task, device="cpu"), "eager", "float64" if precision == "float64" else "float32", documents)
        if path == "eager":
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
    return list(attempt(task, make))


@pytest.mark.parametrize(("precision", "bits"), [("float64", 0), ("float32", 0), ("tf32", 13), ("bf16", 16)])
@pytest.mark.parametrize("optimizer", ["adam", "muon", None])
def test_a_right_path_passes(precision, bits, optimizer):
    verdict = play(replace(SMALL, precision=precision, path="graph", optimizer=optimizer), bits=bits)[-1]
    assert verdict["cause"] is None and verdict["ms"] > 0 and verdict["eager_ms"] > 0


def test_another_precision_than_was_asked_for_fails():
    assert play(replace(SMALL, path="graph"), bits=13)[-1]["cause"].startswith("training: ")
    assert play(replace(SMALL, path="graph", precision="tf32"), bits=20)[-1]["cause"]


def patched(change):
    """A fault: change(once, x, y, state, keep, dropout) in the place of loss_and_grads."""
    def wrong(model):
        once = model.loss_and_grads
        model.loss_and_grads = lambda x, y, state=None, *, keep=None, dropout=None: change(once, x, y, state, keep, dropout)
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


WRONG = {
    "documents flow into each other": lambda model: setattr(model, "keep", lambda ids: None),
    "the masks are always the first step's": patched(
        lambda once, x, y, s, k, d: once(x, y, s, keep=k, dropout=d._replace(step=0))),
    "the state is not carried": patched(lambda once, x, y, s, k, d: once(x, y, None, keep=k, dropout=d)),
    "the state is carried over the end of the text": patched(
        lambda once, x, y, s, k, d: once(x, y, s or trial.kernels and once(x, y, dropout=d)[2], keep=k, dropout=d)),
    "weights are not dropped": patched(
        lambda once, x, y, s, k, d: once(x, y, s, keep=k, dropout=d._replace(weight_rate=0.0))),
    "a row of a gradient is missing": a_row("lstm.weight_hh_l1"),
    "an entry of a bias is missing": a_row("lstm.bias_ih_l0"),
    "a symbol's gradient is missing": a_row("embedding.weight"),
    "a unit's state is stale": patched(a_state),
    "windows are all of one length": patched(lambda once, x, y, s, k, d: once(
        np.concatenate([x, x[-1:]]) if len(x) < 9 else x, np.concatenate([y, y[-1:]]) if len(x) < 9 else y, s,
        keep=k, dropout=d)),
    "the loss is the last step's": patched(lambda once, x, y, s, k, d: (lambda f: (f[0] * 1.01, *f[1:]))(
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
    right = trial.generate_ids

    def generate_ids(model, prompt, config, count):
        ids = None
        for k, chosen in enumerate(right(model, prompt, config, count)):
            ids = ids if fault == "stuck" and k > 30 else (chosen + 1) % 11 if fault == "another" and k % 8 == 7 else chosen
            yield ids if fault != "greedy" or config.temperature else np.zeros_like(ids)

    monkeypatch.setattr(trial, "generate_ids", generate_ids)
    for task in (SMALL, replace(SMALL, optimizer=None, seq=1, columns=3)):
        assert "symbols written" in play(replace(task, path="graph", precision=precision))[-1]["cause"]


def test_numbers_that_are_none_are_no_match():
    def nothing(once, x, y, state, keep, dropout):
        loss, grads, state = once(x, y, state, keep=keep, dropout=dropout)
        return loss, grads, type(state)(state.h * np.nan, state.c)
    assert play(replace(SMALL, path="graph", precision="bf16"), patched(nothing))[-1]["cause"]
