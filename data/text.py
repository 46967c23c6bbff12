"""A corpus: the text of files, stdin or named corpora, encoded as ids over the vocabulary of its own symbols.

`read` reads the text once, in pieces of about 1 MiB (content.CHUNK). Every piece passes these steps in order:

    bytes -> text -> byte order marks removed -> LF line ends -> documents separated -> lower case -> files joined
    -> ids

Documents may be shuffled at the end. A step holds about one piece at a time, and long ids are stored in a file. So
memory hardly grows with the text: 5.2 GB took 244 MB, counting and validation included. Shuffling adds 16 bytes a
document.
"""
import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from itertools import chain
from typing import Any, BinaryIO

import numpy as np

from . import recorded, sources as sources_
from .decode import ERRORS, CorpusError, CorpusNotFoundError, Outcome, UnknownEncodingError, codec, decoded, one_line
from .endings import KINDS, documents, joined
from .folders import listed
from .shuffle import shuffled
from .spool import Spool
from .tally import Tally
from .vocab import LEVELS, MARK, UnknownSymbolError, Vocab, points_of, text_of

__all__ = ["Corpus", "CorpusError", "CorpusNotFoundError", "Reading", "UnknownEncodingError", "read"]

WORD = 1 << 16   # characters; `lowered` does not hold back a longer text without a blank, so that memory is bounded


@dataclass(frozen=True)
class Reading:
    """Settings that turn the bytes of a corpus into symbols.

    At level "byte" each byte is one symbol, whatever it means. No byte is dropped or changed, no newline is added
    between files, and no file is skipped because it is not text.
    Raises ValueError for a bad or unfitting setting, UnknownEncodingError for an encoding that Python does not know.
    """

    encoding: str = "utf-8"  # a codec of Python, or decode.AUTO
    encoding_errors: str = "strict"  # treatment of bytes that are invalid in the encoding: one of decode.ERRORS
    newline: str = "lf"    # "lf" turns CRLF and lone CR into LF; "keep" leaves line ends as they are
    lower: bool = False    # True turns the text into lower case
    level: str = "char"    # kind of symbol: one of vocab.LEVELS
    documents: str = "none"  # separation of documents: one of endings.KINDS
    field: str = "text"      # for documents "jsonl": key of the text in each object
    shuffle: bool = False    # True puts the documents in the fixed random order of shuffle.py

    def __post_init__(self) -> None:
        if self.newline not in ("lf", "keep"):
            raise ValueError(f"newline is 'lf' or 'keep', not {self.newline!r}")
        for name, known in {"level": LEVELS, "encoding_errors": ERRORS, "documents": KINDS}.items():
            if getattr(self, name) not in known:
                raise ValueError(f"{name} is one of {', '.join(known)}, not {getattr(self, name)!r}")
        if self.level == "byte" and (self.encoding, self.newline, self.lower, self.documents, self.encoding_errors) != (
                Reading.encoding, Reading.newline, Reading.lower, Reading.documents, Reading.encoding_errors):
            raise ValueError("bytes have no encoding, line ends, lower case or documents")
        if self.documents != "none" and self.newline != "lf":
            raise ValueError("documents are separated by LF line ends: leave --newline keep out")
        if self.shuffle and self.documents == "none":
            raise ValueError("documents are shuffled, a continuous text is not")
        codec(self.encoding)  # an unknown encoding is refused before any file is opened

    @staticmethod
    def kept(about: Mapping[str, Any]) -> dict[str, Any]:
        """Return the fields of Reading in `about`, the object that describes the corpus in a run's metadata."""
        return {each.name: about[each.name] for each in fields(Reading) if each.name in about}


@dataclass(frozen=True, eq=False)
class Corpus:
    """One text as ids over its own vocabulary, with its sources, its hash and notes for the user."""

    name: str  # a good default name for a run: a file's stem, a folder's name, a named corpus, "stdin"
    vocab: Vocab  # the symbols that occur in the text
    spool: Spool  # the ids over `vocab`
    sources: tuple[str, ...]  # the sources as the caller gave them
    notes: tuple[str, ...]  # one line each, for the user: what was dropped, skipped or normalised
    sha256: str  # hex; hash of the text in UTF-8 before shuffling, or of the bytes at level "byte"
    left_out: tuple[str, ...] = ()  # the notes on parts of the sources that were not read
    record: recorded.Record = recorded.Record()  # the files that were read; the shared default is immutable

    @property
    def ids(self) -> np.ndarray:
        """Return the ids (n,) over `vocab`: read-only, and a memory map if they are stored in a file."""
        return self.spool.array()

    @property
    def characters(self) -> int:
        """Return n, the number of symbols in the text."""
        return self.spool.length

    @property
    def text(self) -> str:
        """Return the whole text in memory."""
        return self.vocab.decode(self.ids)

    @cached_property
    def counts(self) -> np.ndarray:
        """Return the number of occurrences of each symbol of `vocab`: (V,) int64."""
        return self.spool.counts(len(self.vocab))

    def symbols(self) -> Iterator[str]:
        """Yield the symbols one by one."""
        for ids in self.spool.chunks():
            yield from map(self.vocab.symbols.__getitem__, ids.tolist())

    def digest(self, count: int) -> str | None:
        """Return the sha256 (hex) of the first `count` symbols of an unshuffled corpus; None if there are fewer."""
        if count >= self.characters:
            return self.sha256 if count == self.characters else None
        digest, points = hashlib.sha256(), points_of(self.vocab.symbols)
        for ids in self.spool.chunks():
            piece = text_of(points[ids[:count]])
            digest.update(piece.encode("latin-1" if self.vocab.level == "byte" else "utf-8", "surrogatepass"))
            count -= len(piece)
            if not count:
                break
        return digest.hexdigest()

    def encode(self, vocab: Vocab, on_unknown: str = "error") -> tuple[np.ndarray, int]:
        """Return the ids (n,) over another vocabulary, and the number of symbols in the text that it lacks.

        on_unknown is "error", "skip" or "replace", as in Vocab.encode. Raises UnknownSymbolError for "error" if the
        text has a symbol that `vocab` lacks.
        """
        table = vocab.places(self.vocab.symbols)
        unknown = int(self.counts[table < 0].sum()) if (table < 0).any() else 0
        if unknown and on_unknown == "error":
            raise UnknownSymbolError((self.vocab.symbols[k] for k in np.flatnonzero(table < 0)), self.vocab.level)
        if on_unknown == "replace":
            table[table < 0] = vocab.stand_in
        same = np.array_equal(table, np.arange(len(table))) and self.spool.dtype == vocab.dtype
        return (self.spool if same else self.spool.map(table, vocab.dtype)).array(), unknown


def read(sources: Sequence[str], stdin: BinaryIO | None = None, distinct: int = 2, apart: str | None = None,
         record: recorded.Record | None = None, **how: Any) -> Corpus:
    """Read the sources in their order into one corpus. how: fields of Reading. stdin, apart: see sources.Sources.

    A newline is added to each file but the last if it lacks one. The sha256 is computed before documents are shuffled.
    record: the files of a text that was read before; of its sources, only these files are opened (recorded.py).

    Raises ValueError for a bad setting, UnknownEncodingError, CorpusNotFoundError for a path that does not exist, and
    CorpusError for a text that cannot be read, is not text, is not in that encoding, is empty, or has one distinct
    symbol where `distinct` asks for two. With a record it raises recorded.LostError for files that cannot be opened
    and recorded.LongerError for a text that has become longer.
    """
    reading, tally = Reading(**how), Tally([0] * len(sources))
    notes: list[str] = []
    binary = reading.level == "byte"
    given = sources, reading.encoding, binary, stdin, notes, apart
    files = sources_.Sources(*given) if record is None else recorded.Remembered(*given, record=record)
    texts = (tally.read(file.source, steps(file, reading, tally)) for file in files.opened())
    pieces = chain.from_iterable(texts) if binary else joined(texts)
    if record is not None:
        pieces = recorded.bounded(pieces, record.characters)
    encoder, digest = Encoder(), hashlib.sha256()
    for piece in pieces:
        digest.update(piece.encode("latin-1") if binary else piece.encode("utf-8", "surrogatepass"))
        encoder.add(piece)
    if len(sources) > 1:
        notes += [f"{sources_.shown(source)} is empty"
                  for source, symbols in zip(sources, tally.symbols, strict=True) if not symbols]
    vocab, spool = encoder.done(reading, listed(map(sources_.shown, sources)), distinct)
    left_out = tuple(map(one_line, notes))
    notes += tally.notes(reading.documents == "none")
    notes += tally.encodings(reading.encoding, reading.encoding_errors)
    if reading.shuffle:
        spool, count = shuffled(spool, vocab)
        notes.append(
            f"{count:,} documents, shuffled by a key that is always the same (--no-shuffle keeps their order)"
            if count > 1 else f"warning: --documents {reading.documents} finds one document in this text: all of it")
    return Corpus(sources_.name(sources[0]), vocab, spool, tuple(sources), tuple(map(one_line, notes)),
                  digest.hexdigest(), left_out, recorded.Record(files.files, files.below))


# Every step takes the pieces of one file and yields changed pieces. `steps` is the place to add another one.

def steps(file: sources_.File, reading: Reading, tally: Tally) -> Iterator[str]:
    """Return the text of one file as the model learns it, in pieces. At level "byte", byte b becomes code point b."""
    if reading.level == "byte":
        return (chunk.decode("latin-1") for chunk in file.chunks)
    outcome = Outcome()
    pieces = decoded(file.chunks, file.encoding, file.name, reading.encoding_errors, file.alone, outcome)
    pieces = without_marks(tally.decoded(outcome, pieces), tally)
    if reading.newline == "lf":
        pieces = with_lf(pieces, tally)
    if reading.documents != "none":
        pieces = documents(pieces, reading.documents, reading.field, file.name)
    if reading.documents == "jsonl":  # again, for line ends that JSON writes as escapes
        pieces = with_lf(pieces, tally)
    # Lower case comes after JSON is parsed: the name of the field must keep its capitals.
    return lowered(pieces) if reading.lower else pieces


def without_marks(pieces: Iterable[str], tally: Tally) -> Iterator[str]:
    """Remove byte order marks anywhere in the text and count them in `tally`."""
    for piece in pieces:
        if MARK in piece:
            tally.marks += piece.count(MARK)
            piece = piece.replace(MARK, "")
        yield piece


def with_lf(pieces: Iterable[str], tally: Tally) -> Iterator[str]:
    """Turn CRLF and lone CR into LF and count both in `tally`.

    A CR at the end of a piece is held back until the next piece shows whether an LF follows.
    """
    held = ""
    for piece in pieces:
        piece, held = held + piece, ""
        if piece.endswith("\r"):
            piece, held = piece[:-1], "\r"
        if "\r" in piece:
            crlf = piece.count("\r\n")
            tally.crlf, tally.cr = tally.crlf + crlf, tally.cr + piece.count("\r") - crlf
            piece = piece.replace("\r\n", "\n").replace("\r", "\n")
        yield piece
    if held:
        tally.cr += 1
        yield "\n"


def lowered(pieces: Iterable[str]) -> Iterator[str]:
    """Turn the text into lower case. Hold back the last word of a piece until its end is known.

    The lower case of a capital sigma at the end of a word is another letter than inside a word.
    """
    held = ""
    for piece in pieces:
        piece, held = held + piece, ""
        end = max(piece.rfind(" "), piece.rfind("\n")) + 1 or (len(piece) if len(piece) > WORD else 0)
        piece, held = piece[:end], piece[end:]
        yield piece.lower()
    yield held.lower()


class Encoder:
    """Encoder of a text in one pass: `add` numbers symbols as they turn up, `done` renumbers them by code point."""

    def __init__(self) -> None:
        self.spool = Spool(np.uint8)
        self._points = np.empty(0, np.uint32)             # (V,) code points that have occurred, by id
        self._table = np.full(0x110000, -1, np.int32)     # code point -> id; -1 for one that has not occurred

    def add(self, text: str) -> None:
        """Encode the next piece of the text into the spool."""
        points = points_of(text)
        ids = self._table.take(points, mode="clip")
        new = np.unique(points[ids < 0])
        if len(new):
            self._table[new] = np.arange(len(self._points), len(self._points) + len(new))
            self._points = np.concatenate([self._points, new])
            ids = self._table.take(points, mode="clip")
            dtype = np.min_scalar_type(len(self._points) - 1)
            # The ids outgrew their type (at 257 and 65,537 symbols): copy those that are stored into the wider type.
            if dtype != self.spool.dtype:
                self.spool = self.spool.map(np.arange(len(self._points)), dtype)
        self.spool.append(ids)

    def done(self, reading: Reading, where: str, distinct: int) -> tuple[Vocab, Spool]:
        """Return the vocabulary and the ids over it.

        Raises CorpusError if the text is empty or has fewer than `distinct` distinct symbols; END is not counted. The
        message calls the text `where`.
        """
        points = np.sort(self._points)
        if not len(points):
            raise CorpusError(f"{where} is empty: name a file with text in it")
        vocab = Vocab.from_code_points(points, reading.level, reading.lower, 1, reading.documents, reading.field)
        if len(points) - (reading.documents != "none") < distinct:
            raise CorpusError(f"{where} has one distinct symbol, {vocab.shown(vocab.symbols[-1])}: nothing to learn "
                              "from; two are needed at least")
        if np.array_equal(points, self._points):
            return vocab, self.spool
        # The second argsort inverts the first: entry k is the rank of symbol k by code point, its id from now on.
        return vocab, self.spool.map(np.argsort(np.argsort(self._points)))
