"""kernels holds all code that depends on the device: one kernel module for each device, with the same functions.

`load(device)` returns the kernel module for a device name. `of(array)` returns the kernel module for an array. Both
return a `Kernel`.

    interface.py   the interface `Kernel` of a kernel module, and the interfaces of the objects that it makes
    arrays.py      the types of arrays
    devices.py     finds the kernel module for a device name
    cards.py       tests whether a GPU works, and finds the cause and the cure if it does not
    paths.py       the paths: what computes the products, time loops and training steps; which path is the fastest
    gates.cuh      the arithmetic of the LSTM cell in C++, for the GPU and for the processor's own compiler
    philox.cuh     the counter-based random generator in CUDA C++
    cpu/, cuda/    the two kernel modules: ops.py in each, and the files that it needs
"""
from .arrays import Array, Ids, StackState, Window
from .cards import describe, why_no_cuda
from .cpu import ops as host  # text, files and drawn symbols are on the host, whatever the device is
from .devices import DeviceError, load, of
from .interface import Kernel, Layer, Path, Writer

__all__ = ["Array", "DeviceError", "Ids", "Kernel", "Layer", "Path", "StackState", "Window", "Writer",
           "describe", "host", "load", "of", "why_no_cuda"]
