"""The tools behind the tables of losses and words: they train once, score the right part, and each trial changes a run."""
import json
import shutil
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import quality
import trials
import words
from cli_helpers import TEXT
from conftest import build
from recipes import SEARCH, Recipe

from rnncore import Batches, TrainConfig, config, optim, steps
from rnncore.data.batches import split
from rnncore.nn import dropout
from rnncore.train import Training

SMALL = "--layers 1 --hidden 8 --embed 4 --batch 4 --seq 10"
TRAIN = TrainConfig(seq=10, batch=4, lr=0.02, steps=12, threads=1, weight_drop=0.1)


@pytest.fixture
def corpora(tmp_path):
    (tmp_path / "tinyshakespeare.txt").write_text(2 * TEXT)
    return tmp_path


@pytest.mark.parametrize("stage, parts", [("search", (0.8, 0.9)), ("final", (0.9, 1.0))])
def test_the_scored_part_is_the_one_that_no_run_learned(corpora, stage, parts):
    found, text = quality.texts(corpora, corpora, stage), 2 * TEXT
    begin, end = (int(share * len(text)) for share in parts)
    source, options, scored = found["shakespeare"]
    assert scored.read_text() == text[begin:end]
    share = dict(zip(options[::2], map(float, options[1::2]), strict=True))
    assert split(len(text), share["--val"], share["--test"])[1] == slice(begin, end) and source.read_text() == text
    source, options, scored = found["short"]
    val = split(len(source.read_text()), float(options[1]), 0)[1]
    assert abs(val.start - (begin - max(0, begin - quality.SHORT))) <= 1 and source.read_text().endswith(scored.read_text())


def test_a_run_is_trained_and_scored_once_and_stands_in_the_table(corpora, monkeypatch):
    """It trains by the commands themselves: a few seconds."""
    monkeypatch.setattr(quality, "SHORT", 2000)
    recipe, calls, real = Recipe("two steps", f"{SMALL} --steps 2", "decay=0"), [], quality.rnncore
    monkeypatch.setattr(quality, "rnncore", lambda *args, trial="": calls.append(args[0]) or real(*args, trial=trial))
    about = quality.texts(corpora, corpora, "search")
    for _ in range(2):
        quality.measure(("two", recipe, 3), about, corpora, ["val"], True)
    assert calls == ["train", "info", "score"]
    found = json.loads((corpora / "two-3" / "scores.json").read_text())
    assert found["chars"] == 80 and 1 < found["val"] < 6 and found["done"]
    card = json.loads(real("info", str(corpora / "two-3" / "last.safetensors"), "--json"))["card"]
    assert card["train"]["decay"] == 0 and card["train"]["seed"] == 3
    (corpora / "two-3" / "scores.json").unlink()  # as after a stop between training and scoring
    quality.measure(("two", recipe, 3), about, corpora, ["val"], True)
    assert json.loads((corpora / "two-3" / "scores.json").read_text()) == found
    row = quality.row("two", recipe, corpora)
    assert row.startswith(f"| two steps | `{recipe.options}`, trial `decay=0` | 3 | {found['val']:.4f} |")
    assert quality.row("tw", recipe, corpora) is None
    assert quality.average("two", recipe, corpora, about) is None  # there is one run
    shutil.copytree(corpora / "two-3", corpora / "two-4")
    assert quality.average("two", recipe, corpora, about) == f"| two steps | 2 | {found['val']:.4f} | {found['val']:.4f} |"


def test_every_recipe_is_a_row_of_its_own():
    assert len({(recipe.options, recipe.trial, recipe.text) for recipe in SEARCH.values()}) == len(SEARCH)
    assert all("--batch" in recipe.options and "--lr" in recipe.options for recipe in SEARCH.values())  # no default of today
    assert {name for recipe in SEARCH.values() for name, _, _ in [recipe.trial.partition("=")] if name} <= set(trials.TRIALS)


def losses(settings: TrainConfig) -> list[float]:
    model, ids = build(dtype="float32", hidden=8, layers=1), np.random.default_rng(0).integers(0, 5, 2000)
    return [progress.loss for progress in Training(model, Batches(ids, settings.batch, settings.seq), settings)]


@pytest.mark.parametrize("name, value", [("reset", 0.5), ("growing", 0.3), ("embedding-drop", 0.3), ("normalised", 0.9)])
def test_a_trial_changes_the_training(monkeypatch, name, value):
    for place, attribute in ((steps.EagerSteps, "take"), (steps.Schedule, "window"), (dropout.WeightDrop, "__init__"),
                             (dropout.WeightDrop, "forward"), (optim.Muon, "muon"), (optim, "orthogonal")):
        monkeypatch.setattr(place, attribute, getattr(place, attribute))  # what a trial changes is put back
    plain = losses(TRAIN)
    trials.TRIALS[name](value)
    changed = losses(TRAIN)
    assert len(changed) == len(plain) == TRAIN.steps and changed != plain and max(changed) < 3


def test_a_setting_without_an_option_is_set_in_every_preset(monkeypatch):
    for name, preset in config.PRESETS.items():
        monkeypatch.setitem(config.PRESETS, name, dict(preset))
    trials.TRIALS["decay"](0.7)
    assert {preset["decay"] for preset in config.PRESETS.values()} == {0.7} and replace(TRAIN, decay=0.7)


def test_words_that_exist():
    text = "Don't go; DON\u2019T stay. It's l'amour, x_1 2nd!"
    assert words.words(text, False) == ["don't", "go", "don't", "stay", "it's", "l'amour", "x", "nd"]
    assert words.words("x_1 = f(y2, 3)", True) == ["x_1", "f", "y2"]
    counts = Counter(["a", "b", "b", "c"])
    assert words.existing(["a", "b", "z", "z"], counts) == 0.5
    assert words.existing(["a", "b"], counts, own=True) == 0.5  # a occurs in the stretch alone
    assert words.summary([0.5, 0.7]) == "60.00% (standard error 10.00)"
