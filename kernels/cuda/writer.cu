// Text written on the GPU: the whole loop over characters in one launch, for several columns (samples) side by side.
//
//     draw      symbol = draw(logits, coin)                      as in rnncore/sample.py, in double
//     layer 0   z = table[:, symbol] + W_hh h,  h, c = cell(z, c)
//     above     z = W_ih h_below + b + W_hh h,  h, c = cell(z, c)
//     head      logits = W h_top + b
//
// A block owns UNITS units of every layer, all four gates of each, and ROWS groups of four rows of the head; blockIdx.y
// counts groups of blocks that share the columns out. What a block makes the others get through global memory, each
// number in one 64-bit word with a tag, the count of the character that it belongs to (a double takes two words). Such
// a word is written and read whole, so a reader that sees the tag has the number: no barrier, no fence, no flag.
//
// A word has two places, for even and odd tags. Why none is overwritten before everyone has read it: a block writes the
// first word of the tag t + 2 after it has read the whole top layer's h of the tag t + 1. Every block has units in
// every layer, so each other block had by then written a part of that h; and it did so, in the order of its program and
// after a __syncthreads, when all its threads had read the last that they read of the tag t: the logits, for the draw
// of t + 1.
//
// The recurrent product of a layer waits for nothing but its own h of the step before. It is made as soon as that is
// there, after the layer above has been served, and kept in `ahead`: what a step waits for is only the product with
// h_below.
//
// Options: REAL, HIDDEN, LAYERS, SYMBOLS; UNITS and ROWS of a block; SLICES, warps that share the depth of a product;
// WARPS of a block; COLUMNS that are worked on at a time (1, 2, 4 or 8); KEPT 1: the weights lie in shared memory.

typedef unsigned long long Word;

constexpr int THREADS = 32 * WARPS;
constexpr int WORDS = sizeof(REAL) / 4;  // of a number
union Parts { REAL value; unsigned bits[WORDS]; };
constexpr int MATRIX = UNITS * 4 * DEPTH, SUMS = SLICES * UNITS * GATES;
constexpr int MOST = UNITS > ROWS ? UNITS : ROWS;
constexpr int POSTED = LAYERS * HIDDEN + SYMBOLS;  // numbers of a column
// A block's weights, in fours: table (SYMBOLS, UNITS), biases (LAYERS - 1, UNITS) and (ROWS), then the matrices, each
// (UNITS or ROWS, 4, DEPTH): W_hh of the first layer, W_ih and W_hh of each one above, the head.
constexpr int BIASES = SYMBOLS * UNITS, HEAD_BIAS = BIASES + (LAYERS - 1) * UNITS, MATRICES = HEAD_BIAS + ROWS;
constexpr int HEAD = MATRICES + (2 * LAYERS - 1) * MATRIX, WEIGHTS = HEAD + ROWS * 4 * DEPTH;

struct Run {  // what is the same for all characters
    const Four* weights;
    REAL *h, *c, *logits;         // (LAYERS, HIDDEN, all), (SYMBOLS, all)
    Word* words;                  // (2, all, POSTED)
    long long* ids;               // (steps, all)
    int all, first, count;        // columns: of the arrays, the first one of this group, and how many
    double temperature, top_p;
    int top_k;
    unsigned key0, key1, purpose, start;
    Word sample;                  // of the arrays' first column
};

struct Room {  // of shared memory
    double *p, *sorted;  // (COLUMNS, SYMBOLS)
    double* coins;       // (columns)
    REAL *x, *sums;      // (2, COLUMNS, 4 DEPTH), (SLICES, MOST, GATES)
    REAL *ahead, *cell;  // (columns / COLUMNS, LAYERS, SUMS), (LAYERS, columns, UNITS)
    int *order, *symbols;           // (COLUMNS, SYMBOLS), (columns)
    int turn;                       // which half of x
};

__device__ __forceinline__ int width(const Run& run, int first) { return min(COLUMNS, run.count - first); }

__device__ __forceinline__ const Four* matrix(const Run& run, int k, bool recurrent) {
    return run.weights + MATRICES + (2 * k - !recurrent) * MATRIX;
}

__device__ __forceinline__ Word* place(const Run& run, unsigned tag, int column, int number) {
    return run.words + ((size_t)(tag & 1) * run.all + run.first + column) * POSTED * WORDS + (size_t)number * WORDS;
}

__device__ void post(Word* at, unsigned tag, REAL value) {
    Parts parts = {value};
    for (int w = 0; w < WORDS; w++) store_relaxed(at + w, (Word)tag << 32 | parts.bits[w]);
}

// to[c][i] = number first + i of column `column` + c, of this tag, for `count` columns and i < SIZE: waits until they
// are there. A thread asks for a BATCH at once.
template <int SIZE, int PITCH, typename T>
__device__ void receive(const Run& run, unsigned tag, int first, int column, int count, T* to) {
    constexpr int EACH = (SIZE * COLUMNS + THREADS - 1) / THREADS, BATCH = EACH < 4 ? EACH : 4;
    for (int begin = threadIdx.x; begin < SIZE * count; begin += THREADS * BATCH) {
        Parts parts[BATCH];
        bool here;
        do {
            here = true;
#pragma unroll
            for (int j = 0; j < BATCH; j++) {
                const int i = begin + j * THREADS;
                if (i >= SIZE * count) continue;
                const Word* at = place(run, tag, column + i / SIZE, first + i % SIZE);
#pragma unroll
                for (int w = 0; w < WORDS; w++) {
                    const Word word = load_relaxed(at + w);
                    here &= (unsigned)(word >> 32) == tag;
                    parts[j].bits[w] = (unsigned)word;
                }
            }
        } while (!here);
#pragma unroll
        for (int j = 0; j < BATCH; j++) {
            const int i = begin + j * THREADS;
            if (i < SIZE * count) to[i / SIZE * PITCH + i % SIZE] = parts[j].value;
        }
    }
}

// The columns from `first` of layer k's h of this tag, in a half of x that nobody reads; all threads have them.
__device__ REAL* gather(const Run& run, Room& room, unsigned tag, int k, int first) {
    REAL* x = room.x + (room.turn ^= 1) * COLUMNS * 4 * DEPTH;
    receive<HIDDEN, 4 * DEPTH>(run, tag, k * HIDDEN, first, width(run, first), x);
    __syncthreads();
    return x;
}

__device__ __forceinline__ REAL* ahead(const Room& room, int k, int first) {
    return room.ahead + (first / COLUMNS * LAYERS + k) * SUMS;
}

// The step of this block's units of layer k; below: what h_below adds to z, by slices (of the first layer, nothing).
__device__ void cells(const Run& run, const Room& room, unsigned tag, int k, int first, const REAL* below, bool last) {
    for (int i = threadIdx.x; i < UNITS * COLUMNS; i += THREADS) {
        const int u = i / COLUMNS, column = first + i % COLUMNS, unit = blockIdx.x * UNITS + u;
        if (unit >= HIDDEN || column >= run.count) continue;
        Four z = run.weights[k ? BIASES + (k - 1) * UNITS + u : room.symbols[column] * UNITS + u];
        const REAL* before = ahead(room, k, first);
#pragma unroll
        for (int r = 0; r < 4; r++)
            for (int s = 0; s < SLICES; s++) {
                const int at = (s * UNITS + u) * GATES + r * COLUMNS + i % COLUMNS;
                z.of[r] += k ? before[at] + below[at] : before[at];
            }
        REAL h, &c = room.cell[(k * run.count + column) * UNITS + u];
        gates_forward(z.of[0], z.of[1], z.of[2], z.of[3], c, (REAL)1, c, h);
        post(place(run, tag, column, k * HIDDEN + unit), tag, h);
        if (last) run.h[((size_t)k * HIDDEN + unit) * run.all + run.first + column] = h;
    }
}

// This block's rows of the logits.
__device__ void head(const Run& run, const Room& room, unsigned tag, int first, bool last) {
    for (int i = threadIdx.x; i < ROWS * GATES; i += THREADS) {
        const int row = blockIdx.x * ROWS * 4 + i / COLUMNS, column = first + i % COLUMNS;
        if (row >= SYMBOLS || column >= run.count) continue;
        REAL z = run.weights[HEAD_BIAS + i / GATES].of[i / COLUMNS % 4];
        for (int s = 0; s < SLICES; s++) z += room.sums[s * ROWS * GATES + i];
        post(place(run, tag, column, LAYERS * HIDDEN + row), tag, z);
        if (last) run.logits[(size_t)row * run.all + run.first + column] = z;
    }
}

// One symbol for each of the columns from `first`, of the logits of this tag; every block draws the same.
__device__ void draw(const Run& run, const Room& room, unsigned tag, int step, int first) {
    const int n = width(run, first);
    const bool cut = run.temperature > 0 && (run.top_k || run.top_p < 1);
    const auto settle = [&](int c, int symbol) {  // -1 is handed on, for the host to refuse
        if (lane()) return;
        room.symbols[first + c] = min(max(symbol, 0), SYMBOLS - 1);
        if (!blockIdx.x) run.ids[(size_t)step * run.all + run.first + first + c] = symbol;
    };
    for (int c = threadIdx.x; c < n; c += THREADS)
        room.coins[c] = uniform(run.start + step, run.sample + run.first + first + c, run.purpose, run.key0, run.key1);
    receive<SYMBOLS, SYMBOLS>(run, tag, LAYERS * HIDDEN, first, n, room.p);
    __syncthreads();
    for (int c = warp(); c < n; c += WARPS) {
        double* p = room.p + c * SYMBOLS;
        const int likeliest = soften(p, run.temperature);
        if (!cut) settle(c, run.temperature > 0 ? pick(p, room.coins[c]) : likeliest);
    }
    if (cut) {
        __syncthreads();
        sort(room.p, n, room.sorted, room.order);
        __syncthreads();
        for (int c = warp(); c < n; c += WARPS) {
            double* p = room.sorted + c * SYMBOLS;
            trim(p, run.top_k, run.top_p);
            const int place = pick(p, room.coins[c]);
            settle(c, place < 0 ? -1 : room.order[c * SYMBOLS + place]);
        }
    }
    __syncthreads();
}

template <typename T> __device__ __forceinline__ T* take(unsigned char*& at, int count) {
    T* found = (T*)at;
    at += sizeof(T) * count;
    return found;
}

// Shared memory given out, the weights in it if they are KEPT.
__device__ Room furnish(Run& run, const Four* weights, unsigned char* at) {
    run.weights = weights + (size_t)blockIdx.x * WEIGHTS;
    if (KEPT) {
        Four* kept = take<Four>(at, WEIGHTS);
        for (int i = threadIdx.x; i < WEIGHTS; i += THREADS) kept[i] = run.weights[i];
        run.weights = kept;
    }
    const int chunks = (run.count + COLUMNS - 1) / COLUMNS;
    Room room;
    room.x = take<REAL>(at, 2 * COLUMNS * 4 * DEPTH);
    room.p = take<double>(at, COLUMNS * SYMBOLS);
    room.sorted = take<double>(at, COLUMNS * SYMBOLS);
    room.coins = take<double>(at, COLUMNS);
    room.sums = take<REAL>(at, SLICES * MOST * GATES);
    room.ahead = take<REAL>(at, chunks * LAYERS * SUMS);
    room.cell = take<REAL>(at, LAYERS * run.count * UNITS);
    room.order = take<int>(at, COLUMNS * SYMBOLS);
    room.symbols = take<int>(at, run.count);
    room.turn = 0;
    for (int i = threadIdx.x; i < 2 * COLUMNS * 4 * DEPTH; i += THREADS) room.x[i] = 0;
    return room;
}

// What this block owns of h and the logits, made known as of the step before the first; c into shared memory or back.
__device__ void enter(const Run& run, const Room& room, unsigned tag) {
    for (int i = threadIdx.x; i < LAYERS * run.count * UNITS; i += THREADS) {
        const int column = i / UNITS % run.count, k = i / UNITS / run.count, unit = blockIdx.x * UNITS + i % UNITS;
        if (unit >= HIDDEN) continue;
        const size_t at = ((size_t)k * HIDDEN + unit) * run.all + run.first + column;
        room.cell[i] = run.c[at];
        post(place(run, tag, column, k * HIDDEN + unit), tag, run.h[at]);
    }
    for (int i = threadIdx.x; i < ROWS * 4 * run.count; i += THREADS) {
        const int row = blockIdx.x * ROWS * 4 + i / run.count, column = i % run.count;
        if (row >= SYMBOLS) continue;
        const REAL logit = run.logits[(size_t)row * run.all + run.first + column];
        post(place(run, tag, column, LAYERS * HIDDEN + row), tag, logit);
    }
    __syncthreads();
}

__device__ void leave(const Run& run, const Room& room) {
    __syncthreads();
    for (int i = threadIdx.x; i < LAYERS * run.count * UNITS; i += THREADS) {
        const int column = i / UNITS % run.count, k = i / UNITS / run.count, unit = blockIdx.x * UNITS + i % UNITS;
        if (unit < HIDDEN) run.c[((size_t)k * HIDDEN + unit) * run.all + run.first + column] = room.cell[i];
    }
}

// One character of every column: the draw, the layers, the head.
__device__ void advance(const Run& run, Room& room, unsigned tag, int step, bool last) {
    for (int first = 0; first < run.count; first += COLUMNS) draw(run, room, tag, step, first);
    tag++;
    for (int first = 0; first < run.count; first += COLUMNS) cells(run, room, tag, 0, first, nullptr, last);
    for (int k = 1; k <= LAYERS; k++)
        for (int first = 0; first < run.count; first += COLUMNS) {
            const REAL* x = gather(run, room, tag, k - 1, first);
            if (k < LAYERS) product(matrix(run, k, false), UNITS, x, room.sums);
            else product(run.weights + HEAD, ROWS, x, room.sums);
            __syncthreads();
            if (k < LAYERS) cells(run, room, tag, k, first, room.sums, last);
            else head(run, room, tag, first, last);
            product(matrix(run, k - 1, true), UNITS, x, ahead(room, k - 1, first));
        }
}

// grid (blocks, groups); columns first .. first + count of `all`, `share` of them a group; tag: none that was used yet
// and steps + 1 in a row. sample: the number of column 0; start: the index of the first coin.
extern "C" __global__ void __launch_bounds__(THREADS, 1)
writer(const Four* weights, REAL* h, REAL* c, REAL* logits, Word* words, long long* ids, int steps, int all, int first,
       int count, int share, unsigned tag, double temperature, int top_k, double top_p, unsigned key0, unsigned key1,
       unsigned purpose, unsigned start, Word sample) {
    extern __shared__ __align__(16) unsigned char memory[];
    const int begin = blockIdx.y * share;
    Run run = {weights, h, c, logits, words, ids, all, first + begin, min(share, count - begin),
               temperature, top_p, top_k, key0, key1, purpose, start, sample};
    if (run.count <= 0) return;
    Room room = furnish(run, weights, memory);
    __syncthreads();
    enter(run, room, tag);
    for (int k = 0; k < LAYERS; k++)
        for (int column = 0; column < run.count; column += COLUMNS)
            product(matrix(run, k, true), UNITS, gather(run, room, tag, k, column), ahead(room, k, column));
    for (int step = 0; step < steps; step++) advance(run, room, tag + step, step, step == steps - 1);
    leave(run, room);
}
