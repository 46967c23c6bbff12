"""Captured steps on a real card: every path in every precision does what the processor does. Skips where no card works."""
import pytest
from test_captured import KINDS, assert_near, results, training

from rnncore import kernels
from rnncore.config import ModelConfig

REASON = kernels.why_no_cuda()
pytestmark = [pytest.mark.gpu, pytest.mark.skipif(REASON is not None, reason=f"no GPU: {REASON}")]
BOUNDS = {"float64": 1e-9, "float32": 1e-3, "tf32": 0.03, "bf16": 0.3}  # after 20 steps, of numbers about 1 in size


def why_not(path: str, precision: str, hidden: int, layers: int) -> str | None:
    return kernels.load("cuda").why_not(path, precision, ModelConfig(11, 5, hidden, layers), 4)


@pytest.mark.parametrize("precision", BOUNDS)
@pytest.mark.parametrize("path", ["eager", "graph", "wavefront", "persistent", "tagged"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_run_is_the_processors(kind, path, precision):
    if reason := why_not(path, precision, 64, 2):
        pytest.skip(reason)
    stored = "float64" if precision == "float64" else "float32"
    mine, wanted = (results(training(p, d, hidden=64, **KINDS[kind])) for p, d in ((path, precision), ("cpu", stored)))
    assert_near(mine, wanted, BOUNDS[precision])


@pytest.mark.parametrize("path", ["graph", "wavefront", "persistent", "tagged"])
@pytest.mark.parametrize("shape", [{"symbols": 40}, {"layers": 3, "documents": True, "dropout": 0.4}, {"text": 33}])
def test_shapes_of_model_and_text(path, shape):
    precision, stored = ("tf32", "float32") if path in ("persistent", "tagged") else ("float64", "float64")
    mine, wanted = (results(training(p, d, hidden=128, **shape)) for p, d in ((path, precision), ("cpu", stored)))
    assert_near(mine, wanted, BOUNDS[precision])


@pytest.mark.parametrize("path", ["graph", "wavefront"])
def test_the_same_bits_twice(path):
    first, second = (results(training(path, "float32", hidden=64, dropout=0.3)) for _ in range(2))
    assert all((a == b).all() for a, b in zip(first, second, strict=True))
