"""Folders and modules are layers: what each may import, read from the source, and what stands only in its place."""
import ast
import os
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

import rnncore

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.skipif(not (ROOT / "setup.cfg").is_file(), reason="the source stands beside tests/ in a checkout only")

FOLDERS = {  # folder: the folders of ours and the packages of others that it may import
    "kernels": (set(), {"numpy", "cupy", "threadpoolctl"}),
    "data": (set(), {"numpy", "pooch"}),
    "rnncore": ({"kernels", "data"}, {"numpy", "safetensors"}),
    "report": ({"kernels", "data", "rnncore"}, {"numpy"}),
    "cli": ({"kernels", "data", "rnncore", "report"}, {"click", "rich", "numpy"}),
}
WHERE = {"report": "rnncore/report"}  # the others stand at the root
ALONE = {  # what some modules of a folder may import beside: they are imported lazily
    **{("cli", name): {"torch"} for name in ("rival", "graphed", "capture", "kinds")},
    ("report", "charts"): {"matplotlib"}, ("report", "page"): {"jinja2"}, ("cli", "tensorboard"): {"tensorboardX"},
}
BELOW_ALL = "requirements"  # of rnncore/: it imports nothing of ours
LEVELS = [  # of the modules in rnncore/: each imports only from levels above its own in this list
    {BELOW_ALL},
    {"config", "random", "ngram", "memory", "files", "lock", "divergence", "headline", "mistaken"},
    {"params", "lstm", "dropout", "fields", "consistency"},
    {"documents"},
    {"arguments", "embedding", "head", "names", "places"},
    {"stack", "stepper"},
    {"model"},
    {"optim", "sample", "checkpoint", "gradcheck", "evaluate", "dynamic", "plan", "extend", "recovery"},
    {"captured", "dialogue"},
    {"launch"},
    {"train", "speed"},
    {"runs", "trial"},
    {"verify", "evidence"},
    {"trust"},
]
LEVEL = {name: level for level, names in enumerate(LEVELS) for name in names}
PINNED = {"alloc_pinned_memory", "PinnedMemoryPool", "set_pinned_memory_allocator", "copy_to_host_async",
          "copy_from_host_async"}  # who asks for it must hold it until its copy has been made: kernels/cuda/writer.py does
NEVER = {"pickle", "cPickle", "dill", "joblib", "shelve", "marshal"}


def imported(source: str, package: list[str]):
    """Every module that source imports by any statement at any depth, as absolute names; package: where it stands."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[:len(package) - node.level + 1] if node.level else []
            stem = ".".join([*base, *([node.module] if node.module else [])])
            yield from (f"{stem}.{alias.name}" for alias in node.names)


def faults(folder: str, module: str, source: str) -> list[str]:
    """What is out of place in a module of one of our folders."""
    ours, others = FOLDERS[folder]
    package = ["rnncore"] if folder == "rnncore" else ["rnncore", folder]
    found = []
    for name in imported(source, package):
        root, *rest = name.split(".")
        if root in NEVER:
            found.append(f"{name}: nothing is unpickled")
        elif root in FOLDERS and root != "rnncore":
            found.append(f"{name}: a bare import would be a second copy")
        elif root == "rnncore":
            if module == BELOW_ALL:
                found.append(f"{name}: {module} imports nothing of ours")
            there = rest[0] if rest and rest[0] in FOLDERS else "rnncore"
            if there != folder and there not in ours and (folder, module) != ("rnncore", "__main__"):
                found.append(f"{name}: {folder} stands below {there}")
            if folder == there == "rnncore" and rest and rest[0] in LEVEL and LEVEL[rest[0]] >= LEVEL.get(module, len(LEVELS)):
                found.append(f"{name}: {module} does not stand above it")
        elif root not in others | ALONE.get((folder, module), set()) and root not in sys.stdlib_module_names:
            found.append(f"{name}: not a package that {folder}/ may import")
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            if node.func.id == "print" and folder != "cli":
                found.append("print outside cli/")
            if node.func.id in ("eval", "exec"):
                found.append(node.func.id)
        copies = isinstance(node, ast.Call) and getattr(node.func, "attr", None) in ("get", "asnumpy")
        unwaited = copies and any(keyword.arg == "blocking" for keyword in node.keywords)
        if (unwaited or getattr(node, "attr", None) in PINNED) and (folder, module) != ("kernels", "writer"):
            found.append("a copy that the host does not wait for, outside kernels/cuda/writer.py")
    return found


def sources():
    inside = [ROOT / place for place in WHERE.values()]
    return [(folder, path) for folder in FOLDERS for path in sorted((ROOT / WHERE.get(folder, folder)).rglob("*.py"))
            if folder in WHERE or path.parent not in inside]


@pytest.mark.parametrize("folder, path", sources(), ids=lambda value: value.stem if isinstance(value, Path) else value)
def test_everything_stands_in_its_place(folder, path):
    assert faults(folder, path.stem, path.read_text(encoding="utf-8")) == []


def test_every_module_of_the_engine_has_a_level():
    """A new one: say above in LEVELS where it stands."""
    assert {path.stem for path in (ROOT / "rnncore").glob("*.py")} - {"__init__", "__main__"} == set(LEVEL)


@pytest.mark.parametrize("folder, module, source", [
    ("rnncore", "lstm", "from . import stack"), ("rnncore", "lstm", "from .stack import Workspace"),
    ("rnncore", "model", "import rnncore.train"), ("rnncore", "model", "def f():\n    from . import runs"),
    ("rnncore", "head", "from . import embedding"), ("rnncore", "config", "from .cli import main"),
    ("rnncore", "train", "from rnncore.cli import options"), ("rnncore", "model", "import cupy"),
    ("rnncore", "model", "import torch"), ("cli", "bench", "import torch"), ("rnncore", "rival", "import torch"),
    ("cli", "rival", "import cupy"), ("rnncore", "model", "from rich import print"), ("rnncore", "model", "import click"),
    ("rnncore", "model", "import kernels"), ("rnncore", "model", "from kernels.cpu import adam"),
    ("cli", "train", "from data.text import read"), ("cli", "train", "import cupy as np"), ("kernels", "cpu", "from .. import lstm"),
    ("kernels", "cpu", "from ..data import vocab"), ("data", "text", "from ..kernels import host"),
    ("data", "text", "import rnncore"), ("rnncore", "checkpoint", "import pickle"), ("cli", "info", "from joblib import load"),
    ("rnncore", "requirements", "from .config import PATHS"), ("rnncore", "requirements", "from .kernels import host"),
    ("rnncore", "train", "from .report import atlas"), ("report", "atlas", "from ..cli import options"),
    ("report", "atlas", "import matplotlib"), ("report", "atlas", "from data.endings import END"),
    ("rnncore", "model", "print('x')"), ("kernels", "cpu", "def f():\n    print(1)"), ("rnncore", "config", "exec('1')"),
    ("kernels", "steering", "def f(a, b):\n    a.get(out=b, blocking=False)"),
    ("kernels", "cuda", "import cupy\nx = cupy.cuda.alloc_pinned_memory(1)"),
])
def test_what_is_out_of_place_is_seen(folder, module, source):
    assert faults(folder, module, source)


@pytest.mark.parametrize("folder, module, source", [
    ("rnncore", "model", "from . import kernels, params, stack"), ("rnncore", "runs", "from . import __version__, checkpoint"),
    ("rnncore", "checkpoint", "from .data.vocab import Vocab\nimport json"), ("kernels", "cuda", "import cupy"),
    ("kernels", "cuda", "from . import cpu"), ("cli", "train", "from rnncore.train import fit\nfrom . import options"),
    ("report", "atlas", "from ..evaluate import CHUNK\nfrom .probes import measure"),
    ("cli", "neurons", "from rnncore.report.atlas import atlas"),
    ("cli", "rival", "import torch"), ("cli", "train", "print(1)"), ("rnncore", "__main__", "from .cli import main"),
])
def test_what_is_in_place_is_left_alone(folder, module, source):
    assert faults(folder, module, source) == []


def python(code: str) -> str:
    """What a fresh interpreter in the checkout prints."""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60,
                          env={**os.environ, "PYTHONPATH": str(ROOT)})
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_importing_rnncore_imports_no_numpy():
    code = "import rnncore, sys; dir(rnncore); print([m for m in ('numpy', 'safetensors', 'click', 'rich') if m in sys.modules])"
    assert python(code) == "[]\n"


def test_every_public_name_is_found():
    assert sorted({*rnncore._HOME, "__version__"}) == rnncore.__all__ == dir(rnncore)
    for name, home in rnncore._HOME.items():
        value = getattr(rnncore, name)
        assert value is getattr(import_module(f"rnncore.{home}"), name)
        assert value.__module__ == f"rnncore.{home}", f"{name} is at home in {value.__module__}"
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = rnncore.no_such_name


def test_no_module_bears_the_name_of_something_public():
    assert not set(rnncore._HOME) & (set(LEVEL) | set(FOLDERS))


def test_the_folders_are_found_from_a_checkout_and_each_module_once():
    code = ("import rnncore.kernels.cpu.ops, rnncore.data.vocab, sys; from rnncore import kernels; "
            "assert kernels.host is sys.modules['rnncore.kernels.cpu.ops']; "
            "print(sorted(m for m in sys.modules if m.split('.')[0] in ('kernels', 'data', 'cli')))")
    assert python(code) == "[]\n"
