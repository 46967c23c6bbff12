"""A dialogue: a model reads and writes texts in turn, and one state goes through all of them.

So each text is read only once, however many turns follow. The model reads each symbol as soon as it is drawn. So
between two symbols, the state has seen everything that was read and written so far.
"""
from collections.abc import Iterator
from itertools import count
from typing import NamedTuple

import numpy as np

from .config import SampleConfig
from .kernels.arrays import Array
from .model import CharLM
from .nn.stepper import Clamp, Stepper
from .sample import draw, draws, prompt_ids


class Mark(NamedTuple):
    """A saved place in a dialogue: h, c (L, H, 1), logits (V, 1), begun (something was read), Dialogue.cut."""
    h: Array
    c: Array
    logits: Array
    begun: bool
    cut: bool


class Dialogue:
    """A dialogue with a copy of the parameters that `model` has now. The state begins at zero.

    config: the settings of the sampler, which may be changed between turns. cut: True if the last turn was written and
    ended inside a line. clamp: (layer, cell) -> the number at which c of this cell is held (nn/stepper.py). Raises
    ConfigError for a cell that the model does not have.
    """

    def __init__(self, model: CharLM, config: SampleConfig, clamp: Clamp | None = None):
        self.vocab, self.config = model.vocab, config
        self._stepper = Stepper(model.params, clamp, model.precision)
        self._begun = self.cut = False
        self.rewind()

    def rewind(self) -> None:
        """Begin with the first uniform draw of the seed again."""
        self._draws = draws(self.config.seed, [0])  # those of sample 0 in `sample.generate_ids`

    def reset(self) -> None:
        """Forget everything that was read and written. The uniform draws go on."""
        self._stepper.h[...] = self._stepper.c[...] = 0
        self._begun = self.cut = False

    def mark(self) -> Mark:
        """Return the place where the dialogue is now, for `back`."""
        s = self._stepper
        return Mark(s.h.copy(), s.c.copy(), s.logits.copy(), self._begun, self.cut)

    def back(self, mark: Mark) -> None:
        """Go back to a place. The uniform draws go on, so the next text is a different one."""
        s = self._stepper
        s.h[...], s.c[...], s.logits[...], self._begun, self.cut = mark

    def read(self, text: str | bytes, on_unknown: str = "error") -> None:
        """Read a text. The first text is a prompt as in `sample.generate`: if it is empty, a newline is read.

        on_unknown: error, skip or replace. error raises UnknownSymbolError for a symbol that the model does not know,
        before anything is read.
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
        """Draw, read and yield up to `length` symbols (None: without end). Stop at the end of a document.

        If nothing was read before, the text begins as after an empty prompt.
        """
        if not self._begun:
            self.read("")
        for _ in count() if length is None else range(length):
            symbol = int(draw(self._stepper.kernel.to_host(self._stepper.logits), self.config, next(self._draws))[0])
            self._step(symbol)
            self.cut = symbol != self.vocab.end and self.vocab.symbols[symbol] != "\n"
            if symbol == self.vocab.end:
                return
            yield self.vocab.symbols[symbol]

    def _step(self, symbol: int) -> None:
        """Read one symbol."""
        if symbol == self.vocab.end:  # a new document begins with a zero state
            self._stepper.h[...] = self._stepper.c[...] = 0
        self._stepper.step(np.array([symbol], np.intp))
