"""The peak memory of a few training steps, measured in a fresh interpreter above what that takes with NumPy alone."""
import importlib
import json
import os
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

from ..config import ModelConfig, TrainConfig

ROOT = Path(__file__).resolve().parents[2]
MEASURED = 3  # training steps


def peak() -> int:
    """Return the bytes that this process has held at most.

    Linux's VmHWM; ru_maxrss, for elsewhere, would count there what the parent held when it started this process.
    """
    status = Path("/proc/self/status")
    if status.is_file():
        for line in status.read_text(encoding="utf-8").splitlines():
            if line.startswith("VmHWM:"):
                return 1024 * int(line.split()[1])
    import resource
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def of_training(sizes: ModelConfig, config: TrainConfig, threads: int, side: str, device: str, dtype: str) -> int:
    """Return the bytes at the peak of MEASURED training steps on so many threads.

    side: "module:class" of ours.Engine or of torch's. Raises RuntimeError with the last line that the fresh interpreter
    wrote on stderr where it fails.
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
    """Take the steps in the fresh interpreter: `of_training` reads what this writes."""
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
