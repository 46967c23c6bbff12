"""Chance: the published test vectors, and numbers that depend on seed, purpose, step, layer and index alone."""
import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from reference import philox4x32

from rnncore.kernels import host
from rnncore.random import Purpose, counter, key, normal, uniform

quick = settings(derandomize=True, deadline=None, max_examples=40)
word = st.integers(0, 2 ** 32 - 1)

# Random123's known answers (kat_vectors, philox4x32 10): counter, key, result
KNOWN = [
    ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    ((0xFFFFFFFF,) * 4, (0xFFFFFFFF,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    ((0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344), (0xA4093822, 0x299F31D0),
     (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1)),
]


@pytest.mark.parametrize("counter_, key_, result", KNOWN)
def test_philox_gives_the_published_numbers(counter_, key_, result):
    assert philox4x32(counter_, key_) == result
    assert tuple(map(int, host.philox(counter_, key_))) == result


def test_philox_of_arrays_that_broadcast():
    first, second, key_ = np.arange(3, dtype=np.uint32)[:, None] * 1_000_000_007, np.arange(5, dtype=np.uint32), (7, 9)
    found = host.philox((first, second, 3, 0xFFFFFFFF), key_)
    assert all(part.shape == (3, 5) and part.dtype == np.uint32 for part in found)
    for i, j in np.ndindex(3, 5):
        assert tuple(int(part[i, j]) for part in found) == philox4x32((int(first[i, 0]), j, 3, 0xFFFFFFFF), key_)


@quick
@given(st.tuples(word, word, word, word), st.tuples(word, word))
def test_philox_agrees_with_whole_numbers(counter_, key_):
    assert tuple(map(int, host.philox(counter_, key_))) == philox4x32(counter_, key_)


@quick
@given(st.integers(0, 2 ** 64 - 1), st.sampled_from(Purpose), st.integers(0, 2 ** 64 - 1), st.integers(0, 9))
def test_uniform_is_53_bits_of_the_counter(seed, purpose, step, layer):
    """The numbers are part of what a file, a seed and a step mean: this is their definition."""
    found = uniform(seed, purpose, 3, step, layer, start=5)
    for index, number in enumerate(found, start=5):
        low, high, _, _ = philox4x32((index, step % 2 ** 32, step >> 32, purpose * 2 ** 16 + layer),
                                     (seed % 2 ** 32, seed >> 32))
        assert number == (high * 2 ** 32 + low >> 11) / 2 ** 53 and 0 <= number < 1


@quick
@given(st.integers(0, 50), st.integers(0, 50))
def test_a_start_is_a_place_in_the_same_sequence(start, size):
    assert (uniform(3, Purpose.DRAW, 100)[start:start + size] == uniform(3, Purpose.DRAW, size, start=start)).all()


def test_all_that_a_number_depends_on_makes_another():
    def numbers(seed=1, purpose=Purpose.DRAW, step=0, layer=0):
        return tuple(uniform(seed, purpose, 8, step, layer))

    variants = [numbers(), numbers(seed=2), numbers(seed=1 + 2 ** 32), numbers(step=1), numbers(step=2 ** 32),
                numbers(layer=1), *(numbers(purpose=p) for p in Purpose if p != Purpose.DRAW)]
    flat = [number for variant in variants for number in variant]
    assert len(set(flat)) == len(flat)
    assert numbers() == numbers()
    assert len({counter(p, step, layer) for p in Purpose for step in (0, 1) for layer in range(100)}) == 200 * len(Purpose)


def test_a_seed_beyond_32_bits_counts_whole():
    assert key(2 ** 64 - 2) == (2 ** 32 - 2, 2 ** 32 - 1) and key(5) == (5, 0)


def test_uniform_numbers_are_uniform():
    u = uniform(11, Purpose.CHECK, 100_000)
    counts = np.histogram(u, 50, (0, 1))[0]
    chi_squared = ((counts - 2000) ** 2 / 2000).sum()  # 49 degrees of freedom: 49 on average, above 95 once in 10^4
    assert chi_squared < 95
    assert abs(np.corrcoef(u[:-1], u[1:])[0, 1]) < 4 / 100_000 ** 0.5
    assert np.unique(u).size == u.size


@pytest.mark.parametrize("size", [1, 2, 7, 100_001])
def test_normal_numbers_are_normal(size):
    z = normal(11, Purpose.INIT, size)
    assert z.shape == (size,) and z.dtype == np.float64 and np.isfinite(z).all()
    if size > 1000:  # four standard deviations of each mean
        for power, mean, variance in ((1, 0, 1), (2, 1, 2), (3, 0, 15), (4, 3, 96)):
            assert abs((z ** power).mean() - mean) < 4 * (variance / size) ** 0.5, power
        half = size // 2  # cosines and sines are independent
        assert abs(np.corrcoef(z[:half], z[-half:])[0, 1]) < 4 / half ** 0.5
        assert np.unique(z).size == z.size
    assert (normal(11, Purpose.INIT, size) == z).all() and not (normal(12, Purpose.INIT, size) == z).any()


def test_nothing_here_touches_numpys_own_generator():
    np.random.seed(5)
    expected = np.random.random()
    np.random.seed(5)
    uniform(1, Purpose.DRAW, 10)
    normal(1, Purpose.INIT, 10)
    assert np.random.random() == expected
