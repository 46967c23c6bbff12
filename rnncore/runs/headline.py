"""The one validation loss that is shown for a model: the loss over the most characters that were evaluated.

During training, a run evaluates the model on a sample of the validation text. At its end it evaluates the last model on
as much of the validation text as the time allows. If the last model is the best one, the loss of this last evaluation
is shown. An earlier best model has only the loss on the sample, and the text says that it is from a sample.
"""
from typing import Any, NamedTuple

from .. import params
from ..data.text import Corpus
from ..model import CharLM
from .schema import Card, Settings


class Loss(NamedTuple):
    """A validation loss in nats per character.

    step: the step of the model; chars: the number of characters it was measured on, None if an older file does not tell
    it; sampled: True if these were only a sample of the validation text.
    """
    nats: float
    step: int
    chars: int | None
    sampled: bool

    @property
    def over(self) -> str:
        """Return a phrase that names the characters of the measurement."""
        if self.chars is None:
            return "on a sample" if self.sampled else "over the final evaluation"
        return f"on a sample of {self.chars:,} characters" if self.sampled else f"over {self.chars:,} characters"


class Validation(NamedTuple):
    """The loss of the best model, and the loss of the last model, which is None if the last model is the best one."""
    best: Loss
    end: Loss | None = None

    @property
    def words(self) -> str:
        """Return both losses as one text."""
        end = f"; at the end {self.end.nats:.4f} {self.end.over}" if self.end else ""
        return f"{self.best.nats:.4f} nats/char {self.best.over}{end}"


def validation(best: tuple[float, int], step: int, whole: float | None, chars: dict[str, int]) -> Validation:
    """Return the validation losses to show for a run after `step` steps.

    best: (lowest loss on the sample, its step). whole: the loss of the last evaluation, None before that. Losses are in
    nats per character. chars: numbers of characters, `best` in the sample, `end` in the last evaluation, and `all` in
    the validation text; an unknown number is missing or None.
    """
    nats, best_step = best
    end = None if whole is None else Loss(whole, step, chars.get("end"), False)
    if end and best_step == step:
        return Validation(end)
    known, there = chars.get("best"), chars.get("all")
    sampled = known is None or there is None or known < there
    return Validation(Loss(nats, best_step, known, sampled), end)


def of(card: Card) -> Validation | None:
    """Return the validation losses to show for a model, or None if nothing was measured.

    card: a training card for which folder.trained is True.
    """
    if card["val_loss"] is None or card["best_step"] is None:
        return None
    if "val" in card.get("losses", {}):  # measured on this file, over the whole validation text
        return Validation(Loss(card["losses"]["val"], card["best_step"], card["split"]["validation"] - 1, False))
    return validation((card["val_loss"], card["best_step"]), card["step"], card["val_loss_of_all"],
                      card.get("val_chars") or {})


def changed(change: dict[str, Any]) -> str:
    """Return one phrase on a recorded change of options. change: {"step": ..., option: [before, after], ...}."""
    found = {name: pair for name, pair in change.items() if name != "step"}
    words = [f"{name.replace('_', '-')} {before:g} to {after:g}" for name, (before, after) in found.items()]
    return f"after step {change['step']:,}: {', '.join(words)}"


def begun(corpus: Corpus, model: CharLM, settings: Settings) -> list[str]:
    """Return two lines for the user, one on the corpus and its split, one on the model."""
    c, parts, name = model.config, settings["split"], model.kernel.name
    path = f", path {model.path}" if name != "cpu" else ""
    unit = "bytes" if model.vocab.level == "byte" else "characters"
    return [f"corpus {corpus.name}: {corpus.characters:,} {unit}, {c.vocab_size:,} symbols; "
            f"{parts['train']:,} to train, {parts['validation']:,} to validate, {parts['test']:,} left out",
            f"model {c.layers} x {c.hidden} LSTM, embedding {c.embed}: {params.count(c):,} parameters, "
            f"{model.precision} on {name}{path}"]
