"""The validation loss that is shown of a model: one number, over the most characters that it was measured on.

On its way a run evaluates on a sample of its validation text, and at its end on as much of it as the time allows. If
the model of the last step is the best, the second number is shown. A best model from before has the first alone, which
is marked as that of a sample.
"""
from typing import Any, NamedTuple

from .. import params
from ..data.text import Corpus
from ..model import CharLM
from .schema import Card, Settings


class Loss(NamedTuple):
    """Nats per character of the model of `step`, over so many characters; None: an older file does not say.

    sampled: over a part of what an evaluation at the end takes.
    """
    nats: float
    step: int
    chars: int | None
    sampled: bool

    @property
    def over(self) -> str:
        """What it was measured on, in words."""
        if self.chars is None:
            return "on a sample" if self.sampled else "over the final evaluation"
        return f"on a sample of {self.chars:,} characters" if self.sampled else f"over {self.chars:,} characters"


class Validation(NamedTuple):
    """The loss of the best model, and that of the model at the run's end where this is another one, else None."""
    best: Loss
    end: Loss | None = None

    @property
    def words(self) -> str:
        """Both in words."""
        end = f"; at the end {self.end.nats:.4f} {self.end.over}" if self.end else ""
        return f"{self.best.nats:.4f} nats/char {self.best.over}{end}"


def validation(best: tuple[float, int], step: int, whole: float | None, chars: dict[str, int]) -> Validation:
    """Return what is shown of a run after `step` steps.

    best: the lowest loss in mid-run, and its step; whole: the loss of the evaluation at the end, None before it; chars:
    how many characters `best` and `end` are over and there are in `all`; a number that is not known is missing.
    """
    nats, best_step = best
    end = None if whole is None else Loss(whole, step, chars.get("end"), False)
    if end and best_step == step:
        return Validation(end)
    known, there = chars.get("best"), chars.get("all")
    sampled = known is None or there is None or known < there
    return Validation(Loss(nats, best_step, known, sampled), end)


def of(card: Card) -> Validation | None:
    """Return what is shown of the model with a training card (folder.trained); None where nothing was measured."""
    if card["val_loss"] is None or card["best_step"] is None:
        return None
    if "val" in card.get("losses", {}):  # of this very file, on all of the validation text
        return Validation(Loss(card["losses"]["val"], card["best_step"], card["split"]["validation"] - 1, False))
    return validation((card["val_loss"], card["best_step"]), card["step"], card["val_loss_of_all"],
                      card.get("val_chars") or {})


def changed(change: dict[str, Any]) -> str:
    """Say in words with which other options a run went on, and from which step."""
    found = {name: pair for name, pair in change.items() if name != "step"}
    words = [f"{name.replace('_', '-')} {before:g} to {after:g}" for name, (before, after) in found.items()]
    return f"after step {change['step']:,}: {', '.join(words)}"


def begun(corpus: Corpus, model: CharLM, settings: Settings) -> list[str]:
    """Say in two lines what is learned and by which model."""
    c, parts, name = model.config, settings["split"], model.kernel.name
    path = f", path {model.path}" if name != "cpu" else ""
    unit = "bytes" if model.vocab.level == "byte" else "characters"
    return [f"corpus {corpus.name}: {corpus.characters:,} {unit}, {c.vocab_size:,} symbols; "
            f"{parts['train']:,} to train, {parts['validation']:,} to validate, {parts['test']:,} left out",
            f"model {c.layers} x {c.hidden} LSTM, embedding {c.embed}: {params.count(c):,} parameters, "
            f"{model.precision} on {name}{path}"]
