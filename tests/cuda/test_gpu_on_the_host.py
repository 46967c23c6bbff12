"""Tests of test_gpu.py that concern ids, the writer and the stepper, and the layers of test_gpu_captured.py, in small, over the stand-in for CuPy."""
import shutil

import numpy as np
import pytest
import test_gpu as checks
import test_gpu_captured as layer_checks
from conftest import planted_in

from rnncore import sample
from rnncore.config import SampleConfig
from rnncore.nn import stepper

pytestmark = [pytest.mark.skipif(shutil.which("c++") is None, reason="no C++ compiler (c++) on this machine"),
              pytest.mark.usefixtures("with_cublas")]
SMALL = {"symbols": 11, "hidden": 9, "layers": 2}


@pytest.mark.parametrize("symbols, dtype, bound", [(11, "float32", 1e-3), (300, "float64", 1e-10)])
def test_loss_gradients_and_state_equal_the_cpu_s(symbols, dtype, bound):
    checks.test_loss_gradients_and_state_equal_the_cpu_s(symbols, dtype, bound)


def test_scatter_add_gives_the_same_bits_twice():
    checks.test_scatter_add_gives_the_same_bits_twice(5)


def test_texts_scores_and_files_are_those_of_the_cpu(tmp_path):
    checks.test_texts_scores_and_files_are_the_same_on_both(tmp_path)


@pytest.mark.parametrize(("count", "config"), [(3, SampleConfig(1.0, 9, 0.8, seed=4))], ids=str)
def test_the_device_s_loop_writes_what_the_host_s_writes(count, config, monkeypatch):
    monkeypatch.setattr(sample, "LAUNCH", 40)
    checks.test_the_device_s_loop_writes_what_the_host_s_loop_writes(**SMALL, count=count, config=config)


def test_the_writer_s_state_equals_the_host_s():
    checks.test_the_writer_s_state_equals_the_host_s_loop_in_float32(**SMALL, characters=20)


def test_ids_of_another_type_that_reach_the_card_are_seen(monkeypatch):
    """As they once did: rows of int32 from the writer, taken to the card as they were."""
    broken = planted_in(stepper, "self.kernel.ids_to_device(ids)", "self.kernel.to_device(ids.astype('int32'))")
    monkeypatch.setattr(checks, "Stepper", broken.Stepper)
    with pytest.raises(TypeError, match="ids must be an array of int64, not of int32"):
        test_the_writer_s_state_equals_the_host_s()


@pytest.mark.parametrize("kind", ["int32", "uint8", "int64"])
def test_ids_of_any_type_are_taken_to_the_card_by_the_model_and_the_stepper(kind):
    m, ids = checks.model("cuda", **SMALL), np.array([[1, 2, 3], [10, 0, 3]], kind)
    mine, wanted = stepper.Stepper(m.params).repeat(3), checks.model("cpu", **SMALL)
    logits, _ = wanted.step(ids[0], None)
    assert m.ids(ids.T).dtype == np.int64 and m.ids(ids.T).flags.c_contiguous
    for found in (mine.step(ids[0]), m.step(ids[0], None)[0]):
        assert np.abs(checks.host(found) - logits).max() < 1e-12
    assert abs(m.loss_and_grads(ids, ids)[0] - wanted.loss_and_grads(ids, ids)[0]) < 1e-12
    with pytest.raises(TypeError, match="same_kind"):
        mine.step(ids[0] * 1.5)


@pytest.mark.parametrize("path", ["persistent", "tagged"])
def test_a_layer_equals_the_formulas_at_each_of_several_launches(path):
    layer_checks.test_a_layer_equals_the_formulas_at_each_of_several_launches(64, 5, "tf32", path)
