"""The comparison of a GPU's path with eager: the work that both do on the user's card, and how far apart they may be.

STEPS training steps of each case at the sizes that are wanted, MANY at once, then one by one over a shorter window and
the end of an epoch; the reference is eager in float32 (float64 for float64). Then the path writes: each symbol must be
one that the eager sampler draws after those before it.

TOLERANCES has about four times, or more, the distances that rounding as in a class alone made: measured in NumPy, every
product's operands rounded as in the class, over fourteen shapes (H 64 to 1024, L 1 to 3, T 1 to 256, N 1 to 50, both
optimisers). A row that is another's, or that is not written, is about 1 off.

    measured                   loss     norm     moments  update   state
    float32, against float64   1.6e-7   6.7e-5   1.2e-4   2.8e-5   5.7e-5
    tf32                       1.9e-5   8.6e-4   0.038    0.033    0.024
    bf16                       1.7e-4   5.0e-3   0.14     0.23     0.030

`draw` is how far from its place a symbol's uniform draw may be; `wrong` is the share of symbols that may be others all
the same (by top-k or top-p, 1.2% in tf32 and 8% in bf16 were).
"""
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cache
from itertools import islice
from math import ceil, inf
from time import perf_counter
from typing import Any, TypeAlias

import numpy as np

from . import kernels
from .capture import MANY
from .config import ModelConfig, SampleConfig, TrainConfig
from .data.batches import Batches
from .data.endings import END
from .data.vocab import Vocab
from .model import CharLM
from .params import Parameters, initial
from .random import Purpose, uniform
from .sample import draw, generate_ids, read_prompt
from .train import Training

STEPS, SHORT = MANY + 2, 128  # training steps of a case; T of the cases after the first, at most
WRITTEN = 64                  # symbols of a text
BLOCK, ROUNDS = 2 * MANY, 5   # training steps between two looks at the clock; looks that count
PLAIN = TrainConfig(lr=0.002, warmup=0.0, clip=0.0, dropout=0.0, weight_drop=0.0, variational=False)
CASES = {"training": PLAIN, "training with dropout": replace(PLAIN, dropout=0.3, weight_drop=0.2, clip=0.1),
         "training on documents": replace(PLAIN, dropout=0.2, variational=True, clip=0.1)}
SAMPLING = SampleConfig(), SampleConfig(0.0), SampleConfig(1.0, top_k=5), SampleConfig(1.0, top_p=0.9)
TOLERANCES = {name: dict(zip(("loss", "norm", "moments", "update", "state", "draw", "wrong"), row, strict=True))
              for name, row in {"float64": (1e-9, 1e-8, 1e-7, 1e-5, 1e-8, 1e-9, 0.0),
                                "float32": (1e-5, 5e-4, 5e-4, 2e-3, 3e-4, 1e-5, 0.002),
                                "tf32": (1e-4, 4e-3, 0.15, 0.25, 0.1, 1e-3, 0.04),
                                "bf16": (1e-3, 3e-2, 0.6, 0.9, 0.2, 5e-3, 0.2)}.items()}
Results: TypeAlias = dict[tuple[str, str], np.ndarray]  # (column of TOLERANCES, words) -> (blocks, rows, numbers)


@dataclass(frozen=True)
class Task:
    """The work that a path is wanted for: training windows (T, N) by an optimiser, or, without one, writing N texts."""
    precision: str
    device: str
    vocab: int
    embed: int
    hidden: int
    layers: int
    columns: int
    seq: int = 1
    optimizer: str | None = None
    path: str = "eager"

    @property
    def sizes(self) -> ModelConfig:
        return ModelConfig(self.vocab, self.embed, self.hidden, self.layers)


@cache
def start(sizes: ModelConfig) -> np.ndarray:
    """Return parameters (P,) as training begins with them, and noise on all, so that no bias is zero.

    They take a second or so to make for a large model, which a check would take seven times.
    """
    flat = initial(sizes, kernels.load("cpu"), np.dtype(np.float64), 0).flat
    return flat + 0.5 * sizes.hidden ** -0.5 * np.random.default_rng(1).standard_normal(flat.size)


def build(task: Task, documents: bool = False) -> CharLM:
    """Return a model on the task's path, with the parameters of `start`, the same numbers on every path."""
    points = [ord(END) if documents else 256, *range(257, 256 + task.vocab)]
    vocab = Vocab.from_code_points(points, documents="lines" if documents else "none")
    model = CharLM(task.sizes, vocab, task.device, task.precision, seed=None)
    model.params.flat[...] = model.kernel.to_device(start(task.sizes).astype(model.dtype))
    model.path = task.path
    return model


def train(model: CharLM, task: Task, case: str, windows: float, steps: int) -> Training:
    """Return training on random symbols in epochs of so many windows; in documents, every twentieth is an END."""
    rng, seq = np.random.default_rng(2), task.seq if case == "training" else min(task.seq, SHORT)
    ids = rng.integers(0, task.vocab, task.columns * ceil(windows * seq) + 1)
    if model.vocab.end is not None:
        ids[rng.random(len(ids)) < 0.05] = model.vocab.end
    config = replace(CASES[case], seq=seq, batch=task.columns, optimizer=task.optimizer or "adam", steps=steps)
    return Training(model, Batches(ids, task.columns, seq), config)


def results(model: CharLM, task: Task, case: str) -> Results:
    """Return what STEPS training steps of a case leave."""
    host, training, found = model.kernel.to_host, train(model, task, case, MANY + 0.2, 10 * MANY), Results()
    before, training.stops = np.array(host(model.params.flat)), (STEPS,)
    for progress in training:
        found["loss", f"the loss of step {progress.step}"] = np.full((1, 1, 1), progress.loss)
        found["norm", f"the gradient norm of step {progress.step}"] = np.full((1, 1, 1), progress.grad_norm)
        if progress.step >= STEPS:
            break
    for name, flat in training.optimizer.moments.items():
        for parameter, values in Parameters(model.config, host(flat)).items():
            gates = 4 if parameter.startswith("lstm.") else 1
            found["moments", f"{name} of {parameter}"] = values.reshape(gates, len(values) // gates, -1)
    for parameter, values in Parameters(model.config, host(model.params.flat) - before).items():
        found["update", f"the update of {parameter}"] = values.reshape(1, 1, -1)
    for name, state in zip("hc", training.state or (), strict=True):
        rows = host(state).reshape(1, -1, state.shape[-1])
        found |= {("state", f"a unit's {name}"): rows, ("state", f"a sequence's {name}"): rows.swapaxes(1, 2)}
    return found


def mismatch(found: Results, wanted: Results, precision: str) -> str | None:
    """Return in words where results are farther apart than the precision explains; `wanted` may have more steps.

    The distance is the largest ||a - b|| of a row, over ||b|| or, where larger, the root mean square of its block's.
    """
    for (column, what), a in found.items():
        b = wanted.get((column, what), np.full_like(a, np.nan)).astype(np.float64)
        apart, sizes = np.linalg.norm(a - b, axis=-1), np.linalg.norm(b, axis=-1)
        scale = np.maximum(sizes, np.sqrt((sizes ** 2).mean(axis=-1, keepdims=True)))
        error = np.divide(apart, scale, out=np.where(apart == 0, 0.0, inf), where=scale > 0).max()
        if not error <= (most := TOLERANCES[precision][column]):
            return f"{what} is {error:.2g} off, {most:g} at most is rounding"
    return None


def wrong_symbols(model: CharLM, task: Task, config: SampleConfig) -> str | None:
    """Return in words what is wrong with the symbols that the model's path writes, by what the eager sampler draws."""
    prompt, tolerance, wrong = np.arange(5) % task.vocab, TOLERANCES[task.precision], 0
    written = np.stack(list(islice(generate_ids(model, prompt, config, task.columns), WRITTEN)))
    draws = uniform(config.seed, Purpose.COIN, WRITTEN, step=np.arange(task.columns)[:, None]).T
    stepper, slack = read_prompt(model, prompt).repeat(task.columns), tolerance["draw"]
    for ids, u in zip(written, draws, strict=True):
        logits = model.kernel.to_host(stepper.logits)
        near = [draw(logits, config, np.clip(u + by, 0, 1 - 1e-16)) for by in (0, -slack, slack)]
        low = np.take_along_axis(logits, ids[None], 0)[0] < logits.max(axis=0) - 10 * slack
        wrong += int(((ids != near).all(axis=0) if config.temperature else low).sum())
        stepper.step(ids)
    return f"{wrong} of {written.size} symbols written are not those that eager writes" \
        if wrong > tolerance["wrong"] * written.size else None


def unit_ms(model: CharLM, task: Task) -> float:
    """Return the time of a training step, or of a symbol of every text: the median of ROUNDS blocks, after two more."""
    block, done, times = BLOCK if task.optimizer else WRITTEN, 0, []
    symbols = generate_ids(model, np.zeros(1, np.intp), SAMPLING[0], task.columns)
    units = (progress.step for progress in train(model, task, "training", 2 * MANY, 10_000)) if task.optimizer \
        else (number for number, _ in enumerate(symbols, 1))
    for _ in range(2 + ROUNDS):
        begun, first = perf_counter(), done
        done = next(unit for unit in units if unit >= first + block)
        model.kernel.synchronize()
        times.append((perf_counter() - begun) / (done - first))
    return 1e3 * float(np.median(times[2:]))


def compare(task: Task, timed: bool = False,
            make: Callable[[Task, bool], CharLM] = build) -> Iterator[dict[str, Any]]:
    """Yield {"stage"} for each part of the comparison that begins, at last {"cause"}: None where the path passed.

    timed: {"ms", "eager_ms"} come with the verdict on a path that passed. make(task, documents) is `build`.
    """
    eager, times = replace(task, path="eager"), dict[str, float]()
    exact = replace(eager, precision="float64" if task.precision == "float64" else "float32")
    for case in CASES if task.optimizer else ():
        yield {"stage": f"eager, {case}"}
        wanted = results(make(exact, "documents" in case), task, case)
        yield {"stage": case}
        if cause := mismatch(results(make(task, "documents" in case), task, case), wanted, task.precision):
            yield {"cause": f"{case}: {cause}"}
            return
    yield {"stage": "writing"}
    model, writer = make(task, False), replace(task, columns=1) if task.optimizer else task
    for config in SAMPLING:
        yield {"stage": "writing"}
        if cause := wrong_symbols(model, writer, config):
            yield {"cause": f"writing: {cause}"}
            return
    for name, one in (("eager_ms", eager), ("ms", task)) if timed else ():
        yield {"stage": f"the time of {one.path}"}
        times[name] = unit_ms(make(one, False), one)
    yield {"cause": None} | times
