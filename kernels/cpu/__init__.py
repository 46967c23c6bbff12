"""kernels.cpu computes on NumPy arrays. If this machine has a C++ compiler, the time loops are compiled C++.

    ops.py         the kernel module: every operation of the engine in NumPy
    gates.py       the arithmetic of the LSTM cell, forward and backward
    loops.py       the time loops of a layer in NumPy, for a machine without a compiler
    updates.py     the updates of parameters by Adam and Muon
    native.py      compiles the time loops in C++ (host.cpp, product.hpp, ../gates.cuh), once for each precision
    recurrence.py  calls them on NumPy arrays
    compiler.py    where the C++ compiler is, and the command that installs one
    agreement.py   the self-check of the compiled loops against the formulas
"""
