"""Every path of a real card in every precision: captured steps do what the processor does, and layers what the formulas say."""
import numpy as np
import pytest
from test_captured import KINDS, assert_near, results, training
from test_persistent import BOUND, KERNELS, approximations, case, check_approximations, error, loops, reference, run

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


# The names say flags and tags: compute-sanitizer, which is slow, takes the tests by the names of the paths.
@pytest.mark.parametrize("path", KERNELS, ids=["flags", "tags"])
@pytest.mark.parametrize("precision", BOUND)
@pytest.mark.parametrize(("hidden", "n"), [(64, 5), (128, 50), (192, 50), (512, 100), (640, 130), (768, 16), (1024, 128)])
def test_a_layer_equals_the_formulas_at_each_of_several_launches(hidden, n, precision, path):
    import cupy

    from rnncore.kernels.cuda import persistent
    device = cupy.cuda.Device()
    if reason := persistent.why_not(hidden, n, precision, int(device.compute_capability), device.attributes["MultiProcessorCount"], path):
        pytest.skip(reason)
    layer = loops(persistent, path)(hidden, 9, n, precision)
    for seed, steps in enumerate((9, 4, 9)):
        given = case(hidden, steps, n, documents=seed == 1, seed=seed)
        assert error(run(layer, *given, precision=precision, xp=cupy), reference(*given)) < BOUND[precision]


def test_sigmoid_and_tanh_of_the_kernels_are_right():
    import cupy

    def both(z):
        out = cupy.zeros_like(z_there := cupy.asarray(z)), cupy.zeros_like(z_there)
        cupy.RawKernel(approximations(), "both", options=("-std=c++17",))((32,), (256,), (z_there, *out, np.int32(len(z))))
        return tuple(map(cupy.asnumpy, out))
    check_approximations(both)
