"""Folders and modules are layers: what each may import, read from the source, and what stands only in its place."""
import ast
import os
import subprocess
import sys
from graphlib import CycleError, TopologicalSorter
from importlib import import_module
from pathlib import Path

import pytest

import rnncore

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.skipif(not (ROOT / "setup.cfg").is_file(), reason="the source stands beside tests/ in a checkout only")

TORCH = sorted(path.stem.removeprefix("torch_") for path in (ROOT / "rnncore/bench").glob("torch_*.py"))
FOLDERS = {  # folder: the folders of ours and the packages of others that it may import
    "kernels": (set(), {"numpy", "threadpoolctl"}),
    "data": (set(), {"numpy", "pooch"}),
    "rnncore": ({"kernels", "data"}, {"numpy", "safetensors"}),
    "cli": ({"kernels", "data", "rnncore"}, {"click", "rich", "numpy"}),
}
ALONE = {  # room or module: what it may import beside, most of it lazily
    "rnncore.kernels.cuda": {"cupy"}, "rnncore.report.charts": {"matplotlib"}, "rnncore.report.page": {"jinja2"},
    "rnncore.runs.tensorboard": {"tensorboardX"},
    **{f"rnncore.bench.torch_{name}": {"torch"} for name in TORCH},
}
BELOW_ALL = "requirements"  # of rnncore/: it imports nothing of ours
LEVELS = [  # of rooms and modules in rnncore/: each imports only from levels above its own in this list, and from its room
    {BELOW_ALL},
    {"config", "random", "divergence"},
    {"params"},
    {"nn"},
    {"arguments", "optim", "recovery", "plan"},
    {"model"},
    {"sample", "measure"},
    {"steps", "dialogue"},
    {"capture"},
    {"train"},
    {"runs", "against_eager"},
    {"report", "selfcheck", "machine"},
    *({f"runs.{name}"} for name in ("prepare", "resume", "setup")),  # they stand on the self-check, and that on other `runs`
    {"bench"},
]
LEVEL = {name: level for level, names in enumerate(LEVELS) for name in names}
PINNED = {"alloc_pinned_memory", "PinnedMemoryPool", "set_pinned_memory_allocator", "copy_to_host_async",
          "copy_from_host_async"}  # who asks for it must hold it until its copy has been made: the writer does
WRITER = "rnncore.kernels.cuda.writer"
NEVER = {"pickle", "cPickle", "dill", "joblib", "shelve", "marshal"}


def module_of(path: Path) -> str:
    """The name that a file of the checkout has once it is imported."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    parts = parts if parts[0] == "rnncore" else ("rnncore", *parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


FILES = {module_of(path): path for folder in FOLDERS for path in sorted((ROOT / folder).rglob("*.py"))}


def imported(module: str, source: str):
    """Every module, or name in one, that source imports by any statement at any depth, as absolute names."""
    package = module.split(".") if module in FILES and FILES[module].stem == "__init__" else module.split(".")[:-1]
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[:len(package) - node.level + 1] if node.level else []
            stem = ".".join([*base, *([node.module] if node.module else [])])
            yield from (f"{stem}.{alias.name}" for alias in node.names)


def place(name: str) -> tuple[str, str]:
    """(folder, room or module in it) of something of ours: ("rnncore", "nn"), ("rnncore", "train"), ("cli", "main")."""
    first, *rest = [*name.split(".")[1:], ""]
    alone = ".".join((first, *rest[:1]))
    return (first, rest[0] if rest else "") if first in FOLDERS and first != "rnncore" else \
        ("rnncore", alone if alone in LEVEL else first)


def faults(module: str, source: str) -> list[str]:
    """What is out of place in the source of a module of ours."""
    (folder, here), found = place(module), []
    ours, others = FOLDERS[folder]
    alone = set().union(*(packages for name, packages in ALONE.items() if f"{module}.".startswith(f"{name}.")))
    for name in imported(module, source):
        root = name.split(".")[0]
        if root in NEVER:
            found.append(f"{name}: nothing is unpickled")
        elif root in FOLDERS and root != "rnncore":
            found.append(f"{name}: a bare import would be a second copy")
        elif root == "rnncore":
            there, room = place(name)
            if here == BELOW_ALL and folder == "rnncore":
                found.append(f"{name}: {here} imports nothing of ours")
            if there != folder and there not in ours and module != "rnncore.__main__":
                found.append(f"{name}: {folder} stands below {there}")
            if folder == there == "rnncore" and room in LEVEL and room != here and LEVEL[room] >= LEVEL.get(here, 99):
                found.append(f"{name}: {here} does not stand above it")
        elif root not in others | alone and root not in sys.stdlib_module_names:
            found.append(f"{name}: not a package that {module} may import")
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            if node.func.id == "print" and folder != "cli":
                found.append("print outside cli/")
            if node.func.id in ("eval", "exec"):
                found.append(node.func.id)
        copies = isinstance(node, ast.Call) and getattr(node.func, "attr", None) in ("get", "asnumpy")
        unwaited = copies and any(keyword.arg == "blocking" for keyword in node.keywords)
        if (unwaited or getattr(node, "attr", None) in PINNED) and module != WRITER:
            found.append("a copy that the host does not wait for, outside the writer")
    return found


def circle(sources: dict[str, str]) -> list[str] | None:
    """Modules of ours that import each other in a circle, imports inside functions included, or None."""
    graph = {}
    for module, source in sources.items():
        targets = {name if name in sources else name.rpartition(".")[0] for name in imported(module, source)}
        graph[module] = (targets & sources.keys()) - {module, "rnncore"}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return error.args[1]
    return None


def test_everything_stands_in_its_place():
    found = {module: faults(module, path.read_text(encoding="utf-8")) for module, path in FILES.items()}
    assert {module: wrong for module, wrong in found.items() if wrong} == {}


def test_no_module_imports_itself_by_way_of_others():
    sources = {module: path.read_text(encoding="utf-8") for module, path in FILES.items()}
    assert circle(sources) is None
    for module, late in (("rnncore.nn.lstm", "def f():\n    from ..train import fit"),
                         ("rnncore.kernels.cpu.native", "def f():\n    from .. import devices"),
                         ("rnncore.steps", "if TYPE_CHECKING:\n    from . import train")):
        assert module in circle(sources | {module: f"{sources[module]}\n{late}\n"})


def test_every_room_and_module_of_the_engine_has_a_level():
    """A new one: say above in LEVELS where it stands."""
    assert {place(module)[1] for module in FILES if place(module)[0] == "rnncore"} - {"", "__main__"} == set(LEVEL)


OUT_OF_PLACE = [
    ("nn.lstm", "from .. import model"), ("nn.lstm", "from ..model import CharLM"), ("nn.head", "from ..optim import Adam"),
    ("model", "import rnncore.train"), ("model", "def f():\n    from . import runs"),
    ("model", "def f():\n    from .runs import checkpoint"), ("steps", "from .train import Training"),
    ("config", "from .cli import main"), ("train", "from rnncore.cli import options"), ("model", "import cupy"),
    ("measure.evaluate", "from ..runs.folder import RunFolder"), ("runs.folder", "from ..bench import speed"),
    ("model", "import torch"), ("cli.bench", "import torch"), ("bench.ours", "import torch"),
    (f"bench.torch_{TORCH[0]}", "import cupy"), ("model", "from rich import print"), ("model", "import click"),
    ("model", "import kernels"), ("model", "from kernels.cpu import ops"), ("cli.train", "from data.text import read"),
    ("cli.train", "import cupy as np"), ("kernels.cpu.ops", "from ...nn import lstm"), ("kernels.cards", "import cupy"),
    ("kernels.cpu.ops", "from ...data import vocab"), ("data.text", "from ..kernels import host"),
    ("kernels.cpu.ops", "import cupy"), ("data.text", "import rnncore"), ("runs.checkpoint", "import pickle"),
    ("cli.info", "from joblib import load"), ("requirements", "from .config import PATHS"),
    ("requirements", "from .kernels import host"), ("train", "from .report import atlas"),
    ("report.atlas", "from ..cli import options"), ("report.atlas", "import matplotlib"),
    ("report.atlas", "from data.endings import END"), ("model", "print('x')"),
    ("kernels.cpu.ops", "def f():\n    print(1)"), ("config", "exec('1')"),
    ("kernels.cuda.step_control", "def f(a, b):\n    a.get(out=b, blocking=False)"),
    ("kernels.cuda.ops", "import cupy\nx = cupy.cuda.alloc_pinned_memory(1)"),
]


def test_what_is_out_of_place_is_seen():
    assert [fault for fault in OUT_OF_PLACE if not faults(f"rnncore.{fault[0]}", fault[1])] == []


IN_PLACE = [
    ("model", "from . import kernels, params\nfrom .nn import stack"), ("nn.stack", "from . import lstm"),
    ("runs.folder", "from .. import __version__\nfrom . import checkpoint"),
    ("runs.checkpoint", "from ..data.vocab import Vocab\nimport json"), ("kernels.cuda.ops", "import cupy"),
    ("kernels.cuda.ops", "from ..cpu import ops"), ("cli.train", "from rnncore.train import fit\nfrom . import options"),
    ("report.atlas", "from ..measure.evaluate import CHUNK\nfrom .probes import measure"),
    ("cli.neurons", "from rnncore.report.atlas import atlas"), ("cli.terminal.progress", "import rich"),
    (f"bench.torch_{TORCH[0]}", "import torch"), ("cli.train", "print(1)"), ("__main__", "from .cli import main"),
]


def test_what_is_in_place_is_left_alone():
    assert [case for case in IN_PLACE if faults(f"rnncore.{case[0]}", case[1])] == []


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
    assert not set(rnncore._HOME) & {place(module)[1] for module in FILES if place(module)[0] == "rnncore"}


def test_the_folders_are_found_from_a_checkout_and_each_module_once():
    code = ("import rnncore.kernels.cpu.ops, rnncore.data.vocab, sys; from rnncore import kernels; "
            "assert kernels.host is sys.modules['rnncore.kernels.cpu.ops']; "
            "print(sorted(m for m in sys.modules if m.split('.')[0] in ('kernels', 'data', 'cli')))")
    assert python(code) == "[]\n"
