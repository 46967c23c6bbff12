"""The work that both sides do: its sizes, the weights, the symbols, and the number of operations.

Only matrix products are counted: 2 R M N operations for (R, M) @ (M, N), three times in a training step, once forward
and twice backward (the gradient of the input and the gradient of the weight). With P = T N positions a step takes

    3 (2 P (L 4H H  +  (L - 1) 4H H  +  V H)  +  2 F 4H E)        F = V if embedding.py folds the first layer, else P
            W_hh       W_ih of layers 1..     head    W_ih of layer 0

operations. Gates, softmax, clipping and the optimiser (Muon's products too) take time, but are not counted.
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

WINDOWS = 8      # windows of symbols; training takes them again and again
STREAMS = 1, 64  # numbers of texts that are written at once on a processor
PIECE = 64       # characters of each text that one call writes; on a GPU, characters that are compared
STEPS = 24       # training steps on a GPU whose losses are compared before anything is timed: a multiple of ours.LAUNCH
RATE = 2e-3      # Adam's learning rate on a GPU
REGULAR = 0.9    # share of the symbols that the symbol before determines, so that few steps can learn something
# Factors of the weights. A fresh model finds all symbols about equally likely, whatever its state is. With larger
# weights its predictions depend on the state, so that a wrong state shows in the losses and in the text.
HEAD_FACTORS = {"training": 24.0, "writing": 32.0}  # of the head's weights, by work; other work keeps its weights
LSTM_FACTOR = 2.0                                   # of the LSTM layers' weights, for the same work


def configs(given: dict[str, Any], lr: float = 1e-3) -> tuple[ModelConfig, TrainConfig]:
    """Return the configs with the given values and the learning rate lr.

    given: fields of ModelConfig and TrainConfig, such as a row of config.BENCH. Raises ConfigError for a value out of
    range, TypeError for a field that neither has.
    """
    sizes = {name: value for name, value in given.items() if name in ModelConfig.__dataclass_fields__}
    return ModelConfig(**sizes), TrainConfig(lr=lr, **{name: given[name] for name in given.keys() - sizes.keys()})


def flops(sizes: ModelConfig, config: TrainConfig) -> int:
    """Return the operations of a training step's matrix products, by the formula at the top of this file."""
    positions, gates = config.seq * config.batch, 4 * sizes.hidden
    first = sizes.vocab_size if folded(sizes.vocab_size, positions) else positions
    a_position = (2 * sizes.layers - 1) * gates * sizes.hidden + sizes.vocab_size * sizes.hidden
    return 6 * (positions * a_position + first * gates * sizes.embed)


def vocab(sizes: ModelConfig) -> Vocab:
    """Return a vocabulary of the size of the model's; which characters it has does not matter."""
    return Vocab.from_code_points(range(256, 256 + sizes.vocab_size))


def windows(sizes: ModelConfig, config: TrainConfig) -> np.ndarray:
    """Return ids (WINDOWS, 2, T, N): random symbols, and the symbols that follow them."""
    drawn = np.random.default_rng(config.seed).integers(0, sizes.vocab_size, (WINDOWS, config.seq + 1, config.batch))
    return np.stack((drawn[:, :-1], drawn[:, 1:]), axis=1)


@dataclass
class Task:
    """The work of one row on a GPU, and its sizes. streams: number of texts that are written at once.

    work: training, writing, forward, or forward and backward. All arrays are NumPy's, drawn with fixed seeds: two tasks
    of the same row have the same arrays.
    """
    work: str
    sizes: ModelConfig
    config: TrainConfig
    streams: int = 1

    @classmethod
    def of(cls, work: str, asked: dict[str, Any]) -> "Task":
        """Return a task; asked: fields of ModelConfig and TrainConfig, and `streams` for writing."""
        fields: dict[str, Any] = {"embed": ModelConfig.embed, "optimizer": "adam"} | asked
        streams = fields.pop("streams", 1)
        sizes, config = configs(fields, RATE)
        return cls(work, sizes, config, streams)

    @property
    def backward(self) -> bool:
        """Return True if the work is one layer, forward and backward."""
        return self.work == "forward and backward"

    @property
    def chars(self) -> int:
        """The number of characters in a unit of the work: a training step, a pass, or one character of each text."""
        return self.streams if self.work == "writing" else self.config.seq * self.config.batch

    @cached_property
    def model(self) -> CharLM:
        """The engine's model with the task's weights, in float32 on the CPU."""
        model = CharLM(self.sizes, vocab(self.sizes), "cpu", "float32", seed=1)
        if self.work in HEAD_FACTORS:
            for name, tensor in model.params.items():
                tensor *= (HEAD_FACTORS[self.work] if name == "head.weight" else
                           LSTM_FACTOR if name.startswith("lstm.weight") else 1)
        return model

    @cached_property
    def windows(self) -> np.ndarray:
        """The ids (WINDOWS, 2, T, N): symbols, and the symbols that follow them; each column is one long text.

        The model itself writes the first window, from a state of zeros. So the first loss is low for the right network
        and high for a wrong one, such as one with two gates swapped. The losses on the other windows are nearly the
        same for both networks: they are means over T N positions.
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
        """The input x (E, T, N) of a single layer, and the gradient dy (H, T, N) of its output; float32."""
        draw, shape = np.random.default_rng(3), (self.config.seq, self.config.batch)
        x, dy = (draw.standard_normal((rows, *shape), np.float32) for rows in (self.sizes.embed, self.sizes.hidden))
        return x, dy
