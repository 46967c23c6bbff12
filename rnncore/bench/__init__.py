"""bench measures the speed of training and writing, the engine's and torch's side by side from the same weights.

    speed.py            the engine's work on a processor, and how entries take turns
    memory.py           peak memory of a few training steps, in a process of its own
    task.py             a row of the benchmark of a card: the work, its sizes, weights and numbers
    compare.py          one setting on a processor: all entries take turns
    compare_card.py     one row on a card: every path, every class
    card.py             all rows of a card, and what it is
    parity.py           how far an entry may be from the float64 reference
    ours.py             the engine's side on a card
    torch_cpu.py        torch's side on a processor
    torch_card.py       torch's side on a card, eager and in a CUDA graph
    torch_precision.py  the precisions of torch, by class
    torch_graph.py      torch's work captured in a CUDA graph
"""
