// The matrix product of the time loops: c = start + b A^T, where A (units, depth) is packed once and used at every step.
//
// A time loop multiplies the same weights A with a few new rows b, one row for each sequence, thousands of times. A BLAS
// packs both sides at each call, and for so few rows packing is a large part of the work. So here the units, which are
// many, lie in the lanes of the processor's vectors, and the sequences, which are few, one after the other:
//
//     A  units          packed into panels of PANEL units: [depth][PANEL], so that a vector holds one k of LANES units
//     b  (n, depth)     stays as it lies: the number b[s][k] is read once and spread over a vector
//     c  (n, units)     n sequences with their units side by side
//
// `tile` computes S sequences times one panel. Its S x VECTORS sums stay in registers over all of the depth (Goto & van
// de Geijn 2008); for each k it reads VECTORS vectors of A and S numbers of b, and does S x VECTORS multiply-adds. n = 25
// or n = 50 columns waste nothing, because n is cut into tiles of nearly equal numbers of sequences. What does not fill
// a panel is padded with zeros in A, never in c.
//
// The results of a step are the rows b of the next product as they are: nothing is repacked between the gates and the
// products.
//
// An element says how the operands are stored; sums and results are always whole numbers of type T.
//
//     Plain<T>   as they are, float or double
//     Brain      bfloat16: the upper half of a float, rounded to nearest even. Two neighbours along the depth share one
//                word of 32 bits, and a word times a word is two products and their sum. A processor with avx512_bf16
//                has one instruction for that; elsewhere `multiply_add` does the same in four, which is no faster than
//                float, but is the same arithmetic up to the order of the sums. On a processor with AMX, tiles.hpp
//                multiplies several sequences with a panel.
#include <algorithm>
#include <cstdint>
#include <cstring>
#include <new>
#include <utility>

#include <sys/mman.h>

#if defined(__AVX512BF16__)
#include <immintrin.h>
#endif

#include "tiles.hpp"

// WIDEST: the bytes of a vector. VECTORS: the vectors of a panel. MOST: the most sequences of a tile. LINE: the bytes of
// a cache line. The sums of a tile, a panel's vectors and one number take at most the processor's registers: 32 with
// AVX-512 and on ARM, 16 elsewhere.
#if !defined(WIDEST) && defined(__AVX512F__)
#define WIDEST 64
#elif !defined(WIDEST) && defined(__AVX__)
#define WIDEST 32
#elif !defined(WIDEST)
#define WIDEST 16
#endif
#if !defined(MOST) && (defined(__AVX512F__) || defined(__aarch64__))
#define MOST 12
#elif !defined(MOST)
#define MOST 6
#endif
#if defined(__AVX512BF16__) && WIDEST == 64
#define NATIVE_PAIRS
#endif
// A library that is loaded beside another build of this file must not share its functions: they have no outside names.
namespace {

enum { VECTORS = 2, LINE = 64, TOGETHER = 4 };  // TOGETHER: panels that a single sequence takes side by side
enum { MAPPED = 1 << 20 };                      // bytes of a large buffer

// An uninitialised array that begins at a multiple of a cache line. A large one is mapped by itself, so that its memory
// goes back at once: the allocator would keep such blocks for each thread.
template <typename T>
struct Buffer {
    const size_t bytes;
    T* data;
    explicit Buffer(long size) : bytes(size * sizeof(T)), data(static_cast<T*>(allocate())) {}
    Buffer(const Buffer&) = delete;
    ~Buffer() {
        if (bytes < MAPPED) ::operator delete[](data, std::align_val_t(LINE));
        else munmap(data, bytes);
    }

private:
    void* allocate() const {
        if (bytes < MAPPED) return ::operator new[](bytes, std::align_val_t(LINE));
        void* made = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (made == MAP_FAILED) throw std::bad_alloc();
        return made;
    }
};

template <typename N>
struct Plain {
    typedef N T;
    typedef N Word;  // what a product reads at once: PER_WORD operands that are neighbours along the depth
    typedef N Vector __attribute__((vector_size(WIDEST)));
    typedef Vector Words;
    enum { PER_WORD = 1, TILED = false };

    // Return the word of `count` numbers, from 1 to PER_WORD; those that are missing count as 0.
    static N word(const N* from, long, long) { return *from; }
    static Vector multiply_add(Vector sum, Words a, Word b) { return sum + a * b; }
};

struct Brain {
    typedef float T;
    typedef uint32_t Word;
    typedef float Vector __attribute__((vector_size(WIDEST)));
    typedef uint32_t Words __attribute__((vector_size(WIDEST)));
    enum { PER_WORD = 2, TILED = TILES > 0 };  // TILED: tiles.hpp computes the products

    // Return the upper half of a float, rounded to nearest even, in the upper half of a word. A NaN stays one.
    static uint32_t rounded(float number) {
        uint32_t bits;
        std::memcpy(&bits, &number, sizeof bits);
        return number == number ? (bits + 0x7fff + (bits >> 16 & 1)) & 0xffff0000u : bits | 0x400000u;
    }

    static uint32_t word(const float* from, long along, long count) {
        return rounded(*from) >> 16 | (count > 1 ? rounded(from[along]) & 0xffff0000u : 0);
    }

    static Vector multiply_add(Vector sum, Words a, Word b) {
#ifdef NATIVE_PAIRS
        return Vector(_mm512_dpbf16_ps(__m512(sum), __m512bh(a), __m512bh(_mm512_set1_epi32(int(b)))));
#else
        const Words pair = Words{} + b;
        return sum + Vector(a << 16) * Vector(pair << 16) + Vector(a & 0xffff0000u) * Vector(pair & 0xffff0000u);
#endif
    }
};

// Return the number of words that hold a depth of `count` numbers. What is more than needed is filled with zeros.
template <typename E>
long words(long count) {
    constexpr long grain = E::TILED ? SIDE : 1, numbers = E::PER_WORD * grain;
    return (count + numbers - 1) / numbers * grain;
}

// Where tile j of n sequences begins. There are tiles(n) of them, of nearly equal numbers of sequences.
long tiles(long n) { return (n + MOST - 1) / MOST; }
long begin(long n, long j) { return n * j / tiles(n); }

// n rows of operands of `length` words. Either the words of a row are neighbours, or (`packed`) those of one place in
// all the rows of a tile are, tile after tile.
template <typename E>
struct Rows {
    const typename E::Word* data;
    const long length;
    const bool packed;
};

// What is added to a product: nothing if data is null, else one row for all sequences if ld is 0, else a matrix with
// rows ld numbers apart, which may be c itself.
template <typename T>
struct Start {
    const T* data;
    const long ld;
};

// Compute c (S, units) = start + S rows of b times G panels, which are `panel` words apart. The words of b are `apart`
// from row to row and `along` from place to place; c's rows are ldc apart.
template <typename E, int S, int G>
void tile(const typename E::Word* __restrict a, long panel, const typename E::Word* b, long apart, long along,
                 Start<typename E::T> start, typename E::T* c, long ldc, long length, long units) {
    typedef typename E::T T;
    typedef typename E::Vector Vector;
    typedef typename E::Words Words;
    enum { LANES = WIDEST / sizeof(T) };
    Vector sum[S][G * VECTORS] = {};
    const typename E::Word* __restrict rows[S];
    for (int s = 0; s < S; s++) rows[s] = b + s * apart;
    for (long k = 0, at = 0; k < length; k++, a += VECTORS * LANES, at += along) {
        Words x[G * VECTORS];
        for (int v = 0; v < G * VECTORS; v++)
            x[v] = *reinterpret_cast<const Words*>(a + v / VECTORS * panel + v % VECTORS * LANES);
#pragma GCC unroll 16
        for (int s = 0; s < S; s++) {
            const typename E::Word y = rows[s][at];
            for (int v = 0; v < G * VECTORS; v++) sum[s][v] = E::multiply_add(sum[s][v], x[v], y);
        }
    }
    if (units == G * VECTORS * LANES) {
#pragma GCC unroll 16
        for (int s = 0; s < S; s++)
            for (int v = 0; v < G * VECTORS; v++) {
                Vector z = {};
                if (start.data) std::memcpy(&z, start.data + s * start.ld + v * LANES, sizeof z);
                z += sum[s][v];
                std::memcpy(c + s * ldc + v * LANES, &z, sizeof z);
            }
    } else  // the last panel: fewer units are written than were computed
        for (int s = 0; s < S; s++)
            for (long k = 0; k < units; k++)
                c[s * ldc + k] = (start.data ? start.data[s * start.ld + k] : 0) + sum[s][k / LANES][k % LANES];
}

// The left side A (units, depth), in panels of `length` words.
template <typename E>
class Left {
    typedef typename E::T T;
    typedef typename E::Word Word;
    enum { PANEL = VECTORS * WIDEST / sizeof(T) };
    static_assert(!E::TILED || PANEL == 2 * SIDE, "a panel is two tiles wide");
    const long units, length;
    Buffer<Word> panels;

public:
    Left(long units, long length)
        : units(units), length(length), panels((units + PANEL - 1) / PANEL * PANEL * length) {}

    // Write a (units, depth) to the words from `first` on. The entry (u, k) is a[u down + k along].
    void pack(const T* a, long down, long along, long first, long depth) {
        for (long m = 0; m < units; m += PANEL) {
            Word* to = panels.data + m * length + first * PANEL;
            const long some = std::min(units - m, long(PANEL));
            long k = 0;
            if constexpr (E::TILED)
                for (; along == 1 && k + SIDE * E::PER_WORD <= depth; k += SIDE * E::PER_WORD, to += SIDE * PANEL)
                    for (long u = 0; u < PANEL; u += SIDE) pack_block(a + (m + u) * down + k, down, some - u, to + u);
            for (; k < depth; k += E::PER_WORD, to += PANEL) {
                const T* from = a + m * down + k * along;
                if (k + E::PER_WORD <= depth)
                    for (long u = 0; u < some; u++) to[u] = E::word(from + u * down, along, E::PER_WORD);
                else
                    for (long u = 0; u < some; u++) to[u] = E::word(from + u * down, along, 1);
                for (long u = some; u < PANEL; u++) to[u] = 0;
            }
            std::fill(to, panels.data + m * length + (first + words<E>(depth)) * PANEL, Word(0));
        }
    }

    // Write SIDE units, of which `some` are there, and SIDE words of each, whose numbers are neighbours.
    static void pack_block(const T* from, long down, long some, Word* to) {
        uint32_t block[SIDE][SIDE] = {};
        for (long u = 0; u < std::min(some, SIDE); u++)
            for (long j = 0; j < SIDE; j++) block[u][j] = E::word(from + u * down + j * E::PER_WORD, 1, E::PER_WORD);
        transpose(block);
        for (long j = 0; j < SIDE; j++) std::copy_n(block[j], SIDE, to + j * PANEL);
    }

    // Compute c (n, units) = start + b A^T, where c's rows are ldc apart. Each panel is read from memory once.
    void times(Rows<E> b, long n, Start<T> start, T* c, long ldc) const {
        if (n == 1) return one(b.data, start.data, c);
        if constexpr (E::TILED)
            if (tiles_allowed()) return product_in_tiles(panels.data, units, length, b.data, n, start, c, ldc);
        for (long m = 0; m < units; m += PANEL)
            for (long j = 0; j < tiles(n); j++) {
                const long s = begin(n, j), some = begin(n, j + 1) - s;
                const Start<T> from{start.data ? start.data + s * start.ld + m : nullptr, start.ld};
                run(std::make_integer_sequence<int, MOST>(), some)(
                    panels.data + m * length, 0, b.data + s * length, b.packed ? 1 : length, b.packed ? some : 1, from,
                    c + s * ldc + m, ldc, length, std::min(units - m, long(PANEL)));
            }
    }

private:
    // One sequence: the few sums of one panel would wait for each other, so several panels are taken side by side.
    void one(const Word* b, const T* start, T* c) const {
        const long panel = PANEL * length, together = TOGETHER * PANEL;
        long m = 0;
        for (; m + together <= units; m += together)
            tile<E, 1, TOGETHER>(panels.data + m * length, panel, b, 0, 1, {start ? start + m : start, 0}, c + m, 0, length,
                                 together);
        for (; m < units; m += PANEL)
            tile<E, 1, 1>(panels.data + m * length, panel, b, 0, 1, {start ? start + m : start, 0}, c + m, 0, length,
                          std::min(units - m, long(PANEL)));
    }

    template <int... S>
    static auto run(std::integer_sequence<int, S...>, long sequences) {
        static constexpr decltype(&tile<E, 1, 1>) all[] = {tile<E, S + 1, 1>...};
        return all[sequences - 1];
    }
};

// n rows of operands of `length` words for a product. An element that keeps numbers as they are lets the product read
// the caller's array; the others are rounded into a buffer.
template <typename E>
class Operands {
    typedef typename E::T T;
    typedef typename E::Word Word;
    const long n, length;
    Buffer<Word> buffer;

public:
    Operands(long n, long length) : n(n), length(length), buffer(n * length) {}

    // Write `factor` times from (count,) to the words of row s from `first` on.
    void put(long s, long first, const T* from, long count, T factor = 1) {
        Word* to = buffer.data + s * length + first;
        std::fill(to + count / E::PER_WORD, to + words<E>(count), Word(0));
        if (factor == 1) return convert(to, from, count);
        T scaled[256];
        for (long k = 0; k < count; k += 256) {
            const long some = std::min(count - k, 256L);
            for (long j = 0; j < some; j++) scaled[j] = factor * from[k + j];
            convert(to + k / E::PER_WORD, scaled, some);
        }
    }

    // Return the rows that `put` has written.
    Rows<E> rows() const { return {buffer.data, length, false}; }

    // Return the first `some` rows of an array (n, depth), which are contiguous.
    Rows<E> take(const T* from, long some, long depth) {
        if constexpr (E::PER_WORD == 1) return {from, length, false};
        else {
            for (long s = 0; s < some; s++) put(s, 0, from + s * depth, depth);
            return rows();
        }
    }

    // Return n rows of an array whose entry (s, k) is from[s down + k along].
    Rows<E> gather(const T* from, long down, long along, long depth) {
        if (along == 1) {
            for (long s = 0; s < n; s++) put(s, 0, from + s * down, depth);
            return rows();
        }
        if (E::TILED && tiles_allowed()) return transposed(from, down, along, depth);
        Buffer<Word> line(n);  // one word of each row
        for (long k = 0; k < depth; k += E::PER_WORD, from += E::PER_WORD * along) {
            const long count = std::min(depth - k, long(E::PER_WORD));
            if (down == 1 && count == E::PER_WORD)
                for (long s = 0; s < n; s++) line.data[s] = E::word(from + s, along, E::PER_WORD);
            else
                for (long s = 0; s < n; s++) line.data[s] = E::word(from + s * down, along, count);
            for (long j = 0; j < tiles(n); j++) {
                const long s = begin(n, j), some = begin(n, j + 1) - s;
                std::copy_n(line.data + s, some, buffer.data + s * length + k / E::PER_WORD * some);
            }
        }
        const long done = (depth + E::PER_WORD - 1) / E::PER_WORD;
        for (long j = 0; j < tiles(n); j++)
            std::fill(buffer.data + begin(n, j) * (length - done) + begin(n, j + 1) * done,
                      buffer.data + begin(n, j + 1) * length, Word(0));
        return {buffer.data, length, true};
    }

private:
    // Write the rows of `gather` one after the other, in blocks of SIDE rows and SIDE words.
    Rows<E> transposed(const T* from, long down, long along, long depth) {
        for (long k = 0; k < length; k += SIDE)  // `from` is read from its beginning to its end
            for (long s = 0; s < n; s += SIDE) {
                uint32_t block[SIDE][SIDE] = {};
                const long rows = std::min(n - s, SIDE);
                for (long j = 0; j < SIDE && (k + j) * E::PER_WORD < depth; j++) {
                    const long count = std::min(depth - (k + j) * E::PER_WORD, long(E::PER_WORD));
                    const T* at = from + s * down + (k + j) * E::PER_WORD * along;
                    if (down == 1 && count == E::PER_WORD && rows == SIDE)
                        for (long r = 0; r < SIDE; r++) block[j][r] = E::word(at + r, along, E::PER_WORD);
                    else
                        for (long r = 0; r < rows; r++) block[j][r] = E::word(at + r * down, along, count);
                }
                transpose(block);
                for (long r = 0; r < rows; r++) std::copy_n(block[r], SIDE, buffer.data + (s + r) * length + k);
            }
        return rows();
    }

    static void convert(Word* to, const T* from, long count) {
        const long whole = count / E::PER_WORD;
        for (long k = 0; k < whole; k++) to[k] = E::word(from + k * E::PER_WORD, 1, E::PER_WORD);
        if (count % E::PER_WORD) to[whole] = E::word(from + whole * E::PER_WORD, 1, 1);
    }
};

}  // namespace
