"""Batches: every stream in order, every target exactly once, nothing wrapped that was not rotated."""
import numpy as np
import pytest
from hypothesis import example, given, settings, strategies as st

from rnncore.data.batches import Batches, shrink, split
from rnncore.data.text import CorpusError

quick = settings(derandomize=True, deadline=None, max_examples=40)


@st.composite
def sizes(draw):
    """(n, columns, steps) that Batches takes."""
    columns = draw(st.integers(1, 9))
    return draw(st.integers(columns + 1, 150)), columns, draw(st.integers(1, 20))


@quick
@given(sizes())
@example((2, 1, 1))
@example((101, 10, 5))  # streams of 10: two whole windows
@example((111, 10, 5))  # streams of 11: the third window has one step
def test_an_epoch_visits_each_stream_in_order_and_each_target_once(size):
    n, columns, steps = size
    batches = Batches(np.arange(n), columns, steps)  # each character is its own place in the text
    windows = [batches.window(k) for k in range(batches.windows)]
    x, y = (np.concatenate(parts) for parts in zip(*windows, strict=True))
    stream = (n - 1) // columns
    assert (y == x + 1).all()  # the next character, and nothing wraps
    assert x.T.ravel().tolist() == list(range(columns * stream))  # column after column, the text without a gap
    assert sorted(y.ravel().tolist()) == list(range(1, columns * stream + 1))
    assert batches.stream == stream and batches.chars == columns * stream == x.size
    assert all(len(a) == steps for a, _ in windows[:-1]) and 1 <= len(windows[-1][0]) <= steps


@quick
@given(sizes(), st.integers(-500, 500))
def test_a_rotation_begins_elsewhere_and_wraps(size, rotation):
    n, columns, steps = size
    ids = np.random.default_rng(0).integers(0, 256, n).astype(np.uint8)
    batches, turned = Batches(ids, columns, steps), Batches(np.roll(ids, -rotation), columns, steps)
    for k in range(batches.windows):
        for mine, theirs in zip(batches.window(k, rotation), turned.window(k), strict=True):
            assert (mine == theirs).all()


def test_the_formula_term_by_term():
    n, columns, steps, k, rotation = 50, 3, 4, 2, 40
    ids = np.arange(n, dtype=np.uint8) ** 2 % 251
    x, y = Batches(ids, columns, steps).window(k, rotation)
    for t in range(steps):
        for j in range(columns):
            place = rotation + j * 16 + k * steps + t  # S = 49 // 3
            assert x[t, j] == ids[place % n] and y[t, j] == ids[(place + 1) % n]


def test_windows_are_what_the_engine_takes():
    x, y = Batches(np.arange(101, dtype=np.uint8), 4, 10).window(1)
    for array in (x, y):
        assert array.shape == (10, 4) and array.dtype == np.intp and array.flags.c_contiguous
    x, y = Batches(np.arange(101, dtype=np.uint8), 4, 10).window(2)
    assert x.shape == y.shape == (5, 4)


def test_a_memory_map_serves(tmp_path):
    ids = np.arange(1000, dtype=np.uint16)
    ids.tofile(tmp_path / "ids")
    mapped = Batches(np.memmap(tmp_path / "ids", np.uint16, "r"), 7, 20)
    for mine, theirs in zip(mapped.window(3, 500), Batches(ids, 7, 20).window(3, 500), strict=True):
        assert (mine == theirs).all() and type(mine) is np.ndarray


def test_windows_outside_the_epoch():
    batches = Batches(np.arange(101), 10, 5)
    assert batches.windows == 2
    for k in (-1, 2):
        with pytest.raises(IndexError, match=r"not in 0\.\.1"):
            batches.window(k)


@pytest.mark.parametrize("ids, columns, steps", [
    (np.arange(10), 10, 1), (np.arange(1), 1, 1), (np.arange(10), 0, 1), (np.arange(10), 1, 0),
    (np.arange(10).reshape(2, 5), 1, 1), (np.arange(10.0), 1, 1),
])
def test_what_makes_no_batches(ids, columns, steps):
    with pytest.raises(ValueError):
        Batches(ids, columns, steps)


# Splitting

def test_the_split_that_figures_are_named_after():
    train, val, test = split(1_115_394, .1, 0)
    assert train == slice(0, int(.9 * 1_115_394)) == slice(0, 1_003_854)
    assert val.stop - val.start == 111_540 and test == slice(1_115_394, 1_115_394)


@pytest.mark.parametrize("n, val, test, bounds", [
    (10, .1, 0, (9, 10)), (10, .9, 0, (1, 10)),  # int((1 - .9) * 10) is 0
    (100, .42, 0, (58, 100)),  # int((1 - .42) * 100) is 58; int(.58 * 100) is 57
    (100, 0, 0, (100, 100)), (100, .2, .1, (70, 90)), (7, .1, .1, (5, 6)), (1, .5, 0, (0, 1)), (0, .1, .1, (0, 0)),
    (10, 0, .3, (7, 7)), (10**6, 1e-6, 0, (999_999, 10**6)), (10, np.float64(.1), np.float32(0), (9, 10)),
])
def test_a_text_is_split_in_order_into_training_validation_and_test(n, val, test, bounds):
    assert split(n, val, test) == (slice(0, bounds[0]), slice(*bounds), slice(bounds[1], n))


@quick
@given(st.integers(0, 10**9), st.integers(0, 99), st.integers(0, 99))
def test_a_split_is_the_whole_text_in_order_in_exact_shares(n, val, test):
    if val + test >= 100:
        with pytest.raises(ValueError):
            split(n, val / 100, test / 100)
        return
    train, middle, end = split(n, val / 100, test / 100)
    assert (train.start, train.stop, middle.stop, end.stop) == (0, middle.start, end.start, n)
    assert train.stop == n * (100 - val - test) // 100 and middle.stop == n * (100 - test) // 100


@pytest.mark.parametrize("val, test", [(1, 0), (0, 1), (.5, .5), (.7, .3), (-.1, 0), (0, -.1), (float("nan"), 0),
                                       (float("inf"), 0)])
def test_shares_that_leave_no_text(val, test):
    with pytest.raises(ValueError):
        split(100, val, test)


# Shrinking

@pytest.mark.parametrize("n, columns, steps, fits", [
    (10_001, 100, 100, (100, 100)),  # just enough
    (10_000, 100, 100, (99, 100)),  # one short
    (250, 32, 50, (4, 50)), (51, 32, 50, (1, 50)),
    (50, 32, 50, (1, 49)), (2, 32, 50, (1, 1)), (2, 1, 1, (1, 1)),
])
def test_columns_give_way_before_steps(n, columns, steps, fits):
    assert shrink(n, columns, steps) == fits


@quick
@given(st.integers(2, 5000), st.integers(1, 200), st.integers(1, 200))
def test_what_was_shrunk_fills_a_whole_window(n, columns, steps):
    fewer, shorter = shrink(n, columns, steps)
    assert fewer <= columns and shorter <= steps and n - 1 >= fewer * shorter
    assert (fewer, shorter) == (columns, steps) or n - 1 < columns * steps
    assert shorter == steps or fewer == 1
    assert len(Batches(np.zeros(n, np.uint8), fewer, shorter).window(0)[0]) == shorter


@pytest.mark.parametrize("n, words", [(0, "0 characters"), (1, "1 character to train")])
def test_nothing_to_train_on(n, words):
    with pytest.raises(CorpusError, match=f"^{words}.* 2 are needed"):
        shrink(n, 32, 50)
