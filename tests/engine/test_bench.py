"""`rnncore bench`: the figures fit together, the work is counted rightly and torch's is the same; no time is tested."""
import json
import math
import sys
from contextlib import contextmanager

import numpy as np
import pytest
from cli_helpers import call, refused

import rnncore
from rnncore import bench, kernels
from rnncore.bench import memory, ours, speed, task
from rnncore.config import BENCH, ModelConfig, SampleConfig, TrainConfig
from rnncore.sample import generate_ids

TINY = ("--layers", 2, "--hidden", 8, "--embed", 5, "--vocab", 7, "--batch", 6, "--seq", 9, "--device", "cpu",
        "--rounds", 2)
SIZES, CONFIG = ModelConfig(7, 5, 8, 2), TrainConfig(seq=9, batch=6, optimizer="adam", lr=0.05)


@pytest.fixture(autouse=True)
def short(monkeypatch):
    monkeypatch.setattr(speed, "TURN", 1e-3)
    monkeypatch.setattr(ours, "SQUARE", 16)


@pytest.fixture
def torch_cpu(monkeypatch):
    torch = pytest.importorskip("torch", reason="the comparison with torch needs `pip install torch`")
    from rnncore.bench import torch_cpu
    threads, tf32 = torch.get_num_threads(), (torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32)
    torch.set_num_threads(1)
    yield torch_cpu
    torch.set_num_threads(threads)
    torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = tf32


def subject(dtype: str = "float64", config: TrainConfig = CONFIG) -> ours.Engine:
    return ours.Engine(SIZES, config, "cpu", dtype)


# Work

@pytest.mark.parametrize("sizes, seq, batch, wanted", [
    # T N = 6 positions are below 2 V: the first layer's input is no table
    # W_hh 8 x 2, W_ih 8 x 3, head 5 x 2: 16 + 24 + 10 multiplications a position, 2 operations each, three times
    ((5, 3, 2, 1), 3, 2, 3 * 2 * 6 * 50),
    # 12 positions, V = 5: folded. W_hh of two layers and W_ih of the second 3 x 16, head 10; 5 x 24 for the table
    ((5, 3, 2, 2), 3, 4, 3 * 2 * (12 * 58 + 120)),
])
def test_operations_against_a_count_by_hand(sizes, seq, batch, wanted):
    assert task.flops(ModelConfig(*sizes), TrainConfig(seq=seq, batch=batch)) == wanted


def test_operations_are_those_of_the_products_that_the_engine_makes(monkeypatch):
    """Every matmul of a step is counted as it is made, the recurrence in NumPy: float64."""
    made = []

    def product(a, b, out, add=False):
        made.append(2 * a.shape[-1] * out.size)
        out[...] = out + a @ b if add else a @ b

    one = subject(config=TrainConfig(seq=2, batch=6, optimizer="adam", lr=0.05))  # 12 positions: not folded
    monkeypatch.setattr(kernels.host, "product", product)
    monkeypatch.setattr(np, "matmul", product)  # as NumPy's loops make them
    one.train()
    assert sum(made) == task.flops(SIZES, one.config)


def test_the_settings_and_numbers_of_threads():
    counts = {name: task.flops(*task.configs(given)) for name, given in BENCH.items()}
    assert counts["char-rnn"] == 6 * (2500 * (3 * 512 * 128 + 65 * 128) + 65 * 512 * 64)
    assert counts["char-rnn"] < counts["medium"] < counts["original"]
    assert [speed.numbers_of_threads(cores) for cores in (1, 3, 4, 16)] == [[1], [1, 2, 3], [1, 2, 4], [1, 2, 4, 8, 16]]


# Turns

def entry(log: list, name: str) -> speed.Entry:
    @contextmanager
    def timer():
        yield (seconds := [])
        log.append("wait")
        seconds.append(1.0)

    return speed.Entry(lambda: log.append(name), lambda: log.append("wait"), timer=timer)


@pytest.mark.parametrize("turn, wanted", [(60, "awaitaawaitbwaitbwait"), (0, "waitaawaitwaitbwait")])
def test_entrants_take_turns_with_the_device_idle_at_both_ends(monkeypatch, turn, wanted):
    """Short units have one untimed before them."""
    monkeypatch.setattr(speed, "TURN", turn)
    log = []
    first, second = entry(log, "a"), entry(log, "b")
    first.count = 2
    rows = list(speed.take_turns({"a": first, "b": second}, 2))
    assert "".join(log) == 2 * wanted and [list(row) for row in rows] == 2 * [["a", "b"]]
    assert all(seconds > 0 for row in rows for seconds in row.values())


def test_the_fastest_number_of_threads_is_taken(monkeypatch):
    times = iter([3.0, 1.0, 2.0] * speed.TRIES)
    monkeypatch.setattr(speed.Entry, "settle", lambda self: None)
    monkeypatch.setattr(speed.Entry, "turn", lambda self: next(times))
    best = speed.fastest(lambda number: speed.Entry(print, print, threads=number), [1, 2, 4])
    assert best.threads == 2 and best.tried == {1: 3.0, 2: 1.0, 4: 2.0}
    only = speed.Entry(print, print)
    assert speed.fastest(lambda number: only, [3]) is only and only.tried == {}


def test_a_turn_is_filled(monkeypatch):
    monkeypatch.setattr(speed, "TURN", 0.02)
    quick = speed.Entry(lambda: None, lambda: None)
    quick.settle()
    assert quick.count > 100


# Ours

@pytest.mark.parametrize("optimizer", ["adam", "muon"])
def test_our_training_learns(optimizer):
    one = subject("float32", TrainConfig(seq=9, batch=6, optimizer=optimizer, lr=0.05))
    losses = [one.train() for _ in range(25 * task.WINDOWS)]
    assert np.mean(losses[-task.WINDOWS:]) < np.mean(losses[:task.WINDOWS]) - 0.3


def test_training_is_that_of_fit():
    """The same losses as rnncore.fit on the same windows at the same rate."""
    one = subject()
    window = np.random.default_rng(0).integers(0, 7, 9 * 6 * 6 + 1)
    batches = rnncore.Batches(window, columns=6, steps=9)
    twin = rnncore.CharLM(SIZES, one.model.vocab, "cpu", "float64", seed=0)
    config = TrainConfig(seq=9, batch=6, optimizer="adam", lr=0.05, warmup=0.0, steps=10 ** 9)
    one.windows = [batches.window(k) for k in range(3)]
    for progress, _ in zip(rnncore.fit(twin, batches, config), range(3), strict=False):
        assert math.isclose(progress.loss, one.train(), rel_tol=1e-9)


def test_threads_are_those_asked_for_and_blas_has_one():
    one = subject()
    training = one.training(2)
    with training.around():
        training.work()
        assert len(one.model._held.shares) == 2
        assert all(library["num_threads"] == 1 for library in kernels.host.native.threadpool_info()
                   if library["user_api"] == "blas")
    assert one.entries(50)["training"].threads == CONFIG.batch  # a column is the least share


@pytest.mark.parametrize("threads", [1, 2, 4])
def test_products_have_the_shapes_of_training(threads):
    made = subject().products(threads)
    assert {name: (shape, entry.flops, entry.threads) for name, (entry, shape) in made.items()} == {
        "recurrent": ((32, 8, 6), 2 * 32 * 8 * 6 * 9, threads), "square": (3 * (16,), threads * 2 * 16 ** 3, threads)}


def test_a_run_of_products():
    draw = np.random.default_rng(0).standard_normal
    w, x, out = draw((4, 3)), draw((2, 3, 5)), np.empty((2, 4, 5))
    kernels.host.product(w, x, out)
    assert all(np.allclose(out[k], w @ x[k]) for k in range(2))


def test_writing_is_that_of_generate():
    one = subject()
    wanted, writing = generate_ids(one.model, np.zeros(1, np.intp), SampleConfig()), one.writing(1)
    assert writing.chars == writing.units == 1 and all((writing.work() == next(wanted)).all() for _ in range(5))


def test_writing_many_is_that_of_samples(monkeypatch):
    seen, one = [], subject()
    monkeypatch.setattr(ours, "samples", lambda *args: seen.append(args))
    writing = one.writing(3)
    writing.work()
    assert (writing.chars, writing.units) == (3, task.PIECE)
    assert seen == [(one.model, 3, "", task.PIECE, SampleConfig())] and one.model.threads == kernels.host.cores()


# Memory

OURS = "rnncore.bench.ours:Engine", "cpu", "float32"


def test_memory_grows_with_the_model_and_not_with_this_process():
    small = memory.of_training(SIZES, CONFIG, 1, *OURS)
    here = np.ones(40_000_000)  # 320 MB
    wide = ModelConfig(7, 5, 512, 1)
    large = memory.of_training(wide, CONFIG, 1, *OURS)
    moments_and_all = 4 * 4 * (4 * 512 * 517)
    assert 0 < small < 60e6 and moments_and_all < large - small < 8 * moments_and_all and here[0] == 1


def test_work_that_fails_says_why():
    with pytest.raises(RuntimeError, match="NoSuchClass"):
        memory.of_training(SIZES, CONFIG, 1, "rnncore.bench.ours:NoSuchClass", "cpu", "float32")


# The command

def test_the_figures_fit_together(capsys):
    result = call(capsys, "bench", *TINY, "--threads", 2, "--json")
    assert result.code == 0 and "warming up" in result.err
    found = json.loads(result.out)
    assert {"rnncore", "python", "numpy", "blas", "processor", "cores"} <= found["machine"].keys()
    assert found["rounds"] == 2 and found["date"][:2] == "20"
    (setting,) = found["settings"]
    assert setting["setting"] == "char-rnn" and [setting[name] for name in (
        "layers", "hidden", "embed", "vocab_size", "batch", "seq", "optimizer", "dtype", "device")] == [
        2, 8, 5, 7, 6, 9, "adam", "float32", "cpu"]
    assert setting["flops_a_step"] == task.flops(SIZES, CONFIG)
    ours, products = setting["engines"]["rnncore"], setting["products"]
    training = ours["work"]["training"]
    assert math.isclose(training["characters_per_s"] * training["ms"] / 1e3, 6 * 9)
    assert math.isclose(training["gflops"] * training["ms"] * 1e6, setting["flops_a_step"])
    assert training["threads"] == 2 and training["tried_ms"] == {}
    for streams in (1, 64):
        work = ours["work"][f"writing {streams}"]
        assert math.isclose(work["characters_per_s"] * work["ms"] / 1e3, streams) and "gflops" not in work
    for work in (*ours["work"].values(), *products.values()):
        assert 0 < work["quartiles_ms"][0] <= work["ms"] <= work["quartiles_ms"][1]
    for product in products.values():
        assert math.isclose(product["share"], training["gflops"] / product["gflops"])
    assert products["recurrent"]["shape"] == [32, 8, 6] and ours["memory_mb"] > 0
    assert setting["engines"].keys() == {"rnncore"}


def test_the_words_say_what_the_figures_say(capsys, monkeypatch):
    monkeypatch.setattr(memory, "of_training", lambda *args: 41_234_567)
    result = call(capsys, "bench", *TINY, "--threads", "auto", "--setting", "medium", "--setting", "original",
                  "--optimizer", "muon", "--dtype", "float64")
    assert result.code == 0
    for words in ("medium: 2 x 8 LSTM, embedding 5, 7 symbols, N = 6, T = 9, muon, float64 on cpu", "original: 2 x 8",
                  "training, rnncore", "writing 1, rnncore", "writing 64, rnncore", "recurrent product, 32 x 8 x 6",
                  "square product, 16 x 16 x 16", "% of it", "rnncore 41 MB", "characters/s"):
        assert words in result.out, words
    assert max(map(len, result.out.splitlines()[1:])) < 120


@pytest.mark.parametrize("args", [
    ("--setting", "nothing"), ("--against", "jax"), ("--hidden", 0), ("--vocab", 1), ("--rounds", 0), ("--threads", 0),
    ("--threads", "many"), ("--optimizer", "sgd"), ("--dtype", "float16"), ("--device", "tpu"),
    ("--against", "torch", "--optimizer", "muon")])
def test_usage_errors_end_with_2(capsys, args):
    assert refused(call(capsys, "bench", *args), 2)


def test_without_torch_one_line_names_the_cure(capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    monkeypatch.delitem(sys.modules, "rnncore.bench.torch_cpu", raising=False)
    monkeypatch.delattr(bench, "torch_cpu", raising=False)
    line = refused(call(capsys, "bench", "--against", "torch", "--device", "cpu"))
    assert "--against torch needs torch" in line and "install --upgrade 'torch>=2.4.0'`" in line


# Against torch

@pytest.mark.parametrize("dtype, bound", [("float64", 1e-6), ("float32", 1e-5)])
def test_both_do_the_same_work(torch_cpu, dtype, bound):
    """Losses and weights after three steps from the same weights; clip_grad_norm_ adds 1e-6 to the norm."""
    one = subject(dtype, TrainConfig(seq=9, batch=6, optimizer="adam", lr=0.01, clip=0.1))
    other = torch_cpu.TorchBaseline(SIZES, one.config, "cpu", dtype, one.model.tensors())
    for _ in range(3):
        assert abs(one.train() - float(other.train())) < bound
    theirs = other.net.state_dict()
    for name, mine in one.model.tensors().items():
        assert abs(mine - theirs[name].numpy()).max() < 10 * bound, name


@pytest.fixture
def computes(torch_cpu):
    """A function that skips where this torch has no LSTM of a dtype for this processor."""
    def check(dtype: str) -> None:
        if dtype == "bfloat16" and torch_cpu.why_not_bfloat16("cpu"):
            pytest.skip(torch_cpu.why_not_bfloat16("cpu"))
    return check


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_torch_s_training_learns(torch_cpu, computes, dtype):
    computes(dtype)
    one = torch_cpu.TorchBaseline(SIZES, CONFIG, "cpu", dtype)
    losses = [float(one.train()) for _ in range(25 * task.WINDOWS)]
    assert np.mean(losses[-task.WINDOWS:]) < np.mean(losses[:task.WINDOWS]) - 0.3


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_torch_s_text_follows_its_own_predictions(torch_cpu, computes, dtype):
    """With a head that is sure of symbol 3, that is what both streams write."""
    computes(dtype)
    one = torch_cpu.TorchBaseline(SIZES, CONFIG, "cpu", dtype)
    one.net.head.bias.data[3] = 100
    writing = one.writing(2, 1)
    with writing.around():
        assert [writing.work() for _ in range(3)] == 3 * [[3, 3]] and writing.chars == 2


def test_bfloat16_is_left_out_where_torch_has_none(torch_cpu, capsys, monkeypatch):
    """Its float32 is measured all the same, and a line says why the other is missing."""
    monkeypatch.setattr(memory, "of_training", lambda *args: 2e6)

    def fails(*args):
        raise RuntimeError("could not create a primitive descriptor. Run workload with ONEDNN_VERBOSE=all")
    with monkeypatch.context() as patch:
        patch.setattr(torch_cpu.torch.nn.LSTM, "forward", fails)
        torch_cpu.why_not_bfloat16.cache_clear()
        words = torch_cpu.why_not_bfloat16("cpu")
    result = call(capsys, "bench", *TINY[:-1], 1, "--against", "torch", "--threads", 1)
    torch_cpu.why_not_bfloat16.cache_clear()
    assert "primitive descriptor" in words and "ONEDNN" not in words and result.code == 0
    assert f"without torch bfloat16: {words}" in result.out and "training, torch float32" in result.out


def test_bench_against_torch_measures_both_sides(torch_cpu, computes, capsys, monkeypatch):
    computes("bfloat16")
    asked, real = [], memory.of_training
    monkeypatch.setattr(memory, "of_training", lambda *args: asked.append(args) or 2e6)
    args = ("bench", *TINY[:-1], 1, "--against", "torch", "--threads", 1)
    result = call(capsys, *args, "--json")
    assert result.code == 0
    found = json.loads(result.out)
    engines = found["settings"][0]["engines"]
    assert found["machine"]["torch"] == torch_cpu.torch.__version__
    assert list(engines) == ["rnncore", "torch float32", "torch bfloat16"]
    for name in list(engines)[1:]:
        assert engines[name]["work"].keys() == engines["rnncore"]["work"].keys() and engines[name]["memory_mb"] == 2
        for what, work in engines[name]["work"].items():
            assert math.isclose(work["times_ours"]["median"], work["ms"] / engines["rnncore"]["work"][what]["ms"])
            assert work["threads"] == 1 and math.isclose(
                work["characters_per_s"] * work["ms"], engines["rnncore"]["work"][what]["ms"]
                * engines["rnncore"]["work"][what]["characters_per_s"])
    assert [side for _, _, _, side, *_ in asked] == ["rnncore.bench.ours:Engine", *2 * ["rnncore.bench.torch_cpu:TorchBaseline"]]
    assert all(real(*arguments) > 0 for arguments in asked[1:])
    words = call(capsys, *args, "--dtype", "float64").out
    assert "training, torch float64" in words and "bfloat16" not in words and "time / ours" in words


def test_a_torch_without_a_gpu_is_refused(torch_cpu, monkeypatch):
    monkeypatch.setattr(torch_cpu.torch.cuda, "is_available", lambda: False)
    assert "--device cpu" in torch_cpu.why_not("cuda:1") and torch_cpu.why_not("cpu") is None
