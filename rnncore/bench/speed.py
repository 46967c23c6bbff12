"""Speed is measured in turns: in each round, every entry does a part of its work, one entry after the other.

Another program that slows the machine down for a while then slows all entries down, not one. The figures are medians
and quantiles over the rounds.
"""
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from statistics import median
from typing import Any, NamedTuple, TypeAlias, TypeVar

import numpy as np

from ..kernels import host

TURN = 0.2  # seconds that a turn should last; a single call of the work may take longer
TRIES = 3   # turns that each number of threads gets before the rounds

Name = TypeVar("Name")
Figures: TypeAlias = dict[str, Any]  # name -> what was measured, in values that JSON can hold


class Options(NamedTuple):
    """The options of a measurement, the same on any device."""
    device: str                 # the engine's device, as for kernels.load
    torch_device: str | None    # torch's name of the device; None: torch is not measured
    rounds: int                 # turns of each entry
    say: Callable[[str], None]  # function that shows a line about the progress
    every: float                # seconds between two such lines while entries take turns


@dataclass
class Entry:
    """Work that takes turns with other entries. It is measured in units, such as a training step."""
    work: Callable[[], object]                                  # does `units` units
    synchronize: Callable[[], None]                             # waits for the device
    around: Callable[[], AbstractContextManager] = nullcontext  # context of a turn, such as the number of threads
    chars: int = 0                                              # characters of a unit
    flops: int = 0                                              # operations of a unit's matrix products
    threads: int | None = None                                  # threads that work() uses, where that is known
    units: int = 1                                              # units that one call of work() does
    count: int = 1                                              # calls of work() in a turn
    timer: Callable[[], AbstractContextManager[list[float]]] = host.timer  # of the device that works
    least: float = field(default_factory=lambda: TURN)          # seconds that a turn should last
    seconds: float = 0.0                                        # seconds of a unit in the last turn
    tried: dict[int, float] = field(default_factory=dict)       # number of threads -> seconds of a unit, if several

    def turn(self) -> float:
        """Take a turn, and return the seconds of a unit in it."""
        # The entry before has filled the processor's caches with its own data. A short call is done once untimed, so
        # that the turn does not measure how the caches are filled again.
        with self.around():
            if self.seconds * self.units < self.least:
                self.work()
            self.synchronize()
            with self.timer() as seconds:
                for _ in range(self.count):
                    self.work()
            self.seconds = seconds[0] / self.count / self.units
        return self.seconds

    def settle(self) -> None:
        """Warm up, and choose the number of calls in a turn, so that a turn lasts about `least` seconds."""
        self.turn()
        # The time of one very short call is too rough to choose by, so calls for a tenth of a turn are timed first.
        if self.seconds * self.units < self.least / 10:
            self.count = max(1, round(self.least / 10 / self.seconds / self.units))
            self.turn()
        self.count = max(1, round(self.least / self.seconds / self.units))


def take_turns(entries: dict[Name, Entry], rounds: int) -> Iterator[dict[Name, float]]:
    """Yield name -> seconds of a unit, for each round. In a round each entry has one turn."""
    for _ in range(rounds):
        yield {name: entry.turn() for name, entry in entries.items()}


def run(entries: dict[Name, Entry], options: Options) -> dict[Name, list[float]]:
    """Let the entries take turns for all rounds; return name -> seconds of a unit, one number for each round."""
    rows: list[dict[Name, float]] = []
    said = time.monotonic()
    for row in take_turns(entries, options.rounds):
        rows.append(row)
        if time.monotonic() > said + options.every:
            said = time.monotonic()
            options.say(f"round {len(rows)} of {options.rounds}")
    return {name: [row[name] for row in rows] for name in entries}


def fastest(with_threads: Callable[[int], Entry], numbers: list[int]) -> Entry:
    """Return the entry with the fastest number of threads, ready to take turns.

    with_threads(number) makes the entry with that number of threads; `numbers` are tried for a few turns each.
    """
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
    """Return the numbers of threads that are tried: 1, 2, 4, ... below the number of cores, and the number of cores."""
    return sorted({2 ** k for k in range(cores.bit_length()) if 2 ** k < cores} | {cores})


def ratio(times: list[float], others: list[float]) -> dict[str, float]:
    """Return the median and the quartiles of times / others, where both are times of the same rounds."""
    low, middle, high = np.quantile(np.divide(times, others), [0.25, 0.5, 0.75]).tolist()
    return {"median": middle, "low": low, "high": high}
