// The product of product.hpp in the matrix registers ("tiles") of a processor with AMX, for operands in bfloat16.
//
// A tile has up to 16 rows of 64 bytes. One instruction multiplies two of them and adds the product to a third:
//
//     sums  (S, 16)   S sequences, 16 units side by side, float32
//     rows  (S, 16)   the words b[s][k .. k + 15], as they lie: 32 numbers along the depth
//     panel (16, 16)  the words A[k .. k + 15] of 16 units, as product.hpp packs them
//
// It does 512 multiply-adds a cycle, where vectors do 32. Two tiles of sequences and the two halves of a panel are taken
// together, so that each tile that is loaded is used twice. The depth is padded with zeros to whole tiles.
//
// The system must allow a process these registers. TILES is 1 on a processor with AMX, 0 elsewhere. With -DTILES=2 loops
// take the place of the instructions, and with 3 the system refuses: the tests prove the rest of this file with both.
#include <algorithm>
#include <cstdint>
#include <cstring>

#if !defined(TILES) && defined(__AMX_BF16__) && defined(__AVX512F__) && defined(__linux__)
#define TILES 1
#elif !defined(TILES)
#define TILES 0
#endif
#if TILES == 1
#include <immintrin.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace {

constexpr long SIDE = 16;  // the most rows of a tile, and the words of a row

// Transpose a block of 16 x 16 words: in squares of 16, 8, 4 and 2, swap the upper right and the lower left quarter.
inline void transpose(uint32_t (&block)[SIDE][SIDE]) {
    for (int half = SIDE / 2; half; half /= 2)
        for (int row = 0; row < SIDE; row++) {
            if (row & half) continue;
            uint32_t *upper = block[row], *lower = block[row + half];
#if TILES == 1
            const __m512i lane = _mm512_set_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0);
            const __m512i a = _mm512_loadu_si512(upper), b = _mm512_loadu_si512(lower), h = _mm512_set1_epi32(half);
            const __mmask16 right = _mm512_test_epi32_mask(lane, h);
            // A number of 16 and more names a lane of the second vector.
            _mm512_storeu_si512(upper, _mm512_permutex2var_epi32(
                a, _mm512_mask_add_epi32(lane, right, lane, _mm512_set1_epi32(SIDE - half)), b));
            _mm512_storeu_si512(lower, _mm512_permutex2var_epi32(
                a, _mm512_mask_add_epi32(_mm512_add_epi32(lane, h), right, lane, _mm512_set1_epi32(SIDE)), b));
#else
            for (int column = 0; column < SIDE; column++)
                if (column & half) std::swap(upper[column], lower[column - half]);
#endif
        }
}

#if TILES == 0

bool tiles_allowed() { return false; }

template <typename... Arguments>
void product_in_tiles(Arguments...) {}

#else

// The shapes of the tiles: 0 to 3 are sums, 4 and 5 rows of the first and the second tile of sequences, 6 and 7 the
// halves of a panel.
struct alignas(64) Shapes {
    uint8_t palette = 1, start = 0, reserved[14] = {};
    uint16_t bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
    uint8_t rows[16] = {};

    Shapes(long first, long second) {
        for (int tile : {0, 1, 4}) rows[tile] = first;
        for (int tile : {2, 3, 5}) rows[tile] = second;
        for (int tile : {6, 7}) rows[tile] = SIDE;
    }
};

#if TILES > 1

thread_local Shapes shapes(0, 0);
thread_local uint32_t tiles_of[8][SIDE][SIDE];

bool tiles_allowed() { return TILES == 2; }
void set_shapes(const Shapes& wanted) { shapes = wanted; }
void leave_tiles() { shapes = Shapes(0, 0); }

void zero(int tile) { std::memset(tiles_of[tile], 0, sizeof tiles_of[tile]); }

void load(int tile, const void* from, long apart) {
    for (int r = 0; r < shapes.rows[tile]; r++) std::memcpy(tiles_of[tile][r], (const char*)from + r * apart, 64);
}

void store(int tile, void* to, long apart) {
    for (int r = 0; r < shapes.rows[tile]; r++) std::memcpy((char*)to + r * apart, tiles_of[tile][r], 64);
}

void multiply(int sums, int rows, int panel) {
    for (int r = 0; r < shapes.rows[rows]; r++)
        for (int u = 0; u < SIDE; u++) {
            float sum;
            std::memcpy(&sum, &tiles_of[sums][r][u], sizeof sum);
            for (int k = 0; k < SIDE; k++)
                for (int half : {16, 0}) {
                    const uint32_t bits[] = {tiles_of[rows][r][k] << half & 0xffff0000u,
                                             tiles_of[panel][k][u] << half & 0xffff0000u};
                    float pair[2];
                    std::memcpy(pair, bits, sizeof pair);
                    sum += pair[0] * pair[1];
                }
            std::memcpy(&tiles_of[sums][r][u], &sum, sizeof sum);
        }
}

#else

// Return true if the system allows this process the tiles. It is asked once (Linux 5.16 and later).
bool tiles_allowed() {
    enum { ARCH_REQ_XCOMP_PERM = 0x1023, XFEATURE_XTILEDATA = 18 };
    static const bool allowed = syscall(SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA) == 0;
    return allowed;
}

// Some compilers' own function for this says that 8 bytes are read. Here all are, and whatever was written before is in
// memory, where the tiles are loaded from.
void set_shapes(const Shapes& wanted) { __asm__ volatile("ldtilecfg\t%0" : : "m"(wanted) : "memory"); }
void leave_tiles() { _tile_release(); }
#define zero(tile) _tile_zero(tile)
#define load(tile, from, apart) _tile_loadd(tile, from, apart)
#define store(tile, to, apart) _tile_stored(tile, to, apart)
#define multiply(sums, rows, panel) _tile_dpbf16ps(sums, rows, panel)

#endif

// Compute c (n, units) = start + n rows of b times one panel of 32 units. n is the sum of the two tiles of sequences
// that are configured: `first` and, if BOTH, more. Arguments as in `tile` of product.hpp.
template <bool BOTH, typename Start>
void whole_panel(const uint32_t* panel, const uint32_t* b, long apart, long first, Start start, float* c, long ldc,
                 long length) {
    enum { WORD = 4, HALF = SIDE, ROW = 2 * SIDE };  // bytes of a word; words of half a panel, and of its row
    const uint32_t* second = b + first * apart;
    float* lower = c + first * ldc;
    if (start.data) {
        const float* below = start.data + first * start.ld;
        load(0, start.data, start.ld * WORD);
        load(1, start.data + HALF, start.ld * WORD);
        if (BOTH) {
            load(2, below, start.ld * WORD);
            load(3, below + HALF, start.ld * WORD);
        }
    } else {
        zero(0);
        zero(1);
        zero(2);
        zero(3);
    }
    for (long k = 0; k < length; k += SIDE, panel += SIDE * ROW) {
        load(6, panel, ROW * WORD);
        load(7, panel + HALF, ROW * WORD);
        load(4, b + k, apart * WORD);
        multiply(0, 4, 6);
        multiply(1, 4, 7);
        if (BOTH) {
            load(5, second + k, apart * WORD);
            multiply(2, 5, 6);
            multiply(3, 5, 7);
        }
    }
    store(0, c, ldc * WORD);
    store(1, c + HALF, ldc * WORD);
    if (BOTH) {
        store(2, lower, ldc * WORD);
        store(3, lower + HALF, ldc * WORD);
    }
}

// Compute c (n, units) = start + n rows of b times all panels, as `Left::times` of product.hpp does. The rows of b have
// `length` words, and so have the panels.
template <typename Start>
void product_in_tiles(const uint32_t* panels, long units, long length, const uint32_t* b, long n, Start start, float* c,
                      long ldc) {
    enum { PANEL = 2 * SIDE };
    const long pairs = (n + 2 * SIDE - 1) / (2 * SIDE);
    for (long j = 0; j < pairs; j++) {  // pairs of tiles with nearly equal numbers of sequences
        const long begin = n * j / pairs, some = n * (j + 1) / pairs - begin;
        const long first = some > SIDE ? (some + 1) / 2 : some;
        const auto panel = some > SIDE ? &whole_panel<true, Start> : &whole_panel<false, Start>;
        set_shapes(Shapes(first, std::max(some - first, 1L)));
        for (long m = 0; m < units; m += PANEL) {
            const Start from{start.data ? start.data + begin * start.ld + m : nullptr, start.ld};
            const uint32_t *a = panels + m * length, *rows = b + begin * length;
            float *to = c + begin * ldc + m, all[PANEL * PANEL];
            if (units - m >= PANEL) panel(a, rows, length, first, from, to, ldc, length);
            else {  // the last panel: fewer units are written than were computed
                panel(a, rows, length, first, {nullptr, 0}, all, PANEL, length);
                for (long s = 0; s < some; s++)
                    for (long u = 0; u < units - m; u++)
                        to[s * ldc + u] = (from.data ? from.data[s * from.ld + u] : 0) + all[s * PANEL + u];
            }
        }
    }
    leave_tiles();
}

#if TILES == 1
#undef zero
#undef load
#undef store
#undef multiply
#endif
#endif

}  // namespace
