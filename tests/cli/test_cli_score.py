"""`rnncore score` by each protocol: the figures, the file of every prediction, unknown symbols, and what it refuses."""
import json
import math
import os
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from cli_helpers import TEXT, call, corpus, files, refused, run

import rnncore
from rnncore import ModelConfig, Vocab
from rnncore.cli import score as module
from rnncore.cli.known import KNOWN
from rnncore.measure import dynamic, evaluate, ngram
from rnncore.model import CharLM

PART = TEXT[1000:1600]
PROTOCOLS = {"carried": (), "window": ("--window", 50), "dynamic": ("--dynamic", "--rate", 0.2, "--segment", 10)}
SETTINGS = {"carried": {}, "window": {"window": 50},
            "dynamic": {"rule": "sgd", "rate": 0.2, "decay": 0.001, "segment": 10}}


@pytest.fixture(scope="module")
def model():
    """A model in float64 that knows the symbols of TEXT."""
    vocab = Vocab.from_text(TEXT)
    return CharLM(ModelConfig(len(vocab), 8, 16, 1), vocab, "cpu", "float64", seed=3)


@pytest.fixture
def score(model, tmp_path, capsys, monkeypatch):
    """`rnncore score m.safetensors ARGS` in a folder with that model and part.txt."""
    monkeypatch.chdir(tmp_path)
    rnncore.save(model, "m.safetensors")
    corpus(tmp_path, PART, "part.txt")
    return lambda *args: call(capsys, "score", "m.safetensors", *args, "--device", "cpu")


def figures(result) -> dict:
    """The JSON that a command printed; a number that JSON does not know is an error."""
    assert result.code == 0 and result.err == "", result
    return json.loads(result.out, parse_constant=pytest.fail)


def rows(path) -> list[dict]:
    return [json.loads(line, parse_constant=pytest.fail) for line in path.read_text().splitlines()]


def expected(model, text: str, protocol: str) -> np.ndarray:
    ids = model.vocab.encode(text)
    settings = SETTINGS[protocol]
    return np.concatenate(list({
        "carried": lambda: evaluate.losses(model, ids), "window": lambda: evaluate.window_losses(model, ids, **settings),
        "dynamic": lambda: dynamic.losses(model, ids, dynamic.DynamicConfig(**settings))}[protocol]()))


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_figures_and_the_file_of_every_prediction(score, model, tmp_path, protocol):
    found = figures(score("part.txt", "--json", "--per-char", "out.jsonl", *PROTOCOLS[protocol]))
    nats = expected(model, PART, protocol)
    assert found == {
        "model": "m.safetensors", "text": "part.txt", "characters": 600, "predictions": 599, "unknown": 0,
        "unknown_share": 0, "on_unknown": "error", "protocol": protocol, "settings": SETTINGS[protocol],
        "nats_per_char": pytest.approx(nats.mean(), rel=1e-12), "bits_per_char": found["nats_per_char"] / math.log(2),
        "perplexity": math.exp(found["nats_per_char"]), "floor": None, "trained_on": None}
    lines = rows(tmp_path / "out.jsonl")
    assert [row["index"] for row in lines] == list(range(1, 600)) and "".join(row["char"] for row in lines) == PART[1:]
    assert [row["nats"] for row in lines] == nats.tolist()
    assert sum(row["nats"] for row in lines) / 599 == pytest.approx(found["nats_per_char"], rel=1e-12)
    assert found == figures(score("part.txt", "--json", *PROTOCOLS[protocol]))
    assert sorted(files(tmp_path)) == ["m.safetensors", "out.jsonl", "part.txt"]


def test_the_protocols_differ_and_the_carried_one_is_the_librarys(score, model):
    found = {name: figures(score("part.txt", "--json", *args))["nats_per_char"] for name, args in PROTOCOLS.items()}
    assert len(set(found.values())) == 3 and found["carried"] == rnncore.score(model, PART)


@pytest.mark.parametrize("args, words", [
    ((), "state carried over the whole text; no unknown characters"),
    (("--window", 50), "state reset every 50 characters; no unknown characters"),
    (("--dynamic",), "dynamic evaluation (rms) at rate 0.0005, decay 0.001, segments of 20 characters; no unknown characters")])
def test_the_words_say_what_the_json_says_in_two_lines(score, args, words):
    found, result = figures(score("part.txt", "--json", *args)), score("part.txt", *args)
    assert result.code == 0 and result.err == "" and result.out == (
        f"{found['nats_per_char']:.4f} nats/char   {found['bits_per_char']:.4f} bits/char   "
        f"perplexity {found['perplexity']:.3f}   over 599 predictions\n{words}\n")


def test_a_perplexity_too_large_for_a_number(score, model):
    wrong = CharLM(model.config, model.vocab, "cpu", "float64", seed=None)
    wrong.params["head.bias"][0] = 1e4
    rnncore.save(wrong, "m.safetensors")
    assert figures(score("part.txt", "--json"))["perplexity"] is None and "perplexity inf" in score("part.txt").out
    wrong.params["head.bias"][0] = 100
    rnncore.save(wrong, "m.safetensors")
    assert len(score("part.txt").out) < 200


@pytest.mark.parametrize("policy", ["skip", "replace"])
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_unknown_symbols_are_counted_and_keep_their_places(score, model, tmp_path, policy, protocol):
    text = "☃" + PART[:100] + "☃Ä" + PART[100:]
    corpus(tmp_path, text, "odd.txt")
    args = ("odd.txt", "--on-unknown", policy, *PROTOCOLS[protocol])
    found = figures(score(*args, "--json", "--per-char", "out.jsonl"))
    read = PART if policy == "skip" else " " + PART[:100] + "  " + PART[100:]
    places = [k for k, symbol in enumerate(text) if policy == "replace" or symbol in PART]
    assert (found["unknown"], found["unknown_share"], found["characters"]) == (3, 3 / 603, 603)
    assert found["predictions"] == len(read) - 1 and found["on_unknown"] == policy
    lines = rows(tmp_path / "out.jsonl")
    assert [(row["index"], row["char"]) for row in lines] == [(k, text[k]) for k in places[1:]]
    assert [row["nats"] for row in lines] == expected(model, read, protocol).tolist()
    done = "skipped" if policy == "skip" else "scored as their stand-in"
    assert score(*args).out.endswith(f"; 3 unknown characters (0.50%), {done}\n")


def test_an_unknown_symbol_is_refused_and_no_file_is_left(score, tmp_path):
    corpus(tmp_path, PART + "☃", "odd.txt")
    before = files(tmp_path)
    line = refused(score("odd.txt", "--per-char", "out.jsonl"))
    assert "'☃' (U+2603)" in line and "--on-unknown" in line and files(tmp_path) == before


def test_stdin_folders_and_notes(score, model, tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "part.txt").write_bytes(b"\xef\xbb\xbf" + PART.replace("\n", "\r\n").encode())
    nats = rnncore.score(model, PART)
    result = score("folder", "--json", "--per-char", "folder.jsonl")
    assert json.loads(result.out)["nats_per_char"] == nats
    assert "byte order mark" in result.err and "CRLF" in result.err and len(result.err.splitlines()) == 2
    piped = run("score", "m.safetensors", "-", "--json", "--per-char", "stdin.jsonl", cwd=tmp_path, stdin=PART.encode())
    assert figures(piped)["nats_per_char"] == pytest.approx(nats, rel=1e-12)
    assert [r["char"] for r in rows(tmp_path / "stdin.jsonl")] == [r["char"] for r in rows(tmp_path / "folder.jsonl")]


@pytest.mark.parametrize("args, words", [
    (("--rate", 0.1), "--rate without --dynamic"), (("--decay", 0.1, "--window", 5), "--decay without --dynamic"),
    (("--segment", 20, "--rate", 0.1), "--rate and --segment without --dynamic"), (("--window", 5, "--dynamic"), "not both"),
    (("--window", 0), "--window"), (("--window", "5.5"), "--window"), (("--dynamic", "--rate", "nan"), "rate must be"),
    (("--dynamic", "--rate", "inf"), "rate must be"), (("--dynamic", "--rate", -1), "rate must be"),
    (("--dynamic", "--decay", 2), "decay must be"), (("--dynamic", "--segment", 0), "segment must be")])
def test_usage_errors_end_with_2_and_write_no_file(score, tmp_path, args, words):
    assert words in refused(score("part.txt", "--per-char", "out.jsonl", *args), 2) and not os.path.exists("out.jsonl")


def test_a_text_without_a_prediction_is_refused(score, tmp_path):
    corpus(tmp_path, "a☃☃", "short.txt")
    assert "give at least 2" in refused(score("short.txt", "--on-unknown", "skip", "--per-char", "out.jsonl"))
    assert not os.path.exists("out.jsonl")


def test_a_file_that_is_there_is_left_alone(score, tmp_path):
    (tmp_path / "out.jsonl").write_text("mine")
    (tmp_path / "link").symlink_to("nowhere")
    before = files(tmp_path)
    for name in ("out.jsonl", "link", "."):
        assert "exists already: name another file" in refused(score("part.txt", "--per-char", name))
    assert files(tmp_path) == before and not (tmp_path / "nowhere").exists()


@pytest.mark.parametrize("place, words", [("no/out.jsonl", "no/out.jsonl: No such"), ("part.txt/out", "part.txt/out: Not a")])
def test_a_place_where_no_file_can_be(score, place, words):
    assert words in refused(score("part.txt", "--per-char", place))


def test_no_half_file_is_left_behind(score, tmp_path, monkeypatch):
    before = files(tmp_path)
    line = refused(score("part.txt", "--dynamic", "--rate", "1e308", "--per-char", "out.jsonl"), 3)
    assert "diverged" in line and "lower --rate" in line and files(tmp_path) == before

    def full(model, ids):
        yield np.ones(300)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(evaluate, "losses", full)
    assert refused(score("part.txt", "--per-char", "out.jsonl")) == "rnncore: out.jsonl: No space left on device"
    assert files(tmp_path) == before


def test_a_rate_that_does_harm_is_a_warning(score):
    result = score("part.txt", "--dynamic", "--rate", 1000)
    assert result.code == 0 and "lower --rate" in result.err and len(result.err.splitlines()) == 1


def test_a_model_whose_loss_is_no_number(score, model, tmp_path):
    wrong = CharLM(model.config, model.vocab, "cpu", "float64", seed=3)
    wrong.params["head.weight"][...] *= 1e308
    wrong.params["head.bias"][0] = 1e308
    rnncore.save(wrong, "m.safetensors")
    assert "the loss is no number" in refused(score("part.txt", "--per-char", "out.jsonl"), 3) and not os.path.exists("out.jsonl")


def test_the_file_is_written_as_the_losses_come(tmp_path):
    peaks = []
    for length in (3_000, 3_000, 30_000):
        text, parts = "ab" * (length // 2), (np.ones(k) for k in [100] * (length // 100 - 1) + [99])
        tracemalloc.start()
        module.mean(module.recorded(parts, tmp_path / f"{len(peaks)}", text, "ab", skip=False))
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[2] < peaks[1] + 20_000 and len(rows(tmp_path / "2")) == 29_999, peaks


def test_a_text_of_one_symbol_is_scored(score, tmp_path):
    corpus(tmp_path, "aaaa", "a.txt")
    found = score("a.txt", "--json")
    assert found.code == 0 and json.loads(found.out)["predictions"] == 3


def test_the_floor_is_what_counting_the_training_text_reaches(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    corpus(tmp_path, TEXT, "all.txt")
    other = " ".join(reversed(PART.split(" ")))
    corpus(tmp_path, other, "part.txt")
    assert call(capsys, "train", "all.txt", "--steps", 3, "--hidden", 8, "-o", "run").code == 0
    vocab, cut = Vocab.from_text(TEXT), int(0.9 * len(TEXT))
    floor = ngram.baseline(vocab.encode(TEXT)[:cut], vocab.encode(other), len(vocab))
    found = figures(call(capsys, "score", "run", "part.txt", "--json"))["floor"]
    assert found == {"nats_per_char": floor.nats, "order": floor.order, "counted": cut, "characters": cut}
    shown = call(capsys, "score", "run", "part.txt").out
    assert f"n-gram baseline: {floor.nats:.4f} nats/char" in shown and shown.endswith("the model is worse\n")
    corpus(tmp_path, PART, "known.txt")  # of what was counted: no measure
    for text in ("all.txt", "known.txt"):
        assert figures(call(capsys, "score", "run", text, "--json"))["floor"] is None
    corpus(tmp_path, TEXT + "!", "all.txt")
    assert "baseline: " not in call(capsys, "score", "run", "part.txt").out
    os.remove("all.txt")
    assert figures(call(capsys, "score", "run", "part.txt", "--json"))["floor"] is None


@pytest.mark.parametrize("card", [{"corpus": "mine", "split": "x", "train": 1}, {"corpus": {"name": "x"}, "split": {}, "train": {}}])
def test_a_card_of_another_kind_is_no_harm(score, model, card, capsys):
    rnncore.save(model, "m.safetensors", card)
    assert figures(score("part.txt", "--json"))["floor"] is None
    assert call(capsys, "info", "m.safetensors").code == 0


@pytest.fixture
def mixing(tmp_path, capsys, monkeypatch):
    """`rnncore score run TEXT --mix ARGS` where run was trained on all.txt and part.txt is another text."""
    monkeypatch.chdir(tmp_path)
    corpus(tmp_path, TEXT, "all.txt")
    corpus(tmp_path, " ".join(reversed(PART.split(" "))), "part.txt")
    assert call(capsys, "train", "all.txt", "--steps", 3, "--hidden", 8, "-o", "run").code == 0
    return lambda text, *args: call(capsys, "score", "run", text, "--mix", *args)


@pytest.mark.parametrize("protocol", [(), ("--window", 50), ("--dynamic",)])
def test_mixing_with_counted_n_grams(mixing, capsys, protocol):
    alone = figures(call(capsys, "score", "run", "part.txt", "--json", "--per-char", "alone.jsonl", *protocol))
    found = figures(mixing("part.txt", "--json", "--per-char", "mixed.jsonl", "--mix-weight", 0.4, *protocol))
    vocab, cut = Vocab.from_text(TEXT), int(0.9 * len(TEXT))
    p = ngram.predicted(vocab.encode(TEXT)[:cut], vocab.encode(Path("part.txt").read_text()), len(vocab), 8)[1:]
    model, mixed = (np.array([row["nats"] for row in rows(Path(name))]) for name in ("alone.jsonl", "mixed.jsonl"))
    assert mixed == pytest.approx(-np.log(0.6 * np.exp(-model) + 0.4 * p)) and "mix" not in alone
    assert found["nats_per_char"] == pytest.approx(mixed.mean()) and mixed.mean() < alone["nats_per_char"]
    assert found["mix"] == {"weight": 0.4, "order": 8, "counted": cut,
                            "model_nats_per_char": pytest.approx(alone["nats_per_char"])}
    told = mixing("part.txt", *protocol).out.splitlines()
    assert told[2] == (f"mixed with n-grams after 8 characters of context at weight 0.15; the model alone: {alone['nats_per_char']:.4f} "
                       "nats/char")


@pytest.mark.parametrize("text, change, reason", [
    ("all.txt", None, KNOWN), ("known.txt", None, KNOWN), ("part.txt", os.remove, "the training text is not read: "),
    ("part.txt", lambda path: Path(path).write_text(TEXT + "!"), "the training text is not read: ")])
def test_mixing_is_refused_where_nothing_can_be_counted(mixing, tmp_path, text, change, reason):
    corpus(tmp_path, PART, "known.txt")
    if change:
        change("all.txt")
    line = refused(mixing(text, "--per-char", "out.jsonl"), 1)
    assert "--mix counts n-grams in the model's training text, but" in line and reason in line
    assert not Path("out.jsonl").exists()


def test_mixing_is_refused_for_a_text_of_which_a_part_was_learned(mixing, tmp_path):
    corpus(tmp_path, TEXT[:3000] + " ".join(reversed(TEXT[3000:4000].split(" "))), "both.txt")
    line = refused(mixing("both.txt"), 1)
    assert "of 5 pieces of this text" in line and line.endswith("score another text, or leave --mix out")


def test_mixing_is_refused_for_a_model_that_was_not_trained_here(score):
    assert "`rnncore train` did not train this model" in refused(score("part.txt", "--mix"), 1)


@pytest.mark.parametrize("args, words", [
    (("--mix-weight", 0.1), "--mix-weight without --mix"), (("--mix", "--mix-weight", 1), "at least 0 and below 1"),
    (("--mix", "--mix-weight", "nan"), "--mix-weight must be"), (("--mix", "--mix-weight", -0.5), "--mix-weight must be")])
def test_a_weight_that_is_refused(score, args, words):
    assert words in refused(score("part.txt", *args), 2)
