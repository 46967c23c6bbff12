"""`rnncore info` shows what a model file or a run folder holds, and with --verify whether all of it is whole."""
import json
import sys
from dataclasses import asdict
from pathlib import Path

import click

from . import options
from .terminal.progress import printable, tell

SETTINGS = {  # fields of a TrainConfig, in words
    "optimizer": "{}", "lr": "rate {}", "batch": "batch {}", "seq": "window {}", "dropout": "dropout {}",
    "weight_drop": "weight-drop {}", "seed": "seed {}", "epochs": "for {} epochs", "steps": "for {} steps",
    "minutes": "for {} minutes"}


@click.command(cls=options.Command)
@options.RUN
@click.option("--verify", "verifying", is_flag=True,
              help="Read every byte of the file, or of the run folder's files, and say which are whole.")
@options.JSON
def command(run, verifying, as_json):
    """Sizes, vocabulary and training card of RUN.

    RUN is a run folder, a model file or a pretrained model; by default the newest run.
    """
    found = options.find(run)
    if verifying:
        sys.exit(verdicts(found.place, as_json))
    show(found.file, as_json)


def verdicts(place: Path, as_json: bool) -> int:
    """Say of each file whether it is whole; returns the exit code, 1 where one is not. place: file or folder."""
    from rnncore.runs.verify import verify

    found = list(verify(place))
    if as_json:
        click.echo(json.dumps({"ok": not any(error for _, error in found),
                               "files": [{"file": str(file), "ok": error is None, "error": error}
                                         for file, error in found]}))
    for file, error in found:
        if error:
            tell(f"rnncore: {printable(str(file))}: {error}")
        elif not as_json:
            click.echo(f"ok  {printable(str(file))}")
    return 1 if any(error for _, error in found) else 0


def show(path: Path, as_json: bool) -> None:
    """What a model file holds, in words or as JSON."""
    from rnncore import params
    from rnncore.config import ModelConfig
    from rnncore.runs import checkpoint
    from rnncore.runs.metadata import vocabulary

    document, tensors = checkpoint.read(path)
    config, text = ModelConfig(**document["config"]), asdict(vocabulary(document))
    del text["symbols"]
    found = {"file": str(path), "bytes": path.stat().st_size, "schema": document["schema"],
             "dtype": str(tensors["head.bias"].dtype), "precision": precision(document["card"]),
             "config": document["config"], "parameters": params.count(config),
             "vocabulary": "".join(map(chr, document["vocab"])), "text": text, "card": document["card"],
             "resumable": "training" in document}
    if as_json:
        click.echo(json.dumps(found))
        return
    click.echo(f"{path}: {found['bytes']:,} bytes, schema {found['schema']}, {found['dtype']}, sha256 verified")
    click.echo(f"model       {config.layers} x {config.hidden} LSTM, embedding {config.embed}, "
               f"{config.vocab_size} symbols, {found['parameters']:,} parameters")
    click.echo(f"symbols     {found['vocabulary']!a}"[:110])
    kinds = {"char": "characters", "byte": "bytes"}
    rare = f", those that occur less than {text['min_count']:,} times as U+FFFD" * (text["min_count"] > 1)
    click.echo(f"level       {kinds[text['level']]}{', in lower case' * text['lower']}{rare}")
    if text["documents"] != "none":
        click.echo(f"documents   {text['documents']}" + f", field {text['field']}" * (text["documents"] == "jsonl"))
    for line in card_lines(document["card"]):
        click.echo(printable(line).replace("\n", " "))


def precision(card: dict) -> str | None:
    """What a run was trained in; None where the card does not say."""
    from rnncore.runs.folder import trained
    return card.get("precision") if trained(card) else None


def settings(card: dict) -> str:
    """How a model was trained, in words; a setting that an older card lacks, or that is none, is left out."""
    train, found = card["train"], [] if type(card.get("preset")) is not str else [f"preset {card['preset']}"]
    for name, words in SETTINGS.items():
        value = train.get(name)
        if type(value) in (int, float, str):
            found.append(words.format(f"{value:g}" if type(value) is float else value))
            if name == "dropout" and value and type(train.get("variational")) is bool:
                found[-1] += f" (one mask a {'window' if train['variational'] else 'character'})"
    return ", ".join(found)


def card_lines(card: dict):
    """The training card in words; a model that was not trained by `rnncore train` has another, or none."""
    from rnncore.runs import headline
    from rnncore.runs.folder import trained

    if not trained(card):
        return
    corpus, split = card["corpus"], card["split"]
    yield f"corpus      {corpus['name']}, {corpus['characters']:,} characters, sha256 {corpus['sha256'][:16]}"
    if card.get("about"):
        yield f"about       {card['about']}"
    yield (f"split       {split['train']:,} train, {split['validation']:,} validation, {split['test']:,} test, "
           + ("documents shuffled" if corpus.get("shuffle") else "in order"))
    epochs = f", {card['chars'] / split['train']:.3g} epochs," if split["train"] else ""
    yield (f"trained     {card['step']:,} steps, {card['chars']:,} characters{epochs} in {card['seconds']:,} s, "
           f"on {card['made'][:10]}")
    if how := settings(card):
        yield f"settings    {how}"
    if card.get("precision"):
        yield f"precision   {card['precision']}"
    for change in card.get("changes", []):
        yield f"changed     {headline.changed(change)}"
    if card.get("init_from"):
        origin = card.get("origin") or card["init_from"]
        yield f"begun from  {card['init_from']}" + f" ({origin})" * (origin != card["init_from"])
    if found := headline.of(card):
        yield f"validation  step {found.best.step:,}: {found.words}"
    if card.get("floor"):
        yield f"counting    {card['floor']['nats']:.4f} nats/char, the last {card['floor']['order']} "\
              f"character{'s' * (card['floor']['order'] != 1)}"
    elif card.get("no_floor"):
        yield f"counting    none: {card['no_floor']}"
    if card.get("losses"):
        yield "this file   " + ", ".join(f"{name} {loss:.4f}" for name, loss in card["losses"].items()) + " nats/char"
    yield "versions    " + ", ".join(f"{name} {version}" for name, version in card["versions"].items())
