"""Parameters: one flat buffer, PyTorch's names over it, and a beginning that is the same everywhere."""
import numpy as np
import pytest

from rnncore import kernels
from rnncore.config import ModelConfig
from rnncore.data.vocab import Vocab
from rnncore.model import CharLM
from rnncore.params import Parameters, count, initial, shapes

CONFIG = ModelConfig(vocab_size=7, embed=5, hidden=3, layers=2)


def fresh(config=CONFIG, dtype="float64", seed=0) -> Parameters:
    return initial(config, kernels.host, np.dtype(dtype), seed)


def test_the_layout_is_pytorchs():
    assert shapes(CONFIG) == {
        "embedding.weight": (7, 5),
        "lstm.weight_ih_l0": (12, 5), "lstm.weight_hh_l0": (12, 3), "lstm.bias_ih_l0": (12,),
        "lstm.weight_ih_l1": (12, 3), "lstm.weight_hh_l1": (12, 3), "lstm.bias_ih_l1": (12,),
        "head.weight": (7, 3), "head.bias": (7,)}
    assert count(CONFIG) == 35 + 60 + 36 + 12 + 36 + 36 + 12 + 21 + 7


def test_the_views_are_the_buffer():
    params = fresh()
    assert list(params) == list(shapes(CONFIG)) and len(params) == 9
    for number, (name, view) in enumerate(params.items()):
        assert view.shape == shapes(CONFIG)[name] and np.shares_memory(view, params.flat)
        view[...] = number
    sizes = [view.size for view in params.values()]
    assert (params.flat == np.repeat(np.arange(9.0), sizes)).all()  # in order, all of it, nothing twice
    params.flat[...] = 5
    assert all((view == 5).all() for view in params.values())


def test_a_name_cannot_be_bound_to_another_array():
    params = fresh()
    with pytest.raises(TypeError):
        params["head.bias"] = np.zeros(7)
    with pytest.raises(TypeError):
        del params["head.bias"]
    with pytest.raises(KeyError):
        params["lstm.bias_hh_l0"]
    view = params["head.bias"]
    view += 1
    assert (params["head.bias"] == 1).all()


def test_a_second_buffer_of_the_same_layout_begins_with_zeros():
    params = fresh(dtype="float32")
    other = params.like()
    assert list(other) == list(params) and other.flat.dtype == np.float32 and not other.flat.any()
    assert not np.shares_memory(other.flat, params.flat)


def test_a_buffer_of_another_size_is_refused():
    with pytest.raises(ValueError, match=f"{count(CONFIG)} parameters wanted"):
        Parameters(CONFIG, np.zeros(count(CONFIG) + 1))


def test_the_first_parameters_are_drawn_as_documented():
    """Weights uniform in +-1/sqrt(H), biases 0, embedding N(0, 1): means and variances within four standard errors."""
    config = ModelConfig(vocab_size=300, embed=40, hidden=64, layers=2)
    params, bound = fresh(config), 1 / 8
    for name, view in params.items():
        flat, n = view.ravel(), view.size
        if "bias" in name:
            assert not flat.any(), name
        elif name == "embedding.weight":
            assert abs(flat.mean()) < 4 / n ** 0.5 and abs(flat.var() - 1) < 4 * (2 / n) ** 0.5
            assert 3 < abs(flat).max() < 6
        else:
            assert 0.99 * bound < abs(flat).max() <= bound, name
            assert abs(flat.mean()) < 4 * bound / (3 * n) ** 0.5, name
            assert abs(flat.var() / (bound ** 2 / 3) - 1) < 4 * (0.8 / n) ** 0.5, name
    weights = [view.ravel()[:200] for view in params.values() if view.ndim == 2]
    correlations = np.corrcoef(weights) - np.eye(len(weights))
    assert abs(correlations).max() < 0.3  # no tensor's numbers are another's


def test_a_seed_means_the_same_numbers_in_both_dtypes():
    double, single = fresh(seed=9), fresh(dtype="float32", seed=9)
    assert single.flat.dtype == np.float32 and (single.flat == double.flat.astype(np.float32)).all()
    assert (fresh(seed=9).flat == double.flat).all()
    assert not (fresh(seed=10)["head.weight"] == double["head.weight"]).any()


def test_a_tensors_first_numbers_do_not_depend_on_the_other_sizes():
    wide = fresh(ModelConfig(vocab_size=9, embed=5, hidden=3, layers=2))
    assert (wide["lstm.weight_hh_l1"] == fresh()["lstm.weight_hh_l1"]).all()


@pytest.mark.parametrize("wrong, message", [
    ({"vocab_size": 0}, "vocab_size"), ({"vocab_size": 7, "embed": 0}, "embed"), ({"vocab_size": 7, "hidden": -1}, "hidden"),
    ({"vocab_size": 7, "layers": 0}, "layers"), ({"vocab_size": 7, "hidden": 2.5}, "hidden")])
def test_sizes_out_of_range_are_refused_by_name(wrong, message):
    with pytest.raises(ValueError, match=message):
        ModelConfig(**wrong)


def test_a_model_refuses_what_does_not_fit():
    with pytest.raises(ValueError, match="vocabulary has 3 symbols, the model 7"):
        CharLM(CONFIG, Vocab.from_text("abc"), "cpu")
    with pytest.raises(ValueError, match="float16"):
        CharLM(CONFIG, Vocab.from_text("abcdefg"), "cpu", dtype="float16")
    with pytest.raises(ValueError, match="tpu"):
        CharLM(CONFIG, Vocab.from_text("abcdefg"), "tpu")


def test_assigning_is_all_or_nothing():
    model = CharLM(CONFIG, Vocab.from_text("abcdefg"), "cpu", dtype="float64")
    other = CharLM(CONFIG, Vocab.from_text("abcdefg"), "cpu", dtype="float64", seed=1)
    before, tensors = model.params.flat.copy(), other.tensors()
    for name, tensor in tensors.items():
        if "bias_hh" in name:
            continue
        with pytest.raises(ValueError, match=name):
            model.assign({key: value for key, value in tensors.items() if key != name})
        if tensor.ndim == 2:
            with pytest.raises(ValueError, match=name):
                model.assign(tensors | {name: tensor[1:]})
    assert (model.params.flat == before).all()
    model.assign(tensors)
    assert (model.params.flat == other.params.flat).all() and not np.shares_memory(model.params.flat, other.params.flat)


@pytest.mark.parametrize("name", ["lstm.bias_ih_l1", "lstm.bias_hh_l1", "head.bias"])
@pytest.mark.parametrize("shape", [(11,), (1,), (), (1, 12), (12, 1)])
def test_a_bias_of_another_shape_is_refused_by_name(name, shape):
    model = CharLM(CONFIG, Vocab.from_text("abcdefg"), "cpu", dtype="float64")
    before = model.params.flat.copy()
    with pytest.raises(ValueError, match=name):
        model.assign(model.tensors() | {name: np.ones(shape)})
    assert (model.params.flat == before).all()


def test_the_two_biases_of_a_layer_are_added():
    model = CharLM(CONFIG, Vocab.from_text("abcdefg"), "cpu", dtype="float64")
    tensors = model.tensors()
    assert [name for name in tensors if name not in model.params] == ["lstm.bias_hh_l0", "lstm.bias_hh_l1"]
    tensors["lstm.bias_ih_l1"] = np.arange(12.0)
    tensors["lstm.bias_hh_l1"] = np.full(12, 0.5)
    model.assign(tensors)
    assert (model.params["lstm.bias_ih_l1"] == np.arange(12) + 0.5).all() and not model.params["lstm.bias_ih_l0"].any()
    assert not model.tensors()["lstm.bias_hh_l1"].any()
