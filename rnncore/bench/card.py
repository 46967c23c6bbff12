"""`rnncore bench` on a GPU: which rows, in which classes, on which machine; card_contest.py measures each."""
import gc
from pathlib import Path

from .. import kernels
from ..cli.card_table import headline, lines, summary
from ..config import BENCH, BENCH_CARD, PATHS
from .compare_card import measure
from .task import Task

__all__ = ["headline", "lines", "machine", "measure_all", "summary"]
DRIVER = Path("/proc/driver/nvidia/version")


def measure_all(settings, given: dict, device: str, dtype: str | None, path: str, rounds: int, against_torch: bool,
                torch_device: str):
    """The figures of every row in each of its classes, as they are made.

    settings: names of rows, none for all; given: fields that go before the row's; dtype: one class, None for the row's;
    path: one of PATHS, or all.
    """
    rival = None
    if against_torch:
        from . import torch_card as rival
    for name in dict.fromkeys(settings or BENCH_CARD):
        work, sizes, classes = BENCH_CARD.get(name) or ("training", BENCH[name], ("float32", "tf32", "bf16"))
        if name.startswith("layer"):
            sizes = sizes | {key: value for key, value in given.items() if key != "vocab_size"}
        else:
            sizes = sizes | given
        task = Task.of(work, sizes)
        for precision in [dtype] if dtype else classes:
            yield measure(name, task, precision, device, rounds,
                          PATHS if path == "all" else (path,), rival, torch_device)
        gc.collect()  # what a row held on the card goes before the next
        if rival:
            rival.release()


def machine(device: str, rival) -> dict:
    """The card, and what is installed for it."""
    index = int(device.partition(":")[2] or 0)
    found = kernels.describe(index)
    if DRIVER.is_file():
        found["driver"] = driver(DRIVER.read_text(encoding="utf-8", errors="replace"))
    if rival:
        found |= {"torch cuda": rival.torch.version.cuda, "cudnn": rival.torch.backends.cudnn.version()}
    return found


def driver(text: str) -> str:
    """The version in the first line of the driver's own account: the first word of digits and dots."""
    words = text.splitlines()[0].split() if text else []
    return next((word for word in words if word.replace(".", "").isdecimal() and "." in word), "unknown")
