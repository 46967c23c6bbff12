"""The READMEs: lines of code, files, links and commands that they name are there, and the examples in Python run."""
import contextlib
import io
import re
import shlex
from pathlib import Path

import click
import pytest

import rnncore
from rnncore.cli.main import commands

ROOT = Path(rnncore.__file__).resolve().parent.parent
CHAPTER = ROOT / "rnncore" / "README.md"
READMES = [ROOT / folder / "README.md" for folder in (".", "rnncore", "kernels", "data", "cli", "tests")]
pytestmark = pytest.mark.skipif(not CHAPTER.is_file(), reason="no checkout: the READMEs are not here")


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


def anchors(file: Path) -> set[str]:
    """The anchors of a file's headings, as they are made of the words."""
    headings = re.findall("^#+ (.*)$", file.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("readme", READMES, ids=lambda file: file.parent.name)
def test_links_lead_to_files_and_headings(readme):
    links = re.findall(r"\]\(([^)]+)\)", readme.read_text(encoding="utf-8"))
    assert links
    for link in (link for link in links if not link.startswith("http")):
        name, _, heading = link.partition("#")
        target = (readme.parent / name).resolve() if name else readme
        assert target.exists(), link
        assert not heading or heading in anchors(target), link


def test_the_first_page_is_short_and_gives_the_length_of_each_file_about_right():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert text.count("\n") <= 150
    rows = re.findall(r"^\| \d \| (.*?) \| ([\d, ]+) \|", text, re.MULTILINE)
    assert len(rows) == 5
    for files, lengths in rows:
        names = re.findall(r"\(([^)]+)\)", files)
        for name, length in zip(names, map(int, lengths.split(",")), strict=True):
            assert abs(len((ROOT / name).read_text(encoding="utf-8").splitlines()) - length) <= 0.1 * length, name


@pytest.mark.parametrize("readme", READMES, ids=lambda file: file.parent.name)
def test_commands_have_the_options_that_are_printed(readme):
    blocks = re.findall("```(?:sh|text)\n(.*?)```", readme.read_text(encoding="utf-8"), re.DOTALL)
    lines = [line.removeprefix("$ ") for block in blocks for line in block.splitlines()]
    for line in (line for line in lines if line.startswith("rnncore ")):
        group: click.Command = commands
        words = shlex.split(line, comments=True)[1:]
        while isinstance(group, click.Group):
            found = group.get_command(click.Context(group), words.pop(0))
            assert found, line
            group = found
        known = {name for param in group.params for name in (*param.opts, *param.secondary_opts)}
        assert {word.split("=")[0] for word in words if word.startswith("-") and len(word) > 1} <= known, line
