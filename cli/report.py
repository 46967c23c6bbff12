"""`rnncore report` makes one HTML file that shows what a model has learnt; `train` makes it at the end of a run."""
import os
from collections.abc import Sequence
from pathlib import Path

import click

from rnncore import requirements
from rnncore.runs.lock import RunError

from . import options, texts
from .terminal import called
from .terminal.progress import tell
from .terminal.signals import Stopped, by

NAME = "report.html"
CELLS = 3  # that are shown for each thing that cells may follow
NEEDED = "matplotlib", "jinja2"


@click.command(cls=options.Command)
@options.RUN
@click.option("--text", metavar="FILE", help="Read the beginning of this text: a file, a folder or a named corpus. "
                                             "[default: the run's validation text, else one that the model writes]")
@click.option("--out", "-o", type=click.Path(), metavar="FILE",
              help="The file to write. [default: report.html in the run folder, or NAME-report.html here]")
@click.option("--cells", type=options.Whole(1, 20), default=CELLS, metavar="K",
              help="Cells to show for each thing that cells may follow.")
@texts.options_of
@options.DEVICE
def command(run, text, out, cells, device, **how):
    """Make one HTML file of RUN: how it learned, what it wrote, what surprises it, what its cells follow.

    RUN is a run folder, a model file or a pretrained model; by default the newest run. The file needs nothing beside
    itself. report.html in a run folder is replaced, any other file is not.
    """
    if out == "-":
        raise click.UsageError("--out '-': name a file, or leave it out")
    if words := requirements.missing(*NEEDED):
        raise RunError(f"a report needs {words}")
    found = options.find(run)
    target = Path(out) if out else default(found)
    if os.path.lexists(target) and not (found.folder and target.absolute() == (found.folder / NAME).absolute()):
        raise FileExistsError(f"{target} exists already: name another file with --out")
    if not os.access(target.absolute().parent, os.W_OK):
        raise PermissionError(f"{target} cannot be written: name another file with --out")
    for note in write(found, target, device, text, cells, **how):
        tell(note)
    click.echo(f"{target}: {target.stat().st_size:,} bytes; open it in a browser")


def default(found) -> Path:
    """Where the report of a names.Found goes."""
    return found.folder / NAME if found.folder else Path(f"{found.file.stem}-{NAME}")


def after(run, device: str, stop: int | None = None) -> None:
    """Make the report of a run that has just ended, where the extra is installed; what goes wrong is one line.

    stop: a signal that came too late to stop the training. No report is made then, but nothing else is missing.
    """
    path = run.folder.path
    if requirements.missing(*NEEDED):
        return
    from rnncore.report import story
    from rnncore.runs import names
    try:
        validation = run.training.validation
        if validation:
            story.keep(path, run.training.model.vocab, validation.batches.ids)
        if stop is not None:
            raise InterruptedError(by(stop))
        write(names.at(path), path / NAME, device)
        tell(f"report in {called.path(path / NAME)}: open it in a browser")
    except (Exception, KeyboardInterrupt, Stopped) as error:
        words = " ".join(str(error).split()) or type(error).__name__
        tell(f"warning: no report was made ({words}); `rnncore report {called.path(names.spelled(path))}` makes one")
        if isinstance(error, Stopped):
            raise


def write(found, target: Path, device: str, text: str | None = None, cells: int = CELLS, **how) -> list[str]:
    """Make the report of a names.Found, write it to target, return what is to be said. how: texts.NAMES, of text."""
    from rnncore.report import page, story
    from rnncore.runs import checkpoint
    from rnncore.runs.files import write_whole
    document, tensors = checkpoint.read(found.file)
    model, card = checkpoint.to_model(document, tensors, device), document["card"]
    said: Sequence[str] = ()
    if text:
        symbols, corpus = texts.beginning(model.vocab, text, story.CHARACTERS, how)
        said, passage = corpus.notes, story.named(model, symbols, text)
    else:
        passage = story.own(model, card, found)
    told = story.tell(found, model, card, passage, cells)
    write_whole(target, page.render(told).encode(errors="replace"))
    return [*said, *told.notes]
