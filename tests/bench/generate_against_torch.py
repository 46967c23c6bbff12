"""Writing text beside a loop over torch.nn.LSTM, in one process and in turn: one stream, and many samples at once.

    python tests/bench/generate_against_torch.py --hidden 128 --layers 2 --count 64

Both draw every symbol from softmax(logits / 0.8) in float32. A round times each for a moment, one after the other;
printed are the medians over the rounds and those of the rounds' ratios. torch, under inference_mode, is measured at each
of its numbers of threads up to the cores, and its fastest counts.
"""
import argparse
import json
import statistics
import time

import numpy as np
import torch

import rnncore
from rnncore import kernels
from rnncore.sample import samples

CONFIG = rnncore.SampleConfig(temperature=0.8, seed=1)


def ours(model, count: int, length: int):
    def run():
        if count == 1:
            assert sum(map(len, rnncore.generate(model, "", length, CONFIG.temperature, seed=CONFIG.seed))) == length
        else:
            samples(model, count, "", length, CONFIG)
        return count * length
    return run


def theirs(model, count: int, length: int):
    """The loop that one writes: embedding, lstm, head, softmax, multinomial."""
    sizes = model.config
    modules = torch.nn.ModuleDict({"embedding": torch.nn.Embedding(sizes.vocab_size, sizes.embed),
                                   "lstm": torch.nn.LSTM(sizes.embed, sizes.hidden, sizes.layers),
                                   "head": torch.nn.Linear(sizes.hidden, sizes.vocab_size)})
    modules.load_state_dict({name: torch.from_numpy(tensor) for name, tensor in model.tensors().items()})

    @torch.inference_mode()
    def run():
        x, state = torch.zeros((1, count), dtype=torch.long), None
        for _ in range(length):
            out, state = modules["lstm"](modules["embedding"](x), state)
            p = torch.softmax(modules["head"](out[0]) / CONFIG.temperature, dim=1)
            x = torch.multinomial(p, 1).reshape(1, count)
            x.tolist()
        return count * length
    return run


def speed(run) -> float:
    """Characters a second."""
    begin = time.perf_counter()
    return run() / (time.perf_counter() - begin)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name, default in (("hidden", 128), ("layers", 2), ("embed", 64), ("vocab", 65), ("count", 64), ("length", 1000),
                          ("torch-length", 100), ("rounds", 9)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    sizes = rnncore.ModelConfig(given.vocab, given.embed, given.hidden, given.layers)
    model = rnncore.CharLM(sizes, rnncore.Vocab.from_code_points(range(given.vocab)), "cpu", "float32")
    model.threads = kernels.host.cores()
    one, many = ours(model, 1, given.length), ours(model, given.count, max(1, given.length // 8))
    torchs = theirs(model, 1, given.torch_length)
    rounds = []
    for _ in range(given.rounds + 1):
        row = {"one stream": speed(one), f"{given.count} streams": speed(many)}
        for threads in range(1, kernels.host.cores() + 1):
            torch.set_num_threads(threads)
            row[f"torch, one stream, {threads} threads"] = speed(torchs)
        rounds.append(row)
    rounds = rounds[1:]  # the first warms up
    medians = {name: statistics.median(row[name] for row in rounds) for name in rounds[0]}
    fastest = max((name for name in medians if name.startswith("torch")), key=medians.get)

    def ratio(a: str, b: str) -> float:
        return round(statistics.median(row[a] / row[b] for row in rounds), 2)

    result = {"chars_per_s": {name: round(value) for name, value in medians.items()}, "torch": torch.__version__,
              "numpy": np.__version__, "one_over_torch": ratio("one stream", fastest),
              "many_over_one": ratio(f"{given.count} streams", "one stream")}
    if given.json:
        print(json.dumps(result))
        return
    for name, value in result["chars_per_s"].items():
        print(f"{name:30} {value:11,} characters/s")
    print(f"one stream is {result['one_over_torch']} times as fast as torch's fastest, {given.count} streams "
          f"{result['many_over_one']} times as fast as one")


if __name__ == "__main__":
    main()
