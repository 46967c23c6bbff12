"""A captured step is a whole training step recorded once on a card and replayed: nothing of it waits for the host.

    window -> embedding, layers, head -> loss -> back-propagation -> norm, clipping -> optimiser -> state carried on

What differs from step to step (the window, the rate, the dropout masks' counter) lies on the card, in the slots of a
ring that the host fills ahead (kernels/cuda/step_control.py). The gradient is that of the summed loss; what the
optimiser multiplies it with makes the mean of it.
"""
from typing import NamedTuple

import numpy as np

from .nn import stack
from .nn.dropout import Dropout
from .nn.lstm import State
from .optim import Pace

RING = 256      # steps that may be launched before the host looks, at most,
IDS = 1 << 22   # and ids in their windows
MANY = 8        # steps of one launch


class Slot(NamedTuple):
    """What a step goes by: the window (T+1, N) of ids, optim.Pace, and whether the state begins at zero."""
    window: np.ndarray
    pace: tuple
    fresh: bool


class Outcome(NamedTuple):
    """How far what was launched came: the next step, and whether that one's loss or gradient is not finite.

    losses (nats a character) and norms (before clipping): those of the last steps, by step % ring.
    """
    step: int
    bad: bool
    losses: np.ndarray
    norms: np.ndarray


class Captured:
    """The training steps of a model over batches of at most (T, N), on the path that the model takes.

    optimizer: of its parameters; config: a TrainConfig. Only one at a time may train a model.
    """

    def __init__(self, model, optimizer, config, steps: int, n: int):
        self.model, self.optimizer, self.config, self.steps, self.n = model, optimizer, config, steps, n
        self.path = model.device_path
        self.grads = model.params.like()
        self.ring = max(1, min(RING, IDS // ((steps + 1) * n)))
        self.steering = self.path.steering(self.ring, steps, n, config.clip)
        self.work = stack.Workspace(model.params, steps, n, path=self.path)
        sizes = model.config.layers, model.config.hidden, n
        self.state = State(*(model.kernel.xp.zeros(sizes, model.dtype) for _ in "hc"))  # before the next step
        self._keep = model.kernel.xp.empty((steps, n), model.dtype)
        self._graphs: dict = {}  # number of steps -> the graph
        optimizer.workspaces = {}  # to be kept from step to step
        self._tried: set[int] = set()  # numbers of time steps that have run once: their buffers are made

    def begin(self, step: int, state: State | None) -> None:
        """Step `step` is the next, from that state; None: zeros."""
        for mine, given in zip(self.state, state or (0, 0), strict=True):
            mine[...] = given
        self.steering.go(step)

    def fill(self, step: int, slots: list[Slot]) -> None:
        """What the steps from `step` on go by, of windows of one length; at most `ring` steps ahead of the next."""
        numbers = np.array([[*slot.pace, slot.fresh] for slot in slots], np.float64)
        self.steering.fill(step, np.stack([slot.window for slot in slots]), numbers)

    def launch(self, count: int, steps: int) -> None:
        """Enqueue the next `count` steps, all of windows of `steps` characters; the host does not wait."""
        with self.model.computing():
            if steps not in self._tried:
                self._try(steps)
            if steps != self.steps:  # the last window of an epoch: one step, for which no graph is recorded
                for _ in range(count):
                    self._step(steps)
                return
            many, one = divmod(count, MANY)
            for repeats, times in ((MANY, many), (1, one)):
                if times and repeats not in self._graphs:
                    self._graphs[repeats] = self.path.record(lambda: self._step(self.steps), repeats)
                for _ in range(times):
                    self._graphs[repeats].launch()

    def wait(self) -> Outcome:
        """Wait for what was launched."""
        return Outcome(*self.steering.read())

    def _try(self, steps: int) -> None:
        """Run a halted step, which changes nothing: kernels are compiled and buffers made before a capture."""
        step = self.wait().step
        self.steering.go(step, halted=True)
        self._step(steps)
        self.steering.go(step)
        self._tried.add(steps)

    def _step(self, steps: int) -> None:
        model, work, steering, optimizer = self.model, self.work, self.steering, self.optimizer
        first, last = (State(work.h[:, :, t], work.c[:, :, t]) for t in (0, steps))
        steering.begin(self.state, first)
        x, y, loss = steering.ids[:steps], steering.ids[1:steps + 1], work.loss[:steps]
        dropout = Dropout(self.config.dropout or 0.0, self.config.seed, steering.words, self.config.variational,
                          self.config.weight_drop or 0.0)
        weights, share = model.weights(dropout), stack.Pass(x, work, self._kept(x), dropout)
        logits = stack.forward_on(weights, share)
        model.kernel.softmax_cross_entropy(logits, y, loss)
        stack.backward(weights, share)
        stack.gradients(weights, self.grads, [share])
        model.mask_gradients(weights, self.grads)
        steering.judge(loss, self.grads.flat)
        optimizer.update(model.params, self.grads, Pace(*steering.pace), steering.scale)
        steering.carry(last, self.state)

    def _kept(self, x):
        """0 where a document ends, as CharLM.keep."""
        end = self.model.vocab.end
        return None if end is None else self.model.kernel.xp.not_equal(x, end, out=self._keep[:len(x)])
