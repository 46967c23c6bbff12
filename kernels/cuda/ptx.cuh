// Functions for 16-bit floats, tensor cores, values between blocks and approximations, in PTX. Without its headers CUDA
// C++ does not have them.
//
// A pair of 16-bit numbers is one unsigned, with the first number in the low half. mma_*_kK computes d (16, 8) += a
// (16, K) b (K, 8) with one warp. The PTX manual ("Matrix Fragments for mma.m16n8k16") says which numbers each lane
// has. The tests run the kernels without a card in an emulator, which has functions of the same names.

#ifndef EMULATOR
__device__ __forceinline__ unsigned short to_f16(float x) {
    unsigned short y;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(y) : "f"(x));
    return y;
}

__device__ __forceinline__ float from_f16(unsigned short x) {
    float y;
    asm("cvt.f32.f16 %0, %1;" : "=f"(y) : "h"(x));
    return y;
}

__device__ __forceinline__ float from_bf16(unsigned short x) { return __uint_as_float((unsigned)x << 16); }

__device__ __forceinline__ unsigned short to_bf16(float x) {  // to the nearest, ties to even
    const unsigned bits = __float_as_uint(x);
    return x != x ? 0x7FFF : (unsigned short)((bits + 0x7FFF + (bits >> 16 & 1)) >> 16);
}

__device__ __forceinline__ unsigned pack_f16(float low, float high) {
#if __CUDA_ARCH__ >= 800
    unsigned pair;
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
    return pair;
#else
    return to_f16(low) | (unsigned)to_f16(high) << 16;
#endif
}

__device__ __forceinline__ unsigned pack_bf16(float low, float high) {
#if __CUDA_ARCH__ >= 800
    unsigned pair;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
    return pair;
#else
    return to_bf16(low) | (unsigned)to_bf16(high) << 16;
#endif
}

__device__ __forceinline__ void mma_f16_k8(float* d, const unsigned* a, const unsigned* b) {
    asm("mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5}, {%6}, {%0, %1, %2, %3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]) : "r"(a[0]), "r"(a[1]), "r"(b[0]));
}

#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 800  // nvcc also reads the text for the host
__device__ __forceinline__ void mma_f16_k16(float* d, const unsigned* a, const unsigned* b) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
        "{%0, %1, %2, %3};" : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

__device__ __forceinline__ void mma_bf16_k16(float* d, const unsigned* a, const unsigned* b) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
        "{%0, %1, %2, %3};" : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
#endif

// Store a value. A thread that loads it with load_acquire then sees all earlier writes of this thread, and all writes
// that this thread has seen.
__device__ __forceinline__ void store_release(unsigned* at, unsigned value) {
    asm volatile("st.release.gpu.global.u32 [%0], %1;" :: "l"(at), "r"(value) : "memory");
}

__device__ __forceinline__ unsigned load_acquire(const unsigned* at) {
    unsigned value;
    asm volatile("ld.acquire.gpu.global.u32 %0, [%1];" : "=r"(value) : "l"(at) : "memory");
    return value;
}

__device__ __forceinline__ void store_relaxed(unsigned* at, unsigned value) {
    asm volatile("st.relaxed.gpu.global.u32 [%0], %1;" :: "l"(at), "r"(value) : "memory");
}

__device__ __forceinline__ unsigned load_relaxed(const unsigned* at) {
    unsigned value;
    asm volatile("ld.relaxed.gpu.global.u32 %0, [%1];" : "=r"(value) : "l"(at) : "memory");
    return value;
}

__device__ __forceinline__ void store_relaxed(unsigned long long* at, unsigned long long value) {
    asm volatile("st.relaxed.gpu.global.u64 [%0], %1;" :: "l"(at), "l"(value) : "memory");
}

__device__ __forceinline__ unsigned long long load_relaxed(const unsigned long long* at) {
    unsigned long long value;
    asm volatile("ld.relaxed.gpu.global.u64 %0, [%1];" : "=l"(value) : "l"(at) : "memory");
    return value;
}

// Four neighbouring numbers of 16 bits, each of which another thread may write meanwhile. `at` is a multiple of 8
// bytes.
__device__ __forceinline__ uint2 load_relaxed_4x16(const unsigned short* at) {
    uint2 pairs;
    asm volatile("{.reg .b16 a, b, c, d;\n"
                 "ld.relaxed.gpu.global.v4.b16 {a, b, c, d}, [%2];\n"
                 "mov.b32 %0, {a, b};\n"
                 "mov.b32 %1, {c, d};}" : "=r"(pairs.x), "=r"(pairs.y) : "l"(at) : "memory");
    return pairs;
}

__device__ __forceinline__ void store_relaxed(unsigned short* at, unsigned short value) {
    asm volatile("st.relaxed.gpu.global.b16 [%0], %1;" :: "l"(at), "h"(value) : "memory");
}

// 2^x and 1 / x, within 2^-22 and 2^-23 of the result; 0, infinity and NaN as in C. Subnormal numbers count as 0.
__device__ __forceinline__ float ex2_approx(float x) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

__device__ __forceinline__ float rcp_approx(float x) {
    float y;
    asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}
#endif
