"""A file system without room: every command says so in one line, leaves nothing half made and never waits for more."""
import errno
import os
import subprocess
import sys

import pytest
from cli_helpers import ENVIRONMENT, TEXT

from rnncore.runs import lock
from rnncore.runs.lock import RunError

SCRIPT = """set -e
mount -t tmpfs -o size={size}k tmpfs {disk}
cd {folder}
if [ {full} = 1 ]; then head -c 9999999 /dev/zero > {disk}/filler 2> /dev/null || true; fi
set +e
{command}
echo "exit $?"
ls -A {disk} | grep -v filler | sed 's/^/left: /'
"""


def on_a_full_disk(tmp_path, command: str, size: int = 64, full: bool = True) -> subprocess.CompletedProcess:
    """A command of rnncore, in a mount namespace of its own where tmp_path/disk is a small file system."""
    disk = tmp_path / "disk"
    disk.mkdir()
    (tmp_path / "corpus.txt").write_text(TEXT)
    script = SCRIPT.format(size=size, disk=disk, folder=tmp_path, full=int(full),
                           command=f"{sys.executable} -m rnncore {command}")
    done = subprocess.run(["unshare", "--map-root-user", "--mount", "sh", "-c", script], env=ENVIRONMENT, timeout=60,
                          capture_output=True, text=True)
    if "exit " not in done.stdout:
        pytest.skip(f"no file system can be mounted here: {done.stderr.strip()[:200]}")
    return done


def test_a_run_that_cannot_begin_is_refused(tmp_path):
    done = on_a_full_disk(tmp_path, "train corpus.txt --steps 2 -o disk/r")
    assert "exit 1" in done.stdout, done.stderr
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("rnncore: ")]
    assert "No space left on device" in line and "disk/r" in line and "Traceback" not in done.stderr


def test_a_text_that_cannot_be_written_leaves_no_empty_file(tmp_path):
    done = on_a_full_disk(tmp_path, "generate tinyshakespeare -n 200 -o disk/text.txt")
    assert done.stdout.splitlines() == ["exit 1"]
    assert done.stderr.splitlines() == ["rnncore: disk/text.txt: No space left on device"]


@pytest.mark.parametrize("command", ["score tinyshakespeare corpus.txt --on-unknown skip --per-char disk/bits.jsonl",
                                     "report tinyshakespeare --text corpus.txt --out disk/page.html"])
def test_figures_that_cannot_be_written_leave_no_file(tmp_path, command):
    done = on_a_full_disk(tmp_path, command)
    assert done.stdout.splitlines()[-1] == "exit 1" and "left:" not in done.stdout, done.stdout
    assert "No space left on device" in done.stderr.splitlines()[-1], done.stderr


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO, errno.EDQUOT, errno.ESTALE])
def test_a_process_id_that_cannot_be_written_is_an_error(tmp_path, monkeypatch, number):
    """It was waited for without end."""
    def broken(descriptor, data):
        raise OSError(number, os.strerror(number))
    with monkeypatch.context() as patch:
        patch.setattr(lock.os, "write", broken)
        with pytest.raises(RunError) as refused, lock.held(tmp_path / "run", new=True):
            pass
    assert os.strerror(number) in str(refused.value)
    with lock.held(tmp_path / "run"):  # the one before is let go
        pass
