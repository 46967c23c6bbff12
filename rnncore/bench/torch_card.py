"""torch's side of the benchmark on a GPU: the classes of ours.py with torch.nn.LSTM, each eager or in a CUDA graph.

An object of such a class in float64 is the reference: its `difference(result)` returns how far an attempt's result is
from the reference's result. Only `rnncore bench --against torch` loads this module. Adam is fused and capturable;
bias_hh is zero and not trained, as in torch_cpu.py. A call is LAUNCH whole training steps, or PIECE characters, eager
and in a graph alike. Nothing in a call waits for the GPU.
"""
import contextlib
import gc
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from functools import partial
from time import perf_counter
from typing import Any, Generic, TypeVar

import numpy as np
import torch

from ..config import SampleConfig
from ..kernels import host
from .attempt import Attempt, reason
from .ours import LAUNCH
from .speed import Entry, Figures
from .task import PIECE, STEPS, Task
from .torch_cpu import State, TorchSide
from .torch_graph import captured, events
from .torch_precision import KINDS, cudnn_algorithm, kinds

__all__ = ["KINDS", "WORK", "attempts", "cudnn_algorithm", "kinds", "reference", "release"]
Result = TypeVar("Result")


class TorchWork(TorchSide, ABC, Generic[Result]):
    """One kind of work of torch's. Making an object captures the work if `graphed`, and computes the result.

    task: the work; device: torch's name of it; kind: one of torch_precision.KINDS; graphed: capture in a CUDA graph.
    """
    units = 1  # units of work, such as training steps, that one call does

    def __init__(self, task: Task, device: str, kind: str, graphed: bool):
        super().__init__(task.sizes, task.config, device, kind, task.model.tensors())
        self.task = task
        self.prepare()
        with self.around():
            self.call = self.record() if graphed else self.work
            self.own = self.compute()

    @abstractmethod
    def prepare(self) -> None:
        """Make the tensors that the work reads and writes."""

    @abstractmethod
    def work(self) -> None:
        """Do the work of one call."""

    @abstractmethod
    def compute(self) -> Result:
        """Return the result of the work, which starts from the task's weights."""

    @abstractmethod
    def difference(self, result: Result) -> float:
        """Return how far the result of an attempt is from this one's, in the measure of parity.py."""

    def held(self) -> list[torch.Tensor]:
        """Return the tensors that one call changes and the next call reads, such as weights and states."""
        return []

    def result(self) -> Result:
        """Return the result of the work, which was computed when the object was made."""
        return self.own

    def record(self) -> Callable[[], object]:
        """Return a function that replays `work` from a CUDA graph (on a CPU: `work`).

        The warm-up runs the work; the tensors of `held` then get their values back.
        """
        with self.restored():
            return captured(self.work, self.device)

    @contextlib.contextmanager
    def restored(self) -> Iterator[None]:
        """Give the tensors of `held` their values back when the context ends."""
        # The copies are made under no_grad: a copy with a grad_fn would make a capture fail (torch_graph.captured).
        with torch.no_grad():
            kept = [tensor.clone() for tensor in self.held()]
        yield
        with torch.no_grad():
            for tensor, before in zip(self.held(), kept, strict=True):
                tensor.copy_(before)

    @contextlib.contextmanager
    def around(self) -> Iterator[None]:
        """Allow or forbid TF32, as the kind says; the setting stays until the next context of an entry."""
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = self.kind.tf32
        yield

    def tensor(self, array: np.ndarray) -> torch.Tensor:
        """Return an array as a tensor on the device; real numbers get the weights' dtype."""
        tensor = torch.from_numpy(array).to(self.device)
        return tensor.to(self.kind.weights) if tensor.is_floating_point() else tensor

    def state(self, columns: int) -> State:
        """Return a state of zeros for `columns` sequences: h and c, each (L, N, H)."""
        h = torch.zeros(self.task.sizes.layers, columns, self.task.sizes.hidden, dtype=self.kind.computed,
                        device=self.device)
        return h, torch.zeros_like(h)

    def entry(self) -> Entry:
        """Return the entry that takes turns; on a GPU it is timed by events."""
        return Entry(self.call, self.synchronize, self.around, self.task.chars, units=self.units,
                     timer=events if self.device.type == "cuda" else host.timer)


class Training(TorchWork[np.ndarray]):
    """Work "training": LAUNCH whole steps a call with carried state. A step is TorchSide.step.

    A call goes once over the task's windows: task.WINDOWS and LAUNCH must be the same number.
    """
    units = LAUNCH

    def prepare(self) -> None:
        """Make the optimiser, the windows, the state and the losses."""
        self.optimizer = self.adam()
        self.windows = self.tensor(self.task.windows)
        self.carried = self.state(self.config.batch)
        self.losses = torch.zeros(len(self.windows), dtype=torch.float64, device=self.device)

    def held(self) -> list[torch.Tensor]:
        """Return the weights, the masters, the state and Adam's moments and step counts."""
        # Adam would make its tensors in the first step, too late to be restored. They are made here, of zeros, as Adam
        # makes them.
        for master in self.masters:
            if not self.optimizer.state[master]:
                self.optimizer.state[master] = {"step": torch.zeros((), device=self.device), **{
                    name: torch.zeros_like(master) for name in ("exp_avg", "exp_avg_sq")}}
        moments = [tensor for state in self.optimizer.state.values() for tensor in state.values()]
        return [*self.net.parameters(), *self.masters, *self.carried, *moments]

    def work(self) -> None:
        """Take a step on each window; the losses stay on the device."""
        state = self.carried
        for k, (x, y) in enumerate(self.windows):
            loss, state = self.step(self.optimizer, x, y, state)
            self.losses[k].copy_(loss)
        for mine, last in zip(self.carried, state, strict=True):
            mine.copy_(last)

    def compute(self) -> np.ndarray:
        """Return the losses (STEPS,) of the first steps, in nats per character."""
        losses: list[float] = []
        while len(losses) < STEPS:
            self.call()
            losses += self.losses.tolist()
        return np.array(losses)

    def difference(self, result: np.ndarray) -> float:
        """Return the largest difference of a loss, in nats per character."""
        return float(np.abs(result - self.own).max())


class Writing(TorchWork[np.ndarray]):
    """Work "writing": several texts at once, PIECE characters of each a call; symbols are drawn on the device.

    `greedy` True: take the likeliest symbol, for the result that is compared.
    """
    units = PIECE

    def prepare(self) -> None:
        """Make the state, the last symbols and the text."""
        self.carried = self.state(self.task.streams)
        self.ids = torch.zeros(1, self.task.streams, dtype=torch.long, device=self.device)
        self.text = torch.zeros(PIECE, self.task.streams, dtype=torch.long, device=self.device)
        self.greedy = False

    def held(self) -> list[torch.Tensor]:
        """Return the last symbols and the state."""
        return [self.ids, *self.carried]

    @contextlib.contextmanager
    def around(self) -> Iterator[None]:
        """Write without autograd."""
        with super().around(), torch.inference_mode():
            yield

    def work(self) -> None:
        """Write PIECE characters of each text into `text`; carry the last symbols and the state on."""
        ids, state = self.ids, self.carried
        for k in range(PIECE):
            logits, state = self.net(ids, state)
            scores = self.full(logits[0]) / SampleConfig.temperature
            # With an e for each symbol from the exponential distribution, p / e is the largest with probability p.
            # torch.multinomial draws in the same way, but waits for the GPU.
            if not self.greedy:
                scores = torch.softmax(scores, dim=1)
                scores = scores / torch.empty_like(scores).exponential_()
            ids = scores.argmax(dim=1)[None]
            self.text[k].copy_(ids[0])
        for mine, last in zip((self.ids, *self.carried), (ids, *state), strict=True):
            mine.copy_(last)

    def compute(self) -> np.ndarray:
        """Return the ids (PIECE, streams) that follow symbol 0 if each step takes the likeliest symbol.

        If the work is captured, a second graph is captured for this. The state is restored.
        """
        self.greedy = True
        with self.restored():
            (self.work if self.call == self.work else self.record())()
        self.greedy = False
        return self.text.cpu().numpy().copy()

    def difference(self, result: np.ndarray) -> float:
        """Return how much less likely a symbol of the result is than the likeliest, at most, in nats.

        The result's symbols are read in, so that the probabilities are those after the result's own text.
        """
        with self.around():
            text = torch.from_numpy(np.concatenate([np.zeros_like(result[:1]), result])).to(self.device)
            logits = torch.log_softmax(self.full(self.net(text[:-1])[0]), dim=2)
            chosen = logits.gather(2, text[1:, :, None])[..., 0]
            return float((logits.amax(dim=2) - chosen).max())

    def entry(self) -> Entry:
        """Return the entry; a call ends when the host has the text."""
        entry, call = super().entry(), self.call

        def work() -> torch.Tensor:
            call()
            return self.text.cpu()
        entry.work = work
        return entry


class Layer(TorchWork[dict[str, np.ndarray]]):
    """Work "forward" or "forward and backward": one LSTM layer and nothing else. Forward keeps what backward needs."""
    y: torch.Tensor                      # (T, N, H): the output of the last call
    gradients: tuple[torch.Tensor, ...]  # of the input and of the weights, from the last call

    def prepare(self) -> None:
        """Make x (T, N, E), dy (T, N, H) and the list of trained weights."""
        self.x, self.dy = (self.tensor(np.ascontiguousarray(array.transpose(1, 2, 0))) for array in self.task.inputs)
        self.x.requires_grad_()
        self.trained = [weight for weight in self.net.lstm.parameters() if weight.requires_grad]

    def work(self) -> None:
        """Run the layer forward and, if the task says so, backward, from a state of zeros."""
        with self.autocast():
            y, _ = self.net.lstm(self.x)
        self.y = y.detach()
        if self.task.backward:
            self.gradients = torch.autograd.grad(y, [self.x, *self.trained], self.dy.to(y.dtype))

    def compute(self) -> dict[str, np.ndarray]:
        """Return name -> float64 array: y (H, T, N); with backward also dx (E, T, N) and the weights' gradients."""
        self.call()
        found = {"y": self.y.permute(2, 0, 1)}
        if self.task.backward:
            dx, w_ih, w_hh, bias = self.gradients
            found |= {"dx": dx.permute(2, 0, 1), "w_ih": w_ih, "w_hh": w_hh, "bias": bias}
        return {name: tensor.double().cpu().numpy() for name, tensor in found.items()}

    def difference(self, result: dict[str, np.ndarray]) -> float:
        """Return the largest difference in any array, as a share of the largest number in this one's array."""
        return float(np.max([np.abs(result[name] - own).max() / np.abs(own).max() for name, own in self.own.items()]))


def reference(task: Task, device: str) -> tuple[TorchWork[Any] | None, Figures]:
    """Return the float64 reference of a task, or None if it could not run, and figures about it.

    The reference runs eager and is not timed. If it could not run, no results are compared, so no attempt is excluded.
    """
    about, begun = {"kind": "torch float64 eager"}, perf_counter()
    try:
        made = WORK[task.work](task, device, "float64", False)
    except Exception as error:
        return None, about | {"why_not": reason(error)}
    release()
    return made, about | {"ready_s": perf_counter() - begun}


def attempts(task: Task, precision: str, device: str) -> dict[str, Attempt]:
    """Return name -> attempt for each of torch's kinds in a precision class, eager and in a CUDA graph."""
    return {f"{kind} {'graphed' if graphed else 'eager'}":
            Attempt.of(partial(WORK[task.work], task, device, kind, graphed))
            for kind in kinds(task, precision) for graphed in (False, True)}


def release() -> None:
    """Give the memory that no tensor uses any more back to the GPU."""
    gc.collect()
    torch.cuda.empty_cache()


WORK: dict[str, type[TorchWork[Any]]] = {
    "training": Training, "writing": Writing, "forward": Layer, "forward and backward": Layer}
