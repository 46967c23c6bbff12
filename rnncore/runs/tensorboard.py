"""Event files for TensorBoard: a copy of a run's metrics and samples, shown by `tensorboard --logdir runs`."""
import json
import struct
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from .. import requirements
from ..config import SaveConfig
from ..train import Training
from .files import append
from .folder import EVENT_FILES, EVENTS, RunError, RunFolder, samples

# Key of a row of metrics.jsonl -> tag in TensorBoard.
SCALARS = {"loss": "loss/train", "val_loss": "loss/validation", "lr": "learning_rate", "grad_norm": "gradient_norm",
           "chars_per_s": "characters_per_second"}
BASELINE = "loss/counting"  # the n-gram baseline
LAYOUT = {"loss": {"nats per character": ["Multiline", ["loss/train", "loss/validation", BASELINE]]}}


def check(saving: SaveConfig) -> None:
    """Raise RunError if event files are requested, but tensorboardX or a library that it needs does not work."""
    words = requirements.missing("tensorboardX") if saving.tensorboard else None
    if words:
        raise RunError(f"event files need {words}, or take --no-tensorboard")


class Events:
    """The event file of one run, in the folder `tensorboard` of its folder: a copy of metrics.jsonl and samples.txt.

    A new event file replaces the old ones when a run starts or is resumed. Therefore each step occurs once, however
    often the run was stopped, and the file also has the steps from before --tensorboard was given. Each write adds its
    data as a whole or not at all, and nothing needs to be closed. The settings appear as a text, and the n-gram
    baseline, if there is one, as a line.
    """

    def __init__(self, folder: RunFolder, training: Training):
        settings, model = folder.settings, training.model
        self._about = {"corpus": settings["corpus"]["name"], "preset": settings.get("preset"), **asdict(model.config),
                       "precision": model.precision, **asdict(training.config)}
        self._baseline = (settings.get("floor") or {}).get("nats")  # nats per character
        self._path, self._spent = folder.path.absolute(), training.clock.now()  # seconds of the run so far
        self._read = {"metrics.jsonl": 0, "samples.txt": 0}  # bytes of each file that were read
        self._file: Path | None = None
        self._old: list[Path] = []
        self._unwritten = bytearray()

    def follow(self) -> None:
        """Add the metrics and samples since the last call. Raises OSError; the next call then adds them."""
        for record in self._news():  # one by one: after an error, the records before it are kept
            self._unwritten += record
        if self._unwritten and self._file:
            self._file.parent.mkdir(exist_ok=True)
            append(self._file, bytes(self._unwritten))
            self._unwritten.clear()
            for old in self._old:  # only now: the old files stay until the new one exists
                old.unlink(missing_ok=True)
            self._old = []

    def _news(self) -> Iterator[bytes]:
        """Yield the records of new metrics and samples, after the first records of the file if it is new."""
        from tensorboardX import summary
        if self._file is None:
            yield from self._begin()
        for row in map(json.loads, self._lines("metrics.jsonl").splitlines()):
            if not isinstance(row["step"], bool) and row["step"] >= 0:
                yield from self._row(row)
        for step, text in samples(self._lines("samples.txt")):
            indented = "".join(f"    {line}\n" for line in text.splitlines())  # so Markdown shows it unchanged
            yield self._event(step, summary=summary.text("sample", indented))

    def _begin(self) -> Iterator[bytes]:
        """Yield the first records of a new event file, which will replace the event files in the folder."""
        from tensorboardX import summary
        from tensorboardX.proto.event_pb2 import SessionLog

        self._old = list((self._path / EVENTS).glob(EVENT_FILES))
        self._file = self._path / EVENTS / EVENT_FILES.replace("*", str(time.time_ns()))
        self._seconds, self._begun = 0.0, time.time() - self._spent
        yield self._event(0, file_version="brain.Event:2")
        # A TensorBoard that is already running then drops the data of the old file.
        yield self._event(0, session_log=SessionLog(status=SessionLog.START))
        yield self._event(0, summary=summary.custom_scalars(LAYOUT))
        lines = [f"|{name}|{str(value).replace('|', chr(92) + '|')}|" for name, value in self._about.items()]
        yield self._event(0, summary=summary.text("settings", "\n".join(["|setting|value|", "|---|---|", *lines])))

    def _lines(self, name: str) -> str:
        """Return the complete lines of a file of the run folder that were added since the last call."""
        path = self._path / name
        if not path.is_file() or path.stat().st_size == self._read[name]:
            return ""
        with open(path, "rb") as file:
            file.seek(self._read[name])
            text = file.read()
        text = text[:text.rfind(b"\n") + 1]
        self._read[name] += len(text)
        return text.decode(errors="replace")

    def _row(self, row: dict[str, Any]) -> Iterator[bytes]:
        """Yield a record for each number of a row of metrics.jsonl that SCALARS has."""
        from tensorboardX import summary
        if isinstance(row.get("seconds"), (int, float)):
            self._seconds = row["seconds"]
        values = {tag: row[name] for name, tag in SCALARS.items() if isinstance(row.get(name), (int, float))}
        if self._baseline is not None and SCALARS["val_loss"] in values:  # a point with each validation loss
            values[BASELINE] = self._baseline
        for tag, value in values.items():
            yield self._event(row["step"], summary=summary.scalar(tag, value))

    def _event(self, step: int, **what: Any) -> bytes:
        """Return one record in TensorFlow's TFRecord format: length, its checksum, event, its checksum."""
        from tensorboardX.proto.event_pb2 import Event
        from tensorboardX.record_writer import masked_crc32c

        event = Event(step=step, wall_time=self._begun + self._seconds, **what).SerializeToString()
        length = struct.pack("<Q", len(event))
        return length + struct.pack("<I", masked_crc32c(length)) + event + struct.pack("<I", masked_crc32c(event))
