"""`rnncore score` prints how well a model predicts a text, by one of three protocols."""
import json
import math
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

import click

from rnncore.config import DynamicConfig
from rnncore.runs.files import new_file

from . import options, texts
from .terminal.progress import tell


def _of(name: str, text: str, **settings) -> tuple:
    """An option for a field of DynamicConfig."""
    return f"--{name}", {"help": f"With --dynamic: {text}.", "default": getattr(DynamicConfig, name), **settings}


@click.command(cls=options.Command)
@click.argument("run")
@click.argument("text")
@options.grouped(
    "Protocol (by default the state is carried over the whole text)",
    ("--window", {"type": options.Whole(1), "metavar": "W",
                  "help": "Start from zero every W characters; nanoGPT's validation does with 256."}),
    ("--dynamic", {"is_flag": True, "help": "Learn from each segment once it has been scored."}),
    _of("rate", "the learning rate", type=float),
    _of("decay", "the share of the way back to the trained weights, a segment", type=float),
    _of("segment", "characters a segment", type=options.Integer()))
@texts.options_of
@options.ON_UNKNOWN
@click.option("--per-char", type=click.Path(), metavar="FILE",
              help="Write every prediction too, a line of JSON each: index in the text as read, char, nats.")
@options.JSON
@options.DEVICE
def command(run, text, on_unknown, window, dynamic, per_char, as_json, device, rate, decay, segment, **how):
    """Nats per character of the model RUN on TEXT, a file, a folder, - or a named corpus.

    RUN is a run folder, a model file or a pretrained model. It is said how much of TEXT the model was trained on. Where
    its training text is still there, what counting that text reaches on TEXT is printed too; else why not.
    """
    protocol, settings = chosen(window, dynamic, {"rate": rate, "decay": decay, "segment": segment})
    if per_char and os.path.lexists(per_char):
        raise FileExistsError(f"{per_char} exists already: name another file with --per-char")
    from rnncore.measure import evaluate

    from . import known

    path, model, card = options.open_model(run, device)
    corpus = texts.corpus(model.vocab, text, how)
    ids, unknown = corpus.encode(model.vocab, on_unknown)
    parts = losses(model, evaluate.at_least_two(ids), protocol, settings)
    if per_char:
        parts = recorded(parts, Path(per_char), corpus.symbols(), model.vocab.symbols, on_unknown == "skip")
    nats = mean(parts)
    for note in corpus.notes:
        tell(note)
    if protocol == "dynamic" and nats > math.log(len(model.vocab)):
        tell("learning did harm: equal odds for all symbols would be better; lower --rate")
    perplexity = math.exp(nats) if nats < 700 else None
    trained_on, floor, why = known.share(card, corpus, text, texts.reading(model.vocab, how)), None, known.KNOWN
    if trained_on is None:
        trained_on, floor, why = known.beside(card, path, model, ids, unknown)
    figures = {"model": str(path), "text": text, "characters": corpus.characters, "nats_per_char": nats,
               "bits_per_char": nats / math.log(2), "perplexity": perplexity, "predictions": len(ids) - 1,
               "unknown": unknown, "unknown_share": unknown / corpus.characters, "on_unknown": on_unknown,
               "protocol": protocol, "settings": settings, "floor": floor, "trained_on": trained_on}
    if why and as_json:
        figures["no_floor"] = why
    elif why and not trained_on:
        tell(f"no n-gram baseline: {why}")
    lines = [words(figures), *known.lines(trained_on, floor, nats, model.vocab.end is not None)]
    click.echo(json.dumps(figures) if as_json else "\n".join(lines))


def chosen(window: int | None, dynamic: bool, learning: dict) -> tuple[str, dict]:
    """The protocol that the options ask for, and its settings."""
    given = [f"--{name}" for name in texts.typed(sorted(learning))]
    if given and not dynamic:
        raise click.UsageError(f"{' and '.join(given)} without --dynamic: add it, or leave {given[0]} out")
    if window and dynamic:
        raise click.UsageError("give --window or --dynamic, not both")
    if dynamic:
        DynamicConfig(**learning)  # refuses what is out of range
        return "dynamic", learning
    return ("window", {"window": window}) if window else ("carried", {})


def losses(model, ids, protocol: str, settings: dict) -> Iterator:
    """Arrays of -log p of ids[1:], in order."""
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
    """The mean over all predictions."""
    total, predictions = 0.0, 0
    for part in parts:
        total, predictions = total + float(part.sum()), predictions + len(part)
    return total / predictions


def recorded(parts, path: Path, text: Iterable[str], known: str, skip: bool) -> Iterator:
    """Hand the parts on and write a line for every prediction; the file is at `path` once the last one is written.

    The first known character is not predicted. Unknown ones have no line where they are skipped; where they are
    replaced, their nats are those of the stand-in.
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
    """The figures in two lines."""
    how = {"carried": "state carried over the whole text", "window": "windows of {window:,}, each from a zero state",
           "dynamic": "dynamic evaluation at rate {rate:g}, decay {decay:g}, segment {segment:,}"}
    done = {"error": "", "skip": ", skipped", "replace": ", scored as their stand-in"}
    unknown = "no unknown characters"
    if figures["unknown"]:
        unknown = (f"{figures['unknown']:,} unknown characters ({figures['unknown_share']:.2%})"
                   + done[figures["on_unknown"]])
    perplexity = math.inf if figures["perplexity"] is None else figures["perplexity"]
    shown = f"{perplexity:.3f}" if perplexity < 1e6 else f"{perplexity:.3g}"
    return (f"{figures['nats_per_char']:.4f} nats/char   {figures['bits_per_char']:.4f} bits/char   "
            f"perplexity {shown}   over {figures['predictions']:,} predictions\n"
            f"{how[figures['protocol']].format(**figures['settings'])}; {unknown}")
