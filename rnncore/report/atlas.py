"""The atlas of a model's cells over a passage: what each holds after every symbol, and which of them follow a probe."""
from dataclasses import dataclass

import numpy as np

from ..data.vocab import Vocab
from ..measure.evaluate import encode
from ..model import CharLM
from .probes import measure
from .reading import Reading, read

MOST = 10                              # cells a probe that the ranking has
FEW = 200                              # symbols: over fewer, correlations mean little


@dataclass(frozen=True)
class Atlas:
    """Cells and probes over a text of n symbols; layers and cells are counted from 0."""
    text: str                                         # the passage as the model reads it, n symbols
    cells: np.ndarray                                 # (L, H, n) float32: tanh(c) after each symbol has been read
    probes: dict[str, np.ndarray]                     # name -> (n,) float64, only those that vary in this text
    ranking: dict[str, list[tuple[int, int, float]]]  # probe -> (layer, cell, Pearson correlation), largest |r| first
    saturation: list[dict[str, tuple[float, float]]]  # a layer: gate -> (share below .1, share above .9)


def atlas(model: CharLM, text: str | bytes, most: int = MOST, on_unknown: str = "error") -> Atlas:
    """The atlas of a CharLM over a text, read from a zero state; of the ranking the first `most` cells a probe.

    At the level of bytes a symbol of Atlas.text is the code point of the same number as the byte, and the probes are
    those of the UTF-8 text that the bytes are. on_unknown: error (raises data.vocab.UnknownSymbolError), skip or
    replace; probes are those of what the model then reads. Raises CorpusError, a ValueError, for fewer than 2 symbols,
    FloatingPointError for cells that are no numbers.
    """
    return of(read(model, encode(model, text, on_unknown)), model.vocab, most)


def of(reading: Reading, vocab: Vocab, most: int = MOST) -> Atlas:
    """The atlas of what has been read, for symbols of this vocabulary."""
    symbols = "".join(map(vocab.symbols.__getitem__, reading.ids.tolist()))
    probes = probes_of_bytes(symbols) if vocab.level == "byte" else measure(symbols)
    return Atlas(symbols, reading.cells, probes, ranking(reading.cells, probes, most), reading.saturation)


def probes_of_bytes(symbols: str) -> dict[str, np.ndarray]:
    """The probes of the text that bytes are: each byte has what its character has; one of no character stands alone."""
    text = symbols.encode("latin-1").decode("utf-8", "surrogateescape")
    widths = [len(character.encode("utf-8", "surrogateescape")) for character in text]
    return {name: np.repeat(values, widths) for name, values in measure(text).items()}


def ranking(cells: np.ndarray, probes: dict[str, np.ndarray], most: int) -> dict[str, list[tuple[int, int, float]]]:
    """The first `most` cells a probe by the size of their correlation; of equals the lower layer and cell is first."""
    if not probes:
        return {}
    r, hidden = correlations(cells, np.stack(list(probes.values()))), cells.shape[1]
    ranked = {}
    for name, values in zip(probes, r.reshape(-1, len(probes)).T, strict=True):
        order = np.argsort(-np.abs(values), kind="stable")[:most].tolist()
        ranked[name] = [(*divmod(place, hidden), float(values[place])) for place in order]
    return ranked


def correlations(cells: np.ndarray, probes: np.ndarray) -> np.ndarray:
    """Pearson's r of every cell, (L, H, n), with every probe, (P, n): (L, H, P) float64; 0 where either is constant."""
    wanted = _standard(probes)
    return np.clip([_standard(layer) @ wanted.T for layer in cells], -1, 1)


def _standard(rows: np.ndarray) -> np.ndarray:
    """Rows (R, n) less their mean, of length 1; those that are constant, of length 0."""
    centred = rows - rows.mean(axis=1, keepdims=True, dtype=np.float64)
    length = np.where(np.ptp(rows, axis=1), np.linalg.norm(centred, axis=1), np.inf)
    return centred / length[:, None]
