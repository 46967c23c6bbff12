"""One whole training step beside torch.nn.LSTM's, in one process and in turn: forward, loss, backward, clipping, Adam.

    python tests/bench/step_against_torch.py --hidden 128 --layers 2 --batch 64 --seq 50

Both do the same work in float32 on random symbols with carried state. A round times a few steps of each engine, one
after the other; printed are the medians over the rounds and the median of the rounds' ratios. torch is measured at each
of its numbers of threads up to the cores, and its fastest counts.
"""
import argparse
import json
import statistics
import time

import numpy as np
import torch

import rnncore
from rnncore import kernels, optim


def ours(model, config, x, y):
    optimizer, state, count = optim.Adam(model.params, config), None, 0

    def step():
        nonlocal state, count
        count += 1
        loss, grads, state = model.loss_and_grads(x, y, state)
        optimizer.update(model.params, grads, config.lr, optim.clip_scale(optim.global_norm(grads), config.clip), count)
        return loss
    return step


def theirs(sizes, config, x, y, device):
    embedding = torch.nn.Embedding(sizes.vocab_size, sizes.embed)
    lstm = torch.nn.LSTM(sizes.embed, sizes.hidden, sizes.layers)
    head = torch.nn.Linear(sizes.hidden, sizes.vocab_size)
    for module in (embedding, lstm, head):
        module.to(device)
    parameters = [*embedding.parameters(), *lstm.parameters(), *head.parameters()]
    adam = torch.optim.Adam(parameters, lr=config.lr, betas=(config.beta1, 0.99), eps=config.eps)
    x, y, state = torch.from_numpy(x).to(device), torch.from_numpy(y).to(device).reshape(-1), None

    def step():
        nonlocal state
        out, state = lstm(embedding(x), state)
        state = tuple(s.detach() for s in state)
        loss = torch.nn.functional.cross_entropy(head(out).reshape(-1, sizes.vocab_size), y)
        adam.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, config.clip)
        adam.step()
        return float(loss.detach())
    return step


def seconds(step, steps: int) -> float:
    begin = time.perf_counter()
    for _ in range(steps):
        step()
    return (time.perf_counter() - begin) / steps


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name, default in (("hidden", 128), ("layers", 2), ("embed", 64), ("vocab", 65), ("batch", 64), ("seq", 50),
                          ("rounds", 15), ("steps", 5), ("threads", kernels.host.cores())):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    sizes = rnncore.ModelConfig(given.vocab, given.embed, given.hidden, given.layers)
    config = rnncore.TrainConfig(lr=1e-3, steps=1)
    x, y = np.random.default_rng(0).integers(0, given.vocab, (2, given.seq, given.batch))
    model = rnncore.CharLM(sizes, rnncore.Vocab.from_code_points(range(given.vocab)), given.device, "float32")
    model.threads = given.threads if given.device == "cpu" else 1
    mine, torchs = ours(model, config, x, y), theirs(sizes, config, x, y, given.device)
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    rounds = []
    for _ in range(given.rounds + 1):
        with model.kernel.single_threaded():
            row = {"rnncore": seconds(mine, given.steps)}
        for threads in range(1, given.threads + 1 if given.device == "cpu" else 2):
            torch.set_num_threads(threads)
            row[f"torch, {threads} threads"] = seconds(torchs, given.steps)
        rounds.append(row)
    rounds = rounds[1:]  # the first warms up
    medians = {name: statistics.median(row[name] for row in rounds) for name in rounds[0]}
    fastest = min((name for name in medians if name != "rnncore"), key=medians.get)
    ratios = sorted(row[fastest] / row["rnncore"] for row in rounds)
    result = {"ms": {name: round(1e3 * value, 2) for name, value in medians.items()},
              "chars_per_s": round(given.batch * given.seq / medians["rnncore"]), "torch": torch.__version__,
              "numpy": np.__version__, "torch_over_rnncore": {"median": round(statistics.median(ratios), 3),
                                                              "min": round(ratios[0], 3), "max": round(ratios[-1], 3)}}
    if given.json:
        print(json.dumps(result))
        return
    for name, value in result["ms"].items():
        print(f"{name:18} {value:9.2f} ms a step")
    print(f"{result['chars_per_s']:,} characters/s; torch's fastest takes {result['torch_over_rnncore']['median']:.2f} times "
          f"as long (rounds: {ratios[0]:.2f} to {ratios[-1]:.2f})")


if __name__ == "__main__":
    main()
