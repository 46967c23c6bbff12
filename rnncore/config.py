"""Every default of the engine is written here once, in frozen dataclasses; the command line reads them."""
from dataclasses import dataclass

OPTIONAL = None  # a default that depends on the corpus or the machine: chosen when the run starts, and printed


class ConfigError(ValueError):
    """A setting out of its range; the message names it."""


def _check(condition: bool, message: str) -> None:
    if not condition:
        raise ConfigError(message)


@dataclass(frozen=True)
class ModelConfig:
    """The sizes of a model: V symbols, E embedding, H hidden, L layers."""
    vocab_size: int
    embed: int = 64
    hidden: int = 128
    layers: int = 2

    def __post_init__(self):
        for field in ("vocab_size", "embed", "hidden", "layers"):
            value = getattr(self, field)
            _check(isinstance(value, int) and not isinstance(value, bool) and value >= 1,
                   f"{field} must be a whole number of at least 1, not {value!r}")


@dataclass(frozen=True)
class TrainConfig:
    """How a model is trained. Exactly one of steps, epochs and minutes is the budget.

    seq T and batch N are the window; lr is the peak rate, reached after the warm-up share of the budget and falling in
    a straight line to zero; clip bounds the gradient's global norm (0: no bound); threads share the batch's columns.
    beta1, beta2 and eps are Adam's, momentum and decay Muon's; beta2 is the optimiser's own where it is None.
    dropout, weight_drop and variational are dropout.py's. patience ends the run after so many evaluations in a row
    without a better loss.
    """
    seq: int = 50
    batch: int = 64
    optimizer: str = "muon"
    lr: float | None = OPTIONAL
    beta1: float = 0.9
    beta2: float | None = OPTIONAL
    eps: float = 1e-8
    momentum: float = 0.95
    decay: float = 0.1
    clip: float = 1.0
    warmup: float = 0.03
    dropout: float | None = OPTIONAL
    weight_drop: float | None = OPTIONAL
    variational: bool = True
    steps: int | None = None
    epochs: float | None = None
    minutes: float | None = None
    eval_every: int | None = OPTIONAL
    patience: int | None = None
    seed: int = 0
    threads: int | None = OPTIONAL

    def __post_init__(self):
        for field in ("seq", "batch"):
            _check(getattr(self, field) >= 1, f"{field} must be at least 1")
        _check(self.optimizer in OPTIMIZERS, f"optimizer must be one of {', '.join(OPTIMIZERS)}")
        for field in ("lr", "steps", "epochs", "minutes", "eval_every", "patience", "threads"):
            value = getattr(self, field)
            _check(value is None or 0 < value < float("inf"), f"{field} must be above 0, not {value}")
        for field in ("beta1", "beta2", "momentum", "decay", "dropout", "weight_drop", "warmup"):
            value = getattr(self, field)
            _check(value is None or 0 <= value < 1, f"{field} must be at least 0 and below 1")
        _check(0 <= self.clip < float("inf") and 0 < self.eps < 1, "clip must be at least 0, eps between 0 and 1")
        _check(sum(b is not None for b in (self.steps, self.epochs, self.minutes)) <= 1,
               "give one of steps, epochs and minutes")
        _check(0 <= self.seed < 2 ** 64, "seed must be at least 0 and below 2^64")


OPTIMIZERS = "adam", "muon"
PRECISIONS = "float64", "float32", "tf32", "bf16"    # as kernels/paths.py has them, whose import would load NumPy
ON_GPUS = "tf32", "bf16"                             # the precisions that a CPU has not
PATHS = "eager", "graph", "wavefront", "persistent"  # as there


@dataclass(frozen=True)
class SaveConfig:
    """What a run leaves in its folder: a save and a sample every so many steps (None: with validation, and a save each
    minute; 0: no sample), the last `keep` saved models beside the best and the last; tensorboard: event files; report:
    at the end."""
    save_every: int | None = OPTIONAL
    sample_every: int | None = OPTIONAL
    keep: int = 0
    tensorboard: bool = False
    report: bool = True

    def __post_init__(self):
        for field, least in (("save_every", 1), ("sample_every", 0), ("keep", 0)):
            value = getattr(self, field)
            _check(value is None or value >= least, f"{field} must be at least {least}, not {value}")


PRESETS = {  # fields of ModelConfig and TrainConfig; what a preset leaves open, and the plan with it, is chosen later
    "tiny": {"layers": 1, "hidden": 64, "embed": 32},
    "short": {"layers": 1, "hidden": 256},  # for a short text
    "small": {"layers": 2, "hidden": 128},
    "medium": {"layers": 2, "hidden": 256},
    "large": {"layers": 3, "hidden": 512},
    "original": {"layers": 3, "hidden": 512, "seq": 50, "batch": 100, "optimizer": "adam", "dropout": 0.5,
                 "weight_drop": 0.0, "variational": False},  # Char_RNN (2018)
}

BENCH = {  # fields of ModelConfig and TrainConfig: what `rnncore bench` measures
    "char-rnn": {"layers": 2, "hidden": 128, "vocab_size": 65, "seq": 50, "batch": 50},
    "original": {"layers": 3, "hidden": 512, "vocab_size": 96, "seq": 50, "batch": 100},
    "medium": {"layers": 2, "hidden": 256, "vocab_size": 65, "seq": 64, "batch": 64},
    "wide": {"layers": 1, "hidden": 1024, "embed": 128, "vocab_size": 96, "seq": 256, "batch": 128},
    "h160": {"layers": 2, "hidden": 160, "vocab_size": 65, "seq": 50, "batch": 50},
    "h192": {"layers": 2, "hidden": 192, "vocab_size": 65, "seq": 50, "batch": 50},
}

LAYER = {"layers": 1, "hidden": 768, "embed": 768, "vocab_size": 1, "seq": 1024, "batch": 16}  # FlashRNN's chart
THREE, SIXTEEN_BIT = ("float32", "tf32", "bf16"), ("bf16", "fp16")
BENCH_CARD = {  # what `rnncore bench` measures on a GPU: the work, its sizes, the precision classes
    "char-rnn": ("training", BENCH["char-rnn"], THREE),
    "original": ("training", BENCH["original"], THREE),
    "wide": ("training", BENCH["wide"], SIXTEEN_BIT),
    "char-rnn-writing-1": ("writing", BENCH["char-rnn"] | {"streams": 1}, ("float32", "bf16")),
    "char-rnn-writing-64": ("writing", BENCH["char-rnn"] | {"streams": 64}, ("float32", "bf16")),
    "original-writing-1": ("writing", BENCH["original"] | {"streams": 1}, ("float32", "bf16")),
    "original-writing-64": ("writing", BENCH["original"] | {"streams": 64}, ("float32", "bf16")),
    "h160": ("training", BENCH["h160"], THREE),
    "h192": ("training", BENCH["h192"], THREE),
    "layer-768-forward": ("forward", LAYER, (*THREE, "fp16")),
    "layer-768": ("forward and backward", LAYER, (*THREE, "fp16")),
}


@dataclass(frozen=True)
class SampleConfig:
    """How a symbol is drawn. top_k 0 and top_p 1 leave all symbols in; temperature 0 takes the likeliest."""
    temperature: float = 0.8
    top_k: int = 0
    top_p: float = 1.0
    seed: int = 0

    def __post_init__(self):
        _check(0 <= self.temperature < float("inf"),
               f"temperature must be a number of at least 0, not {self.temperature}")
        _check(self.top_k >= 0, f"top_k must be at least 0, not {self.top_k}")
        _check(0 < self.top_p <= 1, f"top_p must be above 0 and at most 1, not {self.top_p}")
        _check(0 <= self.seed < 2 ** 64, "seed must be at least 0 and below 2^64")


@dataclass(frozen=True)
class DynamicConfig:
    """Dynamic evaluation. rate: of plain SGD; decay: the share of the way back to the trained parameters, a step;
    segment: characters a step."""
    rate: float = 0.1
    decay: float = 0.001
    segment: int = 20

    def __post_init__(self):
        _check(0 <= self.rate < float("inf"), f"rate must be a number of at least 0, not {self.rate}")
        _check(0 <= self.decay <= 1, f"decay must be a number from 0 to 1, not {self.decay}")
        _check(1 <= self.segment <= 10_000, f"segment must be a whole number from 1 to 10,000, not {self.segment}")
