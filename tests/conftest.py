"""What the engine's tests share: small models with no zero parameters, random batches, and one BLAS thread."""
from typing import NamedTuple

import numpy as np
import pytest

from rnncore import kernels
from rnncore.config import ModelConfig
from rnncore.data.vocab import Vocab
from rnncore.lstm import State
from rnncore.model import CharLM


@pytest.fixture(scope="session", autouse=True)
def one_blas_thread():
    """Small products are quicker so, and the machine may be shared."""
    with kernels.host.single_threaded():
        yield


class Case(NamedTuple):
    """A batch and all that comes with it: ids x, targets y, keep (T, N); state and dstate (L, H, N) each."""
    x: np.ndarray
    y: np.ndarray
    state: State
    dstate: State
    keep: np.ndarray | None


def build(vocab_size=5, embed=3, hidden=4, layers=2, dtype="float64", seed=0, scale=1.0) -> CharLM:
    """A model whose parameters are all random, biases included, the same numbers in both dtypes."""
    config = ModelConfig(vocab_size, embed, hidden, layers)
    model = CharLM(config, Vocab.from_code_points(range(256, 256 + vocab_size)), "cpu", dtype, seed)
    model.params.flat[...] = scale * np.random.default_rng(seed).standard_normal(model.params.flat.size)
    return model


def batch(model, steps=6, n=4, documents=False, seed=1) -> Case:
    """Random symbols, states and what arrives at the last state; documents: with boundaries, one at the first step."""
    rng, config = np.random.default_rng(seed), model.config
    x, y = rng.integers(0, config.vocab_size, (2, steps, n))
    h, c, dh, dc = rng.standard_normal((4, config.layers, config.hidden, n)).astype(model.dtype)
    keep = (rng.random((steps, n)) < 0.7).astype(model.dtype) if documents else None
    if documents:
        keep[0, 0] = 0
    return Case(x, y, State(h, c), State(dh, dc), keep)
