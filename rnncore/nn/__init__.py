"""The network, one file a part, forward and backward side by side: embedding -> LSTM layers with dropout -> head.

    lstm.py        one LSTM layer over a whole window: begin here
    embedding.py   the embedding table, and its product with the first layer's input weights
    dropout.py     masks of dropout and of weight drop, each a function of seed, step, layer and position
    head.py        the logits
    stack.py       the whole network over a window of a batch
    stepper.py     the whole network, one symbol at a time
"""
from .dropout import Dropout, WeightDrop
from .lstm import State
from .stack import Workspace

__all__ = ["Dropout", "State", "WeightDrop", "Workspace"]
