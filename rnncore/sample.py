"""The sampler draws symbol after symbol from what the model predicts; its chance comes in as an argument."""
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

COINS = 256  # random numbers made at a time
SHARE = 16   # samples that make a thread of their own worth while
TURN = 64    # symbols that the threads write before they wait for each other
TOO_LARGE = "the model's weights are too large; train it anew with a lower rate (--lr)"
LAUNCH = 64  # symbols that a device writes at a time
ABREAST = 1024     # samples written at a time, at most
PERIOD = 2 ** 32   # coins of a sample; then they come again, though what they decide is another text


def draw(logits: np.ndarray, config: SampleConfig, coin: np.ndarray) -> Ids:
    """One symbol a column: logits (V, N), coin (N,) in [0, 1) -> ids (N,).

    p = softmax(logits / temperature) in float64; top_k keeps the k likeliest, then top_p the fewest likeliest whose
    mass is at least p (Holtzman et al. 2020); the coin picks by inverse distribution. Temperature 0 takes the
    likeliest; of equals the lowest id comes first. Raises FloatingPointError where a column's largest logit is no
    finite number.
    """
    p = logits.astype(np.float64)
    largest = np.maximum.reduce(p, axis=0)
    if not np.isfinite(largest).all():
        raise FloatingPointError(f"what the model predicts is no number: {TOO_LARGE}")
    p -= largest
    if config.temperature == 0:
        return p.argmax(axis=0)
    with np.errstate(over="ignore"):  # a tiny temperature leaves nothing of all but the likeliest
        p /= config.temperature
    np.exp(p, out=p)
    order = None
    if config.top_k or config.top_p < 1:
        order = np.argsort(-p, axis=0, kind="stable")
        p = np.take_along_axis(p, order, axis=0)
        p[config.top_k or len(p):] = 0
        p /= p.sum(axis=0)
        p[np.cumsum(p, axis=0) - p >= config.top_p] = 0
    mass = np.add.accumulate(p, axis=0)
    place = (mass > coin * mass[-1]).argmax(axis=0)  # the first that is
    return place if order is None else np.take_along_axis(order, place[None], axis=0)[0]


def generate_ids(model: CharLM, prompt: Ids, config: SampleConfig, count: int = 1,
                 clamp: Clamp | None = None, first: int = 0) -> Iterator[Ids]:
    """Endless ids (count,), a symbol for each of `count` samples that go on from the ids `prompt` (n,), n at least 1.

    They are the samples first, first + 1, ...: sample k draws the same coins whatever the count. The parameters count
    as they are when the first is asked for. clamp: cells that are held, from the prompt's first symbol on (stepper.py).
    """
    yield from _write(model, read_prompt(model, prompt, clamp), config, count, first)


def read_prompt(model: CharLM, prompt: Ids, clamp: Clamp | None = None) -> Stepper:
    """Return a stepper that has read the ids `prompt` (n,) from a zero state."""
    prompt = model.kernel.to_host(model.ids(prompt, ("n",), "prompt"))
    with model.kernel.single_threaded():
        stepper = Stepper(model.params, clamp)
        for symbol in prompt:
            stepper.step(np.array([symbol], np.intp))
    return stepper


def _write(model: CharLM, stepper: Stepper, config: SampleConfig, count: int, first: int) -> Iterator[Ids]:
    """Samples first .. first + count, each from where the one column of the stepper is."""
    stepper = stepper.repeat(count)
    writer = None if model.path == "eager" else stepper.writer()  # eager draws every symbol on the host
    return _loop(stepper, config, first) if writer is None else _launches(writer, config, first)


def _loop(stepper: Stepper, config: SampleConfig, first: int) -> Iterator[Ids]:
    samples_, logits = np.arange(first, first + stepper.h.shape[-1])[:, None], stepper.logits
    for start in count_up(0, COINS):
        for coin in uniform(config.seed, Purpose.COIN, COINS, step=samples_, start=start % PERIOD).T:
            ids = draw(stepper.kernel.to_host(logits), config, coin)
            yield ids
            logits = stepper.step(ids)


def _launches(writer: Writer, config: SampleConfig, first: int) -> Iterator[np.ndarray]:
    """The same, written on the device: one launch ahead of what was taken, never two."""
    chance = config.temperature, config.top_k, config.top_p, key(config.seed), counter(Purpose.COIN)[2], first
    coming = writer.write(LAUNCH, *chance, 0)
    for start in count_up(LAUNCH, LAUNCH):
        now, coming = coming, writer.write(LAUNCH, *chance, start % PERIOD)
        ids = now.ids()
        wrong = np.flatnonzero((ids < 0).any(axis=1))
        yield from ids[:wrong[0] if len(wrong) else None]
        if len(wrong):
            raise FloatingPointError(f"what the model predicts is no number: {TOO_LARGE}")


def generate(model: CharLM, prompt: str | bytes = "", length: int | None = None,
             temperature: float = SampleConfig.temperature, top_k: int = SampleConfig.top_k,
             top_p: float = SampleConfig.top_p, seed: int = SampleConfig.seed, stop: str | Sequence[str] = (),
             on_unknown: str = "error", clamp: Clamp | None = None) -> Iterator[str]:
    """An iterator over what the model writes after `prompt`: new characters only, at most `length` (None: without end).

    Without a prompt it starts as after a newline; a prompt's line ends are made LF and its byte order marks dropped, as
    the corpus's were. It ends before `stop`, or the first of several, and a model of documents at the end of one.
    on_unknown says what becomes of symbols of the prompt that the model does not know: error (UnknownSymbolError), skip
    or replace.
    A model of bytes writes `length` bytes; those that are no UTF-8 are U+FFFD here. clamp: (layer, cell), from 0 -> the
    number at which c of this cell is held, from the prompt's first symbol on.
    Raises config.ConfigError, a ValueError, for sampling options out of range and cells that are not there.
    """
    config = SampleConfig(temperature, top_k, top_p, seed)
    return model.vocab.readables(symbols(model, prompt, length, config, stop, on_unknown, clamp))


def symbols(model: CharLM, prompt: str | bytes, length: int | None, config: SampleConfig, stop: str | Sequence[str],
            on_unknown: str, clamp: Clamp | None, first: int = 0) -> Iterator[str]:
    """As `generate`, but the symbols as the vocabulary has them: a byte is the code point of the same number.

    first: which sample it is (0, 1, ...), by whose coins it is drawn.
    """
    length = None if length is None else arguments.whole("length", length)
    ids = generate_ids(model, prompt_ids(model.vocab, prompt, on_unknown), config, 1, checked(clamp, model.config),
                       first)
    return until(_characters(model.vocab, ids, length), ends(model.vocab, stop))


def samples(model: CharLM, count: int, prompt: str | bytes, length: int, config: SampleConfig,
            stop: str | Sequence[str] = (), on_unknown: str = "error", clamp: Clamp | None = None) -> list[str]:
    """`count` texts, each of at most `length` new symbols; the first is what `symbols` yields.

    On a CPU the model's threads share them; sample k draws the same coins whatever their number and the count.
    """
    return list(texts(model, count, prompt, length, config, stop, on_unknown, clamp))


def texts(model: CharLM, count: int, prompt: str | bytes, length: int, config: SampleConfig,
          stop: str | Sequence[str] = (), on_unknown: str = "error", clamp: Clamp | None = None) -> Iterator[str]:
    """The same as they are written, ABREAST at a time. What is wrong with the arguments is raised at once."""
    count, length = arguments.whole("count", count), arguments.whole("length", length)
    arguments.whole("threads", model.threads, 1)
    stepper, stops = read_prompt(model, prompt_ids(model.vocab, prompt, on_unknown), clamp), ends(model.vocab, stop)
    return (text for first in range(0, count, ABREAST)
            for text in _abreast(model, stepper, first, min(ABREAST, count - first), length, config, stops))


def _abreast(model: CharLM, stepper: Stepper, first: int, count: int, length: int, config: SampleConfig,
             stop: list[str]) -> Iterator[str]:
    """The samples first .. first + count at once, each from where the one column of the stepper is."""
    threads = max(1, min(model.kernel.shares(model.threads), count // SHARE))
    edges = [count * k // threads for k in range(threads + 1)]
    streams = [_write(model, stepper, config, b - a, first + a) for a, b in pairwise(edges)]
    rows, ended = [np.empty((count, 0), np.intp)], np.zeros(count, bool)
    with model.kernel.single_threaded(), ThreadPoolExecutor(threads) as pool:
        each = pool.map if threads > 1 else map
        for start in range(0, length, TURN):  # so that an interrupt need not wait for the end
            turn = min(TURN, length - start)
            rows.append(np.concatenate(list(each(_taken, streams, repeat(turn)))))
            if model.vocab.end is not None:
                ended |= (rows[-1] == model.vocab.end).any(axis=1)
                if ended.all():
                    break
    for row in np.concatenate(rows, axis=1):
        yield "".join(until(_characters(model.vocab, iter(row[:, None]), len(row)), stop))


def _taken(stream: Iterator[Ids], count: int) -> Ids:
    """The next so many symbols of each sample of a stream: (N, count)."""
    return np.stack(list(islice(stream, count)), axis=1)


def prompt_ids(vocab: Vocab, prompt: str | bytes, on_unknown: str) -> Ids:
    """The ids that a sample starts from: those of the prompt, else of a newline, else the first symbol's.

    The prompt's line ends and marks are made those of the corpus. Where texts are documents, a new one begins: END
    comes first. Of several in the prompt the last one counts, for the state begins at zero after each.
    """
    ids = vocab.encode(vocab.begun(prompt), on_unknown)
    if vocab.end is not None:
        ids = np.concatenate([[vocab.end], ids]).astype(np.intp)
        return ids[np.flatnonzero(ids == vocab.end)[-1]:]
    return ids if len(ids) else np.array([vocab.symbols.index("\n") if "\n" in vocab else 0])


def ends(vocab: Vocab, stop: str | bytes | Iterable[str]) -> list[str]:
    """The symbols of the texts before which a sample ends: of one text, or of several."""
    if not isinstance(stop, (str, bytes, Iterable)):
        raise TypeError(f"stop is a text or several, not {stop!r}")
    return [vocab.spelled(vocab.typed(text)) for text in ([stop] if isinstance(stop, (str, bytes)) else stop)]


def _characters(vocab: Vocab, steps: Iterator[Ids], length: int | None) -> Iterator[str]:
    made = 0
    while length is None or made < length:
        symbol = next(steps)[0]
        if symbol == vocab.end:
            return
        yield vocab.symbols[symbol]
        made += 1


def until(characters: Iterator[str], stop: Iterable[str]) -> Iterator[str]:
    """The characters before the first stop string; what may be the beginning of one is held back until it is clear."""
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
