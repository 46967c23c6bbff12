"""How well a model predicts: one pass in chunks, windows, and the validation's many columns, against -log p step by step."""
import time
import tracemalloc
from statistics import median

import numpy as np
import pytest
import reference
from conftest import build

import rnncore
from rnncore import kernels
from rnncore.config import ConfigError
from rnncore.data.batches import Batches
from rnncore.data.vocab import UnknownSymbolError, Vocab
from rnncore.kernels.cpu import native
from rnncore.measure import evaluate
from rnncore.measure.evaluate import CHUNK, Validation, losses, score, window_losses
from rnncore.model import CharLM
from rnncore.nn.stepper import Stepper
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


def by_reference(model, ids) -> np.ndarray:
    """The same from the formulas, one step and one gate at a time."""
    logits = reference.run(model.params, ids[:-1, None], ids[1:, None]).logits[:, :, 0]
    return np.array([reference.cross_entropy(z.copy(), target)[0] for z, target in zip(logits, ids[1:], strict=True)])


def test_the_carried_score_is_the_references():
    model, ids = build(), RNG.integers(0, 5, CHUNK + 50)
    assert np.abs(np.concatenate(list(losses(model, ids))) - by_reference(model, ids)).max() < 1e-9  # 1e-15 when written


@pytest.mark.parametrize("predictions", [1, 6, 7, 8, 20, 21, 22, 41, 42, 43, 50])  # windows of 7, groups of three: 21
def test_windows_start_from_zero_and_hold_every_prediction_once(monkeypatch, predictions):
    monkeypatch.setattr(evaluate, "GROUP", 23)
    monkeypatch.setattr(evaluate, "STEPS", 3)
    model, ids = build(), RNG.integers(0, 5, predictions + 1)
    expected = [by_reference(model, ids[k:k + 8]) for k in range(0, predictions, 7)]
    found = list(window_losses(model, ids, 7))
    assert all(part.dtype == np.float64 for part in found) and len(found) == -(-predictions // 21)
    found = np.concatenate(found)
    assert found.shape == (predictions,) and np.abs(found - np.concatenate(expected)).max() < 1e-9


@pytest.mark.parametrize("window", [1, 2, 255, 256, 257, 899, 900, 901, evaluate.GROUP // 2, evaluate.GROUP, 10 ** 9])
def test_windows_of_any_size(window):
    model, ids = build(), RNG.integers(0, 5, 901)
    expected = [np.concatenate(list(losses(model, ids[k:k + window + 1]))) for k in range(0, 900, window)]
    found = np.concatenate(list(window_losses(model, ids, window)))
    assert found.shape == (900,) and np.abs(found - np.concatenate(expected)).max() < 1e-9


def test_windows_below_one_are_refused():
    with pytest.raises(ConfigError, match="window must be a whole number of at least 1, not 0"):
        list(window_losses(build(), RNG.integers(0, 5, 9), 0))


@pytest.mark.parametrize("function", [losses, lambda model, ids: window_losses(model, ids, 16)], ids=["carried", "window"])
def test_memory_does_not_grow_with_the_text(monkeypatch, function):
    monkeypatch.setattr(evaluate, "GROUP", 1024)
    model, peaks = build(dtype="float32"), []
    for length in (2_000, 2_000, 40_000):  # the first pass makes what is kept
        ids = np.zeros(length, np.uint8)
        tracemalloc.start()
        for part in function(model, ids):
            assert part.size
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[2] < peaks[1] + 30_000, peaks  # all losses would be 304,000 bytes more


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


def test_unknown_symbols_are_refused_skipped_or_replaced():
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


def test_windows_of_a_large_model_are_fewer_side_by_side(monkeypatch):
    model, ids = build(vocab_size=50), np.arange(400) % 50
    usual = np.concatenate(list(evaluate.window_losses(model, ids, 16)))
    widths = []
    monkeypatch.setattr(evaluate, "NUMBERS", 16 * (50 + 3 + 6 * 8) * 3)
    monkeypatch.setattr(model, "workspace", lambda steps, n, real=model.workspace: widths.append(n) or real(steps, n))
    few = np.concatenate(list(evaluate.window_losses(model, ids, 16)))
    assert set(widths) == {3} and np.abs(few - usual).max() < 1e-12


# One stream, as fast as it is written

needs_compiler = pytest.mark.skipif(native.compiler() is None, reason="no C++ compiler (c++, g++, clang++) here")


def of_documents(dtype: str) -> CharLM:
    """A model of documents, whose END has the id 0."""
    model = build(50, 6, 33, 2, dtype, scale=0.3)
    model.vocab = Vocab.from_code_points([3, *range(256, 305)], documents="lines")
    return model


@needs_compiler
@pytest.mark.parametrize("documents", [False, True])
@pytest.mark.parametrize("symbols", [50, 300])  # of 300 the embedding is not folded into a table
@pytest.mark.parametrize("dtype, error", [("float32", 1e-4), ("float64", 1e-12)])  # 2e-6 and 4e-15 when written
def test_the_compiled_window_of_one_column_agrees_with_numpys(monkeypatch, documents, symbols, dtype, error):
    """The loops in NumPy are those that scored before; in float64 they do today."""
    model = of_documents(dtype) if documents else build(symbols, 6, 33, 3, dtype, scale=0.3)
    ids = RNG.integers(0, 50 if documents else symbols, 2 * CHUNK + 9)
    monkeypatch.setattr(kernels.host, "recurrence", lambda precision: None)
    wanted = np.concatenate(list(losses(model, ids)))
    found = native.Recurrence(native.build(dtype), dtype)
    monkeypatch.setattr(kernels.host, "recurrence", lambda precision: found)
    assert np.abs(np.concatenate(list(losses(model, ids))) - wanted).max() < error


@pytest.mark.parametrize("documents", [False, True])
def test_a_card_scores_as_the_processor_does(on_cuda, documents):
    here = of_documents("float64") if documents else build(50, 6, 33, 2, scale=0.3)
    there = CharLM(here.config, here.vocab, "cuda", "float64", seed=None)
    there.params.flat[...] = there.kernel.to_device(here.params.flat)
    ids = RNG.integers(0, 50, CHUNK + 9)
    assert np.abs(np.concatenate(list(losses(there, ids))) - np.concatenate(list(losses(here, ids)))).max() < 1e-12


@needs_compiler
def test_a_text_is_scored_about_as_fast_as_it_is_read_before_writing():
    """In seconds of the processor, which other work on the machine does not change: 0.98 to 1.02 of them when written."""
    vocab = Vocab.from_code_points(range(200, 265))
    model = CharLM(rnncore.ModelConfig(65, 64, 256, 2), vocab, "cpu", "float32", seed=1)
    ids, stepper = RNG.integers(0, 65, 4 * CHUNK + 1), Stepper(model.params)

    def step() -> None:
        for symbol in ids[:-1, None]:
            stepper.step(symbol)

    def seconds(function) -> float:
        begun = time.process_time()
        function()
        return time.process_time() - begun

    with kernels.host.single_threaded():
        ratios = [seconds(lambda: list(losses(model, ids))) / seconds(step) for _ in range(7)]
    assert median(ratios) < 1.2, ratios
