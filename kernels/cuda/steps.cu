// The LSTM cell around a matrix product a time step: a thread is one unit of one layer in one sequence.
//
// REAL is float or double; gates.cuh stands in front of this text. Arrays are those of rnncore/nn/lstm.py, (rows, T, N),
// rows ld apart; operands and results of the products are matrices of their own, rows `width` apart. keep (T, N) counts
// where documents is not 0. `at` is where (t, column) lies in a row; c and h begin one step earlier.

struct Cache {  // lstm.Cache
    REAL *gates, *h, *c;
    long long gates_ld, h_ld, c_ld;
};

struct Layer {  // of a stack, in words of eight bytes as wavefront.py writes them; a pointer that is not needed is 0
    Cache cache;
    const REAL *bias, *mask;          // mask (H, T, N), or (H, 1, N): then mask_step is 0, else N
    REAL* dropped;                    // (H, T, N): what the layer hands on, where there are masks
    long long mask_ld, mask_step, dropped_ld;
    const REAL *dh_last, *dc_last;    // (H, N): the gradient at the last state, 0 where there is none
    REAL *dh_first, *dc_first;        // (H, N): that at the initial state; dc_first is dc on the way there
};

__device__ inline int thread() { return blockIdx.x * blockDim.x + threadIdx.x; }

// z arrives as the sums of one unit's gates; its activations, c and h are written. Returns h.
__device__ inline REAL forward(const Cache& cache, REAL z[4], int hidden, int unit, long long at, int n, REAL keep) {
    REAL *c = cache.c + unit * cache.c_ld + at, *h = cache.h + unit * cache.h_ld + at, h_new;
    gates_forward(z[0], z[1], z[2], z[3], c[0], keep, c[n], h_new);
    for (int gate = 0; gate < 4; gate++) cache.gates[(gate * hidden + unit) * cache.gates_ld + at] = z[gate];
    return h[n] = h_new;
}

// The activations of one unit become dL/dz, in the cache and in dz (4H, width); dc leaves as that of the step before.
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

// to (H, N) = keep (N,) from (H, N): the initial h before the loop, dL/dh at the initial state after it.
extern "C" __global__ void keep_rows(const REAL* from, REAL* to, const REAL* keep, long long from_ld, long long to_ld,
                                     int documents, int hidden, int n) {
    const int unit = thread() / n, column = thread() % n;
    if (unit >= hidden) return;
    to[unit * to_ld + column] = from[unit * from_ld + column] * (documents ? keep[column] : 1);
}

// Step t of one layer: recurrent (4H, width) is W_hh h; next (H, width) leaves as the h that step t + 1 multiplies.
extern "C" __global__ void step_forward(REAL* gates, REAL* h, REAL* c, const REAL* recurrent, REAL* next,
                                        const REAL* keep, long long gates_ld, long long h_ld, long long c_ld,
                                        int documents, int t, int steps, int hidden, int n, int width) {
    const int unit = thread() / n, column = thread() % n;
    if (unit >= hidden) return;
    const long long at = (long long)t * n + column;
    REAL z[4];
    for (int gate = 0; gate < 4; gate++) {
        const long long row = gate * hidden + unit;
        z[gate] = gates[row * gates_ld + at] + recurrent[row * width + column];
    }
    const REAL h_new = forward({gates, h, c, gates_ld, h_ld, c_ld}, z, hidden, unit, at, n, documents ? keep[at] : 1);
    next[unit * (long long)width + column] = h_new * (documents && t + 1 < steps ? keep[at + n] : 1);
}

// Step t of one layer backwards: dh (H, N), rows dh_ld apart, comes from step t + 1: W_hh^T dz, but for the last step.
extern "C" __global__ void step_backward(REAL* gates, REAL* c, const REAL* dy, const REAL* dh, REAL* dc, REAL* dz,
                                         const REAL* keep, long long gates_ld, long long c_ld, long long dy_ld,
                                         long long dh_ld, int documents, int t, int steps, int hidden, int n,
                                         int width) {
    const int unit = thread() / n, column = thread() % n;
    if (unit >= hidden) return;
    const long long at = (long long)t * n + column;
    const REAL later = dh[unit * dh_ld + column] * (documents && t + 1 < steps ? keep[at + n] : 1);
    backward({gates, nullptr, c, gates_ld, 0, c_ld}, dz, later + dy[unit * dy_ld + at], dc[unit * n + column], hidden,
             unit, at, n, column, width, documents ? keep[at] : 1);
}

// Of a stack: operand 2k, of the products with W_hh of layer k, is its initial h; operand 2k - 1 is for its W_ih.
extern "C" __global__ void stack_begin(const Layer* layers, REAL* operands, const REAL* keep, int documents, int hidden,
                                       int n, int width) {
    const int unit = thread() / n, column = thread() % n, k = blockIdx.y;
    if (unit >= hidden) return;
    const REAL h = layers[k].cache.h[unit * layers[k].cache.h_ld + column];
    operands[(2LL * k * hidden + unit) * width + column] = h * (documents ? keep[column] : 1);
}

// All steps (k, t) with k + t = diagonal, from layer `lowest` up: results (2L - 1, 4H, width) are the products.
extern "C" __global__ void diagonal_forward(const Layer* layers, const REAL* results, REAL* operands, const REAL* keep,
                                            int documents, int diagonal, int lowest, int count, int steps, int hidden,
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
    const REAL h = forward(layer.cache, z, hidden, unit, at, n, documents ? keep[at] : 1);
    operands[2 * k * size + place] = h * (documents && t + 1 < steps ? keep[at + n] : 1);
    const REAL y = layer.mask ? h * layer.mask[unit * layer.mask_ld + t * layer.mask_step + column] : h;
    if (layer.mask) layer.dropped[unit * layer.dropped_ld + at] = y;
    if (k + 1 < count) operands[(2 * k + 1) * size + place] = y;
}

// The same backwards: results (2L - 1, H, width) are W_hh^T dz (2k) and W_ih^T dz (2k - 1), dz (L, 4H, width) is made.
extern "C" __global__ void diagonal_backward(const Layer* layers, const REAL* results, REAL* dz, const REAL* dy,
                                             const REAL* keep, long long dy_ld, int documents, int diagonal, int lowest,
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
        dh = results[2 * k * size + place] * (documents ? keep[at + n] : 1);
        dc = layer.dc_first[state];
    } else if (layer.dh_last) {
        dh = layer.dh_last[state];
        dc = layer.dc_last[state];
    }
    backward(layer.cache, dz + 4 * k * size, dh + above, dc, hidden, unit, at, n, column, width,
             documents ? keep[at] : 1);
    layer.dc_first[state] = dc;
}

// dL/dh at the initial state of every layer, from W_hh^T dz of the first step.
extern "C" __global__ void stack_end(const Layer* layers, const REAL* results, const REAL* keep, int documents,
                                     int hidden, int n, int width) {
    const int unit = thread() / n, column = thread() % n, k = blockIdx.y;
    if (unit >= hidden) return;
    const REAL dh = results[(2LL * k * hidden + unit) * width + column];
    layers[k].dh_first[unit * n + column] = dh * (documents ? keep[column] : 1);
}
