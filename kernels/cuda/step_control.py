"""Step control: counters and rings on the card that control captured training steps, and the kernels that use them.

The host writes the windows and numbers of the next steps into a ring, one slot for each step, and launches the steps.
Each step reads the slot of its own number, which a counter on the card holds. If the loss or the gradient of a step is
not finite, the run halts: this step and all steps queued behind it change nothing until the host calls `go`. So the
host need not look at each step before the next one, and the result is the same as if it did.
"""
import cupy
import numpy as np
from cupy import ElementwiseKernel

from ..arrays import Array, StackState
from ..cpu.ops import IDS, ids_to_device
from .text import source

# For the sums: the threads of a block, the largest number of blocks, and the smallest number of summands of a thread.
THREADS, PARTS, EACH = 256, 256, 16
SOURCE = source("step_control.cu")

# The kernels of `begin` and `carry`. `scale == scale` is false if scale is NaN: then the run has halted.
BEGIN = ElementwiseKernel(
    "raw int64 windows, raw float64 slots, raw int64 control, int64 ring, int64 count, raw T h_state, raw T c_state, "
    "int64 units", "raw int64 ids, raw T h, raw T c, raw float64 now, raw uint32 words", """
    const ptrdiff_t slot = control[0] % ring;
    if (i < count) ids[i] = windows[slot * count + i];
    if (i < units) {
        const bool fresh = slots[slot * 4 + 3] != 0;
        h[i] = fresh ? (T)0 : h_state[i];
        c[i] = fresh ? (T)0 : c_state[i];
    }
    if (i == 0) {
        for (int k = 0; k < 3; k++) now[k] = slots[slot * 4 + k];
        words[0] = (unsigned)control[0], words[1] = (unsigned)(control[0] >> 32);
    }
    """, "begin_kernel")
CARRY = ElementwiseKernel(
    "T h_last, T c_last, float64 scale", "T h, T c", "if (scale == scale) h = h_last, c = c_last;", "carry_kernel")


class StepControl:
    """Counters and rings on the card that control captured steps over (T, N) = (steps, n) symbols.

    ring: how many steps the rings hold; clip: the norm at which gradients are clipped, 0 for never; dtype: the dtype of
    the model's arrays; times: gradients are those of the loss times this. A captured step reads four attributes:

        ids    (T+1, N): the window of the step
        pace   rate, size and correction of the step (optim.Pace), arrays () of float64
        scale  () of float64: the factor of the gradient, or NaN after the run has halted
        words  the number of the step as two arrays () of uint32
    """

    def __init__(self, ring: int, steps: int, n: int, clip: float, dtype: str | np.dtype, times: float = 1):
        self.ring, self.clip, self.times = ring, clip, times
        self.windows = cupy.zeros((ring, steps + 1, n), IDS)
        self.slots = cupy.zeros((ring, 4))  # of each step: the pace, and 1 if it begins with a reset state, else 0
        self.control = cupy.zeros(2, np.int64)  # the number of the next step, and 1 if the run has halted, else 0
        self.ids = cupy.zeros((steps + 1, n), IDS)
        self._now, self._scale, self._words = cupy.zeros(3), cupy.zeros(1), cupy.zeros(2, np.uint32)
        self.pace = tuple(self._now[k:k + 1].reshape(()) for k in range(3))
        self.scale = self._scale.reshape(())
        self.words = self._words[:1].reshape(()), self._words[1:].reshape(())
        self.losses, self.norms = cupy.zeros(ring), cupy.zeros(ring)
        self._partials, self._ended = cupy.zeros((2, PARTS)), cupy.zeros(1, np.uint32)
        options = f"-DREAL={'double' if np.dtype(dtype) == np.float64 else 'float'}", f"-DTHREADS={THREADS}"
        self._decide = cupy.RawKernel(SOURCE, "decide", options=options)

    def fill(self, step: int, windows: np.ndarray, numbers: np.ndarray) -> None:
        """Write the slots of the K steps from `step` on, counted from 0; K is at most `ring`.

        windows (K, T+1, N) are ids; they may have fewer rows if all windows are shorter. numbers (K, 4): rate, size,
        correction, and 1 for a step that begins with a reset state, else 0.
        """
        slot = step % self.ring
        for here, some in ((slot, slice(0, self.ring - slot)), (0, slice(self.ring - slot, None))):  # the ring may wrap
            if len(numbers[some]):
                there = slice(here, here + len(numbers[some]))
                self.windows[there, :windows.shape[1]] = cupy.asarray(ids_to_device(windows[some]))
                self.slots[there] = cupy.asarray(numbers[some])

    def go(self, step: int, halted: bool = False) -> None:
        """Make `step` the next step. halted: steps change nothing until this function is called again."""
        self.control[...] = cupy.asarray(np.array([step, halted], np.int64))

    def read(self) -> tuple[int, bool, np.ndarray, np.ndarray]:
        """Wait for all launched steps. Return the next step, True if the run halted there, and the two rings.

        The rings are the losses (nats per character) and the norms of the mean gradients before clipping, by slot.
        """
        step, halted = map(int, cupy.asnumpy(self.control))
        return step, bool(halted), cupy.asnumpy(self.losses), cupy.asnumpy(self.norms)

    def begin(self, state: StackState, first: StackState) -> None:
        """Begin a step: read its slot, and copy `state` to `first`, or write zeros if the step resets the state.

        Both are pairs h and c of arrays (L, H, N).
        """
        count, units = self.ids.size, np.size(state[0])
        BEGIN(self.windows, self.slots, self.control, self.ring, count, *state, units, self.ids, *first, self._now,
              self._words, size=max(count, units))

    def check(self, loss: Array, grads: Array) -> None:
        """Set scale, the rings and the counter from loss (T, N) and the gradient (P,) of its sum times `times`."""
        parts = min(PARTS, -(-grads.size // (THREADS * EACH)))
        self._decide((parts, 2), (THREADS,),
                     (loss, np.int64(loss.size), grads, np.int64(grads.size), self._partials, self._ended, self.control,
                      self.losses, self.norms, self._scale, np.int32(self.ring), np.float64(self.times),
                      np.float64(self.clip)))

    def carry(self, last: StackState, state: StackState) -> None:
        """End a step: copy `last` to `state`, both h and c (L, H, N), unless the run has halted."""
        CARRY(*last, self.scale, *state)
