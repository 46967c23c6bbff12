"""The report in a real browser: Chromium opens it from the disk, and it is read and worked as people would."""
import re
import shutil

import numpy as np
import pytest
from cli_helpers import SMALL, TEXT, corpus, run

from rnncore.cli import report
from rnncore.report import story
from rnncore.runs import checkpoint, names

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
FLAGS = ("--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
         "--disable-component-update --disable-sync").split()

for needed in report.NEEDED:
    pytest.importorskip(needed, reason=f"the report needs {needed}: pip install -e '.[report]'")
playwright = pytest.importorskip("playwright.sync_api", reason="playwright drives the browser: pip install playwright")
if not CHROMIUM:
    pytest.skip("no Chromium: apt-get install chromium", allow_module_level=True)

import test_report
from test_report import HARM

from rnncore.report import page as pages


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A folder with corpus.txt and a run on it in `run`, and its report."""
    folder = tmp_path_factory.mktemp("home")
    corpus(folder, TEXT.replace("cat", '"Cat 9"'))
    done = run("train", "corpus.txt", "--steps", 30, *SMALL, "--layers", 2, "-o", "run", cwd=folder,
               env={"RNNCORE_NO_REPORT": ""})
    assert done.code == 0 and "open it in a browser" in done.err, done.err
    return folder


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    with playwright.sync_playwright() as driver:
        context = driver.chromium.launch_persistent_context(tmp_path_factory.mktemp("profile"), executable_path=CHROMIUM,
                                                            args=FLAGS, viewport={"width": 1280, "height": 900})
        yield context
        context.close()


@pytest.fixture
def open_page(browser):
    """A function that opens a file; at the end nothing was asked for but that, and nothing went wrong."""
    seen, opened = [], []

    def open_file(path, scheme="light"):
        page = browser.new_page()
        page.emulate_media(color_scheme=scheme)
        opened.append(page)
        page.on("console", lambda message: seen.append(message.text))
        for event in ("pageerror", "dialog", "requestfailed"):
            page.on(event, lambda what: seen.append(str(what)))
        page.on("request", lambda request: seen.append(request.url) if request.url != path.as_uri() else None)
        page.goto(path.as_uri())
        return page

    yield open_file
    for page in opened:
        page.close()
    assert seen == []


@pytest.fixture
def page(open_page, home):
    return open_page(home / "run/report.html")


@pytest.fixture(scope="module")
def told(home):
    """What the report tells, from the engine: the passage, the atlas, and the vocabulary."""
    model = checkpoint.load(home / "run/best.safetensors", "cpu")
    ids = model.vocab.encode((home / "corpus.txt").read_text())
    card = checkpoint.read(home / "run/best.safetensors")[0]["card"]
    return story.tell(names.at(home / "run"), model, card, story.Passage(ids[card["split"]["train"]:], "", []), 3)


def classes(page, box: str) -> list[str]:
    return page.eval_on_selector_all(f"{box} span", "spans => spans.map(s => s.className.replace('here', '').trim())")


def test_the_passage_is_coloured_by_surprise(page, told):
    bits, texts = told.passage.bits, page.eval_on_selector_all("#surprise-text span", "s => s.map(x => x.textContent)")
    text = "".join(told.vocab.symbols[k] for k in told.passage.ids)
    assert "".join(texts).replace("↵", "") == text and len(texts) == len(text)
    levels = (np.round(100 * bits)[:, None] >= 100 * np.array([1, 2, 4, 6, 8])).sum(axis=1)
    assert classes(page, "#surprise-text") == ["", *(f"b{level}" if level else "" for level in levels)]
    assert f"{bits.mean():.3f} bits" in page.inner_text("#surprise") and len(page.query_selector_all("#bits-legend span")) == 6


def test_the_passage_by_keyboard(page, told):
    """One stop for Tab; then arrows, Home, End, N and P; what the cursor is on is said."""
    found, vocab = told.passage, told.vocab

    def place():
        return page.evaluate("[...document.querySelectorAll('#surprise-text span')].findIndex(s => s.classList.contains('here'))")

    page.focus("#card")
    page.focus("#surprise-text")
    assert place() == 0 and "the first character" in page.inner_text("#surprise-readout")
    for key, wanted in (("ArrowRight", 1), ("ArrowRight", 2), ("ArrowLeft", 1), ("Control+End", len(found.ids) - 1),
                        ("ArrowRight", len(found.ids) - 1), ("Control+Home", 0), ("ArrowLeft", 0), ("ArrowRight", 1)):
        page.keyboard.press(key)
        assert place() == wanted, key
    said, likeliest = page.text_content("#surprise-live"), vocab.symbols[found.likely[0, 0]]
    assert f"{found.bits[0]:.1f} bits" in said and likeliest.strip() in page.inner_text("#surprise-readout li >> nth=0")
    assert len(re.findall(r"\d%", said)) >= 4 and page.get_attribute("#surprise-live", "aria-live") == "polite"
    text = "".join(vocab.symbols[k] for k in found.ids)
    ends = [k for k, symbol in enumerate(text) if symbol == "\n"]
    for key, wanted in (("End", ends[0]), ("ArrowRight", ends[0] + 1), ("End", ends[1]), ("Home", ends[0] + 1),
                        ("ArrowDown", ends[1] + 1), ("ArrowUp", ends[0] + 1), ("PageDown", ends[10] + 1)):
        page.keyboard.press(key)
        assert place() == wanted, key
    high = 1 + np.flatnonzero(np.round(100 * found.bits) >= 600)
    page.keyboard.press("Control+Home")
    for wanted in high[:2]:
        page.keyboard.press("n")
        assert place() == wanted
    if len(high) > 1:
        page.keyboard.press("p")
        assert place() == high[0]
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.id") != "surprise-text"


def test_the_passage_by_mouse(page, told):
    page.hover("#surprise-text span >> nth=5")
    shown = page.inner_text("#surprise-readout")
    assert f"{told.passage.bits[4]:.2f} bits" in shown and len(page.query_selector_all("#surprise-readout li")) == 5
    assert page.text_content("#surprise-live") == ""  # what the mouse passes over is not read aloud
    page.click("#surprise-text span >> nth=7")
    page.mouse.move(0, 0)
    assert f"{told.passage.bits[6]:.2f} bits" in page.inner_text("#surprise-readout")


def leanings(told, layer: int, cell: int) -> list[str]:
    values = np.round(127 * told.atlas.cells[layer, cell, :pages.SHOWN]) / 127
    levels = (np.abs(values)[:, None] >= [0.1, 0.35, 0.6, 0.85]).sum(axis=1)
    return [("n" if value < 0 else "p") + str(level) if level else "" for value, level in zip(values, levels, strict=True)]


def test_any_cell_can_be_chosen(page, told):
    """From the list, by its neighbours, by keyboard, and from a probe's best."""
    assert page.eval_on_selector_all("#cell option", "o => o.map(x => x.textContent)") == [
        f"{layer}.{cell}" for layer in range(2) for cell in range(16)]
    probe, ((layer, cell, r), *_) = max(told.atlas.ranking.items(), key=lambda pair: abs(pair[1][0][2]))
    assert classes(page, "#cell-text") == leanings(told, layer, cell), "the best cell comes first"
    assert probe in page.inner_text("#cell-follows") and probe == page.inner_text(".probe h3 >> nth=0")
    page.select_option("#cell", label="1.5")
    assert classes(page, "#cell-text") == leanings(told, 1, 5)
    page.click("#cell-after")
    assert classes(page, "#cell-text") == leanings(told, 1, 6)
    page.focus("#cell")
    page.keyboard.press("ArrowDown")
    assert classes(page, "#cell-text") == leanings(told, 1, 7) and page.input_value("#cell") == "23"
    page.focus(".probe button >> nth=1")
    page.keyboard.press("Enter")
    layer, cell, r = told.atlas.ranking[probe][1]
    assert classes(page, "#cell-text") == leanings(told, layer, cell) and f"{abs(r):.2f}" in page.inner_text("#cell-follows")
    page.focus("#cell-text")
    page.keyboard.press("ArrowRight")
    assert f"{abs(told.atlas.cells[layer, cell, 1]):.2f}" in page.text_content("#cell-live")


def test_every_probe_has_a_picture_and_every_layer_its_gates(page, told):
    assert sorted(page.eval_on_selector_all(".probe h3", "h => h.map(x => x.textContent)")) == sorted(told.atlas.ranking)
    assert all(page.eval_on_selector_all(".excerpt", "e => e.map(x => x.textContent.length)"))
    rows = page.eval_on_selector_all(".gates tbody tr", "rows => rows.map(r => r.innerText.split(/\\s+/).slice(0, 4))")
    assert rows == [[str(layer), gate, f"{100 * low:.0f}%", f"{100 * high:.0f}%"]
                    for layer, gates in enumerate(told.atlas.saturation) for gate, (low, high) in gates.items()]


def test_the_page_is_light_or_dark_as_asked(open_page, home):
    colour = "getComputedStyle(document.body).backgroundColor"
    light, dark = (open_page(home / "run/report.html", scheme) for scheme in ("light", "dark"))
    papers = [light.evaluate(colour), dark.evaluate(colour)]
    assert papers == ["rgb(252, 251, 248)", "rgb(22, 21, 19)"]
    for page, other in ((light, papers[1]), (dark, papers[0])):
        page.click("#theme")
        assert page.evaluate(colour) == other
    stroke = "getComputedStyle(document.querySelector('.wide path[stroke=\"var(--train)\"]')).stroke"
    assert light.evaluate(stroke) == "rgb(138, 160, 189)" and dark.evaluate(stroke) == "rgb(95, 120, 150)"


@pytest.mark.parametrize("width", [360, 1280])
def test_nothing_is_wider_than_the_page(page, width):
    page.set_viewport_size({"width": width, "height": 800})
    assert page.evaluate("document.documentElement.scrollWidth") == width
    assert page.is_visible(".narrow") == (width == 360) != page.is_visible(".wide")
    assert page.evaluate("[...document.querySelectorAll('button:not([hidden]), select')].every(b => b.offsetHeight >= 24)")


def test_on_paper_there_is_all_of_the_text_and_nothing_to_press(page):
    page.emulate_media(media="print", color_scheme="dark")
    assert not page.is_visible("nav") and not page.is_visible("#theme")
    assert page.evaluate("getComputedStyle(document.body).getPropertyValue('--paper')") == "#fcfbf8"
    assert page.evaluate("(b => b.scrollHeight - b.clientHeight)(document.getElementById('surprise-text'))") <= 1


def test_harmful_texts_are_texts(open_page, tmp_path):
    path = tmp_path / "<b>harm.html"
    path.write_text(pages.render(test_report.story()))
    page = open_page(path)
    assert page.evaluate("[document.scripts.length, document.images.length]") == [2, 0] and HARM[:30] in page.inner_text("h1")
    assert "{{7*7}}" in page.inner_text("h1") and HARM[:30] in page.inner_text(".samples li >> nth=0")
    assert len(page.query_selector_all("#surprise-text span")) == len(HARM * 9)
    page.select_option("#cell", index=3)
    page.focus("#surprise-text")
    page.keyboard.press("ArrowDown")


def test_the_network_is_forbidden(browser, home):
    """Even a script of ours could not leave: the browser refuses it by the policy in the page."""
    page = browser.new_page()
    page.goto((home / "run/report.html").as_uri())
    broken = page.evaluate("""new Promise(done => {
        document.addEventListener('securitypolicyviolation', event => done(event.violatedDirective));
        document.addEventListener('error', () => done('not forbidden'), true);
        document.body.append(Object.assign(new Image(), {src: 'file:///nowhere.png'}));
    })""")
    page.close()
    assert broken == "img-src"


def test_a_press_in_a_passage_that_is_scrolled_points_at_what_is_there(page):
    page.locator("#surprise-text").scroll_into_view_if_needed()
    wanted, x, y = page.eval_on_selector("#surprise-text", """box => {
        box.scrollTop = box.scrollHeight / 2;
        const middle = box.getBoundingClientRect().top + box.clientHeight / 2, spans = [...box.children];
        const wanted = spans.findIndex((span) => span.getBoundingClientRect().top > middle);
        const {left, top, height} = spans[wanted].getClientRects()[0];
        return [wanted, left + 2, top + height / 2];
    }""")
    scrolled = page.eval_on_selector("#surprise-text", "box => box.scrollTop")
    page.mouse.click(x, y)
    here = "[...document.querySelectorAll('#surprise-text span')].findIndex(s => s.classList.contains('here'))"
    assert wanted > 100 and page.evaluate(here) == wanted
    assert abs(page.eval_on_selector("#surprise-text", "box => box.scrollTop") - scrolled) < 40
    page.keyboard.press("ArrowRight")
    assert page.evaluate(here) == wanted + 1


def test_a_mouse_at_rest_points_at_nothing_new(page):
    page.hover("#surprise-text span >> nth=3")
    page.focus("#surprise-text")
    page.keyboard.press("Control+End")
    said = page.text_content("#surprise-live")
    page.wait_for_timeout(200)
    assert said and said.split(":")[1].split()[0] in page.inner_text("#surprise-readout")


def test_the_focus_stays_at_the_last_cell(page):
    page.select_option("#cell", index=31)
    page.focus("#cell-after")
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "cell-after" and page.input_value("#cell") == "31"
    assert page.get_attribute("#cell-after", "aria-disabled") == "true" != page.get_attribute("#cell-before", "aria-disabled")
