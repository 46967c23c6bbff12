"""A Dialogue is a model that reads and writes in turn: one state goes through all that either side has said.

So a text is read once, however many turns follow it. What is drawn is read at once: between two symbols the state is
that after all that was read and written so far.
"""
from collections.abc import Iterator
from itertools import count
from typing import NamedTuple

import numpy as np

from .config import SampleConfig
from .kernels.arrays import Array
from .model import CharLM
from .nn.stepper import Clamp, Stepper
from .random import Purpose, uniform
from .sample import COINS, PERIOD, draw, prompt_ids


class Mark(NamedTuple):
    """Where a dialogue was: h, c (L, H, 1), logits (V, 1), whether anything had been read, and Dialogue.cut."""
    h: Array
    c: Array
    logits: Array
    begun: bool
    cut: bool


class Dialogue:
    """The parameters of `model` as they are when it is made, the state zero. `config` may be changed between turns.

    cut: whether the last that happened is a text written that ended within a line. clamp: cells that are held
    (stepper.py). Raises ConfigError for one that is not there.
    """

    def __init__(self, model: CharLM, config: SampleConfig, clamp: Clamp | None = None):
        self.vocab, self.config = model.vocab, config
        self._stepper = Stepper(model.params, clamp)
        self._begun = self.cut = False
        self.rewind()

    def rewind(self) -> None:
        """Begin with the seed's first coin again."""
        self._drawn, self._coins = 0, np.empty(0)

    def reset(self) -> None:
        """Forget all that was read and written; the coins go on."""
        self._stepper.h[...] = self._stepper.c[...] = 0
        self._begun = self.cut = False

    def mark(self) -> Mark:
        """Where the dialogue is now, for `back`."""
        s = self._stepper
        return Mark(s.h.copy(), s.c.copy(), s.logits.copy(), self._begun, self.cut)

    def back(self, mark: Mark) -> None:
        """Go back to where the dialogue was; the coins go on, so that the next text is another."""
        s = self._stepper
        s.h[...], s.c[...], s.logits[...], self._begun, self.cut = mark

    def read(self, text: str | bytes, on_unknown: str = "error") -> None:
        """Read a text. The first is a prompt as `sample.generate` has it: a newline in place of nothing.

        Raises UnknownSymbolError before anything is read.
        """
        if self._begun:
            ids = self.vocab.encode(self.vocab.typed(text), on_unknown)
        else:
            ids = prompt_ids(self.vocab, text, on_unknown)
        with self._stepper.kernel.single_threaded():
            for symbol in ids:
                self._step(int(symbol))
        self._begun, self.cut = True, False

    def write(self, length: int | None) -> Iterator[str]:
        """At most `length` symbols (None: without end), each yielded when it has been drawn and read.

        It ends where a document does.
        """
        if not self._begun:
            self.read("")
        for _ in count() if length is None else range(length):
            symbol = int(draw(self._stepper.kernel.to_host(self._stepper.logits), self.config, self._coin())[0])
            self._step(symbol)
            self.cut = symbol != self.vocab.end and self.vocab.symbols[symbol] != "\n"
            if symbol == self.vocab.end:
                return
            yield self.vocab.symbols[symbol]

    def _step(self, symbol: int) -> None:
        if symbol == self.vocab.end:  # the next document begins
            self._stepper.h[...] = self._stepper.c[...] = 0
        self._stepper.step(np.array([symbol], np.intp))

    def _coin(self) -> np.ndarray:
        """The next (1,) of the seed's coins: those of the first sample of `sample.generate_ids`."""
        place = self._drawn % COINS
        if place == 0:
            self._coins = uniform(self.config.seed, Purpose.COIN, COINS, start=self._drawn % PERIOD)
        self._drawn += 1
        return self._coins[place:place + 1]
