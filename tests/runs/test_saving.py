"""What is saved can be loaded: the new file is read back before it takes the place of the one that stands there."""
import contextlib
import json
import os
from pathlib import Path

import numpy as np
import pytest
from cli_helpers import SMALL, call, corpus, files, read_last

import rnncore
from rnncore import ModelConfig, Vocab, optim
from rnncore.data.magic import MODEL_FILE, kind_of
from rnncore.runs import checkpoint
from rnncore.runs.checkpoint import ModelFileError, load, read, save

VOCAB = Vocab.from_text("ab\nö☃")


def model(seed: int = 1) -> rnncore.CharLM:
    return rnncore.CharLM(ModelConfig(5, 3, 4, 2), VOCAB, "cpu", "float32", seed=seed)


@pytest.fixture
def stands(tmp_path):
    """A good file; afterwards it is as it was, and alone in its folder."""
    path = tmp_path / "model.safetensors"
    save(model(), path, {"good": True})
    before = path.read_bytes()
    yield path
    assert path.read_bytes() == before and os.listdir(tmp_path) == [path.name]
    assert load(path, "cpu").config == model().config


def refusal(path: Path, error=ModelFileError, **what) -> str:
    """The one line with which a save is refused."""
    with pytest.raises(error) as caught:
        save(what.pop("of", None) or model(2), path, **what)
    line = str(caught.value)
    assert line.startswith(f"{path} is not saved: ") and "\n" not in line and len(line) < 600
    assert "another copy" not in line and ".tmp" not in line
    return line


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("half", [False, True])
def test_weights_that_are_not_finite_do_not_replace_a_good_file(stands, value, half):
    spoilt = model(2)
    spoilt.params["head.bias"][2] = value
    assert "head.bias holds numbers that are not finite" in refusal(stands, of=spoilt, half=half)


def test_a_weight_that_half_a_precision_has_not(stands):
    large = model(2)
    large.params["head.weight"][0, 0] = 1e5
    assert "head.weight holds a number too large for float16" in refusal(stands, of=large, half=True)


@pytest.mark.parametrize("card, found", [
    ({9: 1, 10: 2, 100: 3}, {"9": 1, "10": 2, "100": 3}), ({1: 1, "b": 2}, {"1": 1, "b": 2}),
    ({"a": {2: (1, 2), 11: {9: [], 10: {}}}}, {"a": {"2": [1, 2], "11": {"9": [], "10": {}}}}),
    ({"a": {True: 1, 0.5: 2}}, {"a": {"true": 1, "0.5": 2}}), ({"a": "\udcff☃\0", "b": np.float64(1.5)}, None),
    ({"x": "y" * 10 ** 6}, None), ({}, {}), (None, {})], ids=lambda v: f"{v!s:.30}")
def test_a_card_comes_back_as_json_has_it(tmp_path, card, found):
    path = tmp_path / "m"
    save(model(), path, card)
    assert read(path)[0]["card"] == (card if found is None else found)


def nested(depth: int, kind=list):
    value = {} if kind is dict else []
    for _ in range(depth):
        value = {"a": value} if kind is dict else [value]
    return value


CIRCLE: dict = {}
CIRCLE["a"] = CIRCLE


@pytest.mark.parametrize("card, error, words", [
    ({"a": {"b": {1, 2}}}, TypeError, "card.a.b is set"), ({"a": [1, b"x"]}, TypeError, "card.a is bytes"),
    ({"a": np.float32(1)}, TypeError, "card.a is float32"), ({"a": np.int64(1)}, TypeError, "card.a is int64"),
    ({"a": np.zeros(3)}, TypeError, "card.a is ndarray"), ({"a": Path("x")}, TypeError, "card.a is PosixPath"),
    ({(1, 2): 1}, TypeError, "card has a key that is tuple"),
    ({"a": {1: 1, "1": 2}}, ValueError, "card.a has the key '1' twice"),
    ({"a": float("nan")}, ValueError, "card.a is nan"), ({"a": [float("-inf")]}, ValueError, "card.a is -inf"),
    ({float("nan"): 1}, ValueError, "card has a key that is nan"),
    ({"a": 10 ** 5000}, ValueError, "card.a is a whole number of more"),
    ({float("inf"): 1}, ValueError, "card has a key that is inf"),
    ({10 ** 5000: 1}, ValueError, "card has a key that is a whole number"),
    ({"a": "\ud800"}, ValueError, "card.a is a text with half a character"),
    ({"\ud800": 1}, ValueError, "card has a key that is a text with half"),
    (nested(2000), TypeError, "card is list"), (nested(2000, dict), ValueError, "is nested deeper than 100"),
    ({"a": nested(2000)}, ValueError, "card.a is nested deeper than 100"), (CIRCLE, ValueError, "nested deeper"),
    ([], TypeError, "card is list"), ("x", TypeError, "card is str"), (0, TypeError, "card is int"),
    ({"a" * 5000: {1}}, TypeError, "card.aaaa"),
    ({"a\nb\x1b": {1}}, TypeError, "card.a")], ids=lambda value: getattr(value, "__name__", ""))
def test_a_card_that_is_no_json_is_refused(stands, card, error, words):
    assert words in refusal(stands, error, card=card)


def test_a_card_above_the_limit_of_the_header_is_refused(stands):
    card = {"x": "y" * (17 << 20)}
    assert "is above 16,777,216 bytes, the most that is read: its card" in refusal(stands, card=card)


@pytest.mark.parametrize("extra, error, words", [
    ({"more": np.zeros(3, np.float32)}, ModelFileError, "tensor more is not expected"),
    ({"optimizer.m": np.zeros(3, np.float32)}, ModelFileError, "tensor optimizer.m is not expected"),
    ({"head.bias": np.zeros(5, np.float32)}, ValueError, "head.bias has the name of one of the model's own"),
    ({"lstm.bias_hh_l0": np.zeros(16, np.float32)}, ValueError, "lstm.bias_hh_l0 has the name"),
    ({"x": [1.0]}, TypeError, "extra tensor x is no NumPy array"), ({"x": np.zeros(3, int)}, TypeError, "tensor x is"),
    ({"x": np.array(["a"])}, TypeError, "tensor x is"), ({"x": np.zeros(3, np.longdouble)}, TypeError, "tensor x is"),
    ({3: np.zeros(3)}, TypeError, "extra tensor 3 is")], ids=lambda v: f"{v!s:.30}")
def test_extra_tensors_that_loading_would_refuse(stands, extra, error, words):
    assert words in refusal(stands, error, extra=extra)


def test_the_check_is_that_of_loading(stands, monkeypatch):
    """Whatever loading comes to refuse, saving refuses."""
    monkeypatch.setattr(checkpoint, "_check_layout", lambda path, *_: (_ for _ in ()).throw(ModelFileError("new",
    "new")))
    line = refusal(stands)
    monkeypatch.undo()
    assert line.endswith("is not saved: new")


def test_no_length_of_a_header_is_taken_for_another_kind_of_file(tmp_path):
    """A pickle begins with 80 02 28, and so does a file with a header of 2,622,080 bytes."""
    for length in (0x280280, 0x7d0480, 0x8b1f - 7, 1 << 23):
        head = length.to_bytes(8, "little") + b'{"__metadata__":'
        assert kind_of(head) is MODEL_FILE
    path = tmp_path / "m"
    save(model(), path, {"x": ""})
    there = int.from_bytes(path.read_bytes()[:8], "little")
    save(model(), path, {"x": "y" * (0x280280 - there - there % 8)})
    for _ in range(8):
        if int.from_bytes(path.read_bytes()[:8], "little") == 0x280280:
            break
        save(model(), path, {"x": read(path)[0]["card"]["x"] + "y"})
    assert path.read_bytes()[:3] == b"\x80\x02\x28" and load(path, "cpu").config == model().config


@pytest.fixture
def spoilt(monkeypatch):
    """A function: from that call of an optimiser's update on, up to another, a second moment has overflowed."""
    def at(first: int, last: int = 10 ** 6):
        calls, update = [0], optim.Muon.update

        def spoil(self, *args):
            update(self, *args)
            calls[0] += 1
            self.moments["v"][0] = np.inf if first <= calls[0] <= last else 0.0

        monkeypatch.setattr(optim.Muon, "update", spoil)
    return at


def test_moments_that_overflow_leave_the_good_file_and_the_training(tmp_path, capsys, spoilt):
    corpus(tmp_path)
    spoilt(5)
    with contextlib.chdir(tmp_path):
        result = call(capsys, "train", "corpus.txt", "--steps", 12, *SMALL, "--save-every", 4, "-o", "run", "--val", 0)
        assert result.code == 1 and "Traceback" not in result.err
        line = "run/last.safetensors is not saved: optimizer.v holds numbers that are not finite"
        assert result.err.splitlines()[-1].startswith(f"rnncore: {line}") and result.err.count(line) == 2
        assert read_last(Path("run"))[0]["training"]["progress"]["step"] == 4
        assert json.loads(Path("run/metrics.jsonl").read_text().splitlines()[-1])["step"] == 12
        assert not [name for name in files(tmp_path / "run") if name.endswith(".tmp")]


def test_moments_that_come_back_are_saved_in_the_end(tmp_path, capsys, spoilt):
    corpus(tmp_path)
    spoilt(3, 6)
    with contextlib.chdir(tmp_path):
        result = call(capsys, "train", "corpus.txt", "--steps", 12, *SMALL, "--save-every", 4, "-o", "run")
        assert result.code == 0 and result.err.count("is not saved") == 1
        assert read_last(Path("run"))[0]["training"]["progress"]["step"] == 12
