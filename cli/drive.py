"""The loop over a job's steps shows, logs, samples and saves them until the budget is spent or a signal comes."""
import time

from .ending import already_finished, farewell, without_a_step
from .terminal.progress import display

SAVE = 60      # seconds between saves, at most, unless --save-every says otherwise
SAMPLE = 200   # characters of a sample on the way


def drive(job, signals) -> int:
    """Train to the end of the budget or to a signal; returns the exit code. signals: a Signals, `waiting`."""
    training, folder, every = job.training, job.folder, job.saving
    if training.done() >= 1:
        return already_finished(job) if training.step else without_a_step(job)
    training.stops = every.sample_every, every.save_every
    saved, unsaved, stop, due, asked = time.monotonic(), None, None, False, False
    said: list[str | None] = [None]
    with display() as shown:
        for p in training:
            troubles = [*(f"warning: {note}" for note in p.notes), job.write(folder.log, p)]
            shown.update(p)
            if p.milestone if every.sample_every is None else every.sample_every and p.step % every.sample_every == 0:
                sample = job.sample(SAMPLE)
                troubles.append(job.write(folder.add_sample, p.step, sample))
                shown.sample(p, sample)
            asked = signals.save_asked() or asked
            due = due or asked or (p.step % every.save_every == 0 if every.save_every
                                   else p.milestone or time.monotonic() > saved + SAVE)
            better = p.val_loss is not None and training.best[1] == p.step
            stop = None if p.finished else signals.stop
            if stop:
                troubles.append(job.write(folder.log, p, True))
            if due and not training.recovery.row or better or p.finished or stop:  # bad steps in a row: not now
                unsaved, saved, due = job.write(folder.save, training, better), time.monotonic(), False
                troubles.append(unsaved)
                if asked and not unsaved:
                    shown.say(f"saved at step {p.step:,}")
                asked = False
            for trouble in (*troubles, job.mirror()):
                if trouble not in said:
                    shown.say(trouble)
                    said.append(trouble)
            if stop:
                break
    return farewell(job, stop, unsaved) if training.step else without_a_step(job)
