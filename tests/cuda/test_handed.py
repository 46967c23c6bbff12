"""Ids that a card hands to the host, over the stand-in for CuPy: a text left halfway disturbs nothing after it."""
import gc
import itertools
import shutil

import numpy as np
import pytest
from conftest import planted_in
from stand_in import lanes, pinned

from rnncore import against_eager, sample
from rnncore.config import SampleConfig
from rnncore.kernels.cuda import writer
from rnncore.nn.stepper import Stepper
from rnncore.sample import generate_ids
from rnncore.against_eager import Task

pytestmark = pytest.mark.skipif(shutil.which("c++") is None, reason="no C++ compiler (c++) on this machine")
TASK = Task("float32", "cuda", 11, 6, 9, 2, 1, 5, "adam", "graph")
PROMPT, LAUNCH = np.arange(5), 4


@pytest.fixture
def model(with_cublas, monkeypatch):
    """One on the path graph, after a few captured training steps; it writes LAUNCH symbols at a time."""
    monkeypatch.setattr(sample, "LAUNCH", LAUNCH)
    made = against_eager.build(TASK)
    *_, last = against_eager.train(made, TASK, "training", 2.2, 3)
    assert last.step == 3 and np.isfinite(last.loss)
    return made


def texts(model):
    return generate_ids(model, PROMPT, SampleConfig())


def symbols(model) -> np.ndarray:
    return np.stack(list(itertools.islice(texts(model), 2 * LAUNCH + 1)))


def logits(model) -> np.ndarray:
    """Those after the prompt, step by step: a copy to the card for each symbol, and none back before the last."""
    stepper = Stepper(model.params)
    for symbol in PROMPT:
        stepper.step(np.array([symbol]))
    return model.kernel.to_host(stepper.logits)


def handed(model, *lengths: int) -> list:
    """What launches of so many symbols hand over."""
    made = Stepper(model.params).repeat(1).writer()
    return [made.write(length, 1.0, 0, 1.0, (1, 2), 4 << 16, 0, 0) for length in lengths]


def ended(model) -> None:
    list(itertools.islice(texts(model), LAUNCH))


def closed(model) -> None:
    steps = texts(model)
    next(steps)
    steps.close()


def collected(model) -> None:
    steps = texts(model)
    next(steps)
    circle = [steps]
    circle.append(circle)
    del steps, circle
    gc.collect()


def raised(model) -> None:
    steps = texts(model)
    next(steps)
    with pytest.raises(KeyboardInterrupt):
        steps.throw(KeyboardInterrupt)


def several(model) -> None:
    """Of two lengths, so that the second launch does not ask for the memory of the first."""
    handed(model, 5, 70)


WAYS = ended, closed, collected, raised, several


@pytest.mark.parametrize("leave", WAYS)
def test_a_text_that_is_left_while_symbols_are_pending_disturbs_nothing(model, leave):
    wanted = logits(model)
    leave(model)
    assert lanes.copies and (logits(model) == wanted).all() and not lanes.copies


def test_the_symbols_written_after_training_are_those_that_eager_draws(model):
    assert against_eager.wrong_symbols(model, TASK, SampleConfig()) is None


def test_what_was_handed_over_is_an_array_of_its_own(model):
    found, = handed(model, 9)
    first, second = found.ids(), found.ids()
    assert first.flags.owndata and first.shape == (9, 1) and (first == second).all() and (0 <= first).all()
    before = first.copy()
    del found
    ended(model)
    logits(model)
    assert (first == before).all() and (second == before).all()


def test_memory_is_given_back_when_its_copy_has_been_made(model):
    counts = []
    for leave in (*WAYS, *WAYS):
        leave(model)
        counts.append(len(pinned.pool._blocks))
    assert counts[-1] == counts[len(WAYS)] and writer.HostCopy._pending
    logits(model)
    assert len(handed(model, 1)[0].ids()) == 1 and not writer.HostCopy._pending


PLANTED = {  # the first is what the engine once did
    "memory is given back at once": ("            HostCopy._pending[self._copied] = ids, pinned\n", ""),
    "memory is given back by the next launch": ("            if event.done:\n", "            if True:\n"),
    "the event is before the copy": (
        "        try:\n", "        self._copied.record()\n        self._copied.record = int\n        try:\n"),
    "nobody waits": ("        self._copied.synchronize()\n", ""),
    "the array is no copy": ("return self._host.copy()", "return self._host"),
}


def right(model, wanted: tuple) -> bool:
    """Are symbols and logits as wanted, whatever way a text was left before?"""
    try:
        for leave in WAYS:
            found, = handed(model, 1)
            leave(model)
            after = logits(model), symbols(model)
            if not (found.ids().flags.owndata and all((a == b).all() for a, b in zip(after, wanted, strict=True))):
                return False
    except (IndexError, FloatingPointError):  # an id that is none: on a card, cudaErrorIllegalAddress
        return False
    return True


def test_planted_errors_are_caught(model, monkeypatch):
    wanted = logits(model), symbols(model)
    assert right(model, wanted)
    for label, planted in PLANTED.items():
        monkeypatch.setattr(writer, "HostCopy", planted_in(writer, *planted).HostCopy)
        assert not right(model, wanted), label
