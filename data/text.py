"""A corpus: text on disk, on stdin or under a name, read once, in pieces, checked, mended and encoded as it comes.

    files -> bytes -> text -> without marks -> line ends -> documents -> lower case -> joined -> ids over its vocabulary
    -> documents shuffled

No step holds more than a piece, and long ids lie in a file: 5 GB of text take the memory of 50 MB.
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
from .endings import END, KINDS, documents
from .folders import listed
from .shuffle import shuffled
from .spool import Spool
from .tally import Tally
from .vocab import LEVELS, MARK, UnknownSymbolError, Vocab, points_of, text_of

__all__ = ["Corpus", "CorpusError", "CorpusNotFoundError", "Reading", "UnknownEncodingError", "read"]

WORD = 1 << 16   # characters without a blank that are held back, to see the word's end, at most


@dataclass(frozen=True)
class Reading:
    """How the bytes of a corpus become symbols. level byte: each byte is one, whatever it means; the rest is moot."""

    encoding: str = "utf-8"
    encoding_errors: str = "strict"  # what becomes of bytes that the encoding does not have: one of decode.ERRORS
    newline: str = "lf"    # lf: CRLF and lone CR become LF; keep
    lower: bool = False
    level: str = "char"    # one of vocab.LEVELS
    documents: str = "none"  # what parts one from the next: one of endings.KINDS
    field: str = "text"      # of jsonl: the name of what is learnt
    shuffle: bool = False    # documents: in an order by chance, shuffle.py's

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
            raise ValueError("documents are told apart by LF line ends: leave --newline keep out")
        if self.shuffle and self.documents == "none":
            raise ValueError("documents are shuffled, a continuous text is not")
        codec(self.encoding)  # an unknown one is refused before anything is read

    @staticmethod
    def kept(about: Mapping[str, Any]) -> dict[str, Any]:
        """Those of its fields that an object has, as a run keeps them among others of its corpus."""
        return {each.name: about[each.name] for each in fields(Reading) if each.name in about}


@dataclass(frozen=True, eq=False)
class Corpus:
    """A text and where it is from."""

    name: str  # a good default name for a run: a file's stem, a folder's name, a named corpus, "stdin"
    vocab: Vocab  # of its own symbols
    spool: Spool  # its ids
    sources: tuple[str, ...]  # as they were given
    notes: tuple[str, ...]  # a line each, to be said once: what was dropped, skipped or normalised
    sha256: str  # hex, of the text in UTF-8, or of the bytes
    left_out: tuple[str, ...] = ()  # those of the notes that say what of the sources was not read
    record: recorded.Record = recorded.Record()  # it never changes; the files that were read

    @property
    def ids(self) -> np.ndarray:
        """The ids (n,) over `vocab`, to be read only; a memory map where they are many."""
        return self.spool.array()

    @property
    def characters(self) -> int:
        """How many symbols it has."""
        return self.spool.length

    @property
    def text(self) -> str:
        """All of it, in memory."""
        return self.vocab.decode(self.ids)

    @cached_property
    def counts(self) -> np.ndarray:
        """How often each symbol of `vocab` occurs: (V,)."""
        return self.spool.counts(len(self.vocab))

    def symbols(self) -> Iterator[str]:
        """Its symbols one by one."""
        for ids in self.spool.chunks():
            yield from map(self.vocab.symbols.__getitem__, ids.tolist())

    def digest(self, count: int) -> str | None:
        """The sha256, hex, of its first `count` symbols alone, in UTF-8 or as bytes; None where it has fewer."""
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
        """The ids over another vocabulary, and how many symbols it does not know; on_unknown: as Vocab.encode."""
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
    """Read files, folders, patterns, "-" (stdin) and named corpora, in that order, into one corpus; how: a Reading's.

    A folder stands for its text files, recursively, sorted by path: without the hidden ones, those that are no text (by
    their first bytes, or a NUL byte in the first 8,192, unless the encoding has such), those of run folders, and
    folders behind symbolic links; apart is the folder of a run that reads this. Of a gzipped file, what is inside is
    read. Files are joined so that each but the last ends in a newline. Byte order marks are dropped wherever they are;
    CRLF and lone CR become LF unless `newline` is "keep". Named corpora have their own encoding. At the level of bytes
    nothing is skipped, joined by more, dropped or changed, and gzip is known by the file's name. `stdin` is a binary
    stream, by default the process's. The sha256 is that of the text before documents are shuffled.

    record: of a text that was read before, whose sources a model file names: those of its files alone are opened.

    Raises CorpusNotFoundError for a path where nothing is, UnknownEncodingError, and CorpusError for what cannot be
    read, is no text or not in that encoding, is empty, or has one distinct symbol where `distinct` asks for two;
    recorded.LostError where files of the record cannot be opened.
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
            if count > 1 else f"warning: nothing parts this text by --documents {reading.documents}: it is one")
    return Corpus(sources_.name(sources[0]), vocab, spool, tuple(sources), tuple(map(one_line, notes)),
                  digest.hexdigest(), left_out, recorded.Record(files.files, files.below))


# Every step takes the pieces of one file and yields the pieces that they become: another goes where it belongs in here.

def steps(file: sources_.File, reading: Reading, tally: Tally) -> Iterator[str]:
    """The text of one file as it is learnt, piece by piece; a byte is the code point of the same number."""
    if reading.level == "byte":
        return (chunk.decode("latin-1") for chunk in file.chunks)
    outcome = Outcome()
    pieces = decoded(file.chunks, file.encoding, file.name, reading.encoding_errors, file.alone, outcome)
    pieces = without_marks(tally.decoded(outcome, pieces), tally)
    if reading.newline == "lf":
        pieces = with_lf(pieces, tally)
    if reading.documents != "none":
        pieces = documents(pieces, reading.documents, reading.field, file.name)
    if reading.documents == "jsonl":  # the line ends that JSON writes as escapes
        pieces = with_lf(pieces, tally)
    return lowered(pieces) if reading.lower else pieces


def without_marks(pieces: Iterable[str], tally: Tally) -> Iterator[str]:
    """Without byte order marks."""
    for piece in pieces:
        if MARK in piece:
            tally.marks += piece.count(MARK)
            piece = piece.replace(MARK, "")
        yield piece


def with_lf(pieces: Iterable[str], tally: Tally) -> Iterator[str]:
    """With LF line ends; a CR at the end of a piece is held back until it is known whether a LF follows."""
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
    """In lower case, word by word: a capital sigma is another letter at a word's end, so the last word is held back."""
    held = ""
    for piece in pieces:
        piece, held = held + piece, ""
        end = max(piece.rfind(" "), piece.rfind("\n")) + 1 or (len(piece) if len(piece) > WORD else 0)
        piece, held = piece[:end], piece[end:]
        yield piece.lower()
    yield held.lower()


def joined(texts: Iterable[Iterable[str]]) -> Iterator[str]:
    """The texts' pieces one after the other, each but the last ending in a newline or END; without the empty ones."""
    last = "\n"
    for pieces in texts:
        begun = False
        for piece in filter(None, pieces):
            if not begun and last not in "\n\r" + END:
                yield "\n"
            begun, last = True, piece[-1]
            yield piece


class Encoder:
    """Ids by the order in which symbols are first met, as the text comes; at its end, by their code points."""

    def __init__(self) -> None:
        self.spool = Spool(np.uint8)
        self._points = np.empty(0, np.uint32)             # (V,) of the symbols met so far
        self._table = np.full(0x110000, -1, np.int32)     # id by code point, -1 for what was not met

    def add(self, text: str) -> None:
        """Encode the next piece."""
        points = points_of(text)
        ids = self._table.take(points, mode="clip")
        new = np.unique(points[ids < 0])
        if len(new):
            self._table[new] = np.arange(len(self._points), len(self._points) + len(new))
            self._points = np.concatenate([self._points, new])
            ids = self._table.take(points, mode="clip")
            dtype = np.min_scalar_type(len(self._points) - 1)
            if dtype != self.spool.dtype:
                self.spool = self.spool.map(np.arange(len(self._points)), dtype)
        self.spool.append(ids)

    def done(self, reading: Reading, where: str, distinct: int) -> tuple[Vocab, Spool]:
        """The vocabulary, and the ids over it. CorpusError for no symbol, or for one where two are wanted."""
        points = np.sort(self._points)
        if not len(points):
            raise CorpusError(f"{where} is empty: name a file with text in it")
        vocab = Vocab.from_code_points(points, reading.level, reading.lower, 1, reading.documents, reading.field)
        if len(points) - (reading.documents != "none") < distinct:
            raise CorpusError(f"{where} has one distinct symbol, {vocab.shown(vocab.symbols[-1])}: nothing to learn "
                              "from; two are needed at least")
        if np.array_equal(points, self._points):
            return vocab, self.spool
        return vocab, self.spool.map(np.argsort(np.argsort(self._points)))
