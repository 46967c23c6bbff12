"""`train --tensorboard`: what TensorBoard's own reader reads is what metrics.jsonl and samples.txt hold, each step once."""
import json
import resource
import sys
from pathlib import Path

import pytest
from cli_helpers import SMALL, TEXT, call, corpus, read_last, refused, rows

from rnncore.runs import tensorboard
from rnncore.runs import checkpoint
from rnncore.runs.files import append

for needed in ("tensorboardX", "tensorboard"):
    pytest.importorskip(needed, reason=f"{needed} writes or reads event files: pip install tensorboardX tensorboard")
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.backend.event_processing.event_file_loader import RawEventFileLoader

RUN = Path("run")
CURE = "install --upgrade 'tensorboardX>=2.6.2.2'`"


@pytest.fixture
def train(capsys, tmp_path, monkeypatch):
    """`rnncore train corpus.txt ARGS -o run`, in a folder of its own."""
    monkeypatch.chdir(tmp_path)
    corpus(tmp_path, TEXT)
    return lambda *args: call(capsys, "train", "corpus.txt", *SMALL, *args, "-o", "run")


def read(folder=RUN) -> EventAccumulator:
    found = EventAccumulator(str(folder / "tensorboard"), {"scalars": 0, "tensors": 0})
    found.Reload()
    return found


def texts(found: EventAccumulator, tag: str) -> list[tuple[int, str]]:
    return [(event.step, event.tensor_proto.string_val[0].decode()) for event in found.Tensors(f"{tag}/text_summary")]


def assert_mirrored() -> EventAccumulator:
    """The events are those of the files: values as float32 has them, times apart as the seconds are."""
    found, logged = read(), rows(RUN)
    for name, tag in tensorboard.SCALARS.items():
        wanted = [(row["step"], pytest.approx(row[name], rel=1e-6)) for row in logged if row[name] is not None]
        assert [(event.step, event.value) for event in found.Scalars(tag)] == wanted and wanted, tag
    times = [event.wall_time for event in found.Scalars("loss/train")]
    assert [t - times[0] for t in times] == pytest.approx([row["seconds"] - logged[0]["seconds"] for row in logged], abs=1e-5)
    with open("run/samples.txt") as file:
        written = "".join(f"--- step {step}\n" + "".join(f"{line[4:]}\n" for line in text.splitlines())
                          for step, text in texts(found, "sample"))
        assert written == file.read() != ""
    return found


def test_the_events_of_a_run(train):
    assert train("--steps", 30, "--tensorboard", "--sample-every", 10, "--seed", 4).code == 0
    found = assert_mirrored()
    floor = checkpoint.read(Path("run/best.safetensors"))[0]["card"]["floor"]["nats"]
    assert [(e.step, e.value) for e in found.Scalars("loss/counting")] == [
        (e.step, pytest.approx(floor)) for e in found.Scalars("loss/validation")]
    (step, settings), = texts(found, "settings")
    assert step == 0 and {"|corpus|corpus|", "|seed|4|", "|hidden|16|", "|steps|30|"} <= set(settings.splitlines())


@pytest.mark.parametrize("first", ["--tensorboard", "--no-tensorboard"])
def test_a_run_that_goes_on_has_each_step_once(train, first):
    """After rows and samples past the last save, as a killed run leaves them; also those from before it was asked for."""
    assert train("--steps", 20, first).code == 0
    before = rows(RUN)
    with open("run/metrics.jsonl", "a") as file:
        file.write(json.dumps(before[-1] | {"step": 23}) + '\n{"step": 2')
    assert train("--resume", "--steps", 30, "--tensorboard").code == 0
    found = assert_mirrored()
    steps = [event.step for event in found.Scalars("loss/train")]
    assert steps[:len(before)] == [row["step"] for row in before] and steps[-1] == 30 and len(set(steps)) == len(steps)
    assert read_last(RUN)[0]["training"]["settings"]["saving"]["tensorboard"]


def test_rows_that_others_wrote_end_no_run(train):
    assert train("--steps", 10).code == 0
    (RUN / "metrics.jsonl").write_text('{"step": 1}\n{"step": 2, "loss": "x", "lr": 0.5}\n'
                                       '{"step": 3, "seconds": null}\n{"step": true, "lr": 1}\n'
                                       '{"step": -99999999999999999999, "lr": 1}\n')
    assert train("--resume", "--steps", 20, "--tensorboard").code == 0
    found = read()
    assert [event.step for event in found.Scalars("learning_rate")][:2] == [2, 11]
    assert [event.step for event in found.Scalars("loss/train")][0] == 11


def test_a_resumed_run_writes_events_until_no_tensorboard_is_given(train):
    assert train("--steps", 10, "--tensorboard").code == 0
    assert train("--resume", "--steps", 20).code == 0
    (file,) = (RUN / "tensorboard").iterdir()
    held = file.read_bytes()
    assert_mirrored()
    assert train("--resume", "--steps", 30, "--no-tensorboard").code == 0 and file.read_bytes() == held
    assert train("--resume", "--steps", 40).code == 0 and file.read_bytes() == held


@pytest.mark.parametrize("failing", [1, 4, 10 ** 9])
def test_a_disk_that_is_full_for_some_events_costs_a_warning(train, monkeypatch, failing):
    """Of the first so many attempts; the events are all there once it is not full any more."""
    assert train("--steps", 10, "--tensorboard").code == 0
    (old,) = (RUN / "tensorboard").iterdir()
    left = [failing]

    def full(path, data):
        left[0] -= 1
        if left[0] >= 0:
            raise OSError(28, "No space left on device")
        append(path, data)

    monkeypatch.setattr(tensorboard, "append", full)
    result = train("--resume", "--steps", 30)
    assert result.code == 0 and result.err.count("run cannot be written (No space left on device)") == 1, result.err
    assert old.exists() == (failing > 100)  # nothing goes before what replaces it is there
    if failing < 100:
        assert_mirrored()


@pytest.fixture
def limited(monkeypatch):
    """No file of this process may grow past 24 kB; compiled modules, which would be cut off, are not written."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    resource.setrlimit(resource.RLIMIT_FSIZE, (24_000, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_record_that_does_not_fit_leaves_whole_ones(train, limited):
    """The model fits and so do the metrics, not all the events."""
    result = train("--steps", 60, "--hidden", 8, "--eval-every", 1, "--tensorboard")
    assert result.code == 0 and result.err.count("run cannot be written (File too large)") == 1, result
    found = read()
    steps = [event.step for event in found.Scalars("characters_per_second")]
    assert 10 < len(steps) < 60 == len(rows(RUN)) and steps == list(range(1, len(steps) + 1))
    (file,) = (RUN / "tensorboard").iterdir()
    assert len(list(RawEventFileLoader(str(file)).Load())) == 4 + len(texts(found, "sample")) + 6 * len(steps)


def test_a_file_that_cannot_be_read_for_once_loses_nothing(train, monkeypatch):
    """The samples, after the head of the file and the rows have been read."""
    lines, failing = tensorboard.Events._lines, [True]

    def unreadable(self, name):
        if name == "samples.txt" and failing:
            failing.clear()
            raise OSError(5, "Input/output error")
        return lines(self, name)

    monkeypatch.setattr(tensorboard.Events, "_lines", unreadable)
    result = train("--steps", 20, "--tensorboard", "--sample-every", 5)
    assert result.code == 0 and result.err.count("Input/output error") == 1, result.err
    assert_mirrored()


def test_what_stands_in_the_way_costs_a_warning(train):
    assert train("--steps", 10).code == 0
    (RUN / "tensorboard").write_text("mine")
    result = train("--resume", "--steps", 20, "--tensorboard")
    assert result.code == 0 and "run cannot be written (File exists): what it holds is whole" in result.err
    assert (RUN / "tensorboard").read_text() == "mine" and rows(RUN)[-1]["step"] == 20


def test_what_a_run_left_that_never_saved_is_in_nobody_s_way(train):
    folder = RUN / "tensorboard"
    folder.mkdir(parents=True)
    (folder / "events.out.tfevents.1.old").write_bytes(b"old")
    assert train("--steps", 10, "--tensorboard").code == 0 and len(list(folder.iterdir())) == 1
    assert_mirrored()


def test_its_folder_is_part_of_what_such_a_run_left_and_nothing_else_is(train):
    (RUN / "tensorboard").mkdir(parents=True)
    other = RUN / "tensorboard" / "thesis.txt"
    (RUN / "tensorboard" / "events.out.tfevents.1.old").touch()
    other.write_text("mine")
    assert "run exists already" in refused(train("--steps", 10))
    other.unlink()
    assert train("--steps", 10).code == 0 and not any((RUN / "tensorboard").iterdir())


def test_a_tensorboardx_that_does_not_work(train, monkeypatch, tmp_path):
    """As one older than its protobuf: said in one line, before the corpus is read."""
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "tensorboardX.py").write_text("raise TypeError('Descriptors cannot be created directly.')")
    monkeypatch.syspath_prepend(tmp_path / "broken")
    monkeypatch.delitem(sys.modules, "tensorboardX")
    line = refused(train("--steps", 10, "--tensorboard", "--level", "byte"))
    assert "Descriptors" in line and CURE in line and not RUN.exists()


def test_it_is_not_imported_unasked(train, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    assert train("--steps", 10).code == 0 and not (RUN / "tensorboard").exists()


def test_without_tensorboardx_the_cure_is_named_and_nothing_is_written(train, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    line = refused(train("--steps", 10, "--tensorboard"))
    assert CURE in line and not RUN.exists()
    assert train("--steps", 10).code == 0 and not (RUN / "tensorboard").exists()
    assert CURE in refused(train("--resume", "--steps", 20, "--tensorboard"))


def test_a_run_that_diverges_has_its_rows(train):
    result = train("--steps", 300, "--tensorboard", "--optimizer", "adam", "--lr", 1e30, "--clip", 0)
    assert result.code == 3, result
    assert len(read().Scalars("learning_rate")) == len(rows(RUN))


def test_a_sample_that_looks_like_the_head_of_one_is_none(train, tmp_path):
    """A text of such lines: what the model writes of them is a sample all the same, in the files and in the events."""
    corpus(tmp_path, "--- step 99999999999999999999\n--- step 7777\n" * 300)
    args = ("--tensorboard", "--lr", 0.05, "--sample-every", 40)
    assert train("--steps", 240, *args).code == 0
    found = texts(read(), "sample")
    assert "--- step 7" in found[-1][1] and [step for step, _ in found] == [40, 80, 120, 160, 200, 240]
    assert train("--resume", "--steps", 280).code == 0
    assert [step for step, _ in texts(read(), "sample")] == [40, 80, 120, 160, 200, 240, 280]


def test_whatever_goes_wrong_ends_no_run(train, monkeypatch):
    def fail(self, row):
        raise ValueError("Value\nout of range")

    monkeypatch.setattr(tensorboard.Events, "_row", fail)
    result = train("--steps", 20, "--tensorboard")
    assert result.code == 0 and result.err.count("warning: TensorBoard gets no more of this run (Value out of range)\n") == 1
