"""`rnncore generate` writes text with a trained model to stdout, character by character."""
import contextlib
import os
import sys
import time

import click

from rnncore.config import SampleConfig

from . import options

FLUSH = 0.05  # seconds between flushes of what was written


@click.command(cls=options.Command)
@options.RUN
@options.grouped(
    "Text",
    ("--prime", {"default": "", "metavar": "TEXT", "help": "Text to go on from; it is printed first."}),
    ("--prime-file", {"type": click.Path(exists=True, dir_okay=False), "help": "The same, from a file in UTF-8."}),
    ("-n --length", {"type": click.IntRange(0), "default": 1000, "show_default": True, "help": "New characters."}),
    ("--stop", {"multiple": True, "metavar": "TEXT", "help": "End before this text; may be given several times."}),
    ("--count", {"type": click.IntRange(1), "default": 1, "show_default": True, "help": "How many texts."}),
    ("--out -o", {"type": click.Path(dir_okay=False), "help": "Write into a file instead of stdout."}))
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
                **options.default_of(SampleConfig, "seed")}))
@options.ON_UNKNOWN
@options.DEVICE
def command(run, prime, prime_file, length, stop, count, out, temperature, top_k, top_p, greedy, seed, on_unknown,
            device):
    """Write text with a trained model.

    RUN is a run folder, a model file or a pretrained model (shakespeare, hugo, numpy); by default the newest run.
    """
    config = SampleConfig(0.0 if greedy else temperature, top_k, top_p, seed)
    if prime and prime_file:
        raise click.UsageError("give --prime or --prime-file, not both")
    if out and os.path.lexists(out):
        raise FileExistsError(f"{out} exists already: name another file with --out")
    from rnncore.sample import generate, samples

    prime = read_prime(prime_file) if prime_file else prime
    _, model = options.open_model(run, device)
    if count > 1:
        model.threads = model.kernel.cores()
        texts = samples(model, count, prime, length, config, stop, on_unknown)
        prime, pieces = "", [f"{prime}{text}\n{'-' * 40}\n" for text in texts]
    else:
        pieces = generate(model, prime, length, config.temperature, top_k, top_p, seed, stop, on_unknown)
    try:
        with open(out, "x", encoding="utf-8") if out else contextlib.nullcontext(sys.stdout) as file:
            stream(file, prime, pieces)
    except OSError as error:
        error.filename = out
        raise


def read_prime(path: str) -> str:
    """The text of a file in UTF-8, its line ends made LF."""
    from rnncore.data.text import CorpusError
    try:
        with open(path, encoding="utf-8-sig") as file:
            return file.read()
    except UnicodeDecodeError as error:
        raise CorpusError(f"{path} is not UTF-8 ({error.reason}, byte {error.start}): save it as UTF-8") from None


def stream(file, prime: str, pieces) -> None:
    """Write the prime and the pieces as they come, and end the line."""
    file.write(prime)
    flushed, last = 0.0, prime
    for piece in pieces:
        file.write(piece)
        last = piece
        if time.monotonic() > flushed + FLUSH:
            file.flush()
            flushed = time.monotonic()
    if not last.endswith("\n"):
        file.write("\n")
