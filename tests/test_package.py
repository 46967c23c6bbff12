"""The package as it is installed: what the wheel holds, and that it works outside the checkout, from any mode of install."""
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
TRAIN = ["-m", "rnncore", "train", "python-docs", "--steps", "5", "--hidden", "16", "--batch", "8"]


def run(*args, cwd: Path, **environment) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, *map(str, args)], cwd=cwd, capture_output=True, text=True,
                          env={**os.environ, "PIP_DISABLE_PIP_VERSION_CHECK": "1", **environment})


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
    names = zipfile.ZipFile(wheel).namelist()
    tops = {name.split("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"rnncore"} and len(tops) == 2
    wanted = {"py.typed", "kernels/cpu.py", "kernels/gates.cuh", "kernels/host.cpp", "data/text.py", "cli/main.py"}
    assert {f"rnncore/{name}" for name in wanted} <= set(names)
    sources = {str(path.relative_to(ROOT)) for name in ("kernels", "data", "cli") for path in (ROOT / name).glob("*.py")}
    assert {f"rnncore/{name}" for name in sources} <= set(names)


def test_the_installed_wheel_trains_outside_the_checkout(site, tmp_path):
    done = run(*TRAIN, cwd=tmp_path, PYTHONPATH=str(site))
    assert done.returncode == 0 and (tmp_path / "runs/python-docs/best.safetensors").is_file(), done.stderr
    where = run("-c", "import rnncore.kernels.cpu as c; print(c.__file__)", cwd=tmp_path, PYTHONPATH=str(site))
    assert Path(where.stdout.strip()).is_relative_to(site)


def test_the_checkout_works_without_an_install(tmp_path):
    code = (f"import sys; sys.path[:0] = [{str(ROOT)!r}]; sys.meta_path[:] = "
            "[f for f in sys.meta_path if 'editable' not in getattr(f, '__module__', getattr(f, '__name__', ''))]\n"
            "import rnncore.kernels.cpu, rnncore.data.text; print(rnncore.kernels.cpu.__file__)")
    done = run("-c", code, cwd=tmp_path)
    assert done.stdout.strip() == str(ROOT / "kernels" / "cpu.py"), done.stderr


def test_the_metadata_names_the_extras_and_the_command(site):
    (info,) = site.glob("*.dist-info")
    metadata, entry_points = (info / "METADATA").read_text(), (info / "entry_points.txt").read_text()
    assert "rnncore = rnncore.cli:main" in entry_points
    for line in ("Provides-Extra: cuda12", "Provides-Extra: cuda13", "Provides-Extra: test", "Requires-Dist: numpy"):
        assert line in metadata
    assert any(info.rglob("LICENSE"))
