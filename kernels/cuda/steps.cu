// The kernels of the paths graph and wavefront: the LSTM cell of one step, between two matrix products of cuBLAS. Each
// thread computes one unit of one layer in one sequence.
//
// gates.cuh comes before this text, and REAL is float or double. Arrays are (rows, T, N), as in rnncore/nn/lstm.py,
// with rows ld numbers apart. Operands and results of the products are matrices of their own, with rows `width` numbers
// apart. keep (T, N) is read only if has_keep is not 0. `at` is the index of (t, column) in a row of gates. In a row of
// h or c it is the index of the state before step t, because these arrays have T + 1 steps.

struct Cache {  // the arrays of lstm.Cache, and the distances of their rows
    REAL *gates, *h, *c;
    long long gates_ld, h_ld, c_ld;
};

// One layer of a stack. wavefront.py writes it as numbers of 8 bytes. A pointer that is not needed is 0.
struct Layer {
    Cache cache;
    const REAL *bias, *mask;          // the dropout mask is (H, T, N), or (H, 1, N) with mask_step 0
    REAL* dropped;                    // (H, T, N): the output of the layer, h times its mask
    long long mask_ld, mask_step, dropped_ld;
    const REAL *dh_last, *dc_last;    // (H, N): the gradient at the last state, or null for zeros
    REAL *dh_first, *dc_first;        // (H, N): the gradient at the initial state; until then dc_first holds dc
};

__device__ inline int thread() { return blockIdx.x * blockDim.x + threadIdx.x; }

// Compute one unit from its pre-activations z: write its activations, c and h. Return h.
__device__ inline REAL forward(const Cache& cache, REAL z[4], int hidden, int unit, long long at, int n, REAL keep) {
    REAL *c = cache.c + unit * cache.c_ld + at, *h = cache.h + unit * cache.h_ld + at, h_new;
    gates_forward(z[0], z[1], z[2], z[3], c[0], keep, c[n], h_new);
    for (int gate = 0; gate < 4; gate++) cache.gates[(gate * hidden + unit) * cache.gates_ld + at] = z[gate];
    return h[n] = h_new;
}

// Compute the gradient of one unit. Its activations in the cache are overwritten by dL/dz, which is also written to dz
// (4H, width). dc arrives as dL/dc and leaves as dL/dc_prev.
__device__ inline void backward(const Cache& cache, REAL* dz, REAL dh, REAL& dc, int hidden, int unit, long long at,
                                int n, int column, int width, REAL keep) {
    const REAL* c = cache.c + unit * cache.c_ld + at;
    REAL z[4], through, carry;
    for (int gate = 0; gate < 4; gate++) z[gate] = cache.gates[(gate * hidden + unit) * cache.gates_ld + at];
    gates_factors(z[0], z[1], z[2], z[3], c[0], c[n], keep, through, carry);
    gates_backward(z[0], z[1], z[2], z[3], through, carry, dh, dc);
    for (int gate = 0; gate < 4; gate++) {
        cache.gates[(gate * hidden + unit) * cache.gates_ld + at] = z[gate];
        dz[(gate * hidden + unit) * (long long)width + column] = z[gate];
    }
}

// Compute to (H, N) = keep (N,) times from (H, N). It serves for the initial h before the loop, and for dL/dh at the
// initial state after it.
extern "C" __global__ void keep_rows(const REAL* from, REAL* to, const REAL* keep, long long from_ld, long long to_ld,
                                     int has_keep, int hidden, int n) {
    const int unit = thread() / n, column = thread() % n;
    if (unit >= hidden) return;
    to[unit * to_ld + column] = from[unit * from_ld + column] * (has_keep ? keep[column] : 1);
}

// Compute step t of one layer. recurrent (4H, width) is W_hh h. next (H, width) = h times the keep of step t + 1 is the
// operand of the next product.
extern "C" __global__ void step_forward(REAL* gates, REAL* h, REAL* c, const REAL* recurrent, REAL* next,
                                        const REAL* keep, long long gates_ld, long long h_ld, long long c_ld,
                                        int has_keep, int t, int steps, int hidden, int n, int width) {
    const int unit = thread() / n, column = thread() % n;
    if (unit >= hidden) return;
    const long long at = (long long)t * n + column;
    REAL z[4];
    for (int gate = 0; gate < 4; gate++) {
        const long long row = gate * hidden + unit;
        z[gate] = gates[row * gates_ld + at] + recurrent[row * width + column];
    }
    const REAL h_new = forward({gates, h, c, gates_ld, h_ld, c_ld}, z, hidden, unit, at, n, has_keep ? keep[at] : 1);
    next[unit * (long long)width + column] = h_new * (has_keep && t + 1 < steps ? keep[at + n] : 1);
}

// Compute step t of one layer backwards. dh (H, N), with rows dh_ld apart, is W_hh^T dz of step t + 1, or at the last
// step the gradient at the last state.
extern "C" __global__ void step_backward(REAL* gates, REAL* c, const REAL* dy, const REAL* dh, REAL* dc, REAL* dz,
                                         const REAL* keep, long long gates_ld, long long c_ld, long long dy_ld,
                                         long long dh_ld, int has_keep, int t, int steps, int hidden, int n,
                                         int width) {
    const int unit = thread() / n, column = thread() % n;
    if (unit >= hidden) return;
    const long long at = (long long)t * n + column;
    const REAL later = dh[unit * dh_ld + column] * (has_keep && t + 1 < steps ? keep[at + n] : 1);
    backward({gates, nullptr, c, gates_ld, 0, c_ld}, dz, later + dy[unit * dy_ld + at], dc[unit * n + column], hidden,
             unit, at, n, column, width, has_keep ? keep[at] : 1);
}

// Write the first operands of a stack. Operand 2k, for W_hh of layer k, is the layer's initial h. Operand 2k - 1, for
// W_ih of layer k, is written by the layer below.
extern "C" __global__ void stack_begin(const Layer* layers, REAL* operands, const REAL* keep, int has_keep, int hidden,
                                       int n, int width) {
    const int unit = thread() / n, column = thread() % n, k = blockIdx.y;
    if (unit >= hidden) return;
    const REAL h = layers[k].cache.h[unit * layers[k].cache.h_ld + column];
    operands[(2LL * k * hidden + unit) * width + column] = h * (has_keep ? keep[column] : 1);
}

// Compute all steps (k, t) with k + t = diagonal, from layer `lowest` up. results (2L - 1, 4H, width) are the
// products of the operands. Each step writes two operands of the next diagonal: one for its own layer, one for the
// layer above.
extern "C" __global__ void diagonal_forward(const Layer* layers, const REAL* results, REAL* operands, const REAL* keep,
                                            int has_keep, int diagonal, int lowest, int count, int steps, int hidden,
                                            int n, int width) {
    const int unit = thread() / n, column = thread() % n, k = lowest + blockIdx.y, t = diagonal - k;
    if (unit >= hidden) return;
    const Layer& layer = layers[k];
    const long long at = (long long)t * n + column, place = unit * (long long)width + column;
    const long long size = (long long)hidden * width;
    REAL z[4];
    for (int gate = 0; gate < 4; gate++) {
        const long long row = gate * hidden + unit, own = (8LL * k + gate) * size + place;
        const REAL below = k ? results[own - 4 * size] + layer.bias[row]
                             : layer.cache.gates[row * layer.cache.gates_ld + at];
        z[gate] = below + results[own];
    }
    const REAL h = forward(layer.cache, z, hidden, unit, at, n, has_keep ? keep[at] : 1);
    operands[2 * k * size + place] = h * (has_keep && t + 1 < steps ? keep[at + n] : 1);
    const REAL y = layer.mask ? h * layer.mask[unit * layer.mask_ld + t * layer.mask_step + column] : h;
    if (layer.mask) layer.dropped[unit * layer.dropped_ld + at] = y;
    if (k + 1 < count) operands[(2 * k + 1) * size + place] = y;
}

// Compute all steps of a diagonal backwards. results (2L - 1, H, width) are W_hh^T dz (number 2k) and W_ih^T dz (number
// 2k - 1) of later diagonals. dz (L, 4H, width) is written.
extern "C" __global__ void diagonal_backward(const Layer* layers, const REAL* results, REAL* dz, const REAL* dy,
                                             const REAL* keep, long long dy_ld, int has_keep, int diagonal, int lowest,
                                             int count, int steps, int hidden, int n, int width) {
    const int unit = thread() / n, column = thread() % n, k = lowest + blockIdx.y, t = diagonal - k;
    if (unit >= hidden) return;
    const Layer& layer = layers[k];
    const long long at = (long long)t * n + column, place = unit * (long long)width + column;
    const long long size = (long long)hidden * width;
    const int state = unit * n + column;
    const bool last = t + 1 == steps;
    REAL above = k + 1 < count ? results[(2 * k + 1) * size + place] : dy[unit * dy_ld + at];
    if (layer.mask) above *= layer.mask[unit * layer.mask_ld + t * layer.mask_step + column];
    REAL dh = 0, dc = 0;
    if (!last) {
        dh = results[2 * k * size + place] * (has_keep ? keep[at + n] : 1);
        dc = layer.dc_first[state];
    } else if (layer.dh_last) {
        dh = layer.dh_last[state];
        dc = layer.dc_last[state];
    }
    backward(layer.cache, dz + 4 * k * size, dh + above, dc, hidden, unit, at, n, column, width,
             has_keep ? keep[at] : 1);
    layer.dc_first[state] = dc;
}

// Compute dL/dh at the initial state of every layer from W_hh^T dz of the first step.
extern "C" __global__ void stack_end(const Layer* layers, const REAL* results, const REAL* keep, int has_keep,
                                     int hidden, int n, int width) {
    const int unit = thread() / n, column = thread() % n, k = blockIdx.y;
    if (unit >= hidden) return;
    const REAL dh = results[(2LL * k * hidden + unit) * width + column];
    layers[k].dh_first[unit * n + column] = dh * (has_keep ? keep[column] : 1);
}
