"""Settings have bounds, written once in rnncore/config.py: what is taken can be read again, all else is named."""
import os

import numpy as np
import pytest
from cli_helpers import SMALL, TEXT, call, corpus, refused

import rnncore
from rnncore import model, params
from rnncore.config import LAYERS, MOST, ConfigError, DynamicConfig, ModelConfig, SampleConfig, SaveConfig, TrainConfig
from rnncore.runs.metadata import TRAINING, fault

NAN, INF = float("nan"), float("inf")
WHOLE = {TrainConfig: ("seq", "batch", "steps", "eval_every", "patience", "threads"),
         ModelConfig: ("vocab_size", "embed", "hidden"), SaveConfig: ("save_every",)}


@pytest.fixture
def train(capsys, monkeypatch, tmp_path):
    """`rnncore train corpus.txt ARGS` of a short text in tmp_path; `--resume` among them goes on with run."""
    corpus(tmp_path, TEXT[:1500])
    monkeypatch.chdir(tmp_path)

    def command(*args):
        return call(capsys, "train", *(() if "--resume" in args else ("corpus.txt", *SMALL)), *args, "-o", "run")
    return command


def made(kind, **fields):
    return kind(**({"vocab_size": 5} if kind is ModelConfig and "vocab_size" not in fields else {}), **fields)


@pytest.mark.parametrize("kind, name, values", [
    *((kind, name, (0, -1, 1.5, True, "3", NAN, INF, [1], MOST + 1, 2 ** 63, 10 ** 400, 10 ** 5000))
      for kind, names in WHOLE.items() for name in names),
    (ModelConfig, "layers", (0, None, 2.0, LAYERS + 1, 10 ** 7)),
    (TrainConfig, "lr", (0, -1.0, NAN, INF, True, "1", 10 ** 400)), (TrainConfig, "clip", (-1, NAN, INF, None, False)),
    (TrainConfig, "epochs", (0, NAN, INF, 1e308, 10 ** 400, "1")), (TrainConfig, "minutes", (0, -1, NAN, INF, 1e308)),
    (TrainConfig, "dropout", (1, -.1, NAN, "0.5", True)), (TrainConfig, "eps", (0, 1, NAN, None)),
    (TrainConfig, "beta1", (1, None, NAN)), (TrainConfig, "warmup", (1, NAN, None)), (TrainConfig, "seq", (None,)),
    (TrainConfig, "variational", (1, None, "yes")), (TrainConfig, "optimizer", ("sgd", None, ["adam"], 1)),
    (TrainConfig, "seed", (-1, 2 ** 64, True, 1.0, None)), (SaveConfig, "keep", (-1, 1.5, None, MOST + 1, True)),
    (SaveConfig, "report", (1, None)), (SaveConfig, "sample_every", (-1, 0.5)),
    (SampleConfig, "top_k", (-1, 2.5, None, True)), (SampleConfig, "seed", (True, 2 ** 64)),
    (SampleConfig, "top_p", (0, 1.1, NAN, "1")), (SampleConfig, "temperature", (-1, NAN, INF, None, "1")),
    (DynamicConfig, "segment", (0, 1.5, True, 10_001)), (DynamicConfig, "rate", (-1, INF, "1")),
    (DynamicConfig, "decay", (-.1, 1.1, NAN))], ids=lambda value: getattr(value, "__name__", ""))
def test_a_setting_of_another_type_or_out_of_its_range_is_named(kind, name, values):
    for value in values:
        with pytest.raises(ConfigError, match=f"^{name} must be (a|one of|true)") as caught:
            made(kind, **{name: value})
        assert len(str(caught.value)) < 150


@pytest.mark.parametrize("kind, name", [(kind, name) for kind, names in WHOLE.items() for name in names])
def test_the_bounds_and_numbers_of_numpy_are_taken(kind, name):
    assert getattr(made(kind, **{name: MOST}), name) == MOST
    assert type(getattr(made(kind, **{name: np.int64(3)}), name)) is int
    assert type(TrainConfig(lr=np.float32(0.5)).lr) is float


@pytest.mark.parametrize("config", [(65, 64, 128, 2), (5, 3, 4, 1), (1, 1, 1, 1), (300, 7, 5, 9)])
def test_the_count_of_parameters_is_that_of_their_shapes(config):
    config = ModelConfig(*config)
    assert params.count(config) == sum(int(np.prod(shape)) for shape in params.shapes(config).values())
    assert params.count(ModelConfig(MOST, MOST, MOST, LAYERS)) > 2 ** 117


OPTIONS = ("layers", "hidden", "embed", "seq", "batch", "steps", "epochs", "minutes", "patience", "min-count",
           "threads", "eval-every", "save-every", "sample-every", "keep", "seed")


@pytest.mark.parametrize("option", OPTIONS)
@pytest.mark.parametrize("value", [2 ** 64, "1" + 400 * "0", "1" + 5000 * "0"], ids=["2^64", "10^400", "10^5000"])
def test_a_number_beyond_its_bound_is_refused_in_one_short_line(train, tmp_path, option, value):
    line = refused(train(f"--{option}={value}"), 2)
    assert option.replace("-", "_") in line.replace("-", "_") and len(line) < 200
    assert os.listdir(tmp_path) == ["corpus.txt"]


@pytest.mark.parametrize("option", ["batch", "keep", "threads"])
def test_the_largest_number_that_is_taken_is_resumed_and_verified(train, capsys, option):
    more = f"--{option}={MOST}"
    assert train("--steps", 2, more).code == 0
    assert call(capsys, "info", "run", "--verify").code == 0
    assert train("--resume", "--steps", 3).code == 0 and train("--resume", "--steps", 4, more).code == 0
    assert "whole number" in refused(train("--resume", "--steps", 5, f"--{option}={2 ** 63}"), 2)


def test_a_change_of_the_rate_that_is_taken_is_read_again(train, capsys):
    assert train("--steps", 2).code == 0
    assert train("--resume", "--lr", 1e300, "--steps", 3).code in (0, 3)
    assert call(capsys, "info", "run/last.safetensors", "--verify").code == 0
    assert fault([{"step": 1, "lr": [0.1, NAN]}], TRAINING["settings"]["changes?"], "changes")


def test_ten_million_layers_are_refused_before_any_is_listed(train, monkeypatch):
    monkeypatch.delattr(params, "shapes")
    assert "layers must be a whole number from 1 to 1,000, not 10000000" in refused(train("--layers", 10 ** 7), 2)


def nothing(*args, **kwargs):
    raise AssertionError("something was made")


@pytest.mark.parametrize("sizes", [("--hidden", MOST), ("--embed", 10 ** 12), ("--layers", 1000, "--hidden", 10 ** 5)])
def test_sizes_beyond_the_memory_are_refused_before_anything_is_made(train, capsys, monkeypatch, sizes):
    monkeypatch.setattr(params, "initial", nothing)
    monkeypatch.delattr(params, "shapes")
    for line in (refused(train(*sizes, "--steps", 1)), refused(call(capsys, "gradcheck", *sizes))):
        assert "GiB, the device has" in line and "--hidden" in line


def test_a_model_beyond_the_memory_is_a_memory_error(monkeypatch):
    with pytest.raises(MemoryError, match="parameters take .* bytes, more than"):
        model.CharLM(ModelConfig(5, 3, 10 ** 9, 2), rnncore.Vocab.from_text("ab\nöx"), "cpu")


@pytest.mark.parametrize("args", [
    ("gradcheck", "--batch", 10 ** 12), ("gradcheck", "--seq", 10 ** 12), ("bench", "--hidden", 100_000, "--layers", 9),
    ("bench", "--batch", 100_000, "--seq", 100_000)], ids=lambda args: " ".join(map(str, args)))
def test_other_commands_count_before_they_make(capsys, monkeypatch, args):
    monkeypatch.setattr(params, "initial", nothing)
    result = call(capsys, *args)
    assert result.code == 1 and "GiB, the device has" in result.err.splitlines()[-1]


@pytest.mark.parametrize("args", [
    ("gradcheck", "--layers", 1001), ("bench", "--layers", 1001), ("gradcheck", "--most", 2 ** 63),
    ("bench", "--rounds", 2 ** 64), ("score", "x", "y", "--window", 2 ** 63), ("neurons", "--length", 2 ** 63),
    ("generate", "-n", "1" + 400 * "0"), ("generate", "--count", 2 ** 63), ("generate", "--top-k", "1" + 400 * "0"),
    ("corpus", "fetch", "hugo", "--timeout", "nan"), ("corpus", "fetch", "hugo", "--tries", 2 ** 63),
    ("report", "--cells", "1" + 400 * "0")], ids=lambda args: " ".join(map(str, args))[:40])
def test_bounds_of_other_commands(capsys, args):
    assert len(refused(call(capsys, *args), 2)) < 200


@pytest.mark.parametrize("minutes", ["1e-9", "1e-300"])
def test_a_run_without_a_step_says_so(train, tmp_path, minutes):
    result = train("--minutes", minutes)
    line = result.err.strip().splitlines()[-1]
    assert result.code == 1 and line.startswith("rnncore: the run took no step, so run holds no model")
    assert f"--minutes {float(minutes):g}" in line and "saved" not in result.err
    assert not list(tmp_path.glob("run/*.safetensors"))
    assert train("--steps", 1).code == 0  # the folder may be taken
