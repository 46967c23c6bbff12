// The compiled time loops of a processor: all steps of one layer (rnncore/nn/lstm.py), and one step of a whole stack
// (rnncore/nn/stepper.py). The arithmetic of the cell is gates.cuh.
//
// native.py compiles this file and calls it on NumPy arrays: gates (4H, T, N), h and c (H, T+1, N), x and dx (E, T, N),
// dy (H, T, N), where the rows of each array are `ld` numbers apart. keep is (T, N) or null.
#include <algorithm>
#include <cmath>
#include <vector>

#include "product.hpp"

#define __device__

// A rational function on [-7.9, 7.9] that differs from tanh by at most 3e-7 everywhere. That is enough for float, and
// the compiler can vectorise it.
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

#include "../gates.cuh"

// LINE: the bytes of a cache line. SOON: a row is prefetched this many rows before its use.
enum { LINE = 64, SOON = 4 };

// A view of one step of an array (rows, T, N): row r begins at data + r ld.
template <typename T>
struct Rows {
    T* data;
    long ld;

    Rows at(long t, long n) const { return {data + t * n, ld}; }
    T* operator[](long row) const { return data + row * ld; }

    // Prefetch the n numbers of a row that is read soon. The processor itself prefetches no rows that are pages apart.
    void fetch(long row, long n) const {
        const char *from = reinterpret_cast<const char*>((*this)[row]), *to = from + n * sizeof(T);
        for (; from < to; from += LINE) __builtin_prefetch(from);
    }
};

// Compute gates (the activations), c and h of one step from the pre-activations z (4H, N), which are contiguous. gates
// may be z, and c may be c_prev.
template <typename T>
static void step_forward(const T* z, Rows<T> gates, Rows<T> c_prev, const T* __restrict keep, Rows<T> c, Rows<T> h,
                         long hidden, long n) {
    const long size = hidden * n;
    for (long row = 0; row < hidden; row++, z += n) {
        T *i = gates[row], *f = gates[row + hidden], *g = gates[row + 2 * hidden], *o = gates[row + 3 * hidden];
        T *before = c_prev[row], *after = c[row], *out = h[row];
#pragma GCC ivdep
        for (long k = 0; k < n; k++) {
            T zi = z[k], zf = z[k + size], zg = z[k + 2 * size], zo = z[k + 3 * size], ck, hk;
            gates_forward(zi, zf, zg, zo, before[k], keep[k], ck, hk);
            i[k] = zi, f[k] = zf, g[k] = zg, o[k] = zo, after[k] = ck, out[k] = hk;
        }
    }
}

// Compute the gradient of one step. gates arrives as the activations and leaves as dL/dz, which is also packed into
// dz. dh (H, N) is dL/dh without the share of dy. dc (H, N) arrives as dL/dc and leaves as dL/dc_prev. made (4 N,) is
// scratch.
template <typename T>
static void step_backward(Rows<T> gates, Rows<const T> c_prev, Rows<const T> c, const T* __restrict keep,
                          Rows<const T> dy, const T* __restrict dh, T* __restrict dc, Right<T>& dz, T* __restrict made,
                          long hidden, long n) {
    for (long row = 0; row < hidden; row++, dh += n, dc += n) {
        if (row + SOON < hidden) {
            for (long gate = 0; gate < 4; gate++) gates.fetch(row + gate * hidden + SOON, n);
            c_prev.fetch(row + SOON, n), dy.fetch(row + SOON, n);
        }
        const T *i = gates[row], *f = gates[row + hidden], *g = gates[row + 2 * hidden], *o = gates[row + 3 * hidden];
        const T *before = c_prev[row], *after = c[row], *above = dy[row];
#pragma GCC ivdep
        for (long k = 0; k < n; k++) {
            T zi = i[k], zf = f[k], zg = g[k], zo = o[k], dck = dc[k], through, carry;
            gates_factors(zi, zf, zg, zo, before[k], after[k], keep[k], through, carry);
            gates_backward(zi, zf, zg, zo, through, carry, dh[k] + above[k], dck);
            made[k] = zi, made[k + n] = zf, made[k + 2 * n] = zg, made[k + 3 * n] = zo, dc[k] = dck;
        }
        for (long gate = 0; gate < 4; gate++) {
            std::memcpy(gates[row + gate * hidden], made + gate * n, n * sizeof(T));
            dz.put(row + gate * hidden, made + gate * n);
        }
    }
}

// Compute out (rows, N) = in times keep (N,). out may be in.
template <typename T>
static void mask(T* out, Rows<const T> in, const T* keep, long rows, long n) {
    for (long row = 0; row < rows; row++)
        for (long k = 0; k < n; k++) out[row * n + k] = in[row][k] * keep[k];
}

// The distance in bytes at which weights are prefetched. Weights that are not in the caches arrive 1.4 times as fast.
enum { AHEAD = 8192 };

// Compute z (R,) += w (R, K) x (K,) as dot products, four rows at a time.
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

// Do the work of `run_forward` for one column (N = 1). W_ih x of all steps is one product whose columns are the steps.
// The product of each step reads w_hh as it is stored: a packed product would compute half a vector of columns, all but
// one of them padding. The units of a step are neighbours in memory.
template <typename T>
static void run_column(const T* w_ih, const T* bias, Rows<const T> x, const T* w_hh, Rows<T> gates, Rows<T> h, Rows<T> c,
                       const T* keep, long steps, long inputs, long hidden) {
    const long rows = 4 * hidden;
    if (x.data) {
        Buffer<T> panels(Left<T>::size(rows, inputs)), tiles(Right<T>::size(inputs, steps));
        Left<T> weights{rows, inputs, panels.data};
        Right<T> from{inputs, steps, tiles.data};
        weights.pack(w_ih, 0, inputs, false), from.pack(x.data, x.ld, 0, inputs);
        weights.times(from, {bias, 0}, gates.data, gates.ld);
    }
    Buffer<T> made(rows + 3 * hidden);
    T *z = made.data, *state = z + rows, *cell = state + hidden, *kept = cell + hidden;
    std::fill_n(kept, hidden, T(1));
    for (long k = 0; k < hidden; k++) state[k] = *h[k], cell[k] = *c[k];
    for (long t = 0; t < steps; t++) {
        if (keep) {
            std::fill_n(kept, hidden, keep[t]);
            for (long k = 0; k < hidden; k++) state[k] *= keep[t];
        }
        for (long r = 0; r < rows; r++) z[r] = gates[r][t];
        add_product(w_hh, state, z, rows, hidden);
        step_forward<T>(z, {z, hidden}, {cell, hidden}, kept, {cell, hidden}, {state, hidden}, 1, hidden);
        for (long r = 0; r < rows; r++) gates[r][t] = z[r];
        for (long k = 0; k < hidden; k++) h[k][t + 1] = state[k], c[k][t + 1] = cell[k];
    }
}

// Run all steps of a layer. x is its input; w_ih is (4H, E), bias (4H,). If x is null, gates arrives as W_ih x + b.
// gates leaves as the activations; h and c are written. ones (N,) takes the place of keep if keep is null.
template <typename T>
static void run_forward(const T* w_ih, const T* bias, Rows<const T> x, const T* w_hh, Rows<T> gates, Rows<T> h, Rows<T> c,
                        const T* keep, const T* ones, long steps, long inputs, long hidden, long n) {
    if (n == 1) return run_column(w_ih, bias, x, w_hh, gates, h, c, keep, steps, inputs, hidden);
    const long first = x.data ? inputs : 0, rows = 4 * hidden, depth = first + hidden;
    Buffer<T> panels(Left<T>::size(rows, depth)), tiles(Right<T>::size(depth, n)), z(rows * n), kept(hidden * n);
    Left<T> weights{rows, depth, panels.data};
    Right<T> from{depth, n, tiles.data};
    if (x.data) weights.pack(w_ih, 0, inputs, false);
    weights.pack(w_hh, first, hidden, false);
    for (long t = 0; t < steps; t++) {
        const Rows<T> now = gates.at(t, n), before = h.at(t, n);
        if (x.data) from.pack(x.at(t, n).data, x.ld, 0, inputs);
        if (keep) mask(kept.data, {before.data, h.ld}, keep + n * t, hidden, n), from.pack(kept.data, n, first, hidden);
        else from.pack(before.data, h.ld, first, hidden);
        weights.times(from, x.data ? Start<T>{bias, 0} : Start<T>{now.data, now.ld}, z.data, n);
        step_forward(z.data, now, c.at(t, n), keep ? keep + n * t : ones, c.at(t + 1, n), h.at(t + 1, n), hidden, n);
    }
}

// Run all steps of a layer backwards. gates arrives as the activations and leaves as dL/dz. dh and dc (H, N) arrive
// as the gradient at the last state and leave as the gradient at the initial state. dx is written unless it is null.
template <typename T>
static void run_backward(const T* w_ih, const T* w_hh, Rows<T> gates, Rows<const T> c, const T* keep, const T* ones,
                         Rows<const T> dy, T* dh, T* dc, Rows<T> dx, long steps, long inputs, long hidden, long n) {
    const long rows = 4 * hidden, wanted = dx.data ? inputs : 0;
    Buffer<T> panels(Left<T>::size(hidden, rows) + Left<T>::size(wanted, rows)), tiles(Right<T>::size(rows, n)), made(4 * n);
    Left<T> recurrent{hidden, rows, panels.data}, input{wanted, rows, panels.data + Left<T>::size(hidden, rows)};
    Right<T> dz{rows, n, tiles.data};
    recurrent.pack(w_hh, 0, rows, true);
    if (wanted) input.pack(w_ih, 0, rows, true);
    const std::vector<T> zeros(std::max(hidden, inputs));
    for (long t = steps - 1; t >= 0; t--) {
        const Rows<T> now = gates.at(t, n);
        step_backward(now, c.at(t, n), c.at(t + 1, n), keep ? keep + n * t : ones, dy.at(t, n), dh, dc, dz, made.data, hidden,
                      n);
        recurrent.times(dz, {zeros.data(), 0}, dh, n);
        if (keep) mask(dh, {dh, n}, keep + n * t, hidden, n);
        if (wanted) input.times(dz, {zeros.data(), 0}, dx.at(t, n).data, dx.ld);
    }
}

// Compute z (R, N) = start (R,) + w [x; y] for x and y (H, N). x or y may be null. If start is null, the product is
// added to z. For one column w (R, K) is as it is stored; for more columns it is packed, and tiles is scratch.
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
    if (x) right.pack(x, n, 0, hidden);
    if (y) right.pack(y, n, depth - hidden, hidden);
    Left<T>{rows, depth, const_cast<T*>(w)}.times(right, start ? Start<T>{start, 0} : Start<T>{z, n}, z, n);
}

// Feed one symbol of each column through L layers and the head: advance h and c (L, H, N) in place and write logits
// (V, N). weights: for each layer the matrix for `product` and the bias, then the same of the head. table (4H, V)
// takes the place of the first w_ih and bias. z (4H, N) and tiles are scratch; ones is (H N,). An id (N,)
// below 0 or above V - 1 is moved to 0 or V - 1, because the table is read at it.
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
        step_forward<T>(z, {z, size}, {c, size}, ones, {c, size}, {h, size}, 1, size);
    }
    product<T>(weights[0], h - size, nullptr, weights[1], logits, tiles, symbols, hidden, n);
}

// Call f. Return 1 if there is no memory for it, else 0: an exception that left this library would end the process.
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
    extern "C" long forward_##T(const T* w_ih, const T* bias, const T* w_hh, const T* keep, const T* ones, const T* x, \
                                T* gates, T* h, T* c, long x_ld, long gates_ld, long h_ld, long c_ld, long steps,      \
                                long inputs, long hidden, long n) {                                                   \
        return guarded([=] {                                                                                          \
            run_forward<T>(w_ih, bias, {x, x_ld}, w_hh, {gates, gates_ld}, {h, h_ld}, {c, c_ld}, keep, ones, steps,    \
                           inputs, hidden, n);                                                                        \
        });                                                                                                           \
    }                                                                                                                 \
    extern "C" long backward_##T(const T* w_ih, const T* w_hh, const T* keep, const T* ones, T* dh, T* dc, T* gates,   \
                                 const T* c, const T* dy, T* dx, long gates_ld, long c_ld, long dy_ld, long dx_ld,     \
                                 long steps, long inputs, long hidden, long n) {                                      \
        return guarded([=] {                                                                                          \
            run_backward<T>(w_ih, w_hh, {gates, gates_ld}, {c, c_ld}, keep, ones, {dy, dy_ld}, dh, dc, {dx, dx_ld},    \
                            steps, inputs, hidden, n);                                                                \
        });                                                                                                           \
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
