"""How many times as fast as in float32 this processor trains in bf16: measured once, and remembered in the cache."""
import time
from contextlib import suppress
from statistics import median

import numpy as np

from .config import ModelConfig
from .data.vocab import Vocab
from .kernels import host
from .model import CharLM
from .runs.files import write_whole

SIZES = ModelConfig(vocab_size=64, embed=64, hidden=256, layers=1)
STEPS, COLUMNS = 16, 32
ROUNDS = 5     # all rounds take well under a second
WORTH = 1.1    # a smaller gain is not worth a line
MOST = 100.0   # a remembered number above it is no measurement


def gain() -> float | None:
    """Return the ratio of a training step's time in float32 to its time in bf16; None if no bf16 is here.

    It is measured at the first call on this machine, and again for another compiler or version of the compiled loops.
    """
    if host.why_not("eager", "bf16"):
        return None
    with suppress(OSError, ValueError, host.native.Unavailable):
        record = host.native.cache() / f"gain-{host.native.key('bf16')}"
        with suppress(OSError, ValueError):
            found = float(record.read_text()[:40])
            if 0 < found < MOST:
                return found
        found = measured()
        write_whole(record, f"{found:.4f}\n".encode())
        return found
    return measured()


def measured() -> float:
    """Measure the ratio: forward, loss and back-propagation of a small model, in turns, on one thread."""
    vocab = Vocab.from_code_points(range(1, SIZES.vocab_size + 1))
    models = [CharLM(SIZES, vocab, "cpu", dtype) for dtype in ("float32", "bf16")]
    x, y = np.random.default_rng(0).integers(0, SIZES.vocab_size, (2, STEPS, COLUMNS))
    times: list[list[float]] = []
    with host.single_threaded():
        for _ in range(1 + ROUNDS):
            times.append([_seconds(model, x, y) for model in models])
    return median(plain / bf16 for plain, bf16 in times[1:])  # the first round also makes the workspaces


def _seconds(model: CharLM, x: np.ndarray, y: np.ndarray) -> float:
    begun = time.perf_counter()
    model.loss_and_grads(x, y)
    return time.perf_counter() - begun
