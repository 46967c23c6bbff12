"""CuPy's functions, methods and operators on device arrays, made of NumPy's.

What CuPy does under stream capture is done here: work with `out=` is recorded, a product raises NotImplementedError,
and what would allocate, copy to or from the host, or wait raises. That includes what allocates in secret: an input that
overlaps the output is copied by CuPy first, and a sum over contiguous axes takes a workspace for CUB.
"""
import functools
import weakref

import numpy as np

from . import pinned, streams
from .arrays import made_of, ndarray
from .memory import Block, block_at, moved, root_of

PRODUCTS = {"matmul", "dot", "vdot", "inner", "outer", "tensordot", "einsum", "kron"}  # cuBLAS, which refuses captures
REDUCTIONS = {"sum", "prod", "max", "min", "amax", "amin", "any", "all", "mean"}


def _host(value, found: list):
    """value with the NumPy memory of every device array in it, which `found` gathers. Raises TypeError for NumPy's."""
    kind = type(value)
    if kind is ndarray:
        found.append(value)
        return value._host
    if kind is list or kind is tuple:
        return kind([_host(part, found) for part in value])
    if isinstance(value, np.ndarray):
        raise TypeError(f"Unsupported type {kind}")
    return value


def _wrapped(result, inputs: list, made: list):
    """result as device arrays; `made` gathers those with memory of their own."""
    if isinstance(result, (list, tuple)):
        return type(result)(_wrapped(part, inputs, made) for part in result)
    if isinstance(result, np.generic):
        result = np.asarray(result)
    if not isinstance(result, np.ndarray):
        return result
    root = root_of(result)
    for array in inputs:
        if array._block.root is root or array._host is result or root_of(array._host) is root:
            return made_of(result, array._block)
    array = on_card(result)
    made.append(array)
    return array


def on_card(host: np.ndarray) -> ndarray:
    """A copy with memory of its own."""
    host = moved(host)
    return made_of(host, Block(host))


def apply(function, args, kwargs, out=None):
    """function of NumPy on device arrays; under capture only a view, or what CuPy writes into out= at once."""
    name, inputs = function.__name__, []
    hosts = _host(tuple(args), inputs)
    if kwargs:
        kwargs = {key: _host(value, inputs) for key, value in kwargs.items()}
    if name in PRODUCTS and streams.capturing():
        raise NotImplementedError(f"{name}: calling cuBLAS API during stream capture is currently unsupported")
    if out is not None:
        return _into(function, name, inputs, hosts, kwargs, out[0] if isinstance(out, tuple) else out)
    made: list[ndarray] = []
    result = _wrapped(function(*hosts, **kwargs), inputs, made)
    if made:
        for array in made:
            streams.allocate(array.nbytes, name)
        streams.submit(name, [a._block for a in inputs], [a._block for a in made], lambda: None, (), ())
    return result


def _into(function, name: str, inputs: list, hosts, kwargs, out: ndarray):
    if type(out) is not ndarray:
        raise TypeError(f"{name}: out must be cupy.ndarray, not {type(out)}")
    if streams.capturing():
        _check_capture(function, name, inputs, kwargs, hosts, out)
    target = out._host
    streams.submit(name, [a._block for a in inputs], [out._block], lambda: function(*hosts, out=target, **kwargs),
                   [a._host for a in inputs], [target])
    return out


def _check_capture(function, name: str, inputs: list, kwargs, hosts, out: ndarray) -> None:
    """Raise for what CuPy would allocate memory for although it has an out=."""
    if isinstance(function, np.ufunc):
        if any(a is not out and a._block is out._block and np.may_share_memory(a._host, out._host) for a in inputs):
            streams.allocate(out.nbytes, f"{name} on an input that overlaps its output")
    elif name in REDUCTIONS:
        a, axis = inputs[0], kwargs.get("axis", hosts[1] if len(hosts) > 1 else None)
        axes = sorted(k % a.ndim for k in (range(a.ndim) if axis is None else np.atleast_1d(axis)))
        run = axes == list(range(axes[0], axes[-1] + 1)) if axes else False
        if run and (a.flags.c_contiguous and axes[-1] == a.ndim - 1 or a.flags.f_contiguous and axes[0] == 0):
            streams.allocate(out.nbytes, f"{name} over contiguous axes (CUB's workspace: write a kernel)")
    else:
        streams.allocate(out.nbytes, name)


def function(of_numpy):
    """A function of NumPy as one of CuPy."""
    @functools.wraps(of_numpy)
    def call(*args, out=None, **kwargs):
        if out is None and len(args) > (nin := getattr(of_numpy, "nin", len(args))):
            args, out = args[:nin], args[nin]
        return apply(of_numpy, args, kwargs, out)
    return call


def array(value, dtype=None, copy=True, order="K", ndmin=0) -> ndarray:
    """cupy.array: of a NumPy array, numbers, or device arrays."""
    if type(value) is ndarray:
        same = dtype is None or value.dtype == np.dtype(dtype)
        return value if same and not copy else value.astype(dtype or value.dtype)
    if isinstance(value, (list, tuple)) and any(type(part) is ndarray for part in value):
        return function(np.stack)(value).astype(dtype or value[0].dtype)
    host = np.asarray(value, dtype, order=order)
    host = host[(None,) * max(0, ndmin - host.ndim)] if ndmin else host
    if host.dtype.kind not in "biufc":
        raise ValueError(f"Unsupported dtype {host.dtype}")
    streams.allocate(host.nbytes, "a copy from the host")
    made = on_card(host)
    streams.submit("a copy from the host", (), [made._block], lambda: None, (), ())
    if host.ndim and host.size:  # a single number goes by value
        pinned.to_device(host, made._host, streams.current().lane)
    return made


def asarray(value, dtype=None, order=None, *, blocking=False) -> ndarray:
    return array(value, dtype, copy=False, order=order or "K")


def ascontiguousarray(value, dtype=None) -> ndarray:
    value = asarray(value, dtype)
    return value if value.flags.c_contiguous else value.copy()


def asnumpy(value, stream=None, order="C", out=None, *, blocking=True) -> np.ndarray:
    return value.get(stream, order, out, blocking) if type(value) is ndarray else np.asarray(value)


def empty(shape, dtype=float, order="C") -> ndarray:
    return ndarray(shape, dtype, order=order)


def empty_like(like: ndarray, dtype=None, order="C", subok=None, shape=None) -> ndarray:
    return empty(like.shape if shape is None else shape, dtype or like.dtype)


def copyto(to: ndarray, source, casting="same_kind") -> None:
    to[...] = source


def enqueue(name: str, reads, writes, function) -> None:
    """Give the current stream a piece of work, as a library that works on device pointers does.

    reads, writes: device arrays. function is called with the NumPy memory of reads and then of writes, now or, where
    the stream is captured, at each launch of the graph; it must not hold a device array: no graph would see it freed.
    """
    hosts = [a._host for a in (*reads, *writes)]
    streams.submit(name, [a._block for a in reads], [a._block for a in writes], lambda: function(*hosts),
                   hosts[:len(reads)], hosts[len(reads):])


def enqueue_at(name: str, reads, writes, function) -> None:
    """The same by device pointers: function() works on the memory there. A graph sees that memory freed too."""
    read, written = list(map(block_at, reads)), list(map(block_at, writes))
    streams.submit(name, read, written, function, [block.root for block in read], [block.root for block in written])


def recorded(graph, **arrays) -> list[tuple[str, set, set]]:
    """(name, labels of the arrays that it reads, and that it writes) of each piece of work of a graph, in order."""
    def labels(touched):
        return {label for label, a in arrays.items() if any(np.may_share_memory(a._host, host) for host in touched)}
    return [(node.name, labels(node.reads), labels(node.writes)) for node in graph.nodes]


def freed(array: ndarray) -> weakref.ref:
    """A reference that is None once the memory of `array` is freed."""
    return weakref.ref(array._block)


def _method(name: str):
    of_numpy = getattr(np.ndarray, name)

    def method(self, *args, out=None, **kwargs):
        return apply(of_numpy, (self, *args), kwargs, out)
    return method


def _operator(ufunc, place: str):
    if place == "i":
        return lambda self, other: apply(ufunc, (self, other), {}, self)
    if place == "r":
        return lambda self, other: apply(ufunc, (other, self), {})
    if ufunc.nin == 1:
        return lambda self: apply(ufunc, (self,), {})
    return lambda self, other: apply(ufunc, (self, other), {})


for name in ("sum prod max min mean std var any all argmax argmin argsort cumsum copy astype reshape swapaxes "
             "transpose ravel flatten squeeze take clip round dot view nonzero repeat diagonal searchsorted").split():
    setattr(ndarray, name, _method(name))
for name, ufunc in {"add": np.add, "sub": np.subtract, "mul": np.multiply, "truediv": np.true_divide, "pow": np.power,
                    "floordiv": np.floor_divide, "mod": np.remainder, "and": np.bitwise_and, "or": np.bitwise_or,
                    "xor": np.bitwise_xor, "lshift": np.left_shift, "rshift": np.right_shift,
                    "matmul": np.matmul}.items():
    for place in ("", "i", "r"):
        setattr(ndarray, f"__{place}{name}__", _operator(ufunc, place))
for name, ufunc in {"lt": np.less, "le": np.less_equal, "gt": np.greater, "ge": np.greater_equal, "eq": np.equal,
                    "ne": np.not_equal, "neg": np.negative, "abs": np.absolute, "invert": np.invert}.items():
    setattr(ndarray, f"__{name}__", _operator(ufunc, ""))
ndarray.apply, ndarray.host = staticmethod(apply), staticmethod(_host)
