"""A vocabulary: the distinct characters of a text, sorted by code point, each known by its place."""
import codecs
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import Any

import numpy as np

from .endings import END, KINDS

LEVELS = ("char", "byte")  # what a symbol is: a code point, or a byte
MARK = "\ufeff"             # the byte order mark
UNKNOWN = "\ufffd"          # the symbol that rare ones become
ON_UNKNOWN = ("error", "skip", "replace")
_CHUNK = 1 << 20  # characters encoded at a time: the work arrays stay small whatever the text's length
_LISTED = 8  # unknown symbols that an error names


class UnknownSymbolError(ValueError):
    """Text with symbols outside the vocabulary: `symbols` has each once, sorted; str(error) is one line."""

    def __init__(self, symbols: Iterable[str], level: str = "char"):
        self.symbols = "".join(sorted(set(symbols)))
        listed = ", ".join(_shown(s, level) + f" (U+{ord(s):04X})" * (level == "char") for s in self.symbols[:_LISTED])
        count = len(self.symbols)
        more = f" and {count - _LISTED:,} more" if count > _LISTED else ""
        noun = "symbol is" if count == 1 else "symbols are"
        super().__init__(f"{count:,} {noun} not in the model's vocabulary: {listed}{more}; "
                         "--on-unknown skip drops them, --on-unknown replace puts a stand-in there")


@dataclass(frozen=True, repr=False)
class Vocab:
    """V symbols; a symbol's id is its place, 0 to V-1. Immutable, equal by all it holds, hashable.

    At the level byte a symbol is a byte, written as the code point of the same number. lower: texts are made lower case
    before they are encoded. min_count: above 1, symbols that are rarer were made UNKNOWN, one of the symbols.
    documents, field: how texts are parted, as in text.Reading; where they are, END is one of the symbols.
    """

    symbols: str  # V characters, strictly increasing by code point
    level: str = "char"
    lower: bool = False
    min_count: int = 1
    documents: str = "none"
    field: str = "text"

    def __post_init__(self) -> None:
        if not isinstance(self.symbols, str):
            raise TypeError(f"symbols are a str, not {type(self.symbols).__name__}")
        points = points_of(self.symbols)
        if not len(points):
            raise ValueError("a vocabulary has one symbol at least")
        falls = np.flatnonzero(points[1:] <= points[:-1])
        if len(falls):
            before, after = points[falls[0]:falls[0] + 2]
            raise ValueError(f"code points are not strictly increasing: {before} stands before {after}")
        if self.level not in LEVELS or self.level == "byte" and points[-1] > 255:
            raise ValueError(f"level is one of {', '.join(LEVELS)}, and a byte at most 255")
        if not isinstance(self.lower, bool) or self.level == "byte" and (self.lower or self.min_count != 1):
            raise ValueError("lower is true or false, and with min_count for characters alone")
        if not isinstance(self.min_count, int) or isinstance(self.min_count, bool) or self.min_count < 1:
            raise ValueError(f"min_count is a whole number of at least 1, not {self.min_count!r}")
        if self.documents not in KINDS or not isinstance(self.field, str):
            raise ValueError(f"documents is one of {', '.join(KINDS)}, and field a text")
        if self.documents != "none" and (self.level == "byte" or END not in self.symbols):
            raise ValueError("a vocabulary of documents is one of characters with U+0003 among them")

    @classmethod
    def from_text(cls, text: str) -> "Vocab":
        """The vocabulary of a text; ValueError for an empty one, TypeError for what is no str."""
        if not isinstance(text, str):
            raise TypeError(f"a text is a str, not {type(text).__name__}")
        return cls("".join(sorted(set(text))))

    @classmethod
    def from_code_points(cls, code_points: Iterable[int], level: str = "char", lower: bool = False,
                         min_count: int = 1, documents: str = "none", field: str = "text") -> "Vocab":
        """The vocabulary with these code points; ValueError unless strictly increasing integers in 0..0x10FFFF."""
        try:
            points = list(code_points)
        except TypeError:
            raise ValueError(f"code points are a list of integers, not {code_points!r}") from None
        plain = set(map(type, points)) == {int} and 0 <= min(points) <= max(points) <= 0x10FFFF
        for point in () if plain else points:  # a million is looked at one by one only where one is wrong
            if isinstance(point, bool) or not isinstance(point, (int, np.integer)) or not 0 <= point <= 0x10FFFF:
                raise ValueError(f"not a code point: {point!r}")
        return cls("".join(map(chr, points)), level, lower, min_count, documents, field)

    def __getstate__(self) -> dict[str, Any]:
        """Return what a copy is made of: the fields, without the look-up table."""
        return {f.name: getattr(self, f.name) for f in fields(self)}

    @property
    def code_points(self) -> list[int]:
        """The V code points, as a model file keeps them."""
        return list(map(ord, self.symbols))

    @property
    def settings(self) -> dict[str, Any]:
        """What differs from a plain vocabulary of characters, as a model file keeps it: level, lower and so on."""
        return {f.name: getattr(self, f.name) for f in fields(self)[1:] if getattr(self, f.name) != f.default}

    def frequent(self, counts: np.ndarray, least: int) -> "Vocab":
        """The vocabulary whose symbols occur `least` times, by counts (V,); with UNKNOWN where others do not."""
        kept = {s for s, count in zip(self.symbols, counts.tolist(), strict=True) if count >= least}
        kept |= {END} if self.documents != "none" else set()
        symbols = kept if len(kept) == len(self) else kept | {UNKNOWN}
        return replace(self, symbols="".join(sorted(symbols)), min_count=least)

    def with_symbols(self, new: Iterable[str]) -> "Vocab":
        """The same with more symbols."""
        return replace(self, symbols="".join(sorted({*self.symbols, *new})))

    def parted(self, documents: str, field: str) -> "Vocab":
        """The same for texts that are parted so: with END among the symbols where they are documents."""
        symbols = self.symbols if documents == "none" or END in self else "".join(sorted(self.symbols + END))
        return replace(self, symbols=symbols, documents=documents, field=field)

    @cached_property
    def end(self) -> int | None:
        """The id of END, after which the next document begins; None where the text is one."""
        return self.symbols.index(END) if self.documents != "none" else None

    @cached_property
    def dtype(self) -> np.dtype:
        """The smallest of uint8, uint16 and uint32 that holds V-1: the type of encoded ids."""
        return np.min_scalar_type(len(self) - 1)

    def encode(self, text: str | bytes, on_unknown: str = "error") -> np.ndarray:
        """The ids (n,) of a text, of type `dtype`. At the level byte they are those of its UTF-8, or of bytes as given.

        Symbols outside the vocabulary raise UnknownSymbolError, are left out ("skip"), or become ("replace") U+FFFD, or
        where the vocabulary lacks it a space, or where it lacks that too the first symbol that is not END.
        """
        if on_unknown not in ON_UNKNOWN:
            raise ValueError(f"on_unknown is one of {', '.join(ON_UNKNOWN)}, not {on_unknown!r}")
        symbols, parts = self.spelled(text), []
        for start in range(0, len(symbols) or 1, _CHUNK):
            ids = self.places(symbols[start:start + _CHUNK])
            unknown = ids < 0
            if on_unknown == "skip":
                ids = ids[~unknown]
            elif on_unknown == "replace":
                ids[unknown] = self.stand_in
            elif unknown.any():
                raise UnknownSymbolError(set(symbols) - set(self.symbols), self.level)
            parts.append(ids.astype(self.dtype))
        return np.concatenate(parts)

    def spelled(self, text: str | bytes) -> str:
        """The symbols that stand for a text: in lower case, or bytes, where these are what the vocabulary has."""
        self._check(text)
        if isinstance(text, bytes):
            return text.decode("latin-1")
        if self.level == "byte":
            return text.encode("utf-8", "surrogatepass").decode("latin-1")
        return text.lower() if self.lower else text

    def typed(self, text: str | bytes) -> str | bytes:
        """A text that somebody typed, as a corpus of these symbols would have it: without marks, line ends made LF.

        A vocabulary with the mark or a CR is of a corpus that kept them, so they stay.
        """
        self._check(text)
        if self.level == "byte" or isinstance(text, bytes):
            return text
        text = text if MARK in self.symbols else text.replace(MARK, "")
        return text if "\r" in self.symbols else text.replace("\r\n", "\n").replace("\r", "\n")

    def begun(self, text: str | bytes) -> str | bytes:
        """Return `typed` of a text to go on from; where a line is a document, without the line end that ends it."""
        text = self.typed(text)
        if isinstance(text, str) and self.end is not None and "\n" not in self:
            return text.removesuffix("\n")
        return text

    def _check(self, text: str | bytes) -> None:
        """Raise TypeError for what is no text of these symbols: a str, or at the level byte bytes too."""
        if not isinstance(text, str) and (self.level == "char" or not isinstance(text, bytes)):
            cure = ": decode it" if isinstance(text, (bytes, bytearray)) else ""
            raise TypeError(f"a text is a str{' or bytes' * (self.level == 'byte')}, not {type(text).__name__}{cure}")

    def readable(self, symbols: str) -> str:
        """The text that symbols stand for; of bytes that are no UTF-8, U+FFFD."""
        return symbols.encode("latin-1").decode("utf-8", "replace") if self.level == "byte" else symbols

    def readables(self, pieces: Iterable[str]) -> Iterator[str]:
        """The same of pieces as they come."""
        if self.level == "char":
            yield from pieces
            return
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        for piece in pieces:
            if text := decoder.decode(piece.encode("latin-1")):
                yield text
        if text := decoder.decode(b"", final=True):
            yield text

    def places(self, symbols: str) -> np.ndarray:
        """The id (n,) of each of these symbols, -1 for one that is unknown."""
        return self._table.take(points_of(symbols), mode="clip").astype(np.int64)

    def decode(self, ids: np.ndarray | Sequence[int]) -> str:
        """The text of ids (n,), any integers in 0..V-1; ValueError for others."""
        ids = np.asarray(ids)
        if ids.ndim != 1 or ids.size and ids.dtype.kind not in "iu":
            raise ValueError(f"ids are integers (n,), not {ids.dtype} {ids.shape}")
        if ids.size == 0:
            return ""
        low, high = int(ids.min()), int(ids.max())
        if low < 0 or high >= len(self):
            raise ValueError(f"id {low if low < 0 else high} is not in 0..{len(self) - 1}")
        return self.readable(text_of(points_of(self.symbols)[ids]))

    def shown(self, symbol: str) -> str:
        """A symbol in words."""
        return _shown(symbol, self.level)

    @cached_property
    def _table(self) -> np.ndarray:
        """id by code point, -1 for a gap; (the highest code point + 2,), the last slot being all that lies above."""
        points = points_of(self.symbols)
        table = np.full(int(points[-1]) + 2, -1, np.int32)
        table[points] = np.arange(len(points), dtype=np.int32)
        return table

    @property
    def stand_in(self) -> int:
        """The id of what unknown symbols are replaced by."""
        ends = self.end == 0 and len(self) > 1  # END would part a document
        return next((self.symbols.index(s) for s in UNKNOWN + " " if s in self), int(ends))

    def __len__(self) -> int:
        return len(self.symbols)

    def __contains__(self, symbol: str) -> bool:
        return isinstance(symbol, str) and len(symbol) == 1 and symbol in self.symbols

    def __repr__(self) -> str:
        return f"<Vocab of {len(self):,} symbols>"


def points_of(text: str) -> np.ndarray:
    """The code points (n,) of a text; UTF-32 keeps lone surrogates apart, as UTF-16 would not."""
    if text.isascii():
        return np.frombuffer(text.encode("ascii"), np.uint8)
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), "<u4")


def text_of(points: np.ndarray) -> str:
    """The text of code points (n,)."""
    return points.astype("<u4").tobytes().decode("utf-32-le", "surrogatepass")


def _shown(symbol: str, level: str) -> str:
    return f"byte 0x{ord(symbol):02x}" if level == "byte" else repr(symbol)
