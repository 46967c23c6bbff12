// The kernels of step control: sums of the losses and of the gradient, and the decision whether the step counts.
// step_control.py launches both.

// Compute partials (2, parts): partial sums of the losses, and of the squares of the gradient. The grid is (parts, 2);
// each block writes one partial sum.
extern "C" __global__ void sums(const REAL* loss, long long losses, const REAL* grads, long long count,
                                double* partials) {
    __shared__ double sum[THREADS];
    const bool square = blockIdx.y;
    const REAL* values = square ? grads : loss;
    const long long size = square ? count : losses;
    double total = 0;
    for (long long k = (long long)blockIdx.x * THREADS + threadIdx.x; k < size; k += (long long)gridDim.x * THREADS) {
        const double value = values[k];
        total += square ? value * value : value;
    }
    sum[threadIdx.x] = total;
    for (int half = THREADS / 2; half; half /= 2) {
        __syncthreads();
        if (threadIdx.x < half) sum[threadIdx.x] += sum[threadIdx.x + half];
    }
    if (threadIdx.x == 0) partials[blockIdx.y * gridDim.x + blockIdx.x] = sum[0];
}

// Decide whether the step counts; one block. control: the number of the step, from 0, and 1 if the run has halted.
// losses and norms are rings: the mean loss and the norm of its gradient, by step. The gradient that was summed is that
// of the summed loss times `times`. If one of the two is not
// finite, the run halts: until the host sets control again, scale is NaN, so that nothing is updated, and the step is
// not counted.
//
// The sums are made in one fixed order, in double: a run that is repeated makes the same decisions.
extern "C" __global__ void decide(const double* partials, int parts, long long* control, double* losses,
                                  double* norms, double* scale, int ring, double positions, double times,
                                  double clip) {
    __shared__ double sum[2][THREADS];
    for (int which = 0; which < 2; which++) {
        double total = 0;
        for (int k = threadIdx.x; k < parts; k += THREADS) total += partials[which * parts + k];
        sum[which][threadIdx.x] = total;
    }
    for (int half = THREADS / 2; half; half /= 2) {
        __syncthreads();
        if (threadIdx.x < half)
            for (int which = 0; which < 2; which++) sum[which][threadIdx.x] += sum[which][threadIdx.x + half];
    }
    if (threadIdx.x) return;
    const double loss = sum[0][0] / positions, norm = sqrt(sum[1][0]) / (positions * times);
    if (!control[1]) {
        losses[control[0] % ring] = loss;
        norms[control[0] % ring] = norm;
        control[1] = !(loss - loss == 0 && norm - norm == 0);  // x - x is NaN if x is NaN or infinite
    }
    const double bound = clip > 0 && norm > clip ? clip / norm : 1;
    const double nothing = 0;
    *scale = control[1] ? nothing / nothing : bound / (positions * times);
    if (!control[1]) control[0]++;
}
