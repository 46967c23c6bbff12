"""`rnncore score` prints how well a model predicts a text, by one of three protocols."""
import json
import math
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

import click

from rnncore.config import MIX_WEIGHT, RULES, SHARE, DynamicConfig
from rnncore.runs.files import new_file

from . import options, texts
from .terminal.progress import echo, tell


LEARNING = "rule", "rate", "decay", "segment"  # the fields of DynamicConfig
UNTRAINED = "`rnncore train` did not train this model"


def _of(name: str, text: str, **settings) -> tuple:
    """Return an option for a field of DynamicConfig: (names, keyword arguments of click.option)."""
    return f"--{name}", {"help": f"With --dynamic: {text}.", "default": getattr(DynamicConfig, name), **settings}


@click.command(cls=options.Command)
@click.argument("run")
@click.argument("text")
@options.grouped(
    "Protocol (default: the state is carried over the whole text)",
    ("--window", {"type": options.Whole(1), "metavar": "W",
                  "help": "Reset the state every W characters; nanoGPT's validation does so with W = 256."}),
    ("--dynamic", {"is_flag": True, "help": "Dynamic evaluation: learn from each segment after it has been scored."}),
    _of("rule", "rms scales the steps of each parameter, sgd does not (default: rms, or sgd with a --rate)",
        type=click.Choice(list(RULES))),
    _of("rate", f"the learning rate (default: {RULES['rms']:g} for rms, {RULES['sgd']:g} for sgd)", type=float),
    _of("decay", "the share of the way back to the trained weights, after each segment", type=float),
    _of("segment", "characters in a segment", type=options.Integer()),
    ("--mix", {"is_flag": True, "help": "Mix with the probabilities of n-grams counted in the training text."}),
    ("--mix-weight", {"type": float, "metavar": "W",
                      "help": f"With --mix: the weight of the n-grams. [default: {MIX_WEIGHT:g}]"}))
@texts.options_of
@options.ON_UNKNOWN
@click.option("--per-char", type=click.Path(), metavar="FILE",
              help="Write every prediction to this new file, too, as a line of JSON: index in the text, char, nats.")
@options.JSON
@options.grouped("Machine", options.DEVICE, options.READING)
def command(run, text, on_unknown, window, per_char, as_json, device, dtype, mix, mix_weight, **how):
    """Print the loss of the model RUN on TEXT, in nats per character.

    RUN is a run folder, a model file or a pretrained model. TEXT is a file, a folder, - for stdin, or a named corpus.
    The result says how much of TEXT the model was trained on. If the training text can still be read, it also shows the
    n-gram baseline: the loss of n-grams that are counted in the training text.
    """
    protocol, settings = chosen(window, how.pop("dynamic"), {name: how.pop(name) for name in LEARNING})
    weight = weight_of(mix, mix_weight)
    if per_char and os.path.lexists(per_char):
        raise FileExistsError(f"{per_char} exists already: name another file with --per-char")
    from rnncore.measure import evaluate

    from . import known
    path, model, card = options.open_model(run, device, dtype)
    corpus = texts.corpus(model.vocab, text, how)
    ids, unknown = corpus.encode(model.vocab, on_unknown)
    parts = losses(model, evaluate.at_least_two(ids), protocol, settings)
    found = known.relation(card, path, model, corpus, text, texts.reading(model.vocab, how), ids, unknown)
    mixture = None if weight is None else mixed(parts, found, model, ids, weight)
    parts, found = mixture or parts, found._replace(train=None)
    if per_char:
        parts = recorded(parts, Path(per_char), corpus.symbols(), model.vocab.symbols, on_unknown == "skip")
    nats = mean(parts)
    for note in corpus.notes:
        tell(note)
    if protocol == "dynamic" and nats > math.log(len(model.vocab)):
        tell("dynamic evaluation gave a loss above that of equal odds for all symbols: lower --rate")
    figures = {"model": str(path), "text": text, "characters": corpus.characters, **units(nats),
               "predictions": len(ids) - 1, "unknown": unknown, "unknown_share": unknown / corpus.characters,
               "on_unknown": on_unknown, "protocol": protocol, "settings": settings, "floor": found.floor,
               "trained_on": found.trained_on}
    if mixture:
        figures["mix"] = {"weight": weight, "order": mixture.order, "counted": mixture.counted,
                          "model_nats_per_char": mixture.alone}
    show(figures, found, as_json, model.vocab.end is not None)


def show(figures: dict, found, as_json: bool, documents: bool) -> None:
    """Print the figures and `found` (known.Relation), as JSON or in words. documents: True for a model of documents."""
    from . import known
    if found.why and as_json:
        figures["no_floor"] = found.why
    elif found.why and not found.trained_on:
        tell(f"no n-gram baseline: {found.why}")
    if as_json:
        click.echo(json.dumps(figures))
    else:
        more = known.lines(found.trained_on, found.floor, figures["nats_per_char"], documents)
        echo("\n".join([words(figures), *more]))


def units(nats: float) -> dict:
    """Return a loss in nats per character as figures in each unit."""
    return {"nats_per_char": nats, "bits_per_char": nats / math.log(2),
            "perplexity": math.exp(nats) if nats < 700 else None}


def weight_of(mix: bool, weight: float | None) -> float | None:
    """Return the weight of --mix, or None without it. Raises UsageError for a weight alone or one out of range."""
    if weight is not None and not mix:
        raise click.UsageError("--mix-weight without --mix: add it, or leave --mix-weight out")
    if weight is not None and not SHARE.holds(weight):
        raise click.UsageError(f"--mix-weight must be {SHARE.words}, not {weight}")
    return (MIX_WEIGHT if weight is None else weight) if mix else None


def mixed(parts, found, model, ids, weight: float):
    """Return the losses of `parts`, mixed with n-grams (measure.mix.Mixture); arguments as in `command`.

    Raises CorpusError with the reason if n-grams cannot be counted, or would know the text by heart.
    """
    from rnncore.data.text import CorpusError
    from rnncore.measure.mix import Mixture

    from . import known
    why = found.why or (UNTRAINED if found.train is None else None)
    if found.trained_on and not why and model.vocab.end is None:
        why = known.words(found.trained_on, documents=False)
    if why:
        raise CorpusError(f"--mix counts n-grams in the model's training text, but {why}: score another text, or leave "
                          "--mix out")
    return Mixture(parts, found.train, ids, len(model.vocab), weight)


def chosen(window: int | None, dynamic: bool, learning: dict) -> tuple[str, dict]:
    """Return the protocol that the options name, and its settings.

    These are ("carried", {}), ("window", {"window": W}) or ("dynamic", fields of DynamicConfig). learning: the values
    of the options named in LEARNING. Raises UsageError if options contradict each other.
    """
    given = [f"--{name}" for name in texts.typed(sorted(learning))]
    if given and not dynamic:
        raise click.UsageError(f"{' and '.join(given)} without --dynamic: add it, or leave {given[0]} out")
    if window and dynamic:
        raise click.UsageError("give --window or --dynamic, not both")
    if dynamic:
        rule, rate = DynamicConfig(**learning).chosen()  # raises ConfigError for a value out of range
        return "dynamic", learning | {"rule": rule, "rate": rate}
    return ("window", {"window": window}) if window else ("carried", {})


def losses(model, ids, protocol: str, settings: dict) -> Iterator:
    """Yield arrays of -log p(symbol) in nats, for ids[1:] in order.

    ids (n,): the text; protocol, settings: as `chosen` returns them. Raises FloatingPointError if a loss is not finite.
    """
    import numpy as np

    from rnncore.measure import dynamic, evaluate
    from rnncore.sample import TOO_LARGE

    if protocol == "dynamic":
        parts = dynamic.losses(model, ids, DynamicConfig(**settings))
    else:
        parts = evaluate.window_losses(model, ids, **settings) if settings else evaluate.losses(model, ids)
    with model.kernel.single_threaded(), np.errstate(over="ignore", invalid="ignore"):
        for part in parts:
            if not math.isfinite(sum(part.tolist())):
                raise FloatingPointError(f"the loss is no number: {TOO_LARGE}")
            yield part


def mean(parts) -> float:
    """Return the mean over all predictions, in nats per character."""
    total, predictions = 0.0, 0
    for part in parts:
        total, predictions = total + float(part.sum()), predictions + len(part)
    return total / predictions


def recorded(parts, path: Path, text: Iterable[str], known: str, skip: bool) -> Iterator:
    """Yield the parts unchanged, and write one line of JSON for each prediction to `path`.

    The file appears at `path` when the last line is written. text: the symbols of the text; known: the symbols that the
    model knows; skip: True if unknown symbols were left out. The first known symbol has no line, because nothing
    predicts it. A skipped symbol has no line; the nats of a replaced symbol are those of its stand-in. Raises OSError
    if the file cannot be written.
    """
    symbols = set(known)
    places = ((place, symbol) for place, symbol in enumerate(text) if not skip or symbol in symbols)
    next(places)
    with new_file(path, "t") as file:
        for part in parts:
            file.writelines(json.dumps({"index": place, "char": symbol, "nats": nats}) + "\n"
                            for nats, (place, symbol) in zip(part.tolist(), places, strict=False))
            yield part


def words(figures: dict) -> str:
    """Return the figures in two lines, or three with those of --mix."""
    how = {"carried": "state carried over the whole text", "window": "state reset every {window:,} characters",
           "dynamic": "dynamic evaluation ({rule}) at rate {rate:g}, decay {decay:g}, segments of {segment:,} "
                      "characters"}
    done = {"error": "", "skip": ", skipped", "replace": ", scored as their stand-in"}
    unknown = "no unknown characters"
    if figures["unknown"]:
        unknown = (f"{figures['unknown']:,} unknown characters ({figures['unknown_share']:.2%})"
                   + done[figures["on_unknown"]])
    mix = "\nmixed with n-grams after {order} characters of context at weight {weight:g}; the model alone: " \
          "{model_nats_per_char:.4f} nats/char".format(**figures["mix"]) if "mix" in figures else ""
    perplexity = math.inf if figures["perplexity"] is None else figures["perplexity"]
    shown = f"{perplexity:.3f}" if perplexity < 1e6 else f"{perplexity:.3g}"
    return (f"{figures['nats_per_char']:.4f} nats/char   {figures['bits_per_char']:.4f} bits/char   "
            f"perplexity {shown}   over {figures['predictions']:,} predictions\n"
            f"{how[figures['protocol']].format(**figures['settings'])}; {unknown}" + mix)
