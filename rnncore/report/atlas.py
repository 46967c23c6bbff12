"""The atlas of a model: the values of all cells over a passage, and the cells that follow a probe most closely."""
from dataclasses import dataclass

import numpy as np

from ..data.vocab import Vocab
from ..measure.evaluate import encode
from ..model import CharLM
from .probes import measure
from .reading import Reading, read

MOST = 10  # cells in the ranking of a probe
FEW = 200  # symbols; over fewer of them, correlations mean little


@dataclass(frozen=True)
class Atlas:
    """The cells of a model and the probes over a text of n symbols; layers and cells are counted from 0."""
    text: str                                         # the passage as the model reads it: n symbols
    cells: np.ndarray                                 # (L, H, n) float32: tanh(c) after each symbol has been read
    probes: dict[str, np.ndarray]                     # name -> (n,) float64: the probes that vary in this text
    ranking: dict[str, list[tuple[int, int, float]]]  # probe -> (layer, cell, Pearson correlation), largest |r| first
    saturation: list[dict[str, tuple[float, float]]]  # for each layer: gate -> (share below .1, share above .9)


def atlas(model: CharLM, text: str | bytes, most: int = MOST, on_unknown: str = "error") -> Atlas:
    """Return the atlas of a model over a text, which is read from a state of zeros.

    most: cells in the ranking of a probe. on_unknown: what happens to symbols that the model does not know: error
    (raises data.vocab.UnknownSymbolError), skip or replace. The probes are computed from the text that the model reads.

    For a model of bytes, a symbol of Atlas.text is the character whose code point is the byte, and the probes are those
    of the UTF-8 text that the bytes spell. Raises CorpusError, a ValueError, for fewer than 2 symbols, and
    FloatingPointError if cells are not finite.
    """
    return of(read(model, encode(model, text, on_unknown)), model.vocab, most)


def of(reading: Reading, vocab: Vocab, most: int = MOST) -> Atlas:
    """Return the atlas of a reading; vocab: the model's vocabulary; most: cells in the ranking of a probe."""
    symbols = "".join(map(vocab.symbols.__getitem__, reading.ids.tolist()))
    probes = probes_of_bytes(symbols) if vocab.level == "byte" else measure(symbols)
    return Atlas(symbols, reading.cells, probes, ranking(reading.cells, probes, most), reading.saturation)


def probes_of_bytes(symbols: str) -> dict[str, np.ndarray]:
    """Return the probes of the UTF-8 text that bytes spell: name -> (n,) float64, a number for each byte.

    symbols: n characters whose code points are the bytes. All bytes of a character have the character's number; a byte
    that belongs to no character counts as a character of its own.
    """
    text = symbols.encode("latin-1").decode("utf-8", "surrogateescape")
    widths = [len(character.encode("utf-8", "surrogateescape")) for character in text]
    return {name: np.repeat(values, widths) for name, values in measure(text).items()}


def ranking(cells: np.ndarray, probes: dict[str, np.ndarray], most: int) -> dict[str, list[tuple[int, int, float]]]:
    """Return, for each probe, (layer, cell, r) of the `most` cells with the largest |r|, the largest first.

    cells (L, H, n); probes: name -> (n,). Of cells with equal |r|, the lower layer and the lower cell come first.
    """
    if not probes:
        return {}
    r, hidden = correlations(cells, np.stack(list(probes.values()))), cells.shape[1]
    ranked = {}
    for name, values in zip(probes, r.reshape(-1, len(probes)).T, strict=True):
        order = np.argsort(-np.abs(values), kind="stable")[:most].tolist()
        ranked[name] = [(*divmod(place, hidden), float(values[place])) for place in order]
    return ranked


def correlations(cells: np.ndarray, probes: np.ndarray) -> np.ndarray:
    """Return Pearson's r (L, H, P), float64, of cells (L, H, n) with probes (P, n); 0 if either is constant."""
    wanted = _standard(probes)
    return np.clip([_standard(layer) @ wanted.T for layer in cells], -1, 1)


def _standard(rows: np.ndarray) -> np.ndarray:
    """Return rows (R, n) minus their means, scaled to length 1; constant rows become zeros."""
    centred = rows - rows.mean(axis=1, keepdims=True, dtype=np.float64)
    # A constant row is found by its range. Its computed length may be a rounding error above 0, and a division by it
    # would give a correlation to a row that has none.
    length = np.where(np.ptp(rows, axis=1), np.linalg.norm(centred, axis=1), np.inf)
    return centred / length[:, None]
