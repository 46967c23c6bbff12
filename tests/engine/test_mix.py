"""Mixing with counted n-grams: against a dictionary that counts, as a probability, and its bounds."""
from math import exp, log

import numpy as np
import pytest
from test_ngram import naive

from rnncore.config import MIX_WEIGHT
from rnncore.measure import mix, ngram

RNG = np.random.default_rng(11)


def texts(size: int = 5) -> tuple[np.ndarray, np.ndarray]:
    """A training text and another one, from which symbol 4 is missing in the first."""
    return RNG.integers(0, size - 1, 400), RNG.integers(0, size, 60)


@pytest.mark.parametrize("order", [0, 1, 3, 8])
def test_the_probabilities_are_those_of_the_naive_count(order):
    train, ids = texts()
    p = ngram.predicted(train, ids, 5, order)
    # `naive` takes a text as the continuation of what was counted: without any of it, it begins as `predicted` does.
    for k in range(1, len(ids)):
        context = ids[max(0, k - order):k + 1]
        before = np.concatenate([train, context[:-1]])
        alone = naive(before, context[-1:], 5, [len(context) - 1], most=len(train))[len(context) - 1]
        assert p[k] == pytest.approx(exp(-alone), rel=1e-12)


def test_a_mixture_is_the_weighted_mean_of_both_probabilities():
    train, ids = texts()
    model = RNG.random(len(ids) - 1)
    parts = np.split(-np.log(model), [7, 8, 30])
    mixture = mix.Mixture(parts, train, ids, 5, weight=0.3, order=2)
    found = np.concatenate(list(mixture))
    assert found == pytest.approx(-np.log(0.7 * model + 0.3 * ngram.predicted(train, ids, 5, 2)[1:]))
    assert mixture.alone == pytest.approx(-np.log(model).mean()) and mixture.counted == len(train)


def test_without_a_weight_it_is_the_model():
    train, ids = texts()
    parts = [np.array([0.5, 1e4]), np.array([1.25])]
    assert np.concatenate(list(mix.Mixture(parts, train, ids[:4], 5, weight=0))) == pytest.approx([0.5, 1e4, 1.25])


def test_all_symbols_together_have_a_probability_of_one():
    """So the mixed loss is one of a distribution, which a text cannot beat by luck."""
    train, ids = texts()
    total = sum(ngram.predicted(train, np.append(ids[:9], symbol), 5, 4)[-1] for symbol in range(5))
    assert total == pytest.approx(1)


@pytest.mark.parametrize("weight", [-0.1, 1, 1.5, float("nan")])
def test_a_weight_out_of_range(weight):
    with pytest.raises(ValueError, match=r"weight is at least 0 and below 1"):
        mix.Mixture([], np.zeros(3, int), np.zeros(3, int), 1, weight)


def test_a_text_of_other_symbols_is_refused():
    with pytest.raises(ValueError, match="vocabulary"):
        mix.Mixture([], np.zeros(3, int), np.array([0, 5]), 5)


def test_the_loss_of_a_certain_wrong_model_stays_finite():
    train, ids = texts()
    found = np.concatenate(list(mix.Mixture([np.full(len(ids) - 1, 1e4)], train, ids, 5)))
    assert found.max() < -log(MIX_WEIGHT) + 20
