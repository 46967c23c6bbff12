// The sums by which a captured step decides, and the decision: step_control.py launches both.

// partials (2, parts): of the losses, and of the gradient's squares, a part of each a block; grid (parts, 2).
extern "C" __global__ void sums(const REAL* loss, long long losses, const REAL* grads, long long count,
                                double* partials) {
    __shared__ double room[THREADS];
    const bool square = blockIdx.y;
    const REAL* values = square ? grads : loss;
    const long long size = square ? count : losses;
    double total = 0;
    for (long long k = (long long)blockIdx.x * THREADS + threadIdx.x; k < size; k += (long long)gridDim.x * THREADS) {
        const double value = values[k];
        total += square ? value * value : value;
    }
    room[threadIdx.x] = total;
    for (int half = THREADS / 2; half; half /= 2) {
        __syncthreads();
        if (threadIdx.x < half) room[threadIdx.x] += room[threadIdx.x + half];
    }
    if (threadIdx.x == 0) partials[blockIdx.y * gridDim.x + blockIdx.x] = room[0];
}

// One block. control: the step that is taken, from 0, and whether the run has halted; losses and norms: a ring by step.
// A step whose loss or gradient is no finite number halts the run: until the host has looked, scale is NaN, at which
// nothing is updated, and the counter stands.
extern "C" __global__ void judge(const double* partials, int parts, long long* control, double* losses, double* norms,
                                 double* scale, int ring, double positions, double clip) {
    __shared__ double room[2][THREADS];
    for (int which = 0; which < 2; which++) {
        double total = 0;
        for (int k = threadIdx.x; k < parts; k += THREADS) total += partials[which * parts + k];
        room[which][threadIdx.x] = total;
    }
    for (int half = THREADS / 2; half; half /= 2) {
        __syncthreads();
        if (threadIdx.x < half)
            for (int which = 0; which < 2; which++) room[which][threadIdx.x] += room[which][threadIdx.x + half];
    }
    if (threadIdx.x) return;
    const double loss = room[0][0] / positions, norm = sqrt(room[1][0]) / positions;
    if (!control[1]) {
        losses[control[0] % ring] = loss;
        norms[control[0] % ring] = norm;
        control[1] = !(loss - loss == 0 && norm - norm == 0);
    }
    const double bound = clip > 0 && norm > clip ? clip / norm : 1;
    const double nothing = 0;
    *scale = control[1] ? nothing / nothing : bound / positions;
    if (!control[1]) control[0]++;
}
