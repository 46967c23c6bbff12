"""The parts of card.sh: each runs its commands within a time limit and returns what came of it, as JSON can carry it.

What a part returns has at least `outcome` (passed, failed, limit, missing) and `words`, one line for the table.
"""
import json
import os
import re
import shutil
import sys
import sysconfig
import time
from importlib.util import find_spec
from pathlib import Path

from card_process import PYTHON, ROOT, TOOLS, Part, ending, read_json, result
from card_table import cut

sys.path.insert(0, str(ROOT))  # the checkout, wherever this was started
from rnncore.config import BENCH_CARD

ROW_LIMIT = 60.0    # seconds that one row of bench may take: one that hangs leaves time for the others
LATE = "h160", "h192"  # rows that are measured last: they show the borders of cuDNN's choice, not its speed
PROFILED = 4        # rows of bench, those with the lowest ratios
STEPS = 12_000      # of the 2018 project's model: 60 million characters
NO_TESTS = 5        # pytest's exit code for a share without tests
PYTEST = "-m", "gpu", "-p", "card_share", "-p", "no:cacheprovider", "--tb=short", "-q", "--durations=15"
LARGE = 500_000     # bytes of a text that is large enough for it
LOOPS = "(persistent or tagged) and tf32"
SANITIZER = {"memcheck": (LOOPS, ()),  # the tests, and options: racecheck takes minutes a test, so it has one of each path
             "racecheck": (f"{LOOPS} and adam", ("--kernel-name", "kns=ward"))}  # kernels named ..._forward, ..._backward


# Tests

def run_tests(part: Part) -> dict:
    """Run the gpu-marked tests in several processes, by pytest-xdist or by shares."""
    if not find_spec("pytest"):
        return result("missing", "pytest is not installed: `pip install pytest`")
    workers = part.options.workers
    pytest = [PYTHON, "-m", "pytest", *PYTEST, *gpu_files()]
    results = part.out / "tests.jsonl"
    if find_spec("xdist"):
        codes = part.run([*pytest, "-n", str(workers)], CARD_RESULTS=str(results))
    else:
        codes = part.run(*[pytest] * workers, CARD_RESULTS=str(results), CARD_SHARE=f"{{number}}/{workers}")
        codes = [0 if code == NO_TESTS else code for code in codes]
    counted = count(results)
    if not counted["passed"] and not counted["failed"]:
        return result(ending(codes, False), f"no test ran: {part.last_line()}", **counted)
    return result(ending(codes, counted["not run"] == 0 and not counted["failed"]), words_of_counts(counted), **counted)


def gpu_files() -> list[str]:
    """Return the files that hold gpu-marked tests: others may want libraries that a machine with a card has not."""
    return sorted(str(path) for path in (ROOT / "tests").rglob("test_*.py") if "pytest.mark.gpu" in path.read_text())


def count(results: Path) -> dict:
    """Return how many tests passed, failed, were skipped and did not run, and a line for each that failed."""
    lines = [json.loads(line) for line in results.read_text().splitlines()] if results.is_file() else []
    outcomes: dict[str, str] = {}
    for line in lines:
        if "test" in line and outcomes.get(line["test"]) != "failed":
            outcomes[line["test"]] = line["outcome"]
    counts = {name: list(outcomes.values()).count(name) for name in ("passed", "failed", "skipped")}
    collected = max((line["collected"] for line in lines if "collected" in line), default=0)
    return counts | {"not run": max(0, collected - len(outcomes)), "failures": [
        f"{line['test'].split('::')[-1]}: {line['words']}" for line in lines if line.get("outcome") == "failed"]}


def words_of_counts(counted: dict) -> str:
    """Return the counts and the first failures in one line."""
    words = ", ".join(f"{counted[name]} {name}" for name in ("passed", "failed", "skipped", "not run") if counted[name])
    return "; ".join([words or "no test ran", *counted["failures"][:3]])


# Stopping and resuming

def resume(part: Part) -> dict:
    """Stop and resume runs on every path, and compare them with undisturbed ones (card_resume.py)."""
    folder = part.out / "resume"
    codes = part.run([PYTHON, str(TOOLS / "card_resume.py"), "--folder", str(folder)])
    rows = read_json(folder / "resume.json") or []
    faults = [f"{row['path']} after {stop}: {cut('; '.join(outcome['faults']))}"
              for row in rows for stop, outcome in row["stops"].items() if outcome["faults"]]
    good = [row["path"] for row in rows if not any(outcome["faults"] for outcome in row["stops"].values())]
    words = [f"{', '.join(good)}: the same bits after SIGTERM and after kill -9"] if good else []
    if not rows:
        words = [part.last_line()]
    return result(ending(codes, bool(good) and not faults), "; ".join(words + faults), rows=rows)


# Speed

def bench(part: Part) -> dict:
    """Measure every row of bench against torch, a process a row: what is done is kept when the limit comes."""
    folder, against = part.out / "bench", ("--against", "torch") if find_spec("torch") else ()
    folder.mkdir(exist_ok=True)
    rows: list[dict] = []
    silent: dict[str, str] = {}
    limited = False
    for name in sorted(BENCH_CARD, key=LATE.__contains__):
        if part.left() < 1:
            limited, silent[name] = True, "not measured: the limit came before"
            continue
        file = folder / f"{name}.json"
        (code,) = part.run([PYTHON, "-m", "rnncore", "bench", "--setting", name, "--device", "cuda", "--json",
                            "--rounds", str(part.options.rounds), *against], limit=ROW_LIMIT, stdout=file)
        read = read_json(file) if code == 0 else None
        if isinstance(read, dict) and read.get("settings"):
            rows += read["settings"]
        else:
            limited |= code is None
            silent[name] = f"{'ended by its limit' if code is None else f'exit code {code}'}: {part.last_line()}"
        part.changed(bench_result("stopped", rows, silent, bool(against)))
    outcome = "limit" if limited else "failed" if silent else "passed"
    return bench_result(outcome, rows, silent, bool(against))


def bench_result(outcome: str, rows: list[dict], silent: dict[str, str], torch: bool) -> dict:
    """Return what came of the rows: to pass, every one has a ratio."""
    total = sum(len(classes) for _, _, classes in BENCH_CARD.values())
    ratios = [row["ratio"]["median"] for row in rows if row.get("ratio")]
    if outcome == "passed" and len(ratios) < total:
        outcome = "failed" if torch else "missing"
    words = f"{len(ratios)} of {total} rows and classes have a ratio, torch is ahead in {sum(r < 1 for r in ratios)}"
    if not torch:
        words = f"{len(rows)} of {total} rows and classes, without torch, which is not installed: `pip install torch`"
    return result(outcome, words, rows=rows, silent=silent)


def profile(part: Part) -> dict:
    """Profile the rows of bench in which ours is farthest behind torch, or least ahead: where a unit's time goes."""
    if not find_spec("torch"):
        return result("missing", "torch is not installed: `pip install torch`")
    files = sorted((part.out / "bench").glob("*.json"))
    rows = [row for file in files for row in (read_json(file) or {}).get("settings", []) if row.get("ratio")]
    rows = sorted(rows, key=lambda row: row["ratio"]["median"])[:PROFILED]
    if not rows:
        return result("missing", "no row of bench has a ratio to torch: run the part bench before")
    file = part.out / "profile.json"
    asked = [f"{row['row']}:{row['class']}:{row['chosen']['path']}" for row in rows]
    codes = part.run([PYTHON, str(TOOLS / "card_profile.py"), "--out", str(file), *asked])
    found = read_json(file) or []
    why_not = [f"{row['row']}, {row['class']}: {row.get('why_not', 'no kernel was seen')}" for row in found
               if not row.get("kernels")]
    good = len(found) - len(why_not)
    words = "; ".join([f"{good} of {len(rows)} rows", *why_not] if found else [part.last_line()])
    return result(ending(codes, good == len(rows)), words, profiles=found)


def model2018(part: Part) -> dict:
    """Train the 2018 project's model as a user would; what it reached is told even where the limit ends it."""
    source, name = text()
    run = part.out / "model2018"
    options = ["--preset", "original", "--dtype", "tf32", "--steps", str(STEPS)]
    begun = time.monotonic()
    codes = part.run([PYTHON, "-m", "rnncore", "train", source, *options, "--device", "cuda", "--no-report",
                      "-o", str(run)])
    model = {"command": f"rnncore train {name} {' '.join(options)}", "seconds": time.monotonic() - begun}
    metrics = run / "metrics.jsonl"
    rows = [json.loads(line) for line in metrics.read_text().splitlines()] if metrics.is_file() else []
    if not rows:
        return result(ending(codes, False), part.last_line())
    last = rows[-1]
    evaluated = [row for row in rows if row["val_loss"] is not None]
    path = re.findall(r"^model .*\bpath (\w+)$", part.log.read_text(errors="replace"), re.MULTILINE)
    model |= {"step": last["step"], "chars": last["chars"], "chars_per_s": last["chars_per_s"], "loss": last["loss"],
              "path": path[-1] if path else None}
    if evaluated:
        best = min(evaluated, key=lambda row: row["val_loss"])
        model |= {"best": best["val_loss"], "best_step": best["step"], "val_loss": evaluated[-1]["val_loss"]}
    outcome = ending(codes, last["step"] == STEPS)
    words = f"step {last['step']:,} of {STEPS:,}" + (f"; {part.last_line()}" if outcome == "failed" else "")
    return result(outcome, words, model=model)


def text() -> tuple[str, str]:
    """Return the text to train on and what to call it: tinyshakespeare, or another large one, or a named corpus."""
    folder = os.environ.get("RNNCORE_CORPORA")
    large = [path for path in Path(folder).resolve().glob("*.txt") if path.stat().st_size >= LARGE] if folder else []
    path = min(large, key=lambda path: (path.name != "tinyshakespeare.txt", -path.stat().st_size), default=None)
    return (str(path), path.name) if path else ("numpy", "numpy")


# compute-sanitizer

def sanitizer(part: Part) -> dict:
    """Run persistent tests under compute-sanitizer's tool of the part's name."""
    program = find_sanitizer()
    if not program:
        return result("missing", "compute-sanitizer is not installed: `pip install nvidia-cuda-sanitizer-api`, for "
                                 "CUDA 12 `pip install nvidia-cuda-sanitizer-api-cu12`")
    if not find_spec("pytest"):
        return result("missing", "pytest is not installed: `pip install pytest`")
    chosen, options = SANITIZER[part.name]
    libraries = program.parent.parent / "lib"  # where the wheel for CUDA 12 has them and does not look itself
    injected = ("--injection-path", str(libraries)) if (libraries / "libsanitizer-collection.so").is_file() else ()
    results = part.out / f"{part.name}.jsonl"
    pytest = [PYTHON, "-m", "pytest", *PYTEST, "-k", chosen, *gpu_files()]
    codes = part.run([str(program), *injected, "--tool", part.name, "--target-processes", "all",
                      "--error-exitcode", "77", *options, *pytest], CARD_RESULTS=str(results))
    counted, reports = count(results), sanitizer_reports(part.log.read_text(errors="replace"))
    clean = not counted["failed"] and not counted["not run"] and counted["passed"] > 0 and reports == []
    seen = "no error" + (" so far" if None in codes else "") if not reports else \
        f"{len(reports)} report{'s' * (len(reports) > 1)}, the first: {reports[0]}"
    return result(ending(codes, clean), f"{words_of_counts(counted)}; {seen}", **counted, reports=reports[:20])


def sanitizer_reports(log: str) -> list[str]:
    """Return the first line of each report of compute-sanitizer, and summaries that count any."""
    lines = [line.lstrip("=")[1:] for line in log.splitlines() if line.startswith("=========")]
    heads = [line for line in lines if line and not line.startswith((" ", "COMPUTE-SANITIZER"))]
    return [line[:200] for line in heads if not re.fullmatch(r"[A-Z ]*SUMMARY: 0 (errors|hazards).*", line)]


def find_sanitizer() -> Path | None:
    """Return compute-sanitizer: on the PATH, of a toolkit, or of NVIDIA's wheels."""
    name, toolkits = "compute-sanitizer", [os.environ.get("CUDA_HOME"), os.environ.get("CUDA_PATH"), "/usr/local/cuda"]
    places = [Path(place) / "bin" / name for place in filter(None, toolkits)]
    places += sorted(Path(sysconfig.get_path("purelib")).glob(f"nvidia/*/bin/{name}"))
    there = shutil.which(name)
    return Path(there) if there else next((path for path in places if os.access(path, os.X_OK)), None)


PARTS = {  # name: the part, its limit in seconds, what it is
    "tests": (run_tests, 110, "the tests marked `gpu`, in parallel"),
    "resume": (resume, 50, "runs stopped by SIGTERM and kill -9, resumed, compared bit by bit, on every path"),
    "bench": (bench, 200, "bench of all rows against torch"),
    "profile": (profile, 40, "the four rows with the lowest ratios, kernel by kernel"),
    "model2018": (model2018, 75, f"the 2018 project's model: {STEPS:,} steps of --preset original --dtype tf32"),
    "memcheck": (sanitizer, 30, "compute-sanitizer's memcheck of the persistent tests in tf32"),
    "racecheck": (sanitizer, 30, "compute-sanitizer's racecheck of two of them"),
}
