"""The atlas of a model: cells and gates against the reference, correlations against NumPy's, and errors planted in them."""
import importlib

import numpy as np
import pytest
import reference
from conftest import build, planted_in

import rnncore
from rnncore import Vocab
from rnncore.data.endings import END
from rnncore.data.text import CorpusError
from rnncore.data.vocab import UnknownSymbolError
from rnncore.report.probes import PROBES, measure

ATLAS, READING = (importlib.import_module(f"rnncore.report.{name}") for name in ("atlas", "reading"))
TEXT = 'The (Old) "cat, a dog"\n  sees 12 [rivers] and "takes"\nred (House)s: a1.\n' * 5


def with_vocab(vocab: Vocab, dtype="float64", scale=0.5, **sizes):
    model = build(len(vocab), dtype=dtype, scale=scale, **sizes)
    model.vocab = vocab
    return model


def by_hand(model, ids) -> tuple[np.ndarray, list]:
    """tanh(c) (L, H, n) and the shares of each gate below 0.1 and above 0.9, by the reference."""
    tensors, end = model.tensors(), model.vocab.end
    keep = np.array([symbol != end for symbol in ids], float)
    x, cells, saturation = tensors["embedding.weight"][ids], [], []
    for k in range(model.config.layers):
        zeros = np.zeros(model.config.hidden)
        x, _, _, tape = reference.layer_forward(reference.layer_weights(tensors, k), x, zeros, zeros, keep)
        cells.append(np.tanh([step.c for step in tape]).T)
        gates = {name: np.array([getattr(step, name[0]) for step in tape]) for name in ("input", "forget", "output")}
        saturation.append({name: ((gate < 0.1).mean(), (gate > 0.9).mean()) for name, gate in gates.items()})
    return np.array(cells), saturation


def assert_right(found, model, ids) -> None:
    cells, saturation = by_hand(model, ids)
    assert found.cells.dtype == np.float32 and found.cells.shape == cells.shape
    assert np.abs(found.cells - cells).max() < 1e-6  # what float32 keeps
    for mine, wanted in zip(found.saturation, saturation, strict=True):
        assert list(mine) == list(wanted)
        assert all(mine[gate] == pytest.approx(wanted[gate], abs=1e-12) for gate in wanted), (mine, wanted)
    assert 0 < saturation[0]["forget"][0] < 1


@pytest.mark.parametrize("chunk", [1, 7, 256, 1000])
@pytest.mark.parametrize("layers", [1, 3])
def test_cells_and_gates_are_those_of_the_reference(monkeypatch, chunk, layers):
    monkeypatch.setattr(READING, "CHUNK", chunk)
    model = with_vocab(Vocab.from_text(TEXT), layers=layers, scale=1.5)
    found = ATLAS.atlas(model, TEXT)
    assert_right(found, model, model.vocab.encode(TEXT))
    assert found.text == TEXT and found.probes.keys() == measure(TEXT).keys() == found.ranking.keys()
    assert all(np.array_equal(found.probes[name], PROBES[name](TEXT)) for name in found.probes)


def test_the_cells_of_a_model_on_a_card_are_those_on_the_cpu(on_cuda):
    vocab = Vocab.from_text(TEXT)
    model = rnncore.CharLM(rnncore.ModelConfig(len(vocab), 3, 5, 2), vocab, "cuda", "float64")
    wanted = with_vocab(vocab, hidden=5)
    wanted.assign(model.tensors())
    mine, theirs = ATLAS.atlas(model, TEXT), ATLAS.atlas(wanted, TEXT)
    assert type(mine.cells) is np.ndarray and np.abs(mine.cells - theirs.cells).max() < 1e-6
    assert mine.saturation == theirs.saturation


def test_each_document_begins_with_a_state_of_zeros():
    vocab = Vocab("".join(sorted({*TEXT, END})), documents="blank")
    model, text = with_vocab(vocab, scale=1.5), f"{TEXT}{END}{TEXT[:50]}{END}"
    found = ATLAS.atlas(model, text)
    assert_right(found, model, vocab.encode(text))
    n = len(TEXT)
    alone = ATLAS.atlas(model, END + TEXT[:50])
    assert np.allclose(found.cells[:, :, n:n + 51], alone.cells, atol=1e-6) and found.text == text
    assert all(np.array_equal(found.probes[name][n:n + 51], alone.probes[name]) for name in alone.probes)


def test_bytes_have_the_probes_of_their_characters():
    text = "\u201cÉt\u00e9\u201d, (1)\nÀ \u201cb\u201d"
    vocab = Vocab.from_code_points(range(256), "byte")
    found = ATLAS.atlas(with_vocab(vocab), text.encode() + b"\xff\xe2\n")
    assert found.text.encode("latin-1") == text.encode() + b"\xff\xe2\n"
    widths = [len(symbol.encode()) for symbol in text]
    for name, values in found.probes.items():
        assert values.shape == (len(found.text),)
        assert np.array_equal(values[:-3], np.repeat(PROBES[name](text), widths)), name
    assert found.probes["upper case"][3:5].tolist() == [1, 1]  # the two bytes of É
    assert ATLAS.atlas(with_vocab(vocab), text).text == found.text[:-3]


def test_lower_case_and_unknown_symbols():
    lower = with_vocab(Vocab(Vocab.from_text(TEXT.lower()).symbols, lower=True))
    found = ATLAS.atlas(lower, TEXT)
    assert found.text == TEXT.lower() and "upper case" not in found.probes
    model = with_vocab(Vocab.from_text(TEXT))
    with pytest.raises(UnknownSymbolError):
        ATLAS.atlas(model, TEXT + "☃")
    assert ATLAS.atlas(model, "☃" + TEXT, on_unknown="skip").text == TEXT
    assert ATLAS.atlas(model, "☃" + TEXT, on_unknown="replace").text == " " + TEXT


def test_what_is_too_short_or_does_not_vary():
    model = with_vocab(Vocab.from_text(TEXT))
    for text in ("", "a"):
        with pytest.raises(CorpusError, match=f"{len(text)} known"):
            ATLAS.atlas(model, text)
    found = ATLAS.atlas(model, "  ")
    assert list(found.probes) == list(found.ranking) == ["position in the line", "indentation"]
    assert ATLAS.ranking(found.cells, {}, 5) == {}


def test_cells_that_are_no_numbers_are_refused():
    model = with_vocab(Vocab.from_text(TEXT), "float32")
    model.params["lstm.weight_ih_l0"][...] = np.nan
    with pytest.raises(FloatingPointError, match="no numbers"):
        ATLAS.atlas(model, TEXT)


# Correlations

def planted(rng=None) -> tuple[np.ndarray, dict]:
    """Cells (2, 4, 60) of chance, of which 1.2 is a probe upside down with noise and 0.3 is constant; and two probes."""
    rng = np.random.default_rng(4)
    probes = {"a": (rng.random(60) < 0.3).astype(float), "b": np.arange(60.0) % 7 + 1000}
    cells = rng.standard_normal((2, 4, 60)).astype(np.float32) + 3
    cells[1, 2] = 2 - 0.7 * probes["a"] + 0.05 * rng.standard_normal(60)
    cells[0, 1] = 0.01 * probes["b"]
    cells[0, 3] = 0.1
    return cells, probes


def faults(module) -> list[str]:
    """In what a module's correlations and ranking are not right."""
    cells, probes = planted()
    rows = np.stack(list(probes.values()))
    with np.errstate(all="ignore"):
        r = module.correlations(cells, rows)
        ranked = module.ranking(cells, probes, 3)
        constant = module.correlations(cells, np.full((1, 60), 0.1))
    wanted = np.array([[[0 if np.ptp(cell) == 0 else np.corrcoef(cell.astype(np.float64), row)[0, 1] for row in rows]
                        for cell in layer] for layer in cells])
    of = {at: wanted[at] for at in np.ndindex(2, 4)}
    order = {name: sorted(np.ndindex(2, 4), key=lambda at, p=p: -abs(wanted[at][p]))[:3] for p, name in enumerate(probes)}
    return [what for what, right in {
        "r": r.shape == wanted.shape and np.allclose(r, wanted, atol=1e-9), "constant": (constant == 0).all(),
        "bounds": (np.abs(r) <= 1).all(), "order": {k: [row[:2] for row in v] for k, v in ranked.items()} == order,
        "r of the ranking": all(abs(row[2] - of.get(row[:2], (2, 2))[p]) < 1e-9
                                for p, name in enumerate(probes) for row in ranked[name]),
        "types": all(list(map(type, row)) == [int, int, float] for rows in ranked.values() for row in rows)}.items() if not right]


def test_cells_are_ranked_by_their_correlation():
    assert faults(ATLAS) == []
    cells, probes = planted()
    first = {name: rows[0] for name, rows in ATLAS.ranking(cells, probes, 1).items()}
    assert first["a"][:2] == (1, 2) and -1 < first["a"][2] < -0.98
    assert first["b"] == (0, 1, pytest.approx(1, abs=1e-6)) and all(len(ATLAS.ranking(cells, probes, 99)[n]) == 8 for n in "ab")


@pytest.mark.parametrize("value", [0.1, 1 / 3, -0.7234567, 1.0, 0.0])
def test_constant_cells_and_probes_have_no_correlation(value):
    rng = np.random.default_rng(0)
    with np.errstate(all="raise"):
        r = ATLAS.correlations(np.full((1, 2, 1001), value, np.float32), rng.random((2, 1001)))
        assert (r == 0).all() and (ATLAS.correlations(rng.random((1, 2, 1001)), np.full((1, 1001), value)) == 0).all()


ERRORS = [
    ("no mean is taken off", "rows - rows.mean(axis=1, keepdims=True, dtype=np.float64)", "rows"),
    ("the mean of all rows", "rows.mean(axis=1, keepdims=True, dtype=np.float64)", "rows.mean(dtype=np.float64)"),
    ("covariance for correlation", "centred / length[:, None]", "centred"),
    ("constant rows are divided", "np.where(np.ptp(rows, axis=1), np.linalg.norm(centred, axis=1), np.inf)",
     "np.linalg.norm(centred, axis=1)"),
    ("large values first, not large sizes", "-np.abs(values)", "-values"), ("the smallest first", "-np.abs(values)", "np.abs(values)"),
    ("sizes for correlations", "float(values[place])", "float(abs(values[place]))"),
    ("layer and cell the wrong way round", "(*divmod(place, hidden), f", "(*divmod(place, hidden)[::-1], f"),
    ("cells of another layer size", "cells.shape[1]", "cells.shape[0]"), ("probes out of order", "np.stack(list(probes.values()))",
                                                                          "np.stack(list(probes.values())[::-1])"),
    ("one cell too many", "[:most]", "[:most + 1]"),
]


@pytest.mark.parametrize("what, snippet, wrong", ERRORS, ids=[what for what, *_ in ERRORS])
def test_a_planted_error_is_found(what, snippet, wrong):
    assert faults(planted_in(ATLAS, snippet, wrong))
