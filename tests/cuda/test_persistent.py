"""persistent.cu, tagged.cu and persistent.py under the emulator, against a time loop in float64 that shares no code with the engine."""
import contextlib
import functools
import importlib
import re
import shutil
from pathlib import Path

import cupy_stand_in
import emulate
import numpy as np
import pytest

from rnncore.kernels import cuda

pytestmark = pytest.mark.skipif(shutil.which("g++") is None, reason="no g++ on this machine")
BOUND = {"tf32": 1e-3, "bf16": 1e-2}  # against the formulas, of an array's largest number
ROOT = Path(cuda.__file__).parent
CLOSE = 1e-3                           # against the formulas on operands rounded alike; seen: 2e-4


class RawKernel:
    """cupy.RawKernel under the emulator; every launch takes the seed that the test has set."""
    seed, arch = 0, 800

    def __init__(self, code, name, options=(), enable_cooperative_groups=False):
        self.make = code, name, (*options, f"-D__CUDA_ARCH__={self.arch}")
        self.cooperative = enable_cooperative_groups

    def __call__(self, grid, block, args, shared_mem=0):
        emulate.kernel(*self.make)(grid, block, args, shared_mem, seed=RawKernel.seed, cooperative=self.cooperative)


@contextlib.contextmanager
def imported():
    """kernels/cuda/persistent.py over NumPy arrays."""
    with cupy_stand_in.installed() as card:
        card.xp.RawKernel, card.xp.zeros = RawKernel, np.zeros
        yield importlib.import_module("rnncore.kernels.cuda.persistent")


@pytest.fixture(scope="module")
def persistent():
    with imported() as module:
        yield module


def sigmoid(z):
    return 1 / (1 + np.exp(-z))


def in_half(x):
    return np.asarray(x, np.float16).astype(np.float64)


def in_bfloat(x):
    bits = np.asarray(x, np.float32).view(np.uint32).astype(np.uint64)
    return ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16 << 16).astype(np.uint32).view(np.float32).astype(np.float64)


ROUNDED = {"tf32": in_half, "bf16": in_bfloat}


def as_sent(dz, precision):
    """dz as the tagged kernels send it: gate o has one bit less."""
    *others, o = np.split(ROUNDED[precision](dz), 4)
    mantissa, exponent = np.frexp(o)
    bits = {"tf32": np.clip(exponent + 23, 0, 10), "bf16": 7}[precision]  # half has fewer below 2^-14
    return np.concatenate([*others, np.ldexp(np.round(np.ldexp(mantissa, bits)), exponent - bits)])


def reference(w, z, h0, c0, keep, dy, dh, dc, rounded=np.asarray, sent=None):
    """Forward and backward in float64, a step after the other: (i f g o), h, c; then dz, dh, dc at the initial state.

    rounded: what is done to the operands of products. sent: what is done to dz, if it is something else.
    """
    sent = sent or rounded
    w, z, dh, dc = (np.array(a, np.float64) for a in (rounded(w), z, dh, dc))
    hidden, (_, steps, n) = w.shape[1], z.shape
    keep = np.ones((steps, n)) if keep is None else keep
    h, c, activations = [np.array(h0, float)], [np.array(c0, float)], []
    for t in range(steps):
        i, f, g, o = (z[:, t] + w @ rounded(keep[t] * h[t])).reshape(4, hidden, n)
        i, f, g, o = sigmoid(i), sigmoid(f), np.tanh(g), sigmoid(o)
        c.append(f * keep[t] * c[t] + i * g)
        h.append(o * np.tanh(c[t + 1]))
        activations.append((i, f, g, o))
    dz = np.zeros_like(z)
    for t in reversed(range(steps)):
        (i, f, g, o), tanh_c, before = activations[t], np.tanh(c[t + 1]), keep[t] * c[t]
        dh = dh + dy[:, t]
        dc = dc + dh * o * (1 - tanh_c ** 2)
        dz[:, t] = np.concatenate([dc * g * i * (1 - i), dc * before * f * (1 - f), dc * i * (1 - g * g), dh * tanh_c * o * (1 - o)])
        dh, dc = keep[t] * (w.T @ sent(dz[:, t])), keep[t] * dc * f
    stacked = np.moveaxis(np.array(activations).reshape(steps, 4 * hidden, n), 0, 1)
    return {"gates": stacked, "h": np.moveaxis(h, 0, 1), "c": np.moveaxis(c, 0, 1), "dz": dz, "dh": dh, "dc": dc}


def wide(array, longer: int):
    """The same numbers as a view on the first steps of an array that has more."""
    whole = np.full((len(array), array.shape[1] + longer, array.shape[2]), np.nan, np.float32)
    whole[:, :array.shape[1]] = array
    return whole[:, :array.shape[1]]


def case(hidden, steps, n, documents, seed=0):
    draw = np.random.default_rng(seed)
    w = (draw.standard_normal((4 * hidden, hidden)) / hidden ** 0.5).astype(np.float32)
    shapes = (4 * hidden, steps, n), (hidden, n), (hidden, n), (hidden, steps, n), (hidden, n), (hidden, n)
    z, h0, c0, dy, dh, dc = (draw.standard_normal(shape).astype(np.float32) for shape in shapes)
    keep = (draw.random((steps, n)) > 0.3).astype(np.float32) if documents else None
    return w, z, np.tanh(h0), c0, keep, dy, dh, dc


def run(layer, w, z, h0, c0, keep, dy, dh, dc, longer=0, precision="tf32", xp=np):
    """As `reference`, by the kernels on arrays of xp, of `longer` more steps; NumPy's are returned."""
    hidden, (_, steps, n), host = w.shape[1], z.shape, getattr(xp, "asnumpy", np.asarray)
    h, c = (np.full((hidden, steps + 1, n), np.nan) for _ in "hc")
    h[:, 0], c[:, 0] = h0, c0
    h, c, gates, dy = (xp.asarray(wide(a, longer).base)[:, :a.shape[1]] for a in (h, c, z, dy))
    w, keep, dh, dc = (None if a is None else xp.array(a) for a in (w, keep, dh, dc))
    if layer.kernels == "persistent":
        layer.forward(w, gates, h, c, keep)
        activations = gates.copy()
        layer.backward(w, gates, c, keep, dy, dh, dc)
        return {name: host(a) for name, a in {"gates": activations, "h": h, "c": c, "dz": gates, "dh": dh, "dc": dc}.items()}
    y, before, dz = (xp.full((rows, steps + longer, n), 0x7E01, np.uint16)[:, :steps] for rows in (hidden, hidden, 4 * hidden))
    layer.forward(w, xp.zeros(4 * hidden, np.float32), gates, None, gates, h, c, keep, y, before)
    last, (dh, dc) = (dh, dc), xp.full((2, hidden, n), np.nan, np.float32)
    layer.backward(w, gates, c, keep, dy, last, dh, dc, dz)
    h, y, before, dz = host(h), *(opened(host(a), precision) for a in (y, before, dz))
    np.testing.assert_array_equal(y, ROUNDED[precision](h[:, 1:]))
    np.testing.assert_array_equal(before, ROUNDED[precision](h[:, :-1] * (1 if keep is None else host(keep))))
    return {"gates": host(gates), "h": h, "c": host(c), "dz": dz, "dh": host(dh), "dc": host(dc)}


def opened(numbers, precision):
    """16-bit numbers as float64."""
    if precision == "tf32":
        return np.ascontiguousarray(numbers).view(np.float16).astype(np.float64)
    return (numbers.astype(np.uint32) << 16).view(np.float32).astype(np.float64)


def error(found, wanted) -> float:
    """The largest difference of any array, of that array's largest number; NaN where a number is missing."""
    return float(np.max([np.abs(found[name] - wanted[name]).max() / np.abs(wanted[name]).max() for name in wanted]))


KERNELS = "persistent", "tagged"


def loops(persistent, kernels: str):
    return {"persistent": persistent.Persistent, "tagged": persistent.Tagged}[kernels]


SMALL = [  # hidden, steps, n, multiprocessors, precision, __CUDA_ARCH__; twice as many multiprocessors for the tagged kernels
    (64, 5, 3, 132, "tf32", 800), (64, 1, 8, 132, "tf32", 800), (64, 3, 17, 1, "tf32", 800),
    (192, 4, 11, 4, "tf32", 800), (192, 3, 16, 132, "tf32", 800)]
LARGE = [
    (128, 3, 11, 132, "tf32", 750), (128, 3, 11, 132, "bf16", 800), (256, 3, 20, 8, "tf32", 800), (320, 3, 9, 132, "tf32", 750),
    (512, 2, 18, 16, "tf32", 800), (512, 2, 5, 132, "bf16", 800), (640, 2, 9, 40, "tf32", 800), (1024, 2, 3, 132, "tf32", 800)]


def errors(persistent, hidden, steps, n, multiprocessors, precision, arch, seed, kernels="persistent",
           **options) -> tuple[float, float]:
    """Against the formulas as they are, and on operands rounded as the kernels' are."""
    multiprocessors *= 1 if kernels == "persistent" or hidden > 256 else 2
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RawKernel, "seed", seed)
        patch.setattr(RawKernel, "arch", arch)
        layer = loops(persistent, kernels)(hidden, steps, n, precision, arch // 10, multiprocessors, **options)
        given = case(hidden, steps, n, documents=seed % 2 == 1)
        found = run(layer, *given, longer=seed % 3, precision=precision)
    sent = functools.partial(as_sent, precision=precision) if kernels == "tagged" else None
    return error(found, reference(*given)), error(found, reference(*given, ROUNDED[precision], sent))


@pytest.mark.parametrize("seed", [0, 5])  # in order; at random, with documents, in longer arrays
@pytest.mark.parametrize("size", SMALL)
@pytest.mark.parametrize("kernels", KERNELS)
def test_both_loops_equal_the_formulas(persistent, kernels, size, seed):
    plain, rounded = errors(persistent, *size, seed, kernels)
    assert plain < BOUND[size[4]] and rounded < CLOSE


@pytest.mark.parametrize(("kernels", "size"), [("persistent", size) for size in LARGE] + [("tagged", size) for size in LARGE[::2] + LARGE[-1:]])
def test_both_loops_of_larger_layers_equal_the_formulas(persistent, kernels, size):
    plain, rounded = errors(persistent, *size, seed=5, kernels=kernels)
    assert plain < BOUND[size[4]] and rounded < CLOSE * (4 if size[4] == "bf16" else 1)


def test_a_batch_may_be_worked_off_in_several_chunks_by_few_blocks(persistent):
    assert persistent.geometry(192, 11, 4) == (64, 3, 16, 1, 1)
    assert persistent.geometry(512, 100, 132) == (32, 16, 16, 7, 7)
    assert persistent.geometry(512, 60, 132) == (32, 16, 8, 8, 8)
    assert persistent.geometry(1024, 128, 132) == (16, 64, 16, 8, 2)
    assert persistent.geometry(128, 50, 132) == (128, 1, 8, 7, 7)
    assert persistent.geometry(128, 50, 132, "tagged") == (32, 4, 8, 7, 7)
    assert persistent.geometry(256, 130, 132, "tagged") == (32, 8, 16, 9, 9)
    assert persistent.geometry(512, 100, 132, "tagged") == persistent.geometry(512, 100, 132)


@pytest.mark.parametrize(("asked", "words"), [
    ((512, 64, "float32", 90, 132), "not in float32"), ((512, 64, "tf32", 70, 80), "75"), ((512, 64, "bf16", 75, 40), "80"),
    ((100, 64, "tf32", 90, 132), "multiple of 64"), ((2048, 64, "tf32", 90, 132), "multiple of 64"), ((0, 1, "tf32", 90, 132), "64"),
    ((1024, 8, "tf32", 75, 40), "needs 64 multiprocessors"), ((1024, 4096, "bf16", 90, 132), "too many"),
    ((64, 8, "tf32", 75, 1, "tagged"), "needs 2 multiprocessors"), ((128, 4096, "tf32", 75, 132, "tagged"), "too many")])
def test_what_does_not_fit_is_refused_in_one_line(persistent, asked, words):
    reason = persistent.why_not(*asked)
    assert words in reason and "\n" not in reason
    hidden, *others = asked
    with pytest.raises(ValueError, match=words):
        loops(persistent, "".join(others[4:]) or "persistent")(hidden, 5, *others[:4])


def test_every_such_size_fits_an_h200_and_no_sequence_is_left_out(persistent):
    for hidden in range(64, 1025, 64):
        for n in (1, 9, 50, 128):
            for multiprocessors in (64, 108, 132):
                for kernels in KERNELS:
                    shape = persistent.geometry(hidden, n, multiprocessors, kernels)
                    assert shape.units * shape.members == hidden and shape.chunks * shape.columns >= n
                    assert shape.members == 1 or shape.members * shape.groups <= multiprocessors
            assert [persistent.why_not(hidden, n, "bf16", 90, 132, kernels) for kernels in KERNELS] == [None, None]


@pytest.mark.parametrize("spoil", [
    lambda a: {"w": a["w"].T}, lambda a: {"z": a["z"].astype(np.float64)}, lambda a: {"z": a["z"][:, :, :2]},
    lambda a: {"dy": a["dy"].transpose(0, 2, 1)}, lambda a: {"dh": a["dh"][:, ::2]}])
def test_arrays_that_the_kernels_cannot_take_are_refused(persistent, spoil):
    layer = persistent.Persistent(64, 4, 4, "tf32", 80, 132)
    given = dict(zip(("w", "z", "h", "c", "keep", "dy", "dh", "dc"), case(64, 4, 4, True), strict=True))
    given |= spoil(given)
    h = np.zeros((64, 5, 4), np.float32)
    with pytest.raises(ValueError):
        layer.forward(given["w"], given["z"], h, h.copy(), given["keep"])
        layer.backward(given["w"], given["z"], h, given["keep"], given["dy"], given["dh"], given["dc"])


@pytest.mark.parametrize(("name", "spoil"), [
    ("bias", lambda a: a[:-1]), ("z", lambda a: a[:64]), ("ids", lambda a: a.astype(np.int32)), ("ids", lambda a: a[:1]),
    ("ids", lambda a: np.asfortranarray(a)), ("y", lambda a: a.astype(np.float32)), ("y", lambda a: wide(a, 1).view(np.uint16)),
    ("before", lambda a: a.transpose(0, 2, 1))])
def test_arrays_that_the_tagged_kernels_cannot_take_are_refused(persistent, name, spoil):
    layer = persistent.Tagged(64, 3, 4, "tf32", 80, 12)
    given = inputs(64, 3, 4)
    given[name] = spoil(given[name])
    with pytest.raises(ValueError, match="16 bits|ids must be|do not fit"):
        layer.forward(*given.values())


def inputs(hidden, steps, n, symbols=7, seed=1):
    """The arguments of Tagged.forward, which looks its input up."""
    draw = np.random.default_rng(seed)
    w, _, h0, c0, keep, *_ = case(hidden, steps, n, True, seed)
    h, c = np.zeros((2, hidden, steps + 1, n), np.float32)
    h[:, 0], c[:, 0] = h0, c0
    bias, table = (draw.standard_normal(shape).astype(np.float32) for shape in (4 * hidden, (4 * hidden, symbols)))
    return {"w": w, "bias": bias, "z": table, "ids": draw.integers(0, symbols, (steps, n)),
            "gates": np.full((4 * hidden, steps, n), np.nan, np.float32), "h": h, "c": c, "keep": keep,
            "y": np.zeros((hidden, steps, n), np.uint16), "before": np.zeros((hidden, steps, n), np.uint16)}


@pytest.mark.parametrize("seed", [0, 5])
def test_the_tagged_kernels_add_the_bias_and_look_their_input_up(persistent, monkeypatch, seed):
    """The ids choose columns of a table; the result is that of the formulas for those columns and the bias."""
    monkeypatch.setattr(RawKernel, "seed", seed)
    given = inputs(192, 4, 20)
    z = given["z"][:, given["ids"]] + given["bias"][:, None, None]
    h0, c0 = given["h"][:, 0].copy(), given["c"][:, 0].copy()
    persistent.Tagged(192, 4, 20, "tf32", 80, 6).forward(*given.values())
    nothing = np.zeros((192, 4, 20)), np.zeros((192, 20)), np.zeros((192, 20))
    wanted = reference(given["w"], z, h0, c0, given["keep"], *nothing, in_half)
    for name in ("gates", "h", "c"):
        assert np.abs(given[name] - wanted[name]).max() < CLOSE, name


def launches(persistent) -> bool:
    """Whether any number of launches, forward and backward in any order, are right after those before them."""
    layer, w, z, h0, c0, keep, *_ = persistent.Tagged(192, 3, 20, "tf32", 80, 6, spins=2000), *case(192, 3, 20, True)
    found, bias = [], np.zeros(768, np.float32)
    for backward in (False, False, False, True, True, False, True):
        h, c = np.zeros((2, 192, 4, 20), np.float32)
        h[:, 0], c[:, 0], gates = h0, c0, z.copy()
        y, before, dz = (np.zeros((rows, 3, 20), np.uint16) for rows in (192, 192, 768))
        layer.forward(w, bias, gates, None, gates, h, c, keep, y, before)
        dh, dc = np.zeros((2, 192, 20), np.float32)
        if backward:
            layer.backward(w, gates, c, keep, h[:, 1:].copy(), None, dh, dc, dz)
        found.append((backward, h, dz, dh))
    return all((h == found[0][1]).all() and (not backward or dh.any() and (dz == found[3][2]).all() and (dh == found[3][3]).all())
               for backward, h, dz, dh in found)


def test_launches_take_turns_with_the_halves_of_the_exchange(persistent, monkeypatch):
    monkeypatch.setattr(RawKernel, "seed", 3)
    assert launches(persistent)


@pytest.mark.parametrize("precision", BOUND)
def test_gradients_are_rounded_to_the_nearest_as_they_are_sent(persistent, precision):
    """dh of the initial state is W_hh^T times the dz that the kernel itself computed, as sent."""
    layer = persistent.Tagged(128, 1, 8, precision, 80, 12)
    w, *given = case(128, 1, 8, False)
    found = run(layer, w, *given, precision=precision)
    wanted = ROUNDED[precision](w).T @ as_sent(found["dz"][:, 0], precision)
    assert np.abs(found["dh"] - wanted).max() < 1e-6 * np.abs(wanted).max()


def test_a_number_that_is_none_stays_in_its_sequence_and_is_seen(persistent):
    """The tag takes a bit of each number that the tagged kernels send. The h of a NaN's own step is NaN all the same."""
    layer = persistent.Tagged(192, 4, 11, "tf32", 80, 12)
    w, z, h0, c0, _, dy, dh, dc = case(192, 4, 11, False)
    wanted = run(layer, w, z.copy(), h0, c0, None, dy, dh, dc)
    others = [column for column in range(11) if column not in (3, 5, 8)]
    # in gate i of a unit at a step, from which c is NaN; in gate o of one, which leaves c as it is; in the gradient of one
    z[7, 1, 3] = z[3 * 192 + 9, 1, 8] = dy[150, 2, 5] = np.nan
    found = run(layer, w, z, h0, c0, None, dy, dh, dc)
    for name, array in found.items():
        np.testing.assert_array_equal(array[..., others], wanted[name][..., others])
    assert np.isnan(found["h"][7, 2:, 3]).all() and np.isnan(found["c"][7, 2:, 3]).all() and np.isnan(found["h"][9, 2, 8])
    assert np.isnan(found["dz"][:, :2, 5]).all() and np.isnan(found["dh"][:, 5]).all()


@pytest.mark.parametrize("kernels", KERNELS)
def test_keep_is_read_at_its_own_steps_alone(persistent, monkeypatch, kernels):
    """A number that is read before or behind an array, and not used, is seen by nothing else here."""
    text, count = re.subn(r"\b(keeps?)\[(first \+ n|first|t \* n|\(t \+ 1\) \* n) \+ column\]",
                          lambda read: "(int({1}) < 0 || {2} ? (__trap(), 0.f) : {0}[{1} + column])".format(
                              *read.groups(), f"int({read[2]}) >= steps * n" if read[1] == "keep" else "false"), persistent.CODE[kernels])
    assert count == {"persistent": 4, "tagged": 3}[kernels]
    monkeypatch.setitem(persistent.CODE, kernels, text)
    assert errors(persistent, 192, 3, 20, 3, "tf32", 800, 5, kernels)[1] < CLOSE


@pytest.mark.parametrize("seed", [1, 4])
@pytest.mark.parametrize("kernels", KERNELS)
def test_warps_that_read_h_from_the_exchange_themselves(persistent, monkeypatch, kernels, seed):
    """As with 640, 768, 896 and 1,024 units: blocks of 16 units, each warp with a slice of the depth; two chunks a group."""
    few_units(persistent, monkeypatch)
    assert errors(persistent, 128, 6, 50, 132, "tf32", 800, seed, kernels)[1] < CLOSE


def few_units(persistent, monkeypatch) -> None:
    monkeypatch.setattr(persistent, "geometry", lambda *of: persistent.Geometry(16, 8, 16, 4, 2))


BOTH = """
extern "C" __global__ void both(const float* z, float* s, float* t, int n) {
    for (int k = blockIdx.x * blockDim.x + threadIdx.x; k < n; k += gridDim.x * blockDim.x)
        s[k] = sigmoid(z[k]), t[k] = tanh_of(z[k]);
}
"""
SIGMOID, TANH = 4e-7, 2e-6  # of 1 and of the result, as approximate.cuh says


def approximations() -> str:
    return "".join((ROOT / name).read_text() for name in ("ptx.cuh", "approximate.cuh")) + BOTH


def points() -> np.ndarray:
    """Every size from 1e-38 to 3e38 of both signs, and close together where the functions bend."""
    sizes = np.concatenate([np.geomspace(1.2e-38, 3.4e38, 4001), np.linspace(0.01, 20, 8001), np.linspace(0.24, 0.26, 2001)])
    return np.concatenate([sizes, -sizes]).astype(np.float32)


def check_approximations(both) -> None:
    """both(z): sigmoid and tanh."""
    z = points()
    s, t = (found.astype(np.float64) for found in both(z))
    exact = z.astype(np.float64)
    wanted = np.where(exact > 0, 1 / (1 + np.exp(-np.abs(exact))), np.exp(-np.abs(exact)) / (1 + np.exp(-np.abs(exact))))
    normal = exact > -80  # a result below 1e-38 is 0
    assert np.abs(s - wanted).max() < SIGMOID and s.min() >= 0 and np.abs(s[normal] / wanted[normal] - 1).max() < 5e-6
    assert np.abs(t / np.tanh(exact) - 1).max() < TANH and np.abs(t).max() <= 1 + TANH
    edges = np.array([0.0, -0.0, np.inf, -np.inf, np.nan], np.float32)
    s, t = both(edges)
    assert np.abs(s[:4] - [0.5, 0.5, 1, 0]).max() < SIGMOID and np.abs(t[:4] - [0, 0, 1, -1]).max() < TANH
    assert np.isnan([s[4], t[4]]).all() and not t[:2].any() and np.signbit(t[:2]).tolist() == [False, True]


def test_sigmoid_and_tanh_are_right_with_the_worst_instructions():
    """approximate.cuh against float64 over the range of float. The emulator's instructions err as far as they may."""
    def both(z):
        out = np.zeros_like(z), np.zeros_like(z)
        emulate.kernel(approximations(), "both")((8,), (64,), (z, *out, np.int32(len(z))))
        return out
    check_approximations(both)


WRITE = """                if (t < 0 || cell.tile >= TILES || column >= n) continue;
#pragma unroll
                for (int gate = 0; gate < 4; gate++)
                    gates[(gate * HIDDEN + unit) * gates_ld + first + column] = z[k][gate];
                h["""
PLANTED = {
    "forward does not wait": [("wait(published, 0, HIDDEN - 1, t + 1);", "")],
    "forward waits for the step before": [("wait(published, 0, HIDDEN - 1, t + 1);", "wait(published, 0, HIDDEN - 1, t);")],
    "backward does not wait": [("if (MEMBERS > 1) wait(published, warp * SHARE, (warp + 1) * SHARE - 1, done);", "")],
    "the last block is not waited for": [("member <= last / UNITS", "member < last / UNITS")],
    "published before all have written": [("    __syncthreads();\n    if (MEMBERS > 1 && threadIdx.x == 0)",
                                           "    if (MEMBERS > 1 && threadIdx.x == 0)")],
    "no barrier between parts and sums": [("    __syncthreads();\n#pragma unroll\n    for (int k = 0; k < CELLS; k++) {\n        "
                                           "const Cell cell = cell_of(k);\n        dh[k] = 0;",
                                           "#pragma unroll\n    for (int k = 0; k < CELLS; k++) {\n        "
                                           "const Cell cell = cell_of(k);\n        dh[k] = 0;")],
    "no barrier behind the copy of h": [("__ldcg((const uint4*)from + at);\n                    __syncthreads();",
                                         "__ldcg((const uint4*)from + at);")],
    "the other slot": [("copy + t % 2 * SLOT : slots + t % 2 * SLOT", "copy + t % 2 * SLOT : slots + (t + 1) % 2 * SLOT")],
    "one slot for all steps, forward": [("copy + t % 2 * SLOT : slots + t % 2 * SLOT", "copy : slots"),
                                        ("(MEMBERS == 1 ? copy : slots) + (t + 1) % 2 * SLOT", "MEMBERS == 1 ? copy : slots")],
    "one slot for all steps, backward": [("alone : slots + (t + 1) % 2 * SLOT", "alone : slots"),
                                         ("alone : slots + t % 2 * SLOT", "alone : slots")],
    "fragments of W_hh as in the manual": [("(depth * 16) + quarter * 4;", "(depth * 16) + quarter * 2;"),
                                            ("k * 16 + part / 2 * 2;", "k * 16 + part / 2 * 8;")],
    "fragments of its transpose, registers 1 and 2": [("r * 16 + part % 2 * 8;", "r * 16 + part / 2 * 8;"),
                                                      ("const int gate = part / 2 * 2;", "const int gate = part % 2 * 2;")],
    "gates in another order": [("gate = r % 2 * 2 + part % 2", "gate = r % 2 + part % 2 * 2")],
    "c of the wrong step": [("c_prev[0], c_prev[n]", "c_prev[n], c_prev[n]")],
    "keep left out, forward": [("to_16(h_now[k] * keep_next[k])", "to_16(h_now[k])")],
    "keep left out, backward": [("else dh_now[k] *= keep_next[k];", "")],
    "columns that are not there": [(WRITE, WRITE.replace(" || column >= n", ""))],
    "flags of another chunk": [("flags + chunk * MEMBERS;\n            const unsigned done", "flags;\n            const unsigned done")],
}

TAGGED = {
    "forward and backward do not wait": [("while ((found.x & LOW) != low || (found.y & HIGH) != high)", "while (false)")],
    "only the first two of four numbers are waited for": [(" || (found.y & HIGH) != high", "")],
    "the tag stays in h": [("return make_uint2(found.x & ~LOW, found.y & ~HIGH);",
                            "return make_uint2(found.x & ~(LOW & 0xFFFF), found.y & ~HIGH);")],
    "the tag of every second step": [("return ~step >> 1 & 1;", "return ~step & 1;")],
    "one slot for all steps, forward": [("from = slots + (t - 1) % 2 * SLOT;", "from = slots;"), ("slots + t % 2 * SLOT + place", "slots + place")],
    "one slot for all steps, backward": [("{slots + (done - 1) % 2 * SLOT + first", "{slots + first"),
                                         ("slots + done % 2 * SLOT + place", "slots + place")],
    "the numbers in another order": [("numbers.wait(k * 32 + lane, found[k % AHEAD])", "numbers.wait(k * 32 + lane, found[0])")],
    "no barrier behind the copy of h": [("to[at] = numbers.wait(at, found[j]);\n    __syncthreads();",
                                         "to[at] = numbers.wait(at, found[j]);")],
    "no barrier between two steps, forward": [("        __syncthreads();  // before `parts` is written again, where no copy of h with its barrier comes before that\n", "")],
    "no barrier between two steps, backward": [("        __syncthreads();  // before `parts` is written again\n", "")],
    "the inputs of the wrong step": [("after.load(input, input_ld, ids, next.step,", "after.load(input, input_ld, ids, t,")],
    "the inputs of the wrong chunk": [("after.load(input, input_ld, ids, next.step, next.chunk()", "after.load(input, input_ld, ids, next.step, chunk")],
    "the activations of the wrong chunk": [("steps - 1 - next.step, next.chunk()", "steps - 1 - next.step, chunk")],
    "keep left out of the initial h": [("const float factor = keep ? keep[at] : 1;", "const float factor = 1;")],
    "keep left out, forward": [("to_16(h_now[k] * keep_next[k]) & 0xBFFF", "to_16(h_now[k]) & 0xBFFF")],
    "keep left out, backward": [("const float kept = now.keep[k];", "const float kept = 1;")],
    "the order of the initial h": [("pack_16(from[0] * factor, from[ld] * factor)", "pack_16(from[ld] * factor, from[0] * factor)")],
    "the chunks of another group": [("return blockIdx.y + own * gridDim.y;", "return own * gridDim.y;")],
    "columns that are not there": [("if (t < 0 || cell.tile >= TILES || column >= n) continue;", "if (t < 0 || cell.tile >= TILES) continue;")],
    "h before the step is that after it": [("before[at + n] = to_16(", "before[at] = to_16(")],
    "keep left out of what W_hh multiplied": [("before[at + n] = to_16(h_now[k] * keep_next[k])", "before[at + n] = to_16(h_now[k])")],
    "keep left out of the first h that W_hh multiplied": [("to_16(h[unit * h_ld + column] * keep_now[k])", "to_16(h[unit * h_ld + column])")],
}
HALVES = {
    "the half of the next launch is not cleared": [("        other[at] = make_uint4(0, 0, 0, 0);", "        ;")],
    "only a quarter of the next half is cleared": [("at < size / 8;", "at < size / 32;")],
    "every launch in one half": [("return load_relaxed(ended) >= gridDim.x * gridDim.y ? chunks : 0;", "return 0;")],
    "blocks that are not counted": [("if (threadIdx.x == 0) atomicInc(ended, 2 * blocks - 1);", "")],
    "blocks that are counted for ever": [("atomicInc(ended, 2 * blocks - 1);", "atomicInc(ended, 0xFFFFFFFF);")],
}
FIRST = {"published before all have written": 12}  # the seed of an error that is seen in that order of threads alone


def planted(text: str, changes) -> str:
    for right, wrong in changes:
        assert text.count(right) == 1, f"the kernels no longer have just once: {right}"
        text = text.replace(right, wrong)
    return text


@pytest.mark.parametrize(("kernels", "name"), [("persistent", name) for name in PLANTED] + [("tagged", name) for name in TAGGED])
def test_a_planted_error_is_caught(persistent, monkeypatch, kernels, name):
    changes = (PLANTED if kernels == "persistent" else TAGGED)[name]
    monkeypatch.setitem(persistent.CODE, kernels, planted(persistent.CODE[kernels], changes))
    assert any(caught(persistent, kernels, seed) for seed in (FIRST.get(name, 1), *range(1, 13)))


@pytest.mark.parametrize("name", ["forward and backward do not wait", "one slot for all steps, forward", "the tag of every second step",
                                  "no barrier between two steps, forward"])
def test_a_planted_error_is_caught_where_warps_read_the_exchange(persistent, monkeypatch, name):
    few_units(persistent, monkeypatch)
    monkeypatch.setitem(persistent.CODE, "tagged", planted(persistent.CODE["tagged"], TAGGED[name]))
    assert any(caught(persistent, "tagged", seed, hidden=128) for seed in range(1, 13))


@pytest.mark.parametrize("name", HALVES)
def test_a_planted_error_in_the_turns_of_launches_is_caught(persistent, monkeypatch, name):
    monkeypatch.setitem(persistent.CODE, "tagged", planted(persistent.CODE["tagged"], HALVES[name]))
    monkeypatch.setattr(RawKernel, "seed", 3)
    with contextlib.suppress(emulate.Fault):
        assert not launches(persistent)


def caught(persistent, kernels: str, seed: int, hidden: int = 192) -> bool:
    """Two chunks of each of two groups."""
    try:
        return not errors(persistent, hidden, 5, 50, 6, "tf32", 800, seed, kernels)[1] <= CLOSE
    except (emulate.Fault, AssertionError):  # of `run`, on the operands
        return True


@pytest.mark.parametrize(("kernels", "sent"), [("persistent", "store_release(flags + blockIdx.x, step);"),
                                               ("tagged", "(unsigned short)(value | tag_of(t) << 14)")])
def test_a_wait_for_ever_ends_where_spins_are_counted(persistent, monkeypatch, kernels, sent):
    wrong = {"persistent": ";", "tagged": "(unsigned short)value"}[kernels]
    monkeypatch.setitem(persistent.CODE, kernels, planted(persistent.CODE[kernels], [(sent, wrong)]))
    with pytest.raises(emulate.Fault, match="__trap"):
        errors(persistent, 192, 2, 4, 3, "tf32", 800, 0, kernels, spins=50)
