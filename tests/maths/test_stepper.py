"""The stepper, on NumPy and compiled: the logits and states of model.step and the reference; texts written with it."""
import functools
import itertools
import tracemalloc

import numpy as np
import pytest
import reference
from conftest import build

from rnncore import kernels
from rnncore.config import SampleConfig
from rnncore.kernels.cpu import native
from rnncore.kernels.cpu.recurrence import Step
from rnncore.nn.lstm import State
from rnncore.nn.stepper import Stepper
from rnncore.sample import TURN, generate_ids, samples

needs_compiler = pytest.mark.skipif(native.compiler() is None, reason="no C++ compiler (c++, g++, clang++) here")
BOUND = {"float32": 1e-5, "float64": 1e-12}  # largest error seen, relative to the largest value: 4e-7 and 8e-16
PLAIN = SampleConfig(temperature=1.0)
both = pytest.mark.parametrize("compiled", [False, pytest.param(True, marks=needs_compiler)], ids=["numpy", "compiled"])


@functools.cache
def recurrence(precision: str) -> native.Recurrence:
    """In place of kernels.cpu.recurrence, which gives the compiled step for float32 alone."""
    return native.Recurrence(native.build(precision), precision)


@pytest.fixture
def stepper(compiled, monkeypatch):
    """A function of a model and a number of columns: a stepper on NumPy, or compiled for any dtype."""
    monkeypatch.setattr(kernels.host, "recurrence", recurrence if compiled else lambda dtype: None)
    return lambda model, n=1: Stepper(model.params).repeat(n)


def difference(a, b) -> float:
    return float(np.abs(a - b).max() / np.abs(b).max())


@both
@pytest.mark.parametrize("dtype", BOUND)
@pytest.mark.parametrize("sizes, n", [((5, 3, 4, 2), 2), ((1, 1, 1, 1), 1), ((7, 2, 5, 3), 9), ((66, 8, 33, 2), 1)], ids=str)
def test_many_steps_equal_model_step(stepper, dtype, sizes, n):
    model, rng = build(*sizes, dtype, scale=0.4), np.random.default_rng(2)
    mine, state = stepper(model, n), None
    for _ in range(30):
        ids = rng.integers(0, sizes[0], n)
        wanted, state = model.step(ids, state)
        assert difference(mine.step(ids), wanted) < BOUND[dtype]
    for found, wanted in zip((mine.h, mine.c), state, strict=True):
        assert difference(found, wanted) < BOUND[dtype]


@both
def test_steps_equal_the_naive_reference(stepper):
    model = build(7, 3, 5, 3)
    rng = np.random.default_rng(3)
    ids, (h, c) = rng.integers(0, 7, (6, 4)), rng.standard_normal((2, 3, 5, 4))
    wanted = reference.run(model.tensors(), ids, ids, h, c)
    mine = stepper(model, 4)
    mine.h[...], mine.c[...] = h, c
    for now, logits in zip(ids, wanted.logits, strict=True):
        assert difference(mine.step(now), logits) < 1e-12
    assert difference(mine.h, wanted.h) < 1e-12 and difference(mine.c, wanted.c) < 1e-12


@both
def test_a_step_allocates_nothing(stepper, compiled):
    """The gates would be 128 KB; where NumPy adds a column to a matrix, it has buffers of 32 KB, at most two."""
    model = build(50, 16, 256, 2, "float32", scale=0.1)
    mine, ids = stepper(model, 32), np.arange(32)
    mine.step(ids)
    tracemalloc.start()
    try:
        for _ in range(20):
            mine.step(ids)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < (2048 if compiled else 90_000)  # 650 and 69,634 were seen


@both
def test_the_parameters_are_those_of_the_moment_it_was_made(stepper):
    model = build()
    wanted = model.step([1], None)[0]
    before = stepper(model)
    model.params.flat[...] *= 0.5
    assert difference(before.step(np.array([1])), wanted) < 1e-12
    assert difference(stepper(model).step(np.array([1])), model.step([1], None)[0]) < 1e-12


@both
def test_repeated_columns_go_their_own_ways(stepper):
    """From the state of the one that was repeated, which goes on undisturbed."""
    model = build()
    one = stepper(model)
    one.step(np.array([2]))
    three = one.repeat(3)
    assert (three.logits == one.logits).all() and three.logits.shape == (5, 3)
    state = State(three.h.copy(), three.c.copy())
    assert difference(three.step(np.array([0, 4, 1])), model.step([0, 4, 1], state)[0]) < 1e-12
    assert difference(one.step(np.array([4])), three.logits[:, 1:2]) < 1e-12


@both
def test_ids_out_of_range_read_nothing_beyond_the_table(stepper):
    model = build()
    assert (stepper(model).step(np.array([99])) == stepper(model).step(np.array([4]))).all()


@needs_compiler
def test_float32_on_a_cpu_is_compiled_and_float64_is_not():
    assert isinstance(Stepper(build(dtype="float32").params)._compiled, Step)
    assert Stepper(build().params)._compiled is None


# ---- texts over it

@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("count", [1, 7, 64])
def test_a_sample_is_the_same_text_whatever_the_count_and_the_threads(count, threads):
    """In float64, past a turn of the threads; and no symbol more is drawn than was asked for."""
    model = build(30, 5, 16, 2, scale=0.4)
    prompt, config = model.vocab.symbols[:3], SampleConfig(0.9, seed=5)
    wanted = samples(model, 40, prompt, TURN + 9, config)
    model.threads = threads
    found = samples(model, count, prompt, TURN + 9, config)
    assert found[:40] == wanted[:count] and len(set(found)) == count and {len(text) for text in found} == {TURN + 9}


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_generators_of_one_model_at_the_same_time_and_one_that_is_left(dtype):
    model = build(30, 5, 16, 2, dtype, scale=0.4)
    prompts = [np.array([k, 3]) for k in range(4)]

    def texts(steps):
        return np.array([list(map(int, row)) for row in steps]).T.tolist()

    alone = [texts(itertools.islice(generate_ids(model, prompt, PLAIN, 2), 40)) for prompt in prompts]
    together = [generate_ids(model, prompt, PLAIN, 2) for prompt in prompts]
    rows = list(zip(*(itertools.islice(steps, 40) for steps in together), strict=True))
    assert [texts(steps) for steps in zip(*rows, strict=True)] == alone
    together[0].close()
    assert next(together[1]).shape == (2,)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_parameters_that_change_count_from_the_next_text_on(dtype):
    """A text goes on as it began; the one begun later, and a model made with the new parameters, write the new."""
    def first(model):
        return [int(ids[0]) for ids in itertools.islice(generate_ids(model, np.array([2]), PLAIN), 60)]

    model, other = (build(30, 5, 16, 2, dtype, scale=scale) for scale in (0.4, 0.9))
    old, new = map(first, (model, other))
    steps = generate_ids(model, np.array([2]), PLAIN)
    begun = [int(next(steps)[0]) for _ in range(10)]
    model.params.flat[...] = other.params.flat
    assert begun + [int(next(steps)[0]) for _ in range(50)] == old != new
    assert first(model) == new


@pytest.mark.parametrize("prompt", [[], [999], [-1], [1.7]])
def test_a_prompt_of_no_ids_is_refused(prompt):
    with pytest.raises(ValueError):
        next(generate_ids(build(), np.array(prompt), SampleConfig()))
