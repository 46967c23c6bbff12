"""Vocabulary extension: the embedding and the head of a model get one row for every new symbol.

All other parameters keep their values, and the logits of the known symbols stay the same. A new symbol begins with a
neutral input and a low probability: its embedding is the mean of the trained embeddings, its row of the head is zero,
and its bias is the lowest trained bias.
"""
from dataclasses import replace

from ..data.vocab import Vocab
from ..model import CharLM


def extend(model: CharLM, vocab: Vocab, device: str | None = None) -> CharLM:
    """Return a new model over the larger `vocab`, with the parameters and the precision of `model`.

    device: as in CharLM; None for the CPU if `model` is on the CPU, else for the first GPU. Raises ValueError if vocab
    lacks a symbol of the model.
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
