"""The benchmark on a processor: in each setting, the engine, matrix products and torch take turns and are timed."""
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
    """Yield the figures of every setting, as they are measured.

    settings: names of config.BENCH. given: fields of ModelConfig and TrainConfig that replace the setting's. threads
    None: the engine uses the number of threads that is fastest. torch always uses the number of threads that is
    fastest for it, at most as many as the engine may use.
    """
    for name in dict.fromkeys(settings):
        yield {"setting": name} | measure({"embed": ModelConfig.embed} | BENCH[name] | given, dtype, threads, options)


def measure(asked: dict[str, Any], dtype: str, threads: int | None, options: Options) -> Figures:
    """Return all figures of one setting.

    asked: fields of ModelConfig and TrainConfig; dtype: float32, float64 or bf16; threads: as in measure_all. With
    float32 and bf16, torch is measured in float32 and in bfloat16; if torch has no bfloat16 LSTM for this processor,
    "left_out" is the reason. The "share" of a matrix product is the speed of a training step divided by the speed of
    the product. Raises RunError if the training needs more memory than there is, RuntimeError if the memory of a side
    cannot be measured.
    """
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
        left_out = None if dtype == "float64" else why_not_bfloat16(options.torch_device)
        for kind in ["float64"] if dtype == "float64" else ["float32"] if left_out else ["float32", "bfloat16"]:
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
    """Return the median and quartiles of the times, in ms a unit, and the speed in characters/s and GFLOP/s.

    times: seconds a unit, one number for each round. ours: the engine's times in the same rounds. If they are given,
    "times_ours" is the ratio of `times` to them.
    """
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
