// The matrix product of the time loops, C = A B, whose left side A is packed once and then used at every time step.
//
// A BLAS packs both sides at each call, and for the narrow products of a time loop packing is a large part of the
// work. Here A (M, K) is packed into panels of R rows, each [K][R], and B (K, n) into tiles of at most two vectors of
// columns, each [K][width], padded with zeros. The sums of R rows and one tile of C stay in registers over all of K
// (Goto & van de Geijn 2008).
#include <algorithm>
#include <cstring>
#include <new>

#if defined(__AVX512F__)
enum { WIDEST = 64, R = 8 };  // the bytes of a vector, and the rows of a panel: 8 rows of 2 vectors are 16 registers
#elif defined(__AVX__)
enum { WIDEST = 32, R = 6 };
#else
enum { WIDEST = 16, R = 6 };
#endif

template <typename T>
struct Buffer {  // an uninitialised array that begins at a multiple of 64 bytes, the widest vector
    T* data;
    explicit Buffer(long size) : data(static_cast<T*>(::operator new[](size * sizeof(T), std::align_val_t(64)))) {}
    Buffer(const Buffer&) = delete;
    ~Buffer() { ::operator delete[](data, std::align_val_t(64)); }
};

// The right side B (depth, n). Its rows are packed into `tiles`, an array of size(depth, n) numbers.
template <typename T>
struct Right {
    enum { HALF = WIDEST / 2 / sizeof(T) };
    const long depth, n;
    T* tiles;

    static long size(long depth, long n) { return depth * ((n + HALF - 1) / HALF * HALF); }

    // The number of columns of the next tile when `left` columns are left: the narrowest of four widths that holds them
    // all, else the widest.
    static long width(long left) { return left > 3 * HALF ? 4 * HALF : (left + HALF - 1) / HALF * HALF; }

    // Write b (n,) to row k.
    void put(long k, const T* b) {
        T* to = tiles;
        for (long j = 0, wide; j < n; j += wide, to += depth * wide) {
            wide = width(n - j);
            const long columns = std::min(n - j, wide);
            std::memcpy(to + k * wide, b + j, columns * sizeof(T));
            std::fill(to + k * wide + columns, to + (k + 1) * wide, T(0));
        }
    }

    // Write b (rows, n), whose rows are ldb numbers apart, to the rows first .. first + rows - 1.
    void pack(const T* b, long ldb, long first, long rows) {
        for (long k = 0; k < rows; k++) put(first + k, b + k * ldb);
    }
};

// The array that is added to a product: one number for each row if ld is 0, else a matrix with rows ld numbers apart.
template <typename T>
struct Start {
    const T* data;
    const long ld;
};

// Compute c (rows, columns) = start + a panel times a tile. The tile is V vectors of BYTES wide; c's rows are ldc
// apart.
template <typename T, int BYTES, int V>
static void tile(const T* __restrict a, const T* __restrict b, Start<T> start, T* c, long ldc, long depth, long rows,
                 long columns) {
    typedef T Vector __attribute__((vector_size(BYTES)));
    enum { LANES = BYTES / sizeof(T) };
    Vector sum[R][V] = {};
    for (long k = 0; k < depth; k++, a += R) {
        Vector x[V];
        for (int v = 0; v < V; v++) x[v] = reinterpret_cast<const Vector*>(b)[k * V + v];
        for (int r = 0; r < R; r++)
            for (int v = 0; v < V; v++) sum[r][v] += a[r] * x[v];
    }
    // Only the last panel and the last tile are partly padding: then fewer rows or columns are written than were
    // computed.
    for (long r = 0; r < rows; r++, c += ldc) {
        const T* from = start.data + (start.ld ? r * start.ld : r);
        if (columns == V * LANES)
            for (int v = 0; v < V; v++) {
                Vector z = {};
                if (start.ld) std::memcpy(&z, from + v * LANES, sizeof z);
                else z += *from;
                z += sum[r][v];
                std::memcpy(c + v * LANES, &z, sizeof z);
            }
        else {
            T row[V * LANES];
            std::memcpy(row, sum[r], sizeof row);
            for (long k = 0; k < columns; k++) c[k] = (start.ld ? from[k] : *from) + row[k];
        }
    }
}

// The left side A (rows, depth). Its columns are packed into `panels`, an array of size(rows, depth) numbers.
template <typename T>
struct Left {
    const long rows, depth;
    T* panels;

    static long size(long rows, long depth) { return (rows + R - 1) / R * R * depth; }

    // Write a (rows, columns) to the columns first .. first + columns - 1. transposed: a is stored as (columns, rows).
    void pack(const T* a, long first, long columns, bool transposed) {
        const long down = transposed ? 1 : columns, along = transposed ? rows : 1;
        for (long m = 0; m < rows; m += R)
            for (long r = 0; r < R; r++) {
                T* to = panels + m * depth + first * R + r;
                const T* from = a + (m + r) * down;
                if (m + r < rows)
                    for (long k = 0; k < columns; k++) to[k * R] = from[k * along];
                else
                    for (long k = 0; k < columns; k++) to[k * R] = 0;
            }
    }

    // Compute c (rows, n) = start + A b, where c's rows are ldc apart. The matrix of start may be c itself. Each
    // panel is read from memory once, for all tiles.
    void times(const Right<T>& b, Start<T> start, T* c, long ldc) const {
        enum { HALF = Right<T>::HALF };
        for (long m = 0; m < rows; m += R) {
            const T *panel = panels + m * depth, *right = b.tiles;
            const T* from = start.data + (start.ld ? m * start.ld : m);
            const long some = std::min(rows - m, long(R));
            for (long j = 0, wide; j < b.n; j += wide, right += depth * wide) {
                wide = Right<T>::width(b.n - j);
                auto run = wide == 4 * HALF ? tile<T, WIDEST, 2> : wide == 3 * HALF ? tile<T, WIDEST / 2, 3>
                         : wide == 2 * HALF ? tile<T, WIDEST, 1> : tile<T, WIDEST / 2, 1>;
                run(panel, right, {start.ld ? from + j : from, start.ld}, c + m * ldc + j, ldc, depth, some,
                    std::min(b.n - j, wide));
            }
        }
    }
};
