"""A larger vocabulary: what the model knew it still says, bit by bit of meaning, and the new symbols begin as promised."""
import numpy as np
import pytest
from conftest import build

import rnncore
from rnncore import ModelConfig, Vocab
from rnncore.runs.extend import extend

ABC = Vocab.from_text("bdfhj")


def model_over(vocab: Vocab, dtype="float64", **sizes):
    """A model over `vocab` of which no parameter is zero."""
    model = build(len(vocab), dtype=dtype, **sizes)
    model.vocab = vocab
    return model


def logits_of(model, text: str) -> np.ndarray:
    """(T, V): what the model expects after each symbol of the text."""
    found, state = [], None
    for place in model.vocab.encode(text):
        logits, state = model.step(np.array([place]), state)
        found.append(logits[:, 0])
    return np.array(found)


@pytest.mark.parametrize("new", ["a", "z", "ceg", "ac☃", "acegikz"], ids=["before", "after", "between", "far", "many"])
def test_the_logits_of_known_symbols_stay_and_new_ones_begin_as_never_expected(new):
    model = model_over(ABC)
    larger = extend(model, Vocab.from_text("bdfhj" + new))
    known, added = larger.vocab.encode("bdfhj"), larger.vocab.encode(new)
    text = "bdfhjjhfdbbb"
    logits = logits_of(larger, text)
    assert np.abs(logits[:, known] - logits_of(model, text)).max() < 1e-12
    assert (logits[:, added] == model.params["head.bias"].min()).all()
    assert not larger.params["head.weight"][added].any()
    assert np.allclose(larger.params["embedding.weight"][added], model.params["embedding.weight"].mean(0), rtol=1e-14)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_what_is_not_of_a_symbol_is_copied_and_the_model_stays_as_it_is(dtype):
    model = model_over(ABC, dtype)
    before = model.params.flat.copy()
    larger = extend(model, Vocab.from_text("abdfhj"))
    assert larger.dtype == model.dtype and larger.kernel is model.kernel
    assert (larger.config.embed, larger.config.hidden, larger.config.layers) == (3, 4, 2)
    assert larger.config.vocab_size == 6 and larger.vocab.symbols == "abdfhj"
    for name, view in model.params.items():
        if "lstm" in name:
            assert np.array_equal(larger.params[name], view)
    larger.params.flat[...] = 0
    assert np.array_equal(model.params.flat, before) and model.vocab == ABC


@pytest.mark.parametrize("old, new", [(250, 300), (256, 257), (65_530, 65_540)])
def test_ids_may_become_wider(old, new):
    """From 8 bits to 16, and from 16 to 32."""
    points = range(0x20000, 0x20000 + new)
    model = model_over(Vocab.from_code_points(points[new - old:]), embed=2, hidden=1, layers=1)  # the new come first
    larger = extend(model, Vocab.from_code_points(points))
    assert larger.vocab.dtype.itemsize > model.vocab.dtype.itemsize
    for name in ("embedding.weight", "head.weight", "head.bias"):
        assert np.array_equal(larger.params[name][new - old:], model.params[name])
    text = "".join(map(chr, (points[-1], points[new - old], points[-2])))
    assert np.abs(logits_of(larger, text)[:, new - old:] - logits_of(model, text)).max() < 1e-12


def test_the_same_vocabulary_is_a_copy_and_a_smaller_one_is_refused():
    model = model_over(ABC)
    assert np.array_equal(extend(model, ABC).params.flat, model.params.flat)
    with pytest.raises(ValueError, match="lacks 2 of the model's symbols, as 'b'"):
        extend(model, Vocab.from_text("adfjz"))


def test_two_steps_add_the_same_known_symbols_as_one():
    model = model_over(ABC)
    one, two = extend(model, Vocab.from_text("abcdfhj")), extend(extend(model, Vocab.from_text("abdfhj")),
                                                                 Vocab.from_text("abcdfhj"))
    known = one.vocab.encode("bdfhj")
    assert np.array_equal(logits_of(one, "bdf")[:, known], logits_of(two, "bdf")[:, known])


def test_a_larger_model_is_saved_and_learns_its_new_symbols(tmp_path):
    model = rnncore.CharLM(ModelConfig(5, 4, 8, 1), ABC, "cpu", "float64", seed=1)
    larger = extend(model, Vocab.from_text("abdfhj"))
    rnncore.save(larger, tmp_path / "m")
    back = rnncore.load(tmp_path / "m", "cpu")
    assert np.array_equal(back.params.flat, larger.params.flat) and back.vocab == larger.vocab
    ids = larger.vocab.encode(100 * "badab")
    first, *_, last = rnncore.fit(larger, rnncore.Batches(ids, 4, 10), rnncore.TrainConfig(lr=0.05, steps=60))
    assert first.loss > 1.5 and last.loss < 0.7  # 0.51 when written
