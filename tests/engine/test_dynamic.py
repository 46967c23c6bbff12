"""Dynamic evaluation: the losses of a loop written out with the reference's gradients, and a model that is put back."""
import tracemalloc

import numpy as np
import pytest
import reference
from conftest import build

from rnncore.config import ConfigError
from rnncore.measure import dynamic, evaluate
from rnncore.measure.dynamic import DynamicConfig

RNG = np.random.default_rng(5)


def by_reference(model, ids, config: DynamicConfig) -> np.ndarray:
    """-log p of ids[1:]: score a segment, then one step, drawn back to where the parameters began."""
    trained = {name: np.array(view, np.float64) for name, view in model.params.items()}
    tensors, h, c, found, gradients = dict(trained), None, None, [], []
    rule, rate = config.chosen()
    for start in range(0, len(ids) - 1, config.segment):
        piece = ids[start:start + config.segment + 1, None]
        result = reference.run(tensors, piece[:-1], piece[1:], h, c)
        h, c = result.h, result.c
        found += [reference.cross_entropy(z.copy(), target)[0]
                  for z, target in zip(result.logits[:, :, 0], piece[1:, 0], strict=True)]
        grads = {name: grad / (len(piece) - 1) for name, grad in result.grads.items()}
        gradients.append(grads)
        scale = {name: np.sqrt(np.mean([each[name] ** 2 for each in gradients], axis=0)) for name in grads}
        mean = np.concatenate([each.ravel() for each in scale.values()]).mean()
        for name, p in tensors.items():
            if rule == "sgd":
                step, back = rate * grads[name], config.decay
            else:
                step, back = rate * grads[name] / (scale[name] + mean / 10), np.minimum(config.decay * scale[name] / mean, 0.5)
            tensors[name] = p - step + back * (trained[name] - p)
    return np.array(found)


def all_losses(model, ids, config=None) -> np.ndarray:
    return np.concatenate(list(dynamic.losses(model, ids, config)))


@pytest.mark.parametrize("config, dtype, error", [  # 4e-15 and 1e-6 when written
    (DynamicConfig(), "float32", 1e-4), (DynamicConfig(0.5, 0.05, 7), "float64", 1e-9), (DynamicConfig(0.3, 0, 1), "float64", 1e-9),
    (DynamicConfig(0.2, 1, 3), "float32", 1e-4), (DynamicConfig(0.1, 0.1, 1000), "float64", 1e-9),
    (DynamicConfig(), "float64", 1e-9), (DynamicConfig(0.01, 0.3, 7, "rms"), "float64", 1e-9),
    (DynamicConfig(0.003, 0.05, 20, "rms"), "float32", 1e-4), (DynamicConfig(rule="sgd"), "float64", 1e-9)], ids=str)
def test_the_losses_are_the_references(config, dtype, error):
    model, ids = build(dtype=dtype), RNG.integers(0, 5, 154)
    found = all_losses(model, ids, config)
    assert found.dtype == np.float64 and np.abs(found - by_reference(model, ids, config)).max() < error


def test_a_vocabulary_so_small_that_the_embedding_is_folded_into_the_layer():
    model, ids, config = build(vocab_size=2), RNG.integers(0, 2, 100), DynamicConfig(0.3, 0.01, 20)
    assert np.abs(all_losses(model, ids, config) - by_reference(model, ids, config)).max() < 1e-9


@pytest.mark.parametrize("predictions", [0, 1, 19, 20, 21, 39, 40, 41])
def test_every_prediction_is_scored_once(predictions):
    parts = list(dynamic.losses(build(), RNG.integers(0, 5, predictions + 1)))
    whole, rest = divmod(predictions, 20)
    assert [len(part) for part in parts] == [20] * whole + [rest] * (rest > 0)


def test_a_segment_is_scored_before_it_is_learnt():
    model, ids = build(), RNG.integers(0, 5, 61)
    other = ids.copy()
    other[41:] = (other[41:] + 1) % 5
    assert np.array_equal(all_losses(model, ids)[:40], all_losses(model, other)[:40])
    carried = np.concatenate(list(evaluate.losses(model, ids)))
    found = all_losses(model, ids)
    assert np.abs(found[:20] - carried[:20]).max() < 1e-12 < np.abs(found[20:] - carried[20:]).max()


def test_without_a_rate_it_is_the_carried_score():
    model, ids = build(), RNG.integers(0, 5, 300)
    carried = np.concatenate(list(evaluate.losses(model, ids)))
    assert np.abs(all_losses(model, ids, DynamicConfig(rate=0)) - carried).max() < 1e-12


def test_it_learns_what_comes_again():
    found = all_losses(build(hidden=8), np.arange(2000) % 5, DynamicConfig(rate=0.5))
    assert found[:200].mean() > 1 and found[-200:].mean() < 0.2  # 1.28 and 0.08 when written


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_parameters_are_put_back_to_the_bit(dtype):
    model, ids = build(dtype=dtype), RNG.integers(0, 5, 200)
    before, buffer = model.params.flat.copy(), model.params.flat

    def moved() -> bool:
        assert model.params.flat is buffer
        return model.params.flat.tobytes() != before.tobytes()

    all_losses(model, ids)
    assert not moved()
    closed, dropped, broken = (dynamic.losses(model, ids) for _ in range(3))
    next(closed)
    assert moved()
    closed.close()
    assert not moved()
    next(dropped)
    assert moved()
    del dropped
    assert not moved()
    next(broken)
    with pytest.raises(KeyboardInterrupt):
        broken.throw(KeyboardInterrupt)
    assert not moved()
    with pytest.raises(FloatingPointError):
        all_losses(model, ids, DynamicConfig(rate=1e308))
    assert not moved()


def test_two_passes_give_the_same_bits():
    model, ids = build(dtype="float32"), RNG.integers(0, 5, 200)
    assert np.array_equal(all_losses(model, ids), all_losses(model, ids))


@pytest.mark.filterwarnings("error")
def test_divergence_names_the_cure():
    with pytest.raises(FloatingPointError, match=r"after \d+ characters the loss is no number; lower --rate, .* 1e.308"):
        all_losses(build(dtype="float32"), RNG.integers(0, 5, 200), DynamicConfig(rate=1e308))


def test_the_rule_and_its_rate():
    assert DynamicConfig().chosen() == ("rms", 5e-4) and DynamicConfig(rule="sgd").chosen() == ("sgd", 0.1)
    assert DynamicConfig(0.1).chosen() == ("sgd", 0.1) and DynamicConfig(0.1, rule="rms").chosen() == ("rms", 0.1)


def test_parameters_without_a_gradient_stay_where_they_are():
    """A model whose every gradient is zero: no scale is divided by."""
    model = build(vocab_size=1)
    assert all_losses(model, np.zeros(50, int)).tolist() == [0.0] * 49


@pytest.mark.parametrize("wrong, name", [
    ({"rule": "adam"}, "rule"),
    ({"rate": -1}, "rate"), ({"rate": float("nan")}, "rate"), ({"rate": float("inf")}, "rate"), ({"decay": -0.1}, "decay"),
    ({"decay": 1.1}, "decay"), ({"decay": float("nan")}, "decay"), ({"segment": 0}, "segment"), ({"segment": -5}, "segment")])
def test_settings_out_of_range(wrong, name):
    with pytest.raises(ConfigError, match=f"^{name} must be"):
        DynamicConfig(**wrong)


def test_memory_does_not_grow_with_the_text():
    model, peaks = build(dtype="float32"), []
    for length in (1_000, 1_000, 10_000):
        ids = np.zeros(length, np.uint8)
        tracemalloc.start()
        for part in dynamic.losses(model, ids):
            assert part.size
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[2] < peaks[1] + 20_000, peaks  # all losses would be 72,000 bytes more
