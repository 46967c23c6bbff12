"""Whole training steps captured on a card, over the stand-ins for CuPy and cuBLAS: what eager steps do, on every path."""
import functools
import gc
import importlib
import os
import shutil
import signal
import threading
import time

import numpy as np
import pytest

import rnncore
from rnncore import kernels, recovery
from rnncore.capture import Captured, CapturedSteps, Slot
from rnncore.cli.drive import drive
from rnncore.runs.setup import Run
from rnncore.cli.terminal.signals import Signals
from rnncore.data.batches import Batches
from rnncore.kernels.paths import Slower
from rnncore.nn import Dropout, stack
from rnncore.nn.lstm import State
from rnncore.optim import Pace
from rnncore.runs import checkpoint
from rnncore.runs.folder import RunFolder
from rnncore.train import Training

pytestmark = pytest.mark.skipif(shutil.which("c++") is None, reason="no C++ compiler (c++) on this machine")
PATHS = "graph", "wavefront"
SHORT = {"window": 3, "text": 4 * 3 * 11 + 4 * 2 + 1}  # an epoch of 11 windows and one of 2: 12 steps, as of the longer ones
KINDS = {
    "adam": {"optimizer": "adam"},
    "muon": {},
    "dropout": {"dropout": 0.3, "variational": False, "optimizer": "adam"},
    "variational": {"dropout": 0.3, "weight_drop": 0.2},
    "no-clip": {"clip": 0.0, "optimizer": "adam"},
}


def host(array) -> np.ndarray:
    return kernels.of(array).to_host(array)


def training(path: str, dtype="float64", symbols=11, layers=2, documents=False, text=330, steps=20, hidden=6, ids=None,
             window=7, **config) -> Training:
    points = [3, *range(97, 96 + symbols)] if documents else range(97, 97 + symbols)
    vocab = rnncore.Vocab.from_code_points(points, **({"documents": "lines"} if documents else {}))
    model = rnncore.CharLM(rnncore.ModelConfig(symbols, 5, hidden, layers), vocab, "cpu" if path == "cpu" else "cuda", dtype,
                           seed=3)
    model.path = "eager" if path == "cpu" else path
    ids = np.random.default_rng(1).integers(0, symbols, text) if ids is None else ids
    return Training(model, Batches(ids, 4, window), rnncore.TrainConfig(**{"lr": 0.02, "steps": steps, "clip": 0.5} | config))


def results(run: Training) -> tuple:
    """Parameters, moments and state at the end, and the loss of the last step."""
    *_, last = run
    return *map(host, (run.model.params.flat, *run.optimizer.moments.values(), *run.state)), np.array(last.loss)


def assert_same(found, wanted, bound=1e-12) -> None:
    for mine, theirs in zip(found, wanted, strict=True):
        assert np.abs(mine - theirs).max() < bound


def assert_near(found, wanted, bound) -> None:
    """In less precision: parameters on average, for Adam moves one whose gradient is nearly zero as far as any other."""
    assert np.abs(found[0] - wanted[0]).mean() < bound / 10
    assert_same(found[1:], wanted[1:], bound)


@pytest.mark.parametrize(("kind", "path"), [(kind, PATHS[k % 2]) for k, kind in enumerate(KINDS)])
def test_a_captured_run_gives_the_numbers_of_the_cpu(with_cublas, kind, path):
    """Over more than an epoch, whose last window is shorter; the last steps are one launch of several."""
    assert_same(results(training(path, **KINDS[kind], **SHORT)), results(training("cpu", **KINDS[kind], **SHORT)))


def test_a_ring_that_is_smaller_than_the_run(with_cublas, monkeypatch):
    monkeypatch.setattr("rnncore.capture.RING", 3)
    assert_same(results(training("graph", **SHORT)), results(training("cpu", **SHORT)))


@pytest.mark.parametrize(("path", "shape"), [
    ("graph", {"symbols": 40}), ("graph", {"text": 17}), ("wavefront", {"documents": True}),
    ("wavefront", {"layers": 3, "documents": True, "dropout": 0.4})])
def test_models_and_texts_of_other_shapes_give_the_numbers_of_the_cpu(with_cublas, path, shape):
    """The embedding not folded; documents; a text of one window alone."""
    assert_same(*(results(training(by, **SHORT | shape)) for by in (path, "cpu")))


def test_one_layer_goes_by_the_graph_and_has_no_wavefront(with_cublas):
    assert_same(*(results(training(by, layers=1, **SHORT)) for by in ("graph", "cpu")))
    with pytest.raises(ValueError, match="one layer has no wavefront: take graph"):
        training("wavefront", layers=1)


def launches(run: Training, monkeypatch) -> list:
    """(how many steps, of what length) of each launch, added as it is made."""
    made, launch = [], Captured.launch
    monkeypatch.setattr(Captured, "launch", lambda self, count, steps: (made.append((count, steps)),
                                                                        launch(self, count, steps))[1])
    return made


def test_steps_are_taken_together_up_to_what_is_due(with_cublas, monkeypatch):
    monkeypatch.setattr(CapturedSteps, "_in_time", lambda self: 1000)
    monkeypatch.setattr("rnncore.capture.MILESTONES", 1)
    run = training("graph", text=4 * 3 * 30 + 4 * 2 + 1, steps=70, eval_every=25, window=3)  # 30 windows of 3 and one of 2
    run.stops = (None, 40)
    made = launches(run, monkeypatch)
    shown = [p.step for p in run]
    assert made == [(25, 3), (5, 3), (1, 2), (9, 3), (10, 3), (11, 3), (1, 2), (8, 3)]
    assert shown == list(np.cumsum([count for count, _ in made]))


def test_what_comes_out_does_not_depend_on_how_many_are_taken_together(with_cublas, monkeypatch):
    found = []
    for count in (5, 1000):
        monkeypatch.setattr(CapturedSteps, "_in_time", lambda self, count=count: count)
        found.append(results(training("graph", dropout=0.3, **SHORT)))
    for mine in found[1:]:
        assert all((a == b).all() for a, b in zip(mine, found[0], strict=True))


def test_a_resumed_run_goes_on_with_the_same_bits(with_cublas):
    whole = results(training("graph", **SHORT))
    first, second = training("graph", **SHORT), training("graph", **SHORT)
    for p in first:
        if p.step >= 9:
            break
    second.model.params.flat[...] = first.model.params.flat
    second.restore(first.summary(), {name: host(m) for name, m in first.optimizer.moments.items()},
                   State(*map(host, first.state)), host(first.recovery.good))
    assert all((a == b).all() for a, b in zip(results(second), whole, strict=True))


@pytest.mark.parametrize(("what", "value", "launched"), [("path", "eager", 5), ("state", None, 20)])
def test_what_is_changed_between_two_steps_holds_for_the_next(with_cublas, monkeypatch, what, value, launched):
    """By the caller, after five of twenty steps; on the processor, eager is the path anyway."""
    monkeypatch.setattr(CapturedSteps, "_in_time", lambda self: 1)
    runs = training("graph", **SHORT), training("cpu", **SHORT)
    made = launches(runs[0], monkeypatch)
    for run in runs:
        for p in run:
            if p.step == 5:
                setattr(run.model if what == "path" else run, what, value)
    assert_same(*((*map(host, (run.model.params.flat, *run.state)), np.array(run.course.recent)) for run in runs))
    assert sum(count for count, _ in made) == launched


def test_the_course_of_the_losses_has_every_step_however_many_are_taken_together(with_cublas, monkeypatch):
    found = []
    for path, count in (("cpu", 1), ("graph", 1), ("graph", 1000)):
        monkeypatch.setattr(CapturedSteps, "_in_time", lambda self, count=count: count)
        run = training(path, **SHORT)
        list(run)
        found.append(run.course)
    assert found[1] == found[2] and found[1].weight == found[0].weight
    assert abs(found[1].first - found[0].first) < 1e-12 and abs(found[1].recent - found[0].recent) < 1e-12


def test_a_save_or_a_stop_that_is_asked_for_comes_between_two_launches(with_cublas, monkeypatch, tmp_path):
    """Steps are launched together, 5 and 6, 13 and 14: a signal that comes meanwhile is acted on behind the last."""
    monkeypatch.setattr(CapturedSteps, "_in_time", lambda self: 4)
    saved, save, take = [], RunFolder.save, CapturedSteps.take
    monkeypatch.setattr(RunFolder, "save", lambda self, run, best: (saved.append(run.step), save(self, run, best)))
    came = {4: signal.SIGUSR1, 12: signal.SIGHUP}

    def taking(self, step, state, stops):
        if step in came:
            os.kill(os.getpid(), came[step])
        return take(self, step, state, stops)

    monkeypatch.setattr(CapturedSteps, "take", taking)
    run = Run(training("graph", eval_every=1000), RunFolder(tmp_path, {"corpus": {"sources": ["x"]}}), [])
    with Signals() as signals, signals.waiting():
        assert drive(run, signals) == 129
    assert saved == [6, 14] and checkpoint.read(tmp_path / "last.safetensors")[0]["training"]["progress"]["step"] == 14


def taken_up(path: str, first: Training, **config) -> Training:
    """A training by this path that goes on where another stopped, with a config that may be another."""
    run = training(path, **SHORT, **config)
    run.model.params.flat[...] = run.model.kernel.to_device(host(first.model.params.flat))
    run.restore(first.summary(), {name: host(moment) for name, moment in first.optimizer.moments.items()},
                State(*map(host, first.state)), host(first.recovery.good))
    return run


@pytest.mark.parametrize("path, before, after", [
    ("graph", {}, {"lr": 0.005, "dropout": 0.3, "weight_drop": 0.2}),
    ("wavefront", {"dropout": 0.3, "weight_drop": 0.2}, {"lr": 0.05}),
    ("graph", {"optimizer": "adam", "dropout": 0.3}, {"optimizer": "adam", "dropout": 0.1, "threads": 2})])
def test_what_a_run_is_changed_to_on_the_way_is_what_its_captured_steps_do(with_cublas, path, before, after):
    """Rate and dropout of a run that is taken up again: in the steps that are recorded then, none of before is left."""
    first = training("cpu", **SHORT, **before)
    for p in first:
        if p.step == 9:
            break
    mine, theirs = results(taken_up(path, first, **after)), results(taken_up("cpu", first, **after))
    assert_same(mine, theirs)
    unchanged = results(taken_up(path, first, **before))
    assert np.abs(mine[0] - unchanged[0]).max() > 1e-4


def poisoned(path: str, windows: set, window=3) -> Training:
    """A run in which the last of 40 symbols, at which the loss is NaN, stands in these windows."""
    ids = np.random.default_rng(1).integers(0, 39, 4 * window * 20 + 1)
    for k in windows:
        ids[window * k + window // 2] = 39
    run = training(path, symbols=40, ids=ids, window=window)
    run.model.params["embedding.weight"][39] = np.nan
    return run


@pytest.mark.parametrize("windows, together", [({4}, 1), ({0, 9, 10}, 1000), ({19}, 1000), ({11, 12, 13}, 1000)])
def test_bad_steps_are_skipped_as_eager_ones_are(with_cublas, windows, together, monkeypatch):
    monkeypatch.setattr(recovery, "EVERY", 4)
    monkeypatch.setattr(CapturedSteps, "_in_time", lambda self: together)
    mine, theirs = (poisoned(path, windows) for path in ("graph", "cpu"))
    notes, wanted = ([note for p in run for note in p.notes] for run in (mine, theirs))
    assert [note.split(" in ")[0] for note in notes] == [note.split(" in ")[0] for note in wanted] and len(notes) == len(windows)
    assert mine.recovery.summary() == theirs.recovery.summary()
    parameters = [host(run.model.params.flat) for run in (mine, theirs)]
    assert (np.isnan(parameters[0]) == np.isnan(parameters[1])).all()
    assert np.nanmax(np.abs(parameters[0] - parameters[1])) < 1e-12


def test_the_gradient_that_a_skipped_step_reports_is_that_of_the_mean_loss(with_cublas, monkeypatch):
    """In tf32, where the card has it times the loss_scale. The gradient is finite: the step only counts as bad."""
    run, wait = training("graph", "tf32"), Captured.wait
    wanted = host(run.model.loss_and_grads(*run.schedule.window(0))[1].flat).copy()
    monkeypatch.setattr(CapturedSteps, "_in_time", lambda self: 1)
    monkeypatch.setattr(Captured, "wait", lambda self: wait(self)._replace(step=0, bad=True))
    reported = []
    monkeypatch.setattr(recovery.Recovery, "skip", lambda self, step, loss, grads: reported.append(host(grads.flat).copy()))
    next(iter(run))
    assert np.abs(reported[0] - wanted).max() < 1e-6 * np.abs(wanted).max()


def test_what_is_queued_behind_a_bad_step_changes_nothing(with_cublas):
    run = poisoned("graph", {2}, 7)
    captured = Captured(run.model, run.optimizer, run.config, 7, 4)
    captured.begin(0, None)
    windows = [np.concatenate((x, y[-1:])) for x, y in map(run.schedule.window, range(8))]
    captured.fill(0, [Slot(window, run.optimizer.pace(0.02, k + 1), k == 0) for k, window in enumerate(windows)])
    captured.launch(2, 7)
    before = [host(run.model.params.flat).copy(), *(host(part).copy() for part in captured.state)]
    assert captured.wait()[:2] == (2, False)
    captured.launch(6, 7)
    assert captured.wait()[:2] == (2, True)
    after = [host(run.model.params.flat), *map(host, captured.state)]
    assert all(((a == b) | np.isnan(a)).all() for a, b in zip(after, before, strict=True))


def test_a_step_is_recorded_in_order_and_its_memory_lives(with_cublas):
    run = training("graph", optimizer="adam")
    captured = Captured(run.model, run.optimizer, run.config, 7, 4)
    captured.begin(0, None)
    x, y = run.schedule.window(0)
    captured.fill(0, 3 * [Slot(np.concatenate((x, y[-1:])), Pace(0.01, 0.01, 1.0), False)])
    captured.launch(1, 7)
    names = [node.name for node in captured._graphs[1].__self__._graph.nodes]
    wanted = ["begin_kernel", "gather_kernel", "softmax_cross_entropy_kernel", "one_hot_kernel", "decide",
              "adam_kernel", "carry_kernel"]
    assert [name for name in names if name in wanted] == wanted
    assert names.count("cuBLAS") == 2 * 2 * 7 + 15  # a product a step and layer, forward and backward, and those around
    gc.collect()
    captured.launch(2, 7)
    assert captured.wait()[:2] == (3, False)


def test_a_step_of_the_path_tagged_has_few_nodes(with_cublas):
    """Two layers, Adam, the embedding folded: no bias has a pass of its own, there is no gather, and nothing is set to zero."""
    run = training("tagged", "tf32", hidden=64, optimizer="adam")
    captured = Captured(run.model, run.optimizer, run.config, 7, 4)
    captured.begin(0, None)
    captured.fill(0, [Slot(np.zeros((8, 4), np.int64), Pace(0.01, 0.01, 1.0), False)])
    captured.launch(1, 7)
    names = [node.name for node in captured._graphs[1].__self__._graph.nodes]
    own = [name for name in names if name != "cuBLAS"]
    assert len(names) == 26, names
    assert own == ["begin_kernel", "tagged_forward", "round_to_float16_kernel", "tagged_forward", "softmax_cross_entropy_kernel",
                   "tagged_backward", "tagged_backward", "one_hot_kernel", "decide", "adam_kernel", "carry_kernel"], own


@functools.cache
def losses_of_40_steps(path: str, kind: str) -> dict[int, float]:
    ids = np.tile(np.random.default_rng(0).integers(0, 11, 9), 100)
    run = training(path, kind, ids=ids, steps=40, hidden=12, lr=0.05, window=4)
    assert run.model.params.flat.dtype == ("float64" if kind == "float64" else "float32")
    return {p.step: p.loss for p in run}


@pytest.mark.parametrize(("dtype", "bound"), [("tf32", 0.01), ("bf16", 0.03)])
def test_losses_of_40_steps_stay_with_those_in_float64(with_cublas, dtype, bound):
    """On a text that can be learnt: the loss falls by half, and every precision follows."""
    wanted, found = losses_of_40_steps("cpu", "float64"), losses_of_40_steps("graph", dtype)
    assert wanted[40] < wanted[1] / 2 and len(found) >= 10  # a batch of steps ends at each evaluation at the latest
    assert max(abs(loss - wanted[step]) for step, loss in found.items()) < bound


@pytest.mark.parametrize(("path", "dtype", "bound", "documents"), [
    ("persistent", "tf32", 0.01, True), ("persistent", "bf16", 0.1, False), ("tagged", "tf32", 0.01, True), ("tagged", "bf16", 0.1, False)])
def test_persistent_kernels_in_captured_steps(with_cublas, path, dtype, bound, documents):
    """In a graph, with dropout: one block a group of columns, without flags; two, with tags."""
    mine, wanted = (results(training(name, kind, hidden=64, steps=6, documents=documents, dropout=0.3, optimizer="adam"))
                    for name, kind in ((path, dtype), ("cpu", "float32")))
    assert_near(mine, wanted, bound)


def test_more_columns_than_persistent_kernels_take_go_by_steps(with_cublas, monkeypatch):
    run = training("persistent", "tf32", hidden=64)
    fast = importlib.import_module("rnncore.kernels.cuda.paths")
    assert type(run.model.device_path.loops(run.model.config, 7, 4)).__name__ == "Persistent"
    monkeypatch.setattr(fast, "why_no_loops", lambda hidden, n, *card: "too many" if n > 4 else None)
    with pytest.warns(Slower, match="too many: their time loops go by graph"):
        assert type(run.model.device_path.loops(run.model.config, 7, 5)).__name__ == "Stepwise"


def test_precisions_that_do_not_fit(with_cublas):
    with pytest.raises(ValueError, match="persistent kernels compute in tf32 or bf16, not in float32"):
        training("persistent", "float32")
    with pytest.raises(ValueError, match="tf32 is a precision of GPUs: take float32"):
        training("cpu", "tf32")
    with pytest.raises(ValueError, match="graph is a path of GPUs"):
        training("cpu").model.path = "graph"


def test_gradients_of_a_captured_model_are_those_of_loss_and_grads(with_cublas):
    """The other passes over the same model, as validation's, take the path's loops too."""
    found = []
    for path in ("cpu", *PATHS):
        run = training(path)
        loss, grads, state = run.model.loss_and_grads(*run.schedule.window(0))
        losses, end = run.model.losses(*run.schedule.window(1), None, run.model.workspace(7, 4))
        found.append([np.array(loss), *map(host, (grads.flat, *state, losses, *map(run.model.kernel.xp.stack, end)))])
    for mine in found[1:]:
        assert_same(mine, found[0])



@pytest.mark.parametrize(("dtype", "shape"), [("tf32", {}), ("tf32", {"documents": True}), ("bf16", {"symbols": 500})])  # 500: not folded
def test_gradients_with_16_bit_operands_are_as_near_as_with_products_of_their_class(with_cublas, dtype, shape):
    """Of the mean loss, over a batch so large that a gradient in float16 would vanish without the loss_scale."""
    wanted, errors = None, {}
    for path, precision in (("cpu", "float64"), ("graph", dtype), ("persistent", dtype), ("tagged", dtype)):
        model = training(path, precision, hidden=64, **shape).model
        ids = np.random.default_rng(2).integers(0, model.config.vocab_size, (21, 40))
        # From a state, and with dropout
        state = State(*np.random.default_rng(3).uniform(-0.9, 0.9, (2, 2, 64, 40)))
        _, grads, _ = model.loss_and_grads(ids[:-1], ids[1:], state, dropout=Dropout(0.3, 1, 2))
        found = {name: host(grads[name]).astype(np.float64) for name in grads}
        wanted = wanted or {name: a.copy() for name, a in found.items()}
        errors[path] = max(np.abs(a - wanted[name]).max() / np.abs(wanted[name]).max() for name, a in found.items())
    assert errors["cpu"] == 0 and 0 < errors["graph"] < {"tf32": 3e-3, "bf16": 3e-2}[dtype]
    assert errors["persistent"] < 2 * errors["graph"] and errors["tagged"] < 2 * errors["graph"], errors


@pytest.mark.parametrize("dtype", ["tf32", "bf16"])
def test_windows_that_fold_the_embedding_and_shorter_ones_that_do_not(with_cublas, dtype):
    """11 symbols, 4 columns: windows of 7 fold it, the last one of the epoch, of 2, does not."""
    shape = {"hidden": 64, "window": 7, "text": 4 * 7 * 3 + 4 * 2 + 1, "optimizer": "adam", "steps": 8}
    mine, wanted = (results(training(path, kind, **shape)) for path, kind in (("tagged", dtype), ("cpu", "float32")))
    assert_near(mine, wanted, {"tf32": 0.01, "bf16": 0.1}[dtype])
    model = training("tagged", dtype, hidden=64).model
    ids, found = np.arange(40).reshape(10, 4) % 11, []
    for steps in (9, 2):  # in one workspace
        _, grads, _ = model.loss_and_grads(ids[:steps], ids[1:steps + 1])
        found.append(host(grads["embedding.weight"]).copy())
    reference = training("cpu", "float64", hidden=64).model.loss_and_grads(ids[:2], ids[1:3])[1]["embedding.weight"]
    assert np.abs(found[1] - reference).max() < {"tf32": 3e-3, "bf16": 3e-2}[dtype] * np.abs(reference).max()


def test_ids_of_any_layout_and_a_last_gradient_are_taken_by_the_path_tagged(with_cublas):
    model, ids = training("tagged", "tf32", hidden=64).model, np.random.default_rng(2).integers(0, 11, (4, 9))
    there = model.kernel.ids_to_device(ids)
    losses = [model.loss_and_grads(*given)[0] for given in ((ids.T[:-1], ids.T[1:]), (there.T[:-1], there.T[1:]))]
    assert losses[0] == losses[1]
    found = []
    for path, dtype in (("tagged", "tf32"), ("cpu", "float64")):
        other = training(path, dtype, hidden=64).model
        work = stack.Workspace(other.params, 8, 4, path=other.device_path)
        work.begin(None)
        run = stack.Pass(other.ids(ids.T[:-1]), work, targets=other.ids(ids.T[1:]))
        with other.computing():
            stack.losses(other.params, run)
            initial = stack.backward(other.params, run, work.state(8))  # the state stands for a gradient: views with gaps
        found.append([host(array).copy() for array in initial])
    for mine, wanted in zip(*found, strict=True):
        assert np.abs(mine - wanted).max() < 1e-3 * np.abs(wanted).max()


def test_a_workspace_without_a_backward_has_no_dz(with_cublas):
    model = training("tagged", "tf32", hidden=64).model
    assert [own.dz.shape for own in model.workspace(7, 4).operands] == 2 * [(256, 0, 4)]


def test_threads_that_share_a_model_s_rounded_operands_do_not_mix_them(with_cublas, monkeypatch):
    """One thread rounds an operand; another that comes then waits until the product of the first is enqueued."""
    fast = importlib.import_module("rnncore.kernels.cuda.paths")
    products, xp, right = fast.Products("tf32", "float32"), with_cublas.xp, fast.rounded
    a = fast.rounded(xp.ones((8, 8), np.float32), "tf32")
    out, begun = [xp.zeros((8, 8), np.float32) for _ in range(2)], threading.Event()

    def slow(array, precision, into=None):
        found = right(array, precision, into)
        begun.set()
        time.sleep(0.05)
        return found

    monkeypatch.setattr(fast, "rounded", slow)
    second = threading.Thread(target=lambda: (begun.wait(), products.product(a, xp.full((8, 8), 2, np.float32), out[1], False)))
    second.start()
    products.product(a, xp.full((8, 8), 1, np.float32), out[0], False)
    second.join()
    assert (host(out[0]) == 8).all() and (host(out[1]) == 16).all()


def test_gradients_that_float16_cannot_hold_are_few_and_small(with_cublas):
    """dz of a summed loss times loss_scale, after steps that have learnt: nothing overflows, and what underflows is counted."""
    scale = importlib.import_module("rnncore.kernels.cuda.paths").LOSS_SCALE
    run = training("cpu", "float32", text=4000, hidden=64, steps=60, window=25, ids=np.tile(np.arange(11).repeat(3), 130))
    for _ in run:
        pass
    ids = run.model.ids(np.tile(np.arange(11).repeat(3), 3)[:51, None])
    run.model.loss_and_grads(ids[:-1], ids[1:])
    for cache in run.model._held.shares[0].caches:
        dz = cache.dz.astype(np.float64) * 50  # of the sum
        held = (dz * scale).astype(np.float16).astype(np.float64) / scale
        vanished = (held == 0) & (dz != 0)
        assert np.abs(dz).max() * scale < 65504 / 50 and vanished.mean() < 0.01
        assert (dz[vanished] ** 2).sum() < 1e-9 * (dz ** 2).sum() and np.linalg.norm(held - dz) < 2 ** -11 * np.linalg.norm(dz)
