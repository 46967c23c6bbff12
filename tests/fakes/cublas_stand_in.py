"""A stand-in for libcublas over the stand-in's card: the functions that kernels/cuda/cublas.py calls, held to cuBLAS's rules.

It finds each operand by its address, column-major with its leading dimension, rounds it as the compute type does, sums in
float32 (float64 for COMPUTE_64F) and writes the result there, on the current stream, so that graphs record it. What cuBLAS
reports gives its status; what it would not notice, and what on a card would be a fault, raises AssertionError or what the
card's stand-in raises. Prototypes and numbers: cublas_api.h of CUDA 12.9.
"""
import ctypes

import numpy as np
from cupy_stand_in import at, enqueue
from stand_in import streams

INT, LONG, SIZE, POINTER = (-2**31, 2**31 - 1), (-2**63, 2**63 - 1), (0, 2**64 - 1), (0, 2**64 - 1)
SHAPE, MATRIX = "handle op op int int int ", "pointer type int "
PROTOTYPES = {
    "cublasCreate_v2": "pointer",
    "cublasDestroy_v2": "handle",
    "cublasSetStream_v2": "handle pointer",
    "cublasSetWorkspace_v2": "handle pointer size",
    "cublasSetMathMode": "handle math",
    "cublasSetPointerMode_v2": "handle mode",
    "cublasGetStatusName": "status",
    "cublasGemmEx": SHAPE + "pointer " + MATRIX + MATRIX + "pointer " + MATRIX + "compute algorithm",
    "cublasGemmStridedBatchedEx": SHAPE + "pointer " + MATRIX + "long " + MATRIX + "long pointer " + MATRIX + "long int "
                                  "compute algorithm",
    "cublasGemmBatchedEx": SHAPE + "pointer " + MATRIX + MATRIX + "pointer " + MATRIX + "int compute algorithm",
}
RANGES = {"pointer": POINTER, "handle": POINTER, "size": SIZE, "long": LONG}  # all others are C's int
STATUS = {1: b"CUBLAS_STATUS_NOT_INITIALIZED", 7: b"CUBLAS_STATUS_INVALID_VALUE", 15: b"CUBLAS_STATUS_NOT_SUPPORTED"}
SUCCESS, NOT_INITIALIZED, INVALID_VALUE, NOT_SUPPORTED = 0, *STATUS
TYPES = {0: np.float32, 1: np.float64, 2: np.float16, 14: np.uint16}  # CUDA_R_32F, CUDA_R_64F, CUDA_R_16F, CUDA_R_16BF
MANTISSA = {77: 10, 75: 7}              # COMPUTE_32F_FAST_TF32, COMPUTE_32F_FAST_16BF
EXACT, DOUBLE, HALF = 68, 70, 74        # COMPUTE_32F, COMPUTE_64F, COMPUTE_32F_FAST_16F


class Handle:
    """What a handle knows: None until it is set."""
    stream = workspace = math = mode = None


class Library:
    """Takes the arguments that ctypes would hand to libcublas: numbers, addresses among them.

    `products` counts the calls, `last` is the compute type of the last.
    """

    def __init__(self):
        self.handles: dict[int, Handle] = {}
        self.products, self.made, self.last = 0, 0, None

    def __getattribute__(self, name: str):
        found = super().__getattribute__(name)
        if name not in PROTOTYPES:
            return found

        def checked(*arguments):
            kinds = PROTOTYPES[name].split()
            assert len(arguments) == len(kinds), f"{name}: {len(arguments)} arguments for {len(kinds)}"
            for value, kind in zip(arguments, kinds, strict=True):
                least, most = RANGES.get(kind, INT)
                assert isinstance(value, int) and least <= value <= most, f"{name}: {value!r} is no {kind}"
            if kinds[0] == "handle" and arguments[0] not in self.handles:
                return NOT_INITIALIZED
            return found(*arguments)
        return checked

    def cublasCreate_v2(self, address):
        self.made += 1  # no handle has the number of one that is gone
        number = 4096 + self.made
        ctypes.c_void_p.from_address(address).value = number
        self.handles[number] = Handle()
        return SUCCESS

    def cublasDestroy_v2(self, handle):
        del self.handles[handle]
        return SUCCESS

    def cublasSetStream_v2(self, handle, stream):
        self.handles[handle].stream, self.handles[handle].workspace = stream, None  # as the manual says
        return SUCCESS

    def cublasSetWorkspace_v2(self, handle, address, size):
        self.handles[handle].workspace = address, size
        return SUCCESS

    def cublasSetMathMode(self, handle, math):
        self.handles[handle].math = math
        return SUCCESS

    def cublasSetPointerMode_v2(self, handle, mode):
        self.handles[handle].mode = mode
        return SUCCESS

    def cublasGetStatusName(self, status):
        return STATUS[status]

    def cublasGemmEx(self, handle, op_a, op_b, m, n, k, alpha, a, type_a, lda, b, type_b, ldb, beta, c, type_c, ldc, compute,
                     algorithm):
        return self._gemm(handle, (op_a, op_b), (m, n, k), (alpha, beta), ([a], [b], [c]), (type_a, type_b, type_c),
                          (lda, ldb, ldc), compute, algorithm)

    def cublasGemmStridedBatchedEx(self, handle, op_a, op_b, m, n, k, alpha, a, type_a, lda, stride_a, b, type_b, ldb, stride_b,
                                   beta, c, type_c, ldc, stride_c, count, compute, algorithm):
        places = [[first + j * stride * np.dtype(TYPES[kind]).itemsize for j in range(count)]
                  for first, stride, kind in ((a, stride_a, type_a), (b, stride_b, type_b), (c, stride_c, type_c))]
        return self._gemm(handle, (op_a, op_b), (m, n, k), (alpha, beta), places, (type_a, type_b, type_c), (lda, ldb, ldc),
                          compute, algorithm)

    def cublasGemmBatchedEx(self, handle, op_a, op_b, m, n, k, alpha, a, type_a, lda, b, type_b, ldb, beta, c, type_c, ldc,
                            count, compute, algorithm):
        places = [at(first, np.uint64, (count,))._host.tolist() for first in (a, b, c)]
        if compute not in (EXACT, DOUBLE):
            assert not any(address % 16 for address in sum(places, [])), "a batched product reads 16 bytes at once"
        return self._gemm(handle, (op_a, op_b), (m, n, k), (alpha, beta), places, (type_a, type_b, type_c), (lda, ldb, ldc),
                          compute, algorithm)

    def _gemm(self, handle, ops, shape, scales, places, types, lds, compute, algorithm) -> int:
        state, (m, n, k) = self.handles[handle], shape
        assert state.stream == streams.current().ptr, "the handle's stream is not the current one"
        assert state.workspace and state.mode == 0, "the workspace or the pointer mode is not set"
        least = (k if ops[0] else m), (n if ops[1] else k), m
        if min(shape) < 0 or not set(ops) <= {0, 1} or any(ld < max(1, rows) for ld, rows in zip(lds, least, strict=True)):
            return INVALID_VALUE
        rounded_before = compute == EXACT and types in ((2, 2, 0), (14, 14, 0))
        if not (rounded_before or set(types) == {int(compute == DOUBLE)}):
            return NOT_SUPPORTED
        if compute not in (EXACT, DOUBLE, HALF, *MANTISSA) or not -1 <= algorithm <= 23:
            return NOT_SUPPORTED
        assert state.math == 0 or compute not in (EXACT, DOUBLE), "only the default math keeps the precision"
        real = ctypes.c_double if compute == DOUBLE else ctypes.c_float
        alpha, beta = (real.from_address(scale).value for scale in scales)
        shapes = (k, m) if ops[0] else (m, k), (n, k) if ops[1] else (k, n), (m, n)
        lefts, rights, results = ([matrix(address, TYPES[kind], stored, ld) for address in some]
                                  for some, kind, stored, ld in zip(places, types, shapes, lds, strict=True))
        self.products, self.last, count = self.products + 1, compute, len(results)

        def multiply(*hosts) -> None:
            for left, right, into in zip(hosts[:count], hosts[count:2 * count], hosts[-count:], strict=True):
                left, right = rounded(left.T if ops[0] else left, compute), rounded(right.T if ops[1] else right, compute)
                product = alpha * np.matmul(left, right)
                into[...] = product if beta == 0 else product + beta * into

        enqueue("cuBLAS", lefts + rights, results, multiply)
        return SUCCESS


def matrix(address: int, dtype, shape: tuple, ld: int):
    """The array on the card of a column-major matrix."""
    size = np.dtype(dtype).itemsize
    return at(address, dtype, shape, (size, ld * size))


def rounded(a: np.ndarray, compute: int) -> np.ndarray:
    """a as the units of this compute type see it, in float32 or float64: to the nearest, half to even."""
    if a.dtype == np.uint16:  # bfloat16
        return (a.astype(np.uint32) << 16).view(np.float32)
    a = a.astype(np.float32) if a.dtype == np.float16 else a
    if compute == HALF:
        return a.astype(np.float16).astype(np.float32)
    if compute not in MANTISSA:
        return a
    dropped = 23 - MANTISSA[compute]
    bits = np.ascontiguousarray(a).view(np.uint32)
    up = bits + np.uint32((1 << dropped - 1) - 1) + (bits >> np.uint32(dropped) & np.uint32(1))
    return np.where(np.isfinite(a), (up & np.uint32(-1 << dropped & 0xFFFFFFFF)).view(np.float32), a)
