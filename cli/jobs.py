"""A job is a training run ready to be driven: set up from options, or taken up again from a run folder."""
import errno
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path

import click
import numpy as np

from rnncore import checkpoint, documents, headline, kernels, lock, names, params, plan, runs
from rnncore.config import SampleConfig, SaveConfig, TrainConfig
from rnncore.data.batches import Batches
from rnncore.data.text import Corpus, Reading, read
from rnncore.evaluate import Validation
from rnncore.model import CharLM
from rnncore.runs import RunError, RunFolder
from rnncore.sample import samples
from rnncore.train import Clock, Training

from . import options, prepare, tensorboard
from .corpus import bring
from .progress import describe_floor
from .report import PASSAGE

LATE = 0.7  # of the steps: a best model from before was followed by worse ones for long
FREE = {"epochs", "steps", "minutes", "eval_every", "patience"}  # what a resumed run may change,
SAVING = {field.name for field in fields(SaveConfig)}                  # and this too


@dataclass
class Job:
    """A Training, the folder that it writes and what it leaves there, and what to say before it begins."""
    training: Training
    folder: RunFolder
    notes: list[str]
    saving: SaveConfig = SaveConfig()

    def __post_init__(self):
        self._events = None
        if self.saving.tensorboard:
            settings, model = self.folder.settings, self.training.model
            about = {"corpus": settings["corpus"]["name"], "preset": settings.get("preset"), **asdict(model.config),
                     "precision": model.precision, **asdict(self.training.config)}
            floor = (settings.get("floor") or {}).get("nats")
            self._events = tensorboard.Events(self.folder.path, about, floor, self.training.clock.now())

    def sample(self, length: int) -> str:
        """What the model writes now, from a newline on; the same coins each time."""
        model = self.training.model
        return model.vocab.readable(samples(model, 1, "", length, SampleConfig(seed=self.training.config.seed))[0])

    def write(self, method, *args) -> str | None:
        """Call a method that writes into the folder; returns what went wrong, in one line."""
        try:
            method(*args)
        except OSError as error:
            full = "make room on the disk; " if error.errno in (errno.ENOSPC, errno.EDQUOT) else ""
            return f"{self.folder.path} cannot be written ({error.strerror}): {full}what it holds is whole"
        return None

    def mirror(self) -> str | None:
        """Write for TensorBoard what was logged, where that is wanted; returns what went wrong, in one line."""
        try:
            return self.write(self._events.follow) if self._events else None
        except Exception as error:  # a mirror ends no run
            self._events = None
            return f"warning: TensorBoard gets no more of this run ({' '.join(str(error).split())})"

    def too_large(self) -> str:
        """What to say where memory ran out on the way: a batch that takes half, in figures."""
        config, sizes, itemsize = self.training.config, self.training.model.config, self.training.model.dtype.itemsize
        halved = replace(config, batch=max(1, config.batch // 2))
        takes, less = (plan.memory(c, sizes, itemsize) / 2**20 for c in (config, halved))
        if config.batch == 1:
            return f"out of memory: this run takes about {takes:,.0f} MiB; take a smaller --seq, --hidden or --layers"
        return (f"out of memory: this run takes about {takes:,.0f} MiB; a new one with --batch {halved.batch} takes "
                f"about {less:,.0f}")

    def verdict(self) -> list[str]:
        """How good the best model is, and whether counting does better: lines to end with."""
        training, floor = self.training, self.folder.settings.get("floor")
        if not training.best:
            return []
        step = training.best[1]
        found = headline.validation(training.best, training.step, training.final_loss, training.val_chars())
        patience = [f"--patience: {training.stale} evaluations without a better loss"] if training.given_up() else []
        lines = [*patience, f"best model: step {step:,}, validation loss {found.words}"]
        if floor and found.best.nats > floor["nats"]:
            cure = "it learns the text by heart: give it more text or more --dropout, or make it smaller" \
                if step < LATE * training.step else "train it for longer"
            lines.append(f"warning: the model is worse than counting, which reaches {floor['nats']:.4f}: {cure}")
        return lines


def start(given: dict) -> Job:
    """A new run; its folder is the process's until the click context ends."""
    kernel = kernels.load(given["device"])
    options.check_gpu(kernel, given["cuda_path"], given["dtype"])
    saving = SaveConfig(**{name: given[name] for name in SAVING})
    tensorboard.check(saving)
    config, origin = prepare.check(given), prepare.origin(given)
    old = origin.model
    how = prepare.reading(given, old)
    bring(given["corpus"])
    corpus = read(given["corpus"], **how)
    vocab, added = prepare.vocabulary(corpus, old, given)
    parts, record, warnings = prepare.split_ids(prepare.encoded(corpus, vocab), given["val"], given["test"])
    preset, sizes, config, reasons = prepare.choose(given, config, len(parts[0]), len(vocab), old, kernel)
    settings = {"corpus": _about(corpus, how),
                "asked": {name: given[name] for name in ("batch", "seq", "threads")}, "split": record,
                "preset": preset, "init_from": given["init_from"], "extend_vocab": given["extend_vocab"],
                "origin": origin.name, "saving": asdict(saving), "precision": given["dtype"]}
    model = prepare.build(sizes, vocab, old, given, config.seed)
    path = Path(given["out"]) if given["out"] else runs.fresh(given["name"] or corpus.name)
    click.get_current_context().with_resource(lock.held(path, new=True))
    folder = RunFolder(path, settings, saving.keep)
    folder.make()
    reasons += prepare.take_path(given, model, config, parts[0], path)
    training = _training(model, parts, config)
    floor, seconds = prepare.count(parts, len(vocab), config.minutes)
    training.clock = Clock(before=seconds)
    if floor:
        settings["floor"] = {"nats": floor.nats, "order": floor.order, "counted": floor.counted}
        reasons.append(describe_floor(floor.nats, floor.order, floor.counted, len(parts[0])))
    notes = [*_headlines(corpus, model, settings), *corpus.notes, *added, *warnings, *reasons,
             f"run {folder.path}"]
    return Job(training, folder, notes, saving)


def resume(given: dict, explicit: set[str]) -> Job:
    """The run in the folder -o, under --name, or the newest, taken up where it was saved.

    Its folder is the process's until the click context ends.
    """
    path = Path(given["out"]) if given["out"] else runs.RUNS / given["name"] if given["name"] else names.newest()
    click.get_current_context().with_resource(lock.held(path))
    document, tensors, warnings = runs.read_newest(path)
    settings = document["training"]["settings"]
    stored = TrainConfig(**{"variational": False} | document["training"]["config"])  # older runs knew no other dropout
    about = settings["corpus"]
    how = asdict(Reading()) | {name: about[name] for name in asdict(Reading()) if name in about}
    known = document["config"] | document["training"]["config"] | settings["split"]["asked"] | {
        "dtype": settings.setdefault("precision", str(tensors["head.bias"].dtype)), **how,
        "min_count": document.get("text", {}).get("min_count", 1),
        "preset": settings.get("preset"),
        "init_from": settings.get("init_from"), "extend_vocab": settings.get("extend_vocab", False)}
    for name in sorted(explicit & known.keys() - FREE):
        same = given[name] in (known[name], settings["asked"].get(name, known[name]))
        if not same and not (name == "init_from" and names.stands_for(given[name], settings.get("origin"))):
            raise click.UsageError(f"--{name.replace('_', '-')} {given[name]} conflicts with {path}, "
                                   f"which has {known[name]}: leave it out, or start a new run")
    config = _extended(stored, given, explicit)
    if "patience" in explicit and not settings["split"]["validation"]:
        raise click.UsageError(f"--patience needs evaluations, and {path} has no validation part: leave it out")
    kernel = kernels.load(given["device"])
    options.check_gpu(kernel, given["cuda_path"])
    precision, lower = prepare.precision(known["dtype"], kernel)
    model = checkpoint.to_model(document, tensors, given["device"], precision)
    corpus = _corpus_again(given, about, how, path)
    training, notes = _training_again(model, corpus, config, document, tensors, path, given)
    saving = _saving(settings, given, explicit)
    folder = RunFolder(path, settings, saving.keep)
    folder.kept = training.best
    folder.rewind(training.step)
    return Job(training, folder, [*warnings, *_headlines(corpus, model, settings), *lower, *notes,
                                  f"going on with {path} after step {training.step:,}"], saving)


def _training_again(model: CharLM, corpus: Corpus, config: TrainConfig, document: dict, tensors: dict,
                    path: Path, given: dict) -> tuple[Training, list[str]]:
    """The training where the file's was, on the corpus; of another one the settings are told, and what to say of it."""
    settings = document["training"]["settings"]
    asked, about = settings["split"]["asked"], settings["corpus"]
    prepare.check_known(corpus, model.vocab, path, f"begin a new run with --init-from {path} --extend-vocab")
    parts, record, warnings = prepare.split_ids(prepare.encoded(corpus, model.vocab), asked["val"], asked["test"])
    if len(parts[0]) <= config.batch:
        raise RunError(f"{len(parts[0]):,} characters are too few to train {config.batch} streams of {path} on: "
                       "start a new run")
    chosen = prepare.take_path(given, model, config, parts[0], path)
    training = _training(model, parts, config)
    runs.restore(training, document, tensors)
    if corpus.sha256 == about["sha256"]:
        documents.check_split(path / "last.safetensors", settings["split"], record)
        return training, chosen
    settings |= {"corpus": about | _about(corpus, {}), "split": record}
    settings.pop("floor", None)
    (path / PASSAGE).unlink(missing_ok=True)
    training.another_text()
    return training, [*corpus.notes, *warnings, *chosen]


def _saving(settings: dict, given: dict, explicit: set[str]) -> SaveConfig:
    """What the folder is to keep: as stored, or as was asked for anew, which is stored. Raises RunError."""
    saving = replace(SaveConfig(**settings.get("saving", {})), **{name: given[name] for name in SAVING & explicit})
    tensorboard.check(saving)
    settings["saving"] = asdict(saving)
    return saving


def _corpus_again(given: dict, about: dict, how: dict, path: Path) -> Corpus:
    """The corpus that a run was trained on, or another where that is allowed."""
    sources = given["corpus"] or about["sources"]
    bring(sources)
    corpus = read(sources, **how)
    if corpus.sha256 != about["sha256"] and not given["allow_new_corpus"]:
        raise RunError(f"the corpus is not the one that {path} was trained on (its sha256 differs): bring the old text "
                       "back, or go on with this one with --allow-new-corpus")
    return corpus


def _about(corpus: Corpus, how: dict) -> dict:
    """What a run keeps of its corpus."""
    return {"name": corpus.name, "sources": list(corpus.sources), **how, "characters": corpus.characters,
            "sha256": corpus.sha256}


def _extended(stored: TrainConfig, given: dict, explicit: set[str]) -> TrainConfig:
    """The stored config with the budget and the evaluations that were asked for anew."""
    changed = {name: given[name] for name in FREE & explicit}
    if explicit & {"epochs", "steps", "minutes"}:
        changed = {"epochs": None, "steps": None, "minutes": None} | changed
    return replace(stored, **changed)


def _training(model: CharLM, parts: list[np.ndarray], config: TrainConfig) -> Training:
    train, validation = parts
    return Training(model, Batches(train, config.batch, config.seq), config,
                    Validation(validation, config.batch, config.seq) if len(validation) else None)


def _headlines(corpus: Corpus, model: CharLM, settings: dict) -> list[str]:
    c, parts, name = model.config, settings["split"], model.kernel.name
    path = f", path {model.path}" if name != "cpu" else ""
    unit = "bytes" if model.vocab.level == "byte" else "characters"
    return [f"corpus {corpus.name}: {corpus.characters:,} {unit}, {c.vocab_size:,} symbols; "
            f"{parts['train']:,} to train, {parts['validation']:,} to validate, {parts['test']:,} left out",
            f"model {c.layers} x {c.hidden} LSTM, embedding {c.embed}: {params.count(c):,} parameters, "
            f"{model.precision} on {name}{path}"]
