"""CUDA C++ kernels run without a GPU: their text compiled by g++ behind cuda_emulator.hpp, launched on NumPy arrays.

Every array is copied between guards for the launch: what a kernel writes outside its arguments is an error, as are
deadlocks, diverging barriers, misaligned addresses and indices outside arrays. With a seed other than 0 the order of
threads is random and blocks are held back. A launch that is not cooperative has 8 blocks at a time.
"""
import ctypes
import functools
import hashlib
import mmap
import os
import re
import subprocess
import tempfile
from pathlib import Path

import numpy as np

HEADER = (Path(__file__).parent / "cuda_emulator.hpp").read_text(encoding="utf-8")
ARCHITECTURE = "#ifndef __CUDA_ARCH__\n#define __CUDA_ARCH__ 800\n#endif\n"
FLAGS = ("-std=c++17", "-Og", "-fPIC", "-U_FORTIFY_SOURCE", "-fno-strict-aliasing", "-ffp-contract=off", "-w",
         "-fsanitize=alignment,bounds-strict", "-fcf-protection=none")
GUARD, ALIGNMENT = 4096, 512
KEPT = 4096 << 16  # bytes of stacks, for 4,096 threads
AROUND = bytes([0xFF]) * (GUARD + ALIGNMENT)  # what stands before and behind the copy of an array, at most so much
KERNEL = re.compile(r'extern\s+"C"\s+__global__\s+(?:__launch_bounds__\s*\([^)]*\)\s*)?void\s+'
                    r'(?:__launch_bounds__\s*\([^)]*\)\s*)?(\w+)')
SHARED = re.compile(r"\b__shared__\s+(?:(?:__align__|alignas)\s*\((\d+)\)\s*)?([\w:]+(?:\s+(?:int|short|char|long))*)\s+"
                    r"(\w+)((?:\s*\[[^\]]*\])*)\s*;")


class Fault(RuntimeError):
    """What a kernel did that it must not, and where: the line is that of the kernel's text."""


def kernel(code: str, name: str, options=()) -> "Kernel":
    """The kernel `name` of a CUDA text. options: NVRTC's, of which only -D counts; __CUDA_ARCH__ is 800 unless given."""
    return Kernel(code, name, tuple(option for option in options if option.startswith("-D")))


def grid_of(dims) -> list[int]:
    dims = (dims,) if np.ndim(dims) == 0 else tuple(dims)
    return [int(d) for d in dims + (1,) * (3 - len(dims))]


class Kernel:
    """Called like cupy.RawKernel: grid and block as tuples, args NumPy arrays, NumPy scalars or None; raises Fault."""

    def __init__(self, code: str, name: str, options: tuple[str, ...]):
        if name not in KERNEL.findall(code):
            raise ValueError(f'no extern "C" __global__ void {name}(...) in the text')
        library = ctypes.CDLL(str(compiled(source(code), options)))
        parameters, self._launch = library[f"parameters_of_{name}"], library[f"launch_{name}"]
        parameters.restype = self._launch.restype = ctypes.c_char_p
        self._launch.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_uint,
                                 ctypes.c_void_p, ctypes.c_size_t]
        self.name, self._kinds = name, parameters().decode().split()

    def __call__(self, grid, block, args, shared_mem: int = 0, *, seed: int = 0, cooperative: bool = False) -> None:
        self.check(args)
        if int(np.prod(grid_of(block))) > 1024 or shared_mem > 227 << 10:
            raise ValueError(f"{self.name}: a block of {block} threads, {shared_mem} bytes of shared memory")
        copies: dict[int, Copy] = {}
        values = np.zeros((len(args), 8), np.uint8)  # each parameter's value in memory
        for value, arg in zip(values, args, strict=True):
            raw = self._value(arg, copies)
            value[:raw.nbytes] = np.frombuffer(raw, np.uint8)
        pointers = address(values) + 8 * np.arange(len(args), dtype=np.uintp)
        dims = np.array(grid_of(grid) + grid_of(block), np.uint32)
        words = self._launch(address(pointers), address(dims), shared_mem, cooperative, seed, address(stacks()), KEPT)
        if words:
            raise Fault(f"{self.name}: {words.decode()}")
        for copy in copies.values():
            copy.check(self.name)
        for copy in copies.values():
            copy.back()

    def check(self, args) -> None:
        """Raise TypeError for arguments that are not what the parameters take: a card would read other bytes."""
        if len(args) != len(self._kinds):
            raise TypeError(f"{self.name}: {len(args)} arguments for {len(self._kinds)} parameters")
        for k, (kind, arg) in enumerate(zip(self._kinds, args, strict=True)):
            if not fits(kind, arg):
                raise TypeError(f"{self.name}: argument {k} is {getattr(arg, 'dtype', type(arg))}, the parameter {kind}")

    @staticmethod
    def _value(arg, copies: dict) -> np.generic:
        """One parameter's value: a number, or where an array's copy lies."""
        if not isinstance(arg, np.ndarray):
            return np.uintp(0) if arg is None else arg
        owner = arg
        while isinstance(owner.base, np.ndarray):
            owner = owner.base
        if id(owner) not in copies:
            copies[id(owner)] = Copy(owner)
        copy = copies[id(owner)]
        copy.views.append(arg)
        return np.uintp(copy.address(arg))


def address(array: np.ndarray) -> int:
    """Where an array's first element lies: quicker than array.ctypes.data."""
    return array.__array_interface__["data"][0]


@functools.cache
def stacks() -> np.ndarray:
    """The stacks of a launch's threads; memory that no thread has touched yet takes none."""
    return np.frombuffer(mmap.mmap(-1, KEPT, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS), np.uint8)


def fits(kind: str, arg) -> bool:
    """May arg be passed for a parameter of this kind (as emulator::kinds says)?"""
    if kind[0] == "p":
        if isinstance(arg, np.uintp) and arg == 0:  # no array, as a number that CuPy passes by value
            return True
        if arg is None or kind == "p*":
            return arg is None or isinstance(arg, np.ndarray)
        return isinstance(arg, np.ndarray) and (kind[1:] in ("u1", "i1", arg.dtype.str[1:])
                                                or kind[1:] == "u2" and arg.dtype == np.float16
                                                or kind[1:] == "u1" and arg.dtype == bool)
    return isinstance(arg, np.generic) and arg.dtype.str[1:] in (kind, "b1" if kind == "u1" else kind)


class Copy:
    """The memory of an array that owns its own, between guards, for the time of a launch."""

    def __init__(self, owner: np.ndarray):
        ends = [stride * (length - 1) for stride, length in zip(owner.strides, owner.shape, strict=True)]
        low = address(owner) + sum(end for end in ends if end < 0)
        self.low, self.views = low, []
        self.size = sum(map(abs, ends)) + owner.itemsize if owner.size else 0
        self.original = np.frombuffer((ctypes.c_ubyte * max(1, self.size)).from_address(low), np.uint8)[:self.size]
        self.before = self.original.tobytes()
        self.room = np.full(self.size + 2 * GUARD + ALIGNMENT, 0xFF, np.uint8)
        self.start = address(self.room)
        self.first = GUARD + -(self.start + GUARD) % ALIGNMENT
        self.inside = self.room[self.first:self.first + self.size]
        self.inside[...] = self.original

    def address(self, view: np.ndarray) -> int:
        return self.start + self.first + address(view) - self.low

    def check(self, name: str) -> None:
        """Raises Fault where something outside the views was written."""
        before, behind = self.room[:self.first].tobytes(), self.room[self.first + self.size:].tobytes()
        if before != AROUND[:len(before)] or behind != AROUND[:len(behind)]:
            raise Fault(f"{name}: a write outside an array")
        if self.unchanged():
            return
        touched = self.inside != np.frombuffer(self.before, np.uint8)
        for view in self.views:
            inside = np.ndarray(view.shape + (view.itemsize,), bool, touched, address(view) - self.low,
                                view.strides + (1,))
            inside[...] = False
        if touched.any():
            raise Fault(f"{name}: a write outside the view of an array, at its byte {int(touched.argmax())}")

    def unchanged(self) -> bool:
        return self.inside.tobytes() == self.before

    def back(self) -> None:
        if not self.unchanged():
            changed = self.inside != np.frombuffer(self.before, np.uint8)
            self.original[changed] = self.inside[changed]


def source(code: str) -> str:
    """The whole C++ text: the emulator, the kernels' with its shared arrays made references, and how to launch them."""
    count = iter(range(10 ** 6))

    def declaration(found) -> str:
        align, type_, label, dims = found.groups()
        if found.string[:found.start()].rstrip().endswith("extern"):
            return f"auto* {label} = emulator::dynamic_shared<{type_}>();"
        aligned = f"alignas({align}) " if align else ""
        k = next(count)
        return (f"struct Shared{k} {{ {aligned}{type_} {label}{dims}; }}; "
                f"auto& {label} = emulator::shared<Shared{k}, {k}>(__LINE__).{label};")

    text = SHARED.sub(declaration, code)
    if re.search(r"\b__shared__\b", text):
        raise ValueError("a __shared__ declaration that the emulator does not understand: one array or number in each")
    text = re.sub(r"\bextern\s+(?=auto\* \w+ = emulator)", "", text)
    launchers = "".join(f"""
extern "C" const char* parameters_of_{name}() {{
    static std::string words = emulator::kinds({name});
    return words.c_str();
}}
extern "C" const char* launch_{name}(void** args, const unsigned* n, size_t shared, int cooperative, unsigned seed,
                                     char* stacks, size_t bytes) {{
    return emulator::launch({{n[0], n[1], n[2]}}, {{n[3], n[4], n[5]}}, shared, cooperative, seed, stacks, bytes,
                            [=] {{ emulator::call({name}, args); }});
}}
""" for name in KERNEL.findall(code))
    return f'#include "cuda_emulator.hpp"\n{ARCHITECTURE}#line 1 "kernel"\n{text}\n{launchers}'


def run(command: list) -> None:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise ValueError(f"the kernel does not compile under g++:\n{done.stderr[:4000]}")


@functools.cache
def kept() -> Path:
    """A private folder among the temporary ones, one of each header and flags; the header lies in it, precompiled."""
    key = hashlib.sha256("\0".join([HEADER, *FLAGS]).encode()).hexdigest()[:24]
    folder = Path(tempfile.gettempdir()) / f"rnncore-emulated-{os.getuid()}-{key}"
    folder.mkdir(mode=0o700, exist_ok=True)
    header = folder / "cuda_emulator.hpp"
    if not header.exists():
        with tempfile.TemporaryDirectory(dir=folder) as workplace:
            made = Path(workplace) / header.name
            made.write_text(HEADER, encoding="utf-8")
            run(["g++", *FLAGS, "-x", "c++-header", "-o", f"{made}.gch", made])
            os.replace(f"{made}.gch", f"{header}.gch")  # first, since who sees the header takes this for complete
            os.replace(made, header)
    return folder


@functools.cache
def compiled(text: str, options: tuple[str, ...]) -> Path:
    """The library of a C++ text, made once and kept."""
    key = hashlib.sha256("\0".join([text, *options]).encode()).hexdigest()[:24]
    path = kept() / f"{key}.so"
    if not path.exists():
        with tempfile.TemporaryDirectory(dir=kept()) as workplace:
            cpp, made = Path(workplace) / "kernel.cpp", Path(workplace) / "kernel"
            cpp.write_text(text, encoding="utf-8")
            run(["g++", *FLAGS, "-I", kept(), *options, "-c", "-o", f"{made}.o", cpp])
            run(["g++", "-shared", "-o", f"{made}.so", f"{made}.o"])
            os.replace(f"{made}.so", path)
    return path
