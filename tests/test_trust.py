"""A GPU's fast paths are taken on evidence alone: what is tried, what is remembered, what is fallen back on. The card,
its kernels and the outcomes of the trials are played here."""
import json
import threading
import time
import types
from dataclasses import replace

import pytest

from rnncore import evidence, kernels, trust
from rnncore.kernels import cpu
from rnncore.trial import Task
from rnncore.trust import Choice, Unable, choose, untried

TASK = Task("tf32", "cuda", 65, 64, 128, 2, 50, 50, "muon")
CARD = {"card": "Some Card", "capability": "9.0", "driver supports": "CUDA 13.1", "cuda runtime": "12.9",
        "cupy": "14.2.0"}


@pytest.fixture
def card(monkeypatch, tmp_path):
    """A card and a fresh cache; `misfits`: path -> why not, `outcomes`: path -> result or exception, `tried`: paths."""
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
    {"card": "Other"}, {"capability": "8.0"}, {"driver supports": "CUDA 13.2"}, {"cuda runtime": "13.0"},
    {"cupy": "15"}])
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


def test_symbols_count_for_writing_and_for_training_only_where_they_change_the_folding(card):
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
    yield from (b"", b"{", b"[1]", b"{}", b"null", b"\xff\xfe", b"[" * 100_000, b'[{"path": "graph"}]',
                b" " * (1 << 23))
    yield from ({"path": "magic"}, {"path": ["graph"]}, {"ms": -1.0}, {"ms": float("nan")}, {"hidden": 0},
                {"hidden": True}, {"cause": 3}, {"precision": "int8"}, {"folds": 1}, {"date": None})


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
    threads = [threading.Thread(target=choose, args=("graph", replace(TASK, seq=seq))) for seq in 2 * [1, 2, 3, 4]]
    for thread in threads:  # each opens the lock anew, as a process does
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(record["seq"] for record in evidence.read()) == [1, 2, 3, 4] and most == [1, 1, 1, 1]
