"""Printed commands run as they stand: named as this user calls `rnncore`, by PATH, by a script, by an interpreter."""
import os
import shlex
import subprocess
import sys

import pytest
from cli_helpers import ENVIRONMENT, ROOT, SMALL, corpus

from rnncore.cli.terminal import called

PROGRAM = "import sys; from rnncore.cli import main; main()"


@pytest.fixture
def script(tmp_path):
    """A folder `a b` with a script `rnncore` for this Python, as pip makes it."""
    folder = tmp_path / "a b"
    folder.mkdir()
    path = folder / "rnncore"
    path.write_text(f"#!{sys.executable}\n{PROGRAM}\n")
    path.chmod(0o755)
    return path


def said(command, cwd, **env) -> str:
    """What the command that is called so says of a run that is not there."""
    done = subprocess.run([*map(str, command), "generate"], cwd=cwd, env=ENVIRONMENT | env, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1, done
    return done.stderr.split("as in `")[1].partition(" train")[0]


def test_rnncore_is_said_where_path_leads_to_this_installation(script, tmp_path):
    path = f"{script.parent}:{os.environ['PATH']}"
    assert said([script], tmp_path, PATH=path) == said([sys.executable, "-m", "rnncore"], tmp_path, PATH=path) == "rnncore"


def test_another_rnncore_on_path_is_not_this_one(script, tmp_path):
    other = tmp_path / "rnncore"
    for text in ("#!/nowhere/bin/python3\n", "\x7fELF"):
        other.write_text(text)
        other.chmod(0o755)
        assert said([script], tmp_path, PATH=f"{tmp_path}:/usr/bin:/bin") == shlex.quote(str(script))
    assert said([sys.executable, "-m", "rnncore"], tmp_path, PATH=str(tmp_path)) == f"{sys.executable} -m rnncore"


@pytest.mark.parametrize("typed", ["{folder}/rnncore", "a b/../a b/rnncore"])
def test_a_script_is_said_as_it_was_called(script, tmp_path, typed):
    typed = typed.format(folder=script.parent)
    assert said([typed], tmp_path, PATH="/usr/bin:/bin") == shlex.quote(typed)


def test_a_module_is_said_as_it_was_called(tmp_path):
    here = {"PATH": "/usr/bin:/bin"}
    assert said([sys.executable, "-X", "dev", "-W", "ignore", "-m", "rnncore"], tmp_path, **here) == \
        f"{sys.executable} -X dev -W ignore -m rnncore"
    link = tmp_path / "py thon"
    link.symlink_to(sys.executable)
    assert said([sys.executable, "-c", PROGRAM], tmp_path, **here) == f"{sys.executable} -m rnncore"


def test_what_train_says_to_type_next_runs(script, tmp_path):
    corpus(tmp_path)
    done = subprocess.run([script, "train", "corpus.txt", "--steps", "2", *SMALL, "-o", "my 'run'"], cwd=tmp_path, text=True,
                          env=ENVIRONMENT | {"PATH": "/usr/bin:/bin"}, capture_output=True, timeout=60)
    line = next(line for line in done.stderr.splitlines() if " generate " in line)
    following = subprocess.run(["bash", "-c", line], cwd=tmp_path, env=ENVIRONMENT | {"PATH": "/usr/bin:/bin"}, capture_output=True, text=True,
                               timeout=60)
    assert following.returncode == 0 and len(following.stdout) >= 400 and following.stderr == ""


def test_messages_have_their_commands_in_backticks_and_pip_of_this_python(monkeypatch):
    monkeypatch.setattr(called, "called", lambda: ".venv/bin/rnncore")
    assert called.said("try `rnncore train a`, `rnncore`, rnncore and `rnncore-x`") == (
        "try `.venv/bin/rnncore train a`, `.venv/bin/rnncore`, rnncore and `rnncore-x`")
    assert called.said("`pip install 'x[y]'`") in (f"`{sys.executable} -m pip install 'x[y]'`",
                                                   f"`uv pip install --python {sys.executable} 'x[y]'`")
    assert called.said("`pip --version`, pip install") == "`pip --version`, pip install"


def test_no_hint_names_a_package_that_no_index_has():
    for folder in ("cli", "data", "kernels", "rnncore"):
        for path in (ROOT / folder).rglob("*.py"):
            assert "rnncore[" not in path.read_text(encoding="utf-8"), path


@pytest.mark.parametrize("place, word", [("runs/a", "runs/a"), ("a b", "'a b'"), ("-x", "./-x"), ("it's", "'it'\"'\"'s'")])
def test_a_path_is_a_word_of_the_shell(place, word):
    assert called.path(place) == word
