"""What the tests share: no network, one BLAS thread, small models with no zero parameters, random batches."""
import contextlib
import importlib
import inspect
import ipaddress
import os
import re
import signal
import socket
from pathlib import Path
from typing import NamedTuple

import cublas_stand_in
import cupy_stand_in
import numpy as np
import pytest

from rnncore import kernels
from rnncore.cli.terminal import called
from rnncore.config import ModelConfig
from rnncore.data.vocab import Vocab
from rnncore.kernels import cards
from rnncore.kernels.cpu import native
from rnncore.model import CharLM
from rnncore.nn.lstm import State
from rnncore.runs.folder import RunFolder

# `python -m pytest` runs the tests of these files, `--rest` those of all others, `--all` both. A file or test that is named
# on the command line always runs, and -k and -m choose among all tests.
QUICK = {
    "maths/test_gradients.py", "maths/test_reference.py", "maths/test_torch.py", "maths/test_kernels.py",
    "maths/test_random.py", "maths/test_optim.py", "maths/test_dropout.py", "maths/test_masks.py", "maths/test_model.py",
    "engine/test_layering.py", "engine/test_train.py", "engine/test_sample.py", "engine/test_evaluate.py",
    "data/test_text.py", "data/test_vocab.py", "data/test_batches.py", "data/test_documents.py",
    "runs/test_checkpoint.py", "runs/test_resume.py",
    "cli/test_cli.py", "cli/test_cli_train.py", "cli/test_cli_generate.py", "cli/test_cli_score.py", "cli/test_faults.py",
}
HERE = Path(__file__).parent

NOWHERE = "http://127.0.0.1:9"  # for the processes that tests start: a proxy that is not there, but for this machine
os.environ |= {name: NOWHERE for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy")}
os.environ |= {"NO_PROXY": "localhost,127.0.0.1", "no_proxy": "localhost,127.0.0.1"}
os.environ.pop("PYTHONUNBUFFERED", None)  # as for a user: Python buffers stdout, and writes the rest at its end
os.environ["RNNCORE_NO_REPORT"] = "1"  # hundreds of runs here end without anybody to look at them
with contextlib.suppress(native.Unavailable):
    for precision in ("float32", "float64"):  # before the tests: some ask for an empty stderr, and compiling is said there
        native.build(precision)
    native.why_no_bf16()  # compiles for bf16, too, if the processor has it
for kind, usual in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, signal.SIG_DFL)):
    if signal.getsignal(kind) == signal.SIG_IGN:  # as under nohup, and in the background of a shell: what is started here
        signal.signal(kind, usual)                # would not hear it


def pytest_addoption(parser):
    group = parser.getgroup("rnncore", "which of rnncore's tests run")
    group.addoption("--all", dest="part", action="store_const", const="all", help="run all tests, not only the quick ones")
    group.addoption("--rest", dest="part", action="store_const", const="rest", help="run the tests that are left out by default")


@pytest.hookimpl(tryfirst=True)  # before pytest-xdist, where it is installed, starts its processes
def pytest_cmdline_main(config):
    """Choose the quick files where nothing else is asked for, and all cores where no file is named."""
    if hasattr(config, "workerinput"):  # a process of pytest-xdist
        config.option.part = config.workerinput["part"]
        return
    option, named = config.option, config.args_source is config.ArgsSource.ARGS
    option.part = option.part or ("all" if named or option.keyword or option.markexpr else "quick")
    if getattr(option, "numprocesses", 0) is None and option.dist == "no" and not (named or option.usepdb):
        option.numprocesses, option.dist = min(8, len(os.sched_getaffinity(0))), "worksteal"


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node):
    """Tell a process of pytest-xdist which part it runs."""
    node.workerinput["part"] = node.config.option.part


def pytest_ignore_collect(collection_path, config):
    """Leave out the files of the other part."""
    if collection_path.suffix == ".py" and config.option.part != "all":
        return (collection_path.relative_to(HERE).as_posix() in QUICK) == (config.option.part == "rest") or None


def pytest_unconfigure(config):
    """End a quick run with the number of tests that it left out; cases of one test count once."""
    if config.option.part == "quick" and not hasattr(config, "workerinput"):
        others = [path for path in HERE.rglob("test_*.py") if path.relative_to(HERE).as_posix() not in QUICK]
        count = sum(len(re.findall(r"^def test_", path.read_text(encoding="utf-8"), re.MULTILINE)) for path in others)
        print(f"{count:,} tests of {len(others)} other files were left out: `python -m pytest --rest` runs them, --all all.")


class NetworkUsed(BaseException):
    """A test wanted to leave this machine. No Exception, so that nothing takes it for a network that is down."""


@pytest.fixture(scope="session", autouse=True)
def no_network():
    """No test connects to, or looks up, another machine."""
    connect, connect_ex, look_up = socket.socket.connect, socket.socket.connect_ex, socket.getaddrinfo

    def check(host) -> None:
        if host not in ("", "localhost", None) and not ipaddress.ip_address(host).is_loopback:
            raise NetworkUsed(f"a test connects to {host}")

    def guarded(method):
        def call(self, address):
            if self.family in (socket.AF_INET, socket.AF_INET6):
                check(address[0])
            return method(self, address)
        return call

    def guarded_look_up(host, *args, **kwargs):
        name = host.decode() if isinstance(host, bytes) else host
        try:
            check(name)
        except ValueError:
            raise NetworkUsed(f"a test looks up {name}") from None
        return look_up(host, *args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket.socket, "connect", guarded(connect))
        patch.setattr(socket.socket, "connect_ex", guarded(connect_ex))
        patch.setattr(socket, "getaddrinfo", guarded_look_up)
        yield


@pytest.fixture(scope="session", autouse=True)
def called_by_its_name():
    """In this process commands are printed as where `rnncore` is on PATH; other processes find out for themselves."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(called, "on_path", lambda script: True)
        called.called.cache_clear()
        yield


@pytest.fixture(scope="session", autouse=True)
def one_blas_thread():
    """Small products are quicker so, and the machine may be shared."""
    with kernels.host.single_threaded():
        yield


@pytest.fixture
def saves(monkeypatch):
    """The steps at which a run is saved, from here on."""
    steps, save = [], RunFolder.save
    monkeypatch.setattr(RunFolder, "save", lambda self, training, best: (steps.append(training.step),
                                                                         save(self, training, best))[1])
    return steps


class Case(NamedTuple):
    """A batch and all that comes with it: ids x, targets y, keep (T, N); state and dstate (L, H, N) each."""
    x: np.ndarray
    y: np.ndarray
    state: State
    dstate: State
    keep: np.ndarray | None


def build(vocab_size=5, embed=3, hidden=4, layers=2, dtype="float64", seed=0, scale=1.0) -> CharLM:
    """A model whose parameters are all random, biases included, the same numbers in both dtypes."""
    config = ModelConfig(vocab_size, embed, hidden, layers)
    model = CharLM(config, Vocab.from_code_points(range(256, 256 + vocab_size)), "cpu", dtype, seed)
    model.params.flat[...] = scale * np.random.default_rng(seed).standard_normal(model.params.flat.size)
    return model


def batch(model, steps=6, n=4, documents=False, seed=1) -> Case:
    """Random symbols, states and what arrives at the last state; documents: with boundaries, one at the first step."""
    rng, config = np.random.default_rng(seed), model.config
    x, y = rng.integers(0, config.vocab_size, (2, steps, n))
    h, c, dh, dc = rng.standard_normal((4, config.layers, config.hidden, n)).astype(model.dtype)
    keep = (rng.random((steps, n)) < 0.7).astype(model.dtype) if documents else None
    if documents:
        keep[0, 0] = 0
    return Case(x, y, State(h, c), State(dh, dc), keep)


def draw_once(kernel):
    """kernel.dropout_mask, but that a mask is drawn once: central differences ask for the same one thousands of times."""
    draw, drawn = kernel.dropout_mask, {}

    def dropout_mask(out, *args):
        known = repr((out.shape, out.dtype, args))
        if known in drawn:
            out[...] = drawn[known]
        else:
            draw(out, *args)
            drawn[known] = out.copy()

    return dropout_mask


@pytest.fixture
def masks_once(monkeypatch):
    """`draw_once` on the processor."""
    monkeypatch.setattr(kernels.host, "dropout_mask", draw_once(kernels.host))


@pytest.fixture(scope="module")
def cuda():
    """kernels/cuda/ops.py over the stand-in of cupy_stand_in.py, for the tests of one file."""
    with cupy_stand_in.installed() as module:
        yield module


@pytest.fixture
def on_cuda(cuda, monkeypatch):
    """The same, with `kernels.load` taking the stand-in's card for one that works."""
    monkeypatch.setattr(cards, "driver_version", lambda: 13010)
    cupy_stand_in.reset()
    return cuda


@pytest.fixture
def with_cublas(on_cuda, monkeypatch):
    """The same, with the stand-in for cuBLAS: what the fast paths need."""
    library = cublas_stand_in.Library()
    monkeypatch.setattr(importlib.import_module("rnncore.kernels.cuda.cublas"), "library", lambda: library)
    return on_cuda


def planted_in(module, snippet: str, wrong: str):
    """A copy of a module of Python with an error planted: `wrong` in place of a snippet that its source has once."""
    source = inspect.getsource(module)
    assert source.count(snippet) == 1, f"has {source.count(snippet)} times, not once: {snippet}"
    broken = type(module)(module.__name__)
    broken.__package__, broken.__file__ = module.__package__, module.__file__
    exec(compile(source.replace(snippet, wrong), "broken", "exec"), broken.__dict__)
    return broken
