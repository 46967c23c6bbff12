// The loops of rnncore/lstm.py and rnncore/stepper.py on the host's processor, over the arithmetic of gates.cuh.
//
// One layer's whole recurrence, and one step of a whole stack. Called from native.py on contiguous NumPy arrays: gates
// (T, 4H, N), h and c (T+1, H, N), dy (T, H, N), keep (T, N) or null.
#include <algorithm>
#include <cmath>
#include <vector>

#include "product.hpp"

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

// h and c are written, gates leaves as the activations. x (T, E, N) is the layer's input, w_ih (4H, E), bias (4H,); x null:
// gates arrives as W_ih x + b. h_prev (H, N) is scratch; ones (N,) stands for no mask.
template <typename T>
static void run_forward(const T* w_ih, const T* bias, const T* x, const T* w_hh, T* gates, T* h, T* c, const T* keep,
                        const T* ones, T* h_prev, long steps, long inputs, long hidden, long n) {
    const long size = hidden * n, first = x ? inputs : 0;
    const long depth = first + hidden;
    Buffer<T> panels(Left<T>::size(4 * hidden, depth)), tiles(Right<T>::size(depth, n));
    Left<T> weights{4 * hidden, depth, panels.data};
    Right<T> from{depth, n, tiles.data};
    if (x) weights.pack(w_ih, 0, inputs, false);
    weights.pack(w_hh, first, hidden, false);
    for (long t = 0; t < steps; t++) {
        T *z = gates + 4 * size * t, *before = h + size * t;
        if (keep) mask(h_prev, before, keep + n * t, size, n), before = h_prev;
        if (x) from.pack(x + inputs * n * t, 0, inputs);
        from.pack(before, first, hidden);
        weights.times(from, x ? bias : nullptr, z);
        step_forward(z, c + size * t, keep ? keep + n * t : ones, c + size * (t + 1), h + size * (t + 1), size, n);
    }
}

// gates (T, 4H, N) arrives as the activations and leaves as dL/dz; dh and dc (H, N) arrive as the gradient at the last
// state and leave as that at the initial one; dx (T, E, N) is written where it is wanted.
template <typename T>
static void run_backward(const T* w_ih, const T* w_hh, T* gates, const T* c, const T* keep, const T* ones, const T* dy,
                         T* dh, T* dc, T* dx, long steps, long inputs, long hidden, long n) {
    const long size = hidden * n;
    const long rows = 4 * hidden, wanted = dx ? inputs : 0;
    Buffer<T> panels(Left<T>::size(hidden, rows) + Left<T>::size(wanted, rows)), tiles(Right<T>::size(rows, n));
    Left<T> recurrent{hidden, rows, panels.data}, input{wanted, rows, panels.data + Left<T>::size(hidden, rows)};
    Right<T> dz{rows, n, tiles.data};
    recurrent.pack(w_hh, 0, rows, true);
    if (dx) input.pack(w_ih, 0, rows, true);
    const std::vector<T> zeros(std::max(hidden, inputs));
    for (long t = steps - 1; t >= 0; t--) {
        T* z = gates + 4 * size * t;
        step_backward(z, c + size * t, c + size * (t + 1), keep ? keep + n * t : ones, dy + size * t, dh, dc, size, n);
        dz.pack(z, 0, rows);
        recurrent.times(dz, zeros.data(), dh);
        if (keep) mask(dh, dh, keep + n * t, size, n);
        if (dx) input.times(dz, zeros.data(), dx + inputs * n * t);
    }
}

enum { LINE = 64, AHEAD = 8192 };  // bytes; weights that the caches do not hold arrive 1.4 times as fast when asked for

// z (R,) += w (R, K) x (K,): dot products, four rows at a time.
template <typename T>
static void add_product(const T* w, const T* x, T* z, long rows, long inner) {
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

// z (R, N) = start (R,) + w [x; y], x and y (H, N), either of which may be null; start null: what is in z. w is (R, K) as
// it is stored for one column, and packed for more; tiles is scratch for those.
template <typename T>
static void product(const T* w, const T* x, const T* y, const T* start, T* z, T* tiles, long rows, long hidden, long n) {
    const long depth = ((x != nullptr) + (y != nullptr)) * hidden;
    if (n == 1) {
        if (start) std::copy_n(start, rows, z);
        if (x) add_product(w, x, z, rows, hidden), w += rows * hidden;
        if (y) add_product(w, y, z, rows, hidden);
        return;
    }
    Right<T> right{depth, n, tiles};
    if (x) right.pack(x, 0, hidden);
    if (y) right.pack(y, depth - hidden, hidden);
    Left<T>{rows, depth, const_cast<T*>(w)}.times(right, start, z);
}

// One symbol a column through L layers and the head: h and c (L, H, N) are advanced in place, logits (V, N) written.
// weights: two of each layer, those of `product` and the bias, then the head's; table (4H, V) stands for the first w_ih
// and bias; z (4H, N) and tiles are scratch; ones (H N,); ids (N,) outside 0 .. V - 1 are brought inside.
template <typename T>
static void run_step(const T* const* weights, const T* table, const T* ones, long* ids, T* h, T* c, T* z, T* tiles,
                     T* logits, long layers, long hidden, long symbols, long n) {
    const long size = hidden * n, rows = 4 * hidden;
    for (long k = 0; k < n; k++) ids[k] = std::clamp(ids[k], 0L, symbols - 1);
    for (long r = 0; r < rows; r++)
        for (long k = 0; k < n; k++) z[r * n + k] = table[r * symbols + ids[k]];
    for (long layer = 0; layer < layers; layer++, weights += 2, h += size, c += size) {
        const T *below = layer ? h - size : nullptr, *start = layer ? weights[1] : nullptr;
        product(weights[0], below, h, start, z, tiles, rows, hidden, n);
        step_forward(z, c, ones, c, h, size, size);
    }
    product<T>(weights[0], h - size, nullptr, weights[1], logits, tiles, symbols, hidden, n);
}

// 1 where the memory for f is not there, else 0: what C++ throws would end the process.
template <typename F>
static long guarded(F f) {
    try {
        f();
    } catch (const std::bad_alloc&) {
        return 1;
    }
    return 0;
}

#define EXPORT(T)                                                                                                     \
    extern "C" long forward_##T(const T* w_ih, const T* bias, const T* x, const T* w_hh, T* gates, T* h, T* c,        \
                                const T* keep, const T* ones, T* h_prev, long steps, long inputs, long hidden, long n) {\
        return guarded(                                                                                               \
            [=] { run_forward(w_ih, bias, x, w_hh, gates, h, c, keep, ones, h_prev, steps, inputs, hidden, n); });    \
    }                                                                                                                 \
    extern "C" long backward_##T(const T* w_ih, const T* w_hh, T* gates, const T* c, const T* keep, const T* ones,    \
                                 const T* dy, T* dh, T* dc, T* dx, long steps, long inputs, long hidden, long n) {    \
        return guarded(                                                                                               \
            [=] { run_backward(w_ih, w_hh, gates, c, keep, ones, dy, dh, dc, dx, steps, inputs, hidden, n); });       \
    }                                                                                                                 \
    extern "C" void step_##T(const T* const* weights, const T* table, const T* ones, long* ids, T* h, T* c, T* z,     \
                             T* tiles, T* logits, long layers, long hidden, long symbols, long n) {                   \
        run_step(weights, table, ones, ids, h, c, z, tiles, logits, layers, hidden, symbols, n);                      \
    }                                                                                                                 \
    extern "C" void pack_##T(const T* w, long rows, long columns, long first, long depth, T* panels) {                \
        Left<T>{rows, depth, panels}.pack(w, first, columns, false);                                                  \
    }                                                                                                                 \
    extern "C" long panels_##T(long rows, long depth) { return Left<T>::size(rows, depth); }                          \
    extern "C" long tiles_##T(long depth, long n) { return Right<T>::size(depth, n); }

EXPORT(float)
EXPORT(double)
