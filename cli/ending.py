"""The last messages of a training run: how good the model is, what went wrong, and which command to type next."""
import math
import shlex
from dataclasses import replace

import click

from rnncore import plan
from rnncore.config import flag
from rnncore.runs import headline, names

from . import texts
from .terminal import called
from .terminal.progress import tell

LATE = 0.7         # share of the steps; a best model from an earlier step means that the model overfits
FAR_TOO_HIGH = 10  # times the usual learning rate; from this rate on, the advice is a lower rate, not more steps
DIVERGED = 3       # the exit code of a run that has diverged


def farewell(run, stopped: int | None) -> int:
    """Print how the run ended and the next command to type; return the exit code.

    stopped: the number of the signal that stopped the run, or None at the end of its budget. The code is 1 if the last
    save failed, 128 + stopped after a signal, DIVERGED, or 0.
    """
    training, path = run.training, run.folder.path
    if run.unsaved:
        return 1  # no message here: the run prints the reason when its context ends
    if stopped:
        tell(f"stopped at step {training.step:,} and saved; go on with\n\n  {called.command(again(run))}\n")
        return 128 + stopped
    for line in verdict(run):
        tell(line)
    if training.diverged():
        tell(f"rnncore: {divergence(run)}")
        return DIVERGED
    tell(f"saved in {called.path(path)}; let it write with\n\n"
         f"  {called.called()} generate {called.path(names.spelled(path))} -n 400\n")
    return 0


def without_a_step(run) -> int:
    """Print that the time ended before the first step, so that the folder holds no model; return the exit code, 1."""
    tell(f"rnncore: the run took no step, so {run.folder.path} holds no model: its time was over before the first step "
         f"began (--minutes {run.training.config.minutes:g}); give it more")
    return 1


def already_finished(run) -> int:
    """Print which command goes on with a run whose budget or patience is spent; return the exit code, 0 or DIVERGED."""
    training, folder = run.training, run.folder
    run.mirror()
    for line in run.news():
        tell(line)
    if training.diverged() and not folder.changed:
        tell(f"rnncore: {folder.path} is finished: {divergence(run)}")
        return DIVERGED
    wants = " ".join(f"{flag(name)} {after:g}" for name, (_, after) in folder.changed.items())
    wanted = "a larger budget" if training.spent_all() else "a larger --patience"
    without = f", and {wants} needs {wanted} too" if wants else ""
    tell(f"{folder.path} is finished{without}: `{again(run, longer(training), typed())}` goes on with it")
    return 0


def verdict(run) -> list[str]:
    """Return lines on the best model's validation loss, with a warning if the n-gram baseline is lower."""
    training, floor = run.training, run.folder.settings.get("floor")
    if not training.best:
        return []
    found = headline.validation(training.best, training.step, training.final_loss, training.val_chars())
    patience = [
        f"ended by --patience: {training.stale} evaluations without a better loss"] if training.given_up() else []
    lines = [*patience, f"best model: step {training.best[1]:,}, validation loss {found.words}"]
    if floor and found.best.nats > floor["nats"] and not training.diverged():
        lines.append(f"warning: the model is worse than the n-gram baseline, {floor['nats']:.4f}: {cure(run)}")
    return lines


def cure(run) -> str:
    """Return advice for a model that is worse than the n-gram baseline."""
    training, config = run.training, run.training.config
    usual = plan.usual_rate(training.model.config, config.optimizer, tuned(run), config.batch)
    if training.recovery.rate < 1 or config.lr >= FAR_TOO_HIGH * usual:
        return f"the rate was too high; {lower(run)}"
    if training.best[1] < LATE * training.step:
        return "it learns the text by heart (it overfits): give it more text or more --dropout, or make it smaller"
    return f"train it for longer: `{again(run, longer(training))}`"


def divergence(run) -> str:
    """Return a sentence that says that the run has diverged, with its losses in nats per character and what to do."""
    training, symbols = run.training, run.training.model.config.vocab_size
    kind, loss = training.last_loss()
    return (f"the run has diverged: its {kind} loss at the end is {loss:.4f} nats/char, worse than equal odds for all "
            f"{symbols:,} symbols ({math.log(symbols):.4f}) and than its beginning ({training.course.first:.4f}); "
            f"{lower(run)}")


def lower(run) -> str:
    """Return advice on the learning rate to try after the rate that the run had."""
    training = run.training
    changes = [*run.folder.settings.get("changes", []), run.folder.changed]
    rates = [*(change["lr"][0] for change in changes if "lr" in change), training.config.lr]
    had, factor = max(rates), training.recovery.rate if len(rates) == 1 else 1.0
    rate = plan.lower_rate(replace(training.config, lr=had), training.model.config, tuned(run), factor)
    halved = f", {factor:g} of it at the end" if factor < 1 else ""
    return f"start again with --lr {rate:.3g} (it had {had:g}{halved})"


def tuned(run) -> bool:
    """Return True if the run began with a trained model (--init-from)."""
    return bool(run.folder.settings.get("init_from"))


def again(run, more: list[str] | None = None, other: list[str] | None = None) -> str:
    """Return the command that resumes the run; the user can type it as it stands.

    more: options at the end; other: options and a CORPUS at the beginning.
    """
    sources = run.folder.settings["corpus"]["sources"]
    words = ["rnncore", "train", *(other or []), "--resume", "-o", str(run.folder.path), *(more or [])]
    return shlex.join(words) + (" < FILE" if "-" in sources else "")


def longer(training) -> list[str]:
    """Return options that double the spent budget, the spent patience, or both."""
    config, doubled = training.config, []
    if training.spent_all():
        spent = {"steps": training.step, "epochs": training.step / training.batches.windows,
                 "minutes": training.clock.now() / 60}
        name = next(name for name in spent if getattr(config, name) is not None)
        # A run may be resumed with a budget below what it has spent; twice the larger number always goes on.
        value = 2 * max(getattr(config, name), spent[name])
        doubled += [f"--{name}", str(value) if name == "steps" else f"{value:.3g}"]
    if training.given_up():
        doubled += ["--patience", str(2 * max(config.patience, training.stale))]
    return doubled


def typed() -> list[str]:
    """Return the words of this command line that the printed command repeats: `again` and `longer` add the others."""
    context = click.get_current_context()
    given = set(texts.typed(context.params)) - {"resume", "out", "name", "steps", "epochs", "minutes", "patience"}
    words: list[str] = []
    for param in context.command.params:
        if param.name not in given:
            continue
        value = context.params[param.name]
        if isinstance(param, click.Argument):
            words += value
        elif isinstance(param, click.Option) and param.is_flag:
            words.append(param.opts[0] if value else param.secondary_opts[0])
        else:
            words += [param.opts[0], str(value)]
    return words
