"""A corpus far larger than memory: what `rnncore train` takes for 20 MB and for 60 MB of text, and so for 5 GB."""
import subprocess
import sys

import pytest
from cli_helpers import ENVIRONMENT, SMALL, TEXT

CODE = """import sys
from rnncore.cli import main
try:
    main(sys.argv[1:])
except SystemExit as left:
    assert not left.code, left.code
print(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM:")))
"""
MB, GB = 10 ** 6, 10 ** 9


def peak(folder, *args) -> int:
    """The most memory in bytes that a process of `rnncore train ARGS` held, what it mapped included.

    By VmHWM: a child's ru_maxrss begins at that of the process that started it, and this one may be large.
    """
    done = subprocess.run([sys.executable, "-c", CODE, "train", *args, "--steps", "2", "--val", "0", *SMALL], cwd=folder,
                          env=ENVIRONMENT, capture_output=True, timeout=120)
    assert done.returncode == 0, done.stderr.decode()[-2000:]
    return int(done.stdout.split()[-1]) * 1024


@pytest.mark.parametrize("how", [("--lower", "--min-count", "3"), ("--level", "byte")], ids=["lower", "byte"])
def test_a_corpus_far_larger_than_memory(tmp_path, how):
    """Read in pieces, its ids in a file. Measured once for 5.2 GB, counting and validation included: 244 MB."""
    piece = ("\ufeff" + TEXT.replace("\n", "\r\n") + "Où ça, 日本?\n").encode() * (MB // 5000)
    peaks = {}
    for size in 15, 45:
        path = tmp_path / f"{size}.txt"
        with open(path, "wb") as file:
            while file.tell() < size * MB:
                file.write(piece)
        peaks[size] = peak(tmp_path, str(path), *how, "-o", f"run{size}")
        path.unlink()
    slope = (peaks[45] - peaks[15]) / (30 * MB)
    whole = peaks[45] + max(0.0, slope) * (5 * GB - 45 * MB)
    print(f"{peaks[15] / MB:.0f} MB for 15 MB of text, {peaks[45] / MB:.0f} for 45; for 5 GB about {whole / MB:.0f}")
    assert peaks[45] < 200 * MB and whole < GB
