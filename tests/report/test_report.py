"""The report: its figures are the engine's, its file needs nothing beside itself, and no text of others does harm."""
import base64
import dataclasses
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from conftest import build

from rnncore.cli import report
from rnncore.data.vocab import Vocab
from rnncore.measure import evaluate
from rnncore.report.atlas import Atlas
from rnncore.report.glyphs import glyph, visible
from rnncore.report.reading import read
from rnncore.report.story import Passage, Story, tell
from rnncore.runs.names import Found

for needed in report.NEEDED:
    pytest.importorskip(needed, reason=f"the report needs {needed}: pip install -e '.[report]'")
from rnncore.report import charts, page

HARM = ("</script><script>alert(1)</script>{{7*7}}{% for %}<!--<img src=x onerror=alert(2)>&lt;]]>\\u003c'\"`${1}"
        "\0\a\x1b[31m\x7f\x85\u2028\u2029\u200f\u202ebad\u202c\ufeff\ud800-\udfff\U0001f600\u0301 https://example.com\r\t\n")
ROWS = [{"step": k, "loss": 5 / k, "lr": k / 100, "grad_norm": 1 / k} | ({"val_loss": 6 / k} if k % 4 == 0 else {})
        for k in range(1, 41)]


def model_of(text: str, **sizes):
    model = build(len(set(text)), dtype="float32", **sizes)
    model.vocab = Vocab.from_text(text)
    return model


def told(model, ids) -> Story:
    """What is told of a model file alone by ids (n,) of a passage."""
    return tell(Found(Path("alone.safetensors"), None, "alone"), model, {}, Passage(ids, "a text", []), 3)


def story(text: str = HARM * 9, **more) -> Story:
    model = model_of(text)
    return dataclasses.replace(told(model, model.vocab.encode(text)), **{
        "name": text[:300], "source": text[:300], "rows": ROWS, "notes": [text], "samples": [(k, text) for k in range(20)]} | more)


@pytest.mark.parametrize("length", [2, 257, 700])
def test_surprise_is_what_score_measures(length):
    model = build(vocab_size=7)
    ids = np.random.default_rng(0).integers(0, 7, length)
    found = read(model, ids)
    nats = np.concatenate(list(evaluate.losses(model, ids)))
    assert np.array_equal(found.bits, nats / np.log(2)) and found.likely.shape == (length - 1, 5)
    state = None
    for k, symbol in enumerate(ids[:40][:-1]):
        logits, state = model.step([symbol], state)
        p = np.exp(logits[:, 0] - logits.max()) / np.exp(logits - logits.max()).sum()
        order = np.argsort(-p)[:5]
        assert np.array_equal(found.likely[k], order) and np.allclose(found.odds[k], p[order], rtol=1e-12)


def test_a_passage_of_documents_begins_anew_at_each():
    model = build(vocab_size=5)
    model.vocab = Vocab.from_code_points([3, 97, 98, 99, 100], documents="lines")
    ids = np.array([1, 2, 0, 3, 4, 0, 3, 4])
    assert np.allclose(read(model, ids).bits[2:], read(model, ids[2:]).bits)


def test_weights_that_are_too_large_are_told():
    model = build(vocab_size=3)
    model.params["head.weight"][...] = np.inf
    with pytest.raises(FloatingPointError, match="weights are too large"):
        told(model, np.array([0, 1, 2]))


def test_what_is_shown_of_a_symbol_harms_nothing():
    for symbol in sorted(set(HARM)) + ["\u2066", "\u200d", "\x03", "\ue000"]:
        for text in (visible(symbol), *glyph(symbol)):
            assert text.encode() is not None and all(c in "\n\t" or c.isprintable() or c in "\u200d\ufeff\ue000" for c in text)
        assert glyph(symbol).text != "" and (glyph(symbol).name or symbol.isalnum())


def test_a_glyph_of_a_byte_is_no_letter_above_ascii():
    assert glyph("\xe9", "byte") == ("\xb7", "byte 0xe9") and glyph("\xe9") == ("\xe9", "") and glyph("a", "byte") == ("a", "")
    assert [glyph(s).name for s in "\n\t (\0\ud800"] == ["newline", "tab", "space", "left parenthesis", "U+0000", "U+D800"]
    assert visible("a\tb\nc\u05d0 \U0001f600") == "a\tb\nc\u05d0 \U0001f600"


def test_charts_are_the_same_each_time_and_take_the_colours_of_the_page():
    first = charts.charts(ROWS, 1.5)
    assert first == charts.charts(ROWS, 1.5) and [chart.name for chart in first] == ["loss", "rate", "norm"]
    for chart in first:
        for svg in (chart.wide, chart.narrow):
            assert 'role="img"' in svg and "<title" in svg and "<desc" in svg and svg.count("<text") > 3
            assert not re.search(r"#0[1-6]|url\(|style|http|font-family|metadata|xmlns", svg)
            assert set(re.findall(r'(?:fill|stroke)="([^"]*)"', svg)) <= {"none", *charts.COLOURS.values()}
    ids = [name for chart in first for svg in {chart.wide, chart.narrow} for name in re.findall(r' id="([^"]*)"', svg)]
    assert len(ids) == len(set(ids))
    assert "5.000 at step 1 to 0.125 at step 40" in first[0].summary and "the n-gram baseline is 1.500" in first[0].summary


@pytest.mark.parametrize("rows, names", [
    ([], []), (ROWS[:1], []), ([{"step": 1, "loss": 2}, {"step": 2}], []), ([{"step": k, "loss": 2} for k in (1, 2)], ["loss"]),
    ([{"step": k, "grad_norm": 0, "lr": 0} for k in (1, 2)], ["rate"]),
    ([{"step": k, "loss": 1 / k, "lr": 1e-300} for k in range(1, 3000)], ["loss", "rate"])])
def test_charts_of_little_or_much(rows, names):
    assert [chart.name for chart in charts.charts(rows, None)] == names
    assert len(charts.table(rows)) <= charts.ROWS + 1


def test_the_table_has_the_first_the_last_and_the_best():
    rows = [{"step": k, "val_loss": abs(k - 33) + 1.0, "loss": 1.0} for k in range(1, 101)]
    steps = [row[0] for row in charts.table(rows)]
    assert steps[0] == 1 and steps[-1] == 100 and 33 in steps and len(steps) <= charts.ROWS + 1


def test_data_in_a_script_is_the_data_and_no_markup():
    text = page.embedded({"a": HARM})
    assert text.isascii() and not set(text) & set("<>&\0\n") and json.loads(text) == {"a": HARM}


class Outline(HTMLParser):
    """A page's scripts and styles, its attributes, and its Content-Security-Policy."""

    def __init__(self, text: str):
        super().__init__()
        self.attributes, self.scripts, self.tags, self.policy = [], [], [], ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, name, value) for name, value in attrs]
        if tag == "meta" and dict(attrs).get("http-equiv") == "Content-Security-Policy":
            self.policy = dict(attrs)["content"]

        if tag in ("script", "style"):
            self.scripts.append([tag, ""])

    def handle_endtag(self, tag):
        self.tags.append("/" + tag)

    def handle_data(self, data):
        if self.tags[-1:] in (["script"], ["style"]):
            self.scripts[-1][1] += data


def test_a_page_of_harmful_texts_is_of_our_scripts_alone():
    text = page.render(story())
    found = Outline(text)
    assert [tag for tag, _ in found.scripts] == ["style", "script", "script"]
    (_, style), (_, data), (_, script) = found.scripts
    assert found.policy.startswith("default-src 'none'") and "unsafe" not in found.policy and "http" not in found.policy
    assert page.digest(style) in found.policy and page.digest(script) in found.policy
    assert not re.search(r"http:|https:|//|url\(|@import", style + script) and not re.search(r"https?:", data)
    for tag, name, value in found.attributes:
        assert not name.startswith("on") and name not in ("style", "srcset", "action"), (tag, name)
        assert name not in ("src", "href") or value == "data:," or value.startswith("#"), (tag, name, value)
        assert name in ("aria-label", "content") or not re.search(r"https?:|//|url\(", value or ""), (tag, name, value)
    assert "49" not in re.findall(r"<h1>(.*?)</h1>", text, re.DOTALL)[0] and "{{7*7}}" in text and text.encode()
    assert not set(text) & set("\0\a\x1b\x7f\x85\u2028\u2029\u202e\ud800")


@pytest.mark.parametrize("sizes, left", [((2, 128), 0), ((2, 2048), 1), ((1, 4), 0)])
def test_cells_are_left_out_where_there_is_no_room(sizes, left):
    layers, hidden = sizes
    n, rng = 1100, np.random.default_rng(0)
    cells = rng.uniform(-1, 1, (layers, hidden, n)).astype(np.float32)
    probes = {"digit": rng.integers(0, 2, n).astype(float)}
    ranking = {"digit": [(layers - 1, hidden - 1, -0.9), (0, 2, 0.5), (0, 1, 0.4)]}
    atlas = Atlas("ab\n" * (n // 3) + "ab", cells, probes, ranking, [{"input": (0.1, 0.2)}] * layers)
    found = page.cells(atlas, 2)
    shown = found["shown"]
    values = np.frombuffer(base64.b64decode(found["values"]), np.int8).reshape(-1, shown)
    assert len(found["values"]) < 2.2e6 and bool(page.left_out(atlas)) == bool(left)
    assert (len(found["cells"]) < layers * hidden) == bool(left) and found["cells"] == sorted(found["cells"])
    best = [found["cells"][place] for place, _ in found["probes"][0]["best"]]
    assert best == [(layers - 1, hidden - 1), (0, 2)] and found["probes"][0]["about"]
    assert np.abs(values[found["cells"].index((0, 2))] / 127 - cells[0, 2, :shown]).max() < 0.5 / 127 + 1e-6


def test_a_page_of_any_model_is_below_3_mb():
    """Of cells whose base64 is all slashes, too."""
    told = story("".join(map(chr, range(64, 127))) * 70)
    n, hidden = len(told.atlas.text), 512
    cells = np.full((3, hidden, n), -1 / 127, np.float32)
    wide = dataclasses.replace(told.atlas, cells=cells, ranking={"digit": [(2, 511, -0.9)]}, probes={"digit": np.ones(n)})
    assert 2e6 < len(page.render(dataclasses.replace(told, atlas=wide)).encode()) < 3e6


@pytest.mark.parametrize("text, wanted", [
    ("a" * 300 + "\n" + "b1" * 200 + "\n" + "c" * 700, (301, 702)),         # a line in which it varies, to its end
    ("x1\n" * 300, (0, 3 * page.LINES)), ("a" * 100, (0, 100)),            # so many lines; all there is
    ("a" * 420 + "1a" * 210 + "a" * 420, (420, 840)), ("\n" * 500, (0, page.LINES))])
def test_an_excerpt_is_where_a_probe_varies_most(text, wanted):
    probe = np.array([symbol == "1" for symbol in text], float)
    begin, end = page.excerpt(probe, text)
    assert (begin, min(end, wanted[1])) == wanted and end - begin <= page.EXCERPT
    assert text[begin:end - 1].count("\n") < page.LINES


def luminance(colour: str) -> float:
    """Relative luminance, as WCAG 2 has it."""
    parts = [int(colour[k:k + 2], 16) / 255 for k in (1, 3, 5)]
    return sum(w * (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4)
               for w, c in zip((0.2126, 0.7152, 0.0722), parts, strict=True))


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_every_colour_has_enough_contrast(theme):
    """Text 4.5 to 1, lines 3 to 1 (WCAG 2, AA)."""
    css = (page.TEMPLATES / "page.css").read_text()
    part = css[css.index(f"color-scheme: {theme}"):][:900]
    colours = dict(reversed(re.findall(r"--([\w-]+): (#\w{6})", part)))

    def contrast(a: str, b: str) -> float:
        low, high = sorted(luminance(colours[name]) for name in (a, b))
        return (high + 0.05) / (low + 0.05)

    marks = [f"{kind}{level}" for kind, most in (("b", 5), ("n", 4), ("p", 4)) for level in range(1, most + 1)]
    for mark in marks:
        ink = f"{mark}-ink" if f"{mark}-ink" in colours else "ink"
        assert contrast(mark, ink) >= 4.5, mark
    for ink in ("ink", "faint", "accent"):
        assert contrast(ink, "paper") >= 4.5 and contrast(ink, "raised") >= 4.5, ink
    assert all(contrast(line, "paper") >= 3 for line in ("train", "validation", "floor"))


def test_an_end_of_a_document_ends_a_line():
    assert glyph("\x03") == ("\u2403\n", "end of the document") and glyph("\x03", "byte") == ("\u2403", "U+0003")
    text = "ab1\x03" * 200
    begin, end = page.excerpt(np.array([symbol == "1" for symbol in text], float), text)
    assert end - begin == 4 * page.LINES
