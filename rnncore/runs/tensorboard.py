"""The event files of a run are its metrics and samples as TensorBoard reads them: `tensorboard --logdir runs`."""
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

SCALARS = {"loss": "loss/train", "val_loss": "loss/validation", "lr": "learning_rate", "grad_norm": "gradient_norm",
           "chars_per_s": "characters_per_second"}
FLOOR = "loss/counting"
LAYOUT = {"loss": {"nats per character": ["Multiline", ["loss/train", "loss/validation", FLOOR]]}}


def check(saving: SaveConfig) -> None:
    """Raises RunError where event files are wanted and tensorboardX, or what it needs, does not work here."""
    words = requirements.missing("tensorboardX") if saving.tensorboard else None
    if words:
        raise RunError(f"event files need {words}, or take --no-tensorboard")


class Events:
    """A mirror of metrics.jsonl and samples.txt of the run folder, in its folder `tensorboard`.

    It is made anew when a run is begun or taken up: each step is there once, however often the run was stopped, and so
    is what was logged before anybody asked for it. Every write is whole or does not happen; there is nothing to close.
    The settings are shown as a text, and what counting alone reaches, if that is known, as a line.
    """

    def __init__(self, folder: RunFolder, training: Training):
        settings, model = folder.settings, training.model
        self._about = {"corpus": settings["corpus"]["name"], "preset": settings.get("preset"), **asdict(model.config),
                       "precision": model.precision, **asdict(training.config)}
        self._floor = (settings.get("floor") or {}).get("nats")  # nats per character
        self._path, self._spent = folder.path.absolute(), training.clock.now()  # seconds
        self._read = {"metrics.jsonl": 0, "samples.txt": 0}  # bytes
        self._file: Path | None = None
        self._old: list[Path] = []
        self._unwritten = bytearray()

    def follow(self) -> None:
        """Add what the run has logged since the last time. Raises OSError; it is added with the next then."""
        for record in self._news():  # one by one: what came before an error is not read again
            self._unwritten += record
        if self._unwritten and self._file:
            self._file.parent.mkdir(exist_ok=True)
            append(self._file, bytes(self._unwritten))
            self._unwritten.clear()
            for old in self._old:  # they stood until the new one did
                old.unlink(missing_ok=True)
            self._old = []

    def _news(self) -> Iterator[bytes]:
        """The records of what is new; of the beginning too where there is no file yet."""
        from tensorboardX import summary
        if self._file is None:
            yield from self._begin()
        for row in map(json.loads, self._lines("metrics.jsonl").splitlines()):
            if not isinstance(row["step"], bool) and row["step"] >= 0:
                yield from self._row(row)
        for step, text in samples(self._lines("samples.txt")):
            indented = "".join(f"    {line}\n" for line in text.splitlines())  # Markdown shows it as it stands
            yield self._event(step, summary=summary.text("sample", indented))

    def _begin(self) -> Iterator[bytes]:
        """The records at the head of a new file, which is to stand in place of those that are there."""
        from tensorboardX import summary
        from tensorboardX.proto.event_pb2 import SessionLog

        self._old = list((self._path / EVENTS).glob(EVENT_FILES))
        self._file = self._path / EVENTS / EVENT_FILES.replace("*", str(time.time_ns()))
        self._seconds, self._begun = 0.0, time.time() - self._spent
        yield self._event(0, file_version="brain.Event:2")
        yield self._event(0, session_log=SessionLog(status=SessionLog.START))  # who watches forgets the file before
        yield self._event(0, summary=summary.custom_scalars(LAYOUT))
        lines = [f"|{name}|{str(value).replace('|', chr(92) + '|')}|" for name, value in self._about.items()]
        yield self._event(0, summary=summary.text("settings", "\n".join(["|setting|value|", "|---|---|", *lines])))

    def _lines(self, name: str) -> str:
        """The whole lines of a file that have come since the last time."""
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
        from tensorboardX import summary
        if isinstance(row.get("seconds"), (int, float)):
            self._seconds = row["seconds"]
        values = {tag: row[name] for name, tag in SCALARS.items() if isinstance(row.get(name), (int, float))}
        if self._floor is not None and SCALARS["val_loss"] in values:  # a line as long as that of the validation loss
            values[FLOOR] = self._floor
        for tag, value in values.items():
            yield self._event(row["step"], summary=summary.scalar(tag, value))

    def _event(self, step: int, **what: Any) -> bytes:
        """A record as TensorFlow has it: length, checksum, event, checksum."""
        from tensorboardX.proto.event_pb2 import Event
        from tensorboardX.record_writer import masked_crc32c

        event = Event(step=step, wall_time=self._begun + self._seconds, **what).SerializeToString()
        length = struct.pack("<Q", len(event))
        return length + struct.pack("<I", masked_crc32c(length)) + event + struct.pack("<I", masked_crc32c(event))
