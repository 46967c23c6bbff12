// The loops of rnncore/lstm.py and rnncore/stepper.py on the host's processor, over the arithmetic of gates.cuh.
//
// One layer's whole recurrence, and one step of a whole stack. Called from native.py on contiguous NumPy arrays: gates
// (T, 4H, N), h and c (T+1, H, N), dy (T, H, N), keep (T, N) or null. Products of several columns are the same BLAS
// that NumPy calls, through its own function pointer; integers are `Int` wide there.
#include <algorithm>
#include <cmath>

#define __device__

// A rational function on [-7.9, 7.9], within 3e-7 of tanh everywhere: float needs no more, and it vectorises.
static inline float tanh_of(float z) {
    z = z > 7.9f ? 7.9f : z < -7.9f ? -7.9f : z;
    float s = z * z;
    float p = -2.76076847742355e-16f;
    p = p * s + 2.00018790482477e-13f;
    p = p * s - 8.60467152213735e-11f;
    p = p * s + 5.12229709037114e-08f;
    p = p * s + 1.48572235717979e-05f;
    p = p * s + 6.37261928875436e-04f;
    p = p * s + 4.89352455891786e-03f;
    float q = 1.19825839466702e-06f;
    q = q * s + 1.18534705686654e-04f;
    q = q * s + 2.26843463243900e-03f;
    q = q * s + 4.89352518554385e-03f;
    return z * p / q;
}
static inline double tanh_of(double z) { return std::tanh(z); }

#include "gates.cuh"

enum { ROW_MAJOR = 101, PLAIN = 111, TRANSPOSED = 112 };  // of CBLAS

template <typename T, typename Int>
using Gemm = void (*)(int, int, int, Int, Int, Int, T, const T*, Int, const T*, Int, T, T*, Int);

// z = the pre-activations of one step -> activations, c and h; size = H N; c may be c_prev.
template <typename T>
static void step_forward(T* __restrict z, const T* c_prev, const T* __restrict keep, T* c, T* __restrict h, long size,
                         long n) {
    T *i = z, *f = i + size, *g = f + size, *o = g + size;
    for (long row = 0; row < size; row += n)
#pragma GCC ivdep
        for (long k = 0; k < n; k++) {
            long at = row + k;
            T zi = i[at], zf = f[at], zg = g[at], zo = o[at], ck, hk;
            gates_forward(zi, zf, zg, zo, c_prev[at], keep[k], ck, hk);
            i[at] = zi, f[at] = zf, g[at] = zg, o[at] = zo, c[at] = ck, h[at] = hk;
        }
}

// z = the activations of one step -> dL/dz; dh is dL/dh without dy, dc arrives as dL/dc and leaves as dL/dc_prev.
template <typename T>
static void step_backward(T* __restrict z, const T* __restrict c_prev, const T* __restrict c, const T* __restrict keep,
                          const T* __restrict dy, const T* __restrict dh, T* __restrict dc, long size, long n) {
    T *i = z, *f = i + size, *g = f + size, *o = g + size;
    for (long row = 0; row < size; row += n)
#pragma GCC ivdep
        for (long k = 0; k < n; k++) {
            long at = row + k;
            T zi = i[at], zf = f[at], zg = g[at], zo = o[at], dck = dc[at], through, carry;
            gates_factors(zi, zf, zg, zo, c_prev[at], c[at], keep[k], through, carry);
            gates_backward(zi, zf, zg, zo, through, carry, dh[at] + dy[at], dck);
            i[at] = zi, f[at] = zf, g[at] = zg, o[at] = zo, dc[at] = dck;
        }
}

template <typename T>
static void mask(T* out, const T* in, const T* keep, long size, long n) {  // out may be in
    for (long row = 0; row < size; row += n)
        for (long k = 0; k < n; k++) out[row + k] = in[row + k] * keep[k];
}

// gates arrives as W_ih x + b and leaves as the activations; h_prev (H, N) is scratch; ones (N,) stands for no mask.
template <typename T, typename Int>
static void run_forward(Gemm<T, Int> gemm, const T* w_hh, T* gates, T* h, T* c, const T* keep, const T* ones, T* h_prev,
                        long steps, long hidden, long n) {
    const long size = hidden * n;
    for (long t = 0; t < steps; t++) {
        T *z = gates + 4 * size * t, *from = h + size * t;
        if (keep) mask(h_prev, from, keep + n * t, size, n), from = h_prev;
        gemm(ROW_MAJOR, PLAIN, PLAIN, 4 * hidden, n, hidden, 1, w_hh, hidden, from, n, 1, z, n);
        step_forward(z, c + size * t, keep ? keep + n * t : ones, c + size * (t + 1), h + size * (t + 1), size, n);
    }
}

// gates arrives as the activations and leaves as dL/dz, in columns (4H, T N) too; dh and dc (H, N) arrive as the gradient
// at the last state and leave as that at the initial one.
template <typename T, typename Int>
static void run_backward(Gemm<T, Int> gemm, const T* w_hh, T* gates, const T* c, const T* keep, const T* ones, const T* dy,
                         T* dh, T* dc, T* columns, long steps, long hidden, long n) {
    const long size = hidden * n;
    for (long t = steps - 1; t >= 0; t--) {
        T* z = gates + 4 * size * t;
        step_backward(z, c + size * t, c + size * (t + 1), keep ? keep + n * t : ones, dy + size * t, dh, dc, size, n);
        for (long row = 0; row < 4 * hidden; row++) std::copy_n(z + row * n, n, columns + (row * steps + t) * n);
        gemm(ROW_MAJOR, TRANSPOSED, PLAIN, hidden, n, 4 * hidden, 1, w_hh, hidden, z, n, 0, dh, n);
        if (keep) mask(dh, dh, keep + n * t, size, n);
    }
}

// z (R, N) = bias (R,).
template <typename T>
static void fill_rows(T* z, const T* bias, long rows, long n) {
    for (long r = 0; r < rows; r++) std::fill_n(z + r * n, n, bias[r]);
}

enum { LINE = 64, AHEAD = 8192 };  // bytes; weights that the caches do not hold arrive 1.4 times as fast when asked for

// z (R, N) += w (R, K) x (K, N); for one column dot products, four rows at a time.
template <typename T, typename Int>
static void add_product(Gemm<T, Int> gemm, const T* w, const T* x, T* z, long rows, long inner, long n) {
    if (n > 1) return gemm(ROW_MAJOR, PLAIN, PLAIN, rows, n, inner, 1, w, inner, x, n, 1, z, n);
    for (; rows >= 4; rows -= 4, w += 4 * inner, z += 4) {
        T a = 0, b = 0, c = 0, d = 0;
        for (long k = 0; k < 4 * inner; k += LINE / sizeof(T)) __builtin_prefetch(w + AHEAD / sizeof(T) + k);
#pragma omp simd reduction(+ : a, b, c, d)
        for (long k = 0; k < inner; k++)
            a += w[k] * x[k], b += w[inner + k] * x[k], c += w[2 * inner + k] * x[k], d += w[3 * inner + k] * x[k];
        z[0] += a, z[1] += b, z[2] += c, z[3] += d;
    }
    for (; rows > 0; rows--, w += inner, z++) {
        T a = 0;
#pragma omp simd reduction(+ : a)
        for (long k = 0; k < inner; k++) a += w[k] * x[k];
        *z += a;
    }
}

// One symbol a column through L layers and the head: h and c (L, H, N) are advanced in place, logits (V, N) written.
// weights: w_ih, w_hh, bias of each layer, then the head's; table (4H, V) stands for the first w_ih and bias; z (4H, N)
// is scratch; ones (H N,); ids (N,) outside 0 .. V - 1 are brought inside.
template <typename T, typename Int>
static void run_step(Gemm<T, Int> gemm, const T* const* weights, const T* table, const T* ones, long* ids, T* h, T* c,
                     T* z, T* logits, long layers, long hidden, long symbols, long n) {
    const long size = hidden * n, rows = 4 * hidden;
    for (long k = 0; k < n; k++) ids[k] = std::clamp(ids[k], 0L, symbols - 1);
    for (long layer = 0; layer < layers; layer++, weights += 3, h += size, c += size) {
        if (layer == 0) {
            for (long r = 0; r < rows; r++)
                for (long k = 0; k < n; k++) z[r * n + k] = table[r * symbols + ids[k]];
        } else {
            fill_rows(z, weights[2], rows, n);
            add_product(gemm, weights[0], h - size, z, rows, hidden, n);
        }
        add_product(gemm, weights[1], h, z, rows, hidden, n);
        step_forward(z, c, ones, c, h, size, size);
    }
    fill_rows(logits, weights[1], symbols, n);
    add_product(gemm, weights[0], h - size, logits, symbols, hidden, n);
}

#define EXPORT(T, Int, name)                                                                                              \
    extern "C" void forward_##name(Gemm<T, Int> gemm, const T* w_hh, T* gates, T* h, T* c, const T* keep, const T* ones,  \
                                   T* h_prev, long steps, long hidden, long n) {                                          \
        run_forward(gemm, w_hh, gates, h, c, keep, ones, h_prev, steps, hidden, n);                                       \
    }                                                                                                                     \
    extern "C" void backward_##name(Gemm<T, Int> gemm, const T* w_hh, T* gates, const T* c, const T* keep, const T* ones, \
                                    const T* dy, T* dh, T* dc, T* columns, long steps, long hidden, long n) {             \
        run_backward(gemm, w_hh, gates, c, keep, ones, dy, dh, dc, columns, steps, hidden, n);                            \
    }                                                                                                                     \
    extern "C" void step_##name(Gemm<T, Int> gemm, const T* const* weights, const T* table, const T* ones,                \
                                long* ids, T* h, T* c, T* z, T* logits, long layers, long hidden, long symbols, long n) { \
        run_step(gemm, weights, table, ones, ids, h, c, z, logits, layers, hidden, symbols, n);                           \
    }

EXPORT(float, int, float32_int)
EXPORT(float, long, float32_long)
EXPORT(double, int, float64_int)
EXPORT(double, long, float64_long)
