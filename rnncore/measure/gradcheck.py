"""A gradient check: compare every gradient of back-propagation with a finite difference of the loss.

    numerical = (8 (L(p + eps) - L(p - eps)) - (L(p + 2 eps) - L(p - 2 eps))) / (12 eps)
    error     = max |analytic - numerical| / max(|analytic|, |numerical|)

The difference uses four points, so its error is of fourth order in eps. Therefore eps can be large enough that rounding
does not matter. In float64 a correct gradient has an error below 1e-8, even if the gradient is small. A gradient with
an error above `TOLERANCE` is wrong.
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

EPS = 1e-3        # step of the finite difference, in units of the parameter
TOLERANCE = 1e-6  # relative error above which a gradient is wrong


class Row(NamedTuple):
    """The check of one parameter: its number of entries, the number of entries checked, and their relative error."""
    name: str
    size: int
    checked: int
    error: float


class Case(NamedTuple):
    """One batch for the check: everything that the loss depends on, except the parameters.

    x, y (T, N): ids and their targets. state: h and c, each (L, H, N), before x. dropout: rates and seed, or None.
    keep (T, N): 0 where a new document begins, else 1; None: no document begins.
    """
    x: Ids
    y: Ids
    state: State
    dropout: Dropout | None = None
    keep: Array | None = None


def random_case(model: CharLM, steps: int, n: int, dropout: Dropout | None = None, documents: bool = False,
                seed: int = 0) -> Case:
    """Return a batch of random ids (steps, n) and a random state with entries in -1..1, on the model's device.

    documents: True for a keep mask with random document beginnings, about one in four entries. seed: selects the random
    numbers. Raises TypeError and ValueError if steps or n is not a whole number of at least 1.
    """
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
    """Return an iterator over one Row per parameter, and one each for the initial states h0 and c0.

    model: its parameters change during the iteration and are restored at its end. Only a model in float64 is precise
    enough for `TOLERANCE`. most: entries to check per parameter; they are spread evenly. Raises ValueError or TypeError
    at the call if the case does not fit the model (arguments.py). Raises RuntimeError at the first Row if another
    iterator is changing the model's parameters (CharLM.moving).
    """
    return _checks(model, checked(model, case), arguments.whole("most", most, 1))


def checked(model: CharLM, case: Case) -> Case:
    """Return the case with its arrays checked and on the model's device; a state of None becomes zeros.

    Raises as `check_gradients`.
    """
    kernel, config, dtype = model.kernel, model.config, model.dtype
    x = model.ids(case.x)
    state = case.state
    if state is None:
        state = State(*kernel.xp.zeros((2, config.layers, config.hidden, x.shape[1]), dtype))
    return Case(x, model.ids(case.y, x.shape, "y"),
                arguments.state(state, (config.layers, config.hidden, x.shape[1]), kernel, dtype),
                arguments.dropout(case.dropout), arguments.keep(case.keep, x.shape, kernel, dtype))


def check_forms(model: CharLM, case: Case) -> dict[str, float]:
    """Compare the gradients of each other implementation on this device (Kernel.forms) with those of nn/lstm.py.

    Return, by the name of the implementation, its largest relative error over all parameters. model: a CharLM in
    float64. Raises ValueError or TypeError as `check_gradients`.
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
        work = stack.Workspace(model.params, steps, n, path=Path())  # the eager path: nn/lstm.py itself
        moved = {**model.params, "h0": case.state.h, "c0": case.state.c}
        for name, analytic in gradients(model, case, work).items():
            yield compare(name, moved[name], analytic, model, case, work, most)


def gradients(model: CharLM, case: Case, work: stack.Workspace) -> Tensors:
    """Return, on the host, the gradients of the case's mean loss with respect to each parameter, h0 and c0."""
    weights, grads = model.weights(case.dropout), model.params.like()
    work.begin(case.state)
    [initial] = stack.gradients(weights, grads, [forward_pass(case, work)], case.x.size)
    model.mask_gradients(weights, grads)
    return {name: model.kernel.to_host(grad) for name, grad in {**grads, "h0": initial.h, "c0": initial.c}.items()}


def loss_of(model: CharLM, case: Case, work: stack.Workspace) -> float:
    """Return the mean loss of the case, in nats per character."""
    work.begin(case.state)
    return float(stack.losses(model.weights(case.dropout), forward_pass(case, work)).sum()) / case.x.size


def forward_pass(case: Case, work: stack.Workspace) -> stack.Pass:
    """Return the arguments of one forward pass over the case."""
    return stack.Pass(case.x, work, case.keep, case.dropout, case.y)


def compare(name: str, view: Array, analytic: np.ndarray, model: CharLM, case: Case, work: stack.Workspace,
            most: int) -> Row:
    """Change up to `most` entries of `view` one at a time and return the Row that compares the two gradients.

    view: an array that the loss reads, a parameter or an initial state. analytic: its gradient from back-propagation,
    of the same shape.
    """
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
    """Return max |a - b| / max(|a|, |b|), both maxima over all entries.

    Return 0 if all entries are zero, and inf if one is not finite.
    """
    scale = np.maximum(np.abs(a).max(), np.abs(b).max())  # np.maximum propagates a NaN, the built-in max does not
    if not np.isfinite(scale):
        return float("inf")
    return float(np.abs(a - b).max() / scale) if scale else 0.0
