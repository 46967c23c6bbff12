"""What a captured training step goes by, on the card: the windows and rates of the next steps, a counter, the verdict.

The host fills a ring, a slot a step, and launches; each step reads the slot of its own number. A step whose loss or
gradient is no finite number halts the run: it and all steps queued behind it change nothing until the host has
looked. So nothing is synchronised in between, and yet what follows a bad step is as if every step had been looked at.
"""
import cupy
import numpy as np
from cupy import ElementwiseKernel

from ..arrays import Array, StackState
from ..cpu.ops import IDS, ids_to_device
from .text import source

THREADS, PARTS, EACH = 256, 256, 16  # of the sums: threads a block, blocks at most, and numbers a thread at least
SOURCE = source("step_control.cu")

FETCH = ElementwiseKernel(
    "raw int64 windows, raw int64 control, int64 ring, int64 size", "int64 id",
    "id = windows[control[0] % ring * size + i];", "fetch_kernel")
BEGIN = ElementwiseKernel(
    "T h_state, T c_state, raw float64 slots, raw int64 control, int64 ring",
    "T h, T c, raw float64 now, raw uint32 words", """
    const ptrdiff_t slot = control[0] % ring * 4;
    const bool fresh = slots[slot + 3] != 0;
    h = fresh ? (T)0 : h_state;
    c = fresh ? (T)0 : c_state;
    if (i == 0) {
        for (int k = 0; k < 3; k++) now[k] = slots[slot + k];
        words[0] = (unsigned)control[0], words[1] = (unsigned)(control[0] >> 32);
    }
    """, "begin_kernel")
CARRY = ElementwiseKernel(
    "T h_last, T c_last, float64 scale", "T h, T c", "if (scale == scale) h = h_last, c = c_last;", "carry_kernel")


class StepControl:
    """Counters and rings on the card by which captured steps over (T, N) symbols go.

    dtype: of the model's arrays; clip: the norm at which gradients are clipped.

    ids (T+1, N): the window of the step; pace: rate, size, correction (optim.Pace) and scale: arrays () of float64, of
    which scale is what the summed gradient is to be multiplied with, or NaN; words: the step's number as two uint32.
    """

    def __init__(self, ring: int, steps: int, n: int, clip: float, dtype: str | np.dtype):
        self.ring, self.clip = ring, clip
        self.windows = cupy.zeros((ring, steps + 1, n), IDS)
        self.slots = cupy.zeros((ring, 4))  # of each step: the pace, and whether it begins at a state of zeros
        self.control = cupy.zeros(2, np.int64)
        self.ids = cupy.zeros((steps + 1, n), IDS)
        self._now, self._scale, self._words = cupy.zeros(3), cupy.zeros(1), cupy.zeros(2, np.uint32)
        self.pace = tuple(self._now[k:k + 1].reshape(()) for k in range(3))
        self.scale = self._scale.reshape(())
        self.words = self._words[:1].reshape(()), self._words[1:].reshape(())
        self.losses, self.norms = cupy.zeros(ring), cupy.zeros(ring)
        self._partials = cupy.zeros((2, PARTS))
        options = f"-DREAL={'double' if np.dtype(dtype) == np.float64 else 'float'}", f"-DTHREADS={THREADS}"
        self._sums, self._judge = (cupy.RawKernel(SOURCE, name, options=options) for name in ("sums", "judge"))

    def fill(self, step: int, windows: np.ndarray, numbers: np.ndarray) -> None:
        """The slots of the K steps from `step` on, which counts from 0; K at most `ring`.

        windows (K, T+1, N): ids, of fewer rows where all windows are shorter; numbers (K, 4): rate, size, correction,
        and 1 where the state begins at zero, else 0.
        """
        slot = step % self.ring
        for here, some in ((slot, slice(0, self.ring - slot)), (0, slice(self.ring - slot, None))):  # it may wrap
            if len(numbers[some]):
                there = slice(here, here + len(numbers[some]))
                self.windows[there, :windows.shape[1]] = cupy.asarray(ids_to_device(windows[some]))
                self.slots[there] = cupy.asarray(numbers[some])

    def go(self, step: int, halted: bool = False) -> None:
        """Step `step` is the next."""
        self.control[...] = cupy.asarray(np.array([step, halted], np.int64))

    def read(self) -> tuple[int, bool, np.ndarray, np.ndarray]:
        """Wait for what was launched: the next step, has it halted there, and by slot the losses and norms."""
        step, halted = map(int, cupy.asnumpy(self.control))
        return step, bool(halted), cupy.asnumpy(self.losses), cupy.asnumpy(self.norms)

    def begin(self, state: StackState, first: StackState) -> None:
        """Within a step, at first: fetch what is in its slot; state (h, c: (L, H, N)) -> first, or zeros if fresh."""
        FETCH(self.windows, self.control, self.ring, self.ids.size, self.ids)
        BEGIN(*state, self.slots, self.control, self.ring, *first, self._now, self._words)

    def check(self, loss: Array, grads: Array) -> None:
        """From loss (T, N) and the gradient (P,) of its sum: scale, the rings, and the counter."""
        parts = min(PARTS, -(-grads.size // (THREADS * EACH)))
        self._sums((parts, 2), (THREADS,), (loss, np.int64(loss.size), grads, np.int64(grads.size), self._partials))
        self._judge((1,), (THREADS,), (self._partials, np.int32(parts), self.control, self.losses, self.norms,
                                       self._scale, np.int32(self.ring), np.float64(loss.size), np.float64(self.clip)))

    def carry(self, last: StackState, state: StackState) -> None:
        """Within a step, at last: last -> state, unless the run has halted."""
        CARRY(*last, self.scale, *state)
