"""Stop training runs by SIGTERM and by kill -9, resume them, and compare them bit by bit with an undisturbed run.

    python tests/tools/card_resume.py --folder FOLDER [--device cuda] [--paths eager graph wavefront persistent tagged]

FOLDER is new; the runs and resume.json go there. Every tensor of last.safetensors and best.safetensors (parameters,
moments, state), the numbers that resuming needs, and the losses in metrics.jsonl must be equal. Exit 0 where they are.
"""
import argparse
import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

import numpy as np
from safetensors import safe_open

ROOT = Path(__file__).resolve().parents[2]
PYTHON = os.environ.get("PYTHON") or sys.executable
PATHS = "eager", "graph", "wavefront", "persistent", "tagged"
PRECISION = dict.fromkeys(("persistent", "tagged"), "tf32")  # the precision of a path that does not have float32
MODEL = ("--layers 2 --hidden 64 --embed 32 --seq 32 --batch 16 --dropout .2 --weight-drop .1 --seed 1 "
         "--sample-every 1000000")  # never: a sample takes longer than the steps
STEPS = 400     # steps of a run; LONGER times as many where a run is over before the signal comes, TRIES times at most
LONGER, TRIES = 4, 3
SAVES = 10      # saves and evaluations in a run
STOPS = {"SIGTERM": 1, "SIGKILL": 2}  # each signal is sent after so many saves
PATIENCE = 300  # seconds that one process may take
WORDS = "the a cat dog sees takes old red house river and is".split()


class TooQuick(Exception):
    """A run was over before the signal came."""


class Failed(Exception):
    """A command did not do what it was asked for; the message says which."""


def corpus(folder: Path) -> Path:
    """Write a text of about 50,000 characters: a run passes over it several times."""
    path, draw = folder / "corpus.txt", random.Random(1)
    path.write_text("".join(" ".join(draw.choices(WORDS, k=6)) + ".\n" for _ in range(1900)))
    return path


class Lane:
    """The runs of one path, in a folder of their own."""

    def __init__(self, path: str, folder: Path, device: str, text: Path):
        self.path, self.folder, self.text = path, folder, text
        self.how = "--device", device, "--cuda-path", path, "--no-report"
        self.checked = device != "cpu"  # a run on a card says by which path it goes

    def start(self, name: str, *options: str) -> tuple[subprocess.Popen, Path]:
        """Start a training command whose run is the folder `name`; its words go to a file beside it."""
        log = self.folder / f"{name}{'-resumed' if '--resume' in options else ''}.log"
        command = [PYTHON, "-m", "rnncore", "train", *options, *self.how, "-o", str(self.folder / name)]
        with open(log, "w") as file:
            print(*command, file=file, flush=True)
            paths = filter(None, (str(ROOT), os.environ.get("PYTHONPATH")))
            return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=file, stderr=file, cwd=self.folder,
                                    env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)}), log

    def run(self, name: str, steps: int, stop: str | None = None) -> None:
        """Train so many steps, or until a signal. Raises Failed, TooQuick."""
        every = str(steps // SAVES)
        process, log = self.start(name, str(self.text), *MODEL.split(), "--dtype", PRECISION.get(self.path, "float32"),
                                  "--steps", str(steps), "--eval-every", every, "--save-every", every)
        good: tuple[int, ...] = (0,)
        if stop:
            number = signal.Signals[stop]
            wait_for_saves(process, self.folder / name / "last.safetensors", STOPS[stop])
            process.send_signal(number)
            good = 128 + number, -number
        code = wait(process, log)
        if stop and code == 0:
            raise TooQuick
        if code not in good:
            raise Failed(f"exit code {code}: {last_line(log)}")
        self.check_path(log)

    def resume(self, name: str) -> None:
        """Go on with a stopped run to its end. Raises Failed."""
        process, log = self.start(name, "--resume")
        code = wait(process, log)
        if code:
            raise Failed(f"resuming ended with exit code {code}: {last_line(log)}")
        self.check_path(log)

    def check_path(self, log: Path) -> None:
        """Raise Failed where a run on a card went by another path than was asked for."""
        text = log.read_text(errors="replace")
        if self.checked and f"path {self.path}\n" not in text:
            words = [line for line in text.splitlines() if "using" in line] or ["its words do not name the path"]
            raise Failed(f"the run did not go by {self.path}: {words[-1]}")

    def stopped(self, stop: str, steps: int, undisturbed) -> dict:
        """Stop a run and resume it; returns the step where it was stopped, and in what it differs from the other."""
        name = f"{stop.lower()}-{steps}"
        try:
            self.run(name, steps, stop)
            at = progress(self.folder / name / "last.safetensors")["step"]
            if at >= steps:
                raise TooQuick
            self.resume(name)
            undisturbed.result()
            return {"at": at, "of": steps, "faults": differences(self.folder / f"whole-{steps}", self.folder / name)}
        except TooQuick:
            raise
        except Failed as error:
            return {"faults": [str(error)]}
        except Exception as error:  # a file that is not what it should be, too, is a fault of this path alone
            return {"faults": [f"{type(error).__name__}: {error}"]}

    def check(self) -> dict:
        """Return what came of each stop: the three runs go side by side."""
        self.folder.mkdir()
        for steps in (STEPS * LONGER ** number for number in range(TRIES)):
            with ThreadPoolExecutor(1 + len(STOPS)) as pool:
                whole = pool.submit(self.run, f"whole-{steps}", steps)
                stops = {stop: pool.submit(self.stopped, stop, steps, whole) for stop in STOPS}
            try:
                return {"path": self.path, "stops": {stop: found.result() for stop, found in stops.items()}}
            except TooQuick:
                continue
        faults = [f"{steps} steps were over before the signal came"]
        return {"path": self.path, "stops": {stop: {"faults": faults} for stop in STOPS}}


def wait_for_saves(process: subprocess.Popen, file: Path, count: int) -> None:
    """Return when the file was saved so often, or the process has ended."""
    seen: set[tuple[int, int]] = set()
    while process.poll() is None and len(seen) < count:
        with contextlib.suppress(FileNotFoundError):
            about = file.stat()
            seen.add((about.st_ino, about.st_mtime_ns))
        time.sleep(0.001)


def wait(process: subprocess.Popen, log: Path) -> int:
    """Return a process's exit code. Raises Failed where it takes too long; it is then killed."""
    try:
        return process.wait(PATIENCE)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        raise Failed(f"no end within {PATIENCE} s: {last_line(log)}") from None


def last_line(log: Path) -> str:
    """Return the last line of a log that is not empty."""
    return next((line.strip() for line in reversed(log.read_text(errors="replace").splitlines()) if line.strip()), "")


def tensors(file: Path) -> dict[str, np.ndarray]:
    """Return all tensors of a safetensors file."""
    with safe_open(file, framework="numpy") as opened:
        return {name: opened.get_tensor(name) for name in opened.keys()}


def progress(file: Path) -> dict:
    """Return the numbers that resuming needs, without those of the clock."""
    with safe_open(file, framework="numpy") as opened:
        found = json.loads(opened.metadata()["rnncore"])["training"]["progress"]
    return {name: value for name, value in found.items() if "seconds" not in name}


def losses(folder: Path) -> dict[int, tuple]:
    """Return the step of each row in metrics.jsonl -> (loss, validation loss)."""
    rows = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    return {row["step"]: (row["loss"], row["val_loss"]) for row in rows}


def differences(one: Path, other: Path) -> list[str]:
    """Return a line for each thing in which two finished runs differ."""
    found = []
    for name in ("last.safetensors", "best.safetensors"):
        found += [f"{name}: {words}" for words in tensor_differences(tensors(one / name), tensors(other / name))]
    numbers, others = (progress(folder / "last.safetensors") for folder in (one, other))
    found += [f"{name} is {others.get(name)}, not {numbers.get(name)}" for name in sorted({*numbers, *others})
              if numbers.get(name) != others.get(name)]
    rows, again = losses(one), losses(other)
    evaluated, evaluated_again = (sorted(step for step, (_, val) in run.items() if val is not None)
                                  for run in (rows, again))
    if evaluated != evaluated_again or not evaluated:
        found.append(f"metrics.jsonl: evaluated at the steps {evaluated_again}, not {evaluated}")
    unequal = [step for step in sorted(rows.keys() & again.keys()) if rows[step] != again[step]]
    if unequal:
        step = unequal[0]
        found.append(f"metrics.jsonl: the losses of {len(unequal)} steps differ, first of step {step}: {again[step]}, "
                     f"not {rows[step]}")
    return found


def tensor_differences(some: dict, others: dict) -> list[str]:
    """Return a line for each tensor that is not the same in every bit."""
    found = [f"{name} is in one of the runs alone" for name in sorted(some.keys() ^ others.keys())]
    for name in sorted(some.keys() & others.keys()):
        a, b = some[name], others[name]
        if (a.shape, a.dtype) != (b.shape, b.dtype):
            found.append(f"{name} has another shape or dtype")
        elif a.tobytes() != b.tobytes():
            bits = f"u{a.itemsize}"
            count = np.count_nonzero(a.view(bits) != b.view(bits))
            found.append(f"{name}: {count:,} of {a.size:,} numbers differ, by {np.abs(a - b).max():.2g} at most")
    return found


def main(arguments: list[str] | None = None) -> int:
    """Check all paths side by side; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True, help="a new folder")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--paths", nargs="+", choices=PATHS, default=PATHS)
    asked = parser.parse_args(arguments)
    folder, found = asked.folder.resolve(), []
    folder.mkdir(parents=True)
    text = corpus(folder)
    lanes = [Lane(path, folder / path, asked.device, text) for path in dict.fromkeys(asked.paths)]
    with ThreadPoolExecutor(len(lanes)) as pool:
        for lane in as_completed([pool.submit(lane.check) for lane in lanes]):
            found.append(lane.result())
            (folder / "resume.json").write_text(json.dumps(found, indent=1))
            for stop, outcome in found[-1]["stops"].items():
                words = "; ".join(outcome["faults"]) or "the same bits"
                print(f"{found[-1]['path']}, {stop} at step {outcome.get('at')}: {words}", flush=True)
    return int(any(outcome["faults"] for row in found for outcome in row["stops"].values()))


if __name__ == "__main__":
    sys.exit(main())
