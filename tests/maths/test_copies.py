"""Models, runs and vocabularies are copied and sent to other processes; what cannot be sent is made anew there."""
import copy
import pickle
import subprocess
import sys

import numpy as np
import pytest
from cli_helpers import ENVIRONMENT, TEXT
from conftest import batch, build

import rnncore
from rnncore import Batches, ModelConfig, TrainConfig, Vocab
from rnncore.measure.evaluate import Validation
from rnncore.model import CharLM
from rnncore.nn.dropout import Dropout
from rnncore.nn.stepper import Stepper

COPIES = {"deepcopy": copy.deepcopy, "pickle": lambda thing: pickle.loads(pickle.dumps(thing, protocol=2))}
DROP = Dropout(0.2, 1, 3, True, 0.2)
IDS = Vocab.from_text(TEXT).encode(TEXT)


@pytest.fixture(params=COPIES)
def copied(request):
    """One way to a copy."""
    return COPIES[request.param]


def used(model, threads=1):
    """The model, after work of every kind: with threads, gradients and workspaces at hand."""
    model.threads, case = threads, batch(model)
    model.loss_and_grads(case.x, case.y, case.state, dropout=DROP)
    model.step(case.x[0], None)
    return model


def results(model) -> list:
    """What a model computes of a batch, as arrays on the host."""
    case = batch(model)
    loss, grads, state = model.loss_and_grads(case.x, case.y, case.state, dropout=DROP)
    host = model.kernel.to_host
    return [np.array(loss), host(grads.flat).copy(), *map(host, state), host(model.step(case.x[0], None)[0])]


def same(a: list, b: list) -> bool:
    return all(np.array_equal(x, y) for x, y in zip(a, b, strict=True))


@pytest.mark.parametrize("dtype, threads", [("float32", 3), ("float64", 1)])
def test_a_copy_computes_the_same_and_is_a_model_of_its_own(copied, dtype, threads):
    model = used(build(dtype=dtype), threads)
    wanted, before = results(model), model.params.flat.copy()
    other = copied(model)
    assert same(results(other), wanted)
    assert (other.threads, other.precision, other.path, other.config, other.vocab, other.dtype) == (
        threads, dtype, "eager", model.config, model.vocab, model.dtype) and other.kernel is model.kernel
    other.params["head.bias"][...] = 7  # a view of the copy's own buffer
    assert (other.params.flat == 7).sum() == model.config.vocab_size and not same(results(other), wanted)
    assert np.array_equal(model.params.flat, before) and same(results(model), wanted)


def test_a_shallow_copy_has_the_same_parameters_and_its_own_workspaces():
    model = used(build())
    other = copy.copy(model)
    wanted = results(model)
    assert other.params is model.params and same(results(other), wanted) and other._held.shares[0] is not model._held.shares[0]


def test_what_was_set_on_a_model_goes_along(copied):
    model = build()
    model.note = {"of": "mine"}
    assert copied(model).note == {"of": "mine"}


@pytest.mark.parametrize("path, dtype", [("eager", "float64"), ("wavefront", "tf32"), ("eager", "bf16")])
def test_a_model_on_a_card_is_copied_on_the_card(with_cublas, copied, path, dtype):
    model = CharLM(ModelConfig(5, 3, 8, 2), Vocab.from_text("abcde"), "cuda", dtype, seed=1)
    model.path = path
    wanted, other = results(used(model)), copied(model)
    assert other.kernel is model.kernel and (other.path, other.precision) == (path, dtype)
    assert same(results(other), wanted)
    other.params.flat[...] = 0
    assert same(results(model), wanted)


def training(model, steps=12, optimizer="muon") -> rnncore.Training:
    config = TrainConfig(lr=0.02, steps=steps, batch=4, seq=10, dropout=0.2, weight_drop=0.2, eval_every=5, threads=2,
                         optimizer=optimizer)
    return rnncore.Training(model, Batches(IDS[:4000], 4, 10), config, Validation(IDS[4000:], 4, 10))


def fresh(device="cpu", dtype="float32") -> CharLM:
    vocab = Vocab.from_text(TEXT)
    return CharLM(ModelConfig(len(vocab), 4, 8, 2), vocab, device, dtype, seed=1)


@pytest.mark.parametrize("optimizer", ["muon", "adam"])
def test_a_run_is_copied_between_two_steps_and_both_go_on_as_one(copied, optimizer):
    whole = training(fresh(), optimizer=optimizer)
    wanted = [(p.loss, p.val_loss) for p in whole]
    run, losses, other = training(fresh(), optimizer=optimizer), [], None
    for p in run:
        losses.append((p.loss, p.val_loss))
        if p.step == 6:
            other = copied(run)
    assert losses == wanted and [(p.loss, p.val_loss) for p in other] == wanted[6:]
    assert np.array_equal(other.model.params.flat, whole.model.params.flat)
    assert other.optimizer.moments["m"] is not run.optimizer.moments["m"] and other.clock.started is not None


def test_a_captured_run_is_copied_too(with_cublas, copied):
    model = fresh("cuda")
    model.path = "graph"
    run, other = training(model), None
    for p in run:
        if p.step == 5:
            other = copied(run)
    assert other.step == 5 and [p.step for p in other][-1] == 12
    assert np.array_equal(other.model.params.flat.get(), run.model.params.flat.get())


@pytest.mark.parametrize("thing", [Vocab.from_text("abc"), Vocab("\x03ab", documents="lines"), ModelConfig(5, 3, 4, 2),
                                   TrainConfig(lr=0.1, steps=3), rnncore.SampleConfig()])
def test_what_a_model_is_made_of_is_copied(copied, thing):
    assert copied(thing) == thing


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_stepper_is_copied_with_its_state_and_disturbs_nothing(copied, dtype):
    stepper = Stepper(build(dtype=dtype).params)
    stepper.step(np.array([1]))
    other, before = copied(stepper), stepper.h.copy()
    wanted = copied(stepper).step(np.array([2])).copy()
    assert np.array_equal(other.step(np.array([2])), wanted) and np.array_equal(stepper.h, before)
    assert np.array_equal(stepper.step(np.array([2])), wanted)


def test_a_vocabulary_goes_without_its_look_up_table():
    vocab = Vocab.from_text("ab\U0010ffff")
    vocab.encode("ab")
    assert len(pickle.dumps(vocab)) < 400 and pickle.loads(pickle.dumps(vocab)).encode("b") == [1]


def test_batches_and_parameters_are_copied(copied):
    batches, params = Batches(IDS, 4, 10), build().params
    assert np.array_equal(copied(batches).window(3)[0], batches.window(3)[0])
    other = copied(params)
    other["head.bias"][...] = 5
    assert (other.flat == 5).sum() == 5 and not (params.flat == 5).any() and list(other) == list(params)


@pytest.mark.parametrize("method", ["spawn", "fork"])
def test_other_processes_score_and_write_with_a_model(tmp_path, method):
    """In a process of its own, for one that has threads is better not forked."""
    (tmp_path / "many.py").write_text(MANY)
    done = subprocess.run([sys.executable, "many.py", method], cwd=tmp_path, env=ENVIRONMENT, capture_output=True,
                          text=True, timeout=120)
    assert (done.returncode, done.stdout, done.stderr) == (0, "the same\n", "")


MANY = f"""
import functools, multiprocessing, sys
from concurrent.futures import ProcessPoolExecutor
import rnncore

TEXT = {TEXT[:600]!r}

def gradient(model, _):
    loss, grads, _ = model.loss_and_grads([[1, 2], [2, 1]], [[2, 1], [1, 2]])
    return loss, grads.flat.tolist()

def inherited(_):
    return gradient(MODEL, _)  # of the process that forked this one

def written(model, seed):
    return "".join(rnncore.generate(model, prompt="the ", length=20, seed=seed))

if __name__ == "__main__":
    vocab = rnncore.Vocab.from_text(TEXT)
    MODEL = rnncore.CharLM(rnncore.ModelConfig(len(vocab), 4, 8, 2), vocab, "cpu", seed=1)
    MODEL.threads = 2
    wanted = [gradient(MODEL, 0)] * 2
    jobs = [(functools.partial(gradient, MODEL), [0, 1]), (functools.partial(rnncore.score, MODEL), [TEXT, TEXT[:99]]),
            (functools.partial(written, MODEL), [1, 2])]
    expected = [list(map(*job)) for job in jobs]
    with ProcessPoolExecutor(2, multiprocessing.get_context(sys.argv[1])) as pool:
        found = [list(pool.map(*job)) for job in jobs]
        if sys.argv[1] == "fork":
            assert list(pool.map(inherited, [0, 1])) == wanted
    print("the same" if found == expected else (found, expected))
"""
