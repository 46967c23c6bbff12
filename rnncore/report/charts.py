"""Charts of a training run: loss, learning rate and gradient norm, as SVG with the colours and fonts of its page."""
import io
import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING, Any, TypeAlias
from xml.etree import ElementTree

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Row: TypeAlias = dict[str, Any]                  # one line of metrics.jsonl
Line: TypeAlias = tuple[np.ndarray, np.ndarray]  # steps (n,) and values (n,)
POINTS = 400   # points of a drawn line, at most; more are averaged
ROWS = 12      # rows of a table, at most, beside the best one
KEPT = 0.97    # share of the training losses that fit on the axis: the high losses of the first steps are cut off
MARGIN = 0.04  # empty share of the axis above and below the lines
# matplotlib takes no CSS variables. So it draws in colours that no chart uses otherwise, and `_attributes` replaces
# each of them by the page's colour.
COLOURS = {"#010101": "currentColor", "#020202": "var(--faint)", "#030303": "var(--rule)", "#040404": "var(--train)",
           "#050505": "var(--validation)", "#060606": "var(--floor)"}
INK, FAINT, RULE, TRAIN, VALIDATION, FLOOR = COLOURS
WIDE, NARROW, SMALL = (7.7, 3.0), (4.0, 3.1), (4.0, 2.0)  # inches, width and height; an inch is 72 units of the SVG
FONTS = {"font-family", "font", "font-style", "font-weight", "font-variant", "font-stretch"}  # left to the page's style
LINK = "{http://www.w3.org/1999/xlink}href"


@dataclass(frozen=True)
class Chart:
    """A chart as SVG, for a wide and for a narrow page, and in words for people who cannot see it."""
    name: str     # loss, rate or norm
    title: str
    summary: str  # the chart in words
    wide: str     # SVG element for a wide page
    narrow: str   # SVG element for a narrow page; the same as `wide` for a small chart


def charts(rows: list[Row], floor: float | None, unit: str = "character",
           validation_size: int | None = None) -> list[Chart]:
    """Return the charts of loss, learning rate and gradient norm that have at least two points.

    rows: of metrics.jsonl; floor: the n-gram baseline in nats per character, or None; unit: the word for a symbol;
    validation_size: the number of symbols of the whole validation text, or None if it is not known. A gradient norm
    that is 0 somewhere has no chart, because its axis is logarithmic.
    """
    on, end = measured(rows, validation_size, unit)
    train, validation, rate, norm = (line(rows, name) for name in ("loss", "val_loss", "lr", "grad_norm"))
    found = []
    if len(train[0]) > 1:
        title = f"Loss, nats per {unit}" + f"; of the validation text {on}" * bool(on)
        found.append(_chart("loss", title, _losses(train, validation, floor, on, end),
                            lambda axes: _draw_loss(axes, train, validation, floor), (WIDE, NARROW)))
    for name, title, drawn, noun, scale in (("rate", "Learning rate", rate, "The learning rate", "linear"),
                                            ("norm", "Gradient norm", norm, "The norm of the gradient", "log")):
        if len(drawn[0]) > 1 and (scale == "linear" or drawn[1].min() > 0):
            found.append(_chart(name, title, _range(noun, drawn),
                                partial(_draw_line, drawn=drawn, scale=scale), (SMALL, SMALL)))
    return found


def measured(rows: list[Row], validation_size: int | None, unit: str = "character") -> tuple[str, str]:
    """Return two phrases: the sample that the evaluations in mid-run use, and the result of the evaluation at the end.

    Both are "" unless the evaluations use a sample: fewer symbols than the whole validation text has, or than the
    evaluation at the end used. The second is "" too if there was no evaluation at the end.
    """
    row: Row = next((row for row in reversed(rows) if "val_loss" in row), {})
    few, many, loss = (row.get(name) for name in ("val_chars", "val_chars_of_all", "val_loss_of_all"))
    sampled = few is not None and few < max(validation_size or 0, many or 0)
    end = f"over {many:,} {unit}s it is {loss:.3f} at the end" if sampled and None not in (many, loss) else ""
    return (f"on a sample of {few:,} {unit}s" if sampled else ""), end


def line(rows: list[Row], name: str) -> Line:
    """Return the steps and the values of the rows that have a number under this name."""
    found = [(row["step"], row[name]) for row in rows if isinstance(row.get(name), (int, float))]
    steps, values = np.array(found, np.float64).reshape(-1, 2).T
    return steps, values


def thinned(drawn: Line) -> Line:
    """Return the line with at most POINTS points; each is the mean of neighbouring points."""
    edges = np.linspace(0, len(drawn[0]), min(POINTS, len(drawn[0])) + 1).astype(int)
    steps, values = (np.array([part[a:b].mean() for a, b in pairwise(edges)]) for part in drawn)
    return steps, values


def table(rows: list[Row]) -> list[tuple[int, float | None, float, float, float]]:
    """Return (step, training loss, validation loss, learning rate, gradient norm) of evaluations, in order of steps.

    Of many evaluations, ROWS are taken, evenly spread, with the first and the last; the best one is always added. A run
    without evaluations is shown by its training losses. Losses are in nats per symbol.
    """
    found = [row for row in rows if isinstance(row.get("val_loss"), (int, float))]
    if not found:
        found = [row for row in rows if isinstance(row.get("loss"), (int, float))]
    best = min(range(len(found)), key=lambda k: found[k].get("val_loss") or np.inf, default=0)
    places = {best, *np.linspace(0, len(found) - 1, min(ROWS, len(found))).astype(int).tolist()} if found else set()
    return [tuple(found[k].get(name) for name in ("step", "loss", "val_loss", "lr", "grad_norm"))
            for k in sorted(places)]


def _losses(train: Line, validation: Line, floor: float | None, on: str, end: str) -> str:
    """Return the chart of the losses in words; on and end: the phrases of `measured`."""
    words = [f"The training loss goes from {train[1][0]:.3f} at step {train[0][0]:,.0f} "
             f"to {train[1][-1]:.3f} at step {train[0][-1]:,.0f}"]
    if len(validation[0]):
        best = validation[1].argmin()
        words.append(f"the lowest validation loss{' ' * bool(on)}{on} is {validation[1][best]:.3f}, "
                     f"at step {validation[0][best]:,.0f}")
    if end:
        words.append(end)
    if floor is not None:
        words.append(f"the n-gram baseline is {floor:.3f}")
    if train[1].max() > _top(train, validation, floor):
        words.append(f"what is above {_top(train, validation, floor):.2f} is cut off")
    return "; ".join(words) + "."


def _range(noun: str, drawn: Line) -> str:
    """Return a line in words: its first, last, largest and smallest value."""
    steps, values = drawn
    return (f"{noun} goes from {values[0]:.3g} to {values[-1]:.3g}; it is {values.max():.3g} at most, "
            f"at step {steps[values.argmax()]:,.0f}, and {values.min():.3g} at least.")


def _top(train: Line, validation: Line, floor: float | None) -> float:
    """Return the upper end of the axis of the losses: at most a share 1 - KEPT of the training losses is above it."""
    return max([np.quantile(train[1], KEPT), *validation[1], *([floor] if floor else [])])


def _draw_loss(axes: "Axes", train: Line, validation: Line, floor: float | None) -> None:
    """Draw the losses and the n-gram baseline."""
    top = _top(train, validation, floor)
    axes.plot(*thinned(train), color=TRAIN, linewidth=1, label="training")
    if len(validation[0]):
        axes.plot(*thinned(validation), color=VALIDATION, linewidth=1.6, marker="o", markersize=3.5, label="validation")
    if floor is not None:
        axes.axhline(floor, color=FLOOR, linewidth=1.4, linestyle=(0, (5, 3)), label="n-gram baseline")
    bottom = min([*train[1], *validation[1], *([floor] if floor else [])])
    margin = MARGIN * (top - bottom or 1)
    axes.set_ylim(bottom - margin, top + margin)
    axes.legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=3, frameon=False, labelcolor=INK, handlelength=2.2,
                borderpad=0, columnspacing=1.4)


def _draw_line(axes: "Axes", drawn: Line, scale: str) -> None:
    """Draw one line; scale: of the vertical axis, linear or log."""
    from matplotlib.ticker import LogLocator, StrMethodFormatter

    axes.plot(*thinned(drawn), color=TRAIN, linewidth=1.2)
    if scale == "log":
        axes.set_yscale(scale)
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))


def _chart(name: str, title: str, summary: str, draw: Callable[["Axes"], None],
           sizes: tuple[tuple[float, float], tuple[float, float]]) -> Chart:
    """Return the chart that `draw` draws, in two sizes; sizes: inches, for a wide and for a narrow page."""
    wide = _svg(f"{name}-wide", title, summary, draw, sizes[0])
    narrow = wide if sizes[0] == sizes[1] else _svg(f"{name}-narrow", title, summary, draw, sizes[1])
    return Chart(name, title, summary, wide, narrow)


def _svg(name: str, title: str, summary: str, draw: Callable[["Axes"], None], size: tuple[float, float]) -> str:
    """Return what `draw` draws on axes as an SVG element; the same input gives the same text."""
    logging.getLogger("matplotlib").setLevel(logging.ERROR)  # matplotlib's notes on its caches are no use to a user
    import matplotlib
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator, StrMethodFormatter

    # Text stays text. The salt makes ids that do not change from run to run and that differ from chart to chart.
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": name, "font.size": 8 if size is WIDE else 9.5,
                                "axes.linewidth": 0.6, "text.color": INK, "xtick.labelcolor": FAINT,
                                "ytick.labelcolor": FAINT}):
        figure = Figure(figsize=size, layout="constrained")
        axes = figure.add_subplot()
        draw(axes)
        axes.xaxis.set_major_locator(MaxNLocator(6 if size is WIDE else 4, integer=True))
        axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
        axes.set_xlabel("step", color=FAINT, loc="right")
        axes.grid(axis="y", color=RULE, linewidth=0.6)
        axes.tick_params(which="both", length=0)
        axes.minorticks_off()
        axes.set_axisbelow(True)
        for side, spine in axes.spines.items():
            spine.set(visible=side == "bottom", edgecolor=FAINT)
        axes.margins(x=0.01)
        file = io.BytesIO()
        figure.savefig(file, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    return _embedded(file.getvalue(), name, title, summary)


def _embedded(svg: bytes, name: str, title: str, summary: str) -> str:
    """Return matplotlib's SVG as an element of a page: no style sheet, no fonts, no namespaces, the page's colours.

    title and summary become the title and description that screen readers read out.
    """
    root = ElementTree.fromstring(svg)
    for parent in list(root.iter()):
        for child in list(parent):
            if child.tag.endswith("}metadata") or child.tag.endswith("}style"):
                parent.remove(child)
    links = {element.attrib[LINK][1:] for element in root.iter() if LINK in element.attrib}
    for element in root.iter():
        element.tag = element.tag.rpartition("}")[2]
        element.attrib = _attributes(element.attrib, links)
    root.attrib = {"viewBox": root.attrib["viewBox"], "role": "img", "aria-labelledby": f"{name}-title {name}-summary"}
    for place, (tag, words) in enumerate((("title", title), ("desc", summary))):
        label = ElementTree.Element(tag, {"id": f"{name}-{'title' if tag == 'title' else 'summary'}"})
        label.text = words
        root.insert(place, label)
    return ElementTree.tostring(root, encoding="unicode")


def _attributes(found: dict[str, str], links: set[str]) -> dict[str, str]:
    """Return the attributes of an element as the page needs them.

    Style declarations become attributes, because the page's security policy forbids inline styles. Links have no
    namespace. An id stays only if an element links to it. Colours become the page's.
    """
    kept = {key: value for key, value in found.items() if key not in ("style", "clip-path", LINK, "id")}
    if LINK in found:
        kept["href"] = found[LINK]
    if found.get("id") in links:
        kept["id"] = found["id"]
    for declaration in found.get("style", "").split(";"):
        key, _, value = declaration.partition(":")
        if key.strip() and key.strip() not in FONTS:
            kept[key.strip()] = value.strip()
    return {key: COLOURS.get(value, value) for key, value in kept.items()}
