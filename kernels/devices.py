"""A device is a name ("cpu", "cuda", "cuda:1", "auto") that becomes a kernel module here, and only here."""
import ctypes
import importlib
import importlib.util
import math
import os
import re
from pathlib import Path

from . import cpu


class DeviceError(RuntimeError):
    """A device that cannot be used; the message is one line that names the cause and the cure."""


def load(device: str = "auto"):
    """The kernel module for `device`: auto, cpu, cuda or cuda:K. auto is a GPU that works, else the CPU.

    Raises DeviceError, with the cause and the cure, for a GPU that cannot be used; ValueError for any other name.
    """
    if device == "cpu":
        return cpu
    if device == "auto":
        return cpu if why_no_cuda() else importlib.import_module(".cuda", __package__)
    if not re.fullmatch(r"cuda(:\d+)?", device):
        raise ValueError(f"unknown device {device!r}: auto, cpu, cuda or cuda:K")
    reason = why_no_cuda()
    if reason:
        raise DeviceError(f"device {device} cannot be used: {reason}")
    return importlib.import_module(".cuda", __package__)


def of(array):
    """The kernel module that `array` belongs to."""
    return cpu if isinstance(array, cpu.xp.ndarray) else importlib.import_module(".cuda", __package__)


def why_no_cuda() -> str | None:
    """None where a GPU can be used, else the cause and the cure in one line."""
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        return ("this machine has no NVIDIA driver (libcuda.so.1): install the driver for its card, "
                "or train on the processor with --device cpu")
    if importlib.util.find_spec(".cuda", __package__) is None:
        return "this version of rnncore has no CUDA kernels yet: train on the processor with --device cpu"
    return None


def cores() -> int:
    """Processor cores that this process may use: its affinity, and its control group's quota where there is one."""
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    limit = Path("/sys/fs/cgroup/cpu.max")
    quota, period = limit.read_text().split() if limit.is_file() else ("max", "100000")
    return count if quota == "max" else max(1, min(count, math.ceil(int(quota) / int(period))))
