"""The engine's side of the benchmark: Engine on any device, and for the rows of a GPU one class for each kind of work.

The classes are Training, Writing and Layer. `result()` is compared with the float64 reference; `entry()` then takes
turns; `paths` names the paths that are measured for the kind of work. A path that cannot run raises an error, in
`result` at the latest.
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

SQUARE = 1024  # rows and columns of the large square product
DTYPES = {"float64": "float64", "float32": "float32", "tf32": "tf32", "bf16": "bf16",  # precision class -> our dtype
          "fp16": "tf32"}  # tf32 is our only dtype with ten bits of mantissa, as float16 has


class Engine:
    """A fresh model that trains on random symbols and writes, by the same functions as `train` and `generate`."""

    def __init__(self, sizes: ModelConfig, config: TrainConfig, device: str, dtype: str, path: str = "eager"):
        """Make model, optimiser and windows. path: one of config.PATHS; on a CPU only eager."""
        self.model, self.config = CharLM(sizes, vocab(sizes), device, dtype, config.seed), config
        self.kernel, self.rate = self.model.kernel, config.peak
        self.model.path = path
        self.optimizer = OPTIMIZERS[config.optimizer](self.model.params, config, self.model.each)
        self.windows = [[self.kernel.ids_to_device(ids) for ids in window] for window in windows(sizes, config)]
        self.state: State | None = None
        self.count = 0

    def train(self) -> float:
        """Take a whole training step: forward, loss, back-propagation, clipping, update; carry the state on.

        Return the loss in nats per character.
        """
        x, y = self.windows[self.count % WINDOWS]
        self.count += 1
        loss, grads, self.state = self.model.loss_and_grads(x, y, self.state)
        with self.model.computing():
            update(self.optimizer, self.model.params, grads, self.rate, self.count, global_norm(grads),
                   self.config.clip)
        return loss

    def entries(self, threads: int | None) -> dict[str, Entry]:
        """Return kind of work ("training", "writing 1", ...) -> its entry.

        threads None: training uses the number of threads that is fastest here, and writing one thread for each core.
        """
        numbers = [self.kernel.shares(threads)] if threads else speed.numbers_of_threads(self.kernel.cores())
        numbers = sorted({min(number, self.config.batch) for number in numbers})
        shared = [threads or self.kernel.cores()]
        return {"training": speed.fastest(self.training, numbers)} | {
            f"writing {streams}": speed.fastest(partial(self.writing, streams), shared) for streams in STREAMS}

    def training(self, threads: int) -> Entry:
        """Return an entry whose unit is one training step, on `threads` threads."""
        @contextmanager
        def around() -> Iterator[None]:
            self.model.threads = threads
            with self.kernel.single_threaded():
                yield

        return Entry(self.train, self.kernel.synchronize, around, self.config.seq * self.config.batch,
                     flops(self.model.config, self.config), threads, timer=self.kernel.timer)

    def writing(self, streams: int, threads: int | None = None) -> Entry:
        """Return an entry whose unit is one character of each of `streams` texts.

        A call writes one character of a single text, or PIECE characters of each of several texts, which `threads`
        threads share; None: one thread for each core.
        """
        threads = self.kernel.shares(threads or self.kernel.cores())
        if streams == 1:
            ids = generate_ids(self.model, np.zeros(1, np.intp), SampleConfig())
            return Entry(lambda: next(ids), self.kernel.synchronize, chars=1, timer=self.kernel.timer)

        def work() -> None:
            self.model.threads = threads
            samples(self.model, streams, "", PIECE, SampleConfig())
        return Entry(work, self.kernel.synchronize, chars=streams, threads=threads, units=PIECE,
                     timer=self.kernel.timer)

    def products(self, threads: int) -> dict[str, tuple[Entry, tuple[int, int, int]]]:
        """Return name -> (entry, (R, M, N)) of two matrix products (R, M) @ (M, N), which bound the speed of training.

        "recurrent" is W_hh h, once for each step of a window; each thread computes the columns that it has in training.
        "square" is a large square product, one for each thread.
        """
        hidden, n = self.model.config.hidden, self.config.batch
        columns = [n * (k + 1) // threads - n * k // threads for k in range(threads)]
        made = {"recurrent": (self._product(4 * hidden, hidden, columns, self.config.seq), (4 * hidden, hidden, n)),
                "square": (self._product(SQUARE, SQUARE, threads * [SQUARE], 1), 3 * (SQUARE,))}
        for entry, _ in made.values():
            entry.settle()
        return made

    def _product(self, rows: int, inner: int, columns: list[int], count: int) -> Entry:
        """Return an entry of `count` products (rows, inner) @ (inner, N), with a thread for each N in `columns`."""
        def draw(*shape: int) -> Array:
            return self.kernel.to_device(np.random.default_rng(0).standard_normal(shape).astype(self.model.dtype))

        w = draw(rows, inner)
        shares = [(w, draw(count, inner, n), draw(count, rows, n)) for n in columns]
        pool = ThreadPoolExecutor(len(shares)) if len(shares) > 1 else None

        def multiply(share: tuple[Array, Array, Array]) -> None:
            with self.model.computing():
                self.kernel.product(*share)

        def work() -> None:
            list((pool.map if pool else map)(multiply, shares))
        return Entry(work, self.kernel.synchronize, self.kernel.single_threaded,
                     flops=2 * count * rows * inner * sum(columns), threads=len(shares), timer=self.kernel.timer)


class Launches:
    """An Engine's training in captured steps: a call enqueues LAUNCH whole steps, and the host does not wait."""

    def __init__(self, engine: Engine):
        config = engine.config
        self.engine, self.captured = engine, Captured(engine.model, engine.optimizer, config, config.seq, config.batch)
        self.captured.begin(0, None)
        self.ahead = max(1, self.captured.ring // LAUNCH) * LAUNCH  # steps that are filled at once, as in training
        pairs = [[engine.kernel.to_host(ids) for ids in window] for window in engine.windows]
        self.windows = [np.concatenate((x, y[-1:])) for x, y in pairs]

    def __call__(self) -> None:
        """Enqueue the next LAUNCH steps; fill the ring first when its steps are used up."""
        engine, optimizer = self.engine, self.engine.optimizer
        if engine.count % self.ahead == 0:
            steps = range(engine.count, engine.count + self.ahead)
            self.captured.fill(engine.count, [Slot(self.windows[k % len(self.windows)],
                                                   optimizer.pace(engine.rate, k + 1), False) for k in steps])
        self.captured.launch(LAUNCH, engine.config.seq)
        engine.count += LAUNCH

    def losses(self) -> list[float]:
        """Wait for the last call's steps, and return their LAUNCH losses in nats per character."""
        slots = np.arange(self.engine.count - LAUNCH, self.engine.count) % self.captured.ring
        return self.captured.wait().losses[slots].tolist()


class Training:
    """Work "training": whole training steps with carried state; LAUNCH steps a call if the path captures them."""
    paths: tuple[str, ...] = PATHS

    def __init__(self, task: Task, device: str, dtype: str, path: str):
        self.engine = Engine(task.sizes, task.config, device, dtype, path)
        self.engine.model.assign(task.model.tensors())
        self.engine.windows = [[self.engine.kernel.ids_to_device(ids) for ids in window] for window in task.windows]
        self.launches = None if path == "eager" else Launches(self.engine)

    def result(self) -> np.ndarray:
        """Return the losses (STEPS,) of the first steps, in nats per character."""
        if self.launches is None:
            return np.array([self.engine.train() for _ in range(STEPS)])
        losses: list[float] = []
        while len(losses) < STEPS:
            self.launches()
            losses += self.launches.losses()
        return np.array(losses)

    def entry(self) -> Entry:
        """Return the entry whose unit is one training step."""
        entry = self.engine.training(1)
        return entry if self.launches is None else replace(entry, work=self.launches, units=LAUNCH)


class Writing:
    """Work "writing": `streams` texts at once, PIECE characters of each a call. A call ends when the host has them."""
    paths: tuple[str, ...] = ("eager", "graph")  # every path but eager writes by the same kernel: graph stands for all

    def __init__(self, task: Task, device: str, dtype: str, path: str):
        self.model, self.streams = model(task, device, dtype, path), task.streams

    def result(self) -> np.ndarray:
        """Return the ids (PIECE, streams) that follow symbol 0 if each step takes the likeliest symbol."""
        return self._piece(generate_ids(self.model, np.zeros(1, np.intp), SampleConfig(temperature=0), self.streams))

    def entry(self) -> Entry:
        """Return the entry whose unit is one character of each text."""
        ids, kernel = generate_ids(self.model, np.zeros(1, np.intp), SampleConfig(), self.streams), self.model.kernel
        return Entry(lambda: self._piece(ids), kernel.synchronize, chars=self.streams, units=PIECE, timer=kernel.timer)

    @staticmethod
    def _piece(ids: Iterator[np.ndarray]) -> np.ndarray:
        """Return the next PIECE ids of each text: (PIECE, streams)."""
        return np.stack(list(islice(ids, PIECE)))


class Layer:
    """Work "forward" or "forward and backward": one LSTM layer and nothing else, backward with all gradients."""
    paths: tuple[str, ...] = ("eager", "graph", "persistent", "tagged")

    def __init__(self, task: Task, device: str, dtype: str, path: str):
        self.model, self.backward = model(task, device, dtype, path), task.backward
        self.kernel, self.grads = self.model.kernel, self.model.params.like()
        self.weights, self.gradients = (lstm.layer(params, 0) for params in (self.model.params, self.grads))
        self.path = self.model.device_path
        self.graph: Callable[[], None] | None = None
        self.work = stack.Workspace(self.model.params, task.config.seq, task.config.batch, path=self.path)
        self.x, self.dy = (self.kernel.activations(array.shape, 0, self.model.dtype) for array in task.inputs)
        for mine, array in zip((self.x, self.dy), task.inputs, strict=True):
            mine[...] = self.kernel.to_device(array.astype(self.model.dtype))
        self.dx = self.kernel.xp.empty_like(self.x)

    def run(self) -> None:
        """Run the pass once. If the path captures, the first call records the pass, and later calls replay it."""
        if self.graph:
            self.graph()
            return
        with self.model.computing():
            self._pass()
            self.graph = self.path.record(self._pass, 1) if self.path.captured else None

    def _pass(self) -> None:
        """Run forward and, if the task says so, backward, from a state of zeros; the last state's gradient is zero."""
        (cache,), w = self.work.caches, self.weights
        self.work.begin(None)
        window = Window([w], [cache], None, None, None, self.work.operands or None)
        self.work.layers.forward(window, self.x)
        if not self.backward:
            return
        self.work.layers.backward(window, self.dy, None, self.work.initial)
        (dz,), (before,) = self.work.dz(self.work.steps), self.work.before(self.work.steps)
        self.kernel.product(w.w_ih.T, lstm.columns(dz), lstm.columns(self.dx))
        for found in lstm.sums(self.gradients, self.x, dz, before):
            stack.sum_products([found])

    def result(self) -> dict[str, np.ndarray]:
        """Return name -> array: y (H, T, N), and with backward dx (E, T, N) and the gradients of the weights."""
        self.run()
        found = {"y": self.work.caches[0].h[:, 1:]}
        if self.backward:
            found |= {"dx": self.dx, **self.gradients._asdict()}
        return {name: np.array(self.kernel.to_host(array)) for name, array in found.items()}

    def entry(self) -> Entry:
        """Return the entry whose unit is one pass over a window."""
        return Entry(self.run, self.kernel.synchronize, chars=self.x[0].size, timer=self.kernel.timer)


def model(task: Task, device: str, dtype: str, path: str) -> CharLM:
    """Return a model with the task's weights, which runs on a path of config.PATHS."""
    made = CharLM(task.sizes, vocab(task.sizes), device, dtype, seed=None)
    made.assign(task.model.tensors())
    made.path = path
    return made


WORK: dict[str, type[Training | Writing | Layer]] = {
    "training": Training, "writing": Writing, "forward": Layer, "forward and backward": Layer}
