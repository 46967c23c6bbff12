"""What appears on a terminal: harmless, in the width that there is, samples below their step; elsewhere it is byte for byte."""
import re
import subprocess
import unicodedata

import pytest
from cli_helpers import COMMAND, ENVIRONMENT, SMALL, TEXT, corpus, run, terminal

from rnncore import CharLM, ModelConfig, Vocab, save
from rnncore.cli import bench_table as table
from rnncore.cli.terminal import progress
from rnncore.cli.terminal.progress import BAR, NARROWEST, fitted, printable, wrapped

HARMLESS = ("\t\n \u00a0\u202f\u2009\u3000\u200b\u200c\u200d\u200e\u200f\u2028\u2029\u2060\ufeff\u00ad\ufe0f\ufffd\ue000\u0378\U0010ffff"
            "e\u0301 \u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645 \U0001f468\u200d\U0001f469\u200d\U0001f467 « oui »")
HARMFUL = "".join(map(chr, (*range(9), *range(11, 32), *range(127, 160), *range(0x202A, 0x202F), *range(0x2066, 0x206A),
                            0xD800, 0xDCFF, 0xDFFF)))


def on_terminal(*args, cwd, columns: int = 80, stream: str = "stderr") -> str:
    """What a command that succeeds writes to a terminal of so many columns."""
    code, found = terminal(*args, cwd=cwd, columns=columns, stream=stream)
    assert code == 0, found
    return found


def plain(seen: str) -> str:
    """What was written to a terminal without its colours; each change of a line in place is a line."""
    return re.sub(r"\r\x1b\[2K|\x1b\[[\d;?]*[A-Zlh]", "\n", re.sub(r"\x1b\[[\d;]*m", "", seen)).replace("\r\n", "\n")


def test_blanks_joiners_and_marks_stay_and_controls_and_overrides_do_not():
    assert printable(HARMLESS) == HARMLESS
    assert printable(HARMFUL) == "\ufffd" * len(HARMFUL)
    assert {unicodedata.category(character) for character in HARMFUL} == {"Cc", "Cf", "Cs"}


@pytest.fixture(scope="module")
def odd(tmp_path_factory):
    """A folder with a model of odd characters, m, in front of which no sample comes without one of them."""
    folder = tmp_path_factory.mktemp("odd")
    vocab = Vocab.from_text("a\x1b\x9b\x07\u202e\u00a0\u200d\u3000\r")
    save(CharLM(ModelConfig(len(vocab), 4, 8, 1), vocab, "cpu", seed=2), folder / "m")
    return folder


@pytest.mark.parametrize("extra", [(), ("--count", 2)])
def test_a_terminal_gets_no_raw_escape_and_a_pipe_all_of_it(odd, extra):
    args = "generate", "m", "-n", 300, "--temperature", 5, *extra
    seen = on_terminal(*args, cwd=odd, stream="stdout").replace("\r\n", "\n")
    assert not set(seen) & set("\x1b\x9b\x07\u202e\r") and {"\ufffd", "\u00a0", "\u200d", "\u3000"} <= set(seen)
    piped = subprocess.run([*COMMAND, *map(str, args)], cwd=odd, env=ENVIRONMENT, capture_output=True, timeout=60).stdout.decode()
    assert {"\x1b", "\x9b", "\x07", "\u202e", "\u00a0", "\r"} <= set(piped)
    assert seen.replace("-" * 40 + "\n", "") == printable(piped)


def test_samples_stand_below_their_step(tmp_path):
    corpus(tmp_path, TEXT[:2000])
    args = "train", "corpus.txt", *SMALL, "--steps", 20, "--eval-every", 10, "--sample-every", 5
    seen = plain(on_terminal(*args, cwd=tmp_path))
    kept = (tmp_path / "runs/corpus/samples.txt").read_text()
    for step in (5, 10, 15, 20):
        first = kept.split(f"--- step {step}\n")[1].split("\n")[0]
        assert re.search(rf"^step {step} .*\n{re.escape(first)}", seen, re.MULTILINE), (step, seen)
    piped = run(*args, "--name", "again", cwd=tmp_path).err
    for step in (5, 10, 15, 20):
        assert len(re.findall(rf"^step {step} ", piped, re.MULTILINE)) == 1


def test_a_bar_and_whole_words_on_a_narrow_terminal(tmp_path):
    columns = 30
    corpus(tmp_path, TEXT[:2000])
    seen = on_terminal("train", "corpus.txt", *SMALL, "--steps", 20, "--sample-every", 0, cwd=tmp_path, columns=columns)
    lines = plain(seen).replace("\r", "\n").split("\n")
    bars = [line for line in lines if line.startswith("\u2501")]
    assert bars and all("step" in line and len(line) < columns for line in bars)
    whole = set(run("train", "corpus.txt", *SMALL, "--steps", 20, "--sample-every", 0, "--name", "b", cwd=tmp_path).err.split())
    words = {word for line in lines if not line.startswith("\u2501") for word in line.split()}
    assert {word for word in words if word.isalpha()} <= whole | {"starting"}, "no word is broken"


def test_the_live_line_leaves_out_what_is_cheapest():
    found = [(5, "step 1,000"), (1, " 50%"), (4, "loss 1.234"), (3, "val 1.456"), (0, "123,456 chars/s"), (2, "1:02 left")]
    for width in range(8, 130):
        bar, words = fitted(found, width)
        if width >= 10 + 1 + NARROWEST:
            assert NARROWEST <= bar <= BAR and bar + 1 + len(words) <= width
        kept = [rank for rank, text in found if text in words]
        assert sorted(kept) == list(range(6 - len(kept), 6)) and words.startswith("step 1,000")


def test_lines_are_broken_at_blanks_and_never_within_a_command(monkeypatch):
    monkeypatch.setenv("COLUMNS", "30")
    text = "the words of a message, then `rnncore generate runs/a -n 400 --temperature 1` and more of them"
    lines = wrapped(text).split("\n")
    assert " ".join(lines) == text and any("`rnncore generate runs/a -n 400 --temperature 1`" in line for line in lines)
    assert all(len(line) < 30 or "`" in line for line in lines)
    assert wrapped("  set in, and so it is left as it stands there") == "  set in, and so it is left as it stands there"
    for width in ("0", "", "x"):
        monkeypatch.setenv("COLUMNS", width)
        assert progress.columns() == float("inf") or progress.columns() > 0


def test_a_column_with_a_head_alone_is_left_out():
    assert table.aligned([("a", "b", "c"), ("1", "", "3"), ("2", "", "4")]) == ["a  c", "1  3", "2  4"]
    assert table.aligned([("a", "b"), ("1", "")]) == ["a", "1"]
    assert table.aligned([("", "b"), ("", "2")]) == ["  b", "  2"]


@pytest.mark.parametrize("command", ["train", "generate", "bench", "score"])
def test_the_options_without_a_heading_come_last(command):
    text = run(command, "--help", cwd="/").out
    headings = [line for line in text.splitlines() if line.endswith(":") and line[:1].strip()]
    assert headings[-1] == "Options:" and headings.count("Options:") == 1


def test_a_home_that_cannot_be_written_makes_no_noise(tmp_path):
    pytest.importorskip("matplotlib")
    (tmp_path / "file").write_text("")
    corpus(tmp_path, TEXT[:2000])
    env = {"HOME": str(tmp_path / "file"), "XDG_CACHE_HOME": "", "XDG_CONFIG_HOME": "", "MPLCONFIGDIR": str(tmp_path / "file/x"),
           "RNNCORE_NO_REPORT": ""}
    done = run("train", "corpus.txt", *SMALL, "--steps", 4, "-o", "run", cwd=tmp_path, env=env)
    assert done.code == 0 and "report in run/report.html" in done.err and "atplotlib" not in done.err.replace("warning: no report", "")
    again = run("report", "run", cwd=tmp_path, env=env)
    assert again.code == 0 and again.err == "", again.err
