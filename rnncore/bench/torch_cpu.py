"""torch.nn.LSTM at the work of rnncore.bench.speed.Subject, from the same weights.

Only `rnncore bench --against torch` loads this module. Adam has the same settings and is fused; bias_hh is frozen at
zero, for two trained biases would step twice.
"""
import contextlib
import functools

import torch

from ..config import ModelConfig, SampleConfig, TrainConfig
from ..optim import Adam
from . import speed
from .speed import Entrant


class Net(torch.nn.Module):
    """The model as a torch user would write it, with the names that our files use."""

    def __init__(self, sizes: ModelConfig):
        super().__init__()
        self.embedding = torch.nn.Embedding(sizes.vocab_size, sizes.embed)
        self.lstm = torch.nn.LSTM(sizes.embed, sizes.hidden, sizes.layers)
        self.head = torch.nn.Linear(sizes.hidden, sizes.vocab_size)

    def forward(self, ids, state=None):
        """ids (T, N) -> logits (T, N, V), and h and c, each (L, N, H)."""
        y, state = self.lstm(self.embedding(ids), state)
        return self.head(y), state


class Rival:
    """What takes turns with a Subject. dtype: float32 or float64, or bfloat16 for float32 under autocast.

    tensors: the weights under torch's names, or None for torch's own.
    """

    def __init__(self, sizes: ModelConfig, config: TrainConfig, device: str, dtype: str, tensors=None):
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
        self.config, self.device, self.low = config, torch.device(device), dtype == "bfloat16"
        self.net = Net(sizes).to(self.device, torch.float64 if dtype == "float64" else torch.float32)
        if tensors is not None:
            self.net.load_state_dict({name: torch.from_numpy(array) for name, array in tensors.items()})
        for name, parameter in self.net.named_parameters():
            if "bias_hh" in name:
                parameter.requires_grad_(False).zero_()
        self.trained = [parameter for parameter in self.net.parameters() if parameter.requires_grad]
        beta2 = Adam.BETA2 if config.beta2 is None else config.beta2
        self.adam = torch.optim.Adam(self.trained, config.lr, (config.beta1, beta2), config.eps, fused=True)
        self.windows = torch.from_numpy(speed.windows(sizes, config)).to(self.device)
        self.state, self.count = None, 0

    def train(self):
        """A whole step; returns the loss, a tensor."""
        x, y = self.windows[self.count % len(self.windows)]
        self.count += 1
        with self._autocast():
            logits, state = self.net(x, self.state)
        self.state = tuple(part.detach() for part in state)
        loss = torch.nn.functional.cross_entropy(self._full(logits).flatten(0, 1), y.flatten())
        self.adam.zero_grad()
        loss.backward()
        if self.config.clip:
            torch.nn.utils.clip_grad_norm_(self.trained, self.config.clip)
        self.adam.step()
        return loss.detach()

    def jobs(self, threads: int) -> dict[str, Entrant]:
        """What there is to do -> its entrant, each with as many threads as are fastest, at most so many."""
        numbers = [1] if self.device.type == "cuda" else speed.numbers_of_threads(threads)
        return {"training": speed.fastest(self.training, numbers)} | {
            f"writing {streams}": speed.fastest(functools.partial(self.writing, streams), numbers)
            for streams in speed.STREAMS}

    def training(self, threads: int) -> Entrant:
        """Training steps on so many threads."""
        return Entrant(self.train, self._synchronize, lambda: self._threads(threads), self.windows[0, 0].numel(),
                       threads=threads)

    def writing(self, streams: int, threads: int) -> Entrant:
        """A character of each of so many texts, drawn as SampleConfig says, on so many threads."""
        ids, state = torch.zeros(1, streams, dtype=torch.long, device=self.device), None
        temperature = SampleConfig().temperature

        def write() -> list[int]:
            nonlocal ids, state
            logits, state = self.net(ids, state)
            ids = torch.multinomial(torch.softmax(self._full(logits[0]) / temperature, dim=1), 1).T
            return ids[0].tolist()

        @contextlib.contextmanager
        def around():  # for the whole turn: so autocast converts the weights once
            with self._threads(threads), torch.inference_mode(), self._autocast():
                yield
        return Entrant(write, self._synchronize, around, streams, threads=threads)

    def _autocast(self):
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.low)

    def _full(self, logits):
        return logits.float() if self.low else logits

    def _synchronize(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    @contextlib.contextmanager
    def _threads(self, number: int):
        torch.set_num_threads(number)
        yield


def why_not(device: str) -> str | None:
    """None where this torch computes on the device, else the cause and the cure in one line."""
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


def steps(sizes: dict, config: dict, device: str, dtype: str) -> None:
    """A few training steps and nothing else: what memory is measured of."""
    rival = Rival(ModelConfig(**sizes), TrainConfig(**config), device, dtype)
    torch.set_num_threads(config["threads"])
    for _ in range(speed.STEPS):
        float(rival.train())
