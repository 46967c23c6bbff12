"""Everything that a CUDA card can show of rnncore, in one call: tests, resuming, speed, sanitizers, and a table of it.

Parts run in the order below, each under its own limit; what one leaves of its time goes to those after it, so all
together stay below the sum of the limits. One that fails or is ended does not stop the next. Results, logs and
table.md lie in the folder of the results, written anew as soon as there is something new. Exit 0 where all parts that
were chosen passed, else 1.

The text to train on is tinyshakespeare.txt, or the largest other .txt, in the folder named by RNNCORE_CORPORA; without
one it is the named corpus numpy. PYTHON names the interpreter (default: python3). It needs no installation of rnncore.
"""
import argparse
import datetime
import json
import os
import re
import signal
import subprocess
import sys
import time
from functools import partial
from importlib.util import find_spec
from pathlib import Path

from card_parts import PARTS, find_sanitizer
from card_process import PYTHON, ROOT, Options, Part, Stopped, result
from card_table import cut, markdown

LIBRARIES = "numpy", "click", "safetensors", "rich", "threadpoolctl"  # what rnncore itself wants
START, ANSWER = 90.0, 30.0  # seconds for the first look at the card, which may compile; for each later one
DRIVER = Path("/proc/driver/nvidia/version")
TORCH = "import json, torch; print(json.dumps([torch.__version__, torch.version.cuda, torch.backends.cudnn.version()]))"
SIGNALS = signal.SIGINT, signal.SIGTERM, signal.SIGHUP


def arguments(given: list[str] | None) -> argparse.Namespace:
    """Return the options; limits: those that were given, by part."""
    about = "\n".join(f"  {name:10} {limit:4} s  {what}" for name, (_, limit, what) in PARTS.items())
    parser = argparse.ArgumentParser(prog="card.sh", description=__doc__, epilog=f"parts and their limits:\n{about}",
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="PART",
                        help="what to run, always in the order below (default: all)")
    parser.add_argument("--list", action="store_true", help="show the parts and their limits")
    parser.add_argument("--out", type=Path, metavar="DIR",
                        help="folder of the results (default: a new one in $OUT or here)")
    parser.add_argument("--limit", action="append", default=[], metavar="PART=SECONDS", help="another limit for a part")
    parser.add_argument("--rounds", type=int, default=Options.rounds, help="rounds of bench (default: %(default)s)")
    parser.add_argument("--workers", type=int, default=Options.workers,
                        help="processes for the tests (default here: %(default)s)")
    asked = parser.parse_args(given)
    asked.limits = {}
    for text in asked.limit:
        name, _, seconds = text.partition("=")
        if name not in PARTS or not re.fullmatch(r"\d+(\.\d+)?", seconds):
            parser.error(f"--limit {text}: write PART=SECONDS with one of {', '.join(PARTS)}")
        asked.limits[name] = float(seconds)
    unknown = [name for name in asked.parts if name not in PARTS]
    if unknown:
        parser.error(f"there is no part {unknown[0]}: choose from {', '.join(PARTS)}")
    if min(asked.rounds, asked.workers) < 1:
        parser.error("--rounds and --workers must be at least 1")
    if asked.list:
        print(about)
    return asked


def folder(asked: Path | None) -> Path:
    """Make the folder of the results, a new one where none was named. Exits where it holds results already."""
    now = datetime.datetime.now().strftime("%Y%m%d-%H%M%S")
    out = (asked or Path(os.environ.get("OUT") or ".") / f"card-{now}").resolve()
    out.mkdir(parents=True, exist_ok=True)
    if (out / "results.json").exists():
        sys.exit(f"card.sh: {out} holds results already: name another folder by --out")
    return out


class Report:
    """What is known so far: the machine and each part; written to results.json and table.md at every change."""

    def __init__(self, out: Path, chosen: list[str]):
        self.out = out
        self.machine: dict = {"date": str(datetime.date.today())}
        self.parts: dict[str, dict] = {name: {} for name in chosen}

    def put(self, name: str, found: dict) -> None:
        """Keep what came of a part."""
        self.parts[name] = found
        self.write()

    def write(self) -> None:
        """Write both files, each whole at any moment."""
        for name, words in (("results.json", json.dumps({"machine": self.machine, "parts": self.parts}, indent=1)),
                            ("table.md", self.table())):
            new = self.out / f".{name}.new"
            new.write_text(words)
            new.replace(self.out / name)

    def table(self) -> str:
        """Return the table in Markdown."""
        return markdown(self.machine, self.parts)

    def passed(self) -> bool:
        """Return whether all parts that were chosen have passed."""
        return all(found.get("outcome") == "passed" for found in self.parts.values())


def say(words: str) -> None:
    """Print a line on stderr."""
    print(f"card.sh: {words}", file=sys.stderr, flush=True)


def ask(command: list[str], limit: float) -> tuple[str | None, str]:
    """Return what a short command prints, None where it failed, and why in one line."""
    paths = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    try:
        done = subprocess.run(command, cwd=ROOT, env={**os.environ, "PYTHONPATH": paths}, stdin=subprocess.DEVNULL,
                              capture_output=True, text=True, timeout=limit)
    except subprocess.TimeoutExpired:
        return None, f"{Path(command[0]).name} {' '.join(command[1:4])} took longer than {limit:.0f} s"
    except OSError as error:
        return None, f"{command[0]}: {error.strerror}"
    lines = done.stderr.strip().splitlines()
    return (None, lines[-1] if lines else f"exit code {done.returncode}") if done.returncode else (done.stdout, "")


def why_no_card(machine: dict, limit: float) -> str | None:
    """Return None where a card computes, else why not and what mends it; machine gets what is known of the card."""
    missing = [name for name in LIBRARIES if not find_spec(name)]
    if missing:
        return f"{', '.join(missing)}: not installed: `pip install {' '.join(missing)}`"
    printed, why = ask([PYTHON, "-m", "rnncore", "doctor", "--json"], limit)
    try:
        doctor = json.loads(printed or "")
    except ValueError:
        return f"`rnncore doctor` does not work here ({why or 'it printed no JSON'})"
    machine |= {name: doctor[name] for name in ("card", "cuda runtime", "cupy", "rnncore") if name in doctor}
    return None if doctor.get("cuda") == "ok" else str(doctor.get("cuda"))


def software(machine: dict) -> None:
    """Put the versions of the driver, torch, cuDNN and the checkout into machine."""
    version = re.search(r"\b\d+\.\d+(\.\d+)?\b", DRIVER.read_text() if DRIVER.is_file() else "")
    if version:
        machine["driver"] = version[0]
    printed, why = ask([PYTHON, "-c", TORCH], START) if find_spec("torch") else (None, "")
    if printed:
        machine["torch"], cuda, cudnn = json.loads(printed)
        machine["torch"] += f" (CUDA {cuda})" if cuda else " (without CUDA)"
        machine["cudnn"] = cudnn and f"{cudnn // 10000}.{cudnn // 100 % 100}.{cudnn % 100}"
    elif why:
        say(f"torch cannot be imported: {why}")
    commit, _ = ask(["git", "describe", "--always", "--dirty"], ANSWER)
    if commit and "rnncore" in machine:
        machine["rnncore"] += f" at {commit.strip()}"


def run(report: Report, asked: argparse.Namespace) -> None:
    """Run the chosen parts in order; after one that did not pass the card is asked whether it still computes."""
    machine, spare, good = report.machine, 0.0, True
    machine["why not"] = why_no_card(machine, START)
    if machine["why not"]:
        say(machine["why not"])
    else:
        software(machine)
    for words in wanted(set(report.parts)):
        say(words)
    report.write()
    for name in report.parts:
        why_not = machine["why not"] or (None if good else why_no_card({}, ANSWER))
        if why_not:
            words = "no card works here" if machine["why not"] else f"the card computes no more: {cut(why_not)}"
            report.put(name, result("no card", words))
            say(f"{name}: {words}")
            continue
        do, usual, _ = PARTS[name]
        limit = asked.limits.get(name, usual) + spare
        part = Part(name, report.out, limit, Options(asked.rounds, asked.workers))
        part.changed = partial(keep, report, part)
        say(f"{name}: at most {limit:.0f} s")
        keep(report, part, result("stopped", "at work when this was written"))
        found = attempt(do, part)
        keep(report, part, found | {"outcome": "stopped"} if part.stopped else found)
        if part.stopped:
            raise Stopped
        spare, good = max(0.0, part.left()), found["outcome"] in ("passed", "missing")
        say(f"{name}: {found['outcome']} after {report.parts[name]['seconds']:.0f} s: {found['words']}")


def wanted(chosen: set[str]) -> list[str]:
    """Return a line for each program or library that the chosen parts want and that is not here."""
    testing = chosen & {"tests", "memcheck", "racecheck"}
    return [f"{name}: not installed: {cure}" for name, cure, there in (
        ("pytest", "`pip install pytest`", find_spec("pytest") or not testing),
        ("torch", "`pip install torch`", find_spec("torch") or "bench" not in chosen),
        ("compute-sanitizer", "`pip install nvidia-cuda-sanitizer-api`", find_sanitizer() or not testing - {"tests"}),
    ) if not there]


def attempt(do, part: Part) -> dict:
    """Return what comes of a part; an error of this tool itself ends that part alone."""
    try:
        return do(part)
    except Exception as error:
        return result("failed", f"card.sh itself failed: {type(error).__name__}: {error}")


def keep(report: Report, part: Part, found: dict) -> None:
    """Put what came of a part into the report, with its seconds and how many it might have taken."""
    seconds = round(time.monotonic() - part.begun, 1)
    report.put(part.name, found | {"seconds": seconds, "limit": round(part.limit)})


def main(given: list[str] | None = None) -> int:
    """Run what is asked for; returns the exit code."""
    asked = arguments(given)
    if asked.list:
        return 0

    def stop(number, frame):
        for other in SIGNALS:
            signal.signal(other, signal.SIG_IGN)
        say(f"stopped by {signal.Signals(number).name}")
        raise Stopped
    for number in SIGNALS:
        if signal.getsignal(number) != signal.SIG_IGN:  # as nohup has it
            signal.signal(number, stop)
    report = Report(folder(asked.out), [name for name in PARTS if name in asked.parts or not asked.parts])
    say(f"results: {report.out}")
    try:
        run(report, asked)
    except Stopped:
        report.write()
    print(report.table(), end="")
    return int(not report.passed())


if __name__ == "__main__":
    sys.exit(main())
