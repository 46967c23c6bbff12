"""The oldest libraries: what setup.cfg and tests/oldest.txt ask for, and what is refused where one is older."""
import configparser
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from rnncore import requirements
from rnncore.kernels import cards

ROOT = Path(__file__).resolve().parents[2]
COMPUTING = [("train", "numpy"), ("generate", "numpy"), ("score", "numpy", "numpy"), ("report", "numpy"),
             ("neurons", "numpy", "numpy"), ("corpus", "list"), ("gradcheck",), ("bench",), ("info", "numpy"),
             ("doctor", "--try", "char-rnn")]


@pytest.fixture
def older(tmp_path):
    """A function that runs Python where some libraries are said to have other versions."""
    def run(versions: dict[str, str], *args: str) -> subprocess.CompletedProcess:
        for name, version in versions.items():
            info = tmp_path / "site" / f"{name}-{version}.dist-info"
            info.mkdir(parents=True)
            (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        paths = [str(tmp_path / "site"), str(ROOT)]
        return subprocess.run([sys.executable, *args], cwd=tmp_path, capture_output=True, text=True,
                              env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)})
    return run


def setup() -> configparser.ConfigParser:
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    return config


@pytest.mark.skipif(not (ROOT / "setup.cfg").is_file(), reason="setup.cfg stands in a checkout only")
def test_setup_cfg_asks_for_the_versions_that_are_checked():
    config = setup()
    asked = dict(re.findall(r"^([\w-]+)(?:\[\w+\])?>=([\d.]+)$", "\n".join(
        [config["options"]["install_requires"], *config["options.extras_require"].values()]), re.MULTILINE))
    cupy = {asked.pop("cupy-cuda12x"), asked.pop("cupy-cuda13x")}
    assert cupy == {requirements.OPTIONAL["cupy"], f"{cards.OLDEST_CUPY}.0.0"} and config["options"]["python_requires"] == f">={requirements.PYTHON}"
    for name, version in requirements.OLDEST.items():
        assert name == "cupy" or asked[name] == version, name


def test_continuous_integration_runs_with_exactly_those():
    pinned = dict(line.split("==") for line in (ROOT / "tests" / "oldest.txt").read_text().splitlines()
                  if line and not line.startswith("#"))
    assert pinned == {name: version for name, version in requirements.OLDEST.items() if name in pinned}
    assert pinned.keys() == requirements.OLDEST.keys() - {"torch", "cupy", "tensorboardX"}


@pytest.mark.parametrize("name", ["numpy", "rich"])
def test_the_library_is_refused_at_its_import(older, name):
    done = older({name: "0.0.9"}, "-c", "import rnncore")
    *_, line = done.stderr.splitlines()
    oldest = requirements.BASE[name]
    assert done.returncode == 1 and line == (
        f"rnncore.requirements.TooOld: rnncore needs {name} {oldest} or newer instead of 0.0.9: "
        f"`{sys.executable} -m pip install --upgrade '{name}>={oldest}'`")
    code = "try: import rnncore.model\nexcept ImportError as error: print('refused')"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True).stdout == ""
    assert older({}, "-c", code).stdout == "refused\n"


@pytest.mark.parametrize("args", COMPUTING, ids=" ".join)
def test_every_command_that_computes_is_refused(older, args):
    done = older({"numpy": "1.25.2", "rich": "12.6.0"}, "-m", "rnncore", *args)
    assert done.returncode == 1 and done.stdout == "" and done.stderr == (
        "rnncore: rnncore needs numpy 1.26.0 or newer instead of 1.25.2 and rich 13.0.0 or newer instead of 12.6.0: "
        f"`{sys.executable} -m pip install --upgrade 'numpy>=1.26.0' 'rich>=13.0.0'`\n")
    assert not list(Path(done.args[0]).parent.glob("runs"))


@pytest.mark.parametrize("args", [("--help",), ("--version",), ("train", "--help"), ("corpus", "list", "-h"), ("doctor",)],
                         ids=" ".join)
def test_help_version_and_doctor_work_all_the_same(older, args):
    done = older({"numpy": "1.25.2"}, "-m", "rnncore", *args)
    assert done.returncode == 0 and done.stdout and done.stderr == ""


def test_the_doctor_says_what_is_too_old(older):
    done = older({"numpy": "1.25.2", "matplotlib": "3.1.0"}, "-m", "rnncore", "doctor", "--json")
    found = json.loads(done.stdout)
    assert found["numpy"] == "1.25.2" and "numpy 1.26.0 or newer instead of 1.25.2" in found["libraries"]
    assert "matplotlib 3.1.0 (too old: 3.8.0 is needed)" in found["optional"]


def test_an_older_python_is_refused(monkeypatch):
    monkeypatch.setattr(requirements.sys, "version", "3.10.13 (main) [GCC]")
    requirements.fault.cache_clear()
    assert requirements.fault() == ("rnncore needs Python 3.11 or newer, and this is 3.10.13: make the environment anew with "
                                    "a newer one, as in `python3.11 -m venv .venv`")
    requirements.fault.cache_clear()


def test_an_optional_library_that_is_too_old_is_missing(older):
    """The report is not made after a run, and refused where it is asked for, with the command that mends it."""
    train = ("-m", "rnncore", "train", "python-docs", "--steps", "2", "--hidden", "8", "--batch", "4", "-o", "run")
    done = older({"matplotlib": "3.1.0", "jinja2": "2.0", "tensorboardX": "1.0", "pooch": "0.7"}, *train)
    assert done.returncode == 0 and "report" not in done.stderr
    for args, words in {("report", "run"): "a report needs matplotlib 3.8.0 or newer instead of 3.1.0 and jinja2 3.1.0 or "
                                           "newer instead of 2.0: `",
                        (*train[2:], "x", "--tensorboard"): "event files need tensorboardX 2.6.2.2 or newer instead of 1.0",
                        ("corpus", "fetch", "hugo"): "a download needs pooch 1.8.0 or newer instead of 0.7"}.items():
        done = older({}, "-m", "rnncore", *args)
        assert done.returncode == 1 and done.stderr.startswith(f"rnncore: {words}") and done.stderr.count("\n") == 1, done


@pytest.mark.parametrize(("here", "oldest", "old"), [
    ("1.26", "1.26.0", False), ("1.26.0rc1", "1.26.0", False), ("1.25.9", "1.26.0", True), ("2", "1.26.0", False),
    ("1.9.9", "1.26.0", True), ("13.9.4+local", "13.0.0", False), ("2.6", "2.6.2.2", True), ("", "1.0", True)])
def test_versions_are_compared_as_numbers(monkeypatch, here, oldest, old):
    monkeypatch.setitem(requirements.OLDEST, "some", oldest)
    monkeypatch.setattr(requirements, "installed", lambda name: here)
    assert bool(requirements.lacking("some")) is old


def test_a_library_of_an_unknown_version_will_do(tmp_path, monkeypatch):
    """One that was copied into place has no metadata."""
    (tmp_path / "unversioned.py").touch()
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setitem(requirements.OLDEST, "unversioned", "1.0")
    monkeypatch.setitem(requirements.OLDEST, "nowhere_at_all", "1.0")
    assert requirements.missing("unversioned") is None
    assert "which is not installed: `" in requirements.missing("nowhere_at_all")
    (tmp_path / "breaks.py").write_text("raise TypeError('protobuf')")
    monkeypatch.setitem(requirements.OLDEST, "breaks", "1.0")
    assert "breaks, which cannot be imported here (protobuf): `" in requirements.missing("breaks")
