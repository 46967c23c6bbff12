"""One validation loss is shown of a model: over the larger sample; one over a smaller sample is marked as such."""
import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from cli_helpers import SMALL, call, corpus, rows
from conftest import build

import rnncore
from rnncore import requirements
from rnncore.cli import report
from rnncore.cli.terminal.progress import describe
from rnncore.config import TrainConfig
from rnncore.data.batches import Batches
from rnncore.measure.evaluate import Validation
from rnncore.report import story
from rnncore.runs import checkpoint, headline
from rnncore.runs.folder import RunFolder, trained
from rnncore.train import Progress, Training

STEPS = ("--steps", 200, *SMALL, "--lr", 0.004, "--dropout", 0, "--weight-drop", 0)  # on the way 160 characters are scored, at the end 536


@pytest.fixture
def train(tmp_path, capsys, monkeypatch):
    """`rnncore train ARGS` in a folder with corpus.txt."""
    corpus(tmp_path)
    monkeypatch.chdir(tmp_path)
    return lambda *args: call(capsys, "train", *args)


def card(path: str) -> dict:
    found = checkpoint.read(Path(path))[0]["card"]
    assert trained(found)
    return found


@pytest.mark.parametrize("best, step, whole, chars, words", [
    ((1.4509, 1101), 1101, 1.4914, {"best": 25_600, "end": 288_000, "all": 911_616}, "1.4914 nats/char over 288,000 characters"),
    ((1.4509, 900), 1101, 1.4914, {"best": 25_600, "end": 288_000, "all": 911_616},
     "1.4509 nats/char on a sample of 25,600 characters; at the end 1.4914 over 288,000 characters"),
    ((1.5, 9), 9, None, {"best": 100, "end": None, "all": 200}, "1.5000 nats/char on a sample of 100 characters"),
    ((1.5, 9), 9, None, {"best": 200, "end": None, "all": 200}, "1.5000 nats/char over 200 characters"),
    ((1.5, 8), 9, 1.6, {"best": 200, "end": 200, "all": 200},
     "1.5000 nats/char over 200 characters; at the end 1.6000 over 200 characters"),
    ((1.5, 9), 9, 1.6, {}, "1.6000 nats/char over the final evaluation"),  # older files
    ((1.5, 8), 9, 1.6, {}, "1.5000 nats/char on a sample; at the end 1.6000 over the final evaluation"),
    ((1.5, 8), 8, None, {}, "1.5000 nats/char on a sample")])
def test_the_larger_sample_is_the_headline_where_the_model_is_the_same(best, step, whole, chars, words):
    assert headline.validation(best, step, whole, chars).words == words


def test_train_info_report_and_card_show_one_number(train, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(story, "CHARACTERS", 300)
    result, last = train("corpus.txt", *STEPS, "-o", "run"), rows(tmp_path / "run")[-1]
    sample, whole = last["val_loss"], last["val_loss_of_all"]
    assert (last["val_chars"], last["val_chars_of_all"]) == (160, 536) and abs(sample - whole) > 0.002
    best, found = card("run/best.safetensors"), f"{whole:.4f} nats/char over 536 characters"
    assert best["best_step"] == best["step"] == 200 and (best["val_loss"], best["val_loss_of_all"]) == (sample, whole)
    assert best["val_chars"] == {"best": 160, "end": 536, "all": 536}
    assert f"\nbest model: step 200, validation loss {found}\n" in result.err
    assert f"step 200  100%  loss {last['loss']:.3f}  val {whole:.3f}  " in result.err
    assert re.search(r"step 180   90%  loss \d\.\d{3}  val ~\d\.\d{3}  ", result.err)
    assert f"validation  step 200: {found}\n" in call(capsys, "info", "run").out
    assert f"{sample:.4f}" not in result.err + call(capsys, "info", "run").out
    if requirements.missing(*report.NEEDED) is None:
        assert call(capsys, "report", "run").code == 0
        page = Path("run/report.html").read_text()
        assert f"<dt>validation loss</dt><dd>{whole:.3f} nats, " in page and "bits, over 536 characters</dd>" in page
        assert "the lowest validation loss on a sample of 160 characters is " in page and f"{found}</dd>" in page
        assert f"over 536 characters it is {whole:.3f} at the end" in page
        assert "validation loss, on a sample of 160 characters</th>" in page


def test_a_best_model_from_before_is_marked_as_measured_on_a_sample(train, tmp_path, capsys, monkeypatch):
    """Its number is the lowest of the sample, and what stands beside it is that of the end over its own characters."""
    losses = {20 * k: 2 - 0.1 * k if k < 6 else 2 + 0.1 * k for k in range(1, 11)}  # by step: the best is that of step 100
    monkeypatch.setattr(Validation, "loss", lambda self, model, windows=None, prefix=None: (3.25, losses[model.step]))
    advance = Training._advance
    monkeypatch.setattr(Training, "_advance", lambda self: setattr(self.model, "step", self.step + 1) or advance(self))
    result = train("corpus.txt", *STEPS, "--no-report", "-o", "run")
    mid = "1.5000 nats/char on a sample of 160 characters"
    assert f"best model: step 100, validation loss {mid}; at the end 3.2500 over 536 characters" in result.err
    assert f"validation  step 100: {mid}\n" in call(capsys, "info", "run").out
    assert f"validation  step 100: {mid}; at the end 3.2500 over 536 characters\n" in call(
        capsys, "info", "run/last.safetensors").out
    assert headline.of(card("run/best.safetensors")).best.sampled


def test_the_loss_at_an_end_is_not_that_of_a_longer_run(train, tmp_path):
    """A run that goes on past its end has no number of the end until the next one."""
    short = ("--steps", 40, *STEPS[2:])
    assert train("corpus.txt", *short, "-o", "run").code == 0 and card("run/last.safetensors")["val_loss_of_all"] is not None
    kept = []
    save = RunFolder.save
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RunFolder, "save", lambda self, training, best: kept.append(
            (training.step, training.final_loss, self.card(training)["val_chars"])) or save(self, training, best))
        assert train("--resume", "-o", "run", "--steps", 80, "--save-every", 10).code == 0
    assert [step for step, _, _ in kept][-1] == 80
    assert all((loss is None) == (chars["end"] is None) == (step < 80) for step, loss, chars in kept)


def test_where_all_of_the_text_is_scored_nothing_is_a_sample(train, tmp_path, capsys):
    result = train("corpus.txt", "--steps", 30, *STEPS[2:], "--val", 0.03, "-o", "run")  # 161 characters
    assert "~" not in result.err and "sample" not in result.err and "sample" not in call(capsys, "info", "run").out


def test_an_older_card_is_shown_and_resumed(train, tmp_path, capsys):
    assert train("corpus.txt", "--steps", 20, *STEPS[2:], "-o", "run").code == 0
    for name in ("best", "last"):
        path = tmp_path / "run" / f"{name}.safetensors"
        document, tensors = checkpoint.read(path)
        del document["card"]["val_chars"]
        extra = {key: value for key, value in tensors.items() if key.startswith(("optimizer.", "state."))}
        checkpoint.save(checkpoint.to_model(document, tensors, "cpu", None), path, document["card"], extra, document.get("training"))
    assert "over the final evaluation\n" in call(capsys, "info", "run").out
    if requirements.missing(*report.NEEDED) is None:
        assert call(capsys, "report", "run").code == 0
    assert train("--resume", "-o", "run", "--steps", 30).code == 0 and "characters\n" in call(capsys, "info", "run").out


def test_a_pretrained_model_shows_the_loss_of_its_file_on_all_of_the_text(capsys):
    for name, words in (("numpy", "1.2384 nats/char over 911,681"), ("hugo", "1.1278 nats/char over 246,838")):
        found = [line for line in call(capsys, "info", f"pretrained/{name}").out.splitlines() if line.startswith("validation")]
        assert len(found) == 1 and f": {words} characters" in found[0]


def test_a_model_without_validation_shows_none(train, capsys):
    assert train("corpus.txt", "--val", 0, "--steps", 2, *STEPS[2:], "-o", "run").code == 0
    assert headline.of(card("run/last.safetensors")) is None and "validation  " not in call(capsys, "info", "run").out


def test_a_line_of_progress():
    p = Progress(5, 0, 0.5, 10, 2.0, 5.0, 1.25, 0.1, 1.0)
    assert "val" not in describe(p)
    assert "  val 1.500  " in describe(replace(p, val_loss=1.5))
    assert "  val ~1.500  " in describe(replace(p, val_loss=1.5, sampled=True))
    assert "  val 1.750  " in describe(replace(p, val_loss=1.5, sampled=True, val_loss_of_all=1.75))


def test_the_progress_of_the_library_says_what_its_losses_are_over():
    model, ids = build(dtype="float32"), np.arange(3000) % 5
    config, validation = TrainConfig(steps=200, batch=4, seq=10, lr=0.01, threads=1), Validation(ids, 4, 10)
    found = [p for p in Training(model, Batches(ids, 4, 10), config, validation) if p.val_loss is not None]
    assert {p.val_chars for p in found} == {40} and all(p.sampled for p in found)
    assert [p.val_chars_of_all for p in found] == [None] * 9 + [560] and found[-1].val_loss_of_all is not None


# How it was trained

def test_info_and_report_say_how_it_was_trained(train, tmp_path, capsys):
    options = ("--lr", 0.02, "--optimizer", "adam", "--batch", 8, "--seq", 20, "--dropout", 0.25, "--weight-drop", 0.1, "--seed", 7,
               "--hidden", 16, "--layers", 1, "--epochs", 2, "--standard")
    assert train("corpus.txt", *options, "-o", "run").code == 0
    line = ("settings    adam, rate 0.02, batch 8, window 20, dropout 0.25 (one mask a character), weight-drop 0.1, seed 7, "
            "for 2 epochs\n")
    out = call(capsys, "info", "run").out
    assert line in out and re.search(r"trained     62 steps, [\d,]+ characters, 2 epochs, in ", out)
    assert line in call(capsys, "info", "run/last.safetensors").out
    if requirements.missing(*report.NEEDED) is None:
        assert call(capsys, "report", "run").code == 0
        assert line[12:-1] in Path("run/report.html").read_text()
    assert train("corpus.txt", "--preset", "tiny", "--minutes", 0.01, "-o", "tiny").code == 0
    assert re.search(r"settings    preset tiny, muon, rate 0.03, .*, for 0.01 minutes\n", call(capsys, "info", "tiny").out)


@pytest.mark.parametrize("train_, preset", [({}, None), ({"lr": None, "seed": [1], "batch": True, "dropout": {"a": 1}}, 7),
                                            ({"lr": "\x1b[31m0.1\n", "seq": 10 ** 18}, "a\nb")])
def test_a_card_of_another_make_is_shown_without_harm(train, capsys, train_, preset):
    assert train("corpus.txt", "--steps", 2, *STEPS[2:], "-o", "run").code == 0
    about = card("run/best.safetensors") | {"train": train_, "preset": preset}
    rnncore.save(rnncore.load("run", "cpu"), "other", about)
    result = call(capsys, "info", "other")
    assert result.code == 0 and "\x1b" not in result.out and "None" not in result.out and "True" not in result.out
    assert json.loads(call(capsys, "info", "other", "--json").out)["card"]["train"] == train_
