"""Training runs from Python: `start` makes a new run folder, `resume` goes on with one; both give a Run to iterate.

    from rnncore.runs.setup import RunOptions, resume, start

    options = RunOptions(corpus=("corpus.txt",), layers=1, hidden=32, steps=200, out="runs/small")
    with start(options) as run:              # the folder is locked for this process until the block ends
        for progress in run:                 # trains; logs, samples and saves when due
            if progress.step == 100:
                break                        # the end of the block saves the current step
    with resume(RunOptions(out="runs/small")) as run:
        for progress in run:                 # the steps 101 to 200: the same bits as without the break
            pass
    print(*run.notes, sep="\\n")              # the choices made for this run, and warnings

`rnncore train` calls these two functions with the same options. Its usage errors are OptionErrors here.
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

from .. import kernels, machine, plan
from ..config import DTYPE, SampleConfig, SaveConfig, SplitConfig
from ..data.text import Corpus, Reading, read
from ..measure import ngram
from ..sample import samples
from ..train import Clock, Progress, Training
from . import folder as runs, headline, lock, names, places, prepare, tensorboard
from .folder import RunFolder
from .lock import RunError
from .metadata import ARITHMETIC, ModelFileError
from .options import RunOptions
from .prepare import Bring, Say
from .resume import resumed
from .schema import Settings

SAVE = 60      # seconds between two saves, at most, without --save-every
SAMPLE = 200   # characters of a sample during training


class Run:
    """One run: iterate to train. It writes the metrics, samples and model files of its folder when they are due.

    These files are written before the step's Progress is yielded. If a file cannot be written, training goes on, a note
    is added, and the next save tries again.

    training: the Training; folder: its RunFolder; notes: lines for the user; saving: when to save and sample, None for
    the defaults.
    """

    def __init__(self, training: Training, folder: RunFolder, notes: list[str], saving: SaveConfig | None = None):
        self.training, self.folder, self.notes, self.saving = training, folder, notes, saving or SaveConfig()
        self.sample: str | None = None   # the sample after the last step, None if none was due
        self.saved: int | None = None    # the step of the last attempt to save
        self.unsaved: str | None = None  # the error of this attempt, None if it succeeded
        self._last: Progress | None = None
        self._said = set[str]()
        self._due, self._time = False, 0.0  # True if a save is due; time.monotonic() of the last save, in seconds
        self._events = tensorboard.Events(folder, training) if self.saving.tensorboard else None

    def __iter__(self) -> Iterator[Progress]:
        """Train to the end of the budget and yield the Progress of each step. Raises RunError if memory runs out."""
        self.training.stops = self.saving.sample_every, self.saving.save_every
        self._time = time.monotonic()
        try:
            for progress in self.training:
                self._write_what_is_due(progress)
                yield progress
        except MemoryError:
            raise RunError(self._too_large()) from None

    def save(self) -> None:
        """Save the current step, unless a save of it was tried already; `unsaved` then has the error or None."""
        if self._last and self.saved != self._last.step:
            self.unsaved = self._write(partial(self.folder.save, self.training, self._better()))
            self.saved, self._time, self._due = self._last.step, time.monotonic(), False

    def stop(self) -> None:
        """Log and save the current step; raises no error for a file that cannot be written."""
        if self._last and not self._last.finished:
            self._write(partial(self.folder.log, self._last, True))
            self.save()
        self.mirror()

    def leave(self) -> None:
        """Log and save the current step. Raises RunError if it could not be saved."""
        self.stop()
        if self.unsaved:
            raise RunError(self.unsaved)

    def mirror(self) -> None:
        """Add the new metrics and samples to the event files for TensorBoard, if --tensorboard was given."""
        try:
            if self._events:
                self._write(self._events.follow)
        except Exception as error:  # an error in tensorboardX must not end the run
            self._events = None
            self._note(f"warning: TensorBoard gets no more of this run ({' '.join(str(error).split())})")

    def news(self) -> list[str]:
        """Return the notes since the last call, and clear them."""
        found, self.notes = self.notes, []
        return found

    def _write_what_is_due(self, progress: Progress) -> None:
        """Log the step, write a sample and save, each if it is due."""
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
        # A save that is due waits while steps are being skipped for numbers that are not finite (recovery.py).
        if self._due and not self.training.recovery.row or self._better() or progress.finished:
            self.save()
        self.mirror()

    def _better(self) -> bool:
        """Return True if the model of the last step is the best so far."""
        best = self.training.best
        return best is not None and best[1] == self.training.step

    def _write(self, method: Callable[[], None]) -> str | None:
        """Call a method that writes into the folder; turn its error into a note and return the note, or None."""
        try:
            method()
        except OSError as error:
            full = "free space on the disk; " if error.errno in (errno.ENOSPC, errno.EDQUOT) else ""
            return self._note(f"{self.folder.path} cannot be written ({error.strerror}): {full}what it holds is whole")
        except ModelFileError as error:  # the check of the new file failed
            return self._note(
                f"{error}: the file is as it was; if this message comes at the end of a run, use a lower --lr")
        return None

    def _note(self, line: str) -> str:
        """Add a line to the notes unless it was added before; return the line."""
        if line not in self._said:
            self._said.add(line)
            self.notes.append(line)
        return line

    def _too_large(self) -> str:
        """Return the error message after memory ran out: the need of this run, and of one with half the batch."""
        config, sizes, itemsize = self.training.config, self.training.model.config, self.training.model.dtype.itemsize
        halved = replace(config, batch=max(1, config.batch // 2))
        takes, less = (plan.memory(c, sizes, itemsize) / 2**20 for c in (config, halved))
        if config.batch == 1:
            return f"out of memory: this run takes about {takes:,.0f} MiB; take a smaller --seq, --hidden or --layers"
        return (f"out of memory: this run takes about {takes:,.0f} MiB; a new one with --batch {halved.batch} takes "
                f"about {less:,.0f}")


@contextlib.contextmanager
def start(options: RunOptions, bring: Bring | None = None, say: Say = lambda line: None) -> Iterator[Run]:
    """Start a new run; its folder is locked inside the block, and the end of the block saves the current step.

    options: the options of the run. bring: called with the corpus's sources before they are read; it may download the
    missing ones. say: called with a line for the user before the self-check of a GPU's path.

    Raises OptionError or ConfigError for wrong options, CorpusError for the corpus, kernels.DeviceError for the device,
    ModelFileError for the model of init_from, and RunError for the folder, too little memory or a run that cannot be
    made. Nothing is written before options, corpus and memory are checked. After an exception in the block, nothing is
    saved.
    """
    prepare.check(options)
    kernel, saving = kernels.load(options.device), SaveConfig(**options.of(SaveConfig))
    machine.check_gpu(kernel, options.cuda_path, options.dtype or DTYPE)
    tensorboard.check(saving)
    precision, lower = machine.precision(options.dtype or DTYPE, kernel, new=True)
    computed = replace(options, dtype=precision)
    old, origin, renamed = prepare.origin(computed)
    how = prepare.reading(options, old)
    if bring:
        bring(options.corpus)
    corpus = read(options.corpus, apart=options.out, **asdict(how))
    vocab, added = prepare.vocabulary(corpus, old, options)
    shares = SplitConfig(**options.of(SplitConfig))
    parts, record, warnings = prepare.split_ids(prepare.encoded(corpus, vocab), shares.val, shares.test,
                                                vocab.end if how.shuffle else None)
    preset, sizes, config, reasons = prepare.choose(computed, len(parts[0]), len(vocab), old, kernel)
    model = prepare.build(sizes, vocab, old, computed, config.seed)
    settings = _settings(options, corpus, how, record, preset, origin, saving)
    path = Path(options.out) if options.out else runs.fresh(options.name or corpus.name)
    with lock.held(path, new=True):
        folder = RunFolder(path, settings, saving.keep)
        folder.make()
        reasons += prepare.take_path(options, model, config, parts[0], path, say)
        training = prepare.training_of(model, parts, config)
        reasons += _counted(training, parts, settings) + machine.slower(training) + machine.faster(options, kernel)
        run = Run(training, folder, [*renamed, *headline.begun(corpus, model, settings), *lower, *corpus.notes, *added,
                                     *warnings, *reasons, f"run {path}"], saving)
        yield run
        run.leave()


@contextlib.contextmanager
def resume(options: RunOptions, bring: Bring | None = None, say: Say = lambda line: None) -> Iterator[Run]:
    """Resume the run in the folder `out`, or with the name `name`, or the newest run, from its last save.

    A finished run has no further step unless the options give it a larger budget or patience. The budget, patience and
    eval_every may differ from the run's values. lr, dropout, weight_drop and threads may differ too, and such a change
    is recorded. Any other conflict with the run raises OptionError. bring, say, the end of the block and the other
    exceptions: as in `start`.
    """
    path = Path(options.out) if options.out else runs.RUNS / options.name if options.name else names.newest()
    with lock.held(path):
        run = Run(*resumed(path, options, bring, say))
        yield run
        run.leave()


def _counted(training: Training, parts: list[np.ndarray], settings: Settings) -> list[str]:
    """Write the n-gram baseline, or the reason for its absence, into a run's settings; return notes for the user."""
    begun = time.perf_counter()
    baseline = prepare.count(parts, training.model.config.vocab_size, training.config.minutes)
    # Counting takes its time from the run's budget of minutes.
    training.clock = Clock(before=time.perf_counter() - begun if baseline else 0.0)
    if baseline:
        settings["floor"] = {"nats": baseline.nats, "order": baseline.order, "counted": baseline.counted}
        return [ngram.reaches(baseline.nats, baseline.order, baseline.counted, len(parts[0]))]
    settings["no_floor"] = "the minutes are too few for counting n-grams" if len(parts[1]) else "no validation text"
    return []


def _settings(options: RunOptions, corpus: Corpus, how: Reading, split: dict[str, Any], preset: str | None,
              origin: str | None, saving: SaveConfig) -> Settings:
    """Return the settings of a new run, which its model files hold for resuming.

    The values under the key `asked` are the requested ones, and None where nothing was requested.
    """
    asked = options.asked()
    settings = {"corpus": places.about(corpus, asdict(how)),
                "asked": {name: asked.get(name) for name in ("batch", "seq", "threads")}, "split": split,
                "preset": preset, "init_from": options.init_from, "extend_vocab": bool(options.extend_vocab),
                "origin": origin, "saving": asdict(saving), "precision": options.dtype or DTYPE,
                "arithmetic": ARITHMETIC}
    places.keep(settings, corpus)
    return settings
