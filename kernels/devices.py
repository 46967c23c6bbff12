"""A device is a name ("cpu", "cuda", "cuda:1", "auto") that becomes a kernel module here, and only here."""
import re

from .arrays import Array
from .cards import why_no_cuda
from .cpu import ops as cpu
from .interface import Kernel


class DeviceError(RuntimeError):
    """A device that cannot be used; the message is one line that names the cause and the cure."""


def load(device: str = "auto") -> Kernel:
    """The kernel module for `device`: auto, cpu, cuda or cuda:K. auto is a GPU that works, else the CPU.

    cuda:K makes card K the current one of the calling thread. Raises DeviceError, with the cause and the cure, for a
    GPU that cannot be used; ValueError for any other name.
    """
    if device == "cpu":
        return cpu
    if device != "auto" and not re.fullmatch(r"cuda(:\d+)?", device):
        raise ValueError(f"unknown device {device!r}: auto, cpu, cuda or cuda:K")
    reason = why_no_cuda(int(device[5:] or 0) if device != "auto" else 0)
    if reason is None:
        return _cuda()
    if device == "auto":
        return cpu
    raise DeviceError(f"device {device} cannot be used: {reason}")


def of(array: Array) -> Kernel:
    """The kernel module that `array` belongs to."""
    return cpu if isinstance(array, cpu.xp.ndarray) else _cuda()


def _cuda() -> Kernel:
    """The kernel module of GPUs, imported where one is used: CuPy may be missing."""
    from .cuda import ops
    return ops
