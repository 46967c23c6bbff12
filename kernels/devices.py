"""Find the kernel module for a device name ("cpu", "cuda", "cuda:1", "auto"). No other file does this."""
import re

from .arrays import Array
from .cards import why_no_cuda
from .cpu import ops as cpu
from .interface import Kernel


class DeviceError(RuntimeError):
    """A device cannot be used. The message is one line that names the cause and the cure."""


def load(device: str = "auto") -> Kernel:
    """Return the kernel module for `device`: auto, cpu, cuda or cuda:K. auto means card 0 if it works, else the CPU.

    cuda means card 0. Every name but cpu makes its card the current card of the calling thread, if the card works.
    Raises DeviceError, with the cause and the cure, if the card of a name cuda or cuda:K cannot be used. Raises
    ValueError for any other name.
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
    """Return the kernel module for the library of `array`: NumPy or CuPy."""
    return cpu if isinstance(array, cpu.xp.ndarray) else _cuda()


def _cuda() -> Kernel:
    """Import and return the kernel module of GPUs. It is not imported at the top, because CuPy may be missing."""
    from .cuda import ops
    return ops
