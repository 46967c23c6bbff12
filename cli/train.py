"""`rnncore train` trains a model on a corpus: it reads the options, starts or resumes a run, and trains it."""
import sys
from dataclasses import fields

import click

from rnncore.config import PRESETS, ModelConfig, SaveConfig, SplitConfig, TrainConfig, flag
from rnncore.runs.options import RunOptions

from . import options, texts
from .terminal.progress import tell
from .terminal.signals import Signals

CONFIGS = ModelConfig, TrainConfig, SplitConfig, SaveConfig
NO_REPORT = "RNNCORE_NO_REPORT"  # environment variable: if it is set to yes, no run makes a report
WHOLE, NATURAL, SHARE = ({"type": kind} for kind in (options.Whole(0), options.Whole(1), options.SHARE))
ADDED: dict[str, dict] = {  # keyword arguments of click.option beyond those that RunOptions gives
    "val": SHARE, "test": SHARE, "min_count": NATURAL, "sample_every": WHOLE, "save_every": NATURAL, "keep": WHOLE,
    "threads": {"type": str, "callback": lambda *given: options.threads(*given) or "auto", "default": "auto"}}
SHARED = {"dtype": options.DTYPE, "encoding": options.ENCODING, "encoding_errors": options.ENCODING_ERRORS,
          "newline": options.NEWLINE, "device": options.DEVICE, "cuda_path": options.CUDA_PATH}
RESUME = click.option("--resume", is_flag=True, help="Go on with the run of -o or --name, or with the newest run.")
OF_PRESETS = {name for preset in PRESETS.values() for name in preset}


def option_of(name: str, kind: type, names: str | None, help: str, choices: tuple = (), **settings):
    """Return a click option for one field of RunOptions.

    name, kind: the field's name and type; names: the option's names, by default made from the field's name; help: its
    help text; choices: its allowed values, if they are fixed; settings: further keyword arguments of click.option. The
    help names the default of the config dataclass that has a field of this name.
    """
    default = next((vars(config)[name] for config in CONFIGS if name in vars(config)), None)
    if name in OF_PRESETS and "[default" not in help:
        help = f"{help} [default: {default}, or the preset's]"
    elif default is not None and "[default" not in help:
        settings["default"] = default
    if kind is bool:
        settings = {"default": None, "is_flag": True} | settings
    elif choices or kind is not str:
        settings["type"] = click.Choice(choices) if choices else options.Integer() if kind is int else kind
    return click.option(*(names or flag(name)).split(), help=help, **settings | ADDED.get(name, {}))


def of_a_run(function):
    """Add the options of RunOptions, under their headings, to a command (a decorator)."""
    added, heading = [], ""
    for field in fields(RunOptions)[1:]:
        heading = field.metadata.get("heading") or heading
        if field.name == "allow_new_corpus":
            added.append(options.grouped(heading, RESUME))
        about = {name: value for name, value in field.metadata.items() if name != "heading"}
        added.append(options.grouped(heading, SHARED.get(field.name) or option_of(
            field.name, field.type.__args__[0], **about)))
    for add in reversed(added):
        function = add(function)
    return function


@click.command(cls=options.Command)
@click.argument("corpus", nargs=-1)
@of_a_run
def command(**given):
    """Train a model on CORPUS (files, folders, - for stdin, or a named corpus) and write it to a run folder.

    `rnncore corpus list` shows the named corpora; a missing one is downloaded first. The text is split in order into
    training, validation and test parts. Documents are shuffled before that, always in the same way. --resume goes on
    with a run that was stopped. The signal SIGUSR1 saves a run.
    """
    context = click.get_current_context()
    asked = {name: given[name] for name in texts.typed(given)}
    sys.exit(train(asked, context.with_resource(Signals()), options.says_yes(NO_REPORT)))


def train(asked: dict, signals: Signals, quiet: bool) -> int:
    """Start or resume a run, train it to its end, and return the exit code.

    asked: the options that the command line names, by field of RunOptions; signals: the open Signals; quiet: make no
    report unless the command line asks for one. Raises Diverged with advice on a lower learning rate.
    """
    from rnncore.recovery import Diverged
    from rnncore.runs.setup import resume, start

    from . import drive, ending, report
    from .corpus import bring
    going_on, wanted = asked.pop("resume", False), RunOptions(**asked)
    with (resume if going_on else start)(wanted, bring, tell) as run:
        for line in run.news():
            tell(line)
        begun = run.training.step
        try:
            with signals.waiting():
                code = drive.drive(run, signals)
        except Diverged as error:
            raise Diverged(f"{error}: {ending.lower(run)}") from error
        reporting = run.saving.report and not quiet if wanted.report is None else wanted.report
        if not code and run.training.step > begun and reporting:
            report.after(run, wanted.device, signals.stop)
    return code
