"""The training loop of `rnncore train`: it takes and shows the steps until the budget is spent or a signal comes."""
from .ending import already_finished, farewell, without_a_step
from .terminal.progress import display


def drive(run, signals) -> int:
    """Train until the budget is spent or a signal comes, and return the exit code.

    run: a runs.setup.Run; signals: a Signals whose `waiting` context is open. A stop is obeyed after the current step:
    the run is saved first. A requested save (SIGUSR1) is delayed while non-finite steps are being skipped.
    """
    training, stop, asked = run.training, None, False
    if training.done() >= 1:
        return already_finished(run) if training.step else without_a_step(run)
    with display() as shown:
        for p in run:
            shown.update(p)
            if run.sample is not None:
                shown.sample(p, run.sample)
            asked, stop = signals.save_asked() or asked, None if p.finished else signals.stop
            if stop:
                run.stop()
            elif asked and not training.recovery.row:  # row > 0: non-finite steps are being skipped, so save later
                run.save()
            if asked and run.saved == p.step:
                asked = False
                if not run.unsaved:
                    shown.say(f"saved at step {p.step:,}")
            for line in run.news():
                shown.say(line)
            if stop:
                break
    return farewell(run, stop) if training.step else without_a_step(run)
