// The random generator Philox4x32-10 (Salmon et al. 2011) in CUDA C++; kernels/cpu/ops.py has it in NumPy.
//
// x arrives as the four words of the counter and leaves as four random words of 32 bits. The key is k0 and k1.

__device__ inline void philox4x32(unsigned x[4], unsigned k0, unsigned k1) {
    for (int round = 0; round < 10; round++) {
        unsigned long long p0 = 0xD2511F53ull * x[0], p1 = 0xCD9E8D57ull * x[2];
        x[0] = (unsigned)(p1 >> 32) ^ x[1] ^ k0;
        x[2] = (unsigned)(p0 >> 32) ^ x[3] ^ k1;
        x[1] = (unsigned)p1;
        x[3] = (unsigned)p0;
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
}
