"""torch's side of the benchmark on a processor: torch.nn.LSTM does the work of ours.Engine, from the same weights.

Only `rnncore bench --against torch` loads this module. Adam has the engine's settings and is fused. bias_hh is zero and
not trained: the engine has one bias for each layer, and the sum of two trained biases would move twice as far a step.
"""
import contextlib
import functools
from collections.abc import Iterator

import numpy as np
import torch

from .. import optim
from ..config import ModelConfig, SampleConfig, TrainConfig
from . import speed
from .speed import Entry, Figures
from .task import STREAMS, windows
from .torch_precision import KINDS

State = tuple[torch.Tensor, torch.Tensor]  # h and c, each (L, N, H)


class Net(torch.nn.Module):
    """The model as a torch user would write it, with the names of the tensors in our model files."""

    def __init__(self, sizes: ModelConfig):
        super().__init__()
        self.embedding = torch.nn.Embedding(sizes.vocab_size, sizes.embed)
        self.lstm = torch.nn.LSTM(sizes.embed, sizes.hidden, sizes.layers)
        self.head = torch.nn.Linear(sizes.hidden, sizes.vocab_size)

    def forward(self, ids: torch.Tensor, state: State | None = None) -> tuple[torch.Tensor, State]:
        """Return logits (T, N, V) and the state after ids (T, N): h and c, each (L, N, H). state None: zeros."""
        y, state = self.lstm(self.embedding(ids), state)
        return self.head(y), state


class TorchSide:
    """torch's model on a device, in one of torch_precision.KINDS, and its training step.

    config: how the model is trained. tensors: name -> weight under torch's names; None: torch's initial weights. A kind
    with weights in half precision needs tensors.
    """

    def __init__(self, sizes: ModelConfig, config: TrainConfig, device: str, kind: str,
                 tensors: dict[str, np.ndarray] | None):
        self.config = config
        self.device, self.kind = torch.device(device), KINDS[kind]
        self.net = Net(sizes).to(self.device, self.kind.weights)
        if tensors is not None:
            self.net.load_state_dict({name: torch.from_numpy(array) for name, array in tensors.items()})
        for name, parameter in self.net.named_parameters():
            if "bias_hh" in name:
                parameter.requires_grad_(False).zero_()
        self.weights: list[torch.Tensor] = [weight for weight in self.net.parameters() if weight.requires_grad]
        # The tensors that Adam changes. Steps are often too small for half precision, so weights in it have copies in
        # float32, and each step is taken on the copies.
        self.masters = self.weights
        if self.kind.weights in (torch.float16, torch.bfloat16):
            assert tensors is not None
            self.masters = [torch.from_numpy(tensors[name].copy()).to(self.device)
                            for name, parameter in self.net.named_parameters() if parameter.requires_grad]
            for master in self.masters:
                master.grad = torch.zeros_like(master)

    def adam(self) -> torch.optim.Adam:
        """Return Adam with the engine's settings, for gradients that are multiplied by the kind's loss scale."""
        config = self.config
        beta2 = optim.Adam.BETA2 if config.beta2 is None else config.beta2
        return torch.optim.Adam(self.masters, config.peak, (config.beta1, beta2), config.eps * self.kind.scale,
                                fused=True, capturable=self.device.type == "cuda")

    def step(self, adam: torch.optim.Adam, x: torch.Tensor, y: torch.Tensor,
             state: State | None) -> tuple[torch.Tensor, State]:
        """Take a whole training step on a window, x and y (T, N), from a state (None: zeros).

        Return the loss () in nats per character, and the state after the window. Neither has a grad_fn.
        """
        for parameter in self.weights:
            parameter.grad = None
        with self.autocast():
            logits, (h, c) = self.net(x, state)
        loss = torch.nn.functional.cross_entropy(self.full(logits).flatten(0, 1), y.flatten())
        (loss * self.kind.scale).backward()
        if self.masters is not self.weights:
            torch._foreach_copy_(gradients(self.masters), gradients(self.weights))
        if self.config.clip:
            torch.nn.utils.clip_grad_norm_(self.masters, self.config.clip * self.kind.scale)
        # Gradients, eps and the clipping bound all have the factor `scale`. Adam divides by the size of the gradients,
        # so the factor drops out of its step.
        adam.step()
        if self.masters is not self.weights:
            torch._foreach_copy_([weight.detach() for weight in self.weights], self.masters)
        return loss.detach(), (h.detach(), c.detach())

    def autocast(self) -> torch.autocast:
        """Return the kind's autocast context, which does nothing for a kind without autocast."""
        low = self.kind.autocast
        return torch.autocast(self.device.type, low, enabled=low is not None)

    def full(self, logits: torch.Tensor) -> torch.Tensor:
        """Return logits in float32, or in float64 if they are in float64."""
        return logits if logits.dtype == torch.float64 else logits.float()

    def synchronize(self) -> None:
        """Wait until the device has done its work."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


class TorchBaseline(TorchSide):
    """The baseline on a processor: it trains and writes like ours.Engine.

    dtype: float32, float64, or bfloat16, which means float32 weights under bfloat16 autocast.
    """

    def __init__(self, sizes: ModelConfig, config: TrainConfig, device: str, dtype: str,
                 tensors: dict[str, np.ndarray] | None = None):
        super().__init__(sizes, config, device, "bf16 autocast" if dtype == "bfloat16" else dtype, tensors)
        self.optimizer = self.adam()
        self.windows = torch.from_numpy(windows(sizes, config)).to(self.device)
        self.state: State | None = None
        self.count = 0

    def train(self) -> torch.Tensor:
        """Take a whole training step on the next window, and carry the state on.

        Return the loss () in nats per character.
        """
        x, y = self.windows[self.count % len(self.windows)]
        self.count += 1
        loss, self.state = self.step(self.optimizer, x, y, self.state)
        return loss

    def entries(self, threads: int) -> dict[str, Entry]:
        """Return kind of work ("training", "writing 1", ...) -> its entry.

        Each entry has the number of threads that is fastest for it, at most `threads`.
        """
        numbers = speed.numbers_of_threads(threads)
        return {"training": speed.fastest(self.training, numbers)} | {
            f"writing {streams}": speed.fastest(functools.partial(self.writing, streams), numbers)
            for streams in STREAMS}

    def training(self, threads: int) -> Entry:
        """Return an entry whose unit is one training step, on `threads` threads."""
        return Entry(self.train, self.synchronize, lambda: self._threads(threads), self.windows[0, 0].numel(),
                     threads=threads)

    def writing(self, streams: int, threads: int) -> Entry:
        """Return an entry whose unit is one character of each of `streams` texts, on `threads` threads.

        Symbols are drawn with the temperature of SampleConfig, as ours are.
        """
        ids, state = torch.zeros(1, streams, dtype=torch.long, device=self.device), None

        def write() -> list[int]:
            nonlocal ids, state
            logits, state = self.net(ids, state)
            ids = torch.multinomial(torch.softmax(self.full(logits[0]) / SampleConfig.temperature, dim=1), 1).T
            return ids[0].tolist()

        @contextlib.contextmanager
        def around() -> Iterator[None]:  # autocast is entered once a turn: it converts the weights once, not each call
            with self._threads(threads), torch.inference_mode(), self.autocast():
                yield
        return Entry(write, self.synchronize, around, streams, threads=threads)

    @contextlib.contextmanager
    def _threads(self, number: int) -> Iterator[None]:
        """Set the number of threads that torch uses; it stays set until the next turn."""
        torch.set_num_threads(number)
        yield


def gradients(weights: list[torch.Tensor]) -> list[torch.Tensor]:
    """Return the gradients of the weights; every weight must have one."""
    return [weight.grad for weight in weights if weight.grad is not None]


def why_not(device: str) -> str | None:
    """Return None if this torch can compute on the device, else the cause and the cure in one line."""
    if device.startswith("cuda") and not torch.cuda.is_available():
        return (f"--against torch: torch {torch.__version__} finds no GPU: `pip install torch` in a build for CUDA "
                "(pytorch.org names it), or measure with --device cpu")
    return None


@functools.cache
def why_not_bfloat16(device: str) -> str | None:
    """Return None if this torch can run an LSTM in bfloat16 on the device, else the reason in one line.

    On a processor, torch's library oneDNN needs AVX-512 for it.
    """
    try:
        with torch.autocast(torch.device(device).type, torch.bfloat16), torch.no_grad():
            torch.nn.LSTM(8, 8).to(device)(torch.zeros(1, 1, 8, device=device))
    except RuntimeError as error:
        return f"torch {torch.__version__} has no LSTM in bfloat16 for this processor ({str(error).split('. ')[0]})"
    return None


def versions(card: bool) -> Figures:
    """Return the version of torch; card: also the versions of its CUDA and cuDNN."""
    cuda = {"torch cuda": torch.version.cuda, "cudnn": torch.backends.cudnn.version()}
    return {"torch": torch.__version__} | (cuda if card else {})
