"""SIGHUP, as of a terminal that is closed: nothing is lost, whenever it comes; with nohup the run goes on."""
import os
import pty
import signal
import subprocess
import sys
import time

import pytest
from cli_helpers import SMALL, call, corpus, files, make, rows, run
from test_signals import ENDLESS, has_rows, start, step_of, stop, wait_for

ON_ITS_TERMINAL = """
import fcntl, os, signal, sys, termios
os.setsid()
fcntl.ioctl(2, termios.TIOCSCTTY, 0)
if sys.argv[1] == "nohup":
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
os.execv(sys.executable, [sys.executable, "-m", "rnncore", *sys.argv[2:]])
"""


def on_a_terminal(kind: str, *args, cwd) -> tuple[subprocess.Popen, int]:
    """(`rnncore ARGS` with a terminal of its own for all streams, our end of it); kind nohup: SIGHUP is ignored."""
    ours, theirs = pty.openpty()
    process = start(kind, *args, cwd=cwd, program=(sys.executable, "-c", ON_ITS_TERMINAL), stdin=theirs, stdout=theirs,
                    stderr=theirs)
    os.close(theirs)
    return process, ours


def test_a_terminal_that_is_closed_loses_nothing(tmp_path):
    corpus(tmp_path)
    process, terminal = on_a_terminal("plain", *ENDLESS, cwd=tmp_path)
    wait_for(has_rows(tmp_path / "a"), process)
    assert not (tmp_path / "a/last.safetensors").exists()  # nothing was saved yet
    os.close(terminal)
    assert process.wait(60) == 129
    step = step_of(tmp_path / "a")
    assert rows(tmp_path / "a")[-1]["step"] == step > 0 and not list((tmp_path / "a").glob(".*"))
    process, terminal = on_a_terminal("plain", "train", "--resume", "-o", "a", cwd=tmp_path)  # resumed, and again
    wait_for(lambda: rows(tmp_path / "a")[-1]["step"] > step, process)
    os.close(terminal)
    assert process.wait(60) == 129 and step_of(tmp_path / "a") > step
    assert run("train", "--resume", "-o", "a", "--steps", step_of(tmp_path / "a") + 5, cwd=tmp_path).code == 0


def test_with_nohup_it_goes_on_though_nobody_can_be_told_any_more(tmp_path):
    """Every write to the terminal fails with EIO from then on."""
    corpus(tmp_path)
    args = ("train", "corpus.txt", "--steps", 400, *SMALL, "-o", "a")
    process, terminal = on_a_terminal("nohup", *args, cwd=tmp_path)
    wait_for(has_rows(tmp_path / "a"), process)
    os.close(terminal)
    process.send_signal(signal.SIGHUP)
    assert process.wait(120) == 0
    assert step_of(tmp_path / "a") == 400 == rows(tmp_path / "a")[-1]["step"]
    samples = (tmp_path / "a/samples.txt").read_text()
    assert samples.count("--- step ") == 10 and (tmp_path / "a/best.safetensors").is_file()


def test_the_exit_code_is_the_runs_though_its_last_words_reach_nobody(tmp_path):
    corpus(tmp_path)
    args = ("train", "corpus.txt", "--steps", 2000, "--lr", 1e38, *SMALL, "-o", "a")
    process, terminal = on_a_terminal("nohup", *args, cwd=tmp_path)
    wait_for((tmp_path / "a").is_dir, process)
    os.close(terminal)
    assert process.wait(60) == 3


@pytest.mark.parametrize("number", [signal.SIGHUP])
def test_a_signal_while_a_corpus_is_read_leaves_nothing(tmp_path, number):
    process = start("train", "-", *SMALL, cwd=tmp_path, stdin=subprocess.PIPE)
    process.stdin.write("a b\n" * 50_000)
    process.stdin.flush()
    code, err = stop(process, number)
    assert code == 128 + number and err.strip() == "" and list(tmp_path.iterdir()) == []


SLOW_COUNTING = """
import sys, time
from rnncore.measure import ngram
from rnncore.runs import folder as runs
from rnncore.cli import main, report
def slow(*args, **kwargs):
    print("asleep", file=sys.stderr, flush=True)
    time.sleep(60)
if sys.argv[1] == "counting":
    ngram.baseline = slow
elif sys.argv[1] == "rewinding":
    runs.RunFolder.rewind = slow
else:
    report.write = slow
main(sys.argv[2:])
"""


@pytest.mark.parametrize("number, moment, args", [
    (signal.SIGHUP, "rewinding", ("--resume", "-o", "a", "--steps", 9)),
    (signal.SIGTERM, "counting", ("corpus.txt", *SMALL, "--steps", 5, "-o", "b")),
    (signal.SIGUSR1, "counting", ("corpus.txt", *SMALL, "--steps", 5, "-o", "b"))])
def test_a_signal_before_the_first_step_leaves_all_as_it_was(tmp_path, moment, args, number):
    """A save that is asked for then has nothing to save: it ends nothing either."""
    corpus(tmp_path)
    make("train", "corpus.txt", "--steps", 3, *SMALL, "-o", "a", cwd=tmp_path)
    before = files(tmp_path)
    process = start(moment, "train", *args, cwd=tmp_path, program=(sys.executable, "-c", SLOW_COUNTING))
    while "asleep" not in process.stderr.readline():
        assert process.poll() is None
    if number == signal.SIGUSR1:
        process.send_signal(number)
        time.sleep(0.3)
        assert process.poll() is None
        number = signal.SIGHUP
    process.send_signal(number)
    code, err = stop(process, number)  # a second one asks for the same
    assert code == 128 + number and err == ""
    after = files(tmp_path)
    assert after.items() >= before.items() and after.keys() - before.keys() <= {"b/metrics.jsonl"}
    assert run("train", *args, cwd=tmp_path).code == 0


def test_a_signal_in_the_report_leaves_the_run_as_it_is(tmp_path):
    corpus(tmp_path)
    process = start("report", "train", "corpus.txt", "--steps", 3, *SMALL, "-o", "a", "--report", cwd=tmp_path,
                    program=(sys.executable, "-c", SLOW_COUNTING))
    err = ""
    while "asleep" not in err:
        err += process.stderr.readline()
        assert process.poll() is None or "asleep" in err
    code, rest = stop(process, signal.SIGHUP)
    assert code == 129 and "no report was made (stopped by SIGHUP); `" in rest and "rnncore report a` makes one" in rest
    assert step_of(tmp_path / "a") == 3


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGINT])
def test_a_signal_in_the_final_evaluation_ends_a_finished_run_without_a_report(tmp_path, monkeypatch, capsys, number):
    from rnncore.train import Training
    measure = Training._measure

    def signalled(self, validation, few, last):
        if last:
            os.kill(os.getpid(), number)
        return measure(self, validation, few, last)

    corpus(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(Training, "_measure", signalled)
    result = call(capsys, "train", "corpus.txt", "--steps", 3, *SMALL, "-o", "a", "--report")
    name = signal.Signals(number).name
    assert result.code == 0 and f"no report was made (stopped by {name}); `rnncore report a` makes one" in result.err
    assert step_of(tmp_path / "a") == 3 and not (tmp_path / "a/report.html").exists()
    assert call(capsys, "report", "a").code == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_in_an_evaluation_waits_for_its_end_and_saves(tmp_path, monkeypatch, capsys, number):
    from rnncore.measure.evaluate import Validation
    loss = Validation.loss

    def signalled(self, *args, **kwargs):
        os.kill(os.getpid(), number)
        return loss(self, *args, **kwargs)

    corpus(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(Validation, "loss", signalled)
    result = call(capsys, "train", "corpus.txt", "--steps", 30, *SMALL, "-o", "a")
    assert result.code == 128 + number and "stopped at step 3 and saved" in result.err and step_of(tmp_path / "a") == 3
    assert rows(tmp_path / "a")[-1]["val_loss"] is not None
