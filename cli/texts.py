"""A text that a command reads with a model: the options that say how, and the Corpus that both make of it."""
from collections.abc import Iterable
from itertools import islice

import click
from click.core import ParameterSource

from rnncore.config import flag

from . import options

NAMES = "encoding", "encoding_errors", "newline", "documents", "field"  # the options of `options_of`
options_of = options.grouped(  # a decorator: the options that say how TEXT is read, which the command gets by NAMES
    options.LAST, options.ENCODING, options.ENCODING_ERRORS, options.NEWLINE,
    ("--documents", {"type": click.Choice(["lines", "blank", "jsonl"]),
                     "help": "For a model of documents: what parts those of TEXT. [default: what it learnt]"}),
    ("--field", {"metavar": "NAME", "help": "With JSON: the text in each line. [default: the model's]"}))


def corpus(vocab, text: str, how: dict):
    """The Corpus of a text for a model with this vocabulary; how: the options by their NAMES."""
    from rnncore.data.text import read

    from .corpus import bring

    bring([text])
    return read([text], distinct=1, **reading(vocab, how))


def reading(vocab, how: dict) -> dict:
    """How a text is read for a model with this vocabulary: the fields of a data.text.Reading."""
    given = typed(NAMES)
    if vocab.level == "byte":
        for name in given:
            raise click.UsageError(f"{flag(name)} says how characters are read, and this is a model of bytes: "
                                   "leave it out")
        return {"level": vocab.level}
    if vocab.documents == "none":
        for name in {"documents", "field"}.intersection(given):
            raise click.UsageError(f"{flag(name)} is for models of documents, and this is one of continuous "
                                   "text: leave it out")
    elif how["newline"] == "keep":
        raise click.UsageError("--newline keep: documents are told apart by LF line ends, and this is a model of such: "
                               "leave it out")
    documents = how["documents"] or vocab.documents
    if "field" in given and documents != "jsonl":
        raise click.UsageError("--field names what is read of --documents jsonl: give that too, or leave it out")
    return how | {"lower": vocab.lower, "documents": documents, "field": how["field"] or vocab.field}


def typed(names: Iterable[str]) -> list[str]:
    """Those of the options of these names that stand on the command line."""
    context = click.get_current_context()
    return [name for name in names if context.get_parameter_source(name) == ParameterSource.COMMANDLINE]


def beginning(vocab, text: str, length: int, how: dict) -> tuple:
    """(the first symbols of a text as a model with this vocabulary takes them, unknown ones too; its Corpus)."""
    found = corpus(vocab, text, how)
    symbols = "".join(islice(found.symbols(), length))
    return symbols.encode("latin-1") if vocab.level == "byte" else symbols, found
