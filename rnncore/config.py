"""Every default of the engine is written here once, in frozen dataclasses; the command line reads them."""
import math
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from typing import Any, NamedTuple, TypeAlias, TypeGuard, TypeVar

T = TypeVar("T")
Json: TypeAlias = None | bool | int | float | str | list[Any] | dict[str, Any]  # a value of a JSON text, or a setting
OPTIONAL = None     # a default that depends on the corpus or the machine: chosen when the run starts, and printed
MOST = 2 ** 53      # of whole numbers and budgets that nothing else bounds: up to it a float holds each
LARGEST = 10 ** 308  # of whole numbers that stand for a float
LAYERS = 1_000
SEGMENT = 10_000    # characters a step of dynamic evaluation


class ConfigError(ValueError):
    """A setting out of its range; the message names it."""


class Kind(NamedTuple):
    """What a setting, or a field of a JSON text, may be: in words and as a test."""
    words: str
    holds: Callable[[Any], bool]


def whole(least: int = 1, most: int | None = MOST, below: str = "") -> Kind:
    """Whole numbers from least to most, of Python's own type; below: the first that is none, in words."""
    bounds = f"from {least:,} to {most:,}" if most is not None and not below else f"of at least {least}"
    return Kind(f"a whole number {bounds}" + f" and below {below}" * bool(below),
                lambda value: type(value) is int and least <= value and (most is None or value <= most))


def number(least: float = 0, below: float = math.inf, most: float | None = None, above: bool = False) -> Kind:
    """Finite numbers of at least `least`, or above it, and below `below`, or of at most `most`."""
    words = f"{'above' if above else 'of at least'} {least:g}"
    words += f" and at most {most:,}" if most is not None else f" and below {below:,}" if below < math.inf else ""

    def holds(value: Json) -> bool:
        return _finite(value) and least <= value < below and (most is None or value <= most) and not (
            above and value == least)

    return Kind(f"a number {words}", holds)


def _finite(value: Json) -> TypeGuard[float]:
    """Return whether this is a number, of Python's own type, that a float holds."""
    return abs(value) < LARGEST if type(value) is int else isinstance(value, float) and math.isfinite(value)


def one_of(*values: str) -> Kind:
    """One of these texts."""
    return Kind(f"one of {', '.join(values)}", lambda value: isinstance(value, str) and value in values)


POSITIVE, COUNT, SHARE = whole(), whole(0), number(below=1)
SEED = whole(0, 2 ** 64 - 1, below="2^64")
BUDGET = number(most=MOST, above=True)
FLAG = Kind("true or false", lambda value: isinstance(value, bool))


def flag(name: str) -> str:
    """Return a setting as it is typed on a command line: `save_every` is `--save-every`."""
    return f"--{name.replace('_', '-')}"


def shown(value: Json) -> str:
    """A value's beginning; a long one is not written out."""
    if type(value) is int and abs(value) >= 10 ** 40:
        return f"a whole number of {value.bit_length():,} bits"
    return f"{value!r:.40}" if isinstance(value, (str, int, float, type(None))) else type(value).__name__


def _of(kind: Kind, default: T) -> T:
    """A field of that kind; None goes too where it is the default."""
    return field(default=default, metadata={"kind": kind})


@dataclass(frozen=True)
class Checked:
    """A config whose fields are of their kinds; a NumPy number becomes Python's. Raises ConfigError with the field."""

    def __post_init__(self) -> None:
        for each in fields(self):
            value = getattr(self, each.name)
            if getattr(value, "shape", None) == () and hasattr(value, "item"):
                value = value.item()
                object.__setattr__(self, each.name, value)  # the class is frozen
            kind = each.metadata["kind"]
            _check(kind.holds(value) or value is None and each.default is None,
                   f"{each.name} must be {kind.words}, not {shown(value)}")


def _check(condition: bool, message: str) -> None:
    if not condition:
        raise ConfigError(message)


@dataclass(frozen=True)
class ModelConfig(Checked):
    """The sizes of a model: V symbols, E embedding, H hidden, L layers."""
    vocab_size: int = field(metadata={"kind": POSITIVE})
    embed: int = _of(POSITIVE, default=64)
    hidden: int = _of(POSITIVE, default=128)
    layers: int = _of(whole(1, LAYERS), default=2)


OPTIMIZERS = "adam", "muon"


@dataclass(frozen=True)
class TrainConfig(Checked):
    """How a model is trained. Exactly one of steps, epochs and minutes is the budget.

    seq T and batch N are the window; lr is the peak rate, reached after the warm-up share of the budget and falling in
    a straight line to zero; clip bounds the gradient's global norm (0: no bound); threads share the batch's columns.
    beta1, beta2 and eps are Adam's, momentum and decay Muon's; beta2 is the optimiser's own where it is None.
    dropout, weight_drop and variational are dropout.py's. patience ends the run after so many evaluations in a row
    without a better loss.
    """
    seq: int = _of(POSITIVE, default=50)
    batch: int = _of(POSITIVE, default=64)
    optimizer: str = _of(one_of(*OPTIMIZERS), default="muon")
    lr: float | None = _of(number(above=True), default=OPTIONAL)
    beta1: float = _of(SHARE, default=0.9)
    beta2: float | None = _of(SHARE, default=OPTIONAL)
    eps: float = _of(number(below=1, above=True), default=1e-8)
    momentum: float = _of(SHARE, default=0.95)
    decay: float = _of(SHARE, default=0.1)
    clip: float = _of(number(), default=1.0)
    warmup: float = _of(SHARE, default=0.03)
    dropout: float | None = _of(SHARE, default=OPTIONAL)
    weight_drop: float | None = _of(SHARE, default=OPTIONAL)
    variational: bool = _of(FLAG, default=True)
    steps: int | None = _of(POSITIVE, default=None)
    epochs: float | None = _of(BUDGET, default=None)
    minutes: float | None = _of(BUDGET, default=None)
    eval_every: int | None = _of(POSITIVE, default=OPTIONAL)
    patience: int | None = _of(POSITIVE, default=None)
    seed: int = _of(SEED, default=0)
    threads: int | None = _of(POSITIVE, default=OPTIONAL)

    def __post_init__(self) -> None:
        super().__post_init__()
        _check(sum(b is not None for b in (self.steps, self.epochs, self.minutes)) <= 1,
               "give one of steps, epochs and minutes")

    @property
    def peak(self) -> float:
        """The peak rate of a run, which is lr once a plan has filled it in. Raises ConfigError before that."""
        if self.lr is None:
            raise ConfigError("a run needs lr")
        return self.lr


DTYPE = "float32"                                    # of a model that names none
PRECISIONS = "float64", DTYPE, "tf32", "bf16"        # as kernels/paths.py has them, whose import would load NumPy
ON_GPUS = "tf32", "bf16"                             # the precisions that a CPU has not
PATHS = "eager", "graph", "wavefront", "persistent"  # as there


@dataclass(frozen=True)
class SaveConfig(Checked):
    """What a run leaves in its folder: a save and a sample every so many steps (None: with validation, and a save each
    minute; 0: no sample), the last `keep` saved models beside the best and the last; tensorboard: event files; report:
    at the end."""
    save_every: int | None = _of(POSITIVE, default=OPTIONAL)
    sample_every: int | None = _of(COUNT, default=OPTIONAL)
    keep: int = _of(COUNT, default=0)
    tensorboard: bool = _of(FLAG, default=False)
    report: bool = _of(FLAG, default=True)


@dataclass(frozen=True)
class SplitConfig(Checked):
    """Shares of the text: `val` for validation, after the training part, and `test` left out at its end."""
    val: float = _of(SHARE, default=0.1)
    test: float = _of(SHARE, default=0.0)


# Fields of ModelConfig and TrainConfig; what a preset leaves open, and the plan with it, is chosen later.
PRESETS: dict[str, dict[str, Any]] = {
    "tiny": {"layers": 1, "hidden": 64, "embed": 32},
    "short": {"layers": 1, "hidden": 256},  # for a short text
    "small": {"layers": 2, "hidden": 128},
    "medium": {"layers": 2, "hidden": 256},
    "large": {"layers": 3, "hidden": 512},
    "original": {"layers": 3, "hidden": 512, "seq": 50, "batch": 100, "optimizer": "adam", "dropout": 0.5,
                 "weight_drop": 0.0, "variational": False},  # Char_RNN (2018)
}

BENCH: dict[str, dict[str, Any]] = {  # fields of ModelConfig and TrainConfig: what `rnncore bench` measures
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
class SampleConfig(Checked):
    """How a symbol is drawn. top_k 0 and top_p 1 leave all symbols in; temperature 0 takes the likeliest."""
    temperature: float = _of(number(), default=0.8)
    top_k: int = _of(whole(0, None), default=0)  # the number of symbols bounds it
    top_p: float = _of(number(most=1, above=True), default=1.0)
    seed: int = _of(SEED, default=0)


@dataclass(frozen=True)
class DynamicConfig(Checked):
    """Dynamic evaluation. rate: of plain SGD; decay: the share of the way back to the trained parameters, a step;
    segment: characters a step."""
    rate: float = _of(number(), default=0.1)
    decay: float = _of(number(most=1), default=0.001)
    segment: int = _of(whole(1, SEGMENT), default=20)
