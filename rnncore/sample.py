"""The sampler: it draws one symbol after another from the model's predictions, and the model reads each of them.

`draw` gets its random numbers as an argument: a uniform draw u for each symbol.
"""
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import count as count_up, islice, pairwise, repeat

import numpy as np

from . import arguments
from .config import SampleConfig
from .data.vocab import Vocab
from .kernels import Ids, Writer
from .model import CharLM
from .nn.stepper import Clamp, Stepper, checked
from .random import Purpose, counter, key, uniform

DRAWS = 256  # uniform draws that are made at a time for each sample
SHARE = 16   # samples that a thread needs to be worth using
TURN = 64    # symbols that each thread writes before all threads wait for each other
TOO_LARGE = "the model's weights are too large; train it again with a lower --lr"
LAUNCH = 64        # symbols of each sample that a device writes in one launch
AT_ONCE = 1024     # samples that are written at the same time, at most
# The index of a uniform draw has 32 bits. PERIOD is a multiple of DRAWS and of LAUNCH, so no block of draws crosses it.
PERIOD = 2 ** 32   # uniform draws of a sample before they repeat; the text does not repeat, because the state differs


def draw(logits: np.ndarray, config: SampleConfig, u: np.ndarray) -> Ids:
    """Draw one symbol a column: logits (V, N) and uniform draws u (N,) in [0, 1) -> ids (N,).

        temperature  0 takes the most likely symbol, and nothing below matters; else p = softmax(logits / temperature),
                     in float64
        top_k        keeps the k most likely symbols; 0 keeps all
        top_p        keeps the smallest set of the most likely symbols whose p sum to top_p or more (Holtzman et al.
                     2020); 1 keeps all
        u            picks the first symbol whose cumulative p is above u, in the order of ids, or with top_k or top_p
                     from the most likely one on

    Of equally likely symbols, the one with the lowest id comes first. Raises FloatingPointError if the largest logit of
    a column is not finite.
    """
    p = logits.astype(np.float64, order="C")
    largest = np.maximum.reduce(p, axis=0)
    if not np.isfinite(largest).all():
        raise FloatingPointError(f"what the model predicts is no number: {TOO_LARGE}")
    p -= largest
    if config.temperature == 0:
        return p.argmax(axis=0)
    with np.errstate(over="ignore"):  # a tiny temperature gives -inf, and p = 0
        p /= config.temperature
    np.exp(p, out=p)
    order = None
    if config.top_k or config.top_p < 1:
        order = np.argsort(-p, axis=0, kind="stable")
        p = np.take_along_axis(p, order, axis=0)
        p[config.top_k or len(p):] = 0
        p /= p.sum(axis=0)
        p[np.cumsum(p, axis=0) - p >= config.top_p] = 0
    # The sum of p is not 1 here, so u is scaled by the sum. A u below 1 then always picks a symbol.
    mass = np.add.accumulate(p, axis=0)
    place = (mass > u * mass[-1]).argmax(axis=0)  # the first True
    return place if order is None else np.take_along_axis(order, place[None], axis=0)[0]


def generate_ids(model: CharLM, prompt: Ids, config: SampleConfig, count: int = 1,
                 clamp: Clamp | None = None, first: int = 0) -> Iterator[Ids]:
    """Yield ids (count,) without end: the next symbol of each of `count` samples that continue the ids `prompt` (n,).

    n is at least 1. The samples have the numbers first, first + 1, ...: sample k has the same uniform draws whatever
    the count. The parameters are copied when the first ids are asked for. clamp: cells that are held, from the first
    symbol of the prompt on (nn/stepper.py). Raises ValueError for a wrong prompt, FloatingPointError as `draw`.
    """
    yield from _write(model, read_prompt(model, prompt, clamp), config, count, first)


def read_prompt(model: CharLM, prompt: Ids, clamp: Clamp | None = None) -> Stepper:
    """Return a Stepper that has read the ids `prompt` (n,), n at least 1, from a zero state. clamp: see `generate`."""
    prompt = model.kernel.to_host(model.ids(prompt, ("n",), "prompt"))
    with model.kernel.single_threaded():
        stepper = Stepper(model.params, clamp, model.precision)
        for symbol in prompt:
            stepper.step(np.array([symbol], np.intp))
    return stepper


def _write(model: CharLM, stepper: Stepper, config: SampleConfig, count: int, first: int) -> Iterator[Ids]:
    """Yield the ids (count,) of samples first .. first + count - 1, each from the state of the stepper's one column."""
    stepper = stepper.repeat(count)
    writer = None if model.path == "eager" else stepper.writer()  # eager draws every symbol on the host
    return _loop(stepper, config, first) if writer is None else _launches(writer, config, first)


def _loop(stepper: Stepper, config: SampleConfig, first: int) -> Iterator[Ids]:
    """Yield the ids (N,), drawn on the host, one step of the stepper at a time."""
    logits = stepper.logits
    for u in draws(config.seed, range(first, first + stepper.h.shape[-1])):
        ids = draw(stepper.kernel.to_host(logits), config, u)
        yield ids
        logits = stepper.step(ids)


def draws(seed: int, numbers: Sequence[int]) -> Iterator[np.ndarray]:
    """Yield the uniform draws (N,) of the samples with these numbers, one array for each symbol, without end."""
    for start in count_up(0, DRAWS):
        yield from uniform(seed, Purpose.DRAW, DRAWS, step=np.array(numbers)[:, None], start=start % PERIOD).T


def _launches(writer: Writer, config: SampleConfig, first: int) -> Iterator[np.ndarray]:
    """Yield the ids (N,), drawn on the device. One launch is always ahead of the ids that were taken, never two."""
    chance = config.temperature, config.top_k, config.top_p, key(config.seed), counter(Purpose.DRAW)[2], first
    coming = writer.write(LAUNCH, *chance, 0)
    for start in count_up(LAUNCH, LAUNCH):
        now, coming = coming, writer.write(LAUNCH, *chance, start % PERIOD)
        ids = now.ids()
        # The device cannot raise an error: it writes -1 where the largest logit is not finite.
        wrong = np.flatnonzero((ids < 0).any(axis=1))
        yield from ids[:wrong[0] if len(wrong) else None]
        if len(wrong):
            raise FloatingPointError(f"what the model predicts is no number: {TOO_LARGE}")


def generate(model: CharLM, prompt: str | bytes = "", length: int | None = None,
             temperature: float = SampleConfig.temperature, top_k: int = SampleConfig.top_k,
             top_p: float = SampleConfig.top_p, seed: int = SampleConfig.seed, stop: str | Sequence[str] = (),
             on_unknown: str = "error", clamp: Clamp | None = None) -> Iterator[str]:
    """Return an iterator over the text that the model writes after `prompt`: new characters only.

        prompt                     its line ends become LF and its byte order marks are dropped, as in the corpus; an
                                   empty prompt is a newline
        length                     number of characters, at most; None: without end
        temperature, top_k, top_p  as in `draw`
        seed                       of the uniform draws
        stop                       a text, or several: the iterator ends before the first of them
        on_unknown                 symbols of the prompt that the model does not know: error (UnknownSymbolError), skip
                                   or replace
        clamp                      (layer, cell), from 0 -> the number at which c of this cell is held, from the first
                                   symbol of the prompt on

    A model of documents also stops at the end of a document. A model of bytes writes `length` bytes; bytes that are no
    UTF-8 come out as U+FFFD. Raises config.ConfigError, a ValueError, for settings out of range and for cells that the
    model does not have.
    """
    config = SampleConfig(temperature, top_k, top_p, seed)
    return model.vocab.readables(symbols(model, prompt, length, config, stop, on_unknown, clamp))


def symbols(model: CharLM, prompt: str | bytes, length: int | None, config: SampleConfig, stop: str | Sequence[str],
            on_unknown: str, clamp: Clamp | None, first: int = 0) -> Iterator[str]:
    """Return an iterator as `generate`, but over symbols of the vocabulary: a byte is the code point of its number.

    first: the number of the sample (0, 1, ...), on which its uniform draws depend.
    """
    length = None if length is None else arguments.whole("length", length)
    ids = generate_ids(model, prompt_ids(model.vocab, prompt, on_unknown), config, 1, checked(clamp, model.config),
                       first)
    return until(_characters(model.vocab, ids, length), ends(model.vocab, stop))


def samples(model: CharLM, count: int, prompt: str | bytes, length: int, config: SampleConfig,
            stop: str | Sequence[str] = (), on_unknown: str = "error", clamp: Clamp | None = None) -> list[str]:
    """Return `count` texts of at most `length` new symbols each. The first is the text of `symbols`.

    On a CPU, the model's threads share the samples. Sample k has the same uniform draws, whatever the number of threads
    and of samples.
    """
    return list(texts(model, count, prompt, length, config, stop, on_unknown, clamp))


def texts(model: CharLM, count: int, prompt: str | bytes, length: int, config: SampleConfig,
          stop: str | Sequence[str] = (), on_unknown: str = "error", clamp: Clamp | None = None) -> Iterator[str]:
    """Return an iterator over the texts of `samples`, of which AT_ONCE at a time are written.

    An error in the arguments is raised at once, not at the first text.
    """
    count, length = arguments.whole("count", count), arguments.whole("length", length)
    arguments.whole("threads", model.threads, 1)
    stepper, stops = read_prompt(model, prompt_ids(model.vocab, prompt, on_unknown), clamp), ends(model.vocab, stop)
    return (text for first in range(0, count, AT_ONCE)
            for text in _texts_at_once(model, stepper, first, min(AT_ONCE, count - first), length, config, stops))


def _texts_at_once(model: CharLM, stepper: Stepper, first: int, count: int, length: int, config: SampleConfig,
                   stop: list[str]) -> Iterator[str]:
    """Yield the texts of samples first .. first + count - 1, written together by the model's threads."""
    threads = max(1, min(model.kernel.shares(model.threads), count // SHARE))
    edges = [count * k // threads for k in range(threads + 1)]
    streams = [_write(model, stepper, config, b - a, first + a) for a, b in pairwise(edges)]
    rows, ended = [np.empty((count, 0), np.intp)], np.zeros(count, bool)
    with model.kernel.single_threaded(), ThreadPoolExecutor(threads) as pool:
        each = pool.map if threads > 1 else map
        for start in range(0, length, TURN):  # in turns, so that Ctrl-C need not wait for the end
            turn = min(TURN, length - start)
            rows.append(np.concatenate(list(each(_taken, streams, repeat(turn)))))
            if model.vocab.end is not None:
                ended |= (rows[-1] == model.vocab.end).any(axis=1)
                if ended.all():
                    break
    for row in np.concatenate(rows, axis=1):
        yield "".join(until(_characters(model.vocab, iter(row[:, None]), len(row)), stop))


def _taken(stream: Iterator[Ids], count: int) -> Ids:
    """Return the next ids (N, count) of a stream of N samples."""
    return np.stack(list(islice(stream, count)), axis=1)


def prompt_ids(vocab: Vocab, prompt: str | bytes, on_unknown: str) -> Ids:
    """Return the ids (n,) that a sample starts from: the prompt, or without one a newline, or else the first symbol.

    The line ends and byte order marks of the prompt are treated as in the corpus. For a model of documents, the ids are
    END and the prompt. If the prompt has END inside, they begin at the last END, because END resets the state.
    """
    ids = vocab.encode(vocab.begun(prompt), on_unknown)
    if vocab.end is not None:
        ids = np.concatenate([[vocab.end], ids]).astype(np.intp)
        return ids[np.flatnonzero(ids == vocab.end)[-1]:]
    return ids if len(ids) else np.array([vocab.symbols.index("\n") if "\n" in vocab else 0])


def ends(vocab: Vocab, stop: str | bytes | Iterable[str]) -> list[str]:
    """Return the texts before which a sample ends, as symbols of the vocabulary. stop: one text, or several.

    Raises TypeError for another type.
    """
    if not isinstance(stop, (str, bytes, Iterable)):
        raise TypeError(f"stop is a text or several, not {stop!r}")
    return [vocab.spelled(vocab.typed(text)) for text in ([stop] if isinstance(stop, (str, bytes)) else stop)]


def _characters(vocab: Vocab, steps: Iterator[Ids], length: int | None) -> Iterator[str]:
    """Yield the symbols of the first sample, at most `length`, up to the end of a document."""
    made = 0
    while length is None or made < length:
        symbol = next(steps)[0]
        if symbol == vocab.end:
            return
        yield vocab.symbols[symbol]
        made += 1


def until(characters: Iterator[str], stop: Iterable[str]) -> Iterator[str]:
    """Yield the characters before the first stop string.

    Characters that may be the beginning of a stop string are held back until this is certain.
    """
    # The longest stop string is tried first. So of two that end at one place, the one that begins earlier counts.
    stop, held = sorted(filter(None, stop), key=len, reverse=True), ""
    if not stop:
        yield from characters
    for character in characters:
        held += character
        for end in stop:
            if held.endswith(end):
                if held != end:
                    yield held[:-len(end)]
                return
        open_ = max((k for s in stop for k in range(1, len(s)) if held.endswith(s[:k])), default=0)
        if len(held) > open_:
            yield held[:len(held) - open_]
            held = held[len(held) - open_:]
    if held:
        yield held
