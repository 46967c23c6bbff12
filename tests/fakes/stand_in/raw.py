"""cupy.RawKernel over host memory: CUDA C++ run by the emulator of tests/fakes/emulate.py, launched by CuPy's rules."""
import functools
import importlib
import re

import numpy as np

from . import streams
from .arrays import ndarray

COMMENT = re.compile(r"//[^\n]*|/\*.*?\*/", re.DOTALL)
SHARED = 48 << 10  # bytes of dynamic shared memory that a kernel has without asking


class RawKernel:
    """cupy.RawKernel(code, name, options, enable_cooperative_groups=...): kernel(grid, block, args, shared_mem=...).

    seed: the emulator's, for all kernels; a test sets it to have threads in a random order and blocks held back.
    """
    seed = 0

    def __init__(self, code: str, name: str, options: tuple = (), backend: str = "nvrtc", *,
                 enable_cooperative_groups: bool = False):
        if not all(isinstance(option, str) for option in options):
            raise TypeError(f"{name}: options are texts, not {options}")
        self.code, self.name, self.options, self.cooperative = code, name, tuple(options), enable_cooperative_groups
        self.max_dynamic_shared_size_bytes = SHARED
        self._kernel = None

    def compile(self, log_stream=None) -> None:
        if self._kernel is None:
            self._kernel = importlib.import_module("emulate").kernel(self.code, self.name, self.options)

    @functools.cached_property
    def _constant(self) -> list[bool]:
        """Of each parameter in the kernel's text: does it only read what it points to?"""
        found = re.search(rf"__global__[^;{{]*?\b{self.name}\s*\(([^)]*)\)", COMMENT.sub("", self.code))
        if found is None:
            raise ValueError(f"no kernel {self.name} in the text")
        return ["const" in parameter.split("*")[0] for parameter in found[1].split(",") if parameter.strip()]

    def __call__(self, grid: tuple, block: tuple, args: tuple, *, shared_mem: int = 0) -> None:
        if not (isinstance(grid, tuple) and isinstance(block, tuple) and isinstance(args, tuple)):
            raise TypeError(f"{self.name}: grid, block and args are tuples")
        if shared_mem > self.max_dynamic_shared_size_bytes:
            raise streams.CUDARuntimeError(1, f"cudaErrorInvalidValue: {self.name} has no {shared_mem} bytes of shared "
                                              "memory: set max_dynamic_shared_size_bytes")
        arrays, given, constant = [], [], self._constant
        if len(args) != len(constant):
            raise TypeError(f"{self.name}: {len(args)} arguments for {len(constant)} parameters")
        for k, arg in enumerate(args):
            if type(arg) is ndarray:
                arrays.append((arg, constant[k]))
                given.append(arg._host)
            elif arg is None or isinstance(arg, np.generic):
                given.append(arg)
            else:  # CuPy takes a Python number as 64 bits, whatever the parameter is
                raise TypeError(f"{self.name}: argument {k}, {type(arg)}, is no array of the card and no NumPy scalar")
        self.compile()
        self._kernel.check(given)  # CuPy does not: it hands the bytes over
        kernel, cooperative = self._kernel, self.cooperative

        def work() -> None:
            kernel(grid, block, tuple(given), shared_mem, seed=RawKernel.seed, cooperative=cooperative)

        written = [a for a, constant in arrays if not constant]
        streams.submit(self.name, [a._block for a, _ in arrays], [a._block for a in written], work,
                       [a._host for a, _ in arrays], [a._host for a in written])
