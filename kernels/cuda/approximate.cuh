// sigmoid and tanh of floats by two instructions of a card, 2^x and 1 / x, for kernels whose products have 16-bit
// operands.
//
// The instructions are right to 2 and 1 units in the last place (2^-22, 2^-23 of the result). So sigmoid is right to
// 4e-7, and tanh to 2e-6 of the result. A 16-bit number is right to 5e-4 of itself. gates.cuh comes after this text,
// and takes these functions for floats in place of its own sigmoid and of the library's tanh.

constexpr float LOG2_E = 1.44269504f;

__device__ inline float sigmoid(float z) { return rcp_approx(1 + ex2_approx(-LOG2_E * z)); }

__device__ inline float tanh_of(float z) {
    // Near 0 the difference 1 - 2 / (e^2z + 1) has few digits. There the Taylor series is right to 1e-8.
    const float s = z * z;
    const float series = 62 / 2835.f * s - 17 / 315.f;
    const float small = z * (1 + s * (-1 / 3.f + s * (2 / 15.f + s * series)));
    const float large = 1 - 2 * rcp_approx(1 + ex2_approx(2 * LOG2_E * fabsf(z)));
    return fabsf(z) < 0.25f ? small : copysignf(large, z);
}
