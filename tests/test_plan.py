"""A plan: what it fills in, what it leaves alone, and the reasons that it gives."""
import pytest

from rnncore import ModelConfig, TrainConfig, kernels, params, plan
from rnncore.model import CharLM
from rnncore.train import Training

SIZES = ModelConfig(65, 64, 128, 2)


def test_it_fills_rate_budget_and_threads_and_says_why():
    config, reasons = plan.fill(TrainConfig(), SIZES, 1_000_000, 8)
    assert (config.lr, config.epochs, config.threads) == (0.03, 4, 2)
    assert (config.steps, config.minutes) == (None, None)
    assert [reason.split()[0] for reason in reasons] == ["lr", "epochs", "threads"]
    assert all(reason.isprintable() and ":" in reason for reason in reasons)


@pytest.mark.parametrize("given", [{"steps": 5}, {"epochs": 0.5}, {"minutes": 2.0}])
def test_what_is_given_is_left_alone_and_not_explained(given):
    wanted = TrainConfig(lr=0.5, threads=3, **given)
    assert plan.fill(wanted, SIZES, 1000, 8) == (wanted, [])
    assert len(plan.fill(TrainConfig(**given), SIZES, 1000, 8)[1]) == 2


@pytest.mark.parametrize("characters, epochs", [(10, 20), (200_000, 20), (800_000, 5), (10 ** 9, 1)])
def test_short_texts_are_read_more_often_within_bounds(characters, epochs):
    assert plan.fill(TrainConfig(), SIZES, characters, 1)[0].epochs == epochs


@pytest.mark.parametrize("cores, batch, threads", [(1, 64, 1), (2, 64, 2), (16, 64, 2), (16, 20, 1), (4, 1000, 4)])
def test_a_thread_has_columns_enough(cores, batch, threads):
    assert plan.fill(TrainConfig(batch=batch), SIZES, 1000, cores)[0].threads == threads


def test_the_rate_falls_with_depth_and_width():
    sizes = (128, 1), (128, 2), (256, 2), (512, 3)
    rates = [plan.rate(ModelConfig(65, 64, hidden, layers), "adam") for hidden, layers in sizes]
    assert rates == sorted(rates, reverse=True) and rates[0] == 0.02
    assert plan.rate(ModelConfig(65, 64, 512, 3), "muon") == 0.03
    assert plan.rate(ModelConfig(65, 64, 4, 1), "adam") == 0.02  # never more


def test_the_memory_that_a_run_takes_is_about_what_it_takes():
    """Parameters, moments and gradients are counted exactly; the window's arrays within a factor of two."""
    sizes, config = ModelConfig(300, 32, 64, 2), TrainConfig(batch=32, seq=20, threads=1, lr=1, steps=1)
    from rnncore import Batches, Vocab
    model = CharLM(sizes, Vocab.from_code_points(range(256, 556)), "cpu", "float32")
    import numpy as np
    training = Training(model, Batches(np.arange(1000) % 300, 32, 20), config)
    list(training)
    held = {id(array): array.nbytes for array in arrays(model._shares[0])}
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
