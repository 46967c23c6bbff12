"""Variational dropout and weight-drop: their masks, and a training step against the reference with the same masks."""
import numpy as np
import pytest
import reference
from conftest import batch, build

from rnncore.nn.dropout import Dropout, WeightDrop
from rnncore.nn.stack import Pass, Workspace, forward


def masks(model, dropout, steps=6, n=5):
    work = Workspace(model.params, steps, n)
    work.begin(None)
    forward(model.params, Pass(np.zeros((steps, n), int), work, None, dropout))
    return work.masks


def test_a_variational_mask_is_one_for_all_steps_and_its_own_for_every_layer_column_and_step_of_training():
    model = build(hidden=64)
    first, second = masks(model, Dropout(0.4, 3, 2, variational=True))
    assert first.shape == second.shape == (64, 1, 5)
    assert set(np.unique(first)) == {0, 1 / 0.6} and 0.3 < (first == 0).mean() < 0.5
    assert (first != second).any() and all((first[:, 0, 0] != first[:, 0, k]).any() for k in range(1, 5))
    assert (first != masks(model, Dropout(0.4, 3, 3, variational=True))[0]).any()
    assert (first != masks(model, Dropout(0.4, 4, 2, variational=True))[0]).any()


def test_one_workspace_serves_both_kinds_of_mask():
    model = build()
    case, work = batch(model, 6, 4), Workspace(model.params, 6, 4)
    kinds = [Dropout(0.4, 3, 2, variational=v) for v in (True, False, True)]

    def logits_of(kind, work):
        work.begin(case.state)
        return forward(model.params, Pass(case.x, work, None, kind)).copy()

    logits = [logits_of(kind, work) for kind in kinds]
    fresh = [logits_of(kind, Workspace(model.params, 6, 4)) for kind in kinds]
    assert all((a == b).all() for a, b in zip(logits, fresh, strict=True)) and (logits[0] != logits[1]).any()


def test_weight_drop_masks_w_hh_alone_and_leaves_the_parameters_as_they_are():
    model = build(hidden=32)
    before = model.params.flat.copy()
    drop = WeightDrop(model.params)
    weights = drop.forward(model.params, Dropout(0, 3, 2, weight_rate=0.25))
    for name, view in model.params.items():
        if "weight_hh" not in name:
            assert weights[name] is view
            continue
        kept = weights[name] != 0
        assert 0.2 < 1 - kept.mean() < 0.3 and np.allclose(weights[name][kept], view[kept] / 0.75, rtol=1e-15)
    one, two = drop.masks.values()
    assert (one != two).any() and (model.params.flat == before).all()
    was = one.copy()
    drop.forward(model.params, Dropout(0, 3, 3, weight_rate=0.25))
    assert (was != one).any()


@pytest.mark.parametrize("dropout", [Dropout(0.3, 7, 4, True), Dropout(0, 7, 4, weight_rate=0.3),
                                     Dropout(0.3, 7, 4, True, 0.3), Dropout(0.3, 7, 4, False, 0.3)],
                         ids=["variational", "weight-drop", "both", "with-standard"])
@pytest.mark.parametrize("threads", [1, 3])
def test_a_training_step_is_the_references_with_the_same_masks(dropout, threads):
    model = build()
    model.threads = threads
    case = batch(model, 6, 4)
    loss, grads, state = model.loss_and_grads(case.x, case.y, case.state, dropout=dropout)
    tensors, units = {name: view.copy() for name, view in model.params.items()}, None
    drop = WeightDrop(model.params)
    if dropout.weight_rate:
        tensors = {name: np.array(view) for name, view in drop.forward(model.params, dropout).items()}
    if dropout.rate:
        units = [np.broadcast_to(mask.swapaxes(0, 1), (6, len(mask), 4)) for mask in masks(model, dropout, 6, 4)]
    theirs = reference.run(tensors, case.x, case.y, case.state.h, case.state.c, masks=units)
    assert abs(loss - theirs.loss / 24) < 1e-12 and np.abs(state.h - theirs.h).max() < 1e-12
    for name, gradient in theirs.grads.items():
        mask = drop.masks[name] if dropout.weight_rate and name in drop.masks else 1
        assert np.abs(grads[name] - mask * gradient / 24).max() < 1e-12, name
