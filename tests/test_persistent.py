"""kernels/persistent.cu and .py under the emulator, against a time loop in float64 that shares no code with the engine."""
import importlib
import shutil
import sys
import types

import cupy_stand_in
import emulate
import numpy as np
import pytest

from rnncore import kernels

pytestmark = pytest.mark.skipif(shutil.which("g++") is None, reason="no g++ on this machine")
BOUND = {"tf32": 1e-3, "bf16": 1e-2}  # against the formulas, of an array's largest number
CLOSE = 1e-3                           # against the formulas on rounded operands


class RawKernel:
    """cupy.RawKernel under the emulator; every launch takes the seed that the test has set."""
    seed, arch = 0, 800

    def __init__(self, code, name, options=(), enable_cooperative_groups=False):
        self.make = code, name, (*options, f"-D__CUDA_ARCH__={self.arch}")
        self.cooperative = enable_cooperative_groups

    def __call__(self, grid, block, args, shared_mem=0):
        emulate.kernel(*self.make)(grid, block, args, shared_mem, seed=RawKernel.seed, cooperative=self.cooperative)


@pytest.fixture(scope="module")
def persistent(tmp_path_factory):
    """kernels/persistent.py over NumPy arrays."""
    fake = cupy_stand_in.module(tmp_path_factory.mktemp("unused"))
    fake.RawKernel = RawKernel
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "cupy", fake)
        for name in ("cuda", "persistent"):
            patch.delitem(sys.modules, f"rnncore.kernels.{name}", raising=False)
        yield importlib.import_module("rnncore.kernels.persistent")
        for name in ("cuda", "persistent"):
            sys.modules.pop(f"rnncore.kernels.{name}")
            vars(kernels).pop(name, None)


def sigmoid(z):
    return 1 / (1 + np.exp(-z))


def in_half(x):
    return np.asarray(x, np.float16).astype(np.float64)


def in_bfloat(x):
    bits = np.asarray(x, np.float32).view(np.uint32).astype(np.uint64)
    return ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16 << 16).astype(np.uint32).view(np.float32).astype(np.float64)


def reference(w, z, h0, c0, keep, dy, dh, dc, rounded=np.asarray):
    """Forward and backward in float64, a step after the other: (i f g o), h, c; then dz, dh, dc at the initial state.

    rounded: what is done to the operands of products.
    """
    w, z, dh, dc = (np.array(a, np.float64) for a in (rounded(w), z, dh, dc))
    hidden, (_, steps, n) = w.shape[1], z.shape
    keep = np.ones((steps, n)) if keep is None else keep
    h, c, activations = [np.array(h0, float)], [np.array(c0, float)], []
    for t in range(steps):
        i, f, g, o = (z[:, t] + w @ rounded(keep[t] * h[t])).reshape(4, hidden, n)
        i, f, g, o = sigmoid(i), sigmoid(f), np.tanh(g), sigmoid(o)
        c.append(f * keep[t] * c[t] + i * g)
        h.append(o * np.tanh(c[t + 1]))
        activations.append((i, f, g, o))
    dz = np.zeros_like(z)
    for t in reversed(range(steps)):
        (i, f, g, o), tanh_c, before = activations[t], np.tanh(c[t + 1]), keep[t] * c[t]
        dh = dh + dy[:, t]
        dc = dc + dh * o * (1 - tanh_c ** 2)
        dz[:, t] = np.concatenate([dc * g * i * (1 - i), dc * before * f * (1 - f), dc * i * (1 - g * g), dh * tanh_c * o * (1 - o)])
        dh, dc = keep[t] * (w.T @ rounded(dz[:, t])), keep[t] * dc * f
    stacked = np.moveaxis(np.array(activations).reshape(steps, 4 * hidden, n), 0, 1)
    return {"gates": stacked, "h": np.moveaxis(h, 0, 1), "c": np.moveaxis(c, 0, 1), "dz": dz, "dh": dh, "dc": dc}


def wide(array, longer: int):
    """The same numbers as a view on the first steps of an array that has more."""
    whole = np.full((len(array), array.shape[1] + longer, array.shape[2]), np.nan, np.float32)
    whole[:, :array.shape[1]] = array
    return whole[:, :array.shape[1]]


def case(hidden, steps, n, documents, seed=0):
    draw = np.random.default_rng(seed)
    w = (draw.standard_normal((4 * hidden, hidden)) / hidden ** 0.5).astype(np.float32)
    shapes = (4 * hidden, steps, n), (hidden, n), (hidden, n), (hidden, steps, n), (hidden, n), (hidden, n)
    z, h0, c0, dy, dh, dc = (draw.standard_normal(shape).astype(np.float32) for shape in shapes)
    keep = (draw.random((steps, n)) > 0.3).astype(np.float32) if documents else None
    return w, z, np.tanh(h0), c0, keep, dy, dh, dc


def run(layer, w, z, h0, c0, keep, dy, dh, dc, longer=0):
    """As `reference`, by the kernels; arrays of `longer` more steps."""
    hidden, (_, steps, n) = w.shape[1], z.shape
    h, c, gates = (np.full((hidden, steps + 1, n), np.nan), np.full((hidden, steps + 1, n), np.nan), z)
    h[:, 0], c[:, 0] = h0, c0
    h, c, gates, dy = (wide(a, longer) for a in (h, c, gates, dy))
    dh, dc = dh.copy(), dc.copy()
    layer.forward(w, gates, h, c, keep)
    activations = gates.copy()
    layer.backward(w, gates, c, keep, dy, dh, dc)
    return {"gates": activations, "h": h, "c": c, "dz": gates, "dh": dh, "dc": dc}


def error(found, wanted) -> float:
    """The largest difference of any array, of that array's largest number; not a number counts as infinite."""
    differences = [np.abs(found[name] - wanted[name]).max() / np.abs(wanted[name]).max() for name in wanted]
    return float(np.nan_to_num(max(differences), nan=np.inf)) if not any(map(np.isnan, differences)) else np.inf


CASES = [  # hidden, steps, n, multiprocessors
    (64, 5, 3, 132), (64, 1, 8, 132), (64, 3, 17, 1), (128, 3, 11, 132), (192, 4, 7, 132), (256, 3, 20, 8), (256, 4, 5, 132),
    (320, 3, 9, 132), (512, 3, 18, 16), (576, 3, 4, 132), (1024, 2, 10, 132)]


@pytest.mark.parametrize(("hidden", "steps", "n", "multiprocessors"), CASES)
def test_both_loops_equal_the_formulas(persistent, monkeypatch, hidden, steps, n, multiprocessors):
    monkeypatch.setattr(RawKernel, "seed", hidden + steps)
    layer = persistent.Persistent(hidden, steps, n, "tf32", 80, multiprocessors)
    given = case(hidden, steps, n, documents=hidden % 128 > 0 or n % 2 == 0)
    found = run(layer, *given, longer=hidden // 64 % 3)
    e=error(found, reference(*given)) , error(found, reference(*given, in_half))
    print(hidden, steps, n, e, layer.geometry)
    assert e[0] < BOUND["tf32"]
