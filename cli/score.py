"""`rnncore score` prints how well a model predicts a text."""
import json
import math

import click

from . import options


@click.command(cls=options.Command)
@click.argument("run")
@click.argument("text")
@options.ENCODING
@options.NEWLINE
@options.ON_UNKNOWN
@options.JSON
@options.DEVICE
def command(run, text, encoding, newline, on_unknown, as_json, device):
    """Nats per character of the model RUN on TEXT, a file, a folder, - or a named corpus.

    The state is carried over the whole text. RUN is a run folder or a model file.
    """
    import rnncore
    from rnncore.data.text import read

    path, model = options.open_model(run, device)
    corpus = read([text], encoding, newline)
    nats = rnncore.score(model, corpus.text, on_unknown)
    figures = {"model": str(path), "text": text, "characters": len(corpus.text), "nats_per_char": nats,
               "bits_per_char": nats / math.log(2), "perplexity": math.exp(nats) if nats < 700 else math.inf}
    if as_json:
        click.echo(json.dumps(figures))
        return
    click.echo(f"{nats:.4f} nats/char   {figures['bits_per_char']:.4f} bits/char   "
               f"perplexity {figures['perplexity']:.3f}   over {len(corpus.text):,} characters")
