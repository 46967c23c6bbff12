"""tests/FAULTS.md names a test for every way in which things go wrong; each of them exists."""

import ast
import re
from pathlib import Path

HERE = Path(__file__).parents[1]


def written() -> set[str]:
    """The names of all tests, read from the source."""
    return {
        node.name
        for path in HERE.rglob("test_*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")
    }


def missing(table: str, names: set[str]) -> list[str]:
    """What is wrong with a table of faults: a row without a test, or with one that is not there."""
    rows = [row.strip("| ").split(" | ") for row in table.splitlines() if row.startswith("| ")][1:]
    found = [f"{row[0]}: no test" for row in rows if not re.search(r"`test_\w+`", row[-1])]
    return found + [
        f"{row[0]}: {name}" for row in rows for name in re.findall(r"`(test_\w+)`", row[-1]) if name not in names
    ]


def test_every_fault_has_a_test_that_exists():
    table = (HERE / "FAULTS.md").read_text(encoding="utf-8")
    assert missing(table, written()) == [] and table.count("\n| ") > 30


def test_a_row_without_a_test_or_with_one_that_is_not_there_is_seen():
    table = "| what | happens | tests |\n|---|---|---|\n| a | b | `test_x`, `test_y` |\n| c | `test_x` | none |\n"
    assert missing(table, {"test_x"}) == ["c: no test", "a: test_y"]
