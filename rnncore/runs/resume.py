"""A run that was stopped, or is to be longer, is taken up again from its folder, with some options changed or none."""
import shlex
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from .. import kernels, plan
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
from .options import AUTO, OptionError, RunOptions
from .prepare import Bring, Say
from .schema import Metadata, Settings

BUDGET = {"epochs", "steps", "minutes"}
FREE = BUDGET | {"eval_every", "patience"}                 # what a resumed run may change without a word,
CHANGES = "lr", "dropout", "weight_drop", "threads"        # and what it may, but is then another run: this is recorded
OF_A_MODEL = {"layers", "hidden", "embed", "preset", "level", "lower", "min_count", "documents", "field", "no_shuffle",
              "init_from"}
SHOWN = 3  # texts that are named, of those that are not found


def taken_up(path: Path, options: RunOptions, bring: Bring | None,
             say: Say) -> tuple[Training, RunFolder, list[str], SaveConfig]:
    """Return what a setup.Run is made of: the run in the folder `path`, where it was saved. The rest: setup.resume."""
    document, tensors, warnings = runs.read_newest(path)
    settings = document["training"]["settings"]
    stored = TrainConfig(**{"variational": False} | document["training"]["config"])  # older runs knew no other dropout
    how = asdict(Reading()) | Reading.kept(settings["corpus"])
    settings.setdefault("precision", str(tensors["head.bias"].dtype))
    _refuse_conflicts(options, path, document, how)
    if options.patience is not None and not settings["split"]["validation"]:
        raise OptionError(f"--patience needs evaluations, and {path} has no validation part: leave it out")
    kernel = kernels.load(options.device)
    config, changes = _changed(stored, options, kernel.cores(), settings["asked"].get("threads"))
    prepare.check_gpu(kernel, options.cuda_path)
    precision, lower = prepare.precision(settings["precision"], kernel)
    model = checkpoint.to_model(document, tensors, options.device, precision)
    corpus = _corpus_again(options, settings, how, path, bring)
    training, notes = _training_again(model, corpus, config, document, tensors, path, options, say)
    if changes and training.done() < 1:
        notes.append(_record(changes, options, training, settings))
    saving = SaveConfig(**settings.get("saving", {}) | options.of(SaveConfig))
    tensorboard.check(saving)
    settings["saving"] = asdict(saving)
    folder = RunFolder(path, settings, saving.keep)
    folder.kept, folder.changed = training.best, changes
    folder.rewind(training.step)
    return training, folder, [*warnings, *headline.begun(corpus, model, settings), *lower, *notes,
                              f"going on with {path} after step {training.step:,}"], saving


def _refuse_conflicts(options: RunOptions, path: Path, document: Metadata, how: dict[str, Any]) -> None:
    """Refuse options that contradict the run and are none of CHANGES. Raises OptionError."""
    settings, asked = document["training"]["settings"], options.asked()
    known = document["config"] | document["training"]["config"] | settings["split"]["asked"] | {
        "dtype": settings["precision"], **how, "min_count": document.get("text", {}).get("min_count", 1),
        "no_shuffle": how["documents"] != "none" and not how["shuffle"],
        "preset": settings.get("preset"),
        "init_from": settings.get("init_from"), "extend_vocab": settings.get("extend_vocab", False)}
    for name in sorted(asked.keys() & known.keys() - FREE - {*CHANGES}):
        value = asked[name]
        same = value in (known[name], settings["asked"].get(name, known[name]))
        if not same and not (name == "init_from" and names.stands_for(value, settings.get("origin"))):
            option = f"{flag(name)}{'' if value is True else f' {value}'}"
            option = "--standard" if (name, value) == ("variational", False) else option
            cure = "start a new run" if name in OF_A_MODEL else \
                f"go on from its model in a new run, with --init-from {shlex.quote(names.spelled(path))} {option}"
            raise OptionError(f"{flag(name)} {value} conflicts with {path}, which has {known[name]}: leave it out, "
                              f"or {cure}")


def _changed(stored: TrainConfig, options: RunOptions, cores: int,
             asked: int | None) -> tuple[TrainConfig, dict[str, list[Any]]]:
    """Return the stored config with what is asked for of FREE and CHANGES, and [before, after] of each of CHANGES.

    asked: the threads that the run was asked for before; auto (None) after auto leaves them as they are.
    """
    wanted = {name: value for name, value in options.of(TrainConfig).items() if name in FREE or name in CHANGES}
    if options.threads == AUTO and asked is not None:
        wanted["threads"] = plan.threads(replace(stored, threads=None), cores)
    pairs = {name: [getattr(stored, name) or 0.0, wanted[name]] for name in CHANGES if name in wanted}
    budget: dict[str, Any] = dict.fromkeys(BUDGET) if wanted.keys() & BUDGET else {}
    return replace(stored, **budget | wanted), {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}


def _record(changes: dict[str, list[Any]], options: RunOptions, training: Training, settings: Settings) -> str:
    """Write into the settings what is changed from here on; returns it in words. At another rate no halving counts."""
    settings["changes"] = [*settings.get("changes", []), {"step": training.step, **changes}]
    if "threads" in changes:
        settings["asked"]["threads"] = None if options.threads == AUTO else options.threads
    if "lr" in changes:
        training.recovery.anew()
    return f"changed {headline.changed(settings['changes'][-1])}; it is recorded, and equal bits are promised no more"


def _corpus_again(options: RunOptions, settings: Settings, how: dict[str, Any], path: Path,
                  bring: Bring | None) -> Corpus:
    """The corpus that a run was trained on, or another where that is allowed; the settings are told where it lies."""
    named, about = list(options.corpus), settings["corpus"]
    if named:
        if bring:
            bring(named)
        corpus = read(named, apart=str(path), **how)
    else:
        corpus = _remembered(settings, how, path, bool(options.allow_new_corpus))
    if corpus.sha256 != about["sha256"] and not options.allow_new_corpus:
        empty = "stdin is empty, so " * (not named and "stdin is empty" in corpus.left_out)
        raise CorpusError(_another(f"{empty}its sha256 differs", path, not named and "-" in about["sources"]))
    places.keep(settings, corpus)
    if named:
        settings["corpus"] = about | {"sources": named}
    return corpus


def _remembered(settings: Settings, how: dict[str, Any], path: Path, changed: bool) -> Corpus:
    """Read the text that a run remembers. Raises CorpusError, which says how to name it.

    changed: it may be another than it was.
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
    """The command that takes a run up again with its text from somewhere else."""
    return f"`rnncore train PATH --resume -o {shlex.quote(str(path))}`"


def _another(why: str, path: Path, piped: bool = False) -> str:
    """Say that a text is not the run's, and what to do. piped: it came from stdin."""
    back = "pipe the old text in again" if piped else "bring the old text back"
    return (f"the corpus is not the one that {path} was trained on ({why}): {back}, name it where it "
            f"lies now ({_naming(path)}), or go on with this one with --allow-new-corpus")


def _lost(lost: list[Lost], path: Path) -> CorpusError:
    """Return the error that says which files of a run's text are not read, and how to name it."""
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


def _training_again(model: CharLM, corpus: Corpus, config: TrainConfig, document: Metadata, tensors: Tensors,
                    path: Path, options: RunOptions, say: Say) -> tuple[Training, list[str]]:
    """The training where the file's was, on the corpus; of another one the settings are told, and what to say of it."""
    settings = document["training"]["settings"]
    asked, about = settings["split"]["asked"], settings["corpus"]
    prepare.check_known(corpus, model.vocab, path, f"begin a new run with --init-from {path} --extend-vocab")
    parts, record, warnings = prepare.split_ids(prepare.encoded(corpus, model.vocab), asked["val"], asked["test"],
                                                model.vocab.end if about.get("shuffle") else None)
    if len(parts[0]) <= config.batch:
        raise RunError(f"{len(parts[0]):,} characters are too few to train {config.batch} streams of {path} on: "
                       "start a new run")
    chosen = prepare.take_path(options, model, config, parts[0], path, say)
    training = prepare.training_of(model, parts, config)
    runs.restore(training, document, tensors)
    if training.course.first is None:  # a run from before it was kept
        training.course.first = runs.first_loss(path)
    if corpus.sha256 == about["sha256"]:
        metadata.check_split(path / "last.safetensors", settings["split"], record)
        return training, [*corpus.left_out, *chosen]
    settings |= {"corpus": about | places.about(corpus, {}) | {"sources": about["sources"]}, "split": record}
    settings.pop("floor", None)
    settings["no_floor"] = "the corpus is another than it began with"
    (path / PASSAGE).unlink(missing_ok=True)
    training.another_text()
    return training, [*corpus.notes, *warnings, *chosen]
