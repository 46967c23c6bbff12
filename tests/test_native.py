"""The compiled loops (kernels/host.cpp over gates.cuh) against those of rnncore/lstm.py; which of them are trusted."""
import os
import subprocess
import sys

import numpy as np
import pytest

from rnncore import lstm
from rnncore.kernels import native
from rnncore.lstm import Scratch

needs_compiler = pytest.mark.skipif(native.compiler() is None, reason="no C++ compiler (c++, g++, clang++) here")
SIZES = [(1, 1, 1), (5, 3, 2), (7, 33, 5), (3, 64, 32)]  # T, H, N
BOUND = {"float32": 2e-5, "float64": 1e-12}  # largest error seen, relative to the largest value: 1.5e-6 and 4e-15


@pytest.fixture(scope="module", params=["float32", "float64"])
def compiled(request):
    return request.param, native.Recurrence(native.build(), request.param)


def problem(dtype: str, steps: int, hidden: int, n: int, keep: bool):
    draw = np.random.default_rng(7).standard_normal
    w_hh = (draw((4 * hidden, hidden)) / np.sqrt(hidden)).astype(dtype)
    gates, h, c = (draw(shape).astype(dtype) for shape in ((steps, 4 * hidden, n), *2 * [(steps + 1, hidden, n)]))
    dy, dh, dc = (draw(shape).astype(dtype) for shape in ((steps, hidden, n), (hidden, n), (hidden, n)))
    mask = (np.random.default_rng(8).random((steps, n)) > 0.4).astype(dtype) if keep else None
    empty = np.empty
    scratch = Scratch(empty((4 * hidden, n), dtype), empty((hidden, n), dtype), dh.copy(), dc.copy(),
                      empty((steps, hidden, n), dtype), empty((steps, hidden, n), dtype), empty(0), empty(0), empty(0))
    return w_hh, gates, h, c, dy, dh, dc, mask, scratch


def difference(a, b) -> float:
    return float(np.abs(a - b).max() / (np.abs(b).max() or 1))


@needs_compiler
@pytest.mark.parametrize("keep", [False, True])
@pytest.mark.parametrize("size", SIZES)
def test_forward_and_backward_equal_the_loops(compiled, size, keep):
    dtype, found = compiled
    w_hh, gates, h, c, dy, dh, dc, mask, scratch = problem(dtype, *size, keep)
    loop = [a.copy() for a in (gates, h, c)]
    lstm.loop_forward(w_hh, *loop, mask, scratch)
    found.forward(w_hh, gates, h, c, mask, scratch.state)
    for mine, wanted in zip((gates, h, c), loop, strict=True):
        assert difference(mine, wanted) < BOUND[dtype]
    steps, hidden, n = size
    columns, loop_columns = np.empty((2, 4 * hidden, steps, n), dtype)
    lstm.loop_backward(w_hh, loop[0], loop[2], mask, dy, scratch.dh, scratch.dc, loop_columns, scratch)
    found.backward(w_hh, gates, c, mask, dy, dh, dc, columns)
    for mine, wanted in ((gates, loop[0]), (columns, loop_columns), (dh, scratch.dh), (dc, scratch.dc)):
        assert difference(mine, wanted) < BOUND[dtype]


@needs_compiler
def test_tanh_of_float_is_exact_to_rounding_and_hands_nan_on(compiled):
    dtype, found = compiled
    z = np.linspace(-30, 30, 4001).astype(dtype)
    gates = np.concatenate([np.full_like(z, 100), np.full_like(z, -100), z, np.full_like(z, 100)]).reshape(1, 4, -1)
    h, c = np.zeros((2, 2, 1, z.size), dtype)
    found.forward(np.zeros((4, 1), dtype), gates, h, c, None, np.empty((1, z.size), dtype))
    error = np.abs(c[1, 0] - np.tanh(z.astype("float64"))).max()
    assert error < (4e-7 if dtype == "float32" else 1e-15)
    gates[0, 2, 5] = np.nan
    found.forward(np.zeros((4, 1), dtype), gates, h, c, None, np.empty((1, z.size), dtype))
    assert np.isnan(c[1, 0, 5])


@needs_compiler
def test_what_is_not_contiguous_is_refused(compiled):
    dtype, found = compiled
    w_hh, gates, h, c, _, _, _, _, scratch = problem(dtype, 3, 4, 2, keep=False)
    other = "float64" if dtype == "float32" else "float32"
    for wrong in (w_hh[:, ::-1], w_hh.astype(other)):
        with pytest.raises(ValueError, match="contiguous"):
            found.forward(wrong, gates, h, c, None, scratch.state)


def about(**environment) -> str:
    """What another process says of its recurrence, after one step of training and a few characters of a text."""
    code = ("import numpy as np, rnncore; from rnncore.kernels import native\n"
            "m = rnncore.CharLM(rnncore.ModelConfig(3, 4, 5, 1), rnncore.Vocab.from_text('abc'), 'cpu')\n"
            "x = np.zeros((4, 2), int); assert np.isfinite(m.loss_and_grads(x, x)[0])\n"
            "assert len(''.join(rnncore.generate(m, length=9))) == 9; print(native.about())")
    done = subprocess.run([sys.executable, "-c", code], env={**os.environ, **environment}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_numpy_does_the_work_where_it_is_switched_off():
    assert about(RNNCORE_NATIVE="0") == "NumPy: the compiled recurrence is switched off by RNNCORE_NATIVE=0\n"


def test_numpy_does_the_work_where_there_is_no_compiler(tmp_path):
    assert about(PATH=str(tmp_path), CXX="") == "NumPy: no C++ compiler was found (c++, g++, clang++)\n"


def test_numpy_does_the_work_where_the_compiler_fails(tmp_path):
    broken = tmp_path / "broken-c++"
    broken.write_text("#!/bin/sh\n[ \"$1\" = --version ] && echo broken && exit 0\nexit 1\n")
    broken.chmod(0o755)
    assert about(CXX=str(broken), XDG_CACHE_HOME=str(tmp_path)).startswith("NumPy: the C++ compiler could not be used")


@needs_compiler
def test_a_cache_that_others_can_write_is_not_trusted(tmp_path):
    (tmp_path / "rnncore").mkdir()
    (tmp_path / "rnncore").chmod(0o777)
    assert "can be written by others" in about(XDG_CACHE_HOME=str(tmp_path))


@needs_compiler
def test_the_library_is_made_once_and_kept(tmp_path):
    assert about(XDG_CACHE_HOME=str(tmp_path)).startswith("compiled by")
    (made,) = (tmp_path / "rnncore").iterdir()
    before = made.stat().st_mtime_ns
    assert about(XDG_CACHE_HOME=str(tmp_path)).startswith("compiled by") and made.stat().st_mtime_ns == before


@needs_compiler
def test_a_damaged_library_is_made_anew(tmp_path):
    assert about(XDG_CACHE_HOME=str(tmp_path)).startswith("compiled by")
    (made,) = (tmp_path / "rnncore").iterdir()
    made.write_bytes(made.read_bytes()[:3000])
    assert about(XDG_CACHE_HOME=str(tmp_path)).startswith("compiled by") and made.stat().st_size > 3000


@needs_compiler
@pytest.mark.parametrize("wrong", [lambda a: a["dy"].fill(0), lambda a: a["gates"].__imul__(1.01),
                                   lambda a: a["keep"].fill(1)])
def test_arithmetic_that_is_wrong_is_not_taken(wrong):
    """The check that a library must pass first, with one argument spoilt on its way."""
    real = native.Recurrence(native.build(), "float32")

    class Spoilt:
        def forward(self, w_hh, gates, h, c, keep, h_prev):
            wrong({"gates": gates, "keep": keep, "dy": np.empty(0)})
            real.forward(w_hh, gates, h, c, keep, h_prev)

        def backward(self, w_hh, gates, c, keep, dy, dh, dc, columns):
            wrong({"gates": gates, "keep": keep, "dy": dy})
            real.backward(w_hh, gates, c, keep, dy, dh, dc, columns)
    assert native._agrees(real) and not native._agrees(Spoilt())


@needs_compiler
@pytest.mark.parametrize("name, wrong", [
    ("layers", lambda w: w[1][0].fill(0)), ("layers", lambda w: w[0][1].__imul__(1.01)),
    ("layers", lambda w: w[1][2].fill(0)), ("head", lambda w: w[1].fill(0)),
    ("head", lambda w: w[0][-1].fill(0)), ("table", lambda w: w.__imul__(1.01)),
    ("h", lambda w: w[1].fill(0)), ("c", lambda w: w[0].fill(0))], ids=str)
def test_a_step_that_is_wrong_is_not_taken(name, wrong):
    """As above: two steps with one of the arrays that they work on spoilt."""
    real = native.Recurrence(native.build(), "float32")

    class Spoilt:
        def stepper(self, layers, head, table, h, c, logits):
            wrong({"layers": layers, "head": head, "table": table, "h": h, "c": c}[name])
            return real.stepper(layers, head, table, h, c, logits)
    assert native._step_agrees(real) and not native._step_agrees(Spoilt())


@needs_compiler
@pytest.mark.parametrize("right, wrong", [
    ("z[0] += a, z[1] += b", "z[0] += b, z[1] += a"), ("w += 4 * inner, z += 4", "w += 3 * inner, z += 4"),
    ("*z += a", "*z = a"), ("fill_rows(z, weights[2]", "fill_rows(z, weights[-1]"),
    ("add_product(gemm, weights[0], h - size, z", "add_product(gemm, weights[0], h, z"),
    ("add_product(gemm, weights[1], h, z", "add_product(gemm, weights[0], h, z"),
    ("step_forward(z, c, ones, c, h, size, size)", "step_forward(z, c, ones, h, c, size, size)"),
    ("table[r * symbols + ids[k]]", "table[r * symbols + ids[0]]"),
    ("weights[0], h - size, logits", "weights[0], c - size, logits"),
    ("inner, x, n, 1, z, n)", "inner, x, n, 0, z, n)")])
def test_an_error_planted_in_the_step_is_seen(right, wrong, tmp_path, monkeypatch):
    """In a copy of host.cpp: what comes of it must not be taken."""
    for name in native.SOURCES:
        text = (native.HERE / name).read_text(encoding="utf-8")
        if name == "host.cpp":
            assert text.count(right) == 1, f"host.cpp no longer has just once: {right}"
            text = text.replace(right, wrong)
        (tmp_path / name).write_text(text, encoding="utf-8")
    monkeypatch.setattr(native, "HERE", tmp_path)
    monkeypatch.setattr(native, "FLAGS", ("-std=c++17", "-O1", "-fPIC", "-shared"))
    assert not native._step_agrees(native.Recurrence(native._compile(native.compiler(), "wrong", tmp_path), "float32"))
