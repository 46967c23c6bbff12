"""A training card as text: the corpus of a model, its training settings, and its losses."""
from collections.abc import Iterator

from . import headline
from .folder import trained
from .schema import Card

SETTINGS = {  # field of a TrainConfig -> its text, with {} for the value
    "optimizer": "{}", "lr": "rate {}", "batch": "batch {}", "seq": "window {}", "dropout": "dropout {}",
    "weight_drop": "weight-drop {}", "seed": "seed {}", "epochs": "for {} epochs", "steps": "for {} steps",
    "minutes": "for {} minutes"}
LOSSES = {"val": "validation", "w256": "state reset every 256 characters", "dynamic": "dynamic evaluation"}  # in words


def terms(card: Card) -> Iterator[tuple[str, str]]:
    """Yield (term, text) for each entry of a training card.

    Yield nothing if `RunFolder.card` did not make the card: `rnncore.save` accepts any card, and none.
    """
    if not trained(card):
        return
    corpus, split = card["corpus"], card["split"]
    yield "corpus", f"{corpus['name']}, {corpus['characters']:,} characters, sha256 {corpus['sha256'][:16]}"
    if card.get("about"):
        yield "about", str(card["about"])
    yield "split", (f"{split['train']:,} train, {split['validation']:,} validation, {split['test']:,} test, "
                    + ("documents shuffled" if corpus.get("shuffle") else "in order"))
    epochs = f", {card['chars'] / split['train']:.3g} epochs," if split["train"] else ""
    yield "trained", (f"{card['step']:,} steps, {card['chars']:,} characters{epochs} in {card['seconds']:,} s, "
                      f"on {card['made'][:10]}")
    if how := settings(card):
        yield "settings", how
    if card.get("precision"):
        yield "precision", str(card["precision"])
    for change in card.get("changes", []):
        yield "changed", headline.changed(change)
    if card.get("init_from"):
        origin = card.get("origin") or card["init_from"]
        yield "begun from", f"{card['init_from']}" + f" ({origin})" * (origin != card["init_from"])
    if found := headline.of(card):
        yield "validation", f"step {found.best.step:,}: {found.words}"
    if baseline := card.get("floor"):
        yield "baseline", (f"{baseline['nats']:.4f} nats/char by n-grams, context: the last {baseline['order']} "
                           f"character{'s' * (baseline['order'] != 1)}")
    elif card.get("no_floor"):
        yield "baseline", f"no n-gram baseline: {card['no_floor']}"
    if card.get("losses"):
        yield "this file", "nats/char: " + ", ".join(f"{LOSSES.get(name, name)} {loss:.4f}"
                                                     for name, loss in card["losses"].items())
    yield "versions", ", ".join(f"{name} {version}" for name, version in card["versions"].items())


def settings(card: Card) -> str:
    """Return the training settings of a card as one text, without settings that are missing or null.

    Cards of older versions lack some settings.
    """
    train, found = card["train"], [] if type(card.get("preset")) is not str else [f"preset {card['preset']}"]
    for name, words in SETTINGS.items():
        value = train.get(name)
        if type(value) in (int, float, str):
            found.append(words.format(f"{value:g}" if type(value) is float else value))
            if name == "dropout" and value and type(train.get("variational")) is bool:
                found[-1] += f" (one mask a {'window' if train['variational'] else 'character'})"
    return ", ".join(found)
