"""`rnncore info` shows what a model file or a run folder holds; with --verify it checks every byte of the files."""
import json
import sys
from dataclasses import asdict
from pathlib import Path

import click

from . import options
from .terminal.progress import echo, printable, tell, width

TERM = 12      # columns of the names in front of the words
LONGEST = 110  # columns of the line with the vocabulary; --json shows all of it


@click.command(cls=options.Command)
@options.RUN
@click.option("--verify", "verifying", is_flag=True,
              help="Check every byte of the model file, or of a run folder's models, metrics and samples.")
@options.JSON
def command(run, verifying, as_json):
    """Show sizes, vocabulary and training of the model RUN.

    RUN is a run folder, a model file or a pretrained model; default: the newest run.
    """
    found = options.find(run)
    if verifying:
        sys.exit(verdicts(found.place, as_json))
    show(found.file, as_json)


def verdicts(place: Path, as_json: bool) -> int:
    """Check every file of a run folder, or one model file, and print the results.

    place: the folder or the file. Return the exit code: 1 if a file is damaged.
    """
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
    """Print what a model file holds, as text or as JSON. Raises ModelFileError if it is damaged."""
    from rnncore import params
    from rnncore.runs import card as cards, checkpoint, metadata

    document, tensors = checkpoint.read(path)
    config, card, text = metadata.sizes(document), document["card"], asdict(metadata.vocabulary(document))
    del text["symbols"]
    found = {"file": str(path), "bytes": path.stat().st_size, "schema": document["schema"],
             "dtype": str(tensors["head.bias"].dtype),
             "precision": card.get("precision") if cards.trained(card) else None,
             "config": document["config"], "parameters": params.count(config),
             "vocabulary": "".join(map(chr, document["vocab"])), "text": text, "card": card,
             "resumable": "training" in document}
    if as_json:
        click.echo(json.dumps(found))
        return
    echo(f"{path}: {found['bytes']:,} bytes, schema {found['schema']}, {found['dtype']}, sha256 verified")
    echo(f"model       {config.layers} x {config.hidden} LSTM, embedding {config.embed}, "
         f"{config.vocab_size} symbols, {found['parameters']:,} parameters", TERM)
    most = int(min(LONGEST, width() - 1))
    symbols = f"symbols     {found['vocabulary']!a}"
    echo(symbols if len(symbols) <= most else f"{symbols[:most - 3]}...", TERM)
    kinds = {"char": "characters", "byte": "bytes"}
    rare = f", those that occur less than {text['min_count']:,} times as U+FFFD" * (text["min_count"] > 1)
    echo(f"level       {kinds[text['level']]}{', in lower case' * text['lower']}{rare}", TERM)
    if text["documents"] != "none":
        echo(f"documents   {text['documents']}" + f", field {text['field']}" * (text["documents"] == "jsonl"), TERM)
    for term, words in cards.terms(card):
        echo(printable(f"{term:{TERM}}{words}").replace("\n", " "), TERM)
