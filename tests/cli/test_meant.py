"""Did you mean: what people type who come from other programs, slips of the finger, numbers; and silence where it is unclear."""
from importlib import import_module

import pytest
from cli_helpers import call, refused

from rnncore.cli.terminal import meant

cli = import_module("rnncore.cli.main")


@pytest.fixture
def last(capsys, monkeypatch, tmp_path):
    """The last line of what `rnncore ARGS` says of a usage error."""
    monkeypatch.chdir(tmp_path)
    return lambda line: refused(call(capsys, *line.split()), 2)


@pytest.mark.parametrize("line, words", [
    ("train numpy --gpu", "--gpu: did you mean --device cuda?"), ("train numpy --gpu 0", "--device cuda?"),
    ("train numpy --cuda", "--device cuda?"), ("generate --gpuid 0", "--device cuda?"), ("train numpy --epoch 3", "did you mean --epochs?"),
    ("generate --n 5", "--n: did you mean -n?"), ("generate -length 5", "did you mean --length?"), ("generate --Length 5", "--length?"),
    ("train numpy --rnn_size 128", "did you mean --hidden?"), ("train numpy --size 128", "--hidden?"),
    ("train numpy --num_layers 2", "--layers?"), ("train numpy --learning_rate 1", "--lr?"), ("train numpy -learning_rate 1", "--lr?"),
    ("train numpy --batch_size=9", "--batch?"), ("train numpy --seq_length 9", "--seq?"), ("generate --primetext a", "--prime?"),
    ("generate --temp 1", "did you mean --temperature?"), ("generate --start_text a", "--prime?"), ("generate --checkpoint a", "write RUN without an option"),
    ("train --input_txt a", "write CORPUS without an option"), ("train numpy --num_samples 3", "no such option"),
    ("generate --num_samples 3", "did you mean --count?"), ("score a b --window_size 3", "--window?"), ("generate --tempurature 1", "--temperature?"),
    ("tran numpy", "no such command: tran: did you mean train?"), ("trian numpy", "train?"), ("sample", "did you mean generate?"),
    ("Train numpy", "did you mean train?"), ("eval", "did you mean score?"), ("corpus fecth numpy", "did you mean fetch?"),
    ("corpus download numpy", "did you mean fetch?"), ("resume", "did you mean train --resume?"), ("train \u2014epochs 3", "long dash: write --epochs"),
    ("generate \u2013n 3", "long dash: write -n")])
def test_what_was_meant_is_named(last, line, words):
    assert words in last(line)


@pytest.mark.parametrize("line", [
    "train numpy --xyz", "generate --frobnicate", "zebra", "train numpy --s", "generate --p", "corpus zebra", "info --gpu", "x", "generate -z"])
def test_nothing_is_suggested_that_is_not_close(last, line):
    assert "did you mean" not in last(line) and "no such" in last(line)


@pytest.mark.parametrize("typed, found", [
    ("1k", "1000"), ("1K", "1000"), ("1_000", "1000"), ("1e3", "1000"), ("10,000", "10000"), ("1.000", "1000"), ("2M", "2000000"),
    ("1.5k", "1500"), ("10 000", "10000"), ("=50", "50"), ("5.0", "5"), ("0x10", None), ("many", None), ("1.5", None), ("", None), ("1e400", None),
    ("1,5", None), ("nan", None), ("--5", None), ("1kk", None)])
def test_numbers_in_words_and_with_separators_are_understood(typed, found):
    assert meant.number(typed, True) == found


@pytest.mark.parametrize("typed, found", [("0,5", "0.5"), ("10%", "0.1"), (".5", "0.5"), ("1e-3", "0.001"), ("half", None), ("1,000.5", "1000.5")])
def test_numbers_with_a_fraction(typed, found):
    assert meant.number(typed, False) == found


@pytest.mark.parametrize("line, words", [
    ("generate --length=1k", "'1k' is not a whole number: did you mean 1000?"), ("generate -n 1_000x", "'1_000x' is not a whole number"),
    ("train numpy --lr 0,01", "'0,01' is not a number: did you mean 0.01?"), ("train numpy --minutes 2h", "did you mean 120?"),
    ("generate --top-p 90%", "did you mean 0.9?"), ("train numpy --optimizer Adam", "did you mean adam?"),
    ("train numpy --device gpu", "did you mean cuda?"), ("train numpy --device GPU:1", "did you mean cuda:1?"),
    ("train numpy --device tpu", "none of auto, cpu, cuda")])
def test_a_value_that_is_mistyped(last, line, words):
    assert words in last(line)


def test_every_name_of_ours_that_is_suggested_is_there():
    """In some command; and none of others' names is one of ours in the command where it would be suggested."""
    ours = set()
    for name in cli.COMMANDS:
        command = cli.commands.get_command(None, name)
        for part in [command, *getattr(command, "commands", {}).values()]:
            ours |= {option for param in part.params for option in param.opts} | {param.human_readable_name.strip("[].") for param in part.params}
    assert {mine.partition(" ")[0] for mine in meant.THEIRS} <= ours
    assert {mine.split()[0] for mine in meant.COMMANDS if mine[:1] != "-"} <= set(cli.COMMANDS)


@pytest.mark.parametrize("a, b, far", [("train", "tran", 1), ("train", "trian", 1), ("abc", "abc", 0), ("", "ab", 2), ("ab", "ba", 1),
                                       ("kitten", "sitting", 3)])
def test_the_distance_of_two_words_is_symmetric(a, b, far):
    assert meant.distance(a, b) == meant.distance(b, a) == far
