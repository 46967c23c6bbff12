// The kernels of the path persistent: the whole time loop of one LSTM layer in one launch, forward and backward. W_hh
// stays in registers for all steps.
//
// A block of 256 threads owns UNITS of the HIDDEN units, with all four gates of each. The HIDDEN / UNITS blocks of a
// group (x of the grid) work together on chunks of COLUMNS sequences, and wait only for each other. The groups are y
// of the grid; each takes every gridDim.y-th chunk. Each step sends its results (h forward, dz backward) to all
// blocks of the group through `exchange` in global memory, as 16-bit numbers: bf16 if BF16 is 1, else fp16. Sums are
// float. A block that is a group of its own keeps its results in shared memory, and has one chunk. ptx.cuh, tanh_of and
// gates.cuh come before this text.
//
// The order of reads and writes between blocks:
// - All threads of a block write the values of a step. After a __syncthreads one thread publishes the number of the
//   step with store_release. This covers the writes of the other threads too: the thread sees them after the barrier.
// - The lanes of a warp load_acquire the numbers of all blocks that the warp reads from. After a __syncwarp they load
//   the values, past the first-level cache, which may hold old ones.
// - There are two slots for values, used in turn. A block writes to a slot only after a __syncthreads that its warps
//   reach after their waits for the previous step. Together the warps wait for all blocks. So by then each block has
//   published the previous step, and it did so after its last read of the slot that is written now.

constexpr int THREADS = 256, WARPS = THREADS / 32, MEMBERS = HIDDEN / UNITS, TILES = COLUMNS / 8;
constexpr int CELLS = (UNITS * COLUMNS + THREADS - 1) / THREADS;  // cells (unit, sequence) of each thread
constexpr int BATCH = HIDDEN > 128 ? 4 : 2;  // tiles of weights that are loaded at a time; with more, registers spill

// In the forward loop a warp has one of ROW_GROUPS parts of the gates' rows, and one of SLICES parts of the sums.
constexpr int ROW_GROUPS = UNITS >= 64 ? 8 : UNITS == 32 ? 4 : HIDDEN % 128 ? 2 : 1, SLICES = WARPS / ROW_GROUPS;
constexpr bool STAGED = MEMBERS > 1 && ROW_GROUPS > 1;  // several warps read the same h: copy it to shared memory

static_assert(HIDDEN % UNITS == 0 && UNITS % 16 == 0 && HIDDEN % (16 * SLICES) == 0 && COLUMNS % 8 == 0, "geometry");

__device__ __forceinline__ unsigned short to_16(float x) { return BF16 ? to_bf16(x) : to_f16(x); }
__device__ __forceinline__ unsigned pack_16(float low, float high) {
    return BF16 ? pack_bf16(low, high) : pack_f16(low, high);
}

__device__ __forceinline__ void mma(float* d, const unsigned* a, const unsigned* b) {
#if BF16
    mma_bf16_k16(d, a, b);
#elif __CUDA_ARCH__ >= 800
    mma_f16_k16(d, a, b);
#else
    mma_f16_k8(d, a, b);
    mma_f16_k8(d, a + 2, b + 1);
#endif
}

// The product of one warp: ROWS tiles of 16 rows and DEPTH tiles of 16 summands. The summands of a tile are permuted:
// summand 4 q + s is number 2 q + s of mma if s < 2, else number 2 q + s + 6. So the share of a thread in a tile of b
// (16, 8) is 8 neighbouring bytes.
template <int ROWS, int DEPTH>
struct Product {
    static constexpr int CHAINS = ROWS * TILES >= 4 || DEPTH % 2 ? 1 : 2;  // in turn: no mma waits for the one before
    unsigned a[ROWS][DEPTH][4];
    float d[CHAINS][ROWS][TILES][4];

    // Compute d = a b. b is a row of tiles (16, 8), TILES of them for each 16 summands.
    template <bool CACHED>
    __device__ __forceinline__ void run(const uint2* b) {
#pragma unroll
        for (int at = 0; at < CHAINS * ROWS * TILES * 4; at++) (&d[0][0][0][0])[at] = 0;
#pragma unroll
        for (int k = 0; k < DEPTH; k++)
#pragma unroll
            for (int tile = 0; tile < TILES; tile++) {
                const uint2* at = b + (k * TILES + tile) * 32 + threadIdx.x % 32;
                const uint2 both = CACHED ? *at : __ldcg(at);
                const unsigned pair[2] = {both.x, both.y};
#pragma unroll
                for (int row = 0; row < ROWS; row++) mma(d[k % CHAINS][row][tile], a[row][k], pair);
            }
    }

    __device__ __forceinline__ float sum(int row, int tile, int k) const {
        return CHAINS == 1 ? d[0][row][tile][k] : d[0][row][tile][k] + d[CHAINS - 1][row][tile][k];
    }
};

// Wait with this warp until the blocks of the units first to last have published `step`.
__device__ __forceinline__ void wait(const unsigned* flags, int first, int last, unsigned step) {
    for (int member = first / UNITS + threadIdx.x % 32; member <= last / UNITS; member += 32) {
#ifdef DEBUG_SPINS
        int spins = 0;
#endif
        while (load_acquire(flags + member) < step) {
#ifdef DEBUG_SPINS
            if (++spins > DEBUG_SPINS) __trap();
#endif
        }
    }
    __syncwarp();
}

// Publish that this block has written the values of a step.
__device__ __forceinline__ void publish(unsigned* flags, unsigned step) {
    __syncthreads();
    if (MEMBERS > 1 && threadIdx.x == 0) store_release(flags + blockIdx.x, step);
}

// Return the index of a summand of a column in a matrix of b's tiles.
__device__ __forceinline__ int place(int summand, int tile, int column) {
    return ((summand / 16 * TILES + tile) * 8 + column) * 16 + summand % 16;
}

struct Cell { int unit, tile, column; };  // the unit is counted within the block, the column within the tile

__device__ __forceinline__ Cell cell_of(int k) {
    const int at = (int)threadIdx.x + k * THREADS;
    return {at / 8 % UNITS, at / 8 / UNITS, at % 8};
}

typedef Product<UNITS / 4 / ROW_GROUPS, HIDDEN / 16 / SLICES> Forward;

// Load the block's weights for the forward product. Two tiles of rows are 8 units: gates i and f, then gates g and o.
// So the sums of a thread are all four gates of one unit.
__device__ __forceinline__ void take_weights(Forward& product, const float* w) {
    const int warp = threadIdx.x / 32, row = threadIdx.x % 32 / 4, quarter = threadIdx.x % 4;
    constexpr int rows = UNITS / 4 / ROW_GROUPS, depth = HIDDEN / 16 / SLICES;
    const int unit = blockIdx.x * UNITS + warp % ROW_GROUPS * (rows / 2 * 8) + row;
    const float* own = w + (size_t)unit * HIDDEN + warp / ROW_GROUPS * (depth * 16) + quarter * 4;
#pragma unroll
    for (int r = 0; r < rows; r++)
#pragma unroll
        for (int k = 0; k < depth; k++) {
            if (k % BATCH == 0) __syncwarp();
#pragma unroll
            for (int part = 0; part < 4; part++) {
                const int gate = r % 2 * 2 + part % 2;
                const float* at = own + (gate * HIDDEN + r / 2 * 8) * HIDDEN + k * 16 + part / 2 * 2;
                product.a[r][k][part] = pack_16(at[0], at[1]);
            }
        }
}

// Return cell k of this thread in the forward loop. If SLICES is 1, it is a cell whose whole sums mma leaves in this
// thread.
__device__ __forceinline__ Cell forward_cell(int k) {
    if (SLICES > 1) return cell_of(k);
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, pairs = UNITS / 8 / ROW_GROUPS;
    return {(warp * pairs + k / 2 / TILES) * 8 + lane / 4, k / 2 % TILES, lane % 4 * 2 + k % 2};
}

// Add the products of the four gates to z, for every cell of this thread. shared: a buffer for the parts of SLICES
// warps.
__device__ __forceinline__ void add_sums(const Forward& product, float (*z)[4], float* shared) {
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    const int rows = UNITS / 4 / ROW_GROUPS;
    if constexpr (SLICES == 1) {
#pragma unroll
        for (int k = 0; k < CELLS; k++)
#pragma unroll
            for (int gate = 0; gate < 4; gate++)
                z[k][gate] += product.sum(k / 2 / TILES * 2 + gate / 2, k / 2 % TILES, gate % 2 * 2 + k % 2);
    } else {
#pragma unroll
        for (int r = 0; r < rows; r++)
#pragma unroll
            for (int tile = 0; tile < TILES; tile++)
#pragma unroll
                for (int half = 0; half < 2; half++) {
                    const int gate = r % 2 * 2 + half, unit = (warp % ROW_GROUPS * rows + r) / 2 * 8 + lane / 4;
                    const int slice = warp / ROW_GROUPS, at = ((slice * TILES + tile) * 4 + gate) * UNITS + unit;
                    *(float2*)(shared + at * 8 + lane % 4 * 2) =
                        make_float2(product.sum(r, tile, half * 2), product.sum(r, tile, half * 2 + 1));
                }
        __syncthreads();
#pragma unroll
        for (int k = 0; k < CELLS; k++) {
            const Cell cell = forward_cell(k);
            if (cell.tile >= TILES) continue;
#pragma unroll 2
            for (int slice = 0; slice < SLICES; slice++)
#pragma unroll
                for (int gate = 0; gate < 4; gate++)
                    z[k][gate] += shared[(((slice * TILES + cell.tile) * 4 + gate) * UNITS + cell.unit) * 8
                                         + cell.column];
        }
    }
}

// Run the layer. gates (4H, T, N) arrives as W_ih x + b and leaves as the activations. h and c (H, T+1, N) are written
// from slot 1 on; slot 0 is the initial state. keep is (T, N) or null. *_ld: the distance of the rows of an array.
// exchange: for each chunk two slots of HIDDEN by COLUMNS 16-bit numbers. flags: MEMBERS for each chunk, 0 before the
// launch. Dynamic shared memory: one float for each cell of all chunks of a group. Step -1 only sends the initial h.
extern "C" __global__ void __launch_bounds__(THREADS, 1) persistent_forward(
    const float* w, float* gates, unsigned gates_ld, float* h, unsigned h_ld, float* c, unsigned c_ld,
    const float* keep, unsigned short* exchange, unsigned* flags, int steps, int n, int chunks) {
    constexpr int SLOT = HIDDEN * COLUMNS;
    extern __shared__ float state[];  // c
    __shared__ __align__(16) float parts[SLICES > 1 ? SLICES * TILES * 4 * UNITS * 8 : 4];
    __shared__ __align__(16) unsigned short copy[MEMBERS == 1 ? 2 * SLOT : STAGED ? SLOT : 8];
    const int member = blockIdx.x, slice = threadIdx.x / 32 / ROW_GROUPS;
    Forward product;
    take_weights(product, w);
    for (int t = -1; t < steps; t++)
        for (int chunk = blockIdx.y, own = 0; chunk < chunks; chunk += gridDim.y, own++) {
            float z[CELLS][4], c_now[CELLS], h_now[CELLS], keep_now[CELLS], keep_next[CELLS];
            const unsigned first = t * n;
#pragma unroll
            for (int k = 0; k < CELLS; k++) {
                const Cell cell = forward_cell(k);
                const int unit = member * UNITS + cell.unit, column = chunk * COLUMNS + cell.tile * 8 + cell.column;
                const bool here = cell.tile < TILES && column < n;
                c_now[k] = h_now[k] = 0;
#pragma unroll
                for (int gate = 0; gate < 4; gate++)
                    z[k][gate] = here && t >= 0 ? gates[(gate * HIDDEN + unit) * gates_ld + first + column] : 0;
                keep_now[k] = here && keep && t >= 0 ? keep[first + column] : 1;
                keep_next[k] = here && keep && t + 1 < steps ? keep[first + n + column] : 1;
                if (here && t < 0) c_now[k] = c[unit * c_ld + column], h_now[k] = h[unit * h_ld + column];
            }
            unsigned short* slots = exchange + (size_t)chunk * 2 * SLOT;
            unsigned* published = flags + chunk * MEMBERS;
            if (t >= 0) {
                const unsigned short* from = MEMBERS == 1 ? copy + t % 2 * SLOT : slots + t % 2 * SLOT;
                if (STAGED) {
                    wait(published, 0, HIDDEN - 1, t + 1);
#pragma unroll
                    for (int at = threadIdx.x; at < SLOT / 8; at += THREADS)
                        ((uint4*)copy)[at] = __ldcg((const uint4*)from + at);
                    __syncthreads();
                    from = copy;
                } else if (MEMBERS > 1) {
                    wait(published, slice * (HIDDEN / SLICES), (slice + 1) * (HIDDEN / SLICES) - 1, t + 1);
                }
                product.run<STAGED || MEMBERS == 1>((const uint2*)from + slice * (HIDDEN / SLICES) * COLUMNS / 4);
                add_sums(product, z, parts);
            }
#pragma unroll
            for (int k = 0; k < CELLS; k++) {
                const Cell cell = forward_cell(k);
                const int column = chunk * COLUMNS + cell.tile * 8 + cell.column;
                if (cell.tile >= TILES || column >= n) continue;
                float& c_kept = state[(own * CELLS + k) * THREADS + threadIdx.x];
                if (t >= 0)
                    gates_forward(z[k][0], z[k][1], z[k][2], z[k][3], c_kept, keep_now[k], c_now[k], h_now[k]);
                c_kept = c_now[k];
                unsigned short* to = (MEMBERS == 1 ? copy : slots) + (t + 1) % 2 * SLOT;
                to[place(member * UNITS + cell.unit, cell.tile, cell.column)] = to_16(h_now[k] * keep_next[k]);
            }
            publish(published, t + 2);
#pragma unroll
            for (int k = 0; k < CELLS; k++) {  // after publish: no block waits for these
                const Cell cell = forward_cell(k);
                const int unit = member * UNITS + cell.unit, column = chunk * COLUMNS + cell.tile * 8 + cell.column;
                if (t < 0 || cell.tile >= TILES || column >= n) continue;
#pragma unroll
                for (int gate = 0; gate < 4; gate++)
                    gates[(gate * HIDDEN + unit) * gates_ld + first + column] = z[k][gate];
                h[unit * h_ld + first + n + column] = h_now[k];
                c[unit * c_ld + first + n + column] = c_now[k];
            }
        }
}

typedef Product<UNITS / 16, HIDDEN / 32> Backward;

// Load the block's weights for the backward product with W_hh^T. Its rows are the block's units. The summands of a warp
// are the gates of HIDDEN / 8 units, the four gates of a unit together.
__device__ __forceinline__ void take_transposed(Backward& product, const float* w) {
    const int warp = threadIdx.x / 32, row = threadIdx.x % 32 / 4, quarter = threadIdx.x % 4;
    const float* own = w + (size_t)(warp * (HIDDEN / 8) + quarter) * HIDDEN + blockIdx.x * UNITS + row;
#pragma unroll
    for (int r = 0; r < UNITS / 16; r++)
#pragma unroll
        for (int k = 0; k < HIDDEN / 32; k++) {
            if (k % BATCH == 0) __syncwarp();
#pragma unroll
            for (int part = 0; part < 4; part++) {
                const int gate = part / 2 * 2;
                const float* at = own + (gate * HIDDEN + k * 4) * HIDDEN + r * 16 + part % 2 * 8;
                product.a[r][k][part] = pack_16(at[0], at[HIDDEN * HIDDEN]);
            }
        }
}

// Set dh to the sums of all warps' parts, for every cell of this thread.
__device__ __forceinline__ void take_sums(const Backward& product, float* dh, float* shared) {
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
#pragma unroll
    for (int r = 0; r < UNITS / 16; r++)
#pragma unroll
        for (int tile = 0; tile < TILES; tile++)
#pragma unroll
            for (int half = 0; half < 2; half++) {
                const int at = (warp * TILES + tile) * UNITS + r * 16 + half * 8 + lane / 4;
                *(float2*)(shared + at * 8 + lane % 4 * 2) =
                    make_float2(product.sum(r, tile, half * 2), product.sum(r, tile, half * 2 + 1));
            }
    __syncthreads();
#pragma unroll
    for (int k = 0; k < CELLS; k++) {
        const Cell cell = cell_of(k);
        dh[k] = 0;
        if (cell.tile >= TILES) continue;
#pragma unroll
        for (int from = 0; from < WARPS; from++)
            dh[k] += shared[((from * TILES + cell.tile) * UNITS + cell.unit) * 8 + cell.column];
    }
}

// Run the layer backwards. gates (4H, T, N) arrives as the activations and leaves as dL/dz. c (H, T+1, N) and dy (H,
// T, N) are read. dh and dc (H, N) arrive as the gradient at the last state and leave as the gradient at the initial
// state. exchange has slots of 4 HIDDEN by COLUMNS numbers. Step -1 only computes the gradient at the initial state.
extern "C" __global__ void __launch_bounds__(THREADS, 1) persistent_backward(
    const float* w, float* gates, unsigned gates_ld, const float* c, unsigned c_ld, const float* keep, const float* dy,
    unsigned dy_ld, float* dh, float* dc, unsigned short* exchange, unsigned* flags, int steps, int n, int chunks) {
    constexpr int SLOT = 4 * HIDDEN * COLUMNS, SHARE = HIDDEN / WARPS;  // units over which a warp sums
    extern __shared__ float state[];  // dc
    __shared__ __align__(16) float parts[WARPS * UNITS * COLUMNS];
    __shared__ __align__(16) unsigned short alone[MEMBERS == 1 ? SLOT : 8];
    const int member = blockIdx.x, warp = threadIdx.x / 32;
    Backward product;
    take_transposed(product, w);
    for (int t = steps - 1; t >= -1; t--)
        for (int chunk = blockIdx.y, own = 0; chunk < chunks; chunk += gridDim.y, own++) {
            float z[CELLS][4], through[CELLS], carry[CELLS], above[CELLS], dh_now[CELLS], keep_next[CELLS];
            const unsigned first = t * n;
#pragma unroll
            for (int k = 0; k < CELLS; k++) {
                const Cell cell = cell_of(k);
                const int unit = member * UNITS + cell.unit, column = chunk * COLUMNS + cell.tile * 8 + cell.column;
                if (cell.tile >= TILES || column >= n) continue;
                keep_next[k] = keep && t + 1 < steps ? keep[first + n + column] : 1;
                if (t < 0) continue;
#pragma unroll
                for (int gate = 0; gate < 4; gate++)
                    z[k][gate] = gates[(gate * HIDDEN + unit) * gates_ld + first + column];
                const float* c_prev = c + unit * c_ld + first + column;
                above[k] = dy[unit * dy_ld + first + column];
                gates_factors(z[k][0], z[k][1], z[k][2], z[k][3], c_prev[0], c_prev[n],
                              keep ? keep[first + column] : 1.f, through[k], carry[k]);
            }
            unsigned short* slots = exchange + (size_t)chunk * 2 * SLOT;
            unsigned* published = flags + chunk * MEMBERS;
            const unsigned done = steps - 1 - t;  // the number of steps that are published already
            if (done) {
                if (MEMBERS > 1) wait(published, warp * SHARE, (warp + 1) * SHARE - 1, done);
                const unsigned short* from = MEMBERS == 1 ? alone : slots + (t + 1) % 2 * SLOT;
                product.run<MEMBERS == 1>((const uint2*)from + warp * SHARE * COLUMNS);
                take_sums(product, dh_now, parts);
            }
#pragma unroll
            for (int k = 0; k < CELLS; k++) {
                const Cell cell = cell_of(k);
                const int unit = member * UNITS + cell.unit, column = chunk * COLUMNS + cell.tile * 8 + cell.column;
                if (cell.tile >= TILES || column >= n) continue;
                float& dc_kept = state[(own * CELLS + k) * THREADS + threadIdx.x];
                if (!done) dc_kept = dc[unit * n + column], dh_now[k] = dh[unit * n + column];
                else dh_now[k] *= keep_next[k];
                if (t < 0) {
                    dc[unit * n + column] = dc_kept, dh[unit * n + column] = dh_now[k];
                    continue;
                }
                dh_now[k] += above[k];
                gates_backward(z[k][0], z[k][1], z[k][2], z[k][3], through[k], carry[k], dh_now[k], dc_kept);
                unsigned short* to = MEMBERS == 1 ? alone : slots + t % 2 * SLOT;
                *(uint2*)(to + place(4 * unit, cell.tile, cell.column)) =
                    make_uint2(pack_16(z[k][0], z[k][1]), pack_16(z[k][2], z[k][3]));
            }
            publish(published, done + 1);
#pragma unroll
            for (int k = 0; k < CELLS; k++) {  // after publish: no block waits for these
                const Cell cell = cell_of(k);
                const int unit = member * UNITS + cell.unit, column = chunk * COLUMNS + cell.tile * 8 + cell.column;
                if (t < 0 || cell.tile >= TILES || column >= n) continue;
#pragma unroll
                for (int gate = 0; gate < 4; gate++)
                    gates[(gate * HIDDEN + unit) * gates_ld + first + column] = z[k][gate];
            }
        }
}
