// The kernels of the path persistent: the whole time loop of one LSTM layer in one launch, forward and backward. W_hh
// stays in registers for all steps.
//
// A block works as fragments.cuh says. The HIDDEN / UNITS blocks of a group (x of the grid) work together on chunks,
// and wait only for each other. The groups are y of the grid; each takes every gridDim.y-th chunk. Each step sends its
// results (h forward, dz backward) to all blocks of the group through `exchange` in global memory, as 16-bit numbers. A
// block that is a group of its own keeps its results in shared memory, and has one chunk. ptx.cuh, tanh_of, gates.cuh
// and fragments.cuh come before this text.
//
// The order of reads and writes between blocks:
// - All threads of a block write the values of a step. After a __syncthreads one thread publishes the number of the
//   step with store_release. This covers the writes of the other threads too: the thread sees them after the barrier.
// - The lanes of a warp load_acquire the numbers of all blocks that the warp reads from. After a __syncwarp they load
//   the values, past the first-level cache, which may hold old ones.
// - There are two slots for values, used in turn. A block writes to a slot only after a __syncthreads that its warps
//   reach after their waits for the previous step. Together the warps wait for all blocks. So by then each block has
//   published the previous step, and it did so after its last read of the slot that is written now.

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
                from += slice * (HIDDEN / SLICES) * COLUMNS;
                product.run(InMemory<STAGED || MEMBERS == 1>{(const uint2*)from});
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
                product.run(InMemory<MEMBERS == 1>{(const uint2*)from + warp * SHARE * COLUMNS});
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
