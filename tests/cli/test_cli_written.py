"""Texts on their way out of `rnncore generate`: without end, several, as documents that are read again, to a terminal."""
import fcntl
import json
import os
import signal
import subprocess
import sys
import termios
import time

import pytest
from cli_helpers import COMMAND, ENVIRONMENT, call, refused, run, terminal
from fork_server import Forked

import rnncore
from rnncore import CharLM, ModelConfig, Vocab
from rnncore.cli.terminal.written import ASLEEP, Stop, laid_out
from rnncore.data.endings import END, documents
from rnncore.data.records import written

RULE = "-" * 40
TEXTS = ["plain", "two\nlines", "", "  set in\n\n\nafter a gap\n", "quotes \" and \\", "\ufeffmark\u2028line\x85next\x7f", "日本 😀\r",
         "trailing  ", f"one{END}two"]


@pytest.fixture
def models(tmp_path, monkeypatch):
    """A folder with small models that never learned: plain, lines, blank, jsonl, byte."""
    monkeypatch.chdir(tmp_path)
    for name, settings in {"plain": {}, "lines": {"documents": "lines"}, "blank": {"documents": "blank"},
                           "jsonl": {"documents": "jsonl", "field": "body"}, "byte": {"level": "byte"}}.items():
        points = range(256) if name == "byte" else sorted(map(ord, "abc \n" + END * ("documents" in settings)))
        vocab = Vocab.from_code_points(points, **settings)
        rnncore.save(CharLM(ModelConfig(len(vocab), 4, 8, 1), vocab, "cpu", seed=2), tmp_path / name)
    return tmp_path


def written_out(*args, cwd) -> str:
    """What `rnncore ARGS` writes on a terminal."""
    return terminal(*args, cwd=cwd, stream="stdout")[1]


@pytest.mark.parametrize("kind, meant", [
    ("lines", ["plain", "two lines", "  set in   after a gap ", "quotes \" and \\", "\ufeffmark\u2028line\x85next\x7f",
               "日本 😀\r", "trailing  ", "one", "two"]),
    ("blank", ["plain", "two\nlines", "  set in\nafter a gap", "quotes \" and \\", "\ufeffmark\u2028line\x85next\x7f",
               "日本 😀\r", "trailing  ", "one", "two"]),
    ("jsonl", [*(text for text in TEXTS[:-1] if text), "one", "two"])])
@pytest.mark.parametrize("ascii_only", [False, True])
def test_texts_written_as_documents_are_read_again(kind, meant, ascii_only):
    """Byte for byte as JSON; a line end within a line is a blank, and an empty line within a block is left out."""
    text = "".join(written(TEXTS, kind, "a \"b\" ü", ascii_only))
    assert text == "".join(written([list(text) for text in TEXTS], kind, "a \"b\" ü", ascii_only)), "piece by piece"
    if kind == "jsonl":
        rows = [json.loads(line) for line in text.split("\n")[:-1]]
        found = [row["a \"b\" ü"] for row in rows if row["a \"b\" ü"]]
        assert all(len(row) == 1 for row in rows) and (text.isascii() or not ascii_only)
    else:
        found = "".join(documents([text], kind, "text", "out")).split(END)[:-1]
    assert [part.strip() for part in found] == [part.strip() for part in meant]


@pytest.mark.parametrize("name", ["lines", "blank", "jsonl"])
def test_documents_have_no_separator_in_a_file_or_a_pipe(models, capsys, name):
    args = name, "--count", 30, "-n", 200, "--temperature", 0.5
    piped = call(capsys, "generate", *args)
    assert piped.code == 0 and piped.err == "" and "---" not in piped.out
    for out in (models / "out.txt", "-"):
        result = call(capsys, "generate", *args, "--out", out)
        assert result == (0, piped.out if out == "-" else "", "")
    assert (models / "out.txt").read_bytes() == piped.out.encode() and not (models / "-").exists()
    if name == "jsonl":
        assert [list(json.loads(line)) for line in piped.out.splitlines()] == [["body"]] * 30
    elif name == "lines":
        assert piped.out.count("\n") == 30


@pytest.mark.parametrize("name, kind", [("lines", ["--documents", "lines"]), ("jsonl", ["--documents", "jsonl", "--field", "body"])])
def test_what_was_written_can_be_trained_on(models, name, kind):
    assert run("generate", name, "--count", 300, "-n", 50, "-o", "corpus.txt", cwd=models).code == 0
    done = run("train", "corpus.txt", *kind, "--steps", 1, "--hidden", 8, "--layers", 1, "--batch", 2, "--seq", 8, "-o", "again",
               cwd=models)
    assert done.code == 0, done


def test_plain_texts_end_in_a_line_end_and_a_separator_is_asked_for(models, capsys):
    def out(*args):
        result = call(capsys, "generate", *args, "-n", 20, "--count", 3)
        assert result.code == 0 and result.err == ""
        return result.out

    alone = [call(capsys, "generate", "plain", "-n", 20, "--prime", "b").out]
    several = out("plain", "--prime", "b")
    assert RULE not in several and several.startswith(alone[0]) and several.endswith("\n")
    assert out("plain", "--prime", "b", "--separator", "%%").replace("%%\n", "") == several
    assert out("plain", "--prime", "b", "--separator", "").count("\n") == several.count("\n") + 2
    for name in ("lines", "jsonl", "blank"):
        assert out(name, "--separator", "ü%").count("ü%\n") == 2
    binary = run("generate", "byte", "-n", 20, "--count", 3, "--separator", "ü%", cwd=models).out
    assert binary.count("ü%\n") == 2


def test_on_a_terminal_a_rule_stands_between_plain_texts_alone(models):
    assert written_out("generate", "plain", "-n", 20, "--count", 3, cwd=models).count(f"{RULE}\r\n") == 2
    for name in ("lines", "blank", "jsonl"):
        assert RULE not in written_out("generate", name, "-n", 20, "--count", 3, cwd=models)
    assert "{" not in written_out("generate", "jsonl", "-n", 20, cwd=models), "a single text is as it is"
    assert "%%\r\n" in written_out("generate", "jsonl", "-n", 20, "--count", 2, "--separator", "%%", cwd=models)


def test_an_end_within_a_text_is_two_documents():
    vocab = Vocab.from_code_points(map(ord, END + "ab"), documents="lines")
    assert "".join(laid_out(vocab, [["a", END, "b"]], True, False, None)) == "a\nb\n"


@pytest.mark.parametrize("args", [("plain",), ("jsonl", "--count", 10 ** 9)])
def test_minus_one_writes_until_the_reader_leaves(models, args):
    shell = " ".join(map(str, [*COMMAND, "generate", *args, "-n", -1]))
    done = subprocess.run(["bash", "-c", f"{shell} | head -c 3000; echo ${{PIPESTATUS[0]}} >&2"], cwd=models, env=ENVIRONMENT,
                          capture_output=True, timeout=60)
    assert len(done.stdout) == 3000 and done.stderr == b"0\n"


@pytest.mark.parametrize("kind, args", [
    (signal.SIGINT, ("plain",)), (signal.SIGTERM, ("jsonl", "--count", 10 ** 9)), (signal.SIGHUP, ("plain",))])
def test_a_signal_ends_a_text_without_end_and_all_of_it_is_there(models, kind, args):
    process = Forked("generate", *args, "-n", -1, "-o", "out", cwd=models, stderr=subprocess.PIPE)
    try:
        while not ((models / "out").exists() and (models / "out").stat().st_size > 5000):
            assert process.poll() is None
        process.send_signal(kind)
        assert process.communicate(timeout=30) == (None, b"") and process.returncode == 128 + kind
    finally:
        process.kill()
    text = (models / "out").read_text()
    assert text.endswith("\n")
    if args[0] == "jsonl":
        assert all(json.loads(line) for line in text.splitlines())


@pytest.mark.parametrize("kind", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_in_the_middle_of_writing_is_noted_and_ends_nothing_at_once(kind):
    """What was drawn is written before the process ends; so its exit code is ours, and not the signal's."""
    before = [signal.getsignal(number) for number in (kind, signal.SIGALRM)]
    with Stop() as stop:
        with stop.writing():
            os.kill(os.getpid(), kind)
            assert stop.number == kind
        assert list(stop.until("ab")) == ["a"] and list(stop.whole(["a"])) == []
        time.sleep(1.2 * ASLEEP)  # the reader was not asleep
    assert [signal.getsignal(number) for number in (kind, signal.SIGALRM)] == before


def test_a_reader_that_sleeps_is_not_waited_for(models):
    process = Forked("generate", "plain", "-n", -1, cwd=models, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    fcntl.fcntl(process.stdout, fcntl.F_SETPIPE_SZ, 4096)
    try:
        held, before = 0, -1
        while held != before or not held:  # until the pipe is full
            time.sleep(0.2)
            assert process.poll() is None
            before, held = held, int.from_bytes(fcntl.ioctl(process.stdout, termios.FIONREAD, b"\0" * 4), sys.byteorder)
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=20) == -signal.SIGTERM
    finally:
        process.kill()


def test_minus_one_of_several_needs_an_end(models, capsys):
    assert "--count" in refused(call(capsys, "generate", "plain", "-n", -1, "--count", 2), 2)
    ended = call(capsys, "generate", "plain", "-n", -1, "--count", 2, "--stop", "b")
    assert ended.code == 0 and "b" not in ended.out
    assert "--interactive reads" in refused(run("generate", "plain", "-i", "--prime-file", "-", cwd=models, stdin=b""), 2)


def test_the_first_texts_are_those_of_any_count(models, capsys):
    few, many = (call(capsys, "generate", "lines", "-n", 30, "--count", count).out for count in (3, 1200))
    assert many.startswith(few)
    assert call(capsys, "generate", "lines", "-n", -1, "--count", 3).out.startswith(few.partition("\n")[0])


def test_a_prime_from_stdin(models):
    for prime in (b"ab\r\nc", b"\xef\xbb\xbfab\nc"):
        done = run("generate", "plain", "--prime-file", "-", "-n", 20, cwd=models, stdin=prime)
        assert done == run("generate", "plain", "--prime", "ab\nc", "-n", 20, cwd=models)
    assert run("generate", "byte", "--prime-file", "-", "-n", 0, cwd=models, stdin=b"a\nb").out == "a\nb"
    assert "stdin is not UTF-8" in refused(run("generate", "plain", "--prime-file", "-", cwd=models, stdin=b"\xff"))
    closed = subprocess.run(["bash", "-c", f"{' '.join(COMMAND)} generate plain --prime-file - <&-"], cwd=models, env=ENVIRONMENT,
                            capture_output=True, text=True, timeout=60)
    assert (closed.returncode, closed.stderr.count("\n")) == (1, 1) and "stdin is closed" in closed.stderr


@pytest.mark.parametrize("args", [("--stop", ""), ("--stop", "a", "--stop", ""), ("--out", ""), ("--prime-file", "")])
def test_an_empty_word_is_no_name_and_no_text_to_stop_at(models, capsys, args):
    assert "''" in refused(call(capsys, "generate", "plain", *args), 2)
