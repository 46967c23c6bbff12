"""How well a model predicts a text, in nats per character: `score` in one pass, Validation in many columns."""
from collections.abc import Iterator
from math import ceil
from typing import Any

import numpy as np

from .. import arguments
from ..config import ConfigError
from ..data.batches import Batches
from ..data.text import CorpusError
from ..kernels.arrays import Ids
from ..model import CharLM
from ..nn.stack import Workspace

CHUNK = 256      # steps that `losses` takes at a time: bounds its memory
GROUP = 1 << 14    # predictions that `window_losses` makes side by side: 64 windows of 256
STEPS = 32         # steps that it takes at a time
NUMBERS = 1 << 24  # of its arrays, about: with fewer columns for larger models, bounds its memory


def losses(model: CharLM, ids: Ids) -> Iterator[np.ndarray]:
    """Yield (T,) float64 arrays: -log p of each symbol of ids (n,) after the first, the state carried over all.

    Raises ValueError at once for what is no array (n,) of whole numbers, later for one that is no id.
    """
    return _losses(model, arguments.symbols("ids", ids))


def _losses(model: CharLM, ids: Ids) -> Iterator[np.ndarray]:
    work, state = model.workspace(CHUNK, 1), None
    for start in range(0, len(ids) - 1, CHUNK):
        piece = np.asarray(ids[start:start + CHUNK + 1])[:, None]
        loss, state = model.losses(piece[:-1], piece[1:], state, work)
        yield model.kernel.to_host(loss)[:, 0].astype(np.float64)


def window_losses(model: CharLM, ids: Ids, window: int) -> Iterator[np.ndarray]:
    """Yield (T,) float64 arrays: -log p of each symbol of ids (n,) after the first, in order, each predicted once.

    The state starts from zero every `window` predictions, as a model of a fixed context would see the text; the last
    window may be shorter. Raises ConfigError, a ValueError, for a window below 1, and as `losses`.
    """
    if arguments.whole("window", window) < 1:
        raise ConfigError(f"window must be a whole number of at least 1, not {window}")
    return _window_losses(model, arguments.symbols("ids", ids), int(window))


def _window_losses(model: CharLM, ids: Ids, window: int) -> Iterator[np.ndarray]:
    predictions = len(ids) - 1
    c = model.config
    a_column = min(STEPS, window) * (c.vocab_size + c.embed + 6 * c.layers * c.hidden)
    columns = min(GROUP // window, ceil(predictions / window), NUMBERS // a_column)
    if columns < 2:
        for start in range(0, predictions, window):
            yield from losses(model, ids[start:start + window + 1])
        return
    work, size = model.workspace(min(STEPS, window), columns), window * columns
    for start in range(0, predictions, size):
        piece = np.asarray(ids[start:start + size + 1])
        padded = np.zeros((2, size), np.intp)  # what stands after the text's end is not counted
        padded[:, :len(piece) - 1] = piece[:-1], piece[1:]
        x, y = padded.reshape(2, columns, window).swapaxes(1, 2)
        found, state = np.empty((window, columns)), None
        for t in range(0, window, STEPS):
            loss, state = model.losses(x[t:t + STEPS], y[t:t + STEPS], state, work)
            found[t:t + STEPS] = model.kernel.to_host(loss)
        yield found.T.reshape(-1)[:len(piece) - 1]


def encode(model: CharLM, text: str | bytes, on_unknown: str = "error") -> np.ndarray:
    """The ids (n,) of a text that is to be scored.

    on_unknown: error (raises data.vocab.UnknownSymbolError), skip or replace. Raises CorpusError, a ValueError, for
    fewer than 2 symbols.
    """
    return at_least_two(model.vocab.encode(text, on_unknown))


def at_least_two(ids: np.ndarray) -> np.ndarray:
    """The ids, if there is something to predict; else CorpusError."""
    if len(ids) < 2:
        raise CorpusError(f"{len(ids)} known symbols in the text: nothing to predict; give at least 2")
    return ids


def score(model: CharLM, text: str | bytes, on_unknown: str = "error") -> float:
    """Nats per character: the mean over the n - 1 predictions in text, the state carried from its first symbol on.

    on_unknown and what is raised: as `encode`.
    """
    ids = encode(model, text, on_unknown)
    with model.kernel.single_threaded():
        return sum(part.sum() for part in losses(model, ids)) / (len(ids) - 1)


class Validation:
    """A validation text, scored as contiguous streams side by side, each from the state that the text before it left.

    The streams hold all of the text but fewer characters than there are columns. `loss(model, k)` scores only the first
    k windows of `steps` characters of every stream, an even sample of the text.
    """

    def __init__(self, ids: Ids, columns: int, steps: int):
        ids = arguments.symbols("ids", ids)
        columns, steps = arguments.whole("columns", columns, 1), arguments.whole("steps", steps, 1)
        columns = max(1, min(columns, (len(ids) - 1) // steps))
        self.batches = Batches(ids, columns, min(steps, len(ids) - 1))
        self.windows = self.batches.windows
        self._held: tuple[CharLM, Workspace] | None = None

    def __getstate__(self) -> dict[str, Any]:
        """Return what a copy is made of: all but the workspace."""
        return vars(self) | {"_held": None}

    def chars(self, windows: int) -> int:
        """How many predictions the first `windows` hold."""
        return self.batches.columns * min(windows * self.batches.steps, self.batches.stream)

    def loss(self, model: CharLM, windows: int | None = None, prefix: int | None = None) -> tuple[float, float]:
        """Nats per character over the first `windows` (None: all), and over the first `prefix` of those."""
        batches = self.batches
        if self._held is None or self._held[0] is not model:
            self._held = model, model.workspace(batches.steps, batches.columns)
        work, total, counted, at_prefix = self._held[1], 0.0, 0, 0.0
        x, y = batches.window(0, rotation=-batches.steps)  # what comes before each stream
        _, state = model.losses(x, y, None, work)
        for array in (*state.h, *state.c):
            array[:, 0] = 0                                # nothing comes before the first
        for k in range(min(windows or self.windows, self.windows)):
            x, y = batches.window(k)
            loss, state = model.losses(x, y, state, work)
            total, counted = total + float(loss.sum(dtype=np.float64)), counted + x.size
            if k + 1 == prefix:
                at_prefix = total / counted
        return total / counted, at_prefix or total / counted

