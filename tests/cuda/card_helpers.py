"""Tiny tasks, and torch's side on a CPU, for the tests of bench on a card."""
import contextlib
import functools
import gc

import pytest

from rnncore.bench.speed import Options
from rnncore.bench.task import Task

SIZES = {"layers": 2, "hidden": 8, "embed": 5, "vocab_size": 7, "batch": 6, "seq": 9}
WORK = {"training": {}, "writing": {"streams": 3}, "forward": {"layers": 1}, "forward and backward": {"layers": 1}}


def task(work: str = "training", **sizes) -> Task:
    """A tiny one of each kind."""
    return Task.of(work, SIZES | WORK[work] | sizes)


def options(with_torch: bool = True, device: str = "cpu", torch_device: str = "cpu", rounds: int = 3) -> Options:
    """A few rounds, of which nothing is said."""
    return Options(device, torch_device if with_torch else None, rounds, lambda line: None, 10.0)


def swap_gates(weights) -> None:
    """Exchange the input and the forget gate of the first layer, in parameters or in tensors under torch's names."""
    for name in ("lstm.weight_ih_l0", "lstm.weight_hh_l0"):
        gates = weights[name].reshape(4, -1, weights[name].shape[1])
        gates[:2] = gates[1::-1].copy()


@functools.cache
def imported_torch():
    """The module torch, whose objects no later collection of garbage looks through: `bench` asks for many."""
    torch = pytest.importorskip("torch", reason="the comparison with torch needs `pip install torch`")
    gc.collect()
    gc.freeze()
    return torch


@contextlib.contextmanager
def torch_side():
    """The module torch_card, on one thread, with torch's settings as before afterwards; a skip without torch.

    Without oneDNN, whose LSTM has no bfloat16 on many a CPU.
    """
    torch = imported_torch()
    from rnncore.bench import torch_card as graphed
    threads, tf32 = torch.get_num_threads(), (torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32)
    torch.set_num_threads(1)
    onednn = torch.backends.mkldnn.set_flags(False)
    torch.manual_seed(0)
    yield graphed
    torch.backends.mkldnn.set_flags(*onednn)
    torch.set_num_threads(threads)
    torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = tf32
