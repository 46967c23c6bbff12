"""A path is a way to compute a model on its device: what computes the products, and what runs the time loops.

Every device has the path "eager". On a GPU it is `interface.Path`: the loops of rnncore/nn/lstm.py, with calls of the
array library at each step. On a processor it is cpu/ops.py's `Eager`: compiled loops, or NumPy's where nothing is
compiled. The other paths exist on a GPU only (cuda/paths.py). `rule` orders the paths of a GPU for a model.
"""
import contextlib
import functools
import threading
import warnings
from collections.abc import Callable, Iterator

from .interface import ModelSizes, Products
from .interface import Path as Path

# From the slowest to the fastest. `tagged` was not measured yet: no rule takes it, only who asks for it.
NAMES = "eager", "graph", "wavefront", "persistent", "tagged"
PRECISIONS = "float64", "float32", "tf32", "bf16"        # of products; arrays are float64 or float32

# The largest H at which wavefront is faster than graph, for products in float32 and for 16-bit products. H = 128, 512,
# 768 and 1024 were measured; the limits between them are guesses.
WAVEFRONT, WAVEFRONT_16_BIT = 256, 512

# The time that each path takes for the same work. Each dict is one model: layers x H, and in training N and T.
# "float32" and "16-bit": milliseconds for a training step (2x128 N50 T50; 3x512 N100 T50; 1x1024 N128 T256).
# "one text" and "64 texts": microseconds for a written character (2x128; 3x512). Measured on 2026-11-28 on an NVIDIA
# H100 80GB HBM3 with driver 580.159, CUDA 13.2 and CuPy 14.2.0.
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
    """Return the paths for a model of these sizes, the fastest first. The value of each is `why_not(path)`.

    Take the first path whose value is None: it fits the model. If that path fails on the card, take the next one that
    fits; eager is the last. writing: the work is to write text. A card has one kernel for that, here called `graph`.
    """
    named = []
    if precision not in ("float64", "float32") and not writing:
        named.append("persistent")
    largest = {"float64": 0, "float32": WAVEFRONT}.get(precision, WAVEFRONT_16_BIT)
    if config.layers > 1 and config.hidden <= largest and not writing:
        named.append("wavefront")
    return {name: why_not(name) for name in (*named, "graph", "eager")}


def price(wanted: str, taken: str, precision: str, texts: int = 0) -> str:
    """Return in words how much slower the path `taken` is than the path `wanted`, from MEASURED.

    texts: the number of texts that are written at a time, or 0 for training. For two texts and more the figures of 64
    texts are used.
    """
    kind = "float32" if precision == "float32" else "16-bit"
    if texts:
        kind = "one text" if texts == 1 else "64 texts"
    shapes = MEASURED[kind] if precision != "float64" else ()
    ratios = [times[taken] / times[wanted] for times in shapes if wanted in times and taken in times]
    if not ratios:
        return "slower, by how much was not measured"
    # The smallest and the largest ratio, with two digits; only one of them if they are the same.
    ends = dict.fromkeys(f"{float(f'{max(1.0, ratio):.2g}'):g}" for ratio in (min(ratios), max(ratios)))
    return f"about {' to '.join(ends)} times slower on {CARD}"


class Slower(UserWarning):
    """The category of the warning that a slower path is taken. The message names the cause and the price."""


@functools.cache
def warn(message: str) -> None:
    """Give a warning of the category Slower, once in a process for each message."""
    warnings.warn(message, Slower, stacklevel=2)


def storage(precision: str) -> str:
    """Return the dtype of a model's arrays, float64 or float32. Raises ValueError for an unknown precision."""
    if precision not in PRECISIONS:
        raise ValueError(f"dtype must be one of {', '.join(PRECISIONS)}, not {precision}")
    return "float64" if precision == "float64" else "float32"


_thread = threading.local()


def products() -> Products | None:
    """Return what computes the products on this thread inside `computing`; None means the array library itself."""
    return getattr(_thread, "products", None)


@contextlib.contextmanager
def computing(makes: Products) -> Iterator[None]:
    """Return a context in which `makes` computes each kernel.product of this thread, and on a GPU each row_sums."""
    before, _thread.products = products(), makes
    try:
        yield
    finally:
        _thread.products = before
