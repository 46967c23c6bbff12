"""torch's kinds: how numbers are held and multiplied, those of each precision class, and what torch asks cuDNN for."""
from typing import NamedTuple

import torch

from .task import Task

LOSS_SCALE = 1024.0  # factor of the loss with float16's gradients; fixed, for a scaler that adapts waits for the card


class Kind(NamedTuple):
    """How numbers are held and multiplied: the weights' dtype, autocast's (or None), whether TF32 is allowed."""
    weights: torch.dtype
    autocast: torch.dtype | None = None
    tf32: bool = True

    @property
    def scale(self) -> float:
        return LOSS_SCALE if torch.float16 in (self.weights, self.autocast) else 1.0

    @property
    def computed(self) -> torch.dtype:
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
    """Return torch's kinds in a class; for writing without autocast, which would convert the weights at each symbol."""
    return [kind for kind in CLASSES[precision] if task.work != "writing" or not KINDS[kind].autocast]


def cudnn_algorithm(task: Task, kind: str) -> str:
    """Return what torch asks of cuDNN on a card from sm_80 on, forward and backward, by the rules in its RNN.cpp."""
    hidden, computed = task.sizes.hidden, KINDS[kind].computed
    n = task.streams if task.work == "writing" else task.config.batch
    persistent = (computed == torch.float16 and task.sizes.layers == 1 and hidden % 128 == 0 and hidden <= 1024
                  and task.sizes.embed % 128 == 0 and n % 8 == 0 and n <= 128)
    small = 0 if computed == torch.float64 else 1  # PERSIST_STATIC_SMALL_H has no float64
    forward, backward = ("PERSIST_STATIC_SMALL_H" if hidden <= small * most else
                         "PERSIST_STATIC" if persistent else "STANDARD" for most in (192, 128))
    return forward if task.work in ("writing", "forward") or forward == backward else f"{forward}, backward {backward}"
