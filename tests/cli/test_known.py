"""How much of a scored text the model was trained on: by its sha256 and the split, else by pieces."""
import json

import numpy as np
import pytest
from cli_helpers import SMALL, TEXT, call, corpus, run

from rnncore.cli import known
from rnncore.cli.known import KNOWN
from rnncore.data import spool
from rnncore.data.text import read

OTHER = " ".join(reversed(TEXT.split(" ")))[:1000]
TWEETS = "".join(json.dumps({"text": line}) + "\n" for line in TEXT.splitlines())
PASS = ("--epochs", 1, "--lr", 0.01, "--batch", 4)


@pytest.fixture
def score(tmp_path, capsys, monkeypatch):
    """`rnncore score run TEXT ARGS` in tmp_path after `train`, its (third line or None, what --json says of it)."""
    monkeypatch.chdir(tmp_path)

    def train(*args, name="mine.txt", text=TEXT):
        corpus(tmp_path, text, name)
        assert call(capsys, "train", name, *SMALL, *PASS, *args, "-o", "run").code == 0

        def command(*args):
            found, told = call(capsys, "score", "run", *args, "--json"), call(capsys, "score", "run", *args)
            assert found.code == told.code == 0, (found, told)
            lines = [line for line in told.out.splitlines()[2:] if not line.startswith("n-gram baseline: ")]
            return (lines[0] if lines else None), json.loads(found.out)
        return command
    return train


@pytest.mark.parametrize("args, line, share", [
    (("--val", 0.3, "--test", 0.1), "60% of this text was trained on", 0.6),
    (("--val", 0), "all of this text was trained on", 1), (("--level", "byte"), "90% of this text was trained on", 0.9),
    (("--lower", "--min-count", 20), "90% of this text was trained on", 0.9)])
def test_the_share_of_the_training_text_is_said(score, args, line, share):
    command = score(*args)
    more = ("--on-unknown", "replace") if "--min-count" in args else ()
    for protocol in ((), ("--window", 20), ("--dynamic",)):
        told, figures = command("mine.txt", *more, *protocol)
        assert told == line and figures["floor"] is None and figures["no_floor"] == KNOWN
        assert figures["trained_on"] == {"share": pytest.approx(share, abs=1e-3), "at_most": False}


@pytest.mark.parametrize("kind, name, text", [("lines", "mine.txt", TEXT), ("jsonl", "mine.jsonl", TWEETS),
                                              ("blank", "mine.txt", TEXT.replace("\n", "\n\n"))])
def test_the_share_of_the_documents_that_were_trained_on_is_said(score, kind, name, text):
    told, figures = score("--documents", kind, name=name, text=text)(name)
    assert told == "90% of these documents were trained on"
    assert figures["trained_on"]["share"] == pytest.approx(0.9, abs=0.01)


def test_it_is_known_by_the_text_wherever_that_comes_from(score, tmp_path, monkeypatch):
    command = score()
    line = "90% of this text was trained on"
    (tmp_path / "mine.txt").rename(tmp_path / "other.txt")  # the training text is not where it was
    (tmp_path / "folder").mkdir()
    corpus(tmp_path / "folder", TEXT)
    (tmp_path / "windows.txt").write_bytes(b"\xef\xbb\xbf" + TEXT.replace("\n", "\r\n").encode())
    (tmp_path / "wide.txt").write_bytes(TEXT.encode("utf-16"))
    for args in (("other.txt",), ("folder",), ("windows.txt",), ("wide.txt", "--encoding", "utf-16"),
                 ("other*.txt",), ("other.txt", "--newline", "keep")):
        assert command(*args)[0] == line, args
    piped = run("score", "run", "-", "--json", cwd=tmp_path, stdin=TEXT.encode())
    assert json.loads(piped.out)["trained_on"] == {"share": 0.9, "at_most": False}


def test_line_ends_that_were_kept_in_training_hide_nothing(score, tmp_path, capsys):
    score()
    (tmp_path / "mine.txt").write_bytes(TEXT.replace("\n", "\r\n").encode())
    assert call(capsys, "train", "mine.txt", *SMALL, *PASS, "--newline", "keep", "-o", "kept").code == 0
    for more in ((), ("--newline", "keep")):
        assert "90% of this text was trained on" in call(capsys, "score", "kept", "mine.txt", *more).out.splitlines()


def test_of_a_text_that_has_grown_since_the_share_is_that_of_all(score, tmp_path):
    command = score()
    corpus(tmp_path, TEXT + OTHER[:810], "mine.txt")
    told, figures = command("mine.txt")
    assert told == "78% of this text was trained on"
    assert figures["trained_on"]["share"] == pytest.approx(0.9 * len(TEXT) / (len(TEXT) + 810))
    assert figures["floor"] is None


def test_other_texts_are_looked_for_as_a_whole_and_by_pieces(score, tmp_path):
    command = score()
    part = OTHER + TEXT[:1500]
    for name, text in (("excerpt.txt", TEXT[100:1100]), ("mixed.txt", part), ("other.txt", OTHER), ("a.txt", TEXT[:40]),
                       ("held-out.txt", TEXT[-500:])):
        corpus(tmp_path, text, name)
    pieces = "pieces of this text, of 100 characters at most, stand in the training text"
    told, figures = command("excerpt.txt")
    assert told == "all of this text was trained on" and figures["trained_on"] == {"share": 1, "at_most": False}
    corpus(tmp_path, TEXT[100:1099] + "☃", "nearly.txt")
    corpus(tmp_path, TEXT[100:1050] + TEXT[3000:3050], "edited.txt")
    for name, more in (("nearly.txt", ("--on-unknown", "skip")), ("edited.txt", ())):
        told, figures = command(name, *more)
        assert told == f"5 of 5 {pieces}" and figures["trained_on"] == {"pieces": 5, "of": 5}
        assert figures["floor"] is None and figures["no_floor"] == KNOWN
    told, figures = command("mixed.txt")
    assert told == f"3 of 5 {pieces}" and figures["floor"] and "no_floor" not in figures
    for name in ("other.txt", "a.txt", "held-out.txt"):  # too short to say, or not trained on
        assert command(name)[0] is None and command(name)[1]["trained_on"] is None, name
    (tmp_path / "mine.txt").unlink()
    assert command("excerpt.txt")[1]["trained_on"] is None


def test_a_file_of_a_folder_that_was_trained_on(score, tmp_path, capsys):
    (tmp_path / "folder").mkdir()
    corpus(tmp_path / "folder", TEXT[:2700], "a.txt")
    corpus(tmp_path / "folder", TEXT[2700:], "b.txt")
    assert call(capsys, "train", "folder", *SMALL, *PASS, "-o", "other").code == 0
    assert "\nall of this text was trained on\n" in call(capsys, "score", "other", "folder/a.txt").out
    assert "4 of 5 pieces" in call(capsys, "score", "other", "folder/b.txt").out  # the fifth is validated on


def test_a_first_pass_that_was_not_finished_is_no_whole_share(score):
    told, figures = score("--epochs", 0.5)("mine.txt")
    assert told == "up to 90% of this text was trained on: the first pass over the training part was not finished"
    assert figures["trained_on"] == {"share": 0.9, "at_most": True}


@pytest.mark.parametrize("share, words", [(1, "all"), (0.9999, "more than 99%"), (0.994, "more than 99%"),
                                          (0.99, "99%"), (0.5, "50%"), (0.01, "1%"), (0.0001, "less than 1%")])
def test_no_share_is_rounded_to_all_or_nothing(share, words):
    assert known.percent(share) == words


@pytest.mark.parametrize("text", ["aé☃b" * 300, "ab\n" * 300])
@pytest.mark.parametrize("level", ["char", "byte"])
def test_the_digest_of_a_beginning_is_that_of_the_shorter_text(tmp_path, monkeypatch, text, level):
    monkeypatch.setattr(spool, "CHUNK", 64)
    raw = text.encode() if level == "byte" else text
    corpus(tmp_path, text, "whole.txt")
    whole = read([str(tmp_path / "whole.txt")], level=level)
    for count in (1, 500, len(raw)):
        part = raw[:count]
        (tmp_path / "short.txt").write_bytes(part if level == "byte" else part.encode())
        assert whole.digest(count) == read([str(tmp_path / "short.txt")], distinct=1, level=level).sha256
    assert whole.digest(len(raw) + 1) is None


def test_a_card_that_contradicts_itself_gives_no_share():
    about = {"characters": 9, "sha256": "0" * 64, "newline": "lf"}
    assert known.share({"corpus": about, "split": {"train": 10}}, None, "x", {}) is None


def test_a_piece_that_begins_within_an_id_is_none():
    train = np.array([0x0102, 0x0304, 0x0506], np.uint16)
    assert known.pieces(train, np.array([0x0203], np.uint16)) == (0, 5)
    assert known.pieces(train, train) == (5, 5)
