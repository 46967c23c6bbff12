"""Tally of what the reading of a corpus dropped, changed and guessed, and the notes for the user made from it."""
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from .decode import AUTO, Outcome, label
from .folders import listed

LINES = 8   # number of files that get a note of their own
MANY = .01  # share of a file's bytes; if more are mended, the encoding is probably wrong


@dataclass
class Tally:
    """Counts that the reading steps of text.py update while a corpus is read."""

    symbols: list[int]  # number of symbols of each source
    marks: int = 0      # number of byte order marks that were removed
    crlf: int = 0       # number of CRLF line ends that became LF
    cr: int = 0         # number of lone CR line ends that became LF
    foreign: list[Outcome] = field(default_factory=list)  # one for each file with bytes above 0x7f

    def read(self, source: int, pieces: Iterable[str]) -> Iterator[str]:
        """Yield the pieces and count their symbols for the source with this index."""
        for piece in pieces:
            self.symbols[source] += len(piece)
            yield piece

    def decoded(self, outcome: Outcome, pieces: Iterable[str]) -> Iterator[str]:
        """Yield the decoded pieces of one file. At the end, keep the Outcome if the file has bytes above 0x7f."""
        yield from pieces
        if outcome.foreign:
            self.foreign.append(outcome)

    def notes(self, cure: bool = True) -> list[str]:
        """Return one line on removed byte order marks and one on changed line ends, each only if there were any.

        cure: the line on line ends names the option that keeps them.
        """
        notes = [f"dropped {self.marks:,} byte order mark{'s' * (self.marks > 1)}"] if self.marks else []
        ends = [f"{count:,} {kind}" for count, kind in ((self.crlf, "CRLF"), (self.cr, "lone CR")) if count]
        if ends:
            notes.append(f"normalised {' and '.join(ends)} line end{'s' * (self.crlf + self.cr > 1)} to LF"
                         + " (--newline keep leaves them)" * cure)
        return notes

    def encodings(self, encoding: str, errors: str) -> list[str]:
        """Return the lines on guessed encodings, mended bytes and encodings that are probably wrong.

        encoding, errors: the encoding and the treatment of invalid bytes (decode.ERRORS) that the user asked for.
        """
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
        """Return one warning if files that are valid UTF-8 were read in another encoding, else no line.

        If other files are not valid UTF-8, the warning names those and advises --encoding auto.
        """
        right = [outcome.name for outcome in self.foreign if outcome.compared and not outcome.mistaken]
        # A file with mended bytes has a line of its own already, with the encoding that it looks like.
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
    """Return a hint at the right encoding of a file with mended bytes, as the end of a sentence, or "" for no hint.

    used: the encoding in which the file was read.
    """
    if outcome.looks is None and outcome.mended > MANY * outcome.size:
        return "; so many may be text in another --encoding (latin-1, cp1251, gb18030, shift_jis, ...)"
    if outcome.looks in (None, used):
        return ""
    return f"; it looks like {label(outcome.looks)}: --encoding {outcome.looks if outcome.alone else AUTO}"


def _bytes(count: int) -> str:
    """Return a number of bytes in words."""
    return f"{count:,} byte{'s' * (count != 1)}"


def _first(lines: list[str], rest: str) -> list[str]:
    """Return the first LINES lines, and `rest` in place of the others if there are more."""
    return lines[:LINES] + [rest] * (len(lines) > LINES)
