"""The event files of a run are its metrics and samples as TensorBoard reads them: `tensorboard --logdir runs`."""
import importlib.util
import json
import re
import time
from pathlib import Path
from typing import Any

from rnncore.config import SaveConfig
from rnncore.runs import EVENTS, RunError

SCALARS = {"loss": "loss/train", "val_loss": "loss/validation", "lr": "learning_rate", "grad_norm": "gradient_norm",
           "chars_per_s": "characters_per_second"}
FLOOR = "loss/counting"
LAYOUT = {"loss": {"nats per character": ["Multiline", ["loss/train", "loss/validation", FLOOR]]}}


def check(saving: SaveConfig) -> None:
    """Raises RunError where event files are wanted and tensorboardX is not installed."""
    if saving.tensorboard and importlib.util.find_spec("tensorboardX") is None:
        raise RunError("event files need tensorboardX: pip install 'rnncore[tensorboard]', or take --no-tensorboard")


class Events:
    """A mirror of metrics.jsonl and samples.txt of the run folder `path`, in its folder `tensorboard`.

    It is made anew when a run is begun or taken up: each step is there once, however often the run was stopped, and so
    is what was logged before anybody asked for it. about: the settings, to be shown as a text; floor: the nats per
    character that counting alone reaches, or None.
    """

    def __init__(self, path: Path, about: dict[str, Any], floor: float | None):
        self._path, self._about, self._floor = path.absolute(), about, floor
        self._writer, self._seen = None, -1

    def follow(self) -> None:
        """Add what the run has logged since the last time. Raises OSError; all is written anew then at the next row."""
        size = (self._path / "metrics.jsonl").stat().st_size
        if size != self._seen:
            self._seen = size
            self._add()

    def close(self) -> None:
        """Add the rest, and write no more. Raises OSError."""
        self._add()
        self._writer.close()

    def _add(self) -> None:
        try:
            if self._writer is None:
                self._begin()
            for row in map(json.loads, self._news("metrics.jsonl").splitlines()):
                self._row(row)
            _, *parts = re.split(r"^--- step (\d+)\n", self._news("samples.txt"), flags=re.MULTILINE)
            for step, text in zip(parts[::2], parts[1::2], strict=True):
                self._text("sample", int(step), text)
            self._writer.flush()
        except OSError:
            self._writer = None
            raise

    def _begin(self) -> None:
        """A new file in place of those that were."""
        from tensorboardX import summary
        from tensorboardX.event_file_writer import EventsWriter
        from tensorboardX.proto.event_pb2 import SessionLog

        folder = self._path / EVENTS
        folder.mkdir(exist_ok=True)
        for old in folder.glob("events.out.tfevents.*"):
            old.unlink()
        self._read = {"metrics.jsonl": 0, "samples.txt": 0}
        rows = (self._path / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
        self._time = time.time() - (json.loads(rows[-1])["seconds"] if rows else 0)
        self._seconds = 0.0
        self._writer = EventsWriter(str(folder / "events"))
        self._event(0, session_log=SessionLog(status=SessionLog.START))  # who watches forgets the file before
        self._event(0, summary=summary.custom_scalars(LAYOUT))
        lines = [f"|{name}|{str(value).replace('|', chr(92) + '|')}|" for name, value in self._about.items()]
        self._event(0, summary=summary.text("settings", "\n".join(["|setting|value|", "|---|---|", *lines])))

    def _news(self, name: str) -> str:
        """The whole lines of a file that have come since the last time."""
        path = self._path / name
        if not path.is_file():
            return ""
        with open(path, "rb") as file:
            file.seek(self._read[name])
            text = file.read()
        text = text[:text.rfind(b"\n") + 1]
        self._read[name] += len(text)
        return text.decode(errors="replace")

    def _row(self, row: dict) -> None:
        from tensorboardX import summary
        self._seconds = row["seconds"]
        values = {tag: row[name] for name, tag in SCALARS.items() if row[name] is not None}
        if self._floor is not None and row["val_loss"] is not None:  # a line as long as that of the validation loss
            values[FLOOR] = self._floor
        for tag, value in values.items():
            self._event(row["step"], summary=summary.scalar(tag, value))

    def _text(self, tag: str, step: int, text: str) -> None:
        """A text as it stands: Markdown shows what is indented so."""
        from tensorboardX import summary
        self._event(step, summary=summary.text(tag, "".join(f"    {line}\n" for line in text.splitlines())))

    def _event(self, step: int, **what) -> None:
        from tensorboardX.proto.event_pb2 import Event
        self._writer.write_event(Event(step=step, wall_time=self._time + self._seconds, **what))
