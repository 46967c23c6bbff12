"""What the device can do for a run: refuse a precision or a path that it lacks, or say what would be faster there."""
from dataclasses import replace

from ..config import DTYPE, ON_GPUS
from ..kernels import Kernel
from ..kernels.paths import storage
from ..train import Training
from .options import AUTO, OptionError, RunOptions


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


def computed(options: RunOptions, kernel: Kernel) -> tuple[RunOptions, list[str]]:
    """Return the options of a new run with the precision that it is computed in, and a note if that is another one.

    The run itself keeps the precision of its options, for a device that has it.
    """
    asked = options.dtype or DTYPE
    reason = kernel.why_not("eager", asked)
    if reason is None:
        return replace(options, dtype=asked), []
    cause = reason.removesuffix(f": take {DTYPE}")
    return replace(options, dtype=storage(asked)), [
        f"--dtype {cause}: going on in {storage(asked)}; the run takes {asked} where it is resumed on a machine that "
        "has it"]


def precision(stored: str, kernel: Kernel) -> tuple[str, list[str]]:
    """Return the precision for resuming a run: `stored`, or its arrays' dtype and a note if the device lacks it."""
    reason = kernel.why_not("eager", stored)
    if reason is None:
        return stored, []
    return storage(stored), [f"the run's precision: {reason}; going on in {storage(stored)}"]


def faster(options: RunOptions, kernel: Kernel) -> list[str]:
    """Return a line if this processor would train faster in bf16, and the user has named no precision."""
    if kernel.name != "cpu" or options.dtype is not None:
        return []
    from .. import gain  # imported here, because it is needed for new runs on a processor only
    found = gain.gain()
    return [] if found is None or found < gain.WORTH else [
        f"--dtype bf16 would train about {found:.1f} times as fast on this processor, with equal losses within noise"]


def slower(training: Training) -> list[str]:
    """Return one warning if a run that is not finished trains more slowly than it could (`Kernel.why_slower`)."""
    reason = training.model.kernel.why_slower(training.model.precision) if training.done() < 1 else None
    return [f"warning: {reason}"] if reason else []
