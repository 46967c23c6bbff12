"""A job is a training run ready to be driven: set up from options here, or from its folder again in resume.py."""
import errno
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path

import click
import numpy as np

from rnncore import kernels, params, plan
from rnncore.config import SampleConfig, SaveConfig, TrainConfig
from rnncore.data.batches import Batches
from rnncore.data.text import Corpus, read
from rnncore.measure.evaluate import Validation
from rnncore.model import CharLM
from rnncore.runs import folder as runs, lock, places
from rnncore.runs.folder import RunFolder
from rnncore.runs.metadata import ModelFileError
from rnncore.sample import samples
from rnncore.train import Clock, Training

from . import options, prepare, tensorboard
from .corpus import bring
from .terminal.progress import describe_floor

SAVING = {field.name for field in fields(SaveConfig)}


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
        except ModelFileError as error:  # what was to be saved could not be read again
            return f"{error}: what stood there is as it was; a run that shows this at its end wants a lower --lr"
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


def start(given: dict) -> Job:
    """A new run; its folder is the process's until the click context ends."""
    kernel = kernels.load(given["device"])
    options.check_gpu(kernel, given["cuda_path"], given["dtype"])
    saving = SaveConfig(**{name: given[name] for name in SAVING if given[name] is not None})
    tensorboard.check(saving)
    config, origin = prepare.check(given), prepare.origin(given)
    old = origin.model
    how = prepare.reading(given, old)
    bring(given["corpus"])
    corpus = read(given["corpus"], apart=given["out"], **how)
    vocab, added = prepare.vocabulary(corpus, old, given)
    parts, record, warnings = prepare.split_ids(prepare.encoded(corpus, vocab), given["val"], given["test"],
                                                vocab.end if how["shuffle"] else None)
    preset, sizes, config, reasons = prepare.choose(given, config, len(parts[0]), len(vocab), old, kernel)
    settings = {"corpus": about_corpus(corpus, how),
                "asked": {name: given[name] for name in ("batch", "seq", "threads")}, "split": record,
                "preset": preset, "init_from": given["init_from"], "extend_vocab": given["extend_vocab"],
                "origin": origin.name, "saving": asdict(saving), "precision": given["dtype"]}
    places.keep(settings, corpus)
    model = prepare.build(sizes, vocab, old, given, config.seed)
    path = Path(given["out"]) if given["out"] else runs.fresh(given["name"] or corpus.name)
    click.get_current_context().with_resource(lock.held(path, new=True))
    folder = RunFolder(path, settings, saving.keep)
    folder.make()
    reasons += prepare.take_path(given, model, config, parts[0], path)
    training = training_of(model, parts, config)
    floor, seconds = prepare.count(parts, len(vocab), config.minutes)
    training.clock = Clock(before=seconds)
    if floor:
        settings["floor"] = {"nats": floor.nats, "order": floor.order, "counted": floor.counted}
        reasons.append(describe_floor(floor.nats, floor.order, floor.counted, len(parts[0])))
    else:
        settings["no_floor"] = "the minutes are too few to count in" if record["validation"] else "no validation text"
    notes = [*headlines(corpus, model, settings), *corpus.notes, *added, *warnings, *reasons,
             f"run {folder.path}"]
    return Job(training, folder, notes, saving)


def about_corpus(corpus: Corpus, how: dict) -> dict:
    """What a run keeps of its corpus."""
    return {"name": corpus.name, "sources": list(corpus.sources), **how, "characters": corpus.characters,
            "sha256": corpus.sha256}


def training_of(model: CharLM, parts: list[np.ndarray], config: TrainConfig) -> Training:
    """A new training of the model on [training ids, validation ids]."""
    train, validation = parts
    return Training(model, Batches(train, config.batch, config.seq), config,
                    Validation(validation, config.batch, config.seq) if len(validation) else None)


def headlines(corpus: Corpus, model: CharLM, settings: dict) -> list[str]:
    """What is learned and by which model, in two lines."""
    c, parts, name = model.config, settings["split"], model.kernel.name
    path = f", path {model.path}" if name != "cpu" else ""
    unit = "bytes" if model.vocab.level == "byte" else "characters"
    return [f"corpus {corpus.name}: {corpus.characters:,} {unit}, {c.vocab_size:,} symbols; "
            f"{parts['train']:,} to train, {parts['validation']:,} to validate, {parts['test']:,} left out",
            f"model {c.layers} x {c.hidden} LSTM, embedding {c.embed}: {params.count(c):,} parameters, "
            f"{model.precision} on {name}{path}"]
