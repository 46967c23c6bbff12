"""A plan: what it fills in, what it leaves alone, and the reasons that it gives."""
import types

import pytest

from rnncore import ModelConfig, TrainConfig, kernels, params, plan
from rnncore.config import PRESETS
from rnncore.model import CharLM
from rnncore.train import Training

SIZES = ModelConfig(65, 64, 128, 2)


CPU = 1.1e10  # a share of a CPU


def fill(config, characters, cores=2, model=SIZES):
    return plan.fill(config, model, characters, cores, CPU)


def test_it_fills_what_was_left_open_and_says_why():
    config, reasons = fill(TrainConfig(), 1_000_000, 8)
    assert (config.lr, config.epochs, config.threads) == (0.03, 4, 8)
    assert (config.steps, config.minutes) == (None, None)
    assert [reason.split()[0] for reason in reasons] == ["lr", "epochs", "threads", "dropout"]
    assert all(reason.isprintable() and ":" in reason for reason in reasons)


@pytest.mark.parametrize("given", [{"steps": 5}, {"epochs": 0.5}, {"minutes": 2.0}])
def test_what_is_given_is_left_alone_and_not_explained(given):
    wanted = TrainConfig(lr=0.5, threads=3, dropout=0.0, weight_drop=0.4, **given)
    assert fill(wanted, 1000) == (wanted, [])
    assert len(fill(TrainConfig(**given), 1000)[1]) == 3
    config, reasons = fill(TrainConfig(lr=0.5, threads=3, dropout=0.0, **given), 1000)
    assert config.dropout == 0 and config.weight_drop is not None
    assert len(reasons) == 1 and reasons[0].startswith("weight-drop")


@pytest.mark.parametrize("characters, epochs", [(10, 20), (200_000, 20), (800_000, 5), (4_000_000, 1), (10 ** 9, 0.004)])
def test_short_texts_are_read_more_often_within_bounds(characters, epochs):
    assert fill(TrainConfig(), characters)[0].epochs == epochs


@pytest.mark.parametrize("characters, epochs", [(100_000, 40), (1_000_000, 40), (4_000_000, 10), (10 ** 9, 0.04)])
def test_a_gpu_reads_ten_times_as_much_and_at_most_twice_as_often(characters, epochs):
    config, _ = plan.fill(TrainConfig(), ModelConfig(65, 64, 512, 2), characters, 1, 3e12)
    assert config.epochs == epochs
    assert (config.dropout, config.weight_drop) == ((0.4, 0.4) if epochs == 40 else (0.2, 0.2) if epochs == 10 else (0, 0))


@pytest.mark.parametrize("characters, name, rates", [(90_000, "short", (0.3, 0.3)), (1_003_854, "small", (0, 0))])
def test_dropout_of_a_text_for_which_nothing_is_chosen(characters, name, rates):
    """What cli/README.md says of 100 KB and of 1 MB on a processor."""
    assert plan.preset(TrainConfig(), characters, 2, CPU)[0] == name
    sizes, _ = plan.with_preset(name, {})
    config = fill(TrainConfig(), characters, model=ModelConfig(65, **sizes))[0]
    assert (config.dropout, config.weight_drop) == rates


@pytest.mark.parametrize("pairs, factor", [(0, 1), (1, 1), (2, 2), (None, 1)])
def test_bf16_is_planned_with_its_own_speed(monkeypatch, pairs, factor):
    monkeypatch.setattr(kernels.host.native, "recurrence", lambda precision: pairs and types.SimpleNamespace(pairs=pairs))
    assert kernels.host.speed("bf16") == factor * kernels.host.speed("float32") == factor * kernels.host.speed()


@pytest.mark.parametrize("cores, batch, threads", [(1, 64, 1), (2, 64, 2), (16, 64, 8), (16, 20, 2), (4, 1000, 4), (2, 15, 1)])
def test_a_thread_has_columns_enough(cores, batch, threads):
    assert fill(TrainConfig(batch=batch), 1000, cores)[0].threads == threads


@pytest.mark.parametrize("characters, given, rates", [
    (9_000_000, {"minutes": 1.0}, (0, 0)), (10 ** 6, {"epochs": 3}, (0, 0)), (10 ** 6, {"epochs": 1.0}, (0, 0)),
    (10 ** 6, {"epochs": 20}, (0, 0)), (10 ** 6, {"epochs": 25}, (0.1, 0)), (10 ** 6, {"steps": 15_000}, (0.2, 0.2)), (10 ** 5, {"epochs": 20}, (0.3, 0.3)),
    (10 ** 5, {"epochs": 50}, (0.4, 0.4)), (10 ** 6, {"epochs": 200}, (0.3, 0.3)),
    (10 ** 5, {"epochs": 1.0}, (0, 0)), (10 ** 5, {"minutes": 2.0}, (0.4, 0.4))])
def test_dropout_grows_with_epochs_and_parameters_for_each_character(characters, given, rates):
    config, reasons = fill(TrainConfig(**given), characters)
    assert (config.dropout, config.weight_drop) == rates
    assert f"dropout {rates[0]:g}, weight-drop {rates[1]:g}: for 243 thousand parameters" in " ".join(reasons)


@pytest.mark.parametrize("characters, given, speed, name", [
    (100_000, {"minutes": 60.0}, CPU, "short"), (100_000, {}, 1e12, "short"), (10 ** 7, {}, CPU, "small"),
    (10 ** 7, {"minutes": 1.0}, CPU, "small"), (10 ** 7, {"minutes": 10.0}, CPU, "medium"),
    (10 ** 7, {"steps": 100}, CPU, "small"), (10 ** 7, {"epochs": 1.0}, CPU, "medium"), (10 ** 7, {}, 1e12, "large"),
    (10 ** 7, {"steps": 100}, 1e12, "small"), (10 ** 6, {}, CPU, "small"), (10 ** 9, {}, CPU, "small")])
def test_the_preset_follows_corpus_budget_and_device(characters, given, speed, name):
    found, reason = plan.preset(TrainConfig(**given), characters, 2, speed)
    assert found == name and reason.isprintable()


@pytest.mark.parametrize("cores", [1, 2, 16, 128])
def test_many_cores_are_no_gpu_and_a_thread_more_is_what_makes_a_run_faster(cores):
    speed, config = kernels.host.speed(), TrainConfig(minutes=0.1)
    assert speed < plan.FAST and plan.preset(config, 10 ** 7, cores, speed)[0] == "small"
    assert plan.budget(config, SIZES, 10 ** 7, cores, speed) == pytest.approx(
        min(cores, 8) * plan.budget(config, SIZES, 10 ** 7, 1, speed))  # 64 streams are enough for eight


@pytest.mark.parametrize("characters, batch", [(10 ** 6, 64), (64_000, 64), (9_000, 9), (100, 1)])
def test_a_short_text_has_fewer_streams(characters, batch):
    assert plan.columns(TrainConfig(), characters) == batch


@pytest.mark.parametrize("characters, hidden, cores, speed, count, reason", [
    (10 ** 6, 128, 2, CPU, 32, "more steps than with 64"), (10 ** 6, 128, 4, CPU, 32, "more steps than with 64"),
    (10 ** 6, 256, 2, CPU, 32, "more steps than with 64"), (10 ** 6, 128, 5, CPU, 64, ""), (10 ** 6, 257, 2, CPU, 64, ""), (10 ** 6, 128, 1, 3e12, 64, ""),
    (9_000, 128, 2, CPU, 9, "9 thousand characters make 20 windows of 50"), (32_000, 128, 2, CPU, 32, "more steps than with 64"),
    (40_000, 512, 2, CPU, 40, "40 thousand characters make 20 windows of 50")])
def test_a_narrow_model_has_fewer_streams_on_few_cores(characters, hidden, cores, speed, count, reason):
    assert plan.streams(TrainConfig(), ModelConfig(65, 64, hidden, 2), characters, cores, speed) == (count, reason)


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_is_whole_and_gives_way_to_what_was_asked_for(name):
    sizes, train = plan.with_preset(name, {"hidden": None, "seq": None, "lr": None})
    assert {**sizes, **train} == PRESETS[name]
    assert params.count(ModelConfig(65, **sizes)) > 0 and TrainConfig(**train).batch > 0
    sizes, train = plan.with_preset(name, {"hidden": 7, "dropout": 0.0, "out": "x"})
    assert sizes["hidden"] == 7 and train["dropout"] == 0 and "out" not in {**sizes, **train}


@pytest.mark.parametrize("number, words", [(3, "3"), (1_000, "1 thousand"), (242_366, "242 thousand"), (9.314e6, "9.31 million")])
def test_numbers_are_rounded_and_said_in_words(number, words):
    assert plan.about(number) == words


def test_the_rate_falls_with_depth_and_width():
    sizes = (128, 1), (128, 2), (256, 2), (512, 3)
    rates = [plan.usual_rate(ModelConfig(65, 64, hidden, layers), "adam", False) for hidden, layers in sizes]
    assert rates == sorted(rates, reverse=True) and rates[0] == 0.02
    assert plan.usual_rate(ModelConfig(65, 64, 512, 3), "muon", False) == 0.03
    assert plan.usual_rate(ModelConfig(65, 64, 512, 3), "muon", False, 63) == 0.02
    assert plan.usual_rate(ModelConfig(65, 64, 4, 1), "adam", False) == 0.02  # never more


def test_the_memory_that_a_run_takes_is_about_what_it_takes():
    """Parameters, moments and gradients are counted exactly; the window's arrays within a factor of two."""
    sizes, config = ModelConfig(300, 32, 64, 2), TrainConfig(batch=32, seq=20, threads=1, lr=1, steps=1)
    from rnncore import Batches, Vocab
    model = CharLM(sizes, Vocab.from_code_points(range(256, 556)), "cpu", "float32")
    import numpy as np
    training = Training(model, Batches(np.arange(1000) % 300, 32, 20), config)
    list(training)
    held = {id(array): array.nbytes for array in arrays(model._held.shares[0])}
    taken = 4 * 3 * params.count(sizes) + sum(held.values())
    assert 0.5 < plan.memory(config, sizes, 4) / taken < 2
    assert plan.memory(config, sizes, 8) == 2 * plan.memory(config, sizes, 4)
    assert 2 ** 28 < kernels.host.memory() < 2 ** 50


def arrays(thing):
    """The arrays that own their memory, in an object and what it holds."""
    import numpy as np
    if isinstance(thing, np.ndarray):
        while thing.base is not None:
            thing = thing.base
        yield thing
    elif isinstance(thing, (list, tuple)):
        for part in thing:
            yield from arrays(part)
    elif isinstance(thing, dict):
        yield from arrays(list(thing.values()))
    elif hasattr(thing, "__dict__"):
        yield from arrays(vars(thing))
