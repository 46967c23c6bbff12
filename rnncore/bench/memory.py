"""The peak memory of a piece of work, measured in a fresh interpreter above what that takes with NumPy alone."""
import importlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]


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


def above_numpy(work: str, *arguments: str | dict[str, Any]) -> int:
    """Return the bytes at the peak of work, "module:function", called with arguments that JSON can carry.

    Raises RuntimeError with the last line that the work wrote on stderr where it fails.
    """
    paths = filter(None, (str(ROOT), os.environ.get("PYTHONPATH")))
    done = subprocess.run([sys.executable, "-c", f"from {__name__} import child; child()", work, json.dumps(arguments)],
                          env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)}, capture_output=True, text=True)
    if done.returncode:
        words = done.stderr.strip().splitlines()
        raise RuntimeError(f"its memory could not be measured: {words[-1] if words else done.returncode}")
    return int(done.stdout.splitlines()[-1])


def child() -> None:
    """Run the work in the fresh interpreter: memory.above_numpy reads what this writes."""
    importlib.import_module("numpy")
    before, (module, function) = peak(), sys.argv[1].split(":")
    getattr(importlib.import_module(module), function)(*json.loads(sys.argv[2]))
    sys.stdout.write(f"{peak() - before}\n")
