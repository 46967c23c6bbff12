"""A plan fills in what the user left open in a ModelConfig and a TrainConfig, and says in words why it chose so."""
from dataclasses import fields, replace
from typing import Any

from . import params
from .config import PRESETS, ConfigError, ModelConfig, TrainConfig

CHARACTERS = 4_000_000   # a run without a budget trains on so many, as far as MOST_EPOCHS allow; ten times on a GPU
MOST_EPOCHS = 20
WINDOWS = 20             # windows in an epoch that a text too short for the usual streams is cut into
SHARE = 8                # columns that a thread needs to be worth its while
SHORT = 300_000          # characters; below, a model of more layers or units only learns the text by heart
WORTH_WIDTH = 6_000_000  # characters trained on from which `medium` is ahead of `small` at equal time
FAST = 1e11              # parameters times characters a second (kernels' speed) that only a GPU reaches
TUNE = 0.3               # times the usual rate: for a model that was trained before
REGULARISE = (1, 0.0, 0.0), (5, 0.1, 0.0), (15, 0.2, 0.2), (float("inf"), 0.3, 0.3)  # up to, dropout, weight-drop


def preset(config: TrainConfig, train_chars: int, cores: int, speed: float) -> tuple[str, str]:
    """(name, reason) of the preset that suits corpus, budget and device; speed: the kernels', of a share."""
    if train_chars < SHORT:
        return "short", f"{about(train_chars)} characters to learn from"
    config, fast = replace(config, **(default_budget(config, train_chars, speed) or {})), speed >= FAST
    chars = budget(config, ModelConfig(100, **PRESETS["medium"]), train_chars, cores, speed)
    large = "large" if fast else "medium"
    return (large if chars >= WORTH_WIDTH else "small"), f"about {about(chars)} characters" + (
        " of 2 x 256 in the time" if config.minutes else " to train on")


def with_preset(name: str, given: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Keyword arguments for (ModelConfig, TrainConfig): those of `given` that are not None, else the preset's."""
    merged = PRESETS[name] | {key: value for key, value in given.items() if value is not None}

    def of(kind: type[ModelConfig | TrainConfig]) -> dict[str, Any]:
        return {field.name: merged[field.name] for field in fields(kind) if field.name in merged}

    return of(ModelConfig), of(TrainConfig)


def columns(config: TrainConfig, train_chars: int) -> int:
    """Streams side by side, N: the usual number, fewer where a short text would make a few windows of them."""
    return max(1, min(config.batch, train_chars // (WINDOWS * config.seq)))


def fill(config: TrainConfig, model: ModelConfig, train_chars: int, cores: int,
         speed: float, tuned: bool = False) -> tuple[TrainConfig, list[str]]:
    """The config with lr, budget, dropout and threads filled in, and a reason for each that was chosen here.

    tuned: the model was trained before, and goes on at a lower rate.
    """
    chosen, reasons = dict[str, Any](), list[str]()
    if config.lr is None:
        chosen["lr"] = usual_rate(model, config.optimizer, tuned)
        reasons.append(f"lr {chosen['lr']:.3g}: usual for {config.optimizer} and {model.layers} x {model.hidden}"
                       + (", lower for a trained model" if tuned else ""))
    default = default_budget(config, train_chars, speed)
    if default:
        chosen |= default
        reasons.append(f"epochs {default['epochs']:.3g}: {about(default['epochs'] * train_chars)} characters in all; "
                       "--minutes 10 makes a better model of a longer text")
    if config.threads is None:
        chosen["threads"] = threads(config, cores)
        reasons.append(
            f"threads {chosen['threads']}: {cores} cores; a thread takes {SHARE} or more of {config.batch} streams")
    if None in (config.dropout, config.weight_drop):
        found, reason = dropout(replace(config, **chosen), model, train_chars, cores, speed)
        found = {name: value for name, value in found.items() if getattr(config, name) is None}
        chosen |= found
        words = ", ".join(f"{name.replace('_', '-')} {value:g}" for name, value in found.items())
        reasons.append(f"{words}: {reason}")
    return replace(config, **chosen), reasons


def default_budget(config: TrainConfig, train_chars: int, speed: float) -> dict[str, Any] | None:
    """The epochs of a run without a budget; None where it has one."""
    if (config.steps, config.epochs, config.minutes) != (None, None, None):
        return None
    epochs = CHARACTERS * (10 if speed >= FAST else 1) / train_chars
    return {"epochs": min(MOST_EPOCHS, round(epochs)) if epochs >= 1 else epochs}


def threads(config: TrainConfig, cores: int) -> int:
    """Threads that share the streams."""
    return config.threads or max(1, min(cores, config.batch // SHARE))


def dropout(config: TrainConfig, model: ModelConfig, train_chars: int, cores: int,
            speed: float) -> tuple[dict[str, float], str]:
    """Rates that grow with epochs x parameters / characters; none for a text that is read once."""
    epochs = budget(config, model, train_chars, cores, speed) / train_chars
    pressure = epochs * params.count(model) / train_chars if epochs > 1 else 0.0
    units, weights = next((units, weights) for most, units, weights in REGULARISE if pressure <= most)
    return ({"dropout": units, "weight_drop": weights},
            f"for {about(params.count(model))} parameters and {epochs:.3g} epochs of {about(train_chars)} characters")


def budget(config: TrainConfig, model: ModelConfig, train_chars: int, cores: int, speed: float) -> float:
    """About how many characters the run trains on; of minutes, by the speed that is usual."""
    if config.epochs is not None:
        return config.epochs * train_chars
    if config.steps is not None:
        return config.steps * config.batch * config.seq
    if config.minutes is None:
        raise ConfigError("a run needs one of steps, epochs and minutes")
    return 60 * config.minutes * threads(config, cores) * speed / params.count(model)


def about(number: float) -> str:
    """A number in three digits: 112 thousand, 9.31 million."""
    return f"{number / 1e6:.3g} million" if number >= 1e6 else f"{number / 1e3:.3g} thousand" if number >= 1e3 else \
        f"{number:.3g}"


def memory(config: TrainConfig, model: ModelConfig, itemsize: int) -> int:
    """About the bytes that a run takes: parameters and a copy, gradients, moments, the work of a window and validation.

    The arrays of stack.Workspace: states and gates a layer twice (training, validation), the inputs and logits too.
    """
    a_layer = 12 + (2 if config.dropout else 0)
    masked = 2 * 4 * model.hidden ** 2 * model.layers if config.weight_drop else 0
    position = 2 * model.vocab_size + 2 * model.embed + (a_layer * model.layers + 3) * model.hidden
    return itemsize * (5 * params.count(model) + masked + config.seq * config.batch * position)


def largest_batch(config: TrainConfig, model: ModelConfig, itemsize: int, there: int) -> int:
    """The largest batch whose `memory` is at most `there` bytes; below 1 where none is."""
    one, two = (memory(replace(config, batch=batch), model, itemsize) for batch in (1, 2))
    return 1 + (there - one) // (two - one)


def usual_rate(model: ModelConfig, optimizer: str, tuned: bool) -> float:
    """Return the peak rate of a run that names none; tuned: its model was trained before."""
    return rate(model, optimizer) * (TUNE if tuned else 1)


def lower_rate(config: TrainConfig, model: ModelConfig, tuned: bool, factor: float = 1.0) -> float:
    """Return a peak rate to try after one that was too high: the usual one, or a third of the last where that is less.

    factor: what recovery.py had made of the run's rate at its end.
    """
    return min(usual_rate(model, config.optimizer, tuned), config.peak * factor / 3)


def rate(model: ModelConfig, optimizer: str) -> float:
    """A peak rate. Muon: 3e-2. Adam: 2e-2 for one layer of 128, 1e-2 for two, less for wider and deeper ones.

    Muon's on tinyshakespeare, 2 x 128, in nats/char: after 200 steps .02 gives 1.672 and .05 gives 1.612, after 938
    steps .02 gives 1.482, .035 gives 1.483 and .05 gives 1.494.
    """
    if optimizer == "muon":
        return 0.03
    return min(0.02, 0.02 / model.layers * (128 / model.hidden) ** 0.75)
