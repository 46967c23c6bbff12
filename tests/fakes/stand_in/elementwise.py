"""cupy.ElementwiseKernel over host memory: the kernel's own text, compiled as host C++ and held to CuPy's rules.

The number, order, direction and dtype of every argument are checked, shapes that broadcast, and that no output overlaps
another argument, unless the two are one array: then each element may read and write its own place. The elements run in a shuffled order, every index of a raw array is checked, inputs cannot be written.
"""
import ctypes
import functools
import hashlib
import re
import subprocess
import tempfile
from pathlib import Path

import numpy as np

from . import streams
from .arrays import ndarray
from .memory import address

CTYPES = {"float16": "Half", "uint16": "unsigned short",
          "float32": "float", "float64": "double", "int64": "long", "int32": "int", "uint32": "unsigned",
          "uint64": "unsigned long", "int8": "signed char", "uint8": "unsigned char", "bool": "bool"}
HEADER = """
#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstring>
#define __device__
struct Half {  // float16, which g++ 12 does not have; to the nearest, ties to even
    unsigned short bits;
    Half(float x) {
        unsigned u; memcpy(&u, &x, 4);
        const unsigned sign = u >> 16 & 0x8000, size = u & 0x7FFFFFFF;
        if (size > 0x7F800000) bits = 0x7FFF;
        else if (size >= 0x477FF000) bits = sign | 0x7C00;
        else bits = sign | (size < 0x38800000 ? (unsigned)std::nearbyint(std::fabs(x) * 16777216.f)
                                              : (size + 0xFFF + (size >> 13 & 1) - 0x38000000) >> 13);
    }
};
using std::max; using std::min; using std::exp; using std::log; using std::sqrt;
struct Failure {};
struct Count { ptrdiff_t n; ptrdiff_t size() const { return n; } };
template <typename T> struct Array {
    char* data; long ndim; const long *shape, *strides;
    ptrdiff_t size() const { ptrdiff_t n = 1; for (long d = 0; d < ndim; d++) n *= shape[d]; return n; }
    T& operator[](ptrdiff_t at) const {
        if (at < 0 || at >= size()) throw Failure();
        ptrdiff_t offset = 0;
        for (long d = ndim - 1; d >= 0; d--) offset += at % shape[d] * strides[d], at /= shape[d];
        return *(T*)(data + offset);
    }
};
"""
NUMBERS = (bool, int, float, np.generic)


class ElementwiseKernel:
    """cupy.ElementwiseKernel. `made` holds all of them, `source` is theirs for other compilers' sake."""
    made: list["ElementwiseKernel"] = []
    folder = None  # where compiled kernels go, set by the test

    def __init__(self, in_params: str, out_params: str, operation: str, name: str = "kernel", reduce_dims: bool = True,
                 preamble: str = "", options: tuple = ()):
        self.inputs, self.outputs = _parse(in_params), _parse(out_params)
        self.params = self.inputs + self.outputs
        if reserved := {label for _, _, label in self.params if label in ("i", "n") or label.startswith("_")}:
            raise ValueError(f"{name}: {reserved} cannot be a parameter's name")
        self.operation, self.name, self.preamble = operation, name, preamble
        self._compiled: dict = {}
        self._plans: dict = {}
        ElementwiseKernel.made.append(self)

    def __call__(self, *args, size: int | None = None, block_size: int = 128):
        """Run the kernel; where the outputs are left out they are made. Returns the output, or a tuple of several."""
        if len(args) not in (len(self.inputs), len(self.params)):
            raise TypeError(f"{self.name}: {len(args)} arguments for {len(self.params)} parameters")
        self._check_kinds(args)
        generic = self._generic(args)
        types_ = tuple(generic if dtype == "T" else dtype for _, dtype, _ in self.params)
        shape = self._shape(args, size)
        if len(args) == len(self.inputs):
            if any(raw for raw, _, _ in self.outputs):
                raise ValueError(f"{self.name}: Output array size is Undecided")
            args = (*args, *(ndarray(shape, t) for t in types_[len(self.inputs):]))
        outputs = args[len(self.inputs):]
        self._check_overlaps(args, outputs)
        hosts = []
        for (_, _, label), type_, arg in zip(self.params, types_, args, strict=True):
            host = arg._host if type(arg) is ndarray else self._number(label, arg, type_)
            if host.dtype != type_:
                raise TypeError(f"{self.name}: {label} is {host.dtype}, not {type_}")
            hosts.append(host)
        for (raw, _, label), host in list(zip(self.params, hosts, strict=True))[len(self.inputs):]:
            if not raw and host.shape != shape:
                raise ValueError(f"{self.name}: output {label} has the shape {host.shape}, not {shape}")
        self._submit(args, hosts, types_, shape)
        return outputs if len(outputs) > 1 else outputs[0]

    def _number(self, label: str, number, type_: str | None) -> np.ndarray:
        """A number as the parameter's type. CuPy casts in silence, and so loses what an integer cannot hold."""
        if type_ is None:
            raise TypeError(f"{self.name}: no array says what T of {label} is")
        if np.dtype(type_).kind in "iu" and isinstance(number, (float, np.floating)):
            raise TypeError(f"{self.name}: {label} is {number!r}, not {type_}")
        return np.asarray(number, type_)

    def _check_kinds(self, args) -> None:
        for k, ((raw, _, label), arg) in enumerate(zip(self.params, args, strict=False)):
            if type(arg) is ndarray:
                continue
            if k >= len(self.inputs) or raw:
                raise TypeError(f"{self.name}: {'raw' if raw else 'output'} {label} is no array of the card")
            if not isinstance(arg, NUMBERS):
                raise TypeError(f"{self.name}: {label}: Unsupported type {type(arg)}")
            if isinstance(arg, np.generic) and self.params[k][1] not in ("T", arg.dtype.name):
                raise TypeError(f"{self.name}: {label} is {arg.dtype}, not {self.params[k][1]}")

    def _generic(self, args) -> str | None:
        found = {arg.dtype.name for arg, (_, dtype, _) in zip(args, self.params, strict=False)
                 if dtype == "T" and type(arg) is ndarray}
        if len(found) > 1:
            raise TypeError(f"{self.name}: T is both {' and '.join(sorted(found))}")
        return found.pop() if found else None

    def _shape(self, args, size: int | None) -> tuple:
        """Of the elements: what the arrays that are not raw broadcast to."""
        shapes = [arg.shape for arg, (raw, _, _) in zip(args, self.params, strict=False)
                  if not raw and type(arg) is ndarray]
        if bool(shapes) == (size is not None):
            raise ValueError(f"{self.name}: Loop size is undecided, or given beside arrays that are not raw")
        return np.broadcast_shapes(*shapes) if size is None else (size,)

    def _check_overlaps(self, args, outputs) -> None:
        for k, output in enumerate(outputs, len(self.inputs)):
            for j, other in enumerate(args):
                if (j != k and type(other) is ndarray and other._block is output._block
                        and not (j < len(self.inputs) and same(other._host, output._host))
                        and np.shares_memory(other._host, output._host)):
                    raise ValueError(f"{self.name}: output {self.params[k][2]} overlaps another argument")

    def _submit(self, args, hosts, types_, shape) -> None:
        key = (types_, shape, *((h.shape, h.strides) for h in hosts))
        if key not in self._plans:
            self._plans[key] = self._plan(hosts, types_, shape)
        run, ndims, geometry, order, _ = self._plans[key]
        pointers = np.array([address(host) for host in hosts], np.uintp)

        def work(hosts=hosts) -> None:  # which hold the memory that the pointers are of
            if run(address(pointers), address(ndims), address(geometry), address(order), order.size):
                raise IndexError(f"{self.name}: an index outside a raw array")

        inputs = len(self.inputs)
        read = [(a._block, a._host) for a in args[:inputs] if type(a) is ndarray]
        streams.submit(self.name, [block for block, _ in read], [a._block for a in args[inputs:]], work,
                       [host for _, host in read], hosts[inputs:])

    def _plan(self, hosts, types_, shape) -> tuple:
        """What of a launch is the same for all arrays of these types, shapes and strides."""
        if types_ not in self._compiled:
            self._compiled[types_] = self._compile(types_)
        views = [h if raw else np.broadcast_to(h, shape) for h, (raw, _, _) in zip(hosts, self.params, strict=True)]
        longs = [np.array([*v.shape, *v.strides], np.int64) for v in views]
        geometry = np.array([address(m) for m in longs], np.uintp)
        ndims = np.array([v.ndim for v in views], np.int64)
        return self._compiled[types_], ndims, geometry, shuffled(int(np.prod(shape))), longs

    def declarations(self, types_) -> str:
        """The arguments as the kernel's text sees them, from arrays a0, a1, ..."""
        lines = []
        for k, ((raw, _, label), _) in enumerate(zip(self.params, types_, strict=True)):
            constant = "const " if k < len(self.inputs) else ""
            if raw:
                lines.append(f"const Array<{constant}T{k}> {label} = a{k};")
            else:
                lines.append(f"{constant}T{k}& {label} = a{k}[i];")
        return "\n            ".join(lines)

    def _compile(self, types_):
        setup = "\n".join(f"    typedef {CTYPES[t]} T{k}; Array<{'const ' if k < len(self.inputs) else ''}T{k}> "
                          f"a{k} = {{p[{k}], ndim[{k}], g[{k}], g[{k}] + ndim[{k}]}};" for k, t in enumerate(types_))
        generic = next((t for t, (_, dtype, _) in zip(types_, self.params, strict=True) if dtype == "T"), None)
        source = HEADER + self.preamble + f"""
extern "C" int run(char** p, const long* ndim, const long** g, const long* order, long count) {{
{f'    typedef {CTYPES[generic]} T;' if generic else ''}
{setup}
    const Count _ind = {{count}};
    try {{
        for (long element = 0; element < count; element++) {{
            const ptrdiff_t i = order[element];
            (void)_ind;
            {self.declarations(types_)}
            {self.operation};
        }}
    }} catch (Failure&) {{ return 1; }}
    return 0;
}}
"""
        run = compiled(source, self.name, self.folder).run
        run.argtypes, run.restype = 4 * [ctypes.c_void_p] + [ctypes.c_long], ctypes.c_int
        return run


def compiled(source: str, name: str, folder) -> ctypes.CDLL:
    """The host's library made of C++, kept in `folder` under a name of what it is made of."""
    library = folder / f"{name}-{hashlib.sha256(source.encode()).hexdigest()[:16]}.so"
    if not library.is_file():
        with tempfile.TemporaryDirectory(dir=folder) as workplace:  # several processes may make the same
            text, made = Path(workplace) / "kernel.cpp", Path(workplace) / "kernel.so"
            text.write_text(source, encoding="utf-8")
            done = subprocess.run(["c++", "-std=c++17", "-O1", "-ffp-contract=off", "-fPIC", "-shared", "-o", made, text],
                                  capture_output=True, text=True)
            if done.returncode:
                raise RuntimeError(f"{name} does not compile:\n{done.stderr}")
            made.replace(library)
    return ctypes.CDLL(str(library))


def same(a: np.ndarray, b: np.ndarray) -> bool:
    """Whether two views are of the same numbers in the same order."""
    return address(a) == address(b) and (a.shape, a.strides) == (b.shape, b.strides)


@functools.lru_cache(maxsize=256)
def shuffled(count: int) -> np.ndarray:
    return np.random.default_rng(1).permutation(count)


def _parse(params: str) -> list[tuple[bool, str, str]]:
    """(raw, dtype, name) of each parameter."""
    return [(bool(raw), dtype, label) for raw, dtype, label in re.findall(r"(raw )?(\w+) (\w+)(?:,|$)", params)]
