"""A vocabulary: the distinct characters of a text, sorted by code point, each known by its place."""
from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import numpy as np

ON_UNKNOWN = ("error", "skip", "replace")
_CHUNK = 1 << 20  # characters encoded at a time: the work arrays stay small whatever the text's length
_LISTED = 8  # unknown symbols that an error names


class UnknownSymbolError(ValueError):
    """Text with symbols outside the vocabulary: `symbols` has each once, sorted; str(error) is one line."""

    def __init__(self, symbols: Iterable[str]):
        self.symbols = "".join(sorted(set(symbols)))
        listed = ", ".join(f"{s!r} (U+{ord(s):04X})" for s in self.symbols[:_LISTED])
        count = len(self.symbols)
        more = f" and {count - _LISTED:,} more" if count > _LISTED else ""
        noun = "symbol is" if count == 1 else "symbols are"
        super().__init__(f"{count:,} {noun} not in the model's vocabulary: {listed}{more}; "
                         "--on-unknown skip drops them, --on-unknown replace puts a stand-in there")


@dataclass(frozen=True, repr=False)
class Vocab:
    """V symbols; a symbol's id is its place, 0 to V-1. Immutable, equal by its symbols, hashable."""

    symbols: str  # V characters, strictly increasing by code point

    def __post_init__(self):
        points = self.code_points
        if not points:
            raise ValueError("a vocabulary has one symbol at least")
        for before, after in pairwise(points):
            if before >= after:
                raise ValueError(f"code points are not strictly increasing: {before} stands before {after}")

    @classmethod
    def from_text(cls, text: str) -> Vocab:
        """The vocabulary of a text; ValueError for an empty one."""
        return cls("".join(sorted(set(text))))

    @classmethod
    def from_code_points(cls, code_points: Iterable[int]) -> Vocab:
        """The vocabulary with these code points; ValueError unless strictly increasing integers in 0..0x10FFFF."""
        try:
            points = list(code_points)
        except TypeError:
            raise ValueError(f"code points are a list of integers, not {code_points!r}") from None
        for point in points:
            if isinstance(point, bool) or not isinstance(point, (int, np.integer)) or not 0 <= point <= 0x10FFFF:
                raise ValueError(f"not a code point: {point!r}")
        return cls("".join(map(chr, points)))

    @property
    def code_points(self) -> list[int]:
        """The V code points, as a model file keeps them."""
        return list(map(ord, self.symbols))

    @cached_property
    def dtype(self) -> np.dtype:
        """The smallest of uint8, uint16 and uint32 that holds V-1: the type of encoded ids."""
        return np.min_scalar_type(len(self) - 1)

    def encode(self, text: str, on_unknown: str = "error") -> np.ndarray:
        """The ids (n,) of a text, of type `dtype`.

        Symbols outside the vocabulary raise UnknownSymbolError, are left out ("skip"), or become ("replace") U+FFFD, or
        where the vocabulary lacks it a space, or where it lacks that too symbol 0.
        """
        if on_unknown not in ON_UNKNOWN:
            raise ValueError(f"on_unknown is one of {', '.join(ON_UNKNOWN)}, not {on_unknown!r}")
        parts = []
        for start in range(0, len(text) or 1, _CHUNK):
            part = self._look_up(text[start:start + _CHUNK], on_unknown)
            if part is None:
                raise UnknownSymbolError(set(text) - set(self.symbols))
            parts.append(part)
        return np.concatenate(parts)

    def decode(self, ids) -> str:
        """The text of ids (n,), any integers in 0..V-1; ValueError for others."""
        ids = np.asarray(ids)
        if ids.ndim != 1 or ids.size and ids.dtype.kind not in "iu":
            raise ValueError(f"ids are integers (n,), not {ids.dtype} {ids.shape}")
        if ids.size == 0:
            return ""
        low, high = int(ids.min()), int(ids.max())
        if low < 0 or high >= len(self):
            raise ValueError(f"id {low if low < 0 else high} is not in 0..{len(self) - 1}")
        return _text(_points(self.symbols)[ids])

    def _look_up(self, text: str, on_unknown: str) -> np.ndarray | None:
        """The ids of a chunk of text; None where `on_unknown` is "error" and a symbol is unknown."""
        ids = self._table.take(_points(text), mode="clip")
        unknown = ids < 0
        if unknown.any():
            if on_unknown == "error":
                return None
            if on_unknown == "skip":
                ids = ids[~unknown]
            else:
                ids[unknown] = self._stand_in
        return ids.astype(self.dtype)

    @cached_property
    def _table(self) -> np.ndarray:
        """id by code point, -1 for a gap; (the highest code point + 2,), the last slot being all that lies above."""
        points = _points(self.symbols)
        table = np.full(int(points[-1]) + 2, -1, np.int32)
        table[points] = np.arange(len(points), dtype=np.int32)
        return table

    @property
    def _stand_in(self) -> int:
        return next((self.symbols.index(s) for s in "\ufffd " if s in self), 0)

    def __len__(self) -> int:
        return len(self.symbols)

    def __contains__(self, symbol: object) -> bool:
        return isinstance(symbol, str) and len(symbol) == 1 and symbol in self.symbols

    def __repr__(self) -> str:
        return f"<Vocab of {len(self):,} symbols>"


def _points(text: str) -> np.ndarray:
    """The code points (n,) of a text; UTF-32 keeps lone surrogates apart, as UTF-16 would not."""
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), "<u4")


def _text(points: np.ndarray) -> str:
    return points.astype("<u4").tobytes().decode("utf-32-le", "surrogatepass")
