"""`rnncore train --resume` on a damaged last.safetensors: one line, exit 1, and nothing in the run folder is touched."""

import dataclasses
import json
import shutil

import numpy as np
import pytest
from cli_helpers import call, files, finished_run, read_last, refused
from damage import changed, in_bytes, in_header, in_tensors, in_text, instead, sealed

from rnncore.runs import metadata

LAST = "run/last.safetensors"
FREE = {  # fields of which some of damage.WRONG is a value as good as the one that stood there
    ("config", "patience"),
    ("config", "eval_every"),
    ("config", "clip"),
    ("config", "lr"),
    ("config", "eps"),
    ("config", "beta2"),
    ("progress", "seconds"),
    ("progress", "training_seconds"),
    ("progress", "stale"),
    ("progress", "best"),
    ("settings", "corpus", "shuffle"),          # without it nothing is shuffled, as before there was such a field
    ("settings", "corpus", "encoding_errors"),  # without it they are strict
    ("progress", "best", 0),
    ("progress", "val_windows"),
    ("progress", "final_loss"),
    ("settings", "preset"),
    ("settings", "init_from"),
    ("settings", "origin"),
    ("settings", "extend_vocab"),
    ("settings", "floor"),
    ("settings", "precision"),
    ("settings", "corpus", "name"),
    ("settings", "asked"),
    ("settings", "changes"),
    ("settings", "files"),                 # without it the text is found by its name
    ("settings", "corpus", "sources", 0),  # the text is found where it was, by its path
    *(("settings", "corpus", name) for name in ("level", "lower", "documents", "field")),
}


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A folder with corpus.txt and a run of 4 steps that is finished."""
    return finished_run(tmp_path_factory.mktemp("home"))


@pytest.fixture
def resume(home, tmp_path, monkeypatch, capsys):
    """`rnncore train --resume -o run` in a copy of that folder with these bytes in last.safetensors."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(home, tmp_path, dirs_exist_ok=True)

    def command(data: bytes, *args):
        (tmp_path / LAST).write_bytes(data)
        before = files(tmp_path)
        result = call(capsys, "train", "--resume", "-o", "run", *args)
        if result.code:
            assert files(tmp_path) == before
        return result

    return command


@pytest.fixture(scope="module")
def good(home):
    """(bytes, document, tensors) of the file."""
    return (home / LAST).read_bytes(), *read_last(home / "run")


def test_resume_of_a_last_file_with_other_bytes_or_another_header_is_refused(good, resume):
    rng = np.random.default_rng(0)
    for count in range(150):
        data = (in_bytes if count % 3 else in_header)(good[0], rng)
        result = resume(data)
        if result.code == 0:  # the letters of a \u escape
            assert "run is finished" in result.err
        else:
            assert LAST in refused(result)


def test_resume_with_a_training_text_that_is_wrong_is_refused_though_the_sha256_is_right(good, resume):
    rng, passed = np.random.default_rng(1), []
    for _ in range(120):
        path, data = in_text(*good[1:], rng, ("training",))
        result = resume(data)
        if result.code == 0:
            assert result.err.count("\n") == 4 and "run is finished" in result.err
            passed.append(path[1:])
        elif path[1:] == ("settings", "corpus", "sources", 0):  # a name, of a file that cannot be there or is not
            assert refused(result, result.code)
        else:
            line = refused(result)
            assert LAST in line and ("training" in line or path == ("training",)), (path, line)
    near = [path for path in passed if path in FREE or path[:2] in (
        ("settings", "floor"), ("settings", "asked"), ("settings", "saving"), ("progress", "recovery"),
        ("progress", "course"))]
    allowed = near + [path for path in passed if path[0] == "config" and len(path) == 2 and path not in near]
    assert sorted(passed) == sorted(allowed) and len(passed) < 30, set(passed) - set(allowed)


def test_resume_with_wrong_tensors_is_refused_though_the_sha256_is_right(good, resume):
    rng = np.random.default_rng(2)
    for _ in range(100):
        data = in_tensors(*good[1:], rng)
        result = resume(data)
        if b"state.good" in data:
            assert LAST in refused(result)
        else:  # as in a run from before there was recovery
            assert result.code == 0 and "run is finished" in result.err


@pytest.mark.parametrize(
    "path, value, words",
    [
        (("config", "batch"), 9, "training.config.batch is 9, but state.h has 8 columns"),
        (("config", "seq"), 1, "training.progress.chars is more"),
        (("config", "optimizer"), "sgd", "optimizer must be one of"),
        (("config", "dropout"), 1.5, "dropout must be"),
        (("config", "steps"), None, "no lr or no budget"),
        (("config", "epochs"), 2.0, "one of steps"),
        (("config", "more"), 1, "training.config.more is not expected"),
        (("progress", "step"), 0, "training.progress.step is 0"),
        (("progress", "step"), 1, "training.progress.chars is more"),
        (("progress", "best"), [1.5, 99], "training.progress.best is of a later step"),
        (("progress", "best"), [float("nan"), 1], "training.progress.best"),
        (("progress", "seconds"), -1.0, "progress.seconds"),
        (("settings", "corpus", "encoding"), "base64", "settings.corpus: unknown encoding"),
        (("settings", "corpus", "newline"), "cr", "settings.corpus.newline"),
        (("settings", "corpus", "sources"), [], "settings.corpus.sources"),
        (("settings", "corpus", "sources"), ["a\0b"], "settings.corpus.sources"),
        (("settings", "files", "of"), [None, None], "settings.files.of is of 2 sources, but training.settings.corpus"),
        (("settings", "files", "of"), [], "settings.files.of is of 0 sources, but training.settings.corpus"),
        (("settings", "files", "of"), None, "settings.files.of"),
        (("settings", "files", "of"), [[["corpus.txt", 1500]]], "settings.files.of"),
        (("settings", "files", "of"), [[["/a\0b", 1500]]], "settings.files.of"),
        (("settings", "files", "of"), [[["/a", -1]]], "settings.files.of"),
        (("settings", "files", "of"), [[["/a", 2 ** 63]]], "settings.files.of"),
        (("settings", "files", "of"), [[["/a", 1.0]]], "settings.files.of"),
        (("settings", "files", "of"), [[["/a"]]], "settings.files.of"),
        (("settings", "files", "of"), [["/a"]], "settings.files.of"),
        (("settings", "files", "below"), "there", "settings.files.below"),
        (("settings", "files"), [], "settings.files"),
        (("settings", "changes"), [{"lr": [1.0, 2.0]}], "settings.changes"),
        (("settings", "changes"), [{"step": 4, "lr": [1.0]}], "settings.changes"),
        (("settings", "saving", "report"), 1, "settings.saving.report"),
        (("progress", "course"), {"first": -1.0, "recent": None, "weight": 0.0}, "progress.course.first"),
        (("progress", "course", "weight"), None, "progress.course.weight"),
        (("progress", "course", "more"), 1, "progress.course.more is not expected"),
        (("settings", "split", "asked", "val"), 1.5, "settings.split.asked.val"),
        (("settings", "split", "asked", "val"), 0.3, "settings.split.train is 1,350, but the corpus splits into 1,050"),
        (("settings", "split", "train"), 99, "settings.split.train is 99"),
    ],
)
def test_each_field_of_the_training_text_is_named(good, resume, path, value, words):
    _, document, tensors = good
    line = refused(resume(sealed(changed(document, ("training", *path), value), tensors), "--steps", 8))
    assert words in line and LAST in line


def test_a_training_text_without_optional_fields_is_that_of_an_older_version(good, resume):
    """It goes on; what was not known then has its default."""
    _, document, tensors = good
    for path in (
        ("config", "variational"),
        ("config", "patience"),
        ("progress", "stale"),
        ("progress", "course"),
        ("settings", "preset"),
        ("settings", "init_from"),
        ("settings", "extend_vocab"),
        ("settings", "floor"),
        ("settings", "precision"),
        ("settings", "files"),
    ):
        document = changed(document, ("training", *path))
    assert resume(sealed(document, tensors), "--steps", 5).code == 0


@pytest.mark.parametrize("kind", ["empty", "text", "pickle", "npz"])
def test_resume_with_another_file_in_place_of_last_is_refused(resume, tmp_path, kind):
    (tmp_path / LAST).unlink()
    instead(tmp_path / LAST, kind)
    assert LAST in refused(resume((tmp_path / LAST).read_bytes()))


def test_every_field_that_a_run_writes_is_checked(good):
    """A field that is new in a run's text wants a line in metadata.TRAINING, a fault of it would be a traceback."""
    training = json.loads(json.dumps(good[1]["training"]))
    assert metadata.fault(training, metadata.TRAINING, "training") is None

    def unknown(value, spec, name):
        spec = spec.spec if isinstance(spec, metadata.Maybe) else spec
        if isinstance(spec, metadata.Made):
            spec = (spec.beside or {}) | {field.name: spec for field in dataclasses.fields(spec.kind)}
        if isinstance(spec, dict) and spec and isinstance(value, dict):
            known = {key.rstrip("?") for key in spec}
            for key, inner in value.items():
                if key not in known:
                    yield f"{name}.{key}"
                else:
                    yield from unknown(inner, spec.get(key, spec.get(f"{key}?")), f"{name}.{key}")

    assert list(unknown(training, metadata.TRAINING, "training")) == []
