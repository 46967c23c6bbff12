"""`rnncore gradcheck` compares every gradient with finite differences, on the user's own device and settings."""
import json
import sys

import click

from rnncore.config import LAYERS, ModelConfig, TrainConfig

from . import options


@click.command(cls=options.Command)
@options.grouped(
    "Model and batch",
    ("--layers", {"type": options.Whole(1, LAYERS), "default": 2, "help": "LSTM layers."}),
    ("--hidden", {"type": options.Whole(1), "default": 16, "help": "Units a layer."}),
    ("--embed", {"type": options.Whole(1), "default": 8, "help": "Embedding size."}),
    ("--vocab", {"type": options.Whole(2, 100_000), "default": 11, "help": "Symbols."}),
    ("--seq", {"type": options.Whole(1), "default": 7, "help": "Time steps."}),
    ("--batch", {"type": options.Whole(1), "default": 5, "help": "Sequences."}),
    ("--dropout", {"type": options.SHARE, "default": 0.0, "help": "Dropout after every layer, with fixed masks."}),
    ("--weight-drop", {"type": options.SHARE, "default": 0.0,
                       "help": "Dropout of the entries of W_hh, with fixed masks."}),
    ("--variational", {"is_flag": True, "help": "One mask of units for all steps."}),
    ("--documents", {"is_flag": True, "help": "Begin new documents in mid-batch (the keep mask)."}))
@click.option("--most", type=options.Whole(1), default=200,
              help="Entries of each parameter to move, spread evenly over it.")
@click.option("--seed", type=options.Whole(0), default=0, help="Of parameters, batch and masks.")
@options.JSON
@options.DEVICE
def command(layers, hidden, embed, vocab, seq, batch, dropout, weight_drop, variational, documents, most, seed, as_json,
            device):
    """Compare analytic with numerical gradients in float64, a row a parameter; exit code 1 if one is wrong."""
    from rnncore import kernels
    from rnncore.data.vocab import Vocab
    from rnncore.measure.gradcheck import EPS, TOLERANCE, check_forms, check_gradients, random_case
    from rnncore.model import CharLM
    from rnncore.nn import Dropout
    from rnncore.runs.prepare import check_memory

    sizes = ModelConfig(vocab, embed, hidden, layers)
    config = TrainConfig(seq=seq, batch=batch, dropout=dropout, weight_drop=weight_drop, seed=seed)
    check_memory(config, sizes, 8, kernels.load(device).memory())
    model = CharLM(sizes, Vocab.from_code_points(range(256, 256 + vocab)), device, "float64", seed)
    case = random_case(model, seq, batch, Dropout(dropout, seed, 0, variational, weight_drop), documents, seed)
    rows = []
    if not as_json:
        click.echo(f"{model.kernel.name}, float64, eps {EPS:g}, {seq} steps of {batch} sequences: error = "
                   "max |analytic - numerical| / max(|analytic|, |numerical|)")
        click.echo(f"{'parameter':24} {'entries':>9} {'checked':>8}     error")
    for row in check_gradients(model, case, most):
        rows.append(row)
        if not as_json:
            verdict = "ok" if row.error <= TOLERANCE else "WRONG"
            click.echo(f"{row.name:24} {row.size:9,} {row.checked:8,}  {row.error:8.1e}  {verdict}")
    forms = check_forms(model, case)
    wrong = [row.name for row in rows if not row.error <= TOLERANCE]
    wrong += [name for name, error in forms.items() if not error <= TOLERANCE]
    if as_json:
        click.echo(json.dumps({"rows": [row._asdict() for row in rows], "forms": forms, "tolerance": TOLERANCE,
                               "ok": not wrong}))
    else:
        for name, error in forms.items():
            click.echo(f"{name}: the same gradients within {error:.1e}  {'ok' if error <= TOLERANCE else 'WRONG'}")
        click.echo(f"{len(rows)} gradients right, all within {TOLERANCE:g}" if not wrong else
                   f"{len(wrong)} of {len(rows)} gradients wrong: {', '.join(wrong)}")
    sys.exit(1 if wrong else 0)
