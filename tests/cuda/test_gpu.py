"""The engine on a real GPU: the same gradients, losses, masks, texts and files as on the CPU. Skips where no card works."""
import itertools
import json
import subprocess
import sys

import numpy as np
import pytest

import rnncore
from rnncore import kernels
from rnncore.bench import ours, task
from rnncore.config import SampleConfig
from rnncore.kernels.cpu import ops as cpu
from rnncore.kernels.cuda.writer import Writer
from rnncore.measure.gradcheck import TOLERANCE, check_gradients, random_case
from rnncore.nn.dropout import Dropout
from rnncore.nn.stepper import Stepper
from rnncore.optim import Adam, clip_scale, global_norm
from rnncore.sample import generate_ids

REASON = kernels.why_no_cuda()
pytestmark = [pytest.mark.gpu, pytest.mark.skipif(REASON is not None, reason=f"no GPU: {REASON}")]
CORPUS = "the quick brown fox jumps over the lazy dog; " * 200


def model(device: str, dtype: str = "float64", symbols: int = 27, embed: int = 5, hidden: int = 33, layers: int = 2):
    vocab = rnncore.Vocab.from_code_points(range(97, 97 + symbols))
    return rnncore.CharLM(rnncore.ModelConfig(symbols, embed, hidden, layers), vocab, device, dtype, seed=3)


def host(array) -> np.ndarray:
    return kernels.of(array).to_host(array)


@pytest.mark.parametrize("layers", [1, 2, 3])
@pytest.mark.parametrize(("steps", "n", "symbols", "dropout", "documents"),
                         [(1, 1, 2, 0.0, False), (7, 5, 11, 0.3, True), (4, 3, 40, 0.0, True), (6, 4, 3, 0.5, False)])
def test_gradients_on_the_gpu_are_right(layers, steps, n, symbols, dropout, documents):
    m = model("cuda", symbols=symbols, hidden=9, layers=layers)
    rows = list(check_gradients(m, random_case(m, steps, n, Dropout(dropout, 0, 0), documents), most=20))
    assert max(row.error for row in rows) < TOLERANCE


@pytest.mark.parametrize("symbols", [11, 300])  # the embedding folded, and not
@pytest.mark.parametrize(("dtype", "bound"), [("float64", 1e-10), ("float32", 1e-3)])
def test_loss_gradients_and_state_equal_the_cpu_s(symbols, dtype, bound):
    draw = np.random.default_rng(5)
    x, y = draw.integers(0, symbols, (2, 9, 7))
    keep = (draw.random((9, 7)) > 0.2).astype(dtype)
    results = []
    for device in ("cpu", "cuda"):
        m = model(device, dtype, symbols)
        loss, grads, state = m.loss_and_grads(x, y, keep=m.kernel.to_device(keep), dropout=Dropout(0.3, 1, 4))
        results.append((np.array(loss), *map(host, (grads.flat, *state))))
    for mine, wanted in zip(*results, strict=True):
        assert np.abs(mine - wanted).max() <= bound * np.abs(wanted).max()


def test_losses_of_200_steps_in_float32_stay_with_the_cpu_s():
    losses = {}
    for device in ("cpu", "cuda"):
        m = model(device, "float32", hidden=64)
        adam, draw, state = Adam(m.params, rnncore.TrainConfig(lr=0.002, steps=1)), np.random.default_rng(0), None
        text = draw.integers(0, 27, 100).tolist() * 40
        losses[device] = []
        for k in range(200):
            window = np.array(text[k * 8:k * 8 + 33 * 16][:33 * 16]).reshape(16, 33).T
            loss, grads, state = m.loss_and_grads(window[:-1], window[1:], state)
            adam.update(m.params, grads, adam.pace(0.002, k + 1), clip_scale(global_norm(grads), 1.0))
            losses[device].append(loss)
    assert np.abs(np.subtract(losses["cpu"], losses["cuda"])).max() < 1e-3


def test_random_numbers_and_masks_are_the_same():
    cuda = kernels.load("cuda")
    words = np.arange(50, dtype=np.uint32), 7, 2 ** 32 - 1, 3 << 16
    for mine, wanted in zip(cuda.philox(words, (5, 6)), cpu.philox(words, (5, 6)), strict=True):
        assert (host(mine) == wanted).all()
    mine, wanted = cuda.xp.empty((13, 4, 5)), np.empty((13, 4, 5))
    for module, mask in ((cuda, mine), (cpu, wanted)):
        module.dropout_mask(mask, 0.3, (4, 0, 2 << 16), (9, 9), 3, 11)
    assert (host(mine) == wanted).all()


@pytest.mark.parametrize("symbols", [5, 300])
def test_scatter_add_gives_the_same_bits_twice(symbols):
    cuda, draw = kernels.load("cuda"), np.random.default_rng(1)
    ids, columns = draw.integers(0, symbols, (60, 70)), draw.standard_normal((40, 4200)).astype("float32")
    tables = [cuda.xp.ones((40, symbols), "float32") for _ in range(2)]
    for table in tables:
        cuda.scatter_add(table, cuda.ids_to_device(ids), cuda.to_device(columns))
    wanted = np.ones((symbols, 40))
    np.add.at(wanted, ids.reshape(-1), columns.T.astype("float64"))
    assert (tables[0] == tables[1]).all() and np.abs(host(tables[0]).T - wanted).max() < 1e-3


def test_texts_scores_and_files_are_the_same_on_both(tmp_path):
    rnncore.save(model("cuda"), tmp_path / "m.safetensors")
    texts, scores = [], []
    for device in ("cpu", "cuda"):
        m = rnncore.load(tmp_path / "m.safetensors", device)
        texts.append("".join(rnncore.generate(m, "abc", 60, seed=2, top_k=8, top_p=0.95)))
        scores.append(rnncore.score(m, "abcdefghijklm" * 60))
    assert texts[0] == texts[1] and abs(scores[0] - scores[1]) < 1e-10


@pytest.mark.parametrize(("symbols", "hidden", "layers"), [(27, 33, 2), (65, 128, 2), (96, 512, 3), (300, 64, 1)])
@pytest.mark.parametrize("count", [1, 64])
@pytest.mark.parametrize("config", [SampleConfig(0.8), SampleConfig(0), SampleConfig(1.0, 9, 0.8, seed=4)], ids=str)
def test_the_device_s_loop_writes_what_the_host_s_loop_writes(symbols, hidden, layers, count, config):
    """In float64, over several launches; and the writer is there."""
    m = model("cuda", symbols=symbols, hidden=hidden, layers=layers)
    assert isinstance(Stepper(m.params).repeat(count).writer(), Writer)
    texts = []
    for m.path in ("graph", "eager"):
        texts.append(np.array(list(itertools.islice(generate_ids(m, np.array([1]), config, count), 150))))
    assert (texts[0] == texts[1]).all()


@pytest.mark.parametrize(("symbols", "hidden", "layers", "characters"), [(96, 512, 3, 100)])
def test_the_writer_s_state_equals_the_host_s_loop_in_float32(symbols, hidden, layers, characters):
    m = model("cuda", "float32", symbols=symbols, hidden=hidden, layers=layers)
    stepper = Stepper(m.params).repeat(3)
    loop = stepper.repeat(1)
    ids = stepper.writer().write(characters, 1.0, 0, 1.0, (1, 2), 4 << 16, 0, 0).ids()
    for row in ids:
        loop.step(row)
    for name in ("h", "c", "logits"):
        assert np.abs(host(getattr(stepper, name)) - host(getattr(loop, name))).max() < 1e-4


def test_what_bench_measures_runs():
    sizes, config = task.configs({"vocab_size": 7, "embed": 5, "hidden": 32, "layers": 2, "seq": 9, "batch": 6})
    engine = ours.Engine(sizes, config, "cuda", "float32")
    losses = [engine.train() for _ in range(50 * task.WINDOWS)]
    assert np.mean(losses[-task.WINDOWS:]) < np.mean(losses[:task.WINDOWS])
    products = [entry for entry, _ in engine.products(1).values()]
    assert all(entry.turn() > 0 for entry in (engine.training(1), engine.writing(3), *products))


def test_the_commands_work_on_the_gpu_and_a_run_moves_to_the_cpu(tmp_path):
    (tmp_path / "corpus.txt").write_text(CORPUS)

    def rnn(*args: str) -> str:
        done = subprocess.run([sys.executable, "-m", "rnncore", *args], cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout
    rnn("train", "corpus.txt", "--hidden", "32", "--steps", "40", "--dropout", ".2", "--device", "cuda", "-o", "run")
    rnn("train", "--resume", "-o", "run", "--steps", "60", "--device", "cpu")
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert rows[-1]["step"] == 60 and rows[-1]["loss"] < rows[0]["loss"]
    assert rnn("generate", "run", "-n", "50", "--device", "cuda", "--greedy") == rnn("generate", "run", "-n", "50", "--device",
                                                                                     "cpu", "--greedy")
    both = [json.loads(rnn("score", "run", "corpus.txt", "--json", "--device", d))["nats_per_char"] for d in ("cpu", "cuda")]
    assert abs(both[0] - both[1]) < 1e-4
    assert "all within" in rnn("gradcheck", "--device", "cuda")
