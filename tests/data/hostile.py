"""Files of a run that name other texts than the run's, as one made in bad faith would, and what is opened for them."""

import json
import os
import sys
from pathlib import Path

from cli_helpers import call, files
from damage import sealed

from rnncore.runs.checkpoint import read as read_model

OPENED: list[str] | None = None  # the paths that were opened, while someone wants to know


def audit(event: str, args: tuple) -> None:
    """Note what is opened or listed by its name."""
    named = event in ("open", "os.listdir", "os.scandir", "glob.glob") and not isinstance(args[0], int)
    if OPENED is not None and named:
        OPENED.append(os.path.abspath(os.fsdecode(args[0] or ".")))


sys.addaudithook(audit)


class Hostile:
    """`rnncore` with the files of a run changed, in a folder with all that may be named."""

    def __init__(self, home: Path, capsys):
        self.home, self.capsys, self.opened = home, capsys, []

    def write(self, sources: list | None = None, old: bool = False, last: bool = True, **more) -> None:
        """Write another `sources` and other fields of settings.corpus and files into card and settings.

        old: as of a run from before the files were kept. last: whether there is a last.safetensors.
        """
        for name in ("best", "last"):
            path = self.home / f"run/{name}.safetensors"
            document, tensors = read_model(path)
            document = json.loads(json.dumps(document))
            settings = document["training"]["settings"] if name == "last" else {}
            for corpus_ in (document["card"]["corpus"], settings.get("corpus", {})):
                corpus_ |= {"sources": sources} if sources is not None else {}
                corpus_ |= {key: value for key, value in more.items() if key != "of"}
            if name == "last" and old:
                settings.pop("files", None)
            elif name == "last" and "of" in more:
                settings["files"]["of"] = more["of"]
            path.write_bytes(sealed(document, tensors))
        if not last:
            (self.home / "run/last.safetensors").unlink()

    def __call__(self, *args):
        """Call `rnncore ARGS`; what it opened, but for its own files and libraries, is in `opened`."""
        global OPENED
        OPENED = []
        try:
            return call(self.capsys, *args)
        finally:
            own = (str(self.home / "run"), os.path.dirname(os.__file__), str(Path(__file__).parents[2]))
            self.opened = [path for path in OPENED if not path.startswith(own) and "site-packages" not in path
                           and not path.startswith(("/tmp/rnncore", "/proc", "/var/tmp", str(Path.home() / ".cache")))]
            OPENED = None

    def resume(self, *args):
        """Call `rnncore train --resume`: where it is refused, nothing has changed."""
        before = files(self.home / "run")
        result = self("train", "--resume", "-o", "run", *args)
        if result.code:
            assert files(self.home / "run") == before
        return result

    def why(self) -> str | None:
        """Return why `score` has no baseline; None where it has one. It is said in both forms."""
        told, found = self("score", "run/best.safetensors", "other.txt"), None
        result = self("score", "run/best.safetensors", "other.txt", "--json")
        assert result.code == told.code == 0 and result.err == "", (told, result)
        found = json.loads(result.out)
        assert (found["floor"] is None) == ("no_floor" in found) == ("n-gram baseline: " not in told.out)
        why = found.get("no_floor")
        assert told.err == (f"no n-gram baseline: {why}\n" if why else "")
        assert why is None or why.startswith("the training text is not read: ")
        return why and why.removeprefix("the training text is not read: ")
