"""The plan of a run: it chooses each setting that the user left open, and gives the reason for each choice in words.

`cores` is how many threads are worth using (Kernel.cores). `speed` is the assumed throughput of one share of a batch,
in parameters x characters per second (Kernel.speed). It is used only to plan budgets.
"""
from dataclasses import fields, replace
from typing import Any

from . import params
from .config import PRESETS, ConfigError, ModelConfig, TrainConfig

CHARACTERS = 4_000_000   # characters that a run without a budget trains on; ten times as many on a GPU
MOST_EPOCHS = 20         # epochs of a run without a budget, at most; twice as many on a GPU
WINDOWS = 20             # windows in an epoch, at least: a short text gets fewer columns instead of fewer windows
SHARE = 8                # columns that a thread needs to be worth using
FEW, NARROW = 32, 256    # columns for layers of at most so many units on a processor of few cores: see `streams`
SHORT = 300_000          # characters: a model larger than `short` would learn a shorter text by heart
WORTH_WIDTH = 6_000_000  # characters to train on: from here on `medium` is better than `small` in equal time
FAST = 1e11              # parameters x characters per second: only a GPU has this `speed` or more
LOWER_RATE = range(16, 64)  # numbers of columns with which Muon takes the lower rate
TUNE = 0.3               # factor on the usual learning rate for a model that was trained before
# Rows (largest epochs x parameters / characters, dropout rate, weight-drop rate): the first that fits is taken.
# Measured on tinyshakespeare: 0.9 (2 x 128, 3.4 epochs), where .05 was worse than 0; 4 (2 x 256, 4.5 epochs), where .1
# was worse than 0; 26 (2 x 256, 30 epochs) and 70 (100 KB, 1 x 256, 20 epochs) with .3, and 119 and 134
# (2 x 512, 36 and 40 epochs) with .4.
REGULARISE = (5, 0.0, 0.0), (8, 0.1, 0.0), (15, 0.2, 0.2), (100, 0.3, 0.3), (float("inf"), 0.4, 0.4)


def preset(config: TrainConfig, train_chars: int, cores: int, speed: float) -> tuple[str, str]:
    """Return the name of the preset for corpus, budget and device, and the reason for it.

    train_chars: characters of the training part.
    """
    if train_chars < SHORT:
        return "short", f"{about(train_chars)} characters to learn from"
    config, fast = replace(config, **(default_budget(config, train_chars, speed) or {})), speed >= FAST
    chars = budget(config, ModelConfig(100, **PRESETS["medium"]), train_chars, cores, speed)
    large = "large" if fast else "medium"
    return (large if chars >= WORTH_WIDTH else "small"), f"about {about(chars)} characters" + (
        " of 2 x 256 in the time" if config.minutes else " to train on")


def with_preset(name: str, given: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return keyword arguments for ModelConfig and for TrainConfig: from `given` if not None, else from the preset."""
    merged = PRESETS[name] | {key: value for key, value in given.items() if value is not None}

    def of(kind: type[ModelConfig | TrainConfig]) -> dict[str, Any]:
        """Return the settings that are fields of this config."""
        return {field.name: merged[field.name] for field in fields(kind) if field.name in merged}

    return of(ModelConfig), of(TrainConfig)


def streams(config: TrainConfig, model: ModelConfig, train_chars: int, cores: int, speed: float) -> tuple[int, str]:
    """Return the number of columns N of a run that named none, and the reason if it is not config.batch, else "".

    Fewer columns make more steps of the same text, which a processor takes nearly as fast if the layers are narrow.
    Measured on tinyshakespeare: with 2 x 128 and 3 million characters, 32 columns gained 0.0095 over 64 (standard error
    0.0044 of six pairs) and took 1.1 times as long. With 2 x 256 and 4 million they gained 0.005 (0.005 of three) and
    took 1.25 times as long in bf16, 1.4 times in float32: in equal time both were equal.
    """
    narrow = speed < FAST and model.hidden <= NARROW and cores <= FEW // SHARE
    most = min(FEW, config.batch) if narrow else config.batch
    count = columns(replace(config, batch=most), train_chars)
    if count < most:
        return count, f"{about(train_chars)} characters make {WINDOWS} windows of {config.seq}"
    return count, f"more steps than with {config.batch}" if count < config.batch else ""


def columns(config: TrainConfig, train_chars: int) -> int:
    """Return the number of columns N: config.batch, or fewer if a short text would have fewer than WINDOWS windows."""
    return max(1, min(config.batch, train_chars // (WINDOWS * config.seq)))


def fill(config: TrainConfig, model: ModelConfig, train_chars: int, cores: int,
         speed: float, tuned: bool = False) -> tuple[TrainConfig, list[str]]:
    """Return the config with lr, budget, dropout and threads filled in, and a reason for each that was chosen here.

    tuned: the model was trained before, so the usual learning rate is lower.
    """
    chosen, reasons = dict[str, Any](), list[str]()
    if config.lr is None:
        chosen["lr"] = usual_rate(model, config.optimizer, tuned, config.batch)
        few = f" in {config.batch} streams" if config.optimizer == "muon" and config.batch in LOWER_RATE else ""
        reasons.append(f"lr {chosen['lr']:.3g}: usual for {config.optimizer} and {model.layers} x {model.hidden}{few}"
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
    """Return {"epochs": number} for a run without a budget, None for a run that has one."""
    if (config.steps, config.epochs, config.minutes) != (None, None, None):
        return None
    more, most = (10, 2 * MOST_EPOCHS) if speed >= FAST else (1, MOST_EPOCHS)
    epochs = CHARACTERS * more / train_chars
    return {"epochs": min(most, round(epochs)) if epochs >= 1 else epochs}


def threads(config: TrainConfig, cores: int) -> int:
    """Return the number of threads: config.threads, or as many as cores and SHARE columns for each thread allow."""
    return config.threads or max(1, min(cores, config.batch // SHARE))


def dropout(config: TrainConfig, model: ModelConfig, train_chars: int, cores: int,
            speed: float) -> tuple[dict[str, float], str]:
    """Return the rates of dropout and weight drop, and the reason for them.

    They grow with epochs x parameters / characters, and are 0 for a text that is read once at most. Raises ConfigError
    for a config without a budget.
    """
    epochs = budget(config, model, train_chars, cores, speed) / train_chars
    pressure = epochs * params.count(model) / train_chars if epochs > 1 else 0.0
    units, weights = next((units, weights) for most, units, weights in REGULARISE if pressure <= most)
    return ({"dropout": units, "weight_drop": weights},
            f"for {about(params.count(model))} parameters and {epochs:.3g} epochs of {about(train_chars)} characters")


def budget(config: TrainConfig, model: ModelConfig, train_chars: int, cores: int, speed: float) -> float:
    """Return about how many characters the run trains on. For a budget of minutes, `speed` gives an estimate.

    Raises ConfigError for a config without a budget.
    """
    if config.epochs is not None:
        return config.epochs * train_chars
    if config.steps is not None:
        return config.steps * config.batch * config.seq
    if config.minutes is None:
        raise ConfigError("a run needs one of steps, epochs and minutes")
    return 60 * config.minutes * threads(config, cores) * speed / params.count(model)


def about(number: float) -> str:
    """Return a number in words, with three digits: 112 thousand, 9.31 million."""
    return f"{number / 1e6:.3g} million" if number >= 1e6 else f"{number / 1e3:.3g} thousand" if number >= 1e3 else \
        f"{number:.3g}"


def memory(config: TrainConfig, model: ModelConfig, itemsize: int) -> int:
    """Return about how many bytes a run takes; itemsize: bytes of a number.

    It counts the parameters and their copy (recovery.py), the gradients, two moments, and the arrays of two
    stack.Workspaces, one for training and one for validation.
    """
    # For each position of a window, both workspaces have gates, h and c (4 + 1 + 1 times H) of a layer, inputs and
    # logits. Dropout adds masks and masked outputs. Weight drop adds a mask and a masked copy of each W_hh.
    a_layer = 12 + (2 if config.dropout else 0)
    masked = 2 * 4 * model.hidden ** 2 * model.layers if config.weight_drop else 0
    position = 2 * model.vocab_size + 2 * model.embed + (a_layer * model.layers + 3) * model.hidden
    return itemsize * (5 * params.count(model) + masked + config.seq * config.batch * position)


def largest_batch(config: TrainConfig, model: ModelConfig, itemsize: int, there: int) -> int:
    """Return the largest batch whose `memory` is at most `there` bytes. A result below 1 means that none fits."""
    # `memory` is linear in the batch, so two values give the slope.
    one, two = (memory(replace(config, batch=batch), model, itemsize) for batch in (1, 2))
    return 1 + (there - one) // (two - one)


def usual_rate(model: ModelConfig, optimizer: str, tuned: bool, columns: int = 64) -> float:
    """Return the peak learning rate of a run without --lr; tuned: its model was trained before.

    Muon: 3e-2, and 2e-2 with 16 to 63 columns; a text that is too short for 16 is learned in few steps. Adam: 2e-2 for
    1 x 128, 1e-2 for 2 x 128, less for larger models. Measured with Muon on tinyshakespeare, 2 x 128, loss in nats per
    character: after 200 steps of 64 columns, rate .02 gives 1.672 and .05 gives 1.612; after 938, .02 gives 1.482, .035
    gives 1.483 and .05 gives 1.494. After 1,876 steps of 32 columns, on another part of the text, .01 gives 1.444, .015
    1.439, .02 1.436 and .03 1.443.
    """
    adam = min(0.02, 0.02 / model.layers * (128 / model.hidden) ** 0.75)
    muon = 0.02 if columns in LOWER_RATE else 0.03
    return (muon if optimizer == "muon" else adam) * (TUNE if tuned else 1)


def lower_rate(config: TrainConfig, model: ModelConfig, tuned: bool, factor: float = 1.0) -> float:
    """Return a peak learning rate to try after one that was too high.

    It is the smaller of the usual rate and a third of the rate at the end of the run. factor: the product of all
    halvings by then (Recovery.rate).
    """
    return min(usual_rate(model, config.optimizer, tuned, config.batch), config.peak * factor / 3)
