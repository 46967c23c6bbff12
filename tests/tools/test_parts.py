"""The parts of the tests: `python -m pytest` and `--rest` run each file once between them, `--all` runs every file."""
from types import SimpleNamespace

import pytest
from conftest import HERE, QUICK, pytest_ignore_collect

FILES = sorted(path.relative_to(HERE).as_posix() for path in HERE.rglob("test_*.py"))


def left_out(name: str, part: str) -> bool:
    return bool(pytest_ignore_collect(HERE / name, SimpleNamespace(option=SimpleNamespace(part=part))))


@pytest.mark.parametrize("part, files", [
    ("quick", QUICK), ("rest", {*FILES} - QUICK), ("all", {*FILES})])
def test_a_part_runs_its_files_and_no_others(part, files):
    assert {name for name in FILES if not left_out(name, part)} == files
