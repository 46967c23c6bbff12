"""The comparison of a GPU path with the eager path. The self-check (selfcheck.py) runs it on the user's card.

Training: both paths take STEPS steps of each of CASES, from the same parameters and at the sizes of the task. The first
MANY steps are one batch of captured steps. Then come, one by one, the shorter window at the end of the epoch and the
first window of the next epoch. Losses, gradient norms, moments, updates and states are compared. The eager path
computes in float32 (in float64 for a task in float64).

Writing: the path writes WRITTEN symbols of each text. The eager model reads them, and each symbol must be the one that
the eager sampler draws there.

TOLERANCES: the largest relative errors that count as rounding, for each precision class. Each is about four times the
error that rounding alone makes, or more. That error was measured in NumPy, with the operands of every product rounded
as in the class, over fourteen shapes (H 64 to 1024, L 1 to 3, T 1 to 256, N 1 to 50) and both optimisers. A row that
is not written, or that holds the numbers of another row, has a relative error of about 1.

    measured error             loss     norm     moments  update   state
    float32, against float64   1.6e-7   6.7e-5   1.2e-4   2.8e-5   5.7e-5
    tf32                       1.9e-5   8.6e-4   0.038    0.033    0.024
    bf16                       1.7e-4   5.0e-3   0.14     0.23     0.030

Two more columns are for writing. `draw`: a symbol is also right if the eager sampler draws it at u - draw or u + draw,
where u is its uniform draw. `wrong`: the share of symbols that may still differ. With top-k or top-p, 1.2% of the
symbols differed in tf32 and 8% in bf16.
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
from .sample import draw, draws, generate_ids, read_prompt
from .train import Training

STEPS, SHORT = MANY + 2, 128  # training steps of a case; the largest T, in characters, of the cases after the first
WRITTEN = 64                  # symbols of each text that are compared
BLOCK, ROUNDS = 2 * MANY, 5   # training steps that are timed as one block; blocks whose times count
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
    """The work that a path is to do: with an optimizer, training on windows (T, N); without one, writing N texts.

    precision: one of kernels.paths.PRECISIONS; device: auto, cuda or cuda:K; vocab V, embed E, hidden H and layers L:
    the sizes of the model; columns: N; seq: T; path: one of kernels.paths.NAMES.
    """
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
        """Return V, E, H and L as a ModelConfig."""
        return ModelConfig(self.vocab, self.embed, self.hidden, self.layers)


@cache
def start(sizes: ModelConfig) -> np.ndarray:
    """Return the parameters (P,) of every model of a check: fresh ones plus noise, so that no bias is zero; float64.

    The array is cached. For a large model it takes about a second to make, and a check of training builds seven models.
    """
    flat = initial(sizes, kernels.load("cpu"), np.dtype(np.float64), 0).flat
    return flat + 0.5 * sizes.hidden ** -0.5 * np.random.default_rng(1).standard_normal(flat.size)


def build(task: Task, documents: bool = False) -> CharLM:
    """Return a model on the task's device and path, with the parameters of `start` in the model's dtype.

    documents: the vocabulary has END, so documents end inside windows. Raises ValueError for a path that does not fit.
    """
    points = [ord(END) if documents else 256, *range(257, 256 + task.vocab)]
    vocab = Vocab.from_code_points(points, documents="lines" if documents else "none")
    model = CharLM(task.sizes, vocab, task.device, task.precision, seed=None)
    model.params.flat[...] = model.kernel.to_device(start(task.sizes).astype(model.dtype))
    model.path = task.path
    return model


def train(model: CharLM, task: Task, case: str, windows: float, steps: int) -> Training:
    """Return a Training of a case, with a budget of `steps` steps, on random symbols. An epoch has `windows` windows.

    A fraction in `windows` gives a shorter last window. For a model of documents, about one symbol in twenty is END.
    """
    rng, seq = np.random.default_rng(2), task.seq if case == "training" else min(task.seq, SHORT)
    ids = rng.integers(0, task.vocab, task.columns * ceil(windows * seq) + 1)
    if model.vocab.end is not None:
        ids[rng.random(len(ids)) < 0.05] = model.vocab.end
    config = replace(CASES[case], seq=seq, batch=task.columns, optimizer=task.optimizer or "adam", steps=steps)
    return Training(model, Batches(ids, task.columns, seq), config)


def results(model: CharLM, task: Task, case: str) -> Results:
    """Train STEPS steps of a case. Return losses, gradient norms, moments, updates and the last state.

    A captured path yields one Progress for several steps, so its results have fewer losses and norms than eager's.
    """
    host, training, found = model.kernel.to_host, train(model, task, case, MANY + 0.2, 10 * MANY), Results()
    before, training.stops = np.array(host(model.params.flat)), (STEPS,)
    for progress in training:
        found["loss", f"the loss of step {progress.step}"] = np.full((1, 1, 1), progress.loss)
        found["norm", f"the gradient norm of step {progress.step}"] = np.full((1, 1, 1), progress.grad_norm)
        if progress.step >= STEPS:
            break
    for name, flat in training.optimizer.moments.items():
        for parameter, values in Parameters(model.config, host(flat)).items():
            # Each gate is a block with its own scale: a small gate must not be compared at the scale of a large one.
            gates = 4 if parameter.startswith("lstm.") else 1
            found["moments", f"{name} of {parameter}"] = values.reshape(gates, len(values) // gates, -1)
    for parameter, values in Parameters(model.config, host(model.params.flat) - before).items():
        found["update", f"the update of {parameter}"] = values.reshape(1, 1, -1)
    # A state is compared twice: its rows are units, then sequences. So a fault in one unit or sequence is not hidden.
    for name, state in zip("hc", training.state or (), strict=True):
        rows = host(state).reshape(1, -1, state.shape[-1])
        found |= {("state", f"a unit's {name}"): rows, ("state", f"a sequence's {name}"): rows.swapaxes(1, 2)}
    return found


def mismatch(found: Results, wanted: Results, precision: str) -> str | None:
    """Return a line on the first result of `found` that differs from `wanted` by more than rounding, or None.

    The error of a result is the largest ||a - b|| / scale of its rows, where b is the row of `wanted`. scale is ||b||,
    or the root mean square of ||b|| over the block if that is larger. `wanted` may have more results than `found`.
    """
    for (column, what), a in found.items():
        b = wanted.get((column, what), np.full_like(a, np.nan)).astype(np.float64)
        apart, sizes = np.linalg.norm(a - b, axis=-1), np.linalg.norm(b, axis=-1)
        scale = np.maximum(sizes, np.sqrt((sizes ** 2).mean(axis=-1, keepdims=True)))
        error = np.divide(apart, scale, out=np.where(apart == 0, 0.0, inf), where=scale > 0).max()
        # `not error <= most` instead of `error > most`: a NaN must fail.
        if not error <= (most := TOLERANCES[precision][column]):
            return f"{what} is {error:.2g} off, {most:g} at most is rounding"
    return None


def wrong_symbols(model: CharLM, task: Task, config: SampleConfig) -> str | None:
    """Return a line if too many symbols that the model's path writes are not those of the eager sampler, or None.

    The eager model reads the symbols that the path wrote, so a wrong symbol does not make the next ones wrong.
    At temperature 0, a symbol is right if its logit is at most 10 times `draw` below the largest.
    """
    prompt, tolerance, wrong = np.arange(5) % task.vocab, TOLERANCES[task.precision], 0
    written = np.stack(list(islice(generate_ids(model, prompt, config, task.columns), WRITTEN)))
    stepper, slack = read_prompt(model, prompt).repeat(task.columns), tolerance["draw"]
    for ids, u in zip(written, draws(config.seed, range(task.columns)), strict=False):  # the draws have no end
        logits = model.kernel.to_host(stepper.logits)
        near = [draw(logits, config, np.clip(u + by, 0, 1 - 1e-16)) for by in (0, -slack, slack)]
        low = np.take_along_axis(logits, ids[None], 0)[0] < logits.max(axis=0) - 10 * slack
        wrong += int(((ids != near).all(axis=0) if config.temperature else low).sum())
        stepper.step(ids)
    return f"{wrong} of {written.size} symbols written are not those that eager writes" \
        if wrong > tolerance["wrong"] * written.size else None


def unit_ms(model: CharLM, task: Task) -> float:
    """Return the time in milliseconds of a training step, or of writing one symbol of every text.

    It is the median of ROUNDS blocks. Two blocks before them are not counted: they compile and record.
    """
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
    """Compare a path with eager. Yield {"stage": words} when a part begins, at the end {"cause": None or words}.

    The cause is None if the path passed. timed: the last message of a path that passed also has "ms" and "eager_ms",
    the times of `unit_ms` on the path and on eager. make(task, documents) returns each model, as `build` does.
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
