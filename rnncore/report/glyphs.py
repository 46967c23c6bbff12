"""A glyph shows a symbol on a page. A symbol that would move, hide or reorder other text gets a visible stand-in."""
import unicodedata
from typing import NamedTuple

from ..data.endings import END

BOX = "\N{WHITE VERTICAL RECTANGLE}"
ORDERING = {*range(0x202A, 0x202F), *range(0x2066, 0x206A), 0x200E, 0x200F, 0x061C}  # bidirectional controls
HIDDEN = {"Cc", "Cf", "Cs", "Co", "Zl", "Zp"}  # Unicode categories of characters without a shape of their own
HARMFUL = {"Cc", "Cs", "Zl", "Zp"}  # Unicode categories: control characters, lone surrogates, line separators
SPACES = {"\n": ("\N{DOWNWARDS ARROW WITH CORNER LEFTWARDS}\n", "newline"), "\t": ("\N{RIGHTWARDS ARROW}\t", "tab"),
          " ": (" ", "space"), END: ("\N{SYMBOL FOR END OF TEXT}\n", "end of the document")}


class Glyph(NamedTuple):
    """The text that shows a symbol, and its name."""
    text: str  # may end with the line end or tab that the symbol is
    name: str  # read aloud by screen readers; "" for a letter or digit, which is its own name


def glyph(symbol: str, level: str = "char") -> Glyph:
    """Return the glyph of a symbol of a vocabulary.

    level: char, or byte, where a symbol is the character whose code point is the byte.
    """
    point = ord(symbol)
    if symbol in SPACES and not (level == "byte" and symbol == END):
        return Glyph(*SPACES[symbol])
    if level == "byte" and point > 126:
        return Glyph("\N{MIDDLE DOT}", f"byte 0x{point:02x}")
    # U+034F, COMBINING GRAPHEME JOINER, has no shape either, but its category is that of accents.
    if unicodedata.category(symbol) in HIDDEN or symbol == "\u034f":
        return Glyph(_stand_in(symbol), _name(symbol))
    return Glyph(symbol, "" if symbol.isalnum() else _name(symbol))


def visible(text: str) -> str:
    """Return a text for a page: line ends and tabs stay, other control characters become pictures of themselves.

    Characters that would reorder the text, other line separators and lone surrogates become boxes.
    """
    if text.isprintable():
        return text
    return "".join(_stand_in(character) if character not in "\n\t" and (
        unicodedata.category(character) in HARMFUL or ord(character) in ORDERING) else character for character in text)


def _stand_in(character: str) -> str:
    """Return the control picture of a character (Unicode block U+2400), or a box if it has none."""
    point = ord(character)
    return chr(0x2400 + point) if point < 32 else "\N{SYMBOL FOR DELETE}" if point == 127 else BOX


def _name(symbol: str) -> str:
    """Return the Unicode name of a symbol in lower case, or its code point if it has no name."""
    return unicodedata.name(symbol, "").lower() or f"U+{ord(symbol):04X}"
