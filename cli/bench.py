"""`rnncore bench` measures the speed of training and writing on this machine, beside torch where that is asked for."""
import datetime
import json

import click

from rnncore import requirements
from rnncore.config import BENCH, BENCH_CARD, LAYERS, OPTIMIZERS, PATHS, ModelConfig

from . import options
from .terminal.table import aligned, digits

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
    ("--optimizer", {"type": click.Choice(OPTIMIZERS), "default": "adam", "show_default": True,
                     "help": "How to update."}),
    ("--dtype", {"type": click.Choice(CLASSES),
                 "help": "Numbers, and how a GPU multiplies them. [default: float32; on a GPU, the row's classes]"}),
    ("--cuda-path", {"type": click.Choice(["all", *PATHS]), "default": "all", "show_default": True,
                     "help": "How a GPU runs the layers."}))
@options.grouped(
    "How",
    ("--against", {"type": click.Choice(["torch"]), "help": "Do the same work in torch.nn.LSTM, in turn."}),
    ("--rounds", {"type": options.Whole(1), "default": 15, "show_default": True,
                  "help": "How often each has its turn."}),
    ("--threads", {"default": "auto", "metavar": "auto|K", "show_default": True, "callback": options.threads,
                   "help": "Threads for training; auto: the number that is fastest here, tried first."}))
@options.placed("How", options.DEVICE)
@options.JSON
def command(setting, layers, hidden, embed, vocab, batch, seq, optimizer, dtype, cuda_path, against, rounds, threads,
            as_json, device):
    """Measure training and writing: characters/s, ms a step, the share of the matrix product's own speed, memory.

    Training steps are whole: embedding, layers, head, loss, back-propagation, clipping and update, on random symbols
    with carried state. All that is measured takes turns; medians over the rounds and quartiles are shown.

    On a GPU every path is measured by the card's clock, against torch eager and in a CUDA graph, each precision apart.
    An entry whose result is farther from float64 than its class allows is not timed.
    """
    if against and optimizer != "adam":
        raise click.UsageError(f"--against torch compares with Adam: leave --optimizer {optimizer} out")
    from rnncore import kernels
    kernel = kernels.load(device)
    torch_device = name_for_torch(kernel, device)
    rival = load_rival(torch_device) if against else None
    given = {"layers": layers, "hidden": hidden, "embed": embed, "vocab_size": vocab, "batch": batch, "seq": seq}
    given = {name: value for name, value in given.items() if value is not None} | {"optimizer": optimizer}
    found = {"date": datetime.datetime.now().astimezone().isoformat(timespec="seconds"), "machine": machine(rival),
             "rounds": rounds, "settings": []}
    if kernel.name == "cpu":
        refuse_card(setting, dtype)
        measured = on_cpu(setting or ["char-rnn"], given, device, dtype or "float32", threads, rounds, rival,
                          torch_device)
        first, words, last = headline, lines, None
    else:
        from ..bench import card
        found["machine"] |= card.machine(device, rival)
        measured = card.measure_all(setting, given, device, dtype, cuda_path, rounds, bool(rival), torch_device)
        first, words, last = card.headline, card.lines, card.summary
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
    """The device that `device` is here, as torch calls it."""
    return kernel.name if device == "auto" else device


def refuse_card(settings, dtype: str | None) -> None:
    """Raise UsageError for what only a GPU measures."""
    for name in settings:
        if name not in BENCH:
            raise click.UsageError(f"--setting {name} is measured on a GPU alone: --device cuda")
    if dtype not in (None, "float32", "float64"):
        raise click.UsageError(f"--dtype {dtype} is a GPU's: --device cuda")


def on_cpu(settings, given: dict, device: str, dtype: str, *how):
    """The figures of each setting, as they are made."""
    from rnncore import kernels
    from rnncore.bench import speed

    from ..bench.compare import measure
    from .prepare import check_memory
    for name in dict.fromkeys(settings):
        asked = {"embed": ModelConfig.embed} | BENCH[name] | given
        sizes, config = speed.configs(asked)
        check_memory(config, sizes, 8 if dtype == "float64" else 4, kernels.host.memory())
        yield {"setting": name} | measure(asked, device, dtype, *how)


def load_rival(device: str):
    """The module for torch. Raises ClickException where it cannot do the work."""
    if words := requirements.missing("torch"):
        raise click.ClickException(f"--against torch needs {words}")
    from ..bench import torch_cpu as rival
    why_not = rival.why_not(device)
    if why_not:
        raise click.ClickException(why_not)
    return rival


def machine(rival) -> dict:
    """What the figures are measured on and with."""
    from .doctor import findings, libraries
    return libraries() | findings() | ({"torch": rival.torch.__version__} if rival else {})


def headline(found: dict) -> str:
    """The machine in one line."""
    return (f"{found['processor']}, {found['cores']} cores, {found['memory']}; rnncore {found['rnncore']}, Python "
            f"{found['python']}, NumPy {found['numpy']} ({found['blas']})"
            + (f", torch {found['torch']}" if "torch" in found else "") + f"; recurrence {found['recurrence']}")


def lines(found: dict) -> list[str]:
    """The figures of one setting as an aligned table, and what bounds them."""
    products, ours = found["products"], found["engines"]["rnncore"]
    head = (f"{found['setting']}: {found['layers']} x {found['hidden']} LSTM, embedding {found['embed']}, "
            f"{found['vocab_size']} symbols, N = {found['batch']}, T = {found['seq']}, {found['optimizer']}, "
            f"{found['dtype']} on {found['device']}")
    rows = [("", "ms a step", "quartiles", "characters/s", "GF/s", "threads", "times ours")]
    for what in ours["work"]:
        for name, engine in found["engines"].items():
            rows.append((f"{what}, {name}", *cells(engine["work"][what])))
    for name, product in products.items():
        shape = " x ".join(map(str, product["shape"]))
        rows.append((f"{name} product, {shape}", "", "", "", digits(product["gflops"]), str(product["threads"]), ""))
    table = aligned(rows)
    shares = " and ".join(f"{100 * product['share']:.0f}% of the {name} product's"
                          for name, product in products.items())
    peaks = ", ".join(f"{name} {engine['memory_mb']:.0f} MB" for name, engine in found["engines"].items())
    return [head, *table, f"speed of a training step's products: {shares}",
            f"peak memory of training above Python with NumPy: {peaks}",
            *([f"without torch bfloat16: {found['left_out']}"] if found["left_out"] else [])]


def cells(work: dict) -> tuple[str, ...]:
    """Time, speed, threads and ratio in words."""
    ratio = work.get("times_ours")
    return (digits(work["ms"]), " to ".join(map(digits, work["quartiles_ms"])), f"{work['characters_per_s']:,.0f}",
            digits(work["gflops"]) if "gflops" in work else "", str(work["threads"] or ""),
            f"{ratio['median']:.2f} ({ratio['low']:.2f} to {ratio['high']:.2f})" if ratio else "")
