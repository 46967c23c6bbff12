"""The share of a text that is copied: against a search for every stretch, at the bounds of length, pieces and symbols."""
import numpy as np
import pytest

from rnncore.measure import copies


def naive(sample: str, text: str, least: int) -> float:
    """Marks every stretch of `least` characters that stands in the text."""
    marked = [False] * len(sample)
    for k in range(len(sample) - least + 1):
        if sample[k:k + least] in text:
            marked[k:k + least] = [True] * least
    return sum(marked) / max(1, len(marked))


def letters(seed: int, count: int, symbols: str = "ab") -> str:
    return "".join(np.random.default_rng(seed).choice(list(symbols), count))


@pytest.mark.parametrize("least", [1, 2, 3, 5, 6, 7, 8, 11])
@pytest.mark.parametrize("symbols", ["ab", "abcd", "a\u00e9\U0001f600"])
def test_it_is_what_a_search_for_every_stretch_finds(least, symbols):
    sample, text = letters(1, 90, symbols), letters(2, 70, symbols)
    assert copies.copied(sample, text, least) == naive(sample, text, least)
    assert copies.copied(sample + text[10:40], text, least) == naive(sample + text[10:40], text, least)


def test_only_stretches_of_the_least_length_count():
    text = "The quick brown fox jumps over the lazy dog, and then the dog sleeps until noon."
    for length, share in ((copies.LEAST - 1, 0), (copies.LEAST, copies.LEAST)):
        sample = 10 * "x" + text[3:3 + length] + 20 * "y"
        assert copies.copied(sample, text) == share / len(sample)


def test_stretches_that_overlap_count_once():
    assert copies.copied("abcdefgh", "abcdef--cdefgh", 4) == 1
    assert copies.copied("abcdefgh", "abcd--efg", 4) == 0.5


def test_a_stretch_across_two_pieces_of_the_text(monkeypatch):
    sample, text = letters(3, 40, "abcdefgh"), letters(4, 300, "abcdefgh")
    monkeypatch.setattr(copies, "PIECE", 16)
    for place in (0, 5, 9, 15, 16, 17, 280):
        found = sample + text[place:place + 20]
        assert copies.copied(found, text, 20) == naive(found, text, 20) >= 20 / 60


@pytest.mark.parametrize("sample, text", [("", "abc"), ("ab", "abc"), ("abc", ""), ("abc", "ab")])
def test_a_text_that_is_shorter_than_a_stretch_is_not_copied(sample, text):
    assert copies.copied(sample, text, 3) == 0


def test_a_stretch_of_no_characters_is_refused():
    with pytest.raises(ValueError, match="at least 1"):
        copies.copied("a", "b", 0)


def test_texts_that_differ_have_different_hashes():
    """Windows of code points near each other, zeros and anagrams among them: none collide."""
    windows = {chr(a) + chr(b) + chr(c) for a in range(12) for b in range(12) for c in range(12)}
    assert len({int(copies.hashes(window, 3)[0]) for window in windows}) == len(windows)
