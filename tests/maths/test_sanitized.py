"""The compiled loops built with AddressSanitizer and UBSan: they read and write nothing outside the arrays they are given."""
import os
import subprocess
import sys
from pathlib import Path

import pytest

from rnncore.kernels.cpu import native

ROOT = Path(__file__).resolve().parents[2]
FLAGS = ("-std=c++17", "-O0", "-g1", "-fno-omit-frame-pointer", "-march=native", "-fPIC", "-shared",
         "-fsanitize=address,undefined", "-fno-sanitize=alignment", "-fno-sanitize-recover=all")
LOOPS = "equal_the_loops or columns or longer_arrays or tanh or refused or bf16_computes or products_in"  # of test_native.py
STEPS = "equal_model_step or naive or repeated or out_of_range"           # of test_stepper.py
# Left out: what takes long. Where there is no AMX, bf16 without tiles is what is compiled as it is here.
LEFT = "untiled or forbidden or emulated and (shape2 or shape3)"

LAYER = """
import sanitize, test_native
found = test_native.native.Recurrence(test_native.native.build("float32"), "float32")
for columns in (1, 2):
    p = test_native.Problem("float32", 5, 2, 3, columns, True)
    found.forward(p.w, p.x, p.gates, p.h, p.c, p.keep)
    found.backward(p.w, p.gates, p.c, p.keep, p.dy, p.dh, p.dc, p.dx)
"""


def runtime() -> str | None:
    """The sanitizer's library, which has to be there before Python's own memory is: None where there is none."""
    compiler = native.compiler()
    if compiler is None:
        return None
    done = subprocess.run([compiler, "-print-file-name=libasan.so"], capture_output=True, text=True)
    return done.stdout.strip() if os.path.isabs(done.stdout.strip()) else None


pytestmark = pytest.mark.skipif(runtime() is None, reason="no compiler with AddressSanitizer's library here")


def sanitized(tmp_path, *arguments: str, planted: tuple[str, str] = ("", "")) -> subprocess.CompletedProcess:
    """Python with such a build of host.cpp, which has one text in place of another."""
    folder = tmp_path / "cpu"
    folder.mkdir()
    for name in native.SOURCES:
        text = (native.HERE / name).read_text(encoding="utf-8")
        if name == "host.cpp" and planted[0]:
            assert text.count(planted[0]) == 1, f"host.cpp no longer has just once: {planted[0]}"
            text = text.replace(*planted)
        (folder / name).write_text(text, encoding="utf-8")
    (tmp_path / "sanitize.py").write_text(
        f"from pathlib import Path\nfrom rnncore.kernels.cpu import native\nnative.FLAGS = {FLAGS}\n"
        f"native.HERE = Path({str(folder)!r})\n")
    environment = {**os.environ, "LD_PRELOAD": runtime(), "ASAN_OPTIONS": "detect_leaks=0", "OMP_NUM_THREADS": "1",
                   "OPENBLAS_NUM_THREADS": "1", "XDG_CACHE_HOME": str(tmp_path), "PYTHONMALLOC": "malloc",
                   "PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT), str(ROOT / "tests/maths")])}
    return subprocess.run([sys.executable, *arguments], cwd=ROOT, env=environment, capture_output=True, text=True)


def test_the_loops_stay_inside_their_arrays(tmp_path):
    """Takes over 10 s: the loops are compiled with checks, and Python's memory is guarded too."""
    done = sanitized(tmp_path, "-m", "pytest", "-q", "-p", "sanitize", "-p", "no:cacheprovider", "-p", "no:xdist", "-s",
                     "tests/maths/test_native.py", "tests/maths/test_stepper.py", "-k", f"({LOOPS} or {STEPS}) and not ({LEFT})")
    assert done.returncode == 0 and " passed" in done.stdout, done.stdout[-2000:] + done.stderr[-4000:]


@pytest.mark.parametrize("right, wrong", [
    ("c + (n + s) * hidden, h + (n + s) * hidden, hidden);", "c + (n + s) * hidden, h + (n + s) * hidden, hidden + 1);"),
    ("c + at + n * hidden, keep ? keep[t * n + s]", "c + at + n * hidden, keep ? keep[(t + 1) * n + s]")])
def test_a_read_or_write_outside_is_seen(right, wrong, tmp_path):
    done = sanitized(tmp_path, "-c", LAYER, planted=(right, wrong))
    assert "AddressSanitizer: heap-buffer-overflow" in done.stderr and "host.cpp" in done.stderr, done.stderr[-2000:]
