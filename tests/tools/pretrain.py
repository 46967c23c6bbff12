"""Makes the pretrained models in data/pretrained/models/ and their samples in data/pretrained/samples/.

    python tests/tools/pretrain.py --corpora FOLDER [--names tinyshakespeare hugo numpy] [--runs FOLDER]

FOLDER holds tinyshakespeare.txt and hugo-les-miserables-1-4.txt. Each model takes about half an hour on two cores; a run
that is in --runs already is gone on with, or taken as it is. A model is stored in float16; the losses in its card are
those of that file, on its validation text.
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
from rnncore.runs import checkpoint
from rnncore.sample import samples

DATA = Path(__file__).resolve().parents[2] / "data" / "pretrained"
MODELS = {
    "tinyshakespeare": ("tinyshakespeare.txt", "--epochs 30 --dropout .3 --weight-drop .3"),
    "hugo": ("hugo-les-miserables-1-4.txt", "--epochs 8 --dropout .1 --weight-drop .1"),
    "numpy": ("numpy", "--epochs 2 --dropout 0 --weight-drop 0"),
}
ABOUT = {  # of its card: what it learned, in words
    "tinyshakespeare": "40,000 lines of Shakespeare, the corpus tinyshakespeare; the corpus shakespeare is another text",
    "hugo": "Les Misérables, tomes 1 to 4, in French; the corpus hugo is all five tomes",
    "numpy": "the Python source of NumPy 2.4.6, as the corpus numpy had it",
}
ALL = "--preset medium --batch 128 --seed 1"
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
    card = checkpoint.read(run / "last.safetensors")[0]["card"]  # as at the run's end: all its seconds
    target = DATA / "models" / f"{name}.safetensors"
    target.parent.mkdir(exist_ok=True)
    checkpoint.save(checkpoint.load(run, "cpu"), target, half=True)
    model = checkpoint.load(target, "cpu")
    sources = [Path(source).name for source in card["corpus"]["sources"]]
    corpus = read([str(corpora / source) if (corpora / source).is_file() else source for source in sources])
    if corpus.sha256 != card["corpus"]["sha256"]:
        sys.exit(f"{name}: the corpus is not the one that {run} was trained on")
    ids = model.vocab.encode(corpus.text)
    train, ids = (ids[part] for part in split(len(ids), 0.1, 0.0)[:2])
    protocols = {"val": evaluate.losses(model, ids), "w256": evaluate.window_losses(model, ids, 256),
                 "dynamic": dynamic.losses(model, ids)}
    with model.kernel.single_threaded():
        losses = {protocol: round(float(np.concatenate(list(parts)).mean()), 4) for protocol, parts in protocols.items()}
    floor = ngram.baseline(train, ids, len(model.vocab))
    card |= {"about": ABOUT[name], "losses": losses, "floor": {"nats": floor.nats, "order": floor.order, "counted": floor.counted},
             "corpus": card["corpus"] | {"sources": sources}}
    checkpoint.save(model, target, card, half=True)
    sample = DATA / "samples" / f"{name}.txt"
    sample.parent.mkdir(exist_ok=True)
    sample.write_text(samples(model, 1, "", LENGTH, SampleConfig(temperature=0.8, seed=1))[0], encoding="utf-8")
    return losses | {"floor": round(floor.nats, 4), "chars": card["chars"], "seconds": card["seconds"],
                     "bytes": target.stat().st_size}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--corpora", type=Path, required=True)
    parser.add_argument("--names", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    args = parser.parse_args()
    for name in args.names:
        run = args.runs.resolve() / f"pretrain-{name}"
        train(name, args.corpora.resolve(), run)
        print(name, json.dumps(export(name, args.corpora.resolve(), run)), flush=True)


if __name__ == "__main__":
    main()
