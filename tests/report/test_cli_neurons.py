"""`rnncore neurons` for people and as JSON, and `generate --clamp` on every way to write; what both refuse."""
import itertools
import json

import numpy as np
import pytest
import reference
from cli_helpers import ROOT, call, corpus, refused
from conftest import build
from rich.cells import cell_len

import rnncore
from rnncore import ModelConfig, Vocab, kernels
from rnncore.config import ConfigError, SampleConfig
from rnncore.data.endings import END
from rnncore.model import CharLM
from rnncore.nn.stepper import Stepper
from rnncore.report.atlas import atlas
from rnncore.report.glyphs import glyph
from rnncore.report.probes import PROBES
from rnncore.sample import generate_ids, samples

TEXT = 'The (Old) "cat, a dog"\n  sees 12 [rivers] and "takes"\nred (House)s: a1.\n' * 5
HELD = {(0, 3): 1.5, (1, 0): -2.0, (1, 5): 0.0}


@pytest.fixture(scope="module")
def model():
    vocab = Vocab.from_text(TEXT)
    model = CharLM(ModelConfig(len(vocab), 8, 16, 2), vocab, "cpu", seed=3)
    model.params.flat[...] = 0.6 * np.random.default_rng(3).standard_normal(model.params.flat.size)
    return model


@pytest.fixture
def rnn(model, tmp_path, capsys, monkeypatch):
    """`rnncore COMMAND m ARGS` in a folder with that model and text.txt."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "100")
    rnncore.save(model, "m")
    corpus(tmp_path, TEXT, "text.txt")
    return lambda command, *args: call(capsys, command, "m", *args, "--device", "cpu")


def figures(result) -> dict:
    assert result.code == 0, result
    return json.loads(result.out, parse_constant=pytest.fail)


# neurons

def test_json_is_the_atlas(rnn, model):
    found, wanted = figures(rnn("neurons", "text.txt", "--json")), atlas(model, TEXT)
    assert (found["model"], found["text"], found["symbols"], found["layers"], found["hidden"]) == ("m", "text.txt", len(TEXT), 2, 16)
    assert {name: [(c["layer"], c["cell"], c["r"]) for c in probe["cells"]] for name, probe in found["probes"].items()} == {
        name: [(layer, cell, pytest.approx(r, abs=1e-6)) for layer, cell, r in ranked] for name, ranked in wanted.ranking.items()}
    assert all(probe["about"] == " ".join(PROBES[name].__doc__.split()) for name, probe in found["probes"].items())
    assert found["saturation"] == [{gate: {"below_0.1": low, "above_0.9": high} for gate, (low, high) in layer.items()}
                                   for layer in wanted.saturation]
    assert not {"cells", "values", "passage"} & set(found)


def test_cells_most_probe_and_length(rnn, model):
    result = rnn("neurons", "text.txt", "--json", "--cells", "--most", 2, "--probe", "digit", "-n", 60)
    found, wanted = figures(result), atlas(model, TEXT[:60])
    assert result.err == (f"read the first 60 of {len(TEXT)} symbols (--length changes it)\n"
                          "over 60 symbols correlations mean little: give a longer text\n")
    assert list(found["probes"]) == ["digit"] and len(found["probes"]["digit"]["cells"]) == 2
    assert found["passage"] == TEXT[:60] and found["values"] == {"digit": PROBES["digit"](TEXT[:60]).tolist()}
    assert np.shape(found["cells"]) == (2, 16, 60) and np.abs(found["cells"] - wanted.cells).max() < 1e-4
    assert len(result.out) < 12 * 2 * 16 * 60  # of few digits


def test_a_table_for_people(rnn, model):
    result, wanted = rnn("neurons", "text.txt", "--most", 2), atlas(model, TEXT)
    lines = result.out.splitlines()
    assert result.code == 0 and result.err == "" and max(map(len, lines)) <= 100 and "\x1b" not in result.out
    for name, ranked in wanted.ranking.items():
        (row,) = (place for place, line in enumerate(lines) if line.startswith(f"  {name} "))
        for (layer, cell, r), line in zip(ranked[:2], lines[row:row + 4:2], strict=True):
            assert f" {layer}.{cell} " in line and f" {r:+.2f} " in line
        shown = lines[row].split(f"{ranked[0][2]:+.2f}   ")[1].rstrip().replace("\N{DOWNWARDS ARROW WITH CORNER LEFTWARDS}", "\n")
        assert shown in TEXT and len(shown) > 40 - 10  # blanks at its end are lost
    assert sum(line.startswith("  layer ") for line in lines) == 2


def test_the_marks_stand_where_the_cell_is_high(rnn, model):
    (layer, cell, r), *_ = atlas(model, TEXT).ranking["digit"]
    lines = rnn("neurons", "text.txt", "--most", 1, "--probe", "digit").out.splitlines()
    (row,) = (place for place, line in enumerate(lines) if line.startswith("  digit "))
    begin = lines[row].index(f"{r:+.2f}") + 8
    shown = lines[row][begin:].rstrip().replace("\N{DOWNWARDS ARROW WITH CORNER LEFTWARDS}", "\n")
    at, values = TEXT.index(shown), np.sign(r) * atlas(model, TEXT).cells[layer, cell]
    high = values > (values.min() + values.max()) / 2
    marks = lines[row + 1][begin:].ljust(len(shown))
    assert [mark == "^" for mark in marks[:len(shown)]] == high[at:at + len(shown)].tolist() and "^" in marks


def test_neurons_refuses_wrong_options_in_one_line(rnn, tmp_path):
    assert "--json" in refused(rnn("neurons", "text.txt", "--cells"), 2)
    line = refused(rnn("neurons", "text.txt", "--probe", "quote"), 2)
    assert "'quote'" in line and all(name in line for name in PROBES)
    assert refused(rnn("neurons", "text.txt", "--most", 0), 2) and refused(rnn("neurons", "text.txt", "-n", 1), 2)
    assert "inside a comment is the same all over" in refused(rnn("neurons", "text.txt", "--probe", "inside a comment"))
    assert "nowhere" in refused(rnn("neurons", "nowhere"), 2)
    corpus(tmp_path, "The ☃ cat", "odd.txt")
    assert "'☃'" in refused(rnn("neurons", "odd.txt"))
    assert figures(rnn("neurons", "odd.txt", "--json", "--on-unknown", "skip"))["symbols"] == 8
    assert figures(rnn("neurons", "odd.txt", "--json", "--on-unknown", "replace"))["symbols"] == 9
    corpus(tmp_path, "☃a", "short.txt")
    assert "1 known symbols" in refused(rnn("neurons", "short.txt", "--on-unknown", "skip"))


def test_bytes_lower_case_and_documents_are_read_as_score_reads_them(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "t").write_bytes("A É\r\n\r\nb \xab1\xbb\n".encode())
    for vocab, wanted in ((Vocab.from_code_points(range(256), "byte"), "A É\r\n\r\nb \xab1\xbb\n".encode().decode("latin-1")),
                          (Vocab("\n 1ab\xab\xbbé", lower=True), "a é\n\nb \xab1\xbb\n"),
                          (Vocab(f"{END}\n 1Ab\xab\xbbÉ", documents="blank"), f"A É{END}b \xab1\xbb{END}")):
        model = build(len(vocab), dtype="float32")
        model.vocab = vocab
        rnncore.save(model, "m")
        found = figures(call(capsys, "neurons", "m", "t", "--json", "--cells"))
        assert found["passage"] == wanted
        (tmp_path / "m").unlink()


@pytest.mark.parametrize("name, probe", [("numpy", "inside quotes"), ("tinyshakespeare", "position in the line")])
def test_a_pretrained_model_has_a_cell_that_follows(capsys, name, probe):
    """.70 and .83 when written."""
    text = ROOT / "kernels/cpu/ops.py" if name == "numpy" else ROOT / "data/pretrained/samples/tinyshakespeare.txt"
    result = call(capsys, "neurons", f"pretrained/{name}", text, "-n", 4000, "--probe", probe, "--json", "--on-unknown", "skip")
    assert abs(figures(result)["probes"][probe]["cells"][0]["r"]) > 0.5


# --clamp

def test_held_cells_are_held_and_all_else_follows(model):
    """The stepper against the reference's cells, in which c is overwritten before h is made of it."""
    small, held = build(5, hidden=4), {(0, 3): 1.5, (1, 0): -2.0}
    tensors, stepper = small.tensors(), Stepper(small.params, held).repeat(2)
    weights = [reference.layer_weights(tensors, k) for k in range(2)]
    h, c = np.zeros((2, 2, 2, 4))
    for ids in np.random.default_rng(2).integers(0, 5, (9, 2)):
        logits = stepper.step(ids)
        for n, symbol in enumerate(ids):
            x = tensors["embedding.weight"][symbol]
            for k in range(2):
                _, c[k, n], step = reference.cell_forward(weights[k], x, h[k, n], c[k, n])
                for (layer, cell), value in held.items():
                    if layer == k:
                        c[k, n, cell] = value
                x = h[k, n] = step.o * np.tanh(c[k, n])
            assert np.abs(logits[:, n] - (tensors["head.weight"] @ x + tensors["head.bias"])).max() < 1e-12
        assert np.abs(stepper.c - c.transpose(0, 2, 1)).max() < 1e-12 > np.abs(stepper.h - h.transpose(0, 2, 1)).max()
        assert all((stepper.c[at] == value).all() for at, value in held.items())


@pytest.mark.parametrize("config", [SampleConfig(seed=2), SampleConfig(temperature=0), SampleConfig(0.7, 5, 0.9, 1)], ids=str)
def test_every_way_to_write_holds_them(model, config, monkeypatch):
    for name in ("recurrence", "writer"):  # neither compiled loops nor those of a device know of held cells
        monkeypatch.setattr(kernels.host, name, lambda *_: pytest.fail("taken, though cells are held"), raising=False)
    options = {"temperature": config.temperature, "top_k": config.top_k, "top_p": config.top_p, "seed": config.seed, "clamp": HELD}
    text = "".join(rnncore.generate(model, "The ", 80, **options))
    model.threads = 2
    many = samples(model, 40, "The ", 80, config, clamp=HELD)
    model.threads = 1
    ids = [int(symbol[0]) for symbol in itertools.islice(generate_ids(model, model.vocab.encode("The "), config, clamp=HELD), 80)]
    assert text == many[0] == model.vocab.decode(ids) and len(many) == 40
    monkeypatch.undo()
    assert text != "".join(rnncore.generate(model, "The ", 80, **{**options, "clamp": {}}))


@pytest.mark.parametrize("path", ["eager", "graph"])
def test_on_a_card_the_host_drives_the_loop(with_cublas, model, monkeypatch, path):
    monkeypatch.setattr(with_cublas, "writer", lambda *_: pytest.fail("taken, though cells are held"), raising=False)
    card = CharLM(model.config, model.vocab, "cuda", "float64")
    host = CharLM(model.config, model.vocab, "cpu", "float64")
    for each in (card, host):
        each.assign(model.tensors())
    card.path = path
    assert "".join(rnncore.generate(card, "a", 60, clamp=HELD)) == "".join(rnncore.generate(host, "a", 60, clamp=HELD))
    assert samples(card, 3, "a", 20, SampleConfig(), clamp=HELD) == samples(host, 3, "a", 20, SampleConfig(), clamp=HELD)


def test_clamp_holds_a_cell_at_a_value(rnn, model):
    plain, held = (rnn("generate", "-n", 90, *args) for args in ((), ("--clamp", "0.3=1.5", "--clamp", "1.0=-2")))
    assert held.code == plain.code == 0 and held.err == ""
    wanted = "".join(rnncore.generate(model, length=90, clamp={(0, 3): 1.5, (1, 0): -2.0}))
    assert held.out.rstrip("\n") == wanted.rstrip("\n") != plain.out.rstrip("\n")
    greedy = rnn("generate", "-n", 90, "--greedy", "--count", 2, "--clamp", "1.15=3e1").out
    wanted = "".join(rnncore.generate(model, length=90, temperature=0, clamp={(1, 15): 30.0}))
    assert greedy == 2 * (wanted if wanted.endswith("\n") else f"{wanted}\n")


@pytest.mark.parametrize("value, words", [
    ("2.0=1", "there is no cell 2.0: layers are 0 to 1, cells 0 to 15"), ("0.16=1", "cells 0 to 15"), ("1.3=nan", "finite"),
    ("1.3=inf", "finite"), ("1.3=-inf", "finite"), ("1.3=1e39", "finite"), ("1.3=", "LAYER.CELL=VALUE"), ("1.3", "LAYER.CELL=VALUE"),
    ("1=3", "LAYER.CELL=VALUE"), ("-1.3=1", "LAYER.CELL=VALUE"), ("1.-3=1", "LAYER.CELL=VALUE"), ("1.3=x", "LAYER.CELL=VALUE"),
    ("", "LAYER.CELL=VALUE"), ("1.3=1 --clamp 1.3=2", "1.3 is given twice")])
def test_clamp_refuses_cells_and_values_that_are_none(rnn, value, words):
    for more in ((), ("--count", 2)):
        assert words in refused(rnn("generate", "--clamp", *value.split(" "), *more), 2)


def test_negative_cells_are_no_cells(model):
    for at in ((-1, 0), (0, -1), (2, 0), (0, 16)):
        with pytest.raises(ConfigError, match="there is no cell"):
            rnncore.generate(model, clamp={at: 1.0})
        with pytest.raises(ConfigError, match="there is no cell"):
            Stepper(model.params, {at: 1.0})


def test_marks_stand_under_symbols_of_any_width(capsys, tmp_path, monkeypatch):
    """Wide ones, those that combine, and the bytes of a model of bytes."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "100")
    text = "日本語(1) a\u0301 \x03b\n" * 30
    corpus(tmp_path, text, "t")
    for vocab in (Vocab.from_text(text), Vocab.from_code_points(range(256), "byte")):
        model = build(len(vocab), dtype="float32", scale=1.5)
        model.vocab = vocab
        rnncore.save(model, "m")
        lines = call(capsys, "neurons", "m", "t", "--probe", "digit", "--most", 1).out.splitlines()
        (row,) = (place for place, line in enumerate(lines) if line.startswith("  digit "))
        cell = atlas(model, text if vocab.level == "char" else text.encode())
        (layer, place, r), *_ = cell.ranking["digit"]
        shown, marks = lines[row].split(f"{r:+.2f}   ")[1].rstrip(), lines[row + 1][cell_len(lines[row].split(f"{r:+.2f}   ")[0]) + 8:]
        symbols = [symbol for symbol in shown if cell_len(symbol)]
        assert "�" not in shown and "æ" not in shown and len(symbols) > 20
        values = np.sign(r) * cell.cells[layer, place]
        high = values > (values.min() + values.max()) / 2
        wanted = {"".join(" ^"[bool(h)] * cell_len(glyph(s, vocab.level).text.strip("\n") or " ") for s, h in
                          zip(cell.text[at:at + 200], high[at:at + 200], strict=True)).rstrip()[:len(marks.rstrip())]
                  for at in range(len(cell.text) - 200)}
        assert marks.rstrip() in wanted and "^" in marks
        (tmp_path / "m").unlink()


def test_a_text_in_which_nothing_varies(rnn, tmp_path):
    corpus(tmp_path, "\n" * 300, "nl.txt")
    result = rnn("neurons", "nl.txt")
    assert result.code == 0 and result.err == "nothing that is looked for varies in this text: no cell can follow it\n"
    assert "digit" not in result.out and "layer 1" in result.out and figures(rnn("neurons", "nl.txt", "--json"))["probes"] == {}


def test_symbols_beyond_those_that_are_read_do_no_harm(rnn, tmp_path):
    corpus(tmp_path, TEXT + "\u2603", "late.txt")
    assert rnn("neurons", "late.txt", "-n", len(TEXT)).code == 0 and "'\u2603'" in refused(rnn("neurons", "late.txt"))


def test_memory_that_runs_out_has_its_cure(rnn, monkeypatch):
    def no_room(*args):
        raise MemoryError

    monkeypatch.setattr("rnncore.report.atlas.read", no_room)
    assert refused(rnn("neurons", "text.txt")).endswith("out of memory: take a smaller --length")
