"""kernels/cuda/writer.cu under the emulator: symbols, states and logits of the host's Stepper and draw, whatever the shape."""
import functools
import itertools
import shutil

import emulate
import numpy as np
import pytest
from conftest import build

from rnncore import CharLM, sample
from rnncore.config import SampleConfig
from rnncore.kernels import host
from rnncore.kernels.cuda import writer
from rnncore.kernels.cuda.writer import Card, Sizes, Writer, shape, why_not
from rnncore.nn.stepper import Stepper
from rnncore.random import Purpose, counter, key, uniform
from rnncore.sample import draw, generate, generate_ids, samples

pytestmark = pytest.mark.skipif(shutil.which("g++") is None, reason="no g++ on this machine")
PLAIN = SampleConfig(1.0)
CUT = SampleConfig(0.8, 5, 0.9, seed=3)
SMALL = Card(4, 40_000)
LAUNCH = 16  # characters, in these tests


class HostCopy:
    """In place of writer.HostCopy, which needs a card."""

    def __init__(self, ids):
        self._ids = ids

    def ids(self):
        return self._ids


@pytest.fixture
def on_host(monkeypatch):
    """A writer that the emulator runs: a function that sets the seed of its stalls."""
    seeds = itertools.repeat(0)

    @functools.cache
    def compiled(options, shared):
        kernel = emulate.kernel(writer.text(), "writer", options)
        return lambda grid, block, args: kernel(grid, block, args, shared, seed=next(seeds), cooperative=True)

    def stall(values):
        nonlocal seeds
        seeds = values
    monkeypatch.setattr(writer, "compiled", compiled)
    in_place_of_a_card(monkeypatch)
    return stall


def in_place_of_a_card(monkeypatch) -> None:
    """Let the host have a card's arrays: another order of memory, which compiled loops do not take."""
    monkeypatch.setattr(writer, "HostCopy", HostCopy)
    monkeypatch.setattr(host, "activations", lambda shape, axis, dtype: np.empty(shape, dtype))
    monkeypatch.setattr(host, "recurrence", lambda precision: None)


def started(sizes, n: int, dtype: str = "float64", scale: float = 0.5) -> Stepper:
    """A stepper of n columns that have each read a symbol of their own."""
    stepper = Stepper(build(*sizes, dtype, scale=scale).params).repeat(n)
    stepper.step(np.arange(n) % sizes[0])
    return stepper


def write(made: Writer, config: SampleConfig, steps: int, first: int = 0, start: int = 0) -> np.ndarray:
    return made.write(steps, config.temperature, config.top_k, config.top_p, key(config.seed), counter(Purpose.DRAW)[2],
                      first, start).ids()


def over(stepper: Stepper, card: Card = SMALL) -> Writer:
    return Writer(np, stepper.layers, stepper._head(), stepper.table, stepper.h, stepper.c, stepper.logits, card)


def loop(stepper: Stepper, config: SampleConfig, steps: int, first: int = 0, start: int = 0) -> np.ndarray:
    """What the host writes."""
    numbers, ids = np.arange(first, first + stepper.h.shape[-1])[:, None], []
    for u in uniform(config.seed, Purpose.DRAW, steps, step=numbers, start=start).T:
        ids.append(draw(stepper.logits, config, u))
        stepper.step(ids[-1])
    return np.array(ids)


def agree(mine: Stepper, wanted: Stepper, bound: float = 1e-12) -> bool:  # largest difference seen: 1e-15
    return all(np.abs(getattr(mine, name) - getattr(wanted, name)).max() < bound for name in ("h", "c", "logits"))


@pytest.mark.parametrize(("sizes", "n", "card"), [
    ((2, 3, 5, 1), 1, SMALL), ((11, 3, 13, 2), 3, SMALL), ((7, 2, 9, 3), 64, Card(2, 12_000)),
    ((300, 3, 9, 1), 2, Card(5, 40_000)), ((40, 3, 33, 2), 5, Card(2, 16_000)), ((9, 3, 131, 1), 1, Card(20, 40_000)),
    ((1, 1, 1, 1), 2, SMALL)], ids=str)
def test_symbols_and_states_are_the_host_s(on_host, sizes, n, card):
    """Weights in shared memory and not, several launches for the columns, several blocks, slices, groups and chunks."""
    wanted = started(sizes, n)
    mine = wanted.repeat(1)
    assert (write(over(mine, card), CUT, 12) == loop(wanted, CUT, 12)).all() and agree(mine, wanted)


def test_what_the_shapes_of_these_tests_cover():
    found = {name: shape(Sizes(sizes[3], sizes[2], sizes[0], 8), n, card) for name, sizes, n, card in [
        ("launches", (7, 2, 9, 3), 64, Card(2, 12_000)), ("global", (40, 3, 33, 2), 5, Card(2, 16_000)),
        ("slices", (9, 3, 131, 1), 1, Card(20, 40_000)), ("groups", (300, 3, 9, 1), 2, Card(5, 40_000))]}
    assert found["launches"].groups * found["launches"].share < 64 and found["launches"].share > found["launches"].columns
    assert not found["global"].kept and found["slices"].slices == 2 and found["groups"].groups == 2


@pytest.mark.parametrize("config", [
    SampleConfig(0), SampleConfig(0.5, seed=2 ** 63 + 5), SampleConfig(1.0, top_k=1), SampleConfig(2.0, top_k=999),
    SampleConfig(1.0, top_p=1e-9), SampleConfig(1.5, 6, 0.8), SampleConfig(5e-324), SampleConfig(1e308, 7)], ids=str)
def test_every_way_to_sample(on_host, config):
    wanted = started((11, 3, 13, 2), 3)
    mine = wanted.repeat(1)
    first, start = 2 ** 32 - 1, 2 ** 31
    assert (write(over(mine), config, 12, first, start) == loop(wanted, config, 12, first, start)).all() and agree(mine, wanted)


@pytest.mark.parametrize(("symbols", "dtype"), [(2, "float64"), (33, "float32"), (300, "float64")])
def test_draws_from_logits_with_equals_and_nothing(on_host, symbols, dtype):
    """Many columns of made-up logits: equal ones, far apart ones and minus infinity."""
    rng, n = np.random.default_rng(symbols), 24
    mine = started((symbols, 2, 5, 1), n, dtype)
    logits = rng.choice([-np.inf, -900, -1, 0, 0.5, 2, 2.5], (symbols, n)).astype(dtype)
    logits[rng.integers(0, symbols, n), np.arange(n)] = 1
    for config in (SampleConfig(0), PLAIN, SampleConfig(0.7, 3), SampleConfig(1.3, 0, 0.7), SampleConfig(1.0, 9, 0.5)):
        mine.logits[...] = logits
        draws = uniform(config.seed, Purpose.DRAW, 1, step=np.arange(n)[:, None])[:, 0]
        assert (write(over(mine), config, 1)[0] == draw(logits, config, draws)).all()


@pytest.mark.parametrize("config, value", [(PLAIN, np.nan), (CUT, np.inf), (SampleConfig(0), np.nan), (SampleConfig(1.0, 2), np.inf)], ids=str)
def test_logits_that_are_no_numbers_are_told_from_symbols(on_host, config, value):
    """Of one column of three, wherever among the symbols they are; the others are as ever."""
    for place in (0, 5, 39):
        mine = started((40, 3, 13, 2), 3)
        mine.logits[...] = np.arange(40)[:, None] / 9
        wanted = write(over(mine.repeat(1)), config, 1)[0]
        mine.logits[place, 1] = value
        found = write(over(mine), config, 1)[0]
        assert found[1] == -1 and (found[[0, 2]] == wanted[[0, 2]]).all()
    mine.logits[:, 1] = -np.inf
    assert write(over(mine), config, 1)[0][1] == -1


@pytest.mark.parametrize("sizes", [(11, 3, 13, 2), (5, 2, 20, 3)], ids=str)
def test_blocks_that_are_held_back_change_nothing(on_host, sizes):
    wanted, before = started(sizes, 5), started(sizes, 5)
    ids = loop(wanted, CUT, 8)
    on_host(itertools.count(1))
    for _ in range(3):
        mine = before.repeat(1)
        assert (write(over(mine), CUT, 8) == ids).all() and agree(mine, wanted)


def test_launches_of_any_length_write_the_same_and_the_state_may_change_between(on_host):
    wanted = started((11, 3, 13, 2), 3)
    mine = wanted.repeat(1)
    made, start = over(mine), 0
    for steps in (7, 1, 1, 2, 12):
        assert (write(made, CUT, steps, start=start) == loop(wanted, CUT, steps, start=start)).all()
        start += steps
        if steps == 2:
            for stepper in (mine, wanted):
                stepper.h *= 0.5
                stepper.step(np.array([1, 2, 3]))
    assert agree(mine, wanted)


def test_the_count_of_characters_goes_round(on_host):
    wanted = started((11, 3, 13, 2), 1)
    mine = wanted.repeat(1)
    made = over(mine)
    made._tag = 2 ** 32 - 3
    assert all((write(made, PLAIN, 5) == loop(wanted, PLAIN, 5)).all() for _ in range(3)) and agree(mine, wanted)


def test_float32_and_the_same_bits_whatever_the_number_of_columns(on_host):
    wanted, five = started((11, 3, 33, 2), 1, "float32"), started((11, 3, 33, 2), 1, "float32").repeat(5)
    one = wanted.repeat(1)
    ids = write(over(one), PLAIN, 30)
    assert (ids == loop(wanted, PLAIN, 30)).all() and agree(one, wanted, 1e-5)  # seen: 3e-7
    assert (write(over(five), PLAIN, 30)[:, :1] == ids).all() and (five.logits[:, :1] == one.logits).all()


# ---- shapes

@pytest.mark.parametrize("layers, hidden, symbols", [(2, 128, 65), (3, 512, 96), (1, 1024, 300), (1, 7, 2), (2, 4000, 5000)])
@pytest.mark.parametrize("card", [Card(132, 232_448), Card(30, 65_536), Card(108, 166_912)], ids=["H200", "T4", "A100"])
def test_a_shape_fits_the_card_and_holds_everything(layers, hidden, symbols, card):
    for number, columns in itertools.product((4, 8), (1, 3, 64)):
        sizes = Sizes(layers, hidden, symbols, number)
        found, alone = shape(sizes, columns, card), shape(sizes, 1, card)
        if found is None:
            assert why_not(sizes, card) and (hidden, symbols) == (4000, 5000)
            continue
        assert found.blocks * found.groups <= card.processors and found.bytes <= card.shared and found.share >= 1
        assert found.blocks * found.units >= hidden > (found.blocks - 1) * found.units and 4 * found.blocks * found.rows >= symbols
        assert (found.units, found.slices, found.rows) == (alone.units, alone.slices, alone.rows)


def test_the_shapes_of_usual_models_on_an_h200():
    card = Card(132, 232_448)
    large, small = shape(Sizes(3, 512, 96, 4), 1, card), shape(Sizes(2, 128, 65, 4), 64, card)
    assert (large.blocks, large.units, large.slices, large.warps, large.kept) == (128, 4, 4, 16, True)
    assert (small.blocks, small.units, small.groups, small.share, small.kept) == (16, 8, 8, 8, True)


def test_the_reason_is_given_where_the_writing_kernel_does_not_fit():
    assert "no room" in why_not(Sizes(1, 16, 60_000, 4), Card(132, 232_448))
    assert "cannot launch" in why_not(Sizes(1, 16, 60, 4), Card(132, 232_448, False))
    assert why_not(Sizes(3, 512, 96, 4), Card(30, 65_536)) is None


# ---- texts

@pytest.fixture
def device(on_host, monkeypatch):
    """The host offers an emulated writer: the list of launches asked of it, as (characters, start)."""
    asked = []

    class Noted(Writer):
        def write(self, characters, *args):
            asked.append((characters, args[-1]))
            return super().write(characters, *args)
    monkeypatch.setattr(host, "writer", lambda *args: Noted(np, *args, SMALL))
    monkeypatch.setattr(CharLM, "path", property(lambda model: "graph"))
    monkeypatch.setattr(sample, "LAUNCH", LAUNCH)
    return asked


def looped(function, monkeypatch):
    """What `function` returns without a writer."""
    with monkeypatch.context() as patch:
        patch.setattr(host, "writer", lambda *args: None)
        return function()


def model():
    return build(11, 3, 13, 2, scale=0.5)


def test_texts_are_the_same_with_and_without(device, monkeypatch):
    m = model()
    prompt, length = m.vocab.symbols[:3], LAUNCH + 9
    for write_ in (lambda: "".join(generate(m, prompt, length, seed=2, top_k=8)), lambda: samples(m, 3, prompt, length, CUT),
                   lambda: "".join(generate(m, prompt, length, seed=2, stop=[m.vocab.symbols[4] + m.vocab.symbols[5]]))):
        assert write_() == looped(write_, monkeypatch)
    assert set(device) == {(LAUNCH, k * LAUNCH) for k in range(3)}


def test_a_document_ends_where_it_does_on_the_host(device, monkeypatch):
    m = model()
    monkeypatch.setattr(type(m.vocab), "end", 3, raising=False)
    found = samples(m, 4, m.vocab.symbols[:2], 50, PLAIN)
    assert found == looped(lambda: samples(m, 4, m.vocab.symbols[:2], 50, PLAIN), monkeypatch) and min(map(len, found)) < 50


def test_never_more_than_one_launch_ahead_of_what_was_taken(device):
    steps = generate_ids(model(), np.array([1]), PLAIN, 2)
    assert device == []
    for taken in range(1, 2 * LAUNCH + 2):
        next(steps)
        assert len(device) == 2 + (taken - 1) // LAUNCH


def test_the_length_of_a_launch_does_not_show(device, monkeypatch):
    texts = set()
    for characters in (1, 7, 64):
        monkeypatch.setattr(sample, "LAUNCH", characters)
        texts.add("".join(generate(model(), model().vocab.symbols[:1], 40, seed=5)))
    assert len(texts) == 1


def test_on_the_path_eager_the_host_draws(device, monkeypatch):
    m = model()
    monkeypatch.setattr(CharLM, "path", property(lambda model: "eager"))
    assert len("".join(generate(m, m.vocab.symbols[:1], 10))) == 10 and samples(m, 2, m.vocab.symbols[:1], 5, PLAIN)
    assert device == []
