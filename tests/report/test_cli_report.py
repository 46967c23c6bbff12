"""`rnncore report`, and the report at the end of `rnncore train`: what it reads, keeps, says and refuses."""
import base64
import io
import json
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
from cli_helpers import SMALL, TEXT, call, corpus, refused

import rnncore
from rnncore import requirements
from rnncore.cli import report
from rnncore.config import SampleConfig
from rnncore.runs import checkpoint

for needed in report.NEEDED:
    pytest.importorskip(needed, reason=f"the report needs {needed}: pip install -e '.[report]'")
from test_report import model_of

from rnncore.report import page, story


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A folder with corpus.txt and in `run` a run on it, two layers."""
    folder = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        corpus(folder, TEXT)
        call(SimpleNamespace(readouterr=lambda: ("", "")), "train", "corpus.txt", "--steps", 12, *SMALL, "--layers", 2, "-o", "run")
    return folder


@pytest.fixture
def here(home, tmp_path, monkeypatch):
    """A copy of it, to be in."""
    shutil.copytree(home, tmp_path / "home")
    monkeypatch.chdir(tmp_path / "home")
    return tmp_path / "home"


def test_the_report_of_a_run(here, capsys):
    result = call(capsys, "report", "run")
    text = (here / "run/report.html").read_text()
    assert result.code == 0 and result.out.startswith("run/report.html: ") and len(text) < 3e6
    for words in ("<h1>run</h1>", "step 12", "n-gram baseline", "2 x 16 LSTM", "the beginning of the validation text", "Learning rate"):
        assert words in text
    assert call(capsys, "report", "run").code == 0 and (here / "run/report.html").read_text() == text
    other = here / "mine.html"
    other.write_text("mine")
    assert "exists already" in refused(call(capsys, "report", "run", "-o", other)) and other.read_text() == "mine"


def test_the_report_of_a_model_file_says_what_it_lacks(here, capsys):
    shutil.copy("run/best.safetensors", "alone.safetensors")
    assert call(capsys, "report", "alone.safetensors").code == 0
    text = (here / "alone-report.html").read_text()
    assert "so it has no curves and no samples" in text and 'id="learning"' not in text and 'id="samples"' not in text
    assert "exists already" in refused(call(capsys, "report", "alone.safetensors"))
    checkpoint.save(model_of("ab\n"), "bare.safetensors")
    corpus(here, "abba\nZab\n" * 9, "other.txt")
    assert call(capsys, "report", "bare.safetensors", "--text", "other.txt", "--cells", 1).code == 0
    text = (here / "bare-report.html").read_text()
    assert "the beginning of other.txt" in text and "9 of the characters read are not in" in text


def test_without_its_corpus_it_reads_what_it_writes(here, capsys):
    (here / "corpus.txt").unlink()
    (here / "run/last.safetensors").unlink()  # which says where this copy of a run was trained, and the text lies
    (here / "run/samples.txt").unlink()
    (here / "run/metrics.jsonl").write_text('{"step": 1, "loss": 1e999}\n{"step": 2, "loss": 1' + "0" * 400 + '}\n[]\n{"step"\n')
    assert call(capsys, "report", "run").code == 0
    text, model = (here / "run/report.html").read_text(), checkpoint.load("run/best.safetensors", "cpu")
    written = "".join(rnncore.generate(model, length=story.CHARACTERS, temperature=SampleConfig.temperature, seed=1))
    shown = json.loads(text.split('id="data">')[1].split("</script>")[0])
    ids = np.frombuffer(base64.b64decode(shown["passage"]["ids"]), "<u2")
    assert "".join(shown["glyphs"][k][0][-1] for k in ids) == written and "what it wrote itself" in text


def test_without_the_extra_one_line_says_how_to_get_it(here, capsys, monkeypatch):
    monkeypatch.setattr(report, "NEEDED", ("matplotlib", "no_such_package"))
    monkeypatch.setitem(requirements.OLDEST, "no_such_package", "2.0")
    line = refused(call(capsys, "report", "run"))
    assert "a report needs no_such_package 2.0 or newer, which is not installed: `" in line
    assert line.endswith("-m pip install --upgrade 'no_such_package>=2.0'`")
    monkeypatch.delenv("RNNCORE_NO_REPORT")
    result = call(capsys, "train", "corpus.txt", "--steps", 2, *SMALL, "-o", "new")
    assert result.code == 0 and "report" not in result.err and not (here / "new/report.html").exists()


def test_training_ends_with_a_report_unless_it_is_not_wanted(here, capsys, monkeypatch):
    monkeypatch.delenv("RNNCORE_NO_REPORT")
    result = call(capsys, "train", "corpus.txt", "--steps", 2, *SMALL, "-o", "new")
    assert result.code == 0 and result.err.endswith("report in new/report.html: open it in a browser\n")
    before = (here / "new/report.html").read_text()
    assert call(capsys, "train", "--resume", "-o", "new", "--steps", 3).code == 0
    assert (here / "new/report.html").read_text() != before
    assert call(capsys, "train", "corpus.txt", "--steps", 2, *SMALL, "-o", "none", "--no-report").code == 0
    assert not (here / "none/report.html").exists()


@pytest.mark.parametrize("error", [ValueError("no\nluck"), MemoryError(), KeyboardInterrupt()])
def test_a_report_that_fails_fails_no_run(here, capsys, monkeypatch, error):
    def fail(*args):
        raise error

    monkeypatch.delenv("RNNCORE_NO_REPORT")
    monkeypatch.setattr(page, "render", fail)
    result = call(capsys, "train", "corpus.txt", "--steps", 2, *SMALL, "-o", "new")
    words = {"no\nluck": "no luck"}.get(str(error), type(error).__name__)
    assert result.code == 0 and result.err.splitlines()[-1] == (
        f"warning: no report was made ({words}); `rnncore report new` makes one")


def test_a_model_of_bytes(here, capsys):
    (here / "bytes.bin").write_bytes(bytes(range(256)) * 20)
    assert call(capsys, "train", "bytes.bin", "--level", "byte", "--steps", 2, *SMALL, "-o", "bytes").code == 0
    assert call(capsys, "report", "bytes").code == 0 and "byte 0xff" in (here / "bytes/report.html").read_text()


def test_the_text_of_a_pipe_is_kept_for_later_reports(here, capsys, monkeypatch):
    """Also where the corpus has changed since: the same page again."""
    monkeypatch.delenv("RNNCORE_NO_REPORT")
    monkeypatch.setattr("sys.stdin", SimpleNamespace(buffer=io.BytesIO(TEXT.encode())))
    assert call(capsys, "train", "-", "--steps", 2, *SMALL, "-o", "piped").code == 0
    before = (here / "piped/report.html").read_text()
    kept = (here / "piped/passage.txt").read_text()
    assert kept in TEXT and "beginning of the validation text" in before
    result = call(capsys, "report", "piped")
    assert (result.code, result.err, (here / "piped/report.html").read_text()) == (0, "", before)


@pytest.mark.parametrize("args", [("--level", "byte"), ("--documents", "lines", "--lower", "--min-count", 3)])
def test_what_is_kept_is_what_was_read(here, capsys, monkeypatch, args):
    monkeypatch.delenv("RNNCORE_NO_REPORT")
    corpus(here, TEXT + "\u00c9\n", "other.txt")
    assert call(capsys, "train", "other.txt", "--steps", 2, *SMALL, *args, "-o", "new").code == 0
    before = (here / "new/report.html").read_text()
    (here / "other.txt").unlink()
    assert call(capsys, "report", "new").code == 0 and (here / "new/report.html").read_text() == before
    unit = "byte" if "byte" in args else "character"
    assert f"on average a {unit} takes" in before and f"nats per {unit}" in before


def test_a_run_without_validation_is_told_of(here, capsys):
    assert call(capsys, "train", "corpus.txt", "--val", 0, "--steps", 2, *SMALL, "-o", "new").code == 0
    result = call(capsys, "report", "new")
    assert result.code == 0 and result.err.startswith("It has no validation text: what it reads here is what it wrote itself")


@pytest.mark.parametrize("args, words", [
    (("--text", ""), "--text '' is empty: give it a value"), (("--text", "latin.txt"), "--encoding"), (("-o", "nodir/x.html"), "nodir/x.html cannot be written: name another file with --out"), (("-o", ""), "--out '' is empty"), (("-o", "-"), "--out '-': name")])
def test_options_that_name_nothing(here, capsys, args, words):
    (here / "latin.txt").write_bytes("é".encode("latin-1") * 300)
    result = call(capsys, "report", "run", *args)
    assert result.code in (1, 2) and words in result.err, result
    assert "latin.txt" not in args or call(capsys, "report", "run", "--text", "latin.txt", "--encoding", "latin-1").code == 0


def test_few_symbols_are_told_of(here, capsys):
    corpus(here, TEXT[:20], "short.txt")
    assert "It read 20 characters: over so few, correlations mean little." in call(capsys, "report", "run", "--text", "short.txt").err


def test_on_another_corpus_another_passage_is_read(here, capsys, monkeypatch):
    monkeypatch.setenv("RNNCORE_NO_REPORT", "")
    assert call(capsys, "train", "corpus.txt", "--steps", 2, *SMALL, "-o", "new").code == 0 and (here / "new/passage.txt").exists()
    corpus(here, TEXT[::-1], "corpus.txt")
    monkeypatch.setenv("RNNCORE_NO_REPORT", "1")
    assert call(capsys, "train", "--resume", "-o", "new", "--steps", 4, "--allow-new-corpus").code == 0
    assert call(capsys, "report", "new").code == 0 and not (here / "new/passage.txt").exists()
    shown = json.loads((here / "new/report.html").read_text().split('id="data">')[1].split("</script>")[0])
    ids = np.frombuffer(base64.b64decode(shown["passage"]["ids"]), "<u2")
    assert "".join(shown["glyphs"][k][0][-1] for k in ids) in TEXT[::-1]
