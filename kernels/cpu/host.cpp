// The compiled time loops of a processor: all steps of one layer (rnncore/nn/lstm.py), one step of a whole stack
// (rnncore/nn/stepper.py), and what else of a training step is faster than in NumPy. The arithmetic of the cell is
// gates.cuh, the matrix product product.hpp.
//
// native.py compiles this file and calls it on NumPy arrays. The units of one sequence lie side by side: gates
// (T, N, 4H), h and c (T+1, N, H), x and dx (T, N, E), dy (T, N, H), dh and dc (N, H). keep is (T, N) or null. E is the
// element of the products, T the type of all arrays.
#include <cmath>
#include <list>

#include "product.hpp"

#define __device__

namespace {

// A rational function on [-7.9, 7.9] that differs from tanh by at most 3e-7 everywhere. That is enough for float, and
// the compiler can vectorise it.
inline float tanh_of(float z) {
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
inline double tanh_of(double z) { return std::tanh(z); }

#include "../gates.cuh"

// Below this number of sequences the input products of all steps are one product: its rows are the positions (T, N).
enum { FEW = 4 };
// The depth of a block of `run_product`.
enum { BLOCK = 512 };

// Compute gates (the activations, 4H), c and h (H) of one sequence from its pre-activations z (4H). gates may be z, and
// c may be c_prev.
template <typename T>
void cell_forward(const T* z, T* gates, const T* c_prev, T keep, T* c, T* h, long hidden) {
    const T *z_f = z + hidden, *z_g = z_f + hidden, *z_o = z_g + hidden;
    T *i = gates, *f = i + hidden, *g = f + hidden, *o = g + hidden;
#pragma GCC ivdep
    for (long k = 0; k < hidden; k++) {
        T zi = z[k], zf = z_f[k], zg = z_g[k], zo = z_o[k], ck, hk;
        gates_forward(zi, zf, zg, zo, c_prev[k], keep, ck, hk);
        i[k] = zi, f[k] = zf, g[k] = zg, o[k] = zo, c[k] = ck, h[k] = hk;
    }
}

// Compute the gradient of one sequence at one step. gates (4H) arrives as the activations and leaves as dL/dz. dh (H)
// is dL/dh without the share of dy. dc (H) arrives as dL/dc and leaves as dL/dc_prev.
template <typename T>
void cell_backward(T* gates, const T* c_prev, const T* c, T keep, const T* dy, const T* dh, T* dc, long hidden) {
    T *i = gates, *f = i + hidden, *g = f + hidden, *o = g + hidden;
#pragma GCC ivdep
    for (long k = 0; k < hidden; k++) {
        T zi = i[k], zf = f[k], zg = g[k], zo = o[k], dck = dc[k], through, carry;
        gates_factors(zi, zf, zg, zo, c_prev[k], c[k], keep, through, carry);
        gates_backward(zi, zf, zg, zo, through, carry, dh[k] + dy[k], dck);
        i[k] = zi, f[k] = zf, g[k] = zg, o[k] = zo, dc[k] = dck;
    }
}

// Run all steps of a layer. x is its input; w_ih is (4H, E), bias (4H,). If x is null, gates arrives as W_ih x + b.
// gates leaves as the activations; h and c are written.
template <typename E, typename T = typename E::T>
void run_forward(const T* w_ih, const T* bias, const T* x, const T* w_hh, const T* keep, T* gates, T* h, T* c,
                        long steps, long inputs, long hidden, long n) {
    const long rows = 4 * hidden;
    if (x && n < FEW) {
        Left<E> weights(rows, words<E>(inputs));
        weights.pack(w_ih, inputs, 1, 0, inputs);
        Operands<E> all(steps * n, words<E>(inputs));
        weights.times(all.take(x, steps * n, inputs), steps * n, {bias, 0}, gates, rows);
        x = nullptr;
    }
    // The input and the state of a step are one row, so one product of that depth computes the gates.
    const long first = x ? words<E>(inputs) : 0, length = first + words<E>(hidden);
    Left<E> weights(rows, length);
    if (x) weights.pack(w_ih, inputs, 1, 0, inputs);
    weights.pack(w_hh, hidden, 1, first, hidden);
    Operands<E> from(n, length);
    Buffer<T> z(rows * n);
    for (long t = 0; t < steps; t++, gates += rows * n, h += hidden * n, c += hidden * n) {
        for (long s = 0; s < n; s++) {
            if (x) from.put(s, 0, x + (t * n + s) * inputs, inputs);
            from.put(s, first, h + s * hidden, hidden, keep ? keep[t * n + s] : 1);
        }
        weights.times(from.rows(), n, x ? Start<T>{bias, 0} : Start<T>{gates, rows}, z.data, rows);
        for (long s = 0; s < n; s++)
            cell_forward(z.data + s * rows, gates + s * rows, c + s * hidden, keep ? keep[t * n + s] : T(1),
                         c + (n + s) * hidden, h + (n + s) * hidden, hidden);
    }
}

// Run all steps of a layer backwards. gates arrives as the activations and leaves as dL/dz. dh and dc arrive as the
// gradient at the last state and leave as the gradient at the initial state. dx is written unless it is null; it may be
// dy.
template <typename E, typename T = typename E::T>
void run_backward(const T* w_ih, const T* w_hh, const T* keep, T* dh, T* dc, T* gates, const T* c, const T* dy,
                         T* dx, long steps, long inputs, long hidden, long n) {
    const long rows = 4 * hidden, wanted = dx ? inputs : 0, at_once = wanted && n < FEW ? steps * n : n;
    Left<E> recurrent(hidden, words<E>(rows)), input(wanted, words<E>(rows));
    recurrent.pack(w_hh, 1, hidden, 0, rows);
    input.pack(w_ih, 1, inputs, 0, rows);
    Operands<E> dz(at_once, words<E>(rows));
    for (long t = steps - 1; t >= 0; t--) {
        T* now = gates + t * n * rows;
        for (long s = 0; s < n; s++) {
            const long at = (t * n + s) * hidden;
            cell_backward(now + s * rows, c + at, c + at + n * hidden, keep ? keep[t * n + s] : T(1), dy + at,
                          dh + s * hidden, dc + s * hidden, hidden);
        }
        const Rows<E> from = dz.take(now, n, rows);
        recurrent.times(from, n, {nullptr, 0}, dh, hidden);
        for (long s = 0; keep && s < n; s++)
            for (long k = 0; k < hidden; k++) dh[s * hidden + k] *= keep[t * n + s];
        if (n >= FEW) input.times(from, n, {nullptr, 0}, dx + t * n * inputs, inputs);
    }
    if (n < FEW) input.times(dz.take(gates, at_once, rows), at_once, {nullptr, 0}, dx, inputs);
}

// The weights of a stack, packed for one step of n sequences at a time.
template <typename E>
class Stack {
    typedef typename E::T T;
    const long layers, hidden, symbols, n;
    const T *const *biases, *table;  // the bias of each layer, then the head's; (V, 4H)
    const long half;                 // words of a row of depth H
    std::list<Left<E>> weights;      // of each layer, then of the head
    Operands<E> single, both;        // rows of depth H, and rows of depth 2H: the state below and the state
    Buffer<T> z;                     // (N, 4H)

public:
    // matrices: w_ih and w_hh of each layer, then the head's weight (V, H). table = W_ih embedding^T + b takes the
    // place of the first w_ih and bias. The arrays of biases and table are read in each step.
    Stack(const T* const* matrices, const T* const* biases, const T* table, long layers, long hidden, long symbols, long n)
        : layers(layers), hidden(hidden), symbols(symbols), n(n), biases(biases), table(table), half(words<E>(hidden)),
          single(n, half), both(n, 2 * half), z(4 * hidden * n) {
        for (long layer = 0; layer < layers; layer++, matrices += 2) {
            weights.emplace_back(4 * hidden, layer ? 2 * half : half);
            if (layer) weights.back().pack(matrices[0], hidden, 1, 0, hidden);
            weights.back().pack(matrices[1], hidden, 1, layer ? half : 0, hidden);
        }
        weights.emplace_back(symbols, half);
        weights.back().pack(matrices[0], hidden, 1, 0, hidden);
    }

    // Feed one symbol of each sequence through the layers and the head: advance h and c (L, N, H) in place and write
    // logits (N, V). An id (N,) below 0 or above V - 1 is moved to 0 or V - 1, because the table is read at it.
    void step(const long* ids, T* h, T* c, T* logits) {
        const long size = hidden * n, rows = 4 * hidden;
        auto w = weights.begin();
        for (long layer = 0; layer < layers; layer++, w++, h += size, c += size) {
            for (long s = 0; s < n; s++) {
                if (layer) both.put(s, 0, h - size + s * hidden, hidden), both.put(s, half, h + s * hidden, hidden);
                else std::copy_n(table + std::clamp(ids[s], 0L, symbols - 1) * rows, rows, z.data + s * rows);
            }
            if (layer) w->times(both.rows(), n, {biases[layer], 0}, z.data, rows);
            else w->times(single.take(h, n, hidden), n, {z.data, rows}, z.data, rows);
            for (long s = 0; s < n; s++) {
                T *gates = z.data + s * rows, *cell = c + s * hidden;
                cell_forward(gates, gates, cell, T(1), cell, h + s * hidden, hidden);
            }
        }
        w->times(single.take(h - size, n, hidden), n, {biases[layers], 0}, logits, symbols);
    }
};

// Compute out (rows, columns) = a (rows, depth) b (depth, columns), or add it to out. The entry (i, k) of a is
// a[i down + k along], and so of b; out's rows are ld numbers apart, its columns side by side.
template <typename E, typename T = typename E::T>
void run_product(const T* a, const T* b, T* out, long a_down, long a_along, long b_down, long b_along, long ld,
                        long rows, long depth, long columns, bool add) {
    for (long row = 0; row < rows && depth == 0 && !add; row++) std::fill_n(out + row * ld, columns, T(0));
    // The panels of a block of the depth, and the rows that they are multiplied with, stay in the caches.
    for (long first = 0; first < depth; first += BLOCK, add = true) {
        const long some = std::min(depth - first, long(BLOCK));
        Left<E> right(columns, words<E>(some));
        right.pack(b + first * b_down, b_along, b_down, 0, some);
        Operands<E> from(rows, words<E>(some));
        right.times(from.gather(a + first * a_along, a_down, a_along, some), rows, {add ? out : nullptr, ld}, out, ld);
    }
}

// Call f. Return its result, or `failed` if there is no memory for it: an exception that left this library would end
// the process.
template <typename F, typename R>
R guarded(R failed, F f) {
    try {
        return f();
    } catch (const std::bad_alloc&) {
        return failed;
    }
}

}  // namespace

// The functions of the library. The compiler's option -DELEMENT names the element of the products.
typedef ELEMENT E;
typedef E::T T;

extern "C" {

long forward(const T* w_ih, const T* bias, const T* x, const T* w_hh, const T* keep, T* gates, T* h, T* c, long steps,
             long inputs, long hidden, long n) {
    return guarded(1L, [=] { return run_forward<E>(w_ih, bias, x, w_hh, keep, gates, h, c, steps, inputs, hidden, n), 0L; });
}

long backward(const T* w_ih, const T* w_hh, const T* keep, T* dh, T* dc, T* gates, const T* c, const T* dy, T* dx,
              long steps, long inputs, long hidden, long n) {
    return guarded(1L, [=] {
        return run_backward<E>(w_ih, w_hh, keep, dh, dc, gates, c, dy, dx, steps, inputs, hidden, n), 0L;
    });
}

void* make_stack(const T* const* matrices, const T* const* biases, const T* table, long layers, long hidden,
                 long symbols, long n) {
    return guarded(static_cast<Stack<E>*>(nullptr), [=] {
        return new Stack<E>(matrices, biases, table, layers, hidden, symbols, n);
    });
}

void step(void* stack, const long* ids, T* h, T* c, T* logits) { static_cast<Stack<E>*>(stack)->step(ids, h, c, logits); }

void free_stack(void* stack) { delete static_cast<Stack<E>*>(stack); }

// Add rows of `width` numbers to the rows of a table that ids name, in their order. Rows are ld numbers apart.
void add_rows(T* table, const long* ids, const T* rows, long table_ld, long ld, long count, long width) {
    for (long p = 0; p < count; p++, rows += ld) {
        T* to = table + ids[p] * table_ld;
#pragma GCC ivdep
        for (long k = 0; k < width; k++) to[k] += rows[k];
    }
}

// Compute `count` products as run_product does. Those of a are a_step numbers apart, and so on.
long product(const T* a, const T* b, T* out, long a_down, long a_along, long b_down, long b_along, long ld, long a_step,
             long b_step, long step, long count, long rows, long depth, long columns, long add) {
    return guarded(1L, [=] {
        for (long k = 0; k < count; k++)
            run_product<E>(a + k * a_step, b + k * b_step, out + k * step, a_down, a_along, b_down, b_along, ld, rows,
                           depth, columns, add);
        return 0L;
    });
}

// Return 1 if the processor multiplies pairs of bfloat16 in one instruction, 2 if it also multiplies tiles of them.
long native_pairs() {
#ifdef NATIVE_PAIRS
    return E::TILED && tiles_allowed() ? 2 : 1;
#else
    return 0;
#endif
}
}
