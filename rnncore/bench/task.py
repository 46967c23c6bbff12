"""The work that both sides are given: sizes, weights, the symbols to work on, and how many operations that takes.

Work is counted for the matrix products alone, 2 R M N for (R, M) @ (M, N), each forward and twice backward (the
gradient of its input and that of its weight). With P = T N positions a training step is

    3 (2 P (L 4H H  +  (L - 1) 4H H  +  V H)  +  2 F 4H E)        F = V where embedding.py folds the first layer, else P
            W_hh       W_ih of layers 1..     head    W_ih of layer 0

Gates, softmax, clipping and the optimiser (Muon's products too) count as time, not as work.
"""
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from ..config import ModelConfig, SampleConfig, TrainConfig
from ..data.vocab import Vocab
from ..model import CharLM
from ..nn.embedding import folded
from ..sample import generate_ids

WINDOWS = 8     # windows of symbols, trained on over and over
STREAMS = 1, 64  # texts that are written at once on a processor
PIECE = 64      # characters of each text that are one call's work, and on a card compared
STEPS = 24      # training steps on a card whose losses are compared before anything is timed: whole launches
RATE = 2e-3     # Adam's, on a card
REGULAR = 0.9   # share of the symbols that follow from the one before: there is something to learn in few steps
LIVELY = 2.0    # factor of the layers' weights where SURE has the work
SURE = {"training": 24.0, "writing": 32.0}  # factor of the head's weights: a fresh model likes all symbols alike,
#                                             whatever its state; with these a wrong state shows in losses and text


def configs(given: dict[str, Any], lr: float = 1e-3) -> tuple[ModelConfig, TrainConfig]:
    """Return the configs that fields of both, such as a row of config.BENCH, ask for."""
    sizes = {name: value for name, value in given.items() if name in ModelConfig.__dataclass_fields__}
    return ModelConfig(**sizes), TrainConfig(lr=lr, **{name: given[name] for name in given.keys() - sizes.keys()})


def flops(sizes: ModelConfig, config: TrainConfig) -> int:
    """Return the operations of a training step's products, by the formula above."""
    positions, gates = config.seq * config.batch, 4 * sizes.hidden
    first = sizes.vocab_size if folded(sizes.vocab_size, positions) else positions
    a_position = (2 * sizes.layers - 1) * gates * sizes.hidden + sizes.vocab_size * sizes.hidden
    return 6 * (positions * a_position + first * gates * sizes.embed)


def vocab(sizes: ModelConfig) -> Vocab:
    """Return a vocabulary of the size that a model has: its characters do not matter."""
    return Vocab.from_code_points(range(256, 256 + sizes.vocab_size))


def windows(sizes: ModelConfig, config: TrainConfig) -> np.ndarray:
    """Return random symbols and those that follow them (WINDOWS, 2, T, N)."""
    drawn = np.random.default_rng(config.seed).integers(0, sizes.vocab_size, (WINDOWS, config.seq + 1, config.batch))
    return np.stack((drawn[:, :-1], drawn[:, 1:]), axis=1)


@dataclass
class Task:
    """One row of a card: the work (training, writing, forward, forward and backward), and of what size.

    All arrays are NumPy's, drawn with fixed seeds; a fresh task has the same.
    """
    work: str
    sizes: ModelConfig
    config: TrainConfig
    streams: int = 1

    @classmethod
    def of(cls, work: str, asked: dict[str, Any]) -> "Task":
        """Make a task of fields of ModelConfig and TrainConfig, and `streams` for writing."""
        fields: dict[str, Any] = {"embed": ModelConfig.embed, "optimizer": "adam"} | asked
        streams = fields.pop("streams", 1)
        sizes, config = configs(fields, RATE)
        return cls(work, sizes, config, streams)

    @property
    def backward(self) -> bool:
        return self.work == "forward and backward"

    @property
    def chars(self) -> int:
        """Characters in a unit of the work: a training step, a pass, or a character of each text."""
        return self.streams if self.work == "writing" else self.config.seq * self.config.batch

    @cached_property
    def model(self) -> CharLM:
        """The engine's model with the task's weights, in float32 on the CPU."""
        model = CharLM(self.sizes, vocab(self.sizes), "cpu", "float32", seed=1)
        if self.work in SURE:
            for name, tensor in model.params.items():
                tensor *= SURE[self.work] if name == "head.weight" else LIVELY if name.startswith("lstm.weight") else 1
        return model

    @cached_property
    def tensors(self) -> dict[str, np.ndarray]:
        """The weights under torch's names, with a bias_hh of zeros; float32."""
        return self.model.tensors()

    @cached_property
    def windows(self) -> np.ndarray:
        """Symbols and those that follow them (WINDOWS, 2, T, N), one long text a column.

        The model itself writes the first window, from a state of zeros. So the first loss is low for the right network
        and high for any other, such as one with two gates swapped: other losses, means over T N positions, are much the
        same for both.
        """
        draw, symbols = np.random.default_rng(2), self.sizes.vocab_size
        steps, n = WINDOWS * self.config.seq, self.config.batch
        after, chance = draw.permutation(symbols), draw.random((steps, n)) < REGULAR
        text = draw.integers(0, symbols, (steps + 1, n))
        own = generate_ids(self.model, np.zeros(1, np.intp), SampleConfig(temperature=1), n)
        text[0] = 0
        for t in range(steps):
            text[t + 1] = next(own) if t < self.config.seq else np.where(chance[t], after[text[t]], text[t + 1])
        pair = np.stack([text[:-1], text[1:]])
        return np.ascontiguousarray(pair.reshape(2, WINDOWS, self.config.seq, n).swapaxes(0, 1))

    @cached_property
    def inputs(self) -> tuple[np.ndarray, np.ndarray]:
        """Input of a layer alone, x (E, T, N), and the gradient at its outputs, dy (H, T, N); float32."""
        draw, shape = np.random.default_rng(3), (self.config.seq, self.config.batch)
        x, dy = (draw.standard_normal((rows, *shape), np.float32) for rows in (self.sizes.embed, self.sizes.hidden))
        return x, dy
