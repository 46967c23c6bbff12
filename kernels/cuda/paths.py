"""The fast paths of a card: products by cuBLAS in a precision class, and time loops that a CUDA graph can capture.

    path        time loops                                              precision
    graph       stepwise.py: a product and a gate kernel at each step   any
    wavefront   wavefront.py: all layers of a diagonal at once          any
    persistent  persistent.py: one kernel for each layer                tf32, bf16
    tagged      persistent.py: the same, with a shorter chain of steps  tf32, bf16

A whole training step on one of these paths allocates no memory after its first run, so a graph can capture it
(rnncore/capture.py). The path "eager" in tf32 or bf16 is here too: the loops of rnncore/nn/lstm.py with such products.
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
    """Return None if a model of these sizes can take the path on the current card, else one line with the cause.

    config None: any model. n: the number of columns.
    """
    card = cupy.cuda.runtime.getDeviceProperties(cupy.cuda.Device().id)
    capability = 10 * card["major"] + card["minor"]
    if precision == "bf16" and capability < 80:
        return f"bf16 wants a card of compute capability 8.0, this one has {card['major']}.{card['minor']}: take tf32"
    if name == "wavefront" and config and config.layers == 1:
        return "one layer has no wavefront: take graph"
    if name in ("persistent", "tagged"):
        hidden, multiprocessors = config.hidden if config else 64, card["multiProcessorCount"]
        return why_no_loops(hidden, n, precision, capability, multiprocessors, name)
    return None


class FastPath(paths.Path):
    """One of the paths above on the current card, in float64, float32, tf32 or bf16.

    Raises cublas.Unavailable if cuBLAS cannot be used in this precision.
    """

    def __init__(self, name: str, precision: str):
        self.name, self.precision, self.dtype = name, precision, paths.storage(precision)
        self.captured = name != "eager"
        self.products = Products(precision, self.dtype)

    def computing(self) -> AbstractContextManager[None]:
        """Return a context in which cuBLAS computes the products of this thread in the precision of the path."""
        return paths.computing(self.products)

    def layers(self, config: ModelSizes, steps: int, n: int, in_turn: Callable[[Layer | None], Layers]) -> Layers:
        """Return an object that runs all layers over at most `steps` steps and exactly `n` sequences."""
        if self.name == "eager":
            return in_turn(None)
        if self.name == "wavefront":
            return Wavefront(self.products.cublas, config.layers, config.hidden, n)
        return in_turn(LoopedLayer(self.products, self.loops(config, steps, n)))

    def loops(self, config: ModelSizes, steps: int, n: int) -> Persistent | Stepwise:
        """Return the time loops of one layer for at most `steps` steps and exactly `n` sequences.

        If a persistent kernel cannot take n sequences, the loops of the path graph are returned, with a warning.
        """
        if self.name in ("persistent", "tagged"):
            reason = why_not(self.name, self.precision, config, n)
            if reason is None:
                return Persistent(config.hidden, steps, n, self.precision, kernels=self.name)
            # Only the command bench, or a program that uses the library, can have too many columns here. For the other
            # commands selfcheck.choose has called why_not with the columns of the training; validation has no more.
            paths.warn(f"{reason}: their time loops go by graph, {paths.price(self.name, 'graph', self.precision)}")
        return Stepwise(self.products.cublas, config.hidden, n)

    def step_control(self, ring: int, steps: int, n: int, clip: float) -> StepControl:
        """Return the counters and rings that control captured steps over (steps, n); arguments as in StepControl."""
        return StepControl(ring, steps, n, clip, self.dtype)

    def record(self, function: Callable[[], object], repeats: int) -> Callable[[], None]:
        """Capture `repeats` calls of function() in a graph, and return a function that launches them without waiting.

        function must have run once before. Raises graph.Allocation if it asks for memory.
        """
        return Graph(function, repeats, warm_up=False).launch


class LoopedLayer:
    """One LSTM layer with the time loops of a card. Products over all steps at once come before and after the loops."""

    def __init__(self, products: "Products", loops: Persistent | Stepwise):
        self.products, self.loops = products, loops

    def forward(self, w: LayerWeights, x: Array | None, gates: Array, h: Array, c: Array, keep: Array | None) -> None:
        """Run the layer; arguments as in rnncore/nn/lstm.py."""
        w_ih, w_hh, bias = w
        if x is not None and isinstance(self.loops, Persistent) and self.loops.adds_bias:
            self.products.product(w_ih, x.reshape(len(x), -1), gates.reshape(len(gates), -1), add=False)
            self.loops.forward(w_hh, gates, h, c, keep, bias)
            return
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
        self.ones: dict[int, CudaArray] = {}  # vectors of ones by length; a graph may use each, so none is freed

    def product(self, a: Array, b: Array, out: Array, add: bool) -> None:
        """Compute out (R, C) = a @ b, or out += a @ b if add."""
        self.cublas.product(a, b, out, add)

    def row_sums(self, a: Array, out: Array) -> None:
        """Compute out (R,) = the sum of each row of a (R, M), as a product with ones in full float32 or float64."""
        size = a.shape[1]
        if size not in self.ones:
            self.ones[size] = cupy.ones((size, 1), self.dtype)
        self.exact.product(a, self.ones[size], out[:, None])
