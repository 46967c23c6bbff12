"""kernels is the only folder that knows one array library from another: a module a device, the same functions in each.

`load(device)` gives the module for a device name, `of(array)` the module whose arrays these are: each is a `Kernel`.

    interface.py   the functions of a kernel module, `Kernel`, a line each
    arrays.py      the types of arrays
    devices.py     from a device's name to its kernel module
    cards.py       whether a GPU works, and if not, why
    paths.py       how the work of a model is done: products, time loops, captured steps; which path is the fastest
    cpu/, cuda/    the kernel modules, ops.py in each, and what they need
"""
from .arrays import Array, Ids, StackState, Window
from .cards import describe, why_no_cuda
from .cpu import ops as host  # text, files and drawn symbols live on the host, whatever the device
from .devices import DeviceError, load, of
from .interface import Kernel, Layer, Path, Writer

__all__ = ["Array", "DeviceError", "Ids", "Kernel", "Layer", "Path", "StackState", "Window", "Writer",
           "describe", "host", "load", "of", "why_no_cuda"]
