"""A model with a larger vocabulary: its embedding and head get a row for every new symbol, all else stays.

The logits of the symbols it knew are what they were. A new symbol begins as an average one that is never expected: its
embedding is the mean of the trained ones, its row of the head is zero, its bias the lowest of the trained ones.
"""
from dataclasses import replace

from ..data.vocab import Vocab
from ..model import CharLM


def extend(model: CharLM, vocab: Vocab, device: str | None = None) -> CharLM:
    """A new model over `vocab` (data.vocab.Vocab) with model's parameters, in its precision.

    device: as CharLM's; None: the CPU or the first GPU, as model is on one or the other. Raises ValueError where vocab
    lacks one of the model's symbols.
    """
    missing = set(model.vocab.symbols) - set(vocab.symbols)
    if missing:
        raise ValueError(f"the larger vocabulary lacks {len(missing)} of the model's symbols, as {min(missing)!r}")
    known, tensors = vocab.places(model.vocab.symbols), model.tensors()
    fill = {"embedding.weight": tensors["embedding.weight"].mean(0), "head.weight": 0,
            "head.bias": tensors["head.bias"].min()}
    larger = CharLM(replace(model.config, vocab_size=len(vocab)), vocab, device or model.kernel.name,
                    model.precision, seed=None)
    wanted = larger.tensors()
    for name, value in fill.items():
        wanted[name][...] = value
        wanted[name][known] = tensors[name]
    larger.assign(tensors | {name: wanted[name] for name in fill})
    return larger
