"""kernels/cuda/ops.py driven end to end without a GPU, over the stand-in of cupy_stand_in.py, against the NumPy engine."""
import ast
import shutil
from pathlib import Path

import numpy as np
import pytest

import rnncore
from rnncore import kernels
from rnncore.kernels.cpu import ops as cpu
from rnncore.measure.gradcheck import check_forms, check_gradients, random_case
from rnncore.nn.dropout import Dropout
from rnncore.nn.lstm import State
from rnncore.nn.stepper import Stepper
from rnncore.optim import OPTIMIZERS, clip_scale, global_norm

KERNELS = Path(kernels.__file__).parent
pytestmark = pytest.mark.skipif(shutil.which("c++") is None, reason="no C++ compiler (c++) on this machine")


def model(device: str, dtype: str = "float64", symbols: int = 11, layers: int = 2):
    vocab = rnncore.Vocab.from_code_points(range(97, 97 + symbols))
    return rnncore.CharLM(rnncore.ModelConfig(symbols, 5, 6, layers), vocab, device, dtype, seed=3)


def host(array) -> np.ndarray:
    return kernels.of(array).to_host(array)


def steps(device: str, dtype: str, count: int, symbols: int, name: str):
    """A few whole training steps, with dropout, keep and clipping: losses, parameters and moments."""
    m = model(device, dtype, symbols)
    config = rnncore.TrainConfig(lr=0.02, steps=count, dropout=0.3)
    optimizer, draw, state, losses = OPTIMIZERS[name](m.params, config), np.random.default_rng(5), None, []
    for k in range(count):
        x, y = draw.integers(0, symbols, (2, 9, 4))
        keep = (draw.random((9, 4)) > 0.2).astype(dtype)
        loss, grads, state = m.loss_and_grads(x, y, state, keep=keep, dropout=Dropout(0.3, 1, k))
        optimizer.update(m.params, grads, optimizer.pace(0.02, k + 1), clip_scale(global_norm(grads), 1.0))
        losses.append(loss)
    return np.array(losses), *map(host, (m.params.flat, *optimizer.moments.values(), *state))


@pytest.mark.parametrize("symbols", [11, 40])  # the embedding folded, and not
@pytest.mark.parametrize(("dtype", "bound"), [("float64", 1e-12), ("float32", 1e-4)])  # seen: 1e-14, 2e-5
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_training_steps_equal_the_cpu_s(on_cuda, symbols, dtype, bound, name):
    wanted = steps("cpu", dtype, 5, symbols, name)
    for mine, other in zip(steps("cuda", dtype, 5, symbols, name), wanted, strict=True):
        assert np.abs(mine - other).max() <= bound * np.abs(other).max()


def test_a_generated_text_equals_the_cpu_s(on_cuda):
    wanted = "".join(rnncore.generate(model("cpu"), "abc", 40, seed=2, top_k=8))
    assert "".join(rnncore.generate(model("cuda"), "abc", 40, seed=2, top_k=8)) == wanted and len(wanted) == 40


@pytest.mark.parametrize(("dtype", "bound"), [("float64", 1e-12), ("float32", 1e-5)])  # seen: 3e-16, 4e-7
def test_the_stepper_equals_the_cpu_s_step(on_cuda, dtype, bound):
    here, state, wanted = model("cpu", dtype), None, []
    for ids in ([1, 2, 3], [10, 0, 3], [4, 4, 4]):
        logits, state = here.step(ids, state)
        wanted.append(logits)
    mine = Stepper(model("cuda", dtype).params).repeat(3)
    for ids, logits in zip(([1, 2, 3], [10, 0, 3], [4, 4, 4]), wanted, strict=True):
        assert np.abs(host(mine.step(np.array(ids))) - logits).max() <= bound * np.abs(logits).max()
    assert np.abs(host(mine.c) - state.c).max() <= bound * np.abs(state.c).max()


def test_gradients_are_right(on_cuda):
    m = model("cuda", layers=1)
    assert max(row.error for row in check_gradients(m, random_case(m, 6, 3, Dropout(0.3, 0, 0, False, 0.2), documents=True), most=12)) < 1e-7


def test_what_trains_on_a_card_has_the_gradients_of_lstm_py(with_cublas):
    m = model("cuda", layers=2)
    found = check_forms(m, random_case(m, 5, 3, Dropout(0.3, 0, 0, True, 0.2), documents=True))
    assert list(found) == ["graph", "wavefront"] and max(found.values()) < 1e-12


def test_a_model_goes_from_one_device_to_the_other(on_cuda, tmp_path):
    here = model("cpu")
    rnncore.save(here, tmp_path / "m.safetensors")
    there = rnncore.load(tmp_path / "m.safetensors", "cuda")
    assert there.kernel is on_cuda and (host(there.params.flat) == here.params.flat).all()


def test_random_numbers_and_masks_are_the_same(cuda):
    words = np.arange(50, dtype=np.uint32), 7, 2 ** 32 - 1, 3 << 16
    for mine, wanted in zip(cuda.philox(words, (5, 6)), cpu.philox(words, (5, 6)), strict=True):
        assert (host(mine) == wanted).all()
    mine, wanted = cuda.xp.empty((13, 4, 5)), np.empty((13, 4, 5))
    for module, mask in ((cuda, mine), (cpu, wanted)):
        module.dropout_mask(mask, 0.3, (4, 0, 2 << 16), (9, 9), 3, 11)
    assert (host(mine) == wanted).all() and 0 < (wanted == 0).mean() < 1


@pytest.mark.parametrize("symbols", [5, 300])
def test_scatter_add_into_a_transposed_table(cuda, symbols):
    draw = np.random.default_rng(1)
    ids, columns = draw.integers(0, symbols, (6, 7)), draw.standard_normal((4, 42))
    mine, wanted = cuda.xp.ones((symbols, 4)), np.ones((symbols, 4))
    cuda.scatter_add(mine.T, cuda.ids_to_device(ids), cuda.to_device(columns))
    np.add.at(wanted, ids.reshape(-1), columns.T)
    assert np.abs(host(mine) - wanted).max() < 1e-14


def test_ids_have_one_type_on_every_device(cuda):
    ids = np.arange(6).reshape(2, 3)
    assert cpu.ids_to_device(ids) is ids and ids.dtype == cpu.IDS == np.int64
    for module in (cpu, cuda):
        for other in (ids, ids.astype("int32"), ids.astype("uint16"), np.asfortranarray(ids), ids[:, ::2]):
            found = module.ids_to_device(other)
            assert found.dtype == cpu.IDS and found.flags.c_contiguous and (host(found) == other).all()
        with pytest.raises(TypeError, match="same_kind"):
            module.ids_to_device(ids * 1.5)


def test_a_run_of_products(cuda):
    draw = np.random.default_rng(0).standard_normal
    w, x, mine, wanted = draw((4, 3)), draw((2, 3, 5)), cuda.xp.empty((2, 4, 5)), np.empty((2, 4, 5))
    cuda.product(cuda.to_device(w), cuda.to_device(x), mine)
    cpu.product(w, x, wanted)
    assert np.abs(host(mine) - wanted).max() < 1e-14


def signatures(path: Path) -> dict[str, list[str]]:
    """Public function -> its arguments' names; also those that the file hands on by `from .module import name as name`."""
    found: dict[str, list[str]] = {}
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.FunctionDef) and not node.name.startswith("_"):
            found[node.name] = [a.arg for a in node.args.args]
        elif isinstance(node, ast.ImportFrom) and node.level == 1 and node.module:
            handed_on = [alias.name for alias in node.names if alias.name == alias.asname]
            found |= {name: signatures(path.parent / f"{node.module}.py")[name] for name in handed_on}
    return found


def test_both_modules_have_the_same_functions_with_the_same_arguments():
    assert signatures(KERNELS / "cuda/ops.py") == signatures(KERNELS / "cpu/ops.py")


def test_the_two_files_stay_small():
    assert sum(len((KERNELS / name).read_text().splitlines()) for name in ("cuda/ops.py", "gates.cuh")) < 350


def test_state_is_a_pair(on_cuda):
    logits, state = model("cuda").step(np.array([1, 2]), None)
    assert isinstance(state, State) and state.h.shape == (2, 6, 2) and logits.shape == (11, 2)


def test_a_gpu_s_batch_is_not_shared_out_over_threads(on_cuda):
    m = model("cuda")
    m.threads = 2
    x = np.zeros((3, 4), int)
    m.loss_and_grads(x, x)
    assert [work.n for work in m._held.shares] == [4]
