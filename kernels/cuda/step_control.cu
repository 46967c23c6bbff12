// The kernel of step control: sums of the losses and of the gradient, and the decision whether the step counts.
// step_control.py launches it.

// Return the sum of the values of all threads of the block, in thread 0, in one fixed order.
__device__ double sum_of_block(double value) {
    __shared__ double sum[THREADS];
    __syncthreads();
    sum[threadIdx.x] = value;
    for (int half = THREADS / 2; half; half /= 2) {
        __syncthreads();
        if (threadIdx.x < half) sum[threadIdx.x] += sum[threadIdx.x + half];
    }
    return sum[0];
}

// Decide whether the step counts. The grid is (parts, 2): each block writes a partial sum to partials (2, parts), of
// the losses or of the squares of the gradient. The block that ends last decides; `ended` counts them, 0 before and
// after.
//
// control: the number of the step, from 0, and 1 if the run has halted. losses and norms are rings: the mean loss and
// the norm of its gradient, by step. The gradient that is given is that of the summed loss times `times`. If loss or
// norm is not finite, the run halts: until the host sets control again, scale is NaN, so that nothing is updated, and
// the step is not counted.
//
// The sums are made in one fixed order, in double: a run that is repeated makes the same decisions.
extern "C" __global__ void decide(const REAL* loss, long long positions, const REAL* grads, long long count,
                                  double* partials, unsigned* ended, long long* control, double* losses, double* norms,
                                  double* scale, int ring, double times, double clip) {
    const bool square = blockIdx.y;
    const REAL* values = square ? grads : loss;
    const long long size = square ? count : positions;
    double total = 0;
    for (long long k = (long long)blockIdx.x * THREADS + threadIdx.x; k < size; k += (long long)gridDim.x * THREADS) {
        const double value = values[k];
        total += square ? value * value : value;
    }
    __shared__ bool last;
    total = sum_of_block(total);
    if (threadIdx.x == 0) {
        partials[blockIdx.y * gridDim.x + blockIdx.x] = total;
        __threadfence();  // before this block is counted
        last = atomicInc(ended, 2 * gridDim.x - 1) == 2 * gridDim.x - 1;
    }
    __syncthreads();
    if (!last) return;
    __threadfence();
    double sums[2];
    for (int which = 0; which < 2; which++) {
        total = 0;
        for (int k = threadIdx.x; k < gridDim.x; k += THREADS) total += __ldcg(partials + which * gridDim.x + k);
        sums[which] = sum_of_block(total);
    }
    if (threadIdx.x) return;
    const double mean = sums[0] / positions, norm = sqrt(sums[1]) / (positions * times);
    if (!control[1]) {
        losses[control[0] % ring] = mean;
        norms[control[0] % ring] = norm;
        control[1] = !(mean - mean == 0 && norm - norm == 0);  // x - x is NaN if x is NaN or infinite
    }
    const double bound = clip > 0 && norm > clip ? clip / norm : 1;
    const double nothing = 0;
    *scale = control[1] ? nothing / nothing : bound / (positions * times);
    if (!control[1]) control[0]++;
}
