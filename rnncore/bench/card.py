"""The benchmark on a GPU: a row is a kind of work of one size, measured for each precision class separately.

In a row and class, all attempts do the same work from the same weights: the engine on each of its paths, and torch in
each of its kinds, eager and in a CUDA graph. An attempt whose result differs from the float64 reference by more than
its class allows is not timed (parity.py). The others take turns, timed by the GPU's own clock. The ratio is torch's
fastest time divided by the engine's fastest time.
"""
import gc
from collections.abc import Collection, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from .. import kernels
from ..config import BENCH, BENCH_CARD, PATHS
from . import ours, parity, speed
from .attempt import Attempt, reason
from .speed import Figures, Options
from .task import STEPS, Task

SIDES = "ours", "torch"  # keys of a row's figures: the engine's attempts and torch's
DRIVER = Path("/proc/driver/nvidia/version")


def measure_all(rows: Iterable[str], given: dict[str, Any], dtype: str | None, path: str,
                options: Options) -> Iterator[Figures]:
    """Yield the figures of every row in each of its precision classes, as they are measured.

    rows: names of config.BENCH and BENCH_CARD, none for all rows of BENCH_CARD. given: fields of ModelConfig and
    TrainConfig that replace the row's. dtype: one precision class, None for the row's classes. path: one of PATHS, or
    all. A row of a single layer has no vocabulary, so it does not take a given vocab_size.
    """
    for name in dict.fromkeys(rows or BENCH_CARD):
        work, sizes, classes = BENCH_CARD.get(name) or ("training", BENCH[name], ("float32", "tf32", "bf16"))
        kept = {key: value for key, value in given.items() if key != "vocab_size" or not name.startswith("layer")}
        task = Task.of(work, sizes | kept)
        for precision in [dtype] if dtype else classes:
            yield measure(name, task, precision, options, PATHS if path == "all" else (path,))
        gc.collect()  # frees the row's arrays on the GPU before the next row needs memory


def measure(row: str, task: Task, precision: str, options: Options, paths: Collection[str] = PATHS) -> Figures:
    """Return all figures of one row in one precision class. paths: the paths of the engine that are measured."""
    options.say(f"{row}, {precision}: making ready")
    reference, about = None, None
    if options.torch_device:
        from . import torch_card
        torch_card.release()
        reference, about = torch_card.reference(task, options.torch_device)
    work, tolerated = ours.WORK[task.work], parity.tolerance(task, precision)
    attempts = {
        "ours": {path: Attempt.of(partial(work, task, options.device, ours.DTYPES[precision], path))
                 for path in work.paths if path in paths},
        "torch": torch_card.attempts(task, precision, options.torch_device) if options.torch_device else {}}
    allowed = parity.compare(attempts["ours"], attempts["torch"], reference, tolerated) if reference else None
    named = {(side, name): attempt for side, made in attempts.items() for name, attempt in made.items()}
    for attempt in named.values():
        attempt.result = {}
    if options.torch_device:
        del reference  # frees its arrays on the GPU: after the comparison nothing reads them
        torch_card.release()
    timed = {name: attempt for name, attempt in named.items() if attempt.runs}
    options.say(f"{row}, {precision}: {len(timed)} take turns")
    times = turns(timed, options)
    found = {"row": row, "class": precision, **described(task), "tolerance": tolerated, "reference": about,
             "allowed": allowed, **{side: {name: figures(attempt, times.get((side, name)))
                                           for name, attempt in made.items()} for side, made in attempts.items()}}
    if options.torch_device:
        found["cudnn_expected"] = {kind: torch_card.cudnn_algorithm(task, kind)
                                   for kind in torch_card.kinds(task, precision)}
    return found | outcome(times, found)


def turns(timed: dict[tuple[str, str], Attempt], options: Options) -> dict[tuple[str, str], list[float]]:
    """Return name -> seconds a unit, one number for each round.

    An exception ends the turns: the result is then empty, and the exception is the reason why no attempt is timed.
    """
    entries = {name: attempt.entry for name, attempt in timed.items() if attempt.entry}
    try:
        for entry in entries.values():
            # settle() chooses the number of calls a turn from a measured time. The first call of all may be slow, and
            # then the number is too small. The second settle() measures without that call.
            for _ in range(2):
                entry.settle()
        return speed.run(entries, options)
    except Exception as error:
        for attempt in timed.values():
            attempt.why_not = f"the turns ended with {reason(error)}"
        return {}


def described(task: Task) -> Figures:
    """Return the figures that describe a row: the kind of work and its sizes."""
    sizes, config = task.sizes, task.config
    about = {"work": task.work, "layers": sizes.layers, "hidden": sizes.hidden, "embed": sizes.embed}
    if task.work == "writing":
        return about | {"vocab_size": sizes.vocab_size, "streams": task.streams}
    about |= {"batch": config.batch, "seq": config.seq}
    return about | ({"vocab_size": sizes.vocab_size, "optimizer": config.optimizer, "parity_steps": STEPS}
                    if task.work == "training" else {})


def figures(attempt: Attempt, times: list[float] | None) -> Figures:
    """Return the figures of one attempt, such as milliseconds a unit (a step, a pass, or a character of each text).

    times: seconds a unit, one number for each round; None or empty: the figures hold the reason `why_not`.
    """
    found: Figures = {}
    if attempt.difference is not None:
        found["difference"] = attempt.difference if np.isfinite(attempt.difference) else None
    if not times or not attempt.entry:
        return found | {"why_not": attempt.why_not}
    low, middle, high = (1e3 * np.quantile(times, [0.1, 0.5, 0.9])).tolist()
    entry = attempt.entry
    return found | {"ms": middle, "p10_ms": low, "p90_ms": high, "characters_per_s": 1e3 * entry.chars / middle,
                    "ready_s": attempt.ready, "units_a_call": entry.units, "calls_a_turn": entry.count}


def outcome(times: dict[tuple[str, str], list[float]], found: Figures) -> Figures:
    """Return the chosen path of the engine and the reason, torch's attempt that it is compared with, and the ratio.

    The fastest attempt of each side is taken. "verdict" says why there is no ratio, or which of torch's attempts were
    not timed; None if neither is the case.
    """
    timed = {side: {name: each["ms"] for name, each in found[side].items() if "ms" in each} for side in SIDES}
    rest = {side: {name: each["why_not"] for name, each in found[side].items() if "ms" not in each} for side in SIDES}
    words = {side: "; ".join(f"{name}: {why_not}" for name, why_not in rest[side].items()) for side in SIDES}
    mine, other = (min(timed[side], default=None, key=timed[side].__getitem__) for side in SIDES)
    measured = ", ".join(f"{name} {ms:.4g} ms" for name, ms in timed["ours"].items())
    made: Figures = {"chosen": mine and {"path": mine, "why": f"the fastest measured: {measured}"},
                     "against": other, "ratio": None, "verdict": None}
    if not found["torch"]:
        return made | {"verdict": "torch was not asked for"}
    no_reference = (found.get("reference") or {}).get("why_not")
    if no_reference:
        return made | {"verdict": f"the float64 reference could not run: {no_reference}"}
    if not mine:
        no_parity = any(why_not.startswith(parity.NO) for why_not in rest["ours"].values())
        return made | {"verdict": parity.NO if no_parity else "nothing of ours ran: "
                       + (words["ours"] or "there is no such path for this work")}
    if not other:
        return made | {"verdict": f"nothing of torch's was timed: {words['torch']}"}
    return made | {"ratio": speed.ratio(times["torch", other], times["ours", mine]),
                   "verdict": f"without torch {', '.join(rest['torch'])}, not timed" if rest["torch"] else None}


def machine(device: str) -> Figures:
    """Return the name of the GPU, and the versions of its driver and libraries.

    device: as for kernels.load; a name without a number means GPU 0.
    """
    found = kernels.describe(int(device.partition(":")[2] or 0))
    if DRIVER.is_file():
        found["driver"] = driver(DRIVER.read_text(encoding="utf-8", errors="replace"))
    return found


def driver(text: str) -> str:
    """Return the version in the text of /proc/driver/nvidia/version: the first line's first word of digits and dots."""
    words = text.splitlines()[0].split() if text else []
    return next((word for word in words if word.replace(".", "").isdecimal() and "." in word), "unknown")
