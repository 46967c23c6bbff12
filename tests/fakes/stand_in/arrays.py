"""cupy.ndarray over NumPy memory: no NumPy array gets into one unasked, and nothing gets out without a wait."""
import types

import numpy as np

from . import pinned, streams
from .memory import Block, address, block_at, new

SCALARS = (bool, int, float, complex, np.generic, type(None))


class ndarray:
    """cupy.ndarray: `_host` is its NumPy memory, `_block` the allocation that it views; a new one is poisoned."""
    __slots__ = ("_host", "_block", "__weakref__")
    __array_priority__ = 100
    apply = host = None  # set by functions.py, which adds the operators and the other methods too

    def __init__(self, shape, dtype=float, memptr=None, strides=None, order="C"):
        if memptr is None:
            self._host = new(shape, dtype, order)
            streams.allocate(self._host.nbytes, "an array")
            self._block = Block(self._host)
            self._block.poison()
        else:
            self._block = memptr.block
            offset = memptr.ptr - self._block.start
            self._host = np.ndarray(shape, dtype, self._block.root, offset, strides)

    shape = property(lambda self: self._host.shape)
    strides = property(lambda self: self._host.strides)
    dtype = property(lambda self: self._host.dtype)
    ndim = property(lambda self: self._host.ndim)
    size = property(lambda self: self._host.size)
    itemsize = property(lambda self: self._host.itemsize)
    nbytes = property(lambda self: self._host.nbytes)
    flags = property(lambda self: self._host.flags)
    T = property(lambda self: made_of(self._host.T, self._block))
    data = property(lambda self: Pointer(address(self._host), self._block))
    device = property(lambda self: types.SimpleNamespace(id=0))

    def get(self, stream=None, order="C", out=None, blocking=True) -> np.ndarray:
        """A copy on the host: it waits for the stream, but for blocking=False into pinned memory."""
        stream, out = stream or streams.current(), np.empty(self.shape, self.dtype, order) if out is None else out
        if not isinstance(out, np.ndarray) or out.dtype != self.dtype:
            raise TypeError(f"{getattr(out, 'dtype', type(out))} cannot be obtained from {self.dtype}")
        if out.shape != self.shape:
            raise ValueError(f"Shape mismatch. Expected shape: {self.shape}, actual shape: {out.shape}")
        if not (out.flags.c_contiguous or out.flags.f_contiguous):
            raise RuntimeError("`out` cannot be specified when copying to non-contiguous ndarray")
        stream.refuse("a copy to the host")
        stream.lane.run("a copy to the host", (self._block,), ())
        if blocking or not pinned.to_host(self._host, out, stream.lane):
            stream.synchronize()
            out[...] = self._host
        return out

    def set(self, array, stream=None) -> None:
        if array.shape != self.shape or array.dtype != self.dtype:
            raise ValueError(f"{array.shape} {array.dtype} cannot be set to {self.shape} {self.dtype}")
        stream = stream or streams.current()
        stream.refuse("a copy from the host")
        stream.lane.run("a copy from the host", (), (self._block,))
        self._host[...] = array

    def __copy__(self):
        return self.copy()

    def __deepcopy__(self, memo):
        return self.copy()

    def __reduce__(self):
        from .functions import array  # which builds on this module
        return array, (self.get(),)

    def item(self, *index):
        return self.get().item(*index)

    def tolist(self):
        return self.get().tolist()

    def __array__(self, dtype=None, copy=None):
        raise TypeError("Implicit conversion to a NumPy array is not allowed. Please use `.get()`")

    def __array_ufunc__(self, ufunc, method, *inputs, out=None, **kwargs):
        if method != "__call__":
            return NotImplemented
        return ndarray.apply(ufunc, inputs, kwargs, out[0] if out else None)

    def __array_function__(self, function, types_, args, kwargs):
        kwargs = dict(kwargs)
        return ndarray.apply(function, args, kwargs, kwargs.pop("out", None))

    def __len__(self):
        return len(self._host)

    def __iter__(self):
        return (self[k] for k in range(len(self)))

    def __getitem__(self, index):
        if not _basic(index):
            return ndarray.apply(np.ndarray.__getitem__, (self, index), {})
        whole = index if isinstance(index, tuple) else (index,)
        if not any(part is Ellipsis for part in whole):
            whole = (*whole, Ellipsis)  # so that a single element is a view too
        return made_of(self._host[whole], self._block)

    def __setitem__(self, index, value) -> None:
        if not _basic(index):
            if streams.capturing():
                streams.allocate(0, "an assignment by an index array")
            found: list[ndarray] = [self]
            index, value = ndarray.host(index, found), ndarray.host(value, found)
            self._write("setitem", found, lambda target: target.__setitem__(index, value), self._host)
            return
        target = self[index]._host
        if type(value) is ndarray:
            source = value._host
            if (address(source), source.shape, source.strides) == (address(target), target.shape, target.strides):
                return
            if streams.capturing() and np.may_share_memory(target, value._host):
                streams.allocate(value.nbytes, "a copy between overlapping arrays")
            self._write("copy", [value], lambda to, source=value._host: np.copyto(to, source, casting="unsafe"), target)
        elif isinstance(value, np.ndarray) and value.ndim:
            raise ValueError("non-scalar numpy.ndarray cannot be used for fill")
        elif isinstance(value, (*SCALARS, np.ndarray)):
            self._write("fill", [], lambda to: to.__setitem__(Ellipsis, value), target)
        else:
            raise TypeError(f"Unsupported type {type(value)}")

    def _write(self, name: str, inputs: list, function, target: np.ndarray) -> None:
        streams.submit(name, [a._block for a in inputs], [self._block], lambda: function(target),
                       [a._host for a in inputs], [target])

    def fill(self, value) -> None:
        self[...] = value

    def __bool__(self):
        return bool(self.get())

    def __int__(self):
        return int(self.get())

    def __float__(self):
        return float(self.get())

    def __index__(self):
        return self.get().__index__()

    def __repr__(self):
        return repr(self.get())

    def __str__(self):
        return str(self.get())

    def __format__(self, spec):
        return format(self.get(), spec)

    __hash__ = None


class Pointer:
    """cupy.cuda.MemoryPointer: an address, and the allocation that it keeps alive."""

    def __init__(self, ptr: int, block: Block):
        self.ptr, self.block, self.device_id = ptr, block, 0

    def __int__(self):
        return self.ptr

    def __add__(self, offset: int):
        return Pointer(self.ptr + offset, self.block)


def made_of(host: np.ndarray, block: Block) -> ndarray:
    array = object.__new__(ndarray)
    array._host, array._block = host, block
    return array


def at(pointer: int, dtype, shape, strides=None) -> ndarray:
    """The array that begins at a device pointer: for stand-ins of libraries that are given addresses."""
    return ndarray(shape, dtype, Pointer(pointer, block_at(pointer)), strides)


def _basic(index) -> bool:
    """Is what `index` gives a view?"""
    parts = index if type(index) is tuple else (index,)
    return all(part is None or part is Ellipsis or isinstance(part, slice)
               or isinstance(part, (int, np.integer)) and not isinstance(part, bool) for part in parts)
