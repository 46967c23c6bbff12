"""One model in several threads: each call's results are right and stay so until the same thread calls again."""
import os
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from conftest import batch, build

from rnncore.measure import dynamic, gradcheck
from rnncore.nn.dropout import Dropout

THREADS, TIMES = 4, 40


def at_once(function, count: int = THREADS) -> list:
    """function(k) on threads k that begin together."""
    gate = threading.Barrier(count)

    def run(k: int):
        gate.wait()
        return function(k)
    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(run, range(count)))


@pytest.mark.parametrize("dtype, threads, dropout", [
    ("float32", 1, None), ("float64", 2, Dropout(0.3, 1, 2, True, 0.2))], ids=["float32-1-plain", "float64-2-dropout"])
def test_gradients_of_several_threads_stay_right_until_their_next_call(dtype, threads, dropout):
    model = build(dtype=dtype)
    model.threads = threads
    cases = [batch(model, 6 + k, 4, seed=k) for k in range(THREADS)]

    def once(k: int) -> tuple:
        case = cases[k]
        loss, grads, state = model.loss_and_grads(case.x, case.y, case.state, dropout=dropout)
        return loss, grads.flat.copy(), state.h.copy(), grads
    wanted = [once(k) for k in range(THREADS)]

    def many(k: int) -> int:
        wrong = 0
        for _ in range(TIMES):
            loss, flat, h, grads = once(k)
            wrong += not (loss == wanted[k][0] and np.array_equal(h, wanted[k][2])
                          and np.array_equal(grads.flat, wanted[k][1]) and np.array_equal(flat, wanted[k][1]))
        return wrong
    assert at_once(many) == [0] * THREADS


def test_single_steps_of_several_threads():
    model = build()
    case = batch(model, THREADS * 3, 4)
    wanted = [model.step(ids, case.state) for ids in case.x]

    def many(k: int) -> int:
        wrong = 0
        for j in list(range(k, len(case.x), THREADS)) * 50:
            logits, state = model.step(case.x[j], case.state)
            wrong += not (np.array_equal(logits, wanted[j][0]) and np.array_equal(state.c, wanted[j][1].c))
        return wrong
    assert at_once(many) == [0] * THREADS


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_a_forked_child_has_threads_of_its_own():
    model, case = build(), None
    model.threads, case = 2, batch(model)
    wanted = model.loss_and_grads(case.x, case.y)[0]
    child = os.fork()
    if not child:
        os._exit(0 if model.loss_and_grads(case.x, case.y)[0] == wanted else 1)
    timer = threading.Timer(30, os.kill, (child, 9))
    timer.start()
    _, status = os.waitpid(child, 0)
    timer.cancel()
    assert status == 0


IDS = np.random.default_rng(0).integers(0, 5, 60)
MOVERS = {"dynamic evaluation": lambda model: dynamic.losses(model, IDS),
          "gradient check": lambda model: gradcheck.check_gradients(model, gradcheck.random_case(model, 3, 2), 1)}


@pytest.mark.parametrize("second", MOVERS.values(), ids=MOVERS)
@pytest.mark.parametrize("first", MOVERS.values(), ids=MOVERS)
def test_parameters_are_moved_by_one_at_a_time_and_put_back(first, second):
    model = build()
    before, one, other = model.params.flat.copy(), first(model), second(model)
    next(one)
    with pytest.raises(RuntimeError, match="are being moved by"):
        next(other)
    next(one)
    one.close()
    assert np.array_equal(model.params.flat, before)
    again = second(model)
    next(again)
    again.close()
    assert np.array_equal(model.params.flat, before)
