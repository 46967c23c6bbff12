"""Finite weights whose logits are not: every command refuses them alike, and NumPy's warnings reach nobody."""
import warnings

import numpy as np
import pytest
from cli_helpers import TEXT, refused, run

import rnncore
from rnncore.sample import samples


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("overflow")
    rnncore.save(overflowing(), folder / "large.safetensors")
    (folder / "t.txt").write_text(TEXT)
    return folder


def overflowing(dtype: str = "float32") -> rnncore.CharLM:
    """A model whose weights are finite and whose logits overflow."""
    vocab = rnncore.Vocab.from_text(TEXT)
    model = rnncore.CharLM(rnncore.ModelConfig(len(vocab), 8, 16, 1), vocab, "cpu", dtype)
    model.params["head.weight"][...] = np.finfo(dtype).max / 2
    model.params["lstm.bias_ih_l0"][...] = 9
    return model


@pytest.mark.parametrize("command, native", [
    ("generate large.safetensors -n 20", "1"), ("generate large.safetensors -n 20 --count 3", "0"),
    ("generate large.safetensors --greedy -n 5", "1"), ("score large.safetensors t.txt", "0"),
    ("score large.safetensors t.txt --window 50", "1"), ("score large.safetensors t.txt --dynamic", "0")])
def test_a_command_is_refused_with_3(folder, command, native):
    done = run(*command.split(), cwd=folder, env={"RNNCORE_NATIVE": native})
    assert done.code == 3 and not done.out.strip()
    line = refused(done, 3)
    assert "no number" in line and ("weights are too large" in line or "lower --rate" in line)


def test_a_dialogue_says_so(folder):
    done = run("generate", "large.safetensors", "--interactive", cwd=folder, stdin=b"the cat\n")
    assert done.code == 3 and "weights are too large" in refused(done, 3)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("write", [lambda model: "".join(rnncore.generate(model, length=9)),
                                   lambda model: samples(model, 3, "", 9, rnncore.SampleConfig())])
def test_the_library_raises_where_logits_overflow(dtype, write):
    with warnings.catch_warnings(), pytest.raises(FloatingPointError, match="weights are too large"):
        warnings.simplefilter("ignore")
        write(overflowing(dtype))
