"""One setting on a processor: the engine, matrix products and torch take turns, and figures are made of their times."""
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from ..config import BENCH, ModelConfig
from ..kernels import host
from ..runs.prepare import check_memory
from . import memory, speed
from .ours import Engine
from .speed import Entry, Figures, Options
from .task import configs


def measure_all(settings: Iterable[str], given: dict[str, Any], dtype: str, threads: int | None,
                options: Options) -> Iterator[Figures]:
    """Yield the figures of every setting, as they are made. given: fields that go before the setting's.

    threads None: ours on as many as are fastest; torch always takes its fastest number, up to as many as ours may have.
    """
    for name in dict.fromkeys(settings):
        yield {"setting": name} | measure({"embed": ModelConfig.embed} | BENCH[name] | given, dtype, threads, options)


def measure(asked: dict[str, Any], dtype: str, threads: int | None, options: Options) -> Figures:
    """Return all figures of one setting; asked: fields of ModelConfig and TrainConfig."""
    sizes, config = configs(asked)
    check_memory(config, sizes, 8 if dtype == "float64" else 4, host.memory())
    options.say(f"warming up: {sizes.layers} x {sizes.hidden}")
    engine = Engine(sizes, config, options.device, dtype)
    engines = {"rnncore": engine.entries(threads)}
    training = engines["rnncore"]["training"]
    sides = {"rnncore": ("rnncore.bench.ours:Engine", options.device, dtype)}
    left_out = None
    if options.torch_device:
        from .torch_cpu import TorchBaseline, why_not_bfloat16
        left_out = why_not_bfloat16(options.torch_device) if dtype == "float32" else None
        for kind in [dtype] if left_out or dtype != "float32" else [dtype, "bfloat16"]:
            options.say(f"warming up: torch, {kind}")
            baseline = TorchBaseline(sizes, config, options.torch_device, kind, engine.model.tensors())
            engines[f"torch {kind}"] = baseline.entries(threads or engine.kernel.cores())
            sides[f"torch {kind}"] = "rnncore.bench.torch_cpu:TorchBaseline", options.torch_device, kind
    products = engine.products(training.threads or 1)
    times = speed.run({(name, what): entry for name, entries in engines.items() for what, entry in entries.items()}
                      | {(name,): entry for name, (entry, _) in products.items()}, options)
    found: dict[str, Figures] = {
        name: {"work": {what: figures(entry, times[name, what], times["rnncore", what] * (name != "rnncore"))
                        for what, entry in entries.items()},
               "memory_mb": memory.of_training(sizes, config, entries["training"].threads or 1, *sides[name]) / 1e6}
        for name, entries in engines.items()}
    bounds = {name: figures(entry, times[name,]) | {"shape": shape} for name, (entry, shape) in products.items()}
    for bound in bounds.values():
        bound["share"] = found["rnncore"]["work"]["training"]["gflops"] / bound["gflops"]
    return {**asked, "dtype": dtype, "device": engine.kernel.name, "flops_a_step": training.flops,
            "engines": found, "products": bounds, "left_out": left_out}


def figures(entry: Entry, times: list[float], ours: list[float] | None = None) -> Figures:
    """Return medians and quartiles of the times of a unit; with our times of the same rounds, the ratio to them too."""
    low, middle, high = np.quantile(times, [0.25, 0.5, 0.75]).tolist()
    found = {"ms": 1e3 * middle, "quartiles_ms": [1e3 * low, 1e3 * high], "threads": entry.threads,
             "tried_ms": {number: 1e3 * seconds for number, seconds in entry.tried.items()}}
    if entry.chars:
        found["characters_per_s"] = entry.chars / middle
    if entry.flops:
        found["gflops"] = entry.flops / middle / 1e9
    if ours:
        found["times_ours"] = speed.ratio(times, ours)
    return found
