"""`rnncore train --preset`: what a preset sets, what goes before it, which one is taken where none is named, and dropout."""
import pytest
from cli_helpers import TEXT, call, corpus, read_last, refused

from rnncore import plan
from rnncore.config import PRESETS
from rnncore.runs.folder import Path

QUICK = ("--hidden", 8, "--steps", 1)


@pytest.fixture
def train(capsys, monkeypatch, tmp_path):
    """`rnncore train ARGS` in tmp_path, where corpus.txt is."""
    corpus(tmp_path, 2 * TEXT)
    monkeypatch.chdir(tmp_path)
    return lambda *args: call(capsys, "train", *args)


def made(folder) -> tuple[str | None, dict]:
    """(preset, all sizes and settings) of a run."""
    document = read_last(Path(folder))[0]
    return document["card"]["preset"], document["config"] | document["card"]["train"]


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_sets_all_that_it_names_and_an_option_goes_before_it(train, name):
    result = train("corpus.txt", "--preset", name, *QUICK, "-o", "a")
    assert result.code == 0 and "preset" not in result.err  # nothing was chosen
    preset, settings = made("a")
    assert preset == name and settings.items() >= (PRESETS[name] | {"hidden": 8}).items()


def test_original_is_the_project_of_2018():
    assert PRESETS["original"] == {"layers": 3, "hidden": 512, "seq": 50, "batch": 100, "optimizer": "adam",
                                   "dropout": 0.5, "weight_drop": 0.0, "variational": False}
    assert (PRESETS["tiny"]["layers"], PRESETS["tiny"]["hidden"]) == (1, 64)
    assert [(PRESETS[name]["layers"], PRESETS[name]["hidden"]) for name in ("small", "medium", "large")] == [
        (2, 128), (2, 256), (2, 512)]


def test_every_setting_of_a_preset_gives_way(train):
    args = ("--layers", 1, "--seq", 10, "--batch", 4, "--optimizer", "muon", "--dropout", 0, "--weight-drop", 0.25,
            "--variational", "--embed", 5)
    assert train("corpus.txt", "--preset", "original", *QUICK, *args, "-o", "a").code == 0
    preset, settings = made("a")
    wanted = {"layers": 1, "hidden": 8, "embed": 5, "seq": 10, "batch": 4, "optimizer": "muon", "dropout": 0.0,
              "weight_drop": 0.25, "variational": True}
    assert preset == "original" and settings.items() >= wanted.items()
    assert train("corpus.txt", "--standard", *QUICK, "-o", "b").code == 0 and made("b")[1]["variational"] is False
    assert train("corpus.txt", *QUICK, "-o", "c").code == 0 and made("c")[1]["variational"] is True


@pytest.mark.parametrize("constants, args, name, reason", [
    ({}, QUICK, "short", "9.7 thousand characters to learn from"),
    ({"SHORT": 9_703}, QUICK, "short", "9.7 thousand characters to learn from"),
    ({"SHORT": 9_702}, QUICK, "small", "about 3.2 thousand characters to train on"),
    ({"SHORT": 1, "WORTH_WIDTH": 3_000}, QUICK, "medium", "about 3.2 thousand characters to train on"),
    ({"SHORT": 1, "WORTH_WIDTH": 10_000}, ("--hidden", 8, "--epochs", 2), "medium", "about 19.4 thousand characters"),
    ({"SHORT": 1, "WORTH_WIDTH": 2, "CHARACTERS": 1}, ("--hidden", 8), "small", "about 1 characters to train on"),
    ({"SHORT": 1, "FAST": 1, "WORTH_WIDTH": 3_000}, QUICK, "large", "about 3.2 thousand"),
    ({"FAST": 1}, QUICK, "short", "9.7 thousand characters")])
def test_the_preset_that_is_taken_says_why(train, monkeypatch, constants, args, name, reason):
    for constant, value in constants.items():
        monkeypatch.setattr(plan, constant, value)
    result = train("corpus.txt", *args, "-o", "a")
    assert result.code == 0 and f"preset {name}: " in result.err and reason in result.err
    preset, settings = made("a")
    assert preset == name and settings["layers"] == PRESETS[name]["layers"] and settings["hidden"] == 8


def test_none_is_taken_where_all_sizes_are_given(train):
    result = train("corpus.txt", "--layers", 1, *QUICK, "-o", "a")
    assert "preset" not in result.err and made("a")[0] is None


def test_a_short_text_has_fewer_streams_unless_it_is_told_how_many(train):
    result = train("corpus.txt", *QUICK, "-o", "a")
    assert "batch 9: 9.7 thousand characters make 20 windows of 50" in result.err and made("a")[1]["batch"] == 9
    assert train("corpus.txt", *QUICK, "--batch", 30, "-o", "b").code == 0 and made("b")[1]["batch"] == 30


def test_a_preset_that_is_none(train):
    assert "'huge'" in refused(train("corpus.txt", "--preset", "huge"), 2)
    assert "layers" in refused(train("corpus.txt", "--preset", "tiny", "--layers", 0), 2)
    assert "hidden" in refused(train("corpus.txt", "--preset", "original", "--hidden", -1), 2)


def test_resuming_keeps_the_preset(train):
    assert train("corpus.txt", "--preset", "tiny", *QUICK, "-o", "a").code == 0
    assert train("corpus.txt", *QUICK, "-o", "b").code == 0
    more = ("--resume", "--steps", 2)
    for folder, right, wrong in (("a", "tiny", "small"), ("b", "short", "tiny")):
        line = refused(train(*more, "-o", folder, "--preset", wrong), 2)
        assert f"--preset {wrong} conflicts with {folder}, which has {right}: leave it out" in line
        before = made(folder)
        assert train(*more, "-o", folder, "--preset", right).code == 0
        assert made(folder)[0] == right and made(folder)[1] == before[1] | {"steps": 2}


def test_it_cannot_be_standard_after_a_stop_when_it_was_variational(train):
    assert train("corpus.txt", *QUICK, "-o", "a").code == 0
    assert "conflicts with a" in refused(train("--resume", "-o", "a", "--standard", "--steps", 2), 2)
    assert train("--resume", "-o", "a", "--variational", "--steps", 2).code == 0


# Rates of dropout

@pytest.mark.parametrize("args, rates, words", [
    (("--steps", 1), (0.0, 0.0), "dropout 0, weight-drop 0: "),
    (("--epochs", 2, "--dropout", 0.5), (0.5, 0.0), "\nweight-drop 0: "),
    (("--epochs", 2, "--dropout", 0.4, "--weight-drop", 0.2), (0.4, 0.2), None)])
def test_what_is_left_open_is_chosen_with_its_reason(train, args, rates, words):
    """About 8,600 parameters, 2 epochs of 9,702 characters: 1.8 epochs x parameters / characters."""
    result = train("corpus.txt", "--layers", 1, "--hidden", 32, "--embed", 20, *args, "-o", "a")
    settings = made("a")[1]
    assert result.code == 0 and (settings["dropout"], settings["weight_drop"]) == rates
    if words is None:
        assert "dropout" not in result.err
    else:
        assert words in result.err and "epochs of 9.7 thousand characters" in result.err
