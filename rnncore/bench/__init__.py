"""The benchmark: speed of training and of writing, the engine's and torch's side by side, from the same weights.

    cpu.py              one setting on a processor: the engine, matrix products and torch
    card.py             the rows of a GPU: every path of the engine and every kind of torch's, by precision class
    ours.py             the engine's side, on a processor and on a GPU
    torch_cpu.py        torch's side on a processor
    torch_card.py       torch's side on a GPU, and the float64 reference
    torch_precision.py  torch's kinds: the precisions of each class
    torch_graph.py      torch's work captured in a CUDA graph
    task.py             the work: sizes, weights, symbols, and the number of operations
    speed.py            entries take turns
    memory.py           peak memory of a few training steps, in a process of its own
    attempt.py          one way to do a row's work on a GPU: its result and entry, or the reason why it is not timed
    parity.py           how far a result may be from the float64 reference

cpu.py and card.py return figures that JSON can hold; cli/bench.py prints them.
"""
