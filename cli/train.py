"""`rnncore train` learns a corpus: it reads the options, sets a run up or takes one up again, and drives it."""
import sys
from dataclasses import fields

import click
from click.core import ParameterSource

from rnncore.config import OPTIMIZERS, PRESETS, ModelConfig, SaveConfig, TrainConfig

from . import options
from .terminal.progress import tell
from .terminal.signals import Signals

NO_REPORT = "RNNCORE_NO_REPORT"  # in the environment: no run here makes a report


def _of(config, name: str, text: str, **settings) -> tuple:
    """An option for a field of a config dataclass."""
    return options.flag(name), {"help": text, **options.default_of(config, name), **settings}


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
    ("--layers", {"type": options.Integer(), "help": "LSTM layers. [default: the preset's]"}),
    ("--hidden", {"type": options.Integer(), "help": "Units a layer. [default: the preset's]"}),
    _of_preset(ModelConfig, "embed", "Embedding size.", type=options.Integer()),
    ("--init-from", {"metavar": "RUN", "help": "Go on from this model: a run, a file, a pretrained one."}),
    ("--extend-vocab", {"is_flag": True, "help": "Teach it the symbols of CORPUS that it does not know."}),
    options.DTYPE)
@options.grouped(
    "Budget (one of three; by default epochs that suit the corpus)",
    _of(TrainConfig, "epochs", "Passes over the text.", type=float),
    _of(TrainConfig, "steps", "Optimiser steps.", type=options.Integer()),
    _of(TrainConfig, "minutes", "Wall-clock time, evaluation included.", type=float))
@options.grouped(
    "Optimisation",
    _of_preset(TrainConfig, "seq", "Characters back through time, T.", type=options.Integer()),
    _of_preset(TrainConfig, "batch", "Streams side by side, N.", type=options.Integer()),
    _of_preset(TrainConfig, "optimizer", "How to update.", type=click.Choice(OPTIMIZERS)),
    _of(TrainConfig, "lr", "Peak learning rate [default: by model size].", type=float),
    _of(TrainConfig, "clip", "Bound on the gradient's global norm; 0: none.", type=float),
    _of(TrainConfig, "warmup", "Share of the budget in which the rate rises.", type=float),
    _of(TrainConfig, "seed", "Of parameters, masks and the text's rotation.", type=options.Integer()))
@options.grouped(
    "Regularisation",
    _of_preset(TrainConfig, "dropout", "Share of the units that a layer hands on to drop.", type=float),
    _of_preset(TrainConfig, "weight_drop", "Share of the entries of W_hh to drop.", type=float),
    ("--variational/--standard", {"default": None, "help": "One dropout mask a window, or one a character "
                                                           "[default: variational, or the preset's]"}),
    _of(TrainConfig, "patience", "End after so many evaluations in a row that are no better. [default: never]",
        type=options.Integer()))
@options.grouped(
    "Text",
    ("--val", {"type": options.Share(), "default": 0.1, "show_default": True,
               "help": "Share of the text for validation, after the training part."}),
    ("--test", {"type": options.Share(), "default": 0.0, "show_default": True,
                "help": "Share left out at the end."}),
    ("--level", {"type": click.Choice(["char", "byte"]),
                 "help": "What a symbol is; byte takes any file as it is. [default: char]"}),
    ("--lower", {"is_flag": True, "help": "Make the text lower case, and primes and scored texts after it."}),
    ("--min-count", {"type": options.Whole(1), "metavar": "K",
                     "help": "Learn the symbols that occur less than K times as one, U+FFFD. [default: 1]"}),
    ("--documents", {"type": click.Choice(["none", "lines", "blank", "jsonl"]),
                     "help": "Learn many short texts: each line, what lies between blank lines, or a --field of each "
                             "line's JSON. [default: none]"}),
    ("--field", {"metavar": "NAME", "help": "The text in each line's JSON. [default: text]"}),
    ("--no-shuffle", {"is_flag": True, "help": "Split documents in the order in which they come."}))
@options.placed("Text", options.ENCODING, options.ENCODING_ERRORS, options.NEWLINE)
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
    ("--eval-every", {"type": options.Integer(), "metavar": "STEPS", "help": "Validate so often [default: 10 times]."}),
    _of(SaveConfig, "sample_every", "Show a sample; 0: none [default: with validation].", type=options.Whole(0),
        metavar="STEPS"),
    _of(SaveConfig, "save_every", "Save [default: with validation, and each minute].", type=options.Whole(1),
        metavar="STEPS"),
    _of(SaveConfig, "keep", "Keep the last N saved models as step-*.safetensors.", type=options.Whole(0),
        metavar="N"),
    ("--tensorboard/--no-tensorboard", {"help": "Write metrics and samples for TensorBoard, too.",
                                        **options.default_of(SaveConfig, "tensorboard")}),
    ("--report/--no-report", {"default": None, "help": "Make report.html at the end, where matplotlib and jinja2 are "
                                                       "installed. [default: report]"}))
def command(**given):
    """Learn CORPUS: files, folders, - for stdin, or a named corpus; writes a run folder.

    `rnncore corpus list` shows the named corpora; one that is not here is downloaded first. Text is split in order into
    training, validation and test parts, documents after they were shuffled, always in the same way. A run that was
    stopped goes on with --resume; SIGUSR1 saves it.
    """
    context = click.get_current_context()
    explicit = {name for name in given if context.get_parameter_source(name) == ParameterSource.COMMANDLINE}
    _check_kinds({name: given[name] for name in explicit if given[name] is not None})
    if given["out"] and given["name"]:
        raise click.UsageError("give -o or --name, not both")
    if given["allow_new_corpus"] and not given["resume"]:
        raise click.UsageError("--allow-new-corpus goes with --resume: a new run takes any corpus")
    if not given["corpus"] and not given["resume"]:
        raise click.UsageError("name a CORPUS: a file, a folder, - or a named corpus, as in `rnncore train numpy`")
    quiet = options.says_yes(NO_REPORT)
    sys.exit(run(given, explicit, context.with_resource(Signals()), quiet))


def _check_kinds(given: dict) -> None:
    """Refuse settings that no run can have, a resumed one either. Raises ConfigError."""
    for config, needed in ((ModelConfig, {"vocab_size": 2}), (TrainConfig, {})):
        config(**needed | {field.name: given[field.name] for field in fields(config) if field.name in given})


def run(given: dict, explicit: set[str], signals: Signals, quiet: bool) -> int:
    """Set a run up or take one up again, and drive it to its end; returns the exit code.

    quiet: no report is wanted, unless the command line asks for one.
    """
    from rnncore.recovery import Diverged
    from rnncore.runs.folder import RunError

    from . import drive, ending, jobs, report, resume
    job = resume.resume(given, explicit) if given["resume"] else jobs.start(given)
    for line in job.notes:
        tell(line)
    begun = job.training.step
    try:
        with signals.waiting():
            code = drive.drive(job, signals)
    except MemoryError:
        raise RunError(job.too_large()) from None
    except Diverged as error:
        raise Diverged(f"{error}: {ending.lower(job)}") from error
    wanted = job.saving.report and not quiet if given["report"] is None else given["report"]
    if not code and job.training.step > begun and wanted:
        report.after(job, given["device"], signals.stop)
    return code
