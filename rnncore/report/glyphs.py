"""A glyph is how a symbol is shown on a page: what would move, hide or reorder other text has a visible stand-in."""
import unicodedata
from typing import NamedTuple

from ..data.endings import END

BOX = "\N{WHITE VERTICAL RECTANGLE}"
ORDERING = {*range(0x202A, 0x202F), *range(0x2066, 0x206A), 0x200E, 0x200F, 0x061C}  # bidirectional controls
HIDDEN = {"Cc", "Cf", "Cs", "Co", "Zl", "Zp"}  # categories of what has no shape of its own
SPACES = {"\n": ("\N{DOWNWARDS ARROW WITH CORNER LEFTWARDS}\n", "newline"), "\t": ("\N{RIGHTWARDS ARROW}\t", "tab"),
          " ": (" ", "space"), END: ("\N{SYMBOL FOR END OF TEXT}\n", "end of the document")}


class Glyph(NamedTuple):
    """What stands for a symbol in a text, and what it is called."""
    text: str
    name: str


def glyph(symbol: str, level: str = "char") -> Glyph:
    """The glyph of a symbol of a vocabulary; level: char or byte, where it is the code point of the same number."""
    point = ord(symbol)
    if symbol in SPACES and not (level == "byte" and symbol == END):
        return Glyph(*SPACES[symbol])
    if level == "byte" and point > 126:
        return Glyph("\N{MIDDLE DOT}", f"byte 0x{point:02x}")
    if unicodedata.category(symbol) in HIDDEN or symbol == "\u034f":
        return Glyph(_stand_in(symbol), _name(symbol))
    return Glyph(symbol, "" if symbol.isalnum() else _name(symbol))


def visible(text: str) -> str:
    """text for a page: line ends and tabs stay, other controls are pictures, lone surrogates and the like boxes."""
    if text.isprintable():
        return text
    return "".join(character if character in "\n\t" or character.isprintable() or not _harmful(character)
                   else _stand_in(character) for character in text)


def _harmful(character: str) -> bool:
    return unicodedata.category(character) in {"Cc", "Cs", "Zl", "Zp"} or ord(character) in ORDERING


def _stand_in(character: str) -> str:
    """A control picture (Unicode block U+2400) where there is one, else a box."""
    point = ord(character)
    return chr(0x2400 + point) if point < 32 else "\N{SYMBOL FOR DELETE}" if point == 127 else BOX


def _name(symbol: str) -> str:
    return unicodedata.name(symbol, "").lower() or f"U+{ord(symbol):04X}"
