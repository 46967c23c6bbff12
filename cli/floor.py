"""A model's training text read anew, as its training card has it: what counting that text reaches on another."""
from pathlib import Path

from . import known

KNOWN = "the text stands in the training text, which counting would know by heart"  # why there is no baseline


def beside(card: dict, file: Path, model, ids, unknown: int) -> tuple[dict | None, dict | None, str | None]:
    """(what known.of_another says of ids, what counting the training text reaches on them, why it is not counted).

    file: the model's. The first two are None where the training text is not at hand; counting is no measure where all
    pieces stand there: it knows the text. No reason is given of a model that was not trained by `rnncore train`.
    """
    from rnncore.data.decode import CorpusError
    from rnncore.measure import ngram
    from rnncore.runs.folder import trained
    from rnncore.runs.places import text_of

    if not trained(card):
        return None, None, None
    try:
        corpus = text_of(card, file)
    except CorpusError as error:
        return None, None, f"the training text is not read: {error}"
    train = corpus.encode(model.vocab, "replace" if model.vocab.min_count > 1 else "skip")[0][:card["split"]["train"]]
    trained_on, knows = known.of_another(card, train, ids, unknown, model.vocab.end)
    if knows:
        return trained_on, None, KNOWN
    floor = ngram.floor(train, ids[:ngram.MOST], len(model.vocab))
    return trained_on, {"nats_per_char": floor.nats, "order": floor.order, "counted": floor.counted,
                        "characters": len(train)}, None
