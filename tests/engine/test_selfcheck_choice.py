"""A GPU's fast paths are taken by the rule and after a self-check: what is checked, what is remembered, what is fallen back
on, and what the user hears of it. The card, its kernels and the outcomes of the checks are played here."""
import json
import shutil
import threading
import time
import types
from dataclasses import replace
from pathlib import Path

import pytest

from rnncore import kernels, selfcheck
from rnncore.against_eager import Task
from rnncore.cli.doctor import known, named, outcome
from rnncore.kernels import paths
from rnncore.kernels.cpu import ops as cpu
from rnncore.selfcheck import choose, find, place, remembered

TASK = Task("tf32", "cuda", 65, 64, 128, 2, 50, 50, "muon")
TEXT = replace(TASK, columns=1, seq=1, optimizer=None)
CARD = {"card": "Some Card", "capability": "9.0", "driver supports": "CUDA 13.1", "cuda runtime": "12.9",
        "cupy": "14.2.0"}
PASSED, FAILED = {"cause": None}, {"cause": "training: the loss of step 1 is 3 off"}
AGAIN = "`rnncore doctor --try` checks it again"


@pytest.fixture
def card(monkeypatch, tmp_path):
    """A card and a fresh cache; `misfits`: path -> why not, `outcomes`: path -> result, `tried`: paths.

    `begun`: the paths of which a user heard that they are tried; `timed`: of each check, whether times were asked for.
    """
    played = types.SimpleNamespace(about=dict(CARD), misfits={}, tried=[], begun=[], timed=[],
                                   folder=tmp_path / "rnncore", outcomes=dict.fromkeys(selfcheck.PATHS[1:], PASSED))

    def run(task, timed=False):
        played.tried.append(task.path)
        played.timed.append(timed)
        outcome = played.outcomes[task.path]
        return outcome | {"ms": 1.0, "eager_ms": 2.0} if timed and outcome == PASSED else outcome

    kernel = types.SimpleNamespace(
        name="cuda", why_not=lambda path, *shape: played.misfits.get(path),
        rule=lambda precision, config, n, writing: paths.rule(precision, config, played.misfits.get, writing))
    monkeypatch.setattr(kernels, "load", lambda device: cpu if device == "cpu" else kernel)
    monkeypatch.setattr(kernels, "describe", lambda index=0: played.about)
    monkeypatch.setattr(selfcheck, "run", run)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    played.choose = lambda asked, task=TASK, trying=True: chosen(asked, task, trying, played.begun.append)
    return played


def chosen(asked: str, task: Task, *args) -> tuple[str, str | None]:
    """The path, and what the user hears of it."""
    path, misses, kept = choose(asked, task, *args)
    return path, selfcheck.note(asked, task, path, misses, kept, "runs/x")


def untried(path: str, task: Task) -> bool:
    return not find(replace(task, path=path))


def on_card() -> list[dict]:
    return remembered(place("cuda"))


def order(asked: str, task: Task) -> dict:
    return selfcheck.order(asked, task, kernels.load("cuda"))


def test_auto_tries_the_path_of_the_rule_alone_and_once(card):
    assert card.choose("auto") == ("persistent", "self-check on this card: persistent agrees with eager; using "
                                                       "persistent")
    assert card.choose("auto") == ("persistent", None)
    assert card.tried == card.begun == ["persistent"] and card.timed == [False]  # and nothing is timed


@pytest.mark.parametrize(("task", "path"), [
    (replace(TASK, precision="float32"), "wavefront"), (replace(TASK, precision="float64"), "graph"), (TEXT, "graph"),
    (replace(TASK, precision="float32", hidden=512, layers=3), "graph"), (replace(TASK, layers=1), "persistent")])
def test_auto_goes_by_the_rule(card, task, path):
    assert card.choose("auto", task)[0] == path and card.tried == [path]


def test_where_it_failed_the_next_one_is_tried_and_every_run_hears_of_it(card):
    card.outcomes["persistent"] = FAILED
    line = ("warning: the persistent path failed its self-check on this card (training: the loss of step 1 is 3 off): using "
            f"wavefront, about 1.1 to 1.5 times slower on an H100; {AGAIN}")
    assert card.choose("auto") == card.choose("auto") == card.choose("auto", trying=False) == ("wavefront", line)
    assert card.tried == card.begun == ["persistent", "wavefront"]


def test_where_all_paths_failed_eager_is_taken_with_a_warning(card):
    card.outcomes = {"persistent": FAILED, "wavefront": {"cause": "training: killed by SIGSEGV"},
                     "graph": {"cause": "writing: 9 of 64 symbols written are not those that eager writes"}}
    line = ("warning: the persistent path failed its self-check on this card (training: the loss of step 1 is 3 off), the "
            "wavefront path failed its self-check on this card (training: killed by SIGSEGV), the graph path failed its self-check "
            "on this card (writing: 9 of 64 symbols written are not those that eager writes): using eager, about 7.7 "
            f"to 30 times slower on an H100; {AGAIN}")
    assert card.choose("auto") == card.choose("auto") == ("eager", line)
    assert card.tried == ["persistent", "wavefront", "graph"]


def test_a_check_that_could_not_be_made_is_said_and_not_remembered(card):
    card.outcomes["persistent"] = {"unable": "OutOfMemoryError: out of memory"}
    line = ("warning: the persistent path could not be checked on this card (OutOfMemoryError: out of memory): using "
            "eager, about 7.7 to 30 times slower on an H100; the next run checks it again")
    assert card.choose("auto") == card.choose("auto") == ("eager", line)
    assert card.tried == 2 * ["persistent"] and untried("persistent", TASK)  # the others would not get the card either
    record = selfcheck.check(replace(TASK, path="persistent"))
    assert record["cause"] == outcome(record) == "could not be checked: OutOfMemoryError: out of memory"
    choose("graph", TASK)
    assert card.choose("auto") == ("graph", line.replace("eager, about 7.7 to 30", "graph, about 1.3 to 1.9"))
    card.outcomes["persistent"] = PASSED
    assert card.choose("auto")[0] == "persistent"


def test_a_short_run_goes_by_what_is_remembered_and_says_what_it_leaves(card):
    words = "this run is too short to check the persistent path first"
    cure = "times slower on an H100; `rnncore doctor --try runs/x` checks it"
    assert card.choose("auto", trying=False) == ("eager", f"path eager: {words}; eager is about 7.7 to 30 {cure}")
    assert not card.tried and not card.begun
    choose("graph", TASK)
    assert card.choose("auto", trying=False) == ("graph", f"path graph: {words}; graph is about 1.3 to 1.9 {cure}")
    choose("auto", TASK)
    assert card.choose("auto", trying=False) == ("persistent", None) and card.tried == ["graph", "persistent"]


def test_a_short_run_after_a_failed_check_hears_of_both(card):
    card.outcomes["persistent"] = FAILED
    selfcheck.check(replace(TASK, path="persistent"))
    assert card.choose("auto", trying=False) == ("eager", (
        "warning: the persistent path failed its self-check on this card (training: the loss of step 1 is 3 off), this run is "
        "too short to check the wavefront path first: using eager, about 7.7 to 30 times slower on an H100; "
        f"{AGAIN}; `rnncore doctor --try runs/x` checks it"))


def test_for_a_short_text_the_writing_kernel_is_not_checked_and_eager_is_taken(card):
    assert card.choose("auto", TEXT, trying=False) == ("eager", (
        "path eager: this text is too short to check the writing kernel first; eager is about 140 to 190 times slower on an "
        "H100; --cuda-path graph checks it"))
    card.outcomes["graph"] = FAILED
    assert card.choose("auto", replace(TEXT, columns=64)) == ("eager", (
        "warning: the writing kernel failed its self-check on this card (training: the loss of step 1 is 3 off): using eager, "
        f"about 7.4 to 94 times slower on an H100; {AGAIN}"))


def test_on_a_cpu_and_for_eager_nothing_is_tried(card):
    assert card.choose("auto", replace(TASK, device="cpu")) == card.choose("graph", replace(TASK, device="cpu")) \
        == card.choose("eager") == ("eager", None)
    assert not card.tried and not card.folder.exists()


def test_a_forced_path_is_tried_whatever_the_run(card):
    assert card.choose("wavefront", trying=False) == ("wavefront", (
        "self-check on this card: wavefront agrees with eager; using wavefront"))
    assert card.choose("wavefront") == ("wavefront", None) and card.tried == card.begun == ["wavefront"]


def test_a_forced_path_falls_back_by_the_rule_with_a_warning(card):
    card.outcomes["persistent"] = {"cause": "training: no sign of life for 120 s"}
    card.misfits["wavefront"] = "one layer has no diagonals"
    line = ("warning: --cuda-path persistent: the persistent path failed its self-check on this card (training: no sign of life "
            "for 120 s), the wavefront path does not fit (one layer has no diagonals): using graph, about 1.3 to 1.9 "
            f"times slower on an H100; {AGAIN}")
    for _ in range(2):
        assert card.choose("persistent") == ("graph", line)
    assert card.tried == ["persistent", "graph"]
    card.outcomes["graph"] = {"unable": "busy"}
    assert card.choose("graph", replace(TASK, seq=9)) == ("eager", (
        "warning: --cuda-path graph: the graph path could not be checked on this card (busy): using eager, about 5.7 to "
        "18 times slower on an H100; the next run checks it again"))


def test_a_forced_path_that_the_rule_does_not_name(card):
    """It is tried; below it the rule counts, which leaves wavefront out for layers as wide as these."""
    card.outcomes["wavefront"] = FAILED
    card.misfits["persistent"] = "persistent kernels compute in tf32 or bf16, not in float32"
    task = replace(TASK, precision="float32", layers=3, hidden=512)
    assert order("wavefront", task) == {"wavefront": None, "graph": None, "eager": None}
    assert card.choose("wavefront", task)[1].endswith(f"using graph, about 1 to 1.3 times slower on an H100; {AGAIN}")
    assert card.choose("persistent", task) == ("graph", (
        "warning: --cuda-path persistent: the persistent path does not fit (persistent kernels compute in tf32 or bf16, not "
        "in float32): using graph, slower, by how much was not measured"))


def test_what_does_not_fit_is_not_tried_and_is_said_without_a_warning(card):
    card.misfits = {"persistent": "H 160 is no multiple of 64"}
    assert card.choose("auto") == card.choose("auto") == ("wavefront", (
        "path wavefront: the persistent path does not fit (H 160 is no multiple of 64); wavefront is about 1.1 to 1.5 times "
        "slower on an H100"))
    assert card.tried == ["wavefront"] and named(TASK, kernels.load("cuda")) == "wavefront"


def test_the_price_is_that_of_the_best_path_that_fits(card):
    card.misfits, card.outcomes["wavefront"] = {"persistent": "H 160 is no multiple of 64"}, FAILED
    assert card.choose("auto") == ("graph", (
        "warning: the persistent path does not fit (H 160 is no multiple of 64), the wavefront path failed its self-check on this "
        "card (training: the loss of step 1 is 3 off): using graph, about 1.3 to 1.5 times slower on an H100; " + AGAIN))


def test_a_writing_kernel_that_does_not_fit_is_a_warning(card):
    card.misfits = {"graph": "8000 symbols leave no room"}
    for trying in (True, False):
        assert card.choose("auto", TEXT, trying) == ("eager", (
            "warning: the writing kernel does not fit (8000 symbols leave no room): using eager, about 140 to 190 times "
            "slower on an H100"))
    assert not card.tried and named(TEXT, kernels.load("cuda")) == "eager"
    assert order("auto", TEXT) == order("graph", TEXT) == {"graph": "8000 symbols leave no room", "eager": None}


@pytest.mark.parametrize("change", [
    {"card": "Other"}, {"capability": "8.0"}, {"driver supports": "CUDA 13.2"}, {"cuda runtime": "13.0"},
    {"cupy": "15"}])
def test_a_record_is_of_one_card_and_its_software(card, change):
    choose("graph", TASK)
    card.about |= change
    assert untried("graph", TASK) and on_card() == []


def test_a_record_is_of_one_version_and_source(card, monkeypatch, tmp_path):
    choose("graph", TASK)
    with monkeypatch.context() as patch:
        patch.setattr(selfcheck, "__version__", "0.2.0")
        assert untried("graph", TASK)
    for module, names in ((kernels, ("gates.cuh", "cuda/steps.cu", "cuda/ops.py")), (selfcheck, ("model.py", "nn/lstm.py"))):
        here = Path(module.__file__).parent
        for name in names:
            folder = tmp_path / name.replace("/", "-") / here.name
            shutil.copytree(here, folder, ignore=shutil.ignore_patterns("__pycache__"))
            with monkeypatch.context() as patch:
                patch.setattr(module, "__file__", str(folder / Path(module.__file__).name))
                selfcheck.texts.cache_clear()
                assert not untried("graph", TASK)  # a copy is the same text
                with open(folder / name, "a") as file:
                    file.write("\n")
                selfcheck.texts.cache_clear()
                assert untried("graph", TASK)
    selfcheck.texts.cache_clear()


@pytest.mark.parametrize("change", [{"precision": "bf16"}, {"hidden": 129}, {"layers": 1}, {"columns": 51}, {"seq": 51},
                                    {"optimizer": "adam"}, {"vocab": 5000}, {"optimizer": None}])
def test_a_record_is_of_one_shape(card, change):
    choose("graph", TASK)
    assert untried("graph", replace(TASK, **change))


def test_symbols_count_for_writing_and_for_training_only_where_they_change_the_folding(card):
    writing = replace(TASK, columns=1, seq=1, optimizer=None)
    for task in (TASK, writing):
        choose("graph", task)
    assert not untried("graph", replace(TASK, vocab=66, embed=7)) and untried("graph", replace(writing, vocab=66))


def test_a_check_again_takes_the_place_of_the_one_before(card):
    card.outcomes["graph"] = {"cause": "flaky"}
    assert choose("graph", TASK)[0] == "eager"
    card.outcomes["graph"] = PASSED
    assert selfcheck.check(replace(TASK, path="graph"))["ms"] == 1.0 and card.timed == [False, True]
    assert choose("graph", TASK)[0] == "graph" and len(on_card()) == 1
    assert known()[0][1] == replace(TASK, path="graph")


def damages():
    yield from (b"", b"{", b"[1]", b"{}", b"null", b"\xff\xfe", b"[" * 100_000, b'[{"path": "graph"}]',
                b" " * (1 << 23))
    yield from ({"path": "magic"}, {"path": ["graph"]}, {"ms": -1.0}, {"ms": float("nan")}, {"hidden": 0},
                {"hidden": True}, {"cause": 3}, {"precision": "int8"}, {"folds": 1}, {"date": None})


@pytest.mark.parametrize("damage", list(damages()), ids=lambda damage: repr(damage)[:20])
def test_a_damaged_file_counts_as_empty_and_is_written_anew(card, damage):
    choose("graph", TASK)
    path = card.folder / selfcheck.NAME
    whole = json.loads(path.read_bytes())
    path.write_bytes(damage if isinstance(damage, bytes) else json.dumps([whole[0] | damage]).encode())
    assert remembered({}) == [] and untried("graph", TASK)
    assert choose("graph", TASK)[0] == "graph" and len(remembered({})) == 1


def test_a_file_that_is_too_long_counts_as_empty(card):
    """It could take all memory; no file of ours is as long, whatever the causes in it."""
    card.outcomes["graph"] = {"cause": "\U0001f600" * selfcheck.LINE}
    choose("graph", TASK)
    path = card.folder / selfcheck.NAME
    whole = path.read_bytes()
    assert len(whole) * selfcheck.MOST < selfcheck.SIZE
    path.write_bytes(b" " * (selfcheck.SIZE - len(whole)) + whole)
    assert len(remembered({})) == 1
    path.write_bytes(b" " * selfcheck.SIZE + whole)
    assert remembered({}) == []


def test_a_cache_that_is_open_to_others_or_cannot_be_written_is_not_gone_by(card, monkeypatch, tmp_path):
    choose("graph", TASK)
    card.folder.chmod(0o777)
    assert remembered({}) == [] and choose("graph", TASK)[0] == "graph" and card.tried == 2 * ["graph"]
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert chosen("graph", TASK) == ("graph", (
        "self-check on this card: graph agrees with eager; using graph; every run checks again: its cache folder "
        "(XDG_CACHE_HOME) cannot be written, or others can write there")) and len(card.tried) == 3


def test_the_file_is_private_and_does_not_grow_without_bound(card, monkeypatch):
    monkeypatch.setattr(selfcheck, "MOST", 3)
    for seq in range(1, 6):
        choose("graph", replace(TASK, seq=seq))
    assert [record["seq"] for record in remembered({})] == [5, 4, 3] and card.folder.stat().st_mode & 0o077 == 0
    assert (card.folder / f".{selfcheck.NAME}.lock").stat().st_mode & 0o777 == 0o600


def test_processes_at_once_try_one_after_the_other_and_lose_nothing(card, monkeypatch):
    at_work, most = [], []

    def run(task, timed):
        at_work.append(task)
        most.append(len(at_work))
        time.sleep(0.01)
        at_work.pop()
        return {"cause": None, "ms": 1.0, "eager_ms": 2.0}

    monkeypatch.setattr(selfcheck, "run", run)
    threads = [threading.Thread(target=choose, args=("graph", replace(TASK, seq=seq))) for seq in 2 * [1, 2, 3, 4]]
    for thread in threads:  # each opens the lock anew, as a process does
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(record["seq"] for record in remembered({})) == [1, 2, 3, 4] and most == [1, 1, 1, 1]
