"""The sampler: which symbols may be drawn, by what chance, and where a text ends."""
import itertools
import warnings

import numpy as np
import pytest
from conftest import build
from hypothesis import assume, given, settings, strategies as st

import rnncore
from rnncore.config import ConfigError, ModelConfig, SampleConfig
from rnncore.data.vocab import UnknownSymbolError, Vocab
from rnncore.model import CharLM
from rnncore.random import Purpose, uniform
from rnncore.sample import DRAWS, draw, generate, generate_ids, prompt_ids, samples, until

quick = settings(derandomize=True, deadline=None, max_examples=40)
PLAIN = SampleConfig(temperature=1.0)
logits_of_one = st.lists(st.floats(-30, 30), min_size=1, max_size=12).map(lambda z: np.array(z)[:, None])


def softmax(z):
    e = np.exp(z - z.max())
    return e / e.sum()


def drawn(logits, config=PLAIN, draws=None) -> np.ndarray:
    """The symbols that evenly spaced uniform draws pick from one column of logits (V, 1)."""
    draws = (np.arange(4000) + 0.5) / 4000 if draws is None else np.asarray(draws, float)
    return draw(np.repeat(logits, len(draws), axis=1), config, draws)


@quick
@given(st.integers(1, 9), st.integers(1, 6), st.integers(0, 99))
def test_greedy_takes_the_likeliest_whatever_the_uniform_draw(symbols, n, seed):
    rng = np.random.default_rng(seed)
    logits, u = rng.standard_normal((symbols, n)), rng.random(n)
    assert (draw(logits, SampleConfig(temperature=0), u) == logits.argmax(axis=0)).all()
    assert (draw(logits, SampleConfig(temperature=1, top_k=1), u) == logits.argmax(axis=0)).all()
    assert (draw(logits, SampleConfig(temperature=1, top_p=1e-9), u) == logits.argmax(axis=0)).all()


def test_of_equals_the_lowest_comes_first():
    logits = np.array([[1.0], [3.0], [3.0], [3.0]])
    for config in (SampleConfig(temperature=0), SampleConfig(1.0, top_k=1), SampleConfig(1.0, top_p=0.1)):
        assert set(drawn(logits, config)) == {1}
    assert set(drawn(logits, SampleConfig(1.0, top_k=2))) == {1, 2}


@quick
@given(logits_of_one, st.floats(0.2, 5), st.floats(0, 1, exclude_max=True))
def test_the_uniform_draw_picks_by_inverse_distribution(logits, temperature, u):
    """The first symbol whose cumulative probability is above the u."""
    edges = np.cumsum(softmax(logits[:, 0] / temperature))
    assume(abs(edges - u).min() > 1e-12)
    found = draw(logits, SampleConfig(temperature), np.array([u]))
    assert found.tolist() == [next(k for k, edge in enumerate(edges) if edge > u)]


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_symbols_come_up_as_often_as_they_should(temperature):
    logits = np.array([[0.3], [2.0], [-1.0], [1.1]])
    counts = np.bincount(drawn(logits, SampleConfig(temperature)), minlength=4) / 4000
    assert abs(counts - softmax(logits[:, 0] / temperature)).max() <= 1 / 4000  # evenly spaced draws: exact to one


def plainly(logits, temperature, u):
    """What `draw` does without top_k and top_p, in the fewest operations."""
    scaled = logits.astype(np.float64)
    scaled -= scaled.max(axis=0)
    mass = np.cumsum(np.exp(scaled / temperature), axis=0)
    return (mass <= u * mass[-1]).sum(axis=0)


@quick
@given(st.integers(1, 70), st.integers(1, 70), st.floats(0.05, 5), st.sampled_from(["f4", "f8"]), st.integers(0, 99))
def test_the_plain_formula_gives_the_same_symbols(symbols, n, temperature, dtype, seed):
    rng = np.random.default_rng(seed)
    logits = (5 * rng.standard_normal((symbols, n))).astype(dtype)
    u = rng.choice([0.0, 1 - 2 ** -53, *rng.random(9)], n)
    assert draw(logits, SampleConfig(temperature), u).tolist() == plainly(logits, temperature, u).tolist()


@quick
@given(logits_of_one, st.integers(1, 15))
def test_top_k_leaves_the_k_likeliest(logits, top_k):
    p = softmax(logits[:, 0])
    assume(p.min() > 1e-3 and np.diff(np.sort(p)).min(initial=1) > 1e-9)
    likeliest = np.argsort(-p)[:top_k]
    counts = np.bincount(drawn(logits, SampleConfig(1.0, top_k=top_k)), minlength=len(p)) / 4000
    wanted = np.zeros_like(p)
    wanted[likeliest] = p[likeliest] / p[likeliest].sum()
    assert abs(counts - wanted).max() <= 1 / 4000


@quick
@given(logits_of_one, st.floats(0.01, 0.999), st.integers(0, 8))
def test_top_p_leaves_the_fewest_likeliest_with_that_mass(logits, top_p, top_k):
    """Of what top_k left, if it is given: the kept mass is at least top_p, and without its least symbol it is not."""
    p = softmax(logits[:, 0])
    assume(p.min() > 1e-3 and np.diff(np.sort(p)).min(initial=1) > 1e-9)
    order = np.argsort(-p)[:top_k or None]
    share = p[order] / p[order].sum()
    assume(abs(np.cumsum(share) - top_p).min() > 1e-9)
    few = next(k for k in range(1, len(order) + 1) if share[:k].sum() >= top_p or k == len(order))
    wanted = np.zeros_like(p)
    wanted[order[:few]] = share[:few] / share[:few].sum()
    counts = np.bincount(drawn(logits, SampleConfig(1.0, top_k=top_k, top_p=top_p)), minlength=len(p)) / 4000
    assert abs(counts - wanted).max() <= 1 / 4000


def test_a_mass_that_is_just_reached_is_enough():
    logits = np.log([[0.5], [0.25], [0.25]])
    assert set(drawn(logits, SampleConfig(1.0, top_p=0.5))) == {0}
    assert set(drawn(logits, SampleConfig(1.0, top_p=0.75))) == {0, 1}
    assert set(drawn(logits, SampleConfig(1.0, top_p=0.76))) == {0, 1, 2}


def test_columns_do_not_touch_one_another():
    rng = np.random.default_rng(0)
    logits, draws = rng.standard_normal((9, 40)), rng.random(40)
    for config in (SampleConfig(0.7), SampleConfig(0.7, top_k=4), SampleConfig(0.7, top_p=0.6), SampleConfig(0.7, 5, 0.6)):
        alone = [draw(logits[:, n:n + 1], config, draws[n:n + 1])[0] for n in range(40)]
        assert draw(logits, config, draws).tolist() == alone


@pytest.mark.parametrize("temperature", [5e-324, 1e-308, 1e-300, 1e-9, 1e9, 1e308])
@pytest.mark.parametrize("top_k, top_p", [(0, 1.0), (3, 1.0), (0, 0.5), (3, 0.9)])
def test_no_temperature_makes_nonsense(temperature, top_k, top_p):
    """Tiny is greedy, huge is an even die among those left; and NumPy has nothing to warn of."""
    logits = np.array([[0.0], [80.0], [-900.0], [80.0 - 1e-9]])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = drawn(logits, SampleConfig(temperature, top_k, top_p))
    left = 2 if top_p == 0.5 else 3 if top_k else 4
    if temperature < 1e-9:
        assert set(found) == {1}
    elif temperature > 1:
        counts = np.unique(found, return_counts=True)[1] / 4000
        np.testing.assert_allclose(counts, np.full(left, 1 / left), atol=1 / 2000)


@pytest.mark.parametrize("u", [0.0, 1 - 2 ** -53])
def test_the_first_and_the_last_uniform_draw(u):
    """A symbol of no probability is never drawn, at either end."""
    logits = np.array([[-np.inf], [1.0], [2.0], [-np.inf]])
    expected = 1 if u == 0 else 2
    assert drawn(logits, draws=[u]).tolist() == [expected]
    assert drawn(np.array([[-1e4], [0.0], [-1e4]]), draws=[u]).tolist() == [1]
    assert drawn(np.zeros((300, 1)), draws=[u]).tolist() == [0 if u == 0 else 299]
    assert drawn(logits, SampleConfig(1.0, top_k=3, top_p=0.99), [0.0]).tolist() == [2]


def test_float32_logits_are_as_good():
    logits = np.random.default_rng(0).standard_normal((9, 30)).astype(np.float32)
    draws, kept = np.random.default_rng(1).random(30), logits.copy()
    assert (draw(logits, SampleConfig(0.8), draws) == draw(logits.astype(float), SampleConfig(0.8), draws)).all()
    assert (logits == kept).all()


@pytest.mark.parametrize("wrong", [
    {"temperature": -0.1}, {"temperature": float("nan")}, {"temperature": float("inf")}, {"top_k": -1}, {"top_p": 0.0},
    {"top_p": 1.1}, {"top_p": float("nan")}, {"seed": -1}, {"seed": 2 ** 64}], ids=str)
def test_options_out_of_range_are_refused_when_asked_for(wrong):
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        generate(the_model(), **wrong)  # before anything is drawn


# ---- generate

TEXT = "\n abcdefghij"


def the_model(text=TEXT) -> CharLM:
    model = CharLM(ModelConfig(len(set(text)), 3, 8, 2), Vocab.from_text(text), "cpu", "float64", seed=1)
    model.params.flat[...] = build(len(set(text)), 3, 8, 2, scale=0.7).params.flat
    return model


@pytest.mark.parametrize("length", [0, 1, 37])
def test_as_many_new_characters_as_were_asked_for(length):
    text = "".join(generate(the_model(), "abc", length, seed=4))
    assert len(text) == length and set(text) <= set(TEXT)


def test_a_seed_means_a_text():
    model = the_model()
    one = "".join(generate(model, "abc", 60, seed=4))
    assert "".join(generate(model, "abc", 60, seed=4)) == one
    assert "".join(rnncore.generate(the_model(), "abc", 60, seed=4)) == one
    assert one.startswith("".join(generate(model, "abc", 20, seed=4)))
    others = {"".join(generate(model, "abc", 60, seed=seed)) for seed in (5, 6, 4 + 2 ** 32)}
    assert len(others | {one}) == 4


def test_two_texts_at_once_do_not_disturb_each_other():
    model = the_model()
    wanted = ["".join(generate(model, prompt, 30, seed=1)) for prompt in ("a", "bcd")]
    pairs = zip(generate(model, "a", 30, seed=1), generate(model, "bcd", 30, seed=1), strict=True)
    assert ["".join(text) for text in zip(*pairs, strict=True)] == wanted


def test_the_text_is_what_the_model_says_by_the_uniform_draws():
    """Step by step by hand: the prompt is read, each drawn symbol goes back in, one uniform draw a symbol."""
    model, config, found = the_model(), SampleConfig(0.9, 5, 0.8, seed=2), []
    state = None
    for symbol in model.vocab.encode("fade"):
        logits, state = model.step([symbol], state)
    for u in uniform(2, Purpose.DRAW, 25):
        (symbol,) = draw(logits, config, np.array([u]))
        found.append(model.vocab.symbols[symbol])
        logits, state = model.step([symbol], state)
    assert "".join(generate(model, "fade", 25, 0.9, 5, 0.8, seed=2)) == "".join(found)


def test_uniform_draws_go_on_past_the_first_block():
    model = the_model()
    steps = generate_ids(model, np.array([0]), SampleConfig(1e9, seed=3))  # an even die: the u alone decides
    found = [int(next(steps)[0]) for _ in range(DRAWS + 50)]
    wanted = np.floor(uniform(3, Purpose.DRAW, DRAWS + 50) * len(model.vocab))
    assert found == wanted.tolist()


@pytest.mark.parametrize("count", [1, 2, 5])
def test_sample_k_draws_the_same_uniform_numbers_whatever_the_count(count):
    """Near greedy temperatures aside, equal draws are equal texts: the products of several columns round alike to 1e-15."""
    model, config = the_model(), SampleConfig(0.8, seed=7)
    all_five = samples(model, 5, "abc", 40, config)
    assert samples(model, count, "abc", 40, config) == all_five[:count]
    assert len(set(all_five)) == 5 and all(len(text) == 40 for text in all_five)
    assert "".join(generate(model, "abc", 40, 0.8, seed=7)) == all_five[0]
    assert samples(model, 2, "abc", 0, config) == ["", ""]


def test_greedy_samples_are_all_alike():
    model = the_model()
    assert len(set(samples(model, 3, "a", 20, SampleConfig(0)))) == 1


def test_without_a_prompt_it_starts_as_after_a_newline():
    model = the_model()
    assert "".join(generate(model, "", 30, seed=1)) == "".join(generate(model, "\n", 30, seed=1))
    without = the_model(TEXT.replace("\n", ""))
    assert "".join(generate(without, "", 30, seed=1)) == "".join(generate(without, " ", 30, seed=1))


def test_symbols_of_the_prompt_that_the_model_does_not_know():
    model = the_model()
    with pytest.raises(UnknownSymbolError) as caught:
        generate(model, "abcZ\u00e9", 5)
    assert caught.value.symbols == "Z\u00e9"
    assert prompt_ids(model.vocab, "aZb", "skip").tolist() == model.vocab.encode("ab").tolist()
    assert prompt_ids(model.vocab, "aZb", "replace").tolist() == model.vocab.encode("a b").tolist()
    assert prompt_ids(model.vocab, "ZZ", "skip").tolist() == model.vocab.encode("\n").tolist()
    assert "".join(generate(model, "aZb", 20, on_unknown="skip")) == "".join(generate(model, "ab", 20))
    with pytest.raises(ValueError, match="on_unknown"):
        generate(model, "a", 5, on_unknown="ignore")


# ---- stop strings

@pytest.mark.parametrize("text, stop, wanted", [
    ("hello world", ["o w"], "hell"), ("hello", ["xyz"], "hello"), ("hello", [], "hello"), ("hello", [""], "hello"),
    ("hello", ["h"], ""), ("hello", ["hello"], ""), ("hello", ["lo"], "hel"), ("hello", ["hellos"], "hello"),
    ("aaab", ["aab"], "a"), ("abababc", ["ababc"], "ab"), ("aabaabaaab", ["aabaaa"], "aab"),
    ("one two three", ["three", "two"], "one "), ("abcd", ["abx", "bcd"], "a"), ("abcx", ["abcd", "bc"], "a"),
    ("ab\n\ncd", ["\n\n"], "ab"), ("a\nb\n\n", ["\n\n"], "a\nb"), ("\ud83d\ude00x", ["\ude00"], "\ud83d"),
])
def test_a_text_ends_before_the_first_stop_string(text, stop, wanted):
    assert "".join(until(iter(text), stop)) == wanted


@quick
@given(st.text("ab", max_size=30), st.lists(st.text("ab", max_size=5), max_size=3))
def test_a_text_ends_where_a_stop_string_is_first_complete(text, stop):
    ends = [k for k in range(1, len(text) + 1) if any(s and text[:k].endswith(s) for s in stop)]
    pieces = list(until(iter(text), stop))
    found = "".join(pieces)
    assert all(pieces)
    if not ends:
        assert found == text
        return
    cuts = {text[:ends[0] - len(s)] for s in stop if s and text[:ends[0]].endswith(s)}
    assert found in cuts
    if len(cuts) == 1:
        assert not any(s and s in found for s in stop)


@quick
@given(st.text("ab", max_size=20), st.permutations(["ab", "b", "aab"]))
def test_the_order_of_the_stop_strings_does_not_matter(text, stop):
    """Of those complete at the same character, the one that begins first."""
    assert "".join(until(iter(text), stop)) == "".join(until(iter(text), ["aab", "ab", "b"]))


def test_nothing_is_read_past_a_stop_string_nor_held_back_for_long():
    """A stream shows a character as soon as it can be no stop string's beginning, and draws none after the end."""
    read = []

    def characters():
        for character in "abcabxab!endless":
            read.append(character)
            yield character

    stream = until(characters(), ["abx", "!"])
    assert next(stream) == "abc" and read == list("abc")
    assert list(stream) == [] and read == list("abcabx")


def test_generate_stops_too_and_counts_what_it_holds_back():
    model = the_model()
    text = "".join(generate(model, "a", 200, seed=3))
    end = text[50:53]
    assert "".join(generate(model, "a", 200, seed=3, stop=[end])) == text[:text.index(end)]
    assert samples(model, 1, "a", 200, SampleConfig(seed=3), [end]) == [text[:text.index(end)]]
    endless = generate(model, "a", None, seed=3, stop=[end])
    assert "".join(itertools.islice(endless, 300)) == text[:text.index(end)]
    assert "".join(generate(model, "a", 30, seed=3, stop=[text[29] + "never"])) == text[:30]
