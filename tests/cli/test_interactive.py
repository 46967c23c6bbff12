"""`rnncore generate --interactive`: turns over one state, commands, refusals, pipes; on a pseudo-terminal Ctrl-C and Ctrl-D."""
import fcntl
import io
import os
import pty
import select
import signal
import subprocess
import sys
import termios
import time

import numpy as np
import pytest
from cli_helpers import COMMAND, ENVIRONMENT, Result, call, refused, run
from fork_server import Forked

import rnncore
from rnncore.cli.interactive import Loop, unless
from rnncore.config import SampleConfig
from rnncore.data.endings import END
from rnncore.dialogue import Dialogue

LETTERS = "\n abcdefgh/."


def made(folder, symbols=LETTERS, **how):
    """A model of random numbers, saved as `m` in the folder."""
    vocab = rnncore.Vocab("".join(sorted(symbols)), **how)
    model = rnncore.CharLM(rnncore.ModelConfig(len(vocab), 6, 24, 2), vocab, "cpu", seed=1)
    model.params.flat[...] *= 3
    rnncore.save(model, folder / "m")
    return model


@pytest.fixture
def talk(tmp_path, monkeypatch, capsys):
    """The command with lines for stdin: what it left behind, the prompts in front of stderr's lines taken off."""
    monkeypatch.chdir(tmp_path)

    def command(typed: str | bytes, *args) -> Result:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(typed if isinstance(typed, bytes) else typed.encode())))
        code, out, err = call(capsys, "generate", "m", "-i", *args)
        return Result(code, out, err.replace("> ", ""))

    return command


def said(result: Result, err: str = "") -> str:
    assert (result.code, result.err) == (0, err)
    return result.out


def ended(text: str) -> str:
    return text if text.endswith("\n") else text + "\n"


def test_a_turn_goes_on_from_all_that_was_read_and_written(talk, tmp_path):
    """The second text is that after one prompt of everything before it."""
    model = made(tmp_path)
    first = "".join(rnncore.generate(model, "abc\n", 40, temperature=0))
    second = "".join(rnncore.generate(model, "abc\n" + ended(first) + "fed\n", 40, temperature=0))
    alone = "".join(rnncore.generate(model, "fed\n", 40, temperature=0))
    assert said(talk("abc\nfed\n", "-n", 40, "--greedy")) == ended(first) + ended(second)
    assert said(talk("abc\n/reset\nfed\n", "-n", 40, "--greedy")) == ended(first) + ended(alone)
    assert second != alone
    on = "".join(rnncore.generate(model, "abc\n" + first + "d", 40, temperature=0))  # in the same line
    assert said(talk("abc\n/say d\n", "-n", 40, "--greedy")) == ended(first) + ended(on)
    assert said(talk("abc\nfed\n/undo\nfed\n", "-n", 40, "--greedy")) == ended(first) + 2 * ended(second)


def test_the_first_text_is_that_of_generate_and_the_seed_decides(talk, tmp_path):
    model = made(tmp_path)
    for prime, typed, seed in (("", "ab\n", 0), ("h.", "ab\n", 7), ("", "\n", 1), ("ab", "/say\n", 2), ("", "/say /a b\n", 3), ("", "fed", 4)):
        prompt = prime + {"/say\n": "", "/say /a b\n": "/a b"}.get(typed, typed)
        wanted = "".join(rnncore.generate(model, prompt, 300, seed=seed))
        assert said(talk(typed, "-n", 300, "--seed", seed, "--prime", prime)) == ended(wanted)
    assert len(said(talk("a\n")).rstrip("\n")) <= 200 < 2 + len(said(talk("a\n")))
    texts = [said(talk("a\nb\nc\n", "--seed", seed)) for seed in (1, 1, 2)]
    assert texts[0] == texts[1] != texts[2]


def test_a_process_of_its_own_and_a_pipe(talk, tmp_path):
    made(tmp_path)
    assert run("generate", "m", "--interactive", cwd=tmp_path, stdin=b"ab\n\nh\n") == (0, said(talk("ab\n\nh\n")), "> > > > ")
    closed = subprocess.run(["bash", "-c", f"{' '.join(COMMAND)} generate m -i <&-"], cwd=tmp_path, env=ENVIRONMENT, capture_output=True)
    assert (closed.returncode, closed.stdout, closed.stderr) == (0, b"", b"> ")
    head = subprocess.run(["bash", "-c", f"yes ab | {' '.join(COMMAND)} generate m -i 2>err | head -c 9; echo ${{PIPESTATUS[1]}}"],
                          cwd=tmp_path, env=ENVIRONMENT, capture_output=True, text=True, timeout=60)
    assert head.stdout.splitlines()[-1].endswith("0") and "Error" not in (tmp_path / "err").read_text()


def test_commands_that_change_the_sampling(talk, tmp_path):
    model = made(tmp_path)
    out = said(talk("/temperature 0.5\n/top-k 3\n/top-p 0.9\n/seed 5\n/length 33\n/seed\nab\n"),
               "temperature 0.5\ntop-k 3\ntop-p 0.9\nseed 5\nlength 33\nseed 5\n")
    assert out == ended("".join(rnncore.generate(model, "ab\n", 33, 0.5, 3, 0.9, 5)))
    again = said(talk("ab\n/reset\n/seed 0\nab\n"), "seed 0\n")
    assert again == 2 * again[:len(again) // 2]


@pytest.mark.parametrize("line, words", [
    ("/temperature -1", "temperature must be"), ("/temperature warm", "takes a number, not 'warm'"), ("/top-k 1.5", "takes a whole number"),
    ("/top-p 0", "top_p must be"), ("/seed -1", "seed must be"), ("/length -2", "length must be at least 0, or -1"),
    (f"/length {2 ** 63}", "at most 9,007,199,254,740,992, not 9223372036854775808"),
    (f"/length {10 ** 400}", "not a whole number of 1,329 bits"),
    ("/temprature 1", "there is no /temprature"), ("/undo", "nothing to take back"), ("abc xyz", "'x' (U+0078)"),
    ("\udcff", "not in the model's vocabulary")])
def test_a_line_that_is_refused_changes_nothing(talk, tmp_path, line, words):
    made(tmp_path)
    result = talk(f"{line}\nab\n".encode("utf-8", "surrogateescape"))
    assert result.out == said(talk("ab\n")) and words in result.err and result.err.count("\n") == 1


def test_undo_takes_a_turn_back_and_another_text_follows(talk, tmp_path):
    made(tmp_path)
    one, two, three = (said(talk(typed, "--greedy")) for typed in ("ab\n", "ab\nh\n", "ab\nh\nc\n"))
    again = said(talk("ab\nh\n/undo\nh\nc\n", "--greedy"))
    assert again == two + two.removeprefix(one) + three.removeprefix(two)
    assert said(talk("ab\n/reset\n/undo\nh\n", "--greedy")) == two
    first, second = (said(talk(typed, "-n", 90)) for typed in ("ab\n", "ab\n/undo\nab\n"))
    assert second.startswith(first) and second != first * 2


def test_held_cells_are_held_over_the_turns(talk, tmp_path):
    model = made(tmp_path)
    first = "".join(rnncore.generate(model, "ab\n", 40, temperature=0, clamp={(0, 3): 9.0}))
    second = "".join(rnncore.generate(model, f"ab\n{ended(first)}h\n", 40, temperature=0, clamp={(0, 3): 9.0}))
    assert said(talk("ab\nh\n", "-n", 40, "--greedy", "--clamp", "0.3=9")) == ended(first) + ended(second)
    assert "no cell 2.0" in refused(talk("ab\n", "--clamp", "2.0=1"), 2)


def test_stop_help_quit_and_text_that_begins_with_a_slash(talk, tmp_path):
    model = made(tmp_path)
    whole = "".join(rnncore.generate(model, "ab\n", 200))
    assert said(talk("ab\n", "--stop", whole[20:22])) == ended(whole[:whole.index(whole[20:22])])
    helped = talk("/help\n/quit\nab\n")
    assert helped.code == 0 and helped.out == "" and "/temperature" in helped.err
    assert said(talk("// a\n", "-n", 20)) == ended("".join(rnncore.generate(model, "// a\n", 20)))
    assert said(talk("ab\n", "-n", 0)) == "\n"


def test_unknown_symbols_are_skipped_replaced_or_refused(talk, tmp_path):
    made(tmp_path)
    assert said(talk("aXb\n", "--on-unknown", "skip")) == said(talk("ab\n"))
    assert said(talk("aXb\n", "--on-unknown", "replace")) == said(talk("a b\n"))  # the space is the stand-in
    assert said(talk("XYZ", "--on-unknown", "skip")) == said(talk("\n"))
    assert "'X'" in refused(talk("", "--prime", "X"))


def test_lower_case_line_ends_and_a_vocabulary_without_a_newline(talk, tmp_path):
    made(tmp_path, lower=True)
    assert said(talk("AB\r\n")) == said(talk("ab\n"))
    model = made(tmp_path, "abc")
    assert said(talk("ab\n", "-n", 9)) == "".join(rnncore.generate(model, "ab", 9)) + "\n"


def test_a_model_of_bytes_reads_and_writes_bytes(talk, tmp_path):
    model = made(tmp_path, map(chr, range(256)), level="byte")
    done = subprocess.run([*COMMAND, "generate", "m", "-i", "-n", "50"], cwd=tmp_path, env=ENVIRONMENT, input=b"\xff\r\n", capture_output=True)
    wanted = subprocess.run([*COMMAND, "generate", "m", "-n", "50", "--prime", b"\xff\r\n"], cwd=tmp_path, env=ENVIRONMENT, capture_output=True)
    assert b"\xff\r\n" + done.stdout == wanted.stdout and len(done.stdout) == 50 and model.vocab.level == "byte"


def test_a_line_goes_on_with_a_document_and_the_next_begins_another(talk, tmp_path):
    """A line goes on with a document, the model ends it, and then another begins."""
    model = made(tmp_path, END + "abc", documents="lines")
    first = "".join(rnncore.generate(model, "ab", 200))
    assert said(talk("ab\n", "--length", 200)) == first + "\n" and len(first) < 200
    dialogue, fresh = Dialogue(model, SampleConfig()), Dialogue(model, SampleConfig())
    dialogue.read("ab")
    assert "".join(dialogue.write(200)) == first
    fresh.read("")
    assert all((a == b).all() for a, b in zip(dialogue.mark()[:3], fresh.mark()[:3], strict=True))


def test_between_two_symbols_the_state_is_that_of_all_before(tmp_path):
    model = made(tmp_path)
    dialogue, state, text = Dialogue(model, SampleConfig()), None, "ab\n"
    dialogue.read(text)
    for symbol in model.vocab.encode(text + "".join(dialogue.write(9))):
        logits, state = model.step(np.array([symbol]), state)
    np.testing.assert_allclose(dialogue.mark().h, state.h, atol=1e-5)
    np.testing.assert_allclose(dialogue.mark().logits, logits, atol=1e-4)


@pytest.mark.parametrize("args, named", [
    (("--count", 2), "--interactive --count"), (("--out", "o"), "--interactive --out"), (("-n", -2), "--length"), (("--separator", ""), "--separator")])
def test_options_that_make_no_sense_with_it(talk, tmp_path, args, named):
    made(tmp_path)
    said_no = refused(talk("ab\n", *args), 2)
    assert all(name in said_no for name in named.split()) and not (tmp_path / "o").exists()


def test_ctrl_c_in_a_pipe_ends_the_text_and_the_next_goes_on_from_all_of_it(tmp_path):
    """A pipe, for a terminal throws away what nobody has read yet when Ctrl-C is pressed."""
    model = made(tmp_path, "abcdefg")
    process = Forked("generate", "m", "-i", "--greedy", "-n", 10 ** 9, cwd=tmp_path, bufsize=0, stdin=subprocess.PIPE,
                     stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stderr.read(2) == b"> "
    written = ""
    for line in ("abc", "fed"):
        process.stdin.write(f"{line}\n".encode())
        text = process.stdout.read(1)
        time.sleep(0.1)
        process.send_signal(signal.SIGINT)
        assert process.stderr.read(2) == b"> "  # the text has ended
        text = (text + process.stdout.read(1 << 16)).decode().removesuffix("\n")
        written += line
        assert text == "".join(rnncore.generate(model, written, len(text), temperature=0)) and len(text) > 20
        written += text
    assert process.communicate(timeout=60)[1] == b"" and process.returncode == 0


def test_one_ctrl_c_ends_a_text_and_after_two_the_turn_was_never_there(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO()))
    pressed = []
    assert "".join(unless(pressed, (pressed.append(one) or one for one in "abc"))) == "a"  # it was drawn: it is shown
    loop = Loop(made(tmp_path), SampleConfig(), 5, (), "error", "ab", {})
    before = loop.dialogue.mark()
    monkeypatch.setattr(loop.dialogue, "write", lambda length: [signal.raise_signal(signal.SIGINT) for _ in range(2)])
    with pytest.raises(KeyboardInterrupt):
        loop.turn("h.\n")
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler and not loop.past
    assert all((a == b).all() for a, b in zip(loop.dialogue.mark()[:3], before[:3], strict=True))


class Terminal:
    """The command on a pseudo-terminal of its own."""

    def __init__(self, folder, *args):
        self.seen, (self.end, theirs) = "", pty.openpty()
        self.process = subprocess.Popen([*COMMAND, "generate", "m", "-i", *map(str, args)], cwd=folder, stdin=theirs, stdout=theirs,
                                        stderr=theirs, env=ENVIRONMENT | {"TERM": "dumb", "INPUTRC": os.devnull}, start_new_session=True,
                                        preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0))
        os.close(theirs)

    def type(self, keys: bytes, words: str) -> str:
        """Press the keys: what is shown then, up to these words."""
        os.write(self.end, keys)
        return self.until(words)

    def until(self, words: str) -> str:
        """What is shown up to these words, or for "" to the end."""
        while not words or words not in self.seen:
            assert select.select([self.end], [], [], 30)[0], self.seen[-1000:]
            try:
                piece = os.read(self.end, 1 << 16)
            except OSError:  # the terminal is nobody's any more
                piece = b""
            if not piece:
                assert not words, self.seen
                break
            self.seen += piece.decode(errors="replace").replace("\r", "")
        at = self.seen.index(words) + len(words) if words else len(self.seen)
        shown, self.seen = self.seen[:at], self.seen[at:]
        return shown


@pytest.fixture
def terminal(tmp_path):
    """A function that starts the command on a terminal, up to the first prompt."""
    begun = []

    def start(*args) -> Terminal:
        begun.append(Terminal(tmp_path, *args))
        begun[-1].until("Ctrl-D the program.\n> ")
        return begun[-1]

    yield start
    for one in begun:
        one.process.kill()
        one.process.wait()
        os.close(one.end)


def test_a_terminal_has_backspace_and_a_history(talk, terminal, tmp_path):
    made(tmp_path, "\n abcdefg")
    wanted, text = said(talk("abc\nfed\nabc\n")), ""
    shown = terminal()
    for keys in (b"abc\n", b"feX\x7fd\n", b"\x1b[A\x1b[A\n"):  # a slip of the finger and backspace; the history
        text += shown.type(keys, "> ").partition("\n")[2].removesuffix("> ")
    assert text == wanted
    assert shown.type(b"\x04", "") == "\n" and shown.process.wait(60) == 0


def test_ctrl_c_ends_a_text_and_a_line_but_not_the_program(terminal, tmp_path):
    made(tmp_path, "abcdefg")
    shown = terminal("-n", 10 ** 9)
    shown.type(b"abc\n", "abc\n")
    time.sleep(0.3)
    assert "^C" in shown.type(b"\x03", "> ")
    shown.type(b"half a line", "half a line")
    for _ in range(20):  # readline overlooks one that comes before it waits
        os.write(shown.end, b"\x03")
        if select.select([shown.end], [], [], 0.25)[0]:
            break
    shown.until("> ")
    shown.type(b"/length 5\n", "length 5\n> ")
    assert "Traceback" not in shown.type(b"/quit\n", "") and shown.process.wait(60) == 0


def test_what_a_model_writes_does_not_move_the_cursor(terminal, tmp_path):
    made(tmp_path, "\x1b\x07", level="byte")
    assert "\ufffd" * 30 in terminal("-n", 30).type(b"/say\n", "\ufffd\n> ")
