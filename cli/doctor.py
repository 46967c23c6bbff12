"""`rnncore doctor` shows what this machine can do and what is missing; --try checks every path of its GPU."""
import contextlib
import json
import platform
from dataclasses import asdict, fields, replace
from pathlib import Path

import click

from rnncore import requirements
from rnncore.config import BENCH, PATHS, ModelConfig, TrainConfig

from . import options
from .terminal.called import said
from .terminal.progress import echo, printable, tell


class Doctor(options.Command):
    """A command that also runs if libraries are too old, because it reports exactly that."""
    computes = False


@click.command(cls=Doctor)
@click.option("--try", "what", is_flag=False, flag_value="known", metavar="[SETTING|RUN]",
              help=f"Check every path of the GPU again: for a setting of `rnncore bench` ({', '.join(BENCH)}), for a "
                   "run, or, without a value, for everything that was checked here before.")
@options.JSON
def command(what, as_json):
    """Show what this machine can do and what is missing: processor, libraries, GPU."""
    if what is not None:
        requirements.check()
        rows = []
        for row in checks(what):
            rows.append(row)
            if not as_json:
                echo(line(row), 2)
        if as_json:
            click.echo(json.dumps(rows))
        return
    found = libraries() | ({} if requirements.fault() else findings())
    if as_json:
        click.echo(json.dumps(found))
        return
    rows = found.pop("paths", [])
    for name, value in found.items():
        echo(f"{name:15} {value}", 16)
    for value in [rows] if isinstance(rows, str) else map(line, rows):
        echo(f"{'paths':15} {value}", 16)


def libraries() -> dict:
    """Return name -> text: the versions of rnncore, Python and the libraries, and which of these are old or missing."""
    from rnncore import __version__
    found = {"rnncore": __version__, "python": platform.python_version(), "system": platform.platform(),
             "processor": processor(), "numpy": requirements.installed("numpy") or "missing"}
    found["libraries"] = requirements.fault() or ", ".join(
        f"{name} {requirements.installed(name) or 'of an unknown version'}" for name in requirements.BASE)
    found["optional"] = ", ".join(
        f"{name} {requirements.installed(name)}" if requirements.lacking(name) is None else
        f"{name} missing" if requirements.installed(name) is None else
        f"{name} {requirements.installed(name)} (too old: {requirements.OPTIONAL[name]} is needed)"
        for name in requirements.OPTIONAL if name != "cupy")  # the row `cuda` reports on CuPy
    return found


def findings() -> dict:
    """Return name -> text or number: BLAS, cores, memory, compiler, GPU.

    "paths" holds one dict for each path and shape that was checked on this GPU, or a text.
    """
    from rnncore import kernels
    no_gpu = said(kernels.why_no_cuda() or "")
    return {"blas": kernels.host.native.blas(),
            "cores": kernels.host.cores(), "memory": f"{kernels.host.memory() / 2**30:.1f} GiB",
            "recurrence": kernels.host.native.about(),
            "bf16": kernels.host.native.why_no_bf16() or "ok", "cuda": no_gpu or "ok",
            "device auto": "cpu" if no_gpu else "cuda",
            **({} if no_gpu else kernels.describe()), "paths": "eager" if no_gpu else tried(kernels.load("cuda"))}


def processor() -> str:
    """Return the processor's name."""
    lines: list[str] = []
    with contextlib.suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def tried(kernel) -> list[dict] | str:
    """Return the records of this GPU's self-checks, or a text if there is none.

    Each record also has the path that the rule names for its task, under "rule".
    """
    return [row | {"rule": named(task, kernel)} for row, task in known()] or said(
        "eager; no other path has been checked here yet: `rnncore train` checks one if that saves time, `rnncore "
        "doctor --try char-rnn` checks all now")


def known() -> list[tuple]:
    """Return (record, task) of every self-check of this GPU in its present state, newest first."""
    from rnncore.against_eager import Task
    from rnncore.selfcheck import place, remembered
    names = [field.name for field in fields(Task) if field.name != "device"]
    return [(row, Task(device="cuda", **{name: row[name] for name in names})) for row in remembered(place("cuda"))]


def named(task, kernel) -> str:
    """Return the path that the rule names for a task: the first that fits."""
    from rnncore.selfcheck import order
    return next((path for path, reason in order("auto", task, kernel).items() if reason is None), "eager")


def checks(what: str):
    """Yield one row for each path and each task of `what`, after a new self-check.

    If a path does not fit a task, its row has the reason as "cause". For a task that writes text (no optimizer) only
    the path `graph` is checked, because there is only one kernel that writes.
    """
    from rnncore import kernels, selfcheck
    kernel = kernels.load("cuda")
    for task in tasks(what):
        rule = {"rule": named(task, kernel)}
        for path in PATHS[1:] if task.optimizer else PATHS[1:2]:
            wanted = replace(task, path=path)
            why_not = selfcheck.order(path, task, kernel)[path]
            if why_not is None:
                tell(f"checking {path}: {shape(asdict(wanted))}")
                yield selfcheck.check(wanted) | rule
            else:
                yield asdict(wanted) | {"cause": f"does not fit: {why_not}"} | rule


def tasks(what: str) -> list:
    """Return the tasks to check.

    what: the name of a setting (training in float32 and tf32, writing in float32), a run, or "known" for every task
    that was checked on this GPU before. Raises UsageError if there is none.
    """
    from rnncore.runs import names
    from rnncore.against_eager import Task
    if what == "known":
        found = dict.fromkeys(replace(task, path=PATHS[0]) for _, task in known())
        if not found:
            raise click.UsageError("--try: nothing was checked on this card before: name a setting "
                                   f"({', '.join(BENCH)}) or a run")
        return list(found)
    if what in BENCH:
        if names.holds_model(names.RUNS / what):
            tell(f"--try {what}: checking the setting of that name; write {names.RUNS / what} for the run")
        about = {"embed": ModelConfig.embed} | BENCH[what]
        made = [Task(precision, "cuda", about["vocab_size"], about["embed"], about["hidden"], about["layers"],
                     about["batch"], about["seq"], TrainConfig.optimizer) for precision in ("float32", "tf32")]
        return [*made, replace(made[0], columns=1, seq=1, optimizer=None)]
    return of_run(what)


def of_run(run: str) -> list:
    """Return the tasks of a run folder or model file: writing one text and, if the run can be resumed, its training."""
    from rnncore.runs import checkpoint, metadata
    from rnncore.against_eager import Task
    found = options.find(run)
    path = found.place / "last.safetensors"
    document, tensors = checkpoint.read(path if path.is_file() else found.file)
    sizes, dtype = document["config"], str(tensors["head.bias"].dtype).replace("16", "32")
    text = Task(dtype, "cuda", sizes["vocab_size"], sizes["embed"], sizes["hidden"], sizes["layers"], 1)
    if "training" not in document:
        return [text]
    metadata.check_training(path, document, tensors)
    config = TrainConfig(**document["training"]["config"])
    precision = document["training"]["settings"].get("precision", dtype)
    return [replace(text, precision=precision, columns=config.batch, seq=config.seq, optimizer=config.optimizer), text]


def shape(row: dict) -> str:
    """Return a task in words: layers x units, columns, work, precision."""
    work = f"T {row['seq']}, {row['optimizer']}" if row["optimizer"] else f"writing, {row['vocab']} symbols"
    return f"{row['layers']} x {row['hidden']}, N {row['columns']}, {work}, {row['precision']}"


def outcome(row: dict) -> str:
    """Return the result of a self-check in words, with times in ms if it was timed."""
    if row["cause"] is not None:
        return row["cause"] if "unable" in row else f"failed ({row['cause']})"
    if row["ms"] is None:
        return "agrees with eager"
    return f"{row['ms']:.3g} ms a {'step' if row['optimizer'] else 'character'}, eager {row['eager_ms']:.3g}"


def line(row: dict) -> str:
    """Return one line on a row of `checks` or `tried`."""
    words = outcome(row) if "date" in row else row["cause"]
    date = f", {row['date'][:10]}" if "date" in row else ""
    return printable(f"{row['path']:10} {shape(row)}: {words}{date}; the rule names {row['rule']}")
