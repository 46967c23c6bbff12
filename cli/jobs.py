"""A job is a training run ready to be driven: set up from options, or taken up again from a run folder."""
from dataclasses import dataclass, fields, replace
from pathlib import Path

import click
import numpy as np

from rnncore import checkpoint, kernels, params, plan, runs
from rnncore.config import ModelConfig, SampleConfig, TrainConfig
from rnncore.data.batches import Batches, shrink, split
from rnncore.data.text import Corpus, read
from rnncore.data.vocab import Vocab
from rnncore.evaluate import Validation
from rnncore.model import CharLM
from rnncore.runs import RunError, RunFolder
from rnncore.sample import samples
from rnncore.train import Training

MIN_VALIDATION = 100  # characters; fewer say nothing
FREE = {"epochs", "steps", "minutes", "eval_every"}  # what a resumed run may change


@dataclass
class Job:
    """A Training, the folder that it writes, and what to say before it begins."""
    training: Training
    folder: RunFolder
    notes: list[str]

    def sample(self, length: int) -> str:
        """What the model writes now, from a newline on; the same coins each time."""
        return samples(self.training.model, 1, "", length, SampleConfig(seed=self.training.config.seed))[0]

    def write(self, method, *args) -> str | None:
        """Call a method that writes into the folder; returns what went wrong, in one line."""
        try:
            method(*args)
        except OSError as error:
            return (f"{self.folder.path} cannot be written ({error.strerror}): make room on the disk; "
                    "what it holds is whole")
        return None

    def final_chars(self) -> int:
        return self.training.validation.chars(self.training.final_windows)


def start(given: dict) -> Job:
    """A new run."""
    kernel = kernels.load(given["device"])
    config = _config(given)
    corpus = read(given["corpus"], given["encoding"], given["newline"])
    vocab = Vocab.from_text(corpus.text)
    model_config = ModelConfig(len(vocab), given["embed"], given["hidden"], given["layers"])
    settings = {"corpus": {"name": corpus.name, "sources": list(corpus.sources), "encoding": given["encoding"],
                           "newline": given["newline"], "characters": len(corpus.text), "sha256": corpus.sha256},
                "asked": {name: given[name] for name in ("batch", "seq", "threads")}}
    ids = vocab.encode(corpus.text)
    parts, warnings = _split(ids, given["val"], given["test"], settings)
    config, shrunk = _shrink(config, len(parts[0]))
    config, reasons = plan.fill(config, model_config, len(parts[0]), kernel.cores())
    _check_memory(config, model_config, np.dtype(given["dtype"]).itemsize, kernel.memory())
    model = CharLM(model_config, vocab, given["device"], given["dtype"], config.seed)
    folder = RunFolder(Path(given["out"]) if given["out"] else runs.fresh(given["name"] or corpus.name), settings)
    folder.make()
    training = _training(model, parts, config)
    notes = [*_headlines(corpus, model, settings, kernel), *corpus.notes, *warnings, *shrunk, *reasons,
             f"run {folder.path}"]
    return Job(training, folder, notes)


def resume(given: dict, explicit: set[str]) -> Job:
    """The run in the folder -o, under --name, or the newest, taken up where it was saved."""
    path = Path(given["out"]) if given["out"] else runs.RUNS / given["name"] if given["name"] else runs.newest()
    document, tensors = runs.read_last(path)
    settings, stored = document["training"]["settings"], TrainConfig(**document["training"]["config"])
    known = document["config"] | document["training"]["config"] | settings["split"]["asked"] | {
        "dtype": str(tensors["head.bias"].dtype), "encoding": settings["corpus"]["encoding"],
        "newline": settings["corpus"]["newline"]}
    for name in sorted(explicit & known.keys() - FREE):
        if given[name] != known[name] and given[name] != settings["asked"].get(name, known[name]):
            raise click.UsageError(f"--{name.replace('_', '-')} {given[name]} conflicts with {path}, "
                                   f"which has {known[name]}: leave it out, or start a new run")
    config = _extended(stored, given, explicit)
    model = checkpoint.to_model(document, tensors, given["device"])
    about = settings["corpus"]
    corpus = read(given["corpus"] or about["sources"], about["encoding"], about["newline"])
    if corpus.sha256 != about["sha256"]:
        raise RunError(f"the corpus is not the one that {path} was trained on (its sha256 differs): "
                       "bring the old text back, or start a new run")
    asked = settings["split"]["asked"]
    parts, _ = _split(model.vocab.encode(corpus.text), asked["val"], asked["test"], settings)
    training = _training(model, parts, config)
    runs.restore(training, document, tensors)
    folder = RunFolder(path, settings)
    folder.kept = training.best
    folder.rewind(training.step)
    return Job(training, folder, [*_headlines(corpus, model, settings, model.kernel),
                                  f"going on with {path} after step {training.step:,}"])


def _config(given: dict) -> TrainConfig:
    """The options' TrainConfig; what is wrong with any option is said here, before a corpus is read."""
    if given["name"] and (Path(given["name"]).name != given["name"] or given["name"] == ".."):
        raise click.UsageError(f"--name {given['name']} is not the name of a folder: give a path with -o")
    try:
        split(0, given["val"], given["test"])
    except ValueError as error:
        raise click.UsageError(str(error)) from None
    ModelConfig(2, given["embed"], given["hidden"], given["layers"])
    return TrainConfig(**{field.name: given[field.name] for field in fields(TrainConfig) if field.name in given})


def _check_memory(config: TrainConfig, model: ModelConfig, itemsize: int, there: int) -> None:
    needed = plan.memory(config, model, itemsize)
    if needed > there:
        raise RunError(f"{params.count(model):,} parameters and {config.batch} streams of {config.seq} take about "
                       f"{needed / 2**30:,.1f} GiB, the device has {there / 2**30:.1f}: take a smaller --hidden, "
                       "--layers, --embed, --batch or --seq")


def _extended(stored: TrainConfig, given: dict, explicit: set[str]) -> TrainConfig:
    """The stored config with the budget and the evaluations that were asked for anew."""
    changed = {name: given[name] for name in FREE & explicit}
    if explicit & {"epochs", "steps", "minutes"}:
        changed = {"epochs": None, "steps": None, "minutes": None} | changed
    return replace(stored, **changed)


def _split(ids: np.ndarray, val: float, test: float, settings: dict) -> tuple[list[np.ndarray], list[str]]:
    """(training ids, validation ids), and a warning where there is too little to validate on; notes it in settings."""
    parts, warnings = split(len(ids), val, test), []
    train, validation, held_out = (ids[part] for part in parts)
    if val and len(validation) < MIN_VALIDATION:
        warnings.append(f"warning: {len(validation)} characters are too few to validate on: "
                        "training without validation")
        train, validation = ids[:len(train) + len(validation)], ids[:0]
    settings["split"] = {"asked": {"val": val, "test": test}, "train": len(train), "validation": len(validation),
                         "test": len(held_out)}
    return [train, validation], warnings


def _shrink(config: TrainConfig, characters: int) -> tuple[TrainConfig, list[str]]:
    """A window that the training text can fill, and a warning if it is not the one that was asked for."""
    batch, seq = shrink(characters, config.batch, config.seq)
    if (batch, seq) == (config.batch, config.seq):
        return config, []
    return replace(config, batch=batch, seq=seq), [
        f"warning: {characters:,} characters are fewer than one batch: {batch} streams of {seq} instead of "
        f"{config.batch} of {config.seq}"]


def _training(model: CharLM, parts: list[np.ndarray], config: TrainConfig) -> Training:
    train, validation = parts
    return Training(model, Batches(train, config.batch, config.seq), config,
                    Validation(validation, config.batch, config.seq) if len(validation) else None)


def _headlines(corpus: Corpus, model: CharLM, settings: dict, kernel) -> list[str]:
    c, parts = model.config, settings["split"]
    return [f"corpus {corpus.name}: {len(corpus.text):,} characters, {c.vocab_size} symbols; "
            f"{parts['train']:,} to train, {parts['validation']:,} to validate, {parts['test']:,} left out",
            f"model {c.layers} x {c.hidden} LSTM, embedding {c.embed}: {params.count(c):,} parameters, {model.dtype} "
            f"on {kernel.name}"]
