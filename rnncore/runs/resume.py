"""Resuming a run: rebuild its training from its folder, with the same options or with some of them changed."""
import shlex
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from .. import kernels, machine, plan
from ..config import SaveConfig, TrainConfig, flag
from ..data.recorded import GONE, LongerError, Lost, LostError, short
from ..data.sources import current
from ..data.text import Corpus, CorpusError, CorpusNotFoundError, Reading, read
from ..model import CharLM
from ..params import Tensors
from ..train import Training
from . import checkpoint, folder as runs, headline, metadata, names, places, prepare, tensorboard
from .folder import PASSAGE, RunFolder
from .lock import RunError
from .metadata import ARITHMETIC
from .options import AUTO, OptionError, RunOptions
from .prepare import Bring, Say
from .schema import Metadata, Settings

BUDGET = {"epochs", "steps", "minutes"}
FREE = BUDGET | {"eval_every", "patience"}           # options that a resumed run may change without a record
CHANGES = "lr", "dropout", "weight_drop", "threads"  # options whose change alters the bits, so it is recorded
# Options that only a new run with a new model can change, so --init-from is no cure for a conflict.
MODEL_OPTIONS = {"layers", "hidden", "embed", "preset", "level", "lower", "min_count", "documents", "field",
                 "no_shuffle", "init_from"}
SHOWN = 3  # missing files that a message names, at most


def resumed(path: Path, options: RunOptions, bring: Bring | None,
            say: Say) -> tuple[Training, RunFolder, list[str], SaveConfig]:
    """Return the arguments of setup.Run for the saved run in the folder `path`.

    The other parameters and the exceptions are those of setup.resume.
    """
    meta, tensors, warnings = runs.read_newest(path)
    settings = meta["training"]["settings"]
    stored = TrainConfig(**{"variational": False} | meta["training"]["config"])  # older runs had standard dropout only
    how = asdict(Reading()) | Reading.kept(settings["corpus"])
    settings.setdefault("precision", str(tensors["head.bias"].dtype))
    _refuse_conflicts(options, path, meta, how)
    if options.patience is not None and not settings["split"]["validation"]:
        raise OptionError(f"--patience needs evaluations, and {path} has no validation part: leave it out")
    kernel = kernels.load(options.device)
    config, changes = _changed(stored, options, kernel.cores(), settings["asked"].get("threads"))
    machine.check_gpu(kernel, options.cuda_path)
    precision, lower = machine.precision(settings["precision"], kernel)
    model = checkpoint.to_model(meta, tensors, options.device, precision)
    corpus = _read_corpus(options, settings, how, path, bring)
    training, notes = _restored(model, corpus, config, meta, tensors, path, options, say)
    if changes and training.done() < 1:
        notes.append(_record(changes, options, training, settings))
    if settings.get("arithmetic", 1) != ARITHMETIC and training.done() < 1:
        settings["arithmetic"] = ARITHMETIC
        notes.append("another version of rnncore began this run: this one computes sums in another order, so after "
                     f"step {training.step:,} the numbers are no longer equal to that version's bit for bit")
    notes += machine.slower(training)
    saving = SaveConfig(**settings.get("saving", {}) | options.of(SaveConfig))
    tensorboard.check(saving)
    settings["saving"] = asdict(saving)
    folder = RunFolder(path, settings, saving.keep)
    folder.kept, folder.changed = training.best, changes
    folder.rewind(training.step)
    return training, folder, [*warnings, *headline.begun(corpus, model, settings), *lower, *notes,
                              f"going on with {path} after step {training.step:,}"], saving


def _refuse_conflicts(options: RunOptions, path: Path, meta: Metadata, how: dict[str, Any]) -> None:
    """Raise OptionError for an option that contradicts the run and that a resumed run may not change.

    how: the fields of the Reading of the run's corpus.
    """
    settings, asked = meta["training"]["settings"], options.asked()
    known = meta["config"] | meta["training"]["config"] | settings["split"]["asked"] | {
        "dtype": settings["precision"], **how, "min_count": meta.get("text", {}).get("min_count", 1),
        "no_shuffle": how["documents"] != "none" and not how["shuffle"],
        "preset": settings.get("preset"),
        "init_from": settings.get("init_from"), "extend_vocab": settings.get("extend_vocab", False)}
    for name in sorted(asked.keys() & known.keys() - FREE - {*CHANGES}):
        value = asked[name]
        # The requested value may differ from the run's own: a short text lowers batch and seq. Accept both values.
        same = value in (known[name], settings["asked"].get(name, known[name]))
        if not same and not (name == "init_from" and names.stands_for(value, settings.get("origin"))):
            option = f"{flag(name)}{'' if value is True else f' {value}'}"
            option = "--standard" if (name, value) == ("variational", False) else option
            cure = "start a new run" if name in MODEL_OPTIONS else \
                f"go on from its model in a new run, with --init-from {shlex.quote(names.spelled(path))} {option}"
            raise OptionError(f"{flag(name)} {value} conflicts with {path}, which has {known[name]}: leave it out, "
                              f"or {cure}")


def _changed(stored: TrainConfig, options: RunOptions, cores: int,
             asked: int | None) -> tuple[TrainConfig, dict[str, list[Any]]]:
    """Return (config, record): the stored config with the requested options of FREE and CHANGES, and the changes.

    record: name -> [before, after] of the options in CHANGES whose value changed. A new budget of any kind replaces the
    old one. cores: the cores of this machine. asked: the number of threads requested before; None: auto was requested,
    and a new request for auto keeps the stored number.
    """
    wanted = {name: value for name, value in options.of(TrainConfig).items() if name in FREE or name in CHANGES}
    if options.threads == AUTO and asked is not None:
        wanted["threads"] = plan.threads(replace(stored, threads=None), cores)
    pairs = {name: [getattr(stored, name) or 0.0, wanted[name]] for name in CHANGES if name in wanted}
    budget: dict[str, Any] = dict.fromkeys(BUDGET) if wanted.keys() & BUDGET else {}
    return replace(stored, **budget | wanted), {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}


def _record(changes: dict[str, list[Any]], options: RunOptions, training: Training, settings: Settings) -> str:
    """Add the changes to the settings and return a note on them.

    A new learning rate also cancels the halvings of the rate by recovery.py.
    """
    settings["changes"] = [*settings.get("changes", []), {"step": training.step, **changes}]
    if "threads" in changes:
        settings["asked"]["threads"] = None if options.threads == AUTO else options.threads
    if "lr" in changes:
        training.recovery.anew()
    return f"changed {headline.changed(settings['changes'][-1])}; this is recorded; equal bits are no longer guaranteed"


def _read_corpus(options: RunOptions, settings: Settings, how: dict[str, Any], path: Path,
                 bring: Bring | None) -> Corpus:
    """Read the run's corpus, or another with --allow-new-corpus, and write the places of its files into the settings.

    how: the fields of its Reading. bring: called with the sources of the options before they are read. Raises
    CorpusError if the text cannot be read, or differs from the run's text and must not.
    """
    named, about = list(options.corpus), settings["corpus"]
    if named:
        if bring:
            bring(named)
        corpus = read(named, apart=str(path), **how)
    else:
        corpus = _recorded(settings, how, path, bool(options.allow_new_corpus))
    if corpus.sha256 != about["sha256"] and not options.allow_new_corpus:
        empty = "stdin is empty, so " * (not named and "stdin is empty" in corpus.left_out)
        raise CorpusError(_another(f"{empty}its sha256 differs", path, not named and "-" in about["sources"]))
    places.keep(settings, corpus)
    if named:
        settings["corpus"] = about | {"sources": named}
    return corpus


def _recorded(settings: Settings, how: dict[str, Any], path: Path, changed: bool) -> Corpus:
    """Read the text from the sources and files that the settings list. changed: True to allow another text.

    Raises CorpusError, whose message says how to name the text.
    """
    sources, name_it = settings["corpus"]["sources"], f"name the text where it lies now, {_naming(path)}"
    if "-" in sources and getattr(sys.stdin, "isatty", bool)():
        raise CorpusError(f"{path} read its text from stdin: pipe it in again, or {name_it}")
    try:
        return read(sources, record=places.record(settings, changed), **how)
    except LostError as error:
        raise _lost(error.lost, path) from None
    except LongerError as error:
        raise CorpusError(_another(f"{error}: its sha256 differs", path, "-" in sources)) from None
    except CorpusError as error:
        piped = " pipe the text in again," if "-" in sources else ""
        raise CorpusError(f"the training text that {path}/last.safetensors names is not read: {error};{piped} or "
                          f"{name_it}") from None


def _naming(path: Path) -> str:
    """Return the command that resumes a run with its text from another place."""
    return f"`rnncore train PATH --resume -o {shlex.quote(str(path))}`"


def _another(why: str, path: Path, piped: bool = False) -> str:
    """Return the message for a text that is not the run's, with the cure. piped: True if the text came from stdin."""
    back = "pipe the old text in again" if piped else "bring the old text back"
    return (f"the corpus is not the one that {path} was trained on ({why}): {back}, name it where it "
            f"lies now ({_naming(path)}), or go on with this one with --allow-new-corpus")


def _lost(lost: list[Lost], path: Path) -> CorpusError:
    """Return the error for a text of which some files cannot be read; it names SHOWN of them and the cure."""
    gone, name_it = [file for file in lost if file.why == GONE], f"name the text where it lies now, {_naming(path)}"
    more = f" (and {len(lost) - SHOWN:,} more)" if len(lost) > SHOWN else ""
    if not gone:
        found = ", ".join(f"{short(file.path or repr(file.source))} {file.why}" for file in lost[:SHOWN])
        if all(file.changed for file in lost):
            return CorpusError(_another(f"{found}{more}, so its sha256 differs", path))
        return CorpusError(f"of the training text that {path}/last.safetensors names, {found}{more}: {name_it}")
    shown = gone[:SHOWN]
    words = f"no {', '.join(short(repr(file.seen)) for file in shown)}"
    there = [short(file.path) for file in shown if file.path]
    if there and all(file.seen == file.path for file in shown):
        words += f", where {path} read it"
    elif there:
        words += f" in {current()}, nor {', '.join(there)}, where {path} read it"
    else:
        words += (f" in {current()}, and {path} remembers its text by that path alone, seen from the folder in which "
                  "it was begun")
    return CorpusNotFoundError(f"{words}{more}: {name_it}")


def _restored(model: CharLM, corpus: Corpus, config: TrainConfig, meta: Metadata, tensors: Tensors,
              path: Path, options: RunOptions, say: Say) -> tuple[Training, list[str]]:
    """Return the Training at the saved step, on the corpus, and notes for the user.

    If the corpus is another one than before, its description and its split replace the old ones in the settings. Raises
    RunError if the corpus has a symbol that the model does not know or is too short, ModelFileError if the sizes of the
    split do not fit.
    """
    settings = meta["training"]["settings"]
    asked, about = settings["split"]["asked"], settings["corpus"]
    prepare.check_known(corpus, model.vocab, path, f"begin a new run with --init-from {path} --extend-vocab")
    parts, record, warnings = prepare.split_ids(prepare.encoded(corpus, model.vocab), asked["val"], asked["test"],
                                                model.vocab.end if about.get("shuffle") else None)
    if len(parts[0]) <= config.batch:
        raise RunError(f"{len(parts[0]):,} characters are too few to train {config.batch} streams of {path} on: "
                       "start a new run")
    chosen = prepare.take_path(options, model, config, parts[0], path, say)
    training = prepare.training_of(model, parts, config)
    runs.restore(training, meta, tensors)
    if training.course.first is None:  # older runs did not store it
        training.course.first = runs.first_loss(path)
    if corpus.sha256 == about["sha256"]:
        metadata.check_split(path / "last.safetensors", settings["split"], record)
        return training, [*corpus.left_out, *chosen]
    settings |= {"corpus": about | places.about(corpus, {}) | {"sources": about["sources"]}, "split": record}
    # Measurements on the old validation text do not apply to the new one.
    settings.pop("floor", None)
    settings["no_floor"] = "the corpus is not the one that the run began with"
    (path / PASSAGE).unlink(missing_ok=True)
    training.another_text()
    return training, [*corpus.notes, *warnings, *chosen]
