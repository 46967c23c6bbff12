"""The atlas of a model's cells over a passage: what each holds after every symbol, and which of them follow a probe."""
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from ..data.text import CorpusError
from ..evaluate import CHUNK
from .probes import measure

MOST = 10                              # cells a probe that the ranking has
FEW = 200                              # symbols: over fewer, correlations mean little
GATES = {"input": 0, "forget": 1, "output": 3}  # gate -> its place among i f g o
LOW, HIGH = 0.1, 0.9                   # a gate below is shut, above is open


@dataclass(frozen=True)
class Atlas:
    """Cells and probes over a text of n symbols; layers and cells are counted from 0."""
    text: str                                         # the passage as the model reads it, n symbols
    cells: np.ndarray                                 # (L, H, n) float32: tanh(c) after each symbol has been read
    probes: dict[str, np.ndarray]                     # name -> (n,) float64, only those that vary in this text
    ranking: dict[str, list[tuple[int, int, float]]]  # probe -> (layer, cell, Pearson correlation), largest |r| first
    saturation: list[dict[str, tuple[float, float]]]  # a layer: gate -> (share below LOW, share above HIGH)


def atlas(model, text: str | bytes, most: int = MOST, on_unknown: str = "error") -> Atlas:
    """The atlas of a CharLM over a text, read from a zero state; of the ranking the first `most` cells a probe.

    At the level of bytes a symbol of Atlas.text is the code point of the same number as the byte, and the probes are
    those of the UTF-8 text that the bytes are. on_unknown: error (raises data.vocab.UnknownSymbolError), skip or
    replace; probes are those of what the model then reads. Raises CorpusError, a ValueError, for fewer than 2 symbols,
    FloatingPointError for cells that are no numbers.
    """
    ids = model.vocab.encode(text, on_unknown)
    if len(ids) < 2:
        raise CorpusError(f"{len(ids)} known symbols in the text: nothing to compare; give at least 2")
    symbols = "".join(map(model.vocab.symbols.__getitem__, ids.tolist()))
    cells, saturation = read(model, ids)
    if not np.isfinite(cells).all():
        raise FloatingPointError("the cells hold no numbers: the model's weights are too large")
    probes = probes_of_bytes(symbols) if model.vocab.level == "byte" else measure(symbols)
    return Atlas(symbols, cells, probes, ranking(cells, probes, most), saturation)


def probes_of_bytes(symbols: str) -> dict[str, np.ndarray]:
    """The probes of the text that bytes are: each byte has what its character has; one of no character stands alone."""
    text = symbols.encode("latin-1").decode("utf-8", "surrogateescape")
    widths = [len(character.encode("utf-8", "surrogateescape")) for character in text]
    return {name: np.repeat(values, widths) for name, values in measure(text).items()}


def read(model, ids: np.ndarray) -> tuple[np.ndarray, list[dict[str, tuple[float, float]]]]:
    """(cells, saturation) of an Atlas: the model reads ids (n,) in one column, the state carried over all."""
    config = model.config
    cells = np.empty((config.layers, config.hidden, len(ids)), np.float32)
    counts = np.zeros((config.layers, 4, 2))
    with model.kernel.single_threaded():
        for start, caches in chunks(model, ids):
            for layer, cache in enumerate(caches):
                c, gates = (model.kernel.to_host(a)[:, :, 0] for a in (cache.c[:, 1:], cache.gates))
                np.tanh(c, out=cells[layer, :, start:start + c.shape[1]], casting="same_kind")
                each = gates.reshape(4, -1)
                counts[layer] += np.stack([(each < LOW).sum(axis=1), (each > HIGH).sum(axis=1)], axis=1)
    shares = counts / (config.hidden * len(ids))
    return cells, [{gate: (float(layer[place, 0]), float(layer[place, 1])) for gate, place in GATES.items()}
                   for layer in shares]


def chunks(model, ids: np.ndarray) -> Iterator[tuple[int, list]]:
    """(start, caches) of every few steps: what each layer held, which the next step overwrites."""
    steps = min(CHUNK, len(ids))
    work, state = model.workspace(steps, 1), None
    for start in range(0, len(ids), steps):
        piece = np.asarray(ids[start:start + steps], np.intp)[:, None]
        _, state = model.losses(piece, piece, state, work)  # its losses are of no interest
        yield start, work.first(len(piece))[0]


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
