"""A NAME is a path that holds a model, else runs/NAME, else a pretrained model; what is taken of several is said."""
import json
import os
import warnings
from pathlib import Path

import numpy as np
import pytest
from cli_helpers import SMALL, TEXT, call, corpus, files, refused, run
from conftest import build

import rnncore
from rnncore.data import pretrained
from rnncore.data.vocab import Vocab
from rnncore.runs import checkpoint, names
from rnncore.runs.metadata import ModelFileError

LETTERS = "ab cd\n"
PLACES = {"one": ("one", "./one", "the model here"), "runs/one": ("runs/one", "runs/one", "the run"),
          "pretrained": (None, "pretrained/one", "the pretrained model")}


def model(seed: int) -> rnncore.CharLM:
    found = build(len(LETTERS), hidden=8, dtype="float32", seed=seed)
    found.vocab = Vocab.from_text(LETTERS)
    return found


def put(place: str, seed: int = 0) -> rnncore.CharLM:
    """A model in the run folder `place`."""
    Path(place).mkdir(parents=True, exist_ok=True)
    checkpoint.save(model(seed), Path(place) / "last.safetensors")
    return model(seed)


@pytest.fixture(autouse=True)
def here(monkeypatch, tmp_path):
    """An empty folder to be in; the pretrained models are `one` and `two`."""
    for folder in ("models", "here"):
        (tmp_path / folder).mkdir()
    for seed, name in ((10, "one"), (11, "two")):
        checkpoint.save(model(seed), tmp_path / "models" / f"{name}.safetensors", {"corpus": name}, half=True)
    monkeypatch.setattr(pretrained, "FOLDER", tmp_path / "models")
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "here"


def taken(name) -> tuple[str, list[str]]:
    """(what stands for the model alone, what is to be said)."""
    found = names.find(name)
    assert names.find(found.name)[:3] == found[:3] and names.stands_for(name, found.name)
    return found.name, list(map(str, found.notes))


@pytest.mark.parametrize("there", range(8))
def test_the_first_of_three_places_is_taken_and_the_others_are_named(there):
    """`here`, `run` and `pretrained` hold a model or not, in all eight ways."""
    kinds = [kind for bit, kind in enumerate(PLACES) if there >> bit & 1]
    if "pretrained" not in kinds:
        (pretrained.FOLDER / "one.safetensors").unlink()
    for seed, kind in enumerate(kinds):
        if PLACES[kind][0]:
            put(PLACES[kind][0], seed)
    if not kinds:
        with pytest.raises(FileNotFoundError, match="^one: no such model file or run folder, nor one of the pretrained models .two.$"):
            names.find("one")
        return
    first, *others = (PLACES[kind][1:] for kind in kinds)
    said = [f"one: taking {first[1]}, {first[0]}; write {', '.join(f'{name} for {kind}' for name, kind in others)}"] if others else []
    assert taken("one") == (first[0], said)
    for kind in kinds:  # each has a name of its own, which says nothing
        assert taken(PLACES[kind][1]) == (PLACES[kind][1], [])


@pytest.mark.parametrize("make", [
    lambda: os.mkdir("one"), lambda: Path("one").write_text("a text"), lambda: Path("one").touch(), lambda: os.mkfifo("one"),
    lambda: Path("one").symlink_to("nowhere"), lambda: (os.mkdir("one"), Path("one/a.txt").write_text("a text")),
    lambda: Path("one").write_bytes(b"PK\3\4 an archive"), lambda: Path("one").write_bytes(b"\x80\4 a pickle, and more"),
    lambda: (os.mkdir("one"), checkpoint.save(model(0), "one/step-000010.safetensors"))])
@pytest.mark.parametrize("hidden", ["runs/one", "pretrained"])
def test_what_holds_no_model_hides_none(make, hidden):
    make()
    if hidden == "runs/one":
        put("runs/one")
    assert taken("one")[0] == PLACES[hidden][1]


def test_a_model_that_is_damaged_is_one_all_the_same(capsys):
    put("runs/one")
    data = Path("runs/one/last.safetensors").read_bytes()
    Path("one").write_bytes(data[:-9])
    assert taken("one")[0] == "./one"
    assert "one is not a whole model file" in call(capsys, "info", "one").err


def test_a_run_without_a_model_yet_is_told_of():
    Path("runs/one").mkdir(parents=True)
    assert taken("one") == ("pretrained/one", ["one: taking the pretrained model, for runs/one holds no model yet"])


def test_one_model_under_two_names_is_one():
    put("runs/one")
    Path("one").symlink_to("runs/one")
    (pretrained.FOLDER / "one.safetensors").unlink()
    assert taken("one") == ("./one", [])


@pytest.mark.parametrize("name, words", [
    ("./one", "./one: no such model file or run folder"), ("runs/one", "runs/one: no such model file or run folder"),
    ("none/", "none/: no such model file or run folder"), ("pretrained/three", "no such model; the pretrained ones are one, two"),
    ("empty", "empty holds no model yet (best.safetensors or last.safetensors); there is no model in runs/empty, and none of the "
              "pretrained ones is called so (one, two): train one with -o empty"),
    ("./empty", "./empty holds no model yet"), (".", ". holds no model yet"), ("..", ".. holds no model yet"),
    ("busy", "runs/busy holds no model yet (best.safetensors or last.safetensors), and busy is no other model: wait for its first "
             "save, or train one with -o runs/busy"),
    ("text", "text is a text, not a model: a model goes before a text, as in `rnncore score RUN text`"), ("short", "there is no model in runs/short, and none of the"),
    ("link", "link is not a whole model file; there is no model in runs/link"), ("b" * 300, "File name too long")])
def test_what_was_found_and_what_was_looked_for_is_said_in_one_line(name, words, capsys):
    for folder in ("empty", "runs/busy"):
        Path(folder).mkdir(parents=True)
    Path("text").write_text("a text of a few words")
    Path("short").write_bytes(b"\0\1")
    Path("link").symlink_to("nowhere")
    before = files(Path())
    for command in (("generate",), ("info",), ("info", "--verify"), ("report",)):
        assert words in refused(call(capsys, *command, name))
    for command in ("score", "neurons"):
        assert words in refused(call(capsys, command, name, "text"))
    assert words in refused(call(capsys, "train", "text", "--init-from", name))
    assert files(Path()) == before
    with pytest.raises((OSError, ModelFileError)):
        rnncore.load(name)


@pytest.mark.parametrize("args", [("generate", ""), ("info", ""), ("report", ""), ("score", "", "text"),
                                  ("neurons", "", "text"), ("train", "text", "--init-from", "")])
def test_an_empty_name_is_not_the_newest_run(args, capsys):
    put("runs/newest")
    Path("text").write_text("a text of a few words")
    before = files(Path())
    assert "'' is empty" in refused(call(capsys, *args), 2) and files(Path()) == before
    with pytest.raises(FileNotFoundError, match="is empty"):
        rnncore.load("")


@pytest.mark.parametrize("name", ["runs", "./runs", "runs/"])
def test_of_a_folder_of_runs_one_is_named(name, capsys):
    put("runs/newest")
    assert "name one of the runs in it, as runs/newest" in refused(call(capsys, "info", name))


def test_what_cannot_be_read_hides_nothing(monkeypatch):
    put("runs/one")
    Path("one").write_text("mine")

    def guarded(path, *args, opened=open, **settings):
        if str(path) == "one":
            raise PermissionError(13, "Permission denied", "one")
        return opened(path, *args, **settings)

    monkeypatch.setattr("builtins.open", guarded)
    assert names.find("one").name == "runs/one"


def test_pretrained_models_keep_a_folder_of_theirs():
    """pretrained/NAME is the pretrained model; another name there is a path like others."""
    for name in ("one", "mine"):
        put(f"pretrained/{name}")
    assert taken("pretrained/one") == (
        "pretrained/one", ["pretrained/one: taking the pretrained model; write ./pretrained/one for the model here"])
    assert names.find("pretrained/one").file == pretrained.find("one")
    assert names.find("./pretrained/one").folder == Path("pretrained/one")
    assert names.find("pretrained/mine").folder == Path("pretrained/mine")
    assert (names.spelled(Path("pretrained/one")), names.spelled(Path("pretrained/mine"))) == ("./pretrained/one", "pretrained/mine")


def test_a_former_name_opens_the_model_and_says_the_new_one(monkeypatch):
    monkeypatch.setattr(pretrained, "OLD", {"uno": "one"})
    said = ["the pretrained model uno is called one now, as the text that it learned"]
    assert taken("uno") == taken("pretrained/uno") == ("pretrained/one", said)
    put("runs/uno")
    assert taken("uno") == ("runs/uno", ["uno: taking the run, runs/uno; write pretrained/one for the pretrained model"])


# Every command

def test_every_command_takes_the_same_and_says_so_once(capsys):
    put("runs/one", 1)
    corpus(Path(), "abba cd\n" * 60, "text")
    for command in (("generate", "one", "-n", 9), ("info", "one"), ("info", "one", "--json"), ("info", "--verify", "one"),
                    ("score", "one", "text"), ("neurons", "one", "text"), ("report", "one"),
                    ("train", "text", "--init-from", "one", "--steps", 1, "--batch", 2, "-o", "new")):
        result = call(capsys, *command)
        assert result.code == 0 and result.err.count("one: taking the run, runs/one; write pretrained/one for") == 1, command
        assert result.err.count("taking") == 1
    assert json.loads(call(capsys, "info", "one", "--json").out)["file"] == "runs/one/last.safetensors"
    assert json.loads(call(capsys, "info", "pretrained/one", "--json").out)["card"] == {"corpus": "one"}
    assert Path("runs/one/report.html").is_file()
    assert call(capsys, "generate", "one", "-n", 30).out == call(capsys, "generate", "runs/one", "-n", 30).out != call(
        capsys, "generate", "pretrained/one", "-n", 30).out
    assert "holds no run" in refused(call(capsys, "train", "--resume", "-o", "one"))  # a place to write, not a name


def test_doctor_tries_a_run_by_its_name(monkeypatch):
    from rnncore.cli import doctor
    put("runs/medium")
    said = []
    monkeypatch.setattr(doctor, "tell", said.append)
    assert [task.hidden for task in doctor.tasks("medium")] == [256] * 3
    assert said == ["--try medium: checking the setting of that name; write runs/medium for the run"]
    assert [task.hidden for task in doctor.tasks("runs/medium")] == [8] == [task.hidden for task in doctor.tasks("one")]


def test_the_suggestions_of_a_run_mean_that_run(capsys, monkeypatch):
    corpus(Path(), TEXT, "corpus.txt")
    result = call(capsys, "train", "corpus.txt", "--steps", 2, *SMALL, "-o", "pretrained/one")
    assert "rnncore generate ./pretrained/one -n 400" in result.err


def test_after_train_the_run_of_that_name_writes(tmp_path):
    """As a user types it: the pretrained models are those of the package."""
    corpus(tmp_path, TEXT, "corpus.txt")
    assert run("train", "corpus.txt", "--steps", 2, *SMALL, "--name", "hugo", cwd=tmp_path).code == 0
    line = "hugo: taking the run, runs/hugo; write pretrained/hugo for the pretrained model\n"
    for name, said in (("hugo", line), ("runs/hugo", ""), ("pretrained/hugo", "")):
        result = run("generate", name, "-n", 9, cwd=tmp_path)
        assert (result.code, result.err) == (0, said), result
    old = run("generate", "shakespeare", "-n", 9, cwd=tmp_path)
    assert old.err == "the pretrained model shakespeare is called tinyshakespeare now, as the text that it learned\n"
    assert old.out == run("generate", "tinyshakespeare", "-n", 9, cwd=tmp_path).out


# From Python

def test_the_library_warns_and_prints_nothing(capsys, monkeypatch):
    monkeypatch.setattr(pretrained, "OLD", {"uno": "one"})
    mine = put("runs/one", 1)
    for name in ("one", Path("one")):
        with pytest.warns(names.Ambiguous, match="^one: taking the run, runs/one; write pretrained/one") as caught:
            loaded = rnncore.load(name, "cpu")
        assert len(caught) == 1 and caught[0].filename == __file__ and np.array_equal(loaded.params.flat, mine.params.flat)
    with pytest.warns(names.Renamed):
        assert not np.array_equal(rnncore.load("uno", "cpu").params.flat, mine.params.flat)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for name in ("pretrained/one", "runs/one", "two", Path("runs/one/last.safetensors"), os.path.abspath("runs/one")):
            rnncore.load(name, "cpu")
    assert capsys.readouterr() == ("", "")


# What a run begins from

def test_what_a_run_began_from_is_kept_and_its_resume_means_the_same(capsys):
    corpus(Path(), "abba cd\n" * 60, "text")
    args = ("text", "--init-from", "one", "--batch", 2, "--steps")
    assert call(capsys, "train", *args, 2, "-o", "new").err.count("taking") == 0
    card = checkpoint.read(Path("new/last.safetensors"))[0]["card"]
    assert (card["init_from"], card["origin"]) == ("one", "pretrained/one")
    assert "begun from  one (pretrained/one)" in call(capsys, "info", "new").out
    put("runs/one")  # now `one` is another model; the run's is as it was
    result = call(capsys, "train", *args, 3, "-o", "new", "--resume")
    assert result.code == 0 and "taking" not in result.err
    same = ("--resume", "-o", "new", "--steps", 4, "--init-from")
    assert call(capsys, "train", *same, "pretrained/one").code == 0
    for name in ("runs/one", "./one", "nowhere", "two"):
        assert f"--init-from {name} conflicts with new, which has one" in refused(call(capsys, "train", *same, name), 2)
    assert checkpoint.read(Path("new/last.safetensors"))[0]["card"]["origin"] == "pretrained/one"


def test_a_run_of_before_there_were_such_names_goes_on(capsys):
    corpus(Path(), "abba cd\n" * 60, "text")
    args = ("train", "text", "--init-from", "one", "--batch", 2, "-o", "new")
    assert call(capsys, *args, "--steps", 2).code == 0
    path = Path("new/last.safetensors")
    document, tensors = checkpoint.read(path)
    del document["training"]["settings"]["origin"], document["card"]["origin"]
    kept = checkpoint.to_model(document, tensors, "cpu", None)
    extra = {name: tensors[name] for name in tensors if name.startswith(("optimizer.", "state."))}
    checkpoint.save(kept, path, document["card"], extra, document["training"])
    put("runs/one")
    assert call(capsys, *args, "--steps", 3, "--resume").code == 0
    assert "conflicts with new, which has one" in refused(
        call(capsys, "train", "--resume", "-o", "new", "--init-from", "pretrained/one"), 2)
