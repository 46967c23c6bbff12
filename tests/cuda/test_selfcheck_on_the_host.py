"""The comparison of the real paths of kernels/cuda/paths.py, over the stand-ins for CuPy and cuBLAS: it passes them as they are,
and fails one that was tampered with."""
import importlib
import shutil
from dataclasses import replace

import pytest

from rnncore import against_eager, capture
from rnncore.against_eager import Task, compare

pytestmark = pytest.mark.skipif(shutil.which("c++") is None, reason="no C++ compiler (c++) on this machine")
TASK = Task("float32", "cuda", 11, 6, 9, 2, 3, 5, "adam", "graph")


@pytest.fixture
def verdict(with_cublas, monkeypatch):
    """The last word of a task's comparison, whose times, where they are asked for, are those of a few steps."""
    monkeypatch.setattr(against_eager, "BLOCK", 1)
    monkeypatch.setattr(against_eager, "ROUNDS", 1)
    return lambda task, timed=False: list(compare(task, timed))[-1]


@pytest.mark.parametrize(("path", "precision"), [("graph", "float64"), ("wavefront", "float32"), ("graph", "tf32"),
                                                 ("wavefront", "bf16")])
def test_the_paths_pass(verdict, path, precision):
    found = verdict(replace(TASK, path=path, precision=precision, optimizer="muon" if path == "graph" else "adam"))
    assert found == {"cause": None}


def test_the_times_of_a_path(verdict):
    found = verdict(TASK, timed=True)
    assert found["cause"] is None and found["ms"] > 0 and found["eager_ms"] > 0


def test_eight_steps_are_taken_at_once_and_then_one_by_one(verdict, monkeypatch):
    counts, launch = [], capture.Captured.launch
    monkeypatch.setattr(capture.Captured, "launch",
                        lambda self, count, steps: (counts.append((count, steps)), launch(self, count, steps)))
    assert verdict(TASK)["cause"] is None
    assert counts == 3 * [(8, 5), (1, 1), (1, 5)]


def test_a_path_whose_sums_are_a_thousandth_off_fails(verdict, monkeypatch):
    fast = importlib.import_module("rnncore.kernels.cuda.paths")  # that over the stand-ins
    row_sums = fast.Products.row_sums

    def off(self, a, out):
        row_sums(self, a, out)
        out *= 1.001

    monkeypatch.setattr(fast.Products, "row_sums", off)
    assert "is rounding" in verdict(TASK)["cause"]


def test_a_path_that_forgets_documents_fails(verdict, monkeypatch):
    fast = importlib.import_module("rnncore.kernels.cuda.paths")
    forward = fast.Stepwise.forward
    monkeypatch.setattr(fast.Stepwise, "forward", lambda self, *arrays: forward(self, *arrays[:-1], None))
    assert verdict(TASK)["cause"].startswith("training on documents: ")
