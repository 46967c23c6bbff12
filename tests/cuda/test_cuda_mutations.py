"""Errors planted in gates.cuh and kernels/cuda must be caught by the tests that need no GPU: a tree is copied, spoiled, run."""
import json
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
    ("cuda/ops.py", "logits[i + target * columns] -= 1 / (T)over;", "logits[target * columns] -= 1 / (T)over;"),
    ("cuda/ops.py", "/= total * (T)over;", "/= total;"),
    ("cuda/ops.py", "table[r * symbols + id]", "table[first * symbols + id]"),
    ("cuda/ops.py", "ids[first + i % positions]", "ids[first + (i + 1) % positions]"),
    ("cuda/updates.py", "(sqrt(v) * (T)correction + (T)eps)", "(sqrt(v + (T)eps) * (T)correction)"),
    ("cuda/ops.py", "bits >= threshold", "bits > threshold + 3000"),
    ("philox.cuh", "k1 += 0xBB67AE85u;", "k1 += 0xBB67AE84u;"),
]


FORKS = """
import json, os, sys
from importlib.machinery import SourceFileLoader
from pathlib import Path

import click, hypothesis, numpy.random, pytest, safetensors.numpy, threadpoolctl  # what all of them import,

folders, codes = json.load(sys.stdin), {}


def get_code(loader, name):  # and of the tree what is no other text there: it is compiled once
    text = loader.get_data(loader.path)
    if text not in codes:
        codes[text] = compile(text, loader.path, "exec", dont_inherit=True)
    return codes[text]


SourceFileLoader.get_code = get_code
for part in ("rnncore", "kernels", "data", "tests/fakes"):
    for path in Path(folders[0], part).rglob("*.py"):
        get_code(SourceFileLoader("", str(path)), "")
for folder in folders:
    sys.stdout.flush()
    if not os.fork():  # a process for each
        out = sys.stdout
        sys.stdout = sys.stderr = open(os.path.join(folder, "said"), "w")
        os.chdir(folder)
        sys.path.insert(0, folder)
        code = pytest.main(["-q", "-x", "--tb=line", "-p", "no:cacheprovider", "tests/cuda/test_cuda_on_the_host.py",
                            "-k", "steps_equal or random_numbers or scatter"])
        print(json.dumps([folder, code]), file=out, flush=True)
        sys.stdout.flush()
        os._exit(0)
    os.wait()
"""


def outcomes(folders: list[Path]) -> dict[Path, int]:
    """The exit code of the host tests of the tree in each folder: 0 where all pass, 1 where one fails."""
    done = subprocess.run([sys.executable, "-c", FORKS], input=json.dumps(list(map(str, folders))), capture_output=True, text=True,
                          cwd=folders[0], env={**os.environ, "OPENBLAS_NUM_THREADS": "1"})
    codes = {Path(folder): code for folder, code in map(json.loads, done.stdout.splitlines())}
    for folder in folders:
        assert codes.get(folder) in (0, 1), done.stderr + (folder / "said").read_text()
    return codes


def copy(folder: Path) -> Path:
    for name in ("rnncore", "kernels", "data", "cli"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("cuda/test_cuda_on_the_host.py", "conftest.py"):
        (folder / "tests" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / "tests" / name, folder / "tests" / name)
    shutil.copytree(ROOT / "tests/fakes", folder / "tests/fakes", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "setup.cfg", folder)
    return folder


def planted(folder: Path, name: str, right: str, wrong: str) -> Path:
    path = copy(folder) / "kernels" / name
    text = path.read_text(encoding="utf-8")
    assert text.count(right) == 1, f"{name} no longer has just once: {right}"
    path.write_text(text.replace(right, wrong), encoding="utf-8")
    return folder


def test_every_planted_error_is_caught_and_the_right_tree_passes(tmp_path):
    right = copy(tmp_path / "right")
    trees = [right, *(planted(tmp_path / str(k), *error) for k, error in enumerate(PLANTED))]
    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(outcomes, (trees[::2], trees[1::2]))
    codes = first | second
    assert [error for tree, error in zip(trees[1:], PLANTED, strict=True) if codes[tree] != 1] == [] and codes[right] == 0
