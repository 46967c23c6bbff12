"""The interface of a kernel module, which cpu/ops.py and cuda/ops.py implement, and of what a module makes.

Functions write into the arrays that they are given; in a time loop nothing else is made, but for NumPy's numbers of one
step on the way. Shapes, formulas and sources stand at the functions of cpu/ops.py. mypy compares the two modules with
`Kernel` where devices.py returns them.
"""
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from types import ModuleType
from typing import Protocol

import numpy as np

from .arrays import Array, HeadWeights, Ids, Key, LayerWeights, Number, StackState, Window, Word


class ModelSizes(Protocol):
    """The sizes of a model on which its path depends; rnncore's ModelConfig has them."""

    @property
    def layers(self) -> int:
        """The number of layers L."""

    @property
    def hidden(self) -> int:
        """The number of units H of a layer."""

    @property
    def vocab_size(self) -> int:
        """The number of symbols V."""


class Layer(Protocol):
    """An LSTM layer over a window; rnncore/nn/lstm.py, which is one itself, has the arguments and the formulas."""

    def forward(self, w: LayerWeights, x: Array | None, gates: Array, h: Array, c: Array, keep: Array | None) -> None:
        """Run the layer on x (E, T, N), or where that is None on gates that hold the input's share."""

    def backward(self, w: LayerWeights, gates: Array, c: Array, keep: Array | None, dy: Array, dh: Array, dc: Array,
                 dx: Array | None) -> None:
        """Run the layer backwards: gates leaves as dL/dz, and dx is written where it is given."""


class Layers(Protocol):
    """All L layers of a window."""

    def forward(self, window: Window, x: Array | None) -> None:
        """Run all layers on x, as in Layer; caches, and where there are masks `dropped`, are written."""

    def backward(self, window: Window, dy: Array, dstate: StackState | None, initial: StackState) -> None:
        """Run all layers backwards from dy (H, T, N), which may be used up, at what the last one handed on.

        dstate is the gradient that arrives at the last state, None for zeros; that at the initial one is written.
        """


class CompiledLoops(Layer, Protocol):
    """A layer, and the step of a whole stack, compiled: cpu/native.py."""

    def stepper(self, layers: Sequence[LayerWeights], head: HeadWeights, table: Array, h: Array, c: Array,
                logits: Array) -> Callable[[Ids], None]:
        """Return a function of ids (N,) that advances h, c and logits in place by a symbol."""


class Products(Protocol):
    """Matrix products in one precision class."""

    def product(self, a: Array, b: Array, out: Array, add: bool) -> None:
        """Compute what kernels.product is called for."""

    def row_sums(self, a: Array, out: Array) -> None:
        """Compute what kernels.row_sums is called for."""


class StepControl(Protocol):
    """Counters and rings by which captured steps go: cuda/step_control.py has the shapes."""
    ids: Ids
    pace: tuple[Array, ...]
    scale: Array
    words: tuple[Array, Array]

    def fill(self, step: int, windows: Ids, numbers: np.ndarray) -> None:
        """Write the windows and numbers of the steps from `step` on."""

    def go(self, step: int, halted: bool = False) -> None:
        """Make `step` the next; a halted one changes nothing."""

    def read(self) -> tuple[int, bool, np.ndarray, np.ndarray]:
        """Wait for what was launched, and return the next step, whether it halted there, losses and norms."""

    def begin(self, state: StackState, first: StackState) -> None:
        """Begin a step: fetch its window and numbers; state -> first, or zeros."""

    def check(self, loss: Array, grads: Array) -> None:
        """Find the gradient's scale; count the step, or halt the run where loss or gradient is not finite."""

    def carry(self, last: StackState, state: StackState) -> None:
        """End a step: last -> state, unless the run has halted."""


class Written(Protocol):
    """Ids that a device is writing."""

    def ids(self) -> Ids:
        """Wait for the ids (characters, N) and return them on the host."""


class Writer(Protocol):
    """Text written by a device in a few launches."""

    def write(self, characters: int, temperature: float, top_k: int, top_p: float, key: Key, purpose: int,
              sample: int, start: int) -> Written:
        """Draw the next `characters` ids of every column, as rnncore/sample.py does."""


class Path:
    """The eager path."""
    name: str = "eager"
    captured = False  # are whole training steps recorded once and replayed?

    def computing(self) -> AbstractContextManager[None]:
        """Return a context in which products on this thread are made as the path says."""
        return nullcontext()

    def layers(self, config: ModelSizes, steps: int, n: int, in_turn: Callable[[Layer | None], Layers]) -> Layers:
        """Return what runs all layers over at most (T, N): what a path does there is chosen here and nowhere else.

        in_turn(layer) runs them one after the other, each by `layer`, or for None by rnncore/nn/lstm.py.
        """
        return in_turn(None)

    def step_control(self, ring: int, steps: int, n: int, clip: float) -> StepControl:
        """Return that of captured steps over (T, N). Raises ValueError for a path whose steps are not captured."""
        raise ValueError(f"steps on the path {self.name} are not captured")

    def record(self, function: Callable[[], object], repeats: int) -> Callable[[], None]:
        """Return what enqueues so many calls of a function, which was called before, as one launch, unwaited for.

        Raises ValueError as above.
        """
        raise ValueError(f"steps on the path {self.name} are not captured")


class Kernel(Protocol):
    """The functions of a kernel module: each is the same on every device, for arrays of that device."""
    xp: ModuleType  # the array library itself: numpy or cupy
    name: str       # cpu or cuda

    def to_device(self, array: Array) -> Array:
        """Return a NumPy array on the device."""

    def to_host(self, array: Array) -> Array:
        """Return an array of the device as NumPy's."""

    def ids_to_device(self, ids: Ids) -> Ids:
        """Return ids of symbols on the device, in the one type that they have there."""

    def cores(self) -> int:
        """Return how many shares of a batch are worth making."""

    def shares(self, threads: int) -> int:
        """Return how many shares of a batch are made where so many threads are wanted."""

    def memory(self) -> int:
        """Return the bytes of memory that there are."""

    def speed(self) -> float:
        """Return about how many parameters times characters a second a share trains."""

    def single_threaded(self) -> AbstractContextManager[object]:
        """Return a context in which a matrix product uses one thread of this process."""

    def synchronize(self) -> None:
        """Wait until the device has done what it was given."""

    def timer(self) -> AbstractContextManager[list[float]]:
        """Return a context that times what runs inside by the device's own clock: its list gets the seconds."""

    def path(self, name: str, precision: str, config: ModelSizes | None = None) -> Path:
        """Return the path of that name (paths.py). Raises ValueError where `why_not` has a reason."""

    def why_not(self, name: str, precision: str, config: ModelSizes | None = None, n: int = 1) -> str | None:
        """Return why a model cannot take the path with n columns, in one line, or None."""

    def rule(self, precision: str, config: ModelSizes, n: int = 1, writing: bool = False) -> dict[str, str | None]:
        """Return the paths for a model, the fastest first, each with why it does not fit, or None."""

    def forms(self, config: ModelSizes) -> dict[str, Path]:
        """Return, by name, what trains such a model here beside rnncore/nn/lstm.py, each as a path in float64."""

    def recurrence(self, dtype: np.dtype) -> CompiledLoops | None:
        """Return the compiled time loops for arrays of dtype, or None."""

    def writer(self, layers: Sequence[LayerWeights], head: HeadWeights, table: Array, h: Array, c: Array,
               logits: Array) -> Writer | None:
        """Return what writes text from this state on the device, or None."""

    def product(self, a: Array, b: Array, out: Array, add: bool = False) -> None:
        """Compute a matrix product, or add one to `out`, as the path makes it."""

    def row_sums(self, a: Array, out: Array) -> None:
        """Compute the sum of each row, as the path makes it."""

    def affine(self, weight: Array, bias: Array, x: Array, out: Array) -> None:
        """Compute a matrix product and add a bias to each row, as the path makes it."""

    def gates_forward(self, z: Array, recurrent: Array, c_prev: Array, keep: Array | None, gates: Array, c: Array,
                      h: Array) -> None:
        """Compute one time step of the LSTM cell, all four gates."""

    def gates_backward(self, gates: Array, c_prev: Array, c: Array, keep: Array | None, dh: Array, dc: Array,
                       dz: Array) -> None:
        """Compute the gradient of `gates_forward`."""

    def softmax_cross_entropy(self, logits: Array, targets: Ids, loss: Array) -> None:
        """Compute the loss, and its gradient at the logits."""

    def gather(self, table: Array, ids: Ids, out: Array) -> None:
        """Copy columns of a table by id."""

    def scatter_add(self, table: Array, ids: Ids, columns: Array, workspace: Array | None = None) -> None:
        """Add columns into those of a table by id, always in one order."""

    def scatter_workspace(self, symbols: int, positions: int, dtype: np.dtype) -> Array | None:
        """Return a workspace for `scatter_add`, or None where it needs none."""

    def adam(self, param: Array, grad: Array, m: Array, v: Array, size: Number, correction: Number, beta1: float,
             beta2: float, eps: float, scale: Number) -> None:
        """Update parameters by a step of Adam."""

    def muon_momentum(self, momentum: Array, grad: Array, scale: Number, mu: float, block: Array) -> None:
        """Update Muon's momentum, and write the look ahead that is to be made orthogonal."""

    def muon_apply(self, weight: Array, change: Array, rate: Number, side: float, decay: float, scale: Number) -> None:
        """Update parameters by a step of Muon."""

    def philox(self, counter: Sequence[Word], key: Key) -> tuple[Array, Array, Array, Array]:
        """Return what the counter-based random generator makes of a counter and a key."""

    def dropout_mask(self, out: Array, rate: float, counter: Sequence[Word], key: Key, first: int,
                     columns: int) -> None:
        """Fill a mask of dropout, made of that generator's numbers."""
