"""A model's training text read anew, as its training card has it: what counting that text reaches on another."""
import os
from dataclasses import fields
from pathlib import Path

from . import known


def beside(card: dict, file: Path, model, ids, unknown: int) -> tuple[dict | None, dict | None]:
    """(what known.of_another says of ids, what counting the training text reaches on them), by the training text.

    file: the model's. Both are None where the training text is not at hand; counting is no measure where all pieces
    stand there: it knows the text.
    """
    from rnncore import ngram

    corpus = corpus_of(card, file)
    if corpus is None:
        return None, None
    train = corpus.encode(model.vocab, "replace" if model.vocab.min_count > 1 else "skip")[0][:card["split"]["train"]]
    trained_on, knows = known.of_another(card, train, ids, unknown, model.vocab.end)
    if knows:
        return trained_on, None
    floor = ngram.floor(train, ids[:ngram.MOST], len(model.vocab))
    return trained_on, {"nats_per_char": floor.nats, "order": floor.order, "counted": floor.counted,
                        "characters": len(train)}


def corpus_of(card: dict, file: Path):
    """The Corpus that a model with this training card was trained on; None where it cannot be read or has changed.

    file: the model's. The card has the last names alone of what was typed with its folders; then the single files that
    its run remembers are read.
    """
    from rnncore.data.text import Reading, read
    from rnncore.places import typed
    from rnncore.runs import trained

    if not trained(card) or "-" in card["corpus"]["sources"]:
        return None
    about = card["corpus"]
    there = typed(file.parent)
    for sources in (about["sources"], there) if there and all(map(os.path.isfile, there)) else (about["sources"],):
        try:
            corpus = read(sources, **{f.name: about[f.name] for f in fields(Reading) if f.name in about})
        except (TypeError, ValueError):  # CorpusError is one; a card of another make may hold anything
            continue
        if corpus.sha256 == about["sha256"]:
            return corpus
    return None
