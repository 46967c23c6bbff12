"""`rnncore generate` writes text with a trained model to stdout, character by character."""
import contextlib
import itertools
import os
import re
import sys
from collections.abc import Iterator

import click

from rnncore.config import SampleConfig

from . import options
from .terminal.progress import tell
from .terminal.written import Stop, write

LENGTH = 1000    # characters
TURN = 200       # characters, where it is one of many
SELFCHECK = 20_000  # characters of a text that make up for a self-check of a GPU's path


def clamped(ctx, param, values) -> dict[tuple[int, int], float]:
    """A callback: LAYER.CELL=VALUE, of each cell once, as (layer, cell) -> value."""
    clamp: dict[tuple[int, int], float] = {}
    for text in values:
        try:
            (layer, number, held), = re.findall(r"\A([0-9]{1,9})\.([0-9]{1,9})=(.+)\Z", text)
            cell, value = (int(layer), int(number)), float(held)
        except ValueError:
            raise click.BadParameter(f"{text!r} is not of the form LAYER.CELL=VALUE, as 1.73=2.5") from None
        if cell in clamp:
            raise click.BadParameter(f"cell {cell[0]}.{cell[1]} is given twice")
        clamp[cell] = value
    return clamp


@click.command(cls=options.Command)
@options.RUN
@options.grouped(
    "Text",
    ("--prime", {"default": "", "show_default": False, "metavar": "TEXT",
                 "help": "Text to go on from; it is printed first."}),
    ("--prime-file", {"type": click.Path(exists=True, dir_okay=False, allow_dash=True),
                      "help": "The same, from a file, or - for stdin: in UTF-8, or for a model of bytes any; for a "
                              "model of documents without the line end that ends it."}),
    ("-n --length", {"type": options.Whole(-1),
                     "help": f"New characters, of a model of bytes bytes; -1: until stopped. [default: {LENGTH}, with "
                             f"--interactive {TURN} a turn]"}),
    ("--stop", {"multiple": True, "metavar": "TEXT", "help": "End before this text; may be given several times."}),
    ("--count", {"type": options.Whole(1), "default": 1,
                 "help": "How many texts, each with a line end. Those of a model of documents are written as `train "
                         "--documents` reads them: a line each, an empty line between, or JSON lines."}),
    ("--separator", {"metavar": "TEXT", "help": "A line between texts, which are then as they are. [default: dashes on "
                                                "a terminal, but not between documents]"}),
    ("--out -o", {"type": click.Path(dir_okay=False, allow_dash=True),
                  "help": "Write into a new file; -: to stdout, as by default."}),
    ("--interactive -i", {"is_flag": True, "help": "Read lines that are typed, and write on after each of them; the "
                                                   "prime is only read."}),
    options.ON_UNKNOWN)
@options.grouped(
    "Sampling",
    ("--temperature", {"type": float, "default": SampleConfig.temperature,
                       "help": "Below 1 safer, above 1 wilder; 0 takes the likeliest."}),
    ("--top-k", {"type": options.Integer(), "default": SampleConfig.top_k,
                 "help": "Draw from the K likeliest symbols; 0: from all."}),
    ("--top-p", {"type": float, "default": SampleConfig.top_p, "help": "Draw from the likeliest symbols of mass P."}),
    ("--greedy", {"is_flag": True, "help": "The same as --temperature 0."}),
    ("--seed", {"type": options.Integer(), "default": SampleConfig.seed,
                "help": "The same seed writes the same text."}),
    ("--clamp", {"multiple": True, "metavar": "LAYER.CELL=VALUE", "callback": clamped,
                 "help": "Hold a cell, counted from 0.0, as `rnncore neurons` names it: its c is VALUE after every "
                         "symbol, the prime's too; may be given several times."}))
@options.grouped("Machine", options.DEVICE, options.CUDA_PATH)
def command(run, prime, prime_file, length, stop, count, separator, out, interactive, temperature, top_k, top_p, greedy,
            seed, clamp, on_unknown, device, cuda_path):
    """Write text with a trained model.

    RUN is a run folder, a model file or a pretrained model (hugo, numpy, tinyshakespeare); by default the newest run.
    """
    config = SampleConfig(0.0 if greedy else temperature, top_k, top_p, seed)
    if prime and prime_file:
        raise click.UsageError("give --prime or --prime-file, not both")
    out = None if out == "-" else out
    if interactive and (count > 1 or out or separator is not None):
        raise click.UsageError("--interactive writes one text to the terminal: leave --count, --separator and --out "
                               "out")
    if interactive and prime_file == "-":
        raise click.UsageError("--interactive reads its lines from stdin: give --prime-file a file")
    length = length if length is not None else TURN if interactive else LENGTH
    length = None if length < 0 else length
    if out and os.path.lexists(out):
        raise FileExistsError(f"{out} exists already: name another file with --out")

    _, model, _ = options.open_model(run, device)
    vocab, binary = model.vocab, model.vocab.level == "byte"
    if length is None and count > 1 and vocab.documents == "none" and not stop:
        raise click.UsageError("-n -1 writes one text without end: leave --count out, or end the texts with --stop")
    for line in take_path(model, device, cuda_path, length, count, interactive, clamp):
        tell(line)
    prime = read_prime(prime_file, vocab) if prime_file else os.fsencode(prime) if binary else prime
    if interactive:
        from .interactive import Loop
        Loop(model, config, length, stop, on_unknown, prime, clamp).run()
        return
    with Stop() as stopped:
        texts = made(model, prime, length, count, config, stop, on_unknown, clamp, stopped)
        write(out, vocab, texts, count > 1, separator, stopped)


def made(model, prime, length: int | None, count: int, config, stop, on_unknown, clamp, stopped) -> Iterator:
    """`count` texts, each in pieces and with the prime in front; what is wrong with the prime is raised at once.

    One is written as it comes, and so are those without a bound on their length, one after the other.
    """
    from rnncore import sample

    shown = [model.vocab.spelled(model.vocab.begun(prime))]  # as the model reads it
    if count > 1 and length is not None:
        model.threads = model.kernel.cores()
        whole = sample.texts(model, count, prime, length, config, stop, on_unknown, clamp)
        return ([*shown, text] for text in stopped.whole(whole))

    def text(number: int) -> Iterator[str]:
        return itertools.chain(shown, sample.symbols(model, prime, length, config, stop, on_unknown, clamp, number))

    first = text(0)
    numbers = itertools.takewhile(lambda _: not stopped.number, range(count))
    return (stopped.until(text(number) if number else first) for number in numbers)


def take_path(model, device: str, asked: str, length: int | None, count: int, interactive: bool,
              clamp) -> list[str]:
    """Set the path by which the model writes; returns what to say of it."""
    from rnncore import selfcheck
    from rnncore.runs import prepare
    short = length is not None and length < SELFCHECK
    prepare.check_gpu(model.kernel, asked)
    if not interactive and not clamp:
        return selfcheck.take(model, asked, device, not short, tell, columns=count)
    # the host draws each symbol of a dialogue, and wherever cells are held
    if model.kernel.name == "cpu" or asked == "eager" or asked == "auto" and short:
        return []                           # who writes so little does not wait
    from rnncore.kernels.paths import price
    slower = price("graph", "eager", model.precision, count)
    option = "interactive" if interactive else "clamp"
    return [f"warning: --{option}: each symbol is drawn on the host: going by eager, {slower}"]


def read_prime(path: str, vocab) -> str | bytes:
    """The text of a file in UTF-8, - is stdin; of one document, without the line end that ends it. Of bytes, these."""
    from rnncore.data.decode import CorpusError
    name = "stdin" if path == "-" else path
    if path == "-" and sys.stdin is None:
        raise CorpusError("stdin is closed: pipe the prime into it, or name a file with --prime-file")
    try:
        with contextlib.nullcontext(sys.stdin.buffer) if path == "-" else open(path, "rb") as file:
            raw = file.read()
        if vocab.level == "byte":
            return raw
        text = vocab.typed(raw.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise CorpusError(f"{name} is not UTF-8 ({error.reason}, byte {error.start}): save it as UTF-8") from None
    except OSError as error:
        error.filename = name
        raise
    return text if vocab.end is None else text.removesuffix("\n")
