"""Standard streams that are closed, full or know few characters, and a limit on memory: one line, and nothing lost unsaid."""
import subprocess
import sys

import pytest
from cli_helpers import COMMAND, ENVIRONMENT, SMALL, corpus, finished_run, refused, run

from rnncore import CharLM, ModelConfig, Vocab, save
from rnncore.cli.terminal import limits, streams

CLOSED = "rnncore: stdout is closed: send it to a file, to a pipe, or to /dev/null\n"


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A folder with corpus.txt and a run in runs/run, and a model of emoji, m."""
    folder = finished_run(tmp_path_factory.mktemp("home"))
    vocab = Vocab.from_text("ab 😀☃é")
    save(CharLM(ModelConfig(len(vocab), 4, 8, 1), vocab, "cpu", seed=2), folder / "m")
    return folder


def shell(command: str, cwd, env=None):
    """A command of bash in which RNNCORE is the command: (exit code, stdout, stderr)."""
    done = subprocess.run(["bash", "-c", command.replace("RNNCORE", " ".join(COMMAND))], cwd=cwd, env=ENVIRONMENT | (env or {}),
                          stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60)
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize("command", ["generate run -n 5", "info run --json", "score run corpus.txt", "--help"])
def test_a_closed_stdout_is_refused_for_what_is_written_is_lost(home, command):
    assert shell(f"RNNCORE {command} >&-", home) == (1, "", CLOSED)
    if command.startswith("generate"):
        assert shell(f"RNNCORE {command} <&- >&- 2>&-", home) == (1, "", "")


def test_a_closed_stdout_harms_nothing_that_writes_elsewhere(home):
    assert shell("RNNCORE generate run -n 5 -o out.txt >&-", home) == (0, "", "")
    assert (home / "out.txt").stat().st_size >= 5
    assert shell(f"RNNCORE train corpus.txt --steps 2 {' '.join(SMALL)} -o more >&- 2>&-", home)[0] == 0
    assert (home / "more/best.safetensors").is_file()


def test_a_closed_stdin_or_stderr_does_no_harm(home):
    whole = shell("RNNCORE generate run -n 9", home)
    for closed in ("2>&-", "<&- 2>&-"):
        assert shell(f"RNNCORE generate run -n 9 {closed}", home) == whole == (0, whole[1], "") and whole[1]


def test_a_stdin_that_is_closed_is_named_where_it_is_read(home):
    for command in ("train - --steps 1", "score run -", "generate run --prime-file -"):
        code, out, err = shell(f"RNNCORE {command} <&-", home)
        assert code in (1, 2) and out == "" and "stdin" in err.splitlines()[-1] and "Traceback" not in err, (command, err)


@pytest.mark.parametrize("encoding, said, extra", [
    ("ascii", "warning: ascii has no U+", ("--count", 5)), ("latin-1", "warning: latin-1 has no U+", ("--prime", "😀☃")),
    ("utf-8", "", ())])
def test_what_an_encoding_lacks_is_said_once(home, encoding, said, extra):
    done = run("generate", "m", "-n", 200, "--temperature", 3, *extra, cwd=home, env={"PYTHONIOENCODING": encoding})
    assert done.code == 0 and ("?" in done.out) == bool(said)
    assert done.err.count("\n") == bool(said) and done.err.startswith(said)


def test_a_stdout_that_is_missing_is_replaced(monkeypatch, capsys):
    monkeypatch.setattr(streams.sys, "stdout", None)
    streams.open_streams()
    with pytest.raises(OSError, match="stdout is closed"):
        print("lost")


@pytest.mark.parametrize("kib, command", [(100_000, "info run --json"), (300_000, "info run --json"),
                                          (500_000, "train corpus.txt --steps 1 -o limited")])
def test_a_limit_on_memory_is_one_line_or_enough(home, kib, command):
    """Whatever fails to load under it: NumPy, OpenBLAS, a thread."""
    code, out, err = shell(f"ulimit -v {kib}; RNNCORE {command}", home)
    if code:
        assert code == 1 and err.count("\n") == 1 and err.startswith("rnncore: ") and "ulimit -v" in err, err


def test_an_import_that_fails_names_library_reason_and_cure(monkeypatch):
    monkeypatch.setattr(limits, "lowest", lambda: None)
    error = ImportError("\n\nIMPORTANT: read this\n  Original error was: libopenblas.so: cannot map\n", name="numpy.core")
    words = limits.unloadable(error)
    assert words.startswith("numpy cannot be loaded (libopenblas.so: cannot map): `") and "--force-reinstall numpy`" in words
    assert "\n" not in words and "create the environment again" in limits.unloadable(ImportError("no x", name="x"))
    monkeypatch.setattr(limits, "lowest", lambda: (300 << 20, "ulimit -v"))
    assert "limited to 300 MiB (`ulimit -v`); raise it" in limits.unloadable(error)


def test_memory_that_runs_out_under_a_limit_names_it(monkeypatch):
    monkeypatch.setattr(limits, "lowest", lambda: (300 << 20, "ulimit -d"))
    assert limits.exhausted("take less") == ("out of memory: the memory of this process is limited to 300 MiB (`ulimit -d`); "
                                             "raise it, or take less")


def test_a_mistake_is_one_line_in_ascii_too(home):
    assert "no such model" in refused(run("generate", "grün-☃", cwd=home, env={"PYTHONIOENCODING": "ascii"}))


def test_samples_can_be_switched_off_and_stay_off(tmp_path):
    corpus(tmp_path)
    args = "train", "corpus.txt", *SMALL, "-o", "run"
    assert run(*args, "--steps", 4, "--sample-every", 0, cwd=tmp_path).code == 0
    assert run(*args, "--steps", 8, "--resume", cwd=tmp_path).code == 0
    assert not (tmp_path / "run/samples.txt").exists() or (tmp_path / "run/samples.txt").read_text() == ""
    done = run(*args, "--steps", 12, "--resume", "--sample-every", 4, cwd=tmp_path)
    assert done.code in (0, 2), done


def test_the_text_that_stdout_holds_is_written_though_a_command_ends_with_an_error(tmp_path):
    code = ("import importlib; cli = importlib.import_module('rnncore.cli.main')\n"
            "cli.commands.main = lambda *_, **__: (print('held', end=''), open('nowhere'))\ncli.main([])")
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=ENVIRONMENT, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (1, "held") and done.stderr.startswith("rnncore: nowhere: No such file")
