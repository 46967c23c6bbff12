"""A table for people: rows of words, aligned."""
from collections.abc import Sequence


def aligned(rows: Sequence[tuple[str, ...]]) -> list[str]:
    """Lines: the first column to the left, the others to the right; without those that have a head alone."""
    columns = [column for place, column in enumerate(zip(*rows, strict=True)) if place == 0 or any(column[1:])]
    rows = list(zip(*columns, strict=True))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join([row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in
                                                  zip(row[1:], widths[1:], strict=True))]).rstrip() for row in rows]


def digits(number: float) -> str:
    """A number in three digits or more."""
    return f"{number:.3g}" if number < 999.5 else f"{number:,.0f}"
