"""Where the time of bench's work goes on a card, kernel by kernel: torch's profiler (CUPTI) sees CuPy's kernels too.

    python tests/tools/card_profile.py --out FILE ROW:CLASS:PATH [ROW:CLASS:PATH ...]

ROW and CLASS are those of `rnncore bench`. FILE becomes a JSON list, written anew after each of them: the microseconds
of a unit (a training step, a pass, or a character of each text) that the card spent in each kernel, and how often it
was launched; or why it could not be measured. Exit 0 where all were measured, else 1.
"""
import argparse
import json
import sys
from collections.abc import Iterable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))  # the checkout, wherever this was started
from rnncore.bench import ours
from rnncore.bench.attempt import reason
from rnncore.bench.speed import Entry
from rnncore.bench.task import Task
from rnncore.config import BENCH_CARD

UNITS = 40  # of work that are profiled, at least


def entry(row: str, kind: str, path: str, device: str) -> Entry:
    """Return the entry of a row, warm: its kernels are compiled, and its steps recorded where the path records them."""
    work, sizes, _ = BENCH_CARD[row]
    made = ours.WORK[work](Task.of(work, sizes), device, ours.DTYPES[kind], path)
    made.result()
    found = made.entry()
    found.turn()
    return found


def kernels(events: Iterable, units: int) -> list[dict]:
    """Return name, microseconds and launches of a unit for each kernel, the longest first.

    events: of the profiler's key_averages(). Calls on the host are among them, with no time on the card.
    """
    found = []
    for event in events:
        # PyTorch 2.4 renamed the attribute.
        spent = getattr(event, "self_device_time_total", None) or getattr(event, "self_cuda_time_total", 0)
        if spent > 0:
            found.append({"name": event.key, "us": spent / units, "launches": event.count / units})
    return sorted(found, key=lambda kernel: -kernel["us"])


def profiled(found: Entry) -> list[dict]:
    """Return `kernels` of a few calls of an entry's work."""
    from torch.profiler import ProfilerActivity, profile
    calls = -(-UNITS // found.units)
    with found.around(), profile(activities=[ProfilerActivity.CUDA]) as profiler:
        for _ in range(calls):
            found.work()
        found.synchronize()
    return kernels(profiler.key_averages(), calls * found.units)


def main(given: list[str] | None = None) -> int:
    """Profile what is asked for; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("rows", nargs="+", metavar="ROW:CLASS:PATH")
    asked = parser.parse_args(given)
    rows: list[dict] = []
    for words in asked.rows:
        row, kind, path = words.split(":")
        about: dict = {"row": row, "class": kind, "path": path}
        try:
            about["kernels"] = profiled(entry(row, kind, path, asked.device))
        except Exception as error:  # of CUDA, CuPy or torch: they have no common class
            about["why_not"] = reason(error)
        rows.append(about)
        asked.out.write_text(json.dumps(rows, indent=1))
    return int(any(not row.get("kernels") for row in rows))


if __name__ == "__main__":
    sys.exit(main())
