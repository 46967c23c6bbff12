"""torch's side of the benchmark on a processor: torch.nn.LSTM at the work of ours.Engine, from the same weights.

Only `rnncore bench --against torch` loads this module. Adam has the same settings and is fused; bias_hh is frozen at
zero, for two trained biases would step twice.
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
    """The model as a torch user would write it, with the names that our files use."""

    def __init__(self, sizes: ModelConfig):
        super().__init__()
        self.embedding = torch.nn.Embedding(sizes.vocab_size, sizes.embed)
        self.lstm = torch.nn.LSTM(sizes.embed, sizes.hidden, sizes.layers)
        self.head = torch.nn.Linear(sizes.hidden, sizes.vocab_size)

    def forward(self, ids: torch.Tensor, state: State | None = None) -> tuple[torch.Tensor, State]:
        """ids (T, N) -> logits (T, N, V), and h and c, each (L, N, H)."""
        y, state = self.lstm(self.embedding(ids), state)
        return self.head(y), state


class TorchSide:
    """torch's model on a device, and how numbers are held and multiplied: one of torch_precision.KINDS.

    config: how it is trained. tensors: the weights under torch's names, or None for torch's own.
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
        self.masters = self.weights  # what Adam changes: of weights in half precision, copies in float32
        if self.kind.weights in (torch.float16, torch.bfloat16):
            assert tensors is not None
            self.masters = [torch.from_numpy(tensors[name].copy()).to(self.device)
                            for name, parameter in self.net.named_parameters() if parameter.requires_grad]
            for master in self.masters:
                master.grad = torch.zeros_like(master)

    def adam(self) -> torch.optim.Adam:
        """Return Adam with the settings that ours has, for gradients that are as many times as large as the loss."""
        config = self.config
        beta2 = optim.Adam.BETA2 if config.beta2 is None else config.beta2
        return torch.optim.Adam(self.masters, config.peak, (config.beta1, beta2), config.eps * self.kind.scale,
                                fused=True, capturable=self.device.type == "cuda")

    def step(self, adam: torch.optim.Adam, x: torch.Tensor, y: torch.Tensor,
             state: State | None) -> tuple[torch.Tensor, State]:
        """Take a whole step on a window, x and y (T, N), from a state. Return the loss () and the state after it."""
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
        adam.step()  # gradients and eps are both `scale` times as large: the step is the same
        if self.masters is not self.weights:
            torch._foreach_copy_([weight.detach() for weight in self.weights], self.masters)
        return loss.detach(), (h.detach(), c.detach())

    def autocast(self) -> torch.autocast:
        low = self.kind.autocast
        return torch.autocast(self.device.type, low, enabled=low is not None)

    def full(self, logits: torch.Tensor) -> torch.Tensor:
        """Return logits in float32 where they are in less."""
        return logits if logits.dtype == torch.float64 else logits.float()

    def synchronize(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


class TorchBaseline(TorchSide):
    """The baseline beside an Engine. dtype: float32 or float64, or bfloat16 for float32 under autocast."""

    def __init__(self, sizes: ModelConfig, config: TrainConfig, device: str, dtype: str,
                 tensors: dict[str, np.ndarray] | None = None):
        super().__init__(sizes, config, device, "bf16 autocast" if dtype == "bfloat16" else dtype, tensors)
        self.optimizer = self.adam()
        self.windows = torch.from_numpy(windows(sizes, config)).to(self.device)
        self.state: State | None = None
        self.count = 0

    def train(self) -> torch.Tensor:
        """Take a whole step. Return the loss ()."""
        x, y = self.windows[self.count % len(self.windows)]
        self.count += 1
        loss, self.state = self.step(self.optimizer, x, y, self.state)
        return loss

    def entries(self, threads: int) -> dict[str, Entry]:
        """Return kind of work -> its entry, each with as many threads as are fastest, at most so many."""
        numbers = speed.numbers_of_threads(threads)
        return {"training": speed.fastest(self.training, numbers)} | {
            f"writing {streams}": speed.fastest(functools.partial(self.writing, streams), numbers)
            for streams in STREAMS}

    def training(self, threads: int) -> Entry:
        """Return an entry of training steps on so many threads."""
        return Entry(self.train, self.synchronize, lambda: self._threads(threads), self.windows[0, 0].numel(),
                     threads=threads)

    def writing(self, streams: int, threads: int) -> Entry:
        """Return an entry of a character of each of so many texts, drawn as SampleConfig says, on so many threads."""
        ids, state = torch.zeros(1, streams, dtype=torch.long, device=self.device), None

        def write() -> list[int]:
            nonlocal ids, state
            logits, state = self.net(ids, state)
            ids = torch.multinomial(torch.softmax(self.full(logits[0]) / SampleConfig.temperature, dim=1), 1).T
            return ids[0].tolist()

        @contextlib.contextmanager
        def around() -> Iterator[None]:  # for the whole turn: so autocast converts the weights once
            with self._threads(threads), torch.inference_mode(), self.autocast():
                yield
        return Entry(write, self.synchronize, around, streams, threads=threads)

    @contextlib.contextmanager
    def _threads(self, number: int) -> Iterator[None]:
        torch.set_num_threads(number)
        yield


def gradients(weights: list[torch.Tensor]) -> list[torch.Tensor]:
    """Return the gradients of weights that all have one."""
    return [weight.grad for weight in weights if weight.grad is not None]


def why_not(device: str) -> str | None:
    """Return None where this torch computes on the device, else the cause and the cure in one line."""
    if device.startswith("cuda") and not torch.cuda.is_available():
        return (f"--against torch: torch {torch.__version__} finds no GPU: `pip install torch` in a build for CUDA "
                "(pytorch.org names it), or measure with --device cpu")
    return None


@functools.cache
def why_not_bfloat16(device: str) -> str | None:
    """Return None where this torch runs an LSTM in bfloat16 on the device, else why not, in one line.

    On a processor its library (oneDNN) wants AVX-512 for that.
    """
    try:
        with torch.autocast(torch.device(device).type, torch.bfloat16), torch.no_grad():
            torch.nn.LSTM(8, 8).to(device)(torch.zeros(1, 1, 8, device=device))
    except RuntimeError as error:
        return f"torch {torch.__version__} has no LSTM in bfloat16 for this processor ({str(error).split('. ')[0]})"
    return None


def versions(card: bool) -> Figures:
    """Return the version of torch, and for work on a card those of its CUDA and cuDNN."""
    cuda = {"torch cuda": torch.version.cuda, "cudnn": torch.backends.cudnn.version()}
    return {"torch": torch.__version__} | (cuda if card else {})
