"""approximate.cuh against float64 over the range of float: under the emulator, whose instructions err as far as they may, and on a card."""
import importlib
import shutil

import cupy_stand_in
import emulate
import numpy as np
import pytest

from rnncore import kernels

REASON = kernels.why_no_cuda()
KERNEL = """
extern "C" __global__ void both(const float* z, float* s, float* t, int n) {
    for (int k = blockIdx.x * blockDim.x + threadIdx.x; k < n; k += gridDim.x * blockDim.x)
        s[k] = sigmoid(z[k]), t[k] = tanh_of(z[k]);
}
"""
SIGMOID, TANH = 4e-7, 2e-6  # of 1 and of the result, as approximate.cuh says


@pytest.fixture(scope="module")
def code() -> str:
    with cupy_stand_in.installed():
        return importlib.import_module("rnncore.kernels.cuda.text").source("ptx.cuh", "approximate.cuh") + KERNEL


def points() -> np.ndarray:
    """Every size from 1e-38 to 3e38 of both signs, and close together where the functions bend."""
    sizes = np.concatenate([np.geomspace(1.2e-38, 3.4e38, 4001), np.linspace(0.01, 20, 8001), np.linspace(0.24, 0.26, 2001)])
    return np.concatenate([sizes, -sizes]).astype(np.float32)


def check(both) -> None:
    """both(z): sigmoid and tanh."""
    z = points()
    s, t = (found.astype(np.float64) for found in both(z))
    exact = z.astype(np.float64)
    wanted = np.where(exact > 0, 1 / (1 + np.exp(-np.abs(exact))), np.exp(-np.abs(exact)) / (1 + np.exp(-np.abs(exact))))
    normal = exact > -80  # a result below 1e-38 is 0
    assert np.abs(s - wanted).max() < SIGMOID and s.min() >= 0 and np.abs(s[normal] / wanted[normal] - 1).max() < 5e-6
    assert np.abs(t / np.tanh(exact) - 1).max() < TANH and np.abs(t).max() <= 1 + TANH
    edges = np.array([0.0, -0.0, np.inf, -np.inf, np.nan], np.float32)
    s, t = both(edges)
    assert np.abs(s[:4] - [0.5, 0.5, 1, 0]).max() < SIGMOID and np.abs(t[:4] - [0, 0, 1, -1]).max() < TANH
    assert np.isnan([s[4], t[4]]).all() and not t[:2].any() and np.signbit(t[:2]).tolist() == [False, True]


@pytest.mark.skipif(shutil.which("g++") is None, reason="no g++ on this machine")
def test_both_functions_are_right_with_the_worst_instructions(code):
    def both(z):
        out = np.zeros_like(z), np.zeros_like(z)
        emulate.kernel(code, "both")((8,), (64,), (z, *out, np.int32(len(z))))
        return out
    check(both)


@pytest.mark.gpu
@pytest.mark.skipif(REASON is not None, reason=f"no GPU: {REASON}")
def test_both_functions_are_right_on_a_card(code):
    import cupy

    def both(z):
        out = cupy.zeros_like(z_there := cupy.asarray(z)), cupy.zeros_like(z_there)
        cupy.RawKernel(code, "both", options=("-std=c++17",))((32,), (256,), (z_there, *out, np.int32(len(z))))
        return tuple(map(cupy.asnumpy, out))
    check(both)
