"""`rnncore generate` writes text with a trained model to stdout, character by character."""
import contextlib
import itertools
import os
import re
import sys
import time

import click

from rnncore.config import SampleConfig

from . import options
from .progress import tell

LENGTH = 1000    # characters
TURN = 200       # characters, where it is one of many
FLUSH = 0.05     # seconds between flushes of what was written
TRIAL = 20_000   # characters of a text that make up for a trial of a GPU's path


def clamped(ctx, param, values) -> dict[tuple[int, int], float]:
    """A callback: LAYER.CELL=VALUE, of each cell once, as (layer, cell) -> value."""
    clamp: dict[tuple[int, int], float] = {}
    for text in values:
        found = re.fullmatch(r"([0-9]{1,9})\.([0-9]{1,9})=(.+)", text)
        try:
            cell, value = (int(found[1]), int(found[2])), float(found[3])
        except (TypeError, ValueError):
            raise click.BadParameter(f"{text!r} is not of the form LAYER.CELL=VALUE, as 1.73=2.5") from None
        if cell in clamp:
            raise click.BadParameter(f"cell {cell[0]}.{cell[1]} is given twice")
        clamp[cell] = value
    return clamp


@click.command(cls=options.Command)
@options.RUN
@options.grouped(
    "Text",
    ("--prime", {"default": "", "metavar": "TEXT", "help": "Text to go on from; it is printed first."}),
    ("--prime-file", {"type": click.Path(exists=True, dir_okay=False),
                      "help": "The same, from a file: in UTF-8, or for a model of bytes any; for a model of documents "
                              "without the line end that ends it."}),
    ("-n --length", {"type": click.IntRange(0), "help": f"New characters; of a model of bytes, bytes. [default: "
                                                        f"{LENGTH}, or with --interactive {TURN} a turn]"}),
    ("--stop", {"multiple": True, "metavar": "TEXT", "help": "End before this text; may be given several times."}),
    ("--count", {"type": click.IntRange(1), "default": 1, "show_default": True, "help": "How many texts."}),
    ("--out -o", {"type": click.Path(dir_okay=False), "help": "Write into a file instead of stdout."}),
    ("--interactive -i", {"is_flag": True, "help": "Read lines that are typed, and write on after each of them; the "
                                                   "prime is only read."}))
@options.grouped(
    "Sampling",
    ("--temperature", {"type": float, "help": "Below 1 safer, above 1 wilder; 0 takes the likeliest.",
                       **options.default_of(SampleConfig, "temperature")}),
    ("--top-k", {"type": int, "help": "Draw from the K likeliest symbols; 0: from all.",
                 **options.default_of(SampleConfig, "top_k")}),
    ("--top-p", {"type": float, "help": "Draw from the likeliest symbols of mass P.",
                 **options.default_of(SampleConfig, "top_p")}),
    ("--greedy", {"is_flag": True, "help": "The same as --temperature 0."}),
    ("--seed", {"type": int, "help": "The same seed writes the same text.",
                **options.default_of(SampleConfig, "seed")}),
    ("--clamp", {"multiple": True, "metavar": "LAYER.CELL=VALUE", "callback": clamped,
                 "help": "Hold a cell, counted from 0.0, as `rnncore neurons` names it: its c is VALUE after every "
                         "symbol, the prime's too; may be given several times."}))
@options.ON_UNKNOWN
@options.DEVICE
@options.CUDA_PATH
def command(run, prime, prime_file, length, stop, count, out, interactive, temperature, top_k, top_p, greedy, seed,
            clamp, on_unknown, device, cuda_path):
    """Write text with a trained model.

    RUN is a run folder, a model file or a pretrained model (hugo, numpy, tinyshakespeare); by default the newest run.
    """
    config = SampleConfig(0.0 if greedy else temperature, top_k, top_p, seed)
    if prime and prime_file:
        raise click.UsageError("give --prime or --prime-file, not both")
    if interactive and (count > 1 or out):
        raise click.UsageError("--interactive writes one text to the terminal: leave --count and --out out")
    length = length if length is not None else TURN if interactive else LENGTH
    if out and os.path.lexists(out):
        raise FileExistsError(f"{out} exists already: name another file with --out")
    from rnncore.sample import samples, symbols

    _, model = options.open_model(run, device)
    for line in take_path(model, device, cuda_path, length, count, interactive, clamp):
        tell(line)
    binary = model.vocab.level == "byte"
    prime = read_prime(prime_file, model.vocab) if prime_file else os.fsencode(prime) if binary else prime
    if interactive:
        from .interactive import Loop
        Loop(model, config, length, stop, on_unknown, prime, clamp).run()
        return
    shown = model.vocab.spelled(model.vocab.begun(prime))  # as the model reads it
    if count > 1:
        model.threads = model.kernel.cores()
        texts = samples(model, count, prime, length, config, stop, on_unknown, clamp)
        shown, pieces = "", [f"{shown}{text}\n{'-' * 40}\n" for text in texts]
    else:
        pieces = symbols(model, prime, length, config.temperature, top_k, top_p, seed, stop, on_unknown, clamp)
    write(out, binary, shown, pieces)


def take_path(model, device: str, asked: str, length: int, count: int, interactive: bool, clamp) -> list[str]:
    """Set the path by which the model writes; returns what to say of it."""
    if not interactive and not clamp:
        return options.take_path(asked, model, device, length >= TRIAL, columns=count)
    options.check_gpu(model.kernel, asked)  # the host draws each symbol of a dialogue, and wherever cells are held
    if model.kernel.name == "cpu" or asked == "eager" or asked == "auto" and length < TRIAL:
        return []                           # who writes so little does not wait
    from rnncore.kernels.paths import price
    slower = price("graph", "eager", model.precision, count)
    option = "interactive" if interactive else "clamp"
    return [f"warning: --{option}: each symbol is drawn on the host: going by eager, {slower}"]


def write(out: str | None, binary: bool, shown: str, pieces) -> None:
    """The whole text to `out` or stdout."""
    try:
        with output(out, binary) as file:
            stream(file, shown, pieces, "latin-1" if binary else None)
    except OSError as error:
        error.filename = out
        raise


def read_prime(path: str, vocab) -> str | bytes:
    """The text of a file in UTF-8; of one document, without the line end that ends the file. For bytes, its bytes."""
    from rnncore.data.decode import CorpusError
    with open(path, "rb") as file:
        raw = file.read()
    if vocab.level == "byte":
        return raw
    try:
        text = vocab.typed(raw.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise CorpusError(f"{path} is not UTF-8 ({error.reason}, byte {error.start}): save it as UTF-8") from None
    return text if vocab.end is None else text.removesuffix("\n")


def output(out: str | None, binary: bool):
    """The new file `out`, or stdout, for text or for bytes."""
    if out:
        return open(out, "xb") if binary else open(out, "x", encoding="utf-8", errors="replace")
    return contextlib.nullcontext(sys.stdout.buffer if binary else sys.stdout)


def stream(file, prime: str, pieces, encoding: str | None = None) -> None:
    """Write the prime and the pieces as they come; of text, end the line. encoding: for a file of bytes."""
    flushed, last = 0.0, ""
    for piece in itertools.chain([prime] if prime else [], pieces):
        file.write(piece.encode(encoding) if encoding else piece)
        last = piece
        if time.monotonic() > flushed + FLUSH:
            file.flush()
            flushed = time.monotonic()
    if not encoding and not last.endswith("\n"):
        file.write("\n")
    file.flush()
