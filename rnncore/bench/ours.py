"""The engine's side of the benchmark: Engine on any device, and for the rows of a card a class a kind of work.

Such a class has a `result()`, which is compared with the float64 reference, and an `entry()` that then takes turns. A
path that cannot run raises an error, at the latest in `result`.
"""
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from itertools import islice

import numpy as np

from ..capture import MANY as LAUNCH, Captured, Slot
from ..config import PATHS, ModelConfig, SampleConfig, TrainConfig
from ..kernels import Array, Window
from ..model import CharLM
from ..nn import State, lstm, stack
from ..optim import OPTIMIZERS, global_norm, update
from ..sample import generate_ids, samples
from . import speed
from .speed import Entry
from .task import PIECE, STEPS, STREAMS, WINDOWS, Task, flops, vocab, windows

SQUARE = 1024  # rows and columns of the large product
DTYPES = {"float64": "float64", "float32": "float32", "tf32": "tf32", "bf16": "bf16",  # by class
          "fp16": "tf32"}  # ours has no other class with float16's ten bits of mantissa


class Engine:
    """A fresh model at work on random symbols, as `train` and `generate` work."""

    def __init__(self, sizes: ModelConfig, config: TrainConfig, device: str, dtype: str, path: str = "eager"):
        """path: one of config.PATHS; the CPU knows eager alone."""
        self.model, self.config = CharLM(sizes, vocab(sizes), device, dtype, config.seed), config
        self.kernel, self.rate = self.model.kernel, config.peak
        self.model.path = path
        self.optimizer = OPTIMIZERS[config.optimizer](self.model.params, config, self.model.each)
        self.windows = [[self.kernel.ids_to_device(ids) for ids in window] for window in windows(sizes, config)]
        self.state: State | None = None
        self.count = 0

    def train(self) -> float:
        """Take a whole step: forward, loss, back-propagation, clipping, update; carry the state. Return the loss."""
        x, y = self.windows[self.count % WINDOWS]
        self.count += 1
        loss, grads, self.state = self.model.loss_and_grads(x, y, self.state)
        update(self.optimizer, self.model.params, grads, self.rate, self.count, global_norm(grads), self.config.clip)
        return loss

    def entries(self, threads: int | None) -> dict[str, Entry]:
        """Return kind of work -> its entry; threads None: as many as are fastest."""
        numbers = [self.kernel.shares(threads)] if threads else speed.numbers_of_threads(self.kernel.cores())
        numbers = sorted({min(number, self.config.batch) for number in numbers})
        shared = [threads or self.kernel.cores()]
        return {"training": speed.fastest(self.training, numbers)} | {
            f"writing {streams}": speed.fastest(partial(self.writing, streams), shared) for streams in STREAMS}

    def training(self, threads: int) -> Entry:
        """Return an entry of training steps on so many threads."""
        @contextmanager
        def around() -> Iterator[None]:
            self.model.threads = threads
            with self.kernel.single_threaded():
                yield

        return Entry(self.train, self.kernel.synchronize, around, self.config.seq * self.config.batch,
                     flops(self.model.config, self.config), threads)

    def writing(self, streams: int, threads: int | None = None) -> Entry:
        """Return an entry of a character of one text, or PIECE of each of so many, which so many threads share.

        threads None: one a core.
        """
        threads = self.kernel.shares(threads or self.kernel.cores())
        if streams == 1:
            ids = generate_ids(self.model, np.zeros(1, np.intp), SampleConfig())
            return Entry(lambda: next(ids), self.kernel.synchronize, chars=1)

        def work() -> None:
            self.model.threads = threads
            samples(self.model, streams, "", PIECE, SampleConfig())
        return Entry(work, self.kernel.synchronize, chars=streams, threads=threads, units=PIECE)

    def products(self, threads: int) -> dict[str, tuple[Entry, tuple[int, int, int]]]:
        """Return name -> (entry, (R, M, N)): W_hh h for each step of a window, and a large square one.

        Each thread makes its own, with the share of the columns that it has in training.
        """
        hidden, n = self.model.config.hidden, self.config.batch
        columns = [n * (k + 1) // threads - n * k // threads for k in range(threads)]
        made = {"recurrent": (self._product(4 * hidden, hidden, columns, self.config.seq), (4 * hidden, hidden, n)),
                "square": (self._product(SQUARE, SQUARE, threads * [SQUARE], 1), 3 * (SQUARE,))}
        for entry, _ in made.values():
            entry.settle()
        return made

    def _product(self, rows: int, inner: int, columns: list[int], count: int) -> Entry:
        """`count` products of (rows, inner) with (inner, columns), a thread for each of the numbers of columns."""
        def draw(*shape: int) -> Array:
            return self.kernel.to_device(np.random.default_rng(0).standard_normal(shape).astype(self.model.dtype))

        w = draw(rows, inner)
        shares = [(w, draw(count, inner, n), draw(count, rows, n)) for n in columns]
        pool = ThreadPoolExecutor(len(shares)) if len(shares) > 1 else None

        def work() -> None:
            list((pool.map if pool else map)(lambda share: self.kernel.product(*share), shares))
        return Entry(work, self.kernel.synchronize, self.kernel.single_threaded,
                     flops=2 * count * rows * inner * sum(columns), threads=len(shares))


class Launches:
    """An Engine's training on a path that captures it: a call hands the device LAUNCH whole steps, unwaited for."""

    def __init__(self, engine: Engine):
        config = engine.config
        self.engine, self.captured = engine, Captured(engine.model, engine.optimizer, config, config.seq, config.batch)
        self.captured.begin(0, None)
        self.ahead = max(1, self.captured.ring // LAUNCH) * LAUNCH  # steps that are filled at once, as in training
        pairs = [[engine.kernel.to_host(ids) for ids in window] for window in engine.windows]
        self.windows = [np.concatenate((x, y[-1:])) for x, y in pairs]

    def __call__(self) -> None:
        engine, optimizer = self.engine, self.engine.optimizer
        if engine.count % self.ahead == 0:
            steps = range(engine.count, engine.count + self.ahead)
            self.captured.fill(engine.count, [Slot(self.windows[k % len(self.windows)],
                                                   optimizer.pace(engine.rate, k + 1), False) for k in steps])
        self.captured.launch(LAUNCH, engine.config.seq)
        engine.count += LAUNCH

    def losses(self) -> list[float]:
        """Return those of the last launch; waits for it."""
        slots = np.arange(self.engine.count - LAUNCH, self.engine.count) % self.captured.ring
        return self.captured.wait().losses[slots].tolist()


class Training:
    """Whole steps with carried state: LAUNCH at once where the path captures them."""
    paths: tuple[str, ...] = PATHS

    def __init__(self, task: Task, device: str, dtype: str, path: str):
        self.engine = Engine(task.sizes, task.config, device, dtype, path)
        self.engine.model.assign(task.tensors)
        self.engine.windows = [[self.engine.kernel.ids_to_device(ids) for ids in window] for window in task.windows]
        self.launches = None if path == "eager" else Launches(self.engine)

    def result(self) -> np.ndarray:
        """Return the losses (STEPS,) from the first step on."""
        if self.launches is None:
            return np.array([self.engine.train() for _ in range(STEPS)])
        losses: list[float] = []
        while len(losses) < STEPS:
            self.launches()
            losses += self.launches.losses()
        return np.array(losses)

    def entry(self) -> Entry:
        entry = replace(self.engine.training(1), timer=self.engine.kernel.timer)
        return entry if self.launches is None else replace(entry, work=self.launches, units=LAUNCH)


class Writing:
    """Some texts at once, each PIECE characters a call, on the host when the call ends."""
    paths: tuple[str, ...] = ("eager", "graph")  # graph has the device's own loop, as every path but eager

    def __init__(self, task: Task, device: str, dtype: str, path: str):
        self.model, self.streams = model(task, device, dtype, path), task.streams

    def result(self) -> np.ndarray:
        """Return the likeliest symbols (PIECE, streams) after symbol 0."""
        return self._piece(generate_ids(self.model, np.zeros(1, np.intp), SampleConfig(temperature=0), self.streams))

    def entry(self) -> Entry:
        ids, kernel = generate_ids(self.model, np.zeros(1, np.intp), SampleConfig(), self.streams), self.model.kernel
        return Entry(lambda: self._piece(ids), kernel.synchronize, chars=self.streams, units=PIECE, timer=kernel.timer)

    @staticmethod
    def _piece(ids: Iterator[np.ndarray]) -> np.ndarray:
        return np.stack(list(islice(ids, PIECE)))


class Layer:
    """One LSTM layer and nothing else: forward, and where the task says so backward with all gradients."""
    paths: tuple[str, ...] = ("eager", "graph", "persistent")

    def __init__(self, task: Task, device: str, dtype: str, path: str):
        self.model, self.backward = model(task, device, dtype, path), task.backward
        self.kernel, self.grads = self.model.kernel, self.model.params.like()
        self.weights, self.gradients = (lstm.layer(params, 0) for params in (self.model.params, self.grads))
        self.path = self.model.device_path
        self.graph: Callable[[], None] | None = None
        self.work = stack.Workspace(self.model.params, task.config.seq, task.config.batch, path=self.path)
        self.x, self.dy = (self.kernel.to_device(array.astype(self.model.dtype)) for array in task.inputs)
        self.dx = self.kernel.xp.empty_like(self.x)

    def run(self) -> None:
        """Run the pass; where the path captures, replay the first."""
        if self.graph:
            self.graph()
            return
        with self.model.computing():
            self._pass()
            self.graph = self.path.record(self._pass, 1) if self.path.captured else None

    def _pass(self) -> None:
        """From a state of zeros; the gradient at the last state is zero."""
        (cache,), w = self.work.caches, self.weights
        self.work.begin(None)
        window = Window([w], [cache], None, None, None)
        self.work.layers.forward(window, self.x)
        if not self.backward:
            return
        self.work.layers.backward(window, self.dy, None, self.work.initial)
        self.kernel.product(w.w_ih.T, lstm.columns(cache.dz), lstm.columns(self.dx))
        for found in lstm.sums(self.gradients, self.x, cache.dz, cache.h[:, :-1]):
            stack.sum_products([found])

    def result(self) -> dict[str, np.ndarray]:
        """Return y (H, T, N), and the gradients."""
        self.run()
        found = {"y": self.work.caches[0].h[:, 1:]}
        if self.backward:
            found |= {"dx": self.dx, **self.gradients._asdict()}
        return {name: np.array(self.kernel.to_host(array)) for name, array in found.items()}

    def entry(self) -> Entry:
        return Entry(self.run, self.kernel.synchronize, chars=self.x[0].size, timer=self.kernel.timer)


def model(task: Task, device: str, dtype: str, path: str) -> CharLM:
    """Return a model with the task's weights, on a path."""
    made = CharLM(task.sizes, vocab(task.sizes), device, dtype, seed=None)
    made.assign(task.tensors)
    made.path = path
    return made


WORK: dict[str, type[Training | Writing | Layer]] = {
    "training": Training, "writing": Writing, "forward": Layer, "forward and backward": Layer}
