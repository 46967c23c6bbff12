"""The compiled loops (kernels/cpu/host.cpp over gates.cuh) against those of rnncore/nn/lstm.py; which of them are trusted."""
import os
import subprocess
import sys

import numpy as np
import pytest

import rnncore
from rnncore import kernels
from rnncore.kernels.cpu import agreement, native
from rnncore.kernels.cpu.compiler import cure
from rnncore.nn import lstm
from rnncore.nn.dropout import Dropout

needs_compiler = pytest.mark.skipif(native.compiler() is None, reason="no C++ compiler (c++, g++, clang++) here")
SIZES = [(1, 1, 1, 1), (5, 2, 3, 2), (7, 9, 33, 5), (3, 64, 64, 32), (70, 9, 33, 1), (2, 40, 16, 1)]  # T, E, H, N
BOUND = {"float32": 2e-5, "float64": 1e-12}  # largest error seen, relative to the largest value: 1.5e-6 and 4e-15


@pytest.fixture(scope="module", params=["float32", "float64"])
def compiled(request):
    return request.param, native.Recurrence(native.build(request.param), request.param)


# How bf16 is compiled -> options: in AMX's tiles, if the processor has them, or emulated, or refused by the system.
BF16 = {"here": (), "untiled": ("-DTILES=0",), "emulated": ("-DTILES=2", "-DWIDEST=64"), "forbidden": ("-DTILES=3", "-DWIDEST=64")}


@pytest.fixture(scope="module", params=BF16)
def bf16(request):
    """The compiled loops in bf16. Where the processor has no instruction for it, several take its place."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(native, "FLAGS", (*native.FLAGS, *BF16[request.param]))
        return native.Recurrence(native.build("bf16"), "bf16")


def lanes(array) -> np.ndarray:
    """A copy in the processor's order of memory: the numbers along the first axis are neighbours."""
    made = kernels.host.activations(array.shape, 0, array.dtype)
    made[...] = array
    return made


class Problem:
    """One layer's arrays for T, E, H, N."""

    def __init__(self, dtype: str, steps: int, inputs: int, hidden: int, n: int, keep: bool):
        draw = np.random.default_rng(7).standard_normal
        scale = 1 / np.sqrt(hidden)
        self.w = lstm.Weights(*((scale * draw(shape)).astype(dtype)
                                for shape in ((4 * hidden, inputs), (4 * hidden, hidden), 4 * hidden)))
        self.x, self.gates, self.dy = (lanes(draw((rows, steps, n)).astype(dtype)) for rows in (inputs, 4 * hidden, hidden))
        self.h, self.c = (lanes(draw((hidden, steps + 1, n)).astype(dtype)) for _ in range(2))
        self.dh, self.dc = (lanes(draw((hidden, n)).astype(dtype)) for _ in range(2))
        self.dx = kernels.host.activations((inputs, steps, n), 0, dtype)
        self.keep = (np.random.default_rng(8).random((steps, n)) > 0.4).astype(dtype) if keep else None


def difference(a, b) -> float:
    return float(np.abs(a - b).max() / (np.abs(b).max() or 1))


@needs_compiler
@pytest.mark.parametrize("keep", [False, True])
@pytest.mark.parametrize("given", [False, True], ids=["prefilled", "input"])
@pytest.mark.parametrize("size", SIZES)
def test_forward_and_backward_equal_the_loops(compiled, size, given, keep):
    dtype, found = compiled
    p = Problem(dtype, *size, keep)
    gates, h, c, dh, dc = (a.copy() for a in (p.gates, p.h, p.c, p.dh, p.dc))
    lstm.forward(p.w, p.x if given else None, gates, h, c, p.keep)
    found.forward(p.w, p.x if given else None, p.gates, p.h, p.c, p.keep)
    for mine, wanted in ((p.gates, gates), (p.h, h), (p.c, c)):
        assert difference(mine, wanted) < BOUND[dtype]
    dx = np.empty_like(p.dx) if given else None
    lstm.backward(p.w, gates, c, p.keep, p.dy, dh, dc, dx)
    found.backward(p.w, p.gates, p.c, p.keep, p.dy, p.dh, p.dc, p.dx if given else None)
    pairs = [(p.gates, gates), (p.dh, dh), (p.dc, dc)]
    if given:
        pairs.append((p.dx, dx))
    for mine, wanted in pairs:
        assert difference(mine, wanted) < BOUND[dtype]


@needs_compiler
@pytest.mark.parametrize("n", [*range(1, 10), 12, 15, 16, 17, 24, 25, 31, 32, 33, 48, 63, 65, 100])
def test_every_number_of_columns(compiled, n):
    """Tiles of every number of sequences, one sequence, few of them, and units that fill no panel."""
    dtype, found = compiled
    p = Problem(dtype, 2, 3, 5, n, False)
    gates, h, c = (a.copy() for a in (p.gates, p.h, p.c))
    lstm.forward(p.w, p.x, gates, h, c, None)
    found.forward(p.w, p.x, p.gates, p.h, p.c, None)
    assert difference(p.h, h) < BOUND[dtype] and difference(p.gates, gates) < BOUND[dtype]


@needs_compiler
def test_tanh_of_float_is_exact_to_rounding_and_hands_nan_on(compiled):
    dtype, found = compiled
    z = np.linspace(-30, 30, 4001).astype(dtype)
    gates = lanes(np.stack([np.full_like(z, 100), np.full_like(z, -100), z, np.full_like(z, 100)])[:, None])
    (h, c), w = np.zeros((2, 1, 2, z.size), dtype), lstm.Weights(*np.zeros((2, 4, 1), dtype), np.zeros(4, dtype))
    found.forward(w, None, gates, h, c, None)
    error = np.abs(c[0, 1] - np.tanh(z.astype("float64"))).max()
    assert error < (4e-7 if dtype == "float32" else 1e-15)
    gates[2, 0, 5] = np.nan
    found.forward(w, None, gates, h, c, None)
    assert np.isnan(c[0, 1, 5])


@needs_compiler
def test_what_is_not_contiguous_is_refused(compiled):
    dtype, found = compiled
    p = Problem(dtype, 3, 2, 4, 2, keep=False)
    other = "float64" if dtype == "float32" else "float32"
    for wrong in (p.w.w_hh[:, ::-1], p.w.w_hh.astype(other)):
        with pytest.raises(ValueError, match="contiguous"):
            found.forward(p.w._replace(w_hh=wrong), None, p.gates, p.h, p.c, None)
    for wrong in (p.gates[:, ::-1], p.gates.swapaxes(1, 2), np.ascontiguousarray(p.gates), p.gates.astype(other)):
        with pytest.raises(ValueError, match="contiguous"):
            found.forward(p.w, None, wrong, p.h, p.c, None)


def other_shapes(array) -> list[np.ndarray]:
    """Arrays like this one, of shapes that are not its own: as they would be broadcast, cut or read beyond."""
    shapes = [(*array.shape[:axis], length, *array.shape[axis + 1:]) for axis, there in enumerate(array.shape)
              for length in (1, there - 1, there + 1, 2 * there)]
    return [np.zeros(shape, array.dtype) for shape in [*shapes, array.shape[1:], (*array.shape, 1)]]


def misplaced(array) -> list[np.ndarray]:
    """The same, of the right shape: with rows that overlap, that go backwards, or at an odd address."""
    odd = np.zeros(array.nbytes + 1, np.uint8)[1:].view(array.dtype).reshape(array.shape)
    odd = odd if array.flags.c_contiguous else np.moveaxis(odd.reshape(*array.shape[1:], array.shape[0]), -1, 0)
    return [np.broadcast_to(array[:1], array.shape), array[::-1], odd]


@needs_compiler
@pytest.mark.parametrize("name", ["w_ih", "w_hh", "bias", "x", "gates", "h", "c", "keep", "dy", "dh", "dc", "dx"])
def test_arrays_of_another_shape_or_place_are_refused(compiled, name):
    """The loops look at nothing: they would read and write beyond. Which array is at fault may show in another's name."""
    dtype, found = compiled
    p = Problem(dtype, 3, 2, 4, 5, keep=True)

    def forward(w, a) -> None:
        found.forward(w, a["x"], a["gates"], a["h"], a["c"], a["keep"])

    def backward(w, a) -> None:
        found.backward(w, a["gates"], a["c"], a["keep"], a["dy"], a["dh"], a["dc"], a["dx"])

    names = {forward: ("w_ih", "w_hh", "bias", "x", "gates", "h", "c", "keep"),
             backward: ("w_ih", "w_hh", "gates", "c", "keep", "dy", "dh", "dc", "dx")}
    right = vars(p) | p.w._asdict()
    for call, taken in names.items():
        call(p.w, right)
        for wrong in other_shapes(right[name]) + misplaced(right[name]) if name in taken else []:
            spoilt = right | {name: wrong}
            with pytest.raises(ValueError, match="contiguous|unpack|without gaps"):
                call(lstm.Weights(*(spoilt[part] for part in ("w_ih", "w_hh", "bias"))), spoilt)


@needs_compiler
@pytest.mark.parametrize("name", ["w_ih", "w_hh", "bias", "weight", "head_bias", "table", "h", "c", "logits"])
def test_a_step_over_arrays_of_another_shape_is_refused(compiled, name):
    dtype, found = compiled
    count, hidden, symbols, n = 2, 4, 7, 3

    def states() -> np.ndarray:
        made = kernels.host.activations((count, hidden, n), 1, dtype)
        made[...] = 0
        return made

    right = {"w_ih": np.zeros((4 * hidden, hidden), dtype), "w_hh": np.zeros((4 * hidden, hidden), dtype),
             "bias": np.zeros(4 * hidden, dtype), "weight": np.zeros((symbols, hidden), dtype),
             "head_bias": np.zeros(symbols, dtype), "table": lanes(np.zeros((4 * hidden, symbols), dtype)),
             "h": states(), "c": states(), "logits": lanes(np.zeros((symbols, n), dtype))}

    def stepper(a, layers=count):
        layers = layers * [(a["w_ih"], a["w_hh"], a["bias"])]
        return found.stepper(layers, (a["weight"], a["head_bias"]), a["table"], a["h"], a["c"], a["logits"])

    stepper(right)(np.array([0, 1, 2]))
    for layers in (0, 1, 3):
        with pytest.raises(ValueError, match=f"{layers} layers, not 2"):
            stepper(right, layers)
    for wrong in other_shapes(right[name]) + misplaced(right[name]):
        with pytest.raises(ValueError, match="contiguous|unpack|layers"):
            stepper(right | {name: wrong})


@needs_compiler
def test_the_first_steps_of_longer_arrays(compiled):
    """What is beyond the steps stays as it is."""
    dtype, found = compiled
    p, q = Problem(dtype, 5, 3, 4, 6, True), Problem(dtype, 5, 3, 4, 6, True)
    x, gates, dy, dx = (a[:, :3] for a in (p.x, p.gates, p.dy, p.dx))
    short = [lanes(a) for a in (x, gates, dy, dx, p.h[:, :4], p.c[:, :4])]
    dh, dc = lanes(p.dh), lanes(p.dc)
    found.forward(p.w, x, gates, p.h[:, :4], p.c[:, :4], p.keep[:3])
    found.forward(p.w, short[0], short[1], *short[4:], p.keep[:3])
    found.backward(p.w, gates, p.c[:, :4], p.keep[:3], dy, p.dh, p.dc, dx)
    found.backward(p.w, short[1], short[5], p.keep[:3], short[2], dh, dc, short[3])
    for a, b in ((gates, short[1]), (dx, short[3]), (p.h[:, :4], short[4]), (p.c[:, :4], short[5]), (p.dh, dh)):
        assert (a == b).all()
    assert all((a[:, 4:] == b[:, 4:]).all() for a, b in ((p.gates, q.gates), (p.h, q.h), (p.c, q.c)))


def about(**environment) -> str:
    """What another process says of its recurrence, after one step of training and a few characters of a text."""
    code = ("import numpy as np, rnncore; from rnncore.kernels.cpu import native\n"
            "m = rnncore.CharLM(rnncore.ModelConfig(3, 4, 5, 1), rnncore.Vocab.from_text('abc'), 'cpu')\n"
            "x = np.zeros((4, 2), int); assert np.isfinite(m.loss_and_grads(x, x)[0])\n"
            "assert len(''.join(rnncore.generate(m, length=9))) == 9; print(native.about())")
    done = subprocess.run([sys.executable, "-c", code], env={**os.environ, **environment}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_numpy_does_the_work_where_it_is_switched_off():
    assert about(RNNCORE_NATIVE="0") == "NumPy: the compiled recurrence is switched off by RNNCORE_NATIVE=0\n"


def program(path, lines: str = "exit 0") -> str:
    path.write_text(f"#!/bin/sh\n{lines}\n")
    path.chmod(0o755)
    return str(path)


def test_numpy_does_the_work_where_there_is_no_compiler(tmp_path):
    program(tmp_path / "apk")
    assert about(PATH=str(tmp_path), CXX="", CONDA_PREFIX="") == (
        "NumPy: training on the CPU takes about 1.2 to 1.5 times as long, because no C++ compiler was found (c++, g++, "
        "clang++): `apk add g++` installs one\n")


@pytest.mark.parametrize("programs, conda, words", [
    ("apt-get sudo", "", "`sudo apt-get install g++` installs one"), ("apt-get", "", "`apt-get install g++` installs one"),
    ("sudo dnf", "", "`sudo dnf install gcc-c++` installs one"), ("pacman", "", "`pacman -S gcc` installs one"),
    ("sudo xcode-select", "", "`xcode-select --install` installs one"), ("sudo", "", "install g++ or clang++"),
    ("sudo apt-get", "/opt/conda", "`conda install -c conda-forge cxx-compiler` installs one")])
def test_the_command_that_installs_a_compiler(tmp_path, monkeypatch, programs, conda, words):
    for name in programs.split():
        program(tmp_path / name)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("CONDA_PREFIX", conda)
    assert cure() == words


def test_numpy_does_the_work_where_the_compiler_fails(tmp_path):
    broken = program(tmp_path / "broken-c++", "[ \"$1\" = --version ] && echo broken && exit 0\n"
                                              "echo in file >&2; echo error: no header >&2; echo 1 error >&2; exit 1")
    said = about(CXX=broken, XDG_CACHE_HOME=str(tmp_path))
    assert said.endswith(f", because the C++ compiler could not be used ({broken} ended with exit code 1: error: no header)\n")


def test_a_compiler_without_a_version_is_none(tmp_path):
    """As c++ on macOS before the command line tools are installed."""
    broken, _ = program(tmp_path / "broken-c++", "exit 1"), program(tmp_path / "xcode-select")
    assert about(CXX=broken, PATH=str(tmp_path), CONDA_PREFIX="").endswith(
        f"({broken} --version ended with exit code 1: `xcode-select --install` installs one)\n")


@needs_compiler
def test_nothing_is_slower_with_a_compiler():
    assert kernels.host.why_slower("float32") is None and native.about().startswith("compiled by")


def test_nobody_is_told_of_loops_that_no_run_would_use(monkeypatch):
    monkeypatch.setattr(native, "_load", lambda precision: (None, "there is no compiler"))
    assert kernels.host.why_slower("float64") is None and "there is no compiler" in kernels.host.why_slower("float32")
    monkeypatch.setenv("RNNCORE_NATIVE", "0")
    assert kernels.host.why_slower("float32") is None


@needs_compiler
def test_a_cache_that_others_can_write_is_not_trusted(tmp_path):
    (tmp_path / "rnncore").mkdir()
    (tmp_path / "rnncore").chmod(0o777)
    assert "can be written by others" in about(XDG_CACHE_HOME=str(tmp_path))


@needs_compiler
def test_the_library_is_made_once_and_kept_and_made_anew_where_it_is_damaged(tmp_path):
    assert about(XDG_CACHE_HOME=str(tmp_path)).startswith("compiled by")
    (made,) = (tmp_path / "rnncore").iterdir()
    before = made.stat().st_mtime_ns
    assert about(XDG_CACHE_HOME=str(tmp_path)).startswith("compiled by") and made.stat().st_mtime_ns == before
    made.write_bytes(made.read_bytes()[:3000])
    assert about(XDG_CACHE_HOME=str(tmp_path)).startswith("compiled by") and made.stat().st_size > 3000


@needs_compiler
@pytest.mark.parametrize("size", [*SIZES, (2, 5, 128, 13), (3, 1, 130, 1), (2, 3, 16, 3), (2, 33, 17, 31), (2, 32, 32, 65)])
def test_bf16_computes_the_formulas_with_rounded_operands(bf16, size):
    steps, inputs, hidden, n = size
    found = agreement._loops(bf16, n, agreement.rounded, steps, inputs, hidden)
    assert found < agreement.TOLERANCE
    assert agreement._loops(bf16, n, lambda a: a, steps, inputs, hidden) > 1e-4  # rounding can be seen


def test_rounding_to_bfloat16():
    """Ties go to the even neighbour; torch and the processor's own instruction do the same."""
    bits = np.array([0x3F800000, 0x3F808000, 0x3F818000, 0x3F808001, 0x3F80FFFF, 0xBF808001, 0x7F7FFFFF, 0x7F800000], "u4")
    wanted = np.array([0x3F800000, 0x3F800000, 0x3F820000, 0x3F810000, 0x3F810000, 0xBF810000, 0x7F800000, 0x7F800000], "u4")
    assert (agreement.rounded(bits.view(np.float32)) == wanted.view(np.float32)).all()


@needs_compiler
@pytest.mark.parametrize("shape", [(1, 1, 1), (3, 5, 2), (65, 128, 50), (7, 1025, 33), (40, 3, 129), (2, 0, 3)])  # R, M, C
@pytest.mark.parametrize("order", ["rows", "columns", "batch"])
def test_products_in_bf16(bf16, shape, order):
    """Every order of the two sides and of the result, added and not; blocks of the depth."""
    rows, depth, columns = shape
    draw = np.random.default_rng(3).standard_normal
    a, b = (draw(size).astype(np.float32) for size in ((2, rows, depth), (2, depth, columns)))
    before = draw((2, rows, columns)).astype(np.float32)
    wanted = agreement.rounded(a) @ agreement.rounded(b)

    def sides(x):
        return x, np.ascontiguousarray(x.swapaxes(-1, -2)).swapaxes(-1, -2)

    for x in sides(a):
        for y in sides(b):
            out = sides(before.copy())[order == "columns"]
            if order == "batch":
                bf16.product(x, y, out, False)
                assert difference(out, wanted) < 1e-5
                bf16.product(x[0], y, out, True)
                assert difference(out, wanted + agreement.rounded(a[0]) @ agreement.rounded(b)) < 1e-5
            else:
                bf16.product(x[0], y[0], out[0], False)
                bf16.product(x[1], y[1], out[1], True)
                assert difference(out, wanted + [[[0]], before[1:2]][1] * [[[0]], [[1]]]) < 1e-5


@needs_compiler
def test_a_product_of_arrays_that_do_not_fit_is_refused(bf16):
    a, b, out = (np.zeros(shape, np.float32) for shape in ((3, 4), (4, 5), (3, 5)))
    for wrong in [(a[:2], b, out), (a, b[:3], out), (a, b, out[:, :4]), (a.astype(np.float64), b, out),
                  (a, b, np.zeros((3, 10), np.float32)[:, ::2][:, ::1][::-1, ::-1]), (a[None], b, np.zeros((2, 3, 5), "f"))]:
        with pytest.raises(ValueError, match="product|contiguous"):
            bf16.product(*wrong)


@needs_compiler
def test_columns_are_added_in_their_order(compiled):
    dtype, found = compiled
    rng, ids = np.random.default_rng(4), np.random.default_rng(5).integers(0, 6, 40)
    table, columns = lanes(rng.standard_normal((9, 6)).astype(dtype)), lanes(rng.standard_normal((9, 40)).astype(dtype))
    wanted = table.copy()
    for k, symbol in enumerate(ids):
        wanted[:, symbol] += columns[:, k]
    found.scatter_add(table[2:7], ids, columns[2:7])
    assert (table[2:7] == wanted[2:7]).all() and not (table == wanted).all()


class Spoilt:
    """The compiled loops with one argument spoilt on its way. `wrong` gets the arrays by name."""

    def __init__(self, real, wrong):
        self.real, self.wrong = real, wrong

    def forward(self, w, x, gates, h, c, keep):
        keep = keep.copy()
        self.wrong({"keep": keep})
        self.real.forward(w, x, gates, h, c, keep)

    def backward(self, w, gates, c, keep, dy, dh, dc, dx):
        dy, keep = dy.copy("K"), keep.copy()
        self.wrong({"keep": keep, "dy": dy, "dh": dh, "dc": dc})
        self.real.backward(w, gates, c, keep, dy, dh, dc, dx)
        self.wrong({"gates": gates, "dx": dx})

    def stepper(self, layers, head, table, h, c, logits):
        table = table.copy("K")
        self.wrong({"table": table})
        advance = self.real.stepper(layers, head, table, h, c, logits)

        def spoilt(ids):
            advance(ids)
            self.wrong({"h": h, "c": c, "logits": logits})
        return spoilt


def off(name: str, *place, factor: float = 1.001):
    """A fault: one number, row, column or step of the array `name` is a little off."""
    def wrong(arrays):
        if name in arrays:
            arrays[name][place] *= np.float32(factor)
    return wrong


@needs_compiler
@pytest.mark.parametrize("precision", ["float32", "bf16"])
@pytest.mark.parametrize("wrong", [
    off("dx", 3), off("dx", slice(None), 1), off("dx", slice(None), slice(None), 0), off("gates", 5, 2),
    off("dy", slice(None), 0), off("dh", 1), off("dc", 2), off("keep", 1, factor=0), off("keep", slice(None), -1, factor=2),
    off("h", 1, 3), off("c", 0, slice(None), -1), off("logits", 2), off("table", slice(None), 3)])
def test_arithmetic_that_is_wrong_is_not_taken(precision, wrong):
    """The check that a library must pass first, with one row, column or step off by a thousandth: less than a bfloat16 has."""
    real = native.Recurrence(native.build(precision), precision)
    assert agreement.error(real, precision) < agreement.TOLERANCE < agreement.error(Spoilt(real, wrong), precision)


@needs_compiler
@pytest.mark.parametrize("precision, right, wrong", [
    ("bf16", "both.put(s, 0, h - size + s * hidden", "both.put(s, 0, h + s * hidden"),
    ("float32", "std::clamp(ids[s], 0L, symbols - 1)", "std::clamp(ids[0], 0L, symbols - 1)"),
    ("bf16", "single.take(h - size, n, hidden), n, {biases[layers], 0}", "single.take(h - size, n, hidden), n, {biases[0], 0}"),
    ("bf16", "from.put(s, first, h + s * hidden, hidden, keep ? keep[t * n + s] : 1)", "from.put(s, first, h + s * hidden, hidden)"),
    ("float32", "dh[s * hidden + k] *= keep[t * n + s]", "dh[s * hidden + k] *= keep[t * n]"),
    ("bf16", "weights.pack(w_hh, hidden, 1, first, hidden)", "weights.pack(w_hh, hidden, 1, first, hidden - 1)"),
    ("float32", "if (n >= FEW) input.times(from, n, {nullptr, 0}, dx + t * n * inputs",
     "if (n >= FEW) input.times(from, n, {nullptr, 0}, dx + (steps - 1 - t) * n * inputs"),
    ("bf16", "if (k + E::PER_WORD <= depth)", "if (k + E::PER_WORD < depth)"),
    ("float32", "sum[s][k / LANES][k % LANES]", "sum[s][0][k % LANES]"),
    ("float32", "a + v / VECTORS * panel + v % VECTORS * LANES", "a + v % VECTORS * LANES")])
def test_an_error_planted_in_the_loops_is_seen(precision, right, wrong, tmp_path, monkeypatch):
    found = with_an_error(precision, right, wrong, tmp_path, monkeypatch)
    assert not agreement.error(found, precision) < agreement.TOLERANCE


def with_an_error(precision, right, wrong, tmp_path, monkeypatch) -> native.Recurrence:
    """What is compiled of a copy of the sources that has `wrong` in place of `right`: it must not be taken."""
    folder, found = tmp_path / "cpu", 0
    folder.mkdir()
    for name in native.SOURCES:
        text = (native.HERE / name).read_text(encoding="utf-8")
        found += text.count(right)
        (folder / name).write_text(text.replace(right, wrong), encoding="utf-8")
    assert found == 1, f"the sources no longer have just once: {right}"
    monkeypatch.setattr(native, "HERE", folder)
    monkeypatch.setattr(native, "FLAGS", ("-std=c++17", "-O0", "-march=native", "-fPIC", "-shared"))
    return native.Recurrence(native._compile(native.compiler(), "wrong", tmp_path, precision), precision)


@needs_compiler
@pytest.mark.parametrize("precision, flags", [
    ("float32", ("-DWIDEST=16",)), ("float32", ("-DWIDEST=64", "-DMOST=12")), ("bf16", ("-DWIDEST=64", "-DMOST=12"))], ids=str)
def test_vectors_of_other_processors(precision, flags, tmp_path, monkeypatch):
    """The panels and tiles of other processors: the compiler puts several short vectors in the place of a wide one."""
    monkeypatch.setattr(native, "FLAGS", ("-std=c++17", "-O1", "-march=native", "-fPIC", "-shared", *flags))
    found = native.Recurrence(native._compile(native.compiler(), "other", tmp_path, precision), precision)
    assert agreement.error(found, precision) < agreement.TOLERANCE


@needs_compiler
def test_what_the_loops_point_to_lives_as_long_as_they_run():
    """Two threads that free and take memory of their own must not change a bit."""
    def once():
        model = rnncore.CharLM(rnncore.ModelConfig(5, 3, 8, 2), rnncore.Vocab.from_text("abcde"), "cpu", "float32")
        model.threads = 2
        _ = [np.random.rand(k) for k in np.random.randint(1, 4000, 20)]
        loss, grads, _ = model.loss_and_grads(x, y, dropout=Dropout(0.3, 3, 1, True, 0.2))
        return loss, grads.flat.tobytes()

    x, y = np.random.default_rng(0).integers(0, 5, (2, 10, 4))
    assert len({once() for _ in range(200)}) == 1


@needs_compiler
def test_memory_that_is_not_there_is_pythons_error():
    code = ("import numpy as np, resource, rnncore; from rnncore.kernels.cpu import native\n"
            "from rnncore.nn.lstm import Weights\n"
            "f = native.Recurrence(native.build(), 'float32'); H = 1500; z = np.zeros\n"
            "w = Weights(z((4*H, H), 'f'), z((4*H, H), 'f'), z(4*H, 'f'))\n"
            "from rnncore import kernels\n"
            "a = [kernels.host.activations(s, 0, 'f') for s in ((H, 1, 2), (4*H, 1, 2), (H, 2, 2), (H, 2, 2))]\n"
            "used = int(open('/proc/self/statm').read().split()[0]) * resource.getpagesize()\n"
            "resource.setrlimit(resource.RLIMIT_AS, (used + 20_000_000,) * 2)\n"
            "try:\n    f.forward(w, *a, None)\nexcept MemoryError:\n    print('caught')")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == "caught\n", done.stderr
