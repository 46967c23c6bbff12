"""Make the README's pictures in tests/report/screenshots: the cells of the pretrained `numpy`, and the top of a run's report.

    rnncore train tinyshakespeare --minutes 1 -o RUN && python tests/tools/screenshots.py RUN

It needs Chromium and `pip install -e '.[report]' playwright`.
"""
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image
from playwright.sync_api import sync_playwright

ROOT = Path(__file__).parent.parent.parent
FOLDER = ROOT / "tests/report/screenshots"
FLAGS = ["--headless", "--no-sandbox", "--disable-gpu"]
COLOURS = 64  # of a picture: it is text and flat areas


def shoot(browser, report: Path, scheme: str, width: int, height: int, first: str, name: str) -> None:
    """A picture of so many pixels from the element `first` on."""
    page = browser.new_page()
    page.emulate_media(color_scheme=scheme)
    page.set_viewport_size({"width": width, "height": 900})
    page.goto(report.as_uri())
    top = page.locator(first).bounding_box()["y"] - 12
    path = FOLDER / name
    page.screenshot(path=path, full_page=True, clip={"x": 0, "y": max(0, top), "width": width, "height": height})
    Image.open(path).convert("RGB").quantize(COLOURS).save(path, optimize=True)


def main(run: str) -> None:
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as driver:
        cells, learning = Path(folder) / "cells.html", Path(folder) / "run.html"
        for args in (("pretrained/numpy", "--text", ROOT / "rnncore/model.py", "--out", cells), (run, "--out", learning)):
            subprocess.run([sys.executable, "-m", "rnncore", "report", *args], check=True)
        browser = driver.chromium.launch(executable_path=shutil.which("chromium"), args=FLAGS)
        shoot(browser, cells, "light", 960, 860, "#cell-legend", "cells-light.png")
        shoot(browser, learning, "dark", 960, 400, "#learning .loss", "learning-dark.png")
        browser.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
