"""Our side of the contest on a card: a class a kind of work, each with what it computes and an entrant.

`evidence()` is what the other side's judge compares with its own; the entrant then takes turns. A path that cannot run
raises, at the latest in `evidence`.
"""
from dataclasses import replace
from itertools import islice

import numpy as np

from ..config import PATHS, SampleConfig
from ..data.vocab import Vocab
from ..model import CharLM
from ..nn import lstm, stack
from ..sample import generate_ids
from . import speed
from .speed import Entrant
from .task import PIECE, STEPS, Task


class Training:
    """Whole steps with carried state: LAUNCH at once where the path captures them."""
    paths = PATHS

    def __init__(self, task: Task, device: str, dtype: str, path: str):
        self.subject = speed.Subject(task.sizes, task.config, device, dtype, path)
        self.subject.model.assign(task.tensors)
        self.subject.windows = [[self.subject.kernel.ids_to_device(ids) for ids in window] for window in task.windows]
        self.launches = None if path == "eager" else speed.Launches(self.subject)

    def evidence(self) -> np.ndarray:
        """The losses (STEPS,) from the first step on."""
        if self.launches is None:
            return np.array([self.subject.train() for _ in range(STEPS)])
        losses: list[float] = []
        while len(losses) < STEPS:
            self.launches()
            losses += self.launches.losses()
        return np.array(losses)

    def entrant(self) -> Entrant:
        entrant = replace(self.subject.training(1), timer=self.subject.kernel.timer)
        return entrant if self.launches is None else replace(entrant, work=self.launches, units=speed.LAUNCH)


class Writing:
    """Some texts at once, each PIECE characters a call, on the host when the call ends."""
    paths = "eager", "graph"  # which has the device's own loop, as every path but eager

    def __init__(self, task: Task, device: str, dtype: str, path: str):
        self.model, self.streams = model(task, device, dtype, path), task.streams

    def evidence(self) -> np.ndarray:
        """The likeliest symbols (PIECE, streams) after symbol 0."""
        return self._piece(generate_ids(self.model, np.zeros(1, np.intp), SampleConfig(temperature=0), self.streams))

    def entrant(self) -> Entrant:
        ids, kernel = generate_ids(self.model, np.zeros(1, np.intp), SampleConfig(), self.streams), self.model.kernel
        return Entrant(lambda: self._piece(ids), kernel.synchronize, chars=self.streams, units=PIECE,
                       timer=kernel.timer)

    @staticmethod
    def _piece(ids) -> np.ndarray:
        return np.stack(list(islice(ids, PIECE)))


class Layer:
    """One LSTM layer and nothing else: forward, and where the task says so backward with all gradients."""
    paths = "eager", "graph", "persistent"

    def __init__(self, task: Task, device: str, dtype: str, path: str):
        self.model, self.backward = model(task, device, dtype, path), task.backward
        self.kernel, self.grads = self.model.kernel, self.model.params.like()
        self.weights, self.gradients = (lstm.layer(params, 0) for params in (self.model.params, self.grads))
        self.path, self.graph = self.model.device_path, None
        self.work = stack.Workspace(self.model.params, task.config.seq, task.config.batch, path=self.path)
        self.x, self.dy = (self.kernel.to_device(array.astype(self.model.dtype)) for array in task.inputs)
        self.dx = self.kernel.xp.empty_like(self.x)

    def run(self) -> None:
        """The pass; where the path captures, a replay of the first."""
        if self.graph:
            self.graph.launch()
            return
        with self.model.computing():
            self._pass()
            self.graph = self.path.record(self._pass, 1) if self.path.captured else None

    def _pass(self) -> None:
        """From a state of zeros; the gradient at the last state is zero."""
        (cache,), scratch = self.work.caches, self.work.scratch
        cache.h[:, 0], cache.c[:, 0] = 0, 0
        lstm.forward(self.weights, self.x, cache, None, scratch)
        if not self.backward:
            return
        lstm.backward(self.weights, cache, self.dy, (0, 0), None, scratch, self.dx)
        for gradient, a, b in lstm.sums(self.gradients, self.x, cache, cache.h[:, :-1]):
            if b is None:
                self.kernel.row_sums(a, gradient)
            else:
                self.kernel.product(a, b.T, gradient)

    def evidence(self) -> dict[str, np.ndarray]:
        """What it computes: y (H, T, N), and the gradients."""
        self.run()
        found = {"y": self.work.caches[0].h[:, 1:]}
        if self.backward:
            found |= {"dx": self.dx, **self.gradients._asdict()}
        return {name: np.array(self.kernel.to_host(array)) for name, array in found.items()}

    def entrant(self) -> Entrant:
        return Entrant(self.run, self.kernel.synchronize, chars=self.x[0].size, timer=self.kernel.timer)


def model(task: Task, device: str, dtype: str, path: str) -> CharLM:
    """A model with the task's weights, on a path."""
    vocab = Vocab.from_code_points(range(256, 256 + task.sizes.vocab_size))
    made = CharLM(task.sizes, vocab, device, dtype, seed=None)
    made.assign(task.tensors)
    made.path = path
    return made


WORK = {"training": Training, "writing": Writing, "forward": Layer, "forward and backward": Layer}
