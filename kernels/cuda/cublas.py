"""Matrix products through a cuBLAS handle of our own, so that a CUDA graph can capture them.

CuPy refuses to call cuBLAS through its own handle during a capture. The functions and numbers here are those of
NVIDIA's cublas_api.h and library_types.h (CUDA 12 and 13). cuBLAS stores matrices by columns, NumPy by rows: for
cuBLAS an array (M, N) whose rows are `ld` numbers apart is an N x M matrix with the leading dimension ld. So the
product out = a b is computed as out^T = b^T a^T.

A precision class says how products are computed. Arrays are float64 in the first class and float32 in all others:

    float64    computed in float64
    float32    computed in float32, never in TF32: cuBLAS's default math keeps at least the precision of the arrays
    tf32       operands rounded to 10 bits of mantissa, sums in float32; TF32 from compute capability 8.0, below it fp16
    bf16       operands rounded to 7 bits of mantissa, sums in float32; only from compute capability 8.0

In the last two classes the operands of a product may have been rounded already: in tf32 to float16, which has 10 bits
of mantissa too, in bf16 to bfloat16, which is an array of uint16 because CuPy has no such type. They have half the
bytes, and tensor cores multiply them twice as fast as TF32.
"""
import ctypes
import functools
import weakref
from collections.abc import Sequence
from typing import NamedTuple

import cupy
import numpy as np

from ..arrays import Array, CudaArray

COMPUTE_TYPES = {"float64": 70, "float32": 68, "tf32": 77, "bf16": 75}  # numbers of cublasComputeType_t
COMPUTE_32F_FAST_16F = 74              # float32 with products in fp16, of cublasComputeType_t
AMPERE = 80                            # the first compute capability, times ten, with TF32 and bf16
ROUNDED = {"tf32": np.dtype(np.float16), "bf16": np.dtype(np.uint16)}  # the dtype of rounded operands by class
# Numbers of cudaDataType: CUDA_R_32F, CUDA_R_64F, CUDA_R_16F, CUDA_R_16BF.
DATA_TYPES = {"float32": 0, "float64": 1, "float16": 2, "uint16": 14}
NOT_TRANSPOSED, TRANSPOSED = 0, 1      # numbers of cublasOperation_t
# Numbers of cublasMath_t, cublasPointerMode_t (the scales are on the host) and cublasGemmAlgo_t.
DEFAULT_MATH, ON_THE_HOST, DEFAULT_ALGORITHM = 0, 0, -1
WORKSPACE = 32 << 20                   # bytes; the manual (cublasSetWorkspace) recommends no more for any card
ALIGNMENT = 16                         # bytes that batched products with tensor cores read at once
LARGEST = 2 ** 31 - 1                  # the largest size that cuBLAS takes: sizes are C's int

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
    """This machine has no cuBLAS for this precision class. The message says why."""


class CublasError(RuntimeError):
    """A call of cuBLAS failed. The message has the function and cuBLAS's own name for the fault."""


@functools.cache
def library() -> ctypes.CDLL:
    """Return the libcublas that CuPy has loaded into this process. Raises Unavailable if there is none."""
    try:
        # CuPy loads the library here. Then dlopen finds it by its name alone, wherever CuPy found the file.
        cupy.cuda.get_cublas_handle()
        name = f"libcublas.so.{cupy.cuda.runtime.runtimeGetVersion() // 1000}"
        found = ctypes.CDLL(name)
        for function, arguments in SIGNATURES.items():
            getattr(found, function).argtypes = arguments
        found.cublasGetStatusName.restype = ctypes.c_char_p
    except Exception as error:  # CuPy raises a different type for each library and each fault
        raise Unavailable(f"cuBLAS cannot be used ({' '.join(str(error).split())})") from None
    return found


def compute_type(precision: str, capability: int) -> int:
    """Return cuBLAS's compute type for a precision class on a card of this compute capability, times ten.

    Raises ValueError for an unknown precision, and Unavailable if the card does not have it.
    """
    if precision not in COMPUTE_TYPES:
        raise ValueError(f"unknown precision {precision!r}: {', '.join(COMPUTE_TYPES)}")
    if capability < AMPERE and precision == "bf16":
        raise Unavailable(f"bf16 needs a card of compute capability 8.0, this one has {capability / 10}")
    return COMPUTE_32F_FAST_16F if capability < AMPERE and precision == "tf32" else COMPUTE_TYPES[precision]


class Cublas:
    """A cuBLAS handle for one precision class. Its products run on CuPy's current stream.

    The card that is current when the object is made must also be current at every call. All products use one workspace,
    so two streams must not run products of one Cublas at the same time. When the object is freed, cuBLAS waits for the
    card; that is forbidden during a capture. Raises Unavailable if cuBLAS cannot be used.
    """

    def __init__(self, precision: str):
        self._compute = compute_type(precision, int(cupy.cuda.Device().compute_capability))
        self.precision, self.dtype = precision, np.dtype("float64" if precision == "float64" else "float32")
        self._type, self.rounded, handle = DATA_TYPES[self.dtype.name], ROUNDED.get(precision), _POINTER()
        self._library = library()
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
        """Compute out (M, N) = a (M, K) b (K, N), or out += a b if add.

        A batch has the shapes (B, M, K), (B, K, N) and (B, M, N). Each array or view has self.dtype, or self.rounded
        for both a and b, and its rows or columns are contiguous. Raises ValueError for arrays that cuBLAS cannot take,
        and if the memory of out overlaps the memory of a or b.
        """
        rounded = self.rounded is not None and a.dtype == self.rounded
        if out.dtype != self.dtype or a.dtype != b.dtype or not rounded and a.dtype != self.dtype:
            raise ValueError(f"a product in {self.precision} is of {self.dtype}, not {a.dtype}, {b.dtype}, {out.dtype}")
        (*batch, m, k), n = a.shape, b.shape[-1]
        if out.ndim not in (2, 3) or b.shape != (*batch, k, n) or out.shape != (*batch, m, n):
            raise ValueError(f"{a.shape} times {b.shape} does not make {out.shape}")
        if out.size == 0 or a.size == 0:
            if not add:
                out[...] = 0
            return
        left, right, into = (lay_out(array) for array in (a, b, out))
        if any(into.first < other.last and other.first < into.last for other in (left, right)):
            raise ValueError("the product would overwrite its own operands")
        # An out that is stored by rows is out^T to cuBLAS: the two factors change places.
        if into.by_rows:
            left, right, m, n = right, left, n, m
        operations = [NOT_TRANSPOSED if matrix.by_rows == into.by_rows else TRANSPOSED for matrix in (left, right)]
        kind = DATA_TYPES[a.dtype.name]
        matrices = [(matrix.first, its, matrix.ld, *([matrix.stride] if batch else []))
                    for matrix, its in ((left, kind), (right, kind), (into, self._type))]
        function = "cublasGemmStridedBatchedEx" if batch else "cublasGemmEx"
        compute = COMPUTE_TYPES["float32"] if rounded else self._compute
        self._gemm(function, operations, (m, n, k), matrices, add, batch, compute)

    def pointers(self, arrays: Sequence[CudaArray]) -> CudaArray:
        """Return the addresses of arrays on the card, for `batched`, as an array on the card. Not during a capture.

        The caller must keep the arrays alive. Raises ValueError for an array of another dtype, or one that does not
        begin at a multiple of 16 bytes: it would cause a fault on the card (cublasGemmBatchedEx in the manual).
        """
        addresses = np.array([array.data.ptr for array in arrays], np.uint64)
        if (addresses % ALIGNMENT).any() or any(array.dtype != self.dtype for array in arrays):
            raise ValueError(f"batched products need {self.dtype} arrays that begin at multiples of {ALIGNMENT} bytes")
        return cupy.asarray(addresses)

    def batched(self, a: CudaArray, b: CudaArray, out: CudaArray, m: int, n: int, k: int, lda: int, ldb: int,
                ldout: int, transposed_a: bool = False, transposed_b: bool = False, add: bool = False) -> None:
        """Compute out[j] (M, N) = a[j] (M, K) b[j] (K, N), or += if add, for arrays of addresses from `pointers`.

        Rows are contiguous, and lda, ldb and ldout numbers apart. transposed_a: each a[j] is stored as (K, M);
        transposed_b: each b[j] is stored as (N, K). Raises ValueError if the numbers of matrices differ or rows
        overlap.
        """
        least = (m if transposed_a else k), (k if transposed_b else n), n
        if not len(a) == len(b) == len(out) or any(x < y for x, y in zip((lda, ldb, ldout), least, strict=True)):
            raise ValueError("batched products need as many of each matrix, and rows that do not run into each other")
        matrices = [(array.data.ptr, self._type, ld) for array, ld in ((b, ldb), (a, lda), (out, ldout))]
        self._gemm("cublasGemmBatchedEx", (int(transposed_b), int(transposed_a)), (n, m, k), matrices, add, [len(out)],
                   self._compute)

    def _gemm(self, function: str, operations: Sequence[int], shape: tuple[int, int, int],
              matrices: Sequence[tuple[int, ...]], add: bool, batch: Sequence[int], compute: int) -> None:
        """Call a function of cuBLAS for products on the current stream, with the workspace of this object."""
        left, right, into = matrices
        self._call("cublasSetStream_v2", self._handle, cupy.cuda.get_current_stream().ptr)
        self._call("cublasSetWorkspace_v2", self._handle, self._workspace.data.ptr, WORKSPACE)  # a new stream resets it
        scale = self._one if add else self._zero
        self._call(function, self._handle, *operations, *shape, self._one, *left, *right, scale, *into, *batch,
                   compute, DEFAULT_ALGORITHM)

    def _call(self, function: str, *arguments: int | None) -> None:
        """Call a function of cuBLAS. Raise CublasError if it fails."""
        status = getattr(self._library, function)(*arguments)
        if status:
            raise CublasError(f"{function}: {self._library.cublasGetStatusName(status).decode()}")


def width(n: int, dtype: np.dtype) -> int:
    """Return the smallest number of columns, n or more, with which all rows begin at multiples of 16 bytes."""
    unit = ALIGNMENT // dtype.itemsize
    return -(-n // unit) * unit


def padded(rows: int, columns: int, dtype: np.dtype) -> CudaArray:
    """Return an uninitialised array (rows, columns) whose rows begin at multiples of 16 bytes.

    Tensor cores read such rows fastest.
    """
    return cupy.empty((rows, width(columns, dtype)), dtype)[:, :columns]


class Layout(NamedTuple):
    """The memory layout of the matrices in the last two axes of an array. ld and stride are counted in numbers."""
    first: int     # the address of the first byte
    last: int      # the address after the last byte
    by_rows: bool  # True if the numbers of a row are neighbours in memory, False if those of a column are
    ld: int        # the distance from one row (or column) to the next
    stride: int    # the distance from one matrix of a batch to the next


def lay_out(array: CudaArray) -> Layout:
    """Return the layout of an array (R, C) or (B, R, C) without an axis of length 0.

    Raises ValueError for a layout or a size that cuBLAS cannot take.
    """
    batch, rows, columns = array.shape if array.ndim == 3 else (1, *array.shape)
    *_, down, along = steps = [step // array.itemsize for step in array.strides]
    by_rows = columns == 1 or along == 1
    ld, width, height = (down, columns, rows) if by_rows else (along, rows, columns)
    ld = width if height == 1 else ld
    # The matrices of a batch may be one after the other, or interleaved row by row as in an array (R, B, C).
    extent, stride = (height - 1) * ld + width, steps[0] if batch > 1 else 0
    apart = batch == 1 or stride >= extent or width <= stride <= ld // batch
    contiguous = by_rows or rows == 1 or down == 1
    if not (contiguous and apart and ld >= width and not any(step % array.itemsize for step in array.strides)):
        raise ValueError(f"neither rows nor columns of {array.shape} are contiguous with the strides {array.strides}")
    if max(ld, *array.shape) > LARGEST:
        raise ValueError(f"{array.shape} with the strides {array.strides} is too large for cuBLAS")
    first = array.data.ptr
    return Layout(first, first + ((batch - 1) * stride + extent) * array.itemsize, by_rows, ld, stride)
