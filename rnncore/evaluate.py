"""How well a model predicts a text, in nats per character: `score` in one pass, Validation in many columns."""
import numpy as np

from .data.batches import Batches
from .data.text import CorpusError

CHUNK = 256  # steps that `score` takes at a time: bounds its memory


def losses(model, ids):
    """Yield (T,) float64 arrays: -log p of each symbol of ids (n,) after the first, the state carried over all."""
    work, state = model.workspace(CHUNK, 1), None
    for start in range(0, len(ids) - 1, CHUNK):
        piece = np.asarray(ids[start:start + CHUNK + 1], np.intp)[:, None]
        loss, state = model.losses(piece[:-1], piece[1:], state, work)
        yield model.kernel.to_host(loss)[:, 0].astype(np.float64)


def score(model, text: str, on_unknown: str = "error") -> float:
    """Nats per character: the mean over the n - 1 predictions in text, the state carried from its first symbol on.

    on_unknown: error (raises data.vocab.UnknownSymbolError), skip or replace. Raises CorpusError, a ValueError, for
    fewer than 2 symbols.
    """
    ids = model.vocab.encode(text, on_unknown)
    if len(ids) < 2:
        raise CorpusError(f"{len(ids)} known symbols in the text: nothing to predict; give at least 2")
    with model.kernel.single_threaded():
        return sum(part.sum() for part in losses(model, ids)) / (len(ids) - 1)


class Validation:
    """A validation text, scored as contiguous streams side by side, each from the state that the text before it left.

    The streams hold all of the text but fewer characters than there are columns. `loss(model, k)` scores only the first
    k windows of `steps` characters of every stream, an even sample of the text.
    """

    def __init__(self, ids, columns: int, steps: int):
        columns = max(1, min(columns, (len(ids) - 1) // steps))
        self.batches = Batches(ids, columns, min(steps, len(ids) - 1))
        self._held = None

    @property
    def windows(self) -> int:
        return self.batches.windows

    def chars(self, windows: int) -> int:
        """How many predictions the first `windows` hold."""
        return self.batches.columns * min(windows * self.batches.steps, self.batches.stream)

    def loss(self, model, windows: int | None = None, prefix: int | None = None) -> tuple[float, float]:
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

