"""A stand-in for cupy over host memory: the engine runs on "cuda" on a machine without a GPU. See tests/fakes/stand_in.

Arrays are of a type of their own, streams and graphs are kept in order, kernels are compiled or emulated on the host.
What is asked of CuPy is held to CuPy's rules; what CuPy would do in silence and wrongly under stream capture raises.
"""
import contextlib
import importlib.machinery
import os
import sys
import tempfile
import types
from pathlib import Path

import numpy as np
from stand_in import arrays, functions, pinned, streams
from stand_in.arrays import at, ndarray
from stand_in.elementwise import CTYPES, ElementwiseKernel
from stand_in.functions import enqueue, enqueue_at, freed, recorded
from stand_in.lanes import Race
from stand_in.memory import Allocation, Freed
from stand_in.raw import RawKernel
from stand_in.streams import CUDARuntimeError, reset

from rnncore.kernels import cuda

__all__ = ["CTYPES", "Allocation", "CUDARuntimeError", "ElementwiseKernel", "Freed", "Race", "RawKernel", "at",
           "cache", "enqueue", "enqueue_at", "freed", "installed", "module", "ndarray", "recorded", "reset"]
CARD = {"name": b"Stand-in", "major": 9, "minor": 0, "multiProcessorCount": 132, "sharedMemPerBlockOptin": 227 << 10,
        "sharedMemPerMultiprocessor": 228 << 10, "totalGlobalMem": 8 << 30, "regsPerBlock": 1 << 16, "warpSize": 32,
        "cooperativeLaunch": 1, "l2CacheSize": 50 << 20, "maxThreadsPerMultiProcessor": 2048}
INVALID_DEVICE = 101
MISSING = {"block", "bmat", "einsum_path", "errstate", "frompyfunc", "geomspace", "geterr", "histogram_bin_edges", "insert",
           "longdouble", "matvec", "nanpercentile", "nanquantile", "ndenumerate", "nditer", "seterr", "spacing", "unstack",
           "vecdot", "vecmat"}  # of NumPy's names those that CuPy 14.2 does not have, and that arrays of numbers are used with


class Device:
    """cupy.cuda.Device: there is one card, with index 0."""
    mem_info = 3 << 30, 8 << 30
    compute_capability = f"{CARD['major']}{CARD['minor']}"
    attributes = {"MultiProcessorCount": CARD["multiProcessorCount"], "CooperativeLaunch": 1,
                  "MaxSharedMemoryPerBlockOptin": CARD["sharedMemPerBlockOptin"],
                  "ComputeCapabilityMajor": CARD["major"], "ComputeCapabilityMinor": CARD["minor"]}

    def __init__(self, device=0):
        self.id = int(device)

    def __int__(self):
        return self.id

    def use(self):
        if self.id:
            raise CUDARuntimeError(INVALID_DEVICE, "cudaErrorInvalidDevice: invalid device ordinal")
        return self

    __enter__ = use

    def __exit__(self, *error):
        """It was the current one before."""

    def synchronize(self) -> None:
        streams.current().synchronize()


def _runtime() -> types.SimpleNamespace:
    return types.SimpleNamespace(
        CUDARuntimeError=CUDARuntimeError, streamCaptureModeGlobal=0, streamCaptureModeThreadLocal=1,
        streamCaptureModeRelaxed=streams.RELAXED, getDeviceProperties=lambda index: CARD, getDeviceCount=lambda: 1,
        getDevice=lambda: 0, driverGetVersion=lambda: 13010, runtimeGetVersion=lambda: 12090,
        deviceSynchronize=lambda: streams.current().synchronize(), memGetInfo=lambda: Device.mem_info)


def _getattr(name: str):
    """What NumPy has under that name: types and constants as they are, functions on device arrays."""
    if name in MISSING:
        raise AttributeError(f"module 'cupy' has no attribute {name!r}")
    found = getattr(np, name)
    return found if isinstance(found, type) or not callable(found) else functions.function(found)


def cache() -> Path:
    """A private folder among the temporary ones, where compiled kernels are found again by what they are made of."""
    folder = Path(tempfile.gettempdir()) / f"rnncore-stand-in-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    return folder


def module(folder) -> types.ModuleType:
    """The stand-in; compiled kernels go to `folder`."""
    ElementwiseKernel.made, ElementwiseKernel.folder = [], folder
    reset()
    pinned.reset()
    stand_in = types.ModuleType("cupy")
    stand_in.__spec__ = importlib.machinery.ModuleSpec("cupy", None)
    stand_in.__version__, stand_in.__getattr__ = "14.2.0", _getattr
    stand_in.ndarray = ndarray
    for name in ("array", "asarray", "ascontiguousarray", "asnumpy", "empty", "empty_like", "copyto"):
        setattr(stand_in, name, getattr(functions, name))
    stand_in.ElementwiseKernel, stand_in.RawKernel = ElementwiseKernel, RawKernel
    stand_in.cuda = types.SimpleNamespace(
        Device=Device, Stream=streams.Stream, Event=streams.Event, Graph=streams.Graph, runtime=_runtime(),
        get_current_stream=streams.current, get_elapsed_time=streams.get_elapsed_time,
        using_allocator=streams.using_allocator, MemoryPointer=arrays.Pointer, get_cublas_handle=lambda: 1,
        alloc_pinned_memory=lambda nbytes: pinned.pool.allocate(nbytes),
        is_available=lambda: True)
    return stand_in


@contextlib.contextmanager
def installed():
    """kernels/cuda/ops.py over the stand-in, as is every module beside it that imports cupy while this lasts."""
    def take_out() -> dict:
        names = [name for name, found in sys.modules.items()
                 if name.startswith(f"{cuda.__name__}.") and "cupy" in vars(found)]
        for name in names:
            vars(cuda).pop(name.rpartition(".")[2], None)
        return {name: sys.modules.pop(name) for name in names}

    before, real = take_out(), sys.modules.get("cupy")
    sys.modules["cupy"] = module(cache())
    try:
        yield importlib.import_module(f"{cuda.__name__}.ops")
    finally:
        take_out()
        sys.modules.pop("cupy")
        sys.modules.update(before | ({"cupy": real} if real else {}))
        vars(cuda).update({name.rpartition(".")[2]: found for name, found in before.items()})
