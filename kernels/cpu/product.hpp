// A product C = A B whose left side is packed once and then used at every time step.
//
// A BLAS packs both sides on each call, which for the narrow products of a recurrence is a good part of the work. Here
// A (M, K) lies in panels of R rows, [K][R], B (K, n) in tiles of at most two vectors, [K][width], padded with zeros; R
// rows of a tile's width of C stay in registers over all of K (Goto & van de Geijn 2008).
#include <algorithm>
#include <cstring>
#include <new>

#if defined(__AVX512F__)
enum { WIDEST = 64, R = 8 };  // bytes of a vector; 16 of them are sums
#elif defined(__AVX__)
enum { WIDEST = 32, R = 6 };
#else
enum { WIDEST = 16, R = 6 };
#endif

template <typename T>
struct Buffer {  // uninitialised, on a vector's boundary
    T* data;
    explicit Buffer(long size) : data(static_cast<T*>(::operator new[](size * sizeof(T), std::align_val_t(64)))) {}
    Buffer(const Buffer&) = delete;
    ~Buffer() { ::operator delete[](data, std::align_val_t(64)); }
};

// The right side: B (depth, n), packed some rows at a time into `tiles`, size(depth, n) numbers.
template <typename T>
struct Right {
    enum { HALF = WIDEST / 2 / sizeof(T) };
    const long depth, n;
    T* tiles;

    static long size(long depth, long n) { return depth * ((n + HALF - 1) / HALF * HALF); }

    // How many columns a tile takes where `left` are left: the narrowest of four shapes that holds them, else the widest.
    static long width(long left) { return left > 3 * HALF ? 4 * HALF : (left + HALF - 1) / HALF * HALF; }

    // b (n,) becomes row k.
    void put(long k, const T* b) {
        T* to = tiles;
        for (long j = 0, wide; j < n; j += wide, to += depth * wide) {
            wide = width(n - j);
            const long columns = std::min(n - j, wide);
            std::memcpy(to + k * wide, b + j, columns * sizeof(T));
            std::fill(to + k * wide + columns, to + (k + 1) * wide, T(0));
        }
    }

    // b (rows, n), its rows ldb apart, becomes the rows first .. first + rows.
    void pack(const T* b, long ldb, long first, long rows) {
        for (long k = 0; k < rows; k++) put(first + k, b + k * ldb);
    }
};

// What a product begins with: a number a row (ld 0), or a matrix, its rows ld apart.
template <typename T>
struct Start {
    const T* data;
    const long ld;
};

// c (rows, columns), its rows ldc apart, = start + a panel times a tile of V vectors of BYTES.
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

// The left side: A (rows, depth), packed some columns at a time into `panels`, size(rows, depth) numbers.
template <typename T>
struct Left {
    const long rows, depth;
    T* panels;

    static long size(long rows, long depth) { return (rows + R - 1) / R * R * depth; }

    // a (rows, columns) becomes the columns first .. first + columns; transposed: a is stored as (columns, rows).
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

    // c (rows, n), its rows ldc apart, = start + A b; the matrix of start may be c. A panel is read once, for all tiles.
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
