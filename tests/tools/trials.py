"""Runs rnncore with something of its training changed that no option changes: the ideas that were tried for the losses.

    python tests/tools/trials.py NAME=VALUE [NAME=VALUE ...] -- train TEXT ...

Each function of TRIALS changes one thing before the command runs. What proved to be worth it is in the engine, and no
trial any more; tests/README.md has the losses of all of them.
"""
import sys
from collections.abc import Callable
from functools import partial

import numpy as np

from rnncore import config, optim, steps
from rnncore.nn import State, dropout
from rnncore.random import Purpose, uniform


def setting(name: str, value: float) -> None:
    """Set a field of TrainConfig that has no option, in every preset."""
    for preset in config.PRESETS.values():
        preset[name] = value


def reset(share: float) -> None:
    """Set the carried state of each column to zero with this probability, before each window."""
    take = steps.EagerSteps.take

    def changed(self, step: int, state: State | None, stops: steps.Stops = ()) -> steps.StepResult:
        if state is not None:
            columns = state.h.shape[-1]
            keep = (uniform(self.schedule.config.seed, Purpose.ROTATE, columns, step=step + 2 ** 40) >= share).astype("f")
            state = State(*(array * keep for array in state))
        return take(self, step, state, stops)

    steps.EagerSteps.take = changed


def growing(first: float) -> None:
    """Let the window grow linearly from a share of T, at the first step, to T at the last."""
    def length(schedule: steps.Schedule, step: int) -> int:
        seq = schedule.batches.steps
        return max(1, round(seq * (first + (1 - first) * step / schedule.total)))

    def window(self: steps.Schedule, step: int):
        if not hasattr(self, "places"):
            self.places = np.cumsum([0] + [length(self, k) for k in range(self.total)])
        x, _ = self.batches.window(0, int(self.places[step]))
        _, y = self.batches.window(0, int(self.places[step]))
        return x[:length(self, step)], y[:length(self, step)]

    steps.Schedule.window = window


def embedding_drop(share: float) -> None:
    """Drop entries of the embedding, one mask a training step, at a rate of its own; needs a --weight-drop above 0."""
    begin, fill = dropout.WeightDrop.__init__, dropout.WeightDrop.forward

    def changed(self, params):
        begin(self, params)
        self.masks["embedding.weight"] = np.empty_like(params["embedding.weight"])
        self.weights["embedding.weight"] = np.empty_like(params["embedding.weight"])

    def forward(self, params, rates, each=map):
        weights = fill(self, params, rates, each)
        mask = self.masks["embedding.weight"]
        draws = uniform(rates.seed, Purpose.ROTATE, mask.size, step=int(rates.step) + 2 ** 41).reshape(mask.shape)
        mask[...] = (draws >= share) / (1 - share)
        np.multiply(params["embedding.weight"], mask, out=self.weights["embedding.weight"])
        return weights

    dropout.WeightDrop.__init__, dropout.WeightDrop.forward = changed, forward


def normalised(beta: float) -> None:
    """NorMuon (Li et al. 2025): divide each row of the orthogonal update by the root of its mean square over the steps."""
    apply_orthogonal, seen = optim.Muon.muon, {}

    def changed(self, share, params, grads, pace, scale):
        plain = optim.orthogonal

        def scaled(work):
            change = plain(work)
            squares = (change ** 2).mean(axis=2, keepdims=True)
            mean = seen.setdefault(str(share), np.zeros_like(squares))
            mean += (1 - beta) * (squares - mean)
            before = np.sqrt((change ** 2).sum(axis=(1, 2), keepdims=True))
            change = change / (np.sqrt(mean) + 1e-10)
            return change * (before / np.sqrt((change ** 2).sum(axis=(1, 2), keepdims=True)))

        optim.orthogonal = scaled
        try:
            apply_orthogonal(self, share, params, grads, pace, scale)
        finally:
            optim.orthogonal = plain

    optim.Muon.muon = changed


TRIALS: dict[str, Callable[[float], None]] = {
    "decay": partial(setting, "decay"), "momentum": partial(setting, "momentum"), "beta2": partial(setting, "beta2"),
    "reset": reset, "growing": growing, "embedding-drop": embedding_drop, "normalised": normalised}


def main(arguments: list[str]) -> None:
    """Change what the arguments name, then run the command after `--`."""
    end = arguments.index("--")
    for argument in arguments[:end]:
        name, value = argument.split("=")
        TRIALS[name](float(value))
    from rnncore.cli import main as run
    sys.argv = ["rnncore", *arguments[end + 1:]]
    run()


if __name__ == "__main__":
    main(sys.argv[1:])
