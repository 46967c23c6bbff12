"""Makes the pretrained models in data/pretrained/models/ and their samples in data/pretrained/samples/.

    python tests/tools/pretrain.py --corpora FOLDER [--names tinyshakespeare hugo ...] [--runs FOLDER] [--score]

FOLDER holds tinyshakespeare.txt, shakespeare-complete.txt and hugo-les-miserables-1-4.txt. A run that is in --runs
already is gone on with, or taken as it is. A model is the run's last.safetensors, stored in float16. The losses in its
card are those of that file on its validation text, which is scored once. --score: only score the models that are there.
"""
import argparse
import json
import subprocess
import sys
from pathlib import Path

import numpy as np

from rnncore.config import SampleConfig
from rnncore.data.batches import split
from rnncore.data.text import read
from rnncore.measure import dynamic, evaluate, ngram
from rnncore.measure.mix import Mixture
from rnncore.runs import checkpoint
from rnncore.sample import samples

DATA = Path(__file__).resolve().parents[2] / "data" / "pretrained"
MEDIUM = "--layers 2 --hidden 256 --embed 64"
MODELS = {
    "tinyshakespeare": ("tinyshakespeare.txt", "--layers 2 --hidden 512 --embed 64 --batch 64 --seq 50 --lr .025 "
                        "--epochs 36 --dropout .4 --weight-drop .4 --dtype bf16"),
    "shakespeare-complete": ("shakespeare-complete.txt", f"{MEDIUM} --batch 64 --seq 50 --lr .02 --epochs 6 "
                             "--dropout .1 --weight-drop 0 --dtype bf16"),
    "hugo": ("hugo-les-miserables-1-4.txt", f"{MEDIUM} --batch 32 --seq 50 --lr .02 --epochs 8 --dropout 0 "
             "--weight-drop 0 --dtype bf16"),
    "numpy": ("numpy", f"{MEDIUM} --batch 128 --epochs 2 --dropout 0 --weight-drop 0"),
}
ABOUT = {  # of its card: what it learned, in words
    "tinyshakespeare": "40,000 lines of Shakespeare, the corpus tinyshakespeare; the corpus shakespeare is another text",
    "shakespeare-complete": "the plays, poems and sonnets of Shakespeare, 42 files in modern spelling of the Python source "
                            "distribution shakespeare 0.6; data/README.md says how they are joined",
    "hugo": "Les Misérables, tomes 1 to 4, in French; the corpus hugo is all five tomes",
    "numpy": "the Python source of NumPy 2.4.6, as the corpus numpy had it",
}
ALL = "--seed 1 --no-report"
LENGTH = 10_000


def train(name: str, corpora: Path, run: Path) -> None:
    text, options = MODELS[name]
    command = [sys.executable, "-m", "rnncore", "train"]
    if (run / "last.safetensors").is_file():
        command += ["--resume", "-o", str(run)]
    else:
        command += [text, *ALL.split(), *options.split(), "-o", str(run)]
    subprocess.run(command, cwd=corpora, check=True)


def export(name: str, corpora: Path, run: Path) -> dict:
    """Write the model and its sample; returns its losses."""
    last = run / "last.safetensors"
    card, target = checkpoint.read(last)[0]["card"], DATA / "models" / f"{name}.safetensors"
    card["best_step"] = card["step"]  # the model is that of the last step, whichever look at the validation text was best
    checkpoint.save(checkpoint.load(last, "cpu"), target, card, half=True)
    found = score(name, corpora)
    sample = DATA / "samples" / f"{name}.txt"
    model = checkpoint.load(target, "cpu")
    sample.write_text(samples(model, 1, "", LENGTH, SampleConfig(temperature=0.8, seed=1))[0], encoding="utf-8")
    return found


def score(name: str, corpora: Path) -> dict:
    """Score a model that is there, write the losses into its card, and return them."""
    target = DATA / "models" / f"{name}.safetensors"
    card, model = checkpoint.read(target)[0]["card"], checkpoint.load(target, "cpu")
    sources = [Path(source).name for source in card["corpus"]["sources"]]
    corpus = read([str(corpora / source) if (corpora / source).is_file() else source for source in sources])
    if corpus.sha256 != card["corpus"]["sha256"]:
        sys.exit(f"{name}: the corpus is not the one that the model was trained on")
    ids = model.vocab.encode(corpus.text)
    train, ids = (ids[part] for part in split(len(ids), 0.1, 0.0)[:2])
    protocols = {"val": evaluate.losses(model, ids), "w256": evaluate.window_losses(model, ids, 256),
                 "dynamic": dynamic.losses(model, ids),
                 "mix": Mixture(evaluate.losses(model, ids), train, ids, len(model.vocab))}
    with model.kernel.single_threaded():
        losses = {protocol: round(float(np.concatenate(list(parts)).mean()), 4) for protocol, parts in protocols.items()}
    floor = ngram.baseline(train, ids, len(model.vocab))
    card |= {"about": ABOUT[name], "losses": losses, "corpus": card["corpus"] | {"sources": sources},
             "floor": {"nats": floor.nats, "order": floor.order, "counted": floor.counted}}
    checkpoint.save(model, target, card, half=True)
    return losses | {"floor": round(floor.nats, 4), "chars": card["chars"], "seconds": card["seconds"],
                     "bytes": target.stat().st_size}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--corpora", type=Path, required=True)
    parser.add_argument("--names", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    parser.add_argument("--score", action="store_true")
    args = parser.parse_args()
    for name in args.names:
        run = args.runs.resolve() / f"pretrain-{name}"
        if not args.score:
            train(name, args.corpora.resolve(), run)
        made = score(name, args.corpora.resolve()) if args.score else export(name, args.corpora.resolve(), run)
        print(name, json.dumps(made), flush=True)


if __name__ == "__main__":
    main()
