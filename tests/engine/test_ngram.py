"""Counting alone: against a dictionary that counts symbol by symbol, against sums of 1, and known figures."""
import os
from collections import Counter, defaultdict
from math import exp, log
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from rnncore.data import corpora
from rnncore.data.batches import split
from rnncore.data.text import CorpusError
from rnncore.data.vocab import Vocab
from rnncore.measure import ngram

CORPORA = os.environ.get("RNNCORE_CORPORA")
EXACT = {"rel": 1e-12, "abs": 1e-12}


def naive(train, validation, vocab_size, orders, escape=2.0, most=None):
    """Nats per character by order, as the paper has it: one context, one symbol at a time."""
    train, validation, after = list(map(int, train)), list(map(int, validation)), defaultdict(Counter)
    for i, symbol in list(enumerate(train))[:most]:
        for k in range(min(i, max(orders)) + 1):
            after[tuple(train[i - k:i])][symbol] += 1
    sizes = {context: (sum(counts.values()), len(counts)) for context, counts in after.items()}
    text, total = train + validation, dict.fromkeys(orders, 0.0)
    for i in range(len(train), len(text)):
        p = 1 / vocab_size
        for k in range(max(orders) + 1):
            context = tuple(text[i - k:i])
            if k <= i and context in sizes:
                n, u = sizes[context]
                p = (after[context][text[i]] + escape * u * p) / (n + escape * u)
            if k in total:
                total[k] -= log(p)
    return {k: nats / len(validation) for k, nats in total.items()}


def real(name="python-docs"):
    text = corpora.text(name)[:30_000]
    vocab = Vocab.from_text(text)
    ids = vocab.encode(text)
    return ids[:25_000], ids[25_000:], len(vocab)


@st.composite
def texts(draw):
    """A vocabulary's size, a training and a validation text; the latter may have symbols that the former has not."""
    size = draw(st.sampled_from([1, 2, 3, 50]))
    symbol = st.integers(0, size - 1)
    return size, draw(st.lists(symbol, max_size=60)), draw(st.lists(symbol, min_size=1, max_size=30))


@settings(max_examples=60, deadline=None)
@given(texts(), st.sets(st.integers(0, 8), min_size=1), st.sampled_from([0.5, 1, 2]), st.none() | st.integers(0, 70))
def test_it_is_the_naive_count(text, orders, escape, most):
    size, train, validation = text
    found = ngram.baseline(train, validation, size, orders, escape, ngram.MOST if most is None else most)
    assert found.by_order == pytest.approx(naive(train, validation, size, orders, escape, most), **EXACT)
    assert found.counted == (len(train) if most is None else min(most, len(train)))
    assert found.nats == found.by_order[found.order] == min(found.by_order.values())


@settings(max_examples=60, deadline=None)
@given(texts(), st.integers(0, 5), st.integers(0, 70))
def test_the_probabilities_of_all_that_may_come_next_sum_to_1(text, order, most):
    size, train, context = text
    train = train + context * 3
    sums = sum(exp(-ngram.baseline(train, [symbol], size, [order], most=most).nats) for symbol in range(size))
    assert sums == pytest.approx(1, **EXACT)


def test_a_real_text_is_counted_as_the_naive_count_has_it():
    train, validation, size = real()
    found = ngram.baseline(train, validation, size)
    assert found.by_order == pytest.approx(naive(train, validation, size, range(7)), **EXACT)
    assert list(found.by_order) == list(range(7)) and 2 <= found.order <= 5 and found.counted == 25_000


def test_a_vocabulary_whose_pairs_and_places_do_not_fit_in_63_bits(vocab_size=2 ** 31 - 1):
    rng = np.random.default_rng(0)
    train = np.concatenate([rng.permutation(9_000), rng.integers(8_900, 9_000, 4_000)])
    validation = np.concatenate([train[500:600], rng.integers(8_900, 9_000, 400), train[-600:-300]])
    wanted = naive(train, validation, vocab_size, range(7))
    assert ngram.baseline(train, validation, vocab_size).by_order == pytest.approx(wanted, **EXACT)


@pytest.mark.parametrize("chunk", [1, 7, 4096])
def test_where_a_chunk_ends_makes_no_difference(monkeypatch, chunk):
    train, validation, size = real()
    validation = validation[:100 * chunk]
    wanted = ngram.baseline(train, validation, size)
    monkeypatch.setattr(ngram, "CHUNK", chunk)
    assert ngram.baseline(train, validation, size).by_order == pytest.approx(wanted.by_order, **EXACT)


@pytest.mark.parametrize("dtype", [np.uint8, np.int8, np.uint16, np.int64, np.uint64])
def test_ids_of_any_integer_type_are_left_as_they_were(dtype):
    ids = np.arange(300).astype(dtype) % 100
    held = ids.copy()
    wanted = naive(ids[:200], ids[200:], 100, range(4))
    assert ngram.baseline(ids[:200], ids[200:], 100, range(4)).by_order == pytest.approx(wanted, **EXACT)
    assert np.array_equal(ids, held)


def test_validation_goes_on_where_training_ends_also_past_what_is_counted():
    train = [0, 1] * 10 + [2]
    one, other = (ngram.baseline([*train, last], [1], 3, [1], most=21).nats for last in (0, 1))
    assert one < 0.1 and other > 1


def test_of_equal_orders_the_lowest_is_best():
    assert ngram.baseline([], [0, 1], 4) == (0, log(4), dict.fromkeys(range(7), log(4)), 0)
    assert ngram.baseline([1], [2], 4, [5, 3]).order == 3


def test_one_symbol_is_certain():
    found = ngram.baseline([0] * 9, [0] * 5, 1)
    assert str(found.nats) == "0.0" and found.order == 0


@pytest.mark.parametrize("arguments, message", [
    (([0], [], 2), "nothing to predict"), (([0], [2], 2), "vocabulary of 2"), (([0, 3], [0], 2), "vocabulary of 2"),
    (([0, 1], [-1], 2), "from -1"), (([0], [0], 2, []), "at least one"), (([0], [0], 2, [-1, 2]), "none below 0"),
    (([0], [0], 2, [1], 0.0), "not positive"), (([0], [0], 2, [1], float("nan")), "not positive"),
    (([0], [0], 2, [1], 1.0, -1), "most -1"), (([0], [0], 0), "vocabulary of 0"),
])
def test_what_cannot_be_counted_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message) as caught:
        ngram.baseline(*arguments)
    assert isinstance(caught.value, CorpusError) == (message == "nothing to predict")


@pytest.mark.skipif(not CORPORA, reason="RNNCORE_CORPORA names no folder of large real texts")
def test_the_known_figures_of_tinyshakespeare():
    text = Path(CORPORA, "tinyshakespeare.txt").read_bytes().decode()
    vocab, (train, validation, _) = Vocab.from_text(text), split(len(text), 0.1, 0.0)
    ids = vocab.encode(text)
    found = ngram.baseline(ids[train], ids[validation], len(vocab))
    assert [round(nats, 3) for nats in found.by_order.values()] == [3.347, 2.485, 2.042, 1.757, 1.630, 1.619, 1.652]
    assert (found.order, found.counted) == (5, 1_003_854)
    plain = ngram.baseline(ids[train], ids[validation], len(vocab), escape=1.0)
    assert (plain.order, round(plain.nats, 3)) == (4, 1.669)
