"""A contest on a card: all paths of ours and torch's, eager and in a CUDA graph, at one row in one precision class.

Classes never meet. First each computes the same from the same weights, and who differs from torch by more than the
class allows drops out with its words; then the others take turns by the card's own clock. The ratio is that of the
fastest of torch's to the fastest of ours.
"""
from dataclasses import dataclass
from time import perf_counter
from typing import Any

import numpy as np

from rnncore.config import PATHS
from rnncore.speed import Entrant

from . import contest, ours
from .progress import tell
from .task import STEPS, Task

TURN = 0.08  # seconds that a turn lasts, about: above 0.05 where a unit is shorter
DTYPES = {"float64": "float64", "float32": "float32", "tf32": "tf32", "bf16": "bf16",
          "fp16": "tf32"}  # ours has no other class with float16's ten bits of mantissa
TOLERANCES = {  # training: nats of loss; writing: nats of a symbol; layer: share of an array's largest number.
    "float64": {"training": 1e-6, "writing": 1e-6, "layer": 1e-9},  # A few times what torch's own classes differ by
    "float32": {"training": 1e-4, "writing": 1e-3, "layer": 1e-4},  # on a CPU at the rows' sizes
    "tf32": {"training": 4e-3, "writing": 1e-2, "layer": 2e-2},
    "bf16": {"training": 2e-2, "writing": 5e-2, "layer": 3e-2},
    "fp16": {"training": 4e-3, "writing": 1e-2, "layer": 2e-2},
}


@dataclass
class Contestant:
    """One way to do a row's work, or why it could not run or was not timed."""
    entrant: Entrant | None = None
    evidence: Any = None
    side: Any = None
    ready: float = 0.0               # seconds to compile, capture and compute the evidence
    difference: float | None = None  # from the judge, None where there is none
    why_not: str | None = None

    @property
    def runs(self) -> bool:
        return self.why_not is None


def enter(make) -> Contestant:
    """What `make` makes, and what that computes. Any error is a reason not to run: CUDA's have no common class."""
    begun = perf_counter()
    try:
        side = make()
        evidence = side.evidence()
        found = Contestant(side.entrant(), evidence, side, perf_counter() - begun)
    except Exception as error:
        return Contestant(why_not=reason(error))
    found.entrant.least = TURN
    return found


def reason(error: Exception) -> str:
    """In one line."""
    return " ".join(f"{type(error).__name__}: {error}".split())[:300]


def measure(row: str, task: Task, precision: str, device: str, rounds: int, paths=PATHS, rival=None,
            torch_device: str = "cuda") -> dict:
    """All figures of one row in one precision class, as JSON can carry them. rival: the module graphed, or None."""
    tell(f"{row}, {precision}: making ready")
    ours_ = {path: enter(lambda path=path: ours.WORK[task.work](task, device, DTYPES[precision], path))
             for path in ours.WORK[task.work].paths if path in paths}
    theirs = {f"{kind} {'graphed' if graphed else 'eager'}":
              enter(lambda kind=kind, graphed=graphed: rival.WORK[task.work](task, torch_device, kind, graphed))
              for kind in rival.kinds(task, precision) for graphed in (False, True)} if rival else {}
    allowed = tolerance(task, precision)
    judge(ours_, theirs, allowed)
    timed = {(who, name): entry for who, entries in (("ours", ours_), ("torch", theirs))
             for name, entry in entries.items() if entry.runs}
    tell(f"{row}, {precision}: {len(timed)} take turns")
    times = turns(timed, rounds)
    found = {"row": row, "class": precision, **described(task), "tolerance": allowed,
             **{who: {name: figures(entry, times.get((who, name))) for name, entry in entries.items()}
                for who, entries in (("ours", ours_), ("torch", theirs))}}
    if rival:
        found["cudnn_expected"] = {kind: rival.cudnn_algorithm(task, kind) for kind in rival.kinds(task, precision)}
    return found | outcome(times, found)


def judge(ours_: dict, theirs: dict, allowed: float) -> None:
    """Measure how far each is from the first of torch's that runs; who is too far is not timed."""
    judges = [entry for entry in theirs.values() if entry.runs]
    for entry in [entry for entry in (*ours_.values(), *theirs.values()) if entry.runs and judges]:
        try:
            entry.difference = judges[0].side.difference(entry.evidence)
        except Exception as error:
            entry.why_not = reason(error)
            continue
        if not entry.difference <= allowed:  # nan too
            entry.why_not = f"no parity: {entry.difference:.2g} from torch, at most {allowed:.2g} is allowed"
    for entry in (*ours_.values(), *theirs.values()):
        entry.evidence = None


def turns(timed: dict, rounds: int) -> dict:
    """The name of each -> its seconds a unit, a number a round. After an error on the card there are none."""
    try:
        for entry in timed.values():
            for _ in range(2):  # the first is still short where the first call of all was long
                entry.entrant.settle()
        return contest.run({name: entry.entrant for name, entry in timed.items()}, rounds)
    except Exception as error:
        for entry in timed.values():
            entry.why_not = f"the turns ended with {reason(error)}"
        return {}


def tolerance(task: Task, precision: str) -> float:
    return TOLERANCES[precision]["layer" if task.work.startswith("forward") else task.work]


def described(task: Task) -> dict:
    """What the row is."""
    sizes, config = task.sizes, task.config
    about = {"work": task.work, "layers": sizes.layers, "hidden": sizes.hidden, "embed": sizes.embed}
    if task.work == "writing":
        return about | {"vocab_size": sizes.vocab_size, "streams": task.streams}
    about |= {"batch": config.batch, "seq": config.seq}
    return about | ({"vocab_size": sizes.vocab_size, "optimizer": config.optimizer, "parity_steps": STEPS}
                    if task.work == "training" else {})


def figures(entry: Contestant, times: list[float] | None) -> dict:
    """Of one contestant: ms a step, a pass, or a character of each text."""
    found: dict = {}
    if entry.difference is not None:
        found["difference"] = entry.difference if np.isfinite(entry.difference) else None
    if not times:
        return found | {"why_not": entry.why_not}
    low, middle, high = (1e3 * np.quantile(times, [0.1, 0.5, 0.9])).tolist()
    return found | {"ms": middle, "p10_ms": low, "p90_ms": high, "characters_per_s": 1e3 * entry.entrant.chars / middle,
                    "ready_s": entry.ready, "units_a_call": entry.entrant.units, "calls_a_turn": entry.entrant.count}


def outcome(times: dict, found: dict) -> dict:
    """Which path of ours is chosen and why, which of torch's it is held against; the ratio, or why there is none."""
    best = {who: min((name for name, entry in found[who].items() if "ms" in entry), default=None,
                     key=lambda name, who=who: found[who][name]["ms"]) for who in ("ours", "torch")}
    mine, other = best["ours"], best["torch"]
    rest = [f"{name}: {entry['why_not']}" for name, entry in found["ours"].items() if "ms" not in entry]
    measured = [f"{name} {entry['ms']:.4g} ms" for name, entry in found["ours"].items() if "ms" in entry]
    made = {"chosen": mine and {"path": mine, "why": f"the fastest measured: {', '.join(measured)}"},
            "against": other, "ratio": None, "verdict": None}
    if not found["torch"]:
        return made | {"verdict": "torch was not asked for"}
    if not mine:
        words = "; ".join(rest) or "there is no such path for this work"
        no_parity = any("difference" in entry for entry in found["ours"].values())
        return made | {"verdict": "no parity" if no_parity else f"nothing of ours ran: {words}"}
    if not other:
        return made | {"verdict": "torch could not run"}
    ratios = np.divide(times["torch", other], times["ours", mine])
    low, middle, high = np.quantile(ratios, [0.25, 0.5, 0.75]).tolist()
    failed = [name for name, entry in found["torch"].items() if "ms" not in entry]
    return made | {"ratio": {"median": middle, "low": low, "high": high},
                   "verdict": f"without torch {', '.join(failed)}, which could not run" if failed else None}
