"""Errors planted in gates.cuh and kernels/cuda must be caught by the tests that need no GPU: a tree is copied, spoiled, run."""
import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.skipif(shutil.which("c++") is None, reason="no C++ compiler (c++) on this machine")

PLANTED = [
    ("gates.cuh", "T di = g * i * (1 - i);", "T di = g * i;"),
    ("gates.cuh", "T dg = i * (1 - g * g);", "T dg = i * (1 - g);"),
    ("gates.cuh", "T df = keep * c_prev * f * (1 - f);", "T df = c_prev * f * (1 - f);"),
    ("gates.cuh", "carry = f * keep;", "carry = f;"),
    ("gates.cuh", "dc += dh * through;", "dc = dh * through;"),
    ("gates.cuh", "g = tanh_of(g);", "g = sigmoid(g);"),
    ("cuda/ops.py", "gates[i + m] = gf, gates[i + 2 * m] = gg, gates[i + 3 * m] = go;\n    \"\"\", \"gates_forward_kernel\"",
     "gates[i + 2 * m] = gf, gates[i + m] = gg, gates[i + 3 * m] = go;\n    \"\"\", \"gates_forward_kernel\""),
    ("cuda/ops.py", "GATES_BACKWARD(gates, c_prev, c,", "GATES_BACKWARD(gates, c, c,"),
    ("cuda/ops.py", "gates_backward(gi, gf, gg, go, through, carry,", "gates_backward(gi, gf, gg, go, carry, through,"),
    ("cuda/ops.py", "logits[i + target * columns] -= 1;", "logits[target * columns] -= 1;"),
    ("cuda/ops.py", "symbols + ids[i % columns]", "symbols + ids[i % symbols]"),
    ("cuda/ops.py", "ids[first + i % positions]", "ids[first + (i + 1) % positions]"),
    ("cuda/updates.py", "(sqrt(v) * (T)correction + (T)eps)", "(sqrt(v + (T)eps) * (T)correction)"),
    ("cuda/ops.py", "bits >= threshold", "bits > threshold + 3000"),
    ("philox.cuh", "k1 += 0xBB67AE85u;", "k1 += 0xBB67AE84u;"),
]


def outcome(folder: Path) -> int:
    """The exit code of the host tests of the tree in `folder`: 0 where all pass, 1 where one fails."""
    done = subprocess.run([sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "tests/cuda/test_cuda_on_the_host.py",
                           "-k", "steps_equal or random_numbers or scatter"], cwd=folder, capture_output=True, text=True,
                          env={**os.environ, "PYTHONPATH": str(folder), "OPENBLAS_NUM_THREADS": "1"})
    assert done.returncode in (0, 1), done.stdout + done.stderr
    return done.returncode


def copy(folder: Path) -> Path:
    for name in ("rnncore", "kernels", "data", "cli"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("cuda/test_cuda_on_the_host.py", "conftest.py"):
        (folder / "tests" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / "tests" / name, folder / "tests" / name)
    shutil.copytree(ROOT / "tests/fakes", folder / "tests/fakes", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "setup.cfg", folder)
    return folder


def planted_error_is_caught(folder: Path, name: str, right: str, wrong: str) -> bool:
    path = copy(folder) / "kernels" / name
    text = path.read_text(encoding="utf-8")
    assert text.count(right) == 1, f"{name} no longer has just once: {right}"
    path.write_text(text.replace(right, wrong), encoding="utf-8")
    return outcome(folder) == 1


@pytest.mark.slow  # about a minute: a tree of kernels compiled for each planted error
def test_every_planted_error_is_caught_and_the_right_tree_passes(tmp_path):
    assert outcome(copy(tmp_path / "right")) == 0
    with ThreadPoolExecutor(2) as pool:
        jobs = [pool.submit(planted_error_is_caught, tmp_path / str(k), *error) for k, error in enumerate(PLANTED)]
        missed = [error for job, error in zip(jobs, PLANTED, strict=True) if not job.result()]
    assert not missed
