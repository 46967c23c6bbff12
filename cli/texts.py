"""Texts that a command reads with a model: the options that say how to read them, and functions that read them."""
from collections.abc import Iterable
from itertools import islice

import click
from click.core import ParameterSource

from rnncore.config import flag

from . import options

NAMES = "encoding", "encoding_errors", "newline", "documents", "field"  # parameters that `options_of` adds
options_of = options.grouped(  # a decorator that adds the options that say how TEXT is read
    options.LAST, options.ENCODING, options.ENCODING_ERRORS, options.NEWLINE,
    ("--documents", {"type": click.Choice(["lines", "blank", "jsonl"]),
                     "help": "For a model of documents: the form of the documents in TEXT. [default: as in training]"}),
    ("--field", {"metavar": "NAME",
                 "help": "With --documents jsonl: the field that holds the text. [default: the model's]"}))


def corpus(vocab, text: str, how: dict):
    """Return the Corpus of a text, read as the model's vocabulary needs it. A named corpus is downloaded first.

    how: the values of the options in NAMES, by name. Raises CorpusError if the text cannot be read.
    """
    from rnncore.data.text import read

    from .corpus import bring

    bring([text])
    return read([text], distinct=1, **reading(vocab, how))


def reading(vocab, how: dict) -> dict:
    """Return keyword arguments for data.text.Reading that suit a model's vocabulary.

    how: the values of the options in NAMES, by name. Raises UsageError for an option that does not fit the model.
    """
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
        raise click.UsageError("--newline keep: documents are separated by LF line ends, and this is a model of "
                               "documents: leave it out")
    documents = how["documents"] or vocab.documents
    if "field" in given and documents != "jsonl":
        raise click.UsageError("--field names a field of --documents jsonl: give both options, or neither")
    return how | {"lower": vocab.lower, "documents": documents, "field": how["field"] or vocab.field}


def typed(names: Iterable[str]) -> list[str]:
    """Return the names whose option stands on the command line."""
    context = click.get_current_context()
    return [name for name in names if context.get_parameter_source(name) == ParameterSource.COMMANDLINE]


def beginning(vocab, text: str, length: int, how: dict) -> tuple:
    """Return (the first `length` symbols of a text, the Corpus of the whole text).

    The symbols are bytes for a model of bytes, else a str. They may hold symbols that the model does not know. how: as
    in `corpus`.
    """
    found = corpus(vocab, text, how)
    symbols = "".join(islice(found.symbols(), length))
    return symbols.encode("latin-1") if vocab.level == "byte" else symbols, found
