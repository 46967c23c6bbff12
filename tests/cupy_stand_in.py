"""A stand-in for cupy over NumPy arrays, whose ElementwiseKernel compiles the kernel's own text as host C++.

So kernels/cuda.py runs, unchanged, on a machine without a GPU, and what it asks of CuPy is held to CuPy's rules: the
number, order, direction and dtype of every argument, shapes that broadcast, no output that overlaps another argument. The
elements run in a shuffled order, every index of a raw array is checked, and inputs cannot be written.
"""
import ctypes
import hashlib
import re
import subprocess
import types

import numpy as np

CTYPES = {"float32": "float", "float64": "double", "int64": "long", "uint32": "unsigned"}
HEADER = """
#include <algorithm>
#include <cmath>
#include <cstddef>
#define __device__
using std::max; using std::exp; using std::log; using std::sqrt;
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


class ElementwiseKernel:
    """cupy.ElementwiseKernel as far as kernels/cuda.py uses it. `source` is kept for other compilers' sake."""
    made: list["ElementwiseKernel"] = []
    folder = None  # where compiled kernels go, set by the test

    def __init__(self, in_params: str, out_params: str, operation: str, name: str, preamble: str = ""):
        self.inputs, self.outputs = _parse(in_params), _parse(out_params)
        self.operation, self.name, self.preamble = operation, name, preamble
        self._compiled: dict = {}
        ElementwiseKernel.made.append(self)

    def __call__(self, *args):
        """Run the kernel; where the outputs are left out they are made, and returned."""
        params = self.inputs + self.outputs
        if len(args) == len(self.inputs):
            shape = np.broadcast_shapes(*(np.shape(a) for a, (raw, _, _) in zip(args, self.inputs, strict=True) if not raw))
            made = tuple(np.empty(shape, dtype) for _, dtype, _ in self.outputs)
            self(*args, *made)
            return made
        if len(args) != len(params):
            raise TypeError(f"{self.name}: {len(args)} arguments for {len(params)} parameters")
        arrays = [np.asarray(arg) for arg in args]
        for k, (_, _, label) in enumerate(self.outputs, len(self.inputs)):
            if not isinstance(args[k], np.ndarray):
                raise TypeError(f"{self.name}: output {label} is no array")
            for other in (a for j, a in enumerate(arrays) if j != k):
                if np.shares_memory(arrays[k], other):
                    raise ValueError(f"{self.name}: output {label} overlaps another argument")
        generic = self._generic(params, args, arrays)
        types_ = [generic if dtype == "T" else dtype for _, dtype, _ in params]
        for (_, dtype, label), type_, arg, k in zip(params, types_, args, range(len(args)), strict=True):
            if isinstance(arg, (int, float)) or (np.ndim(arg) == 0 and dtype == "T"):
                arrays[k] = np.asarray(arg, type_)  # a number takes the parameter's type
            elif arrays[k].dtype != type_:
                raise TypeError(f"{self.name}: {label} is {arrays[k].dtype}, not {type_}")
        shape = np.broadcast_shapes(*(a.shape for a, (raw, _, _) in zip(arrays, params, strict=True) if not raw))
        for array, (raw, _, label) in list(zip(arrays, params, strict=True))[len(self.inputs):]:
            if not raw and array.shape != shape:
                raise ValueError(f"{self.name}: output {label} has the shape {array.shape}, not {shape}")
        self._run(arrays, [raw for raw, _, _ in params], types_, shape)

    def _generic(self, params, args, arrays) -> str | None:
        found = {a.dtype.name for arg, a, (_, dtype, _) in zip(args, arrays, params, strict=True)
                 if dtype == "T" and isinstance(arg, np.ndarray) and arg.ndim}
        if len(found) > 1:
            raise TypeError(f"{self.name}: T is both {' and '.join(sorted(found))}")
        return found.pop() if found else None

    def _run(self, arrays, raw, types_, shape) -> None:
        key = tuple(types_)
        if key not in self._compiled:
            self._compiled[key] = self._compile(types_)
        views = [a if r else np.broadcast_to(a, shape) for a, r in zip(arrays, raw, strict=True)]
        longs = [np.array([*v.shape, *v.strides], np.int64) for v in views]
        pointers = np.array([v.ctypes.data for v in views], np.uintp)
        geometry = np.array([m.ctypes.data for m in longs], np.uintp)
        ndims = np.array([v.ndim for v in views], np.int64)
        order = np.random.default_rng(1).permutation(int(np.prod(shape)))
        if self._compiled[key](pointers.ctypes.data, ndims.ctypes.data, geometry.ctypes.data, order.ctypes.data, order.size):
            raise IndexError(f"{self.name}: an index outside a raw array")

    def declarations(self, types_) -> str:
        """The arguments as the kernel's text sees them, from arrays a0, a1, ..."""
        lines = []
        for k, ((raw, _, label), type_) in enumerate(zip(self.inputs + self.outputs, types_, strict=True)):
            constant = "const " if k < len(self.inputs) else ""
            if raw:
                lines.append(f"const Array<{constant}T{k}> {label} = a{k};")
            else:
                lines.append(f"{constant}T{k}& {label} = a{k}[i];")
        return "\n            ".join(lines)

    def _compile(self, types_):
        setup = "\n".join(f"    typedef {CTYPES[t]} T{k}; Array<{'const ' if k < len(self.inputs) else ''}T{k}> "
                          f"a{k} = {{p[{k}], ndim[{k}], g[{k}], g[{k}] + ndim[{k}]}};" for k, t in enumerate(types_))
        generic = next((t for t, (_, dtype, _) in zip(types_, self.inputs + self.outputs, strict=True) if dtype == "T"), None)
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
            {self.operation}
        }}
    }} catch (Failure&) {{ return 1; }}
    return 0;
}}
"""
        path = self.folder / f"{self.name}-{hashlib.sha256(source.encode()).hexdigest()[:16]}"
        path.with_suffix(".cpp").write_text(source)
        done = subprocess.run(["c++", "-std=c++17", "-O1", "-ffp-contract=off", "-fPIC", "-shared", "-o",
                               path.with_suffix(".so"), path.with_suffix(".cpp")], capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"{self.name} does not compile:\n{done.stderr}")
        run = ctypes.CDLL(str(path.with_suffix(".so"))).run
        run.argtypes, run.restype = 4 * [ctypes.c_void_p] + [ctypes.c_long], ctypes.c_int
        return run


def _parse(params: str) -> list[tuple[bool, str, str]]:
    """(raw, dtype, name) of each parameter."""
    return [(bool(raw), dtype, label) for raw, dtype, label in re.findall(r"(raw )?(\w+) (\w+)(?:,|$)", params)]


def module(folder) -> types.ModuleType:
    """The stand-in; compiled kernels go to `folder`."""
    ElementwiseKernel.made, ElementwiseKernel.folder = [], folder
    stand_in = types.ModuleType("cupy")
    stand_in.__getattr__ = lambda name: getattr(np, name)
    stand_in.ElementwiseKernel = ElementwiseKernel
    stand_in.asnumpy = np.asarray
    return stand_in
