"""`rnncore neurons` finds the cells of a model that follow a probe: quotes, brackets, lines and others."""
import json

import click
from rich import box
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

from rnncore.runs.lock import RunError

from . import options, texts
from .terminal.progress import tell

LENGTH = 20_000  # symbols to read by default; they take a minute at most on a CPU
BESIDE = 48      # columns of the terminal that the table needs beside the excerpt
LEAST = 24       # symbols in an excerpt, at least


@click.command(cls=options.Command)
@click.argument("run")
@click.argument("text")
@click.option("--most", type=options.Whole(1), metavar="K",
              help="Cells to show for each probe. [default: 3; with --json 10]")
@click.option("--probe", metavar="NAME", help="Show this probe only.")
@click.option("--length", "-n", type=options.Whole(2), default=LENGTH,
              help="Number of symbols to read, from the beginning of TEXT.")
@click.option("--cells", is_flag=True,
              help="With --json: add the values of tanh(c) and of the probes after every symbol.")
@texts.options_of
@options.ON_UNKNOWN
@options.JSON
@options.DEVICE
def command(run, text, most, probe, length, cells, on_unknown, as_json, device, **how):
    """Find the cells of the model RUN that follow a probe of TEXT.

    RUN is a run folder, a model file or a pretrained model. TEXT is a file, a folder, - for stdin, or a named corpus. A
    probe is a number that is computed from the text alone: inside quotes or not, bracket depth and so on. r is the
    correlation of a cell's tanh(c) with the probe over the text. A cell is written LAYER.CELL, counted from 0, as in
    `rnncore generate --clamp`.
    """
    from rnncore.report.atlas import FEW, MOST, atlas
    from rnncore.report.probes import PROBES
    if cells and not as_json:
        raise click.UsageError("--cells without --json: add it, or leave --cells out")
    if probe and probe not in PROBES:
        raise click.BadParameter(f"{probe!r} is none of {', '.join(PROBES)}", param_hint="--probe")
    path, model, _ = options.open_model(run, device)
    passage, corpus = texts.beginning(model.vocab, text, length, how)
    notes = [*corpus.notes]
    if corpus.characters > length:
        notes.append(f"read the first {length:,} of {corpus.characters:,} symbols (--length changes it)")
    try:
        found = atlas(model, passage, most or (MOST if as_json else 3), on_unknown)
    except MemoryError:
        raise RunError("out of memory: take a smaller --length") from None
    if len(found.text) < FEW:
        notes.append(f"over {len(found.text)} symbols correlations mean little: give a longer text")
    if not found.ranking:
        notes.append("nothing that is looked for varies in this text: no cell can follow it")
    for note in notes:
        tell(note)
    if probe and probe not in found.probes:
        raise RunError(f"{probe} is the same all over this text: no cell can follow it; give another text")
    ranking = {name: ranked for name, ranked in found.ranking.items() if probe in (None, name)}
    if as_json:
        click.echo(json.dumps(data(path, text, found, ranking, cells)))
    else:
        show(found, ranking, model.vocab.level)


def data(path, text: str, found, ranking: dict, cells: bool) -> dict:
    """Return the result for --json.

    found: a report.atlas.Atlas; ranking: probe -> its best cells; cells: True to add the values of all cells, rounded
    to 4 digits, and of the probes, after every symbol.
    """
    from rnncore.report.probes import PROBES
    layers, hidden, length = found.cells.shape
    figures = {
        "model": str(path), "text": text, "symbols": length, "layers": layers, "hidden": hidden,
        "probes": {name: {"about": " ".join((PROBES[name].__doc__ or "").split()),
                          "cells": [{"layer": layer, "cell": cell, "r": r} for layer, cell, r in ranked]}
                   for name, ranked in ranking.items()},
        "saturation": [{gate: {"below_0.1": low, "above_0.9": high} for gate, (low, high) in layer.items()}
                       for layer in found.saturation]}
    if cells:
        figures |= {"passage": found.text, "values": {name: found.probes[name].tolist() for name in ranking},
                    "cells": found.cells.round(4).astype(float).round(4).tolist()}
    return figures


def show(found, ranking: dict, level: str) -> None:
    """Print the best cells of each probe with an excerpt of the text, and how often gates are shut or open."""
    console = Console(highlight=False, markup=False)
    table = Table("probe", "cell", "r", "^ cell high (low if r < 0)", box=box.SIMPLE_HEAD, caption_justify="left",
                  caption="cell: LAYER.CELL, from 0; r: correlation of its tanh(c) with the probe")
    width = max(LEAST, console.width - BESIDE)
    for name, ranked in ranking.items():
        place = liveliest(found.probes[name], width)
        for row, (layer, cell, r) in enumerate(ranked):
            marked = excerpt(found.text, found.cells[layer, cell] * (1 if r > 0 else -1), place, level)
            table.add_row("" if row else name, f"{layer}.{cell}", f"{r:+.2f}", marked)
    if ranking:
        console.print(table)
    gates = [f"{gate} {how}" for gate in found.saturation[0] for how in ("shut", "open")]
    table = Table("share of time", *gates, box=box.SIMPLE_HEAD, caption="shut: below 0.1; open: above 0.9",
                  caption_justify="left")
    for layer, shares in enumerate(found.saturation):
        table.add_row(f"layer {layer}", *(f"{share:.1%}" for pair in shares.values() for share in pair))
    console.print(table)


def liveliest(values, width: int) -> slice:
    """Return the slice of `width` symbols in which a probe (n,) has its largest variance; the first of several."""
    import numpy as np
    width = min(width, len(values))
    mean, mean_square = (np.convolve(part, np.full(width, 1 / width), "valid") for part in (values, values ** 2))
    start = int(np.argmax(np.round(mean_square - mean ** 2, 6)))
    return slice(start, start + width)


def excerpt(text: str, cell, place: slice, level: str):
    """Return two lines of rich Text: a part of the passage, and a mark below each symbol where the cell is high.

    cell (n,): its value after every symbol. High means above the middle between its least and its largest value.
    """
    from rnncore.report.glyphs import glyph
    high, shown, marks = cell[place] > (float(cell.min()) + float(cell.max())) / 2, "", ""
    for symbol, is_high in zip(text[place], high, strict=True):
        sign = glyph(symbol, level).text.rstrip("\n\t")
        shown += sign
        marks += " ^"[bool(is_high)] * cell_len(sign)
    return Text(f"{shown}\n{marks.rstrip()}", no_wrap=True, overflow="crop")
