"""Words that exist: the share of a text's words that stand in other texts too, beside the share that is copied.

    python tests/tools/words.py --against TEXT... --run RUN [--seeds 1 2 ...] [--identifiers]    what a model writes
    python tests/tools/words.py --against TEXT... --samples FILE... [--identifiers]              any samples
    python tests/tools/words.py --against TEXT... --author [--identifiers]                       the author's own share

A word is letters with apostrophes inside, in lower case; with --identifiers, a name of Python. Of --run, 10,000
characters at temperature .8 are written for each seed. --author takes ten stretches of 10,000 characters, evenly spread
over the first TEXT, and compares each with all other text: a word counts if it occurs outside its stretch. Copied are
stretches of 50 characters and more (rnncore/measure/copies.py). Prints the means with their standard errors. TEXT is a
file or `numpy`.
"""
import argparse
import collections
import re
import statistics
from pathlib import Path

from rnncore.config import SampleConfig
from rnncore.data.text import read
from rnncore.measure.copies import copied
from rnncore.runs import checkpoint
from rnncore.sample import samples

WORD = re.compile(r"[^\W\d_]+(?:['’][^\W\d_]+)*")
IDENTIFIER = re.compile(r"[^\W\d]\w*")
LENGTH, STRETCHES = 10_000, 10


def words(text: str, identifiers: bool) -> list[str]:
    """Return the words of a text in their order."""
    return IDENTIFIER.findall(text) if identifiers else WORD.findall(text.lower().replace("’", "'"))


def existing(sample: list[str], counts: collections.Counter, own: bool = False) -> float:
    """Return the share of a sample's words that occur in `counts`. own: the counts have the sample's words, too."""
    inside = collections.Counter(sample) if own else collections.Counter()
    return sum(counts[word] > inside[word] for word in sample) / max(1, len(sample))


def summary(values: list[float]) -> str:
    """Return mean and standard error in percent."""
    error = statistics.stdev(values) / len(values) ** 0.5 if len(values) > 1 else 0.0
    return f"{100 * statistics.mean(values):.2f}% (standard error {100 * error:.2f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--against", nargs="+", required=True)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--run")
    what.add_argument("--samples", nargs="+", type=Path)
    what.add_argument("--author", action="store_true")
    parser.add_argument("--seeds", nargs="+", type=int, default=list(range(1, 11)))
    parser.add_argument("--temperature", type=float, default=0.8)
    parser.add_argument("--identifiers", action="store_true")
    args = parser.parse_args()
    texts = [read([source]).text for source in args.against]
    counts = collections.Counter(word for text in texts for word in words(text, args.identifiers))
    if args.author:
        first = texts[0]
        places = [len(first) * k // STRETCHES for k in range(STRETCHES)]
        found = [first[place:place + LENGTH] for place in places]
        rest = [[first[:place], first[place + LENGTH:], *texts[1:]] for place in places]
    else:
        if args.run:
            model = checkpoint.load(args.run, "cpu")
            found = [samples(model, 1, "", LENGTH, SampleConfig(temperature=args.temperature, seed=seed))[0]
                     for seed in args.seeds]
        else:
            found = [path.read_text(encoding="utf-8") for path in args.samples]
        rest = [texts] * len(found)
    shares = [existing(words(text, args.identifiers), counts, args.author) for text in found]
    copies = [max(copied(text, other) for other in others) for text, others in zip(found, rest, strict=True)]
    print(f"{len(found)} texts: words that exist {summary(shares)}, copied {summary(copies)}")


if __name__ == "__main__":
    main()
