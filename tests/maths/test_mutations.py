"""Errors planted in a copy of the engine, each of which test_gradients.py's checks or test_masks.py's must see.

A test that no wrong gradient can fail says nothing. Each mutant is one replaced snippet of the source; two fresh
interpreters fork a process for each, which imports the engine with that source, checks few entries a tensor, and reports
the largest error it found.
A mask that is wrong forward and backward alike has a right gradient: those are held against masks made by hand.
"""
import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import pytest
from test_gradients import BOUND

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.skipif(not (ROOT / "setup.cfg").is_file(), reason="the source stands beside tests/ in a checkout only")
WORKERS = 2


class Mutant(NamedTuple):
    """What is wrong, and how: in `file`, the only `snippet` becomes `wrong`."""
    what: str
    file: str
    snippet: str
    wrong: str


CPU, GATES, LOOPS = "kernels/cpu/ops.py", "kernels/cpu/gates.py", "kernels/cpu/loops.py"
LSTM, HEAD, STACK = "rnncore/nn/lstm.py", "rnncore/nn/head.py", "rnncore/nn/stack.py"
EMBEDDING, MODEL, DROPOUT = "rnncore/nn/embedding.py", "rnncore/model.py", "rnncore/nn/dropout.py"
MUTANTS = [
    Mutant("NumPy's loops: tanh'(c) lacks its square", LOOPS, "np.subtract(o, t, out=t)", "np.subtract(o, b, out=t)"),
    Mutant("NumPy's loops: the forget gate sees c[t+1], not c[t]", LOOPS, "f *= c[now]", "f *= c[1:][now]"),
    Mutant("NumPy's loops: a sign in the input gate", LOOPS, "np.subtract(i_g, i, out=i)", "np.add(i_g, i, out=i)"),
    Mutant("NumPy's loops: a sign in the cell's input", LOOPS, "np.subtract(i, b, out=b)", "np.add(i, b, out=b)"),
    Mutant("NumPy's loops: a factor missing in the output gate", LOOPS, "np.subtract(b, o, out=o)", "o[...] = b"),
    Mutant("NumPy's loops: keep missing at c", LOOPS, "b *= keep[now, None]", "pass"),
    Mutant("NumPy's loops: f (1 - f) is (1 - i) f", LOOPS, "np.subtract(1, f, out=f)", "np.subtract(1, i, out=f)"),
    Mutant("NumPy's loops: i and f swapped in the factors", LOOPS, "i, f, g, o = gates[now].reshape", "f, i, g, o = gates[now].reshape"),
    Mutant("NumPy's loops: what goes through h has the wrong sign", LOOPS, "dc += dh  ", "dc -= dh  "),
    Mutant("NumPy's loops: dc is not carried through f", LOOPS, "dc *= carry", "pass"),
    Mutant("NumPy's loops: the output gate gets dc", LOOPS, "gates[3 * hidden:] *= dh", "gates[3 * hidden:] *= dc"),
    Mutant("NumPy's loops: keep missing at dh", LOOPS, "dh *= keep[t]", "pass"),
    Mutant("NumPy's loops: keep missing in the forward", LOOPS, "if keep_t is not None:", "if False:"),
    Mutant("NumPy's loops: dy of another step", LOOPS, "dh += dy[:, t]", "dh += dy[:, t - 1]"),
    Mutant("NumPy's loops: dy missing", LOOPS, "dh += dy[:, t]", "pass"),
    Mutant("NumPy's loops: dz of another step goes back", LOOPS, "np.matmul(w.w_hh.T, dz, out=dh)",
           "np.matmul(w.w_hh.T, gates[:, t - 1], out=dh)"),
    Mutant("NumPy's loops: W_hh of the wrong gate", LOOPS, "np.matmul(w.w_hh.T, dz, out=dh)",
           "np.matmul(w.w_hh[::-1].T, dz, out=dh)"),
    Mutant("tanh'(c) lacks its square", GATES, "through = o * (1 - tanh_c * tanh_c)", "through = o * (1 - tanh_c)"),
    Mutant("the forget gate sees c[t+1], not c[t]", GATES, "df = keep * c_prev * f", "df = keep * c * f"),
    Mutant("a sign in the input gate", GATES, "di = g * i * (1 - i)", "di = g * i * (1 + i)"),
    Mutant("a sign in the cell's input", GATES, "dg = i * (1 - g * g)", "dg = i * (1 + g * g)"),
    Mutant("a factor missing in the output gate", GATES, "do = tanh_c * o * (1 - o)", "do = tanh_c * o"),
    Mutant("keep missing at c", GATES, "carry = f * keep", "carry = f + 0 * keep"),
    Mutant("keep missing in the forget gate", GATES, "df = keep * c_prev", "df = 1 * c_prev"),
    Mutant("f (1 - f) is (1 - i) f", GATES, "c_prev * f * (1 - f)", "c_prev * f * (1 - i)"),
    Mutant("i and f swapped in the backward", GATES, "i, f, g, o = gates.reshape(4, *c.shape)\n    tanh_c",
           "f, i, g, o = gates.reshape(4, *c.shape)\n    tanh_c"),
    Mutant("g and o swapped in the forward", GATES, "i, f, g, o = gates.reshape(4, *c.shape)\n    np.multiply(f",
           "i, f, o, g = gates.reshape(4, *c.shape)\n    np.multiply(f"),
    Mutant("what goes through h has the wrong sign", GATES, "dc += dh * through", "dc -= dh * through"),
    Mutant("dc is not carried through f", GATES, "dc *= carry", "pass"),
    Mutant("the output gate gets dc", GATES, "do *= dh", "do *= dc"),
    Mutant("the target missing in the softmax", CPU, "np.take_along_axis(logits, targets, axis=0) - 1",
           "np.take_along_axis(logits, targets, axis=0)"),
    Mutant("the next symbol's column", CPU, "onehot[np.arange(len(flat)), flat] = 1",
           "onehot[np.arange(len(flat)), flat - 1] = 1"),
    Mutant("sums over columns that are not sorted", CPU, "np.add.reduceat(columns.T[order], first, axis=0)",
           "np.add.reduceat(columns.T, first, axis=0)"),
    Mutant("keep missing at dh", LSTM, "dh *= keep_t", "pass"),
    Mutant("keep missing in dW_hh", STACK, "        if keep is None:", "        if True:"),
    Mutant("keep missing in the forward", LSTM, "h[:, t] if keep is None else", "h[:, t] if True else"),
    Mutant("dy of another step", LSTM, "dh += dy[:, t]", "dh += dy[:, t - 1]"),
    Mutant("dy missing", LSTM, "dh += dy[:, t]", "pass"),
    Mutant("dz of another step goes back", LSTM, "k.product(w.w_hh.T, dz[:, t], dh)",
           "k.product(w.w_hh.T, dz[:, t - 1], dh)"),
    Mutant("W_hh of the wrong gate", LSTM, "k.product(w.w_hh.T, dz[:, t], dh)",
           "k.product(w.w_hh[::-1].T, dz[:, t], dh)"),
    Mutant("dW_hh of h[t], not h[t-1]", STACK, "states = [cache.h[:, :steps]", "states = [cache.h[:, 1:steps + 1]"),
    Mutant("dz of another step in the gradients", LSTM, "(grads.w_hh, columns(dz),", "(grads.w_hh, columns(dz[:, ::-1]),"),
    Mutant("dW_ih of another step", LSTM, "(grads.w_ih, columns(dz), columns(x))", "(grads.w_ih, columns(dz), columns(x[:, ::-1]))"),
    Mutant("no gradient arrives at the last h", STACK, "(dstate[0][k], dstate[1][k])", "(0, dstate[1][k])"),
    Mutant("no gradient arrives at the last c", STACK, "(dstate[0][k], dstate[1][k])", "(dstate[0][k], 0)"),
    Mutant("the bias gradient missing", LSTM, "(grads.bias, columns(dz), None)", "(grads.bias, 0 * columns(dz), None)"),
    Mutant("the head's dy counted twice", HEAD, "columns(dlogits), columns(dy))", "columns(dlogits), columns(dy))\n    dy *= 2"),
    Mutant("the head's bias gradient a mean", HEAD, "(dbias, columns(dlogits), None)", "(dbias, columns(dlogits) / 2, None)"),
    Mutant("a bias subtracted", CPU, "out += bias", "out -= bias"),
    Mutant("dW of other columns", HEAD, "(dweight, columns(dlogits), columns(y))", "(dweight, columns(dlogits), columns(y[:, ::-1]))"),
    Mutant("the folded bias gradient misses a symbol", EMBEDDING, "k.row_sums(dtable[rows]", "k.row_sums(dtable[rows, 1:]"),
    Mutant("the folded embedding's rows shifted", EMBEDDING, "k.product(dtable.T, w.w_ih, dembedding)",
           "k.product(k.xp.roll(dtable.T, 1, 0), w.w_ih, dembedding)"),
    Mutant("the unfolded embedding's gradient not begun at zero", EMBEDDING, "lstm.columns(dx), buffers.onehot, add=number > 0)",
           "lstm.columns(dx), buffers.onehot)"),
    Mutant("the folded embedding's gradient not begun at zero", EMBEDDING, "dz[rows], buffers.onehot, add=number > 0)", "dz[rows], buffers.onehot)"),
    Mutant("the unfolded embedding looks up others", EMBEDDING, "k.gather(embedding.T, ids, x)", "k.gather(embedding.T, ids[::-1], x)"),
    Mutant("the mask missing in the backward", STACK, "dy *= masks[k]", "pass"),
    Mutant("the mask of another layer in the backward", STACK, "dy *= masks[k]", "dy *= masks[k - 1]"),
    Mutant("dh and dc swapped at the last state", STACK, "(dstate[0][k], dstate[1][k])", "(dstate[1][k], dstate[0][k])"),
    Mutant("dh and dc swapped at the initial state", STACK, "initial[0][k], initial[1][k]", "initial[1][k], initial[0][k]"),
    Mutant("the input of another layer", STACK, "enumerate(zip(below, ", "enumerate(zip([below[0], *share.outputs()[1:]], "),
    Mutant("what a layer handed on, a step early", STACK, "cache.h[:, 1:steps + 1]", "cache.h[:, :steps]"),
    Mutant("what a layer handed on, before dropout", STACK, "        if self.drops:", "        if False:"),
    Mutant("the shares' gradients not summed", STACK, "gradient[rows], add=number > 0)", "gradient[rows])"),
    Mutant("a sum over columns where a mean is meant", MODEL, "passes, x.size, self.each", "passes, steps, self.each"),
    Mutant("weight-drop's mask missing in the gradient", DROPOUT, "gradient *= mask", "pass"),
    Mutant("weight-drop's mask of the last layer in every gradient", DROPOUT, "gradient *= mask",
           "gradient *= list(self.masks.values())[-1]"),
    Mutant("weight-drop's mask twice in the gradient", DROPOUT, "gradient *= mask", "gradient *= mask * mask"),
    Mutant("the gradient at W_hh not masked", MODEL, "self._held.weight_drop.backward(grads)", "pass"),
    Mutant("forward and backward without weight-drop", MODEL, "stack.gradients(weights,", "stack.gradients(self.params,"),
    Mutant("weight-drop in the first layer alone", DROPOUT, 'if "weight_hh" in name}', 'if "weight_hh_l0" in name}'),
    Mutant("weight-drop of W_ih", DROPOUT, 'if "weight_hh" in name}', 'if "weight_ih" in name}'),
    Mutant("one mask of weights for all layers", DROPOUT, "counter(Purpose.WEIGHT_DROP, dropout.step, layer)",
           "counter(Purpose.WEIGHT_DROP, dropout.step, 0)"),
    Mutant("one mask of weights for all training steps", DROPOUT, "counter(Purpose.WEIGHT_DROP, dropout.step, layer)",
           "counter(Purpose.WEIGHT_DROP, 0, layer)"),
    Mutant("masks of weights by the chance of units", DROPOUT, "counter(Purpose.WEIGHT_DROP,", "counter(Purpose.DROPOUT,"),
    Mutant("weights dropped at the rate of units", DROPOUT, "dropout.weight_rate,", "dropout.rate,"),
    Mutant("a variational mask anew at every step", DROPOUT, "return 1 if self.variational",
           "return steps if self.variational"),
    Mutant("one mask for all steps where each has its own", DROPOUT, "return 1 if self.variational else steps", "return 1"),
    Mutant("one mask of units for all layers", DROPOUT, "counter(Purpose.DROPOUT, dropout.step, layer)",
           "counter(Purpose.DROPOUT, dropout.step, 0)"),
    Mutant("a mask that does not know its columns", STACK, "dropout, k, work.offset, work.columns", "dropout, k, 0, work.n"),
    Mutant("what is kept is not scaled", CPU, "np.multiply(kept, 1 / (1 - rate), out=out)", "out[...] = kept"),
]

PROBE = """
import json, os, sys
from importlib.machinery import SourceFileLoader

root, mutants, folders = json.load(sys.stdin)
sys.path[:0] = [root, *folders]
codes = {}


def get_code(loader, name):  # compiles each file once, and never as it was when somebody else compiled it
    if loader.path not in codes:
        codes[loader.path] = compile(loader.get_data(loader.path), loader.path, "exec", dont_inherit=True)
    return codes[loader.path]


def found():
    from conftest import batch, build, draw_once
    from rnncore.kernels import Path, host
    from rnncore.nn import Dropout, Workspace
    from test_gradients import stack_errors, step_errors
    from test_masks import KINDS, mask_error

    host.dropout_mask = draw_once(host)
    model = build()
    model.threads = 2
    for dropout in KINDS.values():
        yield mask_error(model, batch(model, 4, 3), dropout)
    for vocab, documents in ((5, False), (16, True), (130, False)):
        model = build(vocab)
        by_lstm_py = Workspace(model.params, 4, 3, path=Path())
        yield max(stack_errors(model, batch(model, 4, 3, documents), None, by_lstm_py, few=4).values())
        yield max(stack_errors(model, batch(model, 4, 3, documents), few=4).values())
    for dropout in (Dropout(0.4, 3, 2), Dropout(0.4, 3, 2, True)):
        model = build()
        yield max(stack_errors(model, batch(model, 4, 3, True), dropout, few=4).values())
    model.threads = 2
    yield max(step_errors(model, batch(model, 4, 3), few=6).values())
    yield max(step_errors(model, batch(model, 4, 3), Dropout(0.4, 3, 2, True, 0.3), few=6).values())


SourceFileLoader.get_code = get_code
next(found())  # what all of them import, compiled once
ours = tuple(os.path.join(root, folder, "") for folder in ("rnncore", "kernels", "data", "cli", "tests"))
for name in [name for name, module in sys.modules.items() if (getattr(module, "__file__", None) or "").startswith(ours)]:
    del sys.modules[name]
for place, file, source in mutants:
    sys.stdout.flush()
    if not os.fork():  # a process for each
        if file:
            codes[os.path.join(root, file)] = compile(source, file, "exec", dont_inherit=True)
        worst = 0.0
        for error in found():
            worst = max(worst, float(error))
            if worst > 1e-7:
                break
        print(json.dumps([place, worst]), flush=True)
        os._exit(0)
    os.wait()
"""


def plant(mutant: Mutant) -> str:
    """The source of its file with the error; ValueError, if the snippet is not there exactly once."""
    source = (ROOT / mutant.file).read_text(encoding="utf-8")
    if source.count(mutant.snippet) != 1:
        raise ValueError(f"{mutant.file} has {source.count(mutant.snippet)} times, not once: {mutant.snippet!r}; plant the error anew")
    return source.replace(mutant.snippet, mutant.wrong)


def probe(mutants: list[tuple[int, str, str]]) -> dict[int, object]:
    """Place -> the largest error found with that file's source in place of its own, or what the processes said if one failed."""
    folders = [str(ROOT / "tests" / name) for name in ("", "maths", "fakes")]
    done = subprocess.run([sys.executable, "-c", PROBE], input=json.dumps([str(ROOT), mutants, folders]), capture_output=True,
                          text=True, timeout=300)
    return dict.fromkeys((place for place, *_ in mutants), done.stderr) | dict(map(json.loads, done.stdout.splitlines()))


@pytest.fixture(scope="module")
def verdicts() -> list[object]:
    """One for each of MUTANTS, and of the engine as it is: the largest error, or in words why there is none."""
    results: dict[int, object] = {}
    planted = [(len(MUTANTS), "", "")]
    for place, mutant in enumerate(MUTANTS):
        try:
            planted.append((place, mutant.file, plant(mutant)))
        except ValueError as error:
            results[place] = str(error)
    with ThreadPoolExecutor(WORKERS) as pool:
        for some in pool.map(probe, [planted[k::WORKERS] for k in range(WORKERS)]):
            results |= some
    return [results[place] for place in range(len(MUTANTS) + 1)]


@pytest.mark.parametrize("place", range(len(MUTANTS)), ids=[mutant.what for mutant in MUTANTS])
def test_a_planted_error_is_found(place, verdicts):
    verdict = verdicts[place]
    assert isinstance(verdict, float), verdict  # a crash does not count as found
    assert verdict > 1e4 * BOUND


def test_the_engine_as_it_is_passes(verdicts):
    assert isinstance(verdicts[-1], float) and 0 < verdicts[-1] < BOUND, verdicts[-1]


def test_a_snippet_that_is_gone_is_named():
    with pytest.raises(ValueError, match="rnncore/nn/lstm.py has 0 times, not once: 'no such text'; plant the error anew"):
        plant(Mutant("", LSTM, "no such text", ""))
