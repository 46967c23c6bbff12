"""Recovery is what a run does where a loss or a gradient is no finite number: skip, slow down, go back, give up.

A bad step is skipped: parameters and moments stay as they are, the carried state begins at zero, and the rate is halved
from there on. After LIMIT of them in a row, or one validation loss that is no number, the parameters themselves are at
fault: a copy of good ones returns, and the optimiser begins anew, for its moments hold what led astray. Where even
that has happened since the last copy, the run has diverged.

The copy is P numbers in memory, made every EVERY steps of parameters whose loss and gradient were finite. When it is
made depends on the step alone, not on when a file was written, and it is saved with the rest: a run that was stopped
anywhere, between two bad steps too, goes back to the same bits. The check reads two numbers that the step has anyway.
"""
import math
from typing import Any

from . import kernels
from .kernels.arrays import Array
from .params import Parameters

LIMIT = 3    # bad steps in a row that are the parameters' fault
EVERY = 100  # steps between copies
GATES = "input", "forget", "cell", "output"
STORED = "rate", "row", "uncounted", "since", "returned"


class Diverged(ArithmeticError):
    """The loss or the gradient is no longer a finite number, and going back to good parameters did not help."""


class Recovery:
    """What was done so far. params: Parameters and moments: arrays by name, those of the run; both change in place.

    rate: what the schedule's rate is multiplied with; row: bad steps in a row; uncounted: steps that the optimiser's
    bias correction does not count; good (P,): the copy, None before the first, made or given back at step `since`;
    returned: whether it was given back since; notes: a line on each thing done, for the caller to take and clear.
    """

    def __init__(self, params: Parameters, moments: dict[str, Array]):
        self.params, self.moments = params, moments
        self.rate, self.row, self.uncounted, self.since, self.returned = 1.0, 0, 0, 0, False
        self.good: Array | None = None
        self.notes: list[str] = []

    def due(self, step: int) -> bool:
        """Is a copy of the parameters after `step` steps to be made, if they are good?"""
        return self.good is None or step >= self.since + EVERY

    def passed(self, step: int, copy: Array | None = None) -> None:
        """The loss and the gradient of the parameters after `step` steps are finite.

        Called before they are updated, or with a copy from then.
        """
        self.row = 0
        if self.due(step):
            self.good, self.since, self.returned = self.params.flat.copy() if copy is None else copy, step, False

    def skip(self, step: int, loss: float, grads: Parameters) -> None:
        """Step `step`, from 1, is a bad one, and nothing is updated by it. Raises Diverged."""
        size, place = worst(grads)
        what = f"step {step}: loss {loss:.4g}, gradient {size:.4g} in {place}"
        self.row += 1
        self.uncounted += 1
        if self.row == LIMIT:
            return self.go_back(step, f"{what}: {LIMIT} steps in a row")
        self.rate /= 2
        self.notes.append(f"{what}: step skipped, the rate halved from here on")

    def go_back(self, step: int, what: str) -> None:
        """Give the parameters the good values back and the optimiser zeros. Raises Diverged where that was in vain."""
        if self.good is None:
            raise Diverged(f"{what}, and no step before them was finite")
        if self.returned:
            raise Diverged(f"{what}, and good parameters had returned at step {self.since} already")
        self.rate /= 2
        self.notes.append(f"{what}: the parameters of step {self.since} return, the rate halved from here on")
        self.params.flat[...] = self.good
        for moment in self.moments.values():
            moment[...] = 0
        self.row, self.uncounted, self.since, self.returned = 0, step, step, True

    def anew(self) -> None:
        """Forget what the rate was multiplied with, and why: the run goes on at another peak rate."""
        self.rate, self.row, self.returned = 1.0, 0, False

    def summary(self) -> dict[str, Any]:
        """The numbers that resuming needs, beside `good`."""
        return {name: getattr(self, name) for name in STORED}

    def restore(self, summary: dict[str, Any], good: Array | None) -> None:
        """Go on from what `summary` and `good` were; {} and None for a run from before there was recovery."""
        for name in STORED:
            setattr(self, name, summary.get(name, getattr(self, name)))
        self.good = good


def worst(grads: Parameters) -> tuple[float, str]:
    """(size, place): the first gradient on the way back from the loss that is not finite, else the largest.

    The place is in words, as "lstm layer 1, forget gate, weight_hh"; layers count from 0, as in the tensors' names.
    """
    found = [(name, [float(abs(block).max()) for block in _blocks(grads, name)]) for name in reversed(list(grads))]
    bad = next((entry for entry in found if not all(map(math.isfinite, entry[1]))), None)
    name, sizes = bad or max(found, key=lambda entry: max(entry[1]))
    worst_ = [gate for gate, size in enumerate(sizes) if not math.isfinite(size)] if bad else [sizes.index(max(sizes))]
    module, kind = name.split(".")
    if module != "lstm":
        return sizes[0], f"{module}, {kind}"
    kind, layer = kind.rsplit("_l", 1)
    gates = "all gates" if len(worst_) == len(GATES) else " and ".join(f"{GATES[gate]} gate" for gate in worst_)
    return sizes[worst_[0]], f"lstm layer {layer}, {gates}, {kind}"


def _blocks(grads: Parameters, name: str) -> list[Array]:
    """A parameter's gradient; of an LSTM's the four blocks of its gates."""
    return kernels.of(grads.flat).xp.split(grads[name], 4) if name.startswith("lstm.") else [grads[name]]
