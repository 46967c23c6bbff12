// The kernel that writes text: the whole loop over characters in one launch, for several columns (samples) together.
//
//     draw      symbol = draw(logits, u)                      as in rnncore/sample.py, in double
//     layer 0   z = table[:, symbol] + W_hh h,  h, c = cell(z, c)
//     above     z = W_ih h_below + b + W_hh h,  h, c = cell(z, c)
//     head      logits = W h_top + b
//
// A block owns UNITS units of every layer, with all four gates of each, and ROWS groups of four rows of the head.
// blockIdx.y counts groups of blocks; each group has a share of the columns. A block sends its results to the others
// through global memory. Each number is in one 64-bit word together with a tag, the count of the character that it
// belongs to (a double takes two words). A word is written and read as a whole, so a reader that sees the tag has the
// number. No barrier between blocks, no fence and no flag is needed.
//
// A word has two places, one for even and one for odd tags. No place is overwritten before all blocks have read it:
// - A block writes its first word of tag t + 2 after it has read all of the top layer's h of tag t + 1.
// - Every block has units in every layer. So by then each other block has written its part of that h.
// - The last values of tag t that a block reads are the logits, for the draw of t + 1. All its threads read them before
//   a __syncthreads. The block writes its part of that h after this barrier.
//
// The recurrent product of a layer needs only the layer's own h of the step before. It is computed as soon as this h is
// there, after the product for the layer above, and kept in `ahead`. So a step waits only for the product with h_below.
//
// Options: REAL (float or double), HIDDEN, LAYERS, SYMBOLS; UNITS and ROWS of a block; SLICES, the warps that share the
// depth of a product; WARPS of a block; COLUMNS, the columns of a chunk, which a block works on at a time (1, 2, 4 or
// 8); KEPT, 1 if the weights are in shared memory.

typedef unsigned long long Word;

constexpr int THREADS = 32 * WARPS;
constexpr int WORDS = sizeof(REAL) / 4;  // words of a number
union Parts { REAL value; unsigned bits[WORDS]; };
constexpr int MATRIX = UNITS * 4 * DEPTH, SUMS = SLICES * UNITS * GATES;
constexpr int MOST = UNITS > ROWS ? UNITS : ROWS;
constexpr int POSTED = LAYERS * HIDDEN + SYMBOLS;  // numbers of a column that blocks send each other
// The offsets of a block's weights, counted in fours: table (SYMBOLS, UNITS), biases (LAYERS - 1, UNITS) and (ROWS),
// then the matrices, each (UNITS or ROWS, 4, DEPTH): W_hh of the first layer, W_ih and W_hh of each layer above, the
// head.
constexpr int BIASES = SYMBOLS * UNITS, HEAD_BIAS = BIASES + (LAYERS - 1) * UNITS, MATRICES = HEAD_BIAS + ROWS;
constexpr int HEAD = MATRICES + (2 * LAYERS - 1) * MATRIX, WEIGHTS = HEAD + ROWS * 4 * DEPTH;

struct Run {  // the arguments, which are the same for all characters
    const Four* weights;
    REAL *h, *c, *logits;         // (LAYERS, HIDDEN, all), (SYMBOLS, all)
    Word* words;                  // (2, all, POSTED)
    long long* ids;               // (steps, all)
    int all, first, count;        // columns of the arrays, first column of this group, columns of this group
    double temperature, top_p;
    int top_k;
    unsigned key0, key1, purpose, start;
    Word sample;                  // the number of the sample in the arrays' first column
};

struct Workspace {  // arrays in shared memory; `columns` are those of the group, COLUMNS those of a chunk
    double *p, *sorted;  // (COLUMNS, SYMBOLS)
    double* u;           // (COLUMNS): uniform draws
    REAL *x, *sums;      // (2, COLUMNS, 4 DEPTH), (SLICES, MOST, GATES)
    REAL *ahead, *cell;  // (columns / COLUMNS, LAYERS, SUMS), (LAYERS, columns, UNITS)
    int *order, *symbols;           // (COLUMNS, SYMBOLS), (columns)
    int turn;                       // the half of x in use: 0 or 1
};

// The number of columns of the chunk that begins at column `first` of the group.
__device__ __forceinline__ int width(const Run& run, int first) { return min(COLUMNS, run.count - first); }

// The W_hh (recurrent) or W_ih of layer k, this block's rows.
__device__ __forceinline__ const Four* matrix(const Run& run, int k, bool recurrent) {
    return run.weights + MATRICES + (2 * k - !recurrent) * MATRIX;
}

// The place of a number of a column of this group for a tag.
__device__ __forceinline__ Word* place(const Run& run, unsigned tag, int column, int number) {
    return run.words + ((size_t)(tag & 1) * run.all + run.first + column) * POSTED * WORDS + (size_t)number * WORDS;
}

// Send a number to all blocks.
__device__ void post(Word* at, unsigned tag, REAL value) {
    Parts parts = {value};
    for (int w = 0; w < WORDS; w++) store_relaxed(at + w, (Word)tag << 32 | parts.bits[w]);
}

// Set to[c][i] = number first + i of column `column` + c, for `count` columns and i < SIZE. Wait until the numbers have
// this tag. A thread asks for BATCH numbers at once, so that their delays overlap.
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

// Receive layer k's h of this tag for the columns from `first`, into the half of x that no thread reads now. Return it
// when it is complete.
__device__ REAL* gather(const Run& run, Workspace& work, unsigned tag, int k, int first) {
    REAL* x = work.x + (work.turn ^= 1) * COLUMNS * 4 * DEPTH;
    receive<HIDDEN, 4 * DEPTH>(run, tag, k * HIDDEN, first, width(run, first), x);
    __syncthreads();
    return x;
}

// The recurrent product of layer k for the columns from `first`.
__device__ __forceinline__ REAL* ahead(const Workspace& work, int k, int first) {
    return work.ahead + (first / COLUMNS * LAYERS + k) * SUMS;
}

// Compute the step of this block's units of layer k, and send their h. below: W_ih h_below, one sum for each slice; not
// used for the first layer.
__device__ void cells(const Run& run, const Workspace& work, unsigned tag, int k, int first, const REAL* below,
                      bool last) {
    for (int i = threadIdx.x; i < UNITS * COLUMNS; i += THREADS) {
        const int u = i / COLUMNS, column = first + i % COLUMNS, unit = blockIdx.x * UNITS + u;
        if (unit >= HIDDEN || column >= run.count) continue;
        Four z = run.weights[k ? BIASES + (k - 1) * UNITS + u : work.symbols[column] * UNITS + u];
        const REAL* before = ahead(work, k, first);
#pragma unroll
        for (int r = 0; r < 4; r++)
            for (int s = 0; s < SLICES; s++) {
                const int at = (s * UNITS + u) * GATES + r * COLUMNS + i % COLUMNS;
                z.of[r] += k ? before[at] + below[at] : before[at];
            }
        REAL h, &c = work.cell[(k * run.count + column) * UNITS + u];
        gates_forward(z.of[0], z.of[1], z.of[2], z.of[3], c, (REAL)1, c, h);
        post(place(run, tag, column, k * HIDDEN + unit), tag, h);
        if (last) run.h[((size_t)k * HIDDEN + unit) * run.all + run.first + column] = h;
    }
}

// Compute this block's rows of the logits, and send them.
__device__ void head(const Run& run, const Workspace& work, unsigned tag, int first, bool last) {
    for (int i = threadIdx.x; i < ROWS * GATES; i += THREADS) {
        const int row = blockIdx.x * ROWS * 4 + i / COLUMNS, column = first + i % COLUMNS;
        if (row >= SYMBOLS || column >= run.count) continue;
        REAL z = run.weights[HEAD_BIAS + i / GATES].of[i / COLUMNS % 4];
        for (int s = 0; s < SLICES; s++) z += work.sums[s * ROWS * GATES + i];
        post(place(run, tag, column, LAYERS * HIDDEN + row), tag, z);
        if (last) run.logits[(size_t)row * run.all + run.first + column] = z;
    }
}

// Draw one symbol for each of the columns from `first`, from the logits of this tag. Every block draws the same
// symbols, so they need not be sent.
__device__ void draw(const Run& run, const Workspace& work, unsigned tag, int step, int first) {
    const int n = width(run, first);
    const bool cut = run.temperature > 0 && (run.top_k || run.top_p < 1);
    const auto store = [&](int c, int symbol) {  // ids keeps a -1: the host raises an error
        if (lane()) return;
        work.symbols[first + c] = min(max(symbol, 0), SYMBOLS - 1);
        if (!blockIdx.x) run.ids[(size_t)step * run.all + run.first + first + c] = symbol;
    };
    for (int c = threadIdx.x; c < n; c += THREADS)
        work.u[c] = uniform(run.start + step, run.sample + run.first + first + c, run.purpose, run.key0, run.key1);
    receive<SYMBOLS, SYMBOLS>(run, tag, LAYERS * HIDDEN, first, n, work.p);
    __syncthreads();
    for (int c = warp(); c < n; c += WARPS) {
        double* p = work.p + c * SYMBOLS;
        const int likeliest = exponentials(p, run.temperature);
        if (!cut) store(c, run.temperature > 0 ? pick(p, work.u[c]) : likeliest);
    }
    if (cut) {
        __syncthreads();
        sort(work.p, n, work.sorted, work.order);
        __syncthreads();
        for (int c = warp(); c < n; c += WARPS) {
            double* p = work.sorted + c * SYMBOLS;
            keep_likeliest(p, run.top_k, run.top_p);
            const int place = pick(p, work.u[c]);
            store(c, place < 0 ? -1 : work.order[c * SYMBOLS + place]);
        }
    }
    __syncthreads();
}

// Take an array of `count` numbers from the memory at `at`.
template <typename T> __device__ __forceinline__ T* take(unsigned char*& at, int count) {
    T* found = (T*)at;
    at += sizeof(T) * count;
    return found;
}

// Divide shared memory among the arrays. If KEPT, copy this block's weights into it.
__device__ Workspace allocate(Run& run, const Four* weights, unsigned char* at) {
    run.weights = weights + (size_t)blockIdx.x * WEIGHTS;
    if (KEPT) {
        Four* kept = take<Four>(at, WEIGHTS);
        for (int i = threadIdx.x; i < WEIGHTS; i += THREADS) kept[i] = run.weights[i];
        run.weights = kept;
    }
    const int chunks = (run.count + COLUMNS - 1) / COLUMNS;
    Workspace work;
    work.x = take<REAL>(at, 2 * COLUMNS * 4 * DEPTH);
    work.p = take<double>(at, COLUMNS * SYMBOLS);
    work.sorted = take<double>(at, COLUMNS * SYMBOLS);
    work.u = take<double>(at, COLUMNS);
    work.sums = take<REAL>(at, SLICES * MOST * GATES);
    work.ahead = take<REAL>(at, chunks * LAYERS * SUMS);
    work.cell = take<REAL>(at, LAYERS * run.count * UNITS);
    work.order = take<int>(at, COLUMNS * SYMBOLS);
    work.symbols = take<int>(at, run.count);
    work.turn = 0;
    for (int i = threadIdx.x; i < 2 * COLUMNS * 4 * DEPTH; i += THREADS) work.x[i] = 0;
    return work;
}

// Begin: send this block's h and logits with the tag of the step before the first, and copy c into shared memory.
__device__ void enter(const Run& run, const Workspace& work, unsigned tag) {
    for (int i = threadIdx.x; i < LAYERS * run.count * UNITS; i += THREADS) {
        const int column = i / UNITS % run.count, k = i / UNITS / run.count, unit = blockIdx.x * UNITS + i % UNITS;
        if (unit >= HIDDEN) continue;
        const size_t at = ((size_t)k * HIDDEN + unit) * run.all + run.first + column;
        work.cell[i] = run.c[at];
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

// End: copy c back from shared memory.
__device__ void leave(const Run& run, const Workspace& work) {
    __syncthreads();
    for (int i = threadIdx.x; i < LAYERS * run.count * UNITS; i += THREADS) {
        const int column = i / UNITS % run.count, k = i / UNITS / run.count, unit = blockIdx.x * UNITS + i % UNITS;
        if (unit < HIDDEN) run.c[((size_t)k * HIDDEN + unit) * run.all + run.first + column] = work.cell[i];
    }
}

// Write one character of every column: the draw, the layers, the head.
__device__ void advance(const Run& run, Workspace& work, unsigned tag, int step, bool last) {
    for (int first = 0; first < run.count; first += COLUMNS) draw(run, work, tag, step, first);
    tag++;
    for (int first = 0; first < run.count; first += COLUMNS) cells(run, work, tag, 0, first, nullptr, last);
    for (int k = 1; k <= LAYERS; k++)
        for (int first = 0; first < run.count; first += COLUMNS) {
            const REAL* x = gather(run, work, tag, k - 1, first);
            if (k < LAYERS) product(matrix(run, k, false), UNITS, x, work.sums);
            else product(run.weights + HEAD, ROWS, x, work.sums);
            __syncthreads();
            if (k < LAYERS) cells(run, work, tag, k, first, work.sums, last);
            else head(run, work, tag, first, last);
            product(matrix(run, k - 1, true), UNITS, x, ahead(work, k - 1, first));
        }
}

// The grid is (blocks, groups). The launch works on the columns first .. first + count - 1 of `all`, `share` of them
// in each group. It uses the tags tag .. tag + steps, which no launch has used before. sample is the number of
// the sample in column 0, start the index of the first uniform draw.
extern "C" __global__ void __launch_bounds__(THREADS, 1)
writer(const Four* weights, REAL* h, REAL* c, REAL* logits, Word* words, long long* ids, int steps, int all, int first,
       int count, int share, unsigned tag, double temperature, int top_k, double top_p, unsigned key0, unsigned key1,
       unsigned purpose, unsigned start, Word sample) {
    extern __shared__ __align__(16) unsigned char memory[];
    const int begin = blockIdx.y * share;
    Run run = {weights, h, c, logits, words, ids, all, first + begin, min(share, count - begin),
               temperature, top_p, top_k, key0, key1, purpose, start, sample};
    if (run.count <= 0) return;
    Workspace work = allocate(run, weights, memory);
    __syncthreads();
    enter(run, work, tag);
    for (int k = 0; k < LAYERS; k++)
        for (int column = 0; column < run.count; column += COLUMNS)
            product(matrix(run, k, true), UNITS, gather(run, work, tag, k, column), ahead(work, k, column));
    for (int step = 0; step < steps; step++) advance(run, work, tag + step, step, step == steps - 1);
    leave(run, work);
}
