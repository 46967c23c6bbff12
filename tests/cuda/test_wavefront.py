"""kernels/cuda/wavefront.py over the stand-ins, against the engine's layers one after the other on NumPy arrays."""
import importlib
import shutil

import cupy_stand_in
import numpy as np
import pytest

from rnncore.kernels.arrays import Window
from rnncore.nn import lstm
from rnncore.nn.stack import InTurn

pytestmark = pytest.mark.skipif(shutil.which("c++") is None, reason="no C++ compiler (c++) on this machine")
H, E, LONGEST = 5, 3, 7


@pytest.fixture
def modules(with_cublas):
    """(kernels/cuda/cublas.py, kernels/cuda/wavefront.py, the card's kernels/cuda/ops.py)."""
    return *(importlib.import_module(f"rnncore.kernels.cuda.{name}") for name in ("cublas", "wavefront")), with_cublas


class Stack:
    """All arrays of a stack on the host, random: views on the first steps of longer ones, weights from one flat buffer.

    masks: "none", "steps" (H, T, N) or "once" (H, 1, N); offset: where the weights begin in the flat buffer.
    """

    def __init__(self, layers: int, steps: int, n: int, keep=False, masks="none", dstate=False, offset=0, dtype="float64"):
        draw = np.random.default_rng(layers + steps + n).standard_normal
        self.layers, self.steps, self.n, self.masks, self.last = layers, steps, n, masks, dstate
        rows = {"none": 0, "steps": LONGEST, "once": 1}[masks]
        self.arrays = {"flat": draw(layers * (8 * H * H + 4 * H) + offset), "gates": draw((layers, 4 * H, LONGEST, n)),
                       "h": draw((layers, H, LONGEST + 1, n)), "c": draw((layers, H, LONGEST + 1, n)),
                       "dropped": draw((layers, H, LONGEST, n)), "dy": draw((H, LONGEST, n)),
                       "last": draw((2, layers, H, n)), "initial": draw((2, layers, H, n)),
                       "mask": (draw((layers, H, rows, n)) > -0.5) * 1.5, "keep": (draw((LONGEST, n)) > -0.5) * 1.}
        self.arrays = {name: array.astype(dtype) for name, array in self.arrays.items()}
        self.keep, self.offset = keep, offset

    def weights(self, arrays: dict) -> list:
        """Of each layer; that of the first has no W_ih, whose share is in its gates."""
        found, begin = [], self.offset
        for k in range(self.layers):
            w_ih, w_hh = (arrays["flat"][begin + j * 4 * H * H:][:4 * H * H].reshape(4 * H, H) for j in range(2))
            found.append(lstm.Weights(w_ih if k else None, w_hh, arrays["flat"][begin + 8 * H * H:][:4 * H]))
            begin += 8 * H * H + 4 * H
        return found

    def given(self, arrays: dict) -> tuple:
        """weights, caches, keep, masks, dropped, dy, dstate, initial."""
        t = self.steps
        caches = [lstm.Cache(arrays["gates"][k], arrays["h"][k], arrays["c"][k]).first(t) for k in range(self.layers)]
        masks = [mask[:, :1 if self.masks == "once" else t] for mask in arrays["mask"]]
        dropped = [array[:, :t] for array in arrays["dropped"]]
        return (self.weights(arrays), caches, arrays["keep"][:t] if self.keep else None,
                None if self.masks == "none" else masks, None if self.masks == "none" else dropped, arrays["dy"][:, :t],
                lstm.State(*arrays["last"]) if self.last else None, lstm.State(*arrays["initial"]))

    def run(self, arrays: dict, loops) -> None:
        weights, caches, keep, masks, dropped, dy, dstate, initial = self.given(arrays)
        window = Window(weights, caches, keep, masks, dropped)
        loops.forward(window, None)
        loops.backward(window, dy, dstate, initial)

    def wanted(self) -> dict:
        """The arrays after the engine's layers, each with its own time loop, in float64."""
        arrays = {name: array.astype("float64") for name, array in self.arrays.items()}
        weights, caches, keep, masks, dropped, dy, dstate, initial = self.given(arrays)
        layers, window = InTurn(), Window(weights, caches, keep, masks, dropped)
        layers.forward(window, None)
        layers.backward(window, dy.copy(), dstate, initial)
        return arrays


def card_s(cuda, stack: Stack) -> dict:
    return {name: cuda.to_device(array) for name, array in stack.arrays.items()}


def error(mine: dict, wanted: dict) -> float:
    return max(np.abs(mine[name].get() - array).max(initial=0) for name, array in wanted.items())


CASES = [dict(layers=1, steps=1, n=1), dict(layers=4, steps=1, n=3, keep=True, masks="steps", dstate=True),
         dict(layers=1, steps=5, n=4, keep=True, masks="once"), dict(layers=2, steps=LONGEST, n=3, masks="steps", offset=1),
         dict(layers=3, steps=6, n=5, keep=True, masks="once", dstate=True), dict(layers=4, steps=2, n=6, dstate=True),
         dict(layers=3, steps=LONGEST, n=2, keep=True, masks="steps", dstate=True, offset=1)]


@pytest.mark.parametrize("case", CASES, ids=lambda case: ",".join(f"{k}={v}" for k, v in case.items()))
def test_the_stack_equals_the_engine_s_layers(modules, case):
    cublas, wavefront, cuda = modules
    stack = Stack(**case)
    loops, mine = wavefront.Wavefront(cublas.Cublas("float64"), stack.layers, H, stack.n), card_s(cuda, stack)
    stack.run(mine, loops)
    assert error(mine, stack.wanted()) < 1e-12
    for name, array in stack.arrays.items():
        mine[name][...] = cuda.to_device(array)
    stack.run(mine, loops)  # nothing is left over in its buffers
    assert error(mine, stack.wanted()) < 1e-12


@pytest.mark.parametrize("offset", [0, 1])
def test_one_object_serves_arrays_at_several_places(modules, offset):
    cublas, wavefront, cuda = modules
    loops = wavefront.Wavefront(cublas.Cublas("float64"), 3, H, 4)
    stacks = [Stack(3, steps, 4, keep=steps > 2, masks=masks, dstate=steps > 2, offset=offset)
              for steps, masks in ((2, "none"), (5, "once"), (LONGEST, "steps"))]
    mine = [card_s(cuda, stack) for stack in stacks]
    for stack, arrays in zip(stacks, mine, strict=True):
        stack.run(arrays, loops)
        assert error(arrays, stack.wanted()) < 1e-12


@pytest.mark.parametrize("precision, bound", [("float32", 1e-5), ("tf32", 2e-2), ("bf16", 2e-1)])
def test_each_precision_is_as_close_as_its_rounding_allows(modules, precision, bound):
    cublas, wavefront, cuda = modules
    stack = Stack(2, 6, 3, keep=True, dtype="float32", offset=1)
    loops, mine = wavefront.Wavefront(cublas.Cublas(precision), 2, H, 3), card_s(cuda, stack)
    stack.run(mine, loops)
    assert bound / 100 < error(mine, stack.wanted()) < bound


@pytest.mark.parametrize("offset", [0, 1])  # the second copies the weights to where they are aligned
def test_a_graph_holds_two_pieces_of_work_a_diagonal(modules, offset):
    cublas, wavefront, cuda = modules
    stack, graph = Stack(3, 4, 3, keep=True, masks="steps", offset=offset), importlib.import_module("rnncore.kernels.cuda.graph")
    loops, mine = wavefront.Wavefront(cublas.Cublas("float64"), 3, H, 3), card_s(cuda, stack)
    recorded = graph.Graph(lambda: stack.run(mine, loops))
    names = [name for name, _, _ in cupy_stand_in.recorded(recorded._graph)]
    copies = 5 * offset * ["copy"]
    assert names == [*copies, "stack_begin", *6 * ["cuBLAS", "diagonal_forward"], *copies,
                     *6 * ["diagonal_backward", "cuBLAS"], "stack_end"]
    other = Stack(3, 4, 3, keep=True, masks="steps", offset=offset)
    other.arrays["flat"] += 0.1
    for name, array in other.arrays.items():
        mine[name][...] = cuda.to_device(array)
    recorded.launch()  # with new weights at the same places
    assert error(mine, other.wanted()) < 1e-12


def test_arrays_of_another_shape_or_layout(modules):
    cublas, wavefront, cuda = modules
    stack = Stack(2, 4, 3, keep=True, masks="steps", dstate=True)
    loops, right = wavefront.Wavefront(cublas.Cublas("float64"), 2, H, 3), card_s(cuda, stack)
    for name, wrong in (("gates", right["gates"][:, 1:]), ("h", right["h"].astype("float32")), ("c", right["c"][:, :, :, :2]),
                        ("dy", right["dy"].swapaxes(0, 1)), ("mask", right["mask"][:, :, :2]), ("keep", right["keep"][:, :2]),
                        ("dropped", right["dropped"][:, :, :3]), ("last", right["last"].swapaxes(2, 3)),
                        ("initial", right["initial"][:, :, :, :2])):
        with pytest.raises(ValueError, match="^[^\n]*wanted[^\n]*$"):
            stack.run(right | {name: wrong}, loops)


@pytest.mark.parametrize("right, wrong", [
    ("layer.bias[row]", "layer.bias[unit]"),
    ("results[own - 4 * size]", "results[own - 3 * size]"),
    ("operands[(2 * k + 1) * size + place] = y;", "operands[(2 * k + 1) * size + place] = h;"),
    ("layer.dropped[unit * layer.dropped_ld + at] = y;", "layer.dropped[unit * layer.mask_ld + at] = h;"),
    ("if (layer.mask) above *= layer.mask[unit * layer.mask_ld + t * layer.mask_step + column];", ""),
    ("dc = layer.dc_last[state];", "dc = 0;"),
    ("dh = results[2 * k * size + place] * (has_keep ? keep[at + n] : 1);", "dh = results[2 * k * size + place];"),
    ("dz + 4 * k * size", "dz + 4 * (k ? k - 1 : 0) * size"),
])
def test_planted_errors_are_caught(modules, right, wrong, monkeypatch):
    stepwise = importlib.import_module("rnncore.kernels.cuda.stepwise")
    assert stepwise.TEXT.count(right) == 1
    monkeypatch.setattr(stepwise, "TEXT", stepwise.TEXT.replace(right, wrong))
    stepwise.kernel.cache_clear()
    with pytest.raises((AssertionError, RuntimeError)):
        test_the_stack_equals_the_engine_s_layers(modules, CASES[-1])
    stepwise.kernel.cache_clear()
