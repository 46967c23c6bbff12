"""Documents are shuffled by one key before they are split: what the order depends on, and who splits them so again."""
import json
import random
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from cli_helpers import SMALL, call, corpus, refused, rows
from hypothesis import given, strategies as st

from rnncore.runs import prepare
from rnncore.data import shuffle, spool
from rnncore.data.endings import END
from rnncore.data.shuffle import order, whole
from rnncore.data.text import read
from rnncore.runs import checkpoint

A_TO_H = "abcdefgh"
NAMES = [a + b + c for a in A_TO_H for b in A_TO_H for c in ("an", "en", "in", "on")]  # 256, sorted
ORDERS = {"sorted": NAMES, "reversed": NAMES[::-1], "mixed": random.Random(0).sample(NAMES, len(NAMES))}
LINES, STEPS = ("--documents", "lines"), (*SMALL, "--steps", 6)


def shuffled(path: Path, documents: list[str], **how) -> list[str]:
    """The documents of a file in their new order."""
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in documents))
    found = read([str(path)], documents="jsonl", shuffle=True, **how)
    assert found.text.endswith(END)
    return found.text[:-1].split(END)


@pytest.fixture
def train(tmp_path, monkeypatch, capsys):
    """`rnncore train ARGS` in a folder with the names in three orders."""
    monkeypatch.chdir(tmp_path)
    for name, names in ORDERS.items():
        corpus(tmp_path, "".join(f"{one}\n" for one in names), f"{name}.txt")
    return lambda *args: call(capsys, "train", *args)


def card(folder: str) -> dict:
    return checkpoint.read(Path(folder) / "last.safetensors")[0]["card"]


def losses(folder: str) -> list:
    return [(row["step"], row.get("loss"), row.get("val_loss")) for row in rows(Path(folder))]


# The order

@given(st.lists(st.text("abé\n", min_size=1, max_size=5), min_size=1, max_size=40).filter(lambda d: len(set("".join(d))) > 1),
       st.randoms())
def test_the_order_depends_on_nothing_but_the_documents(tmp_path_factory, documents, chance):
    path = tmp_path_factory.mktemp("shuffle") / "it"
    found = shuffled(path, documents)
    assert Counter(found) == Counter(documents)
    chance.shuffle(documents)
    assert shuffled(path, documents) == found


def test_it_is_this_order_for_ever(tmp_path):
    """With another, runs of before would be resumed on another validation part."""
    assert shuffled(tmp_path / "it", [*"abcdefgh", "a", "a"]) == list("ahedgafcba")


def test_the_end_is_an_even_sample_and_copies_do_not_stand_together(tmp_path):
    numbers = [int(text) for text in shuffled(tmp_path / "it", [f"{k:04}" for k in range(4000)])]
    assert abs(np.mean(numbers[-400:]) - 2000) < 4 * 1155 / 20 and abs(np.corrcoef(numbers, range(4000))[0, 1]) < .05
    documents = shuffled(tmp_path / "it", ["a"] * 1000 + [f"b{k}" for k in range(1000)])
    together = sum(first == second == "a" for first, second in zip(documents, documents[1:], strict=False))
    assert 400 < together < 600 and 60 < documents[-200:].count("a") < 140


@pytest.mark.parametrize("limit", [0, 1 << 20])
def test_pieces_in_memory_or_in_a_file_change_nothing(tmp_path, monkeypatch, limit):
    """With documents longer than a piece, and symbols of two bytes each."""
    chance = random.Random(1)
    symbols = "".join(map(chr, range(0x4e00, 0x4e00 + 300)))
    documents = ["".join(chance.choices(symbols, k=chance.choice([1, 3, 40]))) for _ in range(300)] + [symbols]
    wanted = shuffled(tmp_path / "it", documents)
    monkeypatch.setattr(spool, "IN_MEMORY", limit)
    for module in (spool, shuffle):
        monkeypatch.setattr(module, "CHUNK", 7)
    monkeypatch.setattr(spool.Spool.chunks, "__defaults__", (7,))
    monkeypatch.setattr(shuffle, "PART", 5)
    assert shuffled(tmp_path / "it", documents) == wanted


def test_many_documents_take_sixteen_bytes_each():
    """Their keys are sorted in place: the order of a million is made in little more than its own array."""
    import tracemalloc
    keys = np.random.default_rng(0).integers(0, 1 << 64, 1_000_000, np.uint64)
    tracemalloc.start()
    places = order(keys)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert np.shares_memory(places, keys) and peak < 8 << 20
    assert np.array_equal(np.sort(places), np.arange(1_000_000))


@pytest.mark.parametrize("cut, place", [(0, 0), (1, 0), (2, 3), (3, 3), (5, 4), (9, 10), (10, 10)])
def test_no_document_is_cut(monkeypatch, cut, place):
    for reach in (1, 2, 100):
        monkeypatch.setattr(shuffle, "CHUNK", reach)
        assert whole(np.array([1, 1, 0, 0, 1, 1, 1, 1, 1, 0]), 0, cut) == place


def test_documents_too_long_to_be_split_between_them_are_cut():
    ids = np.array([1] * 999 + [0] + [1] * 999 + [0])
    parts, record, warnings = prepare.split_ids(ids, .1, 0, 0)
    assert [len(part) for part in parts] == [1800, 200] and "one is cut" in warnings[0]
    parts, record, warnings = prepare.split_ids(ids, .3, 0, 0)
    assert [len(part) for part in parts] == [1000, 1000] and not warnings
    assert [len(part) for part in prepare.split_ids(ids, 0, 0, 0)[0]] == [2000, 0]
    assert prepare.split_ids(ids, .25, .25, 0)[1]["test"] == 500  # three parts, two documents


def test_a_text_that_nothing_parts_is_told_so(tmp_path):
    for text, kind in (("one line", "lines"), ("two\nlines\n", "blank")):
        (tmp_path / "it").write_text(text)
        assert read([str(tmp_path / "it")], documents=kind, shuffle=True).notes == (
            f"warning: --documents {kind} finds one document in this text: all of it",)


# Runs

@pytest.mark.parametrize("seed", [0, 1])
def test_other_orders_of_a_list_give_the_same_loss_and_seeds_share_a_validation_part(train, seed):
    for name in ORDERS:
        result = train(f"{name}.txt", *LINES, *STEPS, "--seed", seed, "-o", name)
        assert "256 documents, shuffled by a key that is always the same (--no-shuffle keeps their order)\n" in result.err
    assert losses("sorted") == losses("reversed") == losses("mixed")
    assert len({card(name)["corpus"]["sha256"] for name in ORDERS}) == 3  # of the text as it is read
    assert card("sorted")["split"] | {"asked": 0} == {"train": 1150, "validation": 130, "test": 0, "asked": 0}


def test_without_shuffling_it_is_the_end_of_the_alphabet(train):
    assert train("sorted.txt", *LINES, *STEPS, "--no-shuffle", "-o", "old").code == 0
    assert train("sorted.txt", *LINES, *STEPS, "-o", "new").code == 0
    assert losses("old") != losses("new")
    assert card("old")["corpus"]["shuffle"] is False and card("new")["corpus"]["shuffle"] is True


def test_a_resumed_run_keeps_the_shuffled_order(train, capsys):
    assert train("sorted.txt", *LINES, *STEPS, "-o", "whole").code == 0
    assert "documents shuffled\n" in call(capsys, "info", "whole").out
    assert train("sorted.txt", *LINES, *STEPS[:-1], 3, "-o", "halves").code == 0
    assert train("--resume", "-o", "halves", "--steps", 6).code == 0
    assert train("--resume", "-o", "halves", "--steps", 6, *LINES, "sorted.txt").code == 0
    one, other = (checkpoint.read(Path(name) / "last.safetensors") for name in ("whole", "halves"))
    assert one[0]["card"]["split"] == other[0]["card"]["split"]
    assert train("--resume", "-o", "halves", "--steps", 7).code == 0
    assert refused(train("--resume", "-o", "halves", "--no-shuffle"), 2) == (
        "Error: --no-shuffle True conflicts with halves, which has False: leave it out, or start a new run")
    assert train("sorted.txt", *LINES, *STEPS, "--no-shuffle", "-o", "old").code == 0
    assert train("--resume", "-o", "old", "--no-shuffle", "--steps", 8).code == 0
    assert "0 test, in order\n" in call(capsys, "info", "old").out


def test_runs_of_before_keep_their_order(train, capsys):
    """Their settings have no such field; the split of shuffled documents would be another one."""
    assert train("sorted.txt", *LINES, *STEPS, "--no-shuffle", "-o", "it").code == 0
    path = Path("it/last.safetensors")
    document, tensors = checkpoint.read(path)
    for about in (document["training"]["settings"]["corpus"], document["card"]["corpus"]):
        for name in "shuffle", "encoding_errors":
            del about[name]
    extra = {name: tensors[name] for name in tensors if name.startswith(("optimizer.", "state."))}
    checkpoint.save(checkpoint.to_model(document, tensors, "cpu"), path, document["card"], extra, document["training"])
    result = train("--resume", "-o", "it", "--steps", 9)
    assert result.code == 0 and "shuffled" not in result.err and "shuffle" not in card("it")["corpus"]
    assert json.loads(call(capsys, "score", "it", "mixed.txt", "--json").out)["predictions"] == 256 * 5 - 1


@pytest.mark.parametrize("options, words", [
    ((), "--no-shuffle goes with --documents"), (("--documents", "none"), "--no-shuffle goes with --documents"),
    (("--level", "byte"), "--no-shuffle goes with --documents")])
def test_a_continuous_text_has_no_documents_to_keep_in_order(train, options, words):
    assert words in refused(train("sorted.txt", "--no-shuffle", *options), 2) and not Path("runs").exists()


def test_the_report_and_the_floor_of_score_read_the_same_parts(train, capsys):
    """The validation part is not of the training text, so counting is a measure on it; the training part is."""
    assert train("sorted.txt", *LINES, *STEPS, "--seed", 3, "-o", "it").code == 0
    documents = read(["sorted.txt"], documents="lines", shuffle=True).text.split(END)[:-1]
    number = card("it")["split"]["train"] // 5
    for name, part in (("seen", documents[:number]), ("unseen", documents[number:])):
        corpus(Path(), "".join(f"{one}\n" for one in part), name)
    floor = {name: json.loads(call(capsys, "score", "it", name, "--json").out)["floor"]
             for name in ("seen", "unseen", "sorted.txt", "mixed.txt")}
    assert floor["unseen"]["characters"] == number * 5
    assert floor["seen"] is floor["sorted.txt"] is floor["mixed.txt"] is None
    from rnncore.report.story import validation
    document, tensors = checkpoint.read(Path("it/last.safetensors"))
    model = checkpoint.to_model(document, tensors, "cpu")
    assert model.vocab.decode(validation(model, document["card"], Path("it/last.safetensors"))) == "".join(one + END for one in documents[number:])
