"""bench measures the speed of training and writing, the engine's and torch's side by side from the same weights.

    cpu.py              one setting on a processor: figures of the engine, of matrix products and of torch
    card.py             the rows of a card: every path of ours and every kind of torch's, by precision class
    ours.py             the engine's side, on both
    torch_cpu.py        torch's side on a processor
    torch_card.py       torch's side on a card, and the float64 reference
    torch_precision.py  torch's kinds: the precisions of each class
    torch_graph.py      torch's work captured in a CUDA graph
    task.py             the work: sizes, weights, symbols, and how many operations that takes
    speed.py            entries take turns
    memory.py           peak memory of a few training steps, in a process of its own
    attempt.py          one way to do a row's work on a card: its result and entry, or why it is not timed
    parity.py           how far a result may be from the float64 reference's

cpu.py and card.py return figures as JSON can carry them; cli/bench.py prints them.
"""
