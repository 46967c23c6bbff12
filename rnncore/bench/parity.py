"""Parity: how far each attempt's result is from the float64 reference, and how far it may be.

An attempt whose result differs from the float64 reference by more than its class allows is not timed. The reference is
torch in float64, eager, on the same device, from the same weights. The difference is

    training   the largest difference of a loss, in nats per character
    writing    how much less likely a chosen symbol is than the likeliest, in nats, by the reference's probabilities
    layer      the largest difference in an array, as a share of the largest number in that array of the reference

For an attempt of torch's, TORCH_FACTOR times the value in TOLERANCES is allowed; a broken implementation is farther
off. For an attempt of ours, the value in TOLERANCES is allowed, or the largest difference of torch's attempts that are
not excluded, whichever is larger.
"""
from .attempt import Attempt, Reference
from .speed import Figures
from .task import Task

# Precision class -> kind of work -> the difference that is allowed, in the units above. The values are a few times the
# differences of torch's kinds and of ours that were measured on a CPU, at about the sizes of the rows.
TOLERANCES = {
    "float64": {"training": 1e-6, "writing": 1e-6, "layer": 1e-9},
    "float32": {"training": 1e-4, "writing": 1e-3, "layer": 1e-4},
    "tf32": {"training": 4e-3, "writing": 1e-2, "layer": 2e-2},
    "bf16": {"training": 2e-2, "writing": 5e-2, "layer": 3e-2},
    "fp16": {"training": 4e-3, "writing": 1e-2, "layer": 2e-2},
}
# Factor of TOLERANCES for torch's attempts, chosen between two measurements. On an H100, two kinds of bf16 were .055
# nats apart after training: 2.75 times the tolerance. On a CPU at the rows' sizes, an engine with a recurrent weight of
# the wrong sign or with two exchanged gates differs from float64 by at least .13 nats of loss, .8 nats of a symbol or
# .6 of an array: 6, 16 and 20 times bf16's tolerance.
TORCH_FACTOR = 5
NO = "no parity"  # the first words of the reason why an attempt is excluded


def tolerance(task: Task, precision: str) -> float:
    """Return the difference in TOLERANCES for a kind of work and a precision class."""
    return TOLERANCES[precision]["layer" if task.work.startswith("forward") else task.work]


def compare(ours: dict[str, Attempt], theirs: dict[str, Attempt], reference: Reference, tolerated: float) -> Figures:
    """Exclude the attempts that are too far from the reference. Return the difference that is allowed for each side.

    ours and theirs: name -> attempt of the engine and of torch. tolerated: the value of `tolerance`. "by" in the result
    is the name of torch's attempt whose difference is allowed for ours; None if `tolerated` is larger.
    """
    for attempt in (*theirs.values(), *ours.values()):
        if attempt.runs:
            attempt.compare(reference)
    allowed, by = tolerated, None
    exclude(theirs, TORCH_FACTOR * tolerated)  # before the loop: a broken one must not set how far ours may be
    for name, attempt in theirs.items():
        if attempt.runs and attempt.difference is not None and attempt.difference > allowed:
            allowed, by = attempt.difference, name
    exclude(ours, allowed)
    return {"ours": allowed, "torch": TORCH_FACTOR * tolerated, "by": by}


def exclude(attempts: dict[str, Attempt], allowed: float) -> None:
    """Set the reason `why_not` of each attempt that is farther from the reference than is allowed."""
    for attempt in attempts.values():
        far = attempt.difference
        if attempt.runs and far is not None and not far <= allowed:  # `not <=` is True for nan, `>` would not be
            attempt.why_not = f"{NO}: {far:.2g} from the float64 reference, at most {allowed:.2g} is allowed"
