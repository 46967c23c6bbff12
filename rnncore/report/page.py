"""The page of a report: one HTML file about one model, which needs no other file and no network."""
import base64
import hashlib
import json
import re
from bisect import bisect
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from ..data.endings import END
from . import charts
from .atlas import Atlas
from .glyphs import glyph, visible
from .probes import PROBES
from .story import Story

T = TypeVar("T")
TEMPLATES = Path(__file__).parent / "templates"
SCRIPTS = "text.js", "atlas.js", "page.js"
SAMPLES = 8            # samples of the training run that are shown, at most
CELL_BYTES = 3 << 19   # bytes of the cells' values, at most; in base64 a third more, so the page stays below 3 MB
# The cells are shown over SHOWN symbols. With many cells, fewer symbols are shown, but at least FEWEST. With still more
# cells, some cells are left out.
SHOWN = 2000           # symbols
FEWEST = 1000          # symbols
LINE_ENDS = {"\n", END}
EXCERPT, LINES = 420, 11  # symbols and lines in a probe's excerpt, at most


def render(story: Story) -> str:
    """Return the page as HTML.

    Text from the model, the run and the corpus is escaped. The page's Content-Security-Policy allows only the page's
    own scripts and styles, by their hashes. So no text that is shown can run as a script.
    """
    import jinja2

    environment = jinja2.Environment(loader=jinja2.FileSystemLoader(TEMPLATES), autoescape=True, trim_blocks=True,
                                     lstrip_blocks=True, undefined=jinja2.StrictUndefined,
                                     finalize=lambda value: visible(value) if type(value) is str else value)
    safe, escape = environment.filters["safe"], environment.filters["escape"]
    environment.filters["indented"] = lambda text: safe(indented(str(escape(visible(text)))))
    script = "".join((TEMPLATES / name).read_text(encoding="utf-8") for name in SCRIPTS)
    style = environment.get_template("page.css").render()
    drawn = [{"chart": chart, "wide": safe(chart.wide), "narrow": safe(chart.narrow)}
             for chart in charts.charts(story.rows, story.floor, story.unit, story.validation_size)]
    return environment.get_template("page.html").render(
        story=story, drawn=drawn,
        sampled=charts.measured(story.rows, story.validation_size, story.unit)[0], table=charts.table(story.rows),
        samples=some(story.samples),
        bits=float(story.passage.bits.mean()), atlas=story.atlas, left_out=left_out(story.atlas),
        data=safe(embedded(data(story))),
        script=safe(script), style=safe(style), hashes={"script": digest(script), "style": digest(style)})


def indented(markup: str) -> str:
    """Return escaped text in which a browser may break the first word of each indented line anywhere.

    Otherwise a word that is too long for the rest of its line would move to the next line, and the indent would stand
    alone as a blank line.
    """
    return re.sub(r"(?m)^([^\S\n]+)(\S+)", r'\1<span class="first">\2</span>', markup)


def some(samples: list[T]) -> list[T]:
    """Return at most SAMPLES of the samples, evenly spread, with the first and the last."""
    return [samples[k] for k in np.linspace(0, len(samples) - 1, SAMPLES).round().astype(int)] \
        if len(samples) > SAMPLES else samples


def digest(text: str) -> str:
    """Return the hash of a script or style in the form of a Content-Security-Policy."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def embedded(found: dict[str, Any]) -> str:
    """Return JSON that can stand inside a script element: ASCII without <, > and &."""
    text = json.dumps(found, separators=(",", ":"))
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def data(story: Story) -> dict[str, Any]:
    """Return the data that the scripts draw: the glyph of each symbol, and arrays as base64, little-endian."""
    passage = story.passage
    predicted = (story.vocab.symbols[k] for k in np.unique(np.concatenate([passage.ids, passage.likely.ravel()])))
    symbols = "".join(sorted({*story.atlas.text, *predicted}))
    local = np.zeros(len(story.vocab), np.uint16)
    places = story.vocab.places(symbols)
    local[places[places >= 0]] = np.flatnonzero(places >= 0)
    return {"unit": story.unit, "glyphs": [glyph(symbol, story.vocab.level) for symbol in symbols],
            "passage": {"ids": packed(local[passage.ids], "<u2"), "runners": passage.likely.shape[1],
                        "bits": packed((100 * passage.bits).round().clip(0, 65535), "<u2"),
                        "likely": packed(local[passage.likely], "<u2"),
                        "odds": packed((65535 * passage.odds).round().clip(0, 65535), "<u2")},
            "atlas": {"ids": packed([symbols.index(symbol) for symbol in story.atlas.text], "<u2"),
                      **cells(story.atlas, story.best)}}


def packed(array: np.ndarray | list[int], dtype: str) -> str:
    """Return an array of this dtype as base64."""
    return base64.b64encode(np.ascontiguousarray(array, dtype).tobytes()).decode()


def shown(atlas: Atlas) -> int:
    """Return the number of symbols, from the beginning of the atlas's text, over which the cells are shown."""
    return min(len(atlas.text), SHOWN, max(FEWEST, CELL_BYTES // (atlas.cells.shape[0] * atlas.cells.shape[1])))


def kept(atlas: Atlas) -> list[tuple[int, int]]:
    """Return (layer, cell) of the cells that are shown, in order: all of them, if they take at most CELL_BYTES bytes.

    Otherwise as many as fit are chosen: first the cells in the rankings, by |r|, then those with the largest standard
    deviation.
    """
    layers, hidden, _ = atlas.cells.shape
    most = max(1, CELL_BYTES // shown(atlas))
    if layers * hidden <= most:
        return [divmod(place, hidden) for place in range(layers * hidden)]
    ranked = sorted((pair for pairs in atlas.ranking.values() for pair in pairs), key=lambda pair: -abs(pair[2]))
    lively = np.argsort(-atlas.cells.std(axis=2).ravel(), kind="stable")[:most]
    wanted = dict.fromkeys([(layer, cell) for layer, cell, _ in ranked]
                           + [divmod(place, hidden) for place in lively.tolist()])
    return sorted(list(wanted)[:most])


def cells(atlas: Atlas, best: int) -> dict[str, Any]:
    """Return the data of the atlas: 127 tanh(c) of the cells, which cells they are, and a picture for each probe.

    A picture is a probe, its `best` cells with the largest |r| and an excerpt of the text. A cell's value is one byte.
    """
    wanted, symbols = kept(atlas), shown(atlas)
    values = np.stack([atlas.cells[layer, cell, :symbols] for layer, cell in wanted])
    place = {pair: k for k, pair in enumerate(wanted)}
    probes: list[dict[str, Any]] = [
        {"name": name, "about": about(name), "excerpt": excerpt(atlas.probes[name][:symbols], atlas.text),
         "best": [[place[layer, cell], round(r, 3)] for layer, cell, r in pairs[:best] if (layer, cell) in place]}
        for name, pairs in atlas.ranking.items()]
    probes.sort(key=lambda probe: -abs(probe["best"][0][1]) if probe["best"] else 0)
    return {"cells": wanted, "shown": symbols, "values": packed((127 * values).round(), "<i1"), "probes": probes}


def about(name: str) -> str:
    """Return the first line of a probe's docstring, which tells a user what the probe is."""
    return (PROBES[name].__doc__ or "").strip().partition("\n")[0] if name in PROBES else ""


def excerpt(probe: np.ndarray, text: str) -> tuple[int, int]:
    """Return (begin, end) of the part of the text over which the probe (n,) has the largest standard deviation.

    A part begins with a line and has at most LINES lines and EXCERPT symbols. Within a line that is longer than EXCERPT
    symbols, parts begin at every multiple of EXCERPT too.
    """
    symbols = len(probe)
    lines = [k + 1 for k in range(symbols - 1) if text[k] in LINE_ENDS]
    within = [k for k in range(0, symbols, EXCERPT) if bisect(lines, k) == bisect(lines, k - EXCERPT)]
    starts = {0, *(k for k in (*lines, *within) if k + EXCERPT <= symbols)}

    def end(begin: int) -> int:
        """Return the end of the part that begins at `begin`.

        It is the end of the last line that fits, if the part then has LINES lines or more than half of EXCERPT symbols;
        else it is EXCERPT symbols after `begin`, or the end of the text.
        """
        last, after = min(begin + EXCERPT, symbols), bisect(lines, begin)
        ends = [k for k in lines[after:after + LINES] if k <= last]
        return ends[-1] if len(ends) == LINES or ends and ends[-1] > begin + EXCERPT // 2 else last

    begin = max(sorted(starts), key=lambda start: probe[start:end(start)].std())
    return begin, end(begin)


def left_out(atlas: Atlas) -> list[str]:
    """Return a sentence for each thing that the page leaves out of the atlas: cells and text."""
    layers, hidden, _ = atlas.cells.shape
    found, number = [], len(kept(atlas))
    if number < layers * hidden:
        found.append(f"{number:,} of {layers * hidden:,} cells are in this file, which has no room for all: those that "
                     "follow something best, then the liveliest.")
    if shown(atlas) < len(atlas.text):
        found.append(f"Correlations and gates are over {len(atlas.text):,} symbols; the text is shown up to the "
                     f"{shown(atlas):,}th.")
    return found
