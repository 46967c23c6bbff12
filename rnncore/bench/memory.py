"""The peak memory of a few training steps, measured in a fresh interpreter. The memory of Python and NumPy is left out.

The peak of a process never falls, so in the benchmark's own process it would include all that was measured before.
"""
import importlib
import json
import os
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

from ..config import ModelConfig, TrainConfig

ROOT = Path(__file__).resolve().parents[2]
MEASURED = 3  # training steps whose peak is measured


def peak() -> int:
    """Return the largest number of bytes that this process has held in memory so far."""
    # On Linux, ru_maxrss also counts what the parent process held when it started this one; VmHWM does not.
    status = Path("/proc/self/status")
    if status.is_file():
        for line in status.read_text(encoding="utf-8").splitlines():
            if line.startswith("VmHWM:"):
                return 1024 * int(line.split()[1])
    import resource
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def of_training(sizes: ModelConfig, config: TrainConfig, threads: int, side: str, device: str, dtype: str) -> int:
    """Return the peak memory of MEASURED training steps on `threads` threads, in bytes, without Python and NumPy.

    side: "module:class" of ours.Engine or torch_cpu.TorchBaseline; device and dtype: arguments of the class. Raises
    RuntimeError with the last line of the fresh interpreter's stderr if it fails.
    """
    asked = json.dumps([asdict(sizes), asdict(config), threads, side, device, dtype])
    paths = filter(None, (str(ROOT), os.environ.get("PYTHONPATH")))
    done = subprocess.run([sys.executable, "-c", f"from {__name__} import child; child()", asked],
                          env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)}, capture_output=True, text=True)
    if done.returncode:
        words = done.stderr.strip().splitlines()
        raise RuntimeError(f"its memory could not be measured: {words[-1] if words else done.returncode}")
    return int(done.stdout.splitlines()[-1])


def child() -> None:
    """Take the steps in the fresh interpreter, and write the bytes to stdout, where `of_training` reads them."""
    importlib.import_module("numpy")
    before = peak()
    sizes, config, threads, side, device, dtype = json.loads(sys.argv[1])
    module, name = side.split(":")
    made = getattr(importlib.import_module(module), name)(ModelConfig(**sizes), TrainConfig(**config), device, dtype)
    training = made.training(threads)
    with training.around():
        for _ in range(MEASURED):
            training.work()
    sys.stdout.write(f"{peak() - before}\n")
