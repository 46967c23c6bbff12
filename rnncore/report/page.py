"""A page tells of one model in one HTML file that needs nothing beside itself: no other file, no network."""
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
SAMPLES = 8          # shown of those made on the way
ROOM = 3 << 19       # bytes of cells: as base64 a third more, so that the page stays below 3 MB
SHOWN = 2000         # symbols that cells are shown over,
FEWEST = 1000        # so many where there are many cells: below, it is cells that are left out
LINE_ENDS = {"\n", END}
EXCERPT, LINES = 420, 11  # symbols and lines of a probe's picture, at most


def render(story: Story) -> str:
    """The page. Texts of others are escaped, and only the scripts and styles that came with it may run."""
    import jinja2

    environment = jinja2.Environment(loader=jinja2.FileSystemLoader(TEMPLATES), autoescape=True, trim_blocks=True,
                                     lstrip_blocks=True, undefined=jinja2.StrictUndefined,
                                     finalize=lambda value: visible(value) if type(value) is str else value)
    safe, escape = environment.filters["safe"], environment.filters["escape"]
    environment.filters["indented"] = lambda text: safe(indented(str(escape(visible(text)))))
    script = "".join((TEMPLATES / name).read_text(encoding="utf-8") for name in SCRIPTS)
    style = environment.get_template("page.css").render()
    drawn = [{"chart": chart, "wide": safe(chart.wide), "narrow": safe(chart.narrow)}
             for chart in charts.charts(story.rows, story.floor, story.unit, story.there)]
    return environment.get_template("page.html").render(
        story=story, drawn=drawn,
        sampled=charts.measured(story.rows, story.there, story.unit)[0], table=charts.table(story.rows),
        samples=some(story.samples),
        bits=float(story.passage.bits.mean()), atlas=story.atlas, left_out=left_out(story.atlas),
        data=safe(embedded(data(story))),
        script=safe(script), style=safe(style), hashes={"script": digest(script), "style": digest(style)})


def indented(markup: str) -> str:
    """Return escaped text in which the first word of each indented line may be broken anywhere.

    Else such a word, longer than what the indent leaves of the line, would begin a new one below a blank.
    """
    return re.sub(r"(?m)^([^\S\n]+)(\S+)", r'\1<span class="first">\2</span>', markup)


def some(samples: list[T]) -> list[T]:
    """At most SAMPLES of them, evenly spread, the first and the last among them."""
    return [samples[k] for k in np.linspace(0, len(samples) - 1, SAMPLES).round().astype(int)] \
        if len(samples) > SAMPLES else samples


def digest(text: str) -> str:
    """What a Content-Security-Policy knows a script or style by."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def embedded(found: dict[str, Any]) -> str:
    """JSON that may stand inside a script element: it has no <, > or &, and nothing but ASCII."""
    text = json.dumps(found, separators=(",", ":"))
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def data(story: Story) -> dict[str, Any]:
    """What the scripts draw: symbols once, and arrays as base64 of little-endian numbers."""
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
    """An array as base64."""
    return base64.b64encode(np.ascontiguousarray(array, dtype).tobytes()).decode()


def shown(atlas: Atlas) -> int:
    """How many symbols of the atlas's text the cells are shown over."""
    return min(len(atlas.text), SHOWN, max(FEWEST, ROOM // (atlas.cells.shape[0] * atlas.cells.shape[1])))


def kept(atlas: Atlas) -> list[tuple[int, int]]:
    """(layer, cell) of those that there is room for: all, or those that follow a probe best and then the liveliest."""
    layers, hidden, _ = atlas.cells.shape
    most = max(1, ROOM // shown(atlas))
    if layers * hidden <= most:
        return [divmod(place, hidden) for place in range(layers * hidden)]
    ranked = sorted((pair for pairs in atlas.ranking.values() for pair in pairs), key=lambda pair: -abs(pair[2]))
    lively = np.argsort(-atlas.cells.std(axis=2).ravel(), kind="stable")[:most]
    wanted = dict.fromkeys([(layer, cell) for layer, cell, _ in ranked]
                           + [divmod(place, hidden) for place in lively.tolist()])
    return sorted(list(wanted)[:most])


def cells(atlas: Atlas, best: int) -> dict[str, Any]:
    """The cells as 127 tanh(c), which of them there are, and the pictures: a probe, its best cells, an excerpt."""
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
    """What a probe is, in a line."""
    return (PROBES[name].__doc__ or "").strip().partition("\n")[0] if name in PROBES else ""


def excerpt(probe: np.ndarray, text: str) -> tuple[int, int]:
    """(begin, end) of the stretch over which the probe (n,) varies most: lines; of long ones, EXCERPT symbols."""
    symbols = len(probe)
    lines = [k + 1 for k in range(symbols - 1) if text[k] in LINE_ENDS]
    within = [k for k in range(0, symbols, EXCERPT) if bisect(lines, k) == bisect(lines, k - EXCERPT)]
    starts = {0, *(k for k in (*lines, *within) if k + EXCERPT <= symbols)}

    def end(begin: int) -> int:
        """Where a stretch ends: after so many lines or symbols; with a line where it is more than half as long."""
        last, after = min(begin + EXCERPT, symbols), bisect(lines, begin)
        ends = [k for k in lines[after:after + LINES] if k <= last]
        return ends[-1] if len(ends) == LINES or ends and ends[-1] > begin + EXCERPT // 2 else last

    begin = max(sorted(starts), key=lambda start: probe[start:end(start)].std())
    return begin, end(begin)


def left_out(atlas: Atlas) -> list[str]:
    """What the page leaves out of the atlas, a sentence each."""
    layers, hidden, _ = atlas.cells.shape
    found, number = [], len(kept(atlas))
    if number < layers * hidden:
        found.append(f"{number:,} of {layers * hidden:,} cells are in this file, which has no room for all: those that "
                     "follow something best, then the liveliest.")
    if shown(atlas) < len(atlas.text):
        found.append(f"Correlations and gates are over {len(atlas.text):,} symbols; the text is shown up to the "
                     f"{shown(atlas):,}th.")
    return found
