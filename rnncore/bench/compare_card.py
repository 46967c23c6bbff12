"""A contest on a card: all paths of ours and torch's, eager and in a CUDA graph, at one row in one precision class.

Classes never meet. First each computes the same from the same weights. An entry whose result differs from the float64
reference by more than its class allows is not timed (parity.py). The others then take turns by the card's own clock.
The ratio is that of the fastest of torch's to the fastest of ours.
"""
from dataclasses import dataclass
from time import perf_counter
from typing import Any

import numpy as np

from ..cli.terminal.progress import tell
from ..config import PATHS
from . import compare as contest, ours, parity
from .parity import tolerance
from .speed import Entrant
from .task import STEPS, Task

TURN = 0.08  # seconds that a turn lasts, about: above 0.05 where a unit is shorter
DTYPES = {"float64": "float64", "float32": "float32", "tf32": "tf32", "bf16": "bf16",
          "fp16": "tf32"}  # ours has no other class with float16's ten bits of mantissa


@dataclass
class Contestant:
    """One way to do a row's work, or why it could not run or was not timed."""
    entrant: Entrant | None = None
    evidence: Any = None
    side: Any = None
    ready: float = 0.0               # seconds to compile, capture and compute the evidence
    difference: float | None = None  # from the float64 reference, None where it was not compared
    why_not: str | None = None

    @property
    def runs(self) -> bool:
        return self.why_not is None

    def compare(self, reference) -> None:
        """Measure the difference from the reference. Any error is a reason not to be timed."""
        try:
            self.difference = reference.difference(self.evidence)
        except Exception as error:
            self.why_not = f"not compared with the float64 reference: {reason(error)}"


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
    reference = enter(lambda: rival.reference(task, torch_device)) if rival else None
    ours_ = {path: enter(lambda path=path: ours.WORK[task.work](task, device, DTYPES[precision], path))
             for path in ours.WORK[task.work].paths if path in paths}
    theirs = {f"{kind} {'graphed' if graphed else 'eager'}":
              enter(lambda kind=kind, graphed=graphed: rival.WORK[task.work](task, torch_device, kind, graphed))
              for kind in rival.kinds(task, precision) for graphed in (False, True)} if rival else {}
    about = {"tolerance": tolerance(task, precision), **compared(ours_, theirs, reference, tolerance(task, precision))}
    if rival:
        del reference  # what it has on the card is not needed while the others take turns
        rival.release()
    timed = {(who, name): entry for who, entries in (("ours", ours_), ("torch", theirs))
             for name, entry in entries.items() if entry.runs}
    tell(f"{row}, {precision}: {len(timed)} take turns")
    times = turns(timed, rounds)
    found = {"row": row, "class": precision, **described(task), **about,
             **{who: {name: figures(entry, times.get((who, name))) for name, entry in entries.items()}
                for who, entries in (("ours", ours_), ("torch", theirs))}}
    if rival:
        found["cudnn_expected"] = {kind: rival.cudnn_algorithm(task, kind) for kind in rival.kinds(task, precision)}
    return found | outcome(times, found)


def compared(ours_: dict, theirs: dict, reference: Contestant | None, tolerated: float) -> dict:
    """Exclude the entries without parity. Return what the reference is, and how far from it each side may be.

    Without a reference that runs, no entry is excluded.
    """
    found: dict = {"reference": None, "allowed": None}
    if reference:
        found["reference"] = {"kind": "torch float64 eager", **(
            {"ready_s": reference.ready} if reference.runs else {"why_not": reference.why_not})}
        if reference.runs:
            found["allowed"] = parity.compare(ours_, theirs, reference.side, tolerated)
    for entry in (*ours_.values(), *theirs.values()):
        entry.evidence = None
    return found


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
    no_reference = (found.get("reference") or {}).get("why_not")
    if no_reference:
        return made | {"verdict": f"the float64 reference could not run: {no_reference}"}
    if not mine:
        words = "; ".join(rest) or "there is no such path for this work"
        no_parity = any(entry["why_not"].startswith(parity.NO) for entry in found["ours"].values())
        return made | {"verdict": parity.NO if no_parity else f"nothing of ours ran: {words}"}
    if not other:
        words = "; ".join(f"{name}: {entry['why_not']}" for name, entry in found["torch"].items())
        return made | {"verdict": f"nothing of torch's was timed: {words}"}
    ratios = np.divide(times["torch", other], times["ours", mine])
    low, middle, high = np.quantile(ratios, [0.25, 0.5, 0.75]).tolist()
    failed = [name for name, entry in found["torch"].items() if "ms" not in entry]
    return made | {"ratio": {"median": middle, "low": low, "high": high},
                   "verdict": f"without torch {', '.join(failed)}, not timed" if failed else None}
