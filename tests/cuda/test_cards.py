"""What is said of a GPU that cannot be used: each cause by name, each with its cure. Drivers and CuPy are played here."""
import importlib.util
import os
import sys
import types

import numpy as np
import pytest

from rnncore import kernels
from rnncore.kernels import cards


class CudaError(RuntimeError):
    """Like cupy's CUDARuntimeError: a text and a status."""

    def __init__(self, status: int, text: str):
        super().__init__(text)
        self.status = status


class OutOfMemoryError(MemoryError):
    """Like cupy's."""


def play(monkeypatch, version: int | None, fault: Exception | None = None, installed: bool = True):
    """A machine whose driver supports CUDA `version`, and a CuPy that raises `fault` when a card is asked for."""
    monkeypatch.setattr(cards, "driver_version", lambda: version)

    class Device:
        def __init__(self, index):
            self.index = index

        def use(self):
            if fault is not None:
                raise fault

    cupy = types.ModuleType("cupy")
    cupy.__version__ = "14.2.0"
    cupy.cuda = types.SimpleNamespace(Device=Device)
    monkeypatch.setitem(sys.modules, "cupy", cupy)
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec",
                        lambda name, *rest: (object() if installed else None) if name == "cupy" else found(name, *rest))
    monkeypatch.setenv("CUPY_CACHE_DIR", "/nowhere")


CASES = [
    (None, None, "no NVIDIA driver", "apt install nvidia-driver"),
    (12040, CudaError(35, "cudaErrorInsufficientDriver: CUDA driver version is insufficient"),
     "supports CUDA 12.4", "pip install 'cupy-cuda12x[ctk]'"),
    (12040, CudaError(100, "cudaErrorNoDevice: no CUDA-capable device is detected"), "sees no device", "nvidia-smi"),
    (12040, CudaError(101, "cudaErrorInvalidDevice: invalid device ordinal"), "no card 0", "nvidia-smi -L"),
    (12040, CudaError(2, "cudaErrorMemoryAllocation: out of memory"), "out of memory", "--device cuda:K"),
    (12040, OutOfMemoryError("Out of memory allocating 512 bytes"), "out of memory", "nvidia-smi"),
    (12040, RuntimeError("CuPy failed to load libnvrtc.so.12: cannot open shared object file"),
     "libraries or headers are missing", "pip install 'cupy-cuda12x[ctk]'"),
    (13000, RuntimeError("Failed to find CUDA headers"), "libraries or headers are missing", "cupy-cuda13x[ctk]"),
    (13000, ValueError("something\nelse"), "a tiny kernel failed (ValueError: something else)", "--device cpu"),
]


@pytest.mark.parametrize(("version", "fault", "cause", "cure"), CASES)
def test_each_cause_has_its_words_and_its_cure(monkeypatch, version, fault, cause, cure):
    play(monkeypatch, version, fault)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    reason = cards.why_no_cuda()
    assert cause in reason and cure in reason and "\n" not in reason
    with pytest.raises(kernels.DeviceError, match="device cuda cannot be used: "):
        kernels.load("cuda")
    assert kernels.load("auto") is kernels.host


def works(monkeypatch, factor: int = 2):
    """The same machine, with a card whose tiny kernel multiplies by `factor`; two is right."""
    play(monkeypatch, 12040)
    cupy = sys.modules["cupy"]
    cupy.ElementwiseKernel, cupy.ones, cupy.matmul = lambda *text: lambda x: factor * x, np.ones, np.matmul
    cupy.cuda.Device.mem_info = 3 * 2 ** 30, 8 * 2 ** 30
    cupy.cuda.runtime = types.SimpleNamespace(
        getDeviceProperties=lambda index: {"name": b"Some Card", "major": 9, "minor": 0},
        driverGetVersion=lambda: 13010, runtimeGetVersion=lambda: 12090)


def test_a_card_that_computes_is_taken_and_described(monkeypatch):
    works(monkeypatch)
    assert cards.why_no_cuda() is None
    assert cards.describe() == {"card": "Some Card", "capability": "9.0", "card memory": "3.0 of 8.0 GiB free",
                                "cupy": "14.2.0", "driver supports": "CUDA 13.1", "cuda runtime": "12.9"}


def test_a_cupy_that_is_too_old_is_as_good_as_none(monkeypatch):
    works(monkeypatch)
    sys.modules["cupy"].__version__ = "13.6.0"
    assert cards.why_no_cuda() == ("CuPy 14 or newer is needed, and 13.6.0 is installed: "
                                   "`pip install 'cupy-cuda12x[ctk]'`")


def test_a_card_that_computes_wrongly_is_not_taken(monkeypatch):
    works(monkeypatch, factor=3)
    assert "wrong results" in cards.why_no_cuda() and kernels.load("auto") is kernels.host


@pytest.mark.parametrize(("version", "extra"), [(12080, "cuda12"), (13010, "cuda13")])
def test_without_cupy_the_extra_that_fits_the_driver_is_named(monkeypatch, version, extra):
    play(monkeypatch, version, installed=False)
    assert cards.why_no_cuda() == f"CuPy is not installed: `pip install 'cupy-{extra}x[ctk]'`"


def test_hidden_devices_are_named(monkeypatch):
    play(monkeypatch, 12040, CudaError(100, "cudaErrorNoDevice"))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert "unset CUDA_VISIBLE_DEVICES" in cards.why_no_cuda()


def test_the_card_s_number_reaches_the_message(monkeypatch):
    play(monkeypatch, 12040, CudaError(101, "cudaErrorInvalidDevice"))
    with pytest.raises(kernels.DeviceError, match="cuda:3 cannot be used: there is no card 3"):
        kernels.load("cuda:3")


def test_a_home_that_cannot_be_written_does_not_stop_the_cache(monkeypatch, tmp_path):
    (tmp_path / "home").write_text("a file where the home folder should be")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("CUPY_CACHE_DIR", raising=False)
    cards.give_cupy_a_cache()
    assert os.access(os.environ["CUPY_CACHE_DIR"], os.W_OK)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("CUPY_CACHE_DIR")
    cards.give_cupy_a_cache()
    assert "CUPY_CACHE_DIR" not in os.environ and (tmp_path / ".cupy" / "kernel_cache").is_dir()
