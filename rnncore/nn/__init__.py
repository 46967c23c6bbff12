"""nn is the network, a file a part, forward and backward side by side: embedding -> LSTM layers with dropout -> head.

    lstm.py        one LSTM layer over a whole window
    embedding.py   the table of symbols, and its product with the first layer's input weights
    dropout.py     masks of dropout and of weight drop, each a function of seed, step, layer and place
    head.py        the logits
    stack.py       all of them over a window of a batch
    stepper.py     all of them, one symbol at a time
"""
from .dropout import Dropout, WeightDrop
from .lstm import State
from .stack import Workspace

__all__ = ["Dropout", "State", "WeightDrop", "Workspace"]
