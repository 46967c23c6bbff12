"""The report's layout in a real browser: where boxes lie on a wide screen, a narrow one and a telephone."""
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import test_report_browser as in_browser

from rnncore import CharLM, ModelConfig, Vocab
from rnncore.report import page as pages
from rnncore.report.story import Passage, tell
from rnncore.runs.names import Found

browser = in_browser.browser
WORD = "self.a_word_that_is_longer_than_a_line_of_a_telephone_(argument)"
TEXT = f"def f(x):\n        {WORD} = 1\n\t{WORD}\nplain words, none of them indented, that go on over a line\n" * 8
SIZES = [(1280, 800), (800, 700), (360, 640)]
FACTS = [("model", "2 × 256 LSTM, 929,451 parameters"), ("learned", "16.4 million characters of numpy"),
         ("validation loss", "1.238 nats, 1.787 bits, over 911,681 characters"), ("n-gram baseline", "1.731 nats")]


@pytest.fixture(scope="module")
def told():
    """The Story of a model that never learned, on a text with indented lines."""
    vocab = Vocab.from_text(TEXT)
    model = CharLM(ModelConfig(len(vocab), embed=8, hidden=8, layers=1), vocab, "cpu", seed=3)
    found = Found(Path("layout.safetensors"), None, "layout")
    story = tell(found, model, {}, Passage(vocab.encode(TEXT), "a text", []), 3)
    return replace(story, samples=[(1, TEXT)], notes=[], headline=FACTS, facts=FACTS)


@pytest.fixture
def show(browser, tmp_path):
    """A function that opens the page of a Story in a window of this size."""
    opened = []

    def show(story, width, height):
        path = tmp_path / "page.html"
        path.write_text(pages.render(story), encoding="utf-8")
        page = browser.new_page()
        opened.append(page)
        page.set_viewport_size({"width": width, "height": height})
        page.goto(path.as_uri())
        return page

    yield show
    for page in opened:
        page.close()


@pytest.mark.parametrize("size, facts", [(size, facts) for size in SIZES for facts in (2, 3)])
def test_no_fact_stands_alone_on_a_second_row(show, told, size, facts):
    page = show(replace(told, headline=FACTS[:facts]), *size)
    tops = page.eval_on_selector_all(".headline dt", "terms => terms.map(t => Math.round(t.getBoundingClientRect().top))")
    assert len(set(np.unique(tops, return_counts=True)[1].tolist())) == 1, tops
    assert page.evaluate("document.documentElement.scrollWidth") == size[0]


def test_an_indent_is_never_a_line_of_its_own(show, told):
    """In the passages each indent has a symbol of its word beside it, in samples and pictures too."""
    page = show(told, 360, 640)
    for box in ("#surprise-text", "#cell-text"):
        found = page.eval_on_selector(box, """box => [...box.children].map((span) => {
            const [rectangle] = span.getClientRects();
            return [span.textContent, Math.round(rectangle.top)];
        })""")
        indents = [k for k in range(2, len(found)) if found[k][0] == "s" and found[k - 1][0].strip(" →\t") == "" and
                   found[k - 2][0].strip(" →\t↵\n") == ""]
        assert len(indents) == 16 and all(found[k][1] == found[k - 1][1] for k in indents)
    heights = page.eval_on_selector_all("pre .first, .excerpt .first", """firsts => firsts.filter(
            (first) => first.previousSibling && /[ \\t]$/.test(first.previousSibling.textContent)).map((first) => {
        const indent = document.createRange();
        indent.setStart(first.previousSibling.nodeType === 3 ? first.previousSibling : first.previousSibling.lastChild, 0);
        indent.setEnd(first.firstChild, 1);
        const lines = [...indent.getClientRects()].map((line) => Math.round(line.top));
        return lines.at(-1) - lines.at(-2);
    })""")
    assert len(heights) >= 16 + 8 and not any(heights)


def readout(page, box: str = "surprise") -> tuple[dict, dict, int]:
    """(rectangle of the symbol with the cursor, of the read-out, height of the window)."""
    return page.evaluate(f"""[document.querySelector('#{box}-text .here').getClientRects()[0].toJSON(),
        document.getElementById('{box}-readout').getBoundingClientRect().toJSON(), innerHeight]""")


@pytest.mark.parametrize("box", ["surprise", "cell"])
@pytest.mark.parametrize("block", ["start", "end"])
def test_on_a_telephone_the_read_out_is_beside_the_symbol(show, told, box, block):
    page = show(told, 360, 640)
    assert not page.is_visible(f"#{box}-readout")
    page.eval_on_selector(f"#{box}-text", f"box => box.scrollIntoView({{block: '{block}'}})")
    place = page.eval_on_selector(f"#{box}-text", """box => {
        const seen = [...box.children].filter((span) => span.getBoundingClientRect().bottom < box.getBoundingClientRect().bottom);
        return [...box.children].indexOf(seen.at(-3));
    }""")
    for k in (3, place):
        page.click(f"#{box}-text span >> nth={k}")
        symbol, out, height = readout(page, box)
        gap = max(out["top"] - symbol["bottom"], symbol["top"] - out["bottom"])
        assert 0 < gap < 12 and out["top"] >= 0 and out["bottom"] <= height
    page.eval_on_selector(f"#{box}-text", "box => { box.scrollTop = 2 * box.scrollTop > box.scrollHeight - box.clientHeight ? 0 : box.scrollHeight; }")
    page.wait_for_selector(f"#{box}-readout", state="hidden")


def test_on_a_wide_screen_it_stays_below_the_passage(show, told):
    page = show(told, 1280, 800)
    below = "document.getElementById('surprise-readout').getBoundingClientRect().top - " \
            "document.getElementById('surprise-text').getBoundingClientRect().bottom"
    before = page.evaluate(below)
    page.click("#surprise-text span >> nth=3")
    assert page.evaluate(below) == before and 0 <= before < 20


def test_the_hints_say_tap(show, told):
    page = show(told, 360, 640)
    assert all(" tap " in page.inner_text(f"#{box}-keys") for box in ("surprise", "cell"))
