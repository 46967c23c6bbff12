"""The fast paths of a card: products by cuBLAS in a precision class, and time loops that a CUDA graph can capture.

    path        time loops                                              precision
    graph       stepwise.py: a product and a gate kernel at each step   any
    wavefront   wavefront.py: all layers of a diagonal at once          any
    persistent  persistent.py: one kernel for each layer                tf32, bf16
    tagged      persistent.py: the same, with a shorter chain of steps  tf32, bf16

On the path tagged, the layers' products outside the time loops have 16-bit operands too, and the first loop looks its
input up.

A whole training step on one of these paths allocates no memory after its first run, so a graph can capture it
(rnncore/capture.py). The path "eager" in tf32 or bf16 is here too: the loops of rnncore/nn/lstm.py with such products.
"""
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager

import cupy
import numpy as np
from cupy import ElementwiseKernel

from .. import paths
from ..arrays import Array, CudaArray, LayerWeights, Lookup, Operands, StackState, Window
from ..interface import Layer, Layers, ModelSizes
from .cublas import ROUNDED, Cublas, padded
from .graph import Graph
from .persistent import Persistent, Tagged, why_not as why_no_loops
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


# Gradients of a summed loss that are multiplied by this are within the range of float16: see kernels/README.md.
LOSS_SCALE = 64.0


class FastPath(paths.Path):
    """One of the paths above on the current card, in float64, float32, tf32 or bf16.

    Raises cublas.Unavailable if cuBLAS cannot be used in this precision.
    """

    def __init__(self, name: str, precision: str):
        self.name, self.precision, self.dtype = name, precision, paths.storage(precision)
        self.captured, self.loss_scale = name != "eager", LOSS_SCALE if precision == "tf32" else None
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
        loops = self.loops(config, steps, n)
        return TaggedLayers(self.products, loops) if isinstance(loops, Tagged) \
            else in_turn(LoopedLayer(self.products, loops))

    def loops(self, config: ModelSizes, steps: int, n: int) -> Persistent | Tagged | Stepwise:
        """Return the time loops of one layer for at most `steps` steps and exactly `n` sequences.

        If a persistent kernel cannot take n sequences, the loops of the path graph are returned, with a warning.
        """
        if self.name in ("persistent", "tagged"):
            reason = why_not(self.name, self.precision, config, n)
            if reason is None:
                kind = Tagged if self.name == "tagged" else Persistent
                return kind(config.hidden, steps, n, self.precision)
            # Only the command bench, or a program that uses the library, can have too many columns here. For the other
            # commands selfcheck.choose has called why_not with the columns of the training; validation has no more.
            paths.warn(f"{reason}: their time loops go by graph, {paths.price(self.name, 'graph', self.precision)}")
        return Stepwise(self.products.cublas, config.hidden, n)

    def operands(self, config: ModelSizes, steps: int, n: int, training: bool) -> Operands | None:
        """Return the operands of a layer, or None for a path or a size whose products have none."""
        if self.name != "tagged" or why_not(self.name, self.precision, config, n):
            return None

        def empty(rows: int, steps: int) -> CudaArray:
            return padded(rows, steps * n, ROUNDED[self.precision]).reshape(rows, steps, n)

        hidden = config.hidden
        return Operands(empty(hidden, steps), empty(hidden, steps), empty(4 * hidden, steps if training else 0))

    def step_control(self, ring: int, steps: int, n: int, clip: float) -> StepControl:
        """Return the counters and rings that control captured steps over (steps, n); arguments as in StepControl."""
        return StepControl(ring, steps, n, clip, self.dtype, self.loss_scale or 1)

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
        if x is not None:
            affine(self.products.cublas, w_ih, bias, x, gates)
        self.loops.forward(w_hh, gates, h, c, keep)

    def backward(self, w: LayerWeights, gates: Array, c: Array, keep: Array | None, dy: Array, dh: Array, dc: Array,
                 dx: Array | None) -> None:
        """Run the layer backwards; arguments as in rnncore/nn/lstm.py."""
        w_ih, w_hh, _ = w
        self.loops.backward(w_hh, gates, c, keep, dy, dh, dc)
        if dx is not None:
            self.products.product(w_ih.T, _columns(gates), _columns(dx), add=False)


class TaggedLayers:
    """All layers, one after the other, with the time loops of the path tagged and products with 16-bit operands."""
    looks_up = True

    def __init__(self, products: "Products", loops: Tagged):
        self.products, self.loops = products, loops
        self.weights: dict[int, CudaArray] = {}  # the rounded W_ih of layers that multiplied an x, for backward

    def forward(self, window: Window, x: Array | Lookup | None) -> None:
        """Run all layers on x; arguments as in kernels/interface.py. Raises ValueError without operands."""
        weights, caches, keep, masks, dropped, operands = window
        if x is None or operands is None:
            raise ValueError("the path tagged needs an input, and the operands of the window")
        for k, (w, (gates, h, c), own) in enumerate(zip(weights, caches, operands, strict=True)):
            if isinstance(x, Lookup):
                z, ids = x.table, x.ids
            else:
                z, ids = gates, None
                self.weights[k] = rounded(w.w_ih, self.products.cublas.precision, self.weights.get(k))
                self.products.product(self.weights[k], _columns(x), _columns(z), add=False)
            self.loops.forward(w.w_hh, w.bias, z, ids, gates, h, c, keep, own.y, own.before)
            x = cupy.multiply(h[:, 1:], masks[k], out=dropped[k]) if masks and dropped else own.y

    def backward(self, window: Window, dy: Array, dstate: StackState | None, initial: StackState) -> None:
        """Run all layers backwards from dy (H, T, N); arguments as in kernels/interface.py."""
        weights, caches, keep, masks, _, operands = window
        assert operands is not None  # forward has checked it
        for k in reversed(range(len(caches))):
            (gates, _, c), dz = caches[k], operands[k].dz
            if masks:
                dy *= masks[k]
            dh, dc = initial[0][k], initial[1][k]
            if dstate:  # the loop reads it where it writes the gradient at the initial state
                dh[...], dc[...] = dstate[0][k], dstate[1][k]
            last = (dh, dc) if dstate else None
            self.loops.backward(weights[k].w_hh, gates, c, keep, dy, last, dh, dc, dz)
            if k:  # dx of layer k is dy of layer k-1, in the same array
                self.products.product(self.weights[k].T, _columns(dz), _columns(dy), add=False)


def _columns(array: Array) -> Array:
    """Return an array (R, T, N) as a matrix (R, T N), a view."""
    return array.reshape(len(array), -1)


ROUND = {
    "float16": ElementwiseKernel("float32 x", "float16 rounded", "rounded = x;", "round_to_float16_kernel"),
    "uint16": ElementwiseKernel("uint32 bits", "uint16 rounded", """
        const bool nan = (bits & 0x7FFFFFFF) > 0x7F800000;  // bits of a float; to the nearest bfloat16, ties to even
        rounded = nan ? 0x7FFF : (bits + 0x7FFF + (bits >> 16 & 1)) >> 16;
        """, "round_to_bfloat16_kernel")}


def rounded(array: Array, precision: str, out: CudaArray | None = None) -> CudaArray:
    """Return a float32 matrix (R, C) as an operand of 16 bits, in `out` if it is given."""
    out = padded(len(array), array.shape[1], ROUNDED[precision]) if out is None else out
    kernel = ROUND[out.dtype.name]
    kernel(array.view(np.uint32) if precision == "bf16" else array, out)
    return out


class Products:
    """Matrix products in one precision class, and sums in full float32 or float64 of what is not rounded."""

    def __init__(self, precision: str, dtype: str):
        self.cublas, self.exact, self.dtype = Cublas(precision), Cublas(dtype), np.dtype(dtype)
        # Vectors of ones and rounded operands, by size. A graph may use each of them, so none is freed.
        self.ones: dict[tuple[int, str], CudaArray] = {}
        self.operands: dict[tuple[int, int], CudaArray] = {}
        # Threads share the operands. What one of them enqueues between its rounding and its product stays together.
        self._lock = threading.Lock()

    def product(self, a: Array, b: Array, out: Array, add: bool) -> None:
        """Compute out (R, C) = a @ b, or out += a @ b if add. If one of a and b is rounded, so is the other."""
        with self._lock:
            if a.dtype != b.dtype:
                a, b = self._round(a), self._round(b)
            self.cublas.product(a, b, out, add)

    def _round(self, array: Array) -> CudaArray:
        """Return a float32 matrix as an operand of 16 bits until the next call, or an operand itself."""
        if array.dtype != self.dtype:
            return array
        if array.strides[0] < array.strides[1]:  # stored by columns: so is the result
            return self._round(array.T).T
        key = len(array), array.shape[1]
        self.operands[key] = rounded(array, self.cublas.precision, self.operands.get(key))
        return self.operands[key]

    def row_sums(self, a: Array, out: Array) -> None:
        """Compute out (R,) = the sum of each row of a (R, M), as a product with ones."""
        size, kind = a.shape[1], a.dtype.name
        if (size, kind) not in self.ones:
            ones = cupy.ones((1, size), self.dtype)
            self.ones[size, kind] = (ones if a.dtype == self.dtype else rounded(ones, self.cublas.precision)).T
        by = self.exact if a.dtype == self.dtype else self.cublas
        by.product(a, self.ones[size, kind], out[:, None])
