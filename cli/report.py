"""`rnncore report` makes one HTML file that shows what a model has learnt; `train` makes it at the end of a run."""
import json
import os
from itertools import islice
from pathlib import Path

import click

from rnncore import requirements

from . import options, texts
from .terminal import called
from .terminal.progress import tell
from .terminal.signals import Stopped, by

NAME = "report.html"
CHARACTERS = 4000  # of the passage that is read
RANKED = 10        # cells a probe that are ranked, at least
NEEDED = "matplotlib", "jinja2"


@click.command(cls=options.Command)
@options.RUN
@click.option("--text", metavar="FILE", help="Read the beginning of this text: a file, a folder or a named corpus. "
                                             "[default: the run's validation text, else one that the model writes]")
@click.option("--out", "-o", type=click.Path(), metavar="FILE",
              help="The file to write. [default: report.html in the run folder, or NAME-report.html here]")
@click.option("--cells", type=options.Whole(1, 20), default=3, show_default=True, metavar="K",
              help="Cells to show for each thing that cells may follow.")
@texts.options_of
@options.DEVICE
def command(run, text, out, cells, device, **how):
    """Make one HTML file of RUN: how it learned, what it wrote, what surprises it, what its cells follow.

    RUN is a run folder, a model file or a pretrained model; by default the newest run. The file needs nothing beside
    itself. report.html in a run folder is replaced, any other file is not.
    """
    if text == "":
        raise click.UsageError("--text '': name a file, or leave it out")
    if out in ("", "-"):
        raise click.UsageError(f"--out {out!r}: name a file, or leave it out")
    from rnncore.runs.folder import RunError
    if words := requirements.missing(*NEEDED):
        raise RunError(f"a report needs {words}")
    found = options.find(run)
    target = Path(out) if out else default(found)
    if os.path.lexists(target) and not (found.folder and target.absolute() == (found.folder / NAME).absolute()):
        raise FileExistsError(f"{target} exists already: name another file with --out")
    if not os.access(target.absolute().parent, os.W_OK):
        raise PermissionError(f"{target} cannot be written: name another file with --out")
    for note in write(found, target, device, text=text, cells=cells, how=how):
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
    from rnncore.runs import names
    from rnncore.runs.folder import PASSAGE
    try:
        validation = run.training.validation
        if validation:
            keep(path / PASSAGE, run.training.model.vocab, validation.batches.ids[:CHARACTERS])
        if stop is not None:
            raise InterruptedError(by(stop))
        write(names.at(path), path / NAME, device)
        tell(f"report in {called.path(path / NAME)}: open it in a browser")
    except (Exception, KeyboardInterrupt, Stopped) as error:
        words = " ".join(str(error).split()) or type(error).__name__
        tell(f"warning: no report was made ({words}); `rnncore report {called.path(names.spelled(path))}` makes one")
        if isinstance(error, Stopped):
            raise


def write(found, target: Path, device: str, text: str | None = None, cells: int = 3,
          how: dict | None = None) -> list[str]:
    """Make the report of a names.Found, write it to target, return what is to be said. how: texts.NAMES, of text."""
    from rnncore.report import page
    from rnncore.report.atlas import FEW
    from rnncore.runs import checkpoint
    from rnncore.runs.files import write_whole
    from rnncore.runs.folder import PASSAGE

    folder = found.folder
    document, tensors = checkpoint.read(found.file)
    model, card = checkpoint.to_model(document, tensors, device), document["card"]
    rows, samples, notes = (*history(folder), []) if folder else ([], [], [
        "This is of a model file alone, without its run folder: there are no curves and no samples."])
    said: list[str] = []
    passage = asked_for(model, text, how or {}, notes, said) if text else \
        stretch(model, card, found.file, folder and folder / PASSAGE, notes)
    ids, source = passage[0][:CHARACTERS], passage[1]
    if len(ids) < FEW:
        notes.append(f"It read {len(ids)} {'bytes' if model.vocab.level == 'byte' else 'characters'}: over so few, "
                     "correlations mean little.")
    told = tell_story(model, card, ids, cells)
    name = folder.resolve().name if folder else found.file.stem
    story = page.Story(name=name, source=source, rows=rows, samples=samples, notes=notes, **told)
    write_whole(target, page.render(story).encode(errors="replace"))
    return said + notes


def tell_story(model, card: dict, ids, cells: int) -> dict:
    """What a Story has of a model, its training card and a text (n,)."""
    import numpy as np

    from rnncore.report.atlas import of
    from rnncore.report.reading import read
    from rnncore.sample import TOO_LARGE

    reading = read(model, ids)
    if not np.isfinite(reading.bits).all():
        raise FloatingPointError(f"the loss is no number: {TOO_LARGE}")
    floor = card["floor"]["nats"] if is_trained(card) and card.get("floor") else None
    return {"vocab": model.vocab, "passage": reading, "atlas": of(reading, model.vocab, max(cells, RANKED)),
            "best": cells, "floor": floor, "there": there(card), "headline": headline(model, card, floor),
            "facts": facts(model, card)}


def is_trained(card: dict) -> bool:
    """Whether a card is one of `rnncore train`."""
    from rnncore.runs.folder import trained
    return trained(card)


def there(card: dict) -> int | None:
    """How many characters of validation text there are to predict; None where the card does not say."""
    return (card.get("val_chars") or {}).get("all") if is_trained(card) else None


def headline(model, card: dict, floor: float | None) -> list[tuple[str, str]]:
    """The figures that a page begins with."""
    from math import log

    from rnncore import params
    from rnncore.plan import about
    from rnncore.runs.headline import of as of_validation

    config = model.config
    found = [("model", f"{config.layers} × {config.hidden} LSTM, {params.count(config):,} parameters")]
    if is_trained(card):
        found.append(("learned", f"{about(card['chars'])} characters of {card['corpus']['name']}"))
        if measured := of_validation(card):
            nats = measured.best.nats
            found.append(("validation loss", f"{nats:.3f} nats, {nats / log(2):.3f} bits, {measured.best.over}"))
    return found + ([("n-gram floor, by counting", f"{floor:.3f} nats")] if floor is not None else [])


def facts(model, card: dict) -> list[tuple[str, str]]:
    """The training card, term by term, as `rnncore info` has it."""
    from .info import card_lines

    config = model.config
    sizes = (f"{config.layers} x {config.hidden} LSTM, embedding {config.embed}, {config.vocab_size:,} symbols, "
             f"{model.dtype}")
    return [("model", sizes), *((line[:12].strip(), line[12:]) for line in card_lines(card))]


def history(folder: Path) -> tuple[list[dict], list[tuple[int, str]]]:
    """(rows of metrics.jsonl, samples and their steps) of a run folder; lines that are torn are left out."""
    from rnncore.runs import folder as runs
    logged = [_row(line) for line in _read(folder / "metrics.jsonl").splitlines()]
    return ([row for row in logged if "step" in row],
            [(step, text.rstrip()) for step, text in runs.samples(_read(folder / "samples.txt"))])


def _read(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""


def _row(line: str) -> dict:
    """The numbers in a line of JSON."""
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return {}
    return {name: value for name, value in row.items() if type(value) in (int, float) and abs(value) < 1e30} \
        if isinstance(row, dict) else {}


def stretch(model, card: dict, file: Path, kept: Path | None, notes: list[str]) -> tuple:
    """(ids (n,), where they are from) of the passage to read; what is to be said of it is added to the notes.

    Of the validation text: what was `kept` of it in the run folder, or the corpus read anew; else the model writes it.
    """
    why: list[str] = []
    ids = _kept(model.vocab, kept) if kept and kept.is_file() else validation(model, card, file, why)
    if ids is not None and len(ids) > 1:
        return ids, "the beginning of the validation text, which it has not learned from"
    none = is_trained(card) and not card["split"]["validation"]
    lacks = "The text that it was validated on is not at hand" + "".join(f" ({words})" for words in why)
    notes.append(f"{'It has no validation text' if none else lacks}: what "
                 "it reads here is what it wrote itself, which surprises it less; --text names another.")
    return written(model), "what it wrote itself"


def keep(path: Path, vocab, ids) -> None:
    """Write the symbols ids (n,) to a file, as a text or as bytes."""
    from rnncore.runs.files import write_whole
    text = "".join(map(vocab.symbols.__getitem__, ids.tolist()))
    write_whole(path, text.encode("latin-1") if vocab.level == "byte" else text.encode(errors="surrogatepass"))


def _kept(vocab, path: Path):
    """The ids of what `keep` wrote."""
    with path.open("rb") as file:
        data = file.read(4 * CHARACTERS)  # a longer one is not of `keep`
    return vocab.encode(data if vocab.level == "byte" else data.decode(errors="replace"), "replace")


def written(model):
    """The ids (n,) of a text that the model writes."""
    import numpy as np

    from rnncore.config import SampleConfig
    from rnncore.sample import generate_ids, prompt_ids

    ids = generate_ids(model, prompt_ids(model.vocab, "", "error"), SampleConfig(seed=1))
    return np.concatenate(list(islice(ids, CHARACTERS)))


def asked_for(model, text: str, how: dict, notes: list[str], said: list[str]) -> tuple:
    """(ids (n,), where they are from) of a text that the user named; said: what its reading has to say is added."""
    from rnncore.measure.evaluate import encode

    passage, corpus = texts.beginning(model.vocab, text, CHARACTERS, how)
    said += corpus.notes
    unknown = sum(symbol not in model.vocab for symbol in model.vocab.spelled(passage))
    if unknown:
        notes.append(f"{unknown:,} of the characters read are not in the model’s vocabulary: stand-ins are in their "
                     "places.")
    return encode(model, passage, "replace"), f"the beginning of {text}"


def validation(model, card: dict, file: Path, said: list[str] | None = None):
    """The validation ids of the corpus in the training card; None where it cannot be read: why is added to said."""
    from .floor import corpus_of

    corpus, why = corpus_of(card, file)
    if corpus is None:
        if said is not None and why:
            said.append(why)
        return None
    ids, split = corpus.encode(model.vocab, "replace")[0], card["split"]
    return ids[split["train"]:split["train"] + split["validation"]]
