"""What the reading of a corpus dropped, changed and took for something else, and the lines that say so, once each."""
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from .decode import AUTO, Outcome, label
from .folders import listed

LINES = 8   # files that have a line of their own
MANY = .01  # the share of a file's bytes above which those mended are more than an odd one


@dataclass
class Tally:
    """What the steps dropped, changed and passed on."""

    symbols: list[int]  # of each source
    marks: int = 0
    crlf: int = 0
    cr: int = 0
    foreign: list[Outcome] = field(default_factory=list)  # of the files with bytes above 0x7f

    def read(self, source: int, pieces: Iterable[str]) -> Iterator[str]:
        """The pieces, counted for their source."""
        for piece in pieces:
            self.symbols[source] += len(piece)
            yield piece

    def decoded(self, outcome: Outcome, pieces: Iterable[str]) -> Iterator[str]:
        """The pieces of one file; when it is read, what came of decoding it is kept."""
        yield from pieces
        if outcome.foreign:
            self.foreign.append(outcome)

    def notes(self, cure: bool = True) -> list[str]:
        """A line for the marks, and one for the line ends; cure: with the option that keeps them."""
        notes = [f"dropped {self.marks:,} byte order mark{'s' * (self.marks > 1)}"] if self.marks else []
        ends = [f"{count:,} {kind}" for count, kind in ((self.crlf, "CRLF"), (self.cr, "lone CR")) if count]
        if ends:
            notes.append(f"normalised {' and '.join(ends)} line end{'s' * (self.crlf + self.cr > 1)} to LF"
                         + " (--newline keep leaves them)" * cure)
        return notes

    def encodings(self, encoding: str, errors: str) -> list[str]:
        """What is to be said of how the files were decoded; encoding, errors: what was asked for."""
        found = [outcome for outcome in self.foreign if outcome.found]
        mended = [outcome for outcome in self.foreign if outcome.mended]
        left = sum(outcome.mended for outcome in mended[LINES:])
        done, by = ("skipped", "") if errors == "skip" else ("replaced", " by U+FFFD")

        def used(outcome: Outcome) -> str:
            return outcome.found or ("utf-8" if encoding == AUTO else encoding)

        def of_bytes(outcome: Outcome) -> str:
            hint = _other(outcome, used(outcome))
            return (f"{'warning: ' * bool(hint)}{outcome.name}: {done} {_bytes(outcome.mended)} that "
                    f"{'is' if outcome.mended == 1 else 'are'} not {label(used(outcome))}{by}{hint}")

        return [
            *_first([f"{outcome.name} is not UTF-8: read as {label(used(outcome))}" for outcome in found],
                    f"{len(found) - LINES:,} more files are not UTF-8: read as they look, too"),
            *_first(list(map(of_bytes, mended)), f"{len(mended) - LINES:,} more files: {done} {_bytes(left)}{by}"),
            *self._mistaken(encoding)]

    def _mistaken(self, encoding: str) -> list[str]:
        """A warning where files that are valid UTF-8 were read otherwise; which are none, where only some are."""
        right = [outcome.name for outcome in self.foreign if outcome.compared and not outcome.mistaken]
        wrong = [(each.name, each.mistaken) for each in self.foreign if each.mistaken and not each.mended]
        if not wrong:
            return []
        name, (symbol, made) = wrong[0]
        which = f"{name} is" if len(wrong) == 1 else f"{len(wrong):,} files, as {name}, are"
        cure = "leave --encoding out" if not right else (
            f"{listed(right)} {'is' if len(right) == 1 else 'are'} not; --encoding {AUTO} "
            "reads each file in its own encoding")
        read = f"read as {label(encoding)}, which makes {made!r} of {symbol!r}"
        return [f"warning: {which} valid UTF-8, and {read}: {cure}"]


def _other(outcome: Outcome, used: str) -> str:
    """Which encoding may be the right one of a file in which more than the odd byte was mended; else nothing."""
    if outcome.looks is None and outcome.mended > MANY * outcome.size:
        return "; so many may be text in another --encoding (latin-1, cp1251, gb18030, shift_jis, ...)"
    if outcome.looks in (None, used):
        return ""
    return f"; it looks like {label(outcome.looks)}: --encoding {outcome.looks if outcome.alone else AUTO}"


def _bytes(count: int) -> str:
    return f"{count:,} byte{'s' * (count != 1)}"


def _first(lines: list[str], rest: str) -> list[str]:
    """The first of the lines, a file each, and one for those that are left."""
    return lines[:LINES] + [rest] * (len(lines) > LINES)
