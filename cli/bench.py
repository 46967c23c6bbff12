"""`rnncore bench` measures the speed of training and writing on this machine, beside torch where that is asked for."""
import datetime
import json

import click

from rnncore import requirements
from rnncore.config import BENCH, BENCH_CARD, LAYERS, OPTIMIZERS, PATHS

from . import bench_table, doctor, options
from .terminal.progress import EVERY, tell

CLASSES = "float32", "float64", "tf32", "bf16", "fp16"


def _size(name: str, text: str, least: int = 1, most: int = 100_000) -> tuple:
    """An option that goes before the setting's."""
    return f"--{name}", {"type": options.Whole(least, most), "help": f"{text} [default: the setting's]"}


@click.command(cls=options.Command)
@options.grouped(
    "What is measured",
    ("--setting", {"type": click.Choice([*BENCH, *(row for row in BENCH_CARD if row not in BENCH)]), "multiple": True,
                   "help": "Sizes of model and window; may be given several times. [default: char-rnn; on a GPU, all "
                           "rows of its contest]"}),
    _size("layers", "LSTM layers.", most=LAYERS), _size("hidden", "Units a layer."), _size("embed", "Embedding size."),
    _size("vocab", "Symbols.", 2), _size("batch", "Streams side by side (N)."),
    _size("seq", "Characters a window (T)."),
    ("--optimizer", {"type": click.Choice(OPTIMIZERS), "default": "adam", "help": "How to update."}),
    ("--dtype", {"type": click.Choice(CLASSES),
                 "help": "Numbers, and how a GPU multiplies them. [default: float32; on a GPU, the row's classes]"}),
    ("--cuda-path", {"type": click.Choice(["all", *PATHS]), "default": "all", "help": "How a GPU runs the layers."}))
@options.grouped(
    "How",
    ("--against", {"type": click.Choice(["torch"]), "help": "Do the same work in torch.nn.LSTM, in turn."}),
    ("--rounds", {"type": options.Whole(1), "default": 15, "help": "How often each has its turn."}),
    ("--threads", {"default": "auto", "metavar": "auto|K", "callback": options.threads,
                   "help": "Threads for training; auto: the number that is fastest here, tried first."}),
    options.DEVICE)
@options.JSON
def command(setting, layers, hidden, embed, vocab, batch, seq, optimizer, dtype, cuda_path, against, rounds, threads,
            as_json, device):
    """Measure training and writing: characters/s, ms a step, the share of the matrix product's own speed, memory.

    Training steps are whole: embedding, layers, head, loss, back-propagation, clipping and update, on random symbols
    with carried state. All that is measured takes turns; medians over the rounds and quartiles are shown.

    On a GPU every path is measured by the card's clock, against torch eager and in a CUDA graph, each precision apart.
    An entry whose result is farther from float64 than its class allows is not timed.
    """
    from rnncore import kernels
    from rnncore.bench import card, cpu, speed

    if against and optimizer != "adam":
        raise click.UsageError(f"--against torch compares with Adam: leave --optimizer {optimizer} out")
    kernel = kernels.load(device)
    torch_device = name_for_torch(kernel, device) if against else None
    versions, how = check_torch(torch_device, kernel.name), speed.Options(device, torch_device, rounds, tell, EVERY)
    given = {"layers": layers, "hidden": hidden, "embed": embed, "vocab_size": vocab, "batch": batch, "seq": seq}
    given = {name: value for name, value in given.items() if value is not None} | {"optimizer": optimizer}
    found = {"date": datetime.datetime.now().astimezone().isoformat(timespec="seconds"),
             "machine": doctor.libraries() | doctor.findings() | versions, "rounds": rounds, "settings": []}
    if kernel.name == "cpu":
        refuse_card(setting, dtype)
        measured = cpu.measure_all(setting or ["char-rnn"], given, dtype or "float32", threads, how)
        first, words, last = bench_table.cpu_headline, bench_table.cpu_lines, None
    else:
        found["machine"] |= card.machine(device)
        measured = card.measure_all(setting, given, dtype, cuda_path, how)
        first, words, last = bench_table.card_headline, bench_table.card_lines, bench_table.card_summary
    if not as_json:
        click.echo(first(found["machine"]))
    for figures in measured:
        found["settings"].append(figures)
        if not as_json:
            click.echo("\n" + "\n".join(words(figures)))
    if as_json:
        click.echo(json.dumps(found))
    elif last:
        click.echo("\n" + "\n".join(last(found["settings"])))


def name_for_torch(kernel, device: str) -> str:
    """Return torch's name of the device that `device` is here."""
    return kernel.name if device == "auto" else device


def refuse_card(settings, dtype: str | None) -> None:
    """Raise UsageError for what only a GPU measures."""
    for name in settings:
        if name not in BENCH:
            raise click.UsageError(f"--setting {name} is measured on a GPU alone: --device cuda")
    if dtype not in (None, "float32", "float64"):
        raise click.UsageError(f"--dtype {dtype} is a GPU's: --device cuda")


def check_torch(device: str | None, kind: str) -> dict:
    """Return the versions of torch, if there is a device for it. Raise ClickException where it cannot do the work.

    kind: the name of our kernel module.
    """
    if device is None:
        return {}
    if words := requirements.missing("torch"):
        raise click.ClickException(f"--against torch needs {words}")
    from rnncore.bench import torch_cpu
    if why_not := torch_cpu.why_not(device):
        raise click.ClickException(why_not)
    return torch_cpu.versions(kind != "cpu")
