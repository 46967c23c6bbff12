"""The comparison of the real paths of kernels/cuda/paths.py, over the stand-ins for CuPy and cuBLAS: it passes them as they are,
and fails one that was tampered with."""
import importlib
import shutil
from dataclasses import replace

import pytest

from rnncore import capture
from rnncore.against_eager import Task, compare

pytestmark = pytest.mark.skipif(shutil.which("c++") is None, reason="no C++ compiler (c++) on this machine")
TASK = Task("float32", "cuda", 11, 6, 9, 2, 3, 5, "adam", "graph")


@pytest.fixture
def verdict(with_cublas):
    """The last word of a task's comparison."""
    return lambda task: list(compare(task))[-1]


def test_the_wavefront_passes(verdict):
    assert verdict(replace(TASK, path="wavefront", precision="bf16")) == {"cause": None}


def test_the_graph_passes_and_takes_eight_steps_at_once_and_then_one_by_one(verdict, monkeypatch):
    counts, launch = [], capture.Captured.launch
    monkeypatch.setattr(capture.Captured, "launch",
                        lambda self, count, steps: (counts.append((count, steps)), launch(self, count, steps)))
    assert verdict(replace(TASK, optimizer="muon"))["cause"] is None
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
