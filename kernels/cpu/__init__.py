"""kernels.cpu is the engine's work on NumPy arrays: ops.py, with loops of C++ in place of Python's where they compile.

    ops.py         the kernel module: every operation of the engine, written in NumPy
    updates.py     the updates of parameters by Adam and Muon
    native.py      the time loops in C++ (host.cpp, product.hpp, ../gates.cuh), compiled on this machine when first used
    agreement.py   the compiled loops are used only where they agree with the formulas
"""
