"""The speed of the engine here: whole training steps, writing, and the matrix products that bound them, taking turns.

Work is counted for the products alone, 2 R M N for (R, M) @ (M, N), each forward and twice backward (the gradient of
its input and that of its weight). With P = T N positions a training step is

    3 (2 P (L 4H H  +  (L - 1) 4H H  +  V H)  +  2 F 4H E)        F = V where embedding.py folds the first layer, else P
            W_hh       W_ih of layers 1..     head    W_ih of layer 0

Gates, softmax, clipping and the optimiser (Muon's products too) count as time, not as work.
"""
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict, dataclass, field, replace
from statistics import median
from time import perf_counter
from typing import Any

import numpy as np

from ..capture import MANY as LAUNCH, Captured, Slot
from ..config import ModelConfig, SampleConfig, TrainConfig
from ..data.vocab import Vocab
from ..model import CharLM
from ..nn.embedding import folded
from ..optim import OPTIMIZERS, clip_scale, global_norm
from ..sample import generate_ids, samples

TURN = 0.2      # seconds that a turn lasts, or one unit of work where that takes longer
TRIES = 3       # turns with each number of threads before the rounds
WINDOWS = 8     # of random symbols, trained on over and over
STREAMS = 1, 64  # texts written at once
PIECE = 64      # characters of each
SQUARE = 1024   # rows and columns of the large product
STEPS = 3       # training steps whose memory is measured


@dataclass
class Entrant:
    """One that takes turns: a unit of work is so many characters and so many operations of matrix products."""
    work: Callable[[], Any]
    synchronize: Callable[[], None]                             # waits for the device
    around: Callable[[], AbstractContextManager] = nullcontext  # what holds during a turn: threads and the like
    chars: int = 0
    flops: int = 0
    threads: int | None = None
    units: int = 1                                              # that one call of work() does
    count: int = 1                                              # calls a turn
    timer: Callable[[], AbstractContextManager[list]] | None = None  # a kernel module's; None: the wall's clock
    least: float | None = None                                  # seconds a turn; None: TURN
    seconds: float = 0.0                                        # a unit, in the last turn
    tried: dict[int, float] = field(default_factory=dict)       # seconds a unit by number of threads

    def turn(self) -> float:
        """Seconds a unit. A short one is done once untimed: it finds the caches and threads of the entrant before."""
        with self.around():
            if self.seconds * self.units < self._least():
                self.work()
            self.synchronize()
            with (self.timer or self._wall)() as seconds:
                for _ in range(self.count):
                    self.work()
            self.seconds = seconds[0] / self.count / self.units
        return self.seconds

    def settle(self) -> None:
        """Warm up, and choose how many units make a turn."""
        self.turn()
        if self.seconds * self.units < self._least() / 10:
            self.count = max(1, round(self._least() / 10 / self.seconds / self.units))
            self.turn()
        self.count = max(1, round(self._least() / self.seconds / self.units))

    def _least(self) -> float:
        return TURN if self.least is None else self.least

    @contextmanager
    def _wall(self):
        begun, seconds = perf_counter(), []
        yield seconds
        self.synchronize()
        seconds.append(perf_counter() - begun)


def take_turns(entrants: dict, rounds: int) -> Iterator[dict]:
    """Rounds in which each entrant has a turn, one after the other: its name -> its seconds a unit."""
    for _ in range(rounds):
        yield {name: entrant.turn() for name, entrant in entrants.items()}


def fastest(with_threads: Callable[[int], Entrant], numbers: list[int]) -> Entrant:
    """The entrant with the number of threads that is fastest in a few tries, settled."""
    entrants = {number: with_threads(number) for number in numbers}
    for entrant in entrants.values():
        entrant.settle()
    if len(numbers) == 1:
        return entrants[numbers[0]]
    rows = list(take_turns(entrants, TRIES))
    tried = {number: median(row[number] for row in rows) for number in numbers}
    best = entrants[min(tried, key=tried.__getitem__)]
    best.tried = tried
    return best


def numbers_of_threads(cores: int) -> list[int]:
    """1, 2, 4, ... and as many as there are cores."""
    return sorted({2 ** k for k in range(cores.bit_length()) if 2 ** k < cores} | {cores})


def flops(sizes: ModelConfig, config: TrainConfig) -> int:
    """The products' operations in a training step, by the formula above."""
    positions, gates = config.seq * config.batch, 4 * sizes.hidden
    first = sizes.vocab_size if folded(sizes.vocab_size, positions) else positions
    a_position = (2 * sizes.layers - 1) * gates * sizes.hidden + sizes.vocab_size * sizes.hidden
    return 6 * (positions * a_position + first * gates * sizes.embed)


def windows(sizes: ModelConfig, config: TrainConfig) -> np.ndarray:
    """Random symbols and those that follow them (WINDOWS, 2, T, N)."""
    drawn = np.random.default_rng(config.seed).integers(0, sizes.vocab_size, (WINDOWS, config.seq + 1, config.batch))
    return np.stack((drawn[:, :-1], drawn[:, 1:]), axis=1)


class Subject:
    """A fresh model at work on random symbols, as `train` and `generate` work."""

    def __init__(self, sizes: ModelConfig, config: TrainConfig, device: str, dtype: str, path: str = "eager"):
        """path: one of config.PATHS; the CPU knows eager alone."""
        vocab = Vocab.from_code_points(range(256, 256 + sizes.vocab_size))
        self.model, self.config = CharLM(sizes, vocab, device, dtype, config.seed), config
        self.kernel, self.path = self.model.kernel, path
        self.model.path = path
        self.optimizer = OPTIMIZERS[config.optimizer](self.model.params, config, self.model.each)
        self.windows = [[self.kernel.ids_to_device(ids) for ids in window] for window in windows(sizes, config)]
        self.state, self.count = None, 0

    def train(self) -> float:
        """A whole step: forward, loss, back-propagation, clipping, update; the state is carried. Returns the loss."""
        x, y = self.windows[self.count % WINDOWS]
        self.count += 1
        loss, grads, self.state = self.model.loss_and_grads(x, y, self.state)
        scale = clip_scale(global_norm(grads), self.config.clip)
        self.optimizer.update(self.model.params, grads, self.optimizer.pace(self.config.lr, self.count), scale)
        return loss

    def jobs(self, threads: int | None) -> dict[str, Entrant]:
        """What there is to do -> its entrant; threads None: as many as are fastest."""
        numbers = [self.kernel.shares(threads)] if threads else numbers_of_threads(self.kernel.cores())
        numbers = sorted({min(number, self.config.batch) for number in numbers})
        jobs = {"training": fastest(self.training, numbers)}
        for streams in STREAMS:
            jobs[f"writing {streams}"] = self.writing(streams, threads)
            jobs[f"writing {streams}"].settle()
        return jobs

    def training(self, threads: int) -> Entrant:
        """Training steps on so many threads."""
        @contextmanager
        def around():
            self.model.threads = threads
            with self.kernel.single_threaded():
                yield

        return Entrant(self.train, self.kernel.synchronize, around, self.config.seq * self.config.batch,
                       flops(self.model.config, self.config), threads)

    def writing(self, streams: int, threads: int | None = None) -> Entrant:
        """A character of one text, or PIECE of each of so many, which so many threads share, or one a core."""
        threads = self.kernel.shares(threads or self.kernel.cores())
        if streams == 1:
            ids = generate_ids(self.model, np.zeros(1, np.intp), SampleConfig())
            return Entrant(lambda: next(ids), self.kernel.synchronize, chars=1)

        def work():
            self.model.threads = threads
            samples(self.model, streams, "", PIECE, SampleConfig())
        return Entrant(work, self.kernel.synchronize, chars=streams, threads=threads, units=PIECE)

    def products(self, threads: int) -> dict[str, tuple[Entrant, tuple]]:
        """Name -> (entrant, (R, M, N)): W_hh h for each step of a window, and a large square one.

        Each thread makes its own, with the share of the columns that it has in training.
        """
        hidden, n = self.model.config.hidden, self.config.batch
        columns = [n * (k + 1) // threads - n * k // threads for k in range(threads)]
        made = {"recurrent": (self._product(4 * hidden, hidden, columns, self.config.seq), (4 * hidden, hidden, n)),
                "square": (self._product(SQUARE, SQUARE, threads * [SQUARE], 1), 3 * (SQUARE,))}
        for entrant, _ in made.values():
            entrant.settle()
        return made

    def _product(self, rows: int, inner: int, columns: list[int], count: int) -> Entrant:
        """`count` products of (rows, inner) with (inner, columns), a thread for each of the numbers of columns."""
        def draw(*shape):
            return self.kernel.to_device(np.random.default_rng(0).standard_normal(shape).astype(self.model.dtype))

        w = draw(rows, inner)
        shares = [(w, draw(count, inner, n), draw(count, rows, n)) for n in columns]
        pool = ThreadPoolExecutor(len(shares)) if len(shares) > 1 else None

        def work():
            list((pool.map if pool else map)(lambda share: self.kernel.products(*share), shares))
        return Entrant(work, self.kernel.synchronize, self.kernel.single_threaded,
                       flops=2 * count * rows * inner * sum(columns), threads=len(shares))


class Launches:
    """A Subject's training on a path that captures it: a call hands the device LAUNCH whole steps, unwaited for."""

    def __init__(self, subject: Subject):
        config = subject.config
        self.subject, self.captured = subject, Captured(subject.model, subject.optimizer, config, config.seq,
                                                        config.batch)
        self.captured.begin(0, None)
        self.ahead = max(1, self.captured.ring // LAUNCH) * LAUNCH  # steps that are filled at once, as in training
        pairs = [[subject.kernel.to_host(ids) for ids in window] for window in subject.windows]
        self.windows = [np.concatenate((x, y[-1:])) for x, y in pairs]

    def __call__(self) -> None:
        subject, optimizer = self.subject, self.subject.optimizer
        if subject.count % self.ahead == 0:
            steps = range(subject.count, subject.count + self.ahead)
            self.captured.fill(subject.count, [Slot(self.windows[k % len(self.windows)],
                                                    optimizer.pace(subject.config.lr, k + 1), False) for k in steps])
        self.captured.launch(LAUNCH, subject.config.seq)
        subject.count += LAUNCH

    def losses(self) -> list[float]:
        """Those of the last launch; waits for it."""
        slots = np.arange(self.subject.count - LAUNCH, self.subject.count) % self.captured.ring
        return self.captured.wait().losses[slots].tolist()


def configs(given: dict, lr: float = 1e-3) -> tuple[ModelConfig, TrainConfig]:
    """What fields of both, such as a row of config.BENCH, ask for."""
    sizes = {name: value for name, value in given.items() if name in ModelConfig.__dataclass_fields__}
    return ModelConfig(**sizes), TrainConfig(lr=lr, **{name: given[name] for name in given.keys() - sizes.keys()})


def arguments(sizes: ModelConfig, config: TrainConfig, device: str, dtype: str, threads: int) -> list:
    """Those of `steps`, as JSON can carry them."""
    return [asdict(sizes), asdict(replace(config, threads=threads)), device, dtype]


def steps(sizes: dict, config: dict, device: str, dtype: str) -> None:
    """A few training steps and nothing else: what memory is measured of."""
    subject = Subject(ModelConfig(**sizes), TrainConfig(**config), device, dtype)
    training = subject.training(config["threads"])
    with training.around():
        for _ in range(STEPS):
            training.work()
