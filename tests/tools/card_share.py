"""A plugin of pytest for card.sh: it writes a line of JSON as each test ends, and can take a share of the tests.

CARD_RESULTS names the file to append to: what is known of a test is kept, whatever becomes of the process.
CARD_SHARE, as 2/5, takes every fifth test from the second on: five processes run all of them where there is no xdist.
"""
import json
import os

import pytest


def write(**line) -> None:
    """Append one line, whole, for other processes write there too."""
    with open(os.environ["CARD_RESULTS"], "a") as file:
        file.write(json.dumps(line) + "\n")


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config, items) -> None:
    """Write how many tests there are in all, and leave out those of the other shares."""
    write(collected=len(items))
    number, count = map(int, os.environ.get("CARD_SHARE", "1/1").split("/"))
    others = [item for place, item in enumerate(items) if place % count != number - 1]
    items[:] = items[number - 1::count]
    if others:
        config.hook.pytest_deselected(items=others)


def pytest_runtest_logreport(report) -> None:
    """Write how a test ended; under xdist the controlling process does, which hears of a crash too."""
    if "PYTEST_XDIST_WORKER" in os.environ or report.when != "call" and report.outcome == "passed":
        return
    write(test=report.nodeid, outcome=report.outcome, seconds=round(report.duration, 3), words=words(report))


def words(report) -> str:
    """Return why a test failed or was skipped, in one line."""
    if isinstance(report.longrepr, tuple):  # a skip: path, line, reason
        return report.longrepr[2]
    crash = getattr(report.longrepr, "reprcrash", None)
    text = crash.message if crash else str(report.longrepr or "")
    return next((" ".join(line.split())[:300] for line in text.splitlines() if line.strip()), "")
