"""A model's training text read anew, as its training card has it: what counting that text reaches on another."""
from dataclasses import fields

from . import known


def beside(card: dict, model, ids, unknown: int) -> tuple[dict | None, dict | None]:
    """(what known.of_another says of ids, what counting the training text reaches on them), by the training text.

    Both are None where that is not at hand; counting is no measure where the pieces stand there: it knows the text.
    """
    from rnncore import ngram

    corpus = corpus_of(card)
    if corpus is None:
        return None, None
    train = corpus.encode(model.vocab, "replace" if model.vocab.min_count > 1 else "skip")[0][:card["split"]["train"]]
    trained_on, knows = known.of_another(card, train, ids, unknown, model.vocab.end)
    if knows:
        return trained_on, None
    floor = ngram.floor(train, ids[:ngram.MOST], len(model.vocab))
    return trained_on, {"nats_per_char": floor.nats, "order": floor.order, "counted": floor.counted,
                        "characters": len(train)}


def corpus_of(card: dict):
    """The Corpus that a model with this training card was trained on; None where it cannot be read or has changed."""
    from rnncore.data.text import Reading, read
    from rnncore.runs import trained

    if not trained(card) or "-" in card["corpus"]["sources"]:
        return None
    about = card["corpus"]
    try:
        corpus = read(about["sources"], **{f.name: about[f.name] for f in fields(Reading) if f.name in about})
    except (TypeError, ValueError):  # CorpusError is one; a card of another make may hold anything
        return None
    return corpus if corpus.sha256 == about["sha256"] else None
