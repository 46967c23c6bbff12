"""What CharLM refuses: ids that are no symbols, sizes and dtypes that do not fit."""
import numpy as np
import pytest
from conftest import build

import rnncore


@pytest.mark.parametrize("ids", [[[5]], [[-1]], [[0.5]], [[True]]])
def test_ids_that_are_no_symbols_are_refused(ids):
    model, ids = build(vocab_size=5), np.array(ids)
    good = np.zeros((1, 1), int)
    for call in (lambda: model.loss_and_grads(ids, good), lambda: model.loss_and_grads(good, ids),
                 lambda: model.step(ids[0], None), lambda: model.losses(ids, good, None, model.workspace(1, 1))):
        with pytest.raises(ValueError, match="ids must be whole numbers from 0 to 4"):
            call()


@pytest.mark.parametrize("dtype", ["uint8", "int32", "uint32", "int64"])
def test_ids_of_any_width_are_taken(dtype):
    model, ids = build(), np.array([[0, 4], [3, 1]])
    assert model.loss_and_grads(ids.astype(dtype), ids)[0] == model.loss_and_grads(ids, ids.astype(dtype))[0]


def test_without_a_seed_all_parameters_are_zero():
    vocab = rnncore.Vocab.from_text("ab")
    assert not rnncore.CharLM(rnncore.ModelConfig(2, 3, 4, 1), vocab, "cpu", seed=None).params.flat.any()


def test_what_does_not_fit_is_refused():
    vocab = rnncore.Vocab.from_text("ab")
    for arguments in ((rnncore.ModelConfig(3), vocab, "cpu"), (rnncore.ModelConfig(2), vocab, "cpu", "float16"),
                      (rnncore.ModelConfig(2), vocab, "tpu")):
        with pytest.raises(ValueError):
            rnncore.CharLM(*arguments)
