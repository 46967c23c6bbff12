"""A cuBLAS handle of our own, whose matrix products a CUDA graph can capture: CuPy refuses its own during a capture.

Functions and numbers are those of NVIDIA's cublas_api.h and library_types.h (CUDA 12 and 13). cuBLAS counts in columns,
NumPy in rows: an array (M, N) whose rows lie apart by `ld` is to cuBLAS an N x M matrix with that leading dimension,
so out = a b is asked of it as out^T = b^T a^T.

A precision says how products are computed, not how numbers are stored, which is in float32 but for the first:

    float64    in float64
    float32    in float32, never TF32: cuBLAS's default math keeps at least the precision that is asked for
    tf32       operands rounded to 10 bits of mantissa, sums in float32: TF32 from compute capability 8.0, below it fp16
    bf16       operands rounded to 7 bits of mantissa, sums in float32: from compute capability 8.0
"""
import ctypes
import functools
import weakref
from collections.abc import Sequence
from typing import NamedTuple

import cupy
import numpy as np

from ..arrays import Array, CudaArray

COMPUTE_TYPES = {"float64": 70, "float32": 68, "tf32": 77, "bf16": 75}  # cublasComputeType_t
COMPUTE_32F_FAST_16F = 74
AMPERE = 80                            # the compute capability, times ten, from which there are TF32 and bf16
DATA_TYPES = {"float32": 0, "float64": 1}  # cudaDataType: CUDA_R_32F, CUDA_R_64F
AS_IT_IS, TRANSPOSED = 0, 1            # cublasOperation_t
DEFAULT_MATH, ON_THE_HOST, DEFAULT_ALGORITHM = 0, 0, -1
WORKSPACE = 32 << 20                   # bytes: what the manual (cublasSetWorkspace) recommends for Hopper, the most
ALIGNMENT = 16                         # bytes: what batched products with tensor cores read at once
LARGEST = 2 ** 31 - 1                  # sizes are C's int

_POINTER, _INT, _LONG = ctypes.c_void_p, ctypes.c_int, ctypes.c_longlong
_SHAPE = [_POINTER, _INT, _INT, _INT, _INT, _INT]  # handle, operations on A and B, m, n, k
_MATRIX, _ENDING = [_POINTER, _INT, _INT], [_INT, _INT]  # address, type, leading dimension; compute type, algorithm
SIGNATURES = {
    "cublasCreate_v2": [_POINTER],
    "cublasDestroy_v2": [_POINTER],
    "cublasSetStream_v2": [_POINTER, _POINTER],
    "cublasSetWorkspace_v2": [_POINTER, _POINTER, ctypes.c_size_t],
    "cublasSetMathMode": [_POINTER, _INT],
    "cublasSetPointerMode_v2": [_POINTER, _INT],
    "cublasGetStatusName": [_INT],
    "cublasGemmEx": [*_SHAPE, _POINTER, *_MATRIX, *_MATRIX, _POINTER, *_MATRIX, *_ENDING],
    "cublasGemmStridedBatchedEx": [*_SHAPE, _POINTER, *_MATRIX, _LONG, *_MATRIX, _LONG, _POINTER, *_MATRIX, _LONG, _INT,
                                   *_ENDING],
    "cublasGemmBatchedEx": [*_SHAPE, _POINTER, *_MATRIX, *_MATRIX, _POINTER, *_MATRIX, _INT, *_ENDING],
}


class Unavailable(RuntimeError):
    """There is no cuBLAS for this precision here; the message says why."""


class CublasError(RuntimeError):
    """cuBLAS refused a call; the message has the function and cuBLAS's own name for the fault."""


@functools.cache
def library() -> ctypes.CDLL:
    """The libcublas that CuPy has in this process: dlopen finds a loaded library by its name. Raises Unavailable."""
    try:
        cupy.cuda.get_cublas_handle()
        name = f"libcublas.so.{cupy.cuda.runtime.runtimeGetVersion() // 1000}"
        found = ctypes.CDLL(name)
        for function, arguments in SIGNATURES.items():
            getattr(found, function).argtypes = arguments
        found.cublasGetStatusName.restype = ctypes.c_char_p
    except Exception as error:  # CuPy has a type of its own for each library and each way to fail
        raise Unavailable(f"cuBLAS cannot be used ({' '.join(str(error).split())})") from None
    return found


def compute_type(precision: str, capability: int) -> int:
    """cuBLAS's compute type for a card of this compute capability, times ten. Raises ValueError, Unavailable."""
    if precision not in COMPUTE_TYPES:
        raise ValueError(f"unknown precision {precision!r}: {', '.join(COMPUTE_TYPES)}")
    if capability < AMPERE and precision == "bf16":
        raise Unavailable(f"bf16 needs a card of compute capability 8.0, this one has {capability / 10}")
    return COMPUTE_32F_FAST_16F if capability < AMPERE and precision == "tf32" else COMPUTE_TYPES[precision]


class Cublas:
    """Products on the current card, which must be the current one at every call, and on CuPy's current stream.

    All use one workspace, so two streams must not run products of one Cublas at the same time. To give it up waits for
    the card, which is forbidden during a capture. Raises Unavailable.
    """

    def __init__(self, precision: str):
        self._compute = compute_type(precision, int(cupy.cuda.Device().compute_capability))
        self.precision, self.dtype = precision, np.dtype("float64" if precision == "float64" else "float32")
        self._type, self._library, handle = DATA_TYPES[self.dtype.name], library(), _POINTER()
        self._scales = ((ctypes.c_double if precision == "float64" else ctypes.c_float) * 2)(0, 1)
        self._zero = ctypes.addressof(self._scales)
        self._one = self._zero + self.dtype.itemsize
        try:
            self._call("cublasCreate_v2", ctypes.addressof(handle))
        except CublasError as error:
            raise Unavailable(f"cuBLAS does not start ({error})") from None
        self._handle, self._workspace = handle.value, cupy.empty(WORKSPACE, np.uint8)
        self.close = weakref.finalize(self, self._library.cublasDestroy_v2, self._handle)
        self._call("cublasSetMathMode", self._handle, DEFAULT_MATH)
        self._call("cublasSetPointerMode_v2", self._handle, ON_THE_HOST)

    def product(self, a: Array, b: Array, out: Array, add: bool = False) -> None:
        """out (M, N) = a (M, K) b (K, N), or += with `add`; or a batch of them, (B, M, K), (B, K, N) and (B, M, N).

        Each is an array or a view of self.dtype whose rows or columns are contiguous. Raises ValueError for what cuBLAS
        cannot take, and for an out whose range of memory meets that of a or b.
        """
        self._check(a, b, out)
        if out.size == 0 or a.size == 0:
            if not add:
                out[...] = 0
            return
        left, right, into = (lay_out(array) for array in (a, b, out))
        if any(into.first < other.last and other.first < into.last for other in (left, right)):
            raise ValueError("the product would overwrite its own operands")
        (*batch, m, k), n = a.shape, b.shape[-1]
        if into.by_rows:
            left, right, m, n = right, left, n, m
        operations = [AS_IT_IS if matrix.by_rows == into.by_rows else TRANSPOSED for matrix in (left, right)]
        matrices = [(matrix.first, self._type, matrix.ld, *([matrix.stride] if batch else []))
                    for matrix in (left, right, into)]
        function = "cublasGemmStridedBatchedEx" if batch else "cublasGemmEx"
        self._gemm(function, operations, (m, n, k), matrices, add, batch)

    def pointers(self, arrays: Sequence[CudaArray]) -> CudaArray:
        """The addresses of arrays on the card, themselves an array on the card, for `batched`: not during a capture.

        Whoever calls holds the arrays. Raises ValueError where one does not begin at a multiple of 16 bytes: on the
        card that would be a fault (cublasGemmBatchedEx in the manual).
        """
        addresses = np.array([array.data.ptr for array in arrays], np.uint64)
        if (addresses % ALIGNMENT).any() or any(array.dtype != self.dtype for array in arrays):
            raise ValueError(f"batched products need {self.dtype} arrays that begin at multiples of {ALIGNMENT} bytes")
        return cupy.asarray(addresses)

    def batched(self, a: CudaArray, b: CudaArray, out: CudaArray, m: int, n: int, k: int, lda: int, ldb: int,
                ldout: int, transposed_a: bool = False, transposed_b: bool = False, add: bool = False) -> None:
        """out[j] (M, N) = a[j] (M, K) b[j] (K, N), or += with `add`, for arrays of addresses from `pointers`.

        Rows are contiguous and lie apart by lda, ldb, ldout; what is transposed is stored as (K, M) or (N, K).
        """
        least = (m if transposed_a else k), (k if transposed_b else n), n
        if not len(a) == len(b) == len(out) or any(x < y for x, y in zip((lda, ldb, ldout), least, strict=True)):
            raise ValueError("batched products need as many of each matrix, and rows that do not run into each other")
        matrices = [(array.data.ptr, self._type, ld) for array, ld in ((b, ldb), (a, lda), (out, ldout))]
        self._gemm("cublasGemmBatchedEx", (int(transposed_b), int(transposed_a)), (n, m, k), matrices, add, [len(out)])

    def _check(self, a: Array, b: Array, out: Array) -> None:
        """Raises ValueError for arrays of the wrong dtype or shape."""
        if any(array.dtype != self.dtype for array in (a, b, out)):
            raise ValueError(f"a product in {self.precision} is of {self.dtype}, not {a.dtype}, {b.dtype}, {out.dtype}")
        (*batch, m, k), n = a.shape, b.shape[-1]
        if out.ndim not in (2, 3) or b.shape != (*batch, k, n) or out.shape != (*batch, m, n):
            raise ValueError(f"{a.shape} times {b.shape} does not make {out.shape}")

    def _gemm(self, function: str, operations: Sequence[int], shape: tuple[int, int, int],
              matrices: Sequence[tuple[int, ...]], add: bool, batch: Sequence[int]) -> None:
        left, right, into = matrices
        self._call("cublasSetStream_v2", self._handle, cupy.cuda.get_current_stream().ptr)
        self._call("cublasSetWorkspace_v2", self._handle, self._workspace.data.ptr, WORKSPACE)  # a new stream resets it
        scale = self._one if add else self._zero
        self._call(function, self._handle, *operations, *shape, self._one, *left, *right, scale, *into, *batch,
                   self._compute, DEFAULT_ALGORITHM)

    def _call(self, function: str, *arguments: int | None) -> None:
        status = getattr(self._library, function)(*arguments)
        if status:
            raise CublasError(f"{function}: {self._library.cublasGetStatusName(status).decode()}")


class Layout(NamedTuple):
    """How the matrices in the last two axes of an array lie in memory; ld and stride count numbers."""
    first: int     # address of the first byte
    last: int      # and that after the last
    by_rows: bool  # the numbers of a row are neighbours, else those of a column
    ld: int        # from one row, or column, to the next
    stride: int    # from one matrix of a batch to the next


def lay_out(array: CudaArray) -> Layout:
    """The layout of an array (R, C) or (B, R, C), none of them 0. Raises ValueError for one that cuBLAS cannot take."""
    batch, rows, columns = array.shape if array.ndim == 3 else (1, *array.shape)
    *_, down, along = steps = [step // array.itemsize for step in array.strides]
    by_rows = columns == 1 or along == 1
    ld, width, height = (down, columns, rows) if by_rows else (along, rows, columns)
    ld = width if height == 1 else ld
    extent, stride = (height - 1) * ld + width, steps[0] if batch > 1 else 0
    apart = batch == 1 or stride >= extent or width <= stride <= ld // batch
    contiguous = by_rows or rows == 1 or down == 1
    if not (contiguous and apart and ld >= width and not any(step % array.itemsize for step in array.strides)):
        raise ValueError(f"neither rows nor columns of {array.shape} are contiguous with the strides {array.strides}")
    if max(ld, *array.shape) > LARGEST:
        raise ValueError(f"{array.shape} with the strides {array.strides} is too large for cuBLAS")
    first = array.data.ptr
    return Layout(first, first + ((batch - 1) * stride + extent) * array.itemsize, by_rows, ld, stride)
