"""`rnncore train` learns a corpus: it reads the options, sets a run up or takes one up again, and drives it."""
import signal
import sys
import time
import warnings

import click
from click.core import ParameterSource

from rnncore.config import OPTIMIZERS, PRESETS, ModelConfig, SaveConfig, TrainConfig

from . import called, options
from .progress import display, tell

SAVE = 300     # seconds between saves where no milestone comes sooner
SAMPLE = 200   # characters of a sample on the way


def _of(config, name: str, text: str, **settings) -> tuple:
    """An option for a field of a config dataclass."""
    return f"--{name.replace('_', '-')}", {"help": text, **options.default_of(config, name), **settings}


def _of_preset(config, name: str, text: str, **settings) -> tuple:
    """The same, where a preset may say otherwise: the default is left to the preset."""
    names, usual = _of(config, name, text, **settings)
    default = f"{usual['default']}, or the preset's" if usual["show_default"] else "by corpus and budget"
    return names, usual | {"default": None, "show_default": False, "help": f"{text} [default: {default}]"}


@click.command(cls=options.Command)
@click.argument("corpus", nargs=-1)
@options.grouped(
    "Model",
    ("--preset", {"type": click.Choice(PRESETS), "help": "Sizes and more. [default: by corpus and budget]"}),
    ("--layers", {"type": int, "help": "LSTM layers. [default: the preset's]"}),
    ("--hidden", {"type": int, "help": "Units a layer. [default: the preset's]"}),
    _of_preset(ModelConfig, "embed", "Embedding size.", type=int),
    ("--init-from", {"metavar": "RUN", "help": "Go on from this model: a run, a file, a pretrained one."}),
    ("--extend-vocab", {"is_flag": True, "help": "Teach it the symbols of CORPUS that it does not know."}),
    options.DTYPE)
@options.grouped(
    "Budget (one of three; by default epochs that suit the corpus)",
    _of(TrainConfig, "epochs", "Passes over the text.", type=float),
    _of(TrainConfig, "steps", "Optimiser steps.", type=int),
    _of(TrainConfig, "minutes", "Wall-clock time, evaluation included.", type=float))
@options.grouped(
    "Optimisation",
    _of_preset(TrainConfig, "seq", "Characters back through time, T.", type=int),
    _of_preset(TrainConfig, "batch", "Streams side by side, N.", type=int),
    _of_preset(TrainConfig, "optimizer", "How to update.", type=click.Choice(OPTIMIZERS)),
    _of(TrainConfig, "lr", "Peak learning rate [default: by model size].", type=float),
    _of(TrainConfig, "clip", "Bound on the gradient's global norm; 0: none.", type=float),
    _of(TrainConfig, "warmup", "Share of the budget in which the rate rises.", type=float),
    _of(TrainConfig, "seed", "Of parameters, masks and the text's rotation.", type=int))
@options.grouped(
    "Regularisation",
    _of_preset(TrainConfig, "dropout", "Share of the units that a layer hands on to drop.", type=float),
    _of_preset(TrainConfig, "weight_drop", "Share of the entries of W_hh to drop.", type=float),
    ("--variational/--standard", {"default": None, "help": "One dropout mask a window, or one a character "
                                                           "[default: variational, or the preset's]"}),
    _of(TrainConfig, "patience", "End after so many evaluations in a row that are no better. [default: never]",
        type=int))
@options.grouped(
    "Text",
    ("--val", {"type": options.Share(), "default": 0.1, "show_default": True,
               "help": "Share of the text for validation, after the training part."}),
    ("--test", {"type": options.Share(), "default": 0.0, "show_default": True,
                "help": "Share left out at the end."}),
    ("--level", {"type": click.Choice(["char", "byte"]),
                 "help": "What a symbol is; byte takes any file as it is. [default: char]"}),
    ("--lower", {"is_flag": True, "help": "Make the text lower case, and primes and scored texts after it."}),
    ("--min-count", {"type": click.IntRange(1), "metavar": "K",
                     "help": "Learn the symbols that occur less than K times as one, U+FFFD. [default: 1]"}),
    ("--documents", {"type": click.Choice(["none", "lines", "blank", "jsonl"]),
                     "help": "Learn many short texts: each line, what lies between blank lines, or a --field of each "
                             "line's JSON. [default: none]"}),
    ("--field", {"metavar": "NAME", "help": "The text in each line's JSON. [default: text]"}))
@options.placed("Text", options.ENCODING, options.NEWLINE)
@options.grouped(
    "Machine",
    ("--threads", {"default": "auto", "metavar": "auto|K", "show_default": True, "callback": options.threads,
                   "help": "Threads that share the streams; the same number gives the same bits."}))
@options.placed("Machine", options.DEVICE, options.CUDA_PATH)
@options.grouped(
    "Run",
    ("--out -o", {"metavar": "FOLDER", "help": "Run folder [default: runs/NAME]."}),
    ("--name", {"help": "Name of the folder under runs/ [default: the corpus's]."}),
    ("--resume", {"is_flag": True, "help": "Go on with -o, or with the newest run."}),
    ("--allow-new-corpus", {"is_flag": True, "help": "With --resume: go on with CORPUS although it is another text."}),
    ("--eval-every", {"type": int, "metavar": "STEPS", "help": "Validate so often [default: 10 times]."}),
    _of(SaveConfig, "sample_every", "Show a sample; 0: none [default: with validation].", type=click.IntRange(0),
        metavar="STEPS"),
    _of(SaveConfig, "save_every", "Save [default: with validation].", type=click.IntRange(1), metavar="STEPS"),
    _of(SaveConfig, "keep", "Keep the last N saved models as step-*.safetensors.", type=click.IntRange(0),
        metavar="N"),
    ("--tensorboard/--no-tensorboard", {"help": "Write metrics and samples for TensorBoard, too.",
                                        **options.default_of(SaveConfig, "tensorboard")}),
    ("--no-report", {"is_flag": True, "envvar": "RNNCORE_NO_REPORT",
                     "help": "Make no report.html at the end; it is made where matplotlib and jinja2 are installed."}))
def command(**given):
    """Learn CORPUS: files, folders, - for stdin, or a named corpus; writes a run folder.

    `rnncore corpus list` shows the named corpora; one that is not here is downloaded first. Text is split in order into
    training, validation and test parts. A run that was stopped goes on with --resume.
    """
    from . import jobs
    context = click.get_current_context()
    explicit = {name for name in given if context.get_parameter_source(name) == ParameterSource.COMMANDLINE}
    if given["out"] and given["name"]:
        raise click.UsageError("give -o or --name, not both")
    if given["allow_new_corpus"] and not given["resume"]:
        raise click.UsageError("--allow-new-corpus goes with --resume: a new run takes any corpus")
    if not given["corpus"] and not given["resume"]:
        raise click.UsageError("name a CORPUS: a file, a folder, - or a named corpus, as in `rnncore train numpy`")
    job = jobs.resume(given, explicit) if given["resume"] else jobs.start(given)
    for line in job.notes:
        tell(line)
    begun = job.training.step
    try:
        code = drive(job)
    except MemoryError:
        raise jobs.RunError(job.too_large()) from None
    if not code and job.training.step > begun and not given["no_report"]:
        from . import report
        report.after(job, given["device"])
    sys.exit(code)


class Interrupt:
    """Remembers the first SIGINT or SIGTERM, for the loop to act on between steps; a second SIGINT leaves at once."""

    def __enter__(self) -> "Interrupt":
        self.signal: int | None = None
        self._before = {s: signal.signal(s, self._note) for s in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *exception) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame) -> None:
        if self.signal is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.signal = number


def drive(job) -> int:
    """Train to the end of the budget or to a signal; returns the exit code."""
    training, folder, every = job.training, job.folder, job.saving
    if training.done() >= 1:
        return already_finished(job)
    training.stops = every.sample_every, every.save_every
    saved, unsaved, stop, due = time.monotonic(), None, None, False
    said: list[str | None] = [None]
    with Interrupt() as interrupt, display() as shown, warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # NumPy's, of numbers that Training finds itself
        for p in training:
            troubles = [*(f"warning: {note}" for note in p.notes), job.write(folder.log, p)]
            shown.update(p)
            if p.milestone if every.sample_every is None else every.sample_every and p.step % every.sample_every == 0:
                sample = job.sample(SAMPLE)
                troubles.append(job.write(folder.add_sample, p.step, sample))
                shown.sample(p, sample)
            due = due or (p.step % every.save_every == 0 if every.save_every
                          else p.milestone or time.monotonic() > saved + SAVE)
            better = p.val_loss is not None and training.best[1] == p.step
            stop = None if p.finished else interrupt.signal
            if stop:
                troubles.append(job.write(folder.log, p, True))
            if due and not training.recovery.row or better or p.finished or stop:  # bad steps in a row: not now
                unsaved, saved, due = job.write(folder.save, training, better), time.monotonic(), False
                troubles.append(unsaved)
            for trouble in (*troubles, job.mirror()):
                if trouble not in said:
                    shown.say(trouble)
                    said.append(trouble)
            if stop:
                break
    return farewell(job, stop, unsaved)


def already_finished(job) -> int:
    """Say what would go on with a run whose budget or patience is spent; returns the exit code."""
    more = [what for what, spent in (("a larger --patience", job.training.given_up()),
                                     ("a larger --epochs, --steps or --minutes", job.training.spent_all())) if spent]
    trouble = job.mirror()
    if trouble:
        tell(trouble)
    tell(f"{job.folder.path} is finished: {' and '.join(more)} goes on with it")
    return 0


def farewell(job, stopped: int | None, unsaved: str | None) -> int:
    """Say where the run stands and what to type next; returns the exit code."""
    from rnncore import names
    training, folder = job.training, job.folder
    path, run = called.path(folder.path), called.path(names.spelled(folder.path))
    if unsaved:
        tell(f"rnncore: {unsaved}")
        return 1
    if stopped:
        stdin = " < FILE" if "-" in folder.settings["corpus"]["sources"] else ""
        tell(f"stopped at step {training.step:,} and saved; go on with\n\n"
             f"  {called.called()} train --resume -o {path}{stdin}\n")
        return 128 + stopped
    for line in job.verdict():
        tell(line)
    tell(f"saved in {path}; let it write with\n\n  {called.called()} generate {run} -n 400\n")
    return 0
