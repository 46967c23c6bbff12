"""The README's table of losses: every row is trained from the command line, once a seed, and scored on its split.

    python tests/tools/quality.py --corpora FOLDER [--rows NAME ...] [--seeds 1 2 3] [--json FILE]

FOLDER holds tinyshakespeare.txt (and hugo-les-miserables-1-4.txt for its row). Losses are nats per character on the
validation text: `val` with the state carried over all of it, `w256` from zero every 256 characters, `dynamic` by
dynamic evaluation. Seconds are those of training. Prints a row of Markdown as soon as it is measured; a --json file
keeps all runs, and its rows are not run again.
"""
import argparse
import datetime
import json
import shlex
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

PROTOCOLS = {"val": [], "w256": ["--window", "256"], "dynamic": ["--dynamic"]}
ROWS = {  # name: (what, text, options of train)
    "adam-1x128": ("Adam, 1x128, 2M characters", "shakespeare", "--layers 1 --optimizer adam --steps 625"),
    "adam-n32": ("the same in 32 streams", "shakespeare", "--layers 1 --optimizer adam --batch 32 --steps 1250"),
    "1x128": ("1x128, 2M", "shakespeare", "--layers 1 --steps 625"),
    "2x128": ("2x128, 3M", "shakespeare", "--layers 2 --hidden 128 --steps 938"),
    "2x256": ("2x256, 4M", "shakespeare", "--preset medium --steps 1250"),
    "small": ("last 100 KB of train, 1x128, 20 epochs", "last100k", "--layers 1 --hidden 128 --epochs 20"),
    "small-default": ("last 100 KB of train, nothing chosen", "last100k", ""),
    "default": ("nothing chosen", "shakespeare", ""),
    "ten-minutes": ("ten minutes", "shakespeare", "--minutes 10"),
    "numpy": ("NumPy's source, one minute", "numpy", "--minutes 1"),
    "hugo": ("Les Miserables 1-4, one minute", "hugo", "--minutes 1"),
}


def texts(corpora: Path, folder: Path) -> dict[str, tuple[str, list[str], str | None]]:
    """name -> (what to train on, the split's options, its validation text or None) with files written into folder."""
    shakespeare = (corpora / "tinyshakespeare.txt").read_text()
    cut = int(0.9 * len(shakespeare))
    (folder / "last100k.txt").write_text(shakespeare[cut - 100_000:])
    (folder / "validation.txt").write_text(shakespeare[cut:])
    share = str(round(1 - 100_000 / (len(shakespeare) - cut + 100_000), 6))
    validation = str(folder / "validation.txt")
    return {"shakespeare": (str(corpora / "tinyshakespeare.txt"), [], validation),
            "last100k": (str(folder / "last100k.txt"), ["--val", share], validation),
            "numpy": ("numpy", [], None), "hugo": (str(corpora / "hugo-les-miserables-1-4.txt"), [], None)}


def rnncore(*args, folder: Path) -> subprocess.CompletedProcess:
    done = subprocess.run([sys.executable, "-m", "rnncore", *args], cwd=folder, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"rnncore {shlex.join(args)}: {done.stderr[-500:]}")
    return done


def measure(name: str, seed: int, about: dict, folder: Path) -> dict:
    """One run: its losses, seconds, characters and the floor."""
    _, text, options = ROWS[name]
    source, split, validation = about[text]
    run = str(folder / f"{name}-{seed}")
    rnncore("train", source, *split, *options.split(), "--seed", str(seed), "-o", run, folder=folder)
    card = json.loads(rnncore("info", run, "--json", folder=folder).stdout)["card"]
    last = json.loads((Path(run) / "metrics.jsonl").read_text().splitlines()[-1])
    found = {"seed": seed, "seconds": last["seconds"], "chars": last["chars"], "best": card["val_loss"],
             "end": last["val_loss"], "floor": card["floor"]["nats"], "date": str(datetime.date.today())}
    for protocol, more in PROTOCOLS.items() if validation else ():
        scored = json.loads(rnncore("score", run, validation, *more, "--json", folder=folder).stdout)
        found[protocol] = scored["nats_per_char"]
    return found


def row(name: str, runs: list[dict]) -> str:
    """A row of Markdown: means over the seeds."""
    def mean(key: str) -> str:
        values = [run[key] for run in runs if key in run]
        return f"{statistics.mean(values):.3f}" if values else ""

    what, text, options = ROWS[name]
    val = mean("val") or mean("best") + " (a sample)"
    spread = f" ({min(r['val'] for r in runs):.3f}-{max(r['val'] for r in runs):.3f})" if "val" in runs[0] else ""
    chars = statistics.mean(run["chars"] for run in runs) / 1e6
    return (f"| {what} | `{text} {options}`".rstrip() + f" | {val}{spread} | {mean('w256')} | {mean('dynamic')} "
            f"| {mean('floor')} | {chars:.1f}M, {statistics.mean(run['seconds'] for run in runs):.0f} s "
            f"| {', '.join(str(run['seed']) for run in runs)} | {runs[-1]['date']} |").replace("`shakespeare`", "")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--corpora", type=Path, required=True)
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=list(ROWS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3])
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    kept = json.loads(args.json.read_text()) if args.json and args.json.is_file() else {}
    print("| what | text and options | val (range) | w256 | dynamic | counting | characters, time | seeds | date |")
    print("|---|---|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        about = texts(args.corpora.resolve(), Path(folder))
        for name in args.rows:
            runs = kept.setdefault(name, [])
            for seed in args.seeds:
                if seed not in (run["seed"] for run in runs):
                    runs.append(measure(name, seed, about, Path(folder)))
                    if args.json:
                        args.json.write_text(json.dumps(kept, indent=1))
            print(row(name, [run for run in runs if run["seed"] in args.seeds]), flush=True)


if __name__ == "__main__":
    main()
