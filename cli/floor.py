"""A model's training text read anew, as its training card has it: what counting that text reaches on another."""
from pathlib import Path

from . import known

KNOWN = "the text stands in the training text, which counting would know by heart"  # why there is no baseline


def beside(card: dict, file: Path, model, ids, unknown: int) -> tuple[dict | None, dict | None, str | None]:
    """(what known.of_another says of ids, what counting the training text reaches on them, why it is not counted).

    file: the model's. The first two are None where the training text is not at hand; counting is no measure where all
    pieces stand there: it knows the text. No reason is given of a model that was not trained by `rnncore train`.
    """
    from rnncore.measure import ngram

    corpus, why = corpus_of(card, file)
    if corpus is None:
        return None, None, why and f"the training text is not read: {why}"
    train = corpus.encode(model.vocab, "replace" if model.vocab.min_count > 1 else "skip")[0][:card["split"]["train"]]
    trained_on, knows = known.of_another(card, train, ids, unknown, model.vocab.end)
    if knows:
        return trained_on, None, KNOWN
    floor = ngram.floor(train, ids[:ngram.MOST], len(model.vocab))
    return trained_on, {"nats_per_char": floor.nats, "order": floor.order, "counted": floor.counted,
                        "characters": len(train)}, None


def corpus_of(card: dict, file: Path) -> tuple:
    """(the Corpus that a model with this training card was trained on, None); or (None, why not), by places.text_of.

    file: the model's.
    """
    from rnncore.data.decode import CorpusError
    from rnncore.runs.folder import trained
    from rnncore.runs.places import text_of

    if not trained(card):
        return None, None
    try:
        return text_of(card, file), None
    except CorpusError as error:
        return None, str(error)
