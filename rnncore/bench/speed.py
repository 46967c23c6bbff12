"""Speed is measured in turns: entries do some of their work one after the other, again and again.

So what disturbs the machine for a while disturbs all of them. The figures are medians and quantiles over the rounds.
"""
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from statistics import median
from typing import Any, NamedTuple, TypeAlias, TypeVar

import numpy as np

TURN = 0.2  # seconds that a turn lasts, or one unit of work where that takes longer
TRIES = 3   # turns with each number of threads before the rounds

Name = TypeVar("Name")
Figures: TypeAlias = dict[str, Any]  # what is measured, by name, as JSON can carry it


class Options(NamedTuple):
    """How to measure, on any device."""
    device: str
    torch_device: str | None   # None: without torch
    rounds: int
    say: Callable[[str], None]  # takes a line about the progress
    every: float               # seconds between such lines while entries take turns


@dataclass
class Entry:
    """One that takes turns: a unit of work is so many characters and so many operations of matrix products."""
    work: Callable[[], object]
    synchronize: Callable[[], None]                             # waits for the device
    around: Callable[[], AbstractContextManager] = nullcontext  # what holds during a turn: threads and the like
    chars: int = 0
    flops: int = 0
    threads: int | None = None
    units: int = 1                                              # that one call of work() does
    count: int = 1                                              # calls a turn
    timer: Callable[[], AbstractContextManager[list[float]]] | None = None  # a kernel module's; None: the wall's clock
    least: float = field(default_factory=lambda: TURN)          # seconds a turn
    seconds: float = 0.0                                        # a unit, in the last turn
    tried: dict[int, float] = field(default_factory=dict)       # seconds a unit by number of threads

    def turn(self) -> float:
        """Return the seconds of a unit. A short one is done once untimed: it finds the caches of the entry before."""
        with self.around():
            if self.seconds * self.units < self.least:
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
        if self.seconds * self.units < self.least / 10:
            self.count = max(1, round(self.least / 10 / self.seconds / self.units))
            self.turn()
        self.count = max(1, round(self.least / self.seconds / self.units))

    @contextmanager
    def _wall(self) -> Iterator[list[float]]:
        seconds: list[float] = []
        begun = time.perf_counter()
        yield seconds
        self.synchronize()
        seconds.append(time.perf_counter() - begun)


def take_turns(entries: dict[Name, Entry], rounds: int) -> Iterator[dict[Name, float]]:
    """Yield, for each round, name -> seconds a unit; in a round each entry has one turn."""
    for _ in range(rounds):
        yield {name: entry.turn() for name, entry in entries.items()}


def run(entries: dict[Name, Entry], options: Options) -> dict[Name, list[float]]:
    """Return name -> seconds a unit, a number a round, after all rounds."""
    rows: list[dict[Name, float]] = []
    said = time.monotonic()
    for row in take_turns(entries, options.rounds):
        rows.append(row)
        if time.monotonic() > said + options.every:
            said = time.monotonic()
            options.say(f"round {len(rows)} of {options.rounds}")
    return {name: [row[name] for row in rows] for name in entries}


def fastest(with_threads: Callable[[int], Entry], numbers: list[int]) -> Entry:
    """Return the entry with the number of threads that is fastest in a few tries, settled."""
    entries = {number: with_threads(number) for number in numbers}
    for entry in entries.values():
        entry.settle()
    if len(numbers) == 1:
        return entries[numbers[0]]
    rows = list(take_turns(entries, TRIES))
    tried = {number: median(row[number] for row in rows) for number in numbers}
    best = entries[min(tried, key=tried.__getitem__)]
    best.tried = tried
    return best


def numbers_of_threads(cores: int) -> list[int]:
    """Return 1, 2, 4, ... and the number of cores."""
    return sorted({2 ** k for k in range(cores.bit_length()) if 2 ** k < cores} | {cores})


def ratio(times: list[float], others: list[float]) -> dict[str, float]:
    """Return median and quartiles of the ratio of two entries' times in the same rounds."""
    low, middle, high = np.quantile(np.divide(times, others), [0.25, 0.5, 0.75]).tolist()
    return {"median": middle, "low": low, "high": high}
