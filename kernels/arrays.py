"""Types of the arrays that the engine works on: NumPy's on a processor, CuPy's on a card, with the same interface.

Shapes stand in comments and docstrings; T, N, E, H, V, L are those of README.md.
"""
from typing import TypeAlias

import numpy as np

Array: TypeAlias = np.ndarray  # real numbers of the model's dtype, on the model's device
Ids: TypeAlias = np.ndarray    # ids of symbols, whole numbers from 0 below V: on the host, or on the model's device
