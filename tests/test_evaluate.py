"""How well a model predicts: one pass in chunks, and the validation's many columns, against -log p step by step."""
import numpy as np
import pytest
from conftest import build

from rnncore import evaluate
from rnncore.data.batches import Batches
from rnncore.data.vocab import UnknownSymbolError, Vocab
from rnncore.evaluate import CHUNK, Validation, losses, score
from rnncore.model import CharLM
from rnncore.train import TrainConfig, fit

RNG = np.random.default_rng(3)


def step_by_step(model, ids) -> np.ndarray:
    """-log p of every symbol after the first, by model.step."""
    state, found = None, []
    for symbol, following in zip(ids[:-1], ids[1:], strict=True):
        logits, state = model.step(np.array([symbol]), state)
        z = logits[:, 0].astype(np.float64)
        found.append(np.log(np.exp(z - z.max()).sum()) + z.max() - z[following])
    return np.array(found)


@pytest.mark.parametrize("predictions", [1, 2, CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK, 2 * CHUNK + 1])
@pytest.mark.parametrize("dtype, error", [("float64", 1e-12), ("float32", 1e-4)])  # 2e-14 and 4e-6 when written
def test_score_is_the_mean_over_every_prediction(predictions, dtype, error):
    model = build(dtype=dtype)
    ids = RNG.integers(0, 5, predictions + 1)
    expected = step_by_step(model, ids)
    found = np.concatenate(list(losses(model, ids)))
    assert found.shape == (predictions,) and found.dtype == np.float64 and np.abs(found - expected).max() < error
    assert abs(score(model, model.vocab.decode(ids)) - expected.mean()) < error


def test_the_state_is_carried_over_the_chunks(monkeypatch):
    model, ids = build(), RNG.integers(0, 5, 700)
    whole = score(model, model.vocab.decode(ids))
    monkeypatch.setattr(evaluate, "CHUNK", 700)
    assert abs(score(model, model.vocab.decode(ids)) - whole) < 1e-12


@pytest.mark.parametrize("text", ["", "\u0100"])
def test_a_text_without_a_prediction_is_refused(text):
    with pytest.raises(ValueError, match="nothing to predict"):
        score(build(), text)


def test_unknown_symbols():
    model = build()
    with pytest.raises(UnknownSymbolError):
        score(model, "\u0100x\u0101")
    assert score(model, "\u0100x\u0101", "skip") == score(model, "\u0100\u0101")
    assert score(model, "\u0100x\u0101", "replace") == score(model, "\u0100\u0100\u0101")
    with pytest.raises(ValueError, match="nothing to predict"):
        score(model, "\u0100xyz", "skip")


@pytest.fixture(scope="module")
def trained():
    """(model, text ids): a model that remembers little, as trained ones do, and text that it has not seen."""
    rng = np.random.default_rng(0)
    chain = rng.dirichlet(np.full(5, 0.3), 5)
    ids = [0]
    for _ in range(6000):
        ids.append(int(rng.choice(5, p=chain[ids[-1]])))
    ids = np.array(ids)
    model = CharLM(build().config, Vocab.from_code_points(range(256, 261)), "cpu", "float64")
    list(fit(model, Batches(ids[:4000], 8, 20), TrainConfig(lr=0.02, steps=150)))
    return model, ids[4000:]


def test_validation_comes_close_to_the_exact_score(trained):
    model, ids = trained
    exact = step_by_step(model, ids).mean()
    for columns in (1, 2, 8, 32):
        found, _ = Validation(ids, columns, 20).loss(model)
        assert abs(found - exact) < 2e-3, columns  # 6e-4 when written, most of it characters that no column holds


def test_one_column_is_exact(trained):
    model, ids = trained
    found, _ = Validation(ids, 1, 20).loss(model)
    assert abs(found - step_by_step(model, ids).mean()) < 1e-12


def test_each_stream_starts_from_the_text_before_it():
    """With windows of 12 steps, a stream's first prediction knows the 12 characters before it; the first's, none."""
    model, ids = build(scale=1.0), RNG.integers(0, 5, 100)
    validation = Validation(ids, 3, 12)  # streams of 33
    found, _ = validation.loss(model, windows=1)
    expected = []
    for j in range(3):
        before = max(0, 33 * j - 12)
        expected.append(step_by_step(model, ids[before:33 * j + 13])[33 * j - before:])
    assert abs(found - np.mean(expected)) < 1e-12


def test_a_prefix_equals_a_shorter_run(trained):
    model, ids = trained
    validation = Validation(ids, 8, 20)
    for prefix in (1, 3, validation.windows):
        _, at_prefix = validation.loss(model, prefix=prefix)
        assert at_prefix == validation.loss(model, prefix)[0]


@pytest.mark.parametrize("length, columns, steps", [(2, 8, 20), (3, 8, 20), (21, 8, 20), (22, 8, 20), (100, 8, 20),
                                                    (500, 8, 20), (101, 1, 200)])
def test_any_length_is_held_but_for_fewer_characters_than_columns(length, columns, steps):
    model, ids = build(), RNG.integers(0, 5, length)
    validation = Validation(ids, columns, steps)
    found, at_prefix = validation.loss(model)
    chars = validation.chars(validation.windows)
    assert length - 1 - columns < chars <= length - 1 and found == at_prefix and np.isfinite(found)
    assert validation.chars(1) == validation.batches.columns * min(steps, validation.batches.stream)
    if validation.batches.columns == 1:
        assert abs(found - step_by_step(model, ids).mean()) < 1e-12


def test_it_does_not_move_the_model_and_repeats_itself(trained):
    model, ids = trained
    before, validation = model.params.flat.copy(), Validation(ids, 8, 20)
    first = validation.loss(model)
    other = build()
    validation.loss(other)  # its workspace is made anew
    assert validation.loss(model) == first and np.array_equal(model.params.flat, before)
