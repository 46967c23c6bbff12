"""A probe is a number for every symbol of a text, computed from the text alone. A cell of a network may follow it.

(Karpathy, Johnson & Fei-Fei 2015, "Visualizing and Understanding Recurrent Networks": cells that follow quotes,
brackets and the length of a line.) A probe's number at a symbol holds after the symbol has been read: at an opening
quote the text is inside the quote, at a newline the line has 0 symbols. A new document begins after END, and there all
probes begin again.
"""
import re
from collections.abc import Callable, Iterator
from functools import wraps

import numpy as np

from ..data.endings import END

Probe = Callable[[str], np.ndarray]

CODE = 0.15  # share of lines that look like code, above which a text is code: half of it may be prose in strings
LINE = 200   # symbols at the beginning of a line that are matched: the time of a match grows with their square
LINES = {    # language -> pattern of a line that looks like it
    "python": re.compile(r"""[ \t]*(?:
        (?:def|class)\s+\w+.*[:(,]$ | (?:from\s+[\w.]+\s+)?import\s+[\w.*(] | (?:return|raise|yield|assert)\b
        | (?:if|elif|else|for|while|with|try|except)\b.*:$ | @\w | >>>\s
        | [\w.]+(?:\[.*\])?\s*[-+*/|&]?=\s*\S | \w+(?:\.\w+)*\(.*[(,)]$ )""", re.X),
    "c": re.compile(r"""[ \t]*(?:
        .*[()=\[\]{}].*;$ | .*[{}]$ | [)}\]]+[;,)]*$ | // | /\*
        | \#\s*(?:include|define|undef|if|ifdef|ifndef|else|endif|pragma)\b )""", re.X),
}

# If no mark closes a quote or a comment, the quote or comment ends before the end of its line or paragraph.
_LINE_END, _PARAGRAPH_END = r"(?=\n)", r"(?=\n[ \t]*\n)"
MARKS = {  # language -> opening mark -> quotes or comment, and the pattern that closes it
    "prose": {'"': ("quotes", '"|' + _PARAGRAPH_END), "\u201c": ("quotes", "\u201d|" + _PARAGRAPH_END),
              "\u201e": ("quotes", "[\u201c\u201d]|" + _PARAGRAPH_END), "\xab": ("quotes", "\xbb|" + _PARAGRAPH_END),
              "\u300c": ("quotes", "\u300d|" + _PARAGRAPH_END)},
    "python": {'"""': ("quotes", '"""'), "'''": ("quotes", "'''"), '"': ("quotes", '"|' + _LINE_END),
               "'": ("quotes", "'|" + _LINE_END), "#": ("comment", _LINE_END)},
    "c": {'"': ("quotes", '"|' + _LINE_END), "'": ("quotes", "'|" + _LINE_END), "`": ("quotes", "`"),
          "//": ("comment", _LINE_END), "/*": ("comment", r"\*/")},
}


def _by_document(probe: Probe) -> Probe:
    """Return the probe computed for each document separately; at END it is 0."""
    @wraps(probe)
    def of_text(text: str) -> np.ndarray:
        first, *others = text.split(END)
        parts = [probe(first), *(part for document in others for part in (np.zeros(1), probe(document)))]
        return np.concatenate(parts).astype(np.float64)
    return of_text


def language(text: str) -> str:
    """Return the kind of text that a text looks like: python, prose, or c, which includes C++, Java and JavaScript."""
    lines = [line.strip()[:LINE] for line in text.split("\n") if line.strip()]
    hits = {name: sum(map(bool, map(pattern.match, lines))) for name, pattern in LINES.items()}
    likeliest = max(hits, key=hits.__getitem__)
    return likeliest if hits[likeliest] > CODE * len(lines) else "prose"


def spans(text: str) -> Iterator[tuple[str, int, int]]:
    """Yield ("quotes" or "comment", begin, end) of each quote and comment in a text.

    begin is the place of the opening mark, which is inside. end is the place of the closing mark's last symbol, which
    is outside. In a string of code, a backslash hides the symbol after it. An apostrophe is a quotation mark in code
    only, and not within a number of C. In code, a quotation mark that is not closed on its line opens nothing (a
    lifetime in Rust, a regular expression). In prose, a quote that is not closed ends with its paragraph.
    """
    kind = language(text)
    marks, escape = MARKS[kind], "" if kind == "prose" else r"\\.|"
    hidden = r"(?<![0-9])" if kind == "c" else ""
    opening = re.compile("|".join((hidden if mark == "'" else "") + re.escape(mark) for mark in marks))
    closing = {mark: re.compile(f"(?:{escape if what == 'quotes' else ''}.)*?(?:({close})|\\Z)", re.S)
               for mark, (what, close) in marks.items()}
    place = 0
    while (found := opening.search(text, place)) and (ended := closing[found[0]].match(text, found.end())):
        if kind != "prose" and marks[found[0]][0] == "quotes" and ended[1] == "":
            place = found.end()
            continue
        place = ended.end()
        yield marks[found[0]][0], found.start(), place - bool(ended[1])


def _inside(text: str, wanted: str) -> np.ndarray:
    """Return (n,): 1 inside the spans of one kind, quotes or comment, else 0."""
    inside = np.zeros(len(text))
    for kind, begin, end in spans(text):
        inside[begin:end] = kind == wanted
    return inside


def _is(text: str, test: Callable[[str], bool]) -> np.ndarray:
    """Return (n,) bool: the test of every symbol."""
    return np.fromiter(map(test, text), bool, len(text))


def _since(marks: np.ndarray) -> np.ndarray:
    """Return (n,): the number of symbols since the last True in marks (n,), as if a True stood before the text."""
    places = np.arange(len(marks))
    return places - np.maximum.accumulate(np.where(marks, places, -1))


# Users read the docstrings of the probes below: the report shows the first line, `rnncore neurons --json` all lines.
def inside_quotes(text: str) -> np.ndarray:
    """1 inside quotation marks, of code inside strings, else 0."""
    return _inside(text, "quotes")


def inside_comment(text: str) -> np.ndarray:
    """1 inside a comment of what looks like code, else 0."""
    return _inside(text, "comment")


def bracket_depth(text: str) -> np.ndarray:
    """How many of ( [ { are open; those in strings and comments of code do not count, nor what closes none.

    In prose a blank line closes all.
    """
    change = np.zeros(len(text))
    for place, symbol in enumerate(text):
        if symbol in "()[]{}":
            change[place] = 1 if symbol in "([{" else -1
    breaks = []
    if language(text) == "prose":
        breaks = [blank.end() for blank in re.finditer(r"\n[ \t]*(?=\n)", text)]
    else:
        change[(_inside(text, "quotes") + _inside(text, "comment")) > 0] = 0
    levels = map(np.cumsum, np.split(change, breaks))
    return np.concatenate([level - np.minimum(np.minimum.accumulate(level), 0) for level in levels])


def line_position(text: str) -> np.ndarray:
    """How many symbols of the line have been read: 0 at the newline before it."""
    return _since(_is(text, "\n".__eq__))


def indentation(text: str) -> np.ndarray:
    """How many blanks the line began with, of those read so far."""
    found = np.zeros(len(text))
    for line in re.finditer(r"([ \t]*)[^\n]*", text):
        read = np.arange(1, line.end() - line.start() + 1)
        found[line.start():line.end()] = np.minimum(read, len(line[1]))
    return found


def digit(text: str) -> np.ndarray:
    """1 at a digit, else 0."""
    return _is(text, str.isdigit)


def upper_case(text: str) -> np.ndarray:
    """1 at a capital letter, else 0."""
    return _is(text, str.isupper)


def after_newline(text: str) -> np.ndarray:
    """1 once a newline has been read, else 0: a line begins."""
    return _is(text, "\n".__eq__)


def since_space(text: str) -> np.ndarray:
    """How many symbols have been read since the last blank, tab or newline: the length of the word so far."""
    return _since(_is(text, str.isspace))


PROBES: dict[str, Probe] = {name: _by_document(probe) for name, probe in {
    "inside quotes": inside_quotes, "bracket depth": bracket_depth, "position in the line": line_position,
    "indentation": indentation, "digit": digit, "upper case": upper_case, "after a newline": after_newline,
    "inside a comment": inside_comment, "distance to the last space": since_space}.items()}


def measure(text: str) -> dict[str, np.ndarray]:
    """Return the probes that vary in a text of n symbols: name -> (n,) float64."""
    found = {name: probe(text) for name, probe in PROBES.items()}
    return {name: values for name, values in found.items() if len(values) and np.ptp(values)}
