"""A task is what both sides of the contest on a card are given: sizes, weights, and the numbers to work on."""
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from ..config import ModelConfig, SampleConfig, TrainConfig
from ..data.vocab import Vocab
from ..model import CharLM
from ..sample import generate_ids
from . import speed

STEPS = 24     # training steps whose losses are compared before anything is timed: whole launches
PIECE = 64     # characters of each text that are one call's work, and that are compared
RATE = 2e-3    # Adam's
REGULAR = 0.9  # the share of symbols that follow from the one before: there is something to learn in few steps
LIVELY = 2.0   # factor of the layers' weights where SURE has the work
SURE = {"training": 24.0, "writing": 32.0}  # factor of the head's weights: a fresh model likes all symbols alike,
#                                             whatever its state; with these a wrong state shows in losses and text


@dataclass
class Task:
    """One row: the work (training, writing, forward, forward and backward), and of what size.

    All arrays are NumPy's, drawn with fixed seeds; a fresh task has the same.
    """
    work: str
    sizes: ModelConfig
    config: TrainConfig
    streams: int = 1

    @classmethod
    def of(cls, work: str, asked: dict) -> "Task":
        """From fields of ModelConfig and TrainConfig, and `streams` for writing."""
        asked = {"embed": ModelConfig.embed, "optimizer": "adam"} | asked
        streams = asked.pop("streams", 1)
        return cls(work, *speed.configs(asked, RATE), streams)

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
        model = CharLM(self.sizes, Vocab.from_code_points(range(256, 256 + self.sizes.vocab_size)), "cpu", "float32",
                       seed=1)
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
        steps, n = speed.WINDOWS * self.config.seq, self.config.batch
        after, chance = draw.permutation(symbols), draw.random((steps, n)) < REGULAR
        text = draw.integers(0, symbols, (steps + 1, n))
        own = generate_ids(self.model, np.zeros(1, np.intp), SampleConfig(temperature=1), n)
        text[0] = 0
        for t in range(steps):
            text[t + 1] = next(own) if t < self.config.seq else np.where(chance[t], after[text[t]], text[t + 1])
        pair = np.stack([text[:-1], text[1:]])
        return np.ascontiguousarray(pair.reshape(2, speed.WINDOWS, self.config.seq, n).swapaxes(0, 1))

    @cached_property
    def inputs(self) -> tuple[np.ndarray, np.ndarray]:
        """What a layer alone runs on, x (E, T, N), and the gradient at its outputs, dy (H, T, N); float32."""
        draw, shape = np.random.default_rng(3), (self.config.seq, self.config.batch)
        return tuple(draw.standard_normal((rows, *shape), np.float32) for rows in (self.sizes.embed, self.sizes.hidden))
