"""The probes on prose, Python, C and documents: by hand, against Python's own tokenizer, and with errors planted."""
import inspect
import io
import itertools
import tokenize
from pathlib import Path

import numpy as np
import pytest
from conftest import planted_in
from hypothesis import given, strategies as st

from rnncore.report import probes
from rnncore.report.probes import PROBES, language, measure

ROOT = Path(__file__).resolve().parents[2]
PROSE = "It was late when they came home, and nobody spoke.\n"
PYTHON = "import os\nx = 1\ny = f(x)\n"
C = "int main(void) {\n  x = f(1);\n}\n"


def seen(name: str, before: str, text: str, module=probes) -> str:
    """The text after `before`, with <| and |> where a probe turns from 0 and back to it."""
    values = module.PROBES[name](before + text)[len(before):]
    out = ""
    for on, part in itertools.groupby(zip(text, values, strict=True), lambda pair: pair[1] != 0):
        symbols = "".join(symbol for symbol, _ in part)
        out += f"<|{symbols}|>" if on else symbols
    return out


def bare(text: str) -> str:
    return text.replace("<|", "").replace("|>", "")


def digits(name: str, before: str, text: str, module=probes) -> str:
    """A probe's value, below 10, at every symbol of the text after `before`."""
    return "".join(str(int(value)) for value in module.PROBES[name](before + text)[len(before):])


MARKED = [  # probe, what stands before, the text with what is inside marked
    *(("inside quotes", PROSE, text) for text in (
        'She said, <|"Go!|>" and went.', '<|"It\'s,|>" he said, <|"the dogs\' house; don\'t.|>"',
        "I can't; 'tis the dogs' own. He's here.", "<|\u201cYes,|>\u201d she said, <|\u201cit\u2019s \u2018mine\u2019|>\u201d.",
        '<|\u201eJa|>\u201c, und <|\xabnon|>\xbb, <|"so|>".', '<|"a \u201cb\u201d c|>" d', 'He said <|"go\nhome|>" and',
        '<|"Never closed.|>\n\nThe next: <|"Yes|>"', '<|"One|>\n \t\nand <|"two|>".', '<|"|>"<|"|>', "no # 'comment' \\<|\"|>\"")),
    *(("inside quotes", PYTHON, text) for text in (
        "s = <|'it|>'  # don't", 's = <|"it\'s|>" + <|\'a "b" \\\' c|>\'', '<|"""A "quoted" word.\n\nIt\'s.""|>"\nx = <|\'y|>\'',
        "s = <|'''a\n''b''\n''|>'", "s = 'never closed\nt = <|'yes|>'", 'f(<|"|>", <|\'|>\')', "<|'\\\\|>' + <|'\\|>", "<|'ends \\|>",
        'r<|"# no|>"', "x = 1 // 2  # a 'b'\n")),
    *(("inside quotes", C, text) for text in (
        "// a\\\nc = <|'x|>'", "let s: &'static str = x;\n", "const s = <|`it's ${a} \"\nb|>` + c;", "return /['\"]/.test(s); // no\n",
        's = <|"a // b|>"; c = <|\'"|>\'; /* it\'s "x" */', "int n = 1'000'000; c = <|'\\'|>'; // don't\n", 's = <|"/* no|>"')),
    *(("inside a comment", PYTHON, text) for text in (
        "x = 1  <|# it's \"one\"|>\ny = '# no'", "<|# C:\\|>\ny = 1", "<|#|>\n<|# a # b|>", '"""\n# no\n"""\n', "x = 1 // 2\n/* no */")),
    *(("inside a comment", C, text) for text in (
        "<|/* \\d\\*|>/ x",
        "x = 1; <|// it's # y|>\n#include <a>", "<|/* a\n// b *|>/ c", 's = "// no"; <|/* never\nclosed|>', "<|/**|>/ a / b")),
    ("inside a comment", PROSE, "a # b // c /* d */ is prose"),
]
VALUES = [  # probe, what stands before, the text, its values
    ("bracket depth", PROSE, "a (b [c] {d}) e", "001112211221000"),
    ("bracket depth", PROSE, ") (a)) (b", "001100011"), ("bracket depth", PROSE, '"(a"', "0111"),
    ("bracket depth", PYTHON, "f('(', [1])  # :(", "01111112210000000"), ("bracket depth", PYTHON, "(\n\na", "1111"),
    ("bracket depth", PROSE, "(a\n\nb (\n \t\nc", "111000111100"), ("bracket depth", PROSE, "(a\nb", "1111"),
    ("bracket depth", C, "f(')'); // (\n{", "01111000000001"),
    ("position in the line", "", "ab\n\ncd\n", "1200120"), ("position in the line", PROSE, "a\r\nb", "1201"),
    ("indentation", "", "  a b\n\tc \n   \n d", "1222201110123011"),
    ("digit", "", "a1 2b\n", "010100"), ("upper case", "", "aBÉ c\nD1", "01100010"),
    ("bracket depth", "", "((\x03(", "1201"), ("position in the line", "", "ab\x03\x03c", "12001"),
    ("after a newline", "", "a\n\nb\n", "01101"), ("distance to the last space", "", "ab c\td\n\nef", "1201010012"),
]


@pytest.mark.parametrize("name, before, text", MARKED)
def test_quotes_brackets_and_comments_mark_what_is_inside_them(name, before, text):
    assert seen(name, before, bare(text)) == text


@pytest.mark.parametrize("name, before, text, wanted", VALUES)
def test_depths_and_positions_are_counted(name, before, text, wanted):
    assert digits(name, before, text) == wanted


# Against what others say of the same text

def strings_and_comments(source: str) -> np.ndarray:
    """What Python's own tokenizer takes for a string, 1, or a comment, 2, as the probes count them."""
    starts = [0, *itertools.accumulate(map(len, source.splitlines(keepends=True)))]
    kinds, prefix = np.zeros(len(source)), "rRbBfFuU"
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        begin, end = (starts[line - 1] + column for line, column in (token.start, token.end))
        if token.type == tokenize.STRING:
            kinds[begin + len(token.string) - len(token.string.lstrip(prefix)):end - 1] = 1
        elif token.type == tokenize.COMMENT:
            kinds[begin:end] = 2
    return kinds


@pytest.mark.skipif(hasattr(tokenize, "FSTRING_START"), reason="an f-string is many tokens from Python 3.12 on")
@pytest.mark.parametrize("path", ["kernels/cuda/ops.py", "rnncore/sample.py", "tests/report/test_probes.py", "tests/data/test_cli_levels.py"])
def test_python_files_as_its_tokenizer_reads_them(path):
    source = (ROOT / path).read_text(encoding="utf-8") if (ROOT / path).is_file() else pytest.skip("no checkout")
    quotes, comment = PROBES["inside quotes"](source), PROBES["inside a comment"](source)
    assert np.array_equal(quotes + 2 * comment, strings_and_comments(source))


def slowly(text: str) -> dict[str, list[float]]:
    """Probes that need no look ahead, symbol by symbol; there are no quotes."""
    prose = iter([language(document) == "prose" for document in text.split("\x03")])
    closing = next(prose)
    line, blank, word, lead, depth = 0, True, 0, 0, 0
    found = {name: [] for name in ("bracket depth", "position in the line", "indentation", "distance to the last space")}
    for symbol in text:
        if symbol in "\n\x03":
            depth = 0 if blank and closing or symbol == "\x03" else depth
            closing = next(prose) if symbol == "\x03" else closing
            line, blank, lead, word = 0, True, 0, 0
        else:
            line, blank, word = line + 1, blank and symbol in " \t", 0 if symbol.isspace() else word + 1
            lead += blank
        depth = max(0, depth + (symbol in "([{") - (symbol in ")]}"))
        for name, value in zip(found, (depth, line, lead, word), strict=True):
            found[name].append(value)
    return found


@given(st.text("a (]\t\n\x03\u2003", max_size=30))
def test_probes_are_those_of_a_reading_symbol_by_symbol(text):
    for name, wanted in slowly(text).items():
        assert PROBES[name](text).tolist() == wanted, name


@given(st.text("ab\"'#/*\\\n ({[)\u201c\u201d\xab\x03;=1A", max_size=60), st.sampled_from([PROSE, PYTHON, C]))
def test_any_text_has_probes_of_its_length_and_they_begin_anew_at_a_document(text, before):
    for name, probe in PROBES.items():
        values = probe(before + text)
        assert values.shape == (len(before + text),) and values.dtype == np.float64 and (values >= 0).all(), name
        again = probe(before + text + "\x03" + before + text)
        assert np.array_equal(again, [*values, 0, *values]), name


def test_what_does_not_vary_is_left_out():
    assert measure("") == measure("a") == {}
    assert set(measure("ab\ncd")) == {"position in the line", "after a newline", "distance to the last space"}
    assert set(measure(PYTHON + "# (A1\n 's'\n")) == set(PROBES)


def test_every_probe_says_in_a_line_what_it_is():
    assert all(len(inspect.getdoc(probe).splitlines()[0]) > 20 for probe in PROBES.values())


@pytest.mark.parametrize("path, wanted", [
    ("kernels/cuda/ops.py", "python"), ("rnncore/model.py", "python"), ("data/pretrained/samples/numpy.txt", "python"), ("kernels/cpu/host.cpp", "c"),
    ("kernels/gates.cuh", "c"), ("tests/fakes/cuda_emulator.hpp", "c"), ("data/pretrained/samples/tinyshakespeare.txt", "prose"),
    ("data/pretrained/samples/hugo.txt", "prose"), ("LICENSE", "prose")])
def test_the_language_of_a_file_is_recognised(path, wanted):
    text = (ROOT / path).read_text(encoding="utf-8") if (ROOT / path).is_file() else pytest.skip("no checkout")
    assert {language(text), language(text[:3000])} == {wanted}


def test_long_lines_take_no_square_of_their_length():
    """Seconds, and more than ten thousand of them, with a pattern that does."""
    for text in (" " * 300_000 + "y\n", "foo(1)[2] " * 60_000, "a = b" + "(" * 300_000):
        assert set(measure(text)) <= set(PROBES)


@pytest.mark.parametrize("text", ["", "\n\n", PROSE, "# Title\n\nIt's a list:\n\n# More\n\n- one (1)\n- don't\n", "Now for all of them:\nif it is so; (as they say)\n" + 9 * PROSE])
def test_prose_is_no_programming_language(text):
    assert language(text) == "prose"


# Errors

ERRORS = [
    ("a quote ends after its mark", "place - bool(ended[1])", "place"), ("quotes and comments are one", "kind == wanted", "1"),
    ("an apostrophe is a quote in prose", "\"prose\": {'\"'", "\"prose\": {\"'\": (\"quotes\", \"'\"), '\"'"),
    ("escapes are not seen", r'r"\\.|"', '""'), ("numbers in C hold quotes", r'r"(?<![0-9])"', '""'),
    ("quotes go on over paragraphs", '_PARAGRAPH_END = r"(?=\\n)", r"(?=\\n[ \\t]*\\n)"', '_PARAGRAPH_END = r"(?=\\n)", r"\\Z"'),
    ("strings go on over lines", '_LINE_END, _PARAGRAPH_END = r"(?=\\n)"', '_LINE_END, _PARAGRAPH_END = r"\\Z"'),
    ("the last symbol is never inside", "place - bool(ended[1])", "place - 1"),
    ("triple quotes are unknown", "'\"\"\"': (\"quotes\", '\"\"\"'), ", ""), ("// is a comment in Python", '"#": (', '"//": ('),
    ("# is a comment in C", '"//": (', '"#": ('), ("a comment of C ends with its line", r'r"\*/"', "_LINE_END"),
    ("brackets in strings count", "change[(_inside", "change[0 * (_inside"), ("depth below 0", "level - np.minimum(", "level - 0 * np.minimum("),
    ("only round brackets", 'if symbol in "()[]{}"', 'if symbol in "()"'), ("brackets go up", 'in "([{" else -1', 'in "([{" else 0'),
    ("the line begins at 1", "places, -1))", "places, 0))"), ("tabs do not indent", r'r"([ \t]*)', r'r"([ ]*)'),
    ("the indentation is known too early", "np.minimum(read, len(line[1]))", "len(line[1])"),
    ("digits of letters", "str.isdigit", "str.isalnum"), ("lower case", "str.isupper", "str.islower"),
    ("words end at blanks alone", "str.isspace", '" ".__eq__'), ("an unclosed quote is one", 'ended[1] == ""', "False"), ("prose closes no bracket", r'r"\n[ \t]*(?=\n)"', r'r"\Z"'),
    ("documents are one", "text.split(END)", "[text]"),
    ("END is left out", "(np.zeros(1), probe(document))", "(probe(document),)"),
]


@pytest.mark.parametrize("what, snippet, wrong", ERRORS, ids=[what for what, *_ in ERRORS])
def test_a_planted_error_is_found(what, snippet, wrong):
    broken = planted_in(probes, snippet, wrong)
    try:
        failed = [1 for name, before, text in MARKED if seen(name, before, bare(text), broken) != text]
        failed += [1 for name, before, text, wanted in VALUES if digits(name, before, text, broken) != wanted]
        failed += [1 for probe in broken.PROBES.values() if probe(f"{PROSE}\x03A1").shape != (len(PROSE) + 3,)]
    except ValueError:  # parts that are not as long as the text
        failed = [1]
    assert failed
