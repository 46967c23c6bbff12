"""torch's side of the benchmark on a card: the classes of ours.py in torch.nn.LSTM, each eager and in a CUDA graph.

In float64 it is the reference: `difference(result)` is how far another's result is from its own. Only
`rnncore bench --against torch` loads this module. Adam is fused and capturable, bias_hh frozen at zero as in
torch_cpu.py. A call is LAUNCH whole steps, or PIECE characters, in both: nothing in it waits for the card.
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
    """A kind of work: the graph, the result, the entry."""
    units = 1

    def __init__(self, task: Task, device: str, kind: str, graphed: bool):
        super().__init__(task.sizes, task.config, device, kind, task.tensors)
        self.task = task
        self.prepare()
        with self.around():
            self.call = self.record() if graphed else self.work
            self.own = self.compute()

    @abstractmethod
    def prepare(self) -> None:
        """Make the tensors that the work goes by and leaves its results in."""

    @abstractmethod
    def work(self) -> None:
        """Do what one call does."""

    @abstractmethod
    def compute(self) -> Result:
        """Return the result of the work from the task's weights on."""

    @abstractmethod
    def difference(self, result: Result) -> float:
        """Return how far another's result is from this one's."""

    def held(self) -> list[torch.Tensor]:
        """Return the tensors that the work changes and goes on from."""
        return []

    def result(self) -> Result:
        """Return the result from the task's weights on: it was made once, before anything is timed."""
        return self.own

    def record(self) -> Callable[[], object]:
        """Return a function that replays `work` from a CUDA graph (on a CPU: `work`); the numbers held stay."""
        with self.undone():
            return captured(self.work, self.device)

    @contextlib.contextmanager
    def undone(self) -> Iterator[None]:
        """Put the numbers held back, at the context's end, where they were at its begin.

        The copies are made without gradients: a copy with a grad_fn would stand in a capture's way (torch_graph.py).
        """
        with torch.no_grad():
            kept = [tensor.clone() for tensor in self.held()]
        yield
        with torch.no_grad():
            for tensor, before in zip(self.held(), kept, strict=True):
                tensor.copy_(before)

    @contextlib.contextmanager
    def around(self) -> Iterator[None]:
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = self.kind.tf32
        yield

    def tensor(self, array: np.ndarray) -> torch.Tensor:
        """Return an array on the device; numbers in the weights' dtype."""
        tensor = torch.from_numpy(array).to(self.device)
        return tensor.to(self.kind.weights) if tensor.is_floating_point() else tensor

    def state(self, columns: int) -> State:
        """Return h and c (L, N, H) of zeros."""
        h = torch.zeros(self.task.sizes.layers, columns, self.task.sizes.hidden, dtype=self.kind.computed,
                        device=self.device)
        return h, torch.zeros_like(h)

    def entry(self) -> Entry:
        return Entry(self.call, self.synchronize, self.around, self.task.chars, units=self.units,
                     timer=events if self.device.type == "cuda" else None)


class Training(TorchWork[np.ndarray]):
    """Whole steps with carried state: forward, loss, backward, clipping, Adam on float32 weights."""
    units = LAUNCH

    def prepare(self) -> None:
        self.optimizer = self.adam()
        self.windows = self.tensor(self.task.windows)
        self.carried = self.state(self.config.batch)
        self.losses = torch.zeros(len(self.windows), dtype=torch.float64, device=self.device)

    def held(self) -> list[torch.Tensor]:
        for master in self.masters:  # Adam's would be made in the first step: here they are zeros, as it makes them
            if not self.optimizer.state[master]:
                self.optimizer.state[master] = {"step": torch.zeros((), device=self.device), **{
                    name: torch.zeros_like(master) for name in ("exp_avg", "exp_avg_sq")}}
        moments = [tensor for state in self.optimizer.state.values() for tensor in state.values()]
        return [*self.net.parameters(), *self.masters, *self.carried, *moments]

    def work(self) -> None:
        """A step on each window; the losses stay on the device."""
        state = self.carried
        for k, (x, y) in enumerate(self.windows):
            loss, state = self.step(self.optimizer, x, y, state)
            self.losses[k].copy_(loss)
        for mine, last in zip(self.carried, state, strict=True):
            mine.copy_(last)

    def compute(self) -> np.ndarray:
        losses: list[float] = []
        while len(losses) < STEPS:
            self.call()
            losses += self.losses.tolist()
        return np.array(losses)

    def difference(self, result: np.ndarray) -> float:
        """Return the largest of the losses' differences, in nats."""
        return float(np.abs(result - self.own).max())


class Writing(TorchWork[np.ndarray]):
    """Some texts at once, a symbol of each drawn on the device, PIECE of them a call, then on the host."""
    units = PIECE

    def prepare(self) -> None:
        self.carried = self.state(self.task.streams)
        self.ids = torch.zeros(1, self.task.streams, dtype=torch.long, device=self.device)
        self.text = torch.zeros(PIECE, self.task.streams, dtype=torch.long, device=self.device)
        self.greedy = False

    def held(self) -> list[torch.Tensor]:
        return [self.ids, *self.carried]

    @contextlib.contextmanager
    def around(self) -> Iterator[None]:
        with super().around(), torch.inference_mode():
            yield

    def work(self) -> None:
        ids, state = self.ids, self.carried
        for k in range(PIECE):
            logits, state = self.net(ids, state)
            scores = self.full(logits[0]) / SampleConfig.temperature
            if not self.greedy:  # p / e with e from the exponential distribution is largest with probability p;
                scores = torch.softmax(scores, dim=1)  # multinomial does the same, but waits for the card
                scores = scores / torch.empty_like(scores).exponential_()
            ids = scores.argmax(dim=1)[None]
            self.text[k].copy_(ids[0])
        for mine, last in zip((self.ids, *self.carried), (ids, *state), strict=True):
            mine.copy_(last)

    def compute(self) -> np.ndarray:
        """Return the likeliest symbols, by a graph of its own where the work has one; the state is then as before."""
        self.greedy = True
        with self.undone():
            (self.work if self.call == self.work else self.record())()
        self.greedy = False
        return self.text.cpu().numpy().copy()

    def difference(self, result: np.ndarray) -> float:
        """Return how many nats a chosen symbol is less likely here than the likeliest, at most."""
        with self.around():
            text = torch.from_numpy(np.concatenate([np.zeros_like(result[:1]), result])).to(self.device)
            logits = torch.log_softmax(self.full(self.net(text[:-1])[0]), dim=2)
            chosen = logits.gather(2, text[1:, :, None])[..., 0]
            return float((logits.amax(dim=2) - chosen).max())

    def entry(self) -> Entry:
        entry, call = super().entry(), self.call

        def work() -> torch.Tensor:
            call()
            return self.text.cpu()
        entry.work = work
        return entry


class Layer(TorchWork[dict[str, np.ndarray]]):
    """One LSTM layer and nothing else: forward as for training, and where the task says so backward."""
    y: torch.Tensor                      # (T, N, H), of the last call
    gradients: tuple[torch.Tensor, ...]  # of the input and the weights, too

    def prepare(self) -> None:
        self.x, self.dy = (self.tensor(np.ascontiguousarray(array.transpose(1, 2, 0))) for array in self.task.inputs)
        self.x.requires_grad_()
        self.trained = [weight for weight in self.net.lstm.parameters() if weight.requires_grad]

    def work(self) -> None:
        with self.autocast():
            y, _ = self.net.lstm(self.x)
        self.y = y.detach()
        if self.task.backward:
            self.gradients = torch.autograd.grad(y, [self.x, *self.trained], self.dy.to(y.dtype))

    def compute(self) -> dict[str, np.ndarray]:
        self.call()
        found = {"y": self.y.permute(2, 0, 1)}
        if self.task.backward:
            dx, w_ih, w_hh, bias = self.gradients
            found |= {"dx": dx.permute(2, 0, 1), "w_ih": w_ih, "w_hh": w_hh, "bias": bias}
        return {name: tensor.double().cpu().numpy() for name, tensor in found.items()}

    def difference(self, result: dict[str, np.ndarray]) -> float:
        """Return the largest difference in any array, as a share of the largest number in it."""
        return float(np.max([np.abs(result[name] - own).max() / np.abs(own).max() for name, own in self.own.items()]))


def reference(task: Task, device: str) -> tuple[TorchWork[Any] | None, Figures]:
    """Return the work of a task done in float64, eager, None if it could not run, and figures about it.

    All results are compared with its own, and it is not timed. No attempt is excluded without it.
    """
    about, begun = {"kind": "torch float64 eager"}, perf_counter()
    try:
        made = WORK[task.work](task, device, "float64", False)
    except Exception as error:
        return None, about | {"why_not": reason(error)}
    release()
    return made, about | {"ready_s": perf_counter() - begun}


def attempts(task: Task, precision: str, device: str) -> dict[str, Attempt]:
    """Return name -> attempt for each of torch's kinds in the class, eager and in a CUDA graph."""
    return {f"{kind} {'graphed' if graphed else 'eager'}":
            Attempt.of(partial(WORK[task.work], task, device, kind, graphed))
            for kind in kinds(task, precision) for graphed in (False, True)}


def release() -> None:
    """Give the memory that no tensor holds any more back to the card."""
    gc.collect()
    torch.cuda.empty_cache()


WORK: dict[str, type[TorchWork[Any]]] = {
    "training": Training, "writing": Writing, "forward": Layer, "forward and backward": Layer}
