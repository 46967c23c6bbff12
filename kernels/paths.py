"""A path is how the work of a model is done on its device: what makes the products, what runs the time loops.

`interface.Path` itself is the eager one, which every device has: rnncore/nn/lstm.py's loops, a call of the array
library a step, or the processor's compiled ones. The others are a GPU's (cuda/paths.py). `rule` says which of them a
GPU takes.
"""
import contextlib
import functools
import threading
import warnings
from collections.abc import Callable, Iterator

from .interface import ModelSizes, Products
from .interface import Path as Path

NAMES = "eager", "graph", "wavefront", "persistent"      # the slowest first
PRECISIONS = "float64", "float32", "tf32", "bf16"        # of products; numbers are kept as float64 or float32

# The largest H at which wavefront is faster than graph, with products in float32 and with 16-bit products. Measured at
# H = 128, 512, 768 and 1024 only: the limits between those are guesses.
WAVEFRONT, WAVEFRONT_16_BIT = 256, 512

# The time that each path takes for the same work, a dict for each shape: ms a training step (2x128 N50 T50; 3x512 N100
# T50; 1x1024 N128 T256), us a written character (2x128; 3x512). Measured on an NVIDIA H100 80GB HBM3 with driver
# 580.159, CUDA 13.2 and CuPy 14.2.0 on 2026-11-28.
CARD = "an H100"
MEASURED = {
    "float32": ({"eager": 23.3, "graph": 1.74, "wavefront": 1.36}, {"eager": 24.4, "graph": 7.41, "wavefront": 7.64}),
    "16-bit": ({"eager": 27.0, "graph": 1.50, "wavefront": 1.03, "persistent": 0.90},   # tf32
               {"eager": 27.0, "graph": 1.50, "wavefront": 1.01, "persistent": 0.89},   # bf16
               {"eager": 40.0, "graph": 4.32, "wavefront": 3.41, "persistent": 2.29},   # tf32
               {"eager": 59.7, "graph": 10.4, "persistent": 7.73}),                     # tf32, bench's row fp16
    "one text": ({"eager": 808.0, "graph": 4.35}, {"eager": 818.0, "graph": 5.93}),
    "64 texts": ({"eager": 593.0, "graph": 6.31}, {"eager": 893.0, "graph": 121.0}),
}


def rule(precision: str, config: ModelSizes, why_not: Callable[[str], str | None],
         writing: bool = False) -> dict[str, str | None]:
    """Return the paths for a model of these sizes, the fastest first, each with what `why_not(path)` says of it.

    The path to take is the first that fits (None). Where that fails on the card, it is the next that fits, and so on
    to eager. writing: the work is writing text, for which a card has one kernel: `graph` means it.
    """
    named = []
    if precision not in ("float64", "float32") and not writing:
        named.append("persistent")
    largest = {"float64": 0, "float32": WAVEFRONT}.get(precision, WAVEFRONT_16_BIT)
    if config.layers > 1 and config.hidden <= largest and not writing:
        named.append("wavefront")
    return {name: why_not(name) for name in (*named, "graph", "eager")}


def price(wanted: str, taken: str, precision: str, texts: int = 0) -> str:
    """Return in words how much slower the path `taken` is than `wanted`. texts: how many are written, 0 in training."""
    kind = "float32" if precision == "float32" else "16-bit"
    if texts:
        kind = "one text" if texts == 1 else "64 texts"
    shapes = MEASURED[kind] if precision != "float64" else ()
    ratios = [times[taken] / times[wanted] for times in shapes if wanted in times and taken in times]
    if not ratios:
        return "slower, by how much was not measured"
    ends = dict.fromkeys(f"{float(f'{max(1.0, ratio):.2g}'):g}" for ratio in (min(ratios), max(ratios)))
    return f"about {' to '.join(ends)} times slower on {CARD}"


class Slower(UserWarning):
    """Work goes by a slower path than the one that was set; the message has the cause and the price."""


@functools.cache
def warn(message: str) -> None:
    """Warn with a Slower, once a process for each message."""
    warnings.warn(message, Slower, stacklevel=2)


def storage(precision: str) -> str:
    """The dtype of a model's arrays. Raises ValueError for what is no precision."""
    if precision not in PRECISIONS:
        raise ValueError(f"dtype must be one of {', '.join(PRECISIONS)}, not {precision}")
    return "float64" if precision == "float64" else "float32"


_thread = threading.local()


def products() -> Products | None:
    """What makes the products on this thread, within `computing`; None: the array library itself."""
    return getattr(_thread, "products", None)


@contextlib.contextmanager
def computing(makes: Products) -> Iterator[None]:
    """Inside this context, calls to kernels.product and row_sums on this thread are served by `makes`."""
    before, _thread.products = products(), makes
    try:
        yield
    finally:
        _thread.products = before
