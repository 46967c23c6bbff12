// The arithmetic of one LSTM unit, forward and backward, as device functions for float and double.
//
// It is the twin of gates_forward and gates_backward in cpu/gates.py. Every argument is the value of one unit in one
// sequence: i f g o are the four gates, keep is 0 where a new document begins and 1 elsewhere. gates_factors does the
// first half of Python's gates_backward: a card can compute that half while it waits for dh. The CUDA kernels and the
// processor's loops (cpu/host.cpp) include this text, after a tanh_of of their own.

template <typename T> __device__ inline T sigmoid(T z) { return T(0.5) * tanh_of(T(0.5) * z) + T(0.5); }

// i f g o arrive as the pre-activations W_ih x + b + W_hh (keep h_prev) and leave as the activations. c and h are
// written: c = f keep c_prev + i g and h = o tanh(c).
template <typename T>
__device__ inline void gates_forward(T& i, T& f, T& g, T& o, T c_prev, T keep, T& c, T& h) {
    i = sigmoid(i);
    f = sigmoid(f);
    g = tanh_of(g);
    o = sigmoid(o);
    c = f * keep * c_prev + i * g;
    h = o * tanh_of(c);
}

// i f g o arrive as the activations and leave as factors: dz is dc times the factor for i, f and g, and dh times the
// factor for o. through = o (1 - tanh(c)^2) and carry = f keep are written.
template <typename T>
__device__ inline void gates_factors(T& i, T& f, T& g, T& o, T c_prev, T c, T keep, T& through, T& carry) {
    T tanh_c = tanh_of(c);
    T di = g * i * (1 - i);
    T df = keep * c_prev * f * (1 - f);
    T dg = i * (1 - g * g);
    through = o * (1 - tanh_c * tanh_c);
    carry = f * keep;
    o = tanh_c * o * (1 - o);
    i = di;
    f = df;
    g = dg;
}

// i f g o arrive as the factors and leave as dL/dz. dc arrives as dL/dc and leaves as dL/dc_prev.
template <typename T>
__device__ inline void gates_backward(T& i, T& f, T& g, T& o, T through, T carry, T dh, T& dc) {
    o *= dh;
    dc += dh * through;
    i *= dc;
    f *= dc;
    g *= dc;
    dc *= carry;
}
