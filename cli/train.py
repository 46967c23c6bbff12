"""`rnncore train` learns a corpus: it reads the options, sets a run up or takes one up again, and drives it."""
import sys
from dataclasses import fields

import click

from rnncore.config import PRESETS, ModelConfig, SaveConfig, SplitConfig, TrainConfig, flag
from rnncore.runs.options import RunOptions

from . import options, texts
from .terminal.progress import tell
from .terminal.signals import Signals

CONFIGS = ModelConfig, TrainConfig, SplitConfig, SaveConfig
NO_REPORT = "RNNCORE_NO_REPORT"  # in the environment: no run here makes a report
WHOLE, NATURAL, SHARE = ({"type": kind} for kind in (options.Whole(0), options.Whole(1), options.SHARE))
ADDED: dict[str, dict] = {  # to what RunOptions says of an option
    "val": SHARE, "test": SHARE, "min_count": NATURAL, "sample_every": WHOLE, "save_every": NATURAL, "keep": WHOLE,
    "threads": {"type": str, "callback": lambda *given: options.threads(*given) or "auto", "default": "auto"}}
SHARED = {"dtype": options.DTYPE, "encoding": options.ENCODING, "encoding_errors": options.ENCODING_ERRORS,
          "newline": options.NEWLINE, "device": options.DEVICE, "cuda_path": options.CUDA_PATH}
RESUME = click.option("--resume", is_flag=True, help="Go on with -o, or with the newest run.")
OF_PRESETS = {name for preset in PRESETS.values() for name in preset}


def option_of(name: str, kind: type, names: str | None, help: str, choices: tuple = (), **settings):
    """An option as click has it, for a field of RunOptions of this kind; its default is that of the config with it."""
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
    """A decorator that adds the options of RunOptions, under its headings."""
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
    """Learn CORPUS: files, folders, - for stdin, or a named corpus; writes a run folder.

    `rnncore corpus list` shows the named corpora; one that is not here is downloaded first. Text is split in order into
    training, validation and test parts, documents after they were shuffled, always in the same way. A run that was
    stopped goes on with --resume; SIGUSR1 saves it.
    """
    context = click.get_current_context()
    asked = {name: given[name] for name in texts.typed(given)}
    sys.exit(train(asked, context.with_resource(Signals()), options.says_yes(NO_REPORT)))


def train(asked: dict, signals: Signals, quiet: bool) -> int:
    """Set a run up or take one up again, and drive it to its end; returns the exit code.

    asked: the options of the command line. quiet: no report is wanted, unless the command line asks for one.
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
