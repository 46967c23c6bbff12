"""The training loop: the very steps of a loop written out by hand, budgets, milestones, validation."""
import math
import types
from dataclasses import replace

import numpy as np
import pytest

import rnncore
from rnncore import ModelConfig, TrainConfig, Vocab, train as train_module
from rnncore.data.batches import Batches
from rnncore.measure.evaluate import Validation
from rnncore.nn.dropout import Dropout
from rnncore.optim import rate
from rnncore.steps import rotation, total_steps
from rnncore.train import Training, fit

IDS = np.random.default_rng(0).integers(0, 7, 331).astype(np.uint8)
LEARNABLE = np.arange(400, dtype=np.uint8) % 7


def model(dtype="float64", seed=0, **sizes):
    config = ModelConfig(7, **({"embed": 4, "hidden": 6, "layers": 2} | sizes))
    return rnncore.CharLM(config, Vocab.from_text("abcdefg"), "cpu", dtype, seed)


def training(ids=IDS, columns=4, window=10, validation=None, **config) -> Training:
    defaults = {"lr": 0.01, "steps": 20} if {"epochs", "minutes"}.isdisjoint(config) else {"lr": 0.01}
    held_out = Validation(validation, columns, window) if validation is not None else None
    return Training(model(), Batches(ids, columns, window), TrainConfig(**(defaults | config)), held_out)


@pytest.mark.parametrize("dropout, weight_drop, variational", [(0.0, 0.0, True), (0.3, 0.0, False), (0.3, 0.2, True)])
@pytest.mark.parametrize("clip", [0.0, 0.05])
def test_a_run_is_this_loop(dropout, weight_drop, variational, clip):
    """Adam, the schedule, clipping, the order of the text and the carried state, each written a second time."""
    config = TrainConfig(optimizer="adam", lr=0.02, steps=21, warmup=0.2, dropout=dropout, weight_drop=weight_drop,
                         variational=variational, clip=clip, beta1=0.8, beta2=0.95, seed=5)
    ours, theirs, n, steps = model(), model(), 4, 10
    progress = list(fit(ours, Batches(IDS, n, steps), config))
    stream, m, v, state = (len(IDS) - 1) // n, 0.0, 0.0, None
    starts = list(range(0, stream, steps))
    for step in range(21):
        epoch, start = divmod(step, len(starts))
        if start == 0:
            state = None
            text = np.roll(IDS, -rotation(5, epoch, len(IDS)))
        columns = [text[j * stream + starts[start]:][:min(steps, stream - starts[start]) + 1] for j in range(n)]
        block = np.array(columns).T
        mask = Dropout(dropout, 5, step, variational, weight_drop) if dropout else None
        loss, grads, state = theirs.loss_and_grads(block[:-1], block[1:], state, dropout=mask)
        flat = grads.flat.copy()
        norm = math.sqrt((flat ** 2).sum())
        if clip and norm > clip:
            flat *= clip / norm
        m, v = 0.8 * m + 0.2 * flat, 0.95 * v + 0.05 * flat ** 2
        done = step / 21
        lr = 0.02 * (done + 0.5 / 21) / 0.2 if done + 0.5 / 21 < 0.2 else 0.02 * (1 - done - 0.5 / 21) / 0.8
        theirs.params.flat[...] -= lr * (m / (1 - 0.8 ** (step + 1))) / (np.sqrt(v / (1 - 0.95 ** (step + 1))) + 1e-8)
        p = progress[step]
        assert (p.step, p.epoch, p.loss) == (step + 1, epoch, pytest.approx(loss, rel=1e-10))
        assert p.grad_norm == pytest.approx(norm, rel=1e-10) and p.lr == pytest.approx(lr, rel=1e-12)
    assert len(progress) == 21
    assert np.abs(ours.params.flat - theirs.params.flat).max() < 1e-12  # 4e-16 when written


def test_it_learns_what_can_be_learnt():
    losses = [p.loss for p in training(LEARNABLE, steps=80, lr=0.05)]
    assert losses[0] > 1.8 and losses[-1] < 0.2


def test_the_budget_in_steps_and_epochs():
    batches = Batches(IDS, 4, 10)  # 82 characters a stream: 9 windows
    for config, steps in (({"steps": 13}, 13), ({"epochs": 1}, 9), ({"epochs": 2.5}, 22), ({"epochs": 0.01}, 1)):
        run = training(**config)
        progress = list(run)
        assert len(progress) == steps == run.step == total_steps(run.config, batches)
        assert [p.finished for p in progress] == [False] * (steps - 1) + [True] and progress[-1].done == 1
        assert [p.done for p in progress] == [(k + 1) / steps for k in range(steps)]
        assert list(run) == []  # it is spent


def test_a_budget_of_minutes_is_spent_by_the_clock(monkeypatch):
    """A clock that a look at it moves on by a tenth of a second."""
    ticks = iter(range(10 ** 6))
    monkeypatch.setattr(train_module.time, "perf_counter", lambda: next(ticks) / 10)
    progress = list(training(minutes=1.0, validation=IDS))
    last = progress[-1]
    assert last.finished and 55 < last.seconds < 62 and last.done == 1
    assert all(a.done < b.done and a.seconds < b.seconds for a, b in zip(progress, progress[1:], strict=False))
    peak = max(p.lr for p in progress)
    assert peak == pytest.approx(0.01, rel=0.05) and last.lr < 0.02 * peak
    assert sum(p.milestone for p in progress) in (10, 11)


def test_a_rate_in_a_budget_of_minutes_is_that_of_the_moment_it_is_used_at(monkeypatch):
    """Half a second a step: the first rate is above zero, and the last one zero."""
    now, run = [0.0], training(minutes=0.5)
    monkeypatch.setattr(train_module, "time", types.SimpleNamespace(perf_counter=lambda: now[0]))
    once = run.model.loss_and_grads

    def slow(*args, **kwargs):
        now[0] += 0.5
        return once(*args, **kwargs)

    monkeypatch.setattr(run.model, "loss_and_grads", slow)
    rates = [p.lr for p in run]
    spent = [0.5 / 30, *((0.5 * k + 0.5 + 0.25) / 30 for k in range(1, len(rates)))]
    assert len(rates) == 60 and rates == pytest.approx([rate(run.config, min(1.0, part)) for part in spent])
    assert rates[0] > 0 and rates[-1] == 0


def test_minutes_leave_time_for_the_last_evaluation(monkeypatch):
    """A clock that stands still but for steps, a tenth of a second each, and evaluations, at .4 of that a character."""
    now, run = [0.0], training(minutes=1.0, validation=np.tile(IDS, 40), batch=4, seq=10)
    monkeypatch.setattr(train_module.time, "perf_counter", lambda: now[0])
    step, evaluate = run.model.loss_and_grads, run.validation.loss

    def slow_step(*args, **kwargs):
        now[0] += 0.1
        return step(*args, **kwargs)

    def slow_evaluation(model, windows, prefix):
        now[0] += 0.4 * 0.1 / 36.4 * run.validation.chars(windows)  # 36.4 characters in a step, on the average
        return evaluate(model, windows, prefix)

    monkeypatch.setattr(run.model, "loss_and_grads", slow_step)
    monkeypatch.setattr(run.validation, "loss", slow_evaluation)
    last = list(run)[-1]
    assert last.finished and run.final_windows > 10 * run.val_windows
    assert abs(last.seconds - 60) < 0.3  # 0.02 when written; the last evaluation takes 1.8


def test_chars_and_speed_count_training_alone(monkeypatch):
    ticks = iter(range(10 ** 6))
    monkeypatch.setattr(train_module.time, "perf_counter", lambda: float(next(ticks)))
    progress = list(training(steps=9))  # the ninth window has two steps
    assert [p.chars for p in progress] == [40, 80, 120, 160, 200, 240, 280, 320, 328]
    assert all(p.chars_per_s >= p.chars / p.seconds for p in progress)


def test_without_a_rate_or_a_budget_there_is_no_run():
    for config in (TrainConfig(lr=0.1), TrainConfig(steps=5)):
        with pytest.raises(ValueError, match="lr and one of steps, epochs and minutes"):
            fit(model(), Batches(IDS, 4, 10), config)


@pytest.mark.parametrize("steps, milestones", [(1, [1]), (4, [1, 2, 3, 4]), (20, list(range(2, 21, 2))),
                                               (33, [4, 7, 10, 14, 17, 20, 24, 27, 30, 33])])
def test_ten_milestones_the_last_at_the_end(steps, milestones):
    assert [p.step for p in training(steps=steps) if p.milestone] == milestones


def test_eval_every_evaluates_at_its_multiples_and_at_the_end():
    progress = list(training(steps=17, eval_every=5, validation=IDS))
    assert [p.step for p in progress if p.val_loss is not None] == [5, 10, 15, 17]


def test_the_best_is_the_lowest_validation_loss():
    run = training(LEARNABLE, steps=60, lr=0.2, validation=IDS)
    measured = [(p.val_loss, p.step) for p in run if p.val_loss is not None]
    assert run.best == min(measured) and len(measured) == 10
    assert run.best != measured[-1]  # this text is another: the longer it trains, the worse


def test_validation_in_mid_run_is_a_sample_and_at_the_end_more():
    run = training(np.tile(LEARNABLE, 5), steps=40, validation=np.tile(IDS, 40))
    list(run)
    assert 1 <= run.val_windows <= run.final_windows < run.validation.windows
    whole, _ = run.validation.loss(run.model, run.final_windows)
    assert run.final_loss == whole


def test_validation_is_no_part_of_the_training():
    with_it, without = training(validation=IDS), training()
    list(with_it), list(without)
    assert np.array_equal(with_it.model.params.flat, without.model.params.flat)


def test_rotations_differ_by_epoch_and_seed_and_the_first_is_none():
    assert [rotation(seed, 0, 100) for seed in range(5)] == [0] * 5
    seen = {rotation(seed, epoch, 10 ** 6) for seed in range(5) for epoch in range(1, 20)}
    assert len(seen) == 95 and 0 <= min(seen) and max(seen) < 10 ** 6


def test_threads_agree_and_each_number_of_them_repeats_its_bits():
    runs = {}
    for threads in (1, 2, 3, 2):
        run = training(threads=threads, columns=6, dropout=0.2)
        list(run)
        runs.setdefault(threads, []).append(run.model.params.flat)
    assert np.array_equal(*runs[2])
    for threads in (2, 3):
        assert np.abs(runs[1][0] - runs[threads][0]).max() < 1e-12  # sums in another order; 1e-15 when written


def test_float32_follows_float64():
    ids, config = LEARNABLE, TrainConfig(lr=0.01, steps=10)
    losses = [[p.loss for p in fit(model(dtype), Batches(ids, 4, 10), config)] for dtype in ("float32", "float64")]
    assert np.allclose(*losses, rtol=1e-4)  # 1e-6 when written


def test_a_summary_restores_into_another_training():
    first = training(validation=IDS, dropout=0.1)
    iterator = iter(first)
    for _ in range(13):
        next(iterator)
    second = training(validation=IDS, dropout=0.1)
    second.model.params.flat[...] = first.model.params.flat
    second.restore(first.summary(), {k: m.copy() for k, m in first.optimizer.moments.items()}, first.state)
    rest, other = list(iterator), list(second)
    assert [(p.step, p.loss, p.val_loss, p.lr) for p in rest] == [(p.step, p.loss, p.val_loss, p.lr) for p in other]
    assert np.array_equal(first.model.params.flat, second.model.params.flat)
    assert first.best == second.best and first.final_loss == second.final_loss
    assert replace(other[-1], seconds=0, chars_per_s=0).finished
