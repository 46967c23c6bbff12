"""A stand-in for the interpreter that card.sh starts: it plays a machine with a card, as a file of JSON has it.

FAKE_PLAY names that file: a part of a command line -> what the command does. `out` and `err` are printed, `files` are
written ({NAME} is a variable of the environment, {-o} the word after an option), `seconds` go by, with `child` in a
process of its own too, which ignores SIGTERM, and the command ends with `code`. The first that fits is played;
FAKE_CALLS gets a line a command. What fits none runs for real.
"""
import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

words = sys.argv[1:]
line = " ".join(words)
play = json.loads(Path(os.environ["FAKE_PLAY"]).read_text())
scene = next((scene for part, scene in play.items() if part in line), None)
if scene is None:
    os.execv(os.environ["REAL_PYTHON"], [os.environ["REAL_PYTHON"], *words])
with open(os.environ["FAKE_CALLS"], "a") as calls:
    calls.write(f"{line} CARD_SHARE={os.environ.get('CARD_SHARE')}\n")
counter = Path(os.environ["FAKE_CALLS"]).read_text().splitlines()
if isinstance(scene, list):  # one after the other; the last stays
    part = next(part for part in play if part in line)
    scene = scene[min(sum(part in call for call in counter), len(scene)) - 1]


def meant(text: str) -> str:
    """Put variables and the words after options into a text."""
    return re.sub(r"\{([A-Z_]+|--?[a-z]+)\}", lambda name: os.environ[name[1]] if name[1][0] != "-" else
                  words[words.index(name[1]) + 1], text)


print(scene.get("out", ""), end="", flush=True)
print(scene.get("err", ""), end="", file=sys.stderr, flush=True)
for name, text in scene.get("files", {}).items():
    path = Path(meant(name))
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a") as file:
        file.write(text)
if scene.get("child"):
    code = f"import signal, time; signal.signal(15, signal.SIG_IGN); time.sleep({scene['seconds']})  # {scene['child']}"
    subprocess.Popen([os.environ["REAL_PYTHON"], "-c", code])
time.sleep(scene.get("seconds", 0))
sys.exit(scene.get("code", 0))
