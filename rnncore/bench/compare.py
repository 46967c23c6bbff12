"""A contest: the engine, the matrix product and torch take turns at one setting; figures are made of their times."""
import time

import numpy as np

from ..cli.terminal.progress import EVERY, tell
from . import memory, speed
from .speed import Entrant


def measure(asked: dict, device: str, dtype: str, threads: int | None, rounds: int, rival=None,
            torch_device: str = "cpu") -> dict:
    """All figures of one setting.

    asked: fields of ModelConfig and TrainConfig; rival: the module of that name, or None. threads None: ours on as many
    as are fastest; torch always takes its fastest number, up to as many as ours may have.
    """
    sizes, config = speed.configs(asked)
    tell(f"warming up: {sizes.layers} x {sizes.hidden}")
    subject = speed.Subject(sizes, config, device, dtype)
    engines = {"rnncore": subject.jobs(threads)}
    training = engines["rnncore"]["training"]
    works = {"rnncore": ("rnncore.bench.speed:steps", device, dtype)}
    left_out = rival.why_not_bfloat16(torch_device) if rival and dtype == "float32" else None
    for kind in ([dtype] if left_out or dtype != "float32" else [dtype, "bfloat16"]) if rival else []:
        tell(f"warming up: torch, {kind}")
        engines[f"torch {kind}"] = rival.Rival(sizes, config, torch_device, kind, subject.model.tensors()).jobs(
            threads or subject.kernel.cores())
        works[f"torch {kind}"] = "rnncore.bench.torch_cpu:steps", torch_device, kind
    products = subject.products(training.threads)
    times = run({(name, what): entrant for name, jobs in engines.items() for what, entrant in jobs.items()}
                | {name: entrant for name, (entrant, _) in products.items()}, rounds)
    found = {name: {"work": {what: figures(entrant, times[name, what], times["rnncore", what] * (name != "rnncore"))
                             for what, entrant in jobs.items()},
                    "memory_mb": peak(works[name], sizes, config, jobs["training"].threads)}
             for name, jobs in engines.items()}
    speed_of_training = found["rnncore"]["work"]["training"]["gflops"]
    bounds = {name: figures(entrant, times[name]) | {"shape": shape} for name, (entrant, shape) in products.items()}
    for bound in bounds.values():
        bound["share"] = speed_of_training / bound["gflops"]
    return {**asked, "dtype": dtype, "device": subject.kernel.name, "flops_a_step": training.flops,
            "engines": found, "products": bounds, "left_out": left_out}


def run(entrants: dict, rounds: int) -> dict:
    """The name of each entrant -> its seconds a unit, a number a round."""
    rows, told = [], time.monotonic()
    for row in speed.take_turns(entrants, rounds):
        rows.append(row)
        if time.monotonic() > told + EVERY:
            told = time.monotonic()
            tell(f"round {len(rows)} of {rounds}")
    return {name: [row[name] for row in rows] for name in entrants}


def figures(entrant: Entrant, times: list[float], ours: list[float] | None = None) -> dict:
    """Medians and quartiles of what a unit took; with our times of the same rounds, of how many times as long too."""
    low, middle, high = np.quantile(times, [0.25, 0.5, 0.75]).tolist()
    found = {"ms": 1e3 * middle, "quartiles_ms": [1e3 * low, 1e3 * high], "threads": entrant.threads,
             "tried_ms": {number: 1e3 * seconds for number, seconds in entrant.tried.items()}}
    if entrant.chars:
        found["characters_per_s"] = entrant.chars / middle
    if entrant.flops:
        found["gflops"] = entrant.flops / middle / 1e9
    if ours:
        low, middle, high = np.quantile(np.divide(times, ours), [0.25, 0.5, 0.75]).tolist()
        found["times_ours"] = {"median": middle, "low": low, "high": high}
    return found


def peak(work: tuple, sizes, config, threads: int) -> float:
    """MB at the peak of a few training steps above an interpreter with NumPy."""
    name, device, dtype = work
    return memory.above_numpy(name, *speed.arguments(sizes, config, device, dtype, threads)) / 1e6
