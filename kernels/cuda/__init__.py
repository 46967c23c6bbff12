"""kernels.cuda computes on CuPy arrays and has the fast paths of a card. Of other files only cards.py imports CuPy.

    ops.py            the kernel module: every operation of the engine, each with a CUDA kernel of its own
    updates.py        the updates of parameters by Adam and Muon
    text.py           CUDA C++ that several kernels share
    paths.py          the fast paths: the products and the time loops of each
    cublas.py         matrix products in a precision class, which a graph can capture
    stepwise.py       time loops with one product and one gate kernel at each step (steps.cu)
    wavefront.py      time loops that run all layers of a diagonal at once (steps.cu)
    persistent.py     time loops with one launch for each layer, weights held in registers (persistent.cu, tagged.cu)
    graph.py          CUDA graphs: work that is captured once and replayed
    step_control.py   counters and rings on the card that control captured steps (step_control.cu)
    writer.py         writes text, many characters in one launch (writer.cu)
"""
