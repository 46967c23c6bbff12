// The matrix product of writer.cu: a block's rows of a matrix times the columns of a state.
//
// Options: REAL, HIDDEN, COLUMNS, SLICES, WARPS, as in writer.cu. Four rows of the matrix are a group. The depth of the
// product, padded to a multiple of four, is divided among SLICES warps and their lanes.

struct __align__(16) Four { REAL of[4]; };

constexpr int DEPTH = (HIDDEN + 3) / 4, GATES = 4 * COLUMNS;  // Fours in a row of the matrix; sums of a group
constexpr int UNROLLED = COLUMNS * sizeof(REAL) > 8 ? 1 : 2;  // Fours of a row that a lane loads at once

// Sum each of COUNT values over the lanes of a warp; COUNT is a power of two up to 32. Lane k returns the sum of value
// k * COUNT / 32. In each round a lane sends half of its values to another lane, so it needs fewer exchanges than COUNT
// separate sums.
template <int COUNT> __device__ __forceinline__ REAL fold(REAL (&v)[COUNT]) {
    int m = COUNT;
#pragma unroll
    for (int other = 16; other; other /= 2) {
        if (m == 1) {
            v[0] += __shfl_xor_sync(~0u, v[0], other);
            continue;
        }
        m /= 2;
        const bool upper = lane() & other;
#pragma unroll
        for (int i = 0; i < COUNT / 2; i++) {
            if (i >= m) continue;
            const REAL sent = upper ? v[i] : v[i + m], kept = upper ? v[i + m] : v[i];
            v[i] = kept + __shfl_xor_sync(~0u, sent, other);
        }
    }
    return v[0];
}

// Compute the product w (groups, 4, 4 DEPTH) x (COLUMNS, 4 DEPTH)^T in parts: sums[slice][group][4][COLUMNS] is the
// share of one slice of the depth. The caller adds the slices.
__device__ void product(const Four* w, int groups, const REAL* x, REAL* sums) {
    for (int task = warp(); task < groups * SLICES; task += WARPS) {
        const Four* mine = w + task / SLICES * 4 * DEPTH;
        REAL sum[GATES] = {};
#pragma unroll UNROLLED
        for (int k = task % SLICES * 32 + lane(); k < DEPTH; k += 32 * SLICES) {
            Four a[4];
#pragma unroll
            for (int r = 0; r < 4; r++) a[r] = mine[r * DEPTH + k];
#pragma unroll
            for (int c = 0; c < COLUMNS; c++) {
                const Four b = ((const Four*)x)[c * DEPTH + k];
#pragma unroll
                for (int j = 0; j < 4; j++)
#pragma unroll
                    for (int r = 0; r < 4; r++) sum[r * COLUMNS + c] += a[r].of[j] * b.of[j];
            }
        }
        const REAL total = fold(sum);
        if (lane() % (32 / GATES) == 0)
            sums[(task % SLICES * groups + task / SLICES) * GATES + lane() / (32 / GATES)] = total;
    }
}
