"""A gradient check compares every gradient that back-propagation gives with a difference quotient of the loss.

    numerical = (8 (L(p + eps) - L(p - eps)) - (L(p + 2 eps) - L(p - 2 eps))) / (12 eps)
    error     = max |analytic - numerical| / max(|analytic|, |numerical|)

Four points make the quotient exact to the fourth order, so eps can be large enough that rounding does not matter: in
float64 a right gradient has an error below 1e-8, also where it is small; one past `TOLERANCE` is wrong.
"""
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from .. import arguments
from ..kernels import Array, Ids, Path
from ..model import CharLM
from ..nn import Dropout, State, stack
from ..params import Tensors
from ..random import Purpose, uniform

EPS = 1e-3
TOLERANCE = 1e-6


class Row(NamedTuple):
    """One parameter's check: how many entries it has, how many were tried, and the largest error among those."""
    name: str
    size: int
    checked: int
    error: float


class Case(NamedTuple):
    """What the loss depends on beside the parameters: ids x, y (T, N), the state before them, dropout, keep (T, N)."""
    x: Ids
    y: Ids
    state: State
    dropout: Dropout | None = None
    keep: Array | None = None


def random_case(model: CharLM, steps: int, n: int, dropout: Dropout | None = None, documents: bool = False,
                seed: int = 0) -> Case:
    """A batch of random symbols and a random state; documents: with a keep mask of random boundaries."""
    def numbers(size: int, layer: int) -> np.ndarray:
        return uniform(seed, Purpose.CHECK, size, layer=layer)

    steps, n = arguments.whole("steps", steps, 1), arguments.whole("n", n, 1)
    size = (model.config.layers, model.config.hidden, n)
    x, y = ((numbers(steps * n, k) * model.config.vocab_size).astype(np.intp).reshape(steps, n) for k in (0, 1))
    state = State(*((2 * numbers(int(np.prod(size)), k) - 1).astype(model.dtype).reshape(size) for k in (2, 3)))
    keep = (numbers(steps * n, 4) < 0.75).astype(model.dtype).reshape(steps, n) if documents else None
    to_device, ids_to_device = model.kernel.to_device, model.kernel.ids_to_device
    return Case(ids_to_device(x), ids_to_device(y), State(*map(to_device, state)), dropout,
                None if keep is None else to_device(keep))


def check_gradients(model: CharLM, case: Case, most: int = 200) -> Iterator[Row]:
    """A Row for every parameter and for the initial states h0 and c0; at most `most` entries of each, spread evenly.

    model: a CharLM, whose parameters are moved and put back. Only float64 is precise enough to judge by. Raises
    ValueError or TypeError for a case that does not fit the model (arguments.py).
    """
    return _checks(model, checked(model, case), arguments.whole("most", most, 1))


def checked(model: CharLM, case: Case) -> Case:
    """The case as the engine works with it, on the model's device. Raises as `check_gradients`."""
    kernel, config, dtype = model.kernel, model.config, model.dtype
    x = model.ids(case.x)
    state = case.state
    if state is None:
        state = State(*kernel.xp.zeros((2, config.layers, config.hidden, x.shape[1]), dtype))
    return Case(x, model.ids(case.y, x.shape, "y"),
                arguments.state(state, (config.layers, config.hidden, x.shape[1]), kernel, dtype),
                arguments.dropout(case.dropout), arguments.keep(case.keep, x.shape, kernel, dtype))


def check_forms(model: CharLM, case: Case) -> dict[str, float]:
    """Return, of what else trains here (Kernel.forms), how far any gradient is from lstm.py's: the largest error.

    model: a CharLM in float64. Raises as `check_gradients`.
    """
    case, found = checked(model, case), {}
    steps, n = case.x.shape
    wanted = gradients(model, case, stack.Workspace(model.params, steps, n, path=Path()))
    for name, path in model.kernel.forms(model.config).items():
        with path.computing():
            mine = gradients(model, case, stack.Workspace(model.params, steps, n, path=path))
        found[name] = max(relative_error(mine[parameter], wanted[parameter]) for parameter in wanted)
    return found


def _checks(model: CharLM, case: Case, most: int) -> Iterator[Row]:
    with model.moving():
        steps, n = case.x.shape
        work = stack.Workspace(model.params, steps, n, path=Path())  # lstm.py's own
        moved = {**model.params, "h0": case.state.h, "c0": case.state.c}
        for name, analytic in gradients(model, case, work).items():
            yield compare(name, moved[name], analytic, model, case, work, most)


def gradients(model: CharLM, case: Case, work: stack.Workspace) -> Tensors:
    """Return, on the host, the gradient of the case's mean loss at each parameter, h0 and c0."""
    weights, grads = model.weights(case.dropout), model.params.like()
    work.begin(case.state)
    [initial] = stack.gradients(weights, grads, [of(case, work)], case.x.size)
    model.mask_gradients(weights, grads)
    return {name: model.kernel.to_host(grad) for name, grad in {**grads, "h0": initial.h, "c0": initial.c}.items()}


def loss_of(model: CharLM, case: Case, work: stack.Workspace) -> float:
    """The mean loss of the case."""
    work.begin(case.state)
    return float(stack.losses(model.weights(case.dropout), of(case, work)).sum()) / case.x.size


def of(case: Case, work: stack.Workspace) -> stack.Pass:
    """The pass over the case."""
    return stack.Pass(case.x, work, case.keep, case.dropout, case.y)


def compare(name: str, view: Array, analytic: np.ndarray, model: CharLM, case: Case, work: stack.Workspace,
            most: int) -> Row:
    """Move entries of view one at a time and compare; view is part of what the loss reads, analytic its gradient."""
    flat, places = view.reshape(-1), np.unique(np.linspace(0, view.size - 1, min(most, view.size)).astype(int))
    numerical = np.empty(len(places))
    for k, place in enumerate(places):
        value, losses = float(flat[place]), []
        for move in (EPS, -EPS, 2 * EPS, -2 * EPS):
            flat[place] = value + move
            losses.append(loss_of(model, case, work))
        flat[place] = value
        numerical[k] = (8 * (losses[0] - losses[1]) - (losses[2] - losses[3])) / (12 * EPS)
    return Row(name, view.size, len(places), relative_error(analytic.reshape(-1)[places], numerical))


def relative_error(a: np.ndarray, b: np.ndarray) -> float:
    """max |a - b| / max(|a|, |b|), both maxima over all entries; 0 where both are zero, inf where one is not finite."""
    scale = np.maximum(np.abs(a).max(), np.abs(b).max())  # unlike max, it hands a NaN on
    if not np.isfinite(scale):
        return float("inf")
    return float(np.abs(a - b).max() / scale) if scale else 0.0
