// One symbol from a column's logits by a coin, a warp each: `draw` of rnncore/sample.py, in double like there.
//
// Option: SYMBOLS. A lane has SHARE symbols that follow one another; sums over the symbols before are a scan over
// lanes.

constexpr int SHARE = (SYMBOLS + 31) / 32;

__device__ __forceinline__ int warp() { return threadIdx.x / 32; }
__device__ __forceinline__ int lane() { return threadIdx.x % 32; }
__device__ __forceinline__ int share_end() { return min(SYMBOLS, (lane() + 1) * SHARE); }

// A number in [0, 1) of 53 bits: `uniform` of rnncore/random.py.
__device__ __noinline__ double uniform(unsigned index, unsigned long long step, unsigned purpose, unsigned k0,
                                       unsigned k1) {
    unsigned x[4] = {index, (unsigned)step, (unsigned)(step >> 32), purpose};
    philox4x32(x, k0, k1);
    return (double)((unsigned long long)x[1] << 21 | x[0] >> 11) * (1.0 / 9007199254740992.0);
}

// What the lanes before this one have, together; total: all of them.
__device__ double before(double mine, double& total) {
    double sum = mine;
    for (int far = 1; far < 32; far *= 2) {
        const double other = __shfl_up_sync(~0u, sum, far);
        if (lane() >= far) sum += other;
    }
    total = __shfl_sync(~0u, sum, 31);
    const double previous = __shfl_up_sync(~0u, sum, 1);
    return lane() ? previous : 0;
}

// p (SYMBOLS,) arrives as logits and leaves as exp((p - largest) / temperature); returns the first of the likeliest.
// Where the largest is no finite number all of p is NaN then, and it returns -1.
__device__ int soften(double* p, double temperature) {
    int at = lane() < SYMBOLS ? lane() : 0;
    double most = p[at];
    bool wrong = most != most;
    for (int v = at + 32; v < SYMBOLS; v += 32) {
        wrong |= p[v] != p[v];
        if (p[v] > most) most = p[v], at = v;
    }
    for (int far = 16; far; far /= 2) {
        const double other = __shfl_xor_sync(~0u, most, far);
        const int there = __shfl_xor_sync(~0u, at, far);
        if (other > most || (other == most && there < at)) most = other, at = there;
    }
    if (__any_sync(~0u, wrong || most - most != 0)) {  // of an infinite one the difference is NaN
        for (int v = lane(); v < SYMBOLS; v += 32) p[v] = (most - most) / (most - most);
        __syncwarp();
        return -1;
    }
    if (temperature > 0)
        for (int v = lane(); v < SYMBOLS; v += 32) p[v] = exp((p[v] - most) / temperature);
    __syncwarp();
    return at;
}

// By all threads of a block: p (count, SYMBOLS) sorted, the likeliest first, of equals the lowest id, and whose they
// are.
__device__ void sort(const double* p, int count, double* sorted, int* order) {
    for (int i = threadIdx.x; i < count * SYMBOLS; i += blockDim.x) {
        const int first = i / SYMBOLS * SYMBOLS;
        const double mine = p[i];
        int rank = first;
#pragma unroll 4
        for (int v = 0; v < SYMBOLS; v++) rank += p[first + v] > mine || (p[first + v] == mine && first + v < i);
        sorted[rank] = mine, order[rank] = i - first;
    }
}

// Of sorted p (SYMBOLS,) leave the first top_k, 0 means all; of these the fewest whose share is at least top_p.
__device__ void trim(double* p, int top_k, double top_p) {
    double mine = 0, total;
    for (int v = lane() * SHARE; v < share_end(); v++) {
        if (top_k && v >= top_k) p[v] = 0;
        mine += p[v];
    }
    before(mine, total);
    mine = 0;
    for (int v = lane() * SHARE; v < share_end(); v++) mine += p[v] /= total;
    double sum = before(mine, total);
    for (int v = lane() * SHARE; v < share_end(); v++) {
        const double here = p[v];
        sum += here;
        if (sum - here >= top_p) p[v] = 0;
    }
}

// The first of p (SYMBOLS,) up to which the sum is above coin times the whole; never one of no probability.
__device__ int pick(const double* p, double coin) {
    double mine = 0, total;
    for (int v = lane() * SHARE; v < share_end(); v++) mine += p[v];
    double sum = before(mine, total);
    int found = -1, likely = -1;
    for (int v = lane() * SHARE; v < share_end(); v++) {
        sum += p[v];
        if (!(p[v] > 0)) continue;
        likely = v;
        if (found < 0 && sum > coin * total) found = v;
    }
    const unsigned with = __ballot_sync(~0u, found >= 0), any = __ballot_sync(~0u, likely >= 0);
    if (!any) return -1;  // where the logits are no numbers
    return __shfl_sync(~0u, with ? found : likely, with ? __ffs(with) - 1 : 31 - __clz(any));  // by rounding, the last
}
