"""The self-check of a GPU's fast path: it runs beside eager on the user's card, and is used where the two agree.

`choose` takes the path that the rule names (kernels/paths.py). A path is checked once, in a child process, because a
kernel's fault poisons its process and a wait may never end. The child takes STEPS training steps of each case at the
sizes that are wanted, TOGETHER at once, then one by one over a shorter window and the end of an epoch; the reference is
eager in float32 (float64 for float64). Then it writes: each symbol must be one that the eager sampler draws after those
before it. The result is remembered in a private file, for one card with its driver and libraries, one state of our own
source, and one path, precision and shape. A file that is not whole counts as empty.

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
import fcntl
import functools
import hashlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass, replace
from itertools import islice
from math import ceil, inf
from pathlib import Path
from tempfile import TemporaryFile
from time import gmtime, perf_counter, strftime
from typing import Any, TypeAlias

import numpy as np

from . import __version__, kernels
from .config import OPTIMIZERS, PATHS, PRECISIONS, ModelConfig, SampleConfig, TrainConfig, one_of
from .data.batches import Batches
from .data.endings import END
from .data.vocab import Vocab
from .kernels import Kernel
from .model import CharLM
from .nn.embedding import folded
from .nn.stepper import Stepper
from .params import Parameters
from .random import Purpose, uniform
from .runs.files import write_whole
from .runs.metadata import FLAG, POSITIVE, SECONDS, TEXT, Fields, Maybe, ModelFileError, fault, one_line, strict
from .sample import draw, generate_ids
from .train import Training

STEPS, TOGETHER, SHORT = 10, 8, 128     # training steps of a case, steps at once (capture.MANY), T after the first case
WRITTEN, BLOCK, ROUNDS = 64, 16, 5      # symbols of a text; training steps between looks at the clock, number of looks
SILENCE, TICK, GONE = 120.0, 0.5, 10.0  # seconds that a child may be silent, between looks at it, to go once killed
NAME, MOST, SIZE, LINE = "paths.json", 1000, 1 << 22, 200  # file in native.cache(), its records, bytes; of a cause
ROOT = str(Path(__file__).resolve().parent.parent)
CHILD = f"import sys; sys.path.insert(0, {ROOT!r}); from rnncore.selfcheck import child; child()"
PLAIN = TrainConfig(lr=0.002, warmup=0.0, clip=0.0, dropout=0.0, weight_drop=0.0, variational=False)
CASES = {"training": PLAIN, "training with dropout": replace(PLAIN, dropout=0.3, weight_drop=0.2, clip=0.1),
         "training on documents": replace(PLAIN, dropout=0.2, variational=True, clip=0.1)}
SAMPLING = SampleConfig(), SampleConfig(0.0), SampleConfig(1.0, top_k=5), SampleConfig(1.0, top_p=0.9)
TOLERANCES = {name: dict(zip(("loss", "norm", "moments", "update", "state", "draw", "wrong"), row, strict=True))
              for name, row in {"float64": (1e-9, 1e-8, 1e-7, 1e-5, 1e-8, 1e-9, 0.0),
                                "float32": (1e-5, 5e-4, 5e-4, 2e-3, 3e-4, 1e-5, 0.002),
                                "tf32": (1e-4, 4e-3, 0.15, 0.25, 0.1, 1e-3, 0.04),
                                "bf16": (1e-3, 3e-2, 0.6, 0.9, 0.2, 5e-3, 0.2)}.items()}
Record: TypeAlias = dict[str, Any]
Results: TypeAlias = dict[tuple[str, str], np.ndarray]  # (column of TOLERANCES, words) -> (blocks, rows, numbers)
PLACE = {"card": "card", "capability": "capability", "driver": "driver supports", "runtime": "cuda runtime",
         "cupy": "cupy"}  # field of a record -> name in kernels.describe
RECORD: Fields = {
    **dict.fromkeys((*PLACE, "rnncore", "texts", "date"), TEXT), "folds": FLAG,
    "path": one_of(*PATHS), "precision": one_of(*PRECISIONS),
    **dict.fromkeys(("vocab", "embed", "hidden", "layers", "columns", "seq"), POSITIVE),
    "optimizer": Maybe(one_of(*OPTIMIZERS)), "cause": Maybe(TEXT), "ms": Maybe(SECONDS), "eager_ms": Maybe(SECONDS)}
MESSAGE: Fields = {"stage?": TEXT, "cause?": Maybe(TEXT), "unable?": TEXT, "ms?": SECONDS, "eager_ms?": SECONDS}


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


def build(task: Task, documents: bool = False) -> CharLM:
    """Return a model on the task's path, all of whose parameters are random, the same numbers on every path."""
    points = [ord(END) if documents else 256, *range(257, 256 + task.vocab)]
    vocab = Vocab.from_code_points(points, documents="lines" if documents else "none")
    model = CharLM(task.sizes, vocab, task.device, task.precision)
    noise = np.random.default_rng(1).standard_normal(model.params.flat.size).astype(model.dtype)
    model.params.flat += model.kernel.to_device(0.5 * task.hidden ** -0.5 * noise)
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
    host, training, found = model.kernel.to_host, train(model, task, case, TOGETHER + 0.2, 10 * TOGETHER), Results()
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
    stepper, slack = Stepper(model.params), tolerance["draw"]
    for symbol in prompt:
        stepper.step(np.array([symbol], np.intp))
    stepper = stepper.repeat(task.columns)
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
    units = (progress.step for progress in train(model, task, "training", 2 * TOGETHER, 10_000)) if task.optimizer \
        else (number for number, _ in enumerate(symbols, 1))
    for _ in range(2 + ROUNDS):
        begun, first = perf_counter(), done
        done = next(unit for unit in units if unit >= first + block)
        model.kernel.synchronize()
        times.append((perf_counter() - begun) / (done - first))
    return 1e3 * float(np.median(times[2:]))


def attempt(task: Task, timed: bool = False, make: Callable[[Task, bool], CharLM] = build) -> Iterator[Record]:
    """Yield {"stage"} for each part of the check that begins, at last {"cause"}: None where the path passed.

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


def child() -> None:
    """Check the task in the first argument, and write each message as a line.

    {"unable"}: the card could not be had, or not enough of its memory, which says nothing of the path.
    """
    out, (task, timed) = os.fdopen(os.dup(1), "w", buffering=1), json.loads(sys.argv[1])
    os.dup2(2, 1)  # what libraries print is no message
    try:
        for message in attempt(Task(**task), timed):
            signal.alarm(round(2 * SILENCE))  # ends a child whose parent is gone, and cannot end it
            out.write(json.dumps(message) + "\n")
    except (MemoryError, kernels.DeviceError) as error:
        kind = f"{type(error).__name__}: " if isinstance(error, MemoryError) else ""
        out.write(json.dumps({"unable": one_line(f"{kind}{error}")}) + "\n")


def run(task: Task, timed: bool = False) -> Record:
    """Return how a check in a child ended: {"cause"}, if timed "ms" and "eager_ms" too; {"unable"} if none was made."""
    asked = json.dumps([asdict(task) | {"device": task.device.replace("auto", "cuda")}, timed])
    stage, last, quiet, size = "the start", Record(), 0.0, 0
    with TemporaryFile() as out, TemporaryFile() as errors:
        try:
            process = subprocess.Popen([sys.executable, "-P", "-c", CHILD, asked], stdin=subprocess.DEVNULL, stdout=out,
                                       stderr=errors)
        except OSError as error:
            return {"unable": f"no process can be started: {error.strerror}"}
        try:
            while process.poll() is None and quiet < SILENCE:
                with suppress(subprocess.TimeoutExpired):
                    process.wait(TICK)
                before, size = size, os.fstat(out.fileno()).st_size
                quiet = 0.0 if size > before else quiet + TICK
            code = process.returncode
        finally:
            process.kill()
            with suppress(subprocess.TimeoutExpired):
                process.wait(GONE)
        out.seek(0), errors.seek(0)
        for line in out:
            with suppress(ValueError, RecursionError):
                if fault(message := json.loads(line), MESSAGE, "") is None:
                    stage, last = message.get("stage", stage), message
        words = errors.read().decode(errors="replace").strip().splitlines()[-1:]
    if "unable" in last:
        return {"unable": last["unable"][:LINE]}
    if code is None:
        return {"cause": f"{stage}: no sign of life for {SILENCE:g} s"}
    if code or "cause" not in last or timed and last["cause"] is None and not (last.get("ms") and last.get("eager_ms")):
        how = f"killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
        return {"cause": one_line(": ".join([stage, how, *words]))[:LINE]}
    return last | {"cause": last["cause"] and last["cause"][:LINE]}


@functools.cache
def texts() -> str:
    """Return a sum of the text of every kernel and of the engine around them: the same in a checkout and installed."""
    digest, here, there = hashlib.sha256(), Path(__file__).parent, Path(kernels.__file__).parent
    for folder in (there, there / "cpu", there / "cuda", here, here / "nn"):
        for path in sorted(path for path in folder.iterdir() if path.suffix in (".py", ".cu", ".cuh", ".cpp", ".hpp")):
            digest.update(f"{folder.name}/{path.name}\0".encode() + path.read_bytes() + b"\0")
    return digest.hexdigest()[:24]


def place(device: str) -> Record:
    """Return the fields of a record that say where it was made: card, driver and libraries, our own text."""
    about = kernels.describe(int(device.partition(":")[2] or 0))
    return {name: about[key] for name, key in PLACE.items()} | {"rnncore": __version__, "texts": texts()}


def remembered(wanted: Record) -> list[Record]:
    """Return the records with these fields, the newest first; none where the file is missing or not as it should be."""
    try:
        path = kernels.host.native.cache() / NAME
        with open(path, "rb") as file:
            found: Any = strict(path, file.read(SIZE), NAME)
    except (OSError, ModelFileError):
        return []
    whole = isinstance(found, list) and all(fault(record, RECORD, "") is None for record in found)
    return [record for record in found if wanted.items() <= record.items()] if whole else []


def described(task: Task) -> Record:
    """Return the fields of a record that say what was checked, and where."""
    about = asdict(task) | {"folds": folded(task.vocab, task.seq * task.columns)}
    return place(about.pop("device")) | about


def find(task: Task) -> list[Record]:
    """Return the records of the task's path on its card as it is now.

    For training, V matters only through whether the embedding is folded, and E does not matter.
    """
    others = "embed", "vocab" if task.optimizer else "folds"
    return remembered({name: value for name, value in described(task).items() if name not in others})


def check(task: Task, again: bool = True) -> Record:
    """Check the task's path, with times, and return the record, which takes the place of older ones.

    again=False: without times, and not where there is a record by now. One process of a user checks at a time, where
    the file system knows locks. A check that could not be made is not remembered; its record has "unable".
    """
    with ExitStack() as stack:
        with suppress(OSError):
            path = kernels.host.native.cache() / f".{NAME}.lock"
            lock = stack.enter_context(open(path, "ab", opener=functools.partial(os.open, mode=0o600)))
            fcntl.flock(lock, fcntl.LOCK_EX)
        old = find(task)
        if old and not again:
            return old[0]
        found = {"cause": None, "ms": None, "eager_ms": None} | run(task, timed=again)
        record = described(task) | found | {"date": strftime("%Y-%m-%dT%H:%M:%S+00:00", gmtime())}
        if "unable" in record:
            return record | {"cause": f"could not be tried: {record['unable']}"}
        with suppress(OSError):
            records = [record, *(other for other in remembered({}) if other not in old)]
            write_whole(kernels.host.native.cache() / NAME, json.dumps(records[:MOST], indent=0).encode())
        return record


def order(asked: str, task: Task, kernel: Kernel) -> dict[str, str | None]:
    """Return the paths to take for a task, the first first, each with the reason why it does not fit, or None.

    asked "auto": those of the rule. One of PATHS: that, then those of the rule that are below it.
    """
    found = kernel.rule(task.precision, task.sizes, task.columns, task.optimizer is None)
    if asked == "auto" or task.optimizer is None:
        return found
    below = {path: reason for path, reason in found.items() if PATHS.index(path) < PATHS.index(asked)}
    return {asked: kernel.why_not(asked, task.precision, task.sizes, task.columns)} | below


def choose(asked: str, task: Task, trying: bool = True,
           begin: Callable[[str], None] = lambda path: None) -> tuple[str, dict[str, Record], bool | None]:
    """Return the path for a task on its device, the better ones that are not taken, and whether a check is remembered.

    asked: "auto" for the path that the rule names, or one of PATHS. On a CPU it is always eager. task.path is not
    looked at. A path is taken where its check passed; one without a record is checked now, after a call of begin(path).
    trying=False: for "auto", remembered checks alone count. A path that is not taken has its record, {} where it was
    not checked, or {"misfit"}: the reason why it does not fit. The third is None where nothing was checked now.
    Raises kernels.DeviceError.
    """
    kernel, misses, new, ended = kernels.load(task.device), dict[str, Record](), False, False
    found = {"eager": None} if kernel.name == "cpu" or asked == "eager" else order(asked, task, kernel)
    for path, reason in found.items():
        task = replace(task, path=path)
        if path == "eager":
            break
        record = {"misfit": reason} if reason else next(iter(find(task)), {})
        if not record and not ended:
            if trying or asked != "auto":
                begin(path)
                record, new = check(task, again=False), True
            ended = "cause" not in record or "unable" in record  # nor would another path get the card or its memory
        elif not record:
            continue  # it was said that nothing is checked
        if record.get("cause", "") is None:
            break
        misses[path] = record
    return task.path, misses, bool(find(task)) if new else None
