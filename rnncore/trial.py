"""A trial runs a path of a GPU beside the eager one, on the very sizes that are wanted, and compares the two.

It is done in a process of its own (`child`): a fault of a kernel poisons the process that it happens in, and a wait for
what never comes does not end. Whole training steps: STEPS each of plain training, of dropout with weight-drop and
clipping, and of documents with variational dropout and clipping; TOGETHER at once, then one by one over a shorter
window and the end of an epoch. Eager in float32 (float64 for float64) says what is right. Then symbols that the path
writes, each of which must be what the eager sampler would have drawn after those before it. The time of both is taken
only where it is asked for: it takes four times as many eager steps as all the rest.
"""
import contextlib
import ctypes
import json
import os
import signal
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import islice
from math import ceil, inf
from statistics import median
from time import perf_counter
from typing import IO, Any, NamedTuple

import numpy as np

from . import kernels
from .config import ModelConfig, SampleConfig, TrainConfig
from .data.batches import Batches
from .data.decode import one_line
from .data.endings import END
from .data.vocab import Vocab
from .model import CharLM
from .nn.stepper import Stepper
from .params import Parameters
from .random import Purpose, uniform
from .sample import draw, generate_ids
from .train import Training

STEPS, RATE = 10, 0.002  # training steps of each case, and their learning rate
TOGETHER = 8             # steps that a path may take at once: of one launch in capture.py
BLOCK, ROUNDS = 16, 5    # steps between two looks at the clock, and how often it is looked at
WRITTEN = 64             # symbols of each text
PR_SET_PDEATHSIG = 1     # of prctl(2)


class Tolerance(NamedTuple):
    """How far a path may be from the reference: about four times, or more, what rounding as in its class alone did.

    That was measured in NumPy, every product's operands rounded as in the class, over fourteen shapes (H 64 to 1024, L
    1 to 3, T 1 to 256, N 1 to 50, both optimisers), loss, norm, moments, update, state:

        float32, against float64   1.6e-7   6.7e-5   1.2e-4   2.8e-5   5.7e-5
        tf32                       1.9e-5   8.6e-4   0.038    0.033    0.024
        bf16                       1.7e-4   5.0e-3   0.14     0.23     0.030

    Of the symbols written 1.2% in tf32 and 8% in bf16 were others by top-k or top-p. A row that is another's, or that
    is not written, is about 1 off.
    """
    loss: float     # of a step, relative
    norm: float     # of a step's gradient, relative
    moments: float  # m and v of the optimiser, by `distance`
    update: float   # what a parameter has become less what it was, the same
    state: float    # h and c at the end, the same, by unit and by sequence
    coin: float     # by how much a written symbol's random number may be beside its place
    stray: float    # the share of the symbols that may be others all the same: they lay on the edge of top-k or top-p


TOLERANCES = {"float64": Tolerance(1e-9, 1e-8, 1e-7, 1e-5, 1e-8, 1e-9, 0.0),
              "float32": Tolerance(1e-5, 5e-4, 5e-4, 2e-3, 3e-4, 1e-5, 0.002),
              "tf32": Tolerance(1e-4, 4e-3, 0.15, 0.25, 0.1, 1e-3, 0.04),
              "bf16": Tolerance(1e-3, 3e-2, 0.6, 0.9, 0.2, 5e-3, 0.2)}


@dataclass(frozen=True)
class Task:
    """What a path is wanted for: training windows (T, N) by an optimiser, or, without one, writing N texts."""
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


class Case(NamedTuple):
    """A kind of training."""
    name: str
    documents: bool = False
    dropout: float = 0.0
    weight_drop: float = 0.0
    variational: bool = False
    clip: float = 0.0


CASES = (Case("training"), Case("training with dropout", dropout=0.3, weight_drop=0.2, clip=0.1),
         Case("training on documents", True, dropout=0.2, variational=True, clip=0.1))
SAMPLING = SampleConfig(), SampleConfig(0.0), SampleConfig(1.0, top_k=5), SampleConfig(1.0, top_p=0.9)


class Record(NamedTuple):
    """What a few steps left: losses and gradient norms by step, flat buffers (P,) by name, the state h and c."""
    losses: dict[int, float]
    norms: dict[int, float]
    buffers: dict[str, np.ndarray]
    state: list[np.ndarray]


def sizes(task: Task) -> ModelConfig:
    """Of the model that the task is for."""
    return ModelConfig(task.vocab, task.embed, task.hidden, task.layers)


def build(task: Task, path: str, precision: str, documents: bool = False) -> CharLM:
    """A model for the task whose parameters are all random, biases too; the same numbers on every path."""
    points = range(256, 256 + task.vocab)
    vocab = Vocab.from_code_points([ord(END), *points[1:]], documents="lines") if documents else \
        Vocab.from_code_points(points)
    model = CharLM(sizes(task), vocab, task.device, precision)
    noise = np.random.default_rng(1).standard_normal(model.params.flat.size).astype(model.dtype)
    model.params.flat += model.kernel.to_device(0.5 * task.hidden ** -0.5 * noise)
    model.path = path
    return model


def train(model: CharLM, task: Task, case: Case, windows: float, steps: int) -> Training:
    """Training on random symbols in epochs of so many windows; of documents, every twentieth symbol is an END."""
    rng, stream = np.random.default_rng(2), ceil(windows * task.seq)
    ids = rng.integers(0, task.vocab, task.columns * stream + 1)
    if model.vocab.end is not None:
        ids[rng.random(len(ids)) < 0.05] = model.vocab.end
    config = TrainConfig(task.seq, task.columns, task.optimizer or "adam", lr=RATE, warmup=0.0, clip=case.clip,
                         steps=steps, dropout=case.dropout, weight_drop=case.weight_drop, variational=case.variational)
    return Training(model, Batches(ids, task.columns, task.seq), config)


def record(model: CharLM, task: Task, case: Case) -> Record:
    """What STEPS steps of the case leave; a path that takes several at once takes TOGETHER first."""
    host = model.kernel.to_host
    before, training = np.array(host(model.params.flat)), train(model, task, case, TOGETHER + 0.2, 10 * TOGETHER)
    training.stops, steps = (STEPS,), {}
    for progress in training:
        steps[progress.step] = progress
        if progress.step >= STEPS:
            break
    buffers = {name: np.array(host(moment)) for name, moment in training.optimizer.moments.items()}
    return Record({k: p.loss for k, p in steps.items()}, {k: p.grad_norm for k, p in steps.items()},
                  buffers | {"update": host(model.params.flat) - before},
                  [np.array(host(a)) for a in training.state or ()])


def errors(found: Record, wanted: Record, shape: ModelConfig) -> Iterator[tuple[str, str, float]]:
    """(field of Tolerance, where, error) of all that two records hold; not every step of the first needs to be told."""
    for field, what, mine, right in (("loss", "loss", found.losses, wanted.losses),
                                     ("norm", "gradient norm", found.norms, wanted.norms)):
        for step, a in mine.items():
            yield field, f"the {what} of step {step}", abs(a - right[step]) / right[step] if step in right else inf
    for name, flat in wanted.buffers.items():
        others = Parameters(shape, found.buffers[name])
        for parameter, values in Parameters(shape, flat).items():
            if name == "update":
                yield "update", f"the update of {parameter}", distance(others[parameter][None], values[None])
            else:
                gates = 4 if parameter.startswith("lstm.") else 1
                blocks = zip(np.split(others[parameter], gates), np.split(values, gates), strict=True)
                yield "moments", f"{name} of {parameter}", max(distance(*block) for block in blocks)
    for name, *pair in zip("hc", found.state, wanted.state, strict=True):
        rows = [state.reshape(-1, state.shape[-1]) for state in pair]
        yield "state", f"a unit's {name}", distance(*rows)
        yield "state", f"a sequence's {name}", distance(rows[0].T, rows[1].T)


def distance(a: np.ndarray, b: np.ndarray) -> float:
    """The largest ||a - b|| of a row, over ||b|| there or, where that is larger, the root mean square of all rows'."""
    a, b = (x.astype(np.float64).reshape(len(x), -1) for x in (a, b))
    sizes = np.linalg.norm(b, axis=1)
    apart, usual = np.linalg.norm(a - b, axis=1), np.sqrt((sizes ** 2).mean())
    return float((apart / np.maximum(sizes, usual)).max()) if usual else inf if apart.any() else 0.0


def mismatch(found: Record, wanted: Record, task: Task) -> str | None:
    """Where two records are farther apart than the task's precision explains, in words; None where they agree."""
    for field, where, error in errors(found, wanted, sizes(task)):
        most = getattr(TOLERANCES[task.precision], field)
        if not error <= most:
            return f"{where} is {error:.2g} off, {most:g} at most is rounding"
    return None


def misspelt(model: CharLM, task: Task, config: SampleConfig) -> str | None:
    """What is wrong with what the model's path writes, in words: each symbol is to be the eager sampler's, by draw."""
    k, slack, most = model.kernel, TOLERANCES[task.precision].coin, TOLERANCES[task.precision].stray
    prompt, columns = np.arange(5) % task.vocab, np.arange(task.columns)[:, None]
    written = np.stack(list(islice(generate_ids(model, prompt, config, task.columns), WRITTEN)))
    coins = uniform(config.seed, Purpose.COIN, WRITTEN, step=columns).T
    stepper, stray = Stepper(model.params), 0
    for symbol in prompt:
        stepper.step(np.array([symbol], np.intp))
    stepper = stepper.repeat(task.columns)
    for ids, coin in zip(written, coins, strict=True):
        logits = k.to_host(stepper.logits)
        near = [draw(logits, config, np.clip(coin + by, 0, 1 - 1e-16)) for by in (0, -slack, slack)]
        stray += int((ids != near).all(axis=0).sum()) if config.temperature else \
            int((np.take_along_axis(logits, ids[None], 0)[0] < logits.max(axis=0) - 10 * slack).sum())
        stepper.step(ids)
    if stray > most * written.size:
        return f"{stray} of {written.size} symbols written are not those that eager writes"
    return None


def step_ms(model: CharLM, task: Task) -> float:
    """What a training step takes: the median of ROUNDS blocks, after two that warm up."""
    training, times = train(model, task, CASES[0], 2 * TOGETHER, 10_000), []
    steps = iter(training)
    for _ in range(2 + ROUNDS):
        begun, first = perf_counter(), training.step
        while training.step < first + BLOCK:
            next(steps)
        model.kernel.synchronize()
        times.append((perf_counter() - begun) / (training.step - first))
        training.clock.training = times[-1] * training.step  # how many it takes at once goes by it: forget compiling
    return 1e3 * median(times[2:])


def symbol_ms(model: CharLM, task: Task) -> float:
    """What a symbol of every text takes, the same."""
    symbols, times = generate_ids(model, np.zeros(1, np.intp), SAMPLING[0], task.columns), []
    for _ in range(2 + ROUNDS):
        begun = perf_counter()
        for _ in islice(symbols, WRITTEN):
            pass
        times.append((perf_counter() - begun) / WRITTEN)
    return 1e3 * median(times[2:])


def attempt(task: Task, make: Callable[..., CharLM] = build, timed: bool = False) -> Iterator[dict[str, Any]]:
    """Yield {"stage"} for each part of the trial that begins, at last {"cause"}: None where the path passed.

    make(task, path, precision, documents) is `build`. timed: {"ms", "eager_ms"} come with the verdict on a path that
    passed.
    """
    reference = task.precision if task.precision == "float64" else "float32"
    for case in CASES if task.optimizer else ():
        yield {"stage": f"eager, {case.name}"}
        wanted = record(make(task, "eager", reference, case.documents), task, case)
        yield {"stage": case.name}
        cause = mismatch(record(make(task, task.path, task.precision, case.documents), task, case), wanted, task)
        if cause:
            yield {"cause": f"{case.name}: {cause}"}
            return
    writer, model = replace(task, columns=1) if task.optimizer else task, make(task, task.path, task.precision, False)
    for config in SAMPLING:
        yield {"stage": "writing"}
        cause = misspelt(model, writer, config)
        if cause:
            yield {"cause": f"writing: {cause}"}
            return
    if not timed:
        yield {"cause": None}
        return
    times = []
    for path in ("eager", task.path):
        yield {"stage": f"the time of {path}"}
        times.append((step_ms if task.optimizer else symbol_ms)(make(task, path, task.precision, False), task))
    yield {"cause": None, "ms": times[1], "eager_ms": times[0]}


def tell(out: IO[str], message: dict[str, Any]) -> None:
    """Write a line of JSON, at once."""
    out.write(json.dumps(message) + "\n")
    out.flush()


def child() -> None:
    """Run a trial, in its own process: the argument is JSON, {"task", "timed"}; each message is a line on stdout.

    {"unable"}: the card could not be had, or not enough of its memory, which says nothing of the path.
    """
    with contextlib.suppress(AttributeError, OSError):
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)  # not to wait for ever for a parent that is gone
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what libraries print is no message
    try:
        asked = json.loads(sys.argv[1])
        for message in attempt(Task(**asked["task"]), timed=asked["timed"]):
            tell(out, message)
    except (MemoryError, kernels.DeviceError) as error:
        words = f"{type(error).__name__}: {error}" if isinstance(error, MemoryError) else str(error)
        tell(out, {"unable": one_line(words)})
