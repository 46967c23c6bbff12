"""A run folder from Python: `start` begins one, `resume` takes one up again; both give a Run to iterate over.

    from rnncore.runs.setup import RunOptions, resume, start

    options = RunOptions(corpus=("corpus.txt",), layers=1, hidden=32, steps=200, out="runs/small")
    with start(options) as run:              # the folder is this process's until the block ends
        for progress in run:                 # trains; logs, samples and saves when that is due
            if progress.step == 100:
                break                        # the end of the block saves where the run stands
    with resume(RunOptions(out="runs/small")) as run:
        for progress in run:                 # the steps 101 to 200: the same bits as without the break
            pass
    print(*run.notes, sep="\\n")              # how the run was set up, and what could not be written

`rnncore train` is these two functions, with the same options. What it says in a usage error is an OptionError here.
"""
import contextlib
import errno
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from .. import kernels, plan
from ..config import DTYPE, SampleConfig, SaveConfig, SplitConfig
from ..data.text import Corpus, Reading, read
from ..measure import ngram
from ..sample import samples
from ..train import Clock, Progress, Training
from . import folder as runs, headline, lock, names, places, prepare, tensorboard
from .folder import RunFolder
from .lock import RunError
from .metadata import ModelFileError
from .options import RunOptions
from .prepare import Bring, Say
from .resume import taken_up
from .schema import Settings

SAVE = 60      # seconds between saves, at most, unless --save-every says otherwise
SAMPLE = 200   # characters of a sample on the way


class Run:
    """A Training, the RunFolder that it fills, what that keeps, and notes: lines to be said.

    Each step is logged, sampled and saved, where that is due, before its Progress comes. A file that cannot be written
    is a note and ends nothing: the next save tries again.
    """

    def __init__(self, training: Training, folder: RunFolder, notes: list[str], saving: SaveConfig | None = None):
        self.training, self.folder, self.notes, self.saving = training, folder, notes, saving or SaveConfig()
        self.sample: str | None = None   # what the model wrote after the last step, where a sample was due
        self.saved: int | None = None    # the step of the last save that was tried here
        self.unsaved: str | None = None  # why that failed
        self._last: Progress | None = None
        self._said = set[str]()
        self._due, self._time = False, 0.0  # is a save due; when the last one was, on time.monotonic's clock
        self._events = tensorboard.Events(folder, training) if self.saving.tensorboard else None

    def __iter__(self) -> Iterator[Progress]:
        """Train to the end of the budget, a Progress a step. Raises RunError where memory runs out."""
        self.training.stops = self.saving.sample_every, self.saving.save_every
        self._time = time.monotonic()
        try:
            for progress in self.training:
                self._write_what_is_due(progress)
                yield progress
        except MemoryError:
            raise RunError(self._too_large()) from None

    def save(self) -> None:
        """Save the step where the run stands, where that was not tried yet; `unsaved` says what went wrong."""
        if self._last and self.saved != self._last.step:
            self.unsaved = self._write(partial(self.folder.save, self.training, self._better()))
            self.saved, self._time, self._due = self._last.step, time.monotonic(), False

    def stop(self) -> None:
        """Log and save the step where the run stands."""
        if self._last and not self._last.finished:
            self._write(partial(self.folder.log, self._last, True))
            self.save()
        self.mirror()

    def leave(self) -> None:
        """Log and save the step where the run stands. Raises RunError where it could not be saved."""
        self.stop()
        if self.unsaved:
            raise RunError(self.unsaved)

    def mirror(self) -> None:
        """Write for TensorBoard what was logged, where that is wanted."""
        try:
            if self._events:
                self._write(self._events.follow)
        except Exception as error:  # a mirror ends no run
            self._events = None
            self._note(f"warning: TensorBoard gets no more of this run ({' '.join(str(error).split())})")

    def news(self) -> list[str]:
        """Return the notes that came since the last call."""
        found, self.notes = self.notes, []
        return found

    def _write_what_is_due(self, progress: Progress) -> None:
        """Log a step, write a sample and save, each where it is due; not in a row of bad steps is a save made."""
        self._last, self.sample, step, every = progress, None, progress.step, self.saving
        for note in progress.notes:
            self._note(f"warning: {note}")
        self._write(partial(self.folder.log, progress))
        if progress.milestone if every.sample_every is None else every.sample_every and step % every.sample_every == 0:
            model, config = self.training.model, SampleConfig(seed=self.training.config.seed)
            self.sample = model.vocab.readable(samples(model, 1, "", SAMPLE, config)[0])
            self._write(partial(self.folder.add_sample, step, self.sample))
        self._due = self._due or (step % every.save_every == 0 if every.save_every
                                  else progress.milestone or time.monotonic() > self._time + SAVE)
        if self._due and not self.training.recovery.row or self._better() or progress.finished:
            self.save()
        self.mirror()

    def _better(self) -> bool:
        """Return whether the last step is the best so far."""
        best = self.training.best
        return best is not None and best[1] == self.training.step

    def _write(self, method: Callable[[], None]) -> str | None:
        """Call what writes into the folder; what goes wrong is a note, and is returned."""
        try:
            method()
        except OSError as error:
            full = "free space on the disk; " if error.errno in (errno.ENOSPC, errno.EDQUOT) else ""
            return self._note(f"{self.folder.path} cannot be written ({error.strerror}): {full}what it holds is whole")
        except ModelFileError as error:  # what was to be saved could not be read again
            return self._note(
                f"{error}: the file is as it was; if this message comes at the end of a run, use a lower --lr")
        return None

    def _note(self, line: str) -> str:
        """Add a line to the notes, where it was not said before; return it."""
        if line not in self._said:
            self._said.add(line)
            self.notes.append(line)
        return line

    def _too_large(self) -> str:
        """Return what to say where memory ran out on the way: a batch that takes half, in figures."""
        config, sizes, itemsize = self.training.config, self.training.model.config, self.training.model.dtype.itemsize
        halved = replace(config, batch=max(1, config.batch // 2))
        takes, less = (plan.memory(c, sizes, itemsize) / 2**20 for c in (config, halved))
        if config.batch == 1:
            return f"out of memory: this run takes about {takes:,.0f} MiB; take a smaller --seq, --hidden or --layers"
        return (f"out of memory: this run takes about {takes:,.0f} MiB; a new one with --batch {halved.batch} takes "
                f"about {less:,.0f}")


@contextlib.contextmanager
def start(options: RunOptions, bring: Bring | None = None, say: Say = lambda line: None) -> Iterator[Run]:
    """Begin a new run in a folder that is this process's until the block ends; the end of the block saves.

    bring is called with the corpus's sources before they are read, and may download what is missing; say is told a line
    before a GPU's path is tried out. Raises OptionError and ConfigError for options, CorpusError, DeviceError,
    ModelFileError and RunError for what they name; nothing is written before the options, the corpus and the memory are
    known to do. After an exception in the block nothing more is saved.
    """
    prepare.check(options)
    kernel, saving = kernels.load(options.device), SaveConfig(**options.of(SaveConfig))
    prepare.check_gpu(kernel, options.cuda_path, options.dtype or DTYPE)
    tensorboard.check(saving)
    old, origin, renamed = prepare.origin(options)
    how = prepare.reading(options, old)
    if bring:
        bring(options.corpus)
    corpus = read(options.corpus, apart=options.out, **asdict(how))
    vocab, added = prepare.vocabulary(corpus, old, options)
    shares = SplitConfig(**options.of(SplitConfig))
    parts, record, warnings = prepare.split_ids(prepare.encoded(corpus, vocab), shares.val, shares.test,
                                                vocab.end if how.shuffle else None)
    preset, sizes, config, reasons = prepare.choose(options, len(parts[0]), len(vocab), old, kernel)
    model = prepare.build(sizes, vocab, old, options, config.seed)
    settings = _settings(options, corpus, how, record, preset, origin, saving)
    path = Path(options.out) if options.out else runs.fresh(options.name or corpus.name)
    with lock.held(path, new=True):
        folder = RunFolder(path, settings, saving.keep)
        folder.make()
        reasons += prepare.take_path(options, model, config, parts[0], path, say)
        training = prepare.training_of(model, parts, config)
        reasons += _counted(training, parts, settings)
        run = Run(training, folder, [*renamed, *headline.begun(corpus, model, settings), *corpus.notes, *added,
                                     *warnings, *reasons, f"run {path}"], saving)
        yield run
        run.leave()


@contextlib.contextmanager
def resume(options: RunOptions, bring: Bring | None = None, say: Say = lambda line: None) -> Iterator[Run]:
    """Take up again the run in the folder `out`, under `name`, or the newest, where it was saved; else as `start`.

    A finished run has no step more, unless its budget or patience is made larger. lr, dropout, weight_drop and threads
    may differ from the run's, which is recorded; what else conflicts with the run is an OptionError.
    """
    path = Path(options.out) if options.out else runs.RUNS / options.name if options.name else names.newest()
    with lock.held(path):
        run = Run(*taken_up(path, options, bring, say))
        yield run
        run.leave()


def _counted(training: Training, parts: list[np.ndarray], settings: Settings) -> list[str]:
    """Write into a run's settings what counting alone reaches, or why it is not counted; returns it in words.

    The time that it takes is the run's.
    """
    begun = time.perf_counter()
    floor = prepare.count(parts, training.model.config.vocab_size, training.config.minutes)
    training.clock = Clock(before=time.perf_counter() - begun if floor else 0.0)
    if floor:
        settings["floor"] = {"nats": floor.nats, "order": floor.order, "counted": floor.counted}
        return [ngram.reaches(floor.nats, floor.order, floor.counted, len(parts[0]))]
    settings["no_floor"] = "the minutes are too few for counting n-grams" if len(parts[1]) else "no validation text"
    return []


def _settings(options: RunOptions, corpus: Corpus, how: Reading, split: dict[str, Any], preset: str | None,
              origin: str | None, saving: SaveConfig) -> Settings:
    """Return what a new run keeps: what was asked for, and what became of it."""
    asked = options.asked()
    settings = {"corpus": places.about(corpus, asdict(how)),
                "asked": {name: asked.get(name) for name in ("batch", "seq", "threads")}, "split": split,
                "preset": preset, "init_from": options.init_from, "extend_vocab": bool(options.extend_vocab),
                "origin": origin, "saving": asdict(saving), "precision": options.dtype or DTYPE}
    places.keep(settings, corpus)
    return settings
