// What the kernels of persistent.cu and tagged.cu share: which units and sequences a block, a warp and a thread have,
// and the product with W_hh, or its transpose, on tensor cores. The weights are in registers.
//
// A block of THREADS threads owns UNITS of the HIDDEN units, with all four gates of each, and works on chunks of
// COLUMNS sequences. The MEMBERS blocks of a group have all units together. Operands are 16-bit numbers: bf16 if BF16
// is 1, else fp16. Sums are float.

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

    // Compute d = a b. b is a row of tiles (16, 8), TILES of them for each 16 summands. tiles(k) is this thread's share
    // of tile k. It is called once for each tile, in order.
    template <typename Tiles>
    __device__ __forceinline__ void run(Tiles&& tiles) {
#pragma unroll
        for (int at = 0; at < CHAINS * ROWS * TILES * 4; at++) (&d[0][0][0][0])[at] = 0;
#pragma unroll
        for (int k = 0; k < DEPTH; k++)
#pragma unroll
            for (int tile = 0; tile < TILES; tile++) {
                const uint2 both = tiles(k * TILES + tile);
                const unsigned pair[2] = {both.x, both.y};
#pragma unroll
                for (int row = 0; row < ROWS; row++) mma(d[k % CHAINS][row][tile], a[row][k], pair);
            }
    }

    __device__ __forceinline__ float sum(int row, int tile, int k) const {
        return CHAINS == 1 ? d[0][row][tile][k] : d[0][row][tile][k] + d[CHAINS - 1][row][tile][k];
    }
};

// Return the index of a summand of a column in a matrix of b's tiles.
__device__ __forceinline__ int place(int summand, int tile, int column) {
    return ((summand / 16 * TILES + tile) * 8 + column) * 16 + summand % 16;
}

// The tiles of b in memory, in order. CACHED: they may be read through the first-level cache, which may hold old
// values.
template <bool CACHED>
struct InMemory {
    const uint2* tiles;
    __device__ __forceinline__ uint2 operator()(int k) const {
        const uint2* at = tiles + k * 32 + threadIdx.x % 32;
        return CACHED ? *at : __ldcg(at);
    }
};

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
