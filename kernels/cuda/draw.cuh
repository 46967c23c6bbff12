// Draw a symbol from the logits of a column by a uniform draw u, with one warp for each column. The functions do the
// work of `draw` in rnncore/sample.py, and like it they compute in double.
//
// Option: SYMBOLS. Each lane of a warp has SHARE consecutive symbols. A cumulative sum over the symbols is a scan
// over the lanes.

constexpr int SHARE = (SYMBOLS + 31) / 32;

__device__ __forceinline__ int warp() { return threadIdx.x / 32; }
__device__ __forceinline__ int lane() { return threadIdx.x % 32; }
__device__ __forceinline__ int share_end() { return min(SYMBOLS, (lane() + 1) * SHARE); }

// Return a uniform draw in [0, 1) of 53 bits, as `uniform` of rnncore/random.py does.
__device__ __noinline__ double uniform(unsigned index, unsigned long long step, unsigned purpose, unsigned k0,
                                       unsigned k1) {
    unsigned x[4] = {index, (unsigned)step, (unsigned)(step >> 32), purpose};
    philox4x32(x, k0, k1);
    return (double)((unsigned long long)x[1] << 21 | x[0] >> 11) * (1.0 / 9007199254740992.0);
}

// Return the sum of `mine` over the lanes before this one. total becomes the sum over all lanes.
__device__ double sum_before(double mine, double& total) {
    double sum = mine;
    for (int far = 1; far < 32; far *= 2) {
        const double other = __shfl_up_sync(~0u, sum, far);
        if (lane() >= far) sum += other;
    }
    total = __shfl_sync(~0u, sum, 31);
    const double previous = __shfl_up_sync(~0u, sum, 1);
    return lane() ? previous : 0;
}

// Compute exp((p - largest) / temperature) in place of the logits p (SYMBOLS,), the numerators of the softmax. Return
// the lowest id of the largest logit. If a logit is NaN or the largest is infinite, set all of p to NaN and return -1.
__device__ int exponentials(double* p, double temperature) {
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
    if (__any_sync(~0u, wrong || most - most != 0)) {  // most - most is NaN if most is infinite
        for (int v = lane(); v < SYMBOLS; v += 32) p[v] = (most - most) / (most - most);
        __syncwarp();
        return -1;
    }
    if (temperature > 0)
        for (int v = lane(); v < SYMBOLS; v += 32) p[v] = exp((p[v] - most) / temperature);
    __syncwarp();
    return at;
}

// Sort each row of p (count, SYMBOLS) from the likeliest to the least likely into `sorted`, and the ids into `order`.
// Equal values are in the order of their ids. All threads of a block take part.
__device__ void sort(const double* p, int count, double* sorted, int* order) {
    // A thread finds the rank of a symbol by counting all symbols that come before it.
    for (int i = threadIdx.x; i < count * SYMBOLS; i += blockDim.x) {
        const int first = i / SYMBOLS * SYMBOLS;
        const double mine = p[i];
        int rank = first;
#pragma unroll 4
        for (int v = 0; v < SYMBOLS; v++) rank += p[first + v] > mine || (p[first + v] == mine && first + v < i);
        sorted[rank] = mine, order[rank] = i - first;
    }
}

// Set all but the likeliest symbols of the sorted p (SYMBOLS,) to 0. Keep the first top_k (0: all), and of these the
// fewest whose probabilities sum to top_p or more.
__device__ void keep_likeliest(double* p, int top_k, double top_p) {
    double mine = 0, total;
    for (int v = lane() * SHARE; v < share_end(); v++) {
        if (top_k && v >= top_k) p[v] = 0;
        mine += p[v];
    }
    sum_before(mine, total);
    mine = 0;
    for (int v = lane() * SHARE; v < share_end(); v++) mine += p[v] /= total;
    double sum = sum_before(mine, total);
    for (int v = lane() * SHARE; v < share_end(); v++) {
        const double here = p[v];
        sum += here;
        if (sum - here >= top_p) p[v] = 0;
    }
}

// Return the first index of p (SYMBOLS,) at which the cumulative sum is above u times the total, but never an index
// with p = 0. Return -1 if all of p is NaN.
__device__ int pick(const double* p, double u) {
    double mine = 0, total;
    for (int v = lane() * SHARE; v < share_end(); v++) mine += p[v];
    double sum = sum_before(mine, total);
    int found = -1, likely = -1;
    for (int v = lane() * SHARE; v < share_end(); v++) {
        sum += p[v];
        if (!(p[v] > 0)) continue;
        likely = v;
        if (found < 0 && sum > u * total) found = v;
    }
    const unsigned with = __ballot_sync(~0u, found >= 0), any = __ballot_sync(~0u, likely >= 0);
    if (!any) return -1;  // p is NaN
    // Rounding may leave the cumulative sum at or below u times the total. Then the last possible symbol is taken.
    return __shfl_sync(~0u, with ? found : likely, with ? __ffs(with) - 1 : 31 - __clz(any));
}
