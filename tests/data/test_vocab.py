"""The vocabulary: an exact round trip by code point, and every symbol that it does not know accounted for."""
import dataclasses
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from rnncore.data import vocab as module
from rnncore.data.vocab import UnknownSymbolError, Vocab

CORPORA = os.environ.get("RNNCORE_CORPORA")
quick = settings(derandomize=True, deadline=None, max_examples=40)
any_text = st.text(st.characters(exclude_categories=[]), min_size=1)  # lone surrogates included


@quick
@given(any_text)
def test_decoding_what_was_encoded_gives_it_back(text):
    vocab = Vocab.from_text(text)
    ids = vocab.encode(text)
    assert ids.shape == (len(text),) and ids.dtype == vocab.dtype
    assert [vocab.symbols[i] for i in ids] == list(text)
    assert vocab.decode(ids) == text


@pytest.mark.parametrize("text", [
    "😀👩\u200d👩\u200d👧🇫🇷", "e\u0301\u0300é", "漢字かな", "\U0010ffff\U00010000", "a\0b",
    "\ud83d\ude00", "\ude00\ud83d", "\ud83d😀\ude00",
], ids=ascii)
def test_round_trips_that_break_elsewhere(text):
    vocab = Vocab.from_text(text)
    back = vocab.decode(vocab.encode(text))
    assert list(map(ord, back)) == list(map(ord, text))  # two lone surrogates side by side stay two


def test_sixty_thousand_symbols_come_back_from_their_ids():
    text = "".join(map(chr, range(0x10000, 0x10000 + 60_000)))
    vocab = Vocab.from_text(text[::-1])
    assert len(vocab) == 60_000 and vocab.dtype == np.uint16
    assert (vocab.encode(text) == np.arange(60_000)).all() and vocab.decode(vocab.encode(text)) == text


def test_symbols_are_sorted_by_code_point():
    vocab = Vocab.from_text("hello, wörld 😀")
    assert vocab.symbols == " ,dehlorwö😀" and vocab.code_points == sorted(set(map(ord, "hello, wörld 😀")))
    assert vocab.encode("he").tolist() == [vocab.symbols.index("h"), vocab.symbols.index("e")]
    assert len(vocab) == 11 and "ö" in vocab and "z" not in vocab and "he" not in vocab and "" not in vocab
    assert 104 not in vocab


@pytest.mark.parametrize("size, dtype", [(1, np.uint8), (256, np.uint8), (257, np.uint16), (65536, np.uint16),
                                         (65537, np.uint32)])
def test_ids_are_as_small_as_they_can_be(size, dtype):
    vocab = Vocab.from_code_points(range(size))
    ids = vocab.encode(chr(size - 1) + chr(0))
    assert ids.dtype == dtype and ids.tolist() == [size - 1, 0]
    assert vocab.encode("").dtype == dtype and vocab.encode("").shape == (0,)


def test_equal_by_symbols_and_hashable_and_immutable():
    one, same, other = Vocab.from_text("abcab"), Vocab.from_code_points([97, 98, 99]), Vocab.from_text("abd")
    assert one == same and hash(one) == hash(same) and one != other and one != "abc"
    one.encode("abc")
    assert one == same and {one: 1}[same] == 1
    with pytest.raises(dataclasses.FrozenInstanceError):
        one.symbols = "xyz"


def test_code_points_go_through_a_model_file():
    vocab = Vocab.from_text("\ud800é😀")
    assert Vocab.from_code_points(vocab.code_points) == vocab
    assert Vocab.from_code_points(np.array(vocab.code_points)) == vocab
    assert all(type(point) is int for point in vocab.code_points)


@pytest.mark.parametrize("points", [
    [], [98, 97], [97, 97], [-1, 5], [0x110000], [10**30], [97.0], ["a"], [True], [None], None, 5, "abc", {"a": 1},
    [[97]],
], ids=repr)
def test_code_points_that_are_no_vocabulary_are_refused(points):
    with pytest.raises(ValueError):
        Vocab.from_code_points(points)


@pytest.mark.parametrize("symbols", ["", "ba", "aa"])
def test_symbols_that_are_no_vocabulary_are_refused(symbols):
    with pytest.raises(ValueError):
        Vocab(symbols)


def test_an_empty_text_has_no_vocabulary():
    with pytest.raises(ValueError, match="one symbol at least"):
        Vocab.from_text("")


@pytest.mark.parametrize("text, listed", [
    ("aéb", "1 symbol is not in the model's vocabulary: 'é' (U+00E9); "),
    ("z😀z\nb", r"3 symbols are not in the model's vocabulary: '\n' (U+000A), 'z' (U+007A), '😀' (U+1F600); "),
    ("abcdefghijklm", "11 symbols are not in the model's vocabulary: 'c' (U+0063), 'd' (U+0064), 'e' (U+0065), "
                      "'f' (U+0066), 'g' (U+0067), 'h' (U+0068), 'i' (U+0069), 'j' (U+006A) and 3 more; "),
    ("\ud800", r"'\ud800' (U+D800)"),
])
def test_unknown_symbols_are_listed(text, listed):
    vocab = Vocab.from_text("ab")
    with pytest.raises(UnknownSymbolError) as caught:
        vocab.encode(text)
    line = str(caught.value)
    assert listed in line and "--on-unknown skip" in line and "replace" in line and "\n" not in line
    assert caught.value.symbols == "".join(sorted(set(text) - {"a", "b"}))


@pytest.mark.parametrize("symbols, stand_in", [
    ("a \ufffd", "\ufffd"), ("a ", " "), ("abc", "a"), ("ab\ufffd", "\ufffd"),
])
def test_unknown_symbols_are_skipped_or_replaced(symbols, stand_in):
    vocab = Vocab.from_text(symbols)
    text = "a!a\0a\U0010ffff"  # unknown: in a gap, below and above all that is known
    assert vocab.decode(vocab.encode(text, "skip")) == "aaa"
    assert vocab.decode(vocab.encode(text, "replace")) == f"a{stand_in}a{stand_in}a{stand_in}"
    assert vocab.encode("!!", "skip").shape == (0,) and vocab.encode("!!", "skip").dtype == np.uint8
    with pytest.raises(ValueError, match="on_unknown is one of"):
        vocab.encode("a", "ignore")


@quick
@given(st.text(min_size=1), any_text)
def test_skip_drops_the_unknown_and_nothing_else(known, text):
    vocab = Vocab.from_text(known)
    assert vocab.decode(vocab.encode(text, "skip")) == "".join(s for s in text if s in known)
    assert len(vocab.encode(text, "replace")) == len(text)


def test_a_text_longer_than_a_chunk(monkeypatch):
    monkeypatch.setattr(module, "_CHUNK", 4)
    vocab = Vocab.from_text("abcdefg")
    assert vocab.decode(vocab.encode("gfedcbaabc")) == "gfedcbaabc"
    assert vocab.decode(vocab.encode("g!fe!dc!baab!c", "skip")) == "gfedcbaabc"
    with pytest.raises(UnknownSymbolError) as caught:
        vocab.encode("abc?abcd!abcd")
    assert caught.value.symbols == "!?"


@pytest.mark.parametrize("ids", [[3], [-1], [0, 1, 300], [[0, 1]], 0, [0.0], [True], ["a"], [10**30]], ids=repr)
def test_ids_that_are_none(ids):
    with pytest.raises(ValueError):
        Vocab.from_text("abc").decode(ids)


@pytest.mark.parametrize("dtype", [np.uint8, np.int8, np.int32, np.int64, np.uint64])
def test_ids_of_any_integer_type(dtype):
    vocab = Vocab.from_text("abc")
    assert vocab.decode(np.array([2, 0, 1], dtype)) == "cab"
    assert vocab.decode([2, 0, 1]) == "cab" and vocab.decode([]) == ""


@pytest.mark.skipif(not CORPORA, reason="RNNCORE_CORPORA names no folder of large real texts")
@pytest.mark.parametrize("name, size", [("tinyshakespeare.txt", 65), ("hugo-les-miserables-1-4.txt", 107)])
def test_real_texts_come_back_from_their_ids(name, size):
    text = Path(CORPORA, name).read_bytes().decode()
    vocab = Vocab.from_text(text)
    assert len(vocab) == size and vocab.decode(vocab.encode(text)) == text
