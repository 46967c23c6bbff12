"""The interface `Kernel` of a kernel module, and the interfaces of the objects that a kernel module makes.

cpu/ops.py and cuda/ops.py implement `Kernel`. Its functions write their results into arrays that the caller made. So a
time loop makes no arrays, except that NumPy makes small temporary ones of one step. The formulas and their sources are
in the docstrings of cpu/ops.py, cpu/gates.py and cpu/updates.py. mypy checks that the two modules fit `Kernel`, where
devices.py returns them.

The letters of shapes: T steps, N sequences (columns), E input size, H hidden units, V symbols, L layers, P parameters.
"""
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from types import ModuleType
from typing import Protocol

import numpy as np

from .arrays import Array, HeadWeights, Ids, Key, LayerWeights, Lookup, Number, Operands, StackState, Window, Word


class ModelSizes(Protocol):
    """The sizes of a model on which the choice of its path depends. rnncore's ModelConfig has them."""

    @property
    def layers(self) -> int:
        """Return the number of layers L."""

    @property
    def hidden(self) -> int:
        """Return the number of units H of a layer."""

    @property
    def vocab_size(self) -> int:
        """Return the number of symbols V."""


class Layer(Protocol):
    """One LSTM layer over a window. The functions of rnncore/nn/lstm.py are one too, and have the formulas."""

    def forward(self, w: LayerWeights, x: Array | None, gates: Array, h: Array, c: Array, keep: Array | None) -> None:
        """Run the layer on x (E, T, N): write the activations to gates (4H, T, N), and h[:, 1:], c[:, 1:] (H, T+1, N).

        x None: gates arrives as W_ih x + b. h[:, 0] and c[:, 0] are the initial state; keep (T, N) is 0 where a new
        document begins, or None.
        """

    def backward(self, w: LayerWeights, gates: Array, c: Array, keep: Array | None, dy: Array, dh: Array, dc: Array,
                 dx: Array | None) -> None:
        """Run the layer backwards: gates (4H, T, N) arrives as the activations and leaves as dL/dz.

        dy (H, T, N) is dL/dy from above, c (H, T+1, N) as forward left it. dh and dc (H, N) arrive as the gradient at
        the last state and leave as the gradient at the initial state. dx (E, T, N) is written unless it is None.
        """


class Layers(Protocol):
    """All L layers over a window."""
    looks_up: bool  # True if `forward` takes a Lookup, and never None

    def forward(self, window: Window, x: Array | Lookup | None) -> None:
        """Run all layers on x, as `Layer.forward` does: write the caches, and `dropped` if there are masks.

        If the window has operands, their y and before are written too.
        """

    def backward(self, window: Window, dy: Array, dstate: StackState | None, initial: StackState) -> None:
        """Run all layers backwards from dy (H, T, N), which may be overwritten: each gates leaves as dL/dz.

        If the window has operands, their dz is written instead.

        dy is the gradient at the last layer's output after its dropout mask. dstate is the gradient at the last state,
        None for zeros. The gradient at the initial state is written to `initial`.
        """


class CompiledLoops(Layer, Protocol):
    """One LSTM layer, and a step of a whole stack, in compiled code: cpu/native.py."""

    def stepper(self, layers: Sequence[LayerWeights], head: HeadWeights, table: Array, h: Array, c: Array,
                logits: Array) -> Callable[[Ids], None]:
        """Return a function of ids (N,) that advances h and c (L, H, N) by one symbol and writes logits (V, N).

        head: weight (V, H) and bias (V,); table (4H, V): the first layer's W_ih embedding^T + b.
        """


class Products(Protocol):
    """Matrix products and sums in one precision class."""

    def product(self, a: Array, b: Array, out: Array, add: bool) -> None:
        """Compute out = a @ b, or out += a @ b if add; shapes as in `Kernel.product`."""

    def row_sums(self, a: Array, out: Array) -> None:
        """Compute out (R,) = the sum of each row of a (R, M)."""


class StepControl(Protocol):
    """Counters and rings on the card that control captured training steps: cuda/step_control.py."""
    ids: Ids                    # (T+1, N): the window of the current step
    pace: tuple[Array, ...]     # rate, size and correction of the current step (optim.Pace), each ()
    scale: Array                # (): the factor of the summed gradient, NaN after the run has halted
    words: tuple[Array, Array]  # the number of the current step as two words of 32 bits, each ()

    def fill(self, step: int, windows: Ids, numbers: np.ndarray) -> None:
        """Write the windows (K, T+1, N) and the numbers (K, 4) of the K steps from `step` on into the ring."""

    def go(self, step: int, halted: bool = False) -> None:
        """Make `step` the next step. halted: steps change nothing until this function is called again."""

    def read(self) -> tuple[int, bool, np.ndarray, np.ndarray]:
        """Wait for all launched steps. Return the next step, True if the run halted there, and the rings by step.

        The rings hold the losses (nats per character) and the gradient norms before clipping.
        """

    def begin(self, state: StackState, first: StackState) -> None:
        """Begin a step: fetch its window and numbers, and copy `state` to `first`, or zeros if the step resets it."""

    def check(self, loss: Array, grads: Array) -> None:
        """Compute the gradient's scale. Count the step, or halt the run if the loss or the gradient is not finite."""

    def carry(self, last: StackState, state: StackState) -> None:
        """End a step: copy `last` to `state`, unless the run has halted."""


class PendingIds(Protocol):
    """Ids that a device is still writing."""

    def ids(self) -> Ids:
        """Wait for the ids (characters, N) and return them as a NumPy array."""


class Writer(Protocol):
    """A writer of text on the device, many characters in one launch: cuda/writer.py."""

    def write(self, characters: int, temperature: float, top_k: int, top_p: float, key: Key, purpose: int,
              sample: int, start: int) -> PendingIds:
        """Draw the next `characters` ids of every column, as rnncore/sample.py does. Do not wait for them."""


class Path:
    """The eager path, and the interface of every other path."""
    name: str = "eager"
    captured = False  # True if whole training steps are captured in a graph once and replayed
    loss_scale: float | None = None  # the factor of gradients that keeps them in the range of float16; None: not needed

    def computing(self) -> AbstractContextManager[None]:
        """Return a context in which the products of this thread are computed in the precision of the path."""
        return nullcontext()

    def layers(self, config: ModelSizes, steps: int, n: int, in_turn: Callable[[Layer | None], Layers]) -> Layers:
        """Return an object that runs all layers over at most `steps` steps and exactly `n` sequences.

        A path chooses its time loops here and nowhere else. in_turn(layer) returns an object that runs the layers one
        after the other, each by `layer`; in_turn(None) uses rnncore/nn/lstm.py.
        """
        return in_turn(None)

    def operands(self, config: ModelSizes, steps: int, n: int, training: bool) -> Operands | None:
        """Return a layer's operands for at most `steps` steps, dz for none if not training, and `n` sequences."""
        return None

    def step_control(self, ring: int, steps: int, n: int, clip: float) -> StepControl:
        """Return the step control of captured steps over (steps, n). ring: how many steps it holds.

        clip: the norm at which gradients are clipped. Raises ValueError for a path whose steps are not captured.
        """
        raise ValueError(f"steps on the path {self.name} are not captured")

    def record(self, function: Callable[[], object], repeats: int) -> Callable[[], None]:
        """Capture `repeats` calls of function() in a graph, and return a function that launches them without waiting.

        function must have run once before. Raises ValueError for a path whose steps are not captured.
        """
        raise ValueError(f"steps on the path {self.name} are not captured")


class Kernel(Protocol):
    """The functions of a kernel module. A function does the same on every device, for arrays of that device."""
    xp: ModuleType  # the array library itself: numpy or cupy
    name: str       # cpu or cuda

    def to_device(self, array: Array) -> Array:
        """Return a NumPy array as an array of the device."""

    def to_host(self, array: Array) -> Array:
        """Return an array of the device as a NumPy array."""

    def ids_to_device(self, ids: Ids) -> Ids:
        """Return ids from the host as an array of int64 on the device, the only type of ids that kernels take."""

    def activations(self, shape: tuple[int, ...], axis: int, dtype: np.dtype) -> Array:
        """Return an uninitialised array in the device's order of memory. Its axis `axis` counts units or gates.

        On a processor the units of a sequence are neighbours in memory, on a card the sequences of a unit. So an array
        (H, T, N) of a processor is a view of contiguous memory (T, N, H). Time loops take no other order.
        """

    def cores(self) -> int:
        """Return into how many shares a batch is best split: the usable cores of a processor, 1 on a card."""

    def shares(self, threads: int) -> int:
        """Return into how many shares a batch is split if the user asks for this number of threads."""

    def memory(self) -> int:
        """Return the memory that this process may use on the device, in bytes."""

    def speed(self, precision: str = "float32") -> float:
        """Return the approximate training throughput of a share, in parameters x characters per second."""

    def single_threaded(self) -> AbstractContextManager[object]:
        """Return a context in which a matrix product uses only one thread of this process."""

    def synchronize(self) -> None:
        """Wait until the device has done all work that it was given."""

    def timer(self) -> AbstractContextManager[list[float]]:
        """Return a context that yields a list. Its end adds the seconds inside, by the device's clock, to the list."""

    def path(self, name: str, precision: str, config: ModelSizes | None = None) -> Path:
        """Return the path of that name (paths.py). Raises ValueError if `why_not` gives a reason against it."""

    def why_not(self, name: str, precision: str, config: ModelSizes | None = None, n: int = 1) -> str | None:
        """Return one line that says why a model cannot take the path with n columns, or None if it can.

        config None: any model.
        """

    def why_slower(self, precision: str) -> str | None:
        """Return one line with the cause, the cost and the cure if the machine lacks what makes training fast.

        None: the machine lacks nothing, or the user wants it so.
        """

    def rule(self, precision: str, config: ModelSizes, n: int = 1, writing: bool = False) -> dict[str, str | None]:
        """Return the paths for a model with n columns, the fastest first, and for each the result of `why_not`.

        writing: the work is to write text, not to train.
        """

    def forms(self, config: ModelSizes) -> dict[str, Path]:
        """Return by name each other implementation that can train the model here, as a path in float64.

        rnncore/nn/lstm.py is not among them: gradcheck compares the others with it.
        """

    def recurrence(self, precision: str) -> CompiledLoops | None:
        """Return the compiled time loops in this precision, or None if there are none."""

    def writer(self, layers: Sequence[LayerWeights], head: HeadWeights, table: Array, h: Array, c: Array,
               logits: Array) -> Writer | None:
        """Return a writer of text from this state, or None if the device has none for the model. See cuda/writer.py."""

    def product(self, a: Array, b: Array, out: Array, add: bool = False) -> None:
        """Compute out (R, C) = a (R, M) @ b (M, C), or out += a @ b if add, in the precision of `Path.computing`."""

    def row_sums(self, a: Array, out: Array) -> None:
        """Compute out (R,) = the sum of each row of a (R, M)."""

    def affine(self, weight: Array, bias: Array, x: Array, out: Array) -> None:
        """Compute out (R, C) = weight (R, M) @ x (M, C) + bias (R,), in the precision of `Path.computing`."""

    def gates_forward(self, z: Array, recurrent: Array, c_prev: Array, keep: Array | None, gates: Array, c: Array,
                      h: Array) -> None:
        """Compute one time step of the LSTM cell from z and recurrent (4H, N): gates (4H, N), c and h (H, N)."""

    def gates_backward(self, gates: Array, c_prev: Array, c: Array, keep: Array | None, dh: Array, dc: Array,
                       dz: Array) -> None:
        """Compute the gradient of `gates_forward`: dz (4H, N), and dc (H, N) in place, from dh (H, N)."""

    def softmax_cross_entropy(self, logits: Array, targets: Ids, loss: Array, bias: Array | None = None,
                              over: float = 1) -> None:
        """Compute the loss (T, N) of logits (V, T, N) plus bias (V,); its gradient over `over` takes their place."""

    def gather(self, table: Array, ids: Ids, out: Array) -> None:
        """Copy columns of a table (R, V) by ids (T, N) into out (R, T, N)."""

    def scatter_add(self, table: Array, ids: Ids, columns: Array, workspace: Array | None = None,
                    add: bool = True) -> None:
        """Add columns (R, T N) to the columns of a table (R, V), zeros if not `add`, that ids (T, N) name, in order."""

    def scatter_workspace(self, symbols: int, positions: int, dtype: np.dtype) -> Array | None:
        """Return a workspace of `scatter_add` for V symbols and T N positions, or None if it needs none."""

    def adam(self, param: Array, grad: Array, m: Array, v: Array, size: Number, correction: Number, beta1: float,
             beta2: float, eps: float, scale: Number) -> None:
        """Take one step of Adam: update param, m and v (P,) in place by the gradient scale * grad (P,)."""

    def muon_momentum(self, momentum: Array, grad: Array, scale: Number, mu: float, block: Array) -> None:
        """Update Muon's momentum in place, and write its Nesterov look-ahead to block."""

    def muon_apply(self, weight: Array, change: Array, rate: Number, side: float, decay: float, scale: Number) -> None:
        """Take one step of Muon: update weight in place by `change`, the momentum that was made orthogonal."""

    def philox(self, counter: Sequence[Word], key: Key) -> tuple[Array, Array, Array, Array]:
        """Return the four random words of 32 bits that Philox4x32-10 gives for a counter of four words and a key."""

    def dropout_mask(self, out: Array, rate: float, counter: Sequence[Word], key: Key, first: int,
                     columns: int) -> None:
        """Fill a dropout mask (H, T, N) from the numbers of `philox`."""
