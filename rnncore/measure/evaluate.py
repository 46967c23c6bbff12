"""The loss of a model on a text, in nats per character: `score` reads in one pass, `Validation` in parallel columns."""
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

CHUNK = 256        # time steps that `losses` computes in one call; bounds its memory
GROUP = 1 << 14    # predictions that `window_losses` makes in one group, such as 64 windows of 256 characters
STEPS = 32         # time steps that `window_losses` computes in one call
NUMBERS = 1 << 24  # bound, roughly, on the floats in the workspace of `window_losses`: larger models get fewer columns


def losses(model: CharLM, ids: Ids) -> Iterator[np.ndarray]:
    """Yield float64 arrays (T,): the loss -log p, in nats, of each symbol of ids (n,) after the first.

    The state is carried through the whole text. Raises ValueError at the call if ids is not an array (n,) of whole
    numbers, and later at the first number that is not an id of the model.
    """
    return _losses(model, arguments.symbols("ids", ids))


def _losses(model: CharLM, ids: Ids) -> Iterator[np.ndarray]:
    work, state = model.workspace(CHUNK, 1), None
    for start in range(0, len(ids) - 1, CHUNK):
        piece = np.asarray(ids[start:start + CHUNK + 1])[:, None]
        loss, state = model.losses(piece[:-1], piece[1:], state, work)
        yield model.kernel.to_host(loss)[:, 0].astype(np.float64)


def window_losses(model: CharLM, ids: Ids, window: int) -> Iterator[np.ndarray]:
    """Yield float64 arrays (T,): the loss -log p, in nats, of each symbol of ids (n,) after the first, in text order.

    The state is reset to zero every `window` predictions, so a prediction sees the text of its window only, as with a
    model of a fixed context. The last window may be shorter. Each symbol is predicted once. Raises ConfigError, a
    ValueError, if window is below 1; raises for ids as `losses` does.
    """
    if arguments.whole("window", window) < 1:
        raise ConfigError(f"window must be a whole number of at least 1, not {window}")
    return _window_losses(model, arguments.symbols("ids", ids), int(window))


def _window_losses(model: CharLM, ids: Ids, window: int) -> Iterator[np.ndarray]:
    predictions = len(ids) - 1
    c = model.config
    # The floats of the workspace per column, roughly: logits, inputs, and about six arrays of H per layer.
    a_column = min(STEPS, window) * (c.vocab_size + c.embed + 6 * c.layers * c.hidden)
    columns = min(GROUP // window, ceil(predictions / window), NUMBERS // a_column)
    if columns < 2:  # with a single column, `losses` does the same work
        for start in range(0, predictions, window):
            yield from losses(model, ids[start:start + window + 1])
        return
    work, size = model.workspace(min(STEPS, window), columns), window * columns
    for start in range(0, predictions, size):
        piece = np.asarray(ids[start:start + size + 1])
        padded = np.zeros((2, size), np.intp)  # losses of the padding after the text's end are dropped
        padded[:, :len(piece) - 1] = piece[:-1], piece[1:]
        x, y = padded.reshape(2, columns, window).swapaxes(1, 2)
        found, state = np.empty((window, columns)), None
        for t in range(0, window, STEPS):
            loss, state = model.losses(x[t:t + STEPS], y[t:t + STEPS], state, work)
            found[t:t + STEPS] = model.kernel.to_host(loss)
        yield found.T.reshape(-1)[:len(piece) - 1]


def encode(model: CharLM, text: str | bytes, on_unknown: str = "error") -> np.ndarray:
    """Return the ids (n,) of a text to be scored.

    on_unknown: treatment of symbols outside the vocabulary, one of "error", "skip" and "replace". Raises
    data.vocab.UnknownSymbolError for such a symbol under "error". Raises CorpusError, a ValueError, if fewer than 2 ids
    remain.
    """
    return at_least_two(model.vocab.encode(text, on_unknown))


def at_least_two(ids: np.ndarray) -> np.ndarray:
    """Return ids (n,). Raise CorpusError if n is below 2, because there is nothing to predict then."""
    if len(ids) < 2:
        raise CorpusError(f"{len(ids)} known symbols in the text: nothing to predict; give at least 2")
    return ids


def score(model: CharLM, text: str | bytes, on_unknown: str = "error") -> float:
    """Return the mean loss in nats per character over the n - 1 predictions in a text of n symbols.

    The state begins at zero and is carried through the whole text. on_unknown and the exceptions: as in `encode`.
    """
    ids = encode(model, text, on_unknown)
    with model.kernel.single_threaded():
        return sum(part.sum() for part in losses(model, ids)) / (len(ids) - 1)


class Validation:
    """A validation text, cut into contiguous streams that are scored in parallel, one column each.

    Each stream starts with the state after the last `steps` characters before it; the first stream starts with zeros.
    The streams leave out fewer characters of the text than there are columns. `loss(model, k)` scores only the first
    k windows of every stream, each of `steps` characters: a sample spread over the text.

    ids (n,): the text; columns: the number of streams at most, fewer if a stream would be shorter than `steps`; steps:
    time steps per window. Raises TypeError and ValueError for other arguments (arguments.py, data/batches.py).
    """

    def __init__(self, ids: Ids, columns: int, steps: int):
        ids = arguments.symbols("ids", ids)
        columns, steps = arguments.whole("columns", columns, 1), arguments.whole("steps", steps, 1)
        columns = max(1, min(columns, (len(ids) - 1) // steps))
        self.batches = Batches(ids, columns, min(steps, len(ids) - 1))
        self.windows = self.batches.windows
        self._held: tuple[CharLM, Workspace] | None = None

    def __getstate__(self) -> dict[str, Any]:
        """Return the attributes for a copy: all but the workspace, which belongs to one model."""
        return vars(self) | {"_held": None}

    def chars(self, windows: int) -> int:
        """Return the number of predictions in the first `windows` windows of all streams."""
        return self.batches.columns * min(windows * self.batches.steps, self.batches.stream)

    def loss(self, model: CharLM, windows: int | None = None, prefix: int | None = None) -> tuple[float, float]:
        """Return the mean loss, in nats per character, over the first `windows` windows and over the first `prefix`.

        windows: None for all. prefix: None, or a number that is not reached, returns the first loss twice.
        """
        batches = self.batches
        if self._held is None or self._held[0] is not model:
            self._held = model, model.workspace(batches.steps, batches.columns)
        work, total, counted, at_prefix = self._held[1], 0.0, 0, 0.0
        # One window before each stream gives its initial state. For the first column that window is the end of the
        # text, so this column starts with zeros instead.
        x, y = batches.window(0, rotation=-batches.steps)
        _, state = model.losses(x, y, None, work)
        for array in (*state.h, *state.c):
            array[:, 0] = 0
        for k in range(min(windows or self.windows, self.windows)):
            x, y = batches.window(k)
            loss, state = model.losses(x, y, state, work)
            total, counted = total + float(loss.sum(dtype=np.float64)), counted + x.size
            if k + 1 == prefix:
                at_prefix = total / counted
        return total / counted, at_prefix or total / counted

