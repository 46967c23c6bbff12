"""kernels.cuda is the engine's work on CuPy arrays, and the fast paths of a card. Only cards.py imports CuPy too.

    ops.py            the kernel module: every operation of the engine, a kernel of our own each
    updates.py        the updates of parameters by Adam and Muon
    text.py           CUDA C++ that several kernels share
    paths.py          the fast paths: which products and which time loops
    cublas.py         products in a precision class, from memory that is there before
    stepwise.py       time loops: a product and a gate kernel a step (steps.cu)
    wavefront.py      time loops: all layers of a diagonal at once (steps.cu)
    persistent.py     time loops: one launch a layer, the weights held in registers (persistent.cu)
    graph.py          a graph of launches, recorded once and replayed
    step_control.py   counters and rings by which a captured step goes (step_control.cu)
    writer.py         text written in a few launches (writer.cu)
"""
