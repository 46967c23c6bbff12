"""The losses of tests/README.md: trains and scores recipes by a protocol that does not fool us, and prints their table.

    python tests/tools/quality.py search --corpora FOLDER --runs FOLDER [--rows NAME ...] [--seeds 1 2 3] [--workers 2]
    python tests/tools/quality.py final  --corpora FOLDER --runs FOLDER ...

`search` trains on the first eight tenths of a text and scores the ninth; everything is chosen on it. `final` trains on
nine tenths and scores the last, which no search has seen. Both score last.safetensors, once: the number of steps is
fixed before a run, and the best of many looks is only shown beside.

Each run is a folder of --runs. A run that was stopped goes on, a score that is there is not made again. One worker is
one process; with several, each trains on one thread. Losses are nats per character: `val` with the state carried over
the text, `w256` from zero every 256 characters, `dynamic` by dynamic evaluation. A row is the mean over its seeds.
"""
import argparse
import json
import os
import shlex
import statistics
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from math import exp, log
from pathlib import Path

from recipes import FINAL, SEARCH, Recipe

HERE = Path(__file__).resolve().parent
PROTOCOLS = {"val": [], "w256": ["--window", "256"], "dynamic": ["--dynamic"]}
SHORT = 100_000  # characters of the short text
HEAD = ("| what | `rnncore train TEXT ...` | seeds | val (range) | w256 | dynamic | best look | characters, time | device "
        "| date |\n|---|---|---|---|---|---|---|---|---|---|")


def texts(corpora: Path, runs: Path, stage: str) -> dict[str, tuple[Path, list[str], Path]]:
    """Return text -> (file to train on, options of its split, file to score); files that are missing are written.

    The short text is the last SHORT characters of the training part, with the part to score after them.
    """
    shakespeare = corpora / "tinyshakespeare.txt"
    text = shakespeare.read_text(encoding="utf-8")
    begin, end = (int(share * len(text)) for share in ((0.8, 0.9) if stage == "search" else (0.9, 1.0)))
    first = max(0, begin - SHORT)
    files = {"scored": text[begin:end], "short": text[first:end]}
    for name, part in files.items():
        (runs / f"{name}.txt").write_text(part, encoding="utf-8")
    share = round((end - begin) / (end - first), 6)
    scored = runs / "scored.txt"
    return {"shakespeare": (shakespeare, ["--val", "0.1", "--test", "0.1" if stage == "search" else "0"], scored),
            "short": (runs / "short.txt", ["--val", str(share)], scored)}


def rnncore(*args: str, trial: str = "") -> str:
    """Return what a command prints. SystemExit if it fails."""
    program = [str(HERE / "trials.py"), *trial.split(), "--"] if trial else ["-m", "rnncore"]
    done = subprocess.run([sys.executable, *program, *args], capture_output=True, text=True,
                          env={**os.environ, "OPENBLAS_NUM_THREADS": "1"})
    if done.returncode:
        sys.exit(f"rnncore {shlex.join(args)}: {done.stderr[-500:]}")
    return done.stdout


def measure(job: tuple[str, Recipe, int], about: dict, runs: Path, protocols: list[str], single: bool) -> None:
    """Train a run, or the rest of it, and score it by the protocols that are missing in its scores.json."""
    name, recipe, seed = job
    run, kept = runs / f"{name}-{seed}", runs / f"{name}-{seed}" / "scores.json"
    source, split, scored = about[recipe.text]
    found = json.loads(kept.read_text()) if kept.is_file() else {}
    one = ["--threads", "1"] if recipe.trial or single else []  # the trials are not made for several threads
    if not found.get("done"):
        last = run / "last.safetensors"
        args = ["--resume", "-o", str(run)] if last.is_file() else [
            str(source), *split, *recipe.options.split(), *one, "--seed", str(seed), "--no-report", "-o", str(run)]
        rnncore("train", *args, trial=recipe.trial)  # a run that is finished is not changed
        card = json.loads(rnncore("info", str(last), "--json"))["card"]
        found = {"done": True, "chars": card["chars"], "seconds": card["seconds"], "best": card["val_loss"],
                 "device": card.get("device", ""), "precision": card["precision"], "date": card["made"][:10]}
    for protocol in protocols:
        if protocol not in found:
            printed = rnncore("score", str(run / "last.safetensors"), str(scored), *PROTOCOLS[protocol], "--json")
            found[protocol] = json.loads(printed)["nats_per_char"]
        kept.write_text(json.dumps(found, indent=1))


def row(name: str, recipe: Recipe, runs: Path) -> str | None:
    """Return the row of Markdown of all runs of a recipe that are done; None if none is."""
    files = {int(file.parent.name.rpartition("-")[2]): file for file in runs.glob(f"{name}-[0-9]*/scores.json")}
    found = {seed: json.loads(file.read_text()) for seed, file in sorted(files.items())}
    found = {seed: run for seed, run in found.items() if "val" in run}
    if not found:
        return None
    several = list(found.values())

    def mean(key: str, digits: int = 3) -> str:
        values = [run[key] for run in several if run.get(key) is not None]
        return f"{statistics.mean(values):.{digits}f}" if values else ""

    values = [run["val"] for run in several]
    spread = f" ({min(values):.3f}-{max(values):.3f})" if len(values) > 1 else ""
    options = f"`{recipe.options}`" + (f", trial `{recipe.trial}`" if recipe.trial else "")
    devices = ", ".join(sorted({f"{run['device']} {run['precision']}".strip() for run in several}))
    chars = statistics.mean(run["chars"] for run in several) / 1e6
    return (f"| {recipe.what} | {options} | {', '.join(map(str, found))} | {mean('val', 4)}{spread} | {mean('w256')} | "
            f"{mean('dynamic')} | {mean('best')} | {chars:.1f}M, {mean('seconds', 0)} s | {devices} | "
            f"{several[-1]['date']} |")


def average(name: str, recipe: Recipe, runs: Path, about: dict) -> str | None:
    """Return a row of Markdown: the loss of the mean of the probabilities of all runs of a recipe; None for one run."""
    several, scored = sorted(runs.glob(f"{name}-[0-9]*/last.safetensors")), about[recipe.text][2]
    losses = []
    for last in several:
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "nats.jsonl"
            rnncore("score", str(last), str(scored), "--per-char", str(file))
            losses.append([json.loads(line)["nats"] for line in file.read_text().splitlines()])
    if len(losses) < 2:
        return None
    mean = statistics.mean(-log(statistics.fmean(exp(-nats) for nats in of_each)) for of_each in zip(*losses, strict=True))
    return f"| {recipe.what} | {len(losses)} | {statistics.mean(map(statistics.fmean, losses)):.4f} | {mean:.4f} |"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("stage", choices=["search", "final"])
    parser.add_argument("--corpora", type=Path, required=True)
    parser.add_argument("--runs", type=Path, required=True)
    parser.add_argument("--rows", nargs="+")
    parser.add_argument("--seeds", nargs="+", type=int)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--table", action="store_true", help="only print the table of the runs that are done")
    parser.add_argument("--average", action="store_true", help="only print what the runs of a row reach together")
    args = parser.parse_args()
    recipes = SEARCH if args.stage == "search" else FINAL
    runs = args.runs.resolve() / args.stage
    runs.mkdir(parents=True, exist_ok=True)
    about, rows = texts(args.corpora.resolve(), runs, args.stage), args.rows or list(recipes)
    jobs = [(name, recipes[name], seed) for name in rows for seed in args.seeds or recipes[name].seeds]
    task = partial(measure, about=about, runs=runs, protocols=["val"] if args.stage == "search" else list(PROTOCOLS),
                   single=args.workers > 1)
    if args.average:
        print("| what | runs | mean of their losses | loss of the mean of their probabilities |\n|---|---|---|---|")
        print(*filter(None, (average(name, recipes[name], runs, about) for name in rows)), sep="\n")
        return
    if not args.table:
        with ThreadPoolExecutor(args.workers) as pool:
            for number, _ in enumerate(pool.map(task, jobs), 1):
                print(f"{number} of {len(jobs)} runs: {jobs[number - 1][0]}, seed {jobs[number - 1][2]}", file=sys.stderr)
    print(HEAD)
    print(*filter(None, (row(name, recipes[name], runs) for name in rows)), sep="\n")


if __name__ == "__main__":
    main()
