"""A plan fills in what the user left open in a TrainConfig, and says in words why it chose so."""
from dataclasses import replace

from . import params
from .config import ModelConfig, TrainConfig

CHARACTERS = 4_000_000  # what a run without a budget trains on, as far as MOST_EPOCHS allow
MOST_EPOCHS = 20
SHARE = 32              # columns that a thread needs to be worth its while


def fill(config: TrainConfig, model: ModelConfig, train_chars: int, cores: int) -> tuple[TrainConfig, list[str]]:
    """The config with lr, budget and threads filled in, and a reason for each that was chosen here."""
    chosen, reasons = {}, []
    if config.lr is None:
        chosen["lr"] = rate(model, config.optimizer)
        reasons.append(f"lr {chosen['lr']:.3g}: {config.optimizer}, {model.layers} x {model.hidden}")
    if (config.steps, config.epochs, config.minutes) == (None, None, None):
        epochs = min(MOST_EPOCHS, max(1, round(CHARACTERS / train_chars)))
        chosen["epochs"] = epochs
        reasons.append(f"epochs {epochs}: about {CHARACTERS:,} characters, at least 1 epoch and at most {MOST_EPOCHS}")
    if config.threads is None:
        chosen["threads"] = max(1, min(cores, config.batch // SHARE))
        reasons.append(f"threads {chosen['threads']}: {cores} cores, at least {SHARE} of {config.batch} columns each")
    return replace(config, **chosen), reasons


def memory(config: TrainConfig, model: ModelConfig, itemsize: int) -> int:
    """About the bytes that a run takes: parameters, moments, a gradient a thread, the work of a window and validation.

    The arrays of stack.Workspace: states and gates a layer twice (training, validation), three of the logits' size.
    """
    a_layer = 12 + (2 if config.dropout else 0)
    position = 3 * model.vocab_size + 3 * model.embed + (a_layer * model.layers + 8) * model.hidden
    return itemsize * ((3 + config.threads) * params.count(model) + config.seq * config.batch * position)


def rate(model: ModelConfig, optimizer: str) -> float:
    """A peak rate. Muon: 3e-2. Adam: 2e-2 for one layer of 128, 1e-2 for two, less for wider and deeper ones.

    Muon's on tinyshakespeare, 2 x 128, in nats/char: after 200 steps .02 gives 1.672 and .05 gives 1.612, after 938
    steps .02 gives 1.482, .035 gives 1.483 and .05 gives 1.494.
    """
    if optimizer == "muon":
        return 0.03
    return min(0.02, 0.02 / model.layers * (128 / model.hidden) ** 0.75)
