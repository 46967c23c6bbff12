"""What the device can do for a run: refuse a precision or a path that it lacks, or say what would be faster there.

How much faster a processor trains in bf16 is measured once and remembered in the cache.
"""
import time
from contextlib import suppress
from statistics import median
from subprocess import SubprocessError

import numpy as np

from .config import DTYPE, ON_GPUS, ModelConfig
from .data.vocab import Vocab
from .kernels import Kernel, host
from .kernels.paths import storage
from .model import CharLM
from .runs.files import write_whole
from .runs.options import AUTO, OptionError, RunOptions
from .train import Training

# The model and the steps that are timed.
SIZES = ModelConfig(vocab_size=64, embed=64, hidden=256, layers=1)
STEPS, COLUMNS = 16, 32
ROUNDS = 5     # all rounds take well under a second
WORTH = 1.1    # a smaller gain is not worth a line
MOST = 100.0   # a remembered number above it is no measurement


def check_gpu(kernel: Kernel, path: str = AUTO, dtype: str = DTYPE) -> None:
    """Raise OptionError if the device lacks the precision, or if it is a CPU and the path is one of GPUs."""
    if kernel.name != "cpu":
        reason = kernel.why_not("eager", dtype)
        if reason:
            raise OptionError(f"--dtype {dtype}: {reason}")
        return
    if path not in (AUTO, "eager"):
        raise OptionError(f"--cuda-path {path} is a path of GPUs, and this runs on the CPU: leave it out, or take "
                          "--device cuda")
    if dtype in ON_GPUS:
        raise OptionError(f"--dtype {dtype} is a precision of GPUs, and this runs on the CPU: take --dtype float32, or "
                          "--device cuda")


def precision(wanted: str, kernel: Kernel, new: bool = False) -> tuple[str, list[str]]:
    """Return the precision to compute a run in: `wanted`, or its arrays' dtype and a note if the device lacks it.

    new: it is a new run, which keeps the wanted precision for a device that has it.
    """
    reason, lower = kernel.why_not("eager", wanted), storage(wanted)
    if reason is None:
        return wanted, []
    if new:
        return lower, [f"--dtype {reason.removesuffix(f': take {DTYPE}')}: going on in {lower}; the run takes {wanted} "
                       "where it is resumed on a machine that has it"]
    return lower, [f"the run's precision: {reason}; going on in {lower}"]


def faster(options: RunOptions, kernel: Kernel) -> list[str]:
    """Return a line if this processor would train faster in bf16, and the user has named no precision."""
    if kernel.name != "cpu" or options.dtype is not None:
        return []
    found = gain()
    return [] if found is None or found < WORTH else [
        f"--dtype bf16 would train about {found:.1f} times as fast on this processor, with equal losses within noise"]


def slower(training: Training) -> list[str]:
    """Return one warning if a run that is not finished trains more slowly than it could (`Kernel.why_slower`)."""
    reason = training.model.kernel.why_slower(training.model.precision) if training.done() < 1 else None
    return [f"warning: {reason}"] if reason else []


def gain() -> float | None:
    """Return the ratio of a training step's time in float32 to its time in bf16; None if no bf16 is here.

    It is measured at the first call on this machine, and again for another compiler or version of the compiled loops.
    """
    if host.why_not("eager", "bf16"):
        return None
    record = None
    with suppress(OSError, SubprocessError, host.native.Unavailable):
        record = host.native.cache() / f"gain-{host.native.key('bf16')}"
    with suppress(OSError, ValueError):
        remembered = float(record.read_text()[:40]) if record else 0.0
        if 0 < remembered < MOST:
            return remembered
    found = measured()
    with suppress(OSError):
        if record:
            write_whole(record, f"{found:.4f}\n".encode())
    return found


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
