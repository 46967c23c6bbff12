"""The settings of the engine: each default and each range is written once, in frozen dataclasses.

The command line reads its defaults and ranges from here. A model file is checked with the same ranges.
"""
import math
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from typing import Any, NamedTuple, TypeAlias, TypeGuard, TypeVar

T = TypeVar("T")
Json: TypeAlias = None | bool | int | float | str | list[Any] | dict[str, Any]  # a value of a JSON text, or a setting
OPTIONAL = None      # default of a setting that a run chooses by its corpus or machine, and prints, when it starts
MOST = 2 ** 53       # bound of a whole number or budget that has no other: a float holds every whole number up to it
LARGEST = 10 ** 308  # bound of a whole number that is used as a float; a float holds up to 1.8e308
LAYERS = 1_000       # layers of a model, at most
SEGMENT = 10_000     # characters of a step of dynamic evaluation, at most


class ConfigError(ValueError):
    """A setting is outside its range; the message names the setting."""


class Kind(NamedTuple):
    """The values that a setting, or a field of a JSON text, may have: `words` names them, holds(value) tests one."""
    words: str
    holds: Callable[[Any], bool]


def whole(least: int = 1, most: int | None = MOST, below: str = "") -> Kind:
    """Return the Kind of the whole numbers, of Python's type int, from least to most (None: without end).

    below: words for most + 1, for a bound that is too long to read, such as "2^64".
    """
    bounds = f"from {least:,} to {most:,}" if most is not None and not below else f"of at least {least}"
    return Kind(f"a whole number {bounds}" + f" and below {below}" * bool(below),
                lambda value: type(value) is int and least <= value and (most is None or value <= most))


def number(least: float = 0, below: float = math.inf, most: float | None = None, above: bool = False) -> Kind:
    """Return the Kind of the finite numbers x with least <= x < below, and x <= most if that is given.

    above: least < x instead of least <= x.
    """
    words = f"{'above' if above else 'of at least'} {least:g}"
    words += f" and at most {most:,}" if most is not None else f" and below {below:,}" if below < math.inf else ""

    def holds(value: Json) -> bool:
        return _finite(value) and least <= value < below and (most is None or value <= most) and not (
            above and value == least)

    return Kind(f"a number {words}", holds)


def _finite(value: Json) -> TypeGuard[float]:
    """Return True if value is a number (int or float, not bool) that a finite float can hold."""
    return abs(value) < LARGEST if type(value) is int else isinstance(value, float) and math.isfinite(value)


def one_of(*values: str) -> Kind:
    """Return the Kind of these texts."""
    return Kind(f"one of {', '.join(values)}", lambda value: isinstance(value, str) and value in values)


# kinds that several settings share
POSITIVE, COUNT, SHARE = whole(), whole(0), number(below=1)
SEED = whole(0, 2 ** 64 - 1, below="2^64")
BUDGET = number(most=MOST, above=True)
FLAG = Kind("true or false", lambda value: isinstance(value, bool))


def flag(name: str) -> str:
    """Return the option of a setting on the command line: `save_every` is `--save-every`."""
    return f"--{name.replace('_', '-')}"


def shown(value: Json) -> str:
    """Return a short text for a value in a message: at most 40 characters, or the bits of a very large number."""
    if type(value) is int and abs(value) >= 10 ** 40:
        return f"a whole number of {value.bit_length():,} bits"
    return f"{value!r:.40}" if isinstance(value, (str, int, float, type(None))) else type(value).__name__


def _of(kind: Kind, default: T) -> T:
    """Return a dataclass field of that kind. None is allowed, too, if it is the default."""
    return field(default=default, metadata={"kind": kind})


@dataclass(frozen=True)
class Checked:
    """A config that checks each of its fields when it is made. Raises ConfigError that names a field out of its range.

    Each field has a Kind in its metadata. A NumPy number becomes a number of Python.
    """

    def __post_init__(self) -> None:
        for each in fields(self):
            value = getattr(self, each.name)
            # A Kind accepts only Python's own numbers, so a NumPy number is converted.
            if getattr(value, "shape", None) == () and hasattr(value, "item"):
                value = value.item()
                object.__setattr__(self, each.name, value)  # a frozen class refuses a plain assignment
            kind = each.metadata["kind"]
            if not (kind.holds(value) or value is None and each.default is None):
                raise ConfigError(f"{each.name} must be {kind.words}, not {shown(value)}")


@dataclass(frozen=True)
class ModelConfig(Checked):
    """The sizes of a model: vocab_size V symbols, embed E, hidden H units a layer, layers L."""
    vocab_size: int = field(metadata={"kind": POSITIVE})
    embed: int = _of(POSITIVE, default=64)
    hidden: int = _of(POSITIVE, default=128)
    layers: int = _of(whole(1, LAYERS), default=2)


OPTIMIZERS = "adam", "muon"


@dataclass(frozen=True)
class TrainConfig(Checked):
    """The settings of a training run. The budget is one of steps, epochs and minutes; two of them are a ConfigError.

        seq, batch            sizes of the window: T characters, N sequences
        optimizer             adam or muon (optim.py)
        lr, warmup            the peak learning rate, and the share of the budget in which the rate rises to it
        beta1, beta2, eps     of Adam; beta2 None: the default of the optimiser
        momentum, decay       of Muon
        clip                  bound of the gradient's global norm; 0: no bound
        dropout, weight_drop  rates of dropout and of weight drop (nn/dropout.py)
        variational           True: one dropout mask for all steps of a window; False: a new mask at each step
        eval_every            steps between evaluations; None: ten evaluations in a run
        patience              evaluations in a row without a lower validation loss that end the run; None: no end
        seed                  of dropout, and of the place in the text where an epoch begins
        threads               threads that share the columns of a batch on a CPU
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
        if sum(budget is not None for budget in (self.steps, self.epochs, self.minutes)) > 1:
            raise ConfigError("give one of steps, epochs and minutes")

    @property
    def peak(self) -> float:
        """Return lr. Raise ConfigError if lr is None: plan.fill has not chosen it yet."""
        if self.lr is None:
            raise ConfigError("a run needs lr")
        return self.lr


# PRECISIONS and PATHS are copies of lists in kernels/paths.py. To import that module would load NumPy, and --help must
# not wait for NumPy.
DTYPE = "float32"                                    # the precision of a model that is given none
PRECISIONS = "float64", DTYPE, "tf32", "bf16"
ON_GPUS = "tf32",                                    # the precisions that no processor has
PATHS = "eager", "graph", "wavefront", "persistent", "tagged"


@dataclass(frozen=True)
class SaveConfig(Checked):
    """The files that a run writes into its folder.

    save_every: steps between saves (None: at each evaluation, and each minute). sample_every: steps between samples
    (None: at each evaluation; 0: no samples). keep: how many of the newest saves stay, beside the best and the last.
    tensorboard: write event files. report: make report.html at the end.
    """
    save_every: int | None = _of(POSITIVE, default=OPTIONAL)
    sample_every: int | None = _of(COUNT, default=OPTIONAL)
    keep: int = _of(COUNT, default=0)
    tensorboard: bool = _of(FLAG, default=False)
    report: bool = _of(FLAG, default=True)


@dataclass(frozen=True)
class SplitConfig(Checked):
    """The shares of a text, each from 0 to below 1: `val` for validation, `test` held out at the end of the text.

    The order is training, validation, test.
    """
    val: float = _of(SHARE, default=0.1)
    test: float = _of(SHARE, default=0.0)


# preset -> fields of ModelConfig and TrainConfig; fields that a preset does not name are chosen by plan.py
PRESETS: dict[str, dict[str, Any]] = {
    "tiny": {"layers": 1, "hidden": 64, "embed": 32},
    "short": {"layers": 1, "hidden": 256},  # for a short text
    "small": {"layers": 2, "hidden": 128},
    "medium": {"layers": 2, "hidden": 256},
    "large": {"layers": 2, "hidden": 512},
    "original": {"layers": 3, "hidden": 512, "seq": 50, "batch": 100, "optimizer": "adam", "dropout": 0.5,
                 "weight_drop": 0.0, "variational": False},  # the Keras project of 2018 that this one follows
}

BENCH: dict[str, dict[str, Any]] = {  # work that `rnncore bench` measures -> fields of ModelConfig and TrainConfig
    "char-rnn": {"layers": 2, "hidden": 128, "vocab_size": 65, "seq": 50, "batch": 50},
    "original": {"layers": 3, "hidden": 512, "vocab_size": 96, "seq": 50, "batch": 100},
    "medium": {"layers": 2, "hidden": 256, "vocab_size": 65, "seq": 64, "batch": 64},
    "wide": {"layers": 1, "hidden": 1024, "embed": 128, "vocab_size": 96, "seq": 256, "batch": 128},
    "h160": {"layers": 2, "hidden": 160, "vocab_size": 65, "seq": 50, "batch": 50},
    "h192": {"layers": 2, "hidden": 192, "vocab_size": 65, "seq": 50, "batch": 50},
}

# one layer at the sizes of a chart in the FlashRNN paper (Poeppel, Beck & Hochreiter 2024)
LAYER = {"layers": 1, "hidden": 768, "embed": 768, "vocab_size": 1, "seq": 1024, "batch": 16}
THREE, SIXTEEN_BIT = ("float32", "tf32", "bf16"), ("bf16", "fp16")
BENCH_CARD = {  # row of `rnncore bench` on a GPU -> the kind of work, its sizes, the precision classes
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
    """The settings of the sampler (sample.draw). temperature 0 takes the most likely symbol.

    top_k 0 and top_p 1 leave all symbols in. seed: of the uniform draws.
    """
    temperature: float = _of(number(), default=0.8)
    top_k: int = _of(whole(0, None), default=0)  # a number above V leaves all symbols in
    top_p: float = _of(number(most=1, above=True), default=1.0)
    seed: int = _of(SEED, default=0)


MIX_WEIGHT = 0.15  # of counted n-grams beside a model (measure/mix.py): chosen on a text that no table of losses scores
RULES = {"rms": 5e-4, "sgd": 0.1}  # rule of dynamic evaluation -> its usual learning rate


@dataclass(frozen=True)
class DynamicConfig(Checked):
    """The settings of dynamic evaluation (measure/dynamic.py).

    rate: the learning rate; None: the usual one of the rule. decay: the share of the distance to the trained parameters
    that each step goes back. segment: characters of a step. rule: rms, where both are scaled for each parameter, or
    sgd; None: rms, or sgd if a rate is given.
    """
    rate: float | None = _of(number(), default=None)
    decay: float = _of(number(most=1), default=0.001)
    segment: int = _of(whole(1, SEGMENT), default=20)
    rule: str | None = _of(one_of(*RULES), default=None)

    def chosen(self) -> tuple[str, float]:
        """Return the rule and the learning rate."""
        rule = self.rule or ("rms" if self.rate is None else "sgd")
        return rule, RULES[rule] if self.rate is None else self.rate
