"""Recovery of a run from a loss or gradient that is not finite: skip the step, go back to good parameters, or give up.

A step with such a loss or gradient is a bad step. It is skipped: parameters and moments stay as they are, the carried
state is reset, and the learning rate is halved from then on. After LIMIT bad steps in a row, or after one validation
loss that is not finite, the parameters themselves must be bad. Then a copy of good parameters returns, and the moments
are set to zero, because they hold the gradients that led to the bad parameters. If this happens again before the next
copy is made, the run has diverged.

Every EVERY steps the parameters are copied, provided that their loss and gradient were finite. The step of a copy does
not depend on stops of the run, and the copy is saved with the run. So a run that was stopped anywhere, also between two
bad steps, goes back to the same bits. The check costs nothing: every step computes its loss and gradient norm anyway.
"""
import math
from typing import Any

from . import kernels
from .kernels.arrays import Array
from .params import Parameters

LIMIT = 3    # bad steps in a row after which the good parameters return
EVERY = 100  # steps between two copies
GATES = "input", "forget", "cell", "output"  # in the order of the blocks i f g o
# attributes of a Recovery that a saved run holds
STORED = "rate", "row", "uncounted", "since", "returned"


class Diverged(ArithmeticError):
    """A loss or a gradient is not finite, and going back to good parameters is impossible or did not help."""


class Recovery:
    """The recovery of one run. It changes params (the parameters) and moments (name -> array (P,)) in place.

        rate       factor on the learning rate of the schedule
        row        number of bad steps in a row up to now
        uncounted  number of steps that Adam's bias correction does not count
        good       (P,), the copy of good parameters; None before the first
        since      the step at which the copy was made, or at which it returned
        returned   True if the parameters went back to this copy
        notes      a line for each thing that was done; the caller takes them and empties the list
    """

    def __init__(self, params: Parameters, moments: dict[str, Array]):
        self.params, self.moments = params, moments
        self.rate, self.row, self.uncounted, self.since, self.returned = 1.0, 0, 0, 0, False
        self.good: Array | None = None
        self.notes: list[str] = []

    def due(self, step: int) -> bool:
        """Return True if the parameters after `step` steps are to be copied, provided that they are good."""
        return self.good is None or step >= self.since + EVERY

    def passed(self, step: int, copy: Array | None = None) -> None:
        """Take note that the parameters after `step` steps have a finite loss and gradient. Copy them if that is due.

        If the parameters were updated since, `copy` (P,) must hold them as they were before the update.
        """
        self.row = 0
        if self.due(step):
            self.good, self.since, self.returned = self.params.flat.copy() if copy is None else copy, step, False

    def skip(self, step: int, loss: float, grads: Parameters) -> None:
        """Take note that step `step` (from 1) is a bad step, which updates nothing. Raises Diverged as `go_back`."""
        size, place = worst(grads)
        what = f"step {step}: loss {loss:.4g}, gradient {size:.4g} in {place}"
        self.row += 1
        self.uncounted += 1
        if self.row == LIMIT:
            return self.go_back(step, f"{what}: {LIMIT} steps in a row")
        self.rate /= 2
        self.notes.append(f"{what}: step skipped, the rate halved from here on")

    def go_back(self, step: int, what: str) -> None:
        """Set the parameters to the copy and the moments to zero. what: the reason, for the note.

        Raises Diverged if there is no copy, or if the parameters already went back to it.
        """
        if self.good is None:
            raise Diverged(f"{what}, and no step before them was finite")
        if self.returned:
            raise Diverged(f"{what}, and good parameters had returned at step {self.since} already")
        self.rate /= 2
        self.notes.append(f"{what}: the parameters of step {self.since} return, the rate halved from here on")
        self.params.flat[...] = self.good
        for moment in self.moments.values():
            moment[...] = 0
        # The moments are zero, as at step 0, so Adam's bias correction counts from here on.
        self.row, self.uncounted, self.since, self.returned = 0, step, step, True

    def anew(self) -> None:
        """Forget the halvings and the bad steps: the run continues at another peak learning rate."""
        self.rate, self.row, self.returned = 1.0, 0, False

    def summary(self) -> dict[str, Any]:
        """Return the numbers, by name, that a resumed run needs beside `good`."""
        return {name: getattr(self, name) for name in STORED}

    def restore(self, summary: dict[str, Any], good: Array | None) -> None:
        """Continue from the result of `summary` and from `good`. A number that an older file lacks stays as it is."""
        for name in STORED:
            setattr(self, name, summary.get(name, getattr(self, name)))
        self.good = good


def worst(grads: Parameters) -> tuple[float, str]:
    """Return (size, place) of the worst gradient. size: its largest absolute value; place: words.

    The worst gradient is the first one that is not finite on the way back from the loss. If all are finite, it is the
    largest. A place is "lstm layer 1, forget gate, weight_hh"; layers count from 0, as in the names of the tensors.
    """
    # Back-propagation runs from the head to the embedding, so the reversed order of the names starts at the loss.
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
    """Return the gradient of a parameter as a list: its four gate blocks in the LSTM, else one block."""
    return kernels.of(grads.flat).xp.split(grads[name], 4) if name.startswith("lstm.") else [grads[name]]
