"""`rnncore generate` writes text with a trained model to stdout or to a file."""
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

LENGTH = 1000       # symbols of a text, by default
TURN = 200          # symbols of a turn with --interactive, by default
SELFCHECK = 20_000  # symbols; from this length on, a faster path saves more time than its self-check takes


def clamped(ctx, param, values) -> dict[tuple[int, int], float]:
    """Return (layer, cell) -> value for the words LAYER.CELL=VALUE (a callback for click).

    Raises BadParameter for another form and for a cell that is given twice.
    """
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
                 "help": "Text to continue; it is printed first."}),
    ("--prime-file", {"type": click.Path(exists=True, dir_okay=False, allow_dash=True),
                      "help": "File with the text to continue; -: stdin. It is UTF-8, or any bytes for a model of "
                              "bytes. For a model of documents its last line end is left out."}),
    ("-n --length", {"type": options.Whole(-1),
                     "help": f"Number of new characters (of bytes for a model of bytes); -1: until stopped. [default: "
                             f"{LENGTH}; with --interactive {TURN} a turn]"}),
    ("--stop", {"multiple": True, "metavar": "TEXT", "help": "End before this text. May be given several times."}),
    ("--count", {"type": options.Whole(1), "default": 1,
                 "help": "Number of texts, each with a line end. A model of documents writes them as `train "
                         "--documents` reads them: lines, blocks with an empty line between, or JSON lines."}),
    ("--separator", {"metavar": "TEXT", "help": "Line between texts, which then stay as they are. [default: dashes on "
                                                "a terminal, but not between documents]"}),
    ("--out -o", {"type": click.Path(dir_okay=False, allow_dash=True),
                  "help": "New file to write; -: stdout. [default: stdout]"}),
    ("--interactive -i", {"is_flag": True, "help": "Read typed lines and write on after each of them. The prime is "
                                                   "read, but not printed."}),
    options.ON_UNKNOWN)
@options.grouped(
    "Sampling",
    ("--temperature", {"type": float, "default": SampleConfig.temperature,
                       "help": "Below 1 the text is safer, above 1 wilder; 0: always the likeliest symbol."}),
    ("--top-k", {"type": options.Integer(), "default": SampleConfig.top_k,
                 "help": "Draw from the K likeliest symbols only; 0: from all."}),
    ("--top-p", {"type": float, "default": SampleConfig.top_p,
                 "help": "Draw from the likeliest symbols only, as many as reach the probability P."}),
    ("--greedy", {"is_flag": True, "help": "Always take the likeliest symbol, like --temperature 0."}),
    ("--seed", {"type": options.Integer(), "default": SampleConfig.seed,
                "help": "Seed of the draws; the same seed writes the same text."}),
    ("--clamp", {"multiple": True, "metavar": "LAYER.CELL=VALUE", "callback": clamped,
                 "help": "Hold the state c of a cell at VALUE after every symbol, also of the prime. LAYER and CELL "
                         "count from 0, as in `rnncore neurons`. May be given several times."}))
@options.grouped("Machine", options.DEVICE, options.CUDA_PATH, options.READING)
def command(run, prime, prime_file, length, stop, count, separator, out, interactive, temperature, top_k, top_p, greedy,
            seed, clamp, on_unknown, device, cuda_path, dtype):
    """Write text with a trained model.

    RUN is a run folder, a model file or a pretrained model (hugo, numpy, tinyshakespeare); default: the newest run.
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

    _, model, _ = options.open_model(run, device, dtype)
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
    """Return an iterator over `count` texts. Each text is an iterator of pieces; the first piece is the prime.

    length: new symbols for each text, or None for texts without a bound. With a bound, several texts are written at
    once by the model's threads. A single text, and texts without a bound, are written one after the other, symbol by
    symbol. stopped: a Stop, which ends the texts after a signal. Raises UnknownSymbolError at once for a prime with
    unknown symbols.
    """
    from rnncore import sample

    shown = [model.vocab.spelled(model.vocab.begun(prime))]  # the prime, as the model reads it
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
    """Choose the path by which the model writes on a GPU; return lines to print.

    asked: the value of --cuda-path; length, count: symbols of a text and number of texts. A text of fewer than
    SELFCHECK symbols is not worth a self-check. Raises OptionError for a path that a CPU does not have.
    """
    from rnncore import machine, selfcheck
    short = length is not None and length < SELFCHECK
    machine.check_gpu(model.kernel, asked)
    if not interactive and not clamp:
        return selfcheck.take(model, asked, device, not short, tell, columns=count)
    # In a dialogue, and if cells are held, the host draws each symbol: only eager can do this.
    if model.kernel.name == "cpu" or asked == "eager" or asked == "auto" and short:
        return []
    from rnncore.kernels.paths import price
    slower = price("graph", "eager", model.precision, count)
    option = "interactive" if interactive else "clamp"
    return [f"warning: --{option}: the host draws each symbol: using eager, {slower}"]


def read_prime(path: str, vocab) -> str | bytes:
    """Return the prime in a file (path "-": stdin): a str in UTF-8, or bytes for a model of bytes.

    For a model of documents the last line end is left out. Raises CorpusError if the text is not UTF-8 or stdin is
    closed, OSError if the file cannot be read.
    """
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
