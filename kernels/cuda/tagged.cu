// The kernels of the path tagged: the time loops of persistent.cu with a shorter chain from one step to the next.
//
// - A number that is sent to other blocks has a tag, which says that it is new. A reader asks for the number itself
//   until it has this tag. That is one trip between blocks. In persistent.cu there are three: the number is written,
//   then a flag is published, then the number is read.
// - What a step reads besides the results of the step before is loaded before the product of the step before. In
//   backward all that depends on it alone is computed after the results were sent.
// - sigmoid and tanh are those of approximate.cuh.
//
// What the products outside the loops read is written in 16 bits: h after and before each step, and dz.
//
// A group has two blocks and more. Each number has two places, used in turn ("slots"). The tag is one bit: 1 in the
// first values of a slot, 0 in the second, 1 in the third, and so on. The slots are zero before the launch. So a reader
// tells the values that it waits for from those that were there before. It cannot meet later ones: a block writes to a
// slot after a __syncthreads that comes after its waits for all values of the step between; each other block has sent
// these after its own reads of the slot. No fence is needed, because what a block sends is computed from all the values
// that it has read.
//
// The bit costs no precision forward: h is o tanh(c), so it is between -1 and 1, and the highest bit of its exponent is
// 0. That bit is the tag, in every number. The initial h may be any number, so each block reads it from h. If h is NaN,
// it is stored as NaN, and the other units get a number between 1 and 2: the loss of that step is NaN, later ones may
// not be. Backward, the four gates of a unit are one word of 64 bits, written and read as a whole. Its tag is the
// lowest bit of the last number, gate o, which is rounded to one bit less.
//
// ptx.cuh, approximate.cuh, gates.cuh and fragments.cuh come before this text.

typedef unsigned long long Word;

// Return the tag of the values of a step, which are in slot step % 2.
__device__ __forceinline__ unsigned tag_of(int step) { return ~step >> 1 & 1; }

// Four neighbouring numbers. LOW and HIGH: the tags' bits in the first and in the last two. If LOW is 0, the four have
// one tag and are one word; else each has its own and is stored by itself.
template <unsigned LOW, unsigned HIGH>
struct Tagged {
    const unsigned short* numbers;
    unsigned tag;

    __device__ __forceinline__ uint2 load(int at) const {
        if constexpr (LOW != 0) return load_relaxed_4x16(numbers + at * 4);
        const Word word = load_relaxed((const Word*)numbers + at);
        return make_uint2((unsigned)word, (unsigned)(word >> 32));
    }

    // Return the numbers at `at` without their tag. found: what `load` has found there.
    __device__ __forceinline__ uint2 wait(int at, uint2 found) const {
        const unsigned low = tag ? LOW : 0, high = tag ? HIGH : 0;
#ifdef DEBUG_SPINS
        int spins = 0;
#endif
        while ((found.x & LOW) != low || (found.y & HIGH) != high) {
            found = load(at);
#ifdef DEBUG_SPINS
            if (++spins > DEBUG_SPINS) __trap();
#endif
        }
        return make_uint2(found.x & ~LOW, found.y & ~HIGH);
    }
};

typedef Tagged<0x40004000, 0x40004000> TaggedStates;
typedef Tagged<0, 0x10000> TaggedGradients;

// COUNT tiles of b that other blocks send, for Product::run. AHEAD of them are on their way at a time.
template <typename Numbers, int COUNT>
struct Arriving {
    static constexpr int AHEAD = COUNT < 16 ? COUNT : 16;  // two registers each
    Numbers numbers;
    uint2 found[AHEAD];

    __device__ __forceinline__ uint2 operator()(int k) {
        const int lane = threadIdx.x % 32;
        if (k == 0) {
#pragma unroll
            for (int j = 0; j < AHEAD; j++) found[j] = numbers.load(j * 32 + lane);
        }
        const uint2 here = numbers.wait(k * 32 + lane, found[k % AHEAD]);
        if (k + AHEAD < COUNT) found[k % AHEAD] = numbers.load((k + AHEAD) * 32 + lane);
        __syncwarp();
        return here;
    }
};

// Copy COUNT tiles of b that other blocks send to shared memory, with all threads of the block.
template <int COUNT>
__device__ __forceinline__ void copy_tiles(const TaggedStates& numbers, uint2* to) {
    constexpr int EACH = (COUNT * 32 + THREADS - 1) / THREADS;
    uint2 found[EACH];
#pragma unroll
    for (int j = 0; j < EACH; j++)
        if (const int at = threadIdx.x + j * THREADS; at < COUNT * 32) found[j] = numbers.load(at);
#pragma unroll
    for (int j = 0; j < EACH; j++)
        if (const int at = threadIdx.x + j * THREADS; at < COUNT * 32) to[at] = numbers.wait(at, found[j]);
    __syncthreads();
}

// The tiles of b of the first step: the initial h times keep, from the unit `first` and the column `column` on.
struct Initial {
    const float *h, *keep;
    unsigned ld;
    int first, column, n;

    __device__ __forceinline__ uint2 operator()(int k) const {
        const int lane = threadIdx.x % 32, at = column + k % TILES * 8 + lane / 4;
        uint2 four = make_uint2(0, 0);
        if (at < n) {
            const float* from = h + (size_t)(first + k / TILES * 16 + lane % 4 * 4) * ld + at;
            const float factor = keep ? keep[at] : 1;
            four.x = pack_16(from[0] * factor, from[ld] * factor);
            four.y = pack_16(from[2 * ld] * factor, from[3 * ld] * factor);
        }
        __syncwarp();
        return four;
    }
};

// A step of a chunk. A block takes its chunks in turn; `own` counts them.
struct Turn {
    int step, own;
    __device__ __forceinline__ int chunk() const { return blockIdx.y + own * gridDim.y; }
    __device__ __forceinline__ Turn next(int chunks) const {
        const bool last = chunk() + (int)gridDim.y >= chunks;
        return {step + last, last ? 0 : own + 1};
    }
};

// W_ih x of a step and a chunk, for every cell of this thread: column t n + column of a matrix, or if there are ids,
// the column of that id.
struct Inputs {
    float z[CELLS][4];

    __device__ __forceinline__ void load(const float* from, unsigned ld, const long long* ids, int t, int chunk,
                                         int steps, int n) {
#pragma unroll
        for (int k = 0; k < CELLS; k++) {
            const Cell cell = forward_cell(k);
            const int unit = blockIdx.x * UNITS + cell.unit, column = chunk * COLUMNS + cell.tile * 8 + cell.column;
            const bool here = cell.tile < TILES && column < n && t < steps;
            const unsigned at = here && ids ? (unsigned)ids[t * n + column] : t * n + column;
#pragma unroll
            for (int gate = 0; gate < 4; gate++) z[k][gate] = here ? from[(gate * HIDDEN + unit) * ld + at] : 0;
        }
    }
};

// Launches use the two halves of `exchange` in turn. `ended` counts the blocks that have ended: those of the first
// launch, then those of the second, then from 0 again. Return which half a launch uses, as the number of the chunks
// before it.
__device__ __forceinline__ int half_of(const unsigned* ended, int chunks) {
    return load_relaxed(ended) >= gridDim.x * gridDim.y ? chunks : 0;
}

// End this block: clear its share of the half that the next launch uses, and count the block.
__device__ __forceinline__ void finish(unsigned short* exchange, int half, unsigned* ended, int chunks) {
    const unsigned blocks = gridDim.x * gridDim.y, size = chunks * 2 * 4 * HIDDEN * COLUMNS;
    uint4* other = (uint4*)(exchange + (half ? 0 : size));
    for (unsigned at = (blockIdx.y * gridDim.x + blockIdx.x) * THREADS + threadIdx.x; at < size / 8;
         at += blocks * THREADS)
        other[at] = make_uint4(0, 0, 0, 0);
    if (threadIdx.x == 0) atomicInc(ended, 2 * blocks - 1);
}

// Run the layer; arguments as in persistent.cu, without its flags. W_ih x without the bias (4H) is the array `input`
// (4H, T, N), which may be gates, or if there are ids (T, N), the columns of `input` (4H, V) that they name. y (H, T,
// N) and before (H, T, N) are written in 16 bits: h after each step, and the h that W_hh multiplied in it. exchange:
// two halves, with two slots of 4 HIDDEN by COLUMNS 16-bit numbers for each chunk, of which this loop uses a quarter.
// It and `ended` are 0 before the first launch.
extern "C" __global__ void __launch_bounds__(THREADS, 1) tagged_forward(
    const float* w, const float* bias, const float* input, unsigned input_ld, const long long* ids, float* gates,
    unsigned gates_ld, float* h, unsigned h_ld, float* c, unsigned c_ld, const float* keep, unsigned short* y,
    unsigned short* before, unsigned operand_ld, unsigned short* exchange, unsigned* ended, int steps, int n,
    int chunks) {
    constexpr int SLOT = HIDDEN * COLUMNS, SHARE = HIDDEN / SLICES;  // units over which a warp sums
    extern __shared__ float state[];  // c
    __shared__ __align__(16) float parts[SLICES > 1 ? SLICES * TILES * 4 * UNITS * 8 : 4];
    __shared__ __align__(16) unsigned short copy[STAGED ? SLOT : 8];
    __shared__ float biases[4 * UNITS];
    __shared__ int half;
    const int first = threadIdx.x / 32 / ROW_GROUPS * SHARE;  // the first unit over which this warp sums
    Forward product;
    take_weights(product, w);
    for (int at = threadIdx.x; at < 4 * UNITS; at += THREADS)
        biases[at] = bias[at / UNITS * HIDDEN + blockIdx.x * UNITS + at % UNITS];
    if (threadIdx.x == 0) half = half_of(ended, chunks);
    __syncthreads();
    Inputs now, after;
    now.load(input, input_ld, ids, 0, blockIdx.y, steps, n);
    for (Turn turn = {0, 0}; turn.step < steps; turn = turn.next(chunks)) {
        const int t = turn.step, chunk = turn.chunk(), own = turn.own;
        const Turn next = turn.next(chunks);
        after.load(input, input_ld, ids, next.step, next.chunk(), steps, n);
        float keep_now[CELLS], keep_next[CELLS];
#pragma unroll
        for (int k = 0; k < CELLS; k++) {
            const Cell cell = forward_cell(k);
            const int column = chunk * COLUMNS + cell.tile * 8 + cell.column;
            const bool here = keep && cell.tile < TILES && column < n;
            keep_now[k] = here ? keep[t * n + column] : 1;
            keep_next[k] = here && t + 1 < steps ? keep[(t + 1) * n + column] : 1;
        }
        unsigned short* slots = exchange + (size_t)(half + chunk) * 8 * HIDDEN * COLUMNS;
        if (t == 0) product.run(Initial{h, keep, h_ld, first, chunk * COLUMNS, n});
        else {
            const unsigned short* from = slots + (t - 1) % 2 * SLOT;
            if constexpr (STAGED) {
                copy_tiles<SLOT / 128>({from, tag_of(t - 1)}, (uint2*)copy);
                product.run(InMemory<true>{(const uint2*)(copy + first * COLUMNS)});
            } else
                product.run(Arriving<TaggedStates, SHARE / 16 * TILES>{{from + first * COLUMNS, tag_of(t - 1)}});
        }
        add_sums(product, now.z, parts);
        float c_now[CELLS], h_now[CELLS];
#pragma unroll
        for (int k = 0; k < CELLS; k++) {
            const Cell cell = forward_cell(k);
            const int unit = blockIdx.x * UNITS + cell.unit, column = chunk * COLUMNS + cell.tile * 8 + cell.column;
            if (cell.tile >= TILES) continue;
            float& c_kept = state[(own * CELLS + k) * THREADS + threadIdx.x];
            const float c_prev = t ? c_kept : column < n ? c[unit * c_ld + column] : 0;
            float* z = now.z[k];
#pragma unroll
            for (int gate = 0; gate < 4; gate++) z[gate] += biases[gate * UNITS + cell.unit];
            gates_forward(z[0], z[1], z[2], z[3], c_prev, keep_now[k], c_now[k], h_now[k]);
            c_kept = c_now[k];
            const unsigned value = to_16(h_now[k] * keep_next[k]) & 0xBFFF;
            store_relaxed(slots + t % 2 * SLOT + place(unit, cell.tile, cell.column),
                          (unsigned short)(value | tag_of(t) << 14));
        }
        __syncthreads();  // before `parts` is written again, where no copy of h with its barrier comes before that
#pragma unroll
        for (int k = 0; k < CELLS; k++) {  // no block waits for these
            const Cell cell = forward_cell(k);
            const int unit = blockIdx.x * UNITS + cell.unit, column = chunk * COLUMNS + cell.tile * 8 + cell.column;
            if (cell.tile >= TILES || column >= n) continue;
#pragma unroll
            for (int gate = 0; gate < 4; gate++)
                gates[(gate * HIDDEN + unit) * gates_ld + t * n + column] = now.z[k][gate];
            h[unit * h_ld + (t + 1) * n + column] = h_now[k];
            c[unit * c_ld + (t + 1) * n + column] = c_now[k];
            const unsigned at = unit * operand_ld + t * n + column;
            y[at] = to_16(h_now[k]);
            if (t == 0) before[at] = to_16(h[unit * h_ld + column] * keep_now[k]);
            if (t + 1 < steps) before[at + n] = to_16(h_now[k] * keep_next[k]);
        }
        now = after;
    }
    finish(exchange, half, ended, chunks);
}

// What a step of the backward loop reads, for every cell of this thread.
struct Activations {
    float gates[CELLS][4], c_prev[CELLS], c[CELLS], dy[CELLS], keep[CELLS];

    __device__ __forceinline__ void load(const float* from, unsigned ld, const float* cells, unsigned cells_ld,
                                         const float* keeps, const float* above, unsigned above_ld, int t, int chunk,
                                         int n) {
#pragma unroll
        for (int k = 0; k < CELLS; k++) {
            const Cell cell = cell_of(k);
            const int unit = blockIdx.x * UNITS + cell.unit, column = chunk * COLUMNS + cell.tile * 8 + cell.column;
            const bool here = cell.tile < TILES && column < n && t >= 0;
#pragma unroll
            for (int gate = 0; gate < 4; gate++)
                gates[k][gate] = here ? from[(gate * HIDDEN + unit) * ld + t * n + column] : 0;
            c_prev[k] = here ? cells[unit * cells_ld + t * n + column] : 0;
            c[k] = here ? cells[unit * cells_ld + (t + 1) * n + column] : 0;
            dy[k] = here ? above[unit * above_ld + t * n + column] : 0;
            keep[k] = here && keeps ? keeps[t * n + column] : 1;
        }
    }
};

// Run the layer backwards; arguments as in persistent.cu and in tagged_forward. gates is only read; dz (4H, T, N) is
// written in 16 bits. dh_last and dc_last (H, N) are the gradient at the last state, or null for zeros; dh and dc (H,
// N) are written. The step -1 only computes the gradient at the initial state.
extern "C" __global__ void __launch_bounds__(THREADS, 1) tagged_backward(
    const float* w, const float* gates, unsigned gates_ld, const float* c, unsigned c_ld, const float* keep,
    const float* dy, unsigned dy_ld, const float* dh_last, const float* dc_last, float* dh, float* dc,
    unsigned short* dz, unsigned operand_ld, unsigned short* exchange, unsigned* ended, int steps, int n, int chunks) {
    constexpr int SLOT = 4 * HIDDEN * COLUMNS, SHARE = HIDDEN / WARPS;  // units over which a warp sums
    extern __shared__ float state[];  // dc
    __shared__ __align__(16) float parts[WARPS * UNITS * COLUMNS];
    const int first = threadIdx.x / 32 * SHARE * 4 * COLUMNS;  // where the numbers over which this warp sums begin
    Backward product;
    __shared__ int half;  // not in a register, of which there are few
    if (threadIdx.x == 0) half = half_of(ended, chunks);
    __syncthreads();
    Activations now;
    now.load(gates, gates_ld, c, c_ld, keep, dy, dy_ld, steps - 1, blockIdx.y, n);
    float through[CELLS], carry[CELLS];
    auto factors = [&] {  // now.gates leaves as factors
#pragma unroll
        for (int k = 0; k < CELLS; k++) {
            float* z = now.gates[k];
            gates_factors(z[0], z[1], z[2], z[3], now.c_prev[k], now.c[k], now.keep[k], through[k], carry[k]);
        }
    };
    factors();
    take_transposed(product, w);  // the last, or registers spill
    for (Turn turn = {0, 0}; turn.step <= steps; turn = turn.next(chunks)) {
        const int done = turn.step, t = steps - 1 - done, chunk = turn.chunk(), own = turn.own;
        const Turn next = turn.next(chunks);
        Activations after;
        after.load(gates, gates_ld, c, c_ld, keep, dy, dy_ld, steps - 1 - next.step, next.chunk(), n);
        unsigned short* slots = exchange + (size_t)(half + chunk) * 2 * SLOT;
        float dh_now[CELLS];
        if (done) {
            product.run(Arriving<TaggedGradients, SHARE / 4 * TILES>{
                {slots + (done - 1) % 2 * SLOT + first, tag_of(done - 1)}});
            take_sums(product, dh_now, parts);
        }
#pragma unroll
        for (int k = 0; k < CELLS; k++) {
            const Cell cell = cell_of(k);
            const int unit = blockIdx.x * UNITS + cell.unit, column = chunk * COLUMNS + cell.tile * 8 + cell.column;
            if (cell.tile >= TILES) continue;
            const bool here = column < n;
            float& dc_kept = state[(own * CELLS + k) * THREADS + threadIdx.x];
            if (!done) {
                dc_kept = here && dc_last ? dc_last[unit * n + column] : 0;
                dh_now[k] = here && dh_last ? dh_last[unit * n + column] : 0;
            }
            if (t < 0) {
                if (here) dc[unit * n + column] = dc_kept, dh[unit * n + column] = dh_now[k];
                continue;
            }
            float* z = now.gates[k];
            gates_backward(z[0], z[1], z[2], z[3], through[k], carry[k], dh_now[k] + now.dy[k], dc_kept);
            // No gradient leaves the step where keep is 0. The last number is rounded to one bit less, ties to even; NaN
            // stays NaN.
            const float kept = now.keep[k];
            const unsigned low = pack_16(z[0] * kept, z[1] * kept), high = pack_16(z[2] * kept, z[3] * kept);
            const unsigned rounded = (z[3] == z[3] ? high + (high >> 1 & 0x10000) : high) & ~0x10000u;
            store_relaxed((Word*)(slots + done % 2 * SLOT + place(4 * unit, cell.tile, cell.column)),
                          (Word)(rounded | tag_of(done) << 16) << 32 | low);
        }
        __syncthreads();  // before `parts` is written again
#pragma unroll
        for (int k = 0; k < CELLS; k++) {  // no block waits for these
            const Cell cell = cell_of(k);
            const int unit = blockIdx.x * UNITS + cell.unit, column = chunk * COLUMNS + cell.tile * 8 + cell.column;
            if (t < 0 || cell.tile >= TILES || column >= n) continue;
#pragma unroll
            for (int gate = 0; gate < 4; gate++)
                dz[(gate * HIDDEN + unit) * operand_ld + t * n + column] = to_16(now.gates[k][gate]);
        }
        now = after;
        factors();
    }
    finish(exchange, half, ended, chunks);
}
