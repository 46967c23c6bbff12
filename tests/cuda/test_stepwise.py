"""kernels/cuda/stepwise.py over the stand-ins, against the loops of rnncore/nn/lstm.py on NumPy arrays."""
import importlib
import shutil
import subprocess

import cupy_stand_in
import numpy as np
import pytest
from test_cuda_compiles import CARDS, EVERY_CARD, SPILLS, by_nvrtc, needs_nvcc, needs_nvrtc

from rnncore.nn import lstm

pytestmark = pytest.mark.skipif(shutil.which("c++") is None, reason="no C++ compiler (c++) on this machine")
H, LONGEST = 5, 9


@pytest.fixture
def modules(with_cublas):
    """(kernels/cuda/cublas.py, kernels/cuda/stepwise.py, the card's kernels/cuda/ops.py)."""
    return *(importlib.import_module(f"rnncore.kernels.cuda.{name}") for name in ("cublas", "stepwise")), with_cublas


class Layer:
    """One layer's arrays on the host, of random numbers: views on the first steps of longer ones, keep among them."""

    def __init__(self, steps: int, n: int, keep: bool, dtype: str = "float64"):
        draw = np.random.default_rng(steps + n).standard_normal
        self.whole = {"gates": draw((4 * H, LONGEST, n)), "h": draw((H, LONGEST + 1, n)), "c": draw((H, LONGEST + 1, n)),
                      "dy": draw((H, LONGEST, n)), "w_hh": draw((4 * H, H)), "dh": draw((H, n)), "dc": draw((H, n)),
                      "keep": (draw((LONGEST, n)) > -0.5).astype(float)}
        self.whole = {name: array.astype(dtype) for name, array in self.whole.items()}
        self.steps, self.documents = steps, keep

    def first(self, whole: dict, *names: str) -> list:
        """What the loops are given of these arrays."""
        last = {"gates": self.steps, "h": self.steps + 1, "c": self.steps + 1, "dy": self.steps}
        return [(whole[name][:self.steps] if self.documents else None) if name == "keep"
                else whole[name][:, :last[name]] if name in last else whole[name] for name in names]

    def run(self, whole: dict, forward, backward) -> None:
        forward(*self.first(whole, "w_hh", "gates", "h", "c", "keep"))
        backward(*self.first(whole, "w_hh", "gates", "c", "keep", "dy", "dh", "dc"))

    def wanted(self) -> dict:
        """All arrays after the loops of rnncore/nn/lstm.py, in float64."""
        whole = {name: array.astype("float64") for name, array in self.whole.items()}
        def weights(w_hh):
            return lstm.Weights(None, w_hh, None)

        self.run(whole, lambda w_hh, *given: lstm.forward(weights(w_hh), None, *given),
                 lambda w_hh, *given: lstm.backward(weights(w_hh), *given))
        return whole


def error(mine: dict, wanted: dict) -> float:
    return max(np.abs(mine[name].get() - array).max() for name, array in wanted.items())


@pytest.mark.parametrize("keep", [False, True])
@pytest.mark.parametrize("steps, n", [(1, 1), (LONGEST, 3), (6, 8)])
def test_both_loops_equal_those_of_the_engine(modules, steps, n, keep):
    cublas, stepwise, cuda = modules
    layer = Layer(steps, n, keep)
    loops, mine = stepwise.Stepwise(cublas.Cublas("float64"), H, n), dict(map(on(cuda), layer.whole.items()))
    layer.run(mine, loops.forward, loops.backward)
    assert error(mine, layer.wanted()) < 1e-12
    again = dict(map(on(cuda), layer.whole.items()))
    layer.run(again, loops.forward, loops.backward)  # nothing is left over in its buffers
    assert all((mine[name].get() == again[name].get()).all() for name in mine)


def on(cuda):
    return lambda item: (item[0], cuda.to_device(item[1]))


@pytest.mark.parametrize("precision, bound", [("float32", 1e-5), ("tf32", 2e-2), ("bf16", 2e-1)])  # seen: 2e-6, 5e-3, 5e-2
def test_each_precision_is_as_close_as_its_rounding_allows(modules, precision, bound):
    cublas, stepwise, cuda = modules
    layer = Layer(7, 6, True, "float32")
    loops, mine = stepwise.Stepwise(cublas.Cublas(precision), H, 6), dict(map(on(cuda), layer.whole.items()))
    layer.run(mine, loops.forward, loops.backward)
    assert bound / 100 < error(mine, layer.wanted()) < bound


def test_a_graph_holds_two_pieces_of_work_a_step(modules):
    cublas, stepwise, cuda = modules
    layer, graph = Layer(4, 3, True), importlib.import_module("rnncore.kernels.cuda.graph")
    loops, mine = stepwise.Stepwise(cublas.Cublas("float64"), H, 3), dict(map(on(cuda), layer.whole.items()))
    recorded = graph.Graph(lambda: layer.run(mine, loops.forward, loops.backward), warm_up=False)
    names = [name for name, _, _ in cupy_stand_in.recorded(recorded._graph)]
    assert names == ["keep_rows", *4 * ["cuBLAS", "step_forward"], *4 * ["step_backward", "cuBLAS"], "keep_rows"]
    recorded.launch()
    assert error(mine, layer.wanted()) < 1e-12


def test_arrays_of_another_shape_or_layout(modules):
    cublas, stepwise, cuda = modules
    loops = stepwise.Stepwise(cublas.Cublas("float64"), H, 3)
    layer = Layer(4, 3, True)
    right = dict(map(on(cuda), layer.whole.items()))
    for name, wrong in (("gates", right["gates"][1:]), ("h", right["h"].astype("float32")), ("c", right["c"][:, :, :2]),
                        ("dy", right["dy"].swapaxes(0, 1)), ("dh", right["dh"].T), ("keep", right["keep"][:, :2])):
        with pytest.raises(ValueError, match="^[^\n]*wanted[^\n]*$"):
            layer.run(right | {name: wrong}, loops.forward, loops.backward)


@needs_nvcc
@pytest.mark.parametrize("real", ["float", "double"] if EVERY_CARD else ["double"])
def test_nvcc_compiles_the_kernels_for_every_card_without_spills(modules, real, tmp_path):
    (tmp_path / "steps.cu").write_text(modules[1].TEXT)
    flags = [f"-gencode=arch=compute_{card},code=sm_{card}" for card in CARDS]
    done = subprocess.run(["nvcc", "-std=c++17", f"-DREAL={real}", *flags, "-Xptxas", "-v", "--threads", "2", "-c", "-o",
                           tmp_path / "steps.o", tmp_path / "steps.cu"], capture_output=True, text=True)
    assert done.returncode == 0 and "warning" not in done.stderr, done.stderr
    spills = SPILLS.findall(done.stderr)
    assert len(spills) == 7 * len(CARDS) and set(spills) == {("0", "0")}


@needs_nvrtc
@pytest.mark.parametrize("card, real", [(card, real) for card in CARDS for real in ("float", "double")] if EVERY_CARD else [
    (75, "double"), (90, "float")])
def test_nvrtc_compiles_the_kernels_without_spills(modules, card, real):
    spills = SPILLS.findall(by_nvrtc(modules[1].TEXT, [f"-arch=sm_{card}", f"-DREAL={real}"]))
    assert len(spills) == 7 and set(spills) == {("0", "0")}


@pytest.mark.parametrize("right, wrong", [
    ("h_new * (has_keep && t + 1 < steps ? keep[at + n] : 1)", "h_new * (has_keep ? keep[at] : 1)"),
    ("dh[unit * dh_ld + column] * (has_keep && t + 1 < steps ? keep[at + n] : 1)", "dh[unit * dh_ld + column]"),
    ("recurrent[row * width + column]", "recurrent[row * n + column]"),
    ("at, n, has_keep ? keep[at] : 1);\n    next", "at, n, 1);\n    next"),
    ("z[0], z[1], z[2], z[3], c[0], keep, c[n], h_new", "z[0], z[2], z[1], z[3], c[0], keep, c[n], h_new"),
    ("z[0], z[1], z[2], z[3], c[0], c[n], keep, through", "z[0], z[1], z[2], z[3], c[n], c[n], keep, through"),
    ("later + dy[unit * dy_ld + at]", "later + dy[unit * c_ld + at]"),
    ("to[unit * to_ld + column] =", "to[unit * from_ld + column] ="),
    ("return h[n] = h_new;", "return h[0] = h_new;"),
])
def test_planted_errors_are_caught(modules, right, wrong, monkeypatch):
    _, stepwise, _ = modules
    assert stepwise.TEXT.count(right) == 1
    monkeypatch.setattr(stepwise, "TEXT", stepwise.TEXT.replace(right, wrong))
    stepwise.kernel.cache_clear()
    with pytest.raises((AssertionError, RuntimeError)):
        test_both_loops_equal_those_of_the_engine(modules, 6, 5, True)
    stepwise.kernel.cache_clear()
