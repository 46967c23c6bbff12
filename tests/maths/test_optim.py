"""The optimiser against the formulas, one number at a time; the schedule and the clipping."""
import numpy as np
import pytest
import reference
from conftest import batch, build
from hypothesis import given, settings, strategies as st

from rnncore.config import TrainConfig
from rnncore.optim import OPTIMIZERS, Adam, Muon, Workspace, clip_scale, global_norm, orthogonal, rate

quick = settings(derandomize=True, deadline=None, max_examples=40)


def test_adam_follows_the_formulas():
    """Thirty steps with gradients of all sizes, the rate and the scale another each time."""
    model = build(vocab_size=3, embed=1, hidden=1, layers=1)
    params, config = model.params, TrainConfig(beta1=0.8, beta2=0.95, eps=1e-6)
    grads, optimizer, rng = params.like(), Adam(params, config), np.random.default_rng(0)
    numbers = [(p, 0.0, 0.0) for p in params.flat]
    for step in range(1, 31):
        grads.flat[...] = rng.standard_normal(grads.flat.size) * 10.0 ** rng.integers(-6, 3, grads.flat.size)
        given, lr, scale = grads.flat.copy(), 0.1 / step, 1 / (step % 4 + 1)
        optimizer.update(params, grads, optimizer.pace(lr, step), scale)
        assert (grads.flat == given).all()
        numbers = [reference.adam(p, scale * g, m, v, lr, 0.8, 0.95, 1e-6, step)
                   for (p, m, v), g in zip(numbers, given, strict=True)]
        for found, wanted in zip((params.flat, optimizer.moments["m"], optimizer.moments["v"]), zip(*numbers, strict=True),
                                 strict=True):
            np.testing.assert_allclose(found, wanted, rtol=1e-13, atol=1e-15)


@pytest.mark.parametrize(("embed", "hidden"), [(3, 5), (5, 3), (4, 4)])  # W_ih tall, wide and square
def test_muon_follows_the_formulas(embed, hidden):
    """Ten steps, each gate block by itself; what is no LSTM weight matrix follows Adam with Muon's beta2."""
    model = build(vocab_size=6, embed=embed, hidden=hidden, layers=3)
    params, config = model.params, TrainConfig(momentum=0.9, decay=0.3)
    grads, optimizer, rng = params.like(), Muon(params, config), np.random.default_rng(0)
    wanted = {name: view.copy() for name, view in params.items()}
    first, second = ({name: np.zeros_like(view) for name, view in params.items()} for _ in range(2))
    for step in range(1, 11):
        grads.flat[...] = rng.standard_normal(grads.flat.size) * 10.0 ** rng.integers(-4, 2)
        lr, scale = 0.1 / step, 1 / (step % 4 + 1)
        optimizer.update(params, grads, optimizer.pace(lr, step), scale)
        for name, p in wanted.items():
            g, m, v = scale * grads[name], first[name], second[name]
            if "lstm.weight" in name:
                for gate in np.split(np.arange(4 * hidden), 4):
                    p[gate], m[gate] = reference.muon(p[gate], g[gate], m[gate], lr, 0.9, 0.3)
            else:
                p[...], m[...], v[...] = reference.adam(p, g, m, v, lr, 0.9, 0.95, 1e-8, step)
            np.testing.assert_allclose(params[name], p, rtol=1e-9, atol=1e-11)  # seen: 1e-13
            np.testing.assert_allclose(optimizer.momentum[name], m, rtol=1e-12, atol=1e-15)


def orthogonalised(blocks):
    work = Workspace.of(blocks.shape, blocks)
    work.blocks[...] = blocks
    return orthogonal(work)


@pytest.mark.parametrize("shape", [(5, 16, 16), (3, 8, 20), (3, 20, 8)])
def test_orthogonal_blocks_have_singular_values_near_one(shape):
    blocks = np.random.default_rng(1).standard_normal(shape)
    u, _, vt = np.linalg.svd(blocks, full_matrices=False)
    found, none = orthogonalised(blocks), orthogonalised(0 * blocks)
    assert 0.6 < np.linalg.svd(found)[1].min() and np.linalg.svd(found)[1].max() < 1.25
    assert np.abs(found - u @ vt).max() < 0.35 and not none.any()


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_beta2_that_is_given_is_taken(name):
    params = build().params
    assert OPTIMIZERS[name](params, TrainConfig(beta2=0.7)).beta2 == 0.7
    assert OPTIMIZERS[name](params, TrainConfig()).beta2 == {"adam": 0.99, "muon": 0.95}[name]


def test_moments_begin_at_zero_and_are_the_parameters_size():
    model = build(dtype="float32")
    moments = Adam(model.params, TrainConfig()).moments
    assert set(moments) == {"m", "v"}
    assert all(a.shape == model.params.flat.shape and a.dtype == np.float32 and not a.any() for a in moments.values())


def test_moments_carry_all_that_adam_remembers():
    """A second optimiser, given the first one's moments, goes on with the same bits."""
    one, two = build(), build()
    optimizers = [Adam(model.params, TrainConfig()) for model in (one, two)]
    for step in range(1, 7):
        if step == 4:
            for name, moment in optimizers[0].moments.items():
                optimizers[1].moments[name][...] = moment
            two.params.flat[...] = one.params.flat
        for model, optimizer in zip((one, two), optimizers, strict=True):
            if model is one or step >= 4:
                case = batch(model, seed=step)
                optimizer.update(model.params, model.loss_and_grads(case.x, case.y)[1], optimizer.pace(1e-2, step), 1.0)
    assert (one.params.flat == two.params.flat).all()


def test_adam_learns_a_batch_by_heart():
    model = build(vocab_size=9, embed=8, hidden=16, layers=2, dtype="float32", scale=0.2)
    case, optimizer = batch(model, 8, 4), Adam(model.params, TrainConfig())
    losses = []
    for step in range(1, 201):
        loss, grads, _ = model.loss_and_grads(case.x, case.y)
        optimizer.update(model.params, grads, optimizer.pace(2e-2, step), clip_scale(global_norm(grads), 1.0))
        losses.append(loss)
    assert losses[0] > 2.0 and losses[-1] < 0.1, (losses[0], losses[-1])


def test_the_global_norm_is_that_of_all_gradients_together():
    grads = build().params.like()
    grads.flat[...] = np.random.default_rng(0).standard_normal(grads.flat.size)
    assert global_norm(grads) == pytest.approx(sum((grad ** 2).sum() for grad in grads.values()) ** 0.5, rel=1e-14)
    grads.flat[3] = np.nan
    assert np.isnan(global_norm(grads))


@quick
@given(st.floats(0, 1e12), st.floats(1e-6, 1e6))
def test_clipping_bounds_the_norm_and_leaves_smaller_ones_alone(norm, clip):
    scale = clip_scale(norm, clip)
    assert scale * norm <= clip * (1 + 1e-12)
    assert scale == (1.0 if norm <= clip else clip / norm)


def test_a_bound_of_0_clips_nothing():
    assert clip_scale(1e30, 0) == 1.0 and clip_scale(0.0, 0) == 1.0 and clip_scale(0.0, 1.0) == 1.0


def test_the_rate_climbs_in_the_warm_up_and_falls_to_zero():
    config = TrainConfig(lr=0.5, warmup=0.1)
    for done, wanted in ((0, 0), (0.02, 0.1), (0.05, 0.25), (0.1, 0.5), (0.55, 0.25), (0.91, 0.05), (1, 0), (1.5, 0)):
        assert rate(config, done) == pytest.approx(wanted, abs=1e-15)


def test_the_rate_without_a_warm_up_begins_at_its_peak():
    config = TrainConfig(lr=0.5, warmup=0)
    assert [rate(config, done) for done in (0, 0.5, 1)] == [0.5, 0.25, 0]


@quick
@given(st.floats(0, 0.99), st.floats(0, 1), st.floats(0, 1))
def test_the_rate_has_one_peak_and_stays_between_zero_and_lr(warmup, a, b):
    config, (a, b) = TrainConfig(lr=0.3, warmup=warmup), sorted((a, b))
    early, late = rate(config, a), rate(config, b)
    assert 0 <= early <= 0.3 * (1 + 1e-12) and 0 <= late <= 0.3 * (1 + 1e-12)
    if b < warmup:
        assert early <= late
    elif a >= warmup:
        assert early >= late
