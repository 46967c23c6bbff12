"""The fast paths of a card: products by cuBLAS in a precision class, time loops in place, steps that can be captured.

    path        time loops                                              precision
    graph       stepwise.py: a product and a gate kernel a step         any
    wavefront   wavefront.py: all layers of a diagonal at once          any
    persistent  persistent.py: one kernel a layer                       tf32, bf16

A whole training step on them allocates nothing after its first time, so it can be captured in a CUDA graph
(rnncore/capture.py). "eager" in tf32 or bf16 is rnncore/nn/lstm.py's loops with such products.
"""
from collections.abc import Callable
from contextlib import AbstractContextManager

import cupy

from .. import paths
from ..arrays import Array, CudaArray, LayerWeights
from ..interface import Layer, Layers, ModelSizes
from .cublas import Cublas
from .graph import Graph
from .persistent import Persistent, why_not as why_no_loops
from .step_control import StepControl
from .stepwise import Stepwise, affine
from .wavefront import Wavefront


def why_not(name: str, precision: str, config: ModelSizes | None = None, n: int = 1) -> str | None:
    """None where a model of these sizes (None: any) can take the path on the current card."""
    card = cupy.cuda.runtime.getDeviceProperties(cupy.cuda.Device().id)
    capability = 10 * card["major"] + card["minor"]
    if precision == "bf16" and capability < 80:
        return f"bf16 wants a card of compute capability 8.0, this one has {card['major']}.{card['minor']}: take tf32"
    if name == "wavefront" and config and config.layers == 1:
        return "one layer has no wavefront: take graph"
    if name == "persistent":
        return why_no_loops(config.hidden if config else 64, n, precision, capability, card["multiProcessorCount"])
    return None


class FastPath(paths.Path):
    """One of the paths above on the current card, in float64, float32, tf32 or bf16."""

    def __init__(self, name: str, precision: str):
        self.name, self.precision, self.dtype = name, precision, paths.storage(precision)
        self.captured = name != "eager"
        self.products = Products(precision, self.dtype)

    def computing(self) -> AbstractContextManager[None]:
        return paths.computing(self.products)

    def layers(self, config: ModelSizes, steps: int, n: int, in_turn: Callable[[Layer | None], Layers]) -> Layers:
        if self.name == "eager":
            return in_turn(None)
        if self.name == "wavefront":
            return Wavefront(self.products.cublas, config.layers, config.hidden, n, self.dtype)
        return in_turn(Looped(self.products, self.loops(config, steps, n)))

    def loops(self, config: ModelSizes, steps: int, n: int) -> Persistent | Stepwise:
        """Return the time loops of one layer over at most (T, N)."""
        if self.name == "persistent":
            reason = why_not(self.name, self.precision, config, n)
            if reason is None:
                return Persistent(config.hidden, steps, n, self.precision)
            # No command of ours comes here but bench: selfcheck.choose has asked for the columns of the training, and a
            # validation has no more. A caller of the library may have more.
            paths.warn(f"{reason}: their time loops go by graph, {paths.price('persistent', 'graph', self.precision)}")
        return Stepwise(self.products.cublas, config.hidden, n, self.dtype)

    def step_control(self, ring: int, steps: int, n: int, clip: float) -> StepControl:
        """Return the counters and rings by which captured steps over (T, N) go."""
        return StepControl(ring, steps, n, clip, self.dtype)

    def record(self, function: Callable[[], object], repeats: int) -> Callable[[], None]:
        """So many calls of function(), which was called before, as one launch."""
        return Graph(function, repeats, warm_up=False).launch


class Looped:
    """A layer whose time loops are a card's own: its products over all steps stand before and after them."""

    def __init__(self, products: "Products", loops: Persistent | Stepwise):
        self.products, self.loops = products, loops

    def forward(self, w: LayerWeights, x: Array | None, gates: Array, h: Array, c: Array, keep: Array | None) -> None:
        """Run the layer; arguments as in rnncore/nn/lstm.py."""
        w_ih, w_hh, bias = w
        if x is not None:
            affine(self.products.cublas, w_ih, bias, x, gates)
        self.loops.forward(w_hh, gates, h, c, keep)

    def backward(self, w: LayerWeights, gates: Array, c: Array, keep: Array | None, dy: Array, dh: Array, dc: Array,
                 dx: Array | None) -> None:
        """Run the layer backwards; arguments as in rnncore/nn/lstm.py."""
        w_ih, w_hh, _ = w
        self.loops.backward(w_hh, gates, c, keep, dy, dh, dc)
        if dx is not None:
            self.products.product(w_ih.T, gates.reshape(len(gates), -1), dx.reshape(len(dx), -1), add=False)


class Products:
    """Matrix products in one precision class, and sums in full float32 or float64."""

    def __init__(self, precision: str, dtype: str):
        self.cublas, self.exact, self.dtype = Cublas(precision), Cublas(dtype), dtype
        self.ones: dict[int, CudaArray] = {}  # by length: a graph may hold each

    def product(self, a: Array, b: Array, out: Array, add: bool) -> None:
        """out (R, C) = a @ b, or out += a @ b."""
        self.cublas.product(a, b, out, add)

    def row_sums(self, a: Array, out: Array) -> None:
        """out (R,) = the sum of each row of a (R, M)."""
        size = a.shape[1]
        if size not in self.ones:
            self.ones[size] = cupy.ones((size, 1), self.dtype)
        self.exact.product(a, self.ones[size], out[:, None])
