"""Parity: how far each attempt's result is from the float64 reference, and how far it may be.

An attempt whose result differs from the float64 reference by more than its class allows is not timed. The reference is
torch in float64, eager, on the same device, from the same weights. The difference is

    training   the largest difference of a loss, in nats
    writing    how much less likely a chosen symbol is than the likeliest, in nats, by the reference's probabilities
    layer      the largest difference in an array, as a share of the largest number in that array of the reference

One of ours may be as far as TOLERANCES says, or as far as the farthest of torch's in the class, whichever is more.
One of torch's may be SANE times as far as TOLERANCES says. A broken one is farther: it is not timed, and ours may not
be as far as it is.
"""
from .attempt import Attempt, Reference
from .speed import Figures
from .task import Task

TOLERANCES = {  # a few times what torch's kinds and ours differ by on a CPU, about at the rows' sizes
    "float64": {"training": 1e-6, "writing": 1e-6, "layer": 1e-9},
    "float32": {"training": 1e-4, "writing": 1e-3, "layer": 1e-4},
    "tf32": {"training": 4e-3, "writing": 1e-2, "layer": 2e-2},
    "bf16": {"training": 2e-2, "writing": 5e-2, "layer": 3e-2},
    "fp16": {"training": 4e-3, "writing": 1e-2, "layer": 2e-2},
}
# Factor of TOLERANCES for torch's kinds. On an H100, two kinds of bf16 were .055 nats apart after training: 2.75 times
# the tolerance. On a CPU at the rows' sizes, a recurrent weight of the wrong sign or two exchanged gates differ from
# float64 by .13 nats of loss, .8 nats of a symbol or .6 of an array at the least: 6, 16 and 20 times bf16's tolerance.
SANE = 5
NO = "no parity"  # the words about an excluded attempt begin with it


def tolerance(task: Task, precision: str) -> float:
    """Return the entry of TOLERANCES for a kind of work and a precision class."""
    return TOLERANCES[precision]["layer" if task.work.startswith("forward") else task.work]


def compare(ours: dict[str, Attempt], theirs: dict[str, Attempt], reference: Reference, tolerated: float) -> Figures:
    """Exclude the attempts that are too far from the reference; return how far each side's may be.

    "by" in what is returned: the name of torch's attempt that sets how far ours may be, None where `tolerated` does.
    """
    for attempt in (*theirs.values(), *ours.values()):
        if attempt.runs:
            attempt.compare(reference)
    allowed, by = tolerated, None
    exclude(theirs, SANE * tolerated)
    for name, attempt in theirs.items():
        if attempt.runs and attempt.difference is not None and attempt.difference > allowed:
            allowed, by = attempt.difference, name
    exclude(ours, allowed)
    return {"ours": allowed, "torch": SANE * tolerated, "by": by}


def exclude(attempts: dict[str, Attempt], allowed: float) -> None:
    """Give each attempt that is farther from the reference than is allowed the words why it is not timed."""
    for attempt in attempts.values():
        far = attempt.difference
        if attempt.runs and far is not None and not far <= allowed:  # nan too
            attempt.why_not = f"{NO}: {far:.2g} from the float64 reference, at most {allowed:.2g} is allowed"
