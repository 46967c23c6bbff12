"""The consistency check of a file for resuming: contradictions between its fields, or between a field and a tensor.

The check runs before resuming uses any of these values. Every bound here holds in all runs that this engine has
written, including runs of older versions. No bound needs the corpus.
"""
from dataclasses import fields
from math import ceil

from ..config import TrainConfig
from ..data.batches import split
from ..kernels.paths import storage
from ..params import Tensors
from .schema import Progress, Settings

RESUMING = {"optimizer.m", "optimizer.v", "state.h", "state.c"}  # tensors that every file for resuming has
GOOD = "state.good"  # the copy of good parameters (recovery.py), a tensor that may be missing
PARTS = "train", "validation", "test"
FASTEST = 10 ** 6    # training steps per second; no machine reaches this
CHANGED = {each.name: each.metadata["kind"] for each in fields(TrainConfig)}  # option -> kind of its values


def contradiction(text: dict[str, Settings | Progress], config: TrainConfig, tensors: Tensors) -> str | None:
    """Return one line that names the first contradiction in the training field of a file, or None.

    text: the training field, after the check of each field's kind (schema.fault). config: text["config"] as a
    TrainConfig. tensors: all tensors of the file.
    """
    progress, settings = text["progress"], text["settings"]
    return (_tensors(config, tensors, progress.get("recovery", {})) or _steps(progress, config, settings["split"])
            or _recovery(progress) or _losses(progress, settings["split"]) or _split(settings)
            or files(settings) or _settings(settings, progress["step"], str(tensors["head.bias"].dtype)))


def _tensors(config: TrainConfig, tensors: Tensors, recovery: dict[str, float]) -> str | None:
    """Check the tensors for resuming: their names, the batch size, and second moments that are not negative."""
    there = {name for name in tensors if name.startswith(("optimizer.", "state."))}
    for name in sorted((there - {GOOD}) ^ RESUMING):
        return f"tensor {name:.80} is {'not expected' if name in there else 'missing'}"
    for name in ("state.h", "state.c"):
        if config.batch != tensors[name].shape[2]:
            return f"training.config.batch is {config.batch}, but {name} has {tensors[name].shape[2]} columns"
    if (tensors["optimizer.v"] < 0).any():
        return "optimizer.v holds numbers below 0, and it is a mean of squares"
    if recovery.get("returned") and GOOD not in tensors:
        return "training.progress.recovery.returned is true, but tensor state.good is missing"
    return None


def _steps(progress: Progress, config: TrainConfig, parts: dict[str, int]) -> str | None:
    """Check steps, characters and seconds against each other and against the budget."""
    step, chars, most = progress["step"], progress["chars"], config.steps
    if config.lr is None or (config.steps, config.epochs, config.minutes) == (None, None, None):
        return "training.config has no lr or no budget"
    if chars > step * config.batch * config.seq:
        return "training.progress.chars is more than its steps can have read"
    if chars < step * config.batch:  # a step reads at least one character of every stream
        return "training.progress.chars is less than its steps must have read"
    if config.epochs is not None:
        windows = ceil(max(1, (parts["train"] - 1) // config.batch) / config.seq)
        most = max(1, round(config.epochs * windows))
    if most is not None and step > most:
        return f"training.progress.step is {step:,}, but the budget in training.config is {most:,} steps"
    # Both times are sums of floats, so a small excess is rounding.
    if progress["training_seconds"] > progress["seconds"] * (1 + 1e-9) + 1e-3:
        return "training.progress.training_seconds is more than training.progress.seconds"
    if step > FASTEST * (progress["seconds"] + 1):
        return f"training.progress.step is {step:,}, more than training.progress.seconds can hold"
    return None


def _recovery(progress: Progress) -> str | None:
    """Check the counters of recovery.py and the training losses of divergence.py against the progress."""
    found, step = progress.get("recovery", {}), progress["step"]
    for name in ("uncounted", "since"):
        if found and found[name] > step:
            return f"training.progress.recovery.{name} is {found[name]:,}, but training.progress.step is {step:,}"
    if found and found["row"] > found["uncounted"]:
        return "training.progress.recovery.row is more than training.progress.recovery.uncounted"
    course = progress.get("course")
    if course and course["weight"] > progress["chars"]:
        return "training.progress.course.weight is more than training.progress.chars"
    if course and course["recent"] is not None and (course["first"] is None or not course["weight"]):
        return "training.progress.course.recent is there, but not what it is a mean of"
    return None


def _losses(progress: Progress, parts: dict[str, int]) -> str | None:
    """Check the evaluations: each needs a validation part, and no two are at the same step."""
    step, best, stale = progress["step"], progress["best"], progress.get("stale", 0)
    if best and best[1] > step:
        return "training.progress.best is of a later step"
    if stale > step - (best[1] if best else 0):
        return f"training.progress.stale is {stale:,}, more evaluations than there were steps since the best"
    if best and not progress["val_windows"]:
        return "training.progress.best is there, but training.progress.val_windows is not"
    for name in ("val_windows", "final_windows"):
        if (progress[name] or 0) > parts["validation"]:
            return (f"training.progress.{name} is {progress[name]:,}, but training.settings.split.validation is "
                    f"{parts['validation']:,}")
    if (progress["final_loss"] is None) != (not progress["final_windows"]):
        return "training.progress.final_loss and training.progress.final_windows are not of one evaluation"
    return None


def _split(settings: Settings) -> str | None:
    """Check the sizes of the split against the shares that were asked for and the number of characters."""
    about, kept, baseline = settings["corpus"], settings["split"], settings.get("floor")
    asked, characters, symbols = kept["asked"], about["characters"], sum(kept[part] for part in PARTS)
    if asked["val"] + asked["test"] >= 1:
        return f"training.settings.split.asked.val {asked['val']} and test {asked['test']} leave nothing to train on"
    if about.get("documents", "none") == "none":
        sizes = [part.stop - part.start for part in split(characters, asked["val"], asked["test"])]
        if not kept["validation"]:  # a validation part that is too small is added to the training part
            sizes = [sizes[0] + sizes[1], 0, sizes[2]]
        for part, size in zip(PARTS, sizes, strict=True):
            if kept[part] != size:
                return f"training.settings.split.{part} is {kept[part]:,}, but the corpus splits into {size:,}"
    elif not characters <= symbols <= 2 * characters + 2:  # with documents, only bounds of the sum are known
        return f"training.settings.split holds {symbols:,} symbols, but training.settings.corpus {characters:,}"
    if baseline and baseline["counted"] > kept["train"]:
        return "training.settings.floor.counted is more than training.settings.split.train"
    return None


def files(settings: Settings) -> str | None:
    """Return one line if the list of files is for another number of sources than the corpus has, or None."""
    listed, sources = settings.get("files"), len(settings["corpus"]["sources"])
    if listed is None or len(listed["of"]) == sources:
        return None
    return (f"training.settings.files.of is of {len(listed['of'])} sources, but training.settings.corpus.sources are "
            f"{sources}")


def _settings(settings: Settings, step: int, dtype: str) -> str | None:
    """Check the recorded changes of options and the precision. step: steps taken; dtype: the tensors' dtype."""
    before = 0
    for change in settings.get("changes", []):
        if not before <= change["step"] <= step:
            return f"training.settings.changes has one at step {change['step']:,}, after a later one or beyond the run"
        before = change["step"]
        for name, pair in change.items():
            if name in CHANGED and not all(value == 0 or CHANGED[name].holds(value) for value in pair):
                return f"training.settings.changes has {name} {pair[0]} to {pair[1]}"
    has = settings.get("precision", dtype)  # older runs do not record it: then it is the dtype
    return None if storage(has) == dtype else f"training.settings.precision is {has}, but the tensors are {dtype}"
