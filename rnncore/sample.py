"""The sampler draws symbol after symbol from what the model predicts; its chance comes in as an argument."""
from collections.abc import Iterator, Sequence

import numpy as np

from .config import ConfigError, SampleConfig
from .lstm import State
from .random import Purpose, uniform

COINS = 1024  # random numbers made at a time


def draw(logits: np.ndarray, config: SampleConfig, coin: np.ndarray) -> np.ndarray:
    """One symbol a column: logits (V, N), coin (N,) in [0, 1) -> ids (N,).

    p = softmax(logits / temperature) in float64; top_k keeps the k likeliest, then top_p the fewest likeliest whose
    mass is at least p (Holtzman et al. 2020); the coin picks by inverse distribution. Temperature 0 takes the
    likeliest; of equals the lowest id comes first.
    """
    scaled = logits.astype(np.float64)
    scaled -= scaled.max(axis=0)
    if config.temperature == 0:
        return scaled.argmax(axis=0)
    with np.errstate(over="ignore"):  # a tiny temperature leaves nothing of all but the likeliest
        p = np.exp(scaled / config.temperature)
    order = None
    if config.top_k or config.top_p < 1:
        order = np.argsort(-p, axis=0, kind="stable")
        p = np.take_along_axis(p, order, axis=0)
        p[config.top_k or len(p):] = 0
        p /= p.sum(axis=0)
        p[np.cumsum(p, axis=0) - p >= config.top_p] = 0
    mass = np.cumsum(p, axis=0)
    place = (mass <= coin * mass[-1]).sum(axis=0)
    return place if order is None else np.take_along_axis(order, place[None], axis=0)[0]


def generate_ids(model, prompt: np.ndarray, config: SampleConfig, count: int = 1) -> Iterator[np.ndarray]:
    """Endless ids (count,), a symbol for each of `count` samples that go on from the ids `prompt` (n,), n at least 1.

    Sample k draws the same coins whatever the count.
    """
    state: State | None = None
    with model.kernel.single_threaded():
        for symbol in prompt:
            logits, state = model.step(np.array([symbol]), state)
    xp = model.kernel.xp
    logits, state = xp.repeat(logits, count, axis=1), State(*(xp.repeat(a, count, axis=2) for a in state))
    for position in range(2 ** 32):
        if position % COINS == 0:
            coins = np.stack([uniform(config.seed, Purpose.COIN, COINS, step=k, start=position) for k in range(count)])
        ids = draw(model.kernel.to_host(logits), config, coins[:, position % COINS])
        yield ids
        logits, state = model.step(ids, state)


def generate(model, prompt: str = "", length: int | None = None, temperature: float = SampleConfig.temperature,
             top_k: int = SampleConfig.top_k, top_p: float = SampleConfig.top_p, seed: int = SampleConfig.seed,
             stop: Sequence[str] = (), on_unknown: str = "error") -> Iterator[str]:
    """An iterator over what the model writes after `prompt`: new characters only, at most `length` (None: without end).

    Without a prompt it starts as after a newline. It ends before the first of the `stop` strings. on_unknown says what
    becomes of symbols of the prompt that the model does not know: error (UnknownSymbolError), skip or replace.
    Raises config.ConfigError, a ValueError, for sampling options out of range.
    """
    config = SampleConfig(temperature, top_k, top_p, seed)
    if length is not None and length < 0:
        raise ConfigError(f"length must be at least 0, not {length}")
    ids = generate_ids(model, prompt_ids(model.vocab, prompt, on_unknown), config)
    return until(_characters(model.vocab, ids, length), stop)


def samples(model, count: int, prompt: str, length: int, config: SampleConfig, stop: Sequence[str] = (),
            on_unknown: str = "error") -> list[str]:
    """`count` texts at once, each of at most `length` new characters; the first is what `generate` yields."""
    steps = generate_ids(model, prompt_ids(model.vocab, prompt, on_unknown), config, count)
    ids = np.stack([next(steps) for _ in range(length)], axis=1) if length else np.empty((count, 0), np.intp)
    return ["".join(until(iter(model.vocab.decode(row)), stop)) for row in ids]


def prompt_ids(vocab, prompt: str, on_unknown: str) -> np.ndarray:
    """The ids that a sample starts from: those of the prompt, else of a newline, else the first symbol's."""
    ids = vocab.encode(prompt, on_unknown)
    return ids if len(ids) else vocab.encode("\n" if "\n" in vocab else vocab.symbols[0])


def _characters(vocab, steps: Iterator[np.ndarray], length: int | None) -> Iterator[str]:
    made = 0
    while length is None or made < length:
        yield vocab.decode(next(steps))
        made += 1


def until(characters: Iterator[str], stop: Sequence[str]) -> Iterator[str]:
    """The characters before the first stop string; what may be the beginning of one is held back until it is clear."""
    stop, held = sorted(filter(None, stop), key=len, reverse=True), ""
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
