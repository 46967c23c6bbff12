"""Signals: the first finishes the step and saves, a second Ctrl-C leaves at once, and what was saved goes on."""
import atexit
import itertools
import os
import shlex
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import numpy as np
import pytest
from cli_helpers import CALLED, COMMAND, ENVIRONMENT, SMALL, call, corpus, read_last, rows, run
from fork_server import Forked

from rnncore.runs import setup
from rnncore.cli.terminal.signals import Signals, Stopped
from rnncore.runs.folder import RunFolder

QUIET = ("--sample-every", 10 ** 6, "--eval-every", 10 ** 6)
ENDLESS = ("train", "corpus.txt", "--steps", 10 ** 6, *SMALL, *QUIET, "-o", "a")
SLOW = """
import concurrent.futures, sys, time
from rnncore import train
advance = train.Training._advance
def slow(self):
    if self.step == 3:
        print("asleep", file=sys.stderr, flush=True)
        concurrent.futures.ThreadPoolExecutor(1).submit(time.sleep, 60).result()  # as a step does on two threads
    return advance(self)
train.Training._advance = slow
from rnncore.cli import main
main(sys.argv[1:])
"""


def start(*args, cwd, program=COMMAND, **streams) -> subprocess.Popen:
    """A process that is killed when the tests end, should it still run."""
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True} | streams
    process = Forked(*args, cwd=cwd, **streams) if program is COMMAND else \
        subprocess.Popen([*program, *map(str, args)], cwd=cwd, env=ENVIRONMENT, **streams)
    atexit.register(process.kill)
    return process


def wait_for(condition, process, pause: float = 0.01) -> None:
    """Until the condition holds; the process must live as long."""
    deadline = time.monotonic() + 60
    while not condition():
        assert process.poll() is None and time.monotonic() < deadline, process.communicate()
        time.sleep(pause)


def has_rows(folder):
    return lambda: (folder / "metrics.jsonl").is_file() and rows(folder)


def step_of(folder) -> int:
    return read_last(folder)[0]["training"]["progress"]["step"]


def stop(process, number: int) -> tuple[int, str]:
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert out == "" and "Traceback" not in err
    return process.returncode, err


def test_ctrl_c_then_sigterm_then_the_end(tmp_path):
    corpus(tmp_path)
    folder = tmp_path / "runs" / "corpus"
    process = start("train", "corpus.txt", "--steps", 10 ** 6, *SMALL, cwd=tmp_path)
    wait_for(lambda: (folder / "metrics.jsonl").is_file() and rows(folder), process)
    code, err = stop(process, signal.SIGINT)
    first = step_of(folder)
    assert code == 130 and f"stopped at step {first:,} and saved" in err
    command = next(line for line in err.splitlines() if line.startswith("  ") and " train " in line)
    seen = len(rows(folder))
    process = start(*shlex.split(command)[len(CALLED):], cwd=tmp_path)
    wait_for(lambda: len(rows(folder)) > seen, process)
    code, err = stop(process, signal.SIGTERM)
    assert code == 143 and "and saved" in err and step_of(folder) > first
    end = step_of(folder) + 5
    assert run("train", "--resume", "--steps", end, cwd=tmp_path).code == 0
    assert rows(folder)[-1]["step"] == end == step_of(folder)
    assert not list(folder.glob(".*"))


def test_a_second_ctrl_c_leaves_at_once_and_the_last_file_is_good(tmp_path):
    corpus(tmp_path)
    process = start("train", "corpus.txt", "--steps", 6, "--save-every", 1, "-o", "a", *SMALL, cwd=tmp_path,
                    program=(sys.executable, "-c", SLOW))
    err = ""
    while "asleep" not in err:
        line = process.stderr.readline()
        assert line, err
        err += line
    time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    time.sleep(0.2)
    assert process.poll() is None  # it finishes its step
    begun = time.monotonic()
    code, err = stop(process, signal.SIGINT)
    assert code == 130 and time.monotonic() - begun < 5 and "saved" not in err  # 0.01 s when written; the step takes 60
    assert step_of(tmp_path / "a") == 3
    assert run("train", "--resume", "-o", "a", cwd=tmp_path).code == 0 and step_of(tmp_path / "a") == 6


def test_a_signal_in_the_last_step_is_too_late_to_stop_anything(tmp_path, monkeypatch, capsys):
    from rnncore.runs.folder import RunFolder
    log = RunFolder.log

    def log_and_stop(self, progress):
        log(self, progress)
        if progress.finished:
            os.kill(os.getpid(), signal.SIGINT)

    corpus(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(RunFolder, "log", log_and_stop)
    result = call(capsys, "train", "corpus.txt", "--steps", 3, *SMALL)
    assert result.code == 0 and "rnncore generate" in result.err and step_of(tmp_path / "runs" / "corpus") == 3


def test_ctrl_c_before_the_first_step_leaves_nothing(tmp_path):
    process = start("train", "-", *SMALL, cwd=tmp_path, stdin=subprocess.PIPE)
    process.stdin.write("a b\n" * 50_000)  # more than a pipe holds: once it is written, the command is reading
    process.stdin.flush()
    code, err = stop(process, signal.SIGINT)
    assert code == 130 and err.strip() == "" and list(tmp_path.iterdir()) == []


def test_ctrl_c_ends_a_text(tmp_path):
    corpus(tmp_path)
    assert run("train", "corpus.txt", "--steps", 1, *SMALL, cwd=tmp_path).code == 0
    process = start("generate", "-n", 10 ** 8, cwd=tmp_path)
    assert process.stdout.read(100)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130 and err.strip() == ""


# Saving on the way

@pytest.mark.parametrize("args, wanted", [(("--val", 0), [61, 122, 130]), (("--save-every", 70), [70, 130])])
def test_a_run_saves_each_minute_whatever_the_validation_says_unless_it_is_told_when(
        tmp_path, monkeypatch, capsys, saves, args, wanted):
    """A clock that goes on by a second a step."""
    now, log = [0], RunFolder.log

    def tick(self, progress, *last):
        now[0] = progress.step
        log(self, progress, *last)

    monkeypatch.setattr(RunFolder, "log", tick)
    monkeypatch.setattr(setup, "time", SimpleNamespace(monotonic=lambda: now[0], perf_counter=time.perf_counter))
    corpus(tmp_path)
    monkeypatch.chdir(tmp_path)
    assert call(capsys, "train", "corpus.txt", "--steps", 130, *SMALL, *QUIET, "-o", "a", *args).code == 0
    assert saves == wanted


def test_a_save_that_is_asked_for_is_made_at_once_and_stops_nothing(tmp_path):
    corpus(tmp_path)
    folder = tmp_path / "a"
    process = start(*ENDLESS, "--save-every", 10 ** 6, cwd=tmp_path)
    wait_for(has_rows(folder), process)
    assert not (folder / "last.safetensors").exists()
    process.send_signal(signal.SIGUSR1)
    wait_for((folder / "last.safetensors").is_file, process)
    first = step_of(folder)
    process.send_signal(signal.SIGUSR1)
    wait_for(lambda: step_of(folder) > first, process)
    code, err = stop(process, signal.SIGTERM)
    assert code == 143 and err.count("saved at step ") == 2 and f"saved at step {first:,}\n" in err


def test_a_save_that_is_asked_for_in_a_row_of_bad_steps_waits_for_its_end(tmp_path, monkeypatch, capsys, saves):
    from rnncore.model import CharLM
    step, taken = CharLM.loss_and_grads, itertools.count(1)

    def spoiled(self, *args, **kwargs):
        loss, grads, state = step(self, *args, **kwargs)
        number = next(taken)
        if number in (10, 11):
            grads["head.bias"][:] = np.nan
        if number == 10:
            os.kill(os.getpid(), signal.SIGUSR1)
        return loss, grads, state

    corpus(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(CharLM, "loss_and_grads", spoiled)
    result = call(capsys, "train", "corpus.txt", "--steps", 20, *SMALL, "-o", "a", "--eval-every", 100)
    assert result.code == 0 and saves == [12, 20] and result.err.count("saved at step 12\n") == 1


def test_handlers_are_put_back():
    numbers = signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1
    before = list(map(signal.getsignal, numbers))
    with Signals() as signals:
        with signals.waiting():
            assert signals.stop is None
            for number in (signal.SIGTERM, signal.SIGTERM, signal.SIGHUP):  # later ones ask for the same
                os.kill(os.getpid(), number)
                assert signals.stop == signal.SIGTERM
            with pytest.raises(KeyboardInterrupt):
                os.kill(os.getpid(), signal.SIGINT)
        for number in (signal.SIGHUP, signal.SIGTERM):
            with pytest.raises(Stopped) as stopped:
                os.kill(os.getpid(), number)
            assert stopped.value.number == number
            os.kill(os.getpid(), signal.SIGTERM)  # another one is not heard: the process ends
            signals.stop, signals.ended = None, False
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
        assert not signals.save_asked()
        os.kill(os.getpid(), signal.SIGUSR1)
        assert signals.save_asked() and not signals.save_asked()
    assert list(map(signal.getsignal, numbers)) == before


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_signal_that_comes_in_a_finalizer_is_not_lost():
    """Python discards what is raised there; the run then ends behind its first step."""
    class Finalized:
        def __del__(self):
            os.kill(os.getpid(), signal.SIGTERM)

    with Signals() as signals:
        Finalized()
        with signals.waiting():
            assert signals.stop == signal.SIGTERM
        signals.ended = None  # or the handlers of this process would not be put back, as it is about to end
