"""The parts of a new run: choose and build the model, its settings and its training from the options and the corpus."""
import shlex
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypeAlias

import numpy as np

from .. import params, plan, selfcheck
from ..config import DTYPE, PRESETS, ModelConfig, SplitConfig, TrainConfig, flag
from ..data.batches import Batches, shrink, split
from ..data.shuffle import whole
from ..data.text import Corpus, Reading
from ..data.vocab import UNKNOWN, Vocab
from ..kernels import Kernel
from ..kernels.paths import storage
from ..measure import ngram
from ..measure.evaluate import Validation
from ..model import CharLM
from ..steps import total_steps
from ..train import Training
from . import checkpoint, names
from .extend import extend
from .lock import RunError
from .options import OptionError, RunOptions

MIN_VALIDATION = 100  # characters of the smallest validation part; the loss on fewer tells nothing
COUNTING = 0.1        # share of a budget in minutes that the n-gram baseline may take
SELFCHECK = 500       # training steps from which a run is long enough to be worth the self-check of a GPU's path
SIZES = "layers", "hidden", "embed"

Bring: TypeAlias = Callable[[Sequence[str]], None]  # downloads the missing named corpora of these sources
Say: TypeAlias = Callable[[str], None]              # shows the user a line before something that takes long


def check(options: RunOptions) -> None:
    """Raise OptionError if options of a new run contradict each other, or if there is no corpus."""
    if options.allow_new_corpus:
        raise OptionError("--allow-new-corpus goes with --resume: a new run takes any corpus")
    if not options.corpus:
        raise OptionError("name a CORPUS: a file, a folder, - or a named corpus, as in `rnncore train numpy`")
    if options.name and (Path(options.name).name != options.name or options.name == ".."):
        raise OptionError(f"--name {options.name} is not the name of a folder: give a path with -o")
    if options.extend_vocab and not options.init_from:
        raise OptionError("--extend-vocab goes with --init-from: a new model knows all symbols of its corpus")
    shares = SplitConfig(**options.of(SplitConfig))
    if options.patience and not shares.val:
        raise OptionError("--patience needs evaluations: leave it out, or give --val a share of the text")
    if not options.init_from:
        _check_documents(options, options.documents or Reading.documents)
    if options.documents not in (None, "none") and options.newline == "keep":
        raise OptionError("--documents tells documents apart by LF line ends: leave --newline keep out")
    if options.level == "byte":
        _check_bytes(options, "--level byte")
    try:
        split(0, shares.val, shares.test)
    except ValueError as error:
        raise OptionError(str(error)) from None


def origin(options: RunOptions) -> tuple[CharLM | None, str | None, list[str]]:
    """Load the model that --init-from names; return it, its unambiguous name (names.Found), and notes on the name.
    Without --init-from, return (None, None, []). Raises OptionError if an option conflicts with the model; raises as
    names.find, checkpoint.read and checkpoint.to_model."""
    if options.init_from is None:
        return None, None, []
    found = names.find(options.init_from)
    model = checkpoint.to_model(*checkpoint.read(found.file), options.device, options.dtype or DTYPE)
    _check_origin(model, options)
    return model, found.name, list(map(str, found.notes))


def _check_origin(model: CharLM, options: RunOptions) -> None:
    """Raise OptionError if an option conflicts with the model that training begins from."""
    preset = PRESETS[options.preset] if options.preset else {}
    for name in SIZES:
        has, wanted = getattr(model.config, name), getattr(options, name) or preset.get(name)
        if wanted not in (None, has):
            option = f"--{name} {wanted}" if getattr(options, name) else f"--preset {options.preset} ({name} {wanted})"
            raise OptionError(f"{option} conflicts with --init-from {options.init_from}, which has "
                              f"{has}: leave it out")
    for name in "level", "lower", "min_count":
        if getattr(options, name) not in (None, False, getattr(model.vocab, name)):
            raise OptionError(f"{flag(name)} conflicts with --init-from {options.init_from}, which "
                              f"has {getattr(model.vocab, name)}: leave it out")
    if model.vocab.level == "byte":
        _check_bytes(options, options.init_from)
    _check_documents(options, options.documents or model.vocab.documents)
    if model.vocab.documents != "none":
        if options.documents == "none":
            raise OptionError(f"--documents none: {options.init_from} is a model of documents "
                              f"({model.vocab.documents}), whose state begins at zero after each, so it has not "
                              "learnt to go on in a continuous text: leave it out, or train a new model")
        if options.newline == "keep":
            raise OptionError(f"--newline keep: documents are separated by LF line ends, and "
                              f"{options.init_from} is a model of such: leave it out")


def _check_documents(options: RunOptions, kind: str) -> None:
    """Raise OptionError for an option that has no meaning with this kind of documents. kind: as --documents."""
    if options.field is not None and kind != "jsonl":
        raise OptionError("--field names what is learnt of --documents jsonl: give that too, or leave it out")
    if options.no_shuffle and kind == "none":
        raise OptionError("--no-shuffle goes with --documents: a continuous text keeps its order anyway")


def _check_bytes(options: RunOptions, who: str | None) -> None:
    """Raise OptionError for an option without meaning for bytes. who: the option or the model that is for bytes."""
    for name in "encoding", "encoding_errors", "newline", "lower", "min_count", "documents", "field":
        if getattr(options, name) not in (None, getattr(Reading, name, None)):
            raise OptionError(f"{flag(name)} says how characters are read, and {who} is for bytes: "
                              "leave one of them out")


def reading(options: RunOptions, old: CharLM | None) -> Reading:
    """Return the Reading of the corpus. old: the model that training begins from, or None."""
    how = options.of(Reading)
    # The model fixes lower and level, because its vocabulary depends on them. Options may change what ends a document.
    if old is not None:
        how = {"documents": old.vocab.documents, "field": old.vocab.field} | how | {
            "lower": old.vocab.lower, "level": old.vocab.level}
    found = Reading(**how)
    return replace(found, shuffle=found.documents != "none" and not options.no_shuffle)


def vocabulary(corpus: Corpus, old: CharLM | None, options: RunOptions) -> tuple[Vocab, list[str]]:
    """Return the vocabulary of the corpus, or of the old model, and notes on symbols that were added or replaced.
    Raises RunError if --min-count leaves no symbol, or the old model lacks one and --extend-vocab is not given."""
    if old is None:
        least = options.min_count or 1
        vocab = corpus.vocab.frequent(corpus.counts, least) if least > 1 else corpus.vocab
        if len(vocab) - (vocab.end is not None) < 2:
            raise RunError(f"--min-count {least} leaves no symbol of the corpus: take a smaller one")
        return vocab, _rare(corpus, vocab)
    vocab = old.vocab.parted(corpus.vocab.documents, corpus.vocab.field)
    notes = ["U+0003, which ends a document, added to the vocabulary"] if len(vocab) > len(old.vocab) else []
    new, least = [symbol for symbol in corpus.vocab.symbols if symbol not in vocab], vocab.min_count
    if new and options.extend_vocab:
        counts = dict(zip(corpus.vocab.symbols, corpus.counts.tolist(), strict=True))
        larger = vocab.with_symbols(symbol if counts[symbol] >= least else UNKNOWN for symbol in new)
        return larger, [*notes, f"{_count(len(larger) - len(vocab), 'symbol')} added to the vocabulary",
                        *_rare(corpus, larger)]
    check_known(corpus, vocab, options.init_from, "--extend-vocab adds what it lacks")
    return vocab, notes + _rare(corpus, vocab)


def check_known(corpus: Corpus, vocab: Vocab, who: str | Path | None, cure: str) -> None:
    """Raise RunError if the corpus has a symbol that the vocabulary of the model `who` neither has nor replaces."""
    new = [] if vocab.min_count > 1 and UNKNOWN in vocab else [s for s in corpus.vocab.symbols if s not in vocab]
    if new:
        raise RunError(f"{who} does not know {_count(len(new), 'symbol')} of the corpus, as {vocab.shown(new[0])}: "
                       f"{cure}")


def _rare(corpus: Corpus, vocab: Vocab) -> list[str]:
    """Return one note on the symbols that --min-count replaced; none without --min-count."""
    if vocab.min_count == 1:
        return []
    rare = vocab.places(corpus.vocab.symbols) < 0
    if not rare.any():
        return [f"--min-count {vocab.min_count}: all symbols occur as often or more"]
    return [f"--min-count {vocab.min_count}: {_count(int(rare.sum()), 'symbol')}, "
            f"{_count(int(corpus.counts[rare].sum()), 'character')} in all, made U+FFFD"]


def encoded(corpus: Corpus, vocab: Vocab) -> np.ndarray:
    """Return the corpus as ids (n,) of this vocabulary; with --min-count, rare symbols become U+FFFD."""
    return corpus.encode(vocab, "replace" if vocab.min_count > 1 else "error")[0]


def _count(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'s' * (count != 1)}"


def split_ids(ids: np.ndarray, val: float, test: float,
              end: int | None = None) -> tuple[list[np.ndarray], dict, list[str]]:
    """Split ids (n,) by the shares; return [training ids, validation ids], the record of the split, and warnings.
    end: the id after each document; a part then ends where the nearest document ends. If this leaves a part empty, one
    document is cut, with a warning. A validation part below MIN_VALIDATION symbols is trained on, with a warning."""
    parts, warnings = split(len(ids), val, test), []
    if end is not None:
        first, second = (whole(ids, end, part.stop) for part in parts[:2])
        whole_ones = slice(0, first), slice(first, second), slice(second, len(ids))
        if all(ids[part].size or not ids[cut].size for part, cut in zip(whole_ones, parts, strict=True)):
            parts = whole_ones
        else:
            warnings.append("warning: the documents are too long to be split between them: one is cut")
    train, validation, held_out = (ids[part] for part in parts)
    if val and len(validation) < MIN_VALIDATION:
        warnings.append(f"warning: {len(validation)} characters are too few to validate on: "
                        "training without validation")
        train, validation = ids[:len(train) + len(validation)], ids[:0]
    return [train, validation], {"asked": {"val": val, "test": test}, "train": len(train),
                                 "validation": len(validation), "test": len(held_out)}, warnings


def choose(options: RunOptions, characters: int, symbols: int, old: CharLM | None,
           kernel: Kernel) -> tuple[str | None, ModelConfig, TrainConfig, list[str]]:
    """Return the preset's name, if any, all sizes and settings, and a reason for each one that was chosen here.
    characters: of the training part; symbols: V; old: the initial model or None. Raises RunError for lack of memory."""
    name, reasons, given, speed = options.preset, [], options.asked(), kernel.speed(options.dtype or DTYPE)
    if old is not None:
        given |= {size: getattr(old.config, size) for size in SIZES}
    elif name is None and None in (options.layers, options.hidden):
        name, reason = plan.preset(TrainConfig(**options.of(TrainConfig)), characters, kernel.cores(), speed)
        reasons.append(f"preset {name}: {reason}")
    sizes, train = plan.with_preset(name or "small", given)
    model, config = ModelConfig(symbols, **sizes), TrainConfig(**train)
    if options.batch is None and "batch" not in PRESETS[name or "small"]:
        columns, reason = plan.streams(config, model, characters, kernel.cores(), speed)
        config = replace(config, batch=columns)
        reasons += [f"batch {columns}: {reason}"] if reason else []
    batch, seq = shrink(characters, config.batch, config.seq)
    if (batch, seq) != (config.batch, config.seq):
        reasons.append(f"warning: {characters:,} characters are fewer than one batch: {batch} streams of {seq} instead "
                       f"of {config.batch} of {config.seq}")
        config = replace(config, batch=batch, seq=seq)
    config, more = plan.fill(config, model, characters, kernel.cores(), speed, tuned=old is not None)
    check_memory(config, model, np.dtype(storage(options.dtype or DTYPE)).itemsize, kernel.memory())
    return name, model, config, [*reasons, *more]


def build(model: ModelConfig, vocab: Vocab, old: CharLM | None, options: RunOptions, seed: int) -> CharLM:
    """Return a new model with random parameters, or `old` with its vocabulary extended to `vocab`."""
    if old is None:
        return CharLM(model, vocab, options.device, options.dtype or DTYPE, seed)
    return old if old.vocab == vocab else extend(old, vocab, options.device)


def take_path(options: RunOptions, model: CharLM, config: TrainConfig, ids: np.ndarray, folder: Path,
              say: Say) -> list[str]:
    """Set the model's path for training on ids (n,), after a self-check if one is due (selfcheck.py); return notes."""
    steps = total_steps(config, Batches(ids, config.batch, config.seq))
    trying = steps >= SELFCHECK if steps is not None else (config.minutes or 0) >= 1
    return selfcheck.take(model, options.cuda_path, options.device, trying, say, shlex.quote(str(folder)),
                          columns=config.batch, seq=config.seq, optimizer=config.optimizer)


def training_of(model: CharLM, parts: list[np.ndarray], config: TrainConfig) -> Training:
    """Return a new Training of the model on [training ids, validation ids]; an empty second part: no validation."""
    train, validation = parts
    return Training(model, Batches(train, config.batch, config.seq), config,
                    Validation(validation, config.batch, config.seq) if len(validation) else None)


def count(parts: list[np.ndarray], symbols: int, minutes: float | None) -> ngram.Baseline | None:
    """Return the n-gram baseline of [training ids, validation ids], or None without a validation part or without time.
    symbols: V; minutes: the run's budget, None for another budget. At most ngram.MOST symbols of each part are read."""
    train, validation = parts
    most = 2 * ngram.MOST if minutes is None else int(COUNTING * 60 * minutes * ngram.CHARACTERS_PER_SECOND)
    validation = validation[:min(ngram.MOST, most // 2)]
    most = min(ngram.MOST, most - len(validation))
    if not len(validation) or most <= 0:
        return None
    return ngram.baseline(train, validation, symbols, most=most)


def check_memory(config: TrainConfig, model: ModelConfig, itemsize: int, there: int) -> None:
    """Raise RunError if the run would need more than `there` bytes (plan.memory). itemsize: bytes per number.
    The check runs before any large array is made, so the user gets a cure instead of a failed allocation."""
    needed = plan.memory(config, model, itemsize)
    fewer = f", or a --min-count: most of it is for {model.vocab_size:,} symbols" \
        if 3 * model.vocab_size > 12 * model.layers * model.hidden else ""
    if needed > there:
        fits = plan.largest_batch(config, model, itemsize, there)
        cure = f"--batch {fits} fits, or" if fits >= 1 else "take"
        raise RunError(f"{params.count(model):,} parameters and {config.batch} streams of {config.seq} take about "
                       f"{needed / 2**30:,.1f} GiB, the device has {there / 2**30:.1f}: {cure} a smaller --hidden, "
                       f"--layers, --embed{' or --seq' if fits >= 1 else ', --batch or --seq'}{fewer}")
