"""A training step with dropout against the reference, whose masks are made here by hand from their definition.

So it is seen which symbols, layers and steps share a mask, not only that what is dropped forward is dropped backward.
"""
import numpy as np
import pytest
import reference
from conftest import Case, batch, build

from rnncore.nn.dropout import Dropout

UNITS, WEIGHTS = 2, 6  # what a mask is for: part of the generator's counter
KINDS = {
    "standard": Dropout(0.4, 3, 2), "variational": Dropout(0.4, 3, 2, True),
    "weight-drop": Dropout(0.0, 3, 2, True, 0.3), "both": Dropout(0.4, 3, 2, True, 0.3),
    "standard with weight-drop": Dropout(0.4, 3, 2, False, 0.3),
}


def mask(rate: float, shape: tuple[int, int, int], dropout: Dropout, purpose: int, layer: int) -> np.ndarray:
    """(T, H, N): entry (t, k, n) has half a word of call (t H/8 + k/8) N + n of the generator, and falls below the rate."""
    steps, hidden, n = shape
    found = np.empty(shape)
    for t, unit, column in np.ndindex(*shape):
        index = (t * -(-hidden // 8) + unit // 8) * n + column
        word = reference.philox4x32((index, dropout.step, 0, purpose << 16 | layer), (dropout.seed, 0))[unit % 8 // 2]
        kept = (word >> 16 if unit % 2 else word & 0xFFFF) >= round(rate * 65536)
        found[t, unit, column] = 1 / (1 - rate) if kept else 0
    return found


def expected(model, case: Case, dropout: Dropout):
    """(mean loss, last state, mean gradients) of the reference with these masks."""
    config, (steps, n) = model.config, case.x.shape
    tensors, units, drops = {name: np.array(view) for name, view in model.params.items()}, None, {}
    if dropout.rate:
        rows = 1 if dropout.variational else steps
        units = [np.broadcast_to(mask(dropout.rate, (rows, config.hidden, n), dropout, UNITS, layer),
                                 (steps, config.hidden, n)) for layer in range(config.layers)]
    if dropout.weight_rate:
        shape = (1, 4 * config.hidden, config.hidden)
        drops = {f"lstm.weight_hh_l{layer}": mask(dropout.weight_rate, shape, dropout, WEIGHTS, layer)[0]
                 for layer in range(config.layers)}
    tensors |= {name: tensors[name] * drop for name, drop in drops.items()}
    found = reference.run(tensors, case.x, case.y, case.state.h, case.state.c, masks=units)
    grads = {name: drops.get(name, 1) * gradient / (steps * n) for name, gradient in found.grads.items()}
    return found.loss / (steps * n), (found.h, found.c), grads


def mask_error(model, case: Case, dropout: Dropout) -> float:
    """The largest difference between a training step and the reference with masks by hand, relative for each gradient."""
    loss, state, grads = expected(model, case, dropout)
    found, gradients, end = model.loss_and_grads(case.x, case.y, case.state, dropout=dropout)
    errors = [abs(found - loss), *(np.abs(a - b).max() for a, b in zip(end, state, strict=True))]
    errors += [np.abs(gradients[name] - gradient).max() / np.abs(gradient).max() for name, gradient in grads.items()]
    return float(np.max(errors))  # nan is an error too


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("dropout", KINDS.values(), ids=KINDS)
def test_a_training_step_with_masks_by_hand(dropout, threads):
    model = build()
    model.threads = threads
    assert mask_error(model, batch(model, 6, 4), dropout) < 1e-10  # 3e-15 when written


def test_a_second_step_of_another_kind_or_number_has_its_own_masks():
    """All arrays that are kept from one step to the next, used by the next."""
    model = build()
    model.threads = 2
    for number in (2, 3):
        for dropout in KINDS.values():
            assert mask_error(model, batch(model, 6, 4), dropout._replace(step=number)) < 1e-10
    assert mask_error(model, batch(model, 4, 4), KINDS["both"]) < 1e-10  # a shorter window in the same arrays


@pytest.mark.parametrize("dropout", KINDS.values(), ids=KINDS)
def test_the_parameters_are_as_they_were(dropout):
    model = build()
    before, case = model.params.flat.copy(), batch(model, 6, 4)
    model.loss_and_grads(case.x, case.y, case.state, dropout=dropout)
    assert np.array_equal(model.params.flat, before)
    plain = model.loss_and_grads(case.x, case.y, case.state)[0]
    assert plain == build().loss_and_grads(case.x, case.y, case.state)[0]
