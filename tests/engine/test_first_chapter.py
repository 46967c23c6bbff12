"""rnncore/README.md, the first chapter: its derivation names lines of code that stand there, and its examples run."""
import contextlib
import io
import re
from pathlib import Path

import pytest

import rnncore

ROOT = Path(rnncore.__file__).resolve().parent.parent
CHAPTER = ROOT / "rnncore" / "README.md"
pytestmark = pytest.mark.skipif(not CHAPTER.is_file(), reason="no checkout: the README of rnncore/ is not here")


def derivation() -> list[tuple[str, str]]:
    """(file, line of code) of each row of the table of steps."""
    return re.findall(r"^\| (?:forward|\d) \|.*\| `([^`]+)` \| `([^`]+)` \|$", CHAPTER.read_text(encoding="utf-8"), re.MULTILINE)


def test_each_step_of_the_derivation_is_a_line_of_code():
    rows = derivation()
    missing = [(file, line) for file, line in rows
               if line not in map(str.strip, (ROOT / file).read_text(encoding="utf-8").splitlines())]
    assert len(rows) == 16 and missing == []


def example(words: str) -> str:
    """The one block of Python in the chapter that contains these words."""
    blocks = re.findall("```python\n(.*?)```", CHAPTER.read_text(encoding="utf-8"), re.DOTALL)
    (found,) = (block for block in blocks if words in block)
    return found


def test_the_gradient_of_the_example_is_the_finite_difference():
    """The gradient is -3.4e-3. The difference was 2.3e-12."""
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        exec(compile(example("numerical"), str(CHAPTER), "exec"), {})
    analytic, numerical = map(float, printed.getvalue().split())
    assert abs(analytic) > 1e-3 and abs(analytic - numerical) < 1e-10


def test_the_example_in_python_trains_writes_and_loads(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("corpus.txt").write_text("The cat sees the old red house. " * 200, encoding="utf-8")
    found: dict = {}
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        exec(compile(example("rnncore.fit").replace("steps=500", "steps=3"), str(CHAPTER), "exec"), found)
    assert len(printed.getvalue()) == 501 and found["grads"]["lstm.weight_hh_l0"].shape == (512, 128)
