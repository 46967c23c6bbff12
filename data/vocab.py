"""Vocabulary: the distinct symbols of a text, sorted by code point. The id of a symbol is its index."""
import codecs
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import Any

import numpy as np

from .endings import END, KINDS

LEVELS = ("char", "byte")  # kinds of symbol: a Unicode code point, or a byte
MARK = "\ufeff"             # the byte order mark
UNKNOWN = "\ufffd"          # the symbol that replaces rare and unknown symbols
ON_UNKNOWN = ("error", "skip", "replace")  # treatment of symbols outside the vocabulary, see Vocab.encode
_CHUNK = 1 << 20  # characters encoded at a time, so that temporary arrays stay small for a long text
_LISTED = 8  # number of unknown symbols that an error names


class UnknownSymbolError(ValueError):
    """A text has symbols outside the vocabulary. `symbols` has each of them once, sorted; str(error) is one line."""

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
    """V symbols with ids 0 to V-1, and the settings by which a text becomes such symbols.

    A Vocab is immutable and hashable, and equal to another one if all its fields are equal. At level "byte" a symbol is
    a byte, written as the code point of the same number.
    Raises TypeError if symbols is not a str, and ValueError for a field with a bad value or for fields that contradict.
    """

    symbols: str  # V characters, strictly increasing by code point
    level: str = "char"  # one of LEVELS
    lower: bool = False  # True: texts are turned into lower case before they are encoded
    min_count: int = 1   # above 1: symbols that occur less often were replaced by UNKNOWN, one of the symbols
    documents: str = "none"  # separation of documents, as in text.Reading; END is a symbol unless it is "none"
    field: str = "text"      # key of the text in JSON, as in text.Reading

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
        """Return the vocabulary of a text. Raises ValueError for an empty text and TypeError if text is not a str."""
        if not isinstance(text, str):
            raise TypeError(f"a text is a str, not {type(text).__name__}")
        return cls("".join(sorted(set(text))))

    @classmethod
    def from_code_points(cls, code_points: Iterable[int], level: str = "char", lower: bool = False,
                         min_count: int = 1, documents: str = "none", field: str = "text") -> "Vocab":
        """Return the vocabulary with these code points and settings.

        Raises ValueError unless code_points are strictly increasing integers in 0..0x10FFFF.
        """
        try:
            points = list(code_points)
        except TypeError:
            raise ValueError(f"code points are a list of integers, not {code_points!r}") from None
        plain = set(map(type, points)) == {int} and 0 <= min(points) <= max(points) <= 0x10FFFF
        # Up to a million points: check each one only if the fast check of all of them has failed.
        for point in () if plain else points:
            if isinstance(point, bool) or not isinstance(point, (int, np.integer)) or not 0 <= point <= 0x10FFFF:
                raise ValueError(f"not a code point: {point!r}")
        return cls("".join(map(chr, points)), level, lower, min_count, documents, field)

    def __getstate__(self) -> dict[str, Any]:
        """Return the fields, from which a copy is made. The copy makes its own look-up table."""
        return {f.name: getattr(self, f.name) for f in fields(self)}

    @property
    def code_points(self) -> list[int]:
        """Return the V code points, as a model file stores them."""
        return list(map(ord, self.symbols))

    @property
    def settings(self) -> dict[str, Any]:
        """Return the fields other than `symbols` that differ from their defaults, as a model file stores them."""
        return {f.name: getattr(self, f.name) for f in fields(self)[1:] if getattr(self, f.name) != f.default}

    def frequent(self, counts: np.ndarray, least: int) -> "Vocab":
        """Return the vocabulary of the symbols that occur at least `least` times. counts (V,): how often each occurs.

        UNKNOWN is added if a symbol is left out. END is never left out of a vocabulary of documents.
        """
        kept = {s for s, count in zip(self.symbols, counts.tolist(), strict=True) if count >= least}
        kept |= {END} if self.documents != "none" else set()
        symbols = kept if len(kept) == len(self) else kept | {UNKNOWN}
        return replace(self, symbols="".join(sorted(symbols)), min_count=least)

    def with_symbols(self, new: Iterable[str]) -> "Vocab":
        """Return a copy with these symbols added."""
        return replace(self, symbols="".join(sorted({*self.symbols, *new})))

    def parted(self, documents: str, field: str) -> "Vocab":
        """Return a copy with these settings for documents; END is added unless documents is "none"."""
        symbols = self.symbols if documents == "none" or END in self else "".join(sorted(self.symbols + END))
        return replace(self, symbols=symbols, documents=documents, field=field)

    @cached_property
    def end(self) -> int | None:
        """Return the id of END, which ends a document, or None if the text is not made of documents."""
        return self.symbols.index(END) if self.documents != "none" else None

    @cached_property
    def dtype(self) -> np.dtype:
        """Return the type of encoded ids: the smallest of uint8, uint16 and uint32 that holds V-1."""
        return np.min_scalar_type(len(self) - 1)

    def encode(self, text: str | bytes, on_unknown: str = "error") -> np.ndarray:
        """Return the ids (n,) of a text, of type `dtype`. At level "byte", a str is turned into its UTF-8 bytes first.

        on_unknown: treatment of symbols outside the vocabulary. "error" raises UnknownSymbolError, "skip" leaves them
        out, and "replace" puts `stand_in` in their place. Raises ValueError for another on_unknown, and TypeError for a
        text that is neither a str nor, at level "byte", bytes.
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
        """Return the symbols of a text: in lower case if `lower` is set, and at level "byte" one for each byte.

        A symbol may be outside the vocabulary. Raises TypeError as `encode` does.
        """
        self._check(text)
        if isinstance(text, bytes):
            return text.decode("latin-1")
        if self.level == "byte":
            return text.encode("utf-8", "surrogatepass").decode("latin-1")
        return text.lower() if self.lower else text

    def typed(self, text: str | bytes) -> str | bytes:
        """Return a text that a user typed with the changes that reading a corpus makes.

        Byte order marks are removed, and CRLF and lone CR become LF. But marks stay if the mark is in the vocabulary,
        and line ends stay if CR is in the vocabulary, because then the corpus kept them. At level "byte" the text does
        not change. Raises TypeError as `encode` does.
        """
        self._check(text)
        if self.level == "byte" or isinstance(text, bytes):
            return text
        text = text if MARK in self.symbols else text.replace(MARK, "")
        return text if "\r" in self.symbols else text.replace("\r\n", "\n").replace("\r", "\n")

    def begun(self, text: str | bytes) -> str | bytes:
        """Return the beginning of a text for the model to go on from, with the changes that `typed` makes.

        If documents have no LF inside, an LF at the end is removed: it would end the document.
        """
        text = self.typed(text)
        if isinstance(text, str) and self.end is not None and "\n" not in self:
            return text.removesuffix("\n")
        return text

    def _check(self, text: str | bytes) -> None:
        """Raise TypeError if `text` is neither a str nor, at level "byte", bytes."""
        if not isinstance(text, str) and (self.level == "char" or not isinstance(text, bytes)):
            cure = ": decode it" if isinstance(text, (bytes, bytearray)) else ""
            raise TypeError(f"a text is a str{' or bytes' * (self.level == 'byte')}, not {type(text).__name__}{cure}")

    def readable(self, symbols: str) -> str:
        """Return the text of these symbols. At level "byte", U+FFFD replaces bytes that are not UTF-8."""
        return symbols.encode("latin-1").decode("utf-8", "replace") if self.level == "byte" else symbols

    def readables(self, pieces: Iterable[str]) -> Iterator[str]:
        """Yield the text of symbols that come in pieces, as `readable` does for all of them at once.

        At level "byte", the bytes of an unfinished character wait for the next piece.
        """
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
        """Return the id of each symbol (n,) int64, -1 for a symbol outside the vocabulary."""
        # Mode "clip" sends every code point above the highest one to the last entry of the table, which is -1.
        return self._table.take(points_of(symbols), mode="clip").astype(np.int64)

    def decode(self, ids: np.ndarray | Sequence[int]) -> str:
        """Return the text of ids (n,). Raises ValueError unless they are integers in 0..V-1."""
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
        """Return a symbol as messages show it: 'a' or, at level "byte", byte 0x61."""
        return _shown(symbol, self.level)

    @cached_property
    def _table(self) -> np.ndarray:
        """Return the table code point -> id (highest code point + 2,) int32, with -1 for code points without an id.

        The last entry is -1 and stands for all code points above the highest one.
        """
        points = points_of(self.symbols)
        table = np.full(int(points[-1]) + 2, -1, np.int32)
        table[points] = np.arange(len(points), dtype=np.int32)
        return table

    @property
    def stand_in(self) -> int:
        """Return the id of the symbol that replaces unknown symbols.

        The symbol is U+FFFD, else a space, else the first one that is not END: END would cut a document in two.
        """
        ends = self.end == 0 and len(self) > 1
        return next((self.symbols.index(s) for s in UNKNOWN + " " if s in self), int(ends))

    def __len__(self) -> int:
        return len(self.symbols)

    def __contains__(self, symbol: str) -> bool:
        return isinstance(symbol, str) and len(symbol) == 1 and symbol in self.symbols

    def __repr__(self) -> str:
        return f"<Vocab of {len(self):,} symbols>"


def points_of(text: str) -> np.ndarray:
    """Return the code points (n,) of a text: uint8 for ASCII, else uint32."""
    if text.isascii():
        return np.frombuffer(text.encode("ascii"), np.uint8)
    # UTF-16 would join two lone surrogates into one character. UTF-32 does not.
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), "<u4")


def text_of(points: np.ndarray) -> str:
    """Return the text of code points (n,)."""
    return points.astype("<u4").tobytes().decode("utf-32-le", "surrogatepass")


def _shown(symbol: str, level: str) -> str:
    return f"byte 0x{ord(symbol):02x}" if level == "byte" else repr(symbol)
