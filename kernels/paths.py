"""A path is how the work of a model is done on its device: what makes the products, what runs the time loops.

`Path` itself is the eager one, which every device has: rnncore/lstm.py's loops, a call of the array library a step, or
the processor's compiled ones. The others are a GPU's (fast.py).
"""
import contextlib
import threading

NAMES = "eager", "graph", "wavefront", "persistent"      # each falls back on the one before
PRECISIONS = "float64", "float32", "tf32", "bf16"        # of products; numbers are kept as float64 or float32


def storage(precision: str) -> str:
    """The dtype of a model's arrays. Raises ValueError for what is no precision."""
    if precision not in PRECISIONS:
        raise ValueError(f"dtype must be one of {', '.join(PRECISIONS)}, not {precision}")
    return "float64" if precision == "float64" else "float32"


_thread = threading.local()


def products():
    """What makes the products on this thread, within `computing`; None: the array library itself."""
    return getattr(_thread, "products", None)


@contextlib.contextmanager
def computing(makes):
    """Within, on this thread, makes.product and makes.row_sums do what kernels.product and row_sums are called for."""
    before, _thread.products = products(), makes
    try:
        yield
    finally:
        _thread.products = before


class Path:
    """The eager path."""
    name = "eager"
    captured = False  # are whole training steps recorded once and replayed?

    def computing(self) -> contextlib.AbstractContextManager:
        """Within, on this thread, products are made as the path says."""
        return contextlib.nullcontext()

    def loops(self, config, steps: int, n: int):
        """What runs one layer's time loops over at most (T, N), in place, or None: rnncore/lstm.py does.

        forward(w_hh, gates, h, c, keep) and backward(w_hh, gates, c, keep, dy, dh, dc), as there. config: ModelConfig.
        """
        return None

    def wavefront(self, config, steps: int, n: int):
        """What runs all layers at once (wavefront.py), or None."""
        return None
