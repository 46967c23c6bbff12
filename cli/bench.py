"""`rnncore bench` measures the speed of training and writing on this machine, on request beside torch."""
import datetime
import json

import click

from rnncore import requirements
from rnncore.config import BENCH, BENCH_CARD, LAYERS, OPTIMIZERS, PATHS

from . import bench_table, doctor, options
from .terminal.progress import EVERY, echo, tell, width

CLASSES = "float32", "float64", "tf32", "bf16", "fp16"
CARD_ONLY = tuple(row for row in BENCH_CARD if row not in BENCH)  # settings that only a GPU measures


def _size(name: str, text: str, least: int = 1, most: int = 100_000) -> tuple:
    """Return an option for a size that replaces the setting's: (names, keyword arguments of click.option)."""
    return f"--{name}", {"type": options.Whole(least, most), "help": f"{text} [default: the setting's]"}


@click.command(cls=options.Command)
@options.grouped(
    "What is measured",
    ("--setting", {"type": click.Choice([*BENCH, *CARD_ONLY]), "multiple": True, "metavar": "NAME",
                   "help": f"Sizes of model and window: {', '.join(BENCH)}; only on a GPU: {', '.join(CARD_ONLY)}. May "
                           "be given several times. [default: char-rnn; on a GPU all that a GPU measures]"}),
    _size("layers", "Number of LSTM layers.", most=LAYERS), _size("hidden", "Units in each layer."),
    _size("embed", "Size of the embedding."), _size("vocab", "Number of symbols.", 2),
    _size("batch", "Number of streams side by side, N."), _size("seq", "Characters in a window, T."),
    ("--optimizer", {"type": click.Choice(OPTIMIZERS), "default": "adam", "help": "Update rule."}),
    ("--dtype", {"type": click.Choice(CLASSES),
                 "help": "Precision class. [default: float32; on a GPU the classes of the setting]"}),
    ("--cuda-path", {"type": click.Choice(["all", *PATHS]), "default": "all", "help": "Path to measure on a GPU."}))
@options.grouped(
    "How it is measured",
    ("--against", {"type": click.Choice(["torch"]), "help": "Measure the same work with torch.nn.LSTM, too."}),
    ("--rounds", {"type": options.Whole(1), "default": 15,
                  "help": "Number of rounds; each entry has one turn in a round."}),
    ("--threads", {"default": "auto", "metavar": "auto|K", "callback": options.threads,
                   "help": "Number of threads for training; auto: the number that is fastest here, measured first."}),
    options.DEVICE)
@options.JSON
def command(setting, layers, hidden, embed, vocab, batch, seq, optimizer, dtype, cuda_path, against, rounds, threads,
            as_json, device):
    """Measure the speed of training and writing, the share of the matrix product's own speed, and memory.

    A training step has all parts: embedding, layers, head, loss, back-propagation, clipping, update. Symbols are
    random, and the state is carried. Entries take turns. The table shows medians and quartiles over the rounds.

    On a GPU every path is measured by the GPU's clock, in each precision class, beside torch eager and torch in a CUDA
    graph. An entry is not timed if its result is farther from float64 than its class allows.
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
        echo(first(found["machine"]))
    for figures in measured:
        found["settings"].append(figures)
        if not as_json:
            echo("\n" + "\n".join(words(figures, width())))
    if as_json:
        click.echo(json.dumps(found))
    elif last:
        echo("\n" + "\n".join(last(found["settings"], width())))


def name_for_torch(kernel, device: str) -> str:
    """Return torch's name of the device `device`: cpu, cuda or cuda:K. For "auto" it is the kind of our device."""
    return kernel.name if device == "auto" else device


def refuse_card(settings, dtype: str | None) -> None:
    """Raise UsageError for settings that only a GPU measures, and for precisions that this processor lacks."""
    for name in settings:
        if name not in BENCH:
            raise click.UsageError(f"--setting {name} is measured only on a GPU: add --device cuda")
    if dtype == "bf16":
        from rnncore.kernels import host
        if reason := host.why_not("eager", dtype):
            raise click.UsageError(f"--dtype {reason}, or add --device cuda for a GPU")
    elif dtype not in (None, "float32", "float64"):
        raise click.UsageError(f"--dtype {dtype} needs a GPU: add --device cuda")


def check_torch(device: str | None, kind: str) -> dict:
    """Return the versions of torch and its libraries, or {} if `device` is None.

    device: torch's name of the device; kind: the name of our kernel, cpu or cuda. Raises ClickException if torch is
    missing or cannot compute there.
    """
    if device is None:
        return {}
    if words := requirements.missing("torch"):
        raise click.ClickException(f"--against torch needs {words}")
    from rnncore.bench import torch_cpu
    if why_not := torch_cpu.why_not(device):
        raise click.ClickException(why_not)
    return torch_cpu.versions(kind != "cpu")
