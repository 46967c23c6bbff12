"""The package as it is installed: what the wheel holds, and that it works outside the checkout and uninstalled."""
import ast
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TRAIN = ["-m", "rnncore", "train", "python-docs", "--steps", "5", "--hidden", "16", "--batch", "8"]


def run(*args, cwd: Path, **environment) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, *map(str, args)], cwd=cwd, capture_output=True, text=True,
                          env={**os.environ, "PIP_DISABLE_PIP_VERSION_CHECK": "1", **environment})


def sources() -> dict[str, Path]:
    """The product's files, code and package data, by the place that they have in a wheel."""
    found = [path for name in ("rnncore", "kernels", "data", "cli") for path in (ROOT / name).rglob("*")
             if path.is_file() and "__pycache__" not in path.parts and path.name != "README.md"]
    return {f"rnncore/{path.relative_to(ROOT).as_posix()}".replace("rnncore/rnncore/", "rnncore/"): path
            for path in found}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """A wheel built from a copy of the tree, so that the checkout stays clean."""
    folder = tmp_path_factory.mktemp("wheel")
    for name in ("rnncore", "kernels", "data", "cli"):
        shutil.copytree(ROOT / name, folder / "tree" / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("setup.cfg", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder / "tree")
    done = run("-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "-w", folder, folder / "tree", cwd=folder)
    if done.returncode and "setuptools" in done.stderr:
        pytest.skip("building a wheel needs setuptools and wheel: pip install -e '.[test]'")
    assert done.returncode == 0, done.stderr
    (made,) = folder.glob("*.whl")
    return made


@pytest.fixture(scope="module")
def site(wheel, tmp_path_factory) -> Path:
    """The wheel installed into a folder of its own."""
    folder = tmp_path_factory.mktemp("site")
    done = run("-m", "pip", "install", "--no-deps", "--target", folder, wheel, cwd=folder)
    assert done.returncode == 0, done.stderr
    return folder


def test_the_wheel_holds_the_package_and_nothing_else(wheel):
    names = [name for name in zipfile.ZipFile(wheel).namelist() if not name.endswith("/")]
    tops = {name.split("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"rnncore"} and len(tops) == 2
    wanted = {"py.typed", "kernels/cpu/ops.py", "kernels/gates.cuh", "kernels/cpu/host.cpp", "data/text.py", "cli/main.py"}
    assert {f"rnncore/{name}" for name in wanted} <= set(names)
    assert {name for name in names if name.startswith("rnncore/")} == set(sources())
    with zipfile.ZipFile(wheel) as archive:
        assert all(archive.read(name) == path.read_bytes() for name, path in sources().items())


def test_the_checkout_works_without_an_install(tmp_path):
    code = (f"import sys; sys.path[:0] = [{str(ROOT)!r}]; sys.meta_path[:] = "
            "[f for f in sys.meta_path if 'editable' not in getattr(f, '__module__', getattr(f, '__name__', ''))]\n"
            "import rnncore.kernels.cpu.ops, rnncore.data.text; print(rnncore.kernels.cpu.ops.__file__)")
    done = run("-c", code, cwd=tmp_path)
    assert done.stdout.strip() == str(ROOT / "kernels/cpu/ops.py"), done.stderr


def test_the_metadata_names_the_extras_and_the_command(site):
    (info,) = site.glob("*.dist-info")
    metadata, entry_points = (info / "METADATA").read_text(), (info / "entry_points.txt").read_text()
    assert "rnncore = rnncore.cli:main" in entry_points
    for line in ("Provides-Extra: cuda12", "Provides-Extra: cuda13", "Provides-Extra: corpora", "Provides-Extra: test", "Requires-Dist: numpy"):
        assert line in metadata
    assert any(info.rglob("LICENSE"))


def test_a_copy_of_the_tree_works_without_an_install(tmp_path):
    """With nothing installed that could stand in for a part of it: the lines at the top of rnncore/__init__.py."""
    layers = ("rnncore", "kernels", "data", "cli")
    for name in layers:
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "setup.cfg", tmp_path)
    code = (f"import sys; sys.path += {[path for path in sys.path if path]!r}\n"  # -S leaves the editable install out
            "import rnncore, rnncore.kernels as k, rnncore.data as d, rnncore.cli as c\n"
            "print(*(m.__file__ for m in (rnncore, k, d, c)), sep='\\n')")
    done = run("-S", "-c", code, cwd=tmp_path)
    assert [Path(path).resolve() for path in done.stdout.split()] == [
        tmp_path.resolve() / name / "__init__.py" for name in layers], done.stderr


def test_public_names_are_there_and_lazy(tmp_path):
    code = ("import sys, rnncore\nassert 'numpy' not in sys.modules\nassert dir(rnncore) == rnncore.__all__\n"
            "for name in rnncore.__all__: getattr(rnncore, name)\n"
            "try: rnncore.nothing\nexcept AttributeError as error: print(error)")
    done = run("-c", code, cwd=tmp_path, PYTHONPATH=str(ROOT))
    assert done.returncode == 0 and "nothing" in done.stdout, done.stderr


def test_no_module_bears_the_name_of_a_public_function():
    """Else `rnncore.score` would be the module or the function, by what was imported first."""
    import rnncore
    assert {path.stem for path in (ROOT / "rnncore").glob("*.py")}.isdisjoint(rnncore.__all__)


def test_the_version_is_written_the_same_twice():
    import rnncore
    (line,) = (line for line in (ROOT / "setup.cfg").read_text().splitlines() if line.startswith("version"))
    assert line.split("=")[1].strip() == rnncore.__version__


def test_what_a_package_needs_is_there():
    assert "MIT" in (ROOT / "LICENSE").read_text() and (ROOT / "rnncore" / "py.typed").is_file()
    lines = (ROOT / "pyproject.toml").read_text().splitlines()  # setup.cfg says the rest, but for the tools that cannot read it
    assert lines[0] == "[build-system]" and {line[:5] for line in lines[1:] if line.startswith("[")} <= {"[tool", "[[too"}


def test_what_is_imported_is_declared():
    """Every package of somebody else's that the product imports stands in setup.cfg."""
    imported = set()
    for path in sources().values():
        for node in ast.walk(ast.parse(path.read_text())) if path.suffix == ".py" else ():
            if isinstance(node, ast.Import):
                imported |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and not node.level:
                imported.add(node.module.split(".")[0])
    theirs = imported - set(sys.stdlib_module_names) - {"rnncore"}
    declared = (ROOT / "setup.cfg").read_text()
    assert {"numpy", "click"} <= theirs and all(name in declared for name in theirs), theirs
