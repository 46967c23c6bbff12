"""torch's kinds: a kind is a way to store and to multiply numbers; each precision class has one kind or two.

cudnn_algorithm tells which algorithm of cuDNN torch uses for a task.
"""
from typing import NamedTuple

import torch

from .task import Task

# Factor of the loss, so that small gradients do not become zero in float16. It is fixed, because torch's scaler that
# adapts it waits for the GPU.
LOSS_SCALE = 1024.0


class Kind(NamedTuple):
    """A way to store and to multiply numbers."""
    weights: torch.dtype                 # dtype of the weights
    autocast: torch.dtype | None = None  # dtype of the products under autocast; None: without autocast
    tf32: bool = True                    # float32 products may round their factors to TF32

    @property
    def scale(self) -> float:
        """The factor of the loss before backward: LOSS_SCALE with float16, else 1."""
        return LOSS_SCALE if torch.float16 in (self.weights, self.autocast) else 1.0

    @property
    def computed(self) -> torch.dtype:
        """The dtype in which the LSTM computes."""
        return self.autocast or self.weights


KINDS = {
    "float64": Kind(torch.float64, tf32=False), "float32": Kind(torch.float32, tf32=False), "tf32": Kind(torch.float32),
    "bf16 autocast": Kind(torch.float32, torch.bfloat16), "bf16 weights": Kind(torch.bfloat16),
    "fp16 autocast": Kind(torch.float32, torch.float16), "fp16 weights": Kind(torch.float16),
}
CLASSES = {  # precision class -> torch's kinds in it
    "float64": ("float64",), "float32": ("float32",), "tf32": ("tf32",), "bf16": ("bf16 autocast", "bf16 weights"),
    "fp16": ("fp16 autocast", "fp16 weights"),
}


def kinds(task: Task, precision: str) -> list[str]:
    """Return the names of torch's kinds in a precision class.

    Writing leaves out the kinds with autocast, which would convert the weights again for each symbol.
    """
    return [kind for kind in CLASSES[precision] if task.work != "writing" or not KINDS[kind].autocast]


def cudnn_algorithm(task: Task, kind: str) -> str:
    """Return the algorithm that torch requests from cuDNN on a GPU of sm_80 or later, forward and backward.

    The rules are those of torch's RNN.cpp.
    """
    hidden, computed = task.sizes.hidden, KINDS[kind].computed
    n = task.streams if task.work == "writing" else task.config.batch
    persistent = (computed == torch.float16 and task.sizes.layers == 1 and hidden % 128 == 0 and hidden <= 1024
                  and task.sizes.embed % 128 == 0 and n % 8 == 0 and n <= 128)
    small = 0 if computed == torch.float64 else 1  # PERSIST_STATIC_SMALL_H has no float64
    forward, backward = ("PERSIST_STATIC_SMALL_H" if hidden <= small * most else
                         "PERSIST_STATIC" if persistent else "STANDARD" for most in (192, 128))
    return forward if task.work in ("writing", "forward") or forward == backward else f"{forward}, backward {backward}"
